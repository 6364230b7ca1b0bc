# SPDX-License-Identifier: MIT
"""Peers that fall silent without an end of their connection: noticed within `dead_peer`, on idle links too."""

import asyncio

import pytest
from net.child import Child
from net.proxy import DOWN, UP, Proxy
from net.support import MIB, Drain, Held, core, trial, until, write_forever

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


@pytest.mark.parametrize("is_busy", [True, False])
async def test_a_pulled_cable_is_noticed_at_both_ends(is_busy):
    async with trial() as nodes:
        a, c = await nodes.node(link=QUICK), await nodes.node(link=QUICK)
        async with Proxy(c.address) as proxy:
            peer = await a.connect(proxy.address)
            stream = await peer.open_stream(Held.id)
            far = await c.services.held.streams.get()
            tasks = await operations(peer) if is_busy else []
            proxy.swallow()
            tasks += [asyncio.create_task(stream.read(1)), asyncio.create_task(far.read(1))]
            for task in tasks:
                await timed_out(task)
            assert a.peers == c.peers == ()
            c.services.held.release.set()


async def test_an_idle_link_is_kept_by_pings_at_random_times():
    async with trial() as nodes:
        a, c = await nodes.node(link=QUICK), await nodes.node(link=QUICK)
        async with Proxy(c.address) as proxy:
            peer = await a.connect(proxy.address)
            n_up, n_down = len(proxy.chunks[UP]), len(proxy.chunks[DOWN])
            # Both sides ping each 0.25 to 0.5 s unless they hear of the other: at least one in each second.
            await proxy.passed(UP, n_up + 4)
            await proxy.passed(DOWN, n_down + 4)
            assert peer.is_connected
            assert len(a.peers) == len(c.peers) == 1


async def test_an_idle_circuit_is_kept_by_pings():
    async with trial() as nodes:
        a, c = await nodes.node(link=QUICK), await nodes.node(link=QUICK)
        b = await nodes.relay(a, to=[c.address], link=QUICK)
        async with Proxy(b.address) as proxy:
            peer = await a.connect(c.address, via=[proxy.address])
            await proxy.passed(UP, len(proxy.chunks[UP]) + 10)  # link, layer and session each have pings of their own
            assert peer.is_connected
            await peer.ping()


@pytest.mark.parametrize("is_busy", [True, False])
async def test_a_stopped_process_is_noticed(is_busy):
    async with trial() as nodes, Child() as c:
        a = await nodes.node(link=QUICK)
        peer = await a.connect(c.address)
        if is_busy:
            tasks = await operations(peer)
            await until(lambda: core(a)["out_len"] > 8 * MIB, lambda: core(a))
            await c.stop()
            tasks += [asyncio.create_task(work) for work in (peer.open_stream(Held.id), peer.ping())]
        else:
            idle = await peer.open_stream(Held.id)
            await c.stop()
            tasks = [asyncio.create_task(idle.read(1))]
        for task in tasks:
            await timed_out(task)
        assert a.peers == ()
        assert core(a)["n_conns"] <= 1  # what is left waits for the other's FIN


async def test_a_stopped_target_behind_a_relay_is_noticed_by_source_and_relay():
    async with trial() as nodes, Child() as c:
        a = await nodes.node(link=QUICK)
        b = await nodes.relay(a, to=[c.address], link=QUICK)
        peer = await a.connect(c.address, via=[b.address])
        tasks = await operations(peer)
        await until(lambda: b.status().relayed_bytes > 8 * MIB, b.status)
        await c.stop()
        for task in tasks:
            await lost(task)
        await until(lambda: core(b)["n_circuits"] == 0, lambda: core(b))
        await until(lambda: [peer.id for peer in b.peers] == [a.id], lambda: b.peers)


async def test_a_stopped_target_behind_a_relay_is_noticed_on_an_idle_circuit():
    async with trial() as nodes, Child() as c:
        a = await nodes.node(link=QUICK)
        b = await nodes.relay(a, to=[c.address])  # dead_peer of the relay is a minute: the source notices by itself
        peer = await a.connect(c.address, via=[b.address])
        stream = await peer.open_stream(Held.id)
        await c.stop()
        await timed_out(stream.read(1))
        await until(lambda: core(b)["n_circuits"] == 0, lambda: core(b))


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
