# SPDX-License-Identifier: MIT
"""Somebody on the way changes, drops, repeats or cuts the records of a session: the end of it, and no wrong byte."""

import asyncio

import pytest
from net.proxy import DOWN, UP, Proxy, bit_flipper
from net.support import Drain, Echo, Held, core, faults, trial, until, write_forever

import qg

pytestmark = [pytest.mark.anyio, pytest.mark.net]

SUITES = {
    "aegis-256": [],
    "aes-256-gcm": ["aegis-256"],
    "chacha20-poly1305": ["aegis-256", "aes-256-gcm"],
}


# Whoever gets a bad record reads on for a while, up to 10 s, and says nothing; the other side need not wait so long.
QUICK = {"dead_peer_s": 1}


async def told(work):
    with pytest.raises(qg.RemoteError) as caught:
        await work
    return caught.value


@pytest.fixture(params=SUITES)
def suite(request):
    return request.param


async def linked(nodes, suite):
    """Two nodes with a proxy between them, and a stream whose far end nobody reads."""
    a, c = [await nodes.node(link=QUICK | {"suites_removed": SUITES[suite]}) for _ in range(2)]
    proxy = await nodes.enter(Proxy(c.address))
    peer = await a.connect(proxy.address)
    if peer.suite != suite:
        pytest.skip(f"this machine has no {suite}")
    return c, proxy, peer


@pytest.mark.parametrize("bit", [0, 15, 16, 8 * 40], ids=lambda bit: f"bit {bit}")
async def test_a_flipped_bit_in_a_record_ends_the_session(suite, bit):
    """In its length, in its first byte, in its middle."""
    async with trial() as nodes:
        c, proxy, peer = await linked(nodes, suite)
        stream = await peer.open_stream(Drain.id)
        n_up, n_down = len(proxy.chunks[UP]), len(proxy.chunks[DOWN])
        proxy.change = bit_flipper(UP, n_up, bit)
        await stream.write(b"changed on the way")
        error = await c.services.drain.ends.get()
        assert isinstance(error, qg.RemoteError)
        assert error.reason in (qg.Reason.PROTOCOL, qg.Reason.TIMEOUT)
        assert c.services.drain.n_bytes == 0
        await told(stream.read(1))
        assert len(proxy.chunks[DOWN]) <= n_down + 1  # PONG of a longer length, if that; no answer to the change


async def test_bulk_with_one_flipped_bit_arrives_whole_up_to_it_and_not_beyond(suite):
    async with trial() as nodes:
        c, proxy, peer = await linked(nodes, suite)
        stream = await peer.open_stream(Echo.id)
        proxy.change = bit_flipper(UP, len(proxy.chunks[UP]) + 20, 8 * 1000)
        sent = asyncio.create_task(write_pattern(stream))
        received = bytearray()
        with pytest.raises(qg.RemoteError):
            async for chunk in stream:
                received += chunk
        error = await told(sent)
        assert error.reason is not qg.Reason.NONE
        assert received == pattern(0, len(received))
        assert faults(c).keys() <= {"bad_envelope", "bad_length"}
        assert sum(faults(c).values()) == 1


def pattern(begin, end):
    """Bytes by their place in a stream."""
    return b"".join(n.to_bytes(8, "big") for n in range(begin // 8, -(-end // 8)))[begin % 8 :][: end - begin]


async def write_pattern(stream):
    off = 0
    while True:
        await stream.write(pattern(off, off + 65536))
        off += 65536


@pytest.mark.parametrize("what", ["dropped", "repeated", "swapped", "cut"])
async def test_records_that_are_dropped_repeated_or_out_of_order_end_the_session(what):
    async with trial() as nodes:
        c, proxy, peer = await linked(nodes, "aegis-256")
        stream = await peer.open_stream(Held.id)
        far = await c.services.held.streams.get()
        first = len(proxy.chunks[UP])
        held = []

        def change(direction, idx, data):
            if direction != UP or idx != first + 1:
                return data + b"".join(held) if direction == UP and idx == first + 2 else data
            if what == "swapped":
                held.append(data)
            return {"dropped": b"", "repeated": data * 2, "swapped": b"", "cut": data[:-1]}[what]

        proxy.change = change
        for n in range(3):
            await stream.write(b"%d" % n)
            await proxy.passed(UP, first + n + 1)
        await told(far.readexactly(4))
        await told(stream.read(1))
        c.services.held.release.set()


async def test_a_cut_connection_is_told_at_both_ends_at_once():
    async with trial() as nodes:
        c, proxy, peer = await linked(nodes, "aegis-256")
        stream = await peer.open_stream(Drain.id)
        flood = asyncio.create_task(write_forever(stream))
        await until(lambda: c.services.drain.n_bytes, lambda: core(c))
        proxy.cut()
        assert (await told(flood)).reason is qg.Reason.UNREACHABLE
        assert (await c.services.drain.ends.get()).reason is qg.Reason.UNREACHABLE


@pytest.mark.parametrize("where", ["near", "far"])
@pytest.mark.parametrize("direction", [UP, DOWN])
async def test_a_flipped_bit_on_the_way_to_or_from_a_relay_ends_the_circuit(where, direction):
    async with trial() as nodes:
        a, c = await nodes.node(link=QUICK), await nodes.node(link=QUICK)
        if where == "far":
            proxy = await nodes.enter(Proxy(c.address))
            b = await nodes.relay(a, to=[proxy.address], link=QUICK)
            peer = await a.connect(proxy.address, via=[b.address])
        else:
            b = await nodes.relay(a, to=[c.address], link=QUICK)
            proxy = await nodes.enter(Proxy(b.address))
            peer = await a.connect(c.address, via=[proxy.address])
        stream = await peer.open_stream(Echo.id)
        proxy.change = bit_flipper(direction, len(proxy.chunks[direction]) + 10, 8 * 500)
        sent = asyncio.create_task(write_pattern(stream))
        received = bytearray()
        with pytest.raises(qg.RemoteError):
            async for chunk in stream:
                received += chunk
        assert received == pattern(0, len(received))
        await told(sent)
        await until(lambda: core(b)["n_circuits"] == 0, lambda: core(b))
