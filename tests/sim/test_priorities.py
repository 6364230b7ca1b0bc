# SPDX-License-Identifier: MIT
"""Priorities through circuits: what an expedited stream overtakes, and what not (protocol.md, section 7)."""

from sim.graph import Graph
from sim.traffic import EXPEDITED, NORMAL
from sim.world import MS_NS

RATE = 3_000_000
N_BULK = 32
SEALED_LEN = (64 + 128) * 1024  # of a link that is full, and in its kernel


def p99_ms(priority):
    """Of round trips on a stream beside bulk ones in its session, and beside bulk circuits over the same relay."""
    graph = Graph("priorities", 3)
    source, relay, target = graph.hosts
    graph.world.path_set(source, relay, 5 * MS_NS, RATE, 4096)
    graph.world.path_set(relay, target, 5 * MS_NS, 10 * RATE, 4096)
    application, hops = graph.application, [relay, target]
    chat = application.chat(source, hops, 20 * MS_NS)
    chat.priority = priority
    chat.start()
    graph.world.run(lambda: chat.state == "running")
    bulk = [application.transfer(source, hops, 3 * RATE // N_BULK, 0) for _ in range(N_BULK)]
    for each in bulk:
        each.closes = False
        application.n_open += 1
        application.stream_open(each, chat.channel)
    source.settle()
    circuit = graph.circuit(source, hops, 3 * RATE, 0)
    graph.world.run_for(1)
    chat.round_trips_ns.clear()
    graph.world.run_for(2)
    assert {each.state for each in (*bulk, circuit)} == {"running"}
    ordered = sorted(chat.round_trips_ns)
    chat.stop()
    graph.run()
    graph.close()
    return ordered[len(ordered) * 99 // 100] / MS_NS


def test_an_expedited_stream_overtakes_all_that_its_session_has_not_sealed():
    expedited_ms, normal_ms = p99_ms(EXPEDITED), p99_ms(NORMAL)
    print(f"p99 {expedited_ms:.0f} ms expedited, {normal_ms:.0f} ms normal")
    # 20 ms are the way; the circuit beside it has every second turn.
    assert expedited_ms < 20 + SEALED_LEN * 1000 / RATE + 30
    assert normal_ms > 2 * expedited_ms
