# SPDX-License-Identifier: MIT
"""Frames: everything that can be built parses back, what breaks a rule is refused, garbage never does anything else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model import frames
from model.errors import WireError
from model.frames import HelloValues, RelayTarget
from model.kat_frames import INVALID, VALID
from model.reader import VARINT_MAX, Address, Reader, varint_build

varints = st.one_of(st.integers(0, 70), st.integers(0, 20000), st.integers(0, 1 << 31), st.integers(0, VARINT_MAX))
blobs = st.binary(max_size=300)
uuids = st.lists(st.binary(min_size=16, max_size=16), max_size=4).map(tuple)
names = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255).map(str.encode)
ports = st.integers(1, 65535)
numeric_addresses = st.one_of(
    st.builds(Address, st.just(4), st.binary(min_size=4, max_size=4), ports),
    st.builds(Address, st.just(6), st.binary(min_size=16, max_size=16), ports),
)
addresses = st.one_of(numeric_addresses, st.builds(Address, st.just(1), names, ports))
keys = st.binary(min_size=32, max_size=32)
targets = st.builds(RelayTarget, keys, keys, st.lists(numeric_addresses, min_size=1, max_size=4).map(tuple))
bodies = st.one_of(
    st.tuples(st.sampled_from([0, 1]), st.binary(min_size=16, max_size=400)),
    st.tuples(st.just(2), st.binary(min_size=1, max_size=1)),
    st.tuples(st.just(3), targets.map(RelayTarget.build)),
)
opens = st.builds(
    lambda stream_id, body, priority, credit: frames.Open(stream_id, body[0], priority, credit, body[1]),
    varints,
    bodies,
    st.integers(0, 2),
    varints,
)
hellos = st.builds(
    HelloValues,
    varints,
    varints,
    varints,
    varints,
    st.integers(0, 3),
    st.none() | st.tuples(st.integers(0, 255), st.integers(0, 255)),
    st.none() | st.binary(min_size=8, max_size=8),
    st.none() | st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    uuids,
)
eights = st.binary(min_size=8, max_size=8)
middle_frames = st.one_of(
    st.builds(frames.Ping, eights),
    st.builds(frames.Pong, eights),
    st.builds(frames.Cover, blobs),
    hellos.map(HelloValues.frame),
    st.builds(frames.Close, varints, st.text(max_size=16)),
    opens,
    st.builds(frames.Accept, varints, varints),
    st.builds(frames.Data, varints, blobs),
    st.builds(frames.DataFin, varints, blobs),
    st.builds(frames.Credit, varints, varints),
    st.builds(frames.Reset, varints, varints, varints),
    st.builds(frames.SessionCredit, varints),
    st.builds(frames.Services, uuids, uuids),
    st.builds(frames.Peers, st.lists(blobs, max_size=4).map(tuple)),
    st.builds(frames.Observed, addresses),
    st.builds(frames.Rekey1, st.just(bytes(frames.REKEY1_LEN))),
    st.builds(frames.Rekey2, st.just(bytes(frames.REKEY2_LEN))),
    st.builds(frames.Skipped, st.integers(0x40, VARINT_MAX), blobs),
)
last_frames = st.sampled_from([[], [frames.Epoch()], [frames.RekeyDone()]])
paddings = st.sampled_from([[], [frames.Padding(1)], [frames.Padding(77)]])


@settings(deadline=None)
@given(st.lists(middle_frames, max_size=8), last_frames, paddings)
def test_what_is_built_parses_back(middle, last, padding):
    batch = middle + last + padding
    assert frames.frames_parse(b"".join(frame.build() for frame in batch)) == batch


@settings(deadline=None)
@given(middle_frames, st.data())
def test_a_frame_that_is_cut_is_refused(frame, data):
    built = frame.build()
    length = data.draw(st.integers(1, len(built) - 1))
    with pytest.raises(WireError):
        frames.frames_parse(built[:length])


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_garbage_either_parses_or_is_refused_and_parsing_is_exact(data):
    try:
        parsed = frames.frames_parse(data)
    except WireError:
        return
    assert b"".join(frame.build() for frame in parsed) == data


@settings(deadline=None)
@given(varints)
def test_varints_round_trip_in_one_form_only(value):
    built = varint_build(value)
    assert Reader(built).varint() == value
    size = len(built)
    while size < 8:
        size *= 2
        longer = value | {2: 1, 4: 2, 8: 3}[size] << (8 * size - 2)
        with pytest.raises(WireError, match="minimal"):
            Reader(longer.to_bytes(size, "big")).varint()


@settings(deadline=None)
@given(hellos)
def test_hello_says_only_what_differs_and_is_understood(values):
    assert frames.hello_values(values.frame()) == values


@pytest.mark.parametrize("batch", VALID, ids=lambda batch: type(batch[0]).__name__)
def test_the_frames_of_the_known_answers_are_lawful(batch):
    assert frames.frames_parse(b"".join(frame.build() for frame in batch)) == batch


@pytest.mark.parametrize(("inner", "why"), INVALID)
def test_the_unlawful_frames_of_the_known_answers_are_refused(inner, why):
    with pytest.raises(WireError):
        frames.frames_parse(inner)


def test_unknown_reasons_are_read_as_none():
    assert [frames.reason_known(number) for number in (0, 16, 17, 1 << 40)] == [0, 16, 0, 0]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=400), max_size=5), st.integers(1, 50))
def test_messages_come_out_of_a_stream_as_they_went_in(messages, step):
    stream = b"".join(frames.message_build(message) for message in messages)
    buffer, taken = bytearray(), []
    for i in range(0, len(stream), step):
        buffer += stream[i : i + step]
        while (message := frames.message_take(buffer, 400)) is not None:
            taken.append(message)
    assert taken == messages
    assert not buffer
