# SPDX-License-Identifier: MIT
"""Circuits over three relays between five machines: packets that are late or lost, and a link that is cut."""

import asyncio

import pytest
from net.internet import internet, why_not

REASON = why_not()
pytestmark = [pytest.mark.anyio, pytest.mark.net, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

DEAD_PEER_S = 2
N_BYTES = 300_000


def path_of(guests):
    source, *relays, target = guests
    return source, {"to": str(target.address), "via": [str(relay.address) for relay in relays]}


@pytest.mark.parametrize(("delay_s", "loss"), [(0.02, 0), (0.005, 0.02)])
async def test_circuits_survive_delay_and_loss(delay_s, loss):
    async with internet(5, delay_s=delay_s, loss=loss) as (router, guests):
        source, path = path_of(guests)
        assert await source.ask("echo", **path, n_bytes=N_BYTES) == {"is_same": True}
        assert (router.n_lost > 0) == (loss > 0)
        circuits = [(await guest.ask("status"))["core"]["n_circuits"] for guest in guests]
        assert circuits == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("link_idx", range(4))
async def test_a_cut_link_ends_in_a_typed_error_at_the_source(link_idx):
    async with internet(5, delay_s=0.002, loss=0, link={"dead_peer_s": DEAD_PEER_S}) as (router, guests):
        source, path = path_of(guests)
        await source.ask("flood", **path)
        while (await guests[-1].ask("drained"))["n_bytes"] < N_BYTES:
            await asyncio.sleep(0.05)
        router.cut(guests[link_idx].ip, guests[link_idx + 1].ip)
        async with asyncio.timeout(DEAD_PEER_S + 5):  # the rest is for a busy machine
            ended = await source.ask("flooded")
        assert ended["error"] in ("PeerTimeout", "Unreachable"), ended
