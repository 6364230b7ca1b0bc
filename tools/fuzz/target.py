# SPDX-License-Identifier: MIT
"""Fuzz one target in this process: `python -m tools.fuzz.target NAME FOLDER [options of libFuzzer]`.

An input that breaks a law of the target is kept in FOLDER before libFuzzer hears of it, which would give it the same
name, and now and then does not keep it.
"""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import atheris

from tools.fuzz import target_load


def keeping(run: Callable[[bytes], None], folder: Path) -> Callable[[bytes], None]:
    def kept(data: bytes) -> None:
        try:
            run(data)
        except BaseException:
            (folder / f"crash-{hashlib.sha1(data).hexdigest()}").write_bytes(data)
            raise

    return kept


def main() -> None:
    name, folder = sys.argv.pop(1), Path(sys.argv.pop(1))
    with atheris.instrument_imports(include=["qg"]):
        run = target_load(name)
    atheris.Setup(sys.argv, keeping(run, folder))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
