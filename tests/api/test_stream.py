# SPDX-License-Identifier: MIT
"""Streams: bytes arrive whole and in order, backpressure reaches the writer, and the end is told as what it is."""

import asyncio
import os
import pickle
from contextlib import asynccontextmanager

import pytest
from api.services import UNKNOWN, Broken, Echo, Held

import qg
from qg.testing import network

pytestmark = [pytest.mark.anyio, pytest.mark.net]

MIB = 1 << 20


@asynccontextmanager
async def echo_stream():
    async with network(extenders=lambda: [Echo()]) as net:
        yield await net.peer(0, 1).open_stream(Echo.id)


@asynccontextmanager
async def stream_pair(**options):
    """Give both ends of a stream whose far end does nothing by itself."""
    held = Held()
    async with network(extenders=lambda: [held]) as net:
        near = await net.peer(0, 1).open_stream(Held.id, **options)
        yield near, await held.streams.get()
        held.release.set()


async def test_bytes_come_back_as_they_were_written():
    async with echo_stream() as stream:
        await stream.write(b"hello")
        assert await stream.readexactly(5) == b"hello"
        await stream.close()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_any_bytes_like_value_can_be_written(kind):
    async with echo_stream() as stream:
        await stream.write(kind(b"abc"))
        await stream.write(kind(b""))
        assert await stream.readexactly(3) == b"abc"
        await stream.close()


async def test_wide_items_of_a_memoryview_count_as_their_bytes():
    async with echo_stream() as stream:
        await stream.write(memoryview(bytes(8)).cast("I"))
        stream.finish()
        assert await stream.read() == bytes(8)
        await stream.close()


async def test_megabytes_cross_in_both_directions_at_once():
    data = os.urandom(8 * MIB)
    async with echo_stream() as stream, asyncio.TaskGroup() as group:

        async def send():
            await stream.write(data)
            stream.finish()

        group.create_task(send())
        assert await stream.read() == data
        await stream.close()


async def test_async_for_gives_everything_and_small_pieces_together():
    data = os.urandom(3 * MIB)
    async with echo_stream() as stream, asyncio.TaskGroup() as group:

        async def send():
            for off in range(0, len(data), 1000):
                await stream.write(data[off : off + 1000])
            stream.finish()

        group.create_task(send())
        chunks = [chunk async for chunk in stream]
        assert b"".join(chunks) == data
        assert len(chunks) < 3 * MIB / 1000 / 2
        await stream.close()


async def test_read_gives_what_is_there_and_never_more_than_asked():
    async with echo_stream() as stream:
        await stream.write(bytes(range(200)))
        await stream.readexactly(1)
        parts = []
        while sum(map(len, parts)) < 199:
            parts.append(await stream.read(7))
        assert all(0 < len(part) <= 7 for part in parts)
        assert b"".join(parts) == bytes(range(1, 200))
        assert await stream.read(0) == b""
        await stream.close()


async def test_reads_of_any_size_cut_the_same_bytes():
    data = os.urandom(300_000)
    async with stream_pair() as (near, far):
        await near.write(data)
        near.finish()
        parts = [await far.readexactly(1), await far.readexactly(99_999), await far.readexactly(0)]
        parts += [await far.read(1) for _ in range(20)]
        parts.append(await far.readexactly(150_000))
        parts.append(await far.read())
        assert b"".join(parts) == data
        assert await far.read(10) == b""
        assert await far.read() == b""


async def test_readexactly_reads_more_than_any_window():
    data = os.urandom(5 * MIB)
    async with stream_pair() as (near, far), asyncio.TaskGroup() as group:
        group.create_task(near.write(data))
        assert await far.readexactly(len(data)) == data


async def test_readexactly_tells_what_came_before_the_end():
    async with stream_pair() as (near, far):
        await near.write(b"abc")
        near.finish()
        with pytest.raises(qg.IncompleteRead, match="after 3 of 10 bytes") as caught:
            await far.readexactly(10)
        assert (caught.value.partial, caught.value.expected) == (b"abc", 10)
        assert isinstance(caught.value, asyncio.IncompleteReadError)
        assert isinstance(caught.value, qg.RemoteError)
        assert pickle.loads(pickle.dumps(caught.value)).partial == b"abc"
        with pytest.raises(qg.InvalidValue):
            await far.readexactly(-1)


async def test_finish_ends_one_direction_only():
    async with stream_pair() as (near, far):
        near.finish()
        near.finish()
        assert await far.read() == b""
        await far.write(b"still here")
        assert await near.readexactly(10) == b"still here"
        with pytest.raises(qg.ClosedError, match="finished"):
            await near.write(b"x")
        with pytest.raises(qg.ClosedError):
            near.write_nowait(b"x")


async def test_metadata_priority_and_peers_arrive_with_the_stream():
    async with stream_pair(metadata=b"name=x", priority=qg.Priority.EXPEDITED) as (near, far):
        assert (far.metadata, far.priority, far.extender_id) == (b"name=x", qg.Priority.EXPEDITED, Held.id)
        assert (near.metadata, near.priority, near.extender_id) == (b"name=x", qg.Priority.EXPEDITED, Held.id)
        assert far.peer.id == near.peer.node.id
        assert near.peer.id == far.peer.node.id


async def test_metadata_has_a_largest_size():
    async with network(extenders=lambda: [Held()]) as net:
        await (await net.peer(0, 1).open_stream(Held.id, bytes(1024))).read(0)
        with pytest.raises(qg.InvalidValue, match="1024"):
            await net.peer(0, 1).open_stream(Held.id, bytes(1025))


def fill_up(stream):
    """Write until `write` would wait; give the number of bytes."""
    n_written = 0
    while not stream._is_full():
        stream.write_nowait(bytes(50_000))
        n_written += 50_000
    return n_written


async def write_blocked(stream, data):
    """Fill the stream to a peer who does not read, and start a write that waits; give its task and the bytes before.

    A window of at most 64 KiB moves on by itself, far less than what lets a waiting write go on.
    """
    n_before = 0
    while True:
        n_before += fill_up(stream)
        task = asyncio.create_task(stream.write(data))
        await asyncio.sleep(0)
        if not task.done():
            return task, n_before
        n_before += len(data)


async def end(task):
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_writer_waits_for_a_reader_who_does_not_read():
    async with stream_pair() as (near, far):
        task, n_before = await write_blocked(near, b"last")
        # One MiB may wait here, and a window at the far end.
        assert MIB <= n_before <= 2 * MIB
        assert len(await far.readexactly(n_before)) == n_before
        await task
        assert await far.readexactly(4) == b"last"


async def test_a_cancelled_write_has_written_all_or_nothing():
    async with stream_pair() as (near, far):
        task, n_before = await write_blocked(near, b"never" * 1000)
        await end(task)
        near.finish()
        assert len(await far.read()) == n_before


async def test_write_nowait_refuses_what_has_no_room_until_drained():
    async with stream_pair() as (near, far):
        n = fill_up(near)
        with pytest.raises(qg.UsageError, match="drain"):
            near.write_nowait(b"x")
        drained = asyncio.create_task(near.drain())
        got = 0
        while not drained.done():
            got += len(await far.read(65536))
        near.write_nowait(b"end")
        near.finish()
        assert got + len(await far.read()) == n + 3


async def test_a_cancelled_read_loses_nothing():
    async with stream_pair() as (near, far):
        for read in (far.readexactly(10), far.read(10), far.read(), anext(far)):
            reading = asyncio.ensure_future(read)
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        await near.write(b"01234")
        assert await far.read(1) == b"0"
        reading = asyncio.create_task(far.readexactly(6))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await near.write(b"56789")
        assert await far.readexactly(9) == b"123456789"


async def test_a_timeout_ends_a_read():
    async with stream_pair() as (_, far):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await far.read(1)


async def test_only_one_task_may_read_or_wait_to_write():
    async with stream_pair() as (near, far):
        reading = asyncio.create_task(far.read(1))
        await asyncio.sleep(0)
        with pytest.raises(qg.UsageError, match="another task"):
            await far.read(1)
        await near.write(b"x")
        assert await reading == b"x"
        writing, _ = await write_blocked(near, bytes(100_000))
        fill_up(near)
        with pytest.raises(qg.UsageError, match="another task"):
            await near.write(b"x")
        await end(writing)


async def test_a_reset_carries_its_reason_to_reader_and_writer():
    async with stream_pair() as (near, far):
        reading = asyncio.create_task(far.read(1))
        await asyncio.sleep(0)
        near.reset(qg.Reason.MEMORY)
        with pytest.raises(qg.Busy, match="memory") as caught:
            await reading
        assert caught.value.reason is qg.Reason.MEMORY
        with pytest.raises(qg.Busy):
            await far.write(b"x")
        with pytest.raises(qg.Busy):
            await far.close()
        with pytest.raises(qg.ClosedError, match="this side has closed"):
            await near.read(1)
        with pytest.raises(qg.ClosedError):
            await near.write(b"x")
        near.reset()
        await near.close()


async def test_a_reset_wakes_a_writer_who_waits():
    async with stream_pair() as (near, far):
        writing, _ = await write_blocked(near, bytes(100_000))
        far.reset(qg.Reason.SLOW_READER)
        with pytest.raises(qg.StreamReset) as caught:
            await writing
        assert caught.value.reason is qg.Reason.SLOW_READER


async def test_what_the_peer_had_finished_stays_readable_after_its_reset():
    async with stream_pair() as (near, far):
        await near.write(b"whole")
        near.finish()
        assert await far.read(1) == b"w"
        while not far._is_eof:
            await asyncio.sleep(0)
        near.reset()
        while not far.is_gone:
            await asyncio.sleep(0)
        assert await far.read() == b"hole"
        with pytest.raises(qg.StreamReset):
            await far.write(b"x")


async def test_an_unknown_extender_is_told_from_a_failing_one(caplog):
    async with network(extenders=lambda: [Broken()]) as net:
        peer = net.peer(0, 1)
        with pytest.raises(qg.Unsupported, match="extender"):
            await peer.open_stream(UNKNOWN)
        with pytest.raises(qg.StreamReset) as caught:
            await (await peer.open_stream(Broken.id)).read()
        assert caught.value.reason is qg.Reason.INTERNAL
    failures = [record for record in caplog.records if record.name == "qg.extender"]
    assert "on_stream_failed extender=Broken" in failures[0].message
    assert "planted in on_stream" in failures[0].exc_text


async def test_close_returns_when_the_peer_has_read_everything_and_finished():
    async with stream_pair() as (near, far):
        await near.write(b"request")
        closing = asyncio.create_task(near.close())
        assert await far.read() == b"request"
        assert not closing.done()
        far.finish()
        await closing
        await near.close()
        with pytest.raises(qg.ClosedError):
            await near.read(1)


async def test_whoever_waits_for_the_last_bytes_to_be_sent_hears_of_them():
    async with stream_pair() as (near, _):
        for _ in range(3):  # so few that nobody else is woken for them, and nothing comes back
            await near.write(b"few")
            async with asyncio.timeout(30):
                await near.link.flush()
            assert near.link.n_queued == 0


async def test_a_cancelled_close_resets_the_stream():
    async with stream_pair() as (near, far):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await near.close()
        while not far.is_gone:
            await asyncio.sleep(0)
        assert await far.read() == b""
        with pytest.raises(qg.StreamReset) as caught:
            await far.write(b"x")
        assert caught.value.reason is qg.Reason.CANCELLED


async def test_closing_a_stream_on_which_the_peer_goes_on_sending_resets_it():
    async with stream_pair() as (near, far), asyncio.TaskGroup() as group:

        async def send_on():
            with pytest.raises(qg.StreamReset):
                while True:
                    await far.write(bytes(50_000))

        group.create_task(send_on())
        await near.readexactly(100_000)
        await near.close()


async def test_a_peer_that_begins_to_send_after_the_close_is_reset():
    async with stream_pair() as (near, far):
        closing = asyncio.create_task(near.close())
        assert await far.read() == b""
        await far.write(b"too late")
        await closing
        while not far.is_gone:
            await asyncio.sleep(0)
        with pytest.raises(qg.StreamReset):
            await far.close()


async def test_the_core_forgets_streams_of_a_few_bytes_while_the_link_goes_on():
    async with network(extenders=lambda: [Echo()]) as net:
        for _ in range(20):
            async with await net.peer(0, 1).open_stream(Echo.id) as stream:
                await stream.write(b"tiny")
                assert await stream.readexactly(4) == b"tiny"
        while any(node.remains()["n_flows"] for node in net.nodes):
            await asyncio.sleep(0)


async def test_async_with_closes_and_an_error_in_the_block_resets():
    async with network(extenders=lambda: [Echo()]) as net:
        async with await net.peer(0, 1).open_stream(Echo.id) as stream:
            await stream.write(b"x")
            assert await stream.readexactly(1) == b"x"
        assert stream.is_gone
    async with stream_pair() as (near, far):
        with pytest.raises(ZeroDivisionError):
            async with near:
                raise ZeroDivisionError
        with pytest.raises(qg.StreamReset):
            await far.read()


async def test_the_stream_closes_when_its_extender_returns():
    class Greeter(qg.Extender):
        id = UNKNOWN

        async def on_stream(self, stream):
            await stream.write(b"good day")

    async with network(extenders=lambda: [Greeter()]) as net:
        stream = await net.peer(0, 1).open_stream(UNKNOWN)
        assert await stream.read() == b"good day"
        await stream.close()


async def test_hundreds_of_streams_live_side_by_side():
    async with network(extenders=lambda: [Echo()]) as net:

        async def talk(number):
            data = number.to_bytes(4) * 5000
            async with await net.peer(number % 2, (number + 1) % 2).open_stream(Echo.id) as stream:
                await stream.write(data)
                assert await stream.readexactly(len(data)) == data

        async with asyncio.TaskGroup() as group:
            for number in range(300):
                group.create_task(talk(number))


async def test_streams_that_are_not_read_hold_up_neither_other_streams_nor_the_link():
    async with network(extenders=lambda: [Echo(), Held()]) as net:
        peer = net.peer(0, 1)
        stuck = [await peer.open_stream(Held.id) for _ in range(3)]
        for stream in stuck:
            fill_up(stream)
        async with await peer.open_stream(Echo.id) as stream:
            await stream.write(bytes(200_000))
            assert len(await stream.readexactly(200_000)) == 200_000


async def test_a_link_bounds_what_all_its_streams_have_waiting():
    config = qg.Config(limits=qg.LimitsConfig(send_queue_kib=1024))
    held = Held()
    async with network(extenders=lambda: [held], config=config) as net:
        first, *others = [await net.peer(0, 1).open_stream(Held.id) for _ in range(4)]
        for stream in others:
            for _ in range(8):
                if not stream._is_full():
                    stream.write_nowait(bytes(50_000))
        writing, _ = await write_blocked(first, b"x")
        (link,) = net.peer(0, 1).links
        assert first._n_queued + sum(stream._n_queued for stream in others) == link.n_queued <= MIB + 50_000
        assert max(stream._n_queued for stream in (first, *others)) < MIB // 2
        for stream in others:
            stream.reset()
        await writing
        held.release.set()


async def test_repr_says_with_whom_and_in_which_state():
    async with stream_pair() as (near, _):
        assert "open" in repr(near)
        near.reset()
        assert "reset" in repr(near)
        assert "127.0.0.1" in repr(near)
