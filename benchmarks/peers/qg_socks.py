# SPDX-License-Identifier: MIT
"""qg as a proxy through its public Python API: what `qg socks` runs, and a node with an exit, on one link."""

import asyncio
import sys

import qg
from benchmarks.peers.qg import HOST, node_make
from qg.cli.common import descriptors_raise
from qg.extenders.proxy import Exit, ExitLimits, Exits, Proxy
from qg.measured import role_serve

CONNECTIONS_PER_S = 100_000  # what two processes can do is measured, not what one of them lets the other do


async def exit_main(suite: str) -> None:
    limits = ExitLimits(peer_connections_per_s=CONNECTIONS_PER_S)
    exits = [Exit([f"allow {HOST}/32"], limits)]
    async with node_make(suite, "", listen=[f"tcp://{HOST}:0"], extenders=exits) as node:
        await role_serve({}, {"address": str(node.address)})


async def entry_main(address: str, suite: str) -> None:
    async with node_make(suite, "") as node:
        exits = Exits(node, [qg.Address.parse(address)], connections_per_s=CONNECTIONS_PER_S)
        async with Proxy(exits, f"{HOST}:0") as proxy:
            await exits.reach()
            await role_serve({}, {"port": proxy.address.port})


if __name__ == "__main__":
    descriptors_raise()
    role, *arguments = sys.argv[1:]
    asyncio.run({"entry": entry_main, "exit": exit_main}[role](*arguments))
