# SPDX-License-Identifier: MIT
"""What the tests of services share: targets, and programs that talk to them."""

import asyncio
import socket
import struct
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress

from qg.extenders.sockets.target import Target

HOST = "127.0.0.1"


@asynccontextmanager
async def server(serve):
    """A target: a server of this machine, and how often it was called."""
    tasks = set()

    async def called(reader, writer):
        tasks.add(asyncio.current_task())
        try:
            with suppress(OSError):  # a program, or the way to it, may go at any time
                await serve(reader, writer)
        finally:
            writer.close()

    listener = await asyncio.start_server(called, HOST, 0)
    try:
        yield Target(HOST, listener.sockets[0].getsockname()[1])
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def hold(reader, writer):
    await asyncio.Event().wait()


def free_port():
    with socket.create_server((HOST, 0)) as sock:
        return sock.getsockname()[1]


async def closed(writer):
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def linger(writer):
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def silent(place=(HOST, 0)):
    """A place that takes no connection and refuses none."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(place)
        full.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield Target(*full.getsockname())


class Program(asyncio.DatagramProtocol):
    def __init__(self):
        self.received = asyncio.Queue()

    def datagram_received(self, data, source):
        self.received.put_nowait((data, source[:2]))


@asynccontextmanager
async def udp(protocol):
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: protocol, (HOST, 0))
    try:
        yield transport, Target(*transport.get_extra_info("sockname"))
    finally:
        transport.close()


class Mirror(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, source):
        self.transport.sendto(data, source)
        self.last = source
