# SPDX-License-Identifier: MIT
"""The end of a forward where programs connect to: each connection, and each source of datagrams, gets a stream."""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, cast

import qg
from qg.extenders.sockets.listener import Listener, reset_on_close
from qg.extenders.sockets.outcome import Outcome, outcome_read
from qg.extenders.sockets.packets import packet_read, packet_write
from qg.extenders.sockets.target import Target
from qg.extenders.sockets.tasks import Activity, first_of

__all__ = ["DATAGRAMS_IDLE_S", "WAITING_MAX", "Open", "TcpEnd", "UdpEnd"]

_log = logging.getLogger("qg.forward")

# Open a stream to the side that dials the target, for the time of the block; it says first how that went.
Open = Callable[[], AbstractAsyncContextManager[qg.Stream]]

DATAGRAMS_IDLE_S: Final = 120.0  # RFC 4787 asks for at least two minutes
WAITING_MAX: Final = 1 << 20  # bytes of datagrams that the system has not taken yet; further ones are dropped
_SOURCES_MAX: Final = 128  # of datagrams, at a time; the one that was quiet for longest makes room
_EARLY_MAX: Final = 65_536  # bytes of one source that wait for the stream
_AGAIN_S: Final = 1.0  # a source that was refused is ignored for so long


class TcpEnd:
    """Listen for connections and join each with a stream."""

    def __init__(self, at: Target, open_: Open, counts: Counter[str]) -> None:
        self._at = at
        self._listener = Listener(at, self._serve)
        self._open = open_
        self._counts = counts

    @property
    def address(self) -> Target:
        """Give the place that is listened on, the port filled in."""
        return self._listener.address

    async def start(self) -> None:
        """Listen; raises `ListenError` when that cannot be."""
        self._listener.start()

    async def close(self) -> None:
        """Listen no more, and reset all connections."""
        await self._listener.close()

    async def _serve(self, sock: socket.socket) -> None:
        try:
            async with self._open() as stream:
                outcome = await outcome_read(stream)
                self._counts[outcome.name.lower()] += 1
                if outcome is Outcome.OK:
                    await self._join(stream, sock)
                    return
                reset_on_close(sock)
                sock.close()
                _log.debug("not_connected at=%s outcome=%s", self._at, outcome.name.lower())
        except qg.QGError as error:
            reset_on_close(sock)
            self._counts["cut"] += 1
            _log.debug("cut at=%s: %s", self._at, error)
        except asyncio.CancelledError:
            reset_on_close(sock)
            raise

    async def _join(self, stream: qg.Stream, sock: socket.socket) -> None:
        self._counts["open"] += 1
        try:
            await stream.splice(sock)
        finally:
            self._counts["open"] -= 1
            self._counts["bytes_out"] += stream.carried.n_sent
            self._counts["bytes_in"] += max(0, stream.carried.n_received - 1)  # the outcome was the first


class UdpEnd(asyncio.DatagramProtocol):
    """Take datagrams; each place that they come from has a stream of its own, and gets what comes back on it."""

    def __init__(self, at: Target, open_: Open, counts: Counter[str]) -> None:
        self._at = at
        self._open = open_
        self._counts = counts
        self._transport: asyncio.DatagramTransport | None = None
        self._sources: dict[tuple[str, int], _Source] = {}  # the latest last
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> Target:
        """Give the place that is listened on, the port filled in."""
        if self._transport is None:
            raise qg.UsageError("nothing is listened on: start it first")
        return Target(*self._transport.get_extra_info("sockname")[:2])

    async def start(self) -> None:
        """Take datagrams; raises `ListenError` when that cannot be."""
        try:
            self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, self._at)
        except OSError as error:
            raise qg.ListenError(
                f"cannot listen on {self._at}/udp: {error.strerror}; choose another port, or end the program that has"
                " it"
            ) from None

    async def close(self) -> None:
        """Take no more, and forget all sources."""
        if self._transport is not None:
            self._transport.abort()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def datagram_received(self, data: bytes, place: tuple[str, int]) -> None:
        source = self._sources.pop(place, None)
        if source is None:
            if len(self._sources) >= _SOURCES_MAX:
                self._sources.pop(next(iter(self._sources))).task.cancel()
            source = self._source_make(place)
        self._sources[place] = source
        self._counts["datagrams_out" if source.take(data) else "datagrams_dropped"] += 1

    def _source_make(self, place: tuple[str, int]) -> "_Source":
        source = _Source()
        source.task = asyncio.get_running_loop().create_task(self._serve(place, source))
        self._tasks.add(source.task)
        source.task.add_done_callback(self._tasks.discard)
        return source

    async def _serve(self, place: tuple[str, int], source: "_Source") -> None:
        try:
            async with self._open() as stream:
                outcome = await outcome_read(stream)
                self._counts[outcome.name.lower()] += 1
                if outcome is Outcome.OK:
                    source.join(stream)
                    replies = self._replies_pass(stream, place, source.activity)
                    await first_of(replies, source.activity.idle_wait(DATAGRAMS_IDLE_S))
                    return
            await asyncio.sleep(_AGAIN_S)
        except qg.QGError as error:
            self._counts["cut"] += 1
            _log.debug("cut at=%s: %s", self._at, error)
            await asyncio.sleep(_AGAIN_S)
        finally:
            if self._sources.get(place) is source:
                del self._sources[place]

    async def _replies_pass(self, stream: qg.Stream, place: tuple[str, int], activity: Activity) -> None:
        transport = self._transport
        assert transport is not None
        while (packet := await packet_read(stream)) is not None:
            activity.note()
            if cast(asyncio.WriteTransport, transport).get_write_buffer_size() > WAITING_MAX:
                self._counts["datagrams_dropped"] += 1
                continue
            transport.sendto(packet, place)
            self._counts["datagrams_in"] += 1


class _Source:
    """A place that datagrams come from."""

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.activity = Activity()
        self._stream: qg.Stream | None = None
        self._early: list[bytes] = []  # what came before the stream was there
        self._n_early = 0

    def take(self, data: bytes) -> bool:
        """Pass a datagram on; False if it is dropped."""
        self.activity.note()
        if self._stream is not None:
            return packet_write(self._stream, data)
        self._n_early += len(data) + 2
        if self._n_early > _EARLY_MAX:
            return False
        self._early.append(data)
        return True

    def join(self, stream: qg.Stream) -> None:
        """Send what has come so far on a stream, and from here on all."""
        self._stream = stream
        for data in self._early:
            packet_write(stream, data)
        self._early.clear()
