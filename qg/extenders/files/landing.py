# SPDX-License-Identifier: MIT
"""The receiver's disk: where files land, and nothing outside. Everything here blocks.

Folders are opened one below the other, never through a link; what is open is what is written. A file of up to 256 KiB
is whole and checked in memory before its name is made, a longer one grows under the name of an unfinished file and is
renamed when its hash is right. Nothing waits for the disk itself to have it.
"""

import errno
import fcntl
import hashlib
import os
import stat
import threading
from contextlib import suppress
from typing import Literal, NamedTuple

from qg.extenders.files.frames import BODY_MAX, DIGEST_LEN, Entry, Flag, Want, Wish
from qg.extenders.files.names import part_name, path_problem

__all__ = ["Existing", "Ground", "Landing", "LandingError", "Part", "write_all"]

Existing = Literal["keep", "replace"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_EXISTS = "another file has this name already"


class LandingError(Exception):
    """Why a file is not taken, or was not put in place; the words are for both sides."""

    def __init__(self, why: str, *, is_other: bool = False) -> None:
        super().__init__(why)
        self.is_other = is_other  # a file that may be replaced is in the way: its bytes are wanted after all


class Part(NamedTuple):
    """What is here of a file that did not come to its end."""

    size: int
    hasher: "hashlib.blake2b"


class Ground:
    """The target folder, for all that one transfer brings; `close` after the last `Landing`."""

    def __init__(self, folder: str | os.PathLike[str], existing: Existing) -> None:
        self.fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.existing: Existing = existing
        self.is_stopped = False  # a hash that is being made ends soon
        self.lock = threading.Lock()  # of `landed`, and of what is put in the place of another file
        self.landed: set[tuple[int, int]] = set()  # device and inode of what came, where files are replaced

    @property
    def free_len(self) -> int:
        """Give the bytes that the disk has room for."""
        free = os.fstatvfs(self.fd)
        return free.f_bavail * free.f_frsize

    def close(self) -> None:
        os.close(self.fd)


class Landing:
    """Put files of one lane into the target folder."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._folder = b""  # the one that is open, "" the target folder
        self._fd = ground.fd

    def close(self) -> None:
        if self._fd != self._ground.fd:
            os.close(self._fd)
        self._folder, self._fd = b"", self._ground.fd

    def look(self, entry: Entry) -> tuple[Want, Part | None]:
        """Say what is wanted of an entry; folders are made."""
        if problem := path_problem(entry.path):
            return Want(Wish.REFUSE, why=problem), None
        try:
            if entry.flags & Flag.FOLDER:
                self._enter(entry.path)
                return Want(Wish.HERE), None
            return self._look_file(entry)
        except LandingError as error:
            return Want(Wish.REFUSE, why=str(error)), None
        except OSError as error:
            return Want(Wish.REFUSE, why=f"it cannot be written: {error.strerror}"), None

    def _look_file(self, entry: Entry) -> tuple[Want, Part | None]:
        fd, name = self._parent(entry.path)
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            status = None
        if status is not None:
            if not stat.S_ISREG(status.st_mode):
                raise LandingError("what has this name already is no file")
            if status.st_size == entry.size and not entry.flags & Flag.FRESH:
                return Want(Wish.CHECK), None
            if self._ground.existing == "keep":
                raise LandingError(_EXISTS)
        if entry.size > BODY_MAX and (part := self._part_read(fd, part_name(name), entry.size)):
            return Want(Wish.RESUME, part.size, part.hasher.digest()), part
        return Want(Wish.SEND), None

    def _part_read(self, fd: int, name: bytes, size_max: int) -> Part | None:
        """Hash what came before a break; None if there is nothing of use."""
        try:
            part_fd = os.open(name, _READ, dir_fd=fd)
        except OSError:  # none there, or a link; `LongFile` says so
            return None
        try:
            status = os.fstat(part_fd)
            if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= size_max:
                return None
            return self._hashed(part_fd, status.st_size)
        finally:
            os.close(part_fd)

    def _hashed(self, fd: int, size: int) -> Part:
        hasher = hashlib.blake2b(digest_size=DIGEST_LEN)
        done_len = 0
        while done_len < size and (block := os.read(fd, min(BODY_MAX, size - done_len))):
            if self._ground.is_stopped:
                raise LandingError("the receiver was stopped")
            hasher.update(block)
            done_len += len(block)
        return Part(done_len, hasher)

    def check(self, entry: Entry, digest: bytes) -> None:
        """Make sure that the file that is here has this hash."""
        parent_fd, name = self._parent(entry.path)
        fd = os.open(name, _READ, dir_fd=parent_fd)
        try:
            status = os.fstat(fd)
            is_same = stat.S_ISREG(status.st_mode) and status.st_size == entry.size
            if is_same and self._hashed(fd, entry.size).hasher.digest() == digest:
                return
        finally:
            os.close(fd)
        raise LandingError(_EXISTS, is_other=self._ground.existing == "replace")

    def put(self, entry: Entry, data: bytes) -> None:
        """Write a short file that is whole and checked."""
        fd, name = self._parent(entry.path)
        try:
            self._write_new(fd, name, entry, data)
        except FileExistsError:
            if self._ground.existing == "keep":
                raise LandingError("another file has this name by now") from None
            part = part_name(name)
            with suppress(FileNotFoundError):  # of an earlier version of the file
                os.unlink(part, dir_fd=fd)
            self._write_new(fd, part, entry, data)
            self._replace(fd, part, name)

    def _write_new(self, fd: int, name: bytes, entry: Entry, data: bytes) -> None:
        file_fd = os.open(name, _NEW, _mode(entry), dir_fd=fd)
        try:
            write_all(file_fd, data)
            if self._ground.existing == "replace":
                self._note(file_fd)
        except BaseException:
            os.unlink(name, dir_fd=fd)
            raise
        finally:
            os.close(file_fd)

    def _note(self, fd: int) -> None:
        status = os.fstat(fd)
        with self._ground.lock:
            self._ground.landed.add((status.st_dev, status.st_ino))

    def _replace(self, fd: int, part: bytes, name: bytes) -> None:
        """Put a file in the place of another, but not of one that came with the same transfer."""
        with self._ground.lock:
            with suppress(FileNotFoundError):
                old = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if not stat.S_ISREG(old.st_mode):
                    raise LandingError("what has this name already is no file")
                if (old.st_dev, old.st_ino) in self._ground.landed:
                    raise LandingError("another file of this transfer has the same name here")
            os.rename(part, name, src_dir_fd=fd, dst_dir_fd=fd)

    def commit(self, entry: Entry, part_fd: int) -> None:
        """Give a long file that is whole its name."""
        fd, name = self._parent(entry.path)
        part = part_name(name)
        if self._ground.existing == "replace":
            self._replace(fd, part, name)
            self._note(part_fd)
            return
        try:
            os.link(part, name, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
        except OSError as error:  # the name is taken, or a file system without hard links, such as FAT
            if isinstance(error, FileExistsError) or _is_there(fd, name):
                raise LandingError("another file has this name by now") from None
            os.rename(part, name, src_dir_fd=fd, dst_dir_fd=fd)
        else:
            os.unlink(part, dir_fd=fd)

    def part_open(self, entry: Entry, size: int) -> int:
        """Open the unfinished file of an entry for nobody else, cut to `size`; the caller closes it."""
        folder_fd, name = self._parent(entry.path)
        part = part_name(name)
        try:
            fd = os.open(part, _WRITE, _mode(entry), dir_fd=folder_fd)
        except OSError as error:
            raise LandingError(f"its unfinished file cannot be written: {error.strerror}") from None
        try:
            mine = os.fstat(fd)
            if not stat.S_ISREG(mine.st_mode) or mine.st_nlink > 1:
                raise LandingError("what has the name of its unfinished file is none")
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_ours = os.stat(part, dir_fd=folder_fd, follow_symlinks=False).st_ino == mine.st_ino
            except (BlockingIOError, FileNotFoundError):
                is_ours = False
            if not is_ours or mine.st_size < size:  # locked, or renamed or cut by its writer before we had the lock
                raise LandingError("it is being received already")
            os.ftruncate(fd, size)
            os.lseek(fd, size, os.SEEK_SET)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        """Open the folder that a path is in; it stays open until another is asked for."""
        folder, _, name = path.rpartition(b"/")
        if folder != self._folder:
            self._enter(folder)
        return self._fd, name

    def _enter(self, folder: bytes) -> None:
        """Open a folder below the target folder, never through a link; what is missing is made."""
        self.close()
        fd = self._ground.fd
        try:
            for name in folder.split(b"/") if folder else ():
                next_fd = _folder_open(fd, name)
                if fd != self._ground.fd:
                    os.close(fd)
                fd = next_fd
        except BaseException:
            if fd != self._ground.fd:
                os.close(fd)
            raise
        self._folder, self._fd = folder, fd


def _folder_open(fd: int, name: bytes) -> int:
    try:
        try:
            return os.open(name, _FOLDER, dir_fd=fd)
        except FileNotFoundError:
            with suppress(FileExistsError):  # another lane was faster
                os.mkdir(name, dir_fd=fd)
            return os.open(name, _FOLDER, dir_fd=fd)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise LandingError("what has the name of its folder is a link or a file") from None
        raise


def _is_there(fd: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _mode(entry: Entry) -> int:
    """Give the permissions of a new file, before the umask: nothing of the sender's but whether it can be run."""
    return 0o777 if entry.flags & Flag.EXECUTABLE else 0o666


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
