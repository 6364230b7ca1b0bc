# SPDX-License-Identifier: MIT
"""The simulator itself."""

from sim.graph import Graph


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
