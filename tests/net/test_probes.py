# SPDX-License-Identifier: MIT
"""A thousand probes of a node over real sockets, drawn anew each time (docs/protocol.md 3.8, P3)."""

import asyncio
import random
import resource
import socket
import time
from collections import defaultdict

import pytest
from looks.probes import Flights, probes_make, seed_make, ways_compare
from net.support import core, target, until

pytestmark = [pytest.mark.anyio, pytest.mark.net, pytest.mark.slow]

N_PROBES = 1000
N_FILES = 4 * N_PROBES  # both ends of each connection are in this process
ERROR = 1e-4 / 3  # of each of three comparisons, so that chance fails this once in ten thousand runs
BIAS_S = 5
# Times are a tenth of what they are otherwise; clients are slow for less than the shortest of silences.
WAITS = {"head_s": 1, "flight_s": 1, "handshake_s": 1, "sink_min_s": 2, "sink_max_s": 6}
LIMITS = {"sinks": 1024, "half_open": 1024} | WAITS


@pytest.fixture
def many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < N_FILES:
        pytest.skip(f"this user may open {hard} files, and the test needs {N_FILES}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, N_FILES), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def probe_run(port, probe):
    """Give all that was answered and for how long the connection was open."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        since_s = time.monotonic()
        for delay_s, data in probe.pieces:
            await asyncio.sleep(delay_s)
            await loop.sock_sendall(sock, data)
        answer = b""
        while data := await loop.sock_recv(sock, 4096):
            answer += data
        return answer, time.monotonic() - since_s


async def answered_flights(to, flights):
    """Give flights that the node has answered, which will be replayed."""
    found = [flights.make() for _ in range(10)]
    for stranger in await to.tell(*found):
        assert await stranger.receive()
        stranger.finish()
    return found


async def test_a_thousand_probes_get_no_byte_and_learn_nothing_from_times(many_files):
    seed = seed_make()
    rng = random.Random(seed)
    async with target(limits=LIMITS) as to:
        flights = Flights(bytes(to.node.address.link_key), int(time.time()))
        replayed = await answered_flights(to, flights)
        probes = probes_make(N_PROBES, flights, replayed, rng)
        tasks = []
        for probe in probes:
            tasks.append(asyncio.create_task(probe_run(to.node.address.port, probe)))
            await asyncio.sleep(0)
        ends = await asyncio.gather(*tasks)
        await until(lambda: core(to.node)["n_sinks"] == 0, lambda: core(to.node))
    assert sum(len(answer) for answer, _ in ends) == 0, seed
    lives = defaultdict(list)
    for probe, (_, life_s) in zip(probes, ends, strict=True):
        lives[probe.way].append(life_s)
    assert sum(map(len, lives.values())) == N_PROBES
    likely = ways_compare(lives)
    assert min(likely.values()) > ERROR, (seed, likely)
    lives["wrong"] = [life_s + BIAS_S for life_s in lives["wrong"]]
    assert min(ways_compare(lives).values()) < ERROR
