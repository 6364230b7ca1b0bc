# SPDX-License-Identifier: MIT
"""The simulator itself: circuits carry bytes, one seed repeats, and nothing is left."""

from sim.graph import Graph


def circuits(seed, n_hosts=12, n_circuits=8):
    graph = Graph(seed, n_hosts)
    for _ in range(n_circuits):
        graph.circuit_draw()
    graph.run()
    graph.close()
    return graph


def test_circuits_of_all_lengths_carry_every_byte():
    graph = Graph("lengths", 12)
    transfers = [graph.circuit(graph.hosts[0], graph.hosts[1 : n + 2], 20000, 30000) for n in range(8)]
    graph.run()
    assert [each.state for each in transfers] == ["done"] * 8
    graph.close()


def test_a_seed_repeats_byte_for_byte():
    one, other = circuits("same"), circuits("same")
    assert one.world.trace == other.world.trace
    assert one.world.n_calls == other.world.n_calls


def test_another_seed_is_another_run():
    assert circuits("one").world.trace != circuits("other").world.trace
