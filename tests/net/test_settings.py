# SPDX-License-Identifier: MIT
"""Every limit that a node's configuration names: driven over, and counted by its name."""

import asyncio
import dataclasses
import socket
import time

import pytest
from model import frames
from net.flights import first_flight
from net.live import Model, talk
from net.support import config, core, faults, target, until

import qg

pytestmark = [pytest.mark.anyio, pytest.mark.net]

RATED = {"exempt": []}  # this machine is an address like any other


async def answered(to, n):
    """How many of n first flights are answered; the friend of the target had one handshake before."""
    strangers = await to.tell(*(first_flight(to.node) for _ in range(n)))
    await until(lambda: sum(core(to.node)["guard_counts"][4:9]) == n + 1, lambda: core(to.node))
    await to.settled()
    return sum(stranger.answer() is not None for stranger in strangers)


async def test_handshakes_of_one_address_have_a_burst():
    async with target(limits=RATED | {"handshakes_per_s": 1, "handshakes_burst": 4}) as to:
        assert await answered(to, 6) == 3
        assert faults(to.node) == {"refused_address_rate": 3, "over_rate": 3}


async def test_handshakes_of_one_network_have_a_burst():
    async with target(limits=RATED | {"network_handshakes_per_s": 1, "network_handshakes_burst": 3}) as to:
        assert await answered(to, 6) == 2
        assert faults(to.node) == {"refused_network_rate": 4, "over_rate": 4}


@pytest.mark.parametrize("setting", ["head_s", "flight_s"])
async def test_who_is_slow_with_the_first_bytes_or_the_first_flight_goes_to_the_sink(setting):
    async with target(limits={setting: 1}) as to:
        (stranger,) = await to.tell(first_flight(to.node)[: 79 if setting == "head_s" else 81])
        await until(lambda: core(to.node)["n_sinks"] == 1, lambda: core(to.node))
        assert core(to.node)["n_half_open"] == 0
        assert stranger.answer() is None


async def test_a_sink_shuts_after_the_time_that_is_set():
    async with target(limits={"sink_min_s": 1, "sink_max_s": 1}) as to:
        (stranger,) = await to.tell(bytes(80))
        await until(lambda: core(to.node)["n_sinks"] == 1, lambda: core(to.node))
        assert await stranger.receive_all() == b""


async def test_a_record_that_does_not_end_ends_its_session():
    async with talk("model", config=config(limits={"slow_record_s": 1})) as t:
        t.peer.ping(bytes(8))
        t.link.sock.send(b"".join(t.peer.output())[:-1])
        await t.model.until(lambda: t.link.is_at_eof)
        assert not t.far.is_connected


async def test_control_frames_have_a_rate():
    async with talk("model", config=config(limits={"control_frames_per_s": 10})) as t:
        for _ in range(11):
            t.peer.ping(bytes(8))
        await t.model.until(lambda: t.peer.end)
        assert frames.REASONS[t.peer.end_reason] == "protocol"
        assert faults(t.node) == {"over_rate": 1}


async def test_pipes_of_one_link_have_a_burst():
    async with talk("model", config=config(limits={"pipes_per_s": 1, "pipes_burst": 2})) as t:
        pipes = [t.peer.stream_open(frames.KIND_PIPE, b"\x08") for _ in range(4)]
        await t.model.until(lambda: sum(pipe.is_closed for pipe in pipes) == 2)
        assert [frames.REASONS[pipe.reset_reason] for pipe in pipes[2:]] == ["limit", "limit"]
        assert faults(t.node) == {"pipes_rate": 2}


@pytest.mark.parametrize("offset_s", [-90, 0, 90])
async def test_a_node_knows_how_far_its_clock_is_off_from_those_whom_it_dialled(offset_s):
    async with Model() as model, qg.Node(qg.Identity.generate()) as node:
        assert node.status().clock_skew_s is None
        model.party = dataclasses.replace(model.party, clock_s=lambda: int(time.time()) + offset_s)
        await node.connect(model.listen())
        assert abs(node.status().clock_skew_s - offset_s) <= 2


async def test_a_dial_that_is_given_up_does_not_linger():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with qg.Node(qg.Identity.generate()) as node:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await node.connect(f"qg://{qg.Identity.generate().link_key}@127.0.0.1:{silent.getsockname()[1]}")
            await until(lambda: core(node)["n_conns"] == 0, lambda: core(node))
            assert core(node)["n_lingering"] == 0
