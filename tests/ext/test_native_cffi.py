# SPDX-License-Identifier: MIT
"""A native extender by way of cffi: in ABI mode, from the text of the header, and in API mode, compiled with it."""

import hashlib
import os
import subprocess
from contextlib import asynccontextmanager
from importlib.util import module_from_spec, spec_from_file_location

import pytest
from ext.native_support import COMPILE, SOURCE, compiler_find, declarations, exchange
from net.support import LISTEN, until

import qg
from qg.testing import conserved

cffi = pytest.importorskip("cffi")

pytestmark = [pytest.mark.net, pytest.mark.anyio]

MIB = 1 << 20
ID = qg.ExtenderId("0d9e1c5e-64f2-4f3c-9f6d-6f4b1f6f7a02")
COUNTS = """
    typedef struct {
        uint64_t opened, closed, ends, writables, wakes, faults, taken;
        int64_t reason, priority, is_relayed;
        uint64_t now_ns;
        uint8_t peer_id[32];
    } counts_t;
    extern counts_t counts;
    extern qg_extender_v1 table;
"""
INLINE = """
    size_t qg_stream_write(qg_stream *stream, const void *src, size_t len);
    void qg_stream_finish(qg_stream *stream);
    void qg_stream_reset(qg_stream *stream, int reason);
    void qg_stream_wake(qg_stream *stream);
    uint64_t qg_stream_now_ns(const qg_stream *stream);
"""


def abi_mode(folder):
    """Load a library of C, and read its table as the header's text says that it lies in memory."""
    path = folder / "service.so"
    command = [compiler_find(), *COMPILE, "-shared", "-I", qg.get_include(), str(SOURCE), "-o", str(path)]
    subprocess.run(command, check=True)
    ffi = cffi.FFI()
    ffi.cdef(declarations() + COUNTS)
    return ffi, ffi.dlopen(str(path))


def api_mode(folder):
    """Compile the same C together with cffi's: the C compiler compares every struct with the header's."""
    compiler_find()
    builder = cffi.FFI()
    builder.cdef(declarations() + COUNTS + INLINE)
    options = {"include_dirs": [qg.get_include()], "extra_compile_args": COMPILE, "libraries": ["pthread"]}
    builder.set_source("qg_native_test", SOURCE.read_text(), **options)
    spec = spec_from_file_location("qg_native_test", builder.compile(tmpdir=str(folder)))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ffi, module.lib


@pytest.fixture(scope="module", params=[abi_mode, api_mode], ids=["ABI", "API"])
def loaded(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("cffi"))


@asynccontextmanager
async def served(loaded):
    ffi, lib = loaded
    ffi.memmove(ffi.addressof(lib, "counts"), bytes(ffi.sizeof("counts_t")), ffi.sizeof("counts_t"))
    async with conserved() as nodes:
        extender = qg.NativeExtender(ID, ffi.addressof(lib, "table"))
        async with (
            qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[extender]) as node,
            qg.Node(qg.Identity.generate()) as caller,
        ):
            nodes += [node, caller]
            yield await caller.connect(node.address)
        assert lib.counts.opened == lib.counts.closed
        assert lib.counts.faults == 0


async def closed(lib, n):
    await until(lambda: lib.counts.closed == n, lambda: lib.counts.closed)


def test_the_table_is_what_the_header_says(loaded):
    ffi, lib = loaded
    assert (lib.table.size, lib.table.version) == (ffi.sizeof("qg_extender_v1"), 1)
    assert ffi.offsetof("qg_extender_v1", "size") == ffi.offsetof("qg_host_v1", "size") == 0
    assert lib.table.ctx == ffi.addressof(lib, "counts")


async def test_megabytes_go_there_and_back(loaded):
    async with served(loaded) as peer:
        data = os.urandom(4 * MIB + 11)
        got = await exchange(await peer.open_stream(ID), data)
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
        await closed(loaded[1], 1)
        assert (loaded[1].counts.reason, loaded[1].counts.taken) == (0, len(data))


async def test_a_half_may_end_before_the_other(loaded):
    async with served(loaded) as peer:
        stream = await peer.open_stream(ID, metadata=b"s7")
        assert await stream.read() == bytes(range(7))
        await stream.write(bytes(MIB))
        stream.finish()
        await closed(loaded[1], 1)
        assert (loaded[1].counts.reason, loaded[1].counts.taken) == (0, MIB)


async def test_a_reset_passes_in_both_directions(loaded):
    async with served(loaded) as peer:
        with pytest.raises(qg.StreamReset):
            await exchange(await peer.open_stream(ID, metadata=b"x"), bytes(MIB))
        await closed(loaded[1], 1)
        stream = await peer.open_stream(ID)
        stream.reset(qg.Reason.LIMIT)
        await closed(loaded[1], 2)
        assert loaded[1].counts.reason == qg.Reason.LIMIT


async def test_a_stream_can_be_refused(loaded):
    async with served(loaded) as peer:
        with pytest.raises(qg.Busy):
            await peer.open_stream(ID, metadata=b"n")
        assert await exchange(await peer.open_stream(ID), b"the next one") == b"the next one"
        await closed(loaded[1], 1)


def test_an_extender_can_be_tried_without_a_node(loaded):
    """Whoever makes a host's table of functions can call an extender's."""
    ffi, lib = loaded
    sent = []

    calls = dict(ffi.typeof("qg_host_v1").fields)

    @ffi.callback(calls["stream_write"].type)
    def write(stream, src, length):
        taken = min(length, 5) if is_open else 0
        sent.append(bytes(ffi.buffer(src, taken)))
        return taken

    is_open = False
    host = ffi.new("qg_host_v1 *", {"size": ffi.sizeof("qg_host_v1"), "version": 1, "stream_write": write})
    host.stream_now_ns = now_ns = ffi.callback(calls["stream_now_ns"].type, lambda stream: 42)
    stream, state = ffi.new("qg_stream *", {"host": host}), ffi.new("void **")
    peer_id, opening = ffi.new("uint8_t[32]"), ffi.new("qg_opening_v1 *", {"size": ffi.sizeof("qg_opening_v1")})
    opening.peer_id = peer_id
    assert lib.table.on_open(lib.table.ctx, stream, opening, state) == 0
    assert (lib.counts.now_ns, now_ns(stream)) == (42, 42)
    is_open = True
    data = ffi.new("uint8_t[]", b"eight by")
    assert lib.table.on_data(state[0], stream, data, 8) == 5
    assert sent[-1] == b"eight"
