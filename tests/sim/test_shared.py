# SPDX-License-Identifier: MIT
"""Circuits that share what was made for another one, where that other one fails."""

from sim.graph import Graph
from sim.world import MS_NS

from qg._core import runtime


def connects(host, calls, **options):
    """Ask a host for circuits at once, and give the numbers of those that failed, as often as that was said."""
    failed = []
    host.on_event[runtime.EV_CONNECT_FAILED] = lambda request, *_: failed.append(request)
    for request, hops in calls.items():
        host.machine.connect(request, [hop.hop for hop in hops], host.world.now_ns, **options)
    host.settle()
    return failed


def test_each_of_many_circuits_in_one_layer_fails_once_where_no_session_is_left():
    graph = Graph("full", 6)
    relay, *targets = graph.hosts
    source = graph.host(6, max_sessions=2)  # the link and the layer that all of them share
    graph.hosts.append(source)
    failed = connects(source, {number: [relay, target] for number, target in enumerate(targets)}, isolation=7)
    graph.world.run_for(5)
    assert sorted(failed) == list(range(len(targets)))
    graph.close()


def test_a_wrong_identity_in_one_circuit_ends_no_other_one_to_the_same_node():
    graph = Graph("wrong", 4)
    evil, source, relay, target = graph.hosts
    for host in graph.hosts:
        for other in graph.hosts:
            if host is not other:
                graph.world.path_set(host, other, 5 * MS_NS)
    del evil.on_event[runtime.EV_CONNECT_FAILED]
    for host in (evil, source):
        host.machine.connect(1000, [relay.hop], graph.world.now_ns)
        host.settle()
    graph.world.run_for(1)
    evil.machine.connect(2, [relay.hop, (target.link_key, bytes(31) + b"\1", target.ip, 7447)], graph.world.now_ns)
    evil.settle()
    graph.world.run_for(0.001)
    transfer = graph.circuit(source, [relay, target])
    graph.run()
    assert transfer.state == "done"
    graph.close()
