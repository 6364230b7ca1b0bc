# SPDX-License-Identifier: MIT
"""What is driven over its limit: of the machine, of one session, of the node; counted, and said in the status."""

import asyncio
import socket

import pytest
from api.services import Held, Mailbox
from model import frames
from net.child import Child
from net.live import talk
from net.support import MIB, config, faults, trial, until

import qg

pytestmark = [pytest.mark.anyio, pytest.mark.net]


async def test_accept_out_of_descriptors_pauses_counts_and_recovers():
    async with trial() as nodes, Child() as c:
        a = await nodes.node()
        peer = await a.connect(c.address)
        await c.ask("starve", n_spare=3)
        crowd = []
        try:
            for _ in range(20):
                sock = socket.create_connection(("127.0.0.1", c.address.port))
                crowd.append(sock)
            # It pauses, and tries four times a second, not as often as it can.
            for n_errors in (1, 2, 3):
                while (status := await c.ask("status"))["counters"].get("accept_errors", 0) < n_errors:
                    await asyncio.sleep(0.01)
            assert status["core"]["loop_cpu_ns"] < 200_000_000
            await peer.ping()  # who is connected is served
        finally:
            for sock in crowd:
                sock.close()
        for _ in range(3):
            async with qg.Node(qg.Identity.generate()) as other:
                await (await other.connect(c.address)).ping()
        assert await c.end() == (0, "")


async def test_a_port_in_use_is_said_and_leaves_nothing_behind():
    async with trial() as nodes:
        a = await nodes.node()
        endpoint = f"tcp://127.0.0.1:{a.address.port}"
        node = qg.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0", endpoint])
        with pytest.raises(qg.ListenError, match=f"127.0.0.1:{a.address.port} .*in use"):
            await node.start()


async def test_streams_beyond_those_that_may_be_open_are_refused():
    async with talk("model", config=config(limits={"service_streams": 3})) as t:
        streams = [t.peer.stream_open(frames.KIND_BYTES, bytes(Held.id)) for _ in range(5)]
        await t.model.until(lambda: sum(stream.is_closed for stream in streams) == 2)
        assert [frames.REASONS[stream.reset_reason] for stream in streams[3:]] == ["limit"] * 2
        assert faults(t.node) == {"streams_full": 2}


async def test_a_stream_that_brings_more_than_it_may_is_counted():
    async with talk("model") as t:
        stream = t.peer.stream_open(frames.KIND_BYTES, bytes(Held.id))
        for _ in range(3):
            t.peer.frame_send(frames.Data(stream.id, bytes(8000)))
        await t.model.until(lambda: stream.is_closed)
        assert frames.REASONS[stream.reset_reason] == "protocol"
        assert faults(t.node) == {"streams_overrun": 1}


async def test_pipes_beyond_those_of_one_link_are_refused():
    async with talk("model", config=config(limits={"pipes_per_link": 2})) as t:
        pipes = [t.peer.stream_open(frames.KIND_PIPE, b"\x08") for _ in range(4)]
        await t.model.until(lambda: sum(pipe.is_closed for pipe in pipes) == 2)
        assert [frames.REASONS[pipe.reset_reason] for pipe in pipes[2:]] == ["limit"] * 2
        assert faults(t.node) == {"streams_full": 2}


async def test_a_message_longer_than_may_come_is_refused():
    async with talk("model", config=config(limits={"message_max_kib": 64})) as t:
        stream = t.peer.stream_open(frames.KIND_MESSAGES, bytes(Mailbox.id))
        t.peer.stream_write(stream, frames.varint_build(65537) + bytes(100))
        await t.model.until(lambda: stream.is_closed)
        assert frames.REASONS[stream.reset_reason] == "limit"
        assert faults(t.node) == {"messages_refused": 1}


async def test_a_node_that_holds_much_unread_withholds_credit_and_says_so():
    """One peer fills what the node may hold; another one gets no more credit while any of its bytes are unread."""
    async with (
        talk("model", config=config(limits={"receive_credit_mib": 1})) as t,
        qg.Node(qg.Identity.generate(), config=config()) as other,
    ):
        assert t.node.status().overload == ()
        streams = [t.peer.stream_open(frames.KIND_BYTES, bytes(Held.id)) for _ in range(20)]
        for stream in streams:
            t.peer.stream_write(stream, bytes(2 * 65536))
            t.peer.stream_finish(stream)
        await t.model.until(lambda: t.peer.session_sent >= MIB)
        held = [await t.held() for _ in streams]
        await until(lambda: t.node.status().overload == ("limits.receive_credit_mib",), t.node.status)
        peer = await other.connect(t.node.address)
        for n_read in (0, *[65536] * 15):  # as much as each may send without credit; together what their session may
            stream = await peer.open_stream(Held.id)
            await stream.write(bytes(65536))
            held.append(await t.held())
            await held[-1].readexactly(n_read)
        await until(lambda: faults(t.node).get("credit_withheld", 0) >= 1, lambda: faults(t.node))
        readers = [asyncio.create_task(stream.read()) for stream in held[: len(streams)]]
        await t.model.until(lambda: all(stream.fin_sent for stream in streams))
        assert {await reader for reader in readers} == {bytes(2 * 65536)}
