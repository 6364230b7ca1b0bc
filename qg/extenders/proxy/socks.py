# SPDX-License-Identifier: MIT
"""The proxy that programs of this machine talk to: SOCKS5, SOCKS4, SOCKS4a and HTTP on one port; exits do the rest.

Nothing goes out beside the exits: names are resolved there, and where no exit answers the program is told so.
"""

import asyncio
import logging
import socket
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

import qg
from qg.extenders.proxy.exit import frame_read, frame_write
from qg.extenders.proxy.exits import Exits, NoExit
from qg.extenders.proxy.front import Front, FrontError, Request, datagram_read, datagram_write
from qg.extenders.proxy.plain_http import Exchange
from qg.extenders.sockets.inlet import Inlet
from qg.extenders.sockets.listener import Listener, reset_on_close
from qg.extenders.sockets.outcome import Outcome
from qg.extenders.sockets.target import Target
from qg.extenders.sockets.tasks import Timeouts, first_of

__all__ = ["Proxy"]

_log = logging.getLogger("qg.proxy")

_REQUEST_S: Final = 30.0  # for a program to say what it wants


class Proxy:
    """Listen for programs and carry what they ask for to exits. Used in `async with`.

    `counts` tells how many requests ended how. Belongs to the event loop in which it was started.
    """

    def __init__(self, exits: Exits, listen: str | Target = "127.0.0.1:1080") -> None:
        self._exits = exits
        self._listener = Listener(Target.parse(listen) if isinstance(listen, str) else listen, self._serve)
        self._requesting = Timeouts(_REQUEST_S)
        self.counts: Counter[str] = Counter()

    @property
    def address(self) -> Target:
        """Give the host and port where programs connect to."""
        return self._listener.address

    async def __aenter__(self) -> Self:
        self._listener.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._listener.close()

    async def _serve(self, sock: socket.socket) -> None:
        front = Front()
        request = await self._request(sock, front)
        if request is not None:
            await (self._connect if request.command == "connect" else self._associate)(sock, front, request)

    async def _request(self, sock: socket.socket, front: Front) -> Request | None:
        """Hear out a program; None when it says nothing of use."""
        loop = asyncio.get_running_loop()
        try:
            with self._requesting.one(), Inlet(sock, loop) as inlet:
                while front.request is None:
                    data = await inlet.read()
                    if not data:
                        self.counts["cut_short"] += 1
                        return None
                    answer = front.feed(data)
                    if answer:
                        await loop.sock_sendall(sock, answer)
        except FrontError as error:
            self.counts["misunderstood"] += 1
            _log.info("misunderstood: %s", error)
            await loop.sock_sendall(sock, error.answer)
            return None
        except TimeoutError:
            self.counts["slow"] += 1
            return None
        return front.request

    async def _connect(self, sock: socket.socket, front: Front, request: Request) -> None:
        try:
            async with self._exits.connected(request.isolation, request.target) as (outcome, stream):
                self.counts[outcome.name.lower()] += 1
                await _say(sock, front.answer(outcome))
                if outcome is Outcome.OK:
                    is_http = request.dialect == "http"
                    head = await Exchange(sock, stream, front).run() if is_http else front.rest
                    await stream.splice(sock, head=head)
        except FrontError as error:
            self.counts["misunderstood"] += 1
            await _say(sock, error.answer)
        except NoExit:
            self.counts["no_exit"] += 1
            await _say(sock, front.answer(Outcome.FAILED))
        except qg.QGError as error:
            reset_on_close(sock)
            _log.debug("cut target=%s: %s", request.target, error)

    async def _associate(self, sock: socket.socket, front: Front, request: Request) -> None:
        """Pass datagrams between the program and an exit for as long as the program keeps its connection."""
        try:
            async with self._exits.associated(request.isolation) as (outcome, stream):
                self.counts["associations" if outcome is Outcome.OK else outcome.name.lower()] += 1
                if outcome is not Outcome.OK:
                    await _say(sock, front.answer(outcome))
                    return
                near = sock.getsockname()[0]
                relay = _Datagrams(stream, sock.getpeername()[0], self.counts)
                transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: relay, (near, 0))
                try:
                    await _say(sock, front.answer(outcome, Target(near, transport.get_extra_info("sockname")[1])))
                    await first_of(_end_wait(sock), relay.replies_pass(transport))
                finally:
                    transport.abort()
        except NoExit:
            self.counts["no_exit"] += 1
            await _say(sock, front.answer(Outcome.FAILED))
        except qg.QGError as error:
            _log.debug("association_cut: %s", error)


class _Datagrams(asyncio.DatagramProtocol):
    """Take the datagrams of one program, known by its host and the port that it first sends from."""

    def __init__(self, stream: qg.Stream, host: str, counts: Counter[str]) -> None:
        self._stream = stream
        self._host = host
        self._program: tuple[str, int] | None = None
        self._counts = counts

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        program = source[:2]
        if program[0] != self._host or (self._program is not None and program != self._program):
            self._counts["datagrams_foreign"] += 1
            return
        found = datagram_read(data)
        if found is None:
            self._counts["datagrams_misunderstood"] += 1
            return
        self._program = program
        self._counts["datagrams_out" if frame_write(self._stream, *found) else "datagrams_dropped"] += 1

    async def replies_pass(self, transport: asyncio.DatagramTransport) -> None:
        """Give the program what comes back, until the exit ends the stream."""
        while (frame := await frame_read(self._stream)) is not None:
            if self._program is not None:
                transport.sendto(datagram_write(*frame), self._program)
                self._counts["datagrams_in"] += 1


async def _say(sock: socket.socket, answer: bytes) -> None:
    if answer:
        await asyncio.get_running_loop().sock_sendall(sock, answer)


async def _end_wait(sock: socket.socket) -> None:
    with suppress(OSError):
        while await asyncio.get_running_loop().sock_recv(sock, 4096):
            pass
