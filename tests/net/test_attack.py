# SPDX-License-Identifier: MIT
"""A running node under attack, in small; `python -m tools.attack` has the long form, with what honest peers notice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.net

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_what_is_refused_is_counted_and_nothing_grows_and_without_the_limit_the_check_fails():
    command = [sys.executable, "-m", "tools.attack", "--quick", "--json"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), *sys.path)))}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert run.stdout, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    assert {row["attack"]: row["failures"] for row in report["attacks"] if row["failures"]} == {}
    assert (report["failed"], run.returncode) == (0, 0)
    assert all(row["control"] for row in report["attacks"])
    assert len(report["attacks"]) == 12
