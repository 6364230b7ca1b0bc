# SPDX-License-Identifier: MIT
"""A reader that does not read holds its writer back, over a relay too, where nothing grows meanwhile."""

import asyncio
import hashlib
import random

import pytest
from net.child import Child
from net.support import MIB, Drain, Held, core, trial, until

import qg

pytestmark = [pytest.mark.anyio, pytest.mark.net]

WANTED = 64 * MIB


class Writer:
    """Write 64 MiB of which no two are alike, and count and hash what has been taken."""

    def __init__(self, stream):
        self.n_written = 0
        self.sha256 = hashlib.sha256()
        self.task = asyncio.create_task(self._run(stream))

    async def _run(self, stream):
        rng = random.Random(1)
        while self.n_written < WANTED:
            block = rng.randbytes(256 * 1024)
            await stream.write(block)
            self.sha256.update(block)
            self.n_written += len(block)
        stream.finish()


class Watch:
    """Note the most that a relay ever held, while it is looked at again and again."""

    def __init__(self, node):
        self.node = node
        self._before = core(node)["pool_taken_len"]
        self.held_max = self.pool_max = 0

    async def look(self):
        await asyncio.sleep(0.005)
        status = core(self.node)
        self.held_max = max(self.held_max, status["relay_held_len"])
        self.pool_max = max(self.pool_max, status["pool_taken_len"] - self._before)

    async def until_stalled(self, progress):
        """Look until nothing has moved for a time in which megabytes could."""
        last = None
        while last != (last := progress()):
            for _ in range(20):
                await self.look()

    def check(self):
        # One window of the circuit's stream and what a link may have sealed; far from what was to be sent.
        assert self.held_max <= MIB
        assert self.pool_max <= 2 * MIB


async def circuit(nodes, a, c):
    b = await nodes.relay(a, to=[c.address])
    peer = await a.connect(c.address, via=[b.address])
    return peer, Watch(b)


async def test_an_application_that_does_not_read_holds_the_source_back():
    async with trial() as nodes:
        a, c = await nodes.node(), await nodes.node()
        peer, watch = await circuit(nodes, a, c)
        async with await peer.open_stream(Held.id) as stream:
            far = await c.services.held.streams.get()
            writer = Writer(stream)
            await watch.until_stalled(lambda: writer.n_written)
            assert 0 < writer.n_written < 4 * MIB
            assert not writer.task.done()
            received = hashlib.sha256()
            async for chunk in far:
                received.update(chunk)
                await watch.look()
            await writer.task
            assert received.digest() == writer.sha256.digest()
            c.services.held.release.set()
        watch.check()
        await peer.close()


async def test_a_process_that_stands_still_holds_the_source_back():
    """Here the relay's own connection to it is full."""
    async with trial() as nodes, Child() as c:
        a = await nodes.node()
        peer, watch = await circuit(nodes, a, c)
        async with await peer.open_stream(Drain.id) as stream:
            await c.stop()
            writer = Writer(stream)
            await watch.until_stalled(lambda: writer.n_written)
            assert 0 < writer.n_written < 16 * MIB
            assert not writer.task.done()
            c.go()
            while not writer.task.done():
                await watch.look()
            await writer.task
            await until(lambda: watch.node.status().relayed_bytes > WANTED, watch.node.status)
        assert (await c.ask("drained"))["n_bytes"] == WANTED
        watch.check()


async def test_a_peer_that_takes_nothing_of_a_full_queue_is_closed():
    async with trial() as nodes:
        a, c = await nodes.node(limits={"send_queue_kib": 64, "slow_reader_s": 1}), await nodes.node()
        peer = await a.connect(c.address)
        stream = await peer.open_stream(Held.id)
        with pytest.raises(qg.RemoteError, match="not read in time"):
            await stream.write(bytes(8 * MIB))
        assert core(a)["n_slow_reader_closes"] == 1
        assert a.status().counters["slow_reader_closes"] == 1
        assert a.status().counters["write_waits"] >= 1
        c.services.held.release.set()
