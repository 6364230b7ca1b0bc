# SPDX-License-Identifier: MIT
"""Two peers over a byte stream: data with credit, key changes, violations, and no dependence on how bytes are cut."""

import random

import pytest
from model import frames
from model.envelope import KIND_XK1, KIND_XX1
from model.errors import BadRecord, WireError
from model.frames import REASON, HelloValues
from model.peer import peer_answer, peer_dial

UUID = bytes(range(16))
SUITES = {1: 1, 3: 2, 7: 4}


@pytest.fixture
def connect(party, pump):
    def make(suites=7, kind=KIND_XK1, hello=None):
        one, other = party("one", suites=suites), party("other", suites=suites)
        link_key = b"" if kind == KIND_XX1 else other.identity.link_public
        pair = peer_dial(one, link_key, kind=kind, hello=hello), peer_answer(other, hello)
        pump(pair)
        assert all(peer.is_connected for peer in pair)
        return pair

    return make


@pytest.mark.parametrize("offered", SUITES)
@pytest.mark.parametrize("kind", [KIND_XK1, KIND_XX1])
def test_streams_carry_more_than_any_window_both_ways(connect, pump, read_all, offered, kind):
    one, other = connect(offered, kind)
    assert one.established.suite == SUITES[offered]
    data = random.Random(1).randbytes(1_300_000)
    for opener, acceptor in ((one, other), (other, one)):
        stream = opener.stream_open(frames.KIND_BYTES, UUID)
        opener.stream_write(stream, data)
        opener.stream_finish(stream)
        assert read_all(lambda: pump((one, other)), stream, acceptor) == data
        pump((one, other))
        assert stream.is_closed
        assert not one.streams
        assert not other.streams


def test_an_unread_stream_stops_at_its_credit_and_goes_on_when_read(connect, pump):
    one, other = connect()
    stream = one.stream_open(frames.KIND_BYTES, UUID)
    one.stream_write(stream, bytes(200_000))
    pump((one, other))
    assert stream.n_sent == 65536
    assert len(other.stream_read(other.streams[stream.id])) == 65536
    pump((one, other))
    assert stream.n_sent == 131072


def test_sixteen_streams_stop_at_the_credit_of_the_session(connect, pump):
    one, other = connect(hello=HelloValues(session_credit=1048576))
    streams = [one.stream_open(frames.KIND_BYTES, UUID) for _ in range(20)]
    for stream in streams:
        one.stream_write(stream, bytes(65536))
    pump((one, other))
    assert one.session_sent == 1048576
    for stream in streams:
        other.stream_read(other.streams[stream.id])
    pump((one, other))
    assert one.session_sent == 20 * 65536


def test_hello_open_and_data_travel_behind_flight_3_without_waiting(party):
    one, other = party("one"), party("other")
    dialler, answerer = peer_dial(one, other.identity.link_public), peer_answer(other)
    answerer.receive(dialler.output_bytes())
    dialler.receive(answerer.output_bytes())
    assert not dialler.is_connected
    stream = dialler.stream_open(frames.KIND_BYTES, UUID)
    dialler.stream_write(stream, b"early" * 4000)
    answerer.receive(dialler.output_bytes())
    assert answerer.stream_read(answerer.streams[stream.id]) == (b"early" * 4000)[:16384]


@pytest.mark.parametrize("offered", SUITES)
def test_keys_change_by_epoch_and_by_rekey_from_either_side(connect, pump, offered):
    one, other = connect(offered)
    for starter, peer in ((one, other), (other, one), (one, other)):
        binding = one.keys.generation.hash
        starter.epoch()
        starter.epoch()
        starter.ping(b"in epoch")
        pump((one, other))
        assert starter.keys.send.epoch == peer.keys.recv.epoch == 2
        starter.rekey()
        pump((one, other))
        assert one.keys.number == other.keys.number
        assert one.keys.generation.hash == other.keys.generation.hash != binding
        assert (starter.keys.send.seq, starter.keys.send.epoch) == (0, 0)
        peer.ping(b"new keys")
        pump((one, other))
        assert frames.Pong(b"new keys") in peer.received
    assert one.keys.number == 3
    assert one.keys.exporter == other.keys.exporter
    assert one.end is other.end is None


def test_of_two_crossing_rekeys_that_of_the_session_initiator_wins(connect, pump):
    one, other = connect()
    one.rekey()
    other.rekey()
    crossing = other.output_bytes()
    other.receive(one.output_bytes())
    one.receive(crossing)
    pump((one, other))
    assert one.keys.number == other.keys.number == 1
    assert one.keys.is_idle
    assert other.keys.is_idle
    other.rekey()
    other.ping(b"87654321")
    pump((one, other))
    assert one.keys.number == 2
    assert frames.Pong(b"87654321") in other.received


def test_data_flows_across_a_rekey(connect, pump):
    one, other = connect()
    stream = one.stream_open(frames.KIND_BYTES, UUID)
    data = random.Random(2).randbytes(60_000)
    one.stream_write(stream, data[:30_000])
    one.rekey()
    other.receive(one.output_bytes())
    one.stream_write(stream, data[30_000:])
    other.ping(b"old keys")
    one.receive(other.output_bytes())
    pump((one, other))
    assert other.stream_read(other.streams[stream.id]) == data
    assert one.keys.number == 1


def test_close_ends_both_sides_with_its_reason(connect, pump):
    one, other = connect()
    one.close(REASON["idle"], "nothing to say")
    pump((one, other))
    assert (one.end, other.end) == ("fin", "fin")
    assert other.end_reason == REASON["idle"]
    assert other.received[-1] == frames.Close(REASON["idle"], "nothing to say")
    other.receive(b"what comes after CLOSE is not read")
    assert other.output_bytes() == b""


def test_a_reset_stream_is_gone_on_both_sides_and_late_frames_are_ignored(connect, pump):
    one, other = connect()
    stream = one.stream_open(frames.KIND_BYTES, UUID)
    one.stream_write(stream, bytes(1000))
    pump((one, other))
    other.stream_reset(other.streams[stream.id], REASON["refused"])
    one.frame_send(frames.Data(stream.id, b"crosses the reset"))
    one.frame_send(frames.Credit(stream.id, 1 << 20))
    pump((one, other))
    assert stream.reset_reason == REASON["refused"]
    assert not one.streams
    assert not other.streams
    assert one.end is other.end is None
    assert other.session_consumed == other.session_received == 1017


def test_data_over_the_credit_of_a_stream_kills_the_stream_only(connect, pump):
    one, other = connect()
    stream = one.stream_open(frames.KIND_BYTES, UUID)
    pump((one, other))
    for _ in range(5):
        one.frame_send(frames.Data(stream.id, bytes(16000)))
    pump((one, other))
    assert stream.reset_reason == REASON["protocol"]
    assert one.end is other.end is None


VIOLATIONS = {
    "a second HELLO": [frames.Hello(())],
    "an id that skips": [frames.Open(5, 0, 1, 0, UUID)],
    "an id of the other side": [frames.Open(2, 0, 1, 0, UUID)],
    "DATA for a stream never opened": [frames.Data(9, b"")],
    "CREDIT for a stream never opened": [frames.Credit(2, 1)],
    "credit that falls": [frames.SessionCredit(1)],
    "DATA behind FIN": [frames.Open(1, 0, 1, 0, UUID), frames.DataFin(1, b""), frames.Data(1, b"")],
    "RESET that counts fewer bytes": [frames.Open(1, 0, 1, 0, UUID), frames.Data(1, b"abc"), frames.Reset(1, 0, 2)],
    "RESET that counts more bytes": [frames.Open(1, 0, 1, 0, UUID), frames.Data(1, b"abc"), frames.Reset(1, 0, 4)],
    "a kind of stream that does not exist": [frames.Open(1, 4, 1, 0, UUID)],
    "ACCEPT of an own stream": [frames.Open(1, 0, 1, 0, UUID), frames.Accept(1, 70000)],
    "REKEY2 without REKEY1": [frames.Rekey2(bytes(frames.REKEY2_LEN)), frames.RekeyDone()],
    "REKEY_DONE alone": [frames.RekeyDone()],
    "REKEY1 that does not open": [frames.Rekey1(bytes(frames.REKEY1_LEN))],
}


@pytest.mark.parametrize("what", VIOLATIONS)
def test_a_violation_is_answered_with_close_protocol(connect, what):
    one, other = connect()
    content = b"".join(frame.build() for frame in VIOLATIONS[what])
    other.receive(one.keys.send.seal(content))
    assert isinstance(other.failure, WireError)
    assert other.end == "fin"
    one.receive(other.output_bytes())
    assert one.end_reason == REASON["protocol"]


@pytest.mark.parametrize("answer", [frames.Accept, frames.Credit])
def test_credit_below_what_the_opener_has_already_is_a_violation(connect, answer):
    one, other = connect()
    stream = other.stream_open(frames.KIND_BYTES, UUID)
    other.receive(one.keys.send.seal(answer(stream.id, 16_383).build()))
    assert (other.end, other.end_reason) == ("fin", REASON["protocol"])


def test_a_hello_with_less_session_credit_than_there_is_already_is_a_violation(party, pump):
    one, other = party("one"), party("other")
    pair = peer_dial(one, other.identity.link_public, hello=HelloValues(session_credit=1048575)), peer_answer(other)
    pump(pair)
    assert [peer.end_reason for peer in pair] == [REASON["protocol"]] * 2


def test_opens_that_are_refused_say_why(connect, pump):
    one, other = connect(hello=HelloValues(max_pipes=1))
    wanted = {
        (
            frames.KIND_RELAY,
            frames.RelayTarget(bytes(32), bytes(32), (frames.Address(4, bytes(4), 1),)).build(),
        ): "refused",
        (frames.KIND_PIPE, b"\x00"): "hops",
        (frames.KIND_PIPE, b"\x09"): "hops",
    }
    for (kind, body), reason in wanted.items():
        stream = one.stream_open(kind, body)
        pump((one, other))
        assert stream.reset_reason == REASON[reason]


@pytest.mark.parametrize("offered", SUITES)
def test_a_flipped_bit_of_a_record_gets_no_answer(connect, offered):
    for i in range(0, 130, 3):
        one, other = connect(offered)
        one.ping(b"12345678")
        record = bytearray(one.output_bytes())
        record[i % len(record)] ^= 1 << i % 8
        other.receive(bytes(record) + bytes(40_000))
        assert isinstance(other.failure, BadRecord)
        assert other.end == "discard"
        assert other.output_bytes() == b""


def test_strangers_meet_silence_and_so_do_their_next_bytes(party):
    answerer = peer_answer(party("other"))
    answerer.receive(random.Random(3).randbytes(5000))
    assert answerer.end == "sink"
    answerer.receive(bytes(100_000))
    assert answerer.output_bytes() == b""


def script(party):
    """The bytes of an initiator that opens a stream and changes keys twice, and the peer that answered them."""
    one, other = party("one"), party("other")
    dialler, answerer = peer_dial(one, other.identity.link_public), peer_answer(other)
    sent = bytearray()

    def turn():
        data = dialler.output_bytes()
        sent.extend(data)
        answerer.receive(data)
        dialler.receive(answerer.output_bytes())

    turn()
    turn()
    stream = dialler.stream_open(frames.KIND_BYTES, UUID)
    dialler.stream_write(stream, bytes(5000))
    dialler.epoch()
    turn()
    dialler.ping(b"12345678")
    dialler.rekey()
    turn()
    turn()
    dialler.stream_write(stream, bytes(100))
    dialler.stream_finish(stream)
    turn()
    return bytes(sent), answerer


def test_it_does_not_matter_how_bytes_are_cut(party):
    sent, model = script(party)
    outputs = set()
    for seed in range(12):
        cutter = random.Random(seed)
        answerer = peer_answer(party("other"))
        position = 0
        while position < len(sent):
            step = {0: len(sent), 1: 1}.get(seed, cutter.choice([1, 2, 3, 17, 80, 1000, 4000]))
            answerer.receive(sent[position : position + step])
            position += step
        assert answerer.received == model.received
        outputs.add(answerer.output_bytes())
        assert answerer.keys.number == 1
    assert len(outputs) == 1


def test_two_peers_use_the_sizes_of_the_stricter_padding(party, pump):
    for own, other, sizes in ((0, 0, {9}), (0, 1, {64}), (2, 0, {1024}), (1, 3, {16384})):
        dialler = peer_dial(party("one"), party("other").identity.link_public, hello=HelloValues(padding=own))
        answerer = peer_answer(party("other"), HelloValues(padding=other))
        pump((dialler, answerer))
        dialler.ping(b"12345678")
        record = dialler.output_bytes()
        assert {len(record) - 2 - dialler.keys.send.tag_len} == sizes
