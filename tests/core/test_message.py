# SPDX-License-Identifier: MIT
"""Cutting a stream into messages: any cut of the bytes gives the same messages, and nothing longer than the limit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model.frames import message_build

from qg._core.message import MessageReader, message_head, messages_pack, messages_take

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
        pytest.param(b"\x02\x01ab", PROTOCOL, id="a flag nobody knows"),
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
