# SPDX-License-Identifier: MIT
"""Every asynchronous test of this folder has to end, and to leave no descriptor open."""

import asyncio
import functools
import inspect
import os
import time
from contextlib import suppress

import pytest

import qg

LIMIT_S = 40
CLOSING_S = 10


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


def descriptors():
    """What this process has open: a number and what stands behind it."""
    found = {}
    for number in os.listdir("/dev/fd"):
        with suppress(OSError):  # the one that listed them
            found[int(number)] = os.readlink(f"/dev/fd/{number}")
    return found


def limited(test):
    @functools.wraps(test)
    async def run(**arguments):
        before = descriptors()
        async with asyncio.timeout(LIMIT_S):
            await test(**arguments)
            ended = time.monotonic()
            while len(descriptors()) > len(before):  # transports close theirs a turn later
                assert time.monotonic() < ended + CLOSING_S, f"still open: {descriptors().items() - before.items()}"
                await asyncio.sleep(0.01)

    return run


def pytest_collection_modifyitems(items):
    for item in items:
        if "/ext/" in str(item.path) and inspect.iscoroutinefunction(item.obj):
            item.obj = limited(item.obj)
            item.fixturenames.insert(0, "library_started")
