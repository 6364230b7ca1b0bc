# SPDX-License-Identifier: MIT
"""A wall clock that is stepped while a node runs: sessions live on, and new ones are judged by the new time."""

import asyncio
import shutil
import subprocess
import sys
import time

import pytest
from net.child import Child
from net.flights import first_flight
from net.support import Echo, Stranger, dial, trial

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.net,
    pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="preloads a compiled library"),
]

HOUR_S = 3600
# What clock_gettime(CLOCK_REALTIME) says is moved by the seconds that stand in a file.
SHIM = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *now)
{
    int rc = syscall(SYS_clock_gettime, id, now); /* dlsym would allocate, in the midst of a sanitizer's allocator */
    long step_s = 0;
    FILE *file = id == CLOCK_REALTIME ? fopen(STEP_FILE, "re") : NULL;
    if (file) {
        if (fscanf(file, "%ld", &step_s) == 1)
            now->tv_sec += step_s;
        fclose(file);
    }
    return rc;
}
"""


@pytest.fixture
def clock(tmp_path):
    """A library to preload, and the file that holds the step."""
    step, library = tmp_path / "step", tmp_path / "clock.so"
    step.write_text("0")
    (tmp_path / "clock.c").write_text(SHIM)
    command = ["cc", "-shared", "-fPIC", f'-DSTEP_FILE="{step}"', "-o", library, tmp_path / "clock.c"]
    subprocess.run(command, check=True)
    return library, step


async def is_answered(node, clock_s):
    """Whether a stranger with that clock is answered."""
    with await dial(node) as sock:
        stranger = Stranger(sock)
        await stranger.send(first_flight(node, clock_s=clock_s))
        stranger.finish()
        return await stranger.receive_all() != b""


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
async def test_sessions_live_on_when_the_clock_is_stepped(clock, step_s):
    library, step = clock
    quick = {"epoch_s": 1, "rekey_s": 1, "dead_peer_s": 2}

    def stepped():
        return int(time.time()) + step_s

    async with trial() as nodes, Child(preload=library, link=quick) as c:
        a = await nodes.node(link=quick)
        peer = await a.connect(c.address)
        stream = await peer.open_stream(Echo.id)
        assert not await is_answered(c, stepped)
        step.write_text(str(step_s))
        while not await is_answered(c, stepped):
            await peer.ping()
        assert not await is_answered(c, lambda: int(time.time()))
        n_echoes = 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):  # keys change several times meanwhile, and pings are due
                while True:
                    await stream.write(bytes(100_000))
                    await stream.readexactly(100_000)
                    n_echoes += 1
                    await asyncio.sleep(0.01)
        assert n_echoes > 10
        assert peer.is_connected
        await peer.ping()
        assert (await c.ask("status"))["counters"].keys() <= {"accepted", "handshakes", "bad_clock"}
