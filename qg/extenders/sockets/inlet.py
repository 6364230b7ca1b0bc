# SPDX-License-Identifier: MIT
"""What a program says on its connection before that is spliced."""

import asyncio
import socket
from types import TracebackType
from typing import Final, Self

__all__ = ["Inlet"]

_READ_MAX: Final = 65_536


class Inlet:
    """Read a socket several times; the event loop watches it from the first read that has to wait to the block's end.

    `loop.sock_recv` begins and ends to watch with every read, which costs more than reading.
    """

    __slots__ = ("_is_watched", "_loop", "_sock", "_waiter")

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._sock = sock
        self._loop = loop
        self._is_watched = False
        self._waiter: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch_end()

    async def read(self) -> bytes:
        """Give what has come as soon as there is something; b"" at the end."""
        while True:
            try:
                return self._sock.recv(_READ_MAX)
            except (BlockingIOError, InterruptedError):
                pass
            if not self._is_watched:
                self._is_watched = True
                self._loop.add_reader(self._sock.fileno(), self._on_readable)
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _on_readable(self) -> None:
        if self._waiter is None:
            self._watch_end()  # nobody asks for it yet
        elif not self._waiter.done():
            self._waiter.set_result(None)

    def _watch_end(self) -> None:
        if self._is_watched:
            self._is_watched = False
            self._loop.remove_reader(self._sock.fileno())
