# SPDX-License-Identifier: MIT
"""Streams of a session stay within their credit, and that of the session (protocol.md 6.7)."""

import pytest
from core.crypto_help import status
from core.endpoint_help import (
    BYTES,
    CANCELLED,
    EARLY,
    HOPS,
    NONE,
    NORMAL,
    PIPE,
    PROTOCOL,
    SECOND_NS,
    SESSION_WINDOW,
    SLOW_READER,
    UUID,
    WINDOW,
    is_closed_for,
    read,
    send_raw,
)

from qg._core import wire

OPEN, ACCEPT, DATA, DATA_FIN, CREDIT, RESET, SESSION_CREDIT = range(0x08, 0x0F)
EARLY_PIPE = 4096
MIB = 1 << 20
WINDOW_MAX = 1 << 20
SESSION_WINDOW_MAX = 8 << 20
INNER_MAX = 16384
RECORD_ROOM = 2 + 16384 + 32  # a carrier that takes one large record at a time


# Credit of a stream


@pytest.mark.parametrize(("kind", "opening", "early"), [(BYTES, UUID, EARLY), (PIPE, b"\x08", EARLY_PIPE)])
def test_before_accept_the_opener_sends_only_so_much(connect, kind, opening, early):
    pair = connect()
    number = pair.one.open_stream(kind, NORMAL, WINDOW, opening)
    pair.one.write(number, bytes(100_000))
    pair.pump()
    assert early * 0.9 < len(pair.other.received(number)) <= early
    pair.other.accept(number, WINDOW)
    pair.pump()
    assert early < pair.other.offsets(number)[2] <= WINDOW


def test_the_acceptor_may_send_at_once(connect):
    pair = connect()
    number = pair.one.open_stream(BYTES, NORMAL, 10_000, UUID)
    pair.pump()
    pair.other.write(number, bytes(50_000))
    pair.other.accept(number, WINDOW)
    pair.pump()
    assert len(pair.one.received(number)) == 10_000


@pytest.mark.parametrize("credit", [1500, 5000, 10_000, 16_000, 30_000])
def test_padding_behind_a_part_leaves_the_rest_as_it_was(connect, credit):
    """What is sealed in its place borrows the bytes behind it for the padding."""
    pair = connect()
    number = pair.one.open_stream(BYTES, NORMAL, credit, UUID)
    pair.pump()
    data = bytes(1 + i % 251 for i in range(60_000))
    pair.other.write(number, data)
    pair.pump()
    got = pair.one.received(number)
    assert 0 < len(got) <= credit
    pair.one.grant(number, 60_000)
    pair.pump()
    assert got + pair.one.received(number) == data


def test_an_unread_stream_stops_within_its_window_and_goes_on_when_read(connect):
    pair = connect()
    number = pair.stream()
    data = bytes(i % 251 for i in range(300_000))
    pair.one.write(number, data)
    pair.pump()
    got = b""
    while len(got) < len(data):
        assert pair.one.take() == b""
        chunk = pair.other.received(number)
        assert 0 < len(chunk) <= WINDOW
        got += chunk
        for _ in range(10):  # slowly, so that the window does not grow
            pair.tick(pair.one.now_ns + SECOND_NS)
            pair.other.used(number, len(chunk) // 10)
        pair.other.used(number, len(chunk) - len(chunk) // 10 * 10)
        pair.pump()
    assert got == data


def test_the_last_bytes_of_credit_wait_where_more_is_sure_to_come(connect):
    """Else a record would carry a few bytes for each window (RFC 1122, 4.2.3.4)."""
    pair = connect()
    number = pair.stream()
    full = INNER_MAX - 4  # payload of the largest record
    pair.one.write(number, bytes(20 * full))
    pair.pump()
    assert pair.one.offsets(number)[0] == 4 * full == WINDOW - 16
    pair.one.room = RECORD_ROOM
    while pair.one.offsets(number)[0] < 20 * full:
        read(pair.other, number)
        pair.one.feed(pair.other.take())
        before = pair.one.offsets(number)[0]
        pair.other.feed(pair.one.take())
        assert pair.one.offsets(number)[0] - before == full


def test_the_last_bytes_of_credit_are_used_for_what_is_the_last(connect):
    pair = connect()
    number = pair.stream()
    pair.one.write(number, bytes(WINDOW))
    pair.pump()
    assert pair.one.offsets(number)[0] == WINDOW


def test_credit_comes_when_a_quarter_of_a_window_is_unannounced(connect):
    pair = connect()
    number = pair.stream()
    pair.one.write(number, bytes(WINDOW))
    pair.pump()
    quarter = WINDOW // 4
    pair.other.used(number, quarter - 1)
    assert pair.other.take() == b""
    pair.other.used(number, 1)
    pair.pump()
    assert pair.one.offsets(number)[1] == quarter + WINDOW


def test_a_reader_that_keeps_up_gets_a_larger_window(connect):
    pair = connect()
    number = pair.stream()
    seen = []
    for _ in range(200):
        pair.one.write(number, bytes(100_000))
        pair.pump()
        seen.append(len(read(pair.other, number)))
        pair.tick(pair.one.now_ns + 1_000_000)
    sent, limit, _, _ = pair.one.offsets(number)
    assert limit - sent > 8 * WINDOW
    assert limit - sent <= WINDOW_MAX
    assert pair.one.session_credit[1] - pair.one.session_credit[0] <= SESSION_WINDOW_MAX


def test_a_reader_that_is_slow_keeps_its_window(connect):
    pair = connect()
    number = pair.stream()
    for _ in range(60):
        pair.one.write(number, bytes(20_000))
        pair.pump()
        read(pair.other, number)
        pair.run(0.5)
    _, _, got, limit = pair.other.offsets(number)
    assert limit - got <= WINDOW


@pytest.mark.parametrize(("kind", "opening", "early"), [(BYTES, UUID, EARLY), (PIPE, b"\x08", EARLY_PIPE)])
def test_more_than_the_stream_may_is_answered_by_a_reset(connect, kind, opening, early):
    pair = connect()
    number = pair.one.open_stream(kind, NORMAL, WINDOW, opening)
    pair.pump()
    assert send_raw(pair, wire.build_data(number, bytes(1000))) == status.OK
    assert send_raw(pair, wire.build_data(number, bytes(early - 1000))) == status.OK
    assert pair.other.offsets(number)[2:] == (early, early)
    assert send_raw(pair, wire.build_data(number, b"x")) == status.OK
    assert ("gone", number) in pair.other.events()
    assert pair.other.state == "open"
    assert len(pair.other.received(number)) == early
    pair.pump()
    assert pair.one.events() == [("reset", number, PROTOCOL), ("gone", number)]


@pytest.mark.parametrize("frame", [wire.build_data(1, b"x"), wire.build_data(1, b"", DATA_FIN)])
def test_data_behind_the_fin_is_a_violation(connect, frame):
    pair = connect()
    pair.stream()
    send_raw(pair, wire.build_data(1, b"", DATA_FIN))
    assert send_raw(pair, frame) == status.E_STATE
    assert is_closed_for(pair, status.E_STATE)


def test_credit_never_falls(connect):
    pair = connect()
    number = pair.stream(opener=pair.other)
    limit = pair.other.offsets(number)[1]
    assert send_raw(pair, wire.build_offset(CREDIT, number, limit)) == status.OK
    assert send_raw(pair, wire.build_offset(CREDIT, number, limit - 1)) == status.E_CREDIT
    assert is_closed_for(pair, status.E_CREDIT)


@pytest.mark.parametrize("frame", [ACCEPT, CREDIT])
def test_credit_never_falls_below_what_the_opener_has_already(connect, frame):
    pair = connect()
    number = pair.other.open_stream(BYTES, NORMAL, WINDOW, UUID)
    pair.pump()
    assert send_raw(pair, wire.build_offset(frame, number, EARLY - 1)) == status.E_CREDIT
    assert is_closed_for(pair, status.E_CREDIT)


def test_a_stream_is_accepted_once_and_by_its_acceptor(connect):
    pair = connect()
    mine, theirs = pair.stream(), pair.stream(opener=pair.other)
    assert send_raw(pair, wire.build_offset(ACCEPT, theirs, 1 << 20)) == status.E_STATE
    pair = connect()
    assert pair.stream() == mine
    assert send_raw(pair, wire.build_offset(ACCEPT, mine, 1 << 20)) == status.E_STATE
    assert pair.one.accept(mine, WINDOW) == status.E_STATE


def test_offsets_count_up_to_the_largest_varint(connect):
    pair = connect()
    number = pair.stream(opener=pair.other)
    largest = (1 << 62) - 1
    assert send_raw(pair, wire.build_offset(CREDIT, number, largest)) == status.OK
    assert send_raw(pair, wire.build_offset(SESSION_CREDIT, 0, largest)) == status.OK
    pair.other.write(number, bytes(3 << 20))
    pair.other.take()
    assert pair.other.offsets(number)[:2] == (3 << 20, largest)


# Credit of the session


def test_the_session_stops_at_its_credit_and_goes_on(connect):
    pair = connect()
    ids = [pair.stream() for _ in range(20)]
    for number in ids:
        pair.one.write(number, bytes(WINDOW))
    pair.pump()
    assert pair.one.session_credit[:2] == (SESSION_WINDOW, SESSION_WINDOW)
    assert pair.one.take() == b""
    got = 0
    for number in ids:
        got += len(read(pair.other, number))
    assert got == SESSION_WINDOW
    pair.pump()
    got += sum(len(read(pair.other, number)) for number in ids)
    assert got == 20 * WINDOW


def test_pipes_do_not_count_for_the_session(connect):
    pair = connect()
    ids = [pair.stream(kind=PIPE, opening=b"\x08") for _ in range(20)]
    for number in ids:
        pair.one.write(number, bytes(WINDOW))
    pair.pump()
    assert pair.one.session_credit[0] == 0
    assert sum(len(pair.other.received(number)) for number in ids) >= 20 * WINDOW * 3 // 4


def test_late_data_of_a_pipe_does_not_count_for_the_session(connect):
    pair = connect()
    pipe = pair.stream(kind=PIPE, opening=b"\x08")
    pair.one.write(pipe, bytes(5000))
    late = pair.one.take()
    pair.other.reset(pipe, HOPS)
    pair.other.feed(late)
    assert pair.other.state == "open"
    assert pair.other.session_credit[2] == 0


def test_more_than_the_session_may_ends_it(connect):
    pair = connect()
    number = pair.stream(credit=4 << 20)
    for _ in range(64):
        assert send_raw(pair, wire.build_data(number, bytes(EARLY - 8))) == status.OK
    left = SESSION_WINDOW - 64 * (EARLY - 8)
    assert send_raw(pair, wire.build_data(number, bytes(left))) == status.OK
    assert send_raw(pair, wire.build_data(number, b"x")) == status.E_CREDIT
    assert is_closed_for(pair, status.E_CREDIT)


def test_session_credit_never_falls(connect):
    pair = connect()
    assert send_raw(pair, wire.build_offset(SESSION_CREDIT, 0, SESSION_WINDOW)) == status.OK
    assert send_raw(pair, wire.build_offset(SESSION_CREDIT, 0, SESSION_WINDOW - 1)) == status.E_CREDIT


# Who does not read


def test_a_session_whose_credit_is_used_up_loses_the_stream_that_was_not_read_for_longest(connect):
    pair = connect()
    first, second, third = (pair.stream(bytes(MIB // 2), credit=MIB // 2) for _ in range(3))  # half of it each
    pair.run(5)
    pair.other.used(first, 1)
    pair.one.write(third, bytes(WINDOW))
    pair.run(4.9)
    assert pair.other.slow == (SESSION_WINDOW - 1, 0, 0, 0)
    assert pair.other.events()[-1] == ("open", third)
    pair.run(0.2)
    assert pair.one.events()[-2:] == [("reset", second, SLOW_READER), ("gone", second)]
    assert pair.other.events() == [("gone", second)]
    assert pair.other.slow[1:] == (0, 1, 0)
    # What it held is credit for the others.
    assert pair.other.offsets(third)[2] > 0
    assert (pair.one.state, pair.other.state) == ("open", "open")


def test_a_reader_that_comes_in_time_loses_no_stream(connect):
    pair = connect()
    first, second = (pair.stream(bytes(MIB // 2), credit=MIB // 2) for _ in range(2))
    pair.run(9.9)
    read(pair.other, first)
    pair.run(60)
    assert pair.other.slow == (MIB // 2, 0, 0, 0)
    assert pair.other.offsets(second) is not None


def test_a_peer_that_takes_nothing_of_a_full_queue_for_30_seconds_is_closed(connect):
    pair = connect()
    number = pair.stream()
    pair.one.write(number, bytes(4 * MIB + WINDOW))
    pair.run(29.9)
    assert pair.one.state == "open"
    pair.run(0.2)
    assert pair.one.events()[-1] == ("closed", SLOW_READER, False)
    assert pair.other.events()[-1] == ("closed", SLOW_READER, True)
    assert pair.one.slow[1] == 1


def test_a_queue_that_is_not_full_waits_for_ever(connect):
    pair = connect()
    number = pair.stream()
    pair.one.write(number, bytes(4 * MIB - 1))
    pair.run(200)
    assert (pair.one.state, pair.one.slow[1]) == ("open", 0)


def test_a_peer_that_takes_a_little_of_a_full_queue_is_slow_and_no_more(connect):
    pair = connect()
    number = pair.stream()
    pair.one.write(number, bytes(5 * MIB))
    for _ in range(10):
        pair.run(20)
        read(pair.other, number)
    assert pair.one.state == "open"
    pair.run(31)  # more than half of a full queue waits still
    assert pair.one.events()[-1] == ("closed", SLOW_READER, False)


def test_windows_shrink_when_half_of_what_a_node_may_hold_is_unread(connect):
    pair = connect()
    bulk, other = pair.stream(), pair.stream()
    pair.other.receive_len = 100 * MIB
    for _ in range(100):
        pair.one.write(bulk, bytes(MIB))
        pair.pump()
        read(pair.other, bulk)
    sent, limit, *_ = pair.one.session_credit
    assert limit - sent > 4 * MIB
    pair.one.write(other, bytes(WINDOW))
    pair.pump()
    pair.other.receive_len = 2 * WINDOW - 1
    for _ in range(200):
        pair.one.write(bulk, bytes(WINDOW))
        pair.pump()
        read(pair.other, bulk)
    sent, limit, *_ = pair.one.session_credit
    assert limit - sent <= SESSION_WINDOW
    assert pair.one.offsets(bulk)[0] > 100 * MIB


def test_no_credit_is_given_while_a_node_holds_nine_tenths_of_what_it_may(connect):
    pair = connect()
    number, other = pair.stream(), pair.stream(bytes(WINDOW))
    pair.other.receive_len = WINDOW * 10 // 9
    before = pair.one.session_credit[1]
    while pair.one.session_credit[0] < before - 2 * WINDOW:
        pair.one.write(number, bytes(WINDOW))
        pair.pump()
        read(pair.other, number)
    pair.run(3)
    assert pair.one.session_credit[1] == before
    assert pair.other.slow[3] > 0
    read(pair.other, other)
    pair.run(0.5)  # nothing comes meanwhile: the session looks by itself
    assert pair.one.session_credit[1] > before
    assert pair.other.slow[0] == 0


def test_a_session_that_holds_nothing_gets_credit_however_much_others_hold(connect):
    pair = connect()
    number = pair.stream()
    pair.other.receive_len = 0
    while pair.one.session_credit[0] < 3 * SESSION_WINDOW:
        pair.one.write(number, bytes(WINDOW))
        pair.pump()
        assert read(pair.other, number)
    assert pair.one.session_credit[1] - pair.one.session_credit[0] <= SESSION_WINDOW


def test_what_a_session_held_is_given_back_with_it(connect):
    pair = connect()
    for _ in range(4):
        pair.stream(bytes(WINDOW))
    pair.one.reset(1, CANCELLED)
    pair.pump()
    assert pair.other.slow[0] == 3 * WINDOW
    pair.one.close(NONE)
    pair.pump()
    assert pair.other.slow[0] == 0
