# SPDX-License-Identifier: MIT
"""Coverage-guided fuzzing of everything that reads bytes of others; `tools/dev fuzz` runs it.

A target is a module of `targets` with `run(data)`, which raises when something does not hold that must. What it
needs besides the core stands in `tests`: the second reading of the protocol (`model`) and the virtual network (`sim`).
`seeds` holds the corpora to begin with, which `python -m tools.fuzz.seeds` makes from real runs.
"""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
SEEDS = FOLDER / "seeds"
FOUND = ROOT / "tests" / "regress" / "found"  # inputs that once failed

TARGETS = sorted(path.stem for path in (FOLDER / "targets").glob("[a-z]*.py"))


def target_load(name: str) -> Callable[[bytes], None]:
    """Give the function that takes an input of a target."""
    run: Callable[[bytes], None] = importlib.import_module(f"tools.fuzz.targets.{name}").run
    return run


def inputs(name: str) -> Iterator[bytes]:
    """Give the inputs of a target that are kept."""
    for folder in (SEEDS / name, FOUND / name):
        for path in sorted(folder.glob("*")):
            yield path.read_bytes()


class Script:
    """Take values from the front of an input; an input that has ended gives zeros."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def __bool__(self) -> bool:
        return self.at < len(self.data)

    def take(self, n: int) -> bytes:
        """Give at most `n` bytes."""
        self.at += n
        return self.data[self.at - n : self.at]

    def exactly(self, n: int) -> bytes:
        return self.take(n).ljust(n, b"\0")

    def number(self, n: int = 1) -> int:
        """Give a number of `n` bytes."""
        return int.from_bytes(self.exactly(n), "big")

    def counted(self) -> bytes:
        """Give bytes behind their length in two bytes."""
        return self.take(self.number(2))

    def rest(self) -> bytes:
        return self.take(len(self.data))
