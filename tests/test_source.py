# SPDX-License-Identifier: MIT
"""The sources keep their rules, and the checkers that say so find what is planted."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPDX = "# SPDX-License-Identifier: MIT\n"


def check(name: str, *arguments: str) -> list[str]:
    """Run a checker; the lines it prints, empty when it finds nothing."""
    run = subprocess.run(
        [sys.executable, ROOT / "tools" / name, *arguments], capture_output=True, text=True, timeout=300
    )
    assert "Traceback" not in run.stderr
    assert run.returncode == (1 if run.stderr else 0)
    return run.stderr.splitlines()


@pytest.fixture
def tree(tmp_path: Path):
    """Give a function that writes qg/NAME with the license line, into a tree that is right otherwise."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / "qg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SPDX + text)
        return tmp_path

    write("__init__.py", "")
    write("_core/__init__.py", "")
    return write


def test_imports_go_downward():
    assert check("check_layers.py") == []


def test_cython_sources_keep_the_rules():
    assert check("check_cython.py") == []


@pytest.mark.parametrize("module", ["memory", "wire", "errors"])
def test_a_single_right_module_passes(tree, module):
    core = module != "errors"
    text = "from libc.stdint cimport uint8_t\ncdef uint8_t x\n" if core else ""
    root = tree(f"_core/{module}.pyx" if core else f"{module}.py", text)
    assert check("check_layers.py", str(root)) == []
    assert check("check_cython.py", str(root)) == []


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("_core/wire.pyx", "from .session cimport session_t\n", "_core.session (L6) is not below _core.wire (L3)"),
        ("_core/wire.pxd", "from qg._core.mux cimport mux_t\n", "_core.mux (L5) is not below _core.wire (L3)"),
        ("_core/wire.pyx", "from qg._core cimport (\n    memory,\n    relay,\n)\n", "_core.relay (L7) is not below"),
        ("_core/wire.pyx", "from . cimport engine\n", "_core.engine (L8) is not below"),
        ("_core/wire.pyx", "cimport qg._core.engine\n", "_core.engine (L8) is not below"),
        ("_core/wire.pyx", "import qg._core.engine as e\n", "_core.engine (L8) is not below"),
        ("_core/wire.pyx", "def f():\n    from qg._core.engine import g\n", "_core.engine (L8) is not below"),
        ("_core/wire.pyx", "from qg.errors import LocalError\n", "errors (P0) is not below"),
        ("_core/relay.pyx", "from .guard cimport guard_t\n", "_core.guard (L7) is not below _core.relay (L7)"),
        ("_core/record.pyx", "from .sodium cimport sodium_memzero\n", "may import _core.sodium"),
        ("_core/engine.pyx", "from .uv cimport uv_loop_t\n", "may import _core.uv"),
        ("_core/loop.pyx", "from .engine cimport engine_t\n", "L9 may not know L8: _core.engine"),
        ("_core/loop.pyx", "from .session cimport session_t\n", "L9 may not know L6: _core.session"),
        ("_core/novelty.pyx", "", "_core.novelty: unknown module"),
        ("_core/wire.pyx", "from .novelty cimport x\n", "_core.novelty is not in the tables"),
        ("novelty.py", "", "novelty: unknown module"),
        (
            "extender.py",
            "TYPE_CHECKING = 1\nif not TYPE_CHECKING:\n    from qg.peer import Peer\n",
            "peer (P3) is not below",
        ),
        ("errors.py", "from qg.types import PeerId\n", "types (P0) is not below errors (P0)"),
        ("address.py", "from .node import Node\n", "node (P3) is not below address (P1)"),
        ("address.py", "def f():\n    from qg import node\n", "node (P3) is not below address (P1)"),
        ("node.py", "from qg import Config\n", "qg (API) is not below node (P3)"),
        ("node.py", "import qg\n", "qg (API) is not below node (P3)"),
        ("node.py", "from qg._core.session import Session\n", "Python may import only"),
        ("node.py", "from ._core import session\n", "Python may import only"),
        ("__init__.py", "from .cli import main\n", "cli (P5) is not below qg (API)"),
        ("extenders/echo.py", "from qg.node import Node\n", "import it from qg, not from qg.node"),
        ("extenders/echo.py", "from .chat import x\n", "extenders.chat (P4) is not below extenders.echo (P4)"),
        ("extenders/echo.py", "from qg.cli.run import main\n", "cli (P5) is not below extenders.echo (P4)"),
    ],
)
def test_a_planted_import_is_found(tree, name, text, told):
    root = tree(name, text)
    assert any(told in problem for problem in check("check_layers.py", str(root)))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("_core/session.pyx", "from .mux cimport (\n    mux_t,\n)\nfrom .wire cimport frame_t\n"),
        ("_core/session.pyx", '"""\nfrom .engine cimport engine_t\n"""\n# from .engine cimport x\n'),
        ("_core/crypto.pyx", "from .sodium cimport sodium_memzero\n"),
        ("_core/runtime.pyx", "from .engine cimport engine_t\nfrom .loop cimport loop_t\n"),
        ("__init__.py", "from .errors import QGError\nfrom qg.node import Node\n"),
        ("extenders/echo.py", "import qg\nfrom qg import Extender\n"),
        ("extender.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from qg.peer import Peer\n"),
        ("__main__.py", "from qg.cli import main\n"),
        ("extenders/socks5/server.py", "from .table import Table\n"),
        ("cli/run.py", "from qg.cli.common import fail\nfrom qg import Node\nfrom qg._core.runtime import Runtime\n"),
    ],
)
def test_an_allowed_import_passes(tree, name, text):
    root = tree(name, text)
    for other in ("_core/engine.pyx", "_core/loop.pyx", "_core/mux.pyx", "_core/wire.pyx", "_core/sodium.pxd"):
        if other != name:
            tree(other, "")
    assert check("check_layers.py", str(root)) == []


def test_an_exception_that_nobody_uses_any_more_is_found(tree):
    root = tree("_core/table.pyx", "")
    tree("_core/memory.pyx", "")
    assert check("check_layers.py", str(root)) == [
        "_core.table: no longer imports _core.memory: take the edge out of EDGES"
    ]


def test_the_graph_shows_the_imports(tree, tmp_path):
    root = tree("_core/wire.pyx", "")
    tree("_core/mux.pyx", "from .wire cimport frame_t\n")
    page = tmp_path / "page.md"
    page.write_text("before\n```mermaid\n```\nafter\n")
    for _ in range(2):
        assert check("check_layers.py", "--graph", str(page), str(root)) == []
        text = page.read_text()
        assert text.startswith("before\n```mermaid\nflowchart TD\n")
        assert "  _core_mux --> _core_wire\n" in text
        assert text.endswith("\n```\nafter\n")


def test_the_documentation_shows_the_real_imports(tmp_path):
    page = tmp_path / "architecture.md"
    page.write_text((ROOT / "docs/architecture.md").read_text())
    assert check("check_layers.py", "--graph", str(page)) == []
    assert page.read_text() == (ROOT / "docs/architecture.md").read_text(), (
        "run: tools/check_layers.py --graph docs/architecture.md"
    )


WRONG = [
    ("except-star", "cdef int f() except *:\n    return 0\n"),
    ("noexcept", "cdef void f():\n    pass\n"),
    ("noexcept", "cdef inline void f(int a,\n                   int b) nogil:\n    pass\n"),
    ("noexcept", "ctypedef void (*done_fn)(void *ctx) nogil\n"),
    ("noexcept", "cdef int f(int a) nogil:\n    return a\n"),
    ("gil", "cdef int f() noexcept nogil:\n    with gil:\n        return 0\n"),
    ("memoryview", "def f(const unsigned char[::1] data):\n    pass\n"),
    ("memoryview", "cdef int[:] view\n"),
    ("memoryview", "cdef double[:, ::1] view\n"),
    ("memoryview", "x = <unsigned char[:n]> p\n"),
    ("unused-import", "from .status cimport (\n    E_IO,\n    OK)\ncdef int x = OK\n"),
    ("unused-import", "from .status cimport E_IO, OK as FINE\ncdef int x = E_IO\n"),
    ("line-length", f"cdef int x = 0  {'#' * 120}\n"),
    ("cpdef", "cpdef int f():\n    return 0\n"),
    ("include", 'include "part.pxi"\n'),
    ("private-name", "cdef int __hidden = 0\n"),
    ("clock", "cdef int f() noexcept nogil:\n    return time(NULL)\n"),
    ("clock", "from libc.time cimport time_t\ncdef time_t x\n"),
    ("clock", "import time\n"),
    (
        "clock",
        'cdef extern from *:\n    """\n    static int now(void *t) { return clock_gettime(0, t); }\n    """\n',
    ),
    ("random", "cdef int f(void *p) noexcept nogil:\n    randombytes_buf(p, 1)\n"),
    ("random", "x = rand()\n"),
    ("heap", "p = malloc(5)\n"),
    ("heap", "free(p)\n"),
    ("system", "n = read(fd, p, 5)\n"),
    ("system", "from posix.unistd cimport getpid\nx = getpid\n"),
    ("system", "import os\n"),
]


@pytest.mark.parametrize(("rule", "text"), WRONG, ids=[f"{rule}-{idx}" for idx, (rule, _) in enumerate(WRONG)])
def test_a_planted_violation_is_found_once_and_at_its_place(tree, rule, text):
    root = tree("_core/wire.pyx", "\n" + text)
    (problem,) = check("check_cython.py", str(root))
    number = int(problem.split(":")[1])
    assert problem.startswith(f"qg/_core/wire.pyx:{number}: {rule}: ")
    assert number >= 3


def test_a_missing_license_line_is_found(tree):
    root = tree("_core/wire.pyx", "")
    (root / "qg/_core/wire.pyx").write_text("cdef int x = 0\n")
    assert check("check_cython.py", str(root)) == [
        "qg/_core/wire.pyx:1: license: the first line is # SPDX-License-Identifier: MIT"
    ]


RIGHT = '''
"""Words in texts are no code: except * and with gil, cpdef, malloc(5), time(NULL)."""
from libc.stdint cimport uint8_t

cdef extern from *:
    """
    static inline int qg_add(int a) { return __atomic_add_fetch(&a, 1, 5); }  /* from C */
    """
    int add "qg_add"(int a) noexcept nogil
    void run_once()

ctypedef int (*done_fn)(void *ctx) noexcept nogil

cdef inline void clear(uint8_t *p) noexcept nogil:
    p[0] = 0                    # free() is a word in a comment

cdef char *start(char *p, int readable=0):
    return p + readable

cdef int f(int a,
           int b) except -1:
    return a if a else b

class Owner:
    def __repr__(self):
        return f"{self.name[:2]}"

    def read(self, n):
        return self.file.read(n)[:] if n else b""[1:] or None
'''


def test_right_code_passes(tree):
    root = tree("_core/wire.pyx", RIGHT)
    assert check("check_cython.py", str(root)) == []


def test_memory_may_take_from_the_heap_and_the_loop_may_read_the_clock(tree):
    root = tree("_core/memory.pyx", "p = malloc(5)\n")
    tree("_core/loop.pyx", "now = uv_hrtime()\n")
    assert check("check_cython.py", str(root)) == []
    tree("_core/loop.pyx", "with gil:\n    pass\n")
    assert len(check("check_cython.py", str(root))) == 1


def test_hints_find_a_call_that_takes_the_gil(tree):
    root = tree(
        "_core/wire.pyx",
        "# cython: language_level=3\n"
        "cdef void f():\n    pass\n"
        "cdef void g() noexcept nogil:\n    pass\n"
        "def h():\n    f()\n    with nogil:\n        g()\n",
    )
    assert check("check_cython.py", "--hints", str(root)) == []
    tree(
        "_core/wire.pyx",
        "# cython: language_level=3\ncdef void f() except * nogil:\n    pass\ndef h():\n    with nogil:\n        f()\n",
    )
    hints = check("check_cython.py", "--hints", str(root))
    assert hints
    assert all("wire.pyx" in hint for hint in hints)


def test_what_stands_below_the_asyncio_face_does_not_load_asyncio():
    code = "import qg.errors, qg.types, qg.address, qg.identity, qg.config, sys; print('asyncio' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "False\n"
