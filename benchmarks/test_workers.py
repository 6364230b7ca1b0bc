# SPDX-License-Identifier: MIT
"""A relay with one worker and with two: 64 circuits through it, all three nodes in one process.

CPU is that of the relay's threads; MB/s says little on a machine whose cores the other nodes need too.
"""

import asyncio
from functools import partial
from typing import Any

import qg
from benchmarks.harness import ONE_WORKER, TWO_WORKERS, Figures, compare
from qg.types import Status

N_CIRCUITS = 64
PART_LEN = 4 << 20
LIMIT_S = 120
LISTEN = ["tcp://127.0.0.1:0"]


class Sink(qg.Extender):
    """Count what comes, and tell when all has."""

    id = qg.ExtenderId("0d6fb5a5-6a34-4ce5-8a4f-3b1d7b0c7a0f")

    def __init__(self) -> None:
        self.left, self.done = N_CIRCUITS * PART_LEN, asyncio.Event()

    async def on_stream(self, stream: qg.Stream) -> None:
        async for chunk in stream:
            self.left -= len(chunk)
            if not self.left:
                self.done.set()


def node_make(*extenders: qg.Extender, **tables: Any) -> qg.Node:
    return qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=extenders, config=qg.Config.from_dict(tables))


async def push(stream: qg.Stream) -> None:
    for _ in range(PART_LEN >> 16):
        await stream.write(bytes(1 << 16))


def figures_of(before: Status, after: Status, took_s: float) -> Figures:
    pairs = list(zip(before.workers, after.workers, strict=True))
    parts = [new.relayed_bytes - old.relayed_bytes for old, new in pairs]
    length = N_CIRCUITS * PART_LEN
    return {
        "cpu_s_per_gb": sum(new.cpu_s - old.cpu_s for old, new in pairs) / length * 1e9,
        "mb_per_s": length / took_s / 1e6,
        "smallest_share": min(parts) / sum(parts),
    }


async def relay_measure(n_workers: int) -> Figures:
    sink = Sink()
    source, target = node_make(workers=2), node_make(sink, workers=2, limits={"peer_pipe_sessions": N_CIRCUITS})
    async with source, target:
        terms = {"allow": [str(source.id)], "targets": ["127.0.0.0/8"], "ports": [target.address.port]}
        async with node_make(workers=n_workers, relay=terms) as relay:
            far = [await source.connect(target.address, via=[relay.address]) for _ in range(N_CIRCUITS)]
            streams = [await peer.open_stream(Sink.id) for peer in far]
            before, started_s = relay.status(), asyncio.get_running_loop().time()
            await asyncio.gather(*map(push, streams), sink.done.wait())
            return figures_of(before, relay.status(), asyncio.get_running_loop().time() - started_s)


def measure(n_workers: int) -> Figures:
    return asyncio.run(asyncio.wait_for(relay_measure(n_workers), LIMIT_S))


def test_workers(benchmark: Any) -> None:
    compare(benchmark, {ONE_WORKER: partial(measure, 1), TWO_WORKERS: partial(measure, 2)})
