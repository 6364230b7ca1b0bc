# SPDX-License-Identifier: MIT
"""Records of relays on their way: who is told, who is not, and what a flood of them does."""

import asyncio
import time

import pytest
from model import frames
from model.cert import PeerRecord, peer_record_parse, peer_record_verify
from model.frames import Peers, Pong
from model.peer import layer_answer
from model.reader import Address
from model.streams import splice
from net.chain import world
from net.live import CLOSED_NETWORK, Model, talk
from net.support import LOOPBACK, core, faults, until
from net.test_model_circuits import member

import qg
from qg.records import FRAME_RECORDS_MAX

pytestmark = [pytest.mark.anyio, pytest.mark.net]

SECRET = qg.NetworkSecret.generate()
DIALLED = {"targets": LOOPBACK}


def known(node):
    return {relay.peer_id for relay in node._routes.book.relays(node._routes._clock())}


async def knows(node, *others):
    await until(lambda: {other.id for other in others} <= known(node), lambda: node._gossip.counts)


class Members:
    """Nodes of one closed network, each on a host of its own, that relay for each other."""

    def __init__(self, made):
        self._made = made
        self._n_nodes = 0

    async def relay(self):
        idx, self._n_nodes = self._n_nodes, self._n_nodes + 1
        return await self._node(idx, "members")

    async def user(self):
        return await self._node(None, "none")

    async def _node(self, idx, allow):
        policy = qg.RelayConfig(allow=allow, targets=(qg.Prefix.parse("127.0.0.0/8"),), ports=(self._made.port,))
        return await self._made.node(idx, config=qg.Config(relay=policy), network_secret=SECRET)


async def test_news_of_relays_travel_from_peer_to_peer_and_make_paths():
    """The source is connected to one node only, and knows no relay by configuration."""
    async with world(6) as made:
        members = Members(made)
        relays = [await members.relay() for _ in range(5)]
        hub, *others = relays
        for other in others:
            await other.connect(hub.address)
        await knows(hub, *others)
        source = await members.user()
        await source.connect(hub.address)
        await knows(source, *relays)
        far = await source.connect(others[0].address, hops=3)
        assert await far.ping() > 0
        assert sum(core(relay)["n_circuits"] for relay in relays) == 3


async def test_nodes_that_relay_for_nobody_or_cannot_be_dialled_are_not_told_of():
    async with world(3) as made:
        members = Members(made)
        hub, plain = await members.relay(), await made.node(1, network_secret=SECRET)
        source = await members.user()
        for node in (plain, source):
            await node.connect(hub.address)
        await knows(source, hub)
        assert known(hub) == set()
        assert known(source) == {hub.id}


async def test_a_relay_for_listed_peers_is_not_drawn_by_others():
    async with world(1) as made:
        identity = qg.Identity.generate()
        relay = await made.node(0, config=made.config([identity.peer_id]))
        config = qg.Config.from_dict({"relay": DIALLED | {"ports": [made.port]}})
        source = await made.node(identity=identity, config=config)
        await source.connect(relay.address)
        await until(lambda: source._gossip.counts["taken"], lambda: source._gossip.counts)
        assert known(source) == set()


async def test_the_target_of_a_circuit_and_a_peer_of_a_throw_away_identity_are_told_nothing():
    async with world(4) as made:
        members = Members(made)
        one, two, three = [await members.relay() for _ in range(3)]
        target = await members.relay()
        await one.connect(target.address, via=[two.address, three.address])
        await one.connect(target.address, identity=qg.Identity.generate())
        await until(lambda: len(target.peers) >= 3, lambda: target.peers)
        for peer in target.peers:
            await peer.ping()
        assert one.id not in known(target)
        assert known(target) == set()  # the link that a relay dialled for circuits is nobody's peer either


async def test_a_node_tells_of_itself_as_the_protocol_says():
    """The independent model reads the record."""
    relay = qg.RelayConfig(allow="members", rate_kib_s=4096, burst_kib=1024)
    async with talk("model", config=qg.Config(relay=relay), secret=CLOSED_NETWORK) as made:
        await made.model.until(lambda: any(isinstance(frame, Peers) for frame in made.peer.received))
        (frame,) = [frame for frame in made.peer.received if isinstance(frame, Peers)]
        (record,) = [peer_record_parse(raw) for raw in frame.records]
        now_s = record.issued
        peer_record_verify(record, now_s)
        assert record.peer_id == bytes(made.node.id)
        assert record.link_key == bytes(made.node.address.link_key)
        assert record.addresses == (Address(4, bytes([127, 0, 0, 1]), made.node.address.port),)
        assert (record.flags, record.kib_per_s, record.burst_kib) == (1, 4096, 1024)


def record_of(model):
    """A record of the model that is right in everything."""
    identity, now_s = model.identity, int(time.time())
    where = (Address(4, bytes([127, 9, 0, 1]), 7447),)
    plain = PeerRecord(
        identity.peer_id, identity.link_public, identity.certificate, 1, 0, 0, where, now_s, now_s + 3600
    )
    return plain.signed(identity.ed25519_seed).build()


async def test_a_record_of_the_model_is_believed():
    config = qg.Config.from_dict({"relay": DIALLED})
    async with talk("model", config=config) as made:
        made.peer.frame_send(Peers((record_of(made.model),)))
        made.model.move()
        await until(lambda: known(made.node), lambda: made.node._gossip.counts)
        assert {bytes(peer_id) for peer_id in known(made.node)} == {made.model.identity.peer_id}


async def test_frames_beyond_a_few_are_dropped_and_counted_and_the_link_stays():
    async with talk("model") as made:
        junk = Peers(tuple(bytes([idx]) * 300 for idx in range(FRAME_RECORDS_MAX)))
        for _ in range(200):
            made.peer.frame_send(junk)
        made.peer.ping(bytes(8))
        await made.model.until(lambda: any(isinstance(frame, Pong) for frame in made.peer.received))
        await until(lambda: faults(made.node).get("over_rate") == 196, lambda: faults(made.node))
        assert made.node._gossip.counts == {"malformed": 4 * FRAME_RECORDS_MAX}
        assert await made.far.ping() > 0


async def test_a_hundred_thousand_records_at_once_close_the_link_as_too_many_control_frames():
    async with talk("model") as made:
        junk = Peers(tuple(bytes([idx]) * 300 for idx in range(FRAME_RECORDS_MAX)))
        for _ in range(100_000 // FRAME_RECORDS_MAX):
            made.peer.frame_send(junk)
        with pytest.raises(ConnectionError):
            await made.model.until(lambda: False)
        assert made.node._gossip.counts["verified"] == 0
        assert sum(made.node._gossip.counts.values()) <= 4 * FRAME_RECORDS_MAX
        assert core(made.node)["pool_taken_len"] < 1 << 20


@pytest.mark.parametrize("direction", ["forward", "backward"])
async def test_a_relay_that_changes_bytes_of_two_others_is_avoided_and_they_are_not(direction):
    """The model relays and flips a bit: the layer behind it fails to open at the source, or at its far end."""
    async with member() as source, member() as one, member() as other, Model(CLOSED_NETWORK) as model:
        onwards = {bytes(each.node.address.link_key): model.dial(each.node.address) for each in (one, other)}
        for onward in onwards.values():
            await model.connected(onward.peer)
        spliced = []

        def extend(layer, stream):
            onward = onwards[stream.opened.body[:32]].peer
            pipe = onward.stream_open(frames.KIND_PIPE, b"\x05", stream.opened.credit)
            splice(layer, stream, onward, pipe)
            spliced.append(pipe if direction == "forward" else stream)

        def answer(peer, stream):
            layer = layer_answer(model.party, peer, stream)
            layer.handlers[frames.KIND_RELAY] = extend

        model.handlers[frames.KIND_PIPE] = answer
        address = model.listen()
        book = source.node._routes.book
        relay = qg.relays.KnownRelay.of(address)
        for target in (one, one, other):
            assert not book.is_avoided(relay, time.time())
            far = await source.node.connect(target.node.address, via=[address])

            def flip(stream=spliced[-1]):
                for idx, piece in enumerate(stream.chunks):
                    stream.chunks[idx] = piece[:-1] + bytes([piece[-1] ^ 1])

            model.steps.append(flip)
            with pytest.raises(qg.RemoteError):
                await far.ping()
            model.steps.clear()
            await asyncio.sleep(0)
        assert book.is_avoided(relay, time.time())
        for each in (one, other):
            assert not book.is_avoided(qg.relays.KnownRelay.of(each.node.address), time.time())


async def test_a_relay_that_drains_is_drawn_no_more_by_those_who_knew_it():
    async with world(2) as made:
        members = Members(made)
        relays = [await members.relay() for _ in range(2)]
        user = await members.user()
        for relay in relays:
            await user.connect(relay.address)
        await knows(user, *relays)
        await relays[0].drain(60)
        await until(lambda: known(user) == {relays[1].id}, lambda: user._gossip.counts)
        assert user.status().counters["records_withdrawn"] == 1
