# SPDX-License-Identifier: MIT
"""Circuits as an application sees them: `via` a relay, and what a relay or its target refuses."""

import asyncio
import hashlib
import os
from contextlib import asynccontextmanager

import pytest
from api.services import Echo, Guests, Held

import qg
from qg.testing import conserved

pytestmark = [pytest.mark.anyio, pytest.mark.net]

LISTEN = ["tcp://127.0.0.1:0"]


def relay_config(*ports, allow=(), **limits):
    targets = (qg.Prefix.parse("127.0.0.0/8"),)
    return qg.Config(relay=qg.RelayConfig(allow=tuple(allow), targets=targets, ports=ports, **limits))


@asynccontextmanager
async def three_nodes(extenders=(), **limits):
    """Give a source, a relay that serves it, and a target."""
    identity = qg.Identity.generate()
    async with (
        conserved() as nodes,
        qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=extenders) as target,
        qg.Node(
            qg.Identity.generate(),
            listen=LISTEN,
            config=relay_config(target.address.port, allow=[identity.peer_id], **limits),
        ) as relay,
        qg.Node(identity, extenders=[Guests()]) as source,
    ):
        nodes += [source, relay, target]
        yield source, relay, target


async def test_a_file_crosses_a_relay_whole():
    data = os.urandom(4 << 20)
    async with three_nodes([Echo()]) as (source, relay, target):
        peer = await source.connect(target.address, via=[relay.address])
        assert peer.id == target.id
        assert peer.is_relayed
        async with await peer.open_stream(Echo.id) as stream, asyncio.TaskGroup() as group:
            group.create_task(stream.write(data))
            got = await stream.readexactly(len(data))
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
        status = relay.status()
        assert status.relayed_bytes >= 2 * len(data)
        assert status.n_splices == 1
        assert source.status().links[-1].carrier == "pipe"


async def test_the_status_tells_who_dialled_the_links_of_a_circuit_and_what_they_carry():
    async with three_nodes([Echo()]) as (source, relay, target):
        peer = await source.connect(target.address, via=[relay.address])
        async with await peer.open_stream(Echo.id) as stream:
            await stream.write(bytes(50_000))
            await stream.readexactly(50_000)

        def links(node):
            return sorted((link.carrier, link.is_outgoing) for link in node.status().links)

        assert links(source) == [("pipe", True), ("tcp", True)]
        assert links(relay) == [("tcp", False)]
        assert relay.status().n_circuit_links == 1
        assert links(target) == [("pipe", False), ("tcp", False)]
        for node in (source, relay, target):
            assert all(min(link.bytes_in, link.bytes_out) > 50_000 for link in node.status().links)


async def test_a_cancelled_connect_leaves_a_link_that_circuits_use():
    async with three_nodes([Echo()]) as (source, relay, target):
        peer = await source.connect(target.address, via=[relay.address])
        connecting = asyncio.create_task(source.connect(relay.address))
        await asyncio.sleep(0)
        connecting.cancel()
        await asyncio.wait([connecting])
        for _ in range(3):
            await peer.ping()


async def test_the_target_sees_the_source_and_the_relay_its_neighbours_only():
    guests = Guests()
    async with three_nodes([guests]) as (source, relay, target):
        peer = await source.connect(target.address, via=[str(relay.address)])
        assert await peer.ping() > 0
        seen = {}
        while source.id not in seen:
            _, guest = await guests.seen.get()
            seen[guest.id] = guest
        assert seen[source.id].is_relayed
        assert {guest.id for guest in relay.peers} == {source.id}  # its link to the target carries circuits only


async def test_the_path_may_stand_in_the_address():
    async with three_nodes() as (source, relay, target):
        address = qg.Address.parse(f"{target.address}?via={str(relay.address).removeprefix('qg://')}")
        assert (await source.connect(address)).is_relayed
        assert (await source.connect(address, via=[])).is_relayed is False


async def test_a_direct_session_and_one_over_a_relay_stay_apart():
    async with three_nodes() as (source, relay, target):
        direct = await source.connect(target.address)
        relayed = await source.connect(target.address, via=[relay.address])
        assert direct is not relayed
        assert not direct.is_relayed
        await relayed.close()
        assert await direct.ping() > 0


async def test_a_node_is_no_relay_unless_told():
    async with (
        qg.Node(qg.Identity.generate(), listen=LISTEN) as target,
        qg.Node(qg.Identity.generate(), listen=LISTEN) as relay,
        qg.Node(qg.Identity.generate()) as source,
    ):
        with pytest.raises(qg.RemoteError, match="relay 1 of 1"):
            await source.connect(target.address, via=[relay.address])


async def test_a_relay_serves_only_whom_it_lists():
    async with three_nodes() as (_, relay, target), qg.Node(qg.Identity.generate()) as stranger:
        with pytest.raises(qg.Refused, match="refused by policy") as caught:
            await stranger.connect(target.address, via=[relay.address])
        assert caught.value.reason is qg.Reason.REFUSED


async def test_a_relay_dials_only_the_ports_it_lists():
    async with three_nodes() as (source, relay, target):
        elsewhere = target.address._replace(port=target.address.port ^ 1)
        with pytest.raises(qg.Refused):
            await source.connect(elsewhere, via=[relay.address])


async def test_a_target_that_is_gone_is_told_with_the_place():
    async with three_nodes() as (source, relay, target):
        address = target.address
        await target.close()
        with pytest.raises(qg.Unreachable, match=str(address.port)):
            await source.connect(address, via=[relay.address])


async def test_the_end_of_the_target_reaches_the_source_through_the_relay():
    held = Held()
    async with three_nodes([held]) as (source, relay, target):
        peer = await source.connect(target.address, via=[relay.address])
        stream = await peer.open_stream(Held.id)
        await target.close()
        with pytest.raises(qg.RemoteError):
            await stream.read()
        while source.status().n_splices or relay.status().n_splices:
            await asyncio.sleep(0)


async def test_the_end_of_the_relay_reaches_both_ends():
    held = Held()
    async with three_nodes([held]) as (source, relay, target):
        peer = await source.connect(target.address, via=[relay.address])
        stream = await peer.open_stream(Held.id)
        served = await held.streams.get()
        await relay.close()
        for end in (stream, served):
            with pytest.raises(qg.RemoteError):
                await end.read()


async def test_a_cancelled_circuit_leaves_nothing_behind():
    async with three_nodes() as (source, relay, target):
        for n_turns in (0, 1, 3, 10, 30, 100, 300):
            connecting = asyncio.create_task(source.connect(target.address, via=[relay.address]))
            for _ in range(n_turns):
                await asyncio.sleep(0)
            connecting.cancel()
            (outcome,) = await asyncio.gather(connecting, return_exceptions=True)
            if isinstance(outcome, qg.Peer):
                await outcome.close()
        while relay.status().n_splices or any(peer.is_relayed for peer in source.peers):
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("via", "words"),
    [
        (["qg://127.0.0.1:1"], "no link key"),
        ("qg://127.0.0.1:1", "list of relays"),
        (["{key}127.0.0.1:1"] * 8, "at most 7"),
        (["{key}127.0.0.1:1?via={bare}127.0.0.1:2"], "relays of its own"),
        (["{key}127.0.0.1:1", "{key}relay.example:1"], "look up no names"),
    ],
)
async def test_a_path_that_cannot_be_gone_is_refused_at_once(via, words):
    bare = f"{qg.Identity.generate().link_key}@"
    if not isinstance(via, str):
        via = [text.format(key=f"qg://{bare}", bare=bare) for text in via]
    async with qg.Node(qg.Identity.generate()) as node:
        with pytest.raises(qg.AddressError, match=words):
            await node.connect(f"qg://{bare}127.0.0.1:7447", via=via)
        assert node.remains()["requests"] == 0


async def test_a_refusal_names_the_relay_its_reason_and_what_it_had_announced():
    limits = {"rate_kib_s": 4096, "neighbour_rate_kib_s": 512, "neighbour_burst_kib": 128}
    async with three_nodes(**limits) as (source, relay, target):
        far = await source.connect(target.address, via=[relay.address])
        (near,) = [peer for peer in source.peers if not peer.is_relayed]
        assert near.relay_terms == qg.RelayTerms(rate_kib_s=512, burst_kib=128)
        assert far.relay_terms is None
        elsewhere = target.address._replace(port=target.address.port ^ 1)
        with pytest.raises(qg.Refused) as caught:
            await source.connect(elsewhere, via=[relay.address])
        words = str(caught.value)
        assert f"refused by relay 1 of 1 ({str(relay.address.link_key)[:12]}" in words
        assert "by policy (it announced 512 KiB/s, 128 KiB at once)" in words


async def test_the_relay_that_refuses_is_told_from_those_before_it():
    async with (
        three_nodes() as (source, relay, target),
        qg.Node(qg.Identity.generate(), listen=LISTEN) as last,
    ):
        with pytest.raises(qg.RemoteError) as caught:
            await source.connect(last.address, via=[relay.address, target.address])
        assert "relay 2 of 2" in str(caught.value)
