# SPDX-License-Identifier: MIT
"""Fetch a page through an exit, with aiohttp over SOCKS: python examples/socks.py

Needs `pip install aiohttp aiohttp-socks`. `qg socks` and `[exit]` in a configuration do the same for every program.
"""

import asyncio
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from aiohttp_socks import ProxyConnector

import qg
from qg.extenders.proxy import Exit, Exits, Proxy


@asynccontextmanager
async def website():
    """Serve a page that greets whoever asks; gives its port."""

    async def page(request):
        return web.Response(text=f"hello {request.headers['User-Agent']}")

    runner = web.ServerRunner(web.Server(page))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def main():
    async with website() as port:
        # The open internet is allowed unless a rule says otherwise; networks of the exit's own have to be named.
        exit_ = Exit([f"allow 127.0.0.1:{port}", "deny *"])
        async with (
            qg.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0"], extenders=[exit_]) as exit_node,
            qg.Node(qg.Identity.generate()) as node,
            Proxy(Exits(node, [exit_node.address]), "127.0.0.1:0") as proxy,  # hops=3 goes over relays
        ):
            # rdns: names go to the exit as they are, so that nobody here is asked for them
            connector = ProxyConnector.from_url(f"socks5://{proxy.address}", rdns=True)
            agent = {"User-Agent": "somebody behind an exit"}
            async with (
                aiohttp.ClientSession(connector=connector, headers=agent) as session,
                session.get(f"http://127.0.0.1:{port}/") as answer,
            ):
                print(answer.status, await answer.text())
            print("the exit carried", exit_.counts["ok"], "connection")


asyncio.run(main())
