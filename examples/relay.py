# SPDX-License-Identifier: MIT
"""A circuit over three relays: python examples/relay.py

Each relay sees its two neighbours and no content; the target learns who the source is, and not where.
"""

import asyncio
from contextlib import AsyncExitStack

import qg
from qg.extenders.echo import Echo

LOOPBACK = ["tcp://127.0.0.1:0"]


def relaying(neighbour, port):
    """Give the settings of a relay that carries circuits of one neighbour to this port.

    Relays dial port 7447 and no private networks unless told otherwise. In a closed network, with the file of its
    secret as `network_secret`, `allow = "members"` is all that a relay needs.
    """
    return qg.Config.from_dict({"relay": {"allow": [str(neighbour)], "targets": ["127.0.0.0/8"], "ports": [port]}})


async def main():
    source_id, one, two, three = (qg.Identity.generate() for _ in range(4))
    async with AsyncExitStack() as stack:

        async def start(identity, **settings):
            return await stack.enter_async_context(qg.Node(identity, **settings))

        target = await start(qg.Identity.generate(), listen=LOOPBACK, extenders=[Echo()])
        ahead, relays = target, []
        for identity, neighbour in ((three, two), (two, one), (one, source_id)):  # each has to know the port ahead
            ahead = await start(identity, listen=LOOPBACK, config=relaying(neighbour.peer_id, ahead.address.port))
            relays.insert(0, ahead)

        source = await start(source_id)
        peer = await source.connect(target.address, via=[relay.address for relay in relays])  # the nearest first
        async with await peer.open_stream(Echo.id) as stream:
            await stream.write(b"hello from far away")
            print((await stream.readexactly(19)).decode())
        print(f"{peer.suite}, {await peer.ping() * 1e3:.1f} ms there and back")
        print("circuits through each relay:", *(relay.status().n_splices for relay in relays))


asyncio.run(main())
