# SPDX-License-Identifier: MIT
"""A server that takes connections and discards what comes; it prints its port."""

import asyncio
import contextlib


async def discard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(65536):
            pass
    writer.close()


async def main() -> None:
    async with await asyncio.start_server(discard, "127.0.0.1", 0, backlog=1024) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
