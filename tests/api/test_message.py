# SPDX-License-Identifier: MIT
"""Messages: whole, in order per peer, extender and priority, and bounded on both sides."""

import asyncio
import os

import pytest
from api.services import UNKNOWN, Broken, Echo, Mailbox

import qg
from qg.testing import network

pytestmark = [pytest.mark.anyio, pytest.mark.net]


class Recorder(qg.Extender):
    """Note messages in the order in which they are handed over."""

    id = UNKNOWN

    def __init__(self):
        self.seen = asyncio.Queue()
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def on_message(self, peer, message):
        await self.may_go_on.wait()
        self.seen.put_nowait((peer.id, message))


async def test_messages_that_an_extender_is_called_with_are_not_given_twice():
    async with network(extenders=lambda: [Echo()]) as net:
        with pytest.raises(qg.InvalidValue, match="on_message"):
            net.peer(0, 1).messages(Echo.id)


async def test_on_message_is_called_in_the_order_of_sending():
    sent = [os.urandom(n % 700) for n in range(500)]
    recorder = Recorder()
    async with network(extenders=lambda: [recorder]) as net:
        for message in sent:
            await net.peer(0, 1).send(Recorder.id, message)
        got = [await recorder.seen.get() for _ in sent]
        assert got == [(net.nodes[0].id, message) for message in sent]


async def test_batches_hold_every_message_once_and_in_order():
    sent = [n.to_bytes(4) * (n % 50) for n in range(3000)]
    async with network(extenders=lambda: [Mailbox()]) as net:
        box = net.peer(1, 0).messages(Mailbox.id)
        for message in sent:
            await net.peer(0, 1).send(Mailbox.id, message)
        got, n_batches = [], 0
        async for batch in box:
            got += batch
            n_batches += 1
            if len(got) == len(sent):
                break
        assert got == sent
        assert n_batches < len(sent)
        assert net.peer(1, 0).messages(Mailbox.id) is box


async def test_messages_sent_in_batches_arrive_in_order_among_others():
    sent = [os.urandom(n % 90) for n in range(5000)] + [os.urandom(200_000)] + [b"", b"end"]
    async with network(extenders=lambda: [Mailbox()]) as net:
        box = net.peer(1, 0).messages(Mailbox.id)

        async def send():
            peer = net.peer(0, 1)
            await peer.send(Mailbox.id, sent[0])
            await peer.send(Mailbox.id, sent[1])
            await peer.send_batch(Mailbox.id, sent[2:4000])
            await peer.send(Mailbox.id, sent[4000])
            await peer.send_batch(Mailbox.id, (bytearray(message) for message in sent[4001:]))
            await peer.send_batch(Mailbox.id, [])

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            got = []
            while len(got) < len(sent):
                got += await anext(box)
        assert got == sent


async def test_a_batch_with_a_message_that_is_too_long_sends_nothing():
    async with network(extenders=lambda: [Mailbox()]) as net:
        box = net.peer(1, 0).messages(Mailbox.id)
        with pytest.raises(qg.InvalidValue, match="number 1 of the batch"):
            await net.peer(0, 1).send_batch(Mailbox.id, [b"first", bytes((1 << 20) + 1)])
        await net.peer(0, 1).send_batch(Mailbox.id, [b"second"])
        assert await anext(box) == [b"second"]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_messages_of_all_sizes_and_kinds_arrive(kind):
    sent = [b"", b"x", bytes(63), bytes(64), bytes(16_383), bytes(16_384), bytes(70_000), os.urandom(1 << 20)]
    async with network(extenders=lambda: [Mailbox()]) as net:
        box = net.peer(1, 0).messages(Mailbox.id)

        async def send():
            for message in sent:
                await net.peer(0, 1).send(Mailbox.id, kind(message))

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            got = []
            while len(got) < len(sent):
                got += await anext(box)
        assert got == sent


async def test_short_and_long_messages_keep_their_order():
    sent = [b"1", b"2", bytes(50_000), b"3", b"4", b"5", bytes(20_000), b"6"]
    async with network(extenders=lambda: [Mailbox()]) as net:
        for message in sent:
            await net.peer(0, 1).send(Mailbox.id, message)
        box, got = net.peer(1, 0).messages(Mailbox.id), []
        while len(got) < len(sent):
            got += await anext(box)
        assert got == sent


async def test_the_task_that_hands_over_messages_ends_with_their_stream():
    recorder = Recorder()
    async with network(extenders=lambda: [recorder]) as net:
        await net.peer(0, 1).send(Recorder.id, b"x")
        await recorder.seen.get()
        (task,) = net.nodes[1]._registry._serving
        await net.peer(0, 1).close()
        await task


async def test_a_message_longer_than_the_limit_is_not_sent():
    config = qg.Config(limits=qg.LimitsConfig(message_max_kib=64))
    async with network(extenders=lambda: [Mailbox()], config=config) as net:
        peer = net.peer(0, 1)
        await peer.send(Mailbox.id, bytes(65536))
        with pytest.raises(qg.InvalidValue, match="65537 bytes"):
            await peer.send(Mailbox.id, bytes(65537))
        await peer.send(Mailbox.id, b"next")
        box, got = net.peer(1, 0).messages(Mailbox.id), []
        while len(got) < 2:
            got += await anext(box)
        assert got == [bytes(65536), b"next"]


async def test_a_message_longer_than_the_peer_takes_is_told_to_the_sender():
    small = qg.Config(limits=qg.LimitsConfig(message_max_kib=64))
    async with (
        qg.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0"], extenders=[Mailbox()], config=small) as near,
        qg.Node(qg.Identity.generate()) as far,
    ):
        peer = await far.connect(near.address)
        await peer.send(Mailbox.id, bytes(65537))
        with pytest.raises(qg.Busy, match="limit"):
            await sending_on(peer, Mailbox.id)


async def sending_on(peer, extender_id, **options):
    """Send until the peer's answer has come: errors are told to the next send."""
    while True:
        await peer.send(extender_id, b"one more", **options)
        await asyncio.sleep(0)


async def test_a_missing_extender_is_told_and_then_sending_starts_anew():
    async with network() as net:
        peer = net.peer(0, 1)
        for _ in range(2):
            with pytest.raises(qg.Unsupported):
                await sending_on(peer, UNKNOWN)


async def test_a_failing_extender_is_told_to_the_sender_and_logged(caplog):
    async with network(extenders=lambda: [Broken()]) as net:
        with pytest.raises(qg.StreamReset) as caught:
            await sending_on(net.peer(0, 1), Broken.id)
        assert caught.value.reason is qg.Reason.INTERNAL
    assert any("on_message_failed extender=Broken" in record.message for record in caplog.records)


async def test_asking_for_messages_makes_room_for_those_of_that_peer():
    async with network() as net:
        box = net.peer(1, 0).messages(UNKNOWN)
        await net.peer(0, 1).send(UNKNOWN, b"hello")
        assert await anext(box) == [b"hello"]


async def test_each_priority_has_an_order_of_its_own():
    recorder = Recorder()
    async with network(extenders=lambda: [recorder]) as net:
        for number in range(100):
            await net.peer(0, 1).send(Recorder.id, b"n%d" % number)
            await net.peer(0, 1).send(Recorder.id, b"e%d" % number, priority=qg.Priority.EXPEDITED)
        got = [(await recorder.seen.get())[1] for _ in range(200)]
        for letter in (b"n", b"e"):
            assert [m for m in got if m.startswith(letter)] == [letter + b"%d" % number for number in range(100)]


async def test_messages_of_one_priority_do_not_wait_for_those_of_another():
    class Slow(Recorder):
        async def on_message(self, peer, message):
            if message[:1] == b"n":
                await self.may_go_on.wait()
            self.seen.put_nowait(message[:1])

    slow = Slow()
    async with network(extenders=lambda: [slow]) as net:
        peer = net.peer(0, 1)
        slow.may_go_on.clear()
        assert peer.try_send(Slow.id, b"delayed", priority=qg.Priority.DELAYED)
        n_normal = 0
        while peer.try_send(Slow.id, b"normal" * 10_000):
            n_normal += 1
        assert not peer.try_send(Slow.id, b"normal")
        assert peer.try_send(Slow.id, b"expedited", priority=qg.Priority.EXPEDITED)
        assert {await slow.seen.get(), await slow.seen.get()} == {b"e", b"d"}
        assert slow.seen.empty()
        slow.may_go_on.set()
        assert [await slow.seen.get() for _ in range(n_normal)] == [b"n"] * n_normal


async def test_a_slow_extender_holds_up_its_senders_and_nobody_else():
    recorder = Recorder()
    async with network(extenders=lambda: [recorder, Echo()]) as net:
        peer = net.peer(0, 1)
        recorder.may_go_on.clear()
        n_sent = 0

        async def send_on():
            nonlocal n_sent
            while True:
                await peer.send(Recorder.id, bytes(10_000))
                n_sent += 1

        sending = asyncio.create_task(send_on())
        async with await peer.open_stream(Echo.id) as stream:
            await stream.write(bytes(100_000))
            assert len(await stream.readexactly(100_000)) == 100_000
        writer = peer._writers[qg.Priority.NORMAL][bytes(Recorder.id)]
        while not writer._room:
            await asyncio.sleep(0)
        assert n_sent < 300  # 1 MiB here, and what two windows hold
        recorder.may_go_on.set()
        n_before = n_sent
        while n_sent < n_before + 500:
            await recorder.seen.get()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def fill(peer, extender_id):
    """Send to an extender that takes nothing until a task waits for room; give the number of messages."""
    n, waiting = 0, None
    while waiting is None or waiting.done():  # a window full moves on by itself
        while peer.try_send(extender_id, bytes(50_000)):
            n += 1
        waiting = asyncio.create_task(peer.send(extender_id, b"filler"))
        n += 1
        await asyncio.sleep(0)
    return n


async def test_tasks_that_wait_to_send_take_their_turns_and_a_cancelled_one_sends_nothing():
    recorder = Recorder()
    async with network(extenders=lambda: [recorder]) as net:
        peer = net.peer(0, 1)
        recorder.may_go_on.clear()
        n_filling = await fill(peer, Recorder.id)
        tasks = [asyncio.create_task(peer.send(Recorder.id, b"%d" % number)) for number in range(10)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
        tasks[3].cancel()
        recorder.may_go_on.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        await peer.send(Recorder.id, b"last")
        got = [(await recorder.seen.get())[1] for _ in range(n_filling + 10)]
        assert got[n_filling:] == [b"%d" % number for number in range(10) if number != 3] + [b"last"]


async def test_a_task_whose_turn_is_over_goes_behind_those_that_wait():
    recorder = Recorder()
    async with network(extenders=lambda: [recorder]) as net:
        peer = net.peer(0, 1)

        async def send_all(*messages):
            for message in messages:
                await peer.send(Recorder.id, message)

        recorder.may_go_on.clear()
        n_filling = await fill(peer, Recorder.id)
        tasks = [asyncio.create_task(send_all(b"1", b"3")), asyncio.create_task(send_all(b"2"))]
        await asyncio.sleep(0)
        recorder.may_go_on.set()
        await asyncio.gather(*tasks)
        got = [(await recorder.seen.get())[1] for _ in range(n_filling + 3)]
        assert got[n_filling:] == [b"1", b"2", b"3"]


async def test_trying_to_send_tells_when_there_is_no_room_and_then_sends_nothing():
    recorder = Recorder()
    async with network(extenders=lambda: [recorder]) as net:
        peer = net.peer(0, 1)
        recorder.may_go_on.clear()
        sent = []
        for number in range(400):  # 4 MB are more than a window and what may wait here
            message = number.to_bytes(2) * (number % 2 * 10_000 + 1)
            if peer.try_send(Recorder.id, message):
                sent.append(message)
        assert 0 < len(sent) < 400
        recorder.may_go_on.set()
        await peer.send(Recorder.id, b"last")
        got = [(await recorder.seen.get())[1] for _ in range(len(sent) + 1)]
        assert got == [*sent, b"last"]
        assert peer.try_send(Recorder.id, b"room again")


async def test_a_short_message_does_not_slip_past_those_that_have_to_wait():
    async with network(extenders=lambda: [Mailbox()]) as net:
        peer = net.peer(0, 1)
        assert peer.try_send(Mailbox.id, b"first of the turn")
        while peer.try_send(Mailbox.id, bytes(100_000)):
            pass
        assert not peer.try_send(Mailbox.id, b"short")


async def test_trying_to_send_raises_what_sending_does():
    async with network() as net:
        peer = net.peer(0, 1)
        with pytest.raises(qg.InvalidValue, match="message_max_kib"):
            peer.try_send(UNKNOWN, bytes(2 << 20))
        with pytest.raises(qg.Unsupported):
            while peer.try_send(UNKNOWN, b"one more"):
                await asyncio.sleep(0)


async def test_a_peer_that_is_closed_takes_no_messages_of_the_same_turn():
    async with network(extenders=lambda: [Mailbox()]) as net:
        peer = net.peer(0, 1)
        assert peer.try_send(Mailbox.id, b"first")
        assert peer.try_send(Mailbox.id, b"second")
        await net.nodes[0].close()
        with pytest.raises(qg.ClosedError):
            peer.try_send(Mailbox.id, b"third")


async def test_only_one_task_takes_messages_and_a_cancelled_one_loses_none():
    async with network(extenders=lambda: [Mailbox()]) as net:
        box = net.peer(1, 0).messages(Mailbox.id)
        taking = asyncio.ensure_future(anext(box))
        await asyncio.sleep(0)
        with pytest.raises(qg.UsageError, match="another task"):
            await anext(box)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        await net.peer(0, 1).send(Mailbox.id, b"kept")
        assert await anext(box) == [b"kept"]


async def test_messages_sent_before_a_close_arrive_and_then_the_iteration_ends():
    async with network(extenders=lambda: [Mailbox()]) as net:
        box = net.peer(1, 0).messages(Mailbox.id)
        for number in range(1000):
            await net.peer(0, 1).send(Mailbox.id, b"%d" % number)
        await net.peer(0, 1).close()
        got = [message async for batch in box for message in batch]
        assert got == [b"%d" % number for number in range(1000)]


async def test_what_is_no_identifier_or_message_is_refused():
    async with network() as net:
        peer = net.peer(0, 1)
        with pytest.raises(qg.InvalidValue, match="ExtenderId"):
            await peer.send("6f1d6a52", b"x")
        with pytest.raises(qg.InvalidValue, match="ExtenderId"):
            await peer.open_stream(bytes(16))
        with pytest.raises(qg.InvalidValue, match="Priority"):
            await peer.send(UNKNOWN, b"x", priority=3)
        with pytest.raises(qg.InvalidValue, match="Priority"):
            await peer.open_stream(UNKNOWN, priority="high")
        for text in ("text", "long" * 10_000):
            with pytest.raises(TypeError):
                await peer.send(UNKNOWN, text)
        with pytest.raises(TypeError):
            await peer.send(UNKNOWN, memoryview(bytes(100_000))[::2])
