# SPDX-License-Identifier: MIT
"""`qg socks`: a proxy for programs of this machine, whose connections leave from an exit."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import qg
from qg.cli.common import Parsed, async_run, node_make, node_options, route_options
from qg.control import ControlServer, control_ask, control_path_default
from qg.extenders.sockets.target import Target

if TYPE_CHECKING:
    from qg.extenders.proxy.exits import Exits

_CHECK_TARGET = "example.com:80"
_KEPT_S = 15.0  # for the peers of the configuration to be there


_Wanted = Sequence[qg.Address | qg.PeerId]  # exits to choose from; none: any peer that offers one


def _exit_parse(text: str) -> "qg.Address | qg.PeerId":
    return qg.Address.parse(text) if "://" in text else qg.PeerId(text)


def _control_path(listen: Target) -> Path:
    """Give the socket on which the proxy that listens there takes requests."""
    return control_path_default().with_name(f"qg-socks-{listen.host}-{listen.port}.sock")


@click.command
@click.argument("exits", type=Parsed("EXIT", _exit_parse), nargs=-1, metavar="[EXIT]...")
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
@click.option(
    "--new-circuits",
    is_flag=True,
    help="Have the proxy that runs at --listen take new ways from now on, and end; connections that are open stay.",
)
@route_options
@node_options
def command(
    exits: "tuple[qg.Address | qg.PeerId, ...]",
    listen: Target,
    check: bool,
    check_target: Target,
    new_circuits: bool,
    via: "tuple[qg.Address, ...]",
    hops: int | None,
    **options: Any,
) -> None:
    """Take SOCKS5, SOCKS4, SOCKS4a and HTTP from programs of this machine and carry it to one of the exits.

    An exit is a node with `[exit] enabled = true` in its configuration: its address, or the id of a peer that the
    configuration keeps connected; without any, each such peer that offers an exit may be taken. Of several, each way
    takes one at random, and another when it dies. Names are resolved there; without an exit nothing goes out. What a
    program gives as user and password keeps its circuits apart from those of others; any will do.

    \b
    Examples:
      qg socks 'qg://...'
      qg socks --via 'qg://...' 'qg://...'         # the relay's address first
      qg socks --hops 3 -c qg.toml 'qg://...'      # three of those that it names
      qg socks --check 'qg://...'
      qg socks --new-circuits                      # for the one that runs
    """
    if new_circuits:
        if not _control_path(listen).exists():
            raise qg.LocalError(f"no `qg socks` of this user runs at {listen}; name the --listen of the one that does")
        n_left = control_ask(_control_path(listen), "new_circuits")["n_left"]
        print(f"{n_left} way{'s' * (n_left != 1)} left behind; new connections take others")
        return
    way = {"via": via or None, "hops": hops}
    node = node_make(**options)
    async_run(_check(node, exits, way, check_target) if check else _serve(node, exits, way, listen))


async def _serve(node: "qg.Node", wanted: "_Wanted", way: dict[str, Any], listen: Target) -> None:
    from qg.extenders.proxy.exits import Exits
    from qg.extenders.proxy.socks import Proxy

    async def new_circuits() -> dict[str, int]:
        return {"n_left": await exits.renew()}

    async with node:
        exits = Exits(node, wanted, **way)
        async with Proxy(exits, listen) as proxy:
            await _reach(exits, wanted)
            at = proxy.address
            async with ControlServer(_control_path(at), {"new_circuits": new_circuits}):
                if at.ip is None or not at.ip.is_loopback:
                    words = f"warning: whoever can connect to {at} may use this proxy; --listen 127.0.0.1:{at.port}"
                    print(f"qg: {words} is for programs of this machine alone", file=sys.stderr, flush=True)
                print(f"SOCKS5, SOCKS4a and HTTP proxy on {at}\n", flush=True)
                print(f"  export ALL_PROXY=socks5h://{at} HTTPS_PROXY=http://{at} HTTP_PROXY=http://{at}")
                print(f"  curl -x socks5h://{at} https://example.com/")
                print(f"  chromium --proxy-server=socks5://{at}", flush=True)
                await asyncio.Event().wait()


async def _reach(exits: "Exits", wanted: "_Wanted") -> "qg.Peer":
    """Reach an exit; peers that the configuration keeps connected have a moment to come."""
    if not wanted or any(isinstance(exit_, qg.PeerId) for exit_ in wanted):
        with suppress(TimeoutError):
            async with asyncio.timeout(_KEPT_S):
                while True:
                    with suppress(qg.QGError):
                        return await exits.reach()
                    await asyncio.sleep(0.1)
    return await exits.reach()


async def _check(node: "qg.Node", wanted: "_Wanted", way: dict[str, Any], target: Target) -> None:
    from qg.extenders.proxy.exits import Exits

    n_good = 0
    each = [[exit_] for exit_ in wanted] or [[]]
    async with node:
        for one in each:
            n_good += await _check_one(Exits(node, one, **way), one, target)
    print(f"{n_good} of {len(each)} exits work")
    if not n_good:
        raise click.ClickException("no exit works; what each said stands above")


async def _check_one(exits: "Exits", one: "_Wanted", target: Target) -> bool:
    from qg.extenders.sockets.outcome import Outcome

    loop = asyncio.get_running_loop()
    print(one[0] if one else "a peer that offers an exit", flush=True)
    started_s = loop.time()
    try:
        peer = await _reach(exits, one)
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
