# SPDX-License-Identifier: MIT
"""Layers that circuits share, or not: seen by how many anonymous sessions a relay holds."""

import asyncio

import pytest
from api.services import Echo
from model import frames
from model.peer import layer_answer
from net.chain import chain
from net.live import CLOSED_NETWORK, LINK_HELLO, Model
from net.support import core, until
from net.test_model_circuits import member

import qg

pytestmark = [pytest.mark.anyio, pytest.mark.net]

BULK = bytes(300_000)


def layers(node):
    """Sessions in pipes that end at a node: the layers of circuits, if it is a relay."""
    return core(node)["n_sessions"] - core(node)["n_conns"]


async def settled(nodes, n_layers, n_circuits):
    """Wait until the relays hold so many layers and circuits each."""
    expected = [*zip(n_layers, n_circuits, strict=True)]
    found = lambda: [(layers(relay), core(relay)["n_circuits"]) for relay in nodes.relays]  # noqa: E731
    await until(lambda: found() == expected, found)


async def echo(peer):
    async with await peer.open_stream(Echo.id) as stream, asyncio.TaskGroup() as group:
        group.create_task(stream.write(BULK))
        assert await stream.readexactly(len(BULK)) == BULK


async def test_circuits_have_layers_of_their_own_unless_they_are_told_to_share():
    async with chain(2) as nodes:
        for _ in range(3):
            await nodes.source.connect(nodes.target.address, via=nodes.via)
        await settled(nodes, (3, 3), (3, 3))


async def test_circuits_of_one_isolation_share_the_layers_of_the_relays_that_they_begin_with():
    async with chain(3) as nodes:
        whole = [await nodes.source.connect(nodes.target.address, via=nodes.via, isolation="mail") for _ in range(3)]
        await settled(nodes, (1, 1, 1), (1, 1, 3))
        other = await nodes.source.connect(nodes.target.address, via=nodes.via, isolation="web")
        await settled(nodes, (2, 2, 2), (2, 2, 4))
        await asyncio.gather(*(echo(peer) for peer in (*whole, other)))


async def test_circuits_made_at_once_share_layers_too():
    async with chain(3) as nodes:
        connecting = [
            nodes.source.connect(nodes.target.address, via=nodes.via, isolation=b"\0", identity=qg.Identity.generate())
            for _ in range(5)
        ]
        peers = await asyncio.gather(*connecting)
        await settled(nodes, (1, 1, 1), (1, 1, 5))
        await asyncio.gather(*map(echo, peers))


async def test_paths_share_as_far_as_they_are_the_same():
    async with chain(3) as nodes:
        one = await nodes.source.connect(nodes.target.address, via=nodes.via, isolation="a")
        two = await nodes.source.connect(nodes.relays[2].address, via=nodes.via[:2], isolation="a")
        await settled(nodes, (1, 1, 2), (1, 2, 1))  # the third relay is a target too
        assert await one.ping() > 0
        assert await two.ping() > 0


async def test_a_shared_layer_stays_until_its_last_circuit_has_gone():
    async with chain(2) as nodes:
        peers = [await nodes.source.connect(nodes.target.address, via=nodes.via, isolation="a") for _ in range(3)]
        for n_left in (2, 1):
            await peers[n_left].close()
            await settled(nodes, (1, 1), (1, n_left))
            await echo(peers[0])
        await peers[0].close()
        await settled(nodes, (0, 0), (0, 0))
        again = await nodes.source.connect(nodes.target.address, via=nodes.via, isolation="a")
        await settled(nodes, (1, 1), (1, 1))
        await echo(again)


async def test_a_circuit_that_fails_or_is_cancelled_leaves_the_layers_of_others():
    async with chain(2) as nodes:
        peer = await nodes.source.connect(nodes.target.address, via=nodes.via, isolation="a")
        nowhere = nodes.target.address._replace(port=nodes.target.address.port ^ 1)
        with pytest.raises(qg.Refused):
            await nodes.source.connect(nowhere, via=nodes.via, isolation="a")
        for n_turns in (0, 1, 3, 10, 30, 100):
            connecting = asyncio.create_task(
                nodes.source.connect(
                    nodes.target.address, via=nodes.via, isolation="a", identity=qg.Identity.generate()
                )
            )
            for _ in range(n_turns):
                await asyncio.sleep(0)
            connecting.cancel()
            (outcome,) = await asyncio.gather(connecting, return_exceptions=True)
            if isinstance(outcome, qg.Peer):
                await outcome.close()
        await echo(peer)
        await settled(nodes, (1, 1), (1, 1))


async def test_the_end_of_a_relay_ends_all_circuits_of_a_layer():
    async with chain(2) as nodes:
        peers = [await nodes.source.connect(nodes.target.address, via=nodes.via, isolation="a") for _ in range(3)]
        streams = [await peer.open_stream(Echo.id) for peer in peers]
        await nodes.relays[1].close()
        for stream in streams:
            with pytest.raises(qg.RemoteError):
                await stream.read()
        await until(lambda: core(nodes.relays[0])["n_circuits"] == 0, lambda: core(nodes.relays[0]))


async def test_a_longer_path_does_not_share_a_pipe_that_was_opened_for_too_few_hops():
    """A pipe may say 5 hops for a path of one relay: one of seven needs a pipe of its own, unless it said 8."""
    async with Model(CLOSED_NETWORK) as model, member() as source:
        said, extended = [], []

        def answer(peer, stream):
            said.append(stream.opened.body[0])
            layer = layer_answer(model.party, peer, stream, LINK_HELLO)
            layer.handlers[frames.KIND_RELAY] = lambda layer, stream: extended.append(stream)  # it waits

        model.handlers[frames.KIND_PIPE] = answer
        via = [model.listen()]
        via += [qg.Address(qg.Identity.generate().link_key, "127.0.0.1", 1 + idx) for idx in range(7)]
        waiting = []
        for turn in range(4):  # the model takes eight pipes
            n_pipes = len(said)
            for n_relays in (1, 7):
                connect = source.node.connect(via[7], via=via[:n_relays], isolation=f"turn {turn}")
                waiting.append(asyncio.create_task(connect))
                await model.until(lambda: len(extended) == len(waiting))
            assert len(said) - n_pipes == (1 if said[n_pipes] == 8 else 2)
            assert said[-1] == 8
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize("isolation", [1, object(), ("a",)])
async def test_an_isolation_is_a_text_or_bytes(isolation):
    async with chain(1) as nodes:
        with pytest.raises(qg.InvalidValue, match="text or bytes"):
            await nodes.source.connect(nodes.target.address, via=nodes.via, isolation=isolation)
