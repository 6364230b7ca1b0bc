# SPDX-License-Identifier: MIT
"""The simulator itself."""

from sim.graph import Graph
from sim.world import Host, World

from qg._core import runtime


def circuits(seed):
    graph = Graph(seed, 12)
    transfers = [graph.circuit(graph.hosts[0], graph.hosts[1 : n + 2], 20000, 30000) for n in range(8)]
    graph.run()
    graph.close()
    return graph, transfers


def test_circuits_of_all_lengths_carry_every_byte():
    _, transfers = circuits("lengths")
    assert [each.state for each in transfers] == ["done"] * 8


def test_another_seed_is_another_run():
    assert circuits("one")[0].world.trace != circuits("other")[0].world.trace


def test_the_end_of_a_node_is_told_behind_all_that_waits():
    """More events than are taken at a time; the last one waits as a bit, which needs no memory."""
    world = World("full")
    host = Host(world, "10.1.0.1")
    for flow in range(1000):
        host.machine.open(flow, 1, 0, 1, bytes(16), world.now_ns)
    host.machine.stop(world.now_ns)
    _, events = host.machine.settle(world.now_ns)
    assert [event[0] for event in events] == [runtime.EV_STREAM_RESET] * 1000 + [runtime.EV_STOPPED]
