# SPDX-License-Identifier: MIT
"""A stream joined with a TCP connection: bytes, ends, resets and backpressure pass from one to the other."""

import asyncio
import os
import socket
import struct
from contextlib import asynccontextmanager

import pytest
from api.services import Held

import qg
from qg.testing import network

pytestmark = [pytest.mark.anyio, pytest.mark.net]

MIB = 1 << 20
WINDOW = 60_000  # what a stream takes of which nothing is read, and more than small buffers of the kernel


def tcp_pair(buffers_len=None):
    """Give both ends of a TCP connection; with `buffers_len` the kernel holds little of what is sent to the second."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        second = socket.socket()
        if buffers_len:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers_len)
            second.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers_len)
        second.connect(listener.getsockname())
        first, _ = listener.accept()
    first.setblocking(False)
    second.setblocking(False)
    return first, second


def reset(connection):
    """Close with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def status(node):
    return node._border.runtime.status()


async def receive(connection, n=None):
    """Give n bytes, or all until the end."""
    loop, parts, left = asyncio.get_running_loop(), [], n
    while left != 0 and (part := await loop.sock_recv(connection, MIB if left is None else left)):
        parts.append(part)
        left = left if left is None else left - len(part)
    return b"".join(parts)


async def send(connection, data):
    await asyncio.get_running_loop().sock_sendall(connection, data)


async def send_all(connection, data):
    await send(connection, data)
    connection.shutdown(socket.SHUT_WR)


class Tunnel:
    """What each end of a tunnel is: the outer connection, the stream, and the task that joins it with the inner one."""

    def __init__(self, net, streams, pairs):
        self.net = net
        self.streams = streams
        self.outer = [outer for _, outer in pairs]
        inner = [first for first, _ in pairs]
        self.splices = [asyncio.create_task(stream.splice(each)) for stream, each in zip(streams, inner, strict=True)]


@asynccontextmanager
async def stream_pair():
    held = Held()
    async with network(extenders=lambda: [held]) as net:
        near = await net.peer(0, 1).open_stream(Held.id)
        yield net, [near, await held.streams.get()]
        held.release.set()


@asynccontextmanager
async def tunnel(buffers_len=None):
    async with stream_pair() as (net, streams):
        ends = Tunnel(net, streams, [tcp_pair(buffers_len) for _ in streams])
        try:
            yield ends
        finally:
            for connection in ends.outer:
                connection.close()
            await asyncio.gather(*ends.splices, return_exceptions=True)


async def test_megabytes_cross_in_both_directions_at_once():
    async with tunnel() as ends:
        near, far = ends.outer
        sent = [os.urandom(5 * MIB + 13), os.urandom(4 * MIB + 7)]
        sending = asyncio.gather(send_all(near, sent[0]), send_all(far, sent[1]))
        got = await asyncio.gather(receive(far), receive(near))
        await sending
        assert got == sent
        assert await asyncio.gather(*ends.splices) == [None, None]
        sizes = 5 * MIB + 13, 4 * MIB + 7
        assert [stream.carried for stream in ends.streams] == [sizes, sizes[::-1]]


async def test_the_head_goes_between_what_was_written_and_what_the_connection_says():
    async with stream_pair() as (_, (near, far)):
        inner, outer = tcp_pair()
        await send(outer, b" third")
        await near.write(b"first")
        splicing = asyncio.create_task(near.splice(inner, head=b" second"))
        assert await far.readexactly(18) == b"first second third"
        outer.close()
        await far.close()
        await splicing
        assert near.carried.n_sent == 18


@pytest.mark.parametrize("head", [b"", b"words"])
async def test_a_stream_that_is_spliced_before_anything_else_is_accepted(head):
    inner, outer = tcp_pair()

    class Spliced(qg.Extender):
        id = Held.id

        async def on_stream(self, stream):
            await stream.splice(inner, head=head)

    async with network(extenders=lambda: [Spliced()]) as net:
        stream = await net.peer(0, 1).open_stream(Held.id)
        outer.close()
        assert await stream.read() == head
        await stream.close()


async def test_a_splice_on_which_nothing_moves_ends():
    async with stream_pair() as (_, streams):
        pairs = [tcp_pair() for _ in streams]
        idle_s = [0.5, None]
        splices = [
            asyncio.create_task(stream.splice(inner, idle_s=limit_s))
            for stream, (inner, _), limit_s in zip(streams, pairs, idle_s, strict=True)
        ]
        near, far = (outer for _, outer in pairs)
        await send(near, b"to")
        assert await receive(far, 2) == b"to"
        for connection in (near, far):
            with pytest.raises(ConnectionResetError):
                await receive(connection)
            connection.close()
        errors = await asyncio.gather(*splices, return_exceptions=True)
        assert [error.reason for error in errors] == [qg.Reason.IDLE] * 2
        assert [stream.carried for stream in streams] == [(2, 0), (0, 2)]


async def test_a_few_bytes_go_there_and_back():
    async with tunnel() as ends:
        near, far = ends.outer
        for i in range(50):
            await send(near, bytes([i]))
            assert await receive(far, 1) == bytes([i])
            await send(far, bytes([i]) * 2)
            assert await receive(near, 2) == bytes([i]) * 2


@pytest.mark.parametrize("first", [0, 1], ids=["near first", "far first"])
async def test_the_end_of_one_direction_leaves_the_other_one_open(first):
    async with tunnel() as ends:
        ending, other = ends.outer[first], ends.outer[1 - first]
        await send_all(ending, b"the last")
        assert await receive(other) == b"the last"
        assert not any(task.done() for task in ends.splices)
        await send_all(other, bytes(2 * MIB))
        assert await receive(ending) == bytes(2 * MIB)
        assert await asyncio.gather(*ends.splices) == [None, None]


async def test_what_was_read_ahead_and_written_before_goes_first():
    async with stream_pair() as (_, (near, far)):
        inner, outer = tcp_pair()
        sent = os.urandom(MIB)
        writing = asyncio.create_task(far.write(sent))
        assert await near.readexactly(5) == sent[:5]
        await near.write(b"before")
        splicing = asyncio.create_task(near.splice(inner))
        await send_all(outer, b" behind")
        assert await far.read() == b"before behind"
        await writing
        far.finish()
        assert await receive(outer) == sent[5:]
        await splicing
        outer.close()


async def test_bytes_that_are_on_their_way_when_the_splice_begins_are_not_lost():
    async with stream_pair() as (_, (near, far)):
        sent = os.urandom(6 * MIB)
        writing = asyncio.create_task(far.write(sent))
        got = await near.readexactly(MIB + 1)
        inner, outer = tcp_pair()
        splicing = asyncio.create_task(near.splice(inner))
        got += await receive(outer, 5 * MIB - 1)
        assert got == sent
        await writing
        far.finish()
        outer.close()
        await splicing


async def test_a_connection_that_is_reset_resets_the_stream_and_the_connection_behind_it():
    async with tunnel() as ends:
        near, far = ends.outer
        await send(near, b"x")
        assert await receive(far, 1) == b"x"
        reset(near)
        with pytest.raises(ConnectionResetError, match="the connection broke") as here:
            await ends.splices[0]
        assert not isinstance(here.value, qg.QGError)
        with pytest.raises(qg.StreamReset) as there:
            await ends.splices[1]
        assert there.value.reason == qg.Reason.CANCELLED
        with pytest.raises(ConnectionResetError):
            await receive(far)


async def test_a_stream_that_is_reset_resets_the_connection():
    async with stream_pair() as (_, (near, far)):
        inner, outer = tcp_pair()
        splicing = asyncio.create_task(near.splice(inner))
        await send(outer, b"x")
        assert await far.readexactly(1) == b"x"
        far.reset(qg.Reason.BUSY)
        with pytest.raises(qg.Busy):
            await splicing
        with pytest.raises(ConnectionResetError):
            await receive(outer)
        outer.close()


async def test_a_cancelled_splice_resets_both():
    async with tunnel() as ends:
        near, far = ends.outer
        await send(near, b"x")
        assert await receive(far, 1) == b"x"
        ends.splices[0].cancel()
        with pytest.raises(qg.StreamReset):
            await ends.splices[1]
        for outer in ends.outer:
            with pytest.raises(ConnectionResetError):
                await receive(outer)


async def test_a_receiver_that_does_not_read_holds_the_sender_back_and_gets_everything_later():
    async with tunnel(buffers_len=16_384) as ends:
        near, far = ends.outer
        sent = os.urandom(24 * MIB)
        sending = asyncio.create_task(send_all(near, sent))
        got = await receive(far, 1)
        for _ in range(20):
            await ends.net.peer(0, 1).ping()
            assert all(status(node)["pool_taken_len"] < 4 * MIB for node in ends.net.nodes)
        assert status(ends.net.nodes[1])["in_len"] < 4 * MIB
        assert not sending.done()
        got += await receive(far)
        await sending
        assert got == sent


async def test_a_receiver_may_take_its_time_when_both_sides_have_finished():
    async with tunnel(buffers_len=2_048) as ends:
        near, far = ends.outer
        far.shutdown(socket.SHUT_WR)
        assert await receive(near) == b""
        await send_all(near, bytes(WINDOW))
        await ends.splices[0]
        assert not ends.splices[1].done()
        assert await receive(far) == bytes(WINDOW)
        await ends.splices[1]


async def test_a_receiver_that_goes_when_both_sides_have_finished_is_told_of():
    async with tunnel(buffers_len=2_048) as ends:
        near, far = ends.outer
        far.shutdown(socket.SHUT_WR)
        assert await receive(near) == b""
        await send_all(near, bytes(WINDOW))
        await ends.splices[0]
        reset(far)
        with pytest.raises(OSError, match="the connection broke"):
            await ends.splices[1]


async def test_closing_a_node_closes_the_connections():
    async with tunnel() as ends:
        near, far = ends.outer
        await send(near, b"x")
        assert await receive(far, 1) == b"x"
        await ends.net.nodes[0].close()
        for splicing in ends.splices:
            with pytest.raises(qg.QGError):
                await splicing
        for outer in ends.outer:
            with pytest.raises(ConnectionResetError):
                await receive(outer)


async def test_a_node_closes_while_a_receiver_does_not_take_the_rest():
    async with tunnel(buffers_len=2_048) as ends:
        near, far = ends.outer
        far.shutdown(socket.SHUT_WR)
        assert await receive(near) == b""
        await send_all(near, bytes(WINDOW))
        await ends.splices[0]
        await ends.net.nodes[1].close()
        with pytest.raises(qg.QGError):
            await ends.splices[1]


async def test_hundreds_of_short_connections_leave_nothing_behind():
    held = Held()

    async def one(peer, number):
        inner, outer = tcp_pair()
        stream = await peer.open_stream(Held.id)
        splicing = asyncio.create_task(stream.splice(inner))
        await send_all(outer, number.to_bytes(4, "big"))
        assert await receive(outer) == number.to_bytes(4, "big")
        await splicing
        outer.close()

    async def answer():
        while True:
            answering.add(asyncio.create_task(echo(await held.streams.get())))

    async def echo(stream):
        inner, outer = tcp_pair()
        splicing = asyncio.create_task(stream.splice(inner))
        await send_all(outer, await receive(outer))
        await splicing
        outer.close()

    answering = set()
    async with network(extenders=lambda: [held]) as net:
        accepting = asyncio.create_task(answer())
        for _ in range(4):
            await asyncio.gather(*(one(net.peer(0, 1), number) for number in range(50)))
        await asyncio.gather(*answering)
        accepting.cancel()
        await asyncio.wait([accepting])
        held.release.set()


async def test_a_connection_that_is_not_one_ends_the_stream():
    async with stream_pair() as (_, (near, far)):
        with pytest.raises(OSError, match="the connection broke"):
            await near.splice(socket.socket())
        with pytest.raises(qg.StreamReset):
            await far.read()


async def test_only_tcp_sockets_can_be_spliced():
    async with stream_pair() as (_, (near, _)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, pytest.raises(qg.InvalidValue):
            await near.splice(datagrams)
        await near.write(b"the stream goes on")


async def test_a_spliced_stream_takes_nothing_else():
    async with tunnel() as ends:
        stream = ends.streams[0]
        await send(ends.outer[0], b"x")
        assert await receive(ends.outer[1], 1) == b"x"
        with pytest.raises(qg.ClosedError):
            await stream.write(b"x")
        with pytest.raises(qg.ClosedError):
            await stream.read(1)
        inner, outer = tcp_pair()
        with inner, outer, pytest.raises(qg.UsageError):
            await stream.splice(inner)
