# SPDX-License-Identifier: MIT
"""Peers that are kept: dialled again when they are gone, and back as the same object."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from api.services import Echo
from api.test_circuit import LISTEN, relay_config

import qg
from qg.keep import Backoff, Keeper
from qg.testing import conserved

pytestmark = [pytest.mark.anyio, pytest.mark.net]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("qg.keep.BACKOFF", Backoff(0.001, 0.05, 60.0))


class Visits(qg.Extender):
    """Tell of each coming and going of a peer."""

    id = qg.ExtenderId("2d4a86a5-9e0a-4a5b-8d0d-0d7a1f3f5a10")

    def __init__(self):
        self.came = asyncio.Queue()
        self.went = asyncio.Queue()

    async def on_peer_connected(self, peer):
        self.came.put_nowait(peer)

    async def on_peer_disconnected(self, peer):
        self.went.put_nowait(peer)


class Server:
    """A node that can be restarted at the same place with the same identity."""

    def __init__(self):
        self.identity = qg.Identity.generate()
        self.listen = LISTEN
        self.visits = Visits()

    async def start(self):
        self.node = qg.Node(self.identity, listen=self.listen, extenders=[Echo(), self.visits])
        await self.node.start()
        self.listen = [qg.Endpoint("tcp", "127.0.0.1", self.node.address.port)]

    async def restart(self):
        await self.node.close()
        await self.start()


@asynccontextmanager
async def server():
    there = Server()
    await there.start()
    try:
        yield there
    finally:
        await there.node.close()


async def echo(peer):
    async with await peer.open_stream(Echo.id) as stream:
        await stream.write(b"hello")
        assert await stream.readexactly(5) == b"hello"


async def test_a_kept_peer_comes_back_as_the_same_object_when_it_has_restarted():
    visits = Visits()
    async with conserved() as nodes, server() as there, qg.Node(qg.Identity.generate(), extenders=[visits]) as node:
        nodes.append(node)
        peer = await node.connect(there.node.address, keep=True)
        assert await visits.came.get() is peer
        for _ in range(3):
            await there.restart()
            assert await visits.went.get() is peer
            assert await visits.came.get() is peer
            await echo(peer)
        assert node.peers == (peer,)


async def test_calls_on_a_peer_that_is_down_fail_at_once_and_work_when_it_is_back():
    visits = Visits()
    async with server() as there, qg.Node(qg.Identity.generate(), extenders=[visits]) as node:
        peer = await node.connect(there.node.address, keep=True)
        await peer.send(Echo.id, b"before")
        await there.node.close()
        assert await visits.went.get() is peer
        assert not peer.is_connected
        for call in (peer.open_stream(Echo.id), peer.ping(), peer.send(Echo.id, b"lost")):
            with pytest.raises(qg.PeerClosed):
                await call
        await visits.came.get()
        await there.start()
        await visits.came.get()
        await peer.ping()
        await peer.send(Echo.id, b"after")
        assert [kept.is_connected for kept in node.status().kept] == [True]


async def test_the_status_tells_when_a_peer_that_is_away_is_tried_next(monkeypatch):
    monkeypatch.setattr("qg.keep.BACKOFF", Backoff(3600.0, 3600.0, 60.0))
    visits = Visits()
    async with server() as there, qg.Node(qg.Identity.generate(), extenders=[visits]) as node:
        address = there.node.address
        await node.connect(address, keep=True)
        await there.node.close()
        await visits.went.get()
        await asyncio.sleep(0)
        (kept,) = node.status().kept
        assert (kept.address, kept.peer_id, kept.is_connected) == (str(address), there.identity.peer_id, False)
        assert 0 <= kept.next_try_s <= 3600


async def test_a_peer_that_dials_us_meanwhile_is_back_too(monkeypatch):
    monkeypatch.setattr("qg.keep.BACKOFF", Backoff(3600.0, 3600.0, 60.0))
    visits = Visits()
    async with server() as there, qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[visits]) as node:
        peer = await node.connect(there.node.address, keep=True)
        assert await visits.came.get() is peer
        await there.restart()
        await visits.went.get()
        await there.node.connect(node.address)
        assert await visits.came.get() is peer
        await echo(peer)
        assert node.status().kept[0].next_try_s is None


async def test_peers_of_the_configuration_are_dialled_until_they_are_there_and_the_own_address_is_none():
    visits = Visits()
    async with server() as there:
        address = there.node.address
        await there.node.close()
        own = qg.Identity.generate()
        mine = qg.Address(own.link_key, "127.0.0.1", 7447)
        async with qg.Node(own, extenders=[visits], config=qg.Config(peers=(address, mine))) as node:
            while not node.status().kept[0].error:
                await asyncio.sleep(0)
            assert len(node.status().kept) == 1
            await there.start()
            peer = await visits.came.get()
            assert peer.id == there.identity.peer_id
            await there.restart()
            assert await visits.went.get() is peer
            assert await visits.came.get() is peer


async def test_a_peer_over_a_relay_is_rebuilt_when_the_relay_has_restarted():
    visits = Visits()
    source = qg.Identity.generate()
    async with server() as there, qg.Node(source, extenders=[visits]) as node:
        config = relay_config(there.node.address.port, allow=[source.peer_id])
        identity = qg.Identity.generate()
        relay = qg.Node(identity, listen=LISTEN, config=config)
        await relay.start()
        place = qg.Endpoint("tcp", "127.0.0.1", relay.address.port)
        peer = await node.connect(there.node.address, via=[relay.address], keep=True)
        assert peer.is_relayed
        while await visits.came.get() is not peer:
            pass
        await relay.close()
        while await visits.went.get() is not peer:
            pass
        async with qg.Node(identity, listen=[place], config=config):
            while await visits.came.get() is not peer:
                pass
            await echo(peer)


async def test_a_first_session_that_does_not_come_about_keeps_nothing():
    async with server() as there, qg.Node(qg.Identity.generate()) as node:
        address = there.node.address
        await there.node.close()
        with pytest.raises((qg.Unreachable, qg.PeerTimeout)):
            await node.connect(address, keep=True)
        assert node.status().kept == ()


async def test_a_peer_that_this_side_closes_is_kept_no_longer():
    visits = Visits()
    async with server() as there, qg.Node(qg.Identity.generate(), extenders=[visits]) as node:
        peer = await node.connect(there.node.address, keep=True)
        await peer.close()
        assert node.status().kept == ()
        again = await node.connect(there.node.address)
        assert again is not peer


async def test_a_node_that_is_closed_while_it_dials_leaves_nothing_behind():
    async with conserved() as nodes, server() as there:
        address = there.node.address
        await there.node.close()
        async with qg.Node(qg.Identity.generate(), config=qg.Config(peers=(address,))) as node:
            nodes.append(node)


@pytest.mark.parametrize(("stable_s", "n_tries"), [(0.0, 0), (60.0, 3)])
async def test_sessions_that_end_soon_count_as_failures(monkeypatch, stable_s, n_tries):
    monkeypatch.setattr("qg.keep.BACKOFF", Backoff(0.001, 0.01, stable_s))
    visits = Visits()
    async with server() as there, qg.Node(qg.Identity.generate(), extenders=[visits]) as node:
        peer = await node.connect(there.node.address, keep=True)
        await visits.came.get()
        for _ in range(3):
            theirs = await there.visits.came.get()
            await theirs.close()
            assert await visits.went.get() is peer
            assert await visits.came.get() is peer
        assert node.status().kept[0].n_tries == n_tries


async def test_a_peer_that_is_gone_before_it_could_be_kept_counts_as_a_failure():
    async with server() as there, qg.Node(qg.Identity.generate()) as node:
        peer = await node.connect(there.node.address)
        await peer.close()
        n_dials = 0

        async def dial(gone):
            nonlocal n_dials
            n_dials += 1
            return await node.connect(there.node.address) if n_dials == 5 else peer

        keeper = Keeper("there", dial)
        keeper.start(None)
        while not keeper.info().is_connected:
            peer.keeper = None  # each time another peer
            await asyncio.sleep(0)
        assert keeper.info().n_tries == 4
        await asyncio.wait([keeper.stop()])


def test_waits_are_drawn_up_to_a_limit_that_doubles_and_ends():
    backoff = Backoff()
    assert [backoff.limit_s(n) for n in (0, 1, 2, 8, 9, 10**6)] == [1.0, 2.0, 4.0, 256.0, 300.0, 300.0]
    drawn = [backoff.wait_s(3) for _ in range(1000)]
    assert 0 <= min(drawn) < 2 < 6 < max(drawn) <= 8
