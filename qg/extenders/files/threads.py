# SPDX-License-Identifier: MIT
"""Work on the disk beside the event loop, one call at a time for each user."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

__all__ = ["thread_run"]

_T = TypeVar("_T")


async def thread_run(work: Callable[[], _T], stop: Callable[[], None] = lambda: None) -> _T:
    """Run `work` in a thread and wait for its end, however often cancelled: then `stop` is called to make it end soon.

    What `work` uses may be closed after it.
    """
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stop()
        while not future.done():
            with suppress(asyncio.CancelledError):  # asked again: the first is raised below
                await asyncio.wait([future])
        raise
