# SPDX-License-Identifier: MIT
"""Extenders that the tests connect to."""

import asyncio

import qg


class Echo(qg.Extender):
    """Give back what comes."""

    id = qg.ExtenderId("6f1d6a52-4a5e-4f8c-9d0e-3b2a1c0d9e01")

    async def on_stream(self, stream):
        async for chunk in stream:
            await stream.write(chunk)

    async def on_message(self, peer, message):
        await peer.send(self.id, message)


class Held(qg.Extender):
    """Leave each stream that comes to the test: nothing is read, and it stays open until `release` is set."""

    id = qg.ExtenderId("6f1d6a52-4a5e-4f8c-9d0e-3b2a1c0d9e02")

    def __init__(self):
        self.streams = asyncio.Queue()
        self.release = asyncio.Event()

    async def on_stream(self, stream):
        self.streams.put_nowait(stream)
        await self.release.wait()


class Mailbox(qg.Extender):
    """Let messages wait until the test takes them."""

    id = qg.ExtenderId("6f1d6a52-4a5e-4f8c-9d0e-3b2a1c0d9e03")


class Broken(qg.Extender):
    """Fail whatever is asked."""

    id = qg.ExtenderId("6f1d6a52-4a5e-4f8c-9d0e-3b2a1c0d9e04")

    async def on_stream(self, stream):
        raise ZeroDivisionError("planted in on_stream")

    async def on_message(self, peer, message):
        raise ZeroDivisionError("planted in on_message")


class Guests(qg.Extender):
    """Note who comes and goes."""

    id = qg.ExtenderId("6f1d6a52-4a5e-4f8c-9d0e-3b2a1c0d9e05")

    def __init__(self):
        self.seen = asyncio.Queue()

    async def on_peer_connected(self, peer):
        self.seen.put_nowait(("connected", peer))

    async def on_peer_disconnected(self, peer):
        self.seen.put_nowait(("disconnected", peer))


UNKNOWN = qg.ExtenderId("6f1d6a52-4a5e-4f8c-9d0e-3b2a1c0d9eff")
