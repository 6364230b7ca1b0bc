# SPDX-License-Identifier: MIT
"""The help for tests finds what is left behind."""

import asyncio
import os

import pytest

import qg
from qg.testing import conserved, network

pytestmark = [pytest.mark.anyio, pytest.mark.net]


async def test_every_node_is_connected_with_every_other():
    async with network(3) as net:
        for from_idx in range(3):
            for to_idx in range(3):
                if from_idx != to_idx:
                    assert net.peer(from_idx, to_idx).id == net.nodes[to_idx].id


async def test_a_task_that_goes_on_is_found():
    with pytest.raises(AssertionError, match="task forgotten"):
        async with network(1):
            task = asyncio.create_task(asyncio.Event().wait(), name="forgotten")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_descriptor_that_stays_open_is_found():
    with pytest.raises(AssertionError, match="1 file descriptors"):
        async with network(1):
            descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)


async def test_a_node_that_runs_on_is_found():
    node = qg.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0"])
    other = qg.Node(qg.Identity.generate())
    with pytest.raises(AssertionError, match="sessions"):
        async with conserved() as nodes:
            nodes.append(other)
            await node.start()
            await other.start()
            await other.connect(node.address)
    await other.close()
    await node.close()


async def test_an_error_in_the_block_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        async with network():
            raise ZeroDivisionError
