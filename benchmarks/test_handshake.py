# SPDX-License-Identifier: MIT
"""Connect, shake hands, close: 16 in flight, from one process to another; each qg dial shows a fresh identity."""

from typing import Any

from benchmarks.harness import AEGIS, ASYNCIO, UVLOOP, Figures, Interval, candidates_of, compare, pair

N_WARM_UP, N_HANDSHAKES, N_IN_FLIGHT = 200, 2_000, 16


def handshake_measure(module: str, *options: str) -> Figures:
    with pair(module, "idle", *options) as (server, client):
        client.ask("prepare", n=N_WARM_UP + N_HANDSHAKES)
        client.ask("handshakes", n=N_WARM_UP, n_in_flight=N_IN_FLIGHT)
        server.ask("closed", total=N_WARM_UP)
        interval = Interval(client=client, server=server)
        client.ask("handshakes", n=N_HANDSHAKES, n_in_flight=N_IN_FLIGHT)
        server.ask("closed", total=N_WARM_UP + N_HANDSHAKES)
        interval.stop()
        cpu_ms = {f"{name}_cpu_ms_per_handshake": cpu_s / N_HANDSHAKES * 1e3 for name, cpu_s in interval.cpu_s.items()}
        return {
            "cpu_ms_per_handshake": sum(cpu_ms.values()),
            "handshakes_per_s": N_HANDSHAKES / interval.wall_s,
            **cpu_ms,
        }


def test_handshake(benchmark: Any) -> None:
    compare(benchmark, candidates_of(handshake_measure, UVLOOP, ASYNCIO, AEGIS))
