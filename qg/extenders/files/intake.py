# SPDX-License-Identifier: MIT
"""The receiver of one lane: bytes of a sender go in, files land, what is to be answered comes out. All of it blocks."""

import hashlib
import os
import threading
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from qg.extenders.files.frames import (
    BODY_MAX,
    DIGEST_LEN,
    Entry,
    Failure,
    FrameError,
    FrameReader,
    Kind,
    Offer,
    Want,
    Wish,
    frame_make,
    plan_decode,
    text_read,
    wants_encode,
)
from qg.extenders.files.landing import Landing, LandingError, Part, write_all
from qg.extenders.files.names import name_shown, part_name

__all__ = ["Lane", "Tally"]

PLANS_MAX = 4  # that wait for their files
_FAILURES_MAX = 1000  # that are kept, and names of unfinished files; the others are counted
_TOO_LONG = "more came than was announced"
_DIFFERENT = "its size or BLAKE2b is not what it should be"


class Tally:
    """Count what comes with one transfer, over its lanes, and hold it to what was announced."""

    def __init__(self, offer: Offer) -> None:
        self._lock = threading.Lock()
        # An entry may be planned anew once, where another file is in its place.
        self._n_plannable = 2 * offer.n_files
        self._names = frozenset(offer.names) if offer.is_named else None
        self._n_bytes_left = offer.n_bytes
        self.n_files = 0  # whole, folders among them
        self.n_same = 0  # of these, those that were here
        self.n_bytes = 0  # came
        self.n_failed = 0
        self.n_resumed = 0
        self.n_restarted = 0
        self.failures: list[tuple[str, str]] = []  # names as they may be printed, and why
        self.parts: set[str] = set()  # names of what stays unfinished, the first of them
        self.last: tuple[bytes, bytes, int] | None = None  # path, hash and size of the last file that is whole

    def is_announced(self, entry: Entry) -> bool:
        """Tell whether the name is one of those that the offer told of, or not all of these are known."""
        return self._names is None or entry.path.partition(b"/")[0] in self._names

    def plan(self, n_entries: int) -> None:
        with self._lock:
            self._n_plannable -= n_entries
            if self._n_plannable < 0:
                raise FrameError("more files come than were announced")

    def bytes_come(self, length: int) -> None:
        with self._lock:
            self.n_bytes += length
            self._n_bytes_left -= length
            if self._n_bytes_left < 0:
                raise FrameError("more bytes come than were announced")

    def done(self, entry: Entry, digest: bytes, *, is_same: bool) -> None:
        with self._lock:
            self.n_files += 1
            self.n_same += is_same
            if digest:
                self.last = entry.path, digest, entry.size

    def failed(self, entry: Entry, why: str) -> None:
        with self._lock:
            self.n_failed += 1
            if len(self.failures) < _FAILURES_MAX:
                self.failures.append((name_shown(entry.path), why))

    def begun(self, want: Want, offset: int) -> None:
        with self._lock:
            if want.wish is Wish.RESUME:
                self.n_resumed += offset > 0
                self.n_restarted += offset == 0


class _File(Protocol):
    """One file that comes."""

    def append(self, data: bytes) -> None: ...

    def end(self, digest: bytes) -> None: ...

    def close(self) -> None: ...


class _ShortFile:
    """A file that is kept in memory until it is whole."""

    def __init__(self, landing: Landing, entry: Entry) -> None:
        self._landing, self._entry = landing, entry
        self._chunks: list[bytes] = []
        self._size = 0

    def append(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        if self._size > self._entry.size:
            raise LandingError(_TOO_LONG)

    def end(self, digest: bytes) -> None:
        data = b"".join(self._chunks)
        if len(data) != self._entry.size or hashlib.blake2b(data, digest_size=DIGEST_LEN).digest() != digest:
            raise LandingError(_DIFFERENT)
        self._landing.put(self._entry, data)

    def close(self) -> None:
        """Forget it."""


class _LongFile:
    """A file that grows under the name of an unfinished one."""

    def __init__(self, landing: Landing, entry: Entry, part: Part | None, parts: set[str]) -> None:
        self._landing, self._entry, self._parts = landing, entry, parts
        self._hasher = part.hasher if part else hashlib.blake2b(digest_size=DIGEST_LEN)
        self._size = part.size if part else 0
        self._fd = landing.part_open(entry, self._size)
        self._is_whole = False

    def append(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._entry.size:
            raise LandingError(_TOO_LONG)
        write_all(self._fd, data)
        self._hasher.update(data)

    def end(self, digest: bytes) -> None:
        if self._size != self._entry.size or self._hasher.digest() != digest:
            raise LandingError(_DIFFERENT)
        self._landing.commit(self._entry, self._fd)
        self._is_whole = True

    def close(self) -> None:
        """Leave it; what is unfinished stays for another try."""
        os.close(self._fd)
        if not self._is_whole and len(self._parts) < _FAILURES_MAX:
            folder, slash, name = self._entry.path.rpartition(b"/")
            self._parts.add(name_shown(folder + slash + part_name(name)))


class _Plan:
    """Entries, what was wanted of them, and which of them has its turn."""

    def __init__(self, entries: list[Entry], looks: list[tuple[Want, Part | None]]) -> None:
        self.entries, self.looks = entries, looks
        self.index = -1

    def step(self) -> bool:
        """Go to the next entry; False after the last."""
        self.index += 1
        return self.index < len(self.entries)

    @property
    def entry(self) -> Entry:
        return self.entries[self.index]

    @property
    def want(self) -> Want:
        return self.looks[self.index][0]

    @property
    def part(self) -> Part | None:
        return self.looks[self.index][1]


class Lane:
    """Take what comes on one stream of a transfer. Belongs to one thread at a time."""

    def __init__(self, landing: Landing, tally: Tally) -> None:
        self._landing, self._tally = landing, tally
        self._reader = FrameReader()
        self._plans: deque[_Plan] = deque()
        self._file: _File | None = None
        self._is_given_up = False  # the file that comes has failed, its sender has been told
        self._offset: int | None = None  # where it begins, if its sender said so

    def feed(self, data: bytes) -> bytes:
        """Take bytes, give those to answer; raises `FrameError`, after which the lane is only good for `close`."""
        return b"".join(self._answers(data))

    def end(self) -> None:
        """Take note that nothing comes any more; raises `FrameError` if something should."""
        if self._plans or not self._reader.is_between:
            raise FrameError("the sender ended in the middle of a file")

    def close(self) -> None:
        """Give back what is open; what is unfinished stays for another try."""
        self._file_close()
        self._landing.close()

    def _answers(self, data: bytes) -> Iterator[bytes]:
        for kind, body in self._reader.feed(data):
            if kind == Kind.PLAN:
                yield from self._plan(body)
            elif not self._plans:
                raise FrameError(f"a frame of kind {kind} comes before a plan")
            elif kind == Kind.CHUNK:
                yield from self._chunk(body)
            elif kind == Kind.END:
                yield from self._end(body)
            elif kind == Kind.START:
                self._start(body)
            elif kind == Kind.DROP:
                yield from self._drop(text_read(body))
            else:
                raise FrameError(f"a sender says no frame of kind {kind}")

    def _plan(self, body: bytes) -> Iterator[bytes]:
        entries = plan_decode(body)
        if len(self._plans) >= PLANS_MAX:
            raise FrameError("too many plans come ahead of their files")
        self._tally.plan(len(entries))
        looks = [self._look(entry) for entry in entries]
        yield wants_encode(want for want, _ in looks)
        self._plans.append(_Plan(entries, looks))
        if len(self._plans) == 1:
            yield from self._next()

    def _look(self, entry: Entry) -> tuple[Want, Part | None]:
        if self._tally.is_announced(entry):
            return self._landing.look(entry)
        return Want(Wish.REFUSE, why="its name was not announced"), None

    def _next(self) -> Iterator[bytes]:
        """Go to the next entry that something is to come of."""
        self._file_close()
        self._is_given_up, self._offset = False, None
        while self._plans:
            plan = self._plans[0]
            while plan.step():
                if plan.want.wish is Wish.HERE:
                    self._tally.done(plan.entry, b"", is_same=False)
                elif plan.want.wish is Wish.REFUSE:
                    self._tally.failed(plan.entry, plan.want.why)
                else:
                    return
            self._plans.popleft()
            yield frame_make(Kind.DONE)

    def _start(self, body: bytes) -> None:
        plan = self._plans[0]
        offset = int.from_bytes(body)
        may = plan.want.wish is Wish.RESUME and self._file is None and offset in (0, plan.want.size)
        if not may or len(body) != 8 or self._offset is not None:
            raise FrameError("a file begins where it was not asked for")
        self._offset = offset
        self._tally.begun(plan.want, offset)

    def _chunk(self, body: bytes) -> Iterator[bytes]:
        plan = self._plans[0]
        if not body:
            raise FrameError("a chunk holds nothing")
        self._tally.bytes_come(len(body))
        if self._is_given_up:
            return
        if plan.want.wish is Wish.CHECK:
            raise FrameError("bytes come where a hash was asked for")
        try:
            self._file = self._file or self._open(plan)
            self._file.append(body)
        except (LandingError, OSError) as error:
            yield self._fail(error)

    def _open(self, plan: _Plan) -> _File:
        if plan.entry.size <= BODY_MAX:
            return _ShortFile(self._landing, plan.entry)
        return _LongFile(self._landing, plan.entry, plan.part if self._offset else None, self._tally.parts)

    def _end(self, digest: bytes) -> Iterator[bytes]:
        plan = self._plans[0]
        if not self._is_given_up:
            try:
                if plan.want.wish is Wish.CHECK:
                    self._landing.check(plan.entry, digest)
                else:
                    self._file = self._file or self._open(plan)
                    self._file.end(digest)
                self._tally.done(plan.entry, digest, is_same=plan.want.wish is Wish.CHECK)
            except (LandingError, OSError) as error:
                yield self._fail(error)
        yield from self._next()

    def _drop(self, why: str) -> Iterator[bytes]:
        if not self._is_given_up:
            self._tally.failed(self._plans[0].entry, f"the sender says: {why}")
        yield from self._next()

    def _fail(self, error: LandingError | OSError) -> bytes:
        """Give up the file that comes; the others go on."""
        plan = self._plans[0]
        self._is_given_up = True
        self._file_close()
        is_other = isinstance(error, LandingError) and error.is_other
        why = str(error) if isinstance(error, LandingError) else f"it cannot be written: {error.strerror}"
        if not is_other:
            self._tally.failed(plan.entry, why)
        return Failure(plan.index, is_other, why).encode()

    def _file_close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
