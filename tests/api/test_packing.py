# SPDX-License-Identifier: MIT
"""Messages that zstd makes smaller, and what hostile ones would have a receiver unpack."""

import asyncio
import contextlib
import os
import tracemalloc

import pytest
from api.services import Mailbox
from hypothesis import given
from hypothesis import strategies as st

import qg
from qg._core.message import MessageReader, Packed, message_head
from qg.message import Inbox
from qg.packing import PackingError, packed, unpacked, zstd
from qg.testing import network

pytestmark = pytest.mark.anyio

LONG = 1 << 20


@given(st.binary(max_size=4_000), st.integers(1, 40))
def test_what_was_packed_comes_back(data, times):
    made = packed(data * times)
    assert len(made) <= len(data) * times
    if type(made) is Packed:
        assert unpacked(made, len(data) * times) == data * times


@given(st.binary(max_size=300), st.integers(0, 300))
def test_any_bytes_are_unpacked_or_refused(data, limit):
    for said in (data, zstd.compress(data)[: len(data)], zstd.compress(data) + data):
        with contextlib.suppress(PackingError):
            assert len(unpacked(said, limit)) <= limit


def unsized(data):
    """A frame that does not say how long its content is."""
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.content_size_flag: 0})
    return compressor.compress(data, mode=zstd.ZstdCompressor.FLUSH_FRAME)


BOMBS = [
    pytest.param(zstd.compress(bytes(LONG + 1)), id="longer than a message may be"),
    pytest.param(zstd.compress(bytes(1 << 30)), id="a gigabyte"),
    pytest.param(unsized(bytes(100_000)), id="of unknown length"),
    pytest.param(zstd.compress(bytes(1_000)) * 2, id="two frames"),
    pytest.param(zstd.compress(bytes(1_000))[:-3], id="cut"),
    pytest.param(b"", id="empty"),
    pytest.param(os.urandom(100), id="no frame"),
]


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_before_it_is_unpacked(bomb):
    tracemalloc.start()
    try:
        with pytest.raises(PackingError):
            unpacked(bomb, LONG)
        assert tracemalloc.get_traced_memory()[1] < 4 * LONG
    finally:
        tracemalloc.stop()


def test_a_reader_tells_what_is_packed_from_what_is_not():
    raw = message_head(3) + b"abc" + message_head(2, True) + b"de" + message_head(0, True) + message_head(0)
    for step in (1, 2, len(raw)):
        reader, messages = MessageReader(10), []
        for off in range(0, len(raw), step):
            messages += reader.feed(raw[off : off + step])
        assert messages == [b"abc", b"de", b"", b""]
        assert [type(message) for message in messages] == [bytes, Packed, Packed, bytes]
        assert reader.has_packed


@pytest.mark.net
async def test_packed_messages_come_whole_and_in_order_between_others():
    sent = [b"ab" * 400_000, b"short", os.urandom(70_000), b"c" * 100, b"x" * 1_000, b""] * 3
    async with network(extenders=lambda: [Mailbox()]) as net:
        peer, got = net.peer(0, 1), []
        for idx, message in enumerate(sent):
            if idx % 5 == 4:
                assert peer.try_send(Mailbox.id, message, compress=True)
            else:
                await peer.send(Mailbox.id, message, compress=idx % 2 == 0)
        async for batch in net.peer(1, 0).messages(Mailbox.id):
            got += batch
            if len(got) == len(sent):
                break
        assert got == sent
        with pytest.raises(qg.InvalidValue):
            await peer.send(Mailbox.id, bytes(LONG + 1), compress=True)


@pytest.mark.net
async def test_what_is_packed_is_unpacked_a_few_at_a_time():
    """A thousand messages of a mebibyte, forty bytes each on the wire, are never here together."""
    async with network(extenders=lambda: [Mailbox()]) as net:
        for _ in range(1_000):
            await net.peer(0, 1).send(Mailbox.id, bytes(LONG), compress=True)
        n = 0
        async for batch in net.peer(1, 0).messages(Mailbox.id):
            assert len(batch) <= 5
            n += len(batch)
            if n == 1_000:
                break


async def take(peer, got):
    async for batch in peer.messages(Mailbox.id):
        got += batch
        if b"anew" in batch:
            break


@pytest.mark.net
@pytest.mark.parametrize("bomb", BOMBS)
async def test_who_sends_a_bomb_is_told_and_nothing_behind_it_is_taken(bomb, monkeypatch):
    async with network(extenders=lambda: [Mailbox()]) as net:
        peer = net.peer(0, 1)
        monkeypatch.setattr("qg.message.packed", lambda message: Packed(bomb))
        await peer.send(Mailbox.id, b"first")
        await peer.send(Mailbox.id, b"bomb", compress=True)
        await peer.send(Mailbox.id, b"behind it")
        got = []
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(take(net.peer(1, 0), got))
            with pytest.raises(qg.StreamReset):
                while True:
                    await peer.send(Mailbox.id, b"behind it too")
                    await peer.ping()
            await peer.send(Mailbox.id, b"anew")
        assert got == [b"first", b"anew"]


class Liar:
    """A source whose packed messages cannot be unpacked."""

    has_lied = False

    def pay(self, n):
        pass

    def lie(self):
        self.has_lied = True


@pytest.mark.net
async def test_any_number_of_lies_may_come_while_somebody_waits():
    async with network(extenders=lambda: []) as net:
        inbox = Inbox(net.nodes[0]._border)
        taking = asyncio.create_task(anext(inbox))
        for _ in range(2_000):
            inbox.put_packed(Liar(), 0, [Packed(b"no frame")])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        inbox.put(Liar(), 0, [b"true"])
        assert await taking == [b"true"]
