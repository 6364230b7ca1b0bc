# SPDX-License-Identifier: MIT
"""Bulk over one link: one sender process, one receiver process, 64 KiB writes."""

from typing import Any

from benchmarks.harness import (
    AEGIS,
    ASYNCIO,
    BULK_LEN,
    CHACHA,
    PLAIN,
    UVLOOP,
    WARM_UP_LEN,
    Figures,
    Interval,
    Transfer,
    candidates_of,
    compare,
    pair,
)


def link_measure(module: str, *options: str) -> Figures:
    with pair(module, "sink", *options) as (receiver, sender):
        transfer = Transfer(sender, receiver)
        transfer.run(WARM_UP_LEN)
        interval = Interval(sender=sender, receiver=receiver)
        transfer.run(BULK_LEN)
        interval.stop()
        return interval.per_gb(BULK_LEN)


def test_link(benchmark: Any) -> None:
    compare(benchmark, candidates_of(link_measure, PLAIN, UVLOOP, ASYNCIO, AEGIS, CHACHA))
