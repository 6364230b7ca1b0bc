# SPDX-License-Identifier: MIT
"""Messages to and from a peer: each whole, in order per peer, extender and priority (docs/protocol.md, section 7).

Each side sends on a stream of its own per extender and priority; nothing comes back on it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Self, final

from qg._core.message import Collector, MessageReader, Packed, message_head, messages_pack, messages_take
from qg.errors import InvalidValue, QGError, Reason, UsageError
from qg.flow import Border, Flow, Link, wake
from qg.packing import PackingError, packed, unpacked
from qg.types import ExtenderId

__all__ = ["Inbox", "MessageFlow", "MessageSource", "MessageWriter"]

_log = logging.getLogger("qg.message")

_SHORT_MAX = 16_383  # a message up to this long is copied behind its head, which is cheaper than two writes
_COLLECTED_MAX = 16_384  # bytes of short messages that are handed over together, heads included
_PACKED_MAX = 65_536  # the same of a batch, heads included: what fits one block of the core
_UNPACKED_MAX = 1 << 22  # bytes of messages that zstd had made smaller, in a batch that is taken, beyond its first


@final
class Inbox:
    """Hold messages that have come until they are taken, in batches: an asynchronous iterator over lists of bytes."""

    __slots__ = ("_border", "_end", "_entries", "_error", "_has_packed", "_taker")

    def __init__(self, border: Border) -> None:
        self._border = border
        self._entries: deque[tuple[MessageSource, int, list[bytes]]] = deque()
        self._has_packed = False
        self._taker: asyncio.Future[None] | None = None
        self._end = False
        self._error: QGError | None = None

    def put(self, source: "MessageSource", n_held: int, messages: list[bytes]) -> None:
        """Add messages; the source gets credit for n_held bytes when they are taken."""
        self._entries.append((source, n_held, messages))
        if self._taker is not None:
            wake(self._taker)

    def put_packed(self, source: "MessageSource", n_held: int, messages: list[bytes]) -> None:
        """Add messages of which some are packed; they stay so until they are taken, for who sends pays for no more."""
        self._has_packed = True
        for message in messages[:-1]:
            self._entries.append((source, 0, [message]))
        self.put(source, n_held, messages[-1:])

    def end(self, error: QGError | None) -> None:
        """Let the iteration end behind what is here, with an error if there is one."""
        self._end = True
        self._error = error
        wake(self._taker)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[bytes]:
        self._border.check()
        while not (batch := self._take()):
            if self._error is not None:
                raise self._error
            if self._end:
                raise StopAsyncIteration
            if self._taker is not None:
                raise UsageError(
                    "taking messages: another task is waiting for the same messages; let one task take them"
                )
            self._taker = self._border.loop.create_future()
            try:
                await self._taker
            finally:
                self._taker = None
        return batch

    def _take(self) -> list[bytes]:
        """Give what is here; an empty list if there is nothing, or nothing that can be unpacked."""
        if not self._entries:
            return []
        if self._has_packed:
            return self._unpack()
        source, n_held, batch = self._entries.popleft()
        source.pay(n_held)
        while self._entries:
            source, n_held, messages = self._entries.popleft()
            source.pay(n_held)
            batch += messages
        return batch

    def _unpack(self) -> list[bytes]:
        """Take a batch that is not too long unpacked; nothing more of who has packed what cannot be unpacked."""
        batch: list[bytes] = []
        n_left = _UNPACKED_MAX
        while self._entries and n_left > 0:
            source, n_held, messages = self._entries.popleft()
            source.pay(n_held)
            if source.has_lied:
                continue
            for message in messages:
                if type(message) is Packed:
                    try:
                        message = unpacked(message, self._border.message_max)
                    except PackingError:
                        source.lie()
                        break
                n_left -= len(message)
                batch.append(message)
        self._has_packed = bool(self._entries)
        return batch


class MessageFlow(Flow):
    """Be a stream on which messages come; those that are not whole count as memory of the node."""

    __slots__ = ("_n_pending", "_reader")

    def __init__(self, link: Link, flow: int) -> None:
        super().__init__(link, flow)
        self._reader = MessageReader(link.border.message_max)
        self._n_pending = 0

    def _violated(self, reason: Reason) -> None:
        self._border.n_messages_refused += 1
        _log.warning("messages_refused peer=%s reason=%s", self._link.peer.id, reason.name.lower())
        self.abort(reason)

    def _pending_set(self, n: int) -> None:
        self._border.n_pending += n - self._n_pending
        self._n_pending = n

    def _leave(self, reason: Reason | None) -> None:
        super()._leave(reason)
        self._pending_set(0)


@final
class MessageSource(MessageFlow):
    """Be the receiving end of a message stream that the peer opened."""

    __slots__ = ("_inbox", "_own_inbox", "has_lied")

    def __init__(self, link: Link, flow: int, inbox: Inbox | None) -> None:
        super().__init__(link, flow)
        self._own_inbox = inbox is None  # not shared with other sources
        self.has_lied = False  # it has sent what cannot be unpacked
        self._inbox = Inbox(link.border) if inbox is None else inbox

    @property
    def inbox(self) -> Inbox:
        return self._inbox

    def lie(self) -> None:
        """Take note that a message cannot be unpacked; those behind it would come without it."""
        self.has_lied = True
        self._violated(Reason.PROTOCOL)

    def pay(self, n: int) -> None:
        """Give credit back for n bytes."""
        if n:
            self._give_back(n)

    def on_data(self, data: bytes) -> None:
        messages = self._reader.feed(data)
        if self._reader.reason:
            self._violated(Reason(self._reader.reason))
            return
        # A message that is not whole has its bytes paid at once, for it may be longer than the window.
        n_held = 0
        if messages:
            n_held = len(data) - self._reader.n_pending
            (self._inbox.put_packed if self._reader.has_packed else self._inbox.put)(self, n_held, messages)
        self.pay(len(data) - n_held)
        self._pending_set(self._reader.n_pending)
        if self._border.n_pending > self._border.pending_max:
            self._violated(Reason.MEMORY)

    def on_fin(self) -> None:
        self._finish()

    def _leave(self, reason: Reason | None) -> None:
        super()._leave(reason)
        if self._own_inbox:
            self._inbox.end(None)


@final
class MessageWriter(Flow):
    """Be the sending end of a message stream.

    The first short message of a turn of the event loop goes out at once; those behind it are collected until the turn
    ends, or there are enough of them, for handing bytes to the core costs more than a short message. An open collector
    counts as one byte that waits to be sent, so that nobody takes the stream for flushed.
    """

    __slots__ = ("_n_waiting", "_turn", "collector", "is_told")

    def __init__(self, link: Link, flow: int, extender_id: ExtenderId, priority: int) -> None:
        super().__init__(link, flow)
        self._turn = asyncio.Lock()  # held by the task that waits for room; others wait in order behind it
        self._n_waiting = 0  # tasks that hold it or wait for it: a lock just given back may be somebody's already
        self.is_told = False  # an error of the stream has been raised
        longest = min(_SHORT_MAX, link.border.message_max)
        self.collector = Collector(extender_id, priority, longest, _COLLECTED_MAX)

    def packed(self, message: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview:
        """Make a message smaller that is not too long."""
        n = memoryview(message).nbytes
        if n > self._border.message_max:
            raise self._length_error(n)
        return packed(message)

    def send_now(self, message: bytes | bytearray | memoryview) -> bool:
        """Send a message; False when it has to wait for room, and nothing was done."""
        self._check_writable("sending a message")
        n = len(message) if type(message) is bytes else memoryview(message).nbytes
        if n > self._border.message_max:
            raise self._length_error(n)
        if n <= _SHORT_MAX and type(message) is not Packed:
            message = bytes(message)
            if self.collector.add(message):
                return True
        self._collected_put()
        if self._is_full() or self._n_waiting:
            self.collector.close()
            return False
        if n <= _SHORT_MAX and not self.collector.is_open:
            self.collector.open()
            self._count(1)
            self._border.loop.call_soon(self._turn_end)
        self._message_put(message, n)
        return True

    async def send(self, message: bytes | bytearray | memoryview) -> None:
        """Send a message when it is its turn, whole or, when the call is cancelled, not at all."""
        async with self._in_turn():
            self._check_writable("sending a message")
            await self._room_wait("sending a message")
            self._message_put(message, memoryview(message).nbytes)

    async def send_batch(self, messages: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send messages one behind the other; a call that is cancelled has sent the first of them."""
        taken, too_long = messages_take(messages, self._border.message_max)
        if too_long >= 0:
            raise self._length_error(len(taken[too_long]), f" (number {too_long} of the batch)")
        async with self._in_turn():
            at = 0
            while at < len(taken):
                self._check_writable("sending messages")
                await self._room_wait("sending messages")
                self._collected_put()
                self.collector.close()
                packed, at = messages_pack(taken, at, _PACKED_MAX)
                self._put(packed, len(packed))

    @asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        """Wait for those that called before."""
        self._n_waiting += 1
        try:
            async with self._turn:
                yield
        finally:
            self._n_waiting -= 1

    def _length_error(self, n: int, which: str = "") -> InvalidValue:
        return InvalidValue(
            f"a message of {n} bytes{which} is longer than the {self._border.message_max} of limits.message_max_kib:"
            " send it over a stream"
        )

    def _message_put(self, message: bytes | bytearray | memoryview, n: int) -> None:
        head = message_head(n, type(message) is Packed)
        if n <= _SHORT_MAX:
            self._put(head + message, len(head) + n)
            return
        body = memoryview(message).cast("B")  # raises for what is not bytes before the head is out
        self._put(head, len(head))
        self._put(body, n)

    def _error(self, what: str) -> QGError:
        self.is_told = True
        return super()._error(what)

    def _turn_end(self) -> None:
        self.collector.close()
        if not self._is_gone:
            self._collected_put()
            self.on_sent(1)

    def _collected_put(self) -> None:
        packed = self.collector.take()
        if packed:
            self._put(packed, len(packed))

    def _leave(self, reason: Reason | None) -> None:
        super()._leave(reason)
        self.collector.close()
        self.collector.take()

    def on_data(self, data: bytes) -> None:
        self.abort(Reason.PROTOCOL)  # the accepting side sends nothing

    def on_fin(self) -> None:
        """The peer takes no more; its reset, or the end of what we send, ends the stream."""
