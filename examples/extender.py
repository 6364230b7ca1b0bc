# SPDX-License-Identifier: MIT
"""An extender: messages, streams, peers that come and go. A board for notes: python examples/extender.py"""

import asyncio

import qg


class Board(qg.Extender):
    """Take notes as messages, tell every peer of each, and give all of them to whoever opens a stream."""

    id = qg.ExtenderId("6a1d7c52-9b0e-4a86-8f5d-3c2e1b0a9d47")

    def __init__(self):
        self.notes = []
        self.peers = set()

    async def on_peer_connected(self, peer):
        self.peers.add(peer)

    async def on_peer_disconnected(self, peer):
        self.peers.discard(peer)

    async def on_message(self, peer, message):
        # peer.id is proved by the handshake: nobody writes in the name of another
        note = f"{peer.id.uuid}: {message[:200].decode(errors='replace')!r}"  # what comes is bounded
        self.notes = [*self.notes[-99:], note]
        for other in self.peers:
            other.try_send(self.id, note.encode())  # who is too slow to read misses a note and delays nobody

    async def on_stream(self, stream):
        await stream.write("\n".join(self.notes).encode())


class Reader(qg.Extender):
    """Hear of new notes: with the same id, so that each side learns of the other."""

    id = Board.id
    news = asyncio.Queue(100)

    async def on_message(self, peer, message):
        await self.news.put(message.decode(errors="replace"))


async def main():
    board = Board()
    async with (
        qg.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0"], extenders=[board]) as server,
        qg.Node(qg.Identity.generate()) as anna,
        qg.Node(qg.Identity.generate(), extenders=[Reader()]) as ben,
    ):
        async with await (await ben.connect(server.address)).open_stream(Board.id) as stream:
            print("ben reads", await stream.read())
        await (await anna.connect(server.address)).send(Board.id, b"the kettle is on")
        print("ben hears", await Reader.news.get())
        print("on the board:", *board.notes)


asyncio.run(main())
