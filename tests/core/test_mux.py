# SPDX-License-Identifier: MIT
"""Streams of a session: whole, in order, within their credit, in turns by class (protocol.md 6.4, 6.7, 7)."""

import pytest
from core.crypto_help import status
from core.endpoint_help import (
    BUSY,
    BYTES,
    CANCELLED,
    DELAYED,
    EARLY,
    EXPEDITED,
    HOPS,
    IN_PIPE,
    IN_STREAM,
    KINDS_LINK,
    KINDS_RELAY,
    MESSAGES,
    NK,
    NONE,
    NORMAL,
    PIPE,
    PROTOCOL,
    REFUSED,
    RELAY,
    SECOND_NS,
    SESSION_WINDOW,
    SLOW_READER,
    UUID,
    WINDOW,
    Pair,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from qg._core import wire

OPEN, ACCEPT, DATA, DATA_FIN, CREDIT, RESET, SESSION_CREDIT = range(0x08, 0x0F)
EARLY_PIPE = 4096
MIB = 1 << 20
WINDOW_MAX = 1 << 20
SESSION_WINDOW_MAX = 8 << 20
INNER_MAX = 16384
RECORD_ROOM = 2 + 16384 + 32  # a carrier that takes one large record at a time
TARGET = wire.build_open_relay(bytes(32), bytes(32), [(4, bytes([192, 0, 2, 1]), 7447)])


def read(endpoint, number):
    """Take what has come and give its credit back."""
    data = endpoint.received(number)
    endpoint.used(number, len(data))
    return data


def send_raw(pair, *frames):
    """Let `one` say frames that its own bookkeeping knows nothing of; the code with which `other` refuses them."""
    pair.one.inject(b"".join(frames))
    return pair.other.feed(pair.one.take())


def is_closed_for(pair, code):
    """Whether the other side met a violation and said CLOSE(protocol)."""
    assert pair.other.status == code
    pair.pump()
    return pair.one.events()[-1] == ("closed", PROTOCOL, True)


def turns(pair, count):
    """Let `count` records through, one by one: which streams got bytes in each."""
    pair.one.room = RECORD_ROOM
    seen = []
    for _ in range(count):
        pair.other.feed(pair.one.take())
        seen.append({number: len(read(pair.other, number)) for number in pair.ids})
    return [{number: length for number, length in each.items() if length} for each in seen]


# Life of a stream


@pytest.mark.parametrize("opener", ["initiator", "responder"])
@pytest.mark.parametrize("kind", [BYTES, MESSAGES])
def test_a_stream_carries_both_ways_and_ends_when_both_are_done(connect, opener, kind):
    pair = connect()
    one, other = (pair.one, pair.other) if opener == "initiator" else (pair.other, pair.one)
    number = one.open_stream(kind, EXPEDITED, WINDOW, UUID + b"metadata")
    assert number == (1 if opener == "initiator" else 2)
    pair.pump()
    assert other.events() == [("open", number)]
    assert other.opening(number) == (kind, EXPEDITED, 0, UUID + b"metadata")
    other.accept(number, WINDOW)
    one.write(number, b"there")
    other.write(number, b"and back")
    pair.pump()
    assert (read(other, number), read(one, number)) == (b"there", b"and back")
    one.finish(number)
    pair.pump()
    assert other.events() == [("fin", number)]
    other.write(number, b"still")
    other.finish(number)
    pair.pump()
    assert other.events() == [("gone", number)]
    assert one.events() == [("accepted", number), ("fin", number), ("gone", number)]
    assert read(one, number) == b"still"
    assert one.offsets(number) is other.offsets(number) is None


def test_ids_grow_by_two_from_one_and_two(connect):
    pair = connect()
    assert [pair.stream() for _ in range(3)] == [1, 3, 5]
    assert [pair.stream(opener=pair.other) for _ in range(3)] == [2, 4, 6]


def test_data_and_fin_may_share_a_frame(connect):
    pair = connect()
    number = pair.stream()
    before = pair.one.sending[2]
    pair.one.write(number, b"the end")
    pair.one.finish(number)
    pair.pump()
    assert pair.one.sending[2] == before + 1
    assert pair.other.events() == [("open", number), ("fin", number)]
    assert pair.other.received(number) == b"the end"


@pytest.mark.parametrize("length", [0, 1, 1023, 1024, 1025, 16_378, 16_379, 16_380, 65_535, 65_536, 500_000])
def test_any_length_arrives_whole(connect, length):
    pair = connect()
    number = pair.stream()
    data = bytes(i % 251 for i in range(length))
    pair.one.write(number, data)
    pair.one.finish(number)
    got = b""
    for _ in range(100):
        pair.pump()
        got += read(pair.other, number)
    assert got == data
    assert ("fin", number) in pair.other.events()


def test_after_finish_nothing_more_is_taken(connect):
    pair = connect()
    number = pair.stream()
    pair.one.finish(number)
    assert pair.one.write(number, b"late") == status.E_STATE
    pair.pump()
    assert pair.one.write(number, b"late") == status.E_STATE
    pair.other.finish(number)
    pair.pump()
    assert pair.one.write(number, b"late") == status.E_CLOSED


def test_hello_open_and_data_travel_behind_flight_3(endpoint):
    pair = Pair(endpoint("initiator"), endpoint("responder"))
    pair.one.connect(1, pair.other.ring.link_keys[-1][0])
    pair.other.listen(1 << 1)
    pair.step(pair.one, pair.other)
    pair.step(pair.other, pair.one)
    pair.step(pair.one, pair.other)  # flight 3: records may follow
    number = pair.one.open_stream(BYTES, NORMAL, WINDOW, UUID)
    pair.one.write(number, b"early")
    pair.step(pair.one, pair.other)
    assert pair.one.state == "keyed"
    assert pair.other.received(number) == b"early"


# Reset


@pytest.mark.parametrize("who", ["opener", "acceptor"])
def test_a_reset_ends_both_directions_with_its_reason(connect, who):
    pair = connect()
    number = pair.stream(bytes(1000))
    pair.other.write(number, bytes(200_000))
    one, other = (pair.one, pair.other) if who == "opener" else (pair.other, pair.one)
    pair.one.events()
    pair.other.events()
    one.reset(number, BUSY)
    pair.pump()
    assert one.events() == [("gone", number)]
    assert other.events() == [("reset", number, BUSY), ("gone", number)]
    assert (one.state, other.state) == ("open", "open")
    assert one.reset(number, BUSY) == status.E_CLOSED
    assert one.held[0] == other.held[0] == 0


def test_frames_that_cross_a_reset_are_ignored(connect):
    pair = connect()
    number = pair.stream()
    pair.one.write(number, bytes(5000))
    pair.one.finish(number)
    late = pair.one.take()
    pair.other.reset(number, CANCELLED)
    pair.other.feed(late)
    pair.pump()
    assert pair.one.events() == [("accepted", number), ("reset", number, CANCELLED), ("gone", number)]
    assert (pair.one.state, pair.other.state) == ("open", "open")


def test_late_data_counts_for_the_session_and_its_credit_comes_back(connect):
    pair = connect()
    for _ in range(40):
        number = pair.stream()
        pair.one.write(number, bytes(WINDOW))
        late = pair.one.take()
        pair.other.reset(number, CANCELLED)
        pair.other.feed(late)
        pair.pump()
    sent, limit, _, _ = pair.one.session_credit
    assert sent > SESSION_WINDOW
    assert limit - sent >= SESSION_WINDOW // 2
    assert pair.other.session_credit[2] == sent


def test_an_unknown_reason_reads_as_none(connect):
    pair = connect()
    number = pair.stream()
    assert send_raw(pair, wire.build_reset(number, 4000, 0)) == status.OK
    assert ("reset", number, NONE) in pair.other.events()


def test_a_reset_says_how_much_was_sent(connect):
    pair = connect()
    number = pair.stream(b"five!")
    assert send_raw(pair, wire.build_reset(number, BUSY, 4)) == status.E_FRAME
    assert is_closed_for(pair, status.E_FRAME)


# Who may open what


@pytest.mark.parametrize("number", [0, 2, 3, 5, 1 << 40])
def test_the_first_id_is_exactly_one(connect, number):
    pair = connect()
    assert send_raw(pair, wire.build_open(number, BYTES, NORMAL, WINDOW, UUID)) == status.E_STREAM_ID
    assert is_closed_for(pair, status.E_STREAM_ID)


@pytest.mark.parametrize("number", [1, 3, 4, 7])
def test_ids_are_never_skipped_or_used_again(connect, number):
    pair = connect()
    pair.stream()
    pair.stream()
    assert send_raw(pair, wire.build_open(number, BYTES, NORMAL, WINDOW, UUID)) == status.E_STREAM_ID


FRAMES = {
    "DATA": lambda number: wire.build_data(number, b"x"),
    "DATA_FIN": lambda number: wire.build_data(number, b"", DATA_FIN),
    "CREDIT": lambda number: wire.build_offset(CREDIT, number, 1 << 20),
    "ACCEPT": lambda number: wire.build_offset(ACCEPT, number, 1 << 20),
    "RESET": lambda number: wire.build_reset(number, 0, 0),
}


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("number", [0, 3, 4, 1 << 30])
def test_a_stream_that_was_never_opened_is_a_violation(connect, name, number):
    pair = connect()
    pair.stream()
    pair.stream(opener=pair.other)
    assert send_raw(pair, FRAMES[name](number)) == status.E_STREAM_ID
    assert is_closed_for(pair, status.E_STREAM_ID)


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("opener", ["initiator", "responder"])
def test_a_stream_that_is_over_is_ignored(connect, name, opener):
    pair = connect()
    number = pair.stream(opener=pair.one if opener == "initiator" else pair.other)
    pair.other.reset(number, BUSY)
    pair.pump()
    assert send_raw(pair, FRAMES[name](number)) == status.OK
    pair.pump()
    assert (pair.one.state, pair.other.state) == ("open", "open")


@pytest.mark.parametrize(("kind", "opening"), [(BYTES, UUID), (MESSAGES, UUID), (PIPE, b"\x08"), (RELAY, TARGET)])
def test_a_kind_that_the_peer_may_not_open_is_refused(endpoint, kind, opening):
    pair = Pair(endpoint("initiator"), endpoint("responder"))
    pair.other.rights = (0b1111 & ~(1 << kind), 1024, 1024)
    pair.connect()
    number = pair.one.open_stream(kind, NORMAL, WINDOW, opening)
    pair.one.write(number, bytes(4000))
    pair.pump()
    assert pair.one.events() == [("keyed",), ("ready",), ("reset", number, REFUSED), ("gone", number)]
    assert (pair.one.state, pair.other.state) == ("open", "open")
    assert pair.other.session_credit[2] == (4000 if kind <= MESSAGES else 0)


def test_a_refused_stream_is_reset_with_the_reason(connect):
    pair = connect()
    pair.other.refusal = BUSY
    number = pair.one.open_stream(BYTES, NORMAL, WINDOW, UUID)
    pair.one.write(number, bytes(1000))
    pair.pump()
    assert pair.one.events() == [("reset", number, BUSY), ("gone", number)]
    assert pair.one.state == "open"
    pair.other.refusal = 0
    assert pair.other.received(pair.stream(b"next")) == b"next"


def test_beyond_the_limit_streams_are_refused(endpoint):
    pair = Pair(endpoint("initiator"), endpoint("responder"))
    pair.other.rights = (KINDS_LINK, 3, 2)
    pair.connect()
    assert [pair.stream() for _ in range(3)] == [1, 3, 5]
    assert pair.one.open_stream(BYTES, NORMAL, WINDOW, UUID) is None
    assert send_raw(pair, wire.build_open(7, BYTES, NORMAL, WINDOW, UUID)) == status.OK
    assert pair.other.take() != b""
    assert pair.other.offsets(5) is not None
    with pytest.raises(KeyError):
        pair.other.offsets(7)


def test_a_stream_that_ended_makes_room_for_another(endpoint):
    pair = Pair(endpoint("initiator"), endpoint("responder"))
    pair.other.rights = (KINDS_LINK, 2, 1)
    pair.connect()
    for _ in range(20):
        number, pipe = pair.stream(), pair.stream(kind=PIPE, opening=b"\x08")
        pair.one.reset(number, NONE)
        pair.other.reset(pipe, NONE)
        pair.pump()
    assert pair.stream() == 81


def test_pipes_have_a_limit_of_their_own(endpoint):
    pair = Pair(endpoint("initiator"), endpoint("responder"))
    pair.other.rights = (KINDS_LINK, 1, 2)
    pair.connect()
    pair.stream()
    assert [pair.stream(kind=PIPE, opening=bytes([hops])) for hops in (8, 5)] == [3, 5]
    assert pair.one.open_stream(PIPE, NORMAL, WINDOW, b"\x08") is None
    assert pair.other.opening(5) == (PIPE, NORMAL, 5, b"\x05")


def test_a_peer_that_says_nothing_of_pipes_takes_none(endpoint):
    pair = Pair(endpoint("initiator"), endpoint("responder"))
    pair.connect(NK, (IN_STREAM, IN_PIPE))  # the initiator's HELLO is empty
    assert pair.other.peer_hello[2] == 0
    assert pair.other.open_stream(PIPE, NORMAL, WINDOW, b"\x08") is None


def test_the_initiator_of_a_layer_opens_relays(endpoint):
    pair = Pair(endpoint("initiator"), endpoint("responder"))
    pair.one.rights, pair.other.rights = (0, 0, 0), (KINDS_RELAY, 0, 10)
    pair.connect(NK, (IN_STREAM, IN_PIPE))
    number = pair.one.open_stream(RELAY, NORMAL, WINDOW, TARGET)
    pair.pump()
    assert pair.other.opening(number) == (RELAY, NORMAL, 0, TARGET)


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


# Turns


@pytest.fixture
def bulk(connect):
    """Streams of given priorities with much to send, and credit for it."""

    def make(*priorities, length=300_000):
        pair = connect()
        pair.ids = [pair.stream(priority=priority, credit=1 << 20) for priority in priorities]
        for number in pair.ids:
            pair.one.write(number, bytes(length))
        return pair

    return make


def test_classes_are_served_strictly_in_order(bulk):
    pair = bulk(DELAYED, NORMAL, EXPEDITED, length=100_000)
    ranks = {number: rank for rank, number in enumerate(reversed(pair.ids))}
    seen = [rank for record in turns(pair, 21) for rank in sorted(ranks[number] for number in record)]
    assert seen == sorted(seen)
    assert set(seen) == {0, 1, 2}


def test_what_becomes_ready_in_a_higher_class_goes_first(bulk):
    pair = bulk(DELAYED, EXPEDITED, length=0)
    slow, fast = pair.ids
    pair.one.write(slow, bytes(200_000))
    turns(pair, 3)
    pair.one.write(fast, b"urgent")
    assert turns(pair, 1)[0][fast] == 6


@pytest.mark.parametrize("priority", [EXPEDITED, NORMAL, DELAYED])
def test_inside_a_class_bytes_are_shared_in_turns(bulk, priority):
    pair = bulk(*[priority] * 4)
    totals = dict.fromkeys(pair.ids, 0)
    for record in turns(pair, 40):
        for number, length in record.items():
            totals[number] += length
        assert max(totals.values()) - min(totals.values()) <= INNER_MAX
    assert min(totals.values()) > 9 * INNER_MAX


@pytest.mark.parametrize("lengths", [(16_000, 16_300), (5_000, 16_300), (9_000, 12_000), (1_000, 16_000)])
def test_pieces_of_any_length_share_the_bytes_evenly(connect, lengths):
    """What a circuit's pieces take beyond a turn is taken off its next one."""
    pair = connect()
    pair.ids = [pair.stream(kind=PIPE, opening=b"\x08", credit=MIB) for _ in lengths]
    for number, length in zip(pair.ids, lengths, strict=True):
        for _ in range(600_000 // length):
            pair.one.write(number, bytes(length))
    totals = dict.fromkeys(pair.ids, 0)
    while all(total < 400_000 for total in totals.values()):
        for number, length in turns(pair, 1)[0].items():
            totals[number] += length
    assert max(totals.values()) - min(totals.values()) <= 3 * INNER_MAX


def test_a_turn_of_bulk_is_one_full_record(bulk):
    pair = bulk(NORMAL, NORMAL, NORMAL, length=MIB // 2)
    assert turns(pair, 6) == [{number: INNER_MAX - 4} for number in pair.ids] * 2


def test_a_stream_of_small_writes_is_not_starved_by_bulk(bulk):
    pair = bulk(NORMAL, NORMAL, length=0)
    heavy, light = pair.ids
    pair.one.write(heavy, bytes(600_000))
    for _ in range(10):
        pair.one.write(light, b"small")
        assert sum(record.get(light, 0) for record in turns(pair, 3)) == 5


def test_control_frames_go_before_data(bulk):
    pair = bulk(EXPEDITED)
    turns(pair, 1)
    pair.other.ping()
    pair.one.feed(pair.other.take())
    pair.other.events()
    pair.other.feed(pair.one.take())
    assert pair.other.events() == [("pong", 0)]


def test_a_stream_without_credit_lets_others_pass(connect):
    pair = connect()
    stalled, other = pair.stream(), pair.stream()
    pair.one.write(stalled, bytes(200_000))
    pair.pump()
    pair.one.write(other, b"passes")
    pair.pump()
    assert pair.other.received(other) == b"passes"


def test_a_stream_without_session_credit_waits_and_pipes_pass(connect):
    pair = connect()
    pipe = pair.stream(kind=PIPE, opening=b"\x08")
    ids = [pair.stream() for _ in range(17)]
    for number in ids:
        pair.one.write(number, bytes(WINDOW))
    pair.pump()
    pair.one.write(pipe, b"passes")
    pair.pump()
    assert pair.other.received(pipe) == b"passes"


# Anything goes

MAX_STREAMS = 6
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["open", "write", "write", "write", "read", "read", "finish", "reset", "deliver", "deliver"]),
        st.booleans(),
        st.integers(0, MAX_STREAMS - 1),
        st.integers(1, 90_000),
    ),
    max_size=80,
)


class Network:
    """What two sides wrote and read, by stream and direction."""

    def __init__(self, pair):
        self.pair = pair
        self.ids = []
        self.wires = {True: bytearray(), False: bytearray()}
        self.sent, self.got = {}, {}
        self.finished, self.resets = set(), set()

    def side(self, is_one):
        return self.pair.one if is_one else self.pair.other

    def knows(self, is_one, number):
        try:
            self.side(is_one).offsets(number)
        except KeyError:
            return False
        return True

    def open(self, is_one, amount):
        number = self.side(is_one).open_stream(amount % 2, amount % 3, WINDOW, UUID)
        self.ids.append(number)
        for direction in (True, False):
            self.sent[number, direction] = self.got[number, direction] = b""

    def write(self, is_one, number, amount):
        data = bytes([amount % 256]) * amount
        if self.side(is_one).write(number, data) == status.OK:
            self.sent[number, is_one] += data

    def read(self, is_one, number):
        self.got[number, not is_one] += read(self.side(is_one), number)

    def finish(self, is_one, number):
        self.side(is_one).finish(number)
        self.finished.add((number, is_one))

    def reset(self, is_one, number):
        self.side(is_one).reset(number, CANCELLED)
        self.resets.add(number)

    def deliver(self, is_one, amount):
        source, target = self.side(is_one), self.side(not is_one)
        self.wires[is_one] += source.take()
        target.feed(bytes(self.wires[is_one][:amount]))
        del self.wires[is_one][:amount]
        for event in target.events():
            if event[0] == "open":
                target.accept(event[1], WINDOW)

    def check(self):
        """What must hold once everything has been delivered and read."""
        one, other = self.pair.one, self.pair.other
        assert (one.state, other.state) == ("open", "open")
        for (number, direction), sent in self.sent.items():
            got = self.got[number, direction]
            assert sent.startswith(got)
            assert got == sent or number in self.resets
        for number in self.ids:
            is_over = number in self.resets or {(number, True), (number, False)} <= self.finished
            assert (one.offsets(number) is None) == is_over
        for side, peer in ((one, other), (other, one)):
            assert side.session_credit[:2] == peer.session_credit[2:]

    def settle(self):
        for _ in range(60):
            for direction in (True, False):
                self.deliver(direction, 1 << 30)
                for number in self.ids:
                    if self.knows(direction, number):
                        self.read(direction, number)


@settings(max_examples=150)
@given(actions=ACTIONS)
def test_whatever_is_done_to_streams_what_arrives_is_what_was_sent(pairs, actions):
    with pairs() as pair:
        network = Network(pair)
        for action, is_one, idx, amount in actions:
            if action == "open":
                if len(network.ids) < MAX_STREAMS:
                    network.open(is_one, amount)
            elif action == "deliver":
                network.deliver(is_one, amount)
            elif idx < len(network.ids) and network.knows(is_one, network.ids[idx]):
                arguments = [is_one, network.ids[idx]] + ([amount] if action == "write" else [])
                getattr(network, action)(*arguments)
        network.settle()
        network.check()
