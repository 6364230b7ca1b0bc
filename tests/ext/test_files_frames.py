# SPDX-License-Identifier: MIT
"""What the other side of a transfer may say, whatever it is: read as it was meant or refused, within bounds."""

import contextlib
import os
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qg.extenders.files import frames as wire
from qg.extenders.files.intake import Lane, Tally
from qg.extenders.files.landing import Ground, Landing
from qg.extenders.files.names import name_shown, part_name, path_problem

NAMES = st.binary(max_size=300)
ENTRIES = st.builds(wire.Entry, st.binary(max_size=400), st.integers(0, 2**64 - 1), st.integers(0, 7))
WORDS = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=70)
WANTS = st.one_of(
    st.sampled_from([wire.Want(wish) for wish in (wire.Wish.SEND, wire.Wish.CHECK, wire.Wish.HERE)]),
    st.builds(
        partial(wire.Want, wire.Wish.RESUME, why=""), st.integers(0, 2**64 - 1), st.binary(min_size=32, max_size=32)
    ),
    st.builds(lambda why: wire.Want(wire.Wish.REFUSE, why=why), WORDS),
)
FRAMES = st.lists(st.tuples(st.sampled_from(wire.Kind), st.binary(max_size=200)), max_size=8)


def body(frame):
    ((_, data),) = wire.FrameReader().feed(frame)
    return data


@given(FRAMES, st.lists(st.integers(0, 2000), max_size=6))
def test_frames_come_whole_however_they_are_cut(frames, cuts):
    raw = b"".join(wire.frame_make(kind, data) for kind, data in frames)
    reader, seen = wire.FrameReader(), []
    ends = [*sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    for begin, end in zip([0, *ends], ends, strict=False):
        seen += reader.feed(raw[begin:end])
    assert seen == frames
    assert reader.is_between


@given(st.lists(ENTRIES, min_size=1, max_size=30))
def test_plans_read_as_written(entries):
    assert wire.plan_decode(body(wire.plan_encode(entries))) == entries


@given(st.lists(WANTS, max_size=30))
def test_wants_read_as_written(wants):
    assert wire.wants_decode(body(wire.wants_encode(wants)), len(wants)) == wants


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.lists(NAMES, max_size=16).map(tuple))
def test_offers_read_as_written(n_files, n_bytes, names):
    offer = wire.Offer(n_files, n_bytes, names)
    assert wire.Offer.decode(body(offer.encode())) == offer


@given(st.integers(0, 255), st.booleans(), WORDS)
def test_failures_and_answers_read_as_written(place, is_other, why):
    failure = wire.Failure(place, is_other, why)
    assert wire.Failure.decode(body(failure.encode())) == failure
    for answer in (wire.Answer(None), wire.Answer(why)):
        assert wire.Answer.decode(body(answer.encode())) == answer


@given(st.binary(max_size=600), st.integers(0, 20))
def test_any_body_is_read_or_refused(raw, n_entries):
    for read in (wire.Offer.decode, wire.Answer.decode, wire.Failure.decode, wire.plan_decode):
        with contextlib.suppress(wire.FrameError):
            read(raw)
    with contextlib.suppress(wire.FrameError):
        assert len(wire.wants_decode(raw, n_entries)) == n_entries
    assert wire.text_read(raw).isprintable()


@given(st.lists(ENTRIES, max_size=600))
def test_plans_are_whole_and_none_is_too_long(entries):
    batches = list(wire.batches_make(entries))
    assert [entry for batch in batches for entry in batch] == entries
    for batch in batches:
        assert wire.plan_decode(body(wire.plan_encode(batch))) == batch


@pytest.mark.parametrize("length", [wire.BODY_MAX + 1, 2**32 - 1])
def test_a_frame_that_is_too_long_is_refused_by_its_head(length):
    with pytest.raises(wire.FrameError):
        wire.FrameReader().feed(bytes([wire.Kind.CHUNK]) + length.to_bytes(4))


@given(st.binary(max_size=400))
def test_a_name_is_shown_in_one_line_and_an_unfinished_name_fits(name):
    assert name_shown(name).isprintable()
    if name and len(name) <= 255:
        assert len(part_name(name)) <= 255
        assert path_problem(part_name(name))


COMPONENTS = st.sampled_from([b"a", b"A", b"..", b".", b"", b"link", b"file", b"\xff", b"x" * 255])
PATHS = st.lists(COMPONENTS, min_size=1, max_size=4).map(b"/".join)
SAID = st.one_of(
    st.lists(st.builds(wire.Entry, PATHS, st.integers(0, 20), st.integers(0, 7)), min_size=1, max_size=4).map(
        wire.plan_encode
    ),
    st.binary(max_size=20).map(lambda data: wire.frame_make(wire.Kind.CHUNK, data)),
    st.binary(max_size=40).map(lambda data: wire.frame_make(wire.Kind.END, data)),
    st.binary(max_size=8).map(lambda data: wire.frame_make(wire.Kind.START, data)),
    st.binary(max_size=8).map(lambda data: wire.frame_make(wire.Kind.DROP, data)),
    st.binary(max_size=8),
)


@pytest.mark.parametrize("existing", ["keep", "replace"])
def test_whatever_a_sender_says_nothing_lands_outside_the_folder(tmp_path_factory, existing):
    @settings(deadline=None, max_examples=150)
    @given(st.lists(SAID, max_size=8))
    def check(said):
        place = tmp_path_factory.mktemp("place")
        (place / "inbox").mkdir()
        (place / "outside").mkdir()
        (place / "outside" / "precious").write_bytes(b"precious")
        (place / "inbox" / "link").symlink_to(place / "outside")
        (place / "inbox" / "file").symlink_to(place / "outside" / "precious")
        ground = Ground(place / "inbox", existing)
        lane = Lane(Landing(ground), Tally(wire.Offer(20, 200, ())))
        n_open = len(os.listdir("/dev/fd"))
        try:
            with contextlib.suppress(wire.FrameError):
                for data in said:
                    lane.feed(data)
        finally:
            lane.close()
            ground.close()
        assert len(os.listdir("/dev/fd")) < n_open
        assert os.listdir(place / "outside") == ["precious"]
        assert (place / "outside" / "precious").read_bytes() == b"precious"
        assert sorted(os.listdir(place)) == ["inbox", "outside"]
        assert (place / "inbox" / "link").is_symlink()
        assert (place / "inbox" / "file").is_symlink()

    check()
