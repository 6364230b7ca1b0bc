# SPDX-License-Identifier: MIT
"""Twelve attacks at full length, each with its control; `python -m tools.attack` runs single ones."""

from typing import Any

from tools.assurance import finish
from tools.attack import ATTACKS, HANDSHAKES_MIN, MEMORY_MAX, MIB, RATE_MIN, attacks_run


def figures(row: dict[str, Any]) -> dict[str, Any]:
    found = {
        "handshakes_in_time": round(row["handshakes_share"], 3),
        "memory_mib": round(row["memory_growth"] / MIB, 1),
        "rate": round(row["rate_share"], 2),
    }
    return found | ({"failures": row["failures"]} if row["failures"] else {})


def main() -> None:
    rows = attacks_run(list(ATTACKS), is_quick=False)
    finish(
        "attack",
        not any(row["failures"] for row in rows),
        handshakes_in_time_min=HANDSHAKES_MIN,
        memory_mib_max=MEMORY_MAX // MIB,
        rate_min=RATE_MIN,
        attacks={row["attack"]: figures(row) for row in rows},
    )


if __name__ == "__main__":
    main()
