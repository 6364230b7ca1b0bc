# SPDX-License-Identifier: MIT
"""A virtual clock and network for engines in one process: everything that happens follows from one seed.

Time is a heap of calls. A `Wire` is a TCP connection between two `Host`s: two directions with a delay, a rate, a send
buffer of their own; a `Host` owns a `Machine` and does what that asks for. What an application would do is in the
functions that a host has in `on_event`.
"""

import hashlib
import heapq
import itertools
import random

from core.endpoint_help import ring_of
from model.cert import Identity
from qg._core.machine import Machine

MS_NS = 1_000_000
SECOND_NS = 1_000_000_000
START_NS = 1_000_000 * SECOND_NS
NEVER_NS = (1 << 64) - 1
PORT = 7447
SEND_BUFFER_LEN = 131072  # of a connection, as a kernel would have it; on what has a rate
SEGMENT_LEN = 65536  # what a rate-limited direction carries as one piece

_rings = {}


def ring(label):
    """The identity that belongs to a label; it is always the same one."""
    if label not in _rings:
        seed, secret = (hashlib.sha256(f"{part} of {label}".encode()).digest() for part in ("seed", "link"))
        _rings[label] = ring_of(Identity(seed, secret, 1 << 62))
    return _rings[label]


class World:
    """The clock, the hosts, and what lies between them."""

    def __init__(self, seed):
        self.seed = seed
        self.random = random.Random(f"world {seed}")
        self.now_ns = START_NS
        self.hosts = {}  # by address
        self.wires = {}  # open ones, by number
        self.n_calls = 0
        self.n_wires = 0
        self._heap = []
        self._order = itertools.count()
        self._conns = itertools.count(2, 2)
        self._paths = {}
        self._partition = {}  # host -> group; hosts of different groups do not reach each other
        self._trace = hashlib.blake2b(digest_size=16)

    def at(self, at_ns, call, *arguments):
        """Call later; what is due at one moment comes in the order in which it was asked for."""
        heapq.heappush(self._heap, (at_ns, next(self._order), call, arguments))

    def after(self, delay_ns, call, *arguments):
        self.at(self.now_ns + delay_ns, call, *arguments)

    def run(self, until=None, limit_s=3600):
        """Let time pass until `until` is true, or nothing is left to come. False when the limit came first."""
        limit_ns = self.now_ns + int(limit_s * SECOND_NS)
        while self._heap:
            if until is not None and until():
                return True
            if self._heap[0][0] > limit_ns:
                self.now_ns = limit_ns
                return False
            self.now_ns, _, call, arguments = heapq.heappop(self._heap)
            self.n_calls += 1
            call(*arguments)
        return until is None or until()

    def run_for(self, seconds):
        """Let so much time pass."""
        self.run(limit_s=seconds)

    @property
    def trace(self):
        """A hash of all bytes on all wires and when they came."""
        return self._trace.hexdigest()

    def note(self, wire, direction, data):
        self._trace.update(b"%d %d %d " % (self.now_ns, wire, direction))
        self._trace.update(data)

    def path(self, one, other):
        """(delay, rate, segment) between two hosts, drawn once; no rate: as fast as can be."""
        key = (one, other) if one.ip < other.ip else (other, one)
        if key not in self._paths:
            self._paths[key] = self.path_draw(one, other)
        return self._paths[key]

    def path_draw(self, one, other):
        return self.random.randint(1, 40) * MS_NS, 0, SEGMENT_LEN

    def path_set(self, one, other, delay_ns, rate=0, segment_len=SEGMENT_LEN):
        """Say what lies between two hosts; `rate` in bytes per second, in each direction."""
        key = (one, other) if one.ip < other.ip else (other, one)
        self._paths[key] = (delay_ns, rate, segment_len)

    # What goes wrong

    def partition(self, *groups):
        """Let nothing pass between addresses of different groups; what was under way waits. Without groups: heal."""
        self._partition = {ip: idx for idx, group in enumerate(groups) for ip in group}
        for wire in list(self.wires.values()):
            wire.look()

    def is_apart(self, one, other):
        groups = self._partition
        return bool(groups) and groups.get(one.ip, -1) != groups.get(other.ip, -1)

    def wires_between(self, one, other):
        return [wire for wire in self.wires.values() if {wire.hosts[0], wire.hosts[1]} == {one, other}]

    # Connections

    def dial(self, host, conn, ip, port):
        target = self.hosts.get(ip)
        if target is None or port != PORT:
            self.after(MS_NS, host.tell, "dial_failed", conn)
            return
        delay_ns = self.path(host, target)[0]
        self.after(delay_ns, self._arrive, host, conn, target)

    def _arrive(self, host, conn, target):
        if self.is_apart(host, target):
            return  # nobody answers: the dialler's own deadline ends it
        if not host.is_dialling(conn):
            return
        if not target.is_up:
            self.after(self.path(host, target)[0], host.tell, "dial_failed", conn)
            return
        wire = Wire(self, host, conn, target, next(self._conns))
        target.conns[wire.conns[1]] = (wire, 1)
        target.tell("accepted", wire.conns[1], host.ip, 49152)
        self.after(wire.delay_ns, wire.connected)


class Host:
    """A machine with an address, and with an application in `on_event`."""

    def __init__(self, world, ip, options=None, *, skew_s=0):
        self.world = world
        self.ip = ip
        self.conns = {}  # conn -> (wire, side)
        self.dialling = set()
        self.is_up = True
        self.on_event = {}  # type of event -> function of the rest
        self._tick_ns = NEVER_NS
        self._is_settling = False
        world.hosts[ip] = self
        seed = f"{world.seed} {ip} {world.now_ns}".encode()
        self.machine = Machine(ring(ip), options=options, seed=seed, now_ns=world.now_ns)
        self.machine.unix_offset_ns += skew_s * SECOND_NS
        self.machine.send_buffer_len = SEND_BUFFER_LEN
        self.link_key = self.machine.ring.link_keys[-1][0]
        self.peer_id = self.machine.ring.peer_id

    def __repr__(self):
        return f"Host({self.ip})"

    @property
    def hop(self):
        """How others name it when they connect."""
        return self.link_key, self.peer_id, self.ip, PORT

    def tell(self, what, *arguments):
        """Call a method of the machine, and do what comes of it."""
        if self.is_up:
            getattr(self.machine, what)(*arguments, self.world.now_ns)
            self.settle()

    def settle(self):
        """Do what the machine asks for until it asks for nothing."""
        if self._is_settling:
            return  # called by an application, which is called from here
        self._is_settling = True
        while self.is_up:
            actions, events = self.machine.settle(self.world.now_ns)
            if not actions and not events:
                break
            for what, conn, *rest in actions:
                self._act(what, conn, rest)
            for event in events:
                handler = self.on_event.get(event[0])
                if handler is not None:
                    handler(*event[1:])
        self._is_settling = False
        if self.is_up:
            self._arm()

    def _act(self, what, conn, rest):
        if what == "dial":
            self.dialling.add(conn)
            self.world.dial(self, conn, *rest)
            return
        wire, side = self.conns.get(conn, (None, 0))
        if wire is None:
            self.dialling.discard(conn)
        elif what == "send":
            wire.send(side, rest[0])
        elif what == "abort":
            wire.abort(side)
        else:
            wire.finish(side)
            if what == "close":
                del self.conns[conn]

    def is_dialling(self, conn):
        return self.is_up and conn in self.dialling

    def _arm(self):
        deadline_ns = self.machine.deadline_ns
        if deadline_ns < self._tick_ns:
            self._tick_ns = deadline_ns
            self.world.at(max(deadline_ns, self.world.now_ns), self._tick, deadline_ns)

    def _tick(self, tick_ns):
        if not self.is_up or tick_ns != self._tick_ns:
            return
        self._tick_ns = NEVER_NS
        if self.machine.deadline_ns <= self.world.now_ns:
            self.machine.tick(self.world.now_ns)
            self.settle()
        else:
            self._arm()

    def kill(self):
        """End it as a process ends that is killed: its kernel breaks all connections."""
        self.is_up = False
        self.machine.clear(self.world.now_ns)
        self.dialling.clear()
        for wire, side in list(self.conns.values()):
            wire.abort(side)
        self.conns.clear()

    def honest(self):
        """Let a relay that did evil do none any more."""
        if self.is_up:
            self.machine.tamper("none")

    def vanish(self):
        """End it as a machine ends that loses its power: nobody is told anything, ever."""
        self.is_up = False
        self.machine.clear(self.world.now_ns)
        self.dialling.clear()
        self.conns.clear()


class Wire:
    """A TCP connection: side 0 dialled, side 1 accepted."""

    def __init__(self, world, host, conn, target, target_conn):
        self.world = world
        self.hosts = (host, target)
        self.conns = (conn, target_conn)
        self.delay_ns, self.rate, self.segment_len = world.path(host, target)
        self.free_ns = [world.now_ns, world.now_ns]
        self.held = []  # what would have arrived while it was stalled
        self.is_stalled = False
        self.is_over = False
        self.shuts = [False, False]
        self.tampers = [None, None]  # per sending side: bytes until a bit is flipped
        self.number = world.n_wires
        world.n_wires += 1
        world.wires[self.number] = self

    def connected(self):
        host, conn = self.hosts[0], self.conns[0]
        if not host.is_dialling(conn):
            self.abort(0)
            return
        host.dialling.discard(conn)
        host.conns[conn] = (self, 0)
        host.tell("connected", conn)

    def look(self):
        """Stall or go on, as the network's partition says."""
        self.stall() if self.world.is_apart(*self.hosts) else self.go_on()

    def stall(self):
        """Let nothing pass: what is sent fills the send buffer, and waits."""
        self.is_stalled = True

    def go_on(self):
        if self.is_stalled:
            self.is_stalled = False
            held, self.held = self.held, []
            for call, arguments in held:
                self.world.after(0, call, *arguments)

    # From the side that sends

    def send(self, side, data):
        now_ns = self.world.now_ns
        if not self.rate:
            self._left(side, data)
            return
        for off in range(0, len(data), self.segment_len):
            segment = data[off : off + self.segment_len]
            leave_ns = max(now_ns, self.free_ns[side]) + len(segment) * SECOND_NS // self.rate
            self.free_ns[side] = leave_ns
            self.world.at(leave_ns, self._left, side, segment)

    def _left(self, side, segment):
        self.world.after(self.delay_ns, self._arrive, side, segment)
        if not self.is_stalled:
            self.hosts[side].tell("writable", self.conns[side], len(segment))
        else:
            self.held.append((self.hosts[side].tell, ("writable", self.conns[side], len(segment))))

    def finish(self, side):
        if not self.shuts[side]:
            self.shuts[side] = True
            leave_ns = max(self.world.now_ns, self.free_ns[side])
            self.world.at(leave_ns + self.delay_ns, self._end, side)

    def abort(self, side):
        """Break it: this side has forgotten it, the other one will hear of it."""
        self.hosts[side].conns.pop(self.conns[side], None)
        if not self.is_over:
            self.is_over = True
            self.world.wires.pop(self.number, None)
            self.world.after(self.delay_ns, self._break, 1 - side)

    def cut(self):
        """Break it for both sides, now."""
        if not self.is_over:
            self.is_over = True
            self.world.wires.pop(self.number, None)
            self._break(0)
            self._break(1)

    # At the side that receives

    def _break(self, side):
        host, conn = self.hosts[side], self.conns[side]
        if conn in host.dialling:
            host.dialling.discard(conn)
            host.tell("dial_failed", conn)
        elif host.conns.pop(conn, None) is not None:
            host.tell("lost", conn)

    def _arrive(self, side, data):
        if self.is_over:
            return
        if self.is_stalled:
            self.held.append((self._arrive, (side, data)))
            return
        data = self._tampered(side, data)
        self.world.note(self.number, side, data)
        self.hosts[1 - side].tell("received", self.conns[1 - side], data)

    def _end(self, side):
        if self.is_over:
            return
        if self.is_stalled:
            self.held.append((self._end, (side,)))
            return
        self.world.note(self.number, side, b"FIN")
        if self.shuts[0] and self.shuts[1]:
            self.world.wires.pop(self.number, None)
        self.hosts[1 - side].tell("ended", self.conns[1 - side])

    def flip(self, side, after):
        """Flip a bit of what this side sends, `after` bytes from now."""
        self.tampers[side] = after

    def _tampered(self, side, data):
        after = self.tampers[side]
        if after is None:
            return data
        if after >= len(data):
            self.tampers[side] = after - len(data)
            return data
        self.tampers[side] = None
        return data[:after] + bytes([data[after] ^ 1]) + data[after + 1 :]
