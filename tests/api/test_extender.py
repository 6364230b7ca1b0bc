# SPDX-License-Identifier: MIT
"""Extenders: what operators see of them, how they begin and end, and what becomes of those that fail."""

from collections import Counter

import pytest
from api.services import Broken, Echo, Guests

import qg
from qg.cli.status import _lines
from qg.control import status_object
from qg.metrics import metrics_text
from qg.testing import network

pytestmark = [pytest.mark.anyio, pytest.mark.net]


class Counting(Echo):
    """Count its streams."""

    name = "counting"
    version = "1.2"

    def __init__(self):
        self.counts = Counter()

    async def on_stream(self, stream):
        self.counts["streams"] += 1
        await super().on_stream(stream)


async def echoed(peer, service=Echo.id):
    async with await peer.open_stream(service) as stream:
        await stream.write(b"x")
        assert await stream.readexactly(1) == b"x"


# What operators see


async def test_what_a_service_is_and_counts_stands_in_the_status_and_the_figures():
    async with network(extenders=lambda: [Counting(), Broken()]) as net:
        await echoed(net.peer(0, 1))
        status = net.nodes[1].status()
    counting, broken = (info for info in status.extenders if info.extender_id in (Echo.id, Broken.id))
    assert (counting.extender_id, counting.name, counting.version) == (Echo.id, "counting", "1.2")
    assert (counting.counts, counting.n_failures) == ({"streams": 1}, 0)
    assert (broken.name, broken.version, broken.counts) == ("Broken", "", {})
    assert status_object(status)["extenders"][0]["counts"] == {"streams": 1}
    assert "  counting 1.2: streams 1" in _lines(status_object(status))
    label = f'{{extender="counting",id="{Echo.id}"'
    assert f'qg_extender_count_total{label},what="streams"}} 1' in metrics_text(status)
    assert f"qg_extender_failures_total{label}}} 0" in metrics_text(status)


async def test_what_its_methods_raise_is_counted():
    class Fragile(Guests):
        async def on_peer_connected(self, peer):
            await super().on_peer_connected(peer)
            raise ZeroDivisionError

    fragile = Fragile()
    async with network(extenders=lambda: [Broken(), fragile]) as net:
        with pytest.raises(qg.StreamReset):
            async with await net.peer(0, 1).open_stream(Broken.id) as stream:
                await stream.read()
        await fragile.seen.get()
        status = net.nodes[1].status()
    n_failures = {info.name: info.n_failures for info in status.extenders}
    assert (n_failures["Broken"], n_failures["Fragile"]) == (1, 1)
    assert "  Broken: FAILED 1 times, see the log" in _lines(status_object(status))
