# SPDX-License-Identifier: MIT
"""Measure what encryption costs: `python -m benchmarks.null_cipher [--rounds N] [--seconds S]`.

Builds qg with a null cipher beside the tree (QG_TEST=1, see setup.py), runs `qg bench link` and `qg bench relay` with
it and with AEGIS-256, alternated. Prints medians of CPU seconds per GB; the difference is what encryption costs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

from benchmarks.harness import ROOT
from benchmarks.report import rows_text, short

_BUILD = ROOT / "build" / "variant-test"
_WORKS = ("link", "relay")
_SUITES = ("null", "aegis-256")

Rounds = dict[tuple[str, str], list[dict[str, float]]]  # work, suite: one round's CPU s/GB by role each


def build() -> dict[str, str]:
    """Build the variant and return the environment in which Python finds it."""
    command = [sys.executable, "setup.py", "-q", "build", "--build-lib", str(_BUILD)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"QG_TEST": "1"}, check=True, stdout=subprocess.DEVNULL)
    return os.environ | {"PYTHONPATH": str(_BUILD), "PYTHONSAFEPATH": "1"}


def measure(environment: dict[str, str], n_rounds: int, seconds: float) -> Rounds:
    rounds: Rounds = {(work, suite): [] for work in _WORKS for suite in _SUITES}
    for _ in range(n_rounds):
        for work, suite in rounds:
            command = [sys.executable, "-m", "qg", "bench", work, "--suite", suite, "--seconds", str(seconds), "--json"]
            output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
            rounds[work, suite].append(json.loads(output)["cpu_s_per_gb"])
    return rounds


def table_rows(rounds: Rounds) -> list[list[str]]:
    rows = []
    for work in _WORKS:
        for role in rounds[work, "null"][0]:
            null, aegis = (statistics.median(each[role] for each in rounds[work, suite]) for suite in _SUITES)
            rows.append([f"{work}, {role}", short(null), short(aegis), short(aegis - null), f"{1 - null / aegis:.0%}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    rounds = measure(build(), arguments.rounds, arguments.seconds)
    print(*rows_text(["CPU s/GB", *_SUITES, "encryption", "share"], table_rows(rounds)), sep="\n")


if __name__ == "__main__":
    main()
