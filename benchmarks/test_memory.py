# SPDX-License-Identifier: MIT
"""Resident memory: what one more idle session costs the server, and what a node that does nothing takes."""

from typing import Any

from benchmarks.harness import AEGIS, UVLOOP, Figures, candidates_of, compare, pair
from qg.cli.common import descriptors_raise

N_FEW, N_MANY, N_IN_FLIGHT = 1_000, 3_000, 16


def idle_session_measure(module: str, *options: str) -> Figures:
    descriptors_raise()
    with pair(module, "idle", *options) as (server, client):
        idle_len = server.resident_len()
        client.ask("hold", n=N_FEW, n_in_flight=N_IN_FLIGHT)
        server.ask("opened", total=N_FEW)
        few_len = server.resident_len()
        client.ask("hold", n=N_MANY - N_FEW, n_in_flight=N_IN_FLIGHT)
        server.ask("opened", total=N_MANY)
        return {
            "bytes_per_idle_session": (server.resident_len() - few_len) / (N_MANY - N_FEW),
            "idle_resident_mb": idle_len / 1e6,
        }


def test_memory(benchmark: Any) -> None:
    compare(benchmark, candidates_of(idle_session_measure, UVLOOP, AEGIS))
