# SPDX-License-Identifier: MIT
"""The exit: connects streams of peers to TCP targets, and passes datagrams on, as far as its policy allows.

A stream's metadata is one byte, 1 for a connection or 2 for datagrams, and for a connection the target. The exit
answers with one byte, an `Outcome`; after 0 bytes flow. On a stream of datagrams each has its length in two bytes in
front, then the target, or where it comes from, then the payload. Names are resolved here.
"""

import asyncio
import logging
import socket
from collections import Counter, deque
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from time import monotonic
from typing import NamedTuple, cast

import qg
from qg._core.runtime import own_networks
from qg.extenders.sockets.dial import dial_first
from qg.extenders.sockets.limits import Rate, Slots
from qg.extenders.sockets.names import Names
from qg.extenders.sockets.outcome import Outcome, Refusal
from qg.extenders.sockets.packets import packet_read, packet_write
from qg.extenders.sockets.target import Target, target_read
from qg.extenders.sockets.tasks import Timeouts, first_of

__all__ = ["CONNECT", "DATAGRAMS", "EXIT_ID", "Exit", "ExitLimits"]

_log = logging.getLogger("qg.exit")

EXIT_ID = qg.ExtenderId("c6b3c2f0-6d0b-4c36-a1cb-0c4b7a1d9e52")
CONNECT, DATAGRAMS = 1, 2  # the first byte of the metadata

_SOURCES_MAX = 1024  # places of one association whose replies are taken
_WAITING_MAX = 1 << 20  # bytes of one association that the system has not taken yet
_NETWORKS_S = 10.0  # how often the exit looks which networks it is in
_KNOWN_S = 60.0  # how long an association keeps what a name resolved to
_ASKED_MAX = 8  # names of one association that are being resolved
_ASKED_DATAGRAMS_MAX = 16  # datagrams that wait for one of them


class ExitLimits(NamedTuple):
    """Bound what peers make an exit do."""

    connections: int = 8192  # of all peers
    peer_connections: int = 1024  # of one peer; a browser has up to some hundred
    peer_connections_per_s: int = 500  # new ones of one peer; twice as many at once after a pause
    associations: int = 256
    peer_associations: int = 32
    connect_s: float = 15.0  # name and handshake together; SOCKS clients give up after 30 s or so
    idle_s: float = 900.0  # a connection on which nothing moves; RFC 5382 asks NATs for more, programs send keep-alives
    datagrams_idle_s: float = 120.0  # an association; RFC 4787 asks for at least two minutes


class Exit(qg.Extender):
    """Let peers reach the internet, or what `rules` list, from this node.

    Whoever may connect to the node may use it, but for peers that a rule of access bars from it. `counts` tells how
    many requests ended how. One exit may serve several nodes.
    """

    id = EXIT_ID

    def __init__(self, rules: Sequence[str | qg.ExitRule] = (), limits: ExitLimits | None = None) -> None:
        self._rules = qg.ExitPolicy(rules).rules
        self._policy_now = qg.ExitPolicy()
        self._networks_s = -_NETWORKS_S
        self._limits = limits or ExitLimits()
        self._names = Names()
        self._dialling = Timeouts(self._limits.connect_s)
        self._rate = Rate(self._limits.peer_connections_per_s)
        self._connections = Slots(self._limits.connections, self._limits.peer_connections)
        self._associations = Slots(self._limits.associations, self._limits.peer_associations)
        self.counts: Counter[str] = Counter()

    @property
    def _policy(self) -> qg.ExitPolicy:
        """Give the rules, with the networks that this machine is in: machines move."""
        now_s = monotonic()
        if now_s - self._networks_s >= _NETWORKS_S:
            try:
                own = [ip_network((packed, n_bits), strict=False) for packed, n_bits in own_networks()]
            except OSError as error:  # out of descriptors, mostly
                raise Refusal(Outcome.FAILED, str(error.strerror)) from None
            self._policy_now, self._networks_s = qg.ExitPolicy(self._rules, own), now_s
        return self._policy_now

    async def on_stream(self, stream: qg.Stream) -> None:
        """Carry out what the stream's metadata asks for."""
        kind, rest = stream.metadata[:1], stream.metadata[1:]
        if stream.peer.rule.may_exit is False:
            await self._refuse(stream, Outcome.NOT_ALLOWED)
        elif kind == bytes((CONNECT,)):
            await self._connect_serve(stream, rest)
        elif kind == bytes((DATAGRAMS,)) and not rest:
            await self._datagrams_serve(stream)
        else:
            await self._refuse(stream, Outcome.NO_COMMAND)

    async def _refuse(self, stream: qg.Stream, outcome: Outcome) -> None:
        self.counts[outcome.name.lower()] += 1
        await stream.write(bytes((outcome,)))

    # Connections

    async def _connect_serve(self, stream: qg.Stream, wanted: bytes) -> None:
        peer_id = stream.peer.id
        if not self._connections.has_room(peer_id) or not self._rate.takes(peer_id):
            await self._refuse(stream, Outcome.FAILED)
            return
        with self._connections.taken(peer_id):
            try:
                sock = await self._dial(stream, wanted)
            except Refusal as refused:
                _log.debug("refused peer=%s outcome=%s: %s", peer_id, refused.outcome.name.lower(), refused)
                await self._refuse(stream, refused.outcome)
                return
            self.counts["ok"] += 1
            try:
                with sock:
                    await stream.splice(sock, head=bytes((Outcome.OK,)), idle_s=self._limits.idle_s)
            except OSError as error:
                _log.debug("broke peer=%s: %s", peer_id, error)
            finally:
                self.counts["bytes_out"] += stream.carried.n_received
                self.counts["bytes_in"] += max(0, stream.carried.n_sent - 1)  # the outcome was the first

    async def _dial(self, stream: qg.Stream, wanted: bytes) -> socket.socket:
        try:
            found = target_read(wanted)
        except qg.InvalidValue as error:
            raise Refusal(Outcome.NO_ADDRESS_KIND, str(error)) from None
        if found is None or found[1] != len(wanted) or not found[0].port:
            raise Refusal(Outcome.NO_ADDRESS_KIND, "no target")
        target = found[0]
        try:
            with self._dialling.one():
                hosts = await self._resolve(stream.peer.id, target)
                return await dial_first(hosts, target.port)
        except TimeoutError:
            raise Refusal(Outcome.TIMED_OUT, "no answer in time") from None

    async def _resolve(self, peer_id: qg.PeerId, target: Target) -> list[str]:
        """Give the addresses of a target that the policy allows, in the order of preference."""
        ip = target.ip
        if ip is not None:
            hosts, name = [target.host], ""
        else:
            name = target.host
            if self._policy.denies_name(name, target.port):
                raise Refusal(Outcome.NOT_ALLOWED, "denied by name")
            try:
                hosts = await self._names.resolve(name, peer_id)
            except qg.Busy as error:
                raise Refusal(Outcome.FAILED, str(error)) from None
            if not hosts:
                raise Refusal(Outcome.HOST_UNREACHABLE, "the name does not resolve")
        allowed = self._policy.allowed(name, hosts, target.port)
        if not allowed:
            raise Refusal(Outcome.NOT_ALLOWED, "denied by policy")
        return allowed

    # Datagrams

    async def _datagrams_serve(self, stream: qg.Stream) -> None:
        peer_id = stream.peer.id
        if not self._associations.has_room(peer_id):
            await self._refuse(stream, Outcome.FAILED)
            return
        with self._associations.taken(peer_id):
            self.counts["associations"] += 1
            await stream.write(bytes((Outcome.OK,)))
            await _Association(self, stream).run(self._limits.datagrams_idle_s)

    async def resolve(self, peer_id: qg.PeerId, target: Target) -> list[str]:
        """Give the addresses to which a datagram may go; none if it may not."""
        try:
            return await self._resolve(peer_id, target)
        except Refusal as refused:
            self.counts[f"datagrams_{refused.outcome.name.lower()}"] += 1
            return []


class _Association(asyncio.DatagramProtocol):
    """Send the datagrams of one stream, and give it those that come back from where it has sent to."""

    def __init__(self, owner: Exit, stream: qg.Stream) -> None:
        self._owner = owner
        self._stream = stream
        self._transports: dict[int, asyncio.DatagramTransport] = {}  # by IP version
        self._sent_to: dict[tuple[str, int], None] = {}  # the latest last
        self._known: dict[Target, tuple[float, list[str]]] = {}  # until when, addresses
        self._asked: dict[Target, deque[bytes]] = {}  # what waits for a name
        self._asking: set[asyncio.Task[None]] = set()
        self._opening = asyncio.Lock()
        self._last_s = 0.0

    async def run(self, idle_s: float) -> None:
        """Serve until the peer ends the stream, or nothing moves for so long."""
        self._last_s = asyncio.get_running_loop().time()
        try:
            await first_of(self._frames_send(), self._idle_wait(idle_s))
        finally:
            for task in self._asking:
                task.cancel()
            if self._asking:
                await asyncio.wait(self._asking)
            for transport in self._transports.values():
                transport.abort()

    async def _frames_send(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while (frame := await frame_read(self._stream)) is not None:
                self._last_s = loop.time()
                await self._take(*frame)
        except qg.InvalidValue as error:
            _log.debug("misunderstood peer=%s: %s", self._stream.peer.id, error)
            self._owner.counts["misunderstood"] += 1
            self._stream.reset(qg.Reason.PROTOCOL)

    async def _idle_wait(self, idle_s: float) -> None:
        loop = asyncio.get_running_loop()
        while (left_s := self._last_s + idle_s - loop.time()) > 0:
            await asyncio.sleep(left_s)

    async def _take(self, target: Target, payload: bytes) -> None:
        """Send a datagram, at once or when its target's name is resolved; the others do not wait for that."""
        if target.ip is not None or self._known.get(target, (0.0,))[0] > self._last_s:
            await self._send(await self._resolved(target), target, payload)
        elif target in self._asked and len(self._asked[target]) < _ASKED_DATAGRAMS_MAX:
            self._asked[target].append(payload)
        elif target not in self._asked and len(self._asked) < _ASKED_MAX:
            self._asked[target] = deque([payload])
            task = asyncio.create_task(self._ask(target))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        else:
            self._owner.counts["datagrams_dropped"] += 1

    async def _ask(self, target: Target) -> None:
        """Resolve a name, and send what waits for it."""
        try:
            hosts = await self._resolved(target)
            while self._asked[target]:
                await self._send(hosts, target, self._asked[target].popleft())
        finally:
            del self._asked[target]

    async def _send(self, hosts: list[str], target: Target, payload: bytes) -> None:
        transport = await self._transport(ip_address(hosts[0]).version) if hosts and target.port else None
        if transport is None:
            self._owner.counts["datagrams_refused"] += 1
            return
        if cast(asyncio.WriteTransport, transport).get_write_buffer_size() > _WAITING_MAX:
            self._owner.counts["datagrams_dropped"] += 1
            return
        place = hosts[0], target.port
        self._sent_to.pop(place, None)
        if len(self._sent_to) >= _SOURCES_MAX:
            del self._sent_to[next(iter(self._sent_to))]
        self._sent_to[place] = None
        transport.sendto(payload, place)
        self._owner.counts["datagrams_out"] += 1

    async def _resolved(self, target: Target) -> list[str]:
        until_s, hosts = self._known.pop(target, (0.0, []))
        if until_s <= self._last_s:
            hosts = await self._owner.resolve(self._stream.peer.id, target)
            until_s = self._last_s + _KNOWN_S
            if len(self._known) >= _SOURCES_MAX:
                del self._known[next(iter(self._known))]
        self._known[target] = until_s, hosts
        return hosts

    async def _transport(self, version: int) -> asyncio.DatagramTransport | None:
        """Give the socket to send from; None where the machine has none to give."""
        async with self._opening:
            if version not in self._transports:
                anywhere = ("0.0.0.0" if version == 4 else "::", 0)
                loop = asyncio.get_running_loop()
                try:
                    self._transports[version], _ = await loop.create_datagram_endpoint(lambda: self, anywhere)
                except OSError as error:  # no descriptors, or no IPv6
                    _log.warning("no_datagrams version=%d: %s", version, error.strerror)
                    return None
        return self._transports[version]

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        place = source[:2]
        if place not in self._sent_to:
            self._owner.counts["datagrams_unasked"] += 1
        elif frame_write(self._stream, Target(*place), data):
            self._last_s = asyncio.get_running_loop().time()
            self._owner.counts["datagrams_in"] += 1
        else:
            self._owner.counts["datagrams_dropped"] += 1


async def frame_read(stream: qg.Stream) -> tuple[Target, bytes] | None:
    """Read a datagram from a stream; None at its end. Raises `qg.InvalidValue` for what is none."""
    frame = await packet_read(stream)
    if frame is None:
        return None
    found = target_read(frame)
    if found is None:
        raise qg.InvalidValue("a datagram without a target")
    return found[0], frame[found[1] :]


def frame_write(stream: qg.Stream, place: Target, payload: bytes) -> bool:
    """Write a datagram to a stream; False when there is no room, for datagrams do not wait."""
    return packet_write(stream, bytes(place) + payload)
