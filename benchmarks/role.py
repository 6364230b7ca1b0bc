# SPDX-License-Identifier: MIT
"""The child's side of a measurement: answer the harness over stdin and stdout, one JSON object per line."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

Commands = Mapping[str, Callable[..., Awaitable[Any]]]

CHUNK_LEN = 64 * 1024
MESSAGE_LEN = 64


class Tally:
    """A count that grows by itself and that a command can wait for."""

    def __init__(self) -> None:
        self.n = 0
        self._total = 0
        self._reached = asyncio.Event()

    def add(self, n: int) -> None:
        self.n += n
        if self.n >= self._total:
            self._reached.set()

    async def reach(self, total: int) -> None:
        """Return once the count, taken since the start of the process, is at least `total`."""
        self._total = total
        if self.n < total:
            self._reached.clear()
            await self._reached.wait()


def percentiles(samples_ns: Sequence[int]) -> dict[str, float]:
    ordered = sorted(samples_ns)
    return {"p50_us": ordered[len(ordered) // 2] / 1e3, "p99_us": ordered[len(ordered) * 99 // 100] / 1e3}


async def times_at_once(n: int, n_in_flight: int, work: Callable[[], Awaitable[None]]) -> None:
    """Do `work` `n` times, never more than `n_in_flight` at once."""
    turns = iter(range(n))

    async def lane() -> None:
        for _ in turns:
            await work()

    await asyncio.gather(*(lane() for _ in range(n_in_flight)))


async def role_serve(commands: Commands, hello: dict[str, Any]) -> None:
    """Say `hello`, then run one command after the other until the harness closes stdin."""
    requests = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)
    print(json.dumps({"ok": hello}), flush=True)
    while line := await requests.readline():
        request = json.loads(line)
        result = await commands[request.pop("do")](**request)
        print(json.dumps({"ok": result}), flush=True)
