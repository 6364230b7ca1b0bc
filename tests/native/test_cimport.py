# SPDX-License-Identifier: MIT
"""A foreign extension module can cimport the core's promises and call it without the GIL."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qg._core import wire

pytest.importorskip("Cython")

MODULE = """
# cython: language_level=3
from libc.stdint cimport uint8_t, uint64_t
from qg._core.wire cimport FRAME_DATA, frame_put_data_head, varint_get, varint_put

def head(uint64_t id, size_t length):
    cdef uint8_t[32] dst
    cdef int n
    with nogil:
        n = frame_put_data_head(dst, id, length, FRAME_DATA)
    return bytes(dst[:n])

def there_and_back(uint64_t value):
    cdef uint8_t[8] dst
    cdef uint64_t read = 0
    cdef int n = varint_put(dst, value)
    return varint_get(dst, n, &read) == n and read == value
"""
SETUP = """
from setuptools import Extension, setup
from Cython.Build import cythonize
extension = Extension("foreign", ["foreign.pyx"], extra_compile_args=["-O1"])
setup(name="foreign", ext_modules=cythonize([extension], quiet=True))
"""
USE = "import foreign; print(foreign.head(5, 3).hex(), foreign.there_and_back(2**40))"


def test_a_foreign_module_builds_against_the_pxd_files(tmp_path):
    (tmp_path / "foreign.pyx").write_text(MODULE)
    (tmp_path / "setup.py").write_text(SETUP)
    home = str(Path(wire.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([home, str(tmp_path)])}
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    built = subprocess.run(build, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    used = subprocess.run([sys.executable, "-c", USE], env=environment, capture_output=True, text=True)
    assert used.stdout.split() == [wire.build_data(5, b"abc")[:3].hex(), "True"], used.stderr
