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
LENGTH = MIB  # of what each circuit of the crowd is to carry
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
        self.n_sent = 0  # by the other source
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
            except (qg.Refused, qg.Busy):
                await asyncio.sleep(0.1)

    def write(self):
        self.writing = [asyncio.create_task(stream.write(bytes(LENGTH))) for stream in self.streams]

    async def core(self):
        status = (await self.relay.ask("status"))["core"]
        self.most_len = max(self.most_len, status["relay_held_len"])
        return status

    async def full(self, held_len):
        """Wait until the relay has held so much, and holds no more than before."""
        async with asyncio.timeout(60):
            while self.most_len < held_len:
                await self.core()
        last = None
        while last != (last := (await self.core())["relay_held_len"]):
            for _ in range(20):
                await self.core()
                await asyncio.sleep(0.01)

    async def cpu_ns(self, crowd_len=0):
        """Let the other source send, and give the CPU time of the relay's loop until that, and so much of the crowd's
        bytes, have come.
        """
        before_ns = (await self.core())["loop_cpu_ns"]
        self.n_sent += HONEST_LEN
        async with asyncio.timeout(60):
            await self.other_stream.write(bytes(HONEST_LEN))
            await drained(self.other_target, self.n_sent)
            if crowd_len:
                await drained(self.target, crowd_len)
        return (await self.core())["loop_cpu_ns"] - before_ns

    def resident_len(self):
        pages = int(Path(f"/proc/{self.relay.pid}/statm").read_text().split()[1])
        return pages * 4096

    async def end(self):
        self.relay.kill()
        await asyncio.gather(*self.writing, return_exceptions=True)


async def drained(target, n_bytes):
    while (await target.ask("drained"))["n_bytes"] < n_bytes:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("n_circuits", "memory_mib"), [(128, 2), pytest.param(1024, 64, marks=pytest.mark.slow)], ids=["128", "1024"]
)
async def test_a_crowd_that_stalls_keeps_to_the_budget_and_costs_others_nothing(n_circuits, memory_mib):
    async with trial() as nodes:
        crowd = Crowd(nodes)
        await crowd.build(n_circuits, memory_mib)
        alone = max([await crowd.cpu_ns() for _ in range(2)])
        resident_len = crowd.resident_len()
        await crowd.target.stop()
        crowd.write()
        await crowd.full(memory_mib * MIB // 4)
        beside = min([await crowd.cpu_ns() for _ in range(2)])
        grown_len = crowd.resident_len() - resident_len
        print(f"{crowd.most_len / MIB:.1f} MiB held, {grown_len / MIB:.1f} resident, {beside / alone:.2f} x the CPU")
        assert crowd.most_len <= memory_mib * MIB + ONE_PIECE
        assert grown_len < memory_mib * MIB + n_circuits * PER_CIRCUIT + SLACK
        assert beside < TIMES * alone
        await crowd.end()


# Both checks can fail:


@pytest.mark.slow
async def test_a_larger_budget_would_be_used():
    async with trial() as nodes:
        crowd = Crowd(nodes)
        await crowd.build(256, 64)  # 12 MiB of credit, of which kernels may take a half
        await crowd.target.stop()
        crowd.write()
        await crowd.full(3 * MIB)
        await crowd.end()


async def test_a_crowd_that_reads_costs_more():
    async with trial() as nodes:
        crowd = Crowd(nodes)
        await crowd.build(128, 64)
        alone = min([await crowd.cpu_ns() for _ in range(2)])
        crowd.write()
        assert await crowd.cpu_ns(128 * LENGTH) > TIMES * alone
        await crowd.end()
