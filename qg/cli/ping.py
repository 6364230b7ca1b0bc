# SPDX-License-Identifier: MIT
"""`qg ping`: is a node there, and how far is it?"""

import asyncio
import time
from typing import Any

import click

import qg
from qg.cli.common import ADDRESS, async_run, node_make, node_options, route_options


@click.command
@click.argument("address", type=ADDRESS)
@click.option("-n", "--count", type=click.IntRange(1, 1_000_000), default=4, show_default=True, help="Round trips.")
@click.option(
    "--interval", type=click.FloatRange(0, 3600), default=1.0, show_default=True, help="Seconds between round trips."
)
@route_options
@node_options
def command(
    address: "qg.Address",
    count: int,
    interval: float,
    via: "tuple[qg.Address, ...]",
    hops: int | None,
    **options: Any,
) -> None:
    """Connect to ADDRESS, check that it holds its key, and measure round trips inside the session.

    A node answers nobody who dials a wrong key or comes from another network: that looks like a node that is down, on
    purpose.

    \b
    Examples:
      qg ping 'qg://...@203.0.113.7:7447'
      qg ping --network friends.net 'qg://...'
      qg ping --via 'qg://...' 'qg://...'          # the relay's address first
      qg ping --hops 3 -c qg.toml 'qg://...'       # three of those that it names
    """
    connecting = {"address": address, "via": via or None, "hops": hops}
    async_run(_ping(node_make(**options), connecting, count, interval))


async def _ping(node: "qg.Node", connecting: dict[str, Any], count: int, interval: float) -> None:
    async with node:
        started_s = time.perf_counter()
        peer = await node.connect(**connecting)
        print(f"connected to {peer.id} in {(time.perf_counter() - started_s) * 1e3:.1f} ms", flush=True)
        rtts_ms = []
        for turn in range(count):
            if turn:
                await asyncio.sleep(interval)
            rtts_ms.append(await peer.ping() * 1e3)
            print(f"round trip {turn + 1}: {rtts_ms[-1]:.3f} ms", flush=True)
        print(f"least {min(rtts_ms):.3f} ms, mean {sum(rtts_ms) / count:.3f} ms, most {max(rtts_ms):.3f} ms")
