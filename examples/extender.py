# SPDX-License-Identifier: MIT
"""An extender with everything: messages, streams, peers that come and go. A board on which peers pin notes.

python examples/extender.py
"""

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


async def main():
    async with (
        qg.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0"], extenders=[Board()]) as server,
        qg.Node(qg.Identity.generate()) as anna,
        qg.Node(qg.Identity.generate()) as ben,
    ):
        one, two = await anna.connect(server.address), await ben.connect(server.address)
        news = two.messages(Board.id)  # from here on they are taken; without an extender, ben asks for them
        await one.send(Board.id, b"the kettle is on")
        print("ben hears", [note.decode() for note in await anext(news)])
        async with await two.open_stream(Board.id) as stream:
            notes = (await stream.read()).decode()
        print("on the board:", notes)
        assert notes == f"{anna.id.uuid}: 'the kettle is on'"


asyncio.run(main())
