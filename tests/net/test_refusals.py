# SPDX-License-Identifier: MIT
"""Circuits that do not come about: a typed error at the source with hop and reason, and nothing left behind."""

import asyncio
import contextlib
import os
import resource

import pytest
from net.support import Echo, Held, config, core, nobody, trial, until

import qg
from qg._core.runtime import own_addresses, own_networks
from qg.policy import runtime_options

pytestmark = [pytest.mark.anyio, pytest.mark.net]


async def fails(node, target, via, error, reason, words):
    """The connect fails with this error, which names the hop and says why."""
    n_links = core(node)["n_sessions"]
    async with asyncio.timeout(15):
        with pytest.raises(error, match=words) as caught:
            await node.connect(target, via=via)
    assert caught.value.reason is reason
    assert isinstance(caught.value, qg.RemoteError)
    # What stays is the link to the first relay: it may serve the next try.
    await until(lambda: core(node)["n_sessions"] <= max(n_links, len(node.peers)), lambda: core(node))


async def test_a_target_that_does_not_run_is_unreachable():
    async with trial() as nodes:
        target, a = nobody(), await nodes.node()
        b = await nodes.relay(a, to=[target])
        await fails(
            a,
            target,
            [b.address],
            qg.Unreachable,
            qg.Reason.UNREACHABLE,
            f":{target.port}.*relay 1 of 1.*cannot be reached",
        )


async def test_a_target_with_another_link_key_is_unreachable():
    async with trial() as nodes:
        a, c = await nodes.node(), await nodes.node()
        target = c.address._replace(link_key=qg.Identity.generate().link_key)
        b = await nodes.relay(a, to=[target])
        await fails(
            a,
            target,
            [b.address],
            qg.Unreachable,
            qg.Reason.UNREACHABLE,
            f":{target.port}.*relay 1 of 1.*cannot be reached",
        )


async def test_a_target_with_another_identity_is_not_taken():
    async with trial() as nodes:
        a, c = await nodes.node(), await nodes.node()
        target = c.address._replace(peer_id=qg.Identity.generate().peer_id)
        b = await nodes.relay(a, to=[target])
        await fails(a, target, [b.address], qg.Unreachable, qg.Reason.UNREACHABLE, "relay 1 of 1.*cannot be reached")
        await b.connect(c.address)  # and so with a link that is there already
        await fails(a, target, [b.address], qg.Unreachable, qg.Reason.UNREACHABLE, "relay 1 of 1.*cannot be reached")


async def test_a_first_relay_that_does_not_run_is_unreachable():
    async with trial() as nodes:
        a, c = await nodes.node(), await nodes.node()
        relay = nobody()
        await fails(
            a, c.address, [relay], qg.RemoteError, qg.Reason.UNREACHABLE, f"relay 1 of 1.*127.0.0.1:{relay.port}"
        )


async def test_a_second_relay_that_does_not_run_is_unreachable():
    async with trial() as nodes:
        a, d, relay = await nodes.node(), await nodes.node(), nobody()
        b = await nodes.relay(a, to=[relay])
        words = f"relay 2 of 2.*127.0.0.1:{relay.port}.*cannot be reached"
        await fails(a, d.address, [b.address, relay], qg.Unreachable, qg.Reason.UNREACHABLE, words)


async def test_a_target_behind_two_relays_that_does_not_run_is_unreachable():
    async with trial() as nodes:
        a, target = await nodes.node(), nobody()
        c = await nodes.node()
        b = await nodes.relay(a, to=[c.address])
        await fails(a, target, [b.address, c.address], qg.Refused, qg.Reason.REFUSED, "relay 2 of 2.*refused by policy")


async def test_a_node_that_does_not_relay_refuses():
    async with trial() as nodes:
        a, b, c = await nodes.node(), await nodes.node(), await nodes.node()
        await fails(a, c.address, [b.address], qg.Refused, qg.Reason.REFUSED, "relay 1 of 1.*refused by policy")


async def test_a_relay_refuses_whom_it_does_not_know():
    async with trial() as nodes:
        a, c, other = await nodes.node(), await nodes.node(), await nodes.node()
        b = await nodes.relay(other, to=[c.address])
        await fails(a, c.address, [b.address], qg.Refused, qg.Reason.REFUSED, "relay 1 of 1.*refused by policy")


async def test_a_relay_refuses_networks_that_it_does_not_list():
    async with trial() as nodes:
        a, c = await nodes.node(), await nodes.node()
        b = await nodes.relay(a, to=[c.address], relay={"targets": []})
        await fails(a, c.address, [b.address], qg.Refused, qg.Reason.REFUSED, "relay 1 of 1.*refused by policy")


async def test_a_relay_refuses_ports_that_it_does_not_list():
    async with trial() as nodes:
        a, c = await nodes.node(), await nodes.node()
        b = await nodes.relay(a, to=[nobody()])
        await fails(a, c.address, [b.address], qg.Refused, qg.Reason.REFUSED, "relay 1 of 1.*refused by policy")


async def test_a_relay_does_not_connect_to_itself():
    async with trial() as nodes:
        a = await nodes.node()
        b = await nodes.relay(a, to=[])
        await fails(a, b.address, [b.address], qg.Refused, qg.Reason.REFUSED, "relay 1 of 1.*refused by policy")


async def test_a_relay_does_not_connect_to_the_neighbour_that_asks():
    async with trial() as nodes:
        a = await nodes.node()
        b = await nodes.relay(a, to=[a.address])
        await fails(a, a.address, [b.address], qg.Refused, qg.Reason.REFUSED, "relay 1 of 1.*refused by policy")
        c = await nodes.relay(b, to=[b.address])
        b2 = await nodes.relay(a, to=[c.address])
        await fails(
            a, b2.address, [b2.address, c.address], qg.Refused, qg.Reason.REFUSED, "relay 2 of 2.*refused by policy"
        )


async def test_a_target_that_says_nothing_is_given_up_by_the_relay():
    """It takes the connection and is silent, as a node of another network is."""

    async def ignore(reader, writer):
        with contextlib.suppress(ConnectionResetError):  # who gives up a dial does not wait for our FIN
            await reader.read()
        writer.close()

    async with trial() as nodes, await asyncio.start_server(ignore, "127.0.0.1", 0) as silent:
        a = await nodes.node()
        port = silent.sockets[0].getsockname()[1]
        target = qg.Address(qg.Identity.generate().link_key, "127.0.0.1", port)
        b = await nodes.relay(a, to=[target], limits={"handshake_s": 30}, relay={"build_s": 1})
        await fails(a, target, [b.address], qg.PeerTimeout, qg.Reason.TIMEOUT, f":{port}.*does not answer")


async def test_a_circuit_without_a_byte_ends_and_the_link_stays():
    async with trial() as nodes:
        a, c = await nodes.node(), await nodes.node()
        b = await nodes.relay(a, to=[c.address], relay={"idle_s": 1, "build_s": 1})
        await a.connect(b.address)
        peer = await a.connect(c.address, via=[b.address])
        stream = await peer.open_stream(Held.id)
        async with asyncio.timeout(15):
            with pytest.raises(qg.RemoteError):
                await stream.read(1)
        assert [peer.id for peer in a.peers] == [b.id]


async def test_a_relay_knows_the_networks_that_its_machine_is_in():
    options = runtime_options(config(relay={"allow": [str(qg.Identity.generate().peer_id)]}), None)
    assert (bytes([127, 0, 0, 0]), 8) in options["own_networks"]
    assert len(set(options["own_networks"])) == len(options["own_networks"]) <= 64
    assert runtime_options(config(), None)["own_networks"] == []


def test_networks_that_cannot_be_listed_are_not_taken_for_none():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    full = [os.dup(0)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (full[0] + 1, hard))
        with contextlib.suppress(OSError):
            while True:
                full.append(os.dup(0))
        for list_ in (own_networks, own_addresses):
            with pytest.raises(OSError, match="cannot be listed: Too many open files"):
                list_()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in full:
            os.close(each)
    assert own_networks()


async def test_a_relay_still_serves_after_all_that():
    async with trial() as nodes:
        a, c, wrong = await nodes.node(), await nodes.node(), nobody()
        b = await nodes.relay(a, to=[c.address, wrong])
        for _ in range(3):
            await fails(a, wrong, [b.address], qg.Unreachable, qg.Reason.UNREACHABLE, "relay 1 of 1.*cannot be reached")
        peer = await a.connect(c.address, via=[b.address])
        assert peer.is_relayed
        async with await peer.open_stream(Echo.id) as stream:
            await stream.write(b"hello")
            assert await stream.readexactly(5) == b"hello"
        await peer.close()
