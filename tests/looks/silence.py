# SPDX-License-Identifier: MIT
"""One engine on a virtual clock, and clients that are no nodes: what each was answered, and when it was closed."""

import heapq
import itertools
import random
from collections import defaultdict

from core.endpoint_help import NOW_S, SECOND_NS, link_key_of, ring_of
from looks.probes import Flights, probes_make
from model.cert import Identity
from qg._core.machine import Machine

START_NS = 1_000_000 * SECOND_NS
MS_NS = 1_000_000
NEVER_NS = (1 << 64) - 1


class Ground:
    """A machine that listens, and whoever comes to it. Every client has an address, and a network, of its own."""

    def __init__(self, seed, **options):
        self.random = random.Random(seed)
        ring = ring_of(Identity(self.random.randbytes(32), self.random.randbytes(32), 1 << 62))
        self.machine = Machine(ring, options=options, seed=self.random.randbytes(32), now_ns=START_NS,
                               unix_offset_s=NOW_S - START_NS // SECOND_NS)  # fmt: skip
        self.flights = Flights(link_key_of(ring), NOW_S, seed)
        self.now_ns = START_NS
        self.answered = defaultdict(int)  # bytes by client
        self.accepted_ns, self.closed_ns = {}, {}
        self._heap, self._order, self._tick_ns = [], itertools.count(), NEVER_NS

    def at(self, at_ns, call, *arguments):
        heapq.heappush(self._heap, (at_ns, next(self._order), call, arguments))

    def come(self, at_ns, client, pieces):
        """Let a client connect then and send its pieces."""
        self.at(at_ns, self._accept, client)
        for delay_s, data in pieces:
            at_ns += MS_NS + int(delay_s * SECOND_NS)
            self.at(at_ns, self.tell, "received", client, data)

    def _accept(self, client):
        self.accepted_ns[client] = self.now_ns
        self.tell("accepted", client, f"10.{client >> 8 & 255}.{client & 255}.1", 40000 + (client >> 16))

    def tell(self, what, *arguments):
        getattr(self.machine, what)(*arguments, self.now_ns)
        actions, _ = self.machine.settle(self.now_ns)
        for action, client, *rest in actions:
            if action == "send":
                self.answered[client] += len(rest[0])
            elif client not in self.closed_ns:
                self.closed_ns[client] = self.now_ns
                if action == "shutdown":  # it goes once it has read the FIN
                    self.at(self.now_ns + MS_NS, self.tell, "ended", client)
        deadline_ns = self.machine.deadline_ns
        if deadline_ns < self._tick_ns:
            self._tick_ns = deadline_ns
            self.at(max(deadline_ns, self.now_ns), self._tick, deadline_ns)

    def _tick(self, tick_ns):
        if tick_ns == self._tick_ns:
            self._tick_ns = NEVER_NS
            self.tell("tick")

    def run(self, limit_s=3600):
        """Let time pass until nothing is left to come, or the limit."""
        end_ns = self.now_ns + limit_s * SECOND_NS
        while self._heap and self._heap[0][0] <= end_ns:
            self.now_ns, _, call, arguments = heapq.heappop(self._heap)
            call(*arguments)

    def lives_s(self, ways):
        """Give for how long the clients had their connections, by way of failing; `ways` tells that of each client."""
        lives = defaultdict(list)
        for client, way in ways.items():
            lives[way].append((self.closed_ns[client] - self.accepted_ns[client]) / SECOND_NS)
        return lives


def ground_probed(seed, n, **options):
    """Run n probes of all kinds, ten milliseconds apart; give the ground and the way in which each client fails."""
    ground = Ground(seed, **options)
    replayed = [ground.flights.make() for _ in range(20)]
    for idx, flight in enumerate(replayed):
        ground.come(START_NS + idx, idx, [(0, flight)])
    ground.run(limit_s=1)
    assert all(ground.answered[idx] > 0 for idx in range(len(replayed)))  # control: who is right is answered
    ground.answered.clear()
    ways = {}
    for idx, probe in enumerate(probes_make(n, ground.flights, replayed, ground.random)):
        client = len(replayed) + idx
        ways[client] = probe.way
        ground.come(ground.now_ns + ground.random.randint(8, 12) * idx * MS_NS, client, probe.pieces)
    ground.run()
    return ground, ways
