# SPDX-License-Identifier: MIT
"""A relay whose workers have links with different peers: circuits cross from one worker to another."""

import asyncio
import contextlib
import os

import pytest
from api.services import Echo

import qg
from qg.testing import conserved

pytestmark = pytest.mark.anyio

LISTEN = ["tcp://127.0.0.1:0"]
NOWHERE = 1  # a port where nobody listens
N_CIRCUITS = 64
N_BYTES = 200_000
MANY = {"peer_pipe_sessions": 1000}


class Net:
    """A source and a relay with several workers, and a target that listens nowhere: only the relay has a link to it."""

    def __init__(self, start):
        self.start, self.extenders = start, ()

    async def make(self, n_workers, **terms):
        """The source's links are spread over all workers of the relay, the target's is with one of them."""
        self.source = await self.start(workers=n_workers)
        relay = {"allow": [str(self.source.id)], "targets": ["127.0.0.0/8"], "ports": [NOWHERE]}
        self.relay = await self.start(workers=n_workers, relay=relay | terms)
        self.target = await self.start(listen=(), extenders=self.extenders, limits=MANY, workers=1)
        self.link = await self.target.connect(self.relay.address)
        await self.link.ping()
        return self

    @property
    def address(self):
        return qg.Address(self.target._settings.identity.link_key, "127.0.0.1", NOWHERE)

    async def reach(self):
        return await self.source.connect(self.address, via=[self.relay.address])

    def crossed(self):
        return self.relay._border.runtime.status()["n_crossed_circuits"]

    def held(self):
        return self.relay._border.runtime.status()["relay_held_len"]

    async def quiet(self):
        """Until no circuit passes through the relay any more."""
        while self.relay.status().n_splices or self.crossed():
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def running():
    async with conserved() as nodes, contextlib.AsyncExitStack() as stack:

        async def start(listen=LISTEN, extenders=(), **tables):
            config = qg.Config.from_dict(tables)
            node = qg.Node(qg.Identity.generate(), listen=listen, extenders=[Echo(), *extenders], config=config)
            nodes.append(await stack.enter_async_context(node))
            return node

        yield Net(start)


async def echoed(peer, n_bytes=N_BYTES):
    async with await peer.open_stream(Echo.id) as stream:
        data = os.urandom(n_bytes)
        writing = asyncio.create_task(stream.write(data))
        assert await stream.readexactly(n_bytes) == data
        await writing


@pytest.mark.parametrize("n_workers", [2, 3, 4])
async def test_a_peer_that_nobody_can_dial_is_reached_over_another_workers_link(n_workers):
    async with running() as net:
        await net.make(n_workers)
        far = [await net.reach() for _ in range(4 * 8)]
        assert net.relay.status().n_splices == len(far)
        assert 0 < net.crossed() <= len(far)
        await asyncio.gather(*map(echoed, far))
        relayed = net.relay.status().relayed_bytes
        assert 2 * len(far) * N_BYTES < relayed < 2.6 * len(far) * N_BYTES  # once, however many workers they cross
        for peer in far:
            await peer.close()
        await net.quiet()


async def test_many_circuits_at_once_cross():
    async with running() as net:
        await net.make(2)
        far = await asyncio.gather(*(net.reach() for _ in range(N_CIRCUITS)))
        assert net.relay.status().n_splices == N_CIRCUITS and net.crossed() > 0
        await asyncio.gather(*(echoed(peer, 20_000) for peer in far))
        await asyncio.gather(*(peer.close() for peer in far))
        await net.quiet()


async def test_a_circuit_to_a_peer_without_any_link_is_unreachable():
    async with running() as net:
        await net.make(2)
        await echoed(await net.reach())
        await net.link.close()
        while len(net.relay.peers) > 1:
            await asyncio.sleep(0.001)
        for _ in range(2 * 8):
            with pytest.raises(qg.RemoteError):
                await net.reach()
        await net.quiet()


async def crossing_peers(net, n_workers=2, n_circuits=16):
    await net.make(n_workers)
    far = [await net.reach() for _ in range(n_circuits)]
    assert net.crossed() > 0
    streams = [await peer.open_stream(Echo.id) for peer in far]
    for stream in streams:
        await stream.write(b"before")
        assert await stream.readexactly(6) == b"before"
    return far, streams


async def ended(streams):
    for stream in streams:
        with pytest.raises((qg.RemoteError, asyncio.IncompleteReadError)):
            await stream.readexactly(1)


async def test_the_target_goes():
    async with running() as net:
        _, streams = await crossing_peers(net)
        await net.target.close()
        await ended(streams)
        await net.quiet()


async def test_the_link_to_the_target_breaks_off():
    async with running() as net:
        _, streams = await crossing_peers(net)
        await net.link.close()
        await ended(streams)
        await net.quiet()


async def test_the_source_goes():
    async with running() as net:
        await crossing_peers(net)
        await net.source.close()
        await net.quiet()
        assert net.held() == 0


async def test_the_relay_stops():
    async with running() as net:
        _, streams = await crossing_peers(net, 4, 32)
        await net.relay.close()
        await ended(streams)


async def test_the_relay_stops_while_circuits_are_built_and_bytes_cross():
    async with running() as net:
        _, streams = await crossing_peers(net, 3)
        building = [asyncio.create_task(net.reach()) for _ in range(16)]
        writing = [asyncio.create_task(stream.write(bytes(1 << 20))) for stream in streams]
        await asyncio.sleep(0)
        await net.relay.close()
        await asyncio.gather(*building, *writing, return_exceptions=True)


async def test_the_relay_drains():
    async with running() as net:
        far, streams = await crossing_peers(net)
        draining = asyncio.create_task(net.relay.drain(60))
        while not net.relay.status().is_draining:
            await asyncio.sleep(0.001)
        with pytest.raises(qg.RemoteError):
            await net.reach()
        for stream in streams:
            await stream.write(b"after")
            assert await stream.readexactly(5) == b"after"
        for peer in far:
            await peer.close()
        await draining


class Deaf(qg.Extender):
    """Take streams and never read them."""

    id = qg.ExtenderId("6f1c1f5e-1b9c-4f5c-8d23-1a2b3c4d5e6f")

    def __init__(self):
        self.streams = []

    async def on_stream(self, stream):
        self.streams.append(stream)
        await asyncio.Event().wait()


async def test_a_reader_that_stalls_costs_no_more_than_the_memory_for_circuits():
    async with running() as net:
        net.extenders = [Deaf()]
        await net.make(2, memory_mib=1)
        far = [await net.reach() for _ in range(16)]
        other = await net.reach()
        streams = [await peer.open_stream(Deaf.id) for peer in far]

        async def stuff(stream):
            with contextlib.suppress(qg.RemoteError):
                while True:
                    await stream.write(bytes(65536))

        writing = [asyncio.create_task(stuff(stream)) for stream in streams]
        length = -1
        while length < (length := net.relay.status().relayed_bytes):
            assert net.held() <= 1 << 20
            await asyncio.sleep(0.1)
        await echoed(other)
        for task in writing:
            task.cancel()
        await asyncio.gather(*writing, return_exceptions=True)
        await asyncio.gather(*(peer.close() for peer in [*far, other]))
        await net.quiet()
        assert net.held() == 0


async def test_a_rate_is_paid_once():
    async with running() as net:
        await net.make(2, rate_kib_s=2048)
        far = [await net.reach() for _ in range(16)]
        assert net.crossed() > 0
        await asyncio.gather(*(echoed(peer, 20_000) for peer in far))
        await asyncio.gather(*(peer.close() for peer in far))
        await net.quiet()


async def test_a_direct_connect_takes_the_link_that_another_worker_dialled_for_circuits():
    async with running() as net:
        source, target = await net.start(workers=1), await net.start(workers=1)
        relay = {"allow": [str(source.id)], "targets": ["127.0.0.0/8"], "ports": [target.address.port]}
        relay = await net.start(workers=4, relay=relay)
        far = await source.connect(target.address, via=[relay.address])
        core = relay._border.runtime
        before = core.status()
        assert before["n_auto_links"] == 1
        await echoed(await relay.connect(target.address))
        after = core.status()
        assert (after["n_auto_links"], after["n_links_up"]) == (0, before["n_links_up"])
        await far.close()
