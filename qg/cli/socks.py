# SPDX-License-Identifier: MIT
"""`qg socks`: a proxy for programs of this machine, whose connections leave from an exit."""

import asyncio
from collections.abc import Sequence
from typing import Any

import click

import qg
from qg.cli.common import ADDRESS, Parsed, async_run, node_make, node_options, route_options
from qg.extenders.proxy.target import Target

_CHECK_TARGET = "example.com:80"


@click.command
@click.argument("exits", type=ADDRESS, nargs=-1, required=True, metavar="EXIT...")
@click.option(
    "--listen",
    type=Parsed("HOST:PORT", Target.parse),
    default="127.0.0.1:1080",
    show_default=True,
    metavar="HOST:PORT",
    help="Where programs connect to.",
)
@click.option("--check", is_flag=True, help="Try each exit, from here to a page behind it, say what works, and end.")
@click.option(
    "--check-target",
    type=Parsed("HOST:PORT", Target.parse),
    default=_CHECK_TARGET,
    show_default=True,
    metavar="HOST:PORT",
    help="What --check connects to.",
)
@route_options
@node_options
def command(
    exits: "tuple[qg.Address, ...]",
    listen: Target,
    check: bool,
    check_target: Target,
    via: "tuple[qg.Address, ...]",
    hops: int | None,
    **options: Any,
) -> None:
    """Take SOCKS5, SOCKS4, SOCKS4a and HTTP from programs of this machine and carry it to one of the exits.

    An exit is a node with `[exit] enabled = true` in its configuration. Of several, each way takes one at random, and
    another when it dies. Names are resolved there; without an exit nothing goes out. What a program gives as user and
    password keeps its circuits apart from those of others; any will do.

    \b
    Examples:
      qg socks 'qg://...'
      qg socks --via 'qg://...' 'qg://...'         # the relay's address first
      qg socks --hops 3 -c qg.toml 'qg://...'      # three of those that it names
      qg socks --check 'qg://...'
    """
    way = {"via": via or None, "hops": hops}
    node = node_make(**options)
    async_run(_check(node, exits, way, check_target) if check else _serve(node, exits, way, listen))


async def _serve(node: "qg.Node", addresses: "Sequence[qg.Address]", way: dict[str, Any], listen: Target) -> None:
    from qg.extenders.proxy.exits import Exits
    from qg.extenders.proxy.socks import Proxy

    async with node:
        exits = Exits(node, addresses, **way)
        async with Proxy(exits, listen) as proxy:
            await exits.reach()
            at = proxy.address
            print(f"SOCKS5, SOCKS4a and HTTP proxy on {at}\n", flush=True)
            print(f"  export ALL_PROXY=socks5h://{at} HTTPS_PROXY=http://{at} HTTP_PROXY=http://{at}")
            print(f"  curl -x socks5h://{at} https://example.com/")
            print(f"  chromium --proxy-server=socks5://{at}", flush=True)
            await asyncio.Event().wait()


async def _check(node: "qg.Node", addresses: "Sequence[qg.Address]", way: dict[str, Any], target: Target) -> None:
    from qg.extenders.proxy.exits import Exits

    n_good = 0
    async with node:
        for address in addresses:
            n_good += await _check_one(Exits(node, [address], **way), address, target)
    print(f"{n_good} of {len(addresses)} exits work")
    if not n_good:
        raise click.ClickException("no exit works; what each said stands above")


async def _check_one(exits: Any, address: "qg.Address", target: Target) -> bool:
    from qg.extenders.proxy.front import Outcome

    loop = asyncio.get_running_loop()
    print(f"{address}", flush=True)
    started_s = loop.time()
    try:
        peer = await exits.reach()
        print(f"  reached in {(loop.time() - started_s) * 1e3:.0f} ms, round trip {await peer.ping() * 1e3:.1f} ms")
        started_s = loop.time()
        async with exits.connected(b"", target) as (outcome, _):
            took_ms = (loop.time() - started_s) * 1e3
    except qg.QGError as error:
        print(f"  {error}", flush=True)
        return False
    if outcome is Outcome.OK:
        print(f"  connected to {target} in {took_ms:.0f} ms", flush=True)
    else:
        print(f"  connecting to {target}: {outcome.name.lower().replace('_', ' ')}", flush=True)
    return outcome is Outcome.OK
