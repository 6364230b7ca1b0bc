# SPDX-License-Identifier: MIT
"""A TCP proxy between two nodes: it records what passes, and changes, swallows or cuts it."""

import asyncio
import contextlib

UP, DOWN = "up", "down"  # from the dialler to the node, and back


class Proxy:
    """Stand between diallers and the node at `address`; dial `proxy.address` instead.

    `change`, if set, is given the direction, the place of the chunk in its direction and the chunk, and gives what is
    passed on. The lists in `chunks` hold what came, by direction. Used in `async with`.
    """

    def __init__(self, address):
        self._target = address
        self._tasks = set()
        self._writers = set()
        self._is_swallowing = False
        self._passed = asyncio.Condition()
        self.change = None
        self.chunks = {UP: [], DOWN: []}

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = self._target._replace(port=self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *exc):
        self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    def swallow(self):
        """From now on read everything and pass on nothing, not even an end: a cable that was pulled."""
        self._is_swallowing = True

    def cut(self):
        """Break all connections with RST on both sides."""
        for writer in self._writers:
            writer.transport.abort()

    async def passed(self, direction, n_chunks):
        """Wait until so many chunks have come."""
        async with self._passed:
            await self._passed.wait_for(lambda: len(self.chunks[direction]) >= n_chunks)

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        far_reader, far_writer = await asyncio.open_connection(self._target.host, self._target.port)
        self._writers |= {writer, far_writer}
        await asyncio.gather(self._pump(UP, reader, far_writer), self._pump(DOWN, far_reader, writer))
        for each in (writer, far_writer):
            each.close()
            with contextlib.suppress(OSError):
                await each.wait_closed()
            self._writers.discard(each)
        self._tasks.discard(asyncio.current_task())

    async def _pump(self, direction, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self.chunks[direction].append(data)
                if self.change is not None:
                    data = self.change(direction, len(self.chunks[direction]) - 1, data)
                async with self._passed:
                    self._passed.notify_all()
                if not self._is_swallowing:
                    writer.write(data)
                    await writer.drain()
            if not self._is_swallowing:
                writer.write_eof()


def bit_flipper(direction, chunk_idx, bit):
    """A `change` that flips one bit of one chunk; counted modulo its length if it is short."""

    def change(passing, idx, data):
        if (passing, idx) != (direction, chunk_idx):
            return data
        raw = bytearray(data)
        raw[bit // 8 % len(raw)] ^= 1 << bit % 8
        return bytes(raw)

    return change
