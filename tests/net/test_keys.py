# SPDX-License-Identifier: MIT
"""Keys change in every session of a circuit while bytes cross it (protocol.md 4.5)."""

import asyncio

import pytest
from net.support import Echo, trial

pytestmark = [pytest.mark.anyio, pytest.mark.net]

QUICK = {"epoch_s": 1, "rekey_s": 1}


async def test_keys_change_in_links_and_layers_while_bytes_cross():
    async with trial() as nodes:
        source, target = await nodes.node(link=QUICK), await nodes.node(link=QUICK)
        relay = await nodes.relay(source, to=[target.address], link=QUICK)
        peer = await source.connect(target.address, via=[relay.address])
        stream = await peer.open_stream(Echo.id)

        def has_new_keys():
            return all(link.generation >= 2 for node in (source, relay, target) for link in node.status().links)

        async with asyncio.timeout(60):
            while not has_new_keys():
                await stream.write(bytes(500_000))
                await stream.readexactly(500_000)
        await peer.close()
