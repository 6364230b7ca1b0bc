# SPDX-License-Identifier: MIT
"""Work on the disk beside the event loop, one call at a time for each user."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

__all__ = ["thread_run"]

_T = TypeVar("_T")


async def thread_run(work: Callable[[], _T], stop: Callable[[], None] = lambda: None) -> _T:
    """Run `work` in a thread and wait for its end, also when cancelled: then `stop` is called to make it end soon."""
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stop()
        await asyncio.wait([future])
        raise
