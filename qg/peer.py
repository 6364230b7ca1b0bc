# SPDX-License-Identifier: MIT
"""Peers: what a node is connected to."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self, final

from qg._core.message import Collector
from qg.access.rules import PeerRule
from qg.address import Address
from qg.errors import ClosedError, InvalidValue, PeerClosed, QGError, Reason, error_from_reason
from qg.flow import Border, Link, wake
from qg.message import Inbox, MessageWriter
from qg.request import REQUEST, Question
from qg.stream import Priority, Stream
from qg.types import ExtenderId, LinkKey, PeerId, RelayTerms

if TYPE_CHECKING:
    from qg.keep import Keeper
    from qg.node import Node

__all__ = ["Peer", "links_flush"]

KIND_BYTES, KIND_MESSAGES = 0, 1  # of streams, docs/protocol.md, section 7
_METADATA_MAX = 1024
_FLUSH_S = 2.0  # how long closing waits for what was written
_CLOSED = Collector(None, None, 0, 0)
# Reasons for which a session ends in the normal course of things.
_QUIET = frozenset({Reason.NONE, Reason.SHUTDOWN, Reason.IDLE})


async def links_flush(links: Iterable[Link]) -> None:
    """Wait until what was written on these links has been sent, but not for long."""
    busy = [link for link in links if link.n_queued]
    if busy:
        with suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_S):
                for link in busy:
                    await link.flush()


@final
class Peer:
    """Reach one peer: open streams to it, send it messages.

    Comes from `Node.connect` and goes to the methods of extenders. All direct sessions with one PeerID are one `Peer`,
    whoever dialled; a session over relays is a `Peer` of its own, since its path is what was asked for. Belongs to the
    event loop of its node: what is called from elsewhere raises `UsageError`. Used in `async with`, it is closed at
    the end of the block.

    A peer that has gone stays gone: connecting again gives another object. One that is kept (`connect(keep=True)`, or
    `peers` in the configuration) comes back as the same object: meanwhile its calls raise `PeerClosed`, and
    `Extender.on_peer_connected` tells of its return. Streams and messages under way when it went are lost.
    """

    __slots__ = (
        "__weakref__",
        "_border",
        "_collector",
        "_down",
        "_inboxes",
        "_is_closing",
        "_is_pinging",
        "_links",
        "_pongs",
        "_reason",
        "_writers",
        "extenders",
        "host",
        "id",
        "is_relayed",
        "keeper",
        "link_key",
        "n_claims",
        "n_serving",
        "node",
        "port",
        "relay_terms",
        "rtt_ns",
        "suite",
        "via",
    )

    def __init__(
        self, node: "Node", border: Border, peer_id: PeerId, link_key: LinkKey, host: str, port: int, suite: str
    ) -> None:
        self.node = node
        self.id = peer_id
        self.link_key = link_key
        self.host = host  # where its session comes from or was dialled; for a relayed one, the neighbour's or target's
        self.port = port
        self.suite = suite  # AEAD suite of the newest session
        self.extenders: tuple[ExtenderId, ...] = ()  # what the peer says it offers
        self.relay_terms: RelayTerms | None = None  # what it said of relaying; None: it carries no circuits
        self.is_relayed = False
        self.via: tuple[Address, ...] = ()  # relays on the way if this side dialled, the nearest first
        self.keeper: Keeper | None = None  # dials it again when it is gone
        self.n_claims = 0  # calls of `connect` that gave this object
        self.n_serving = 0  # tasks that serve streams of this peer
        self.rtt_ns: int | None = None  # last measured round trip
        self._border = border
        self._links: list[Link] = []  # the one that new streams take stands last
        self._reason = Reason.NONE  # why the last link ended
        self._is_closing = False
        self._is_pinging = False
        # Made when needed: thousands of peers may be idle.
        self._down: asyncio.Future[None] | None = None
        self._pongs: list[asyncio.Future[float]] | None = None
        self._writers: tuple[dict[bytes, MessageWriter], ...] | None = None  # by priority
        self._inboxes: dict[bytes, Inbox] | None = None
        self._collector = _CLOSED  # of the writer that was used last

    @property
    def is_connected(self) -> bool:
        """Tell whether there is a session with the peer now."""
        return bool(self._links)

    @property
    def is_outgoing(self) -> bool:
        """Tell whether this side dialled the session that new streams take; False while there is none."""
        return bool(self._links) and self._links[-1].is_outgoing

    @property
    def is_closed_here(self) -> bool:
        """Tell whether this side has closed the peer, or the whole node."""
        return self._is_closing or self._border.is_closing

    @property
    def takes_links(self) -> bool:
        """Tell whether a further session with the same identity belongs to this object."""
        return not self.is_closed_here and (bool(self._links) or self.keeper is not None)

    @property
    def rule(self) -> PeerRule:
        """Give what the node's rules of access say of this peer."""
        return self._border.access.rules.peers.get(self.id) or PeerRule(self.id)

    @property
    def links(self) -> tuple[Link, ...]:
        """Give the sessions with the peer; new streams take the last one."""
        return tuple(self._links)

    @property
    def where(self) -> str:
        """Give the words that errors name this peer by."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"peer {str(self.id)[:12]}… at {host}:{self.port}" + (" over relays" if self.is_relayed else "")

    def __repr__(self) -> str:
        state = "connected" if self._links else f"disconnected ({self._reason.name.lower()})"
        return f"<Peer {self.where}, {state}>"

    async def open_stream(
        self, extender_id: ExtenderId, metadata: bytes = b"", *, priority: Priority = Priority.NORMAL
    ) -> Stream:
        """Open a stream to an extender of the peer; waits until the peer has accepted it.

        By default at most 5,000 are opened in a second, for peers refuse those of whoever opens too many; more wait.
        `metadata`, up to 1,024 bytes, is there as `stream.metadata` when the extender is called. Raises `Unsupported`
        when the peer has no such extender, `Busy` when a limit is reached, another `RemoteError` when the link ends.
        """
        link = await self._link_turn("opening a stream")
        if len(metadata) > _METADATA_MAX:
            raise InvalidValue(f"metadata of {len(metadata)} bytes is too long: at most {_METADATA_MAX} fit")
        key = _key(extender_id)
        priority = _priority(priority)
        stream = Stream(link, self._border.flow_next(link), extender_id, bytes(metadata), priority)
        stream.open(KIND_BYTES, priority, key + metadata)
        await stream.accepted()
        return stream

    async def send(
        self,
        extender_id: ExtenderId,
        message: bytes | bytearray | memoryview,
        *,
        priority: Priority = Priority.NORMAL,
        compress: bool = False,
    ) -> None:
        """Send a message to an extender of the peer; waits only while too much is waiting to be sent.

        Messages arrive whole and in order per extender and priority, or not at all; that one was sent does not mean
        that it has arrived. Raises `InvalidValue` for one longer than `limits.message_max_kib`. An error of the peer
        (it has no such extender, or its extender failed) is raised by the next call, and messages in between are lost;
        the call after that starts anew. A cancelled call has sent nothing.

        `compress` has zstd make it smaller, where it can: some milliseconds of the event loop for each MiB. Who can
        choose a part of a message may learn of the rest by its length on the wire: nothing secret belongs beside it.
        """
        if not compress and self._collector.add_for(extender_id, message, priority):
            return
        writer = self._writer(extender_id, priority)
        if compress:
            message = writer.packed(message)
        if not writer.send_now(message):
            await writer.send(message)

    def try_send(
        self,
        extender_id: ExtenderId,
        message: bytes | bytearray | memoryview,
        *,
        priority: Priority = Priority.NORMAL,
        compress: bool = False,
    ) -> bool:
        """Send a message to an extender of the peer if there is room for it; False when `send` would have to wait.

        Then nothing was sent. Raises what `send` does.
        """
        if compress:
            writer = self._writer(extender_id, priority)
            return writer.send_now(writer.packed(message))
        return self._collector.add_for(extender_id, message, priority) or self._writer(extender_id, priority).send_now(
            message
        )

    async def send_batch(
        self,
        extender_id: ExtenderId,
        messages: Iterable[bytes | bytearray | memoryview],
        *,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        """Send many messages to an extender of the peer at the cost of a few; else as `send`.

        They arrive as so many messages, in this order. None is sent if one of them is too long; a cancelled call has
        sent the first of them, perhaps none.
        """
        await self._writer(extender_id, priority).send_batch(messages)

    def messages(self, extender_id: ExtenderId) -> AsyncIterator[list[bytes]]:
        """Take the messages that this peer sends for an extender: `async for batch in peer.messages(id)`.

        Each batch is the list of messages that have come since the last. For an id that no extender of this node
        handles, messages are refused until this is called the first time; an `Extender` that defines no method lets
        them wait from the start. The iteration ends when the peer closes the link, and raises `RemoteError` when the
        link is lost. One task at a time may take messages.
        """
        self._border.check()
        key = _key(extender_id)
        inbox = self.inbox_find(key)
        if inbox is None:
            if self.node.calls_with_messages(key):
                raise InvalidValue(f"messages for {extender_id} go to an on_message of this node: take them there")
            self._link("taking messages")
            inbox = self.inbox_make(key)
        return inbox

    async def request(
        self,
        extender_id: ExtenderId,
        payload: bytes | bytearray | memoryview,
        *,
        timeout_s: float = 30.0,
        priority: Priority = Priority.NORMAL,
    ) -> bytes:
        """Ask an extender of the peer, and give what its `on_request` returns.

        Payload and reply are as long as a message may be. Any number of requests may be under way, and their replies
        come in any order. Raises `Unsupported` when the peer has no such extender or it answers no requests,
        `PeerTimeout` when there is no reply within `timeout_s`, `Busy` when a limit is reached (by default 1,024
        at a time), another `RemoteError` when `on_request` raised or the link ends. Cancelled, or after an
        error, the peer's `on_request` is cancelled too.
        """
        link = await self._link_turn("a request")
        opening = _key(extender_id) + REQUEST
        priority = _priority(priority)
        question = Question(link, self._border.flow_next(link))
        question.open(KIND_MESSAGES, priority, opening)
        return await question.ask(payload, timeout_s)

    async def ping(self) -> float:
        """Measure the round trip to the peer, in seconds.

        By default at most 400 are sent in a second, for peers close the links of those that send too many; more wait.
        """
        link = self._link("pinging")
        if not self._is_pinging:
            await link.pings.turn()
            link = self._link("pinging")
        pong: asyncio.Future[float] = self._border.loop.create_future()
        if self._pongs is None:
            self._pongs = []
        self._pongs.append(pong)
        if not self._is_pinging:  # one PING at a time answers all who wait
            self._is_pinging = True
            self._border.runtime.ping(link.channel)
        try:
            return await pong
        finally:
            self._pongs.remove(pong)

    async def close(self) -> None:
        """Close the link for everybody who uses this peer; what was written is sent first if that takes no time.

        Open streams are reset. Waits until the link is down, a few seconds at most. Closing twice does no harm.
        """
        self._border.check()
        if self.keeper is not None:
            self.keeper.stop()
        if not self._links:
            return
        if not self._is_closing:
            try:
                await links_flush(self._links)
            finally:
                self.close_start(Reason.NONE)
        if not self._links:  # they went meanwhile
            return
        self._down = self._down or self._border.loop.create_future()
        await asyncio.wait([self._down])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # For the node

    def close_start(self, reason: Reason) -> None:
        """Ask for the end of all sessions."""
        self._is_closing = True
        for link in self._links:
            self._border.runtime.close_peer(link.channel, reason)

    def link_add(self, link: Link, *, is_preferred: bool) -> None:
        """Take in a session that is up; new streams go over the preferred one."""
        self._links.insert(len(self._links) if is_preferred else 0, link)

    def revive(self, link_key: LinkKey, host: str, port: int, suite: str) -> None:
        """Take note that a peer that was gone comes back; what was under way when it went is lost."""
        self.link_key, self.host, self.port, self.suite = link_key, host, port, suite
        self.rtt_ns = None
        self._is_pinging = False
        self._pongs = self._writers = self._inboxes = None

    def link_drop(self, link: Link, reason: Reason) -> bool:
        """Take out a session that is down; True when it was the last."""
        self._links.remove(link)
        if self._links:
            return False
        self._reason = reason
        wake(self._down)
        self._down = None
        if self.keeper is not None:
            self._writers = None  # the next message finds a peer that is down, not what became of the last one
            self.keeper.on_down()
        for pong in self._pongs or ():
            if not pong.done():
                pong.set_exception(self._error("pinging"))
        for inbox in (self._inboxes or {}).values():
            inbox.end(None if reason in _QUIET or self.is_closed_here else self._error("taking messages"))
        return True

    def on_pong(self, rtt_ns: int) -> None:
        self.rtt_ns = rtt_ns
        self._is_pinging = False
        for pong in self._pongs or ():
            if not pong.done():
                pong.set_result(rtt_ns / 1e9)

    def inbox_find(self, key: bytes) -> Inbox | None:
        return self._inboxes.get(key) if self._inboxes else None

    def inbox_make(self, key: bytes) -> Inbox:
        """Give the box in which messages to an id wait; it is made if there is none."""
        if self._inboxes is None:
            self._inboxes = {}
        return self._inboxes.setdefault(key, Inbox(self._border))

    def _link(self, what: str) -> Link:
        """Give the link for a new stream, a first message or a ping."""
        self._border.check()
        if not self._links or self._is_closing:
            raise self._error(what)
        return self._links[-1]

    async def _link_turn(self, what: str) -> Link:
        """Give the link for a new stream once it may have one more."""
        await self._link(what).opens.turn()
        return self._link(what)

    def _writer(self, extender_id: ExtenderId, priority: int) -> MessageWriter:
        """Give the stream that carries the messages to an extender; one is opened if there is none, or it has ended."""
        self._border.check()
        if self._writers is None:
            self._writers = ({}, {}, {})
        key = _key(extender_id)
        writer = self._writers[_priority(priority)].get(key)
        if writer is None or writer.is_told:
            link = self._link("sending a message")
            writer = MessageWriter(link, self._border.flow_next(link), extender_id, _priority(priority))
            self._writers[priority][key] = writer
            writer.open(KIND_MESSAGES, priority, key)
        self._collector = writer.collector
        return writer

    def _error(self, what: str) -> QGError:
        """Make the error for an operation on a peer that is gone."""
        if self.is_closed_here:
            return ClosedError(f"{what} failed: this side has closed the link to {self.where}; connect again")
        if self.keeper is not None:
            return PeerClosed(
                f"{what} failed: the link to {self.where} is down; it is being dialled again", self._reason
            )
        if self._reason is Reason.NONE:
            return PeerClosed(f"{what} failed at {self.where}: the peer has closed the link; connect again")
        return error_from_reason(self._reason, what, self.where)


def _key(extender_id: ExtenderId) -> bytes:
    if not isinstance(extender_id, ExtenderId):
        raise InvalidValue(f"{extender_id!r} is not a qg.ExtenderId")
    return bytes(extender_id)


def _priority(value: int) -> Priority:
    if type(value) is Priority:
        return value
    try:
        return Priority(value)
    except ValueError:
        raise InvalidValue(f"{value!r} is not a qg.Priority: use EXPEDITED, NORMAL or DELAYED") from None
