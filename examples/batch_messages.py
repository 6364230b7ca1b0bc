# SPDX-License-Identifier: MIT
"""Many small messages: python examples/batch_messages.py

One by one costs a microsecond or two each; in batches a fifth of that.
"""

import asyncio
from time import perf_counter

import qg

READINGS = qg.ExtenderId("c1f0b8a4-6d3e-4e57-9a28-5b7d0f4e2c61")
N_MESSAGES, N_BATCH = 100_000, 500


class Readings(qg.Extender):
    """A mailbox: it defines no method, so messages wait until they are asked for."""

    id = READINGS


async def measure(peer):
    """Send readings of a sensor; `send_batch` waits when too much is under way, as `send` does."""
    for start in range(0, N_MESSAGES, N_BATCH):
        await peer.send_batch(READINGS, [b"%d" % number for number in range(start, start + N_BATCH)])


async def collect(peer):
    """Take what comes, always as much as is there; gives the sum."""
    n_messages = n_batches = total = 0
    async for batch in peer.messages(READINGS):
        n_batches += 1
        n_messages += len(batch)
        total += sum(map(int, batch))
        if n_messages == N_MESSAGES:
            return n_batches, total


async def main():
    async with (
        qg.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0"], extenders=[Readings()]) as server,
        qg.Node(qg.Identity.generate()) as sensor,
    ):
        peer = await sensor.connect(server.address)
        await peer.ping()  # a round trip later the server knows of the sensor
        started_s = perf_counter()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(measure(peer))
            collecting = tasks.create_task(collect(server.peers[0]))
        n_batches, total = collecting.result()
        print(f"{N_MESSAGES / (perf_counter() - started_s):,.0f} messages/s, in {n_batches} batches")
        print("the sum is", "right" if total == sum(range(N_MESSAGES)) else f"wrong: {total}")


asyncio.run(main())
