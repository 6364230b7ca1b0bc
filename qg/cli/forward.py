# SPDX-License-Identifier: MIT
"""`qg forward`: ports of this machine that lead to what a peer reaches, and ports of the peer that lead here."""

import asyncio
from typing import Any

import click

import qg
from qg.cli.common import ADDRESS, Parsed, async_run, node_make, node_options, route_options

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
@route_options
@node_options
def command(
    peer: "qg.Address",
    local: "tuple[qg.ForwardSpec, ...]",
    remote: "tuple[qg.ForwardSpec, ...]",
    via: "tuple[qg.Address, ...]",
    hops: int | None,
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
    async_run(_serve(peer, local, remote, {"via": via or None, "hops": hops}, options))


async def _serve(
    address: "qg.Address",
    local: "tuple[qg.ForwardSpec, ...]",
    remote: "tuple[qg.ForwardSpec, ...]",
    way: dict[str, Any],
    options: dict[str, Any],
) -> None:
    from qg.extenders.forward import Forward, Forwarder

    service = Forward()
    node = node_make(**options, extenders=[service])
    async with node, Forwarder(node, service, address, local=local, remote=remote, **way) as forwarder:
        name = f"{str((await forwarder.reach()).id)[:12]}…"
        for spec, (at, target) in zip(local, forwarder.local, strict=True):
            print(f"{_place(spec, at)} here -> {target} behind {name}", flush=True)
        for spec, (at, target) in zip(remote, forwarder.remote, strict=True):
            print(f"{_place(spec, at)} at {name} -> {target} behind this machine", flush=True)
        await asyncio.Event().wait()


def _place(spec: "qg.ForwardSpec", at: object) -> str:
    return f"{at}/udp" if spec.protocol == "udp" else str(at)
