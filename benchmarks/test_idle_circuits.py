# SPDX-License-Identifier: MIT
"""What idle circuits cost the relay that they go over: memory of each, and what a GB costs beside them."""

from functools import partial
from typing import Any

from benchmarks.harness import AEGIS, IDLE_FEW, IDLE_MANY, PEERS, Figures, Interval, Transfer, circuit, compare
from qg.cli.common import descriptors_raise

SUITE = PEERS[AEGIS][1]
N_FEW, N_MANY, N_IN_FLIGHT = 10, 10_000, 16
WARM_UP_LEN, BULK_LEN = 32 << 20, 512 << 20
N_ROUNDS = 3  # building 10,000 circuits takes longer than what is measured


def idle_measure(n_idle: int) -> Figures:
    descriptors_raise()
    with circuit(SUITE, "sink", 1) as (client, relays, server):
        relay = relays["relay1"]
        transfer = Transfer(client, server)
        transfer.run(WARM_UP_LEN)
        client.ask("hold", n=N_FEW, n_in_flight=N_IN_FLIGHT)
        server.ask("opened", total=N_FEW)
        few_len = relay.resident_len()
        client.ask("hold", n=n_idle - N_FEW, n_in_flight=N_IN_FLIGHT, timeout_s=600)
        server.ask("opened", total=n_idle)
        many_len = relay.resident_len()
        interval = Interval(relay=relay)
        transfer.run(BULK_LEN)
        interval.stop()
        figures = {"cpu_s_per_gb": interval.per_gb(BULK_LEN)["cpu_s_per_gb"]}
        if n_idle > N_FEW:
            figures["bytes_per_idle_circuit"] = (many_len - few_len) / (n_idle - N_FEW)
        return figures


def test_idle_circuits(benchmark: Any) -> None:
    candidates = {IDLE_FEW: partial(idle_measure, N_FEW), IDLE_MANY: partial(idle_measure, N_MANY)}
    compare(benchmark, candidates, N_ROUNDS)
