# SPDX-License-Identifier: MIT
"""Several workers of one node: each carries its part, and the application sees one node."""

import asyncio
import contextlib
import os

import pytest
from api.services import Echo

import qg
from qg.policy import cores_count
from qg.testing import conserved

pytestmark = pytest.mark.anyio

LISTEN = ["tcp://127.0.0.1:0"]
N_CIRCUITS = 64
N_BYTES = 64 * 1024
MANY = {"peer_pipe_sessions": 1000}  # from one source


def config(workers, **tables):
    return qg.Config.from_dict({"workers": workers, **tables})


def relaying(workers, *users, to, **terms):
    relay = {"allow": [str(user.id) for user in users], "targets": ["127.0.0.0/8"]}
    return config(workers, relay=relay | {"ports": [node.address.port for node in to]} | terms)


@contextlib.asynccontextmanager
async def running():
    """Start nodes that are closed and checked at the end."""
    async with conserved() as nodes, contextlib.AsyncExitStack() as stack:

        async def start(settings, **more):
            node = qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[Echo()], config=settings, **more)
            nodes.append(await stack.enter_async_context(node))
            return node

        yield start


async def echoed(peer, n_bytes=N_BYTES):
    async with await peer.open_stream(Echo.id) as stream:
        data = os.urandom(n_bytes)
        writing = asyncio.create_task(stream.write(data))
        assert await stream.readexactly(n_bytes) == data
        await writing


async def test_every_worker_listens_and_connections_are_spread_evenly():
    async with running() as start:
        node = await start(config(3))
        diallers = [await start(config(1)) for _ in range(9)]
        for dialler in diallers:
            await echoed(await dialler.connect(node.address))
        workers = node.status().workers
        assert [worker.n_sessions for worker in workers] == [3, 3, 3]
        assert len(node.peers) == 9
        assert all(worker.bytes_in > N_BYTES and worker.bytes_out > N_BYTES for worker in workers)


@pytest.mark.parametrize("n_workers", [1, 2, 5])
async def test_both_ends_have_workers_and_see_one_peer(n_workers):
    async with running() as start:
        one, other = await start(config(n_workers)), await start(config(2))
        peer = await one.connect(other.address)
        await asyncio.gather(*(echoed(peer) for _ in range(8)))
        assert await one.connect(other.address) is peer
        assert await peer.ping() > 0
        assert (one.peers, len(other.peers), len(peer.links)) == ((peer,), 1, 1)
        assert one.status().links[0].bytes_out > 8 * N_BYTES


async def test_dials_at_the_same_time_to_one_peer_share_a_link():
    async with running() as start:
        one, other = await start(config(4)), await start(config(4))
        peers = await asyncio.gather(*(one.connect(other.address) for _ in range(10)))
        assert set(peers) == {one.peers[0]}
        assert len(peers[0].links) == 1


async def test_a_node_is_reached_over_the_link_that_it_made():
    """Whichever worker that link is with: the address that is given here does not answer."""
    async with running() as start:
        one, other = await start(config(4)), await start(config(4))
        await other.connect(one.address)
        while not one.peers:
            await asyncio.sleep(0)
        nowhere = other.address._replace(port=1)
        assert await one.connect(nowhere) is one.peers[0]
        await echoed(one.peers[0])


async def test_the_workers_of_a_relay_share_the_circuits():
    async with running() as start:
        source, target = await start(config(2)), await start(config(2, limits=MANY))
        relay = await start(relaying(2, source, to=[target]))
        far = [await source.connect(target.address, via=[relay.address]) for _ in range(N_CIRCUITS)]
        assert relay.status().n_splices == N_CIRCUITS
        await asyncio.gather(*map(echoed, far))
        for of in (relay, source, target):
            shares = [worker.bytes_in + worker.bytes_out for worker in of.status().workers]
            assert all(0.4 <= share / sum(shares) <= 0.6 for share in shares)
        parts = [worker.relayed_bytes for worker in relay.status().workers]
        assert sum(parts) == relay.status().relayed_bytes
        assert all(0.4 <= part / sum(parts) <= 0.6 for part in parts)
        for peer in far:
            await peer.close()


async def test_a_node_that_restarts_unnoticed_has_no_links_with_any_worker_left():
    """Its old links and its new one are with different workers; those of its old process end."""
    identity = qg.Identity.generate()
    async with running() as start:
        node = await start(config(4))
        async with qg.Node(identity, config=config(1)) as old, qg.Node(identity, config=config(1)) as new:
            older = await old.connect(node.address)
            newer = await new.connect(node.address)
            while older.is_connected:
                await asyncio.sleep(0.01)
            assert newer.is_connected
            (seen,) = node.peers
            while len(seen.links) > 1:
                await asyncio.sleep(0.01)
            assert await seen.ping() > 0


async def test_limits_hold_for_all_workers_together():
    async with running() as start:
        node = await start(config(3, limits={"sessions": 4}))
        diallers = [await start(config(1, limits={"handshake_s": 2})) for _ in range(6)]
        made = await asyncio.gather(*(each.connect(node.address) for each in diallers), return_exceptions=True)
        assert sum(isinstance(each, qg.Peer) for each in made) == 4
        assert node.status().counters["sessions_full"] + node.status().counters.get("full", 0) >= 2
        assert sum(worker.n_sessions for worker in node.status().workers) >= 4


async def test_the_memory_for_circuits_is_one_budget():
    """A rate makes bytes wait in circuits of both workers: all together stay within what the node has."""
    async with running() as start:
        source, target = await start(config(2)), await start(config(2, limits=MANY))
        relay = await start(relaying(2, source, to=[target], memory_mib=1, rate_kib_s=1024))
        far = [await source.connect(target.address, via=[relay.address]) for _ in range(32)]
        streams = await asyncio.gather(*(peer.open_stream(Echo.id) for peer in far))

        async def stuff(stream):
            with contextlib.suppress(qg.RemoteError):
                while True:
                    await stream.write(bytes(65536))

        tasks = [asyncio.create_task(stuff(stream)) for stream in streams]
        most = 0
        while relay.status().relayed_bytes < 3 << 20:
            most = max(most, relay._border.runtime.status()["relay_held_len"])
            await asyncio.sleep(0.001)
        assert 300_000 < most <= 1 << 20
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(peer.close() for peer in far))


async def test_a_port_is_not_shared_with_another_node():
    async with running() as start:
        node = await start(config(3))
        taken = [f"tcp://127.0.0.1:{node.address.port}"]
        other = qg.Node(qg.Identity.generate(), listen=taken, config=config(3))
        with pytest.raises(qg.ListenError, match="in use"):
            await other.start()


async def test_a_throw_away_identity_and_a_cancelled_dial_leave_nothing():
    async with running() as start:
        one, other = await start(config(4)), await start(config(4))
        masked = await one.connect(other.address, identity=qg.Identity.generate())
        await echoed(masked)
        await masked.close()
        for _ in range(8):
            dialling = asyncio.create_task(one.connect(other.address))
            await asyncio.sleep(0)
            dialling.cancel()
            await asyncio.wait([dialling])
        await echoed(await one.connect(other.address))


async def test_a_rotated_identity_reaches_every_worker(tmp_path):
    async with running() as start:
        node = await start(config(4))
        node._renew()
        for _ in range(4):
            dialler = await start(config(1))
            await echoed(await dialler.connect(node.address))


def test_the_cores_are_those_that_the_process_may_use(tmp_path):
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    own, group = tmp_path / "cgroup", tmp_path / "a" / "b"
    group.mkdir(parents=True)
    assert cores_count(tmp_path, own) == n_cores
    own.write_text("9:name=systemd:/\n0::/a/b\n")
    assert cores_count(tmp_path, own) == n_cores
    group.joinpath("cpu.max").write_text("max 100000\n")
    group.parent.joinpath("cpu.max").write_text("50000 100000\n")
    assert cores_count(tmp_path, own) == 1


@pytest.mark.parametrize("value", [0, 65, "two"])
def test_a_number_of_workers_that_cannot_be_is_refused(value):
    with pytest.raises(qg.ConfigError, match=r"workers.*a whole number from 1 to 64"):
        qg.Config.from_dict({"workers": value})
