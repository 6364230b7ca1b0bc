# SPDX-License-Identifier: MIT
"""Services that come and go while the node runs, and what peers learn of it."""

import asyncio

import pytest
from api.services import Echo, Guests, Held, Mailbox
from net.support import LISTEN, config

import qg
from qg.testing import conserved

pytestmark = [pytest.mark.anyio, pytest.mark.net]


async def until_known(peer, *ids):
    while set(peer.extenders) != set(ids):
        await asyncio.sleep(0)


class Pair:
    """Two nodes with a session."""

    async def __aenter__(self):
        self.guests = Guests(), Guests()
        self.near = qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[Echo()], config=config(workers=2))
        self.far = qg.Node(qg.Identity.generate())
        await self.near.start()
        await self.far.start()
        self.peer = await self.far.connect(self.near.address)
        while not self.near.peers:
            await asyncio.sleep(0)
        (self.guest,) = self.near.peers
        return self

    async def __aexit__(self, *_):
        await self.far.close()
        await self.near.close()


async def test_a_service_that_is_added_is_found_and_one_that_is_removed_is_not():
    async with Pair() as pair:
        await pair.near.add_extender(Mailbox())
        await until_known(pair.peer, Echo.id, Mailbox.id)
        await pair.peer.send(Mailbox.id, b"to the new one")
        async for batch in pair.guest.messages(Mailbox.id):
            assert batch == [b"to the new one"]
            break
        await pair.near.remove_extender(Echo.id)
        await until_known(pair.peer, Mailbox.id)
        with pytest.raises(qg.Unsupported):
            await pair.peer.open_stream(Echo.id)
        later = qg.Node(qg.Identity.generate())
        async with later:
            assert (await later.connect(pair.near.address)).extenders == (Mailbox.id,)


async def test_extenders_hear_of_peers_that_have_them_too():
    async with Pair() as pair:
        near, far = Guests(), Guests()
        await pair.near.add_extender(near)
        await until_known(pair.peer, Echo.id, Guests.id)
        assert near.seen.empty()
        await pair.far.add_extender(far)
        assert await far.seen.get() == ("connected", pair.peer)
        assert await near.seen.get() == ("connected", pair.guest)
        await pair.far.remove_extender(Guests.id)
        assert await far.seen.get() == ("disconnected", pair.peer)
        assert await near.seen.get() == ("disconnected", pair.guest)
        await pair.far.add_extender(far)
        assert await near.seen.get() == ("connected", pair.guest)
        await pair.peer.close()
        assert await near.seen.get() == ("disconnected", pair.guest)
        assert [await far.seen.get() for _ in range(2)] == [("connected", pair.peer), ("disconnected", pair.peer)]
        assert near.seen.empty()
        assert far.seen.empty()


async def test_what_is_under_way_has_its_time_after_the_removal():
    async with conserved() as nodes, Pair() as pair:
        nodes += [pair.near, pair.far]
        stream = await pair.peer.open_stream(Echo.id)
        await stream.write(b"a")
        assert await stream.readexactly(1) == b"a"
        removing = asyncio.create_task(pair.near.remove_extender(Echo.id))
        await until_known(pair.peer)
        await stream.write(b"b")
        assert await stream.readexactly(1) == b"b"
        assert not removing.done()
        await stream.close()
        await removing


async def test_what_takes_longer_than_its_grace_is_cut():
    async with conserved() as nodes, Pair() as pair:
        nodes += [pair.near, pair.far]
        held = Held()
        await pair.near.add_extender(held)
        stream = await pair.peer.open_stream(Held.id)
        await held.streams.get()
        await pair.near.remove_extender(Held.id, grace_s=0)
        with pytest.raises(qg.Unsupported):
            await stream.read()


async def test_a_service_that_is_not_there_cannot_be_removed():
    async with Pair() as pair:
        with pytest.raises(qg.InvalidValue, match="none of the id"):
            await pair.near.remove_extender(Mailbox.id)
        with pytest.raises(qg.InvalidValue, match="two extenders"):
            await pair.near.add_extender(Echo())


async def test_changes_while_sessions_begin_are_not_lost():
    async with qg.Node(qg.Identity.generate(), listen=LISTEN, config=config(workers=2)) as near:
        for round_idx in range(20):
            async with qg.Node(qg.Identity.generate()) as far:
                connecting = asyncio.create_task(far.connect(near.address))
                for _ in range(round_idx):
                    await asyncio.sleep(0)
                await near.add_extender(Mailbox())
                peer = await connecting
                await until_known(peer, Mailbox.id)
                await near.remove_extender(Mailbox.id)
                await until_known(peer)


async def test_a_node_that_does_not_run_takes_no_extender():
    node = qg.Node(qg.Identity.generate())
    with pytest.raises(qg.UsageError):
        await node.add_extender(Echo())
