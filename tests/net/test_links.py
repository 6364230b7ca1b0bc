# SPDX-License-Identifier: MIT
"""Several links between two nodes: the application sees one peer, and all but one of the links end."""

import asyncio
import socket

import pytest
from api.services import Echo, Guests, Held
from model.frames import KIND_RELAY, REASONS, RelayTarget
from model.reader import Address
from net.live import Model
from net.support import LISTEN, config, core, trial, until

import qg
from qg.testing import conserved

pytestmark = [pytest.mark.anyio, pytest.mark.net]

TARGET = RelayTarget(bytes(32), bytes(32), (Address(4, bytes([192, 0, 2, 1]), 7447),)).build()


class Side:
    """A node and what it was told of its peers."""

    def __init__(self, identity, **tables):
        self.guests, self.held = Guests(), Held()
        self.node = qg.Node(
            # One worker, since these are rules for links between two of them.
            identity,
            listen=LISTEN,
            extenders=[Echo(), self.guests, self.held],
            config=config(**{"workers": 1} | tables),
        )

    @property
    def n_links(self):
        return sum(len(peer.links) for peer in self.node.peers)

    def told(self):
        seen = []
        while not self.guests.seen.empty():
            seen.append(self.guests.seen.get_nowait()[0])
        return seen


def in_order():
    """Two identities, the smaller PeerID first."""
    return sorted((qg.Identity.generate() for _ in range(2)), key=lambda identity: bytes(identity.peer_id))


async def echo_works(peer):
    async with await peer.open_stream(Echo.id) as stream:
        await stream.write(b"still here")
        assert await stream.readexactly(10) == b"still here"


async def longer_than_an_idle_one_has():
    """Go on for some time after which a link that nobody needs would be closed."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + 2.5
    while loop.time() < end_s:
        yield
        await asyncio.sleep(0.01)


async def crossed(one, other):
    """Let both dial at the same time, and give the peers that they got."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(a.node.connect(b.node.address)) for a, b in ((one, other), (other, one))]
    return [task.result() for task in tasks]


async def test_crossed_dials_end_with_one_link_dialled_by_the_smaller_peer_id():
    async with conserved() as nodes:
        smaller, larger = map(Side, in_order())
        async with smaller.node, larger.node:
            nodes += [smaller.node, larger.node]
            peers = await crossed(smaller, larger)
            await until(lambda: smaller.n_links == larger.n_links == 1, lambda: (smaller.n_links, larger.n_links))
            assert smaller.node.peers == (peers[0],)
            assert larger.node.peers == (peers[1],)
            if core(smaller.node)["n_links_up"] == 2:  # else one of the two came before the other was begun
                assert peers[0].links[0].is_outgoing
                assert not peers[1].links[0].is_outgoing
            for peer in peers:
                await echo_works(peer)
            assert smaller.told() == larger.told() == ["connected"]


async def test_a_stream_on_a_link_that_another_one_replaces_is_not_cut():
    first, second = in_order()
    async with conserved() as nodes:
        dialler, target = Side(first), Side(second, allow_first_contact=True)  # the larger one closes what is too much
        async with dialler.node, target.node:
            nodes += [dialler.node, target.node]
            peer = await dialler.node.connect(target.node.address)
            stream = await peer.open_stream(Held.id)
            held = await target.held.streams.get()
            again = await dialler.node.connect(target.node.address._replace(link_key=None))  # whoever answers there
            assert again is peer
            assert len(peer.links) == 2
            old, new = peer.links
            await echo_works(peer)
            assert stream.link is old
            async for _ in longer_than_an_idle_one_has():
                await held.write(bytes(10_000))
                assert await stream.readexactly(10_000) == bytes(10_000)
            assert peer.links == (old, new)
            target.held.release.set()
            await stream.close()
            await until(lambda: peer.links == (new,), lambda: peer.links)
            await echo_works(peer)
            assert dialler.told() == target.told() == ["connected"]


async def test_the_smaller_peer_id_leaves_the_closing_to_the_larger_one():
    larger, smaller = in_order()[::-1]
    async with conserved() as nodes:
        dialler, target = Side(larger), Side(smaller, allow_first_contact=True)
        async with dialler.node, target.node:
            nodes += [dialler.node, target.node]
            for _ in range(5):
                peer = await dialler.node.connect(target.node.address._replace(link_key=None))
            newest = peer.links[-1]
            await until(lambda: dialler.n_links == target.n_links == 1, lambda: (dialler.n_links, target.n_links))
            assert peer.links == (newest,)
            await echo_works(peer)
            assert dialler.told() == target.told() == ["connected"]


async def test_a_peer_has_eight_links_at_most():
    smaller, larger = in_order()
    async with conserved() as nodes:
        dialler, target = Side(smaller), Side(larger, allow_first_contact=True)
        async with dialler.node, target.node:
            nodes += [dialler.node, target.node]
            streams = []
            for _ in range(8):
                peer = await dialler.node.connect(target.node.address._replace(link_key=None))
                streams.append(await peer.open_stream(Held.id))
            assert dialler.n_links == 8
            with pytest.raises(qg.QGError):
                await dialler.node.connect(target.node.address._replace(link_key=None))
            assert dialler.n_links == target.n_links == 8
            target.held.release.set()
            for stream in streams:
                await stream.close()
            await until(lambda: dialler.n_links == target.n_links == 1, lambda: (dialler.n_links, target.n_links))
            assert dialler.told() == target.told() == ["connected"]


async def test_sessions_under_one_throw_away_identity_stand_side_by_side():
    smaller, larger = in_order()
    async with conserved() as nodes:
        dialler, target = Side(qg.Identity.generate()), Side(larger)
        async with dialler.node, target.node:
            nodes += [dialler.node, target.node]
            one, other = [await dialler.node.connect(target.node.address, identity=smaller) for _ in range(2)]
            assert one is not other
            async for _ in longer_than_an_idle_one_has():
                await echo_works(one)
                await echo_works(other)


async def test_a_failed_dial_gives_the_link_that_the_peer_has_made_meanwhile():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        patient = {"limits": {"handshake_s": 2}}
        async with conserved() as nodes:
            one, other = Side(qg.Identity.generate(), **patient), Side(qg.Identity.generate())
            async with one.node, other.node:
                nodes += [one.node, other.node]
                stale = other.node.address._replace(port=silent.getsockname()[1])
                connecting = asyncio.create_task(one.node.connect(stale))
                await until(lambda: core(one.node)["n_sessions"] == 1, lambda: core(one.node))
                await other.node.connect(one.node.address)
                assert await connecting is one.node.peers[0]


async def test_a_link_that_exists_is_not_given_for_another_pinned_identity():
    async with trial() as nodes:
        a, b = await nodes.node(), await nodes.node()
        await a.connect(b.address)
        with pytest.raises(qg.HandshakeFailed, match="another identity"):
            await a.connect(b.address._replace(peer_id=qg.Identity.generate().peer_id))


async def test_a_link_that_a_relay_dialled_for_circuits_is_nobodys_peer_and_goes_when_idle():
    async with trial() as nodes:
        a, c = await nodes.node(), await nodes.node()
        b = await nodes.relay(a, to=[c.address], relay={"idle_s": 1})
        far = await a.connect(c.address, via=[b.address])
        await far.ping()
        assert core(b)["n_auto_links"] == 1
        assert [peer.id for peer in b.peers] == [a.id]
        await far.close()
        await until(lambda: core(b)["n_auto_links"] == 0, lambda: core(b))
        await until(lambda: core(c)["n_sessions"] == 0, lambda: core(c))
        assert [peer.id for peer in b.peers] == [a.id]


async def test_streams_that_are_refused_do_not_keep_a_link_for_circuits():
    async with trial() as nodes, Model() as model:
        a = await nodes.node()
        address = model.listen()
        b = await nodes.relay(a, to=[address], relay={"idle_s": 1})
        connecting = asyncio.create_task(a.connect(address, via=[b.address]))
        link = await model.arrivals.get()
        await model.connected(link.peer)
        connecting.cancel()

        await until(lambda: core(b)["n_circuits"] == 0, lambda: core(b))
        while not link.peer.end:
            link.peer.stream_open(KIND_RELAY, TARGET)
            model.move()
            await asyncio.sleep(0.3)
        assert core(b)["n_auto_links"] == 0


async def test_a_peer_without_an_instance_has_eight_links_at_most():
    async with trial() as nodes, Model() as model:
        node = await nodes.node()
        links = [model.dial(node.address) for _ in range(9)]
        await model.until(lambda: any(link.peer.end for link in links))
        await until(lambda: len(node.peers[0].links) == 8, lambda: node.peers[0].links)
        (refused,) = [link.peer for link in links if link.peer.end]
        assert REASONS[refused.end_reason] == "duplicate"
        model.forget(next(link for link in links if link.peer is refused))
        await model.hang_up(next(link for link in links if link.peer is not refused))
        await until(lambda: len(node.peers[0].links) == 7, lambda: node.peers[0].links)
        await model.connected(model.dial(node.address).peer)


async def peer_of(node, other):
    """The other's link may be heard of later than a circuit over it elsewhere."""
    await until(lambda: any(peer.id == other.id for peer in node.peers), lambda: node.peers)
    return next(peer for peer in node.peers if peer.id == other.id)


async def test_a_link_for_circuits_becomes_a_peer_when_either_side_uses_it():
    async with trial() as nodes:
        a, c, d = await nodes.node(), await nodes.node(), await nodes.node()
        b = await nodes.relay(a, to=[c.address, d.address], workers=1)
        far = [await a.connect(target.address, via=[b.address]) for target in (c, d)]
        assert core(b)["n_auto_links"] == 2
        n_up = core(b)["n_links_up"]
        await echo_works(await b.connect(c.address))
        back = await peer_of(d, b)
        await echo_works(back)
        assert core(b)["n_links_up"] == n_up
        assert core(b)["n_auto_links"] == 0
        assert {peer.id for peer in b.peers} == {a.id, c.id, d.id}
        for peer in far:
            await peer.close()


async def test_a_link_for_circuits_lets_nobody_in_whom_the_access_list_keeps_out():
    """Somebody who may use the relay could otherwise have it dial whom it would never admit."""
    async with trial() as nodes:
        a, c = await nodes.node(), await nodes.node()
        b = await nodes.relay(a, to=[c.address], allow=[str(a.id)])
        far = await a.connect(c.address, via=[b.address])
        back = await peer_of(c, b)
        with pytest.raises(qg.Refused):
            await echo_works(back)
        assert core(b)["n_auto_links"] == 1
        assert [peer.id for peer in b.peers] == [a.id]
        await echo_works(await b.connect(c.address))  # whom the application dials may answer
        await echo_works(back)
        await far.close()


async def test_both_ends_know_what_the_other_one_offers_also_over_a_relay():
    def offered(node):
        return {info.peer_id: set(info.extenders) for info in node.status().peers}

    services = {Echo.id, Guests.id, Held.id}
    async with conserved() as nodes:
        source, target = Side(qg.Identity.generate()), Side(qg.Identity.generate())
        relay_tables = {"allow": [str(source.node.id)], "targets": ["127.0.0.0/8"]}
        async with source.node, target.node:
            relay = qg.Node(
                qg.Identity.generate(),
                listen=LISTEN,
                config=config(relay=relay_tables | {"ports": [target.node.address.port]}),
            )
            async with relay:
                nodes += [source.node, target.node, relay]
                far = await source.node.connect(target.node.address, via=[relay.address])
                assert offered(source.node) == {relay.id: set(), target.node.id: services}
                near = await relay.connect(target.node.address)  # its link for circuits becomes a peer
                assert set(near.extenders) == services
                masked = await source.node.connect(target.node.address, identity=qg.Identity.generate())
                assert set(masked.extenders) == services
                await until(lambda: len(target.node.peers) == 3, lambda: target.node.peers)
                assert offered(target.node)[source.node.id] == services
                (stranger,) = target.node.status().peers[2:]
                assert stranger.extenders == ()  # they would tell who it is
                await far.close()


async def test_a_node_has_250_services_and_no_more():
    class Many(qg.Extender):
        def __init__(self, number):
            self.id = qg.ExtenderId(number.to_bytes(16, "big"))

    async with (
        qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=map(Many, range(250))) as near,
        qg.Node(qg.Identity.generate()) as far,
    ):
        peer = await far.connect(near.address)
        assert [int.from_bytes(bytes(key), "big") for key in peer.extenders] == list(range(250))
        with pytest.raises(qg.InvalidValue, match="250"):
            await near.add_extender(Many(250))
