# SPDX-License-Identifier: MIT
"""`qg forward`: ports of this machine that lead to what a peer reaches, and ports of the peer that lead here."""

import asyncio
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

import qg
from qg.cli.common import ADDRESS, Parsed, async_run, node_make, node_options, route_options
from qg.cli.text import size_text

if TYPE_CHECKING:
    from qg.extenders.forward import Forwarding

_COUNTS_S = 10.0  # between two lines of counters
_LOOK_S = 0.5  # between two looks for what fails
_SHOWN = ("open", "bytes_out", "bytes_in")
_FAILURES = {
    "cut": "the way to the peer broke",
    "failed": "too many at a time, or something failed there",
    "host_unreachable": "the target's name or address is not found there",
    "network_unreachable": "the target cannot be reached from there",
    "not_allowed": "not offered: it must be under `allow` in [[forward.offer]] of the peer's configuration",
    "refused": "nothing listens at the target",
    "timed_out": "the target does not answer",
}
_FORWARD = Parsed("FORWARD", qg.ForwardSpec.parse)


@click.command
@click.argument("peer", type=ADDRESS)
@click.option(
    "-L",
    "--local",
    type=_FORWARD,
    multiple=True,
    metavar="[HOST:]PORT[/udp]:TARGET:PORT",
    help="Have a port of this machine lead to what the peer reaches at TARGET. May be given several times.",
)
@click.option(
    "-R",
    "--remote",
    type=_FORWARD,
    multiple=True,
    metavar="[HOST:]PORT[/udp]:TARGET:PORT",
    help="Have a port of the peer lead to what this machine reaches at TARGET. May be given several times.",
)
@click.option("-v", "--verbose", is_flag=True, help="Say every 10 s what has gone through, and at the end.")
@route_options
@node_options
def command(
    peer: "qg.Address",
    local: "tuple[qg.ForwardSpec, ...]",
    remote: "tuple[qg.ForwardSpec, ...]",
    via: "tuple[qg.Address, ...]",
    hops: int | None,
    verbose: bool,
    **options: Any,
) -> None:
    """Forward ports over a link or circuit to PEER, until Ctrl-C. What is lost is connected again.

    HOST is the address to listen on, 127.0.0.1 unless it is given; port 0 is any free one. TARGET is a name or a number
    as the other side knows it: 127.0.0.1 is that machine itself. With /udp behind the port, datagrams.

    The peer allows nothing that its configuration does not list, as in

    \b
      [[forward.offer]]
      peers = ["<PeerID>"]             # without this line: whoever has a link
      allow = ["tcp 127.0.0.1:22"]     # what -L leads to
      listen = ["tcp 127.0.0.1:8080"]  # what -R listens on

    \b
    Examples:
      qg forward -L 2222:127.0.0.1:22 'qg://...'
      qg forward -L 5353/udp:10.0.0.1:53 'qg://...'
      qg forward -R 8080:127.0.0.1:3000 --via 'qg://...' 'qg://...'
    """
    if not local and not remote:
        raise click.UsageError("nothing to forward: give -L or -R")
    async_run(_serve(peer, local, remote, {"via": via or None, "hops": hops}, options, verbose))


async def _serve(
    address: "qg.Address",
    local: "tuple[qg.ForwardSpec, ...]",
    remote: "tuple[qg.ForwardSpec, ...]",
    way: dict[str, Any],
    options: dict[str, Any],
    verbose: bool,
) -> None:
    from qg.extenders.forward import Forward, Forwarder

    service = Forward()
    node = node_make(**options, extenders=[service])
    async with node, Forwarder(node, service, address, local=local, remote=remote, **way) as forwarder:
        name = f"{str((await forwarder.reach()).id)[:12]}…"
        lines = {one: f"{_place(one)} here -> {one.target} behind {name}" for one in forwarder.local}
        lines |= {one: f"{_place(one)} at {name} -> {one.target} behind this machine" for one in forwarder.remote}
        for line in lines.values():
            print(line, flush=True)
        if not verbose:
            await _failures_print(lines)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_failures_print(lines))
                tasks.create_task(_counts_print(lines))
        finally:
            for one, line in lines.items():
                print(f"{line}: {_counts_text(one.counts)}", file=sys.stderr, flush=True)


def _place(one: "Forwarding") -> str:
    return f"{one.address}/udp" if one.spec.protocol == "udp" else str(one.address)


async def _failures_print(lines: "dict[Forwarding, str]") -> None:
    """Print each kind of failure once for each forward."""
    said = set()
    while True:
        for one, line in lines.items():
            for name in _FAILURES.keys() & one.counts.keys():
                if (one, name) not in said:
                    said.add((one, name))
                    print(f"qg: {line}: {_FAILURES[name]}", file=sys.stderr, flush=True)
        await asyncio.sleep(_LOOK_S)


async def _counts_print(lines: "dict[Forwarding, str]") -> None:
    """Print from time to time what has changed."""
    printed = {one: _counts_text(one.counts) for one in lines}
    while True:
        await asyncio.sleep(_COUNTS_S)
        for one, line in lines.items():
            text = _counts_text(one.counts)
            if text != printed[one]:
                printed[one] = text
                print(f"{line}: {text}", file=sys.stderr, flush=True)


def _counts_text(counts: "Counter[str]") -> str:
    there, back = counts["bytes_out"], counts["bytes_in"]
    parts = [f"{counts['open']} open", f"{size_text(there)} there", f"{size_text(back)} back"]
    parts += [f"{n} {name.replace('_', ' ')}" for name, n in counts.items() if n and name not in _SHOWN]
    return ", ".join(parts)
