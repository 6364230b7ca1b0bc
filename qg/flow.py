# SPDX-License-Identifier: MIT
"""What the two kinds of streams share: their half of the border, the bytes under way, and how they end.

A `Border` belongs to a node, a `Link` is one session with a peer, a `Flow` is one stream of it. The node's drain loop
calls the `on_...` methods with what the compiled core reports; nothing here waits inside of them. Futures are resolved
directly, without tasks in between.
"""

import asyncio
import os
from asyncio.events import _get_running_loop
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from qg._core.runtime import Runtime
from qg.errors import ClosedError, QGError, Reason, UsageError, error_from_reason
from qg.types import Carried, LinkInfo

if TYPE_CHECKING:
    from qg.access import Access
    from qg.peer import Peer

__all__ = ["WRITE_HIGH", "Border", "Flow", "Link", "wake"]

WRITE_HIGH = 1_048_576  # bytes of one stream that may wait to be sent; from there on `write` waits
_WRITE_LOW = WRITE_HIGH // 2  # it goes on from here
_WORKER_SHIFT = 48  # ids of channels and flows begin with the number of their worker (qg/_core/worker.pxd)


def wake(future: "asyncio.Future[None] | None") -> None:
    """Resolve a future that somebody may wait for."""
    if future is not None and not future.done():
        future.set_result(None)


class Border:
    """Hold what all objects of one node share: the compiled runtime, the loop it reports to, and all open flows."""

    __slots__ = (
        "_last_flow",
        "_pid",
        "access",
        "flows",
        "is_closed",
        "is_closing",
        "loop",
        "message_max",
        "n_messages_refused",
        "n_pending",
        "n_write_waits",
        "opens_per_s",
        "pending_max",
        "pings_per_s",
        "runtime",
        "send_queue_max",
    )

    def __init__(
        self,
        runtime: Runtime,
        loop: asyncio.AbstractEventLoop,
        access: "Access",
        send_queue_max: int,
        message_max: int,
        pending_max: int,
        opens_per_s: int,
        pings_per_s: float,
    ) -> None:
        self.runtime = runtime
        self.loop = loop
        self.access = access
        self.flows: dict[int, Flow] = {}
        self.send_queue_max = send_queue_max  # bytes of one link that may wait to be sent
        self.message_max = message_max
        self.n_messages_refused = 0  # streams reset for a message that was too long or malformed
        self.n_write_waits = 0  # for room in a queue
        self.n_pending = 0  # bytes of messages that are not whole yet
        self.pending_max = pending_max
        self.opens_per_s = opens_per_s  # streams of one link
        self.pings_per_s = pings_per_s
        self.is_closing = False
        self.is_closed = False  # the runtime takes no commands any more
        self._last_flow = 0
        self._pid = os.getpid()

    def flow_next(self, link: "Link") -> int:
        """Give the number of a flow that is opened here: that of the link's worker, then one below 2^47.

        The core numbers those of peers from there.
        """
        self._last_flow += 1
        return link.channel >> _WORKER_SHIFT << _WORKER_SHIFT | self._last_flow

    def check(self) -> None:
        """Raise `UsageError` unless the node's own loop runs here, `ClosedError` if the node is closed."""
        if _get_running_loop() is not self.loop:
            raise self.foreign_error()
        if self.is_closed:
            raise ClosedError("the node is closed: start another one")

    @contextmanager
    def awaiting_sent(self) -> Iterator[None]:
        """Hear of every byte that is sent as soon as it is; otherwise the last few are told with other events."""
        self.runtime.await_sent(1)
        try:
            yield
        finally:
            if not self.is_closed:
                self.runtime.await_sent(-1)

    def foreign_error(self) -> UsageError:
        """Make the error for a call from outside of the node's own loop."""
        if os.getpid() != self._pid:
            return UsageError(
                "a node and its peers and streams stay behind in the process that started the node; a process made by"
                " fork starts nodes of its own"
            )
        return UsageError(
            "a node and its peers and streams work only in the event loop that started the node; from another"
            " thread use asyncio.run_coroutine_threadsafe"
        )


class Pace:
    """Let so many through in a second, half of them at once."""

    __slots__ = ("_last_s", "_step_s")

    def __init__(self, per_s: float) -> None:
        self._step_s = 1 / per_s
        self._last_s = 0.0  # when the last one had its turn, had they come evenly

    async def turn(self) -> None:
        """Wait for the turn of whoever calls; who is cancelled has had it."""
        now_s = monotonic()
        self._last_s = max(self._last_s, now_s - 0.5) + self._step_s
        if self._last_s > now_s:
            await asyncio.sleep(self._last_s - now_s)


class Link:
    """Count what waits to be sent on one session with a peer, and wake who waits for room."""

    __slots__ = (
        *("border", "channel", "flushed", "is_asked", "is_outgoing", "n_queued", "opens", "peer", "pings", "up_s"),
        "waiting",
    )

    def __init__(self, border: Border, channel: int, peer: "Peer", *, is_outgoing: bool, is_asked: bool) -> None:
        self.border = border
        self.channel = channel
        self.peer = peer
        self.is_outgoing = is_outgoing  # this side dialled
        self.is_asked = is_asked  # by a call of `connect`, not for circuits
        self.n_queued = 0
        self.up_s = monotonic()
        self.opens = Pace(border.opens_per_s)
        self.pings = Pace(border.pings_per_s)
        self.waiting: set[Flow] | None = None  # flows that wait for room on the whole link
        self.flushed: asyncio.Future[None] | None = None

    def left(self, n: int) -> None:
        """Take note that n bytes have left, or are lost."""
        self.n_queued -= n
        if self.waiting and self.n_queued <= self.border.send_queue_max // 2:
            for flow in self.waiting:
                flow.wake()
        if self.flushed is not None and not self.n_queued:
            wake(self.flushed)

    def info(self, n_streams: int, figures: tuple[int, int, int, int]) -> LinkInfo:
        """Describe the session; `figures` are the core's: bytes in and out, its generation, bytes of cover."""
        peer = self.peer
        return LinkInfo(
            peer_id=peer.id,
            carrier="pipe" if peer.is_relayed else "tcp",
            remote=f"[{peer.host}]:{peer.port}" if ":" in peer.host else f"{peer.host}:{peer.port}",
            is_outgoing=self.is_outgoing,
            suite=peer.suite,
            age_s=monotonic() - self.up_s,
            generation=figures[2],
            bytes_in=figures[0],
            bytes_out=figures[1],
            n_streams=n_streams,
            rtt_us=None if peer.rtt_ns is None else peer.rtt_ns // 1000,
            cover_bytes=figures[3],
        )

    async def flush(self) -> None:
        """Wait until all that was written has left."""
        with self.border.awaiting_sent():
            while self.n_queued:
                if self.flushed is None or self.flushed.done():
                    self.flushed = self.border.loop.create_future()
                await asyncio.wait([self.flushed])


class Flow:
    """Be one stream of the wire: base of `Stream` and of both ends of a message stream."""

    __slots__ = (
        "_border",
        "_flow",
        "_is_finished",
        "_is_gone",
        "_is_local",
        "_link",
        "_n_queued",
        "_reason",
        "_room",
        "carried",
    )

    def __init__(self, link: Link, flow: int) -> None:
        self._link = link
        self._border = link.border
        self._flow = flow
        self._n_queued = 0  # bytes written and not yet sent
        self._reason: Reason | None = None  # why it was reset
        self._is_local = False  # this side reset it
        self._is_finished = False  # this side will write no more
        self._is_gone = False  # the core knows it no more
        self._room: asyncio.Future[None] | None = None  # of the task that waits to write
        self.carried = Carried(0, 0)  # once the stream has ended
        self._border.flows[flow] = self

    @property
    def peer(self) -> "Peer":
        """Give the peer at the other end."""
        return self._link.peer

    @property
    def link(self) -> Link:
        """Give the session that the stream belongs to."""
        return self._link

    @property
    def is_gone(self) -> bool:
        """Tell whether both sides have finished, or one has reset it."""
        return self._is_gone

    def __repr__(self) -> str:
        state = "open" if self._reason is None else "reset"
        if self._is_gone and self._reason is None:
            state = "ended"
        return f"<{type(self).__name__} {self._flow:x} with {self._link.peer.where}, {state}>"

    def _error(self, what: str) -> QGError:
        """Make the error for an operation on a flow that was reset."""
        where = self._link.peer.where
        if self._is_local or self._link.peer.is_closed_here:
            return ClosedError(f"{what} failed: this side has closed the stream to {where}; open another one")
        return error_from_reason(self._reason or Reason.NONE, what, where)

    def open(self, kind: int, priority: int, opening: bytes) -> None:
        """Ask the peer for the stream."""
        self._border.runtime.open_stream(self._flow, self._link.channel, kind, priority, opening)

    # Writing

    def _is_full(self) -> bool:
        return self._n_queued >= WRITE_HIGH or self._link.n_queued >= self._border.send_queue_max

    def _put(self, data: bytes | bytearray | memoryview, n: int) -> None:
        """Hand n bytes to the core, which copies them."""
        self._border.runtime.write(self._flow, data)
        self._count(n)

    def _count(self, n: int) -> None:
        """Take note of n bytes that have to be sent."""
        self._n_queued += n
        self._link.n_queued += n

    def _check_writable(self, what: str) -> None:
        if self._reason is not None:
            raise self._error(what)
        if self._is_finished:
            raise ClosedError(f"{what} failed: this side has finished the stream to {self._link.peer.where}")

    async def _room_wait(self, what: str) -> None:
        """Wait until there is room to write; raises what `_check_writable` does, also when the flow ends meanwhile."""
        while self._is_full():
            if self._room is not None:
                raise UsageError(f"{what}: another task is waiting to write to the same stream; let one task write")
            link = self._link
            self._room = self._border.loop.create_future()
            self._border.n_write_waits += 1
            if self._n_queued < WRITE_HIGH:
                link.waiting = link.waiting or set()
                link.waiting.add(self)
            try:
                await self._room
            finally:
                self._room = None
                if link.waiting:
                    link.waiting.discard(self)
            self._check_writable(what)

    def _finish(self) -> None:
        """End the writing side; the mark of the end counts as a byte that has to be sent."""
        if not self._is_finished and not self._is_gone:
            self._is_finished = True
            self._border.runtime.finish(self._flow)
            self._count(1)

    def _give_back(self, n: int) -> None:
        """Give the peer credit for n bytes; also after the end, for they count in its session's credit."""
        if not self._border.is_closed:
            self._border.runtime.used(self._flow, n)

    # Ending

    def abort(self, reason: Reason) -> None:
        """Reset the flow now, if it still is; what was written and not sent is lost."""
        if not self._is_gone:
            self._is_local = True
            self._border.runtime.reset(self._flow, reason)
            del self._border.flows[self._flow]
            self._leave(reason)

    def _leave(self, reason: Reason | None) -> None:
        """Take note that the core knows the flow no more."""
        self._is_gone = True
        self._reason = reason
        n, self._n_queued = self._n_queued, 0
        self._link.left(n)
        self.wake()

    def wake(self) -> None:
        """Wake whoever waits for something to happen on this flow."""
        wake(self._room)

    # What the core reports

    def on_accepted(self) -> None:
        """The peer has accepted the stream."""

    def on_data(self, data: bytes) -> None:
        """Bytes have come."""
        raise NotImplementedError

    def on_fin(self) -> None:
        """The peer will send no more."""
        raise NotImplementedError

    def on_sent(self, n: int) -> None:
        """n bytes more have been sent."""
        self._n_queued -= n
        self._link.left(n)
        if self._room is not None and self._n_queued <= _WRITE_LOW:
            wake(self._room)

    def on_reset(self, reason: Reason, error: int = 0) -> None:
        """The peer has reset the stream, the session has ended, or the connection joined with it broke with `error`."""
        self._leave(reason)

    def on_done(self) -> None:
        """Both sides have finished."""
        self._leave(None)
