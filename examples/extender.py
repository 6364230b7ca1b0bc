# SPDX-License-Identifier: MIT
"""An extender: messages, streams, peers that come and go. A board for notes: python examples/extender.py"""

import asyncio
from collections import deque

import qg

NOTE_MAX = 200  # what comes from peers is bounded, always


class Board(qg.Extender):
    """Take notes as messages, tell every peer of each, and give all of them to whoever opens a stream."""

    id = qg.ExtenderId("6a1d7c52-9b0e-4a86-8f5d-3c2e1b0a9d47")

    def __init__(self):
        self.notes = deque(maxlen=100)
        self.peers = set()

    async def on_peer_connected(self, peer):
        self.peers.add(peer)

    async def on_peer_disconnected(self, peer):
        self.peers.discard(peer)

    async def on_message(self, peer, message):
        """Take one note; `peer.id` is proved by the handshake, nobody can write in the name of another."""
        note = f"{peer.id.uuid}: {message[:NOTE_MAX].decode(errors='replace')!r}"
        self.notes.append(note)
        for other in self.peers:
            other.try_send(self.id, note.encode())  # who is too slow to read misses a note and delays nobody

    async def on_stream(self, stream):
        await stream.write("\n".join(self.notes).encode())


async def read(peer):
    """Read the whole board, over a stream."""
    async with await peer.open_stream(Board.id) as stream:
        return (await stream.read()).decode()


async def main():
    async with (
        qg.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0"], extenders=[Board()]) as server,
        qg.Node(qg.Identity.generate()) as anna,
        qg.Node(qg.Identity.generate()) as ben,
    ):
        from_anna, from_ben = await anna.connect(server.address), await ben.connect(server.address)
        print("ben reads", repr(await read(from_ben)))
        news = from_ben.messages(Board.id)  # ben has no extender for them, so he asks
        await from_anna.send(Board.id, b"the kettle is on")
        print("ben hears", [note.decode() for note in await anext(news)])
        print("on the board:", await read(from_anna))


asyncio.run(main())
