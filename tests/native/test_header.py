# SPDX-License-Identifier: MIT
"""The public C header says what the node does: compiled through cffi (API mode) and read as a table (ABI mode)."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import qg
from qg._core import wire

cffi = pytest.importorskip("cffi")

INCLUDE = Path(__file__).parents[2] / "include"
HEADER = (INCLUDE / "qg_wire.h").read_text()
ENUMS = re.findall(r"^enum \w+ \{.*?\};", re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL), re.MULTILINE | re.DOTALL)
DECLARATIONS = """
int qg_varint_put(uint8_t *dst, uint64_t value);
int qg_varint_get(const uint8_t *src, size_t len, uint64_t *value);
"""


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    folder = tmp_path_factory.mktemp("native")
    builder = cffi.FFI()
    builder.cdef("\n".join(ENUMS) + DECLARATIONS)
    builder.set_source("qg_wire_test", '#include "qg_wire.h"', include_dirs=[str(INCLUDE)])
    path = builder.compile(tmpdir=str(folder))
    return load(path)


def load(path):
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("qg_wire_test", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def constants(prefix):
    return {name.removeprefix(prefix): int(value, 0) for name, value in re.findall(rf"({prefix}\w+) = (\w+)", HEADER)}


def test_the_reasons_are_those_of_the_library():
    assert constants("QG_REASON_") == {reason.name: reason.value for reason in qg.Reason}


def test_the_compiled_constants_are_those_of_the_text(native):
    for name, value in constants("QG_").items():
        assert getattr(native.lib, f"QG_{name}") == value


def test_every_frame_type_is_known_to_the_node():
    for name, number in constants("QG_FRAME_").items():
        status, _ = wire.parse_frame(bytes([number]) + bytes(1300))
        assert status != -8 or name in ("OPEN", "OBSERVED", "CLOSE"), name
    unknown = set(range(64)) - set(constants("QG_FRAME_").values())
    for number in unknown:
        assert wire.parse_frame(bytes([number]) + bytes(1300)) == (-8, None)


@given(st.integers(0, 2**62 - 1))
def test_its_varints_are_those_of_the_node(native, value):
    dst = native.ffi.new("uint8_t[8]")
    length = native.lib.qg_varint_put(dst, value)
    written = bytes(native.ffi.buffer(dst, length))
    assert wire.build_data(value, b"")[1 : 1 + length] == written
    read = native.ffi.new("uint64_t *")
    assert native.lib.qg_varint_get(written, length, read) == length
    assert read[0] == value
    assert native.lib.qg_varint_get(written, length - 1, read) == 0


@pytest.mark.parametrize("data", [b"\x40\x3f", b"\x80\x00\x3f\xff", b"\xc0\0\0\0\x3f\xff\xff\xff"])
def test_a_varint_that_is_not_minimal_is_refused(native, data):
    assert native.lib.qg_varint_get(data, len(data), native.ffi.new("uint64_t *")) == -1
    assert wire.parse_frame(b"\x0a" + data + b"\0")[0] == -7
