# SPDX-License-Identifier: MIT
"""The independent model and real nodes understand each other over TCP: links, their streams and their keys."""

import asyncio
import contextlib
import hashlib
import os
from contextlib import suppress

import pytest
from api.services import UNKNOWN, Echo, Held, Mailbox
from model import frames
from model.envelope import KIND_XK1, KIND_XX1
from model.frames import REASON, Cover, HelloValues, Padding, Skipped, message_build, message_take
from model.record import (
    INNER_MAX,
    PADDING_BLOCKS_LARGE,
    PADDING_BLOCKS_SMALL,
    PADDING_LIGHT,
    PADDING_NONE,
    padded_len,
)
from net.live import CLOSED_NETWORK, OPEN_NETWORK, Model, bytes_wait, host, talk

import qg

pytestmark = [pytest.mark.anyio, pytest.mark.net]

MIB = 1 << 20
WINDOW = 65536  # that both sides give a new stream
SESSION_WINDOW = MIB
REMOVED = {4: (), 2: ("aegis-256",), 1: ("aegis-256", "aes-256-gcm")}  # suite -> suites_removed that lead to it
NAMES = {4: "aegis-256", 2: "aes-256-gcm", 1: "chacha20-poly1305"}
EXTENDER = qg.ExtenderId("00010203-0405-0607-0809-0a0b0c0d0e0f")  # of the model, which takes any

diallers = pytest.mark.parametrize("dialler", ["model", "node"])
suites = pytest.mark.parametrize("suite", REMOVED, ids=NAMES.get)


def config_of(suite=4, **link):
    """Give a configuration that answers XX too; `link` holds settings of its table."""
    return qg.Config(allow_first_contact=True, link=qg.LinkConfig(suites_removed=REMOVED[suite], **link))


async def echo_check(t, length=20_000):
    """Send bytes there and back, from the model over the node's echo."""
    data = os.urandom(length)
    stream = t.peer.stream_open(frames.KIND_BYTES, bytes(Echo.id))
    t.peer.stream_write(stream, data)
    t.peer.stream_finish(stream)
    assert await t.model.read_all(t.peer, stream) == data


async def pong_barrier(t):
    """Wait until the node has handled all that was sent, and the model all that the node had sent then."""
    token = os.urandom(8)
    t.peer.ping(token)
    await t.model.until(lambda: frames.Pong(token) in t.peer.received)


# Handshakes


@diallers
@suites
@pytest.mark.parametrize("kind", [KIND_XK1, KIND_XX1], ids=["XK", "XX"])
@pytest.mark.parametrize("secret", [OPEN_NETWORK, CLOSED_NETWORK], ids=["open", "closed"])
async def test_a_link_of_every_kind_comes_up_and_carries_bytes(dialler, suite, kind, secret):
    async with talk(dialler, kind, config=config_of(suite), secret=secret) as t:
        assert t.peer.established.suite == suite
        assert t.far.suite == NAMES[suite]
        assert t.peer.established.remote_peer_id == bytes(t.node.id)
        assert bytes(t.far.id) == t.model.identity.peer_id
        assert bytes(t.far.link_key) == t.model.identity.link_public
        await echo_check(t)


@diallers
@pytest.mark.parametrize(("offered", "suite"), [(1, 1), (3, 2), (5, 4)])
async def test_the_best_suite_that_both_have_is_taken(dialler, offered, suite):
    async with talk(dialler, suites=offered) as t:
        assert t.peer.established.suite == suite
        await echo_check(t)


async def test_an_initiator_may_open_and_write_in_the_same_write_as_its_last_flight():
    async with host() as one, Model() as model:
        link = model.dial(one.node.address)
        peer, opened = link.peer, []

        def open_early():
            if peer.established and not opened:
                assert peer.remote_hello is None
                opened.append(peer.stream_open(frames.KIND_BYTES, bytes(Echo.id)))
                peer.stream_write(opened[0], b"early")

        model.steps.append(open_early)
        await model.until(lambda: opened and opened[0].receiver.data == b"early")
        model.steps.clear()
        await model.hang_up(link)


@diallers
@pytest.mark.parametrize("piece_len", [1, 7, 1461])
async def test_bytes_may_come_in_pieces_of_any_size(dialler, piece_len):
    async with talk(dialler, piece_len=piece_len) as t:
        await echo_check(t, 3000)


async def handshakes_run(dialler, n):
    async with host() as one, Model() as model:
        address = model.listen()
        hashes = set()
        for _ in range(n):
            if dialler == "model":
                link = model.dial(one.node.address)
                await model.connected(link.peer)
                await model.hang_up(link)
            else:
                far = await one.node.connect(address)
                link = await model.arrivals.get()
                await far.close()
                await model.until(lambda link=link: link.peer.end == "fin")
                model.forget(link)
            hashes.add(link.peer.established.hash)
    assert len(hashes) == n


@diallers
async def test_twenty_handshakes_in_a_row(dialler):
    await handshakes_run(dialler, 20)


@pytest.mark.slow
@diallers
async def test_a_thousand_handshakes_in_a_row(dialler):
    async with asyncio.timeout(1200):  # the model is slow, and slower under sanitizers
        await handshakes_run(dialler, 1000)


# Streams


@diallers
@suites
async def test_megabytes_cross_in_both_directions_at_once(dialler, suite):
    """Far more than any window, so credit goes round many times."""
    there, back = os.urandom(3 * MIB), os.urandom(3 * MIB)
    async with talk(dialler, config=config_of(suite)) as t:
        ours = t.peer.stream_open(frames.KIND_BYTES, bytes(Held.id))
        t.peer.stream_write(ours, there)
        t.peer.stream_finish(ours)
        held = await t.held()
        theirs = await t.far.open_stream(EXTENDER)
        stream = await t.model.stream_from(t.peer)

        async def node_side():
            await theirs.write(back)
            theirs.finish()
            return await held.read()

        node_task = asyncio.create_task(node_side())
        got_back = await t.model.read_all(t.peer, stream)
        assert hashlib.sha256(await node_task).digest() == hashlib.sha256(there).digest()
        assert hashlib.sha256(got_back).digest() == hashlib.sha256(back).digest()


async def test_a_node_stops_at_the_credit_of_a_stream_that_is_not_read():
    data = os.urandom(5 * WINDOW)
    async with talk("model") as t:
        far_end = await t.far.open_stream(EXTENDER)
        await far_end.write(data)
        far_end.finish()
        stream = await t.model.stream_from(t.peer)
        await t.model.until(lambda: stream.n_received > WINDOW - INNER_MAX)  # it may wait with what fills no record
        await pong_barrier(t)
        assert stream.n_received <= WINDOW
        assert await t.model.read_all(t.peer, stream) == data


async def test_a_node_gives_no_credit_for_what_is_not_read():
    data = os.urandom(5 * WINDOW)
    async with talk("model") as t:
        stream = t.peer.stream_open(frames.KIND_BYTES, bytes(Held.id))
        t.peer.stream_write(stream, data)
        t.peer.stream_finish(stream)
        held = await t.held()
        await t.model.until(lambda: stream.n_sent == WINDOW)
        await pong_barrier(t)
        assert stream.send_limit == stream.n_sent == WINDOW
        reader = asyncio.create_task(held.read())
        await t.model.until(lambda: stream.fin_sent)
        assert await reader == data


async def test_a_node_stops_at_the_credit_of_the_session():
    async with talk("model") as t:
        theirs = [await t.far.open_stream(EXTENDER) for _ in range(20)]
        for each in theirs:
            await each.write(bytes(2 * WINDOW))
            each.finish()
        await t.model.until(lambda: t.peer.session_received == SESSION_WINDOW)
        await pong_barrier(t)
        assert t.peer.session_received == SESSION_WINDOW
        readers = [t.model.read_all(t.peer, stream) for stream in t.peer.streams.values()]
        assert set(await asyncio.gather(*readers)) == {bytes(2 * WINDOW)}


async def test_a_node_gives_credit_of_the_session_as_its_application_reads():
    async with talk("model") as t:
        streams = [t.peer.stream_open(frames.KIND_BYTES, bytes(Held.id)) for _ in range(20)]
        for stream in streams:
            t.peer.stream_write(stream, bytes(2 * WINDOW))
            t.peer.stream_finish(stream)
        await t.model.until(lambda: t.peer.session_sent == SESSION_WINDOW)
        await pong_barrier(t)
        assert t.peer.session_sent == SESSION_WINDOW
        readers = [asyncio.create_task((await t.held()).read()) for _ in streams]
        await t.model.until(lambda: all(stream.fin_sent for stream in streams))
        assert {await reader for reader in readers} == {bytes(2 * WINDOW)}


@diallers
async def test_messages_cross_in_both_directions(dialler):
    sent = [os.urandom(length) for length in (0, 1, 63, 64, 16_383, 16_384, 70_000, MIB)]
    async with talk(dialler) as t:
        stream = t.peer.stream_open(frames.KIND_MESSAGES, bytes(Echo.id))
        for message in sent:
            t.peer.stream_write(stream, message_build(message))
        answers = await t.model.stream_from(t.peer, frames.KIND_MESSAGES)
        assert answers.opened.body == bytes(Echo.id)
        got, buffer = [], bytearray()

        def all_taken():
            buffer.extend(t.peer.stream_read(answers))
            while (message := message_take(buffer, MIB)) is not None:
                got.append(message)
            return len(got) == len(sent)

        await t.model.until(all_taken)
        assert got == sent
        assert not buffer


async def test_many_small_messages_keep_their_order():
    sent = [b"%d" % number for number in range(2000)]
    async with talk("model") as t:
        stream = t.peer.stream_open(frames.KIND_MESSAGES, bytes(Mailbox.id))
        t.peer.stream_write(stream, b"".join(map(message_build, sent)))
        t.model.move()
        got = []
        async for batch in t.far.messages(Mailbox.id):
            got += batch
            if len(got) == len(sent):
                break
        assert got == sent


@diallers
@pytest.mark.parametrize("length", [0, 1, 1024])
async def test_metadata_and_priority_arrive(dialler, length):
    metadata = os.urandom(length)
    async with talk(dialler) as t:
        t.peer.stream_open(frames.KIND_BYTES, bytes(Held.id) + metadata)
        held = await t.held()
        assert (held.metadata, held.priority) == (metadata, qg.Priority.NORMAL)
        for priority in qg.Priority:
            await t.far.open_stream(EXTENDER, metadata, priority=priority)
            opened = list(t.peer.streams.values())[-1].opened
            assert (opened.body, opened.priority) == (bytes(EXTENDER) + metadata, priority)


@diallers
async def test_each_direction_of_a_stream_ends_by_itself(dialler):
    async with talk(dialler) as t:
        ours = t.peer.stream_open(frames.KIND_BYTES, bytes(Held.id))
        t.peer.stream_write(ours, b"question")
        t.peer.stream_finish(ours)
        held = await t.held()
        assert await held.read() == b"question"
        await held.write(b"answer")
        held.finish()
        assert await t.model.read_all(t.peer, ours) == b"answer"
        assert ours.is_closed

        theirs = await t.far.open_stream(EXTENDER)
        stream = await t.model.stream_from(t.peer)
        theirs.finish()
        assert await t.model.read_all(t.peer, stream) == b""
        t.peer.stream_write(stream, b"answer")
        t.peer.stream_finish(stream)
        t.model.move()
        assert await theirs.read() == b"answer"
        await theirs.close()
        assert stream.is_closed


@diallers
async def test_reset_carries_its_reason_in_both_directions(dialler):
    async with talk(dialler) as t:
        for reason in (*qg.Reason, 99):
            theirs = await t.far.open_stream(EXTENDER)
            t.peer.stream_reset(await t.model.stream_from(t.peer), reason)
            t.model.move()
            with pytest.raises(qg.RemoteError) as caught:
                await theirs.read()
            assert caught.value.reason == qg.Reason(reason)
        for reason in qg.Reason:
            ours = t.peer.stream_open(frames.KIND_BYTES, bytes(Held.id))
            (await t.held()).reset(reason)
            await t.model.until(lambda ours=ours: ours.is_closed)
            assert ours.reset_reason == reason
        await echo_check(t)


@pytest.mark.parametrize("terms", [(0, 0), (1, 1), (0xFFFFFFFF, 0xFFFFFFFF)])
async def test_a_relay_may_lie_about_its_limits_and_changes_nothing_but_what_is_said_of_it(terms):
    async with talk("node", hello=HelloValues(max_pipes=8, relay_terms=terms)) as t:
        assert t.far.relay_terms == terms
        stream = t.peer.stream_open(frames.KIND_BYTES, bytes(Echo.id))
        t.peer.stream_write(stream, bytes(MIB))
        t.peer.stream_finish(stream)
        assert await t.model.read_all(t.peer, stream) == bytes(MIB)
        assert t.link.peer.remote_hello.relay_terms is None  # the node relays for nobody


async def test_a_service_that_the_node_lacks_is_unsupported():
    async with talk("model") as t:
        for kind in frames.SERVICE_KINDS:
            stream = t.peer.stream_open(kind, bytes(UNKNOWN))
            await t.model.until(lambda stream=stream: stream.is_closed)
            assert stream.reset_reason == REASON["unsupported"]
        await echo_check(t)


# What goes beside the streams


@diallers
async def test_ping_is_answered_by_both(dialler):
    async with talk(dialler) as t:
        await pong_barrier(t)
        assert await t.far.ping() > 0


@diallers
async def test_frames_to_be_skipped_are_skipped(dialler):
    async with talk(dialler) as t:
        for frame in (
            Cover(b""),
            Cover(os.urandom(16_000)),
            Skipped(0x40, b""),
            Skipped(0x3FFF, b"\0\x23\x04"),
            Skipped((1 << 62) - 1, os.urandom(16_000)),
        ):
            t.peer.frame_send(frame)
            await pong_barrier(t)
        await echo_check(t)


@diallers
async def test_close_of_the_model_carries_its_reason_to_the_node(dialler):
    async with host() as one, Model() as model:
        address = model.listen()
        for reason in (*qg.Reason, 99):
            if dialler == "model":
                link = model.dial(one.node.address)
                far = await one.guest()
            else:
                far = await one.node.connect(address)
                link = await model.arrivals.get()
            await model.connected(link.peer)
            link.peer.close(reason, "why")
            await model.until(lambda link=link: link.is_at_eof)
            model.forget(link)
            while far.is_connected:
                await asyncio.sleep(0)
            with pytest.raises(qg.RemoteError) as caught:
                await far.ping()
            assert caught.value.reason == qg.Reason(reason)


@diallers
async def test_close_of_the_node_reaches_the_model_behind_all_data(dialler):
    async with talk(dialler) as t:
        theirs = await t.far.open_stream(EXTENDER)
        stream = await t.model.stream_from(t.peer)
        await theirs.write(b"last words")
        await t.far.close()
        await t.model.until(lambda: t.link.is_at_eof)
        assert stream.receiver.data == b"last words"
        assert t.peer.received[-1] == frames.Close(REASON["none"])


async def test_a_node_that_stops_says_shutdown():
    async with Model() as model:
        async with host() as one:
            link = model.dial(one.node.address)
            await model.connected(link.peer)
        await model.until(lambda: link.is_at_eof)
        assert frames.Close(REASON["shutdown"]) in link.peer.received


@diallers
@pytest.mark.parametrize(
    ("ours", "wish"),
    [
        (PADDING_NONE, "none"),
        (PADDING_NONE, "light"),
        (PADDING_LIGHT, "none"),
        (PADDING_LIGHT, "blocks-1k"),
        (PADDING_BLOCKS_SMALL, "light"),
        (PADDING_BLOCKS_LARGE, "blocks-1k"),
        (PADDING_NONE, "blocks-16k"),
    ],
)
async def test_records_are_padded_by_the_stricter_wish(dialler, ours, wish):
    theirs = ["none", "light", "blocks-1k", "blocks-16k"].index(wish)
    mode, early = max(ours, theirs), max(PADDING_LIGHT, theirs)  # that of a node before it has read HELLO
    async with talk(dialler, config=config_of(padding=wish), hello=HelloValues(padding=ours)) as t:
        for length in (1, 50, 300, 1000, 1100, 9000, 40_000):
            await echo_check(t, length)
        lengths = []
        for number, record in enumerate(t.peer.records):
            content_len = record.length - sum(frame.length for frame in record.frames if isinstance(frame, Padding))
            lengths.append((record.length, content_len))
            lawful = {mode} if number else {mode, early}
            assert record.length in {padded_len(each, content_len) for each in lawful}, number
        if dialler == "node":  # which writes its HELLO first
            first_len, first_content_len = lengths[0]
            assert first_len == padded_len(early, first_content_len)


@pytest.mark.parametrize("place", ["length", "tag"])
async def test_a_node_answers_a_bad_record_with_nothing(place):
    """It reads on for a while, so that the border of the record does not show, and ends without CLOSE."""
    async with talk("model") as t:
        t.peer.ping(b"12345678")
        record = bytearray(t.peer.output_bytes())
        record[0 if place == "length" else -1] ^= 0x80
        n_received, n_sent = len(t.peer.received), 0
        t.link.sock.sendall(record)
        while not t.link.is_at_eof:
            with suppress(OSError):
                n_sent += t.link.sock.send(bytes(1024))
            await asyncio.sleep(0)
        assert len(t.peer.received) == n_received
        assert n_sent >= 16_416


# Keys


@diallers
async def test_the_node_ends_its_epochs_by_time_even_when_idle(dialler):
    async with talk(dialler, config=config_of(epoch_s=1)) as t:
        await t.model.until(lambda: t.peer.keys.recv.epoch == 1)
        await pong_barrier(t)
        await t.model.until(lambda: t.peer.keys.recv.epoch == 2)
        await echo_check(t)


@diallers
async def test_the_node_sends_frames_that_mean_nothing(dialler):
    """One behind its HELLO: an implementation that cannot skip them does not get past it (section 7)."""
    async with talk(dialler) as t:
        await echo_check(t)
        assert isinstance(t.peer.received[1], frames.Skipped)


@diallers
async def test_the_node_follows_epochs_of_the_model(dialler):
    async with talk(dialler) as t:
        for _ in range(100):
            t.peer.epoch()
        await echo_check(t)
        assert t.peer.keys.send.epoch == 100


@diallers
async def test_the_node_starts_new_exchanges_and_the_model_answers(dialler):
    """One is due every second, and starts with the next bytes."""
    async with talk(dialler, config=config_of(rekey_s=1)) as t:
        for number in (1, 2):
            while t.peer.keys.number < number:
                await echo_check(t, MIB)
            await t.model.until(lambda: t.peer.keys.is_idle)
            await echo_check(t)


@diallers
async def test_the_model_starts_new_exchanges_and_the_node_answers(dialler):
    async with talk(dialler) as t:
        for number in range(1, 6):
            t.peer.rekey()
            await t.model.until(lambda number=number: t.peer.keys.is_idle and t.peer.keys.number == number)
            await echo_check(t, 100)


@diallers
async def test_exchanges_that_cross_become_one(dialler):
    """The model starts its own once the node's REKEY1 waits in the socket, unread."""
    async with talk(dialler, config=config_of(rekey_s=1)) as t:
        stream = t.peer.stream_open(frames.KIND_BYTES, bytes(Echo.id))
        await pong_barrier(t)
        t.model.pause(t.link)
        is_asked = False
        while not is_asked:
            t.peer.stream_write(stream, b"x")  # in use, or the node would not begin; the echoes are small
            t.model.move()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await bytes_wait(t.link.sock, frames.REKEY1_LEN)
                    is_asked = True
        t.peer.rekey()
        t.model.move()
        t.model.resume(t.link)
        await t.model.until(lambda: t.peer.keys.is_idle and t.peer.keys.number == 1)
        assert sum(isinstance(frame, frames.Rekey1) for frame in t.peer.received) == 1
        answers = [isinstance(frame, frames.Rekey2) for frame in t.peer.received]
        assert sum(answers) == (1 if dialler == "model" else 0)  # the exchange of the session's initiator counts
        await echo_check(t)


@diallers
@suites
async def test_keys_change_in_the_middle_of_a_transfer(dialler, suite):
    """By both sides: exchanges one after the other, epochs in between, and the node's clock for both."""
    async with talk(dialler, config=config_of(suite, epoch_s=1, rekey_s=1)) as t:

        def renew():
            if t.peer.keys.is_idle and t.peer.keys.number < 5 and not t.peer.control:
                t.peer.rekey()
            if t.peer.keys.send.record_idx > 5 and not t.peer.control:
                t.peer.epoch()

        t.model.steps.append(renew)
        await echo_check(t, 2 * MIB)
        t.model.steps.clear()
        assert t.peer.keys.number >= 5
        await echo_check(t)


@pytest.mark.slow
async def test_epochs_end_by_themselves_after_65536_records():
    async with asyncio.timeout(300), talk("model", config=config_of(padding="none")) as t:
        stream = t.peer.stream_open(frames.KIND_BYTES, bytes(Echo.id))
        n_bytes = 0

        def echo():
            nonlocal n_bytes
            if stream.n_received == n_bytes:
                t.peer.stream_read(stream)
                t.peer.stream_write(stream, b"x")
                n_bytes += 1
            return t.peer.keys.send.epoch == t.peer.keys.recv.epoch == 1

        await t.model.until(echo)
        assert not any(isinstance(frame, frames.Epoch) for frame in t.peer.received)
        await pong_barrier(t)
