# SPDX-License-Identifier: MIT
"""A machine that gives no more: descriptors, ports."""

import asyncio
import socket

import pytest
from net.child import Child
from net.support import trial

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
