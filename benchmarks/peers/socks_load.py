# SPDX-License-Identifier: MIT
"""What uses SOCKS5 proxies, and its target: `socks_load.c`, compiled, then run in place of this process."""

import os
from pathlib import Path

from benchmarks.program import program_compile


def main() -> None:
    source = Path(__file__).with_suffix(".c")
    program = str(program_compile(source, source, ["-pthread"]))
    os.execv(program, [program])


if __name__ == "__main__":
    main()
