# SPDX-License-Identifier: MIT
"""Peers that fall silent without an end of their connection: noticed within `dead_peer`, on idle links too."""

import asyncio

import pytest
from net.child import Child
from net.support import MIB, Drain, Held, trial, until, write_forever

import qg

pytestmark = [pytest.mark.anyio, pytest.mark.net]

QUICK = {"dead_peer_s": 1}


async def timed_out(work):
    """Wait for an operation to fail since the peer is silent; 5 s allow for a busy machine."""
    async with asyncio.timeout(5):
        with pytest.raises(qg.PeerTimeout) as caught:
            await work
    assert caught.value.reason is qg.Reason.TIMEOUT


async def lost(work):
    """The same over relays, where it may be the link to a neighbour that is found dead first."""
    async with asyncio.timeout(5):
        with pytest.raises((qg.PeerTimeout, qg.Unreachable)):
            await work


async def operations(peer):
    """Everything that can wait for a peer."""
    flood, idle, ending = [await peer.open_stream(service.id) for service in (Drain, Held, Held)]
    return [asyncio.create_task(work) for work in (write_forever(flood), idle.read(1), ending.close())]


async def test_a_stopped_relay_is_noticed_at_both_ends():
    async with trial() as nodes:
        a, c = await nodes.node(link=QUICK), await nodes.node(link=QUICK)
        relay = {"allow": [str(a.id)], "targets": ["127.0.0.0/8"], "ports": [c.address.port]}
        async with Child(relay=relay) as b:
            peer = await a.connect(c.address, via=[b.address])
            tasks = await operations(peer)
            await until(lambda: c.services.drain.n_bytes > 8 * MIB, lambda: c.services.drain.n_bytes)
            await b.stop()
            for task in tasks:
                await lost(task)
            async with asyncio.timeout(5):
                error = await c.services.drain.ends.get()
            assert isinstance(error, qg.PeerTimeout | qg.Unreachable)
            await until(lambda: a.peers == c.peers == (), lambda: (a.peers, c.peers))
            c.services.held.release.set()


async def test_a_target_that_does_not_answer_the_dial_ends_within_the_limit_of_the_relay():
    """It takes the connection and says nothing, as a node with another network secret does."""

    async def ignore(reader, writer):
        await reader.read()
        writer.close()

    async with trial() as nodes, await asyncio.start_server(ignore, "127.0.0.1", 0) as silent:
        a = await nodes.node()
        port = silent.sockets[0].getsockname()[1]
        target = qg.Address(qg.Identity.generate().link_key, "127.0.0.1", port)
        b = await nodes.relay(a, to=[target])
        async with asyncio.timeout(15):
            with pytest.raises(qg.Unreachable, match=str(port)):
                await a.connect(target, via=[b.address])
