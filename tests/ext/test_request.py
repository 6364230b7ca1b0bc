# SPDX-License-Identifier: MIT
"""Requests: one reply each, whatever becomes of the peer, its extender, or whoever asks."""

import asyncio
import os

import pytest

import qg
from qg.testing import network

pytestmark = [pytest.mark.anyio, pytest.mark.net]


class Reverse(qg.Extender):
    """Answer with the payload the other way round."""

    id = qg.ExtenderId("c9a0c3de-3b0e-4a39-9a55-1d1e5a4b7a01")

    async def on_request(self, peer, payload):
        return payload[::-1]


class Holding(qg.Extender):
    """Hold each request until the test lets it go, and note how it ends."""

    id = qg.ExtenderId("c9a0c3de-3b0e-4a39-9a55-1d1e5a4b7a02")

    def __init__(self):
        self.came = asyncio.Queue()
        self.ended = asyncio.Queue()
        self.gates = {}

    async def on_request(self, peer, payload):
        gate = self.gates.setdefault(payload, asyncio.Event())
        self.came.put_nowait(payload)
        try:
            await gate.wait()
        except asyncio.CancelledError:
            self.ended.put_nowait("cancelled")
            raise
        return b"reply to " + payload


class Failing(qg.Extender):
    """Answer with what cannot be sent."""

    id = qg.ExtenderId("c9a0c3de-3b0e-4a39-9a55-1d1e5a4b7a03")

    async def on_request(self, peer, payload):
        if payload == b"raise":
            raise ZeroDivisionError("planted in on_request")
        return bytes(2 << 20) if payload == b"long" else None


class Mute(qg.Extender):
    """Serve streams and messages, no requests."""

    id = qg.ExtenderId("c9a0c3de-3b0e-4a39-9a55-1d1e5a4b7a04")

    async def on_message(self, peer, message):
        pass


@pytest.mark.parametrize("n", [0, 1, 1_000, 16_383, 70_000, 1 << 20])
async def test_the_reply_to_a_payload_of_any_length_comes_back(n):
    payload = os.urandom(n)
    async with network(extenders=lambda: [Reverse()]) as net:
        assert await net.peer(0, 1).request(Reverse.id, payload) == payload[::-1]
        assert await net.peer(0, 1).request(Reverse.id, bytearray(payload)) == payload[::-1]


async def test_many_requests_of_both_sides_are_under_way_at_once():
    async with network(extenders=lambda: [Reverse()]) as net:
        there, back = net.peer(0, 1), net.peer(1, 0)
        payloads = [os.urandom(n) for n in range(300)]
        asked = [(there, back)[n % 2].request(Reverse.id, payload) for n, payload in enumerate(payloads)]
        assert await asyncio.gather(*asked) == [payload[::-1] for payload in payloads]


async def test_replies_come_in_the_order_in_which_they_are_ready():
    holding = Holding()
    async with network(extenders=lambda: [holding]) as net, asyncio.TaskGroup() as group:
        first = group.create_task(net.peer(0, 1).request(Holding.id, b"1"))
        second = group.create_task(net.peer(0, 1).request(Holding.id, b"2"))
        await holding.came.get(), await holding.came.get()
        holding.gates[b"2"].set()
        assert await second == b"reply to 2"
        assert not first.done()
        holding.gates[b"1"].set()
        assert await first == b"reply to 1"


@pytest.mark.parametrize("extender_id", [Mute.id, Holding.id])
async def test_a_peer_that_answers_no_requests_is_told_apart(extender_id):
    async with network(extenders=lambda: [Mute()]) as net:
        with pytest.raises(qg.Unsupported):
            await net.peer(0, 1).request(extender_id, b"anybody?")


async def test_messages_do_not_reach_an_extender_that_only_answers_requests():
    async with network(extenders=lambda: [Reverse()]) as net:
        peer = net.peer(0, 1)
        await peer.send(Reverse.id, b"message")
        with pytest.raises(qg.Unsupported):
            while True:
                await peer.send(Reverse.id, b"another")
                await asyncio.sleep(0)


@pytest.mark.parametrize("payload", [b"raise", b"long", b"none"])
async def test_a_handler_that_fails_is_named_as_the_cause(payload, caplog):
    async with network(extenders=lambda: [Failing(), Reverse()]) as net:
        with pytest.raises(qg.RemoteError, match="on_request raised"):
            await net.peer(0, 1).request(Failing.id, payload)
        assert "on_request_failed extender=Failing" in caplog.text
        assert await net.peer(0, 1).request(Reverse.id, b"ab") == b"ba"


async def test_a_request_without_a_reply_in_time_raises_and_is_cancelled_at_the_peer():
    holding = Holding()
    async with network(extenders=lambda: [holding]) as net:
        with pytest.raises(qg.PeerTimeout, match=r"within 0\.05 s"):
            await net.peer(0, 1).request(Holding.id, b"?", timeout_s=0.05)
        assert await holding.ended.get() == "cancelled"


async def test_a_cancelled_request_is_cancelled_at_the_peer():
    holding = Holding()
    async with network(extenders=lambda: [holding]) as net:
        task = asyncio.create_task(net.peer(0, 1).request(Holding.id, b"?"))
        await holding.came.get()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await holding.ended.get() == "cancelled"


async def test_a_peer_that_goes_ends_the_requests_of_both_sides():
    holding = Holding()
    async with network(extenders=lambda: [holding]) as net:
        task = asyncio.create_task(net.peer(0, 1).request(Holding.id, b"?"))
        await holding.came.get()
        await net.peer(1, 0).close()
        with pytest.raises(qg.RemoteError):
            await task
        assert await holding.ended.get() == "cancelled"


async def test_a_node_that_closes_cancels_what_it_works_on():
    holding = Holding()
    async with network(extenders=lambda: [holding]) as net:
        task = asyncio.create_task(net.peer(0, 1).request(Holding.id, b"?"))
        await holding.came.get()
        await net.nodes[1].close()
        with pytest.raises(qg.PeerClosed):
            await task


async def test_a_payload_that_is_too_long_is_not_sent():
    async with network(extenders=lambda: [Reverse()]) as net:
        with pytest.raises(qg.InvalidValue, match="message_max_kib"):
            await net.peer(0, 1).request(Reverse.id, bytes((1 << 20) + 1))


async def test_requests_that_wait_for_replies_take_no_more_than_their_share_of_memory():
    holding = Holding()
    config = qg.Config.from_dict({"limits": {"receive_credit_mib": 16}})
    async with network(extenders=lambda: [holding], config=config) as net:
        asked = [
            asyncio.create_task(net.peer(0, 1).request(Holding.id, bytes([n]) + bytes((1 << 20) - 100)))
            for n in range(12)
        ]
        with pytest.raises(qg.Busy):
            for next_done in asyncio.as_completed(asked):
                await next_done
        for gate in holding.gates.values():
            gate.set()
        n_answered = 0
        while n_answered < 12:
            done = [task for task in asked if task.done()]
            for gate in holding.gates.values():
                gate.set()
            n_answered = len(done)
            await asyncio.sleep(0.01)
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(result, bytes | qg.Busy) for result in results)
        assert sum(isinstance(result, bytes) for result in results) >= 6
