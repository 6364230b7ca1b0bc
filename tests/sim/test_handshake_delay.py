# SPDX-License-Identifier: MIT
"""Messages of handshakes that wait for a random time, on the virtual clock."""

import statistics

from sim.covered import Watched
from sim.graph import Graph
from sim.world import SECOND_NS

from qg._core import runtime

DELAY_S = 2
FLIGHTS = 3


def connect_s(seed, **options):
    graph = Graph(seed, 2, world=Watched, **options)
    up = []
    graph.hosts[0].on_event[runtime.EV_PEER_UP] = lambda *_: up.append(graph.world.now_ns)
    graph.hosts[0].tell("connect", 1, [graph.hosts[1].hop])
    assert graph.world.run(lambda: up, 60)
    took_s = (up[0] - graph.start_ns) / SECOND_NS
    graph.close()
    return took_s


def test_each_message_of_a_handshake_waits_for_a_random_time():
    bare_s = connect_s("bare")
    assert bare_s < 0.1
    waits = [connect_s(f"delay {number}", handshake_delay_s=DELAY_S) - bare_s for number in range(100)]
    assert 0 <= min(waits) < FLIGHTS * DELAY_S * 0.3
    assert FLIGHTS * DELAY_S * 0.7 < max(waits) <= FLIGHTS * DELAY_S
    assert abs(statistics.mean(waits) - FLIGHTS * DELAY_S / 2) < 0.5
    assert len({round(wait, 6) for wait in waits}) == len(waits)


def test_sessions_over_relays_wait_for_the_links_only():
    graph = Graph("circuit", 3, world=Watched, handshake_delay_s=DELAY_S)
    transfer = graph.circuit(graph.hosts[0], graph.hosts[1:])
    graph.run()
    assert transfer.state == "done"
    assert 0 < (transfer.up_ns - transfer.start_ns) / SECOND_NS <= 2 * FLIGHTS * DELAY_S + 0.5
    graph.close()
