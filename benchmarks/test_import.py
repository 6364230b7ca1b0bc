# SPDX-License-Identifier: MIT
"""CPU time of starting Python with qg, above that of `python -c pass`."""

import os
import subprocess
import sys
from functools import partial
from typing import Any

from benchmarks.harness import BARE, HELP, IMPORT, ROOT, Figures, compare

N_RUNS = 20


def start_measure(*arguments: str) -> Figures:
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ChildProcessError(f"{process.args!r} ended with {process.returncode}")
    return {"cpu_ms": (usage.ru_utime + usage.ru_stime) * 1e3}


def test_import(benchmark: Any) -> None:
    commands = {
        BARE: ["-c", "pass"],
        "import asyncio, ssl": ["-c", "import asyncio, ssl"],
        IMPORT: ["-c", "import qg"],
        HELP: ["-m", "qg", "--help"],
    }
    compare(benchmark, {name: partial(start_measure, *command) for name, command in commands.items()}, N_RUNS)
