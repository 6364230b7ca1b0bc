# SPDX-License-Identifier: MIT
"""Names of files: which ones a sender may say, what a file is called before it is whole, and how names are printed."""

__all__ = ["NAME_MAX", "PART_SUFFIX", "PATH_MAX", "name_shown", "part_name", "path_problem", "root_problem"]

import hashlib
import os

PATH_MAX = 4096  # bytes of a path below the target folder
NAME_MAX = 255  # bytes of one of its names
_DEPTH_MAX = 128  # names in it
PART_SUFFIX = b".qg-part"
_SHOWN_MAX = 300  # characters


def path_problem(path: bytes) -> str | None:
    """Say why a file may not land under this path, b"/" between its names; None if it may."""
    names = path.split(b"/")
    if len(path) > PATH_MAX or len(names) > _DEPTH_MAX or any(len(name) > NAME_MAX for name in names):
        return "its name or path is too long"
    if b"" in names or b"." in names or b".." in names or b"\0" in path:
        return "its path would leave the folder, or is none"
    if any(name.endswith(PART_SUFFIX) for name in names):
        return f"names that end in {PART_SUFFIX.decode()} are those of unfinished files"
    return root_problem(names[0])


def root_problem(name: bytes) -> str | None:
    """Say why a file or folder may not stand in the target folder itself under this name; None if it may."""
    return "hidden names are not taken: rename it" if name.startswith(b".") else None


def part_name(name: bytes) -> bytes:
    """Give the name of a file while it is not whole."""
    part = name + PART_SUFFIX
    if len(part) <= NAME_MAX:
        return part
    mark = b"~" + hashlib.blake2b(name, digest_size=8).hexdigest().encode() + PART_SUFFIX
    return name[: NAME_MAX - len(mark)] + mark


def name_shown(name: bytes | str) -> str:
    """Write a name so that it stays in its line and cannot play with the terminal."""
    text = os.fsdecode(name)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _escaped(c) for c in text)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"


def _escaped(character: str) -> str:
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
