# SPDX-License-Identifier: MIT
"""Circuits that share what was made for another one, where that other one fails."""

from sim.graph import Graph

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
