# SPDX-License-Identifier: MIT
"""`qg ping`: is a node there, how far is it, and over which way?"""

import asyncio
import json
import math
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import click

import qg
from qg.cli.common import ADDRESS, async_run, node_make, node_options, route_options

# A link may carry 1,000 control frames a second, in which other programs have a share, and is closed beyond.
_INTERVAL_MIN_S = 0.005


@click.command
@click.argument("address", type=ADDRESS)
@click.option("-n", "--count", type=click.IntRange(1, 1_000_000), default=4, show_default=True, help="Round trips.")
@click.option(
    "--interval",
    type=click.FloatRange(_INTERVAL_MIN_S, 3600),
    default=1.0,
    show_default=True,
    help="Seconds from one to the next; a link that pings faster is closed by the peer.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.001, 3600),
    default=5.0,
    show_default=True,
    help="Seconds after which one counts as lost.",
)
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object at the end instead.")
@route_options
@node_options
def command(
    address: "qg.Address",
    count: int,
    interval: float,
    timeout_s: float,
    is_json: bool,
    via: "tuple[qg.Address, ...]",
    hops: int | None,
    **options: Any,
) -> None:
    """Connect to ADDRESS, check that it holds its key, and measure round trips inside the session.

    A node answers nobody who dials a wrong key or comes from another network: that looks like a node that is down, on
    purpose. Ctrl-C ends it early, with the summary. The exit code is 1 if nothing came back.

    \b
    Examples:
      qg ping 'qg://...@203.0.113.7:7447'
      qg ping -n 100 --interval 0.1 --network friends.net 'qg://...'
      qg ping --via 'qg://...' 'qg://...'          # the relay's address first
      qg ping --hops 3 -c qg.toml 'qg://...'       # three of those that it names
      qg ping --json 'qg://...' | jq .p99_ms
    """
    connecting = {"address": address, "via": via or None, "hops": hops}
    report = async_run(_ping(node_make(**options), connecting, count, interval, timeout_s, is_json))
    if not report["n_received"]:
        sys.exit(1)


async def _ping(
    node: "qg.Node", connecting: dict[str, Any], count: int, interval_s: float, timeout_s: float, is_json: bool
) -> dict[str, Any]:
    """Print the round trips as they come and what they amount to; a signal only ends them early."""
    async with node:
        started_s = time.perf_counter()
        peer = await node.connect(**connecting)
        connect_ms = (time.perf_counter() - started_s) * 1e3
        where = connecting["address"].short
        if not is_json:
            print(f"PING {where}: connected to {peer.id} in {connect_ms:.1f} ms", flush=True)
        rtts_ms: list[float | None] = []
        try:
            async for rtt_ms in _rtts(peer, count, interval_s, timeout_s):
                rtts_ms.append(rtt_ms)
                if not is_json:
                    said = f"nothing within {timeout_s:g} s" if rtt_ms is None else f"{rtt_ms:.3f} ms"
                    print(f"round trip {len(rtts_ms)}: {said}", flush=True)
        except asyncio.CancelledError:
            pass
        finally:
            report = _report(peer, connect_ms, rtts_ms)
            print(json.dumps(report) if is_json else "\n".join(_lines(where, report)), flush=True)
    return report


async def _rtts(peer: "qg.Peer", count: int, interval_s: float, timeout_s: float) -> AsyncIterator[float | None]:
    """Measure round trips in milliseconds, None for one that took too long."""
    is_behind = False
    next_s = time.perf_counter()
    for _ in range(count):
        await asyncio.sleep(next_s - time.perf_counter())
        next_s = time.perf_counter() + interval_s
        rtt_s = None
        try:
            async with asyncio.timeout(timeout_s):
                if is_behind:  # one PING at a time is under way: what comes first answers that of a turn before
                    await peer.ping()
                    is_behind = False
                rtt_s = await peer.ping()
        except TimeoutError as error:
            if isinstance(error, qg.QGError):  # the link has ended
                raise
            is_behind = True
        yield None if rtt_s is None else rtt_s * 1e3


def _report(peer: "qg.Peer", connect_ms: float, rtts_ms: "list[float | None]") -> dict[str, Any]:
    came = sorted(rtt_ms for rtt_ms in rtts_ms if rtt_ms is not None)
    ranks = {"min_ms": 0.0, "p50_ms": 0.5, "p99_ms": 0.99, "max_ms": 1.0}
    return {
        "peer_id": str(peer.id),
        "suite": peer.suite,
        "via": [str(relay) for relay in peer.via],
        "connect_ms": connect_ms,
        "n_sent": len(rtts_ms),
        "n_received": len(came),
        "rtts_ms": rtts_ms,
    } | {name: came[max(math.ceil(rank * len(came)) - 1, 0)] if came else None for name, rank in ranks.items()}


def _lines(where: str, report: dict[str, Any]) -> Iterator[str]:
    n_sent, n_received, via = report["n_sent"], report["n_received"], report["via"]
    yield f"--- {where} ---"
    if n_sent:
        yield f"{n_sent} sent, {n_received} answered, {100 * (n_sent - n_received) / n_sent:.3g} % lost"
    if n_received:
        figures = "/".join(f"{report[name]:.3f}" for name in ("min_ms", "p50_ms", "p99_ms", "max_ms"))
        yield f"min/p50/p99/max {figures} ms"
    yield f"{report['suite']}, " + (f"over {len(via)} relay{'s' * (len(via) > 1)}:" if via else "directly")
    for number, relay in enumerate(via, 1):
        yield f"{number:3}  {qg.Address.parse(relay).short}"
