# SPDX-License-Identifier: MIT
"""What a GB costs in all processes as the circuit grows from one relay to six."""

from functools import partial
from typing import Any

from benchmarks.harness import AEGIS, HOPS, PEERS, Figures, Interval, Transfer, circuit, compare

SUITE = PEERS[AEGIS][1]
WARM_UP_LEN, HOPS_LEN = 16 << 20, 256 << 20


def hops_measure(n_relays: int) -> Figures:
    with circuit(SUITE, "sink", n_relays) as (client, relays, server):
        transfer = Transfer(client, server)
        transfer.run(WARM_UP_LEN)
        interval = Interval(client=client, **relays, server=server)
        transfer.run(HOPS_LEN)
        interval.stop()
        return interval.per_gb(HOPS_LEN)


def test_hops(benchmark: Any) -> None:
    compare(benchmark, {name: partial(hops_measure, n_relays) for n_relays, name in HOPS.items()})
