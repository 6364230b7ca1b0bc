#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Check the Cython sources for what docs/architecture.md, section 4, forbids.

Imports, and with them who may use libsodium and libuv, are the business of check_layers.py. With --hints, run Cython
and report every call whose exception check takes the GIL.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from check_layers import CIMPORT, CORE
from cython_text import code_text, verbatim_text

ROOT = Path(__file__).resolve().parent.parent
LINE_LEN_MAX = 120
SPDX = "# SPDX-License-Identifier: MIT\n"

# Modules that know neither clock nor randomness, system calls or the heap: L1 to L8.
PURE = tuple(name for level in ("L1", "L2", "L3", "L4", "L5", "L6", "L7", "L8") for name in CORE[level])


class Rule(NamedTuple):
    name: str
    pattern: str  # searched in the code without comments and strings
    why: str


# For every Cython source of qg.
RULES = (
    Rule("except-star", r"\bexcept\s*\*", "takes the GIL at every call: return a code, or use except -1"),
    Rule("cpdef", r"\bcpdef\b", "one function, one caller: cdef for C, def for Python"),
    Rule("include", r"^[ \t]*include\s", "cimport a module instead of including text"),
    Rule("gil", r"\bwith\s+gil\b", "a loop thread never takes the GIL: hand over through the ring"),
    Rule("private-name", r"(?<!\w)__(?!\w*__\b)[A-Za-z]\w*", "one leading underscore for private names, never two"),
    Rule("memoryview", r"\b\w+\s*\[[\s:,1]*:[\s:,1]*\]\s+(?!(?:if|else|for|in|is|and|or|not)\b)\w+", "use pointers"),
    Rule("memoryview", r"<[^<>\n()=]*\[\s*:[^\]\n]*\]\s*>", "use pointers"),
)


def _calls(names: str) -> str:
    """Give the pattern of a call of one of these C functions, not of a method or a definition of that name."""
    return rf"(?<![\w.])(?<!def )(?:{names.replace(' ', '|')})\s*\("


# For the modules in PURE; what they import counts like a call.
PURE_RULES = (
    Rule(
        "clock",
        _calls("time clock clock_gettime gettimeofday nanosleep clock_nanosleep usleep sleep uv_hrtime uv_now")
        + r"|\blibc\.time\b|^[ \t]*import\s+time\b",
        "time is an argument: now_ns, the last",
    ),
    Rule(
        "random",
        _calls(r"randombytes\w* rand srand random srandom drand48 getrandom getentropy arc4random\w*")
        + r"|^[ \t]*import\s+(?:random|secrets)\b",
        "randomness is handed in: random_fn",
    ),
    Rule(
        "heap",
        _calls(r"malloc calloc realloc free posix_memalign aligned_alloc sodium_malloc sodium_free PyMem_\w+"),
        "take memory from a pool",
    ),
    Rule(
        "system",
        _calls(
            "open openat creat read pread readv write pwrite writev close fsync rename link unlink stat fstat fcntl"
            " ioctl socket bind listen accept accept4 connect send sendto sendmsg recv recvfrom recvmsg shutdown poll"
            " select kqueue mmap munmap mprotect madvise mlock munlock fork getpid gettid kill syscall getenv"
            r" epoll_\w+ pthread_\w+"
        )
        + r"|\bposix\.\w+|^[ \t]*import\s+(?:os|socket)\b",
        "a protocol machine makes no system calls",
    ),
)

# (module, rule): why it may.
ALLOWED = {
    ("memory", "heap"): "the one that takes memory from the system for everybody else",
    ("crypto", "random"): "offers the kernel's randomness as a random_fn",
    ("secret", "heap"): "guarded memory comes from libsodium's own heap",
    ("secret", "system"): "marks its slabs to be wiped on fork",
    ("keyfile", "heap"): "guarded memory comes from libsodium's own heap",
    ("keyfile", "system"): "key files are read and written by guarded memory; only Python calls it",
}

_FUNCTION = re.compile(
    r"^(?P<lead>[ \t]*)(?:cdef|ctypedef)[ \t]+(?P<result>[^\n(=:]*?)(?P<name>\w+|\(\s*\*\s*\w+\s*\))[ \t]*\(",
    re.MULTILINE,
)


def functions_find(code: str) -> Iterator[tuple[int, str, str]]:
    """Yield (offset, result type, what follows the parameters) of each C function and function type in code."""
    for match in _FUNCTION.finditer(code):
        depth, end = 1, match.end()
        while depth and end < len(code):
            depth += {"(": 1, ")": -1}.get(code[end], 0)
            end += 1
        tail = re.match(r"[^\n:]*", code[end:])
        yield match.start(), match["result"].strip(), tail[0] if tail else ""


def exceptions_check(code: str) -> Iterator[tuple[int, str]]:
    """Yield (offset, problem) for functions that look for a Python exception after every call."""
    for offset, result, tail in functions_find(code):
        if re.search(r"\b(?:noexcept|except)\b", tail):
            continue
        if re.search(r"\bnogil\b", tail):
            yield offset, "noexcept: a nogil function says noexcept"
        elif re.search(r"\bvoid$", result):
            yield offset, "noexcept: a void function says noexcept, or returns a code"


def imports_check(code: str) -> Iterator[tuple[int, str]]:
    """Yield (offset, problem) for names that are imported and not used."""
    for match in CIMPORT.finditer(code):
        for name in re.findall(r"\w+(?=\s*(?:,|\)|$))", match["names"] or ""):
            if len(re.findall(rf"(?<![\w.]){name}\b", code)) == 1:
                yield match.start(), f"unused-import: {name}: take it out"


def source_check(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, problem) for everything that is wrong in one .pyx or .pxd."""
    source = path.read_text()
    code, verbatim = code_text(source), verbatim_text(source)
    found = [
        (match.start(), f"{rule.name}: {rule.why}") for rule in RULES for match in re.finditer(rule.pattern, code, re.M)
    ]
    found += exceptions_check(code)
    found += imports_check(code)
    if path.stem in PURE:
        found += [
            (match.start(), f"{rule.name}: {rule.why}")
            for rule in PURE_RULES
            if (path.stem, rule.name) not in ALLOWED
            for text in (code, verbatim)
            for match in re.finditer(rule.pattern, text, re.M)
        ]
    for number, line in enumerate(source.splitlines(), 1):
        if len(line) > LINE_LEN_MAX:
            yield number, f"line-length: {len(line)} characters, at most {LINE_LEN_MAX}"
    for offset, problem in found:
        yield source.count("\n", 0, offset) + 1, problem
    if source and not source.startswith(SPDX):
        yield 1, f"license: the first line is {SPDX.strip()}"


def cython_check(root: Path) -> list[str]:
    """Check all Cython sources under root/qg; one line for each thing that is wrong."""
    paths = sorted(path for path in (root / "qg").rglob("*") if path.suffix in (".pyx", ".pxd"))
    return [
        f"{path.relative_to(root)}:{number}: {problem}"
        for path in paths
        for number, problem in sorted(source_check(path))
    ]


def hints_check(root: Path) -> list[str]:
    """Compile every .pyx and collect what Cython says of exception checks that need the GIL."""
    hints = []
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted((root / "qg").rglob("*.pyx")):
            run = subprocess.run(
                [sys.executable, "-m", "cython", "-3", "-o", f"{folder}/{path.stem}.c", str(path.relative_to(root))],
                cwd=root,
                capture_output=True,
                text=True,
                check=False,
            )
            if run.returncode:
                hints.append(f"{path.relative_to(root)}: does not compile: {run.stderr.strip().splitlines()[-1]}")
            hints += [line for line in run.stderr.splitlines() if "require the GIL" in line]
    return hints


def main() -> int:
    parser = argparse.ArgumentParser(description="check the Cython sources for what the project forbids")
    parser.add_argument(
        "--hints", action="store_true", help="let Cython find exception checks that take the GIL (slow)"
    )
    parser.add_argument("root", nargs="?", type=Path, default=ROOT, help="the project's folder")
    options = parser.parse_args()
    problems = hints_check(options.root) if options.hints else cython_check(options.root)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
