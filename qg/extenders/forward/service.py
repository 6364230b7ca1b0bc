# SPDX-License-Identifier: MIT
"""The service behind forwards: dials targets for peers, and listens for them, as far as it is told to.

A stream's metadata is one byte, a `Kind`, then what it needs: a target; or a place to listen on and a token of 16
bytes; or such a token. The answer is one byte, an `Outcome`. After 0 bytes or packets flow; on a stream that asked to
listen two bytes follow, the port, and both sides keep it open for as long as shall be listened; after another outcome
it says in words why not. What comes to the place goes back on streams that name the token.
"""

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import IntEnum
from functools import partial
from ipaddress import ip_address
from typing import Final, Literal, NamedTuple, cast

import qg
from qg.extenders.forward.ends import DATAGRAMS_IDLE_S, WAITING_MAX, TcpEnd, UdpEnd
from qg.extenders.sockets.dial import dial_first
from qg.extenders.sockets.limits import Rate, Slots
from qg.extenders.sockets.names import Names
from qg.extenders.sockets.outcome import Outcome, Refusal
from qg.extenders.sockets.packets import packet_read, packet_write
from qg.extenders.sockets.target import Target, target_read
from qg.extenders.sockets.tasks import Activity, first_of

__all__ = ["FORWARD_ID", "Forward", "ForwardLimits", "Kind"]

_log = logging.getLogger("qg.forward")

Protocol = Literal["tcp", "udp"]

FORWARD_ID = qg.ExtenderId("0d3f6c1e-9a47-4a55-8f61-7be2f3a9c014")
_TOKEN_LEN: Final = 16
_OPEN_S: Final = 10.0  # for a peer to take a stream that it has asked for
_LOOK_S: Final = 5.0  # between two looks at a peer of which nothing was heard
_UNREADABLE: Final = Outcome.NO_ADDRESS_KIND


class Kind(IntEnum):
    """Say what a stream is for."""

    CONNECT = 1  # to the target that follows
    DATAGRAMS = 2
    LISTEN = 3  # on the place that follows, for the token behind it
    LISTEN_DATAGRAMS = 4
    CONNECT_BACK = 5  # for the token that follows
    DATAGRAMS_BACK = 6

    @property
    def protocol(self) -> Protocol:
        """Give what is forwarded."""
        return "tcp" if self in (Kind.CONNECT, Kind.LISTEN, Kind.CONNECT_BACK) else "udp"


class ForwardLimits(NamedTuple):
    """Bound what peers make a node do."""

    connections: int = 4096  # of all peers
    peer_connections: int = 1024
    peer_streams_per_s: int = 500  # new ones of one peer; twice as many at once after a pause
    associations: int = 2048  # sources of datagrams; each has a descriptor here
    peer_associations: int = 512
    listeners: int = 256
    peer_listeners: int = 32
    connect_s: float = 15.0  # name and handshake together
    idle_s: float = 7440.0  # a connection on which nothing moves; RFC 5382, REQ-5: 2 hours 4 minutes
    datagrams_idle_s: float = DATAGRAMS_IDLE_S


_Find = Callable[[], Awaitable[tuple[list[str], int]]]  # gives the addresses of a target, and its port


class _Expected(NamedTuple):
    """What a token stands for."""

    peer_id: qg.PeerId
    protocol: Protocol
    target: Target
    counts: Counter[str]


class _Listening:
    """A place that is listened on for a peer."""

    def __init__(self, peer_id: qg.PeerId) -> None:
        self.peer_id = peer_id
        self.replaced = asyncio.Event()  # the same peer has asked for it again
        self.closed = asyncio.Event()


class Forward(qg.Extender):
    """Let peers reach through this node what `offers` list, and listen on it where they allow that.

    Without offers it does neither; a node that has ports of its peers lead to itself needs one too. `counts` tells how
    many requests ended how. One may serve several nodes.
    """

    id = FORWARD_ID

    def __init__(self, offers: Iterable[qg.ForwardOffer] = (), limits: ForwardLimits | None = None) -> None:
        self.offers = tuple(offers)  # may be replaced while the node runs; connections that are open stay
        self._limits = limits = limits or ForwardLimits()
        self._names = Names()
        self._rate = Rate(limits.peer_streams_per_s)
        self._slots: dict[Protocol, Slots] = {
            "tcp": Slots(limits.connections, limits.peer_connections),
            "udp": Slots(limits.associations, limits.peer_associations),
        }
        self._listeners = Slots(limits.listeners, limits.peer_listeners)
        self._places: dict[tuple[Protocol, Target], _Listening] = {}
        self._expected: dict[bytes, _Expected] = {}
        self._gone: dict[qg.Peer, asyncio.Event] = {}  # for those that wait for the end of a peer
        self.counts: Counter[str] = Counter()

    async def on_stream(self, stream: qg.Stream) -> None:
        """Carry out what the stream's metadata asks for."""
        try:
            await self._serve(stream)
        except Refusal as refusal:
            _log.debug("refused peer=%s outcome=%s: %s", stream.peer.id, refusal.outcome.name.lower(), refusal)
            is_listen = stream.metadata[:1] in (bytes((Kind.LISTEN,)), bytes((Kind.LISTEN_DATAGRAMS,)))
            await stream.write(bytes((refusal.outcome,)) + (str(refusal).encode() if is_listen else b""))

    async def _serve(self, stream: qg.Stream) -> None:
        try:
            kind = Kind(stream.metadata[0])
        except (IndexError, ValueError):
            self.counts["misunderstood"] += 1
            raise Refusal(Outcome.NO_COMMAND, "not understood") from None
        rest = stream.metadata[1:]
        if not self._rate.takes(stream.peer.id):
            raise Refusal(Outcome.FAILED, "too many requests within a second")
        if kind in (Kind.CONNECT, Kind.DATAGRAMS):
            target, _ = _target(rest, 0)
            find = partial(self._allowed, stream.peer.id, kind.protocol, target)
            await self._join(stream, kind.protocol, find, self.counts)
        elif kind in (Kind.CONNECT_BACK, Kind.DATAGRAMS_BACK):
            expected = self._expected.get(rest)
            if expected is None or expected[:2] != (stream.peer.id, kind.protocol):
                self.counts["not_expected"] += 1
                raise Refusal(Outcome.NOT_ALLOWED, "a token that is not known")
            find = partial(self._found, stream.peer.id, expected.target)
            await self._join(stream, kind.protocol, find, expected.counts)
        else:
            await self._listen(stream, kind, *_target(rest, _TOKEN_LEN))

    # Targets

    async def _found(self, peer_id: qg.PeerId, target: Target) -> tuple[list[str], int]:
        """Give the addresses of a target, and its port."""
        hosts = [target.host]
        if target.ip is None:
            try:
                hosts = await self._names.resolve(target.host, peer_id)
            except qg.Busy as error:
                raise Refusal(Outcome.FAILED, str(error)) from None
            if not hosts:
                raise Refusal(Outcome.HOST_UNREACHABLE, f"{target.host} does not resolve")
        return hosts, target.port

    async def _allowed(self, peer_id: qg.PeerId, protocol: Protocol, target: Target) -> tuple[list[str], int]:
        """Give those addresses of a target that the peer may reach, and its port."""
        rules = [rule for offer in self._offers_to(peer_id) for rule in offer.allow if rule.protocol == protocol]
        name = target.host if target.ip is None else ""
        if not rules or not target.port:
            raise Refusal(Outcome.NOT_ALLOWED, f"{target} is not offered")
        # A name is looked up only where that can end well.
        if name and not any(rule.network is not None or rule.allows_name(name, target.port) for rule in rules):
            raise Refusal(Outcome.NOT_ALLOWED, f"{target} is not offered")
        hosts, port = await self._found(peer_id, target)
        allowed = [host for host in hosts if any(rule.allows(protocol, name, ip_address(host), port) for rule in rules)]
        if not allowed:
            raise Refusal(Outcome.NOT_ALLOWED, f"{target} is not offered")
        return allowed, port

    def _offers_to(self, peer_id: qg.PeerId) -> Iterator[qg.ForwardOffer]:
        return (offer for offer in self.offers if isinstance(offer.peers, str) or peer_id in offer.peers)

    async def _join(self, stream: qg.Stream, protocol: Protocol, find: _Find, counts: Counter[str]) -> None:
        """Join a stream with a target until one of them ends."""
        slots = self._slots[protocol]
        if not slots.has_room(stream.peer.id):
            raise Refusal(Outcome.FAILED, "too many connections, or sources of datagrams, at a time")
        with slots.taken(stream.peer.id):
            counts["open"] += 1
            try:
                await (self._connection_join if protocol == "tcp" else self._datagrams_join)(stream, find, counts)
            except Refusal as refusal:
                counts[refusal.outcome.name.lower()] += 1
                raise
            finally:
                counts["open"] -= 1

    async def _connection_join(self, stream: qg.Stream, find: _Find, counts: Counter[str]) -> None:
        try:
            async with asyncio.timeout(self._limits.connect_s):
                sock = await dial_first(*await find())
        except TimeoutError:
            raise Refusal(Outcome.TIMED_OUT, "no answer in time") from None
        with sock:
            counts["ok"] += 1
            await stream.write(bytes((Outcome.OK,)))
            try:
                await stream.splice(sock, idle_s=self._limits.idle_s)
            except OSError as error:
                _log.debug("broke peer=%s: %s", stream.peer.id, error)
            finally:
                counts["bytes_out"] += stream.carried.n_received
                counts["bytes_in"] += max(0, stream.carried.n_sent - 1)  # the outcome was the first

    async def _datagrams_join(self, stream: qg.Stream, find: _Find, counts: Counter[str]) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._limits.connect_s):
                hosts, port = await find()
            far = _FarEnd(stream, counts)
            transport, _ = await loop.create_datagram_endpoint(lambda: far, remote_addr=(hosts[0], port))
        except TimeoutError:
            raise Refusal(Outcome.TIMED_OUT, "no answer in time") from None
        except OSError as error:
            raise Refusal(Outcome.NETWORK_UNREACHABLE, str(error)) from None
        try:
            counts["ok"] += 1
            await stream.write(bytes((Outcome.OK,)))
            await first_of(far.packets_send(transport), far.activity.idle_wait(self._limits.datagrams_idle_s))
        finally:
            transport.abort()

    # Listening for peers

    async def _listen(self, stream: qg.Stream, kind: Kind, place: Target, token: bytes) -> None:
        peer, protocol = stream.peer, kind.protocol
        rules = [rule for offer in self._offers_to(peer.id) for rule in offer.listen]
        if place.ip is None or not any(rule.allows(protocol, "", place.ip, place.port) for rule in rules):
            self.counts["listen_not_allowed"] += 1
            raise Refusal(Outcome.NOT_ALLOWED, f"{place} is none of the places that the peer lets us listen on")
        if not self._listeners.has_room(peer.id):
            raise Refusal(Outcome.FAILED, "too many places are listened on")
        back = Kind.CONNECT_BACK if kind is Kind.LISTEN else Kind.DATAGRAMS_BACK
        open_ = partial(self._back, peer, protocol, bytes((back,)) + token)
        end = (TcpEnd if protocol == "tcp" else UdpEnd)(place, open_, self.counts)
        with self._listeners.taken(peer.id):
            async with self._place_taken(protocol, place, peer.id) as listening:
                try:
                    await end.start()
                except qg.ListenError as error:
                    raise Refusal(Outcome.REFUSED, str(error)) from None
                try:
                    self.counts["listening"] += 1
                    await stream.write(bytes((Outcome.OK,)) + end.address.port.to_bytes(2, "big"))
                    await first_of(_end_wait(stream), _event_wait(listening.replaced))
                finally:
                    await end.close()

    @asynccontextmanager
    async def _place_taken(self, protocol: Protocol, place: Target, peer_id: qg.PeerId) -> AsyncIterator[_Listening]:
        """Take a place; whoever asks for his own again, as after a session that has died silently, gets it."""
        key = protocol, place
        before = self._places.get(key)
        if before is not None and before.peer_id == peer_id and place.port:
            before.replaced.set()
            await before.closed.wait()
        listening = _Listening(peer_id)
        self._places.setdefault(key, listening)
        try:
            yield listening
        finally:
            listening.closed.set()
            if self._places.get(key) is listening:
                del self._places[key]

    @asynccontextmanager
    async def _back(self, peer: qg.Peer, protocol: Protocol, metadata: bytes) -> AsyncIterator[qg.Stream]:
        """Open a stream to the peer for which is listened."""
        slots = self._slots[protocol]
        if not slots.has_room(peer.id):
            raise qg.Busy(f"{peer.where} has too many connections, or sources of datagrams, at a time")
        with slots.taken(peer.id):
            try:
                async with asyncio.timeout(_OPEN_S):
                    stream = await peer.open_stream(FORWARD_ID, metadata)
            except TimeoutError:
                raise qg.PeerTimeout(f"{peer.where} did not take a stream within {_OPEN_S:g} s") from None
            async with stream:
                yield stream

    # For this node's own forwards

    @contextmanager
    def expecting(
        self, peer_id: qg.PeerId, protocol: Protocol, target: Target, counts: Counter[str]
    ) -> Iterator[bytes]:
        """Let a peer reach a target of ours with the token that this gives, for the time of the block."""
        token = secrets.token_bytes(_TOKEN_LEN)
        self._expected[token] = _Expected(peer_id, protocol, target, counts)
        try:
            yield token
        finally:
            del self._expected[token]

    async def on_peer_disconnected(self, peer: qg.Peer) -> None:
        """Wake who waits for the end of a peer."""
        if peer in self._gone:
            self._gone[peer].set()

    async def gone(self, peer: qg.Peer) -> None:
        """Wait until there is no session with a peer."""
        event = self._gone.setdefault(peer, asyncio.Event())
        try:
            while peer.is_connected:
                event.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await event.wait()
        finally:
            self._gone.pop(peer, None)


class _FarEnd(asyncio.DatagramProtocol):
    """Send the packets of a stream to one target, and give it what comes from there."""

    def __init__(self, stream: qg.Stream, counts: Counter[str]) -> None:
        self._stream = stream
        self._counts = counts
        self.activity = Activity()

    async def packets_send(self, transport: asyncio.DatagramTransport) -> None:
        """Send until the peer ends the stream."""
        while (packet := await packet_read(self._stream)) is not None:
            self.activity.note()
            if cast(asyncio.WriteTransport, transport).get_write_buffer_size() > WAITING_MAX:
                self._counts["datagrams_dropped"] += 1
                continue
            transport.sendto(packet)
            self._counts["datagrams_out"] += 1

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        self.activity.note()
        self._counts["datagrams_in" if packet_write(self._stream, data) else "datagrams_dropped"] += 1

    def error_received(self, error: Exception) -> None:
        self._counts["datagrams_refused"] += 1  # by the target, mostly: the program will notice


def _target(data: bytes, n_behind: int) -> tuple[Target, bytes]:
    """Read a target and what is behind it, so many bytes."""
    try:
        found = target_read(data)
    except qg.InvalidValue as error:
        raise Refusal(_UNREADABLE, str(error)) from None
    if found is None or found[1] + n_behind != len(data):
        raise Refusal(_UNREADABLE, "no target")
    return found[0], data[found[1] :]


async def _end_wait(stream: qg.Stream) -> None:
    async for _ in stream:
        pass


async def _event_wait(event: asyncio.Event) -> None:
    await event.wait()
