# SPDX-License-Identifier: MIT
"""Streams: byte pipes to a peer with backpressure in both directions."""

import asyncio
import os
import socket
from collections import deque
from enum import IntEnum
from types import TracebackType
from typing import Self, final

from qg.errors import ClosedError, InvalidValue, Reason, RemoteError, UsageError
from qg.flow import WRITE_HIGH, Flow, Link, wake
from qg.types import ExtenderId

__all__ = ["IncompleteRead", "Priority", "Stream"]

_JOIN_MAX = 262_144  # what came in small pieces is given together up to here by `async for`
_JOIN_BELOW = 65_536  # a piece from this size on is given as it is: joining would copy it
# Bytes taken whose credit is held back to spare commands; 1,024 streams hold back less than a quarter of a session's
# smallest window.
_CREDIT_STEP = 256


class Priority(IntEnum):
    """Say which stream goes first when several of one link wait: strictly by class, in turns inside a class."""

    EXPEDITED = 0
    NORMAL = 1
    DELAYED = 2


class IncompleteRead(RemoteError, asyncio.IncompleteReadError):
    """Report that the peer ended the stream before `expected` bytes had come; `partial` holds those that have."""

    def __init__(self, partial: bytes, expected: int, where: str) -> None:
        Exception.__init__(self, f"{where} ended the stream after {len(partial)} of {expected} bytes")
        self.partial = partial
        self.expected = expected
        self.where = where

    def __reduce__(self) -> tuple[type["IncompleteRead"], tuple[object, ...]]:
        return type(self), (self.partial, self.expected, self.where)


@final
class Stream(Flow):
    """Carry bytes to and from a peer, in order, whole or not at all.

    Comes from `Peer.open_stream`, or goes to `Extender.on_stream`. Belongs to the event loop of its node: what is
    called from elsewhere raises `UsageError`. One task may read while another writes; two may not read at once. What
    can wait is a coroutine; `finish`, `reset` and `write_nowait` do not wait.

    Once the stream is reset by the peer, or the link to it ends, everything raises the `RemoteError` that says why;
    bytes that the peer had finished with stay readable. Used in `async with`, it is closed at the end of the block,
    or reset if the block raises.
    """

    __slots__ = (
        "_accepted",
        "_chunks",
        "_ended",
        "_head_off",
        "_is_closed",
        "_is_eof",
        "_is_unwanted",
        "_n_buffered",
        "_n_due",
        "_n_paid",
        "_reader",
        "_socket_error",
        "_spliced",
        "extender_id",
        "metadata",
        "priority",
    )

    def __init__(self, link: Link, flow: int, extender_id: ExtenderId, metadata: bytes, priority: Priority) -> None:
        super().__init__(link, flow)
        self.extender_id = extender_id
        self.metadata = metadata  # what the opener said about the stream
        self.priority = priority
        self._chunks: deque[bytes] = deque()  # what has come and is not read yet
        self._head_off = 0  # bytes of the first chunk that are read
        self._n_buffered = 0
        self._n_paid = 0  # bytes in the buffer, from its front, whose credit has been given back
        self._n_due = 0  # bytes read whose credit is held back
        self._reader: asyncio.Future[None] | None = None
        self._accepted: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None  # for those that wait in `close`
        self._spliced: asyncio.Future[None] | None = None  # for the end of both directions of `splice`
        self._socket_error = 0  # an errno
        self._is_eof = False
        self._is_closed = False
        self._is_unwanted = False  # the peer sends what nobody will read

    # Reading

    def __aiter__(self) -> Self:
        """Give what comes, in chunks of any size, until the peer has finished."""
        return self

    async def __anext__(self) -> bytes:
        self._border.check()
        while not self._chunks:
            if not await self._more():
                raise StopAsyncIteration
        n = len(self._chunks[0]) - self._head_off
        if n < _JOIN_BELOW and len(self._chunks) > 1:
            n = min(_JOIN_MAX, self._n_buffered)
        return self._take(n)

    async def read(self, n: int = -1) -> bytes:
        """Give up to n bytes as soon as there are any; without n, everything until the peer has finished, however much.

        Gives b"" at the end of the stream. Raises `RemoteError` when the stream was reset. A cancelled read loses
        nothing.
        """
        self._border.check()
        if n < 0:
            while await self._more_ahead():
                pass
            return self._take(self._n_buffered)
        while n and not self._chunks and await self._more():
            pass
        return self._take(n)

    async def readexactly(self, n: int) -> bytes:
        """Give exactly n bytes, however large n is.

        Raises `IncompleteRead` (an `asyncio.IncompleteReadError` too) with what has come when the peer finishes
        before. A cancelled read loses nothing.
        """
        self._border.check()
        if n < 0:
            raise InvalidValue(f"{n} bytes cannot be read: give a number from 0 up")
        while self._n_buffered < n:
            if not await self._more_ahead():
                raise IncompleteRead(self._take(n), n, self._link.peer.where)
        return self._take(n)

    async def _more(self) -> bool:
        """Wait until something happens; False when the peer had finished before. Raises when the stream was reset."""
        is_over = self._is_eof or self._reason is not None
        if not is_over and not self._is_closed:
            if self._reader is not None:
                raise UsageError("reading failed: another task is reading from the same stream; let one task read")
            self._reader = self._border.loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        if self._is_closed:
            raise ClosedError(f"reading failed: this side has closed the stream to {self._link.peer.where}")
        if self._reason is not None and not self._is_eof:
            raise self._error("reading")
        return not is_over

    async def _more_ahead(self) -> bool:
        """Do as `_more`; the peer may send on although what is here has not been taken."""
        n = self._n_buffered - self._n_paid
        if n:
            self._n_paid = self._n_buffered
            self._give_back(n)
        return await self._more()

    def _take(self, n: int) -> bytes:
        """Take up to n bytes from the front of the buffer and give their credit back."""
        n = min(n, self._n_buffered)
        if not n:
            return b""
        chunks, off = self._chunks, self._head_off
        n_first = len(chunks[0]) - off
        if n < n_first:
            self._head_off = off + n
            data = chunks[0][off : off + n]
        elif n == n_first:
            data = chunks.popleft()[off:]  # no copy where nothing was read before
            self._head_off = 0
        else:
            data = self._take_several(n)
        self._n_buffered -= n
        self._pay(n)
        return data

    def _take_several(self, n: int) -> bytes:
        """Take n bytes that lie in more than one chunk."""
        chunks = self._chunks
        parts = [chunks.popleft()[self._head_off :]]
        left = n - len(parts[0])
        while left and left >= len(chunks[0]):
            parts.append(chunks.popleft())
            left -= len(parts[-1])
        if left:
            parts.append(chunks[0][:left])
        self._head_off = left
        return b"".join(parts)

    def _pay(self, n: int) -> None:
        """Give credit back for n bytes that were taken off the buffer."""
        paid = min(n, self._n_paid)
        self._n_paid -= paid
        self._n_due += n - paid
        if self._n_due >= _CREDIT_STEP or (self._n_due and self._is_gone):
            self._give_back(self._n_due)
            self._n_due = 0

    # Writing

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes; waits only while too much of what was written before has not been sent.

        The bytes are copied at once. Up to 1 MiB is written whole or, when the call is cancelled, not at all; of more,
        a part may have been sent then. Raises `RemoteError` when the stream was reset, `ClosedError` after `finish`.
        """
        self._border.check()
        self._check_writable("writing")
        n = data.nbytes if isinstance(data, memoryview) else len(data)
        if not n:
            return
        if n <= WRITE_HIGH and self._room is None and not self._is_full():
            self._put(data, n)
            return
        view = memoryview(data).cast("B")
        for off in range(0, n, WRITE_HIGH):
            await self._room_wait("writing")
            piece = view[off : off + WRITE_HIGH]
            self._put(piece, len(piece))

    def write_nowait(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes without waiting; raises `UsageError` when there is no room: await `drain` before."""
        self._border.check()
        self._check_writable("writing")
        if self._is_full():
            raise UsageError("writing failed: too much waits to be sent; await stream.drain() before write_nowait")
        self._put(data, data.nbytes if isinstance(data, memoryview) else len(data))

    async def drain(self) -> None:
        """Wait until there is room to write."""
        self._border.check()
        self._check_writable("draining")
        await self._room_wait("draining")

    def finish(self) -> None:
        """End the writing side: the peer reads the end after all that was written. Reading goes on."""
        self._border.check()
        self._finish()

    # Splicing

    async def splice(self, connection: socket.socket, *, head: bytes = b"", idle_s: float | None = None) -> None:
        """Join the stream with a TCP connection, both ways, until both sides of both have finished.

        Bytes then go from one to the other in the node's own threads, none of them through Python; each side is read as
        fast as the other takes. What was written before goes to the peer first, then `head`, at less cost than written
        before; what has come and was not read goes to the connection first. The end
        of one side is passed on and the other direction goes on, a reset is passed on as one. The connection is taken:
        `connection` is detached, whatever the outcome. With `idle_s` both are reset when nothing has moved in either
        direction for so long, to about a second. Afterwards `carried` tells how many bytes the stream has had.

        Raises `InvalidValue` where it is no TCP connection, `RemoteError` when the peer resets the stream or the link
        ends, and with `Reason.IDLE` after `idle_s`, `OSError` when the connection breaks. Cancelled, it resets both.
        """
        self._border.check()
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
            raise InvalidValue(f"splicing failed: {connection!r} is not a TCP socket")
        self._check_writable("splicing")
        if self._reader is not None or self._room is not None or self._is_closed:
            raise UsageError("splicing failed: the stream is closed, or another task is using it; let one task do so")
        self._splice(connection, head, 0 if idle_s is None else max(1, round(idle_s * 1000)))
        self._spliced = self._border.loop.create_future()
        try:
            await self._spliced
        except asyncio.CancelledError:
            self.abort(Reason.CANCELLED)
            raise
        if self._socket_error:
            raise OSError(self._socket_error, f"the connection broke: {os.strerror(self._socket_error)}")
        if self._reason is not None:
            raise self._error("splicing")

    @property
    def is_spliced(self) -> bool:
        """Tell whether the stream was joined with a connection, which accepts it as well."""
        return self._spliced is not None

    def _splice(self, connection: socket.socket, head: bytes, idle_ms: int) -> None:
        """Hand everything over; what is not sent yet is the core's business from here on."""
        n_unpaid = self._n_due + self._n_buffered - self._n_paid
        data = b"".join(self._chunks)[self._head_off :]
        self._chunks.clear()
        self._head_off = self._n_buffered = self._n_paid = self._n_due = 0
        self._border.runtime.splice(self._flow, connection.detach(), data, idle_ms, n_unpaid, head)
        self._is_closed = self._is_finished = True
        n, self._n_queued = self._n_queued, 0
        self._link.left(n)

    # Ending

    async def close(self) -> None:
        """Finish, and wait until the peer has finished too.

        So where this side finished first, `close` without an error says that the peer's application has read all of it
        and ended the stream; where the peer had finished before, nothing is left to wait for. What the peer still
        sends is dropped, and the stream then reset. Raises `RemoteError` when the peer resets the stream or the link
        ends. Cancelled, as by `asyncio.timeout`, it resets the stream. Closing twice does no harm.
        """
        self._border.check()
        if not self._is_closed:
            self._is_closed = True
            self._finish()
            self._is_unwanted = self._n_buffered > 0
            self._drop()
            wake(self._reader)
            wake(self._room)
            self._unwanted_check()
        if not self._is_gone:
            self._ended = self._ended or self._border.loop.create_future()
            try:
                with self._border.awaiting_sent():
                    await asyncio.wait([self._ended])
            except asyncio.CancelledError:
                self.abort(Reason.CANCELLED)
                raise
        if self._reason is not None and not self._is_local:
            raise self._error("closing")

    def reset(self, reason: Reason = Reason.CANCELLED) -> None:
        """End both directions now; the peer gets `reason`, and bytes under way are lost. Does no harm afterwards."""
        self._border.check()
        self._is_closed = True
        self._drop()
        self.abort(reason)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
        else:
            self.reset()

    def _drop(self) -> None:
        """Forget what has come and was not read."""
        n, self._n_buffered = self._n_buffered, 0
        self._chunks.clear()
        self._head_off = 0
        self._pay(n)

    def _unwanted_check(self) -> None:
        """Reset a closed stream on which the peer keeps sending, once all that was written is sent."""
        if self._is_unwanted and not self._n_queued:
            self.abort(Reason.CANCELLED)

    async def accepted(self) -> None:
        """Wait until the peer has accepted the stream; cancelled or refused, nothing is left of it."""
        self._accepted = self._border.loop.create_future()
        try:
            await self._accepted
        except asyncio.CancelledError:
            self.reset()
            raise
        finally:
            self._accepted = None
        if self._reason is not None:
            raise self._error("opening a stream")

    def wake(self) -> None:
        wake(self._room)
        wake(self._reader)
        wake(self._accepted)
        if self._is_gone:
            wake(self._ended)
            wake(self._spliced)

    # What the core reports

    def on_accepted(self) -> None:
        wake(self._accepted)

    def on_data(self, data: bytes) -> None:
        if self._spliced is not None:
            self._border.runtime.splice(self._flow, -1, data)
            return
        if self._is_closed:
            self._is_unwanted = True
            self._pay(len(data))
            self._unwanted_check()
            return
        self._chunks.append(data)
        self._n_buffered += len(data)
        if self._reader is not None:
            wake(self._reader)

    def on_fin(self) -> None:
        self._is_eof = True
        wake(self._reader)

    def on_sent(self, n: int) -> None:
        if self._spliced is not None:
            return
        super().on_sent(n)
        if self._is_unwanted:
            self._unwanted_check()

    def on_reset(self, reason: Reason, error: int = 0) -> None:
        self._socket_error = -error
        super().on_reset(reason, error)
        if not self._is_eof:
            self._drop()

    def on_done(self) -> None:
        super().on_done()
        self._pay(0)
