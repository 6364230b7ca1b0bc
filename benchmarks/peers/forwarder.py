# SPDX-License-Identifier: MIT
"""`forwarder.c`, a plain libuv forwarder, against the libuv that qg itself is linked with; also a chain of them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.harness import Role
from benchmarks.program import Tunnel, native_tools, program_compile

N_CHAINED = 4  # as many processes as a source and three relays


def version() -> str:
    return f"libuv {native_tools().native_get().libuv_version}, from C"


def forwarder_build() -> Path:
    native = native_tools().native_get()
    source = Path(__file__).with_suffix(".c")
    options = [*(f"-I{folder}" for folder in native.include_dirs), *native.link_flags]
    if native.library:
        options += [str(native.library), f"-Wl,-rpath,{native.library.parent}"]
    return program_compile(source, native.library or source, options)


@contextmanager
def tunnel(target: int, n_chained: int = N_CHAINED) -> Iterator[Tunnel]:
    """Forward a port of loopback through so many of them to `target`."""
    program = str(forwarder_build())
    with ExitStack() as stack:
        chain: list[Role] = []
        for _ in range(n_chained):
            chain.insert(0, stack.enter_context(Role(program, str(chain[0].hello["port"] if chain else target))))
        names = ["client", *(f"relay{idx}" for idx in range(1, n_chained))] if n_chained > 1 else ["relay"]
        yield Tunnel(chain[0].hello, dict(zip(names, chain, strict=True)))
