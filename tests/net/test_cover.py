# SPDX-License-Identifier: MIT
"""Cover traffic on real connections: what leaves is as much each time, and what is said comes whole."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from api.services import Echo
from looks.lines import say
from looks.tap import Tap

import qg
from qg.testing import conserved

pytestmark = [pytest.mark.anyio, pytest.mark.net]

SIZE = 1000
COVER = qg.CoverConfig(mode="poisson", rate_per_s=200, size=SIZE)


@asynccontextmanager
async def covered():
    """Two nodes, of which the first one listens."""
    config = qg.Config(cover=COVER)
    async with (
        conserved() as nodes,
        qg.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0"], config=config, extenders=[Echo()]) as there,
        qg.Node(qg.Identity.generate(), config=config, extenders=[Echo()]) as here,
    ):
        nodes += [there, here]
        yield there, here


async def test_a_line_carries_turns_of_one_size_whether_something_is_said_or_not():
    async with covered() as (there, here):
        tap = await Tap.start(there.addresses[0].port, 1)
        peer = await here.connect(qg.Address(there.addresses[0].link_key, "127.0.0.1", tap.ports[0]))
        stream = await peer.open_stream(Echo.id)
        for length in (1, 700, 40_000):
            assert await say(stream, 0, bytes(range(256)) * (length // 256 + 1))
        await asyncio.sleep(0.3)
        [(out, back)] = await tap.end()
    for record in (out, back):
        turns = [length for _, length in record][3:]  # behind the handshake
        assert sum(turns) > 60 * SIZE
        whole = sum(length for length in turns if length % SIZE == 0)  # a slow tap reads several at once
        assert whole > 0.9 * sum(turns)


async def test_links_that_are_under_cover_close_on_both_sides():
    async with covered() as (there, here):
        peer = await here.connect(there.address)
        stream = await peer.open_stream(Echo.id)
        await peer.close()
        with pytest.raises(qg.QGError):
            await say(stream, 0, b"anybody?")
