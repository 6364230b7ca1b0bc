# SPDX-License-Identifier: MIT
"""Plain TCP over asyncio streams: round trips with the same kind of ends as qg's, and nothing of qg between them."""

import asyncio
import json
import os
import platform
import sys
import time

from benchmarks.role import MESSAGE_LEN
from qg.measured import percentiles, role_serve

HOST = "127.0.0.1"


def version() -> str:
    return f"asyncio of Python {platform.python_version()}"


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while message := await reader.read(MESSAGE_LEN):
        writer.write(message)
        await writer.drain()
    writer.close()


async def server_main(_service: str) -> None:
    listener = await asyncio.start_server(echo, HOST, 0)
    await role_serve({}, {"port": listener.sockets[0].getsockname()[1]})


async def client_main(server_hello: str) -> None:
    reader, writer = await asyncio.open_connection(HOST, json.loads(server_hello)["port"])
    message = os.urandom(MESSAGE_LEN)

    async def ping(n: int) -> dict[str, float]:
        samples_ns = []
        for _ in range(n):
            started_ns = time.perf_counter_ns()
            writer.write(message)
            await writer.drain()
            await reader.readexactly(MESSAGE_LEN)
            samples_ns.append(time.perf_counter_ns() - started_ns)
        return percentiles(samples_ns)

    await role_serve({"ping": ping}, {})


if __name__ == "__main__":
    role, argument = sys.argv[1:]
    asyncio.run({"server": server_main, "client": client_main}[role](argument))
