# SPDX-License-Identifier: MIT
"""Sizes, durations and tables as people read them, and the progress bar."""

import sys
import time
from collections.abc import Sequence

import click

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_BAR_WIDTH = 30
_BAR_EVERY_S = 0.1
_FAILURES_MAX = 20  # lines of failures


def size_parse(text: str) -> int:
    """Read a size such as 16M: K, M, G and T are powers of 1024; raises `ValueError` for anything else."""
    number = text.upper().removesuffix("B").removesuffix("I")
    unit = number[-1:] if number[-1:] in "KMGT" else ""
    n_bytes = int(number.removesuffix(unit)) * _UNITS[unit]
    if n_bytes < 1:
        raise ValueError(text)
    return n_bytes


class SizeType(click.ParamType):  # type: ignore[type-arg]
    """A size on the command line."""

    name = "SIZE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else size_parse(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a size: write 16M or 2G", param, ctx)


def size_text(n_bytes: float) -> str:
    """Write a size in the largest unit that leaves a whole number in front: 512.0 MiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "bytes" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"


def duration_text(seconds: float) -> str:
    """Write a duration in two units: 1 d 3 h, 5 min 12 s, 3 s."""
    whole = int(seconds)
    for n_s, unit, n_small_s, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= n_s:
            return f"{whole // n_s} {unit} {whole % n_s // n_small_s} {small}"
    return f"{whole} s"


def table_text(rows: Sequence[Sequence[str]]) -> str:
    """Write rows in columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    aligned = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "\n".join("  ".join(row) for row in aligned)


def failures_print(lines: Sequence[str]) -> None:
    """Print the first failures of a list on stderr, and how many there are beyond."""
    for line in lines[:_FAILURES_MAX]:
        print(f"qg: {line}", file=sys.stderr)
    if len(lines) > _FAILURES_MAX:
        print(f"qg: and {len(lines) - _FAILURES_MAX:,} more", file=sys.stderr)
    sys.stderr.flush()


class Progress:
    """Draw on stderr how far a transfer is, at most ten times a second, and nothing unless stderr is a terminal."""

    def __init__(self) -> None:
        self._name = ""
        self._next_s = 0.0
        self._is_shown = sys.stderr.isatty()

    def show(self, name: str, done_len: int, total_len: int | None) -> None:
        """Draw it anew; `total_len` is None when the end is not known."""
        now_s = time.monotonic()
        if name != self._name:
            self._name, self._started_s = name, now_s
        if not self._is_shown or now_s < self._next_s:
            return
        self._next_s = now_s + _BAR_EVERY_S
        rate = done_len / max(now_s - self._started_s, 1e-3)
        text = f"{size_text(done_len)}  {size_text(rate)}/s"
        if total_len:
            n_full = _BAR_WIDTH * done_len // total_len
            bar = "#" * n_full + "-" * (_BAR_WIDTH - n_full)
            left_s = (total_len - done_len) / max(rate, 1)
            text = f"[{bar}] {100 * done_len // total_len:3d} %  {text}  {duration_text(left_s)} left"
        print(f"\r\x1b[K{name}  {text}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the bar away."""
        if self._is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
