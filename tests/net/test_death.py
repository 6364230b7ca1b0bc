# SPDX-License-Identifier: MIT
"""Processes that are killed in the middle of a transfer: the others are told why, and free everything."""

import asyncio

import pytest
from net.child import Child
from net.support import MIB, Drain, Echo, Held, core, trial, until, write_forever

import qg

pytestmark = [pytest.mark.anyio, pytest.mark.net]


async def told(work):
    """Wait for an operation to fail by what a peer did, and give the error."""
    with pytest.raises(qg.RemoteError) as caught:
        await work
    assert caught.value.reason is not qg.Reason.NONE
    return caught.value


async def freed(node, before):
    """Wait until a node that runs on holds what it held before, no more."""
    names = ("n_sessions", "n_circuits", "relay_held_len", "n_flows", "n_conns", "n_secret_slots")
    await until(
        lambda: all(core(node)[name] <= before[name] for name in names),
        lambda: {name: (before[name], core(node)[name]) for name in names},
    )


def one_link(before):
    """What a node holds that held nothing before, and has one link."""
    return before | {"n_sessions": 1, "n_conns": 1, "n_secret_slots": before["n_secret_slots"] + 1}


async def busy(peer):
    """Start everything that can be under way with a peer: give its tasks."""
    flood, idle, ending, echo = [await peer.open_stream(service.id) for service in (Drain, Held, Held, Echo)]
    return [
        asyncio.create_task(work)
        for work in (write_forever(flood), idle.read(1), echo.read(), ending.close(), write_forever(echo))
    ]


async def test_the_target_dies_and_source_and_relay_go_on():
    async with trial() as nodes, Child() as c:
        a = await nodes.node()
        b = await nodes.relay(a, to=[c.address])
        before = core(b)
        peer = await a.connect(c.address, via=[b.address])
        tasks = await busy(peer)
        await until(lambda: b.status().relayed_bytes > 8 * MIB, b.status)
        c.kill()
        for task in tasks:
            error = await told(task)
            assert error.reason is qg.Reason.UNREACHABLE
        assert not peer.is_connected
        await told(peer.open_stream(Echo.id))
        await freed(b, one_link(before))
        await until(lambda: core(b)["n_blocks"] == 0, lambda: core(b))


async def test_the_target_of_a_link_dies():
    async with trial() as nodes, Child() as c:
        a = await nodes.node()
        before = core(a)
        peer = await a.connect(c.address)
        tasks = await busy(peer)
        await until(lambda: core(a)["out_len"] > 8 * MIB, lambda: core(a))
        c.kill()
        for task in tasks:
            error = await told(task)
            assert error.reason is qg.Reason.UNREACHABLE
        await freed(a, before)


async def test_the_relay_dies_and_both_ends_are_told():
    async with trial() as nodes:
        a, c = await nodes.node(), await nodes.node()
        before = core(a), core(c)
        relay = {"allow": [str(a.id)], "targets": ["127.0.0.0/8"], "ports": [c.address.port]}
        async with Child(relay=relay) as b:
            peer = await a.connect(c.address, via=[b.address])
            tasks = await busy(peer)
            await until(lambda: c.services.drain.n_bytes > 8 * MIB, lambda: c.services.drain.n_bytes)
            b.kill()
            for task in tasks:
                error = await told(task)
                assert error.reason is qg.Reason.UNREACHABLE
            error = await c.services.drain.ends.get()
            assert isinstance(error, qg.RemoteError)
            assert error.reason is qg.Reason.UNREACHABLE
            c.services.held.release.set()
            await freed(a, before[0])
            await freed(c, before[1])


async def test_the_source_dies_and_relay_and_target_go_on():
    async with trial() as nodes:
        c = await nodes.node()
        async with Child() as a:
            b = await nodes.relay(a, to=[c.address])
            before = core(b), core(c)
            await a.ask("flood", to=str(c.address), via=[str(b.address)])
            await until(lambda: c.services.drain.n_bytes > 8 * MIB, lambda: c.services.drain.n_bytes)
            a.kill()
            error = await c.services.drain.ends.get()
            assert isinstance(error, qg.RemoteError)
            assert error.reason is qg.Reason.UNREACHABLE
            await until(lambda: core(b)["n_circuits"] == 0, lambda: core(b))
            await freed(b, one_link(before[0]))
            await freed(c, one_link(before[1]))
            await until(lambda: core(b)["n_blocks"] == 0, lambda: core(b))
