# SPDX-License-Identifier: MIT
"""A process that holds keys leaves no core dump if its owner says so."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli.test_run import LOOPBACK

from qg.dumps import core_dumps_forbid
from qg.errors import LocalError

pytestmark = pytest.mark.net

# `qg` with a thread that says, when asked, whether core dumps of the process are possible: PR_GET_DUMPABLE is 3.
PROGRAM = """
import ctypes, resource, sys, threading
from qg.cli import main

def look():
    for _ in sys.stdin:
        print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE), flush=True)

threading.Thread(target=look, daemon=True).start()
main(sys.argv[1:])
"""


@pytest.fixture
def dumps(folder: Path, environment: dict[str, str]) -> Callable[..., str]:
    """Run `qg run` with these options, and give what its process says of core dumps."""

    def run(*options: str) -> str:
        command = [sys.executable, "-c", PROGRAM, "run", *LOOPBACK, *options]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=folder, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
            try:
                assert process.stdin
                assert process.stdout
                assert process.stdout.readline().startswith("qg://")  # it holds keys
                process.stdin.write("\n")
                process.stdin.flush()
                return process.stdout.readline().rstrip("\n")
            finally:
                process.terminate()

    return run


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's prctl")
def test_a_node_forbids_core_dumps_if_it_shall_and_not_otherwise(dumps: Callable[..., str], folder: Path) -> None:
    (folder / "qg.toml").write_text("no_core_dumps = true\n")
    limits = resource.getrlimit(resource.RLIMIT_CORE)
    assert dumps() == f"1 {limits[0]} {limits[1]}"
    assert dumps("--no-core-dumps") == "0 0 0"
    assert dumps("-c", "qg.toml") == "0 0 0"


def test_a_refusal_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    with pytest.raises(LocalError, match=r"Operation not permitted; .*LimitCORE=0.*no_core_dumps"):
        core_dumps_forbid()
