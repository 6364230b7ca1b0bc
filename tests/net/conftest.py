# SPDX-License-Identifier: MIT
"""Every asynchronous test of this folder has to end."""

import asyncio
import functools
import inspect

import pytest

pytest.register_assert_rewrite("net.support")

LIMIT_S = 40


@pytest.fixture
def anyio_backend():
    return "asyncio"


def limited(test):
    @functools.wraps(test)
    async def run(**arguments):
        async with asyncio.timeout(LIMIT_S):
            await test(**arguments)

    return run


def pytest_collection_modifyitems(items):
    for item in items:
        is_slow = item.get_closest_marker("slow") is not None  # such a test bounds itself
        if "/net/" in str(item.path) and inspect.iscoroutinefunction(item.obj) and not is_slow:
            item.obj = limited(item.obj)
