# SPDX-License-Identifier: MIT
"""TCP listeners for programs of this machine: each connection is a task with a socket, in a bounded number."""

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import qg
from qg.extenders.sockets.target import Target

__all__ = ["Listener", "reset_on_close"]

_log = logging.getLogger("qg.listener")

_CONNECTIONS_MAX: Final = 4096  # further ones wait in the system's queue
_BACKLOG: Final = 1024
_ACCEPTS_MAX: Final = 64  # in one turn of the event loop
_PAUSE_S: Final = 0.1  # after a failure to accept: those that end make room


class Listener:
    """Accept connections and serve each in a task; the socket is closed when `serve` returns, reset when it raises."""

    def __init__(self, at: Target, serve: Callable[[socket.socket], Awaitable[None]]) -> None:
        self._at = at
        self._serve = serve
        self._sock: socket.socket | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._is_accepting = False
        self._pause: asyncio.TimerHandle | None = None

    @property
    def address(self) -> Target:
        """Give the host and port where programs connect to."""
        if self._sock is None:
            raise qg.UsageError("nothing is listened on: start it first")
        return Target(*self._sock.getsockname()[:2])

    def start(self) -> None:
        """Listen; raises `ListenError` when that cannot be."""
        sock = socket.socket(socket.AF_INET6 if ":" in self._at.host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.bind(self._at)
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            raise qg.ListenError(
                f"cannot listen on {self._at}: {error.strerror}; choose another port, or end the program that has it"
            ) from None
        self._sock = sock
        self._accept_resume()

    async def close(self) -> None:
        """Listen no more, and end all connections."""
        if self._sock is None:
            return
        sock, self._sock = self._sock, None
        self._accept_stop(sock)
        if self._pause is not None:
            self._pause.cancel()
        sock.close()
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)

    def _accept_resume(self) -> None:
        self._pause = None
        if self._sock is not None and not self._is_accepting and len(self._serving) < _CONNECTIONS_MAX:
            self._is_accepting = True
            asyncio.get_running_loop().add_reader(self._sock.fileno(), self._accept, self._sock)

    def _accept_stop(self, sock: socket.socket) -> None:
        if self._is_accepting:
            self._is_accepting = False
            asyncio.get_running_loop().remove_reader(sock.fileno())

    def _accept(self, listening: socket.socket) -> None:
        """Take what waits in the system's queue, as far as there is room."""
        loop = asyncio.get_running_loop()
        for _ in range(_ACCEPTS_MAX):
            if len(self._serving) >= _CONNECTIONS_MAX:
                self._accept_stop(listening)
                return
            try:
                sock, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors, mostly
                _log.warning("accept_failed at=%s: %s", self._at, error.strerror)
                self._accept_stop(listening)
                self._pause = loop.call_later(_PAUSE_S, self._accept_resume)
                return
            task = loop.create_task(self._run(sock), name="qg.Listener connection")
            self._serving.add(task)
            task.add_done_callback(self._served)

    async def _run(self, sock: socket.socket) -> None:
        with sock:
            sock.setblocking(False)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await self._serve(sock)
            except OSError as error:
                reset_on_close(sock)
                _log.debug("connection_broke at=%s: %s", self._at, error)
            except Exception:
                reset_on_close(sock)
                _log.exception("connection_failed at=%s", self._at)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        if not self._is_accepting and self._pause is None:
            self._accept_resume()


def reset_on_close(sock: socket.socket) -> None:
    """Have the close of a socket tell its other side that bytes were lost."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
