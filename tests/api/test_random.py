# SPDX-License-Identifier: MIT
"""Applications that do everything at once, give up at any moment, and leave nothing behind."""

import asyncio
import os
import random
from contextlib import suppress

import pytest
from api.services import Broken, Echo, Held, Mailbox

import qg
from qg.testing import conserved

pytestmark = [pytest.mark.anyio, pytest.mark.net]

N_LANES = 12
N_STEPS = 40


class Lane:
    """One task that uses the nodes in a random order of steps."""

    def __init__(self, rng, nodes):
        self.rng = rng
        self.nodes = nodes

    async def peer(self):
        near, far = self.rng.sample(self.nodes, 2)
        return await near.connect(far.address)

    async def echo(self):
        stream = await (await self.peer()).open_stream(Echo.id, priority=self.rng.randrange(3))
        data = os.urandom(self.rng.choice([1, 500, 70_000, 600_000]))
        async with stream, asyncio.TaskGroup() as group:
            group.create_task(stream.write(data))
            assert await stream.readexactly(len(data)) == data

    async def drop(self):
        stream = await (await self.peer()).open_stream(self.rng.choice([Echo.id, Held.id]))
        await stream.write(bytes(self.rng.choice([1, 100_000])))
        if self.rng.random() < 0.5:
            stream.finish()
        stream.reset(self.rng.choice(list(qg.Reason)))

    async def leave_open(self):
        stream = await (await self.peer()).open_stream(Held.id)
        await stream.write(bytes(self.rng.choice([0, 50_000])))

    async def fail(self):
        with pytest.raises(qg.StreamReset):
            await (await (await self.peer()).open_stream(Broken.id)).read()

    async def send(self):
        peer = await self.peer()
        for _ in range(self.rng.randrange(100)):
            await peer.send(Mailbox.id, bytes(self.rng.choice([0, 10, 20_000])))

    async def take(self):
        box = (await self.peer()).messages(Mailbox.id)
        with suppress(qg.UsageError, StopAsyncIteration):  # another lane may be taking them
            await anext(box)

    async def ping(self):
        await (await self.peer()).ping()

    async def close(self):
        await (await self.peer()).close()

    async def run(self):
        steps = [self.echo] * 6 + [self.drop, self.leave_open, self.send, self.take, self.ping] * 2
        steps += [self.fail, self.close]
        for _ in range(N_STEPS):
            with suppress(qg.RemoteError, qg.ClosedError, TimeoutError, ExceptionGroup):
                async with asyncio.timeout(self.rng.choice([0, 0.001, 0.01, 0.1])):
                    await self.rng.choice(steps)()


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_is_left_of_hundreds_of_steps_of_which_many_are_given_up(seed):
    rng = random.Random(seed)
    services = [Echo(), Held(), Broken(), Mailbox()]
    async with conserved() as nodes:
        for _ in range(3):
            nodes.append(qg.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0"], extenders=services))
            await nodes[-1].start()
        async with asyncio.TaskGroup() as group:
            for _ in range(N_LANES):
                group.create_task(Lane(random.Random(rng.random()), nodes).run())
        for node in nodes:
            await node.close()
