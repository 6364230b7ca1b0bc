# SPDX-License-Identifier: MIT
"""Plain HTTP through the proxy: each connection carries one request, and the program is told so in the answer.

Programs keep a connection to their proxy for requests to any host. This one leads to one target, so a target that did
not close it, though it was asked to, would get what is meant for others, and could answer in their place.
"""

import asyncio
import re
import socket
from typing import Final

import qg
from qg.extenders.proxy.front import Front, FrontError, http_reply
from qg.extenders.sockets.inlet import Inlet
from qg.extenders.sockets.outcome import Outcome

__all__ = ["Exchange", "answer_closing"]

_HEAD_MAX: Final = 65_536  # bytes of the head of an answer
_READ_MAX: Final = 65_536
_HEAD_END: Final = re.compile(rb"\n\r?\n")
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: [^\r]*)?\r?")
_KEEPING: Final = frozenset((b"connection", b"keep-alive", b"proxy-connection"))


class Exchange:
    """Pass a request on, and the head of its answer back; then the two connections may be joined."""

    def __init__(self, sock: socket.socket, stream: qg.Stream, front: Front) -> None:
        self._sock, self._stream, self._front = sock, stream, front
        self._loop = asyncio.get_running_loop()
        self._unsent = b""

    async def run(self) -> bytes:
        """Return when the answer has begun; gives what comes next of the request's body.

        Raises `FrontError` where the target or the program do not speak HTTP.
        """
        request = self._front.request
        assert request is not None
        await self._stream.write(request.head + self._front.rest)
        works = [asyncio.ensure_future(work) for work in (self._body_pass(), self._answer_pass())]
        try:
            await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            if not works[1].done():
                works[0].result()
                await works[1]
        finally:
            for work in works:
                work.cancel()
            await asyncio.wait(works)
        works[1].result()
        return self._unsent

    async def _body_pass(self) -> None:
        """Send what belongs to the request until the program ends; what comes behind is not for this target."""
        with Inlet(self._sock, self._loop) as inlet:
            while data := await inlet.read():
                self._unsent = self._front.body(data)
                await self._stream.write(self._unsent)  # all or, cancelled, nothing: an answer came first
                self._unsent = b""

    async def _answer_pass(self) -> None:
        data = b""
        while True:
            while (found := _HEAD_END.search(data)) is None:
                more = await self._stream.read(_READ_MAX) if len(data) <= _HEAD_MAX else b""
                if not more:
                    raise FrontError("no answer of HTTP", http_reply(Outcome.FAILED))
                data += more
            head, data = data[: found.end()], data[found.end() :]
            closing = answer_closing(head)
            await self._loop.sock_sendall(self._sock, head if closing is None else closing + data)
            if closing is not None:
                return


def answer_closing(head: bytes) -> bytes | None:
    """Give the head of an answer which says that the connection ends with it; None for one that others follow.

    Raises `FrontError` for what is none.
    """
    status, *lines = head.split(b"\n")
    match = _STATUS.fullmatch(status)
    if match is None:
        raise FrontError("no answer of HTTP", http_reply(Outcome.FAILED))
    if match[1][:1] == b"1" and match[1] != b"101":
        return None
    kept, is_kept = [], True
    for line in lines:
        if line[:1] not in (b" ", b"\t"):  # else it goes on with the line before
            is_kept = line.partition(b":")[0].strip().lower() not in _KEEPING
        if is_kept:
            kept.append(line)
    # First, where every reader of the head sees it.
    return b"\n".join((status, b"Connection: close\r", *kept))
