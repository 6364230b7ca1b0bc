# SPDX-License-Identifier: MIT
"""A server and a client of it, without relays: python examples/client_server.py"""

import asyncio

import qg


class Shout(qg.Extender):
    """A service. Both sides know it by its id: any UUID, drawn once with `uuidgen`."""

    id = qg.ExtenderId("0d2f3c1e-52a7-4c0b-9a4e-7a3b5a0c8f10")

    async def on_stream(self, stream):
        async for chunk in stream:  # ends when the client has finished; one slow client holds up nobody else
            await stream.write(chunk.upper())


async def ask(address, question):
    """Be a client: dial, open a stream, write, and read the whole answer."""
    async with qg.Node(qg.Identity.generate()) as client:
        peer = await client.connect(address)
        async with await peer.open_stream(Shout.id) as stream:
            await stream.write(question)
            stream.finish()
            return await stream.read()


async def main():
    # An identity that stays: qg.Identity.load_or_create("server.key"). Then the address stays too.
    async with qg.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0"], extenders=[Shout()]) as server:
        address = str(server.address)  # the one line that a client on another machine needs
        print(address)
        print((await ask(address, b"hello over there")).decode())


asyncio.run(main())
