# SPDX-License-Identifier: MIT
"""Round trips of 64 bytes over one link, one after the other."""

from typing import Any

from benchmarks.harness import (
    AEGIS,
    ASYNCIO,
    LIBP2P,
    N_PINGS,
    OPENSSL,
    PLAIN,
    RNS,
    UVLOOP,
    ZMQ,
    Figures,
    Interval,
    candidates_of,
    compare,
    pair,
)

N_MOST = 10_000
N_ROUNDS = 11  # more than elsewhere: whether the kernel puts both processes on one core makes a factor of up to 2


def ping_measure(module: str, *options: str, n: int = N_MOST) -> Figures:
    with pair(module, "echo", *options) as (server, client):
        client.ask("ping", n=n // 10)
        n_wake_ups = client.n_wake_ups() + server.n_wake_ups()
        interval = Interval(client=client, server=server)
        percentiles: Figures = client.ask("ping", n=n)
        interval.stop()
        n_wake_ups = client.n_wake_ups() + server.n_wake_ups() - n_wake_ups
        return percentiles | {
            "cpu_us_per_round_trip": sum(interval.cpu_s.values()) / n * 1e6,
            "wake_ups_per_round_trip": n_wake_ups / n,
        }


def test_ping(benchmark: Any) -> None:
    candidates = candidates_of(ping_measure, PLAIN, OPENSSL, UVLOOP, ASYNCIO, ZMQ, AEGIS)
    for name in (LIBP2P, RNS):
        candidates |= candidates_of(ping_measure, name, n=N_PINGS[name])
    compare(benchmark, candidates, N_ROUNDS)
