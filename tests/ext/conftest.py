# SPDX-License-Identifier: MIT
"""Every asynchronous test of this folder has to end, and to leave no descriptor open."""

import asyncio
import functools
import inspect
import os

import pytest

import qg

LIMIT_S = 40


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="session")
def library_started():
    """Have the native library open what it keeps for good."""

    async def once():
        async with qg.Node(qg.Identity.generate()):
            pass

    asyncio.run(once())


def limited(test):
    @functools.wraps(test)
    async def run(**arguments):
        before = len(os.listdir("/dev/fd"))
        async with asyncio.timeout(LIMIT_S):
            await test(**arguments)
            while len(os.listdir("/dev/fd")) > before:  # transports close theirs a turn later
                await asyncio.sleep(0.01)

    return run


def pytest_collection_modifyitems(items):
    for item in items:
        if "/ext/" in str(item.path) and inspect.iscoroutinefunction(item.obj):
            item.obj = limited(item.obj)
            item.fixturenames.insert(0, "library_started")
