# SPDX-License-Identifier: MIT
"""A node that starts anew is not fooled by what was recorded before, and one secret follows another."""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time

import msgspec
import pytest
from net.child import Child
from net.flights import first_flight
from net.support import LISTEN, Stranger, config, core, dial, faults, until

import qg
from qg.testing import conserved

pytestmark = [pytest.mark.anyio, pytest.mark.net]


@contextlib.asynccontextmanager
async def run(identity, mark=None, secret=None, **tables):
    """A node of an identity that is to be run more than once."""
    tables |= {} if mark is None else {"replay_mark": str(mark)}
    node = qg.Node(identity, listen=LISTEN, config=config(**tables), network_secret=secret)
    async with conserved() as nodes, node:
        nodes.append(node)
        yield node


@contextlib.asynccontextmanager
async def together(*tables):
    """Nodes of these settings, all of which have closed before it is looked what is left."""
    async with conserved() as nodes, contextlib.AsyncExitStack() as stack:
        for each in tables:
            node = qg.Node(qg.Identity.generate(), listen=LISTEN, config=config(**each))
            nodes.append(await stack.enter_async_context(node))
        yield nodes


async def is_answered(node, flight):
    """Tell whether a stranger that says this hears something; wait until it is counted when not."""
    n_faults = sum(faults(node).values())
    with await dial(node) as sock:
        await Stranger(sock).send(flight)
        receiving = asyncio.create_task(Stranger(sock).receive())
        counted = asyncio.create_task(until(lambda: sum(faults(node).values()) > n_faults, lambda: faults(node)))
        await asyncio.wait([receiving, counted], return_when=asyncio.FIRST_COMPLETED)
        counted.cancel()
        receiving.cancel()
        await asyncio.wait([receiving, counted])
        return not receiving.cancelled() and receiving.result() != b""


async def test_after_a_clean_stop_a_recorded_flight_is_refused_and_nobody_else(tmp_path):
    identity, mark = qg.Identity.generate(), tmp_path / "mark"
    flights, late = [], None
    for _ in range(3):
        async with run(identity, mark) as node:
            for flight in flights:
                assert not await is_answered(node, flight)
            assert faults(node).get("refused_replay", 0) == len(flights)
            assert core(node)["replay_floor_s"] == 0
            late = late or first_flight(node, clock_s=lambda: int(time.time()) - 60)
            flights.append(first_flight(node))
            assert await is_answered(node, flights[-1])
    async with run(identity, mark) as node:
        assert await is_answered(node, late)  # its clock is behind
    async with run(identity) as node:  # it is the mark that refused them
        assert await is_answered(node, flights[0])


async def test_a_floor_outlives_a_clean_stop(tmp_path):
    identity, mark = qg.Identity.generate(), tmp_path / "mark"
    floor_s = int(time.time()) + 60
    mark.write_bytes(floor_s.to_bytes(8))
    for _ in range(2):
        async with run(identity, mark) as node:
            assert core(node)["replay_floor_s"] == floor_s
            assert not await is_answered(node, first_flight(node))
            assert mark.read_bytes() == floor_s.to_bytes(8)  # as a kill would leave it


CHILD = """
import asyncio, sys, qg
async def main():
    node = qg.Node(qg.Identity.load(sys.argv[1]), listen=["tcp://127.0.0.1:0"],
                   config=qg.Config.from_dict({"replay_mark": sys.argv[2]}))
    async with node:
        print(node.address.port, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_a_recorded_flight_is_refused_after_a_kill(tmp_path):
    identity, key, mark = qg.Identity.generate(), tmp_path / "key", tmp_path / "mark"
    identity.create(key)
    command = [sys.executable, "-c", CHILD, str(key), str(mark)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            port = int(await asyncio.to_thread(child.stdout.readline))
            async with run(identity) as node:  # for its link key
                flight = first_flight(node)
            with contextlib.closing(await dial_port(port)) as sock:
                await Stranger(sock).send(flight)
                assert await Stranger(sock).receive()
        finally:
            child.send_signal(signal.SIGKILL)
    async with run(identity, mark) as node:
        assert core(node)["replay_floor_s"] > time.time()  # the mark lies ahead of what was taken
        assert not await is_answered(node, flight)
        assert not await is_answered(node, first_flight(node))


async def dial_port(port):
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return sock


async def test_two_nodes_do_not_share_a_mark(tmp_path):
    mark = tmp_path / "mark"
    async with run(qg.Identity.generate(), mark):
        with pytest.raises(qg.LocalError, match=r"another node .*mark: .*replay_mark"):
            await qg.Node(qg.Identity.generate(), config=config(replay_mark=str(mark))).start()
    async with run(qg.Identity.generate(), mark):  # free again
        pass


@pytest.mark.parametrize("spoil", ["folder", "link", "pipe", "missing"])
async def test_a_mark_that_cannot_be_kept_is_said_and_leaves_nothing_open(tmp_path, spoil):
    mark = tmp_path / "mark"
    if spoil == "folder":
        mark.mkdir()
    elif spoil == "link":
        mark.symlink_to(tmp_path / "elsewhere")
    elif spoil == "pipe":
        os.mkfifo(mark)
    else:
        mark = tmp_path / "missing" / "mark"
    async with conserved():
        with pytest.raises(qg.LocalError, match=f"replay mark {mark} cannot be kept"):
            await qg.Node(qg.Identity.generate(), config=config(replay_mark=str(mark))).start()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "content", [b"short", bytes(8), bytes(8 + 33), bytes(8 + 32) + b"\xff" * 12, (2**63).to_bytes(8)]
)
async def test_a_mark_that_cannot_be_right_bars_everybody_for_minutes_only(tmp_path, content):
    """A damaged one, and one of a clock that was years ahead."""
    mark = tmp_path / "mark"
    mark.write_bytes(content)
    async with run(qg.Identity.generate(), mark) as node:
        assert not await is_answered(node, first_flight(node))
        assert 120 < core(node)["replay_floor_s"] - time.time() <= 135


async def test_nobody_is_barred_by_a_mark_that_is_new(tmp_path):
    identity, mark = qg.Identity.generate(), tmp_path / "mark"
    for _ in range(2):
        async with run(identity, mark) as node:
            assert core(node)["replay_floor_s"] == 0
            assert mark.stat().st_mode & 0o777 == 0o600
    async with run(identity, mark) as node:
        assert await is_answered(node, first_flight(node))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits another process, which only Linux lets us")
async def test_a_node_whose_mark_cannot_be_written_takes_nobody_new_and_keeps_who_is_there(tmp_path):
    async with Child(replay_mark=str(tmp_path / "mark")) as child, qg.Node(qg.Identity.generate()) as node:
        peer = await node.connect(child.address)
        hard = resource.prlimit(child.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (0, hard))
        # The mark lies 15 s ahead of the peer: this one's clock goes fast.
        flights = [
            first_flight(child, clock_s=lambda ahead_s=ahead_s: int(time.time()) + ahead_s) for ahead_s in (60, 90)
        ]
        with contextlib.closing(await dial_port(child.address.port)) as sock:
            await Stranger(sock).send(flights[0])
            async with asyncio.timeout(20):
                while (await child.ask("status"))["counters"].get("io") != 1:
                    await peer.ping()
            assert Stranger(sock).answer() is None
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (hard, hard))
        with contextlib.closing(await dial_port(child.address.port)) as sock:
            await Stranger(sock).send(flights[1])
            assert await Stranger(sock).receive()


# Rotation of the network secret (protocol.md 2.4)


@pytest.fixture
def secrets(tmp_path):
    """The files of an old and a new secret."""
    for name in ("old", "new"):
        qg.NetworkSecret.generate().create(tmp_path / name)
    return str(tmp_path / "old"), str(tmp_path / "new")


async def meets(node, other):
    """Tell whether a node gets through to another one, which counts it when not."""
    n_faults = sum(faults(other).values())
    connecting = asyncio.create_task(node.connect(other.address))
    await until(
        lambda: connecting.done() or sum(faults(other).values()) > n_faults, lambda: (connecting, faults(other))
    )
    if not connecting.done():
        assert faults(other)["bad_envelope"] == sum(faults(other).values())
        connecting.cancel()
        await asyncio.wait([connecting])
        return False
    peer = connecting.result()
    await peer.ping()
    await peer.close()
    return True


async def test_one_secret_follows_another_while_nodes_have_both(secrets):
    """Each node in its turn: the old one, both with the new one to dial with, the new one."""
    old, new = secrets
    stages = [{"network_secret": old}, {"network_secret": new, "network_secret_previous": old}, {"network_secret": new}]
    met = {}
    for i, one in enumerate(stages):
        for j, other in enumerate(stages):
            async with together(one, other) as (dialler, answerer):
                met[i, j] = await meets(dialler, answerer)
    # Who dials with the new secret is not heard by who has the old one alone; with any other step both ways work.
    assert met == {(0, 0): True, (0, 1): True, (0, 2): False, (1, 0): False, (1, 1): True, (1, 2): True,
                   (2, 0): False, (2, 1): True, (2, 2): True}  # fmt: skip


async def test_nodes_that_run_change_their_secret_and_stay_within_reach(secrets):
    old, new = secrets
    async with together(*[{"network_secret": old}] * 3) as (one, two, late):
        overlap = one._settings.config
        assert await meets(one, two)
        assert await meets(two, one)
        for secret, previous in ((new, old), (new, None)):
            for node in (one, two):
                wanted = msgspec.structs.replace(overlap, network_secret=secret, network_secret_previous=previous)
                await node.configure(wanted)
            assert await meets(one, two)
            assert await meets(two, one)
        assert not await meets(late, one)
        assert not await meets(one, late)


async def test_a_previous_secret_does_not_stand_alone(tmp_path):
    with pytest.raises(qg.ConfigError, match=r"network_secret_previous.*beside network_secret"):
        qg.Config.from_dict({"network_secret_previous": "old"})
