# SPDX-License-Identifier: MIT
"""Searches all memory of another process: what a core dump holds, and the mappings that one leaves out."""

import re
from collections import Counter
from pathlib import Path

PIECE_LEN = 1 << 20
_AREA = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+\s*(.*)")
_FOREIGN = ("[vvar", "[vsyscall")  # the kernel's, which cannot be read this way


def areas(pid):
    """Give the mappings of a process: first byte, end, and whether a core dump leaves it out (MADV_DONTDUMP)."""
    found, area = [], None
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if head := _AREA.match(line):
            area = None if head[3].startswith(_FOREIGN) else (int(head[1], 16), int(head[2], 16))
        elif line.startswith("VmFlags:") and area:
            found.append((*area, " dd" in line))
    return found


def secrets_find(pid, secrets):
    """Search for secrets by name: a Counter of the places of each, and one of those that dumps leave out.

    The process may be one that we may trace: a child. Let it stand still meanwhile. Guard pages are read too.
    """
    places, undumped = Counter(), Counter()
    overlap = max(len(secret) for secret in secrets.values()) - 1
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for start, end, is_left_out in areas(pid):
            for at in range(start, end, PIECE_LEN):
                piece = _read(memory, at, min(end, at + PIECE_LEN + overlap))
                if piece == bytes(len(piece)):  # most of it
                    continue
                for name, secret in secrets.items():
                    if n := sum(found < PIECE_LEN for found in _all(piece, secret)):
                        places[name] += n
                        undumped[name] += n * is_left_out
    return places, undumped


def _read(memory, at, end):
    parts = []
    while at < end:
        memory.seek(at)
        try:
            part = memory.read(end - at)
        except OSError:  # behind the end of a mapped file
            break
        if not part:
            break
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def _all(piece, secret):
    at = piece.find(secret)
    while at >= 0:
        yield at
        at = piece.find(secret, at + 1)
