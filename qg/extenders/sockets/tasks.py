# SPDX-License-Identifier: MIT
"""Work that ends together, and waits that end in time."""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

__all__ = ["Activity", "Timeouts", "first_of"]


async def first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Run until the first has ended, cancel the others, and raise what it raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in done:
        task.result()


class Timeouts:
    """Bound many waits, all by the same time: a block in `with timeouts.one()` is what it is in `asyncio.timeout`.

    One timer serves them all: of thousands of connections a second hardly one ever waits so long. For one event loop at
    a time.
    """

    __slots__ = ("_loop", "_seconds", "_timer", "_waits")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waits: dict[_Wait, float] = {}  # until when; the first to end first
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # that the timer is for

    def one(self) -> "_Wait":
        """Give what bounds one wait of the task that calls."""
        return _Wait(self)

    def begin(self, wait: "_Wait", loop: asyncio.AbstractEventLoop) -> None:
        self._waits[wait] = until_s = loop.time() + self._seconds
        if self._timer is None or self._loop is not loop:
            self._loop = loop
            self._timer = loop.call_at(until_s, self._look, loop)

    def end(self, wait: "_Wait") -> None:
        self._waits.pop(wait, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = loop.time()
        self._timer = None
        while self._waits:
            wait, until_s = next(iter(self._waits.items()))
            if until_s > now_s:
                self._timer = loop.call_at(until_s, self._look, loop)
                return
            del self._waits[wait]
            wait.expire()


class _Wait:
    __slots__ = ("_is_over", "_n_cancelling", "_task", "_timeouts")

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._task: asyncio.Task[Any] | None = None
        self._n_cancelling = 0
        self._is_over = False

    def expire(self) -> None:
        if self._task is not None:
            self._is_over = True
            self._task.cancel()

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._task = task = asyncio.current_task(loop)
        assert task is not None
        self._n_cancelling = task.cancelling()
        self._timeouts.begin(self, loop)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        self._timeouts.end(self)
        if self._is_over and task is not None:
            # Cancelled by somebody else at the same time, it stays cancelled.
            is_ours = task.uncancel() <= self._n_cancelling
            if is_ours and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise TimeoutError from error


class Activity:
    """Remember when something moved last."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._last_s = self._loop.time()

    def note(self) -> None:
        """Take note that something moves."""
        self._last_s = self._loop.time()

    async def idle_wait(self, idle_s: float) -> None:
        """Wait until nothing has moved for so long."""
        while (left_s := self._last_s + idle_s - self._loop.time()) > 0:
            await asyncio.sleep(left_s)
