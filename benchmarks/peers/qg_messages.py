# SPDX-License-Identifier: MIT
"""Messages of 64 bytes through qg's public Python API, sent and taken in one of several ways.

Sent: `batch` gives lists to `send_batch`, `each` awaits `send` for every one. Taken: `lists` counts those that
`peer.messages` gives, `callbacks` calls a function with each of these, `each` is an extender whose `on_message` is
awaited for every one.
"""

import asyncio
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable

import qg
from benchmarks.peers.qg import HOST, node_make
from benchmarks.role import MESSAGE_LEN, Tally
from qg.measured import role_serve

BATCH = 1_000  # messages given to one `send_batch`
MAILBOX_ID = qg.ExtenderId("0d6fb5a5-6a34-4ce5-8a4f-3b1d7b0c7a05")


class Offered(qg.Extender):
    """Have the peer hear of this side."""

    id = MAILBOX_ID


class Mailbox(Offered):
    def __init__(self, received: Tally, taken: str) -> None:
        self._received, self._taken = received, taken

    async def on_peer_connected(self, peer: qg.Peer) -> None:
        take = {"lists": self._lists_take, "callbacks": self._callbacks_take}[self._taken]
        await take(peer)

    async def _lists_take(self, peer: qg.Peer) -> None:
        async for batch in peer.messages(self.id):
            self._received.add(len(batch))

    async def _callbacks_take(self, peer: qg.Peer) -> None:
        callback = self._callback
        async for batch in peer.messages(self.id):
            for message in batch:
                callback(message)

    def _callback(self, message: bytes) -> None:
        self._received.add(1)


class Each(Offered):
    def __init__(self, received: Tally) -> None:
        self._received = received

    async def on_message(self, peer: qg.Peer, message: bytes) -> None:
        self._received.add(1)


async def python_thread() -> int:
    """Say which thread runs Python."""
    return threading.get_native_id()


async def server_main(taken: str, suite: str) -> None:
    received = Tally()
    extender = Each(received) if taken == "each" else Mailbox(received, taken)
    async with node_make(suite, "", listen=[f"tcp://{HOST}:0"], extenders=[extender]) as node:
        commands = {"received_messages": received.reach, "python_thread": python_thread}
        await role_serve(commands, {"address": str(node.address)})


async def client_main(server_hello: str, sent: str, suite: str) -> None:
    message = os.urandom(MESSAGE_LEN)
    async with node_make(suite, "", extenders=[Offered()]) as node:
        peer = await node.connect(json.loads(server_hello)["address"])

        async def messages(n: int) -> None:
            if sent == "each":
                for _ in range(n):
                    await peer.send(MAILBOX_ID, message)
                return
            batch = [message] * BATCH
            for _ in range(n // BATCH):
                await peer.send_batch(MAILBOX_ID, batch)

        await role_serve({"messages": messages}, {})


ROLES: dict[str, Callable[..., Awaitable[None]]] = {"server": server_main, "client": client_main}

if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    asyncio.run(ROLES[role](*arguments))  # type: ignore[arg-type]
