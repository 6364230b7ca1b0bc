# SPDX-License-Identifier: MIT
"""Which peers are meant, and one message to all of them."""

import asyncio

import pytest
from api.services import Echo, Guests, Mailbox
from net.support import LISTEN, until

import qg
from qg.testing import network

pytestmark = [pytest.mark.anyio, pytest.mark.net]


async def heard(peer, extender_id):
    async for batch in peer.messages(extender_id):
        return batch


async def test_peers_are_found_by_what_they_offer_and_who_dialled():
    async with network(3, extenders=lambda: [Echo(), Mailbox()]) as net:
        node = net.nodes[0]
        await net.nodes[2].remove_extender(Mailbox.id)
        first, second = net.peer(0, 1), net.peer(0, 2)
        await until(lambda: Mailbox.id not in second.extenders, lambda: second.extenders)
        assert set(node.find_peers()) == {first, second}
        assert set(node.find_peers(Echo.id)) == {first, second}
        assert node.find_peers(Echo.id, Mailbox.id) == [first]
        assert node.find_peers(Guests.id) == []
        out = {peer for peer in (first, second) if peer.is_outgoing}
        assert set(node.find_peers(is_outgoing=True)) == out
        assert set(node.find_peers(is_outgoing=False)) == {first, second} - out
        assert set(node.find_peers(is_relayed=False)) == {first, second}
        assert node.find_peers(is_relayed=True) == []


async def test_who_dialled_is_outgoing_on_one_side_only():
    async with qg.Node(qg.Identity.generate(), listen=LISTEN) as node, qg.Node(qg.Identity.generate()) as caller:
        peer = await caller.connect(node.address)
        await until(lambda: node.peers, lambda: node.peers)
        assert (peer.is_outgoing, node.peers[0].is_outgoing) == (True, False)
        await peer.close()
        assert not peer.is_outgoing


async def test_a_message_goes_to_all_that_offer_the_service():
    async with network(4, extenders=lambda: [Mailbox()]) as net:
        node = net.nodes[0]
        await net.nodes[3].remove_extender(Mailbox.id)
        await until(lambda: len(node.find_peers(Mailbox.id)) == 2, lambda: node.find_peers(Mailbox.id))
        told = node.broadcast(Mailbox.id, b"to all")
        assert set(told) == {net.peer(0, 1), net.peer(0, 2)}
        assert [await heard(net.peer(idx, 0), Mailbox.id) for idx in (1, 2)] == [[b"to all"]] * 2
        assert node.broadcast(Mailbox.id, b"to one", peers=[net.peer(0, 2)]) == [net.peer(0, 2)]
        assert await heard(net.peer(2, 0), Mailbox.id) == [b"to one"]
        with pytest.raises(qg.InvalidValue):
            node.broadcast(Mailbox.id, bytes((1 << 20) + 1))


async def test_who_is_too_slow_or_gone_holds_up_nobody():
    async with network(3, extenders=lambda: [Mailbox()]) as net:
        node, slow, quick = net.nodes[0], net.peer(0, 1), net.peer(0, 2)
        while slow.try_send(Mailbox.id, bytes(1 << 20)):
            await asyncio.sleep(0)
        assert node.broadcast(Mailbox.id, bytes(1 << 20)) == [quick]
        await slow.close()
        assert node.broadcast(Mailbox.id, b"x", peers=[slow, quick]) == [quick]


class Batches(qg.Extender):
    """Take messages as they come, many at a time."""

    id = Echo.id

    def __init__(self):
        self.batches = []

    async def on_messages(self, peer, messages):
        self.batches.append(messages)
        if len(self.batches) == 1:
            await asyncio.sleep(0.05)  # the others wait meanwhile


async def test_messages_come_in_batches_to_who_asks_for_them():
    batches = Batches()
    async with network(extenders=lambda: [batches]) as net:
        sent = [b"%d" % number for number in range(2_000)]
        await net.peer(0, 1).send(Batches.id, sent[0])
        await until(lambda: batches.batches, lambda: batches.batches)
        for message in sent[1:]:
            await net.peer(0, 1).send(Batches.id, message)
        await until(lambda: sum(map(len, batches.batches)) == len(sent), lambda: len(batches.batches))
    assert [message for batch in batches.batches for message in batch] == sent
    assert len(batches.batches) < len(sent) / 4


async def test_a_batch_that_fails_is_told_to_the_sender():
    class Failing(qg.Extender):
        id = Echo.id

        async def on_messages(self, peer, messages):
            raise ZeroDivisionError

    async with network(extenders=lambda: [Failing()]) as net:
        with pytest.raises(qg.StreamReset):
            while True:
                await net.peer(0, 1).send(Echo.id, b"x")
                await asyncio.sleep(0)
        assert next(i for i in net.nodes[1].status().extenders if i.extender_id == Echo.id).n_failures == 1
