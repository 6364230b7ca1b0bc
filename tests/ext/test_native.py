# SPDX-License-Identifier: MIT
"""Streams of a native extender are served by C functions on the node's threads: native_service.c."""

import asyncio
import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
from api.test_circuit import three_nodes
from ext.native_support import COMPILE, SOURCE, WARNINGS, compiler_find, exchange
from net.support import LISTEN, core, until

import qg
from qg.testing import conserved

pytestmark = [pytest.mark.net, pytest.mark.anyio]

MIB = 1 << 20
ID = qg.ExtenderId("0d9e1c5e-64f2-4f3c-9f6d-6f4b1f6f7a01")
CANCELLED, SHUTDOWN = int(qg.Reason.CANCELLED), int(qg.Reason.SHUTDOWN)


class Counts(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint64) for name in "opened closed ends writables wakes faults taken".split()),
        *((name, ctypes.c_int64) for name in "reason priority is_relayed".split()),
        ("now_ns", ctypes.c_uint64),
        ("peer_id", ctypes.c_uint8 * 32),
    )


@pytest.fixture(scope="session")
def compiler():
    return compiler_find()


@pytest.fixture(scope="session")
def library(compiler, tmp_path_factory):
    path = tmp_path_factory.mktemp("native") / "service.so"
    command = [compiler, *COMPILE, *WARNINGS, "-shared", "-I", qg.get_include(), str(SOURCE), "-o", str(path)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(path))


@pytest.fixture
def counts(library):
    found = Counts.in_dll(library, "counts")
    ctypes.memset(ctypes.addressof(found), 0, ctypes.sizeof(found))
    return found


def table(library, name="table"):
    return ctypes.addressof(ctypes.c_char.in_dll(library, name))


class Pair:
    """A node with the native extender, and one that opens streams to it."""

    def __init__(self, node, peer, counts):
        self.node, self.peer, self.counts = node, peer, counts

    async def open(self, kind, **options):
        return await self.peer.open_stream(ID, metadata=kind, **options)

    async def closed(self, n):
        await until(lambda: self.counts.closed == n, lambda: f"{self.counts.closed} of {n} closed")
        assert self.counts.faults == 0


@asynccontextmanager
async def served(library, counts, *, name="table", workers=1):
    async with conserved() as nodes:
        config = qg.Config.from_dict({"workers": workers})
        extenders = [qg.NativeExtender(ID, table(library, name))]
        async with (
            qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=extenders, config=config) as node,
            qg.Node(qg.Identity.generate()) as caller,
        ):
            nodes += [node, caller]
            yield Pair(node, await caller.connect(node.address), counts)
        assert counts.opened == counts.closed
        assert counts.faults == 0


async def test_megabytes_go_there_and_back(library, counts):
    async with served(library, counts) as at:
        data = os.urandom(6 * MIB + 17)
        stream = await at.open(b"e")
        got = await exchange(stream, data)
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
        await stream.close()
        await at.closed(1)
        assert (counts.reason, counts.ends, counts.taken) == (0, 1, len(data))
        assert bytes(counts.peer_id) == bytes(at.peer.node.id)
        assert counts.is_relayed == 0
        assert counts.now_ns > 0


async def test_a_stream_of_no_bytes_ends_in_order(library, counts):
    async with served(library, counts) as at:
        assert await exchange(await at.open(b"e"), b"") == b""
        await at.closed(1)
        assert (counts.reason, counts.ends, counts.taken) == (0, 1, 0)


@pytest.mark.parametrize(("kind", "error"), [(b"n", qg.Busy), (b"o", qg.Refused)])
async def test_a_stream_can_be_refused(library, counts, kind, error):
    async with served(library, counts) as at:
        with pytest.raises(error):
            await at.open(kind)
        assert await exchange(await at.open(b"e"), b"and the next one is taken") == b"and the next one is taken"
        await at.closed(1)
        assert counts.opened == 1


@pytest.mark.parametrize("kind", [b"x", b"a"], ids=["in on_data", "in on_open"])
async def test_the_extender_resets_a_stream(library, counts, kind):
    async with served(library, counts) as at:
        with pytest.raises(qg.StreamReset) as caught:
            await exchange(await at.open(kind), bytes(MIB))
        assert caught.value.reason is qg.Reason.CANCELLED
        await at.closed(1)
        assert counts.reason == CANCELLED


async def test_the_peer_resets_a_stream(library, counts):
    async with served(library, counts) as at:
        stream = await at.open(b"e", priority=qg.Priority.DELAYED)
        await stream.write(b"some")
        assert await stream.readexactly(4) == b"some"
        stream.reset(qg.Reason.CANCELLED)
        await at.closed(1)
        assert (counts.reason, counts.ends, counts.priority) == (CANCELLED, 0, 2)


async def test_what_is_not_taken_holds_back_the_sender(library, counts):
    async with served(library, counts) as at:
        stream = await at.open(b"p")
        writing = asyncio.create_task(stream.write(bytes(8 * MIB)))
        other = await at.open(b"e")
        assert await exchange(other, bytes(4 * MIB)) == bytes(4 * MIB)
        assert not writing.done()
        assert 0 < core(at.node)["receive_unread_len"] < 2 * MIB
        stream.reset()
        await at.closed(2)
        await asyncio.gather(writing, return_exceptions=True)


@pytest.mark.parametrize(("kind", "size"), [(b"s", 5 * MIB + 3), (b"t", 2 * MIB + 3), (b"h", 5 * MIB + 3)])
async def test_a_source_sends_no_more_than_the_reader_allows(library, counts, kind, size):
    async with served(library, counts) as at:
        stream = await at.open(kind + b"%d" % size)
        await stream.write(b"go")
        assert await exchange(await at.open(b"e"), bytes(2 * MIB)) == bytes(2 * MIB)
        assert core(at.node)["pool_taken_len"] < 2 * MIB
        expected = (bytes(range(251)) * (size // 251 + 1))[:size]
        assert await stream.read() == expected
        assert counts.writables > 3
        stream.finish()
        await at.closed(2)


async def test_either_side_may_end_first(library, counts):
    async with served(library, counts) as at:
        stream = await at.open(b"s5")
        assert await stream.read() == b"\0\1\2\3\4"
        await stream.write(b"still open")
        stream.finish()
        await at.closed(1)
        assert (counts.taken, counts.ends, counts.reason) == (10, 1, 0)


async def test_what_is_left_when_both_have_finished_is_given_once_more(library, counts):
    async with served(library, counts) as at:
        assert await exchange(await at.open(b"f"), bytes(1000)) == b""
        await at.closed(1)
        assert (counts.taken, counts.ends, counts.reason) == (1000, 1, 0)


async def test_another_thread_wakes_a_stream(library, counts):
    async with served(library, counts) as at:
        streams = [await at.open(b"w") for _ in range(20)]
        data = os.urandom(MIB)
        assert await asyncio.gather(*(exchange(stream, data) for stream in streams)) == [data] * len(streams)
        await at.closed(len(streams))
        assert counts.wakes >= len(streams)


async def test_bytes_may_be_taken_one_by_one(library, counts):
    async with served(library, counts) as at:
        assert await exchange(await at.open(b"b"), bytes(1000)) == b""
        await at.closed(1)
        assert (counts.taken, counts.ends) == (1000, 1)


async def test_streams_that_are_open_when_the_node_closes_are_told(library, counts):
    async with served(library, counts) as at:
        for _ in range(5):
            await (await at.open(b"p")).write(b"something")
        await until(lambda: counts.opened == 5, lambda: counts.opened)
        await at.node.close()
        await at.closed(5)
        assert counts.reason == SHUTDOWN


async def test_streams_of_a_peer_that_goes_are_told(library, counts):
    async with served(library, counts) as at:
        for kind in (b"e", b"p", b"s9000000"):
            await (await at.open(kind)).write(b"something")
        await until(lambda: counts.opened == 3, lambda: counts.opened)
        await at.peer.close()
        await at.closed(3)
        assert counts.reason != 0


async def test_an_extender_that_is_removed_gets_no_more_streams(library, counts):
    async with served(library, counts) as at:
        stream = await at.open(b"e")
        removal = asyncio.create_task(at.node.remove_extender(ID))
        await until(lambda: ID not in at.peer.extenders, lambda: at.peer.extenders)
        with pytest.raises(qg.Unsupported):
            await (await at.open(b"e")).read()
        assert await exchange(stream, b"this one has its time") == b"this one has its time"
        await removal
        await at.closed(1)
        assert counts.reason == 0


async def test_a_stream_that_stays_longer_than_the_grace_is_reset(library, counts):
    async with served(library, counts) as at:
        stream = await at.open(b"e")
        await at.node.remove_extender(ID, grace_s=0.01)
        with pytest.raises(qg.RemoteError):
            await stream.read()
        await at.closed(1)
        assert counts.reason == SHUTDOWN


async def test_an_extender_that_takes_the_place_of_one_that_goes_has_streams_of_its_own(library, counts):
    async with served(library, counts, workers=2) as at:
        before = await at.open(b"e")
        removal = asyncio.create_task(at.node.remove_extender(ID))
        await until(lambda: ID not in at.peer.extenders, lambda: at.peer.extenders)
        await at.node.add_extender(qg.NativeExtender(ID, table(library)))
        after = await at.open(b"e")
        assert await exchange(before, b"the old one") == b"the old one"
        await removal
        assert await exchange(after, b"the new one") == b"the new one"
        await at.closed(2)
        assert counts.reason == 0


async def test_many_streams_of_many_peers_on_several_workers(library, counts):
    async with served(library, counts, workers=3) as at:
        data = os.urandom(MIB // 2)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(6):
                tasks.create_task(many(at, data))
        await at.closed(6 * 8)


async def many(at, data):
    async with qg.Node(qg.Identity.generate()) as caller:
        peer = await caller.connect(at.node.address)
        streams = [await peer.open_stream(ID, metadata=b"e") for _ in range(8)]
        assert await asyncio.gather(*(exchange(stream, data) for stream in streams)) == [data] * len(streams)


async def test_a_peer_over_a_relay_is_served_too(library, counts):
    extender = qg.NativeExtender(ID, table(library))
    async with three_nodes([extender]) as (source, relay, target):
        peer = await source.connect(target.address, via=[relay.address])
        data = os.urandom(2 * MIB)
        assert await exchange(await peer.open_stream(ID), data) == data
        await until(lambda: counts.closed == 1, lambda: counts.closed)
        assert (counts.is_relayed, counts.reason, counts.faults) == (1, 0, 0)
        assert bytes(counts.peer_id) == bytes(source.id)


LEFT_OPEN = """
import asyncio, atexit, ctypes, sys, warnings
library = ctypes.CDLL(sys.argv[1])
counts = (ctypes.c_uint64 * 6).in_dll(library, "counts")
atexit.register(lambda: print(*counts[:2], counts[5]))
warnings.simplefilter("ignore", ResourceWarning)
import qg

async def main():
    extender = qg.NativeExtender(sys.argv[2], ctypes.addressof(ctypes.c_char.in_dll(library, "table")))
    node = qg.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0"], extenders=[extender])
    caller = qg.Node(qg.Identity.generate())
    await node.start()
    await caller.start()
    peer = await caller.connect(node.address)
    streams = [await peer.open_stream(extender.id, metadata=kind) for kind in (b"e", b"p", b"w")]
    for stream in streams:
        await stream.write(b"some")
    await streams[0].readexactly(4)
    return node, caller, streams

loop = asyncio.new_event_loop()
kept = loop.run_until_complete(main())
"""


def test_a_program_that_ends_without_a_goodbye_closes_each_stream_once(library):
    run = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN, library._name, str(ID)], capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stdout.split()) == (0, ["3", "3", "0"]), run.stderr


async def test_a_table_of_an_older_header_has_the_rest_by_default(library, counts):
    async with served(library, counts, name="short_table") as at:
        assert await exchange(await at.open(b"e"), bytes(1000)) == bytes(1000)
        await until(lambda: core(at.node)["n_served"] == 0, lambda: core(at.node))
        counts.closed = counts.opened


def capsule(address, name):
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return new(address, name, None)


NAME = ctypes.create_string_buffer(b"qg.extender.v1")  # a capsule borrows its name
WRONG_NAME = ctypes.create_string_buffer(b"qg.extender.v9")


async def test_a_table_may_come_in_a_capsule(library, counts):
    extender = qg.NativeExtender(ID, capsule(table(library), NAME))
    async with (
        qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[extender]) as node,
        qg.Node(qg.Identity.generate()) as caller,
    ):
        peer = await caller.connect(node.address)
        assert await exchange(await peer.open_stream(ID), b"by way of a capsule") == b"by way of a capsule"
        await until(lambda: counts.closed == 1, lambda: counts.closed)


@pytest.mark.parametrize(
    "fault", ["zero", "none", "version", "size", "capsule"], ids=lambda fault: f"its {fault} is wrong"
)
def test_a_table_that_cannot_be_used_is_refused(library, fault):
    made = (ctypes.c_uint8 * 64).from_buffer_copy(ctypes.string_at(table(library), 64))
    words = ctypes.cast(made, ctypes.POINTER(ctypes.c_uint32))
    given = ctypes.addressof(made)
    if fault == "zero":
        given = 0
    elif fault == "none":
        given = None
    elif fault == "version":
        words[1] = 2
    elif fault == "size":
        words[0] = 24
    else:
        given = capsule(given, WRONG_NAME)
    with pytest.raises(qg.InvalidValue, match="is not a table of a native extender"):
        qg.NativeExtender(ID, given)


@pytest.mark.parametrize("language", ["c99", "c11", "c++11", "c++17"])
def test_the_header_compiles_without_a_warning(compiler, language, tmp_path):
    source = tmp_path / ("use.cpp" if "+" in language else "use.c")
    source.write_text(
        '#include "qg/extender.h"\n'
        "size_t use(qg_stream *stream) { qg_stream_finish(stream); return qg_stream_write(stream, 0, 0); }\n"
    )
    if "+" in language and shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler")
    command = ["c++" if "+" in language else compiler, f"-std={language}", *WARNINGS, "-I", qg.get_include(), "-c"]
    run = subprocess.run([*command, str(source), "-o", str(tmp_path / "use.o")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
