# SPDX-License-Identifier: MIT
"""Compile `forwarder.c`, a plain libuv forwarder, against the libuv that qg itself is linked with."""

import subprocess
import sys
from pathlib import Path

from benchmarks.harness import ROOT


def forwarder_build() -> Path:
    """Return the program; compile it unless that is done."""
    sys.path.insert(0, str(ROOT / "tools"))
    from native import compiler_command, native_get

    native = native_get()
    source = Path(__file__).with_name("forwarder.c")
    program = ROOT / "build" / "benchmarks" / "forwarder"
    newest_s = max(path.stat().st_mtime for path in (source, native.library or source))
    if not program.exists() or program.stat().st_mtime < newest_s:
        program.parent.mkdir(parents=True, exist_ok=True)
        options = ["-O3", "-Wall", "-Wextra", *(f"-I{folder}" for folder in native.include_dirs), *native.link_flags]
        if native.library:
            options += [str(native.library), f"-Wl,-rpath,{native.library.parent}"]
        subprocess.run([*compiler_command(), str(source), *options, "-o", str(program)], check=True)
    return program
