# SPDX-License-Identifier: MIT
"""Frames of a transfer of files: byte by byte as all at once, and what they say is written again alike."""

from qg.extenders.files import frames
from qg.extenders.files.frames import FrameError, FrameReader, Kind, Offer, Wish, frame_make

DIGEST_LEN = frames.DIGEST_LEN


def run(data: bytes) -> None:
    whole = cut([data])
    assert cut([data[at : at + 1] for at in range(len(data))]) == whole
    for kind, body in whole or ():
        try:
            said(kind, body)
        except FrameError as error:
            assert str(error)


def cut(pieces: list[bytes]) -> list[tuple[int, bytes]] | None:
    """Give the frames; None where there is one that is none."""
    reader, found = FrameReader(), []
    try:
        for piece in pieces:
            found += reader.feed(piece)
    except FrameError:
        return None
    length = sum(len(frame_make(Kind(kind), body)) for kind, body in found)
    assert reader.is_between == (length == sum(map(len, pieces)))
    return found


def said(kind: int, body: bytes) -> None:
    raw = frame_make(Kind(kind), body)
    if kind == Kind.OFFER:
        offer = Offer.decode(body)
        assert offer.encode() == raw and offer.is_within(offer) and not offer.is_within(None)
    elif kind == Kind.ANSWER:
        refusal = frames.Answer.decode(body).refusal
        assert (refusal is None) == (body[:1] == b"\1") and (refusal or "").isprintable()
    elif kind == Kind.PLAN:
        entries = frames.plan_decode(body)
        assert frames.plan_encode(entries) == raw
        assert [each for batch in frames.batches_make(entries) for each in batch] == entries
    elif kind == Kind.WANT:
        wanted(body, raw)
    elif kind == Kind.FAILED:
        failure = frames.Failure.decode(body)
        again = frames.Failure.decode(failure.encode()[5:])
        assert again[:2] == failure[:2] and failure.why.isprintable()  # words may be cut short


def wanted(body: bytes, raw: bytes) -> None:
    """Its number of entries stands in the plan: here it is as many as there are bytes, or fewer."""
    for n_entries in range(min(len(body), 8) + 1):
        try:
            wants = frames.wants_decode(body, n_entries)
        except FrameError:
            continue
        assert len(wants) == n_entries and all(len(want.digest) in (0, DIGEST_LEN) for want in wants)
        if all(want.wish is not Wish.REFUSE for want in wants):
            assert frames.wants_encode(wants) == raw
