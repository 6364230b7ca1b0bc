# SPDX-License-Identifier: MIT
"""No branch and no index depends on a secret; the same as `python -m tools.assurance.secrecy`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qg._core import _build_info

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not shutil.which("valgrind") or not os.path.exists("/usr/include/valgrind/memcheck.h"),
        reason="valgrind is not here",
    ),
    pytest.mark.skipif(_build_info.IS_SANITIZED, reason="valgrind does not run what is sanitized"),
]


def test_no_branch_and_no_index_depends_on_a_secret():
    pytest.importorskip("Cython")
    run = [sys.executable, "-m", "tools.assurance.secrecy"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["errors"].values()) == {0}, found
    assert all(found["planted"].values()), found  # controls: what must be found
    assert done.returncode == 0
