# SPDX-License-Identifier: MIT
"""Every asynchronous test of this folder runs under asyncio and under uvloop, and has to end."""

import asyncio
import functools
import importlib.util
import inspect

import pytest

LIMIT_S = 60
LOOPS = {"asyncio": {}, "uvloop": {"use_uvloop": True}}


@pytest.fixture(params=LOOPS)
def anyio_backend(request):
    if request.param == "uvloop" and importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    return "asyncio", LOOPS[request.param]


def limited(test):
    @functools.wraps(test)
    async def run(**arguments):
        async with asyncio.timeout(LIMIT_S):
            await test(**arguments)

    return run


def pytest_collection_modifyitems(items):
    for item in items:
        if "/api/" in str(item.path) and inspect.iscoroutinefunction(item.obj):
            item.obj = limited(item.obj)
