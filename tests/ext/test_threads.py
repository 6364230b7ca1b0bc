# SPDX-License-Identifier: MIT
"""Work in a thread that is waited for to its end."""

import asyncio
import threading

import pytest

from qg.extenders.files.threads import thread_run

pytestmark = pytest.mark.anyio


async def test_work_gives_its_result_and_its_error():
    assert await thread_run(lambda: 3) == 3
    with pytest.raises(OSError, match="no disk"):
        await thread_run(lambda: (_ for _ in ()).throw(OSError("no disk")))


async def test_however_often_it_is_cancelled_the_wait_ends_after_the_work():
    may_end, stops, ended = threading.Event(), [], []

    def work():
        may_end.wait(20)
        ended.append("work")

    task = asyncio.create_task(thread_run(work, lambda: stops.append("stop")))
    for _ in range(3):
        await asyncio.sleep(0.01)
        task.cancel()
    await asyncio.sleep(0.01)
    assert (task.done(), stops, ended) == (False, ["stop"], [])
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["work"]
