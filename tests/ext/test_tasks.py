# SPDX-License-Identifier: MIT
"""Waits that one timer bounds."""

import asyncio

import pytest

from qg.extenders.sockets.tasks import Timeouts

pytestmark = pytest.mark.anyio

FOREVER_S = 3600.0


async def test_a_wait_that_is_too_long_ends_with_a_timeout():
    timeouts = Timeouts(0.05)
    with pytest.raises(TimeoutError), timeouts.one():
        await asyncio.Event().wait()
    assert asyncio.current_task().cancelling() == 0


async def test_one_timer_ends_all_waits_in_the_order_in_which_they_began():
    timeouts = Timeouts(0.05)
    ended = []

    async def wait(name):
        try:
            with timeouts.one():
                await asyncio.Event().wait()
        except TimeoutError:
            ended.append(name)

    await asyncio.gather(wait("first"), wait("second"), wait("third"))
    assert ended == ["first", "second", "third"]


async def test_what_ended_in_time_is_left_alone_when_the_timer_runs_out():
    timeouts = Timeouts(0.05)
    with timeouts.one():
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError), timeouts.one():
        await asyncio.Event().wait()
    assert asyncio.current_task().cancelling() == 0


async def test_a_task_that_somebody_cancels_stays_cancelled():
    async def work():
        with Timeouts(FOREVER_S).one():
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_other_errors_pass_through():
    with pytest.raises(ValueError, match="mine"), Timeouts(FOREVER_S).one():
        raise ValueError("mine")


def test_the_same_timeouts_serve_one_event_loop_after_another():
    timeouts = Timeouts(0.05)

    async def wait():
        with timeouts.one():
            await asyncio.Event().wait()

    for _ in range(2):
        with pytest.raises(TimeoutError):
            asyncio.run(wait())
