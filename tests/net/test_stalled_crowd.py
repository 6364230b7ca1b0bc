# SPDX-License-Identifier: MIT
"""Circuits whose target takes nothing: the relay's memory stays within its budget, and others cost it what they did."""

import asyncio
from pathlib import Path

import pytest
from net.child import Child
from net.support import LOOPBACK, MIB, Drain, trial

import qg

pytestmark = [pytest.mark.anyio, pytest.mark.net]

PATIENT = {"dead_peer_s": 600}
OPEN = {
    "peer_pipe_sessions": 2000, "pipes_per_link": 2000, "pipes_per_s": 2000, "pipes_burst": 2000,
    "network_sessions": 4000, "handshakes_per_s": 10000, "handshakes_burst": 10000,
}  # fmt: skip
WINDOW = 65536
LENGTH = 16 * WINDOW  # of what each circuit of the crowd is to carry
HONEST_LEN = 32 * MIB
TIMES = 3  # as much CPU for the bytes of others at most; a quiet machine shows 1.0 to 1.3
PER_CIRCUIT = 24 * 1024  # of the relay's resident memory, beside what is held
SLACK = 12 * MIB
ONE_PIECE = 70_000  # the budget is looked at when a piece has been taken


class Crowd:
    """Many circuits of one source over a relay, and one of another source to another target."""

    def __init__(self, nodes):
        self.nodes = nodes
        self.writing = []
        self.most_len = 0  # that the relay was seen to hold

    async def build(self, n_circuits, memory_mib):
        enter = self.nodes.enter
        self.target, self.other_target = [await enter(Child(limits=OPEN, link=PATIENT)) for _ in range(2)]
        self.source, self.other = [await self.nodes.node(workers=1, link=PATIENT) for _ in range(2)]
        to = [self.target.address, self.other_target.address]
        allow = [str(node.id) for node in (self.source, self.other)]
        relay = {"allow": allow, "targets": LOOPBACK, "ports": [each.port for each in to], "memory_mib": memory_mib}
        self.relay = await enter(Child(workers=1, limits=OPEN, link=PATIENT, relay=relay))
        peer = await self.other.connect(to[1], via=[self.relay.address])
        self.other_stream = await peer.open_stream(Drain.id)
        # So many at a time that the relay, which opens 400 pipes a second on one link, is not asked for more at once.
        self.streams = []
        for begin in range(0, n_circuits, 64):
            n = min(64, n_circuits - begin)
            self.streams += await asyncio.gather(*(self.stream_open(to[0]) for _ in range(n)))

    async def stream_open(self, address):
        while True:
            try:
                peer = await self.source.connect(address, via=[self.relay.address])
                return await peer.open_stream(Drain.id)
            except qg.Refused:
                await asyncio.sleep(0.1)

    def write(self):
        self.writing = [asyncio.create_task(stream.write(bytes(LENGTH))) for stream in self.streams]

    async def core(self):
        status = (await self.relay.ask("status"))["core"]
        self.most_len = max(self.most_len, status["relay_held_len"])
        return status

    async def full(self):
        """Wait until what the relay holds changes no more."""
        last = None
        while last != (last := (await self.core())["relay_held_len"]) or not last:
            for _ in range(20):
                await self.core()
                await asyncio.sleep(0.01)

    async def cpu_ns(self, *others):
        """Let the other source send, and give the CPU time of the relay's loop until that and `others` are done."""
        before_ns, n_before = (await self.core())["loop_cpu_ns"], (await self.other_target.ask("drained"))["n_bytes"]
        async with asyncio.timeout(60):
            await self.other_stream.write(bytes(HONEST_LEN))
            while (await self.other_target.ask("drained"))["n_bytes"] < n_before + HONEST_LEN:
                await asyncio.sleep(0.01)
            if others:
                await asyncio.wait(others)
        return (await self.core())["loop_cpu_ns"] - before_ns

    def resident_len(self):
        pages = int(Path(f"/proc/{self.relay.pid}/statm").read_text().split()[1])
        return pages * 4096

    async def end(self):
        self.relay.kill()
        await asyncio.wait(self.writing)


@pytest.mark.parametrize(
    ("n_circuits", "memory_mib"), [(128, 4), pytest.param(1024, 64, marks=pytest.mark.slow)], ids=["128", "1024"]
)
async def test_a_crowd_that_stalls_keeps_to_the_budget_and_costs_others_nothing(n_circuits, memory_mib):
    async with trial() as nodes:
        crowd = Crowd(nodes)
        await crowd.build(n_circuits, memory_mib)
        alone = max([await crowd.cpu_ns() for _ in range(2)])
        resident_len = crowd.resident_len()
        await crowd.target.stop()
        crowd.write()
        await crowd.full()
        beside = min([await crowd.cpu_ns() for _ in range(2)])
        grown_len = crowd.resident_len() - resident_len
        print(f"{crowd.most_len / MIB:.1f} MiB held, {grown_len / MIB:.1f} more resident, {beside / alone:.2f} x the CPU")
        assert memory_mib * MIB // 4 < crowd.most_len <= memory_mib * MIB + ONE_PIECE  # credit ends at three quarters
        assert grown_len < memory_mib * MIB + n_circuits * PER_CIRCUIT + SLACK
        assert beside < TIMES * alone
        await crowd.end()


async def test_without_that_budget_a_crowd_would_take_more_and_one_that_reads_costs_others_more():
    """Both checks above can fail."""
    async with trial() as nodes:
        crowd = Crowd(nodes)
        await crowd.build(128, 64)
        alone = min([await crowd.cpu_ns() for _ in range(2)])
        crowd.write()
        beside = await crowd.cpu_ns(*crowd.writing)
        assert beside > TIMES * alone
        await crowd.target.stop()
        crowd.write()
        await crowd.full()
        assert (await crowd.core())["relay_held_len"] > 4 * MIB
        await crowd.end()
