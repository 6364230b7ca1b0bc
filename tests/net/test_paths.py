# SPDX-License-Identifier: MIT
"""Circuits over one to seven relays, each node in a network of its own."""

import asyncio
import contextlib
import hashlib
import os

import pytest
from api.services import Echo, Held, Mailbox
from net.chain import SUITES, chain
from net.support import core

import qg

pytestmark = [pytest.mark.anyio, pytest.mark.net]

HOPS = range(1, 8)
BULK_LEN = 3_000_000


@pytest.fixture(params=SUITES)
def suite(request):
    return request.param


@contextlib.asynccontextmanager
async def circuit(n_relays, suite="aegis-256"):
    """A chain of relays, and the target as its source sees it."""
    async with chain(n_relays, link={"suites_removed": SUITES[suite]}) as nodes:
        peer = await nodes.source.connect(nodes.target.address, via=nodes.via)
        if peer.suite != suite:
            pytest.skip(f"this machine has no {suite}")
        yield nodes, peer


async def far_end(nodes, peer_id=None):
    """The source, as the target sees it."""
    while not (found := [peer for peer in nodes.target.peers if peer.id == (peer_id or nodes.source.id)]):
        await asyncio.sleep(0)
    return found[0]


@pytest.mark.parametrize("n_relays", HOPS)
async def test_bulk_crosses_a_path_of_any_length_both_ways(n_relays, suite):
    data = os.urandom(BULK_LEN)
    async with circuit(n_relays, suite) as (nodes, peer):
        assert peer.id == nodes.target.id
        assert peer.is_relayed
        async with await peer.open_stream(Echo.id) as stream, asyncio.TaskGroup() as group:
            group.create_task(stream.write(data))
            got = await stream.readexactly(len(data))
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
        for relay in nodes.relays:
            assert relay.status().n_splices == 1
            assert relay.status().relayed_bytes > 2 * len(data)


@pytest.mark.parametrize("n_relays", HOPS)
async def test_messages_and_pings_cross_a_path_of_any_length(n_relays, suite):
    messages = [os.urandom(idx * 37 % 5000) for idx in range(200)]
    async with circuit(n_relays, suite) as (nodes, peer):
        await peer.send_batch(Mailbox.id, messages)
        source = await far_end(nodes)
        got = []
        async for batch in source.messages(Mailbox.id):
            got += batch
            if len(got) >= len(messages):
                break
        assert got == messages
        assert await peer.ping() > 0
        assert await source.ping() > 0


@pytest.mark.parametrize("n_relays", HOPS)
async def test_fin_and_reset_cross_a_path_of_any_length_with_their_meaning(n_relays):
    async with circuit(n_relays) as (nodes, peer):
        held = next(extender for extender in nodes.target.services if isinstance(extender, Held))
        stream = await peer.open_stream(Held.id)
        far = await held.streams.get()
        await stream.write(b"to the end")
        stream.finish()
        assert await far.read() == b"to the end"
        assert await far.read() == b""
        await far.write(b"and back")
        assert await stream.readexactly(8) == b"and back"
        far.reset(qg.Reason.CANCELLED)
        with pytest.raises(qg.StreamReset) as caught:
            await stream.read()
        assert caught.value.reason is qg.Reason.CANCELLED
        held.release.set()


@pytest.mark.parametrize("n_relays", HOPS)
async def test_a_closed_circuit_leaves_no_splice_anywhere(n_relays):
    async with circuit(n_relays) as (nodes, peer):
        await peer.close()
        for relay in nodes.relays:
            while core(relay)["n_circuits"]:
                await asyncio.sleep(0.001)


async def test_who_knows_whom_on_a_path_of_seven_relays():
    """Each relay sees its neighbour and nobody else; only the target sees the source."""
    async with circuit(7) as (nodes, _):
        await far_end(nodes)
        before = nodes.source.id
        for relay in nodes.relays:
            assert {peer.id for peer in relay.peers} == {before}
            before = relay.id
        assert {peer.id for peer in nodes.target.peers} == {before, nodes.source.id}


async def test_a_throw_away_identity_is_all_that_the_target_sees():
    async with chain(3) as nodes:
        identity = qg.Identity.generate()
        await nodes.source.connect(nodes.target.address, via=nodes.via, identity=identity)
        await far_end(nodes, identity.peer_id)
        assert {peer.id for peer in nodes.target.peers} == {nodes.relays[-1].id, identity.peer_id}
