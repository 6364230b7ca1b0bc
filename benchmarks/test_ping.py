# SPDX-License-Identifier: MIT
"""Round trips of 64 bytes over one link, one after the other."""

from typing import Any

from benchmarks.harness import AEGIS, ASYNCIO, PLAIN, UVLOOP, Figures, Interval, candidates_of, compare, pair

N_WARM_UP, N_PINGS = 1_000, 10_000
N_ROUNDS = 11  # more than elsewhere: whether the kernel puts both processes on one core makes a factor of up to 2


def ping_measure(module: str, *options: str) -> Figures:
    with pair(module, "echo", *options) as (server, client):
        client.ask("ping", n=N_WARM_UP)
        n_wake_ups = client.n_wake_ups() + server.n_wake_ups()
        interval = Interval(client=client, server=server)
        percentiles: Figures = client.ask("ping", n=N_PINGS)
        interval.stop()
        n_wake_ups = client.n_wake_ups() + server.n_wake_ups() - n_wake_ups
        return percentiles | {
            "cpu_us_per_round_trip": sum(interval.cpu_s.values()) / N_PINGS * 1e6,
            "wake_ups_per_round_trip": n_wake_ups / N_PINGS,
        }


def test_ping(benchmark: Any) -> None:
    compare(benchmark, candidates_of(ping_measure, PLAIN, UVLOOP, ASYNCIO, AEGIS), N_ROUNDS)
