# SPDX-License-Identifier: MIT
"""Cutting a stream into messages: any cut of the bytes gives the same messages, and nothing longer than the limit."""

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model.frames import message_build

from qg._core.message import Collector, MessageReader, message_head, messages_pack, messages_take

PROTOCOL, LIMIT = 1, 7  # reasons of docs/protocol.md, section 7

messages = st.lists(st.binary(max_size=300), max_size=20)


def wire_of(bodies):
    return b"".join(message_head(len(body)) + body for body in bodies)


@given(messages)
def test_it_writes_what_the_model_writes(bodies):
    assert wire_of(bodies) == b"".join(map(message_build, bodies))


@given(messages, st.integers(1, 2000))
def test_a_batch_is_the_same_bytes_in_pieces_that_fit(bodies, room):
    packed, at = [], 0
    while at < len(bodies):
        before = at
        piece, at = messages_pack(bodies, at, room)
        assert at > before
        assert len(piece) <= room or at == before + 1
        packed.append(piece)
    assert b"".join(packed) == wire_of(bodies)


def test_messages_of_a_batch_are_bytes_or_like_bytes():
    assert messages_take((b"a", bytearray(b"b"), memoryview(b"cc")[1:]), 1) == ([b"a", b"b", b"c"], -1)
    assert messages_take([b"a", b"bb", b"ccc"], 1)[1] == 1
    for wrong in (5, "text", None):
        with pytest.raises(TypeError):
            messages_take([b"a", wrong], 1)


@given(messages, st.data())
def test_any_cut_gives_the_same_messages(bodies, data):
    wire = wire_of(bodies)
    reader, got, at = MessageReader(300), [], 0
    while at < len(wire):
        n = data.draw(st.integers(1, len(wire) - at))
        got += reader.feed(wire[at : at + n])
        at += n
    assert got == bodies
    assert (reader.n_pending, reader.reason) == (0, 0)


@pytest.mark.parametrize("length", [0, 1, 63, 64, 16383, 16384, 100_000])
def test_byte_by_byte_is_the_same_as_all_at_once(length):
    wire = wire_of([bytes(length), b"next"])
    reader = MessageReader(100_000)
    assert [m for at in range(len(wire)) for m in reader.feed(wire[at : at + 1])] == [bytes(length), b"next"]


def test_what_is_not_whole_yet_is_counted_with_its_head():
    reader = MessageReader(1000)
    for n, byte in enumerate(message_head(70) + bytes(70)):
        assert reader.n_pending == n
        reader.feed(bytes([byte]))
    assert reader.n_pending == 0


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        pytest.param(message_head(1001), LIMIT, id="too long"),
        pytest.param(b"\xff" * 8, LIMIT, id="longest length there is"),
        pytest.param(b"\x02\x02ab", PROTOCOL, id="a flag nobody knows"),
        pytest.param(b"\x40\x02\x00ab", PROTOCOL, id="a length longer than need be"),
    ],
)
def test_what_must_not_be_is_refused_for_good(wire, reason):
    for cut in range(len(wire) + 1):
        reader = MessageReader(1000)
        assert reader.feed(wire_of([b"before"])) == [b"before"]
        assert reader.feed(wire[:cut]) + reader.feed(wire[cut:]) == []
        assert reader.reason == reason
        assert reader.feed(wire_of([b"after"])) == []


def test_only_bytes_are_taken():
    with pytest.raises(TypeError):
        MessageReader(1000).feed("text")
    with pytest.raises(TypeError):
        MessageReader(1000).feed(None)


KEY, PRIORITY = object(), object()


@pytest.fixture
def collector():
    collector = Collector(KEY, PRIORITY, 100, 200)
    collector.open()
    return collector


@given(st.lists(st.binary(max_size=150), max_size=20))
def test_collected_messages_are_the_same_bytes_and_no_more_than_there_is_room_for(bodies):
    collector = Collector(KEY, PRIORITY, 100, 200)
    collector.open()
    taken = []
    for body in bodies:
        fits = len(body) <= 100 and len(wire_of([*taken, body])) <= 200
        assert collector.add(body) == fits
        taken += [body] * fits
    assert collector.take() == wire_of(taken)
    assert collector.take() == b""


def test_a_collector_takes_messages_while_it_is_open(collector):
    assert collector.add(b"first")
    collector.close()
    assert not collector.add(b"second")
    assert collector.take() == wire_of([b"first"])
    assert not Collector(KEY, PRIORITY, 100, 200).add(b"third")


def test_a_collector_takes_only_bytes_for_the_very_same_objects(collector):
    assert collector.add_for(KEY, b"yes", PRIORITY)
    assert not collector.add_for(object(), b"no", PRIORITY)
    assert not collector.add_for(KEY, b"no", object())
    assert not collector.add_for(KEY, bytearray(b"no"), PRIORITY)
    assert not collector.add_for(KEY, 5, PRIORITY)
    assert collector.take() == wire_of([b"yes"])


def test_a_collector_takes_nothing_from_another_thread(collector):
    taken = []
    thread = threading.Thread(target=lambda: taken.append(collector.add_for(KEY, b"no", PRIORITY)))
    thread.start()
    thread.join()
    assert taken == [False]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_collector_takes_nothing_in_a_forked_child(collector):
    pid = os.fork()
    if pid == 0:
        os._exit(collector.add(b"no"))
    assert os.waitpid(pid, 0)[1] == 0
    assert collector.add(b"yes")
