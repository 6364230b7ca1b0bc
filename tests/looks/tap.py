# SPDX-License-Identifier: MIT
"""Whoever sits on a line: passes on what comes, and notes when and how many bytes.

A process of its own (`python -m looks.tap PORT N`), so that what it sees does not hang on what the nodes' process does:
it prints N ports that all lead to PORT, and once its input ends, for each of them, [[time in s, bytes] of what goes to
PORT, the same of what comes back]. Times are those of the monotonic clock.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path


async def _pass_on(reader, writer, record):
    while data := await reader.read(65536):
        record.append([time.monotonic(), len(data)])
        writer.write(data)
    writer.close()


async def _watch(port, n):
    records = [[[], []] for _ in range(n)]

    def line(idx):
        async def come(reader, writer):
            there = await asyncio.open_connection("127.0.0.1", port)
            out, back = records[idx]
            await asyncio.gather(
                _pass_on(reader, there[1], out), _pass_on(there[0], writer, back), return_exceptions=True
            )

        return come

    servers = [await asyncio.start_server(line(idx), "127.0.0.1", 0) for idx in range(n)]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps(records), flush=True)
    os._exit(0)  # connections may be open still


class Tap:
    """A tap that runs; `ports` lead to the port that it was given."""

    @classmethod
    async def start(cls, port, n):
        self = cls()
        folder = Path(__file__).parents[1]
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "looks.tap", str(port), str(n)),
            cwd=folder,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 30,
        )
        self.ports = json.loads(await self._process.stdout.readline())
        return self

    async def end(self):
        """What it has seen, line by line: (time in s, bytes) there, and back."""
        said, _ = await self._process.communicate(b"")  # which ends its input
        return json.loads(said)


if __name__ == "__main__":
    asyncio.run(_watch(int(sys.argv[1]), int(sys.argv[2])))
