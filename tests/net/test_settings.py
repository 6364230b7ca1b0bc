# SPDX-License-Identifier: MIT
"""Every limit that a node's configuration names: driven over, and counted by its name."""

import asyncio
import dataclasses
import socket
import time
from contextlib import suppress

import pytest
from api.services import Echo
from model import frames
from model.envelope import KIND_XK1
from model.peer import layer_dial
from net.flights import first_flight
from net.live import Model, talk
from net.support import config, core, faults, target, trial, until

import qg

pytestmark = [pytest.mark.anyio, pytest.mark.net]

# This machine is an address like any other, and however slow it is.
RATED = {"exempt": [], "handshake_cpu_ms": 100}


async def answered(to, n):
    """How many of n first flights are answered; the friend of the target had one handshake before."""
    strangers = await to.tell(*(first_flight(to.node) for _ in range(n)))
    await until(
        lambda: sum(core(to.node)["guard_counts"][4:9]) + core(to.node)["guard_counts"][20] == n + 1,
        lambda: core(to.node),
    )
    await to.settled()
    return sum(stranger.answer() is not None for stranger in strangers)


async def burst_check(limits, burst, refusal):
    """Of six flights as many are answered as the friend left of the burst, and as came again since: one a second."""
    began_s = time.monotonic()
    async with target(limits=limits) as to:
        n = await answered(to, 6)
        assert burst - 1 <= n <= burst - 1 + time.monotonic() - began_s
        assert faults(to.node) == ({refusal: 6 - n, "over_rate": 6 - n} if n < 6 else {})


async def test_handshakes_of_one_address_have_a_burst():
    await burst_check(RATED | {"handshakes_per_s": 1, "handshakes_burst": 4}, 4, "refused_address_rate")


async def test_a_network_that_is_exempt_has_no_rates_and_the_rest_of_this_machine_has():
    rates = RATED | {"handshakes_per_s": 1, "handshakes_burst": 4}
    async with target(limits=rates | {"exempt": ["127.0.0.1/32"]}) as to:
        assert await answered(to, 6) == 6
    await burst_check(rates | {"exempt": ["127.0.0.2/32", "::1/128"]}, 4, "refused_address_rate")


async def test_handshakes_of_one_network_have_a_burst():
    await burst_check(RATED | {"network_handshakes_per_s": 1, "network_handshakes_burst": 3}, 3, "refused_network_rate")


@pytest.mark.parametrize("setting", ["head_s", "flight_s"])
async def test_who_is_slow_with_the_first_bytes_or_the_first_flight_goes_to_the_sink(setting):
    async with target(limits={setting: 1}) as to:
        (stranger,) = await to.tell(first_flight(to.node)[: 79 if setting == "head_s" else 81])
        await until(lambda: core(to.node)["n_sinks"] == 1, lambda: core(to.node))
        assert core(to.node)["n_half_open"] == 0
        assert stranger.answer() is None
        assert faults(to.node) == {"slow_handshakes": 1}


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
        await until(lambda: not t.far.is_connected, t.node.status)
        assert faults(t.node) == {"slow_records": 1}


async def test_control_frames_have_a_rate():
    async with talk("model", config=config(limits={"control_frames_per_s": 10})) as t:
        for _ in range(11):
            t.peer.ping(bytes(8))
        await t.model.until(lambda: t.peer.end)
        assert frames.REASONS[t.peer.end_reason] == "protocol"
        assert faults(t.node) == {"over_rate": 1}


async def test_bytes_that_wait_for_a_rate_arrive_whole():
    rates = {"node_kib_s": 8192, "node_burst_kib": 64, "neighbour_kib_s": 8192, "neighbour_burst_kib": 64}
    relay = {"rate_kib_s": 4096, "burst_kib": 64, "neighbour_rate_kib_s": 4096, "neighbour_burst_kib": 64}
    async with trial() as nodes:
        a, c = await nodes.node(), await nodes.node()
        b = await nodes.relay(a, to=[c.address], rates=rates, relay=relay)
        far = await a.connect(c.address, via=[b.address])
        async with await far.open_stream(Echo.id) as stream, asyncio.TaskGroup() as group:
            group.create_task(stream.write(bytes(2_000_000)))
            assert await stream.readexactly(2_000_000) == bytes(2_000_000)
        assert core(b)["n_relay_memory_resets"] == 0
        await far.close()


async def test_pipes_of_one_link_have_a_burst():
    async with talk("model", config=config(limits={"pipes_per_s": 1, "pipes_burst": 2})) as t:
        pipes = [t.peer.stream_open(frames.KIND_PIPE, b"\x08") for _ in range(4)]
        await t.model.until(lambda: sum(pipe.is_closed for pipe in pipes) == 2)
        assert [frames.REASONS[pipe.reset_reason] for pipe in pipes[2:]] == ["limit", "limit"]
        assert faults(t.node) == {"pipes_rate": 2}


async def test_pipes_of_the_node_are_bounded():
    async with talk("model", config=config(limits={"pipes": 2})) as t:
        pipes = [t.peer.stream_open(frames.KIND_PIPE, b"\x08") for _ in range(4)]
        await t.model.until(lambda: sum(pipe.is_closed for pipe in pipes) == 2)
        assert [frames.REASONS[pipe.reset_reason] for pipe in pipes[2:]] == ["limit", "limit"]
        assert faults(t.node) == {"pipes_full": 2}
        t.peer.stream_reset(pipes[0], 0)
        again = t.peer.stream_open(frames.KIND_PIPE, b"\x08")
        await t.model.until(lambda: again.is_accepted)


async def test_sessions_over_pipes_are_bounded_per_peer():
    async with talk("model", config=config(limits={"peer_pipe_sessions": 2})) as t:

        def session():
            pipe = t.peer.stream_open(frames.KIND_PIPE, b"\x08")
            where = bytes(t.node.address.link_key), bytes(t.node.id)
            return pipe, layer_dial(t.model.party, t.peer, pipe, *where, KIND_XK1)

        first, _ = [await t.model.connected(session()[1]) for _ in range(2)]
        pipe, _ = session()
        await t.model.until(lambda: pipe.is_closed)
        assert frames.REASONS[pipe.reset_reason] == "refused"
        assert faults(t.node) == {"peer_sessions_full": 1, "full": 1}
        first.close()
        await t.model.until(lambda: core(t.node)["n_sessions"] == 2)
        await t.model.connected(session()[1])


async def test_new_streams_are_refused_above_their_rate_and_then_the_session_closes():
    async with talk("model", config=config(limits={"service_streams_per_s": 5})) as t:
        streams = [t.peer.stream_open(frames.KIND_BYTES, bytes(Echo.id)) for _ in range(8)]
        await t.model.until(lambda: sum(stream.is_closed for stream in streams) == 3)
        assert [frames.REASONS[stream.reset_reason] for stream in streams[5:]] == ["limit"] * 3
        assert faults(t.node) == {"streams_rate": 3}
        for _ in range(20):
            t.peer.stream_open(frames.KIND_BYTES, bytes(Echo.id))
        await t.model.until(lambda: t.peer.end)
        assert frames.REASONS[t.peer.end_reason] == "limit"
        assert faults(t.node)["over_rate"] == 1


async def test_who_opens_many_streams_or_pings_much_keeps_to_the_rates():
    slow = {"service_streams_per_s": 20, "control_frames_per_s": 25}
    async with trial() as nodes:
        near, far = await nodes.node(limits=slow), await nodes.node(limits=slow)
        peer = await far.connect(near.address)
        for _ in range(30):
            await peer.ping()
        for _ in range(15):
            (await peer.open_stream(Echo.id)).reset()
        streams = await asyncio.gather(*(peer.open_stream(Echo.id) for _ in range(15)))
        for stream in streams:
            await stream.close()
        assert not faults(near)
        assert peer.is_connected


async def test_thousands_of_streams_in_a_second_are_nothing_special():
    async with trial() as nodes:
        near, far = await nodes.node(), await nodes.node()
        peer = await far.connect(near.address)
        for _ in range(5):
            for stream in await asyncio.gather(*(peer.open_stream(Echo.id) for _ in range(500))):
                stream.reset()
        assert not faults(near)


async def test_handshakes_that_take_too_much_of_the_processor_are_refused_and_nobody_is_blamed():
    async with target(
        limits=RATED
        | {"handshake_cpu_ms": 1, "handshakes_burst": 100, "network_handshakes_burst": 100, "accepts_burst": 100}
    ) as to:
        assert await answered(to, 60) < 60
        n = faults(to.node)["refused_cpu"]
        assert faults(to.node) == {"refused_cpu": n, "full": n}
        assert core(to.node)["handshake_cpu_ns"] > 0
        async with qg.Node(qg.Identity.generate()) as node:
            while not node.peers:
                with suppress(TimeoutError):
                    await asyncio.wait_for(node.connect(to.node.address), 1)


async def test_handshakes_of_the_node_have_a_rate_and_nobody_is_blamed():
    began_s = time.monotonic()
    async with target(limits=RATED | {"node_handshakes_per_s": 2}) as to:
        n = 12 - await answered(to, 12)
        assert 11 - 2 * (time.monotonic() - began_s) <= n + 1 <= 12  # the friend had one of the first two
        assert faults(to.node) == ({"refused_node_rate": n, "full": n} if n else {})  # and no refused_score


async def test_a_full_node_looks_to_strangers_like_any_other():
    async with target(limits={"sessions": 1}) as to:
        silent, spoken = await to.tell(bytes(200), first_flight(to.node))
        assert await spoken.receive()
        await until(lambda: core(to.node)["n_sinks"] == 1, lambda: core(to.node))
        assert silent.answer() is None
        async with qg.Node(qg.Identity.generate(), config=config(limits={"handshake_s": 1})) as node:
            with pytest.raises(qg.PeerTimeout):
                await node.connect(to.node.address)
        await to.heard(bad_envelope=1, sessions_full=1, full=1)


async def test_who_connects_too_often_meets_silence_while_sinks_are_free_and_fin_without_them():
    async with target(limits=RATED | {"accepts_per_s": 1, "accepts_burst": 2, "sinks": 2}) as to:
        strangers, answers = [], []
        while answers[-2:] != [b"", b""]:  # one more a second is let in, if this machine is so slow
            strangers.append(await to.dial())
            await until(lambda: core(to.node)["n_accepted"] == 1 + len(strangers), lambda: core(to.node))
            await to.settled()
            answers = [stranger.answer() for stranger in strangers]
        assert core(to.node)["n_sinks"] == 2
        assert answers[:3] == [None, None, None]
        assert set(answers) == {None, b""}
        assert faults(to.node)["refused_accept_rate"] >= 2


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
