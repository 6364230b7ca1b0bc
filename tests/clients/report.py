# SPDX-License-Identifier: MIT
"""The table of docs/clients.md, written by a run of all programs."""

import re
import subprocess
from pathlib import Path

from clients.programs import PROGRAMS

PAGE = Path(__file__).parents[2] / "docs/clients.md"
_BEGIN, _END = "<!-- table -->\n", "<!-- end of table -->\n"
_HEAD = "| program | tried with | command | direct | three relays |\n|---|---|---|---|---|\n"


def table_write(outcomes):
    """Put what a run has found into the page; `outcomes` tells by program and way whether its test has passed."""
    rows = [_row(program, outcomes) for program in PROGRAMS]
    head, _, rest = PAGE.read_text().partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    PAGE.write_text(head + _BEGIN + _HEAD + "".join(rows) + _END + tail)


def _row(program, outcomes):
    words = [_word(outcomes.get((program.name, way)), outcomes.get((program.name, "stopped"))) for way in _WAYS]
    return f"| {program.name} | {version(program)} | `{program.pasted()}` | {' | '.join(words)} |\n"


_WAYS = ("direct", "relays")


def _word(is_good, is_control_good):
    if is_good is None:
        return "not tried"
    return "works" if is_good and is_control_good else "fails"


def version(program):
    """Give the version of a program, as it says it."""
    done = subprocess.run([program.needs[0], program.version], capture_output=True, text=True, timeout=60)
    words = (done.stdout or done.stderr).replace(",", " ").split()
    return next((word.strip("()v") for word in words if re.search(r"\d\.\d", word)), "?")
