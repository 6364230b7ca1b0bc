# SPDX-License-Identifier: MIT
"""How many links two nodes may have, and which of them count."""

from sim.graph import Graph
from sim.world import MS_NS

from qg._core import runtime

LINKS_PER_PEER = 8
LINE = 65_536  # bytes per second
BULK = bytes(60_000)  # what a new stream may send at once


def test_a_link_that_is_being_closed_does_not_count():
    """Its goodbye waits behind what the line has not taken yet, at both ends; a ninth link comes up meanwhile."""
    graph = Graph("nine links", 2, accepts_xx=True)
    dialler, target = graph.hosts
    graph.world.path_set(dialler, target, 5 * MS_NS, LINE)
    up, down, far = [], [], {}
    dialler.on_event = {
        runtime.EV_PEER_UP: lambda channel, *_: up.append(channel),
        runtime.EV_PEER_DOWN: lambda channel, *_: down.append(channel),
    }
    target.on_event = {runtime.EV_STREAM_OPEN: lambda flow, channel, *_: far.update({flow: channel})}

    def link(n_streams):
        """One more link: it is dialled without a key, so anew; streams keep it when the next one takes its place."""
        n_up, n_far = len(up) + 1, len(far) + n_streams
        dialler.tell("connect", n_up, [(None, None, target.ip, 7447)])
        assert graph.world.run(lambda: len(up) == n_up or down, 60)
        for idx in range(n_streams):
            dialler.tell("open", 100 * n_up + idx, up[-1], 0, 1, bytes(16))
        assert graph.world.run(lambda: len(far) == n_far, 60)

    link(8)
    for flow in far:
        target.tell("accept", flow)
    for _ in range(LINKS_PER_PEER - 1):
        link(1)
    assert not down
    first = [flow for flow in far if far[flow] == next(iter(far.values()))]
    for here, there in zip(range(100, 108), first, strict=True):
        dialler.tell("write", here, BULK)
        target.tell("write", there, BULK)
    dialler.tell("close_peer", up[0], 0)
    target.tell("close_peer", far[first[0]], 0)
    link(1)
    assert len(up) == LINKS_PER_PEER + 1
    assert not down  # the first one is still saying goodbye
    assert graph.world.run(lambda: down, 60)
    assert down == up[:1]
