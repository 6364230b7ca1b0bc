# SPDX-License-Identifier: MIT
"""qg as a tunnel through its public Python API: TCP spliced to a stream at the entry, and back at the exit."""

import asyncio
import sys
from contextlib import suppress
from socket import AF_INET, SOCK_STREAM, create_server, socket

import qg
from benchmarks.peers.qg import HOST, node_make
from qg.measured import role_serve


class Exit(qg.Extender):
    """Join each stream with a connection to one port of this machine."""

    id = qg.ExtenderId("0d6fb5a5-6a34-4ce5-8a4f-3b1d7b0c7a04")

    def __init__(self, port: int) -> None:
        self._port = port

    async def on_stream(self, stream: qg.Stream) -> None:
        connection = socket(AF_INET, SOCK_STREAM)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (HOST, self._port))
        await stream.splice(connection)


async def exit_main(target: str, suite: str) -> None:
    async with node_make(suite, "", listen=[f"tcp://{HOST}:0"], extenders=[Exit(int(target))]) as node:
        await role_serve({}, {"address": str(node.address)})


async def entry_main(address: str, suite: str) -> None:
    loop = asyncio.get_running_loop()

    async def serve(connection: socket) -> None:
        with connection, suppress(qg.RemoteError, OSError):
            stream = await peer.open_stream(Exit.id)
            await stream.splice(connection)

    async def accept() -> None:
        while True:
            serving.add(asyncio.create_task(serve((await loop.sock_accept(listener))[0])))

    serving: set[asyncio.Task[None]] = set()
    async with node_make(suite, "") as node:
        peer = await node.connect(address)
        with create_server((HOST, 0)) as listener:
            listener.setblocking(False)
            accepting = asyncio.create_task(accept())
            await role_serve({}, {"port": listener.getsockname()[1]})
            accepting.cancel()


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    asyncio.run({"entry": entry_main, "exit": exit_main}[role](*arguments))
