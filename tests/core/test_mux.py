# SPDX-License-Identifier: MIT
"""Streams of a session: whole, opened by whom they may, in turns by class (protocol.md 6.4, 7)."""

import pytest
from core.crypto_help import status
from core.endpoint_help import (
    BUSY,
    BYTES,
    CANCELLED,
    DELAYED,
    EXPEDITED,
    IN_PIPE,
    IN_STREAM,
    KINDS_LINK,
    KINDS_RELAY,
    MESSAGES,
    NK,
    NONE,
    NORMAL,
    PIPE,
    REFUSED,
    RELAY,
    SESSION_WINDOW,
    UUID,
    WINDOW,
    Pair,
    is_closed_for,
    read,
    send_raw,
)

from qg._core import wire

OPEN, ACCEPT, DATA, DATA_FIN, CREDIT, RESET, SESSION_CREDIT = range(0x08, 0x0F)
MIB = 1 << 20
INNER_MAX = 16384
RECORD_ROOM = 2 + 16384 + 32  # a carrier that takes one large record at a time
TARGET = wire.build_open_relay(bytes(32), bytes(32), [(4, bytes([192, 0, 2, 1]), 7447)])


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
