# SPDX-License-Identifier: MIT
"""`qg ping`: is a node there, and how far is it?"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import click

import qg
from qg.cli.common import ADDRESS, async_run, node_make, node_options, via_option


@click.command
@click.argument("address", type=ADDRESS)
@click.option("-n", "--count", type=click.IntRange(1, 1_000_000), default=4, show_default=True, help="Round trips.")
@click.option(
    "--interval", type=click.FloatRange(0, 3600), default=1.0, show_default=True, help="Seconds between round trips."
)
@via_option
@node_options
def command(address: "qg.Address", count: int, interval: float, via: "tuple[qg.Address, ...]", **options: Any) -> None:
    """Connect to ADDRESS, check that it holds its key, and measure round trips inside the session.

    A node answers nobody who dials a wrong key or comes from another network: that looks like a node that is down, on
    purpose.

    \b
    Examples:
      qg ping 'qg://...@203.0.113.7:7447'
      qg ping --network friends.net 'qg://...'
      qg ping --via 'qg://...' 'qg://...'          # the relay's address first
    """
    async_run(_ping(node_make(**options), address, via, count, interval))


async def _ping(
    node: "qg.Node", address: "qg.Address", via: "Sequence[qg.Address]", count: int, interval: float
) -> None:
    async with node:
        started_s = time.perf_counter()
        peer = await node.connect(address, via=via or None)
        print(f"connected to {peer.id} in {(time.perf_counter() - started_s) * 1e3:.1f} ms", flush=True)
        rtts_ms = []
        for turn in range(count):
            if turn:
                await asyncio.sleep(interval)
            rtts_ms.append(await peer.ping() * 1e3)
            print(f"round trip {turn + 1}: {rtts_ms[-1]:.3f} ms", flush=True)
        print(f"least {min(rtts_ms):.3f} ms, mean {sum(rtts_ms) / count:.3f} ms, most {max(rtts_ms):.3f} ms")
