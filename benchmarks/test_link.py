# SPDX-License-Identifier: MIT
"""Bulk over one link: one sender process, one receiver process, writes of 64 KiB or what the peer does best."""

from typing import Any

from benchmarks.harness import (
    AEGIS,
    ASYNCIO,
    BULK_LEN,
    CHACHA,
    LENGTHS,
    LIBP2P,
    OPENSSL,
    PLAIN,
    RNS,
    UVLOOP,
    WARM_UP_LEN,
    ZMQ,
    Figures,
    Interval,
    Transfer,
    candidates_of,
    compare,
    pair,
)


def link_measure(module: str, *options: str, length: int = BULK_LEN) -> Figures:
    with pair(module, "sink", *options) as (receiver, sender):
        transfer = Transfer(sender, receiver)
        transfer.run(min(WARM_UP_LEN, length // 2))
        interval = Interval(sender=sender, receiver=receiver)
        transfer.run(length)
        interval.stop()
        return interval.per_gb(length)


def test_link(benchmark: Any) -> None:
    candidates = candidates_of(link_measure, PLAIN, OPENSSL, UVLOOP, ASYNCIO, ZMQ, AEGIS, CHACHA)
    for name in (LIBP2P, RNS):
        candidates |= candidates_of(link_measure, name, length=LENGTHS[name])
    compare(benchmark, candidates)
