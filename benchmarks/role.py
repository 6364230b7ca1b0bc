# SPDX-License-Identifier: MIT
"""What the roles of all peers share: sizes, counts that a command waits for, work in several lanes."""

import asyncio
from collections.abc import Awaitable, Callable

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


async def times_at_once(n: int, n_in_flight: int, work: Callable[[], Awaitable[None]]) -> None:
    """Do `work` `n` times, never more than `n_in_flight` at once."""
    turns = iter(range(n))

    async def lane() -> None:
        for _ in turns:
            await work()

    await asyncio.gather(*(lane() for _ in range(n_in_flight)))
