# SPDX-License-Identifier: MIT
"""Levels of security: settings that belong together, by name. What each hides and costs: docs/security-levels.md."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

__all__ = ["LEVELS", "Level"]


class Level(NamedTuple):
    """What a level decides: the same settings of `[link]` as every other, and all of `[cover]` but the budget."""

    link: Mapping[str, Any]
    cover: Mapping[str, Any]  # the rest has its default


def _link(delay_ms: int, padding: str, epoch_s: int, rekey_s: int, clock_window_s: int) -> dict[str, Any]:
    return {
        "handshake_delay_ms": delay_ms,
        "padding": padding,
        "epoch_s": epoch_s,
        "rekey_s": rekey_s,
        "clock_window_s": clock_window_s,
    }


# Steps and figures of chaff follow the five levels of the original.
LEVELS: Mapping[str, Level] = MappingProxyType(
    {
        "one": Level(_link(0, "light", 120, 600, 120), {}),
        "two": Level(_link(500, "light", 120, 600, 120), {"mode": "chaff", "records_max": 30, "bytes_max": 256}),
        "three": Level(
            _link(1000, "blocks-1k", 120, 450, 60),
            {"mode": "chaff", "circuits": True, "records_max": 120, "bytes_max": 1024},
        ),
        "four": Level(
            _link(2000, "blocks-1k", 60, 300, 60),
            {"mode": "shaped", "circuits": True, "rate_per_s": 20, "rate_max_per_s": 640},
        ),
        "five": Level(
            _link(4000, "blocks-1k", 60, 300, 60),
            {"mode": "poisson", "circuits": True, "rate_per_s": 50},
        ),
    }
)
