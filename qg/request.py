# SPDX-License-Identifier: MIT
"""Requests: one message there and one back, on a stream of their own (docs/protocol.md, section 7)."""

import asyncio
from typing import final

from qg._core.message import message_head
from qg.errors import InvalidValue, PeerTimeout, QGError, Reason, StreamReset
from qg.flow import Link, wake
from qg.message import MessageFlow

__all__ = ["REQUEST", "Answer", "Question"]

REQUEST = b"\x01"  # metadata of a message stream that is a request


class _Exchange(MessageFlow):
    """Be one end of a request: send one message, take one.

    What was taken counts as memory of the node until the exchange has ended; requests together get half of what there
    is for messages that are not whole, so that a flood of them does not push out the messages of others.
    """

    __slots__ = ("_came", "_taken")

    def __init__(self, link: Link, flow: int) -> None:
        super().__init__(link, flow)
        self._came: asyncio.Future[None] = self._border.loop.create_future()  # until there is a message or an end
        self._taken: bytes | None = None

    async def _message_send(self, message: bytes | bytearray | memoryview, what: str) -> None:
        """Send the one message of this side, and its end."""
        body = memoryview(message).cast("B")
        n = body.nbytes
        if n > self._border.message_max:
            raise InvalidValue(
                f"{what} failed: {n} bytes are longer than the {self._border.message_max} of limits.message_max_kib:"
                " send them over a stream"
            )
        self._check_writable(what)
        await self._room_wait(what)
        packed = message_head(n) + body
        self._put(packed, len(packed))
        self._finish()

    async def _message_wait(self, what: str) -> bytes:
        """Wait for the one message of the other side."""
        await self._came
        if self._taken is None:
            raise self._error(what)
        return self._taken

    def _leave(self, reason: Reason | None) -> None:
        super()._leave(reason)
        wake(self._came)

    def on_data(self, data: bytes) -> None:
        messages = self._reader.feed(data)
        self._give_back(len(data))
        self._pending_set(self._n_pending + len(data))
        n_came = len(messages) + (self._taken is not None)
        if self._reader.reason:
            self._violated(Reason(self._reader.reason))
        elif self._reader.has_packed or n_came > 1 or (n_came and self._reader.n_pending):
            self._violated(Reason.PROTOCOL)
        elif self._border.n_pending > self._border.pending_max // 2:
            self._violated(Reason.MEMORY)
        elif messages:
            self._taken = messages[0]
            wake(self._came)

    def on_fin(self) -> None:
        if self._taken is None:
            self._violated(Reason.PROTOCOL)


@final
class Question(_Exchange):
    """Be the end that asks."""

    __slots__ = ("_late_s",)

    def __init__(self, link: Link, flow: int) -> None:
        super().__init__(link, flow)
        self._late_s: float | None = None  # the time that has passed without a reply

    async def ask(self, payload: bytes | bytearray | memoryview, timeout_s: float) -> bytes:
        """Send the payload and wait for the reply; whatever goes wrong, nothing is left of the stream."""
        timer = self._border.loop.call_later(timeout_s, self._expire, timeout_s)
        try:
            await self._message_send(payload, "a request")
            return await self._message_wait("a request")
        except BaseException:
            self.abort(Reason.CANCELLED)
            raise
        finally:
            timer.cancel()

    def _expire(self, timeout_s: float) -> None:
        self._late_s = timeout_s
        self.abort(Reason.TIMEOUT)

    def _error(self, what: str) -> QGError:
        where = self._link.peer.where
        if self._late_s is not None:
            return PeerTimeout(f"{what} failed: no reply from {where} within {self._late_s:g} s", Reason.TIMEOUT)
        if self._reason is Reason.INTERNAL and not self._is_local:
            return StreamReset(
                f"{what} failed at {where}: its on_request raised an error; look into the peer's log", Reason.INTERNAL
            )
        if self._is_local and not self._link.peer.is_closed_here:
            reason = self._reason or Reason.NONE
            return StreamReset(f"{what} failed: the reply of {where} was refused here ({reason.name.lower()})", reason)
        return super()._error(what)


@final
class Answer(_Exchange):
    """Be the end that answers."""

    __slots__ = ("task",)

    def __init__(self, link: Link, flow: int) -> None:
        super().__init__(link, flow)
        self.task: asyncio.Task[None] | None = None  # works on the reply; cancelled when nobody waits for it any more

    async def payload(self) -> bytes:
        """Wait for what is asked."""
        return await self._message_wait("taking a request")

    async def reply(self, message: bytes | bytearray | memoryview) -> None:
        """Send what is answered."""
        await self._message_send(message, "a reply")

    def _leave(self, reason: Reason | None) -> None:
        super()._leave(reason)
        if reason is not None and not self._is_local and self.task is not None:
            self.task.cancel()
