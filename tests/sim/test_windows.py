# SPDX-License-Identifier: MIT
"""Windows on long ways, and what circuits get of one link, in virtual time."""

import pytest
from sim.graph import Graph
from sim.world import MS_NS, SECOND_NS

RATE = 12_500_000  # 100 Mbit/s
WINDOW_MAX = 1_048_576
LENGTH = 12_000_000


def graph_line(n_hosts, delay_ns, rate):
    """Hosts in a row; everybody is as far from everybody."""
    graph = Graph("rates", n_hosts)
    for one in graph.hosts:
        for other in graph.hosts:
            if one is not other:
                graph.world.path_set(one, other, delay_ns, rate, 16384)
    return graph


@pytest.mark.parametrize("n_relays", [0, 3])
@pytest.mark.parametrize("delay_ms", [10, 25, 50])
@pytest.mark.parametrize("rate", [0, RATE])
def test_windows_grow_until_they_fill_the_way(n_relays, delay_ms, rate):
    graph = graph_line(n_relays + 2, delay_ms * MS_NS, rate)
    source, *hops = graph.hosts
    transfer = graph.circuit(source, hops, LENGTH, 0)
    graph.run()
    graph.close()
    round_trip_s = 2 * delay_ms * (n_relays + 1) / 1000
    # Of the rate of the links, or of the largest window per round trip; the beginning counts too.
    possible = min(rate or 1e12, WINDOW_MAX / round_trip_s)
    reached = LENGTH * SECOND_NS / (transfer.end_ns - transfer.up_ns)
    assert reached > 0.4 * possible, f"{reached / 1e6:.2f} of {possible / 1e6:.2f} MB/s"


@pytest.mark.parametrize("n_circuits", [(1,) * 8, (3, 1), (6, 1, 1)], ids=["eight sources", "3 and 1", "6, 1 and 1"])
def test_circuits_share_a_link_evenly_wherever_they_come_from(n_circuits):
    graph = Graph("shares", 2 + len(n_circuits))
    relay, target, *sources = graph.hosts
    for host in graph.hosts[1:]:
        graph.world.path_set(host, relay, 5 * MS_NS, RATE if host is target else 10 * RATE, 4096)
    transfers = [
        graph.circuit(source, [relay, target], 4 * RATE, 0)
        for source, n in zip(sources, n_circuits, strict=True)
        for _ in range(n)
    ]
    graph.world.run(lambda: all(each.flows[1] for each in transfers))
    graph.world.run_for(1)
    before = [each.flows[1].n_read for each in transfers]
    graph.world.run_for(2)
    shares = [(each.flows[1].n_read - n) / 2 / RATE for each, n in zip(transfers, before, strict=True)]
    assert sum(shares) > 0.95
    assert max(shares) < 1.1 * min(shares), shares
