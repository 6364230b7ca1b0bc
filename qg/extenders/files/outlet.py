# SPDX-License-Identifier: MIT
"""The sender's disk: files of one plan become frames, read and hashed in the same pass. Everything here blocks."""

import hashlib
import os
import stat
from collections.abc import Generator, Sequence

from qg.extenders.files.frames import BODY_MAX, DIGEST_LEN, Entry, Kind, Want, Wish, frame_make, text_make
from qg.extenders.files.tree import Tree

__all__ = ["Outlet"]

_READ_LEN = 1 << 20  # bytes of frames that are made in one go
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CHANGED = "it changed while it was sent: send it again"


class _DropError(Exception):
    """Why a file is not sent after all."""


class Outlet:
    """Give the frames that answer what is wanted of a plan."""

    def __init__(self, tree: Tree, entries: Sequence[Entry], wants: Sequence[Want]) -> None:
        self._tree, self._entries, self._wants = tree, entries, wants
        self.refused: set[int] = set()  # entries that the receiver has given up; added to while frames are made
        self.dropped: dict[int, str] = {}  # entries that cannot be sent, and why
        self.resumed: set[int] = set()
        self.restarted: set[int] = set()  # the receiver had a part of another version
        self.digest = b""  # of the last file
        self.n_done = 0  # bytes of the files that are through
        self._is_stopped = False
        self._frames = self._make()

    def read(self) -> bytes:
        """Give the next frames, b"" after the last."""
        frames, length = [], 0
        for frame in self._frames:
            frames.append(frame)
            length += len(frame)
            if length >= _READ_LEN:
                break
        return b"".join(frames)

    def stop(self) -> None:
        """Have a `read` that is under way end soon."""
        self._is_stopped = True

    def close(self) -> None:
        """Give back what is open."""
        self._frames.close()

    def _make(self) -> Generator[bytes, None, None]:
        for index, (entry, want) in enumerate(zip(self._entries, self._wants, strict=True)):
            if want.wish in (Wish.REFUSE, Wish.HERE):
                self.n_done += entry.size
                continue
            start = self.n_done
            try:
                yield from self._file(index, entry, want)
            except _DropError as drop:
                self.dropped[index] = str(drop)
                yield text_make(Kind.DROP, str(drop))
            except OSError as error:
                self.dropped[index] = f"it cannot be read: {error.strerror}"
                yield text_make(Kind.DROP, self.dropped[index])
            self.n_done = start + entry.size

    def _file(self, index: int, entry: Entry, want: Want) -> Generator[bytes, None, None]:
        fd = os.open(self._tree.place(entry), _OPEN)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
                raise _DropError(_CHANGED)
            if entry.size <= BODY_MAX and want.wish is Wish.SEND:
                yield self._small(fd, entry.size)
                return
            digest = yield from self._blocks(fd, index, entry, want)
            now = os.fstat(fd)
            if (now.st_size, now.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
                raise _DropError(_CHANGED)
            self.digest = digest
            yield frame_make(Kind.END, digest)
        finally:
            os.close(fd)

    def _small(self, fd: int, size: int) -> bytes:
        """Give all of a small file in one go."""
        data = os.read(fd, size + 1)
        if len(data) != size:
            raise _DropError(_CHANGED)
        self.digest = hashlib.blake2b(data, digest_size=DIGEST_LEN).digest()
        end = frame_make(Kind.END, self.digest)
        return frame_make(Kind.CHUNK, data) + end if data else end

    def _blocks(self, fd: int, index: int, entry: Entry, want: Want) -> Generator[bytes, None, bytes]:
        """Give the file in chunks, or only its hash where that is wanted."""
        hasher = hashlib.blake2b(digest_size=DIGEST_LEN)
        done_len = 0
        if want.wish is Wish.RESUME:
            hasher, done_len = self._prefix(fd, index, entry, want)
            yield frame_make(Kind.START, done_len.to_bytes(8))
        while done_len < entry.size:
            if index in self.refused:
                raise _DropError("the receiver gave it up")
            block = self._block(fd, min(BODY_MAX, entry.size - done_len))
            hasher.update(block)
            done_len += len(block)
            self.n_done += len(block)
            if want.wish is not Wish.CHECK:
                yield frame_make(Kind.CHUNK, block)
        return hasher.digest()

    def _block(self, fd: int, length: int) -> bytes:
        if self._is_stopped:
            raise _DropError("the sender was stopped")
        block = os.read(fd, length)
        if not block:
            raise _DropError(_CHANGED)
        return block

    def _prefix(self, fd: int, index: int, entry: Entry, want: Want) -> "tuple[hashlib.blake2b, int]":
        """Hash what the receiver has; begin anew if that is not how this file begins."""
        hasher = hashlib.blake2b(digest_size=DIGEST_LEN)
        done_len = 0
        while done_len < want.size <= entry.size:
            block = self._block(fd, min(BODY_MAX, want.size - done_len))
            hasher.update(block)
            done_len += len(block)
        if done_len == want.size and hasher.digest() == want.digest:
            self.resumed.add(index)
            self.n_done += done_len
            return hasher, done_len
        self.restarted.add(index)
        os.lseek(fd, 0, os.SEEK_SET)
        return hashlib.blake2b(digest_size=DIGEST_LEN), 0
