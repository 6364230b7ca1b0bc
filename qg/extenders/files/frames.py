# SPDX-License-Identifier: MIT
"""Frames of a transfer: what both sides say, as bytes. All that comes is bounded and checked."""

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum, IntFlag
from typing import NamedTuple

__all__ = [
    "BODY_MAX",
    "DIGEST_LEN",
    "Answer",
    "Entry",
    "Failure",
    "Flag",
    "FrameError",
    "FrameReader",
    "Kind",
    "Offer",
    "Want",
    "Wish",
    "batches_make",
    "frame_make",
]

BODY_MAX = 1 << 18  # bytes
DIGEST_LEN = 32
BATCH_MAX = 256  # entries of a plan
_BATCH_LEN = 1 << 22  # bytes of the files of a plan, beyond its first
_TEXT_MAX = 300  # bytes
_NAMES_MAX = 16  # names of an offer
_VERSION = 1
_HEAD = struct.Struct(">BI")
_ENTRY = struct.Struct(">BQH")
_OFFER = struct.Struct(">BQQB")
_FAILURE = struct.Struct(">HB")


class FrameError(Exception):
    """Say what the other side did that the protocol does not allow."""


class Kind(IntEnum):
    """Say what a frame is."""

    OFFER = 1
    ANSWER = 2
    PLAN = 3
    WANT = 4
    START = 5
    CHUNK = 6
    END = 7
    DROP = 8
    FAILED = 9
    DONE = 10


_KINDS = frozenset(Kind)


class Flag(IntFlag):
    """Say what an entry of a plan is."""

    FOLDER = 1
    EXECUTABLE = 2
    FRESH = 4  # the receiver has another file of this name, and said so


class Wish(IntEnum):
    """Say what the receiver wants of an entry."""

    SEND = 0  # its bytes
    RESUME = 1  # its bytes from a place on, if the hash of those before is this
    CHECK = 2  # its hash only
    REFUSE = 3  # nothing, and why
    HERE = 4  # nothing: it is here


class Entry(NamedTuple):
    """Name one file or folder."""

    path: bytes
    size: int
    flags: int = 0


class Offer(NamedTuple):
    """Announce a transfer."""

    n_files: int  # folders among them
    n_bytes: int
    names: tuple[bytes, ...]  # in the target folder; the first of them

    @property
    def is_named(self) -> bool:
        """Tell whether all its names are here."""
        return len(self.names) < _NAMES_MAX

    def is_within(self, other: "Offer | None") -> bool:
        """Tell whether nothing is announced that another offer has not announced."""
        if other is None or self.n_files > other.n_files or self.n_bytes > other.n_bytes:
            return False
        return not other.is_named or (self.is_named and set(self.names) <= set(other.names))

    def encode(self) -> bytes:
        names = b"".join(len(name).to_bytes(2) + name for name in self.names[:_NAMES_MAX])
        head = _OFFER.pack(_VERSION, self.n_files, self.n_bytes, len(self.names[:_NAMES_MAX]))
        return frame_make(Kind.OFFER, head + names)

    @classmethod
    def decode(cls, body: bytes) -> "Offer":
        reader = _Body(body)
        version, n_files, n_bytes, n_names = reader.unpack(_OFFER)
        if version != _VERSION:
            raise FrameError(f"it speaks version {version} of this protocol, not {_VERSION}")
        if n_names > _NAMES_MAX:
            raise FrameError("an offer has too many names")
        names = tuple(reader.take(int.from_bytes(reader.take(2))) for _ in range(n_names))
        reader.end()
        return cls(n_files, n_bytes, names)


class Answer(NamedTuple):
    """Take an offer, or say why not."""

    refusal: str | None

    def encode(self) -> bytes:
        return frame_make(Kind.ANSWER, b"\1" if self.refusal is None else b"\0" + _text(self.refusal))

    @classmethod
    def decode(cls, body: bytes) -> "Answer":
        if body[:1] not in (b"\0", b"\1"):
            raise FrameError("an answer is neither yes nor no")
        return cls(None if body[0] else _text_read(body[1:]))


class Want(NamedTuple):
    """Say what is wanted of one entry."""

    wish: Wish
    size: int = 0  # what is here already
    digest: bytes = b""  # of that
    why: str = ""


class Failure(NamedTuple):
    """Say that an entry has failed, or that another file of its name is there and would be replaced."""

    place: int  # in the plan
    is_other: bool
    why: str

    def encode(self) -> bytes:
        return frame_make(Kind.FAILED, _FAILURE.pack(self.place, self.is_other) + _text(self.why))

    @classmethod
    def decode(cls, body: bytes) -> "Failure":
        reader = _Body(body)
        place, is_other = reader.unpack(_FAILURE)
        return cls(place, bool(is_other), _text_read(reader.rest()))


class _Body:
    """Take a body apart; whatever is missing is the other side's fault."""

    def __init__(self, body: bytes) -> None:
        self._body, self._off = body, 0

    def take(self, length: int) -> bytes:
        taken = self._body[self._off : self._off + length]
        if len(taken) != length:
            raise FrameError("a frame ends too early")
        self._off += length
        return taken

    def unpack(self, form: struct.Struct) -> tuple[int, ...]:
        return form.unpack(self.take(form.size))

    def rest(self) -> bytes:
        return self.take(len(self._body) - self._off)

    @property
    def is_empty(self) -> bool:
        return self._off == len(self._body)

    def end(self) -> None:
        if not self.is_empty:
            raise FrameError("a frame is longer than what it says")


def _text(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")[:_TEXT_MAX]


def _text_read(raw: bytes) -> str:
    """Read the other side's words, which may be anything."""
    return "".join(c if c.isprintable() else "?" for c in raw[:_TEXT_MAX].decode("utf-8", "replace"))


def text_make(kind: Kind, text: str) -> bytes:
    return frame_make(kind, _text(text))


text_read = _text_read


def frame_make(kind: Kind, body: bytes = b"") -> bytes:
    """Write a frame."""
    return _HEAD.pack(kind, len(body)) + body


class FrameReader:
    """Cut what comes into frames."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def is_between(self) -> bool:
        """Tell whether all that came were whole frames."""
        return not self._rest

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Give the frames that are whole; raises `FrameError` for one that is unknown or too long."""
        come: bytes | bytearray = data
        if self._rest:
            self._rest += data
            come = self._rest
        frames, off, end = [], 0, len(come)
        while end - off >= _HEAD.size:
            kind, length = _HEAD.unpack_from(come, off)
            if kind not in _KINDS or length > BODY_MAX:
                raise FrameError(f"a frame of kind {kind} with {length} bytes is none of this protocol")
            if end - off - _HEAD.size < length:
                break
            off += _HEAD.size
            frames.append((kind, bytes(come[off : off + length])))
            off += length
        if off or come is data:
            self._rest = bytearray(come[off:])
        return frames


def plan_encode(entries: Sequence[Entry]) -> bytes:
    parts = [_ENTRY.pack(entry.flags, entry.size, len(entry.path)) + entry.path for entry in entries]
    return frame_make(Kind.PLAN, b"".join(parts))


def plan_decode(body: bytes) -> list[Entry]:
    """Read a plan; its paths are not checked yet."""
    reader = _Body(body)
    entries = []
    while not reader.is_empty:
        flags, size, length = reader.unpack(_ENTRY)
        entries.append(Entry(reader.take(length), size, flags))
    if not 0 < len(entries) <= BATCH_MAX:
        raise FrameError(f"a plan has {len(entries)} entries")
    return entries


def batches_make(entries: Iterable[Entry]) -> Iterable[list[Entry]]:
    """Put entries together into plans that are not too long."""
    batch: list[Entry] = []
    n_bytes = body_len = 0
    for entry in entries:
        entry_len = _ENTRY.size + len(entry.path)
        is_full = len(batch) == BATCH_MAX or body_len + entry_len > BODY_MAX or n_bytes + entry.size > _BATCH_LEN
        if batch and is_full:
            yield batch
            batch, n_bytes, body_len = [], 0, 0
        batch.append(entry)
        n_bytes += entry.size
        body_len += entry_len
    if batch:
        yield batch


def wants_encode(wants: Iterable[Want]) -> bytes:
    parts = []
    for want in wants:
        parts.append(bytes([want.wish]))
        if want.wish is Wish.RESUME:
            parts.append(want.size.to_bytes(8) + want.digest)
        elif want.wish is Wish.REFUSE:
            why = _text(want.why)
            parts.append(len(why).to_bytes(2) + why)
    return frame_make(Kind.WANT, b"".join(parts))


def wants_decode(body: bytes, n_entries: int) -> list[Want]:
    """Read what is wanted of the entries of a plan."""
    reader = _Body(body)
    wants = []
    for _ in range(n_entries):
        number = reader.take(1)[0]
        if number == Wish.RESUME:
            wants.append(Want(Wish.RESUME, int.from_bytes(reader.take(8)), reader.take(DIGEST_LEN)))
        elif number == Wish.REFUSE:
            wants.append(Want(Wish.REFUSE, why=_text_read(reader.take(int.from_bytes(reader.take(2))))))
        elif number in (Wish.SEND, Wish.CHECK, Wish.HERE):
            wants.append(Want(Wish(number)))
        else:
            raise FrameError(f"a wish is {number}")
    reader.end()
    return wants
