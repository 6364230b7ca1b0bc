# SPDX-License-Identifier: MIT
"""What there is to send: files and folders below the paths that were given. No link is followed."""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import qg
from qg.extenders.files.frames import Entry, Flag
from qg.extenders.files.names import name_shown, path_problem

__all__ = ["Tree", "tree_walk"]


class Tree:
    """Know the entries to send, and where each is on this machine."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.failures: list[tuple[bytes, str]] = []  # what cannot be sent, and why
        self.n_left_out = 0  # links, devices, pipes and sockets
        self._roots: dict[bytes, bytes] = {}

    @property
    def names(self) -> tuple[bytes, ...]:
        """Give the names that stand in the target folder itself."""
        return tuple(self._roots)

    def place(self, entry: Entry) -> bytes:
        """Give the path of an entry on this machine."""
        root, _, rest = entry.path.partition(b"/")
        return os.path.join(self._roots[root], rest) if rest else self._roots[root]

    def root_add(self, path: Path) -> None:
        """Take in a file or folder; raises `qg.LocalError` if it cannot be sent at all."""
        real = os.fsencode(path.resolve())  # "." has a name too
        name = os.path.basename(real)
        problem = path_problem(name)
        if name in self._roots:
            problem = "two of that name were given"
        if problem:
            raise qg.LocalError(f"{name_shown(os.fspath(path))} cannot be sent: {problem}")
        try:
            mode = os.stat(real).st_mode
            with os.scandir(real) if stat.S_ISDIR(mode) else open(os.open(real, _LOOK), "rb"):
                pass
        except OSError as error:
            raise qg.LocalError(
                f"{name_shown(os.fspath(path))} cannot be read: {error.strerror}; check the path"
            ) from None
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise qg.LocalError(f"{name_shown(os.fspath(path))} cannot be sent: it is no file and no folder")
        self._roots[name] = real
        for entry in self._walk(real, name):
            if problem := path_problem(entry.path):
                self.failures.append((entry.path, problem))
            else:
                self.entries.append(entry)

    def _walk(self, real: bytes, path: bytes) -> Iterator[Entry]:
        """Give what is below; files of one folder follow each other, folders come before what is in them."""
        folders = [(real, path)]
        while folders:
            real, path = folders.pop()
            try:
                status = os.lstat(real)
                if stat.S_ISREG(status.st_mode):
                    yield _file_entry(path, status)
                    continue
                below: list[tuple[bytes, bytes]] = []
                yield Entry(path, 0, Flag.FOLDER)
                yield from self._files(real, path, below)
                folders += reversed(below)
            except OSError as error:
                self.failures.append((path, f"it cannot be read: {error.strerror}"))

    def _files(self, real: bytes, path: bytes, below: list[tuple[bytes, bytes]]) -> Iterator[Entry]:
        with os.scandir(real) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        for entry in listed:
            entry_path = path + b"/" + entry.name
            if entry.is_dir(follow_symlinks=False):
                below.append((entry.path, entry_path))
            elif entry.is_file(follow_symlinks=False):
                yield _file_entry(entry_path, entry.stat(follow_symlinks=False))
            else:
                self.n_left_out += 1


_LOOK = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


def _file_entry(path: bytes, status: os.stat_result) -> Entry:
    return Entry(path, status.st_size, Flag.EXECUTABLE if status.st_mode & stat.S_IXUSR else Flag(0))


def tree_walk(paths: Iterable[str | os.PathLike[str]]) -> Tree:
    """List what is below these paths; raises `qg.LocalError` if one of them cannot be sent."""
    tree = Tree()
    for path in paths:
        tree.root_add(Path(path))
    if not tree.names:
        raise qg.LocalError("nothing to send was named")
    return tree
