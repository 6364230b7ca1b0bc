# SPDX-License-Identifier: MIT
"""Measure what each level of security costs: `python -m benchmarks.levels [--seconds S] [--write]`.

Two nodes of one process on loopback, for each level in turn: how long a connect takes, a short message there and back,
and a bulk transfer; then S seconds in which nobody uses the link, for the bytes and the processor time that it takes.
`--write` puts the table into docs/security-levels.md.
"""

import argparse
import asyncio
import math
import re
import statistics
import time
from pathlib import Path

import qg
from benchmarks.harness import ROOT
from benchmarks.report import rows_text
from qg.security import LEVELS
from qg.testing import network

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PAGE = ROOT / "docs" / "security-levels.md"
HEADER = [
    "level",
    "connect",
    "100 bytes there and back",
    "bulk at first",
    "later",
    "unused link, each way",
    "unused link, both ends",
]
N_CONNECTS, N_TRIPS = 9, 25
CHUNK_LEN, BULK_S = 1 << 18, 5.0


class Echo(qg.Extender):
    """Give back what comes; of a bulk transfer only count it."""

    id = qg.ExtenderId("6d1f6f0e-3f62-4d8e-9a53-2f7f7b9a6c11")

    def __init__(self) -> None:
        self.n_bytes = 0

    async def on_stream(self, stream: qg.Stream) -> None:
        async for data in stream:
            self.n_bytes += len(data)
            if len(data) <= 100:
                await stream.write(data)
        await stream.close()


async def connect_s(config: qg.Config) -> float:
    async with (
        qg.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0"], config=config) as there,
        qg.Node(qg.Identity.generate(), config=config) as here,
    ):
        began = time.perf_counter()
        await here.connect(there.address)
        return time.perf_counter() - began


async def trip_s(stream: qg.Stream) -> float:
    began = time.perf_counter()
    await stream.write(bytes(100))
    await stream.read(100)
    return time.perf_counter() - began


async def bulk_per_s(stream: qg.Stream, echo: Echo, grow_s: float) -> tuple[float, float]:
    """Send for a while; payload bytes per second that come at first, and after so long."""

    async def send() -> None:
        while True:
            await stream.write(bytes(CHUNK_LEN))

    async def come() -> float:
        before, began = echo.n_bytes, time.perf_counter()
        await asyncio.sleep(BULK_S)
        return (echo.n_bytes - before) / (time.perf_counter() - began)

    sending = asyncio.create_task(send())
    first = await come()
    await asyncio.sleep(grow_s)
    last = await come()
    sending.cancel()
    return first, last


def grow_s(cover: qg.CoverConfig) -> float:
    """How long a rate takes to grow to its bound: 30 s a step, and one more."""
    return 30 * (2 + math.log2(cover.rate_max_per_s / cover.rate_per_s)) if cover.mode == "shaped" else 0


async def level_row(level: str, seconds: float) -> list[str]:
    config = qg.Config().at_level(level)
    connects = [await connect_s(config) for _ in range(N_CONNECTS)]
    echoes: list[Echo] = []

    def made() -> list[qg.Extender]:
        echoes.append(Echo())
        return [echoes[-1]]

    async with network(2, extenders=made, config=config) as net:
        stream = await net.peer(0, 1).open_stream(Echo.id)
        trips = [await trip_s(stream) for _ in range(N_TRIPS)]
        bulk = await bulk_per_s(await net.peer(0, 1).open_stream(Echo.id), echoes[1], grow_s(config.cover))
    async with network(2, extenders=made, config=config) as net:
        await asyncio.sleep(1)
        sent, cpu_s, began = net.nodes[0].status().bytes_out, time.process_time(), time.perf_counter()
        await asyncio.sleep(seconds)
        took_s = time.perf_counter() - began
        idle = (net.nodes[0].status().bytes_out - sent) / took_s
        idle_cpu = (time.process_time() - cpu_s) / took_s
    return [
        level,
        f"{statistics.median(connects):.3g} s",
        f"{statistics.median(trips) * 1000:.3g} ms",
        *(f"{rate / 1e6:.3g} MB/s" for rate in bulk),
        f"{idle * 3600 / (1 << 20):.3g} MiB/h",
        f"{idle_cpu * 1000:.2g} ms of processor per s",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for level in LEVELS:
        rows.append(asyncio.run(level_row(level, arguments.seconds)))
        print(*rows[-1], sep=", ", flush=True)
    if arguments.write:
        page_write(PAGE, "\n".join(rows_text(HEADER, rows)))


def page_write(page: Path, text: str) -> None:
    marked = f"{BEGIN}\n{text}\n{END}"
    page.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: marked, page.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    main()
