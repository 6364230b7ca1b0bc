# SPDX-License-Identifier: MIT
"""Two nodes with cover traffic that talk in some windows of time and not in others, and who watches the line."""

import random

from looks.observer import features
from sim.graph import Graph
from sim.world import MS_NS, SECOND_NS, World

from qg._core import runtime

WINDOW_S = 10
MESSAGE_LEN = (1, 4000)  # bytes of what is said at once
SERVICE = bytes(range(16))


class Watched(World):
    """A network in which somebody sees what passes on one connection: (sender's side, (time in s, bytes))."""

    def __init__(self, seed):
        super().__init__(seed)
        self.number = None
        self.seen = []

    def path_draw(self, one, other):
        return 5 * MS_NS, 0, 65536

    def note(self, wire, direction, data):
        super().note(wire, direction, data)
        if wire == self.number:
            self.seen.append((direction, (self.now_ns / SECOND_NS, len(data))))


class Link:
    """Two hosts and a stream whose bytes the far one gives back, over relays or none; the near one's line is watched.

    `options` are those of all hosts, `cover` that of both ends.
    """

    def __init__(self, seed, n_relays=0, cover=None, **options):
        self.graph = Graph(seed, n_relays, world=Watched, **options)
        self.near, self.far = (self.graph.host(n_relays + idx, cover=cover or {}) for idx in range(2))
        hops = [*self.graph.hosts, self.far]
        self.graph.hosts += [self.near, self.far]
        self.world = self.graph.world
        self.random = random.Random(f"use of {seed}")
        self.sent, self.back = bytearray(), bytearray()
        up, flows = [], []
        for host, more in (
            (
                self.near,
                {
                    runtime.EV_PEER_UP: lambda channel, request, *_: up.append(channel) if request == 1 else None,
                    runtime.EV_STREAM_DATA: self._came_back,
                },
            ),
            (
                self.far,
                {
                    runtime.EV_STREAM_OPEN: lambda flow, *_: flows.append(flow),
                    runtime.EV_STREAM_DATA: self._give_back,
                },
            ),
        ):
            host.on_event = {runtime.EV_STOPPED: host.on_event[runtime.EV_STOPPED]} | more
        self.near.tell("connect", 1, [hop.hop for hop in hops])
        assert self.world.run(lambda: up, 60)
        self.channel = up[0]
        self.wire = self.world.wires_between(self.near, hops[0])[0]
        self.world.number = self.wire.number
        self.near.tell("open", 1, self.channel, 0, 1, SERVICE)
        assert self.world.run(lambda: flows, 60)
        self.far.tell("accept", flows[0])

    def _came_back(self, flow, data, *_):
        self.back += data
        self.near.machine.used(flow, len(data), self.world.now_ns)

    def _give_back(self, flow, data, *_):
        self.far.machine.used(flow, len(data), self.world.now_ns)
        self.far.machine.write(flow, bytes(data), self.world.now_ns)

    def say(self, length):
        data = self.random.randbytes(length)
        self.sent += data
        self.near.tell("write", 1, data)

    def use(self, seconds, messages):
        """Say something at so many moments of the next seconds."""
        for _ in range(messages):
            at_ns = int(self.random.random() * seconds * SECOND_NS)
            self.world.after(at_ns, self.say, self.random.randint(*MESSAGE_LEN))

    def watch(self, seconds):
        """Let time pass; (time in s, bytes) of what goes out meanwhile, and of what comes in."""
        self.world.seen.clear()
        self.world.run_for(seconds)
        return [[piece for side, piece in self.world.seen if side == which] for which in (0, 1)]

    def windows(self, n):
        """Let time pass, half of the windows used; (what an observer sees of one, whether it was used)."""
        found = []
        for _ in range(n):
            is_used = self.random.random() < 0.5
            start_s = self.world.now_ns / SECOND_NS
            if is_used:
                self.use(WINDOW_S, self.random.randint(1, 6))
            out, back = self.watch(WINDOW_S)
            found.append((features(out, start_s, WINDOW_S) + features(back, start_s, WINDOW_S), is_used))
        return found

    def close(self):
        """Everything has come back, in order, and nothing is left."""
        assert self.world.run(lambda: len(self.back) == len(self.sent), 600)
        assert self.back == self.sent
        self.graph.close()
