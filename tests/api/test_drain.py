# SPDX-License-Identifier: MIT
"""A relay that is told to stop: no new circuits, old ones end in peace or at the deadline, with a reason."""

import asyncio
import os
from contextlib import AsyncExitStack

import pytest
from api.services import Echo
from api.test_circuit import LISTEN, relay_config
from msgspec.structs import replace

import qg
from qg.testing import conserved

pytestmark = [pytest.mark.anyio, pytest.mark.net]


class Circuits:
    """A source, a relay that serves it, and a target."""

    def __init__(self) -> None:
        identity = qg.Identity.generate()
        self.target = qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[Echo()])
        self.source = qg.Node(identity)
        self.source_id = identity.peer_id

    async def __aenter__(self) -> "Circuits":
        await self.target.start()
        config = relay_config(self.target.address.port, allow=[self.source_id])
        self.relay = qg.Node(qg.Identity.generate(), listen=LISTEN, config=config)
        await self.relay.start()
        await self.source.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in (self.source, self.relay, self.target):
            await node.close()

    async def open(self) -> qg.Peer:
        return await self.source.connect(self.target.address, via=[self.relay.address])


async def test_a_transfer_goes_on_while_its_relay_drains_and_ends_the_drain():
    async with conserved() as nodes, Circuits() as net:
        nodes += [net.source, net.relay, net.target]
        peer = await net.open()
        stream = await peer.open_stream(Echo.id)
        await stream.write(b"before")
        assert await stream.readexactly(6) == b"before"
        draining = asyncio.create_task(net.relay.drain(60))
        data = os.urandom(2 << 20)
        async with asyncio.TaskGroup() as group:
            group.create_task(stream.write(data))
            assert await stream.readexactly(len(data)) == data
        assert not draining.done()
        assert net.relay.status().is_draining
        await peer.close()
        assert await draining == 0


async def test_a_new_circuit_is_refused_as_busy_and_a_new_connection_gets_nobody():
    async with Circuits() as net:
        peer = await net.open()
        address = net.relay.address
        assert await net.relay.drain(0) == 1
        with pytest.raises(qg.Busy):
            await net.open()
        async with qg.Node(qg.Identity.generate()) as stranger:
            with pytest.raises((qg.Unreachable, qg.PeerTimeout)):
                await stranger.connect(address)
        assert peer.is_connected


async def test_what_runs_at_the_deadline_is_cut_and_the_source_is_told_that_the_relay_was_busy():
    async with Circuits() as net:
        peer = await net.open()
        stream = await peer.open_stream(Echo.id)
        assert await net.relay.drain(0.01) == 1
        await net.relay.close()
        with pytest.raises(qg.Busy):
            await stream.read(1)
        with pytest.raises(qg.Busy):
            await peer.open_stream(Echo.id)


async def test_a_node_without_circuits_has_nothing_to_wait_for():
    async with Circuits() as net:
        await net.source.connect(net.relay.address)
        assert await net.relay.drain(3600) == 0


async def test_the_port_of_a_node_that_drains_is_free_for_the_next_one():
    async with Circuits() as net:
        await net.open()
        assert await net.relay.drain(0) == 1
        endpoint = qg.Endpoint("tcp", "127.0.0.1", net.relay.address.port)
        async with qg.Node(qg.Identity.generate(), listen=[endpoint]) as heir:
            assert heir.address.port == endpoint.port


async def test_a_draining_node_can_be_closed_while_somebody_waits():
    async with Circuits() as net:
        await net.open()
        draining = asyncio.create_task(net.relay.drain(3600))
        await asyncio.sleep(0)
        await net.relay.close()
        await draining


async def test_a_node_that_drains_is_no_end_of_a_new_circuit_either():
    async with Circuits() as net:
        peer = await net.open()
        assert await net.target.drain(60) == 0  # no circuit passes through it
        with pytest.raises(qg.Busy):
            await net.open()
        async with await peer.open_stream(Echo.id) as stream:
            await stream.write(b"still here")
            assert await stream.readexactly(10) == b"still here"


async def test_a_circuit_that_would_share_the_layers_of_an_old_one_is_refused_too():
    async with Circuits() as net:
        ways = {"via": [net.relay.address], "isolation": "one"}
        peer = await net.source.connect(net.target.address, **ways)
        assert await net.relay.drain(0) == 1
        with pytest.raises(qg.Busy):
            await net.source.connect(net.target.address, **ways)
        await peer.ping()


async def test_a_drain_waits_for_the_circuits_of_all_workers():
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[Echo()]))
        identities = [qg.Identity.generate() for _ in range(6)]
        config = relay_config(target.address.port, allow=[identity.peer_id for identity in identities])
        relay = qg.Node(qg.Identity.generate(), listen=LISTEN, config=replace(config, workers=3))
        await stack.enter_async_context(relay)
        sources = [await stack.enter_async_context(qg.Node(identity)) for identity in identities]
        peers = [await source.connect(target.address, via=[relay.address]) for source in sources]
        draining = asyncio.create_task(relay.drain(60))
        for peer in peers:
            assert not draining.done()
            await peer.ping()
            await peer.close()
        assert await draining == 0
