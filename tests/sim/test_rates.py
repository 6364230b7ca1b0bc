# SPDX-License-Identifier: MIT
"""Rates of a node, of its neighbours and of what it relays: kept, shared in turns, and nothing is cut."""

from sim.graph import Graph
from sim.world import MS_NS, SECOND_NS

KIB = 1024
RATE = 512 * KIB
BURST = 128 * KIB


def seconds(transfer):
    return (transfer.end_ns - transfer.up_ns) / SECOND_NS


def progress(transfers, side=1):
    """Bytes that each has brought to that side."""
    return [each.flows[side].n_read if each.flows[side] else 0 for each in transfers]


def graph_of(seed, n_hosts, first=None, **options):
    """Hosts 10 ms apart; the options in `first` are those of host 0 alone."""
    graph = Graph(seed, n_hosts, **options)
    if first is not None:
        graph.hosts[0] = graph.host(0, **first)
    for one in graph.hosts:
        for other in graph.hosts:
            if one is not other:
                graph.world.path_set(one, other, 10 * MS_NS)
    return graph


def test_a_link_sends_no_more_than_the_rate_of_its_node():
    graph = graph_of("link rate", 2, link_rate=(RATE, BURST))
    transfer = graph.circuit(graph.hosts[0], [graph.hosts[1]], 4 * RATE, 100)
    graph.run()
    assert transfer.state == "done"
    assert 3.7 < seconds(transfer) < 4.4  # four times the rate, less the burst; sealing adds a little
    graph.close()


def test_links_share_the_rate_of_a_node_however_many_streams_they_carry():
    graph = graph_of("link shares", 3, first={"link_rate": (RATE, BURST)})
    source, one, other = graph.hosts
    many = [graph.circuit(source, [one], 8 * RATE) for _ in range(5)]
    single = graph.circuit(source, [other], 8 * RATE)
    graph.world.run_for(6)
    shares = sum(progress(many)), *progress([single])
    assert 0.85 < shares[0] / shares[1] < 1.15
    assert 0.8 < sum(shares) / (6 * RATE) < 1.1
    graph.close()


def test_one_neighbour_gets_no_more_than_its_rate_and_the_others_are_not_slowed():
    graph = graph_of("neighbour", 3, first={"neighbour_rate": (RATE // 4, BURST), "link_rate": (RATE, BURST)})
    source, *others = graph.hosts
    transfers = [graph.circuit(source, [other], 8 * RATE) for other in others]
    graph.world.run_for(8)
    for n_bytes in progress(transfers):
        assert 0.85 < n_bytes / (8 * RATE // 4) < 1.2
    graph.close()


def test_one_neighbour_may_have_a_rate_of_its_own():
    graph = graph_of("own", 4)
    options = {"neighbour_rate": (RATE, BURST)}
    _, slow, quick, other = graph.hosts
    options["peer_rates"] = [(bytes(slow.peer_id), RATE // 4), (bytes(quick.peer_id), 0)]
    graph.hosts[0] = source = graph.host(0, **options)
    transfers = [graph.circuit(source, [each], 40 * RATE) for each in (slow, quick, other)]
    graph.world.run_for(6)
    first, second, third = progress(transfers)
    assert 0.85 < first / (6 * RATE // 4) < 1.2
    assert second > 2 * third
    assert 0.85 < third / (6 * RATE) < 1.1
    graph.close()


def test_a_new_link_does_not_fill_the_bucket_of_its_neighbour():
    graph = graph_of("bucket kept", 2, first={"neighbour_rate": (RATE // 4, RATE)})
    source, other = graph.hosts
    first = graph.circuit(source, [other], 8 * RATE)
    graph.world.run_for(8)
    before = progress([first])[0]
    source.tell("close_peer", first.channel, 0)
    again = graph.circuit(source, [other], 8 * RATE)
    graph.world.run_for(1)
    assert before > RATE
    assert progress([again])[0] < RATE // 2
    graph.close()


def test_a_relay_passes_on_no_more_than_its_rate_and_cuts_nobody():
    graph = graph_of("relay rate", 6, first={"relay_rate": (RATE, BURST)})
    relay, target, *sources = graph.hosts
    transfers = [graph.circuit(source, [relay, target], RATE, RATE) for source in sources]
    graph.run()
    assert {each.state for each in transfers} == {"done"}
    total_s = (max(each.end_ns for each in transfers) - min(each.up_ns for each in transfers)) / SECOND_NS
    assert 0.95 < total_s / 8 < 1.15  # four times as much each way
    assert relay.machine.status()["n_relay_memory_resets"] == 0
    assert relay.machine.status()["n_rate_waits"] > 10
    graph.close()


def test_neighbours_share_the_rate_of_a_relay_however_many_circuits_they_have():
    rate = 4 * RATE  # windows grow then: what a circuit gets is its share, not its window
    graph = graph_of("relay shares", 4, first={"relay_rate": (rate, BURST)})
    relay, target, one, other = graph.hosts
    many = [graph.circuit(one, [relay, target], 6 * rate, 0) for _ in range(6)]
    single = graph.circuit(other, [relay, target], 6 * rate, 0)
    graph.world.run_for(2)
    before = progress([*many, single])
    graph.world.run_for(4)
    each = [now - then for now, then in zip(progress([*many, single]), before, strict=True)]
    shares = sum(each[:-1]), each.pop()
    assert 0.85 < shares[0] / shares[1] < 1.25  # one circuit has to wait for its window now and then
    assert max(each) < 1.3 * min(each)
    assert 0.85 < sum(shares) / (4 * rate) < 1.05
    graph.close()


def test_a_neighbour_has_a_rate_of_its_own_at_a_relay():
    graph = graph_of("relay neighbour", 4, first={"relay_neighbour_rate": (RATE // 4, BURST)})
    relay, target, one, other = graph.hosts
    transfers = [graph.circuit(source, [relay, target], 2 * RATE, 0) for source in (one, one, other)]
    graph.world.run_for(8)
    one_bytes = sum(progress(transfers[:2]))
    assert 0.9 < one_bytes / (8 * RATE // 4) < 1.15
    assert 0.9 < progress(transfers[2:])[0] / (8 * RATE // 4) < 1.15
    graph.run()
    assert {each.state for each in transfers} == {"done"}
    graph.close()


def test_what_came_before_its_circuit_was_joined_waits_for_its_turn_too():
    rate = RATE // 8
    graph = graph_of("early", 5, first={"relay_rate": (rate, 65536)})
    relay, target, slow, one, other = graph.hosts
    graph.world.path_set(relay, slow, SECOND_NS)  # the first flights of many circuits have come when its link is up
    transfer = graph.circuit(one, [relay, target], 60 * rate, 0)
    graph.world.run_for(3)
    for _ in range(300):
        graph.circuit(other, [relay, slow])
    for _ in range(15):
        (before,) = progress([transfer])
        graph.world.run_for(1)
        assert progress([transfer])[0] - before > 0.2 * rate
    graph.run()
    graph.close()


def test_many_circuits_that_wait_for_a_rate_stay_within_the_memory_of_the_relay():
    memory = 2 << 20
    first = {"relay_rate": (RATE, BURST), "relay_memory_len": memory}
    graph = graph_of("relay memory", 6, first=first, peer_pipe_sessions=10)
    relay, target, *sources = graph.hosts
    transfers = [graph.circuit(source, [relay, target], 200_000, 0) for source in sources for _ in range(10)]
    held = []
    while not graph.application.is_settled:
        graph.world.run_for(0.25)
        held.append(relay.machine.status()["relay_held_len"])
    assert {each.state for each in transfers} == {"done"}
    assert max(held) <= memory
    assert relay.machine.status()["n_relay_memory_resets"] == 0
    graph.close()


def test_a_link_that_waits_for_its_rate_ends_like_any_other():
    graph = graph_of("ends", 3, link_rate=(RATE // 8, 65536), relay_rate=(RATE // 8, 65536))
    source, relay, target = graph.hosts
    transfers = [graph.circuit(source, hops, 4 * RATE) for hops in ([relay], [relay, target])]
    graph.world.run_for(3)
    relay.kill()
    graph.gone.append(relay)
    graph.hosts.remove(relay)
    graph.run()
    assert {each.state for each in transfers} == {"failed"}
    graph.close()
