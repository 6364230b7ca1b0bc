# SPDX-License-Identifier: MIT
"""A session over any cut of its bytes: keys that change, records that were touched, silence, time, the end."""

import json
import os
import random

import pytest
from core.crypto_help import ROOT, status
from core.endpoint_help import (
    AEGIS,
    BUSY,
    BYTES,
    CHACHA,
    GCM,
    IDLE,
    IN_PIPE,
    IN_STREAM,
    INTERNAL,
    MEMORY,
    NK,
    NONE,
    NORMAL,
    PROTOCOL,
    SECOND_NS,
    SHUTDOWN,
    TIMEOUT,
    UUID,
    WINDOW,
    XK,
    Pair,
    initiator_draws,
    link_key_of,
    record_of,
    suites_with,
    was_refused,
)
from core.frame_help import FRAMES
from hypothesis import given, settings
from hypothesis import strategies as st
from model.record import padded_len

from qg._core import wire

SUITES = [CHACHA, GCM, AEGIS]
TAG_LEN = {CHACHA: 16, GCM: 16, AEGIS: 32}
INNER_MAX = 16384
DISCARD_MIN, DISCARD_MAX = 16416, 32832
PING, PONG, HELLO, SERVICES, PEERS, OBSERVED, COVER = 0x01, 0x02, 0x03, 0x10, 0x11, 0x12, 0x18
EPOCH, REKEY1, REKEY2, REKEY_DONE = b"\x20", b"\x21", b"\x22", b"\x23"
RATE = 1000
FLIGHT_3_LEN = 320
LIGHT = 1
LAYERS = (IN_STREAM, IN_PIPE)

every_suite = pytest.mark.parametrize("suite", SUITES)


def garbage(endpoint, step=1000):
    """Feed until the session closes: how many bytes that took. Nothing may be said meanwhile."""
    total = 0
    while endpoint.state != "closed":
        assert endpoint.take() == b""
        endpoint.feed(b"\x55" * step)
        total += step
        assert total < 70_000
    assert endpoint.take() == b""
    return total


# However the bytes are cut


def act(endpoint):
    """Do what an application does: accept, read, echo; what it saw and what it has to say."""
    events = endpoint.events()
    for event in events:
        if event[0] == "open":
            endpoint.accept(event[1], WINDOW)
    seen = []
    for number in {event[1] for event in events if event[0] == "open"} | set(act.ids):
        act.ids.add(number)
        data = endpoint.received(number)
        endpoint.used(number, len(data))
        endpoint.write(number, data)
        seen.append((number, data))
    return events, sorted(seen), endpoint.take()


def tape_of(one, other):
    """Drive a session of every kind of step: what `other` was fed, and what it did at each step."""
    tape, answers = [], []
    act.ids = set()

    def step():
        data = one.take()
        tape.append(data)
        other.feed(data)
        answers.append(act(other))
        one.feed(answers[-1][2])

    one.connect(XK, link_key_of(other.ring))
    other.listen(1 << XK)
    step()
    step()
    ids = [one.open_stream(BYTES, NORMAL, WINDOW, UUID) for _ in range(3)]
    for number in ids:
        one.write(number, random.Random(number).randbytes(40_000))
    for _ in range(4):
        step()
    one.end_epoch()
    one.ping()
    step()
    one.start_rekey()
    step()
    step()
    one.write(ids[0], b"after the change of keys")
    one.finish(ids[1])
    one.reset(ids[2], BUSY)
    step()
    one.inject(b"\x40\x41\x03abc")
    step()
    one.close(IDLE)
    step()
    return tape, answers


def cuts(data, how, source):
    if how == "bytes":
        return [data[i : i + 1] for i in range(len(data))]
    ends = sorted(source.sample(range(len(data) + 1), min(len(data), source.randrange(1, 12))))
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


@pytest.mark.parametrize("how", ["bytes", "random 1", "random 2", "random 3"])
@every_suite
def test_any_cut_of_the_bytes_gives_the_same(endpoint, how, suite):
    options = {"suites": suites_with(suite)}
    one, other, again = (endpoint(side, seed=side.encode(), **options) for side in ("initiator", *["responder"] * 2))
    tape, answers = tape_of(one, other)
    assert other.state == "closed"
    other = again
    other.listen(1 << XK)
    act.ids = set()
    source = random.Random(how)
    for data, answer in zip(tape, answers, strict=True):
        for piece in cuts(data, how, source):
            other.feed(piece)
        assert act(other) == answer
    assert other.state == "closed"


# Records that were touched


@every_suite
def test_every_flipped_bit_of_a_record_is_met_with_silence(endpoint, suite):
    pair = Pair(*(endpoint(side, suites=suites_with(suite)) for side in ("initiator", "responder")))
    pair.connect()
    length = len(record_of(pair.one))
    for bit in range(8 * length):
        pair.connect()
        record = bytearray(record_of(pair.one))
        record[bit // 8] ^= 1 << bit % 8
        pair.other.events()
        pair.other.ping()
        pair.other.feed(bytes(record))
        if pair.other.state == "open":  # a longer record is waited for
            assert bit < 16
            pair.other.take()
        assert garbage(pair.other) >= DISCARD_MIN
        assert pair.other.status in (status.E_TAG, status.E_LENGTH)
        assert pair.other.events() == [("closed", PROTOCOL, False)]


@pytest.mark.parametrize("what", ["again", "reflected", "out of turn"])
def test_a_record_in_the_wrong_place_is_met_with_silence(connect, what):
    pair = connect()
    first, second = record_of(pair.one), record_of(pair.one)
    if what == "again":
        pair.other.feed(first)
    wrong = {"again": first, "reflected": record_of(pair.other), "out of turn": second}[what]
    pair.other.feed(wrong)
    assert pair.other.state == "discard"
    assert pair.other.status in (status.E_TAG, status.E_LENGTH)
    garbage(pair.other)


def spoil(pair):
    """Make the other side meet a record whose tag is wrong."""
    record = bytearray(record_of(pair.one))
    record[-1] ^= 1
    pair.other.feed(bytes(record))
    assert pair.other.state == "discard"


def test_a_bad_record_is_followed_by_a_random_amount_of_reading(endpoint):
    pair, lengths = Pair(endpoint("initiator"), endpoint("responder")), set()
    for _ in range(30):
        pair.connect()
        spoil(pair)
        lengths.add(garbage(pair.other, 16))
    assert len(lengths) > 20
    assert min(lengths) >= DISCARD_MIN
    assert max(lengths) <= DISCARD_MAX + 16


@pytest.mark.parametrize("wrong", ["tag", "length"])
def test_what_came_in_one_piece_with_the_bad_record_counts_like_what_comes_later(endpoint, wrong):
    def spoiled(n_behind, step):
        """A session fed with a bad record and bytes behind it, `step` at a time."""
        pair = Pair(endpoint("initiator", seed=b"i"), endpoint("responder", seed=b"r"))
        pair.connect()
        record = bytearray(record_of(pair.one))
        data = (
            record[:-1] + bytes([record[-1] ^ 1]) if wrong == "tag" else bytes([record[0] ^ 0xFF, record[1]])
        ) + bytes(n_behind)
        for start in range(0, len(data), step):
            pair.other.feed(bytes(data[start : start + step]))
        return pair.other

    def closes_at(step):
        return next(n for n in range(DISCARD_MIN, DISCARD_MAX + 1, 256) if spoiled(n, step).state == "closed")

    assert closes_at(100) == closes_at(1 << 20)


def test_a_bad_record_is_read_behind_for_at_most_10_seconds(connect):
    pair = connect()
    spoil(pair)
    pair.other.tick(pair.other.now_ns + 10 * SECOND_NS - 1)
    assert pair.other.state == "discard"
    assert pair.other.deadline_ns == pair.other.now_ns + 1
    pair.other.tick(pair.other.now_ns + 1)
    assert pair.other.state == "closed"


def test_keys_go_at_once_when_a_record_is_bad(connect):
    pair = connect()
    number = pair.stream(bytes(3000))
    pair.other.write(number, bytes(3000))
    spoil(pair)
    assert pair.other.exporter is None
    assert pair.other.held[0] == pair.other.held[2] == 0
    assert ("gone", number) in pair.other.events()


def test_in_a_layer_a_bad_record_ends_it_at_once(endpoint):
    pair = Pair(endpoint("initiator"), endpoint("responder"))
    pair.connect(NK, LAYERS)
    record = bytearray(record_of(pair.one))
    record[-1] ^= 1
    pair.other.feed(bytes(record))
    assert pair.other.state == "closed"
    assert pair.other.take() == b""


def test_a_record_that_does_not_come_whole_in_20_seconds_ends_the_session(connect):
    for length in (1, 2, 30):
        pair = connect()
        pair.other.feed(record_of(pair.one)[:length])
        pair.other.tick(pair.other.now_ns + 20 * SECOND_NS - 1)
        assert pair.other.state == "open"
        pair.other.tick(pair.other.now_ns + 1)
        assert (pair.other.state, pair.other.reason) == ("closed", TIMEOUT)


def test_an_idle_session_holds_no_blocks(connect):
    pair = connect()
    pair.stream(bytes(50_000))
    for side in (pair.one, pair.other):
        assert side.held[0] == 0
        assert side.held[2] == 1


# What a record may hold

WRONG = json.loads((ROOT / "tests" / "kat" / "frame.json").read_text())["invalid"]


@pytest.mark.parametrize(
    "answer", [answer for answer in WRONG if "relay target" not in answer["why"]], ids=lambda answer: answer["why"]
)
def test_a_wrong_frame_ends_the_session_with_its_reason(connect, answer):
    pair = connect(padding=0)
    pair.one.inject(bytes.fromhex(answer["inner"]))
    pair.other.feed(pair.one.take())
    assert was_refused(pair, pair.other.status)
    assert pair.other.failures == {pair.other.status: 1}


RECORDS = st.lists(st.lists(FRAMES, max_size=4).map(lambda made: b"".join(data for _, data in made)), max_size=8)


@settings(max_examples=400)
@given(records=RECORDS)
def test_whatever_frames_come_the_session_goes_on_or_says_close(pairs, records):
    with pairs(rights=(0b1111, 3, 3)) as pair:
        pair.stream()
        pair.stream(opener=pair.other)
        for record in records:
            if pair.one.state == "open" and len(record) <= INNER_MAX:
                pair.one.inject(record)
                pair.other.feed(pair.one.take())
                pair.other.tick(pair.other.now_ns + SECOND_NS // 10)
                pair.other.take()
        # A side that was made to say EPOCH does not know that it did: its next record is bad.
        assert pair.other.state in ("open", "closed", "discard")
        assert (pair.other.state == "open") == (pair.other.status == 0 and not pair.other.is_remote)


@pytest.mark.parametrize("kind", [COVER, 0x40, 0x1234, 1 << 40])
def test_frames_without_meaning_are_skipped(connect, kind):
    pair = connect()
    frame = wire.build_varint(kind) + b"\x44\x00" + bytes(1024)
    for _ in range(3 * RATE):
        pair.one.inject(frame)
        pair.other.feed(pair.one.take())
    assert pair.other.state == "open"
    assert pair.other.take() == b""
    assert pair.other.events() == []


@pytest.mark.parametrize("frame", [EPOCH, EPOCH + bytes(200), b"\x40\x41\x00" + EPOCH + b"\0"])
def test_only_padding_may_follow_the_end_of_an_epoch(connect, frame):
    pair = connect()
    pair.one.inject(frame)
    pair.other.feed(pair.one.take())
    assert pair.other.state == "open"
    assert pair.other.receiving == (0, 1, pair.one.sending[2])


@pytest.mark.parametrize("frame", [wire.build_hello(), wire.build_hello(None)])
def test_hello_comes_once(connect, frame):
    pair = connect()
    pair.one.inject(frame)
    pair.other.feed(pair.one.take())
    assert was_refused(pair, status.E_STATE)


def test_the_stricter_padding_and_the_limits_of_hello_are_in_force(endpoint):
    one, other = endpoint("initiator", padding=0), endpoint("responder", padding=2)
    one.rights = (7, 5, 6)
    pair = Pair(one, other)
    pair.connect()
    assert other.peer_hello == (1048576, 5, 6, 1048576, 0)
    assert one.peer_hello == (1048576, 1024, 1024, 1048576, 2)
    for side in (one, other):
        assert len(record_of(side)) == 2 + 1024 + 32


def test_notices_are_lawful_between_known_peers_and_a_violation_in_an_anonymous_layer(endpoint, connect):
    frames = {
        SERVICES: b"\x10\x01" + UUID + b"\x00",
        PEERS: b"\x11\x01\x05abcde",
        OBSERVED: b"\x12" + wire.build_address((4, bytes([192, 0, 2, 1]), 7447)),
    }
    for frame in frames.values():
        pair = connect()
        pair.one.inject(frame)
        pair.pump()
        assert pair.other.state == "open"
        pair.connect(NK, LAYERS)
        for side, peer in ((pair.one, pair.other), (pair.other, pair.one)):
            pair.connect(NK, LAYERS)
            side.inject(frame)
            peer.feed(side.take())
            assert peer.status == status.E_KIND


# Sizes


def record_len(suite, inner_len):
    return 2 + inner_len + TAG_LEN[suite]


@every_suite
@pytest.mark.parametrize("mode", range(4))
def test_records_have_the_sizes_of_the_padding_in_force(endpoint, suite, mode):
    options = {"suites": suites_with(suite), "padding": mode}
    pair = Pair(endpoint("initiator", **options), endpoint("responder", **options))
    pair.connect()
    number = pair.stream()
    for length in (1, 57, 60, 61, 200, 1000, 1100, 4000, 9000, 16_000, 16_379):
        pair.one.write(number, bytes(length))
        expected = padded_len(mode, 2 + len(wire.build_varint(length)) + length)
        assert len(pair.one.take()) == record_len(suite, expected)
        pair.other.used(number, length)
        pair.one.feed(pair.other.take())


@pytest.mark.parametrize("mode", range(4))
def test_until_hello_is_read_at_least_the_default_padding_is_in_force(endpoint, mode):
    pair = Pair(endpoint("initiator", padding=mode), endpoint("responder", padding=mode))
    pair.one.draw_first(initiator_draws())
    pair.one.connect(XK, link_key_of(pair.other.ring))
    pair.other.listen(1 << XK)
    pair.other.feed(pair.one.take())
    pair.one.feed(pair.other.take())
    hello = wire.build_hello(HELLO_VALUES | {"padding": mode})
    inner_len = padded_len(max(mode, LIGHT), len(hello))
    assert len(pair.one.take()) == FLIGHT_3_LEN + record_len(AEGIS, inner_len)


HELLO_VALUES = {
    "session_credit": 1048576,
    "max_service_streams": 1024,
    "max_pipes": 1024,
    "max_message": 1048576,
    "padding": 1,
    "worker": 0,
    "n_workers": 0,
    "instance": bytes(8),
    "terms": None,
    "services": [],
}


@pytest.mark.parametrize("room", [0, 1, 100, 127, 128, 200, 500, 1000, 1500, 5000, 20_000])
def test_a_record_is_never_larger_than_the_room_of_its_carrier(connect, room):
    pair = connect()
    number = pair.stream()
    data = bytes(1 + i % 251 for i in range(20_000))
    pair.one.write(number, data)
    pair.one.room = room
    record = pair.one.take()
    assert len(record) <= room
    assert (record == b"") == (room < 128)
    pair.other.feed(record)
    pair.one.room = 1 << 30
    pair.pump()
    assert pair.other.received(number) == data


def test_a_flight_waits_for_room(endpoint):
    one, other = endpoint("initiator"), endpoint("responder")
    for layer, enough in ((0, 3543), (IN_STREAM, 2048)):
        one.connect(XK, link_key_of(other.ring), None, layer)
        one.room = enough - 1
        assert one.take() == b""
        one.room = enough
        assert one.take() != b""


def test_small_frames_share_a_record(connect):
    pair = connect()
    ids = [pair.stream() for _ in range(50)]
    before = pair.one.sending[2]
    for number in ids:
        pair.one.write(number, b"ten bytes.")
    pair.pump()
    assert pair.one.sending[2] == before + 1
    assert all(pair.other.received(number) == b"ten bytes." for number in ids)


# Alive or dead


def test_a_ping_is_answered_and_its_time_measured(connect):
    pair = connect()
    pair.one.ping()
    ping = pair.one.take()
    pair.one.tick(pair.one.now_ns + 123_000_000)
    pair.other.feed(ping)
    pair.one.feed(pair.other.take())
    assert pair.one.events() == [("pong", 123_000_000)]
    pair.other.ping()
    pair.pump()
    assert pair.other.events() == [("pong", 0)]


def test_a_pong_that_nobody_asked_for_is_ignored(connect):
    pair = connect()
    pair.other.ping()
    pair.one.inject(wire.build_ping(PONG, 1))
    pair.other.feed(pair.one.take())
    assert pair.other.events() == []
    pair.pump()
    assert pair.other.events() == [("pong", 0)]


def test_one_ping_is_under_way_at_a_time(connect):
    pair = connect()
    pair.one.ping()
    before = len(pair.one.take())
    assert pair.one.ping() == status.OK
    assert before > 0
    assert pair.one.take() == b""


def test_idle_sessions_stay_alive_by_pings(connect):
    pair = connect()
    before = pair.one.sending[2]
    pair.run(3600)
    assert (pair.one.state, pair.other.state) == ("open", "open")
    n_records = pair.one.sending[2] if pair.one.sending[0] == 0 else 10**9
    assert n_records - before > 3600 / 60 or pair.one.sending[0] > 0


def test_a_peer_that_fell_silent_is_dead_after_60_seconds(connect):
    pair = connect()
    started = pair.one.now_ns
    pings = []
    while pair.one.state == "open":
        pair.one.tick(max(pair.one.deadline_ns, pair.one.now_ns + 1))
        if pair.one.take():
            pings.append((pair.one.now_ns - started) / SECOND_NS)
    assert (pair.one.state, pair.one.reason) == ("closed", TIMEOUT)
    assert (pair.one.now_ns - started) / SECOND_NS == 60
    assert len(pings) == 1
    assert 15 <= pings[0] <= 30
    assert pair.one.events() == [("closed", TIMEOUT, False)]


def test_any_record_is_a_sign_of_life(connect):
    pair = connect()
    for _ in range(20):
        pair.tick(pair.one.now_ns + 59 * SECOND_NS)
        pair.one.feed(record_of(pair.other))
        pair.other.feed(record_of(pair.one))
    assert (pair.one.state, pair.other.state) == ("open", "open")


# Rates


def frames_at_once(pair, frame, count):
    """Send a frame many times, packed into records."""
    per_record = 1500 // len(frame)
    for start in range(0, count, per_record):
        pair.one.inject(frame * min(per_record, count - start))
        pair.other.feed(pair.one.take())


LIMITED = {
    "PING": wire.build_ping(PING, 1),
    "SERVICES": b"\x10\x00\x00",
    "PEERS": b"\x11\x00",
    "OBSERVED": b"\x12" + wire.build_address((4, bytes([192, 0, 2, 1]), 7447)),
    "RESET": wire.build_reset(1, 0, 0),
    "CREDIT": wire.build_offset(0x0C, 1, 1 << 30),
    "SESSION_CREDIT": wire.build_offset(0x0E, 0, 1 << 30),
}


@pytest.mark.parametrize("name", LIMITED)
def test_frames_that_cost_work_are_limited_to_1000_a_second(connect, name):
    pair = connect()
    number = pair.stream()
    pair.one.finish(number)
    pair.other.finish(number)
    pair.pump()
    pair.run(1.5)
    for _ in range(3):
        frames_at_once(pair, LIMITED[name], RATE)
        assert pair.other.state == "open"
        pair.pump()
        pair.tick(pair.one.now_ns + SECOND_NS)
    frames_at_once(pair, LIMITED[name], RATE)
    pair.pump()
    frames_at_once(pair, LIMITED[name], 1)
    assert was_refused(pair, status.E_RATE)


def test_the_limited_kinds_share_their_limit(connect):
    pair = connect()
    pair.run(1.5)
    frames_at_once(pair, LIMITED["SERVICES"], RATE // 2)
    frames_at_once(pair, LIMITED["PEERS"], RATE // 2)
    assert pair.other.state == "open"
    frames_at_once(pair, LIMITED["OBSERVED"], 1)
    assert pair.other.status == status.E_RATE


def test_credit_is_allowed_for_what_was_sent(connect):
    """One CREDIT more for each 8 KiB of payload that went to the side that gives it."""
    pair = connect()
    pair.run(1.5)
    number = pair.stream(opener=pair.other)
    pair.one.grant(number, 900_000)
    pair.pump()
    pair.run(1.5)
    pair.other.write(number, bytes(819_200))
    pair.other.take()
    credit = wire.build_offset(0x0C, number, 900_000)
    frames_at_once(pair, credit, RATE + 100)
    assert pair.other.state == "open"
    frames_at_once(pair, credit, 20)
    assert pair.other.status == status.E_RATE


def test_the_end_of_open_streams_may_come_all_at_once(connect):
    """A relay that loses a link has to reset all that was spliced to it."""
    pair = connect()
    numbers = []
    for _ in range(3):
        pair.run(1.5)
        numbers += [pair.stream() for _ in range(340)]
    pair.run(1.5)
    for number in numbers:
        pair.one.reset(number, 0)
    frames_at_once(pair, LIMITED["PING"], RATE)
    assert pair.other.state == "open"
    frames_at_once(pair, LIMITED["RESET"], 1)  # of a stream that is gone
    assert pair.other.status == status.E_RATE


def test_a_peer_that_makes_us_talk_and_does_not_read_is_closed(connect):
    pair = connect()
    for _ in range(10):
        frames_at_once(pair, LIMITED["PING"], RATE)
        pair.tick(pair.one.now_ns + SECOND_NS)
    assert pair.other.status == status.E_FULL
    assert pair.other.state == "closing" or pair.other.state == "closed"
    assert pair.other.held[0] < 60


# The end


@pytest.mark.parametrize("reason", [NONE, INTERNAL, SHUTDOWN, IDLE])
def test_a_close_carries_its_reason(connect, reason):
    pair = connect()
    number = pair.stream(b"unread")
    pair.one.close(reason)
    assert pair.one.state == "closing"
    pair.pump()
    assert (pair.one.state, pair.other.state) == ("closed", "closed")
    assert pair.one.events() == [("accepted", number), ("gone", number), ("closed", reason, False)]
    assert pair.other.events() == [("open", number), ("gone", number), ("closed", reason, True)]
    assert pair.other.received(number) == b"unread"


def test_an_unknown_reason_reads_as_none(connect):
    pair = connect()
    pair.one.inject(wire.build_close(1000, "von außen".encode()))
    pair.other.feed(pair.one.take())
    assert pair.other.events() == [("closed", NONE, True)]


def test_a_close_that_cannot_leave_ends_after_two_seconds(connect):
    pair = connect()
    pair.one.room = 0
    pair.one.close(SHUTDOWN)
    pair.one.tick(pair.one.now_ns + 2 * SECOND_NS - 1)
    assert pair.one.state == "closing"
    pair.one.tick(pair.one.now_ns + 1)
    assert pair.one.state == "closed"


def test_nothing_comes_in_or_goes_out_after_the_end(connect):
    pair = connect()
    late = record_of(pair.other)
    pair.one.drop(BUSY)
    assert pair.one.events() == [("closed", BUSY, False)]
    assert pair.one.take() == b""
    pair.one.feed(late)
    pair.one.tick(pair.one.now_ns + 100 * SECOND_NS)
    assert pair.one.ping() == status.E_CLOSED
    pair.one.close(SHUTDOWN)
    pair.one.drop(SHUTDOWN)
    assert pair.one.take() == b""
    assert pair.one.events() == []
    assert pair.one.exporter is None


def test_while_closing_nothing_is_read(connect):
    pair = connect()
    pair.one.close(SHUTDOWN)
    pair.one.feed(record_of(pair.other))
    pair.one.feed(b"\x55" * 100)
    assert pair.one.state == "closing"
    pair.pump()
    assert pair.other.reason == SHUTDOWN


def test_a_close_in_the_middle_of_a_record_ends_it_there(connect):
    pair = connect()
    pair.one.inject(wire.build_close(BUSY, b"") + wire.build_ping(PING, 1) + b"\x05")
    pair.other.feed(pair.one.take())
    assert pair.other.events() == [("closed", BUSY, True)]
    assert pair.other.status == status.OK


def test_without_memory_the_session_ends_and_holds_nothing(connect):
    pair = connect()
    record = record_of(pair.one)
    pair.other.memory_len = 0
    pair.other.feed(record[:10])
    assert (pair.other.state, pair.other.reason) == ("closed", MEMORY)
    assert pair.other.held[0] == pair.other.held[2] == 0


def test_an_endpoint_may_be_used_again(endpoint):
    pair = Pair(endpoint("initiator"), endpoint("responder"))
    for _ in range(3):
        pair.connect()
        number = pair.stream(b"hello")
        assert number == 1
        assert pair.other.received(number) == b"hello"
    pair.one.clear()
    assert pair.one.held == (0, 0, 0)


def test_a_forked_child_cannot_speak_for_the_session(connect):
    pair = connect()
    number = pair.stream()
    pair.one.write(number, b"the parent's words")
    child = os.fork()
    if child == 0:
        try:
            said, state, other = pair.one.take(), pair.one.state, pair.other.listen(1 << XK)
        finally:
            os._exit(0 if (said, state) == (b"", "closed") and other == status.E_MEMORY else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    pair.pump()
    assert pair.other.received(number) == b"the parent's words"
