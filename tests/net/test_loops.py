# SPDX-License-Identifier: MIT
"""Paths that lead back, relays that go away, clocks that differ (docs/protocol.md, sections 6.5 to 6.7)."""

import asyncio

import pytest
from net.chain import chain, world
from net.support import Services, core, until

import qg

pytestmark = [pytest.mark.anyio, pytest.mark.net]


async def family(made, n_nodes, **tables):
    """Nodes that all relay for each other, and their addresses."""
    identities = [qg.Identity.generate() for _ in range(n_nodes)]
    users = [identity.peer_id for identity in identities]
    nodes = [
        await made.node(idx, identity=identity, config=made.config(users, **tables), extenders=Services())
        for idx, identity in enumerate(identities)
    ]
    return nodes, [node.address for node in nodes]


async def nothing_left(nodes):
    for node in nodes:
        await until(lambda node=node: core(node)["n_circuits"] == 0, lambda node=node: core(node))


@pytest.mark.parametrize("path", ["ABA", "BCB", "BB", "BCC", "AB", "BA", "BCDB"], ids=str)
async def test_a_path_that_leads_straight_back_is_refused_and_longer_loops_end(path):
    """A is the source, the last letter the target. What a relay can see it refuses: itself, and where it came from."""
    async with world(4) as made:
        nodes, addresses = await family(made, 4)
        hops = [addresses["ABCD".index(letter)] for letter in path]
        if path == "BCDB":  # no relay can see this one: B is relay and target in one, which harms nobody
            peer = await nodes[0].connect(hops[-1], via=hops[:-1])
            assert await peer.ping() > 0
            await peer.close()
        else:
            with pytest.raises((qg.Refused, qg.UsageError, qg.HandshakeFailed)):
                await nodes[0].connect(hops[-1], via=hops[:-1])
        await nothing_left(nodes)


async def test_seven_relays_that_name_each_other_in_a_circle_end():
    """B C B C ... is refused at the second step; B C D B C D E goes round once and works, for hops bound it."""
    async with world(6) as made:
        nodes, addresses = await family(made, 5)
        via = [addresses["ABCDE".index(letter)] for letter in "BCDBCD"]
        peer = await nodes[0].connect(addresses[4], via=via)
        assert await peer.ping() > 0
        assert [core(node)["n_circuits"] for node in nodes] == [0, 2, 2, 2, 0]
        await peer.close()
        await nothing_left(nodes)


async def test_a_source_that_is_its_own_target_over_relays_is_told_so():
    async with world(3) as made:
        nodes, addresses = await family(made, 3)
        with pytest.raises((qg.UsageError, qg.Refused)):
            await nodes[0].connect(addresses[0], via=addresses[1:2])
        peer = await nodes[0].connect(addresses[0], via=addresses[1:])  # C does not know where this began
        assert peer.id == nodes[0].id
        await peer.close()
        await nothing_left(nodes)


@pytest.mark.parametrize("place", range(5))
async def test_a_relay_that_dies_while_the_path_is_built_is_an_error_that_names_a_place(place):
    """At every hop, at many moments; whatever was built goes."""
    async with chain(5, relay={"build_s": 2}) as nodes:
        connecting = asyncio.create_task(nodes.source.connect(nodes.target.address, via=nodes.via))
        victim = nodes.relays[place]
        for _ in range(3 * place):
            await asyncio.sleep(0)
        await victim.close()
        (outcome,) = await asyncio.gather(connecting, return_exceptions=True)
        if isinstance(outcome, qg.Peer):
            with pytest.raises(qg.RemoteError):
                await outcome.ping()
        else:
            assert isinstance(outcome, qg.RemoteError), outcome
            assert outcome.hop_idx is not None
        await nothing_left(relay for relay in nodes.relays if relay is not victim)


@pytest.mark.parametrize("place", range(3))
async def test_a_relay_that_dies_between_accept_and_the_first_record_ends_the_stream_at_both_ends(place):
    async with chain(3) as nodes:
        peer = await nodes.source.connect(nodes.target.address, via=nodes.via)
        await nodes.relays[place].close()
        with pytest.raises(qg.RemoteError):
            await peer.ping()
        assert not peer.is_connected
        await until(lambda: not any(far.is_relayed for far in nodes.target.peers), lambda: nodes.target.peers)
        await nothing_left(relay for idx, relay in enumerate(nodes.relays) if idx != place)


async def test_fin_passes_one_direction_and_leaves_the_other_over_seven_relays():
    async with chain(7) as nodes:
        held = nodes.target.services.held
        peer = await nodes.source.connect(nodes.target.address, via=nodes.via)
        stream = await peer.open_stream(type(held).id)
        far = await held.streams.get()
        stream.finish()
        assert await far.read() == b""
        for _ in range(5):
            await far.write(bytes(100_000))
            await stream.readexactly(100_000)
        far.finish()
        assert await stream.read() == b""
        held.release.set()


async def test_an_idle_circuit_ends_at_every_hop_with_timeout():
    async with chain(3, relay={"idle_s": 1, "build_s": 2}) as nodes:
        peer = await nodes.source.connect(nodes.target.address, via=nodes.via)
        stream = await peer.open_stream(type(nodes.target.services.held).id)
        with pytest.raises(qg.RemoteError):
            await stream.read()
        await nothing_left(nodes.relays)
        nodes.target.services.held.release.set()
