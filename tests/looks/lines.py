# SPDX-License-Identifier: MIT
"""Real links in parallel, each used in some windows of time and not in others, with a tap on every line."""

import asyncio
import random
import time
from contextlib import AsyncExitStack

from api.services import Echo
from looks.observer import features
from looks.tap import Tap

import qg


async def say(stream, at_s, data):
    """Send something at that time, and have all of it back."""
    await asyncio.sleep(max(0, at_s - time.monotonic()))
    await stream.write(data)
    return await stream.readexactly(len(data)) == data


async def use(stream, begin_s, window_s, draw):
    """Send a few messages at moments of a window."""
    moments = sorted(begin_s + draw.random() * window_s * 0.9 for _ in range(draw.randint(1, 6)))
    for at_s in moments:
        assert await say(stream, at_s, draw.randbytes(draw.randint(1, 4000)))


async def windows(config, n_links, n_windows, window_s, seed):
    """(what an observer sees of a window of one link, whether it was used), for each link and window."""
    draw = random.Random(seed)
    limits = qg.LimitsConfig(sessions=1000, network_sessions=1000)
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(
            qg.Node(
                qg.Identity.generate(),
                listen=["tcp://127.0.0.1:0"],
                config=qg.Config(cover=config, limits=limits, workers=1),
                extenders=[Echo()],
            )
        )
        tap = await Tap.start(hub.addresses[0].port, n_links)
        streams = []
        for port in tap.ports:
            node = await stack.enter_async_context(
                qg.Node(qg.Identity.generate(), config=qg.Config(cover=config, workers=1), extenders=[Echo()])
            )
            address = hub.addresses[0]
            peer = await node.connect(qg.Address(address.link_key, "127.0.0.1", port))
            streams.append(await peer.open_stream(Echo.id))
        await asyncio.sleep(1)
        begin_s = time.monotonic() + 1
        used = [[draw.random() < 0.5 for _ in range(n_windows)] for _ in streams]
        async with asyncio.TaskGroup() as group:
            for stream, uses in zip(streams, used, strict=True):
                group.create_task(_follow(stream, uses, begin_s, window_s, random.Random(draw.random())))
        await asyncio.sleep(max(0, begin_s + n_windows * window_s - time.monotonic()))
        records = await tap.end()
    found = []
    for (out, back), uses in zip(records, used, strict=True):
        for number, is_used in enumerate(uses):
            start_s = begin_s + number * window_s
            found.append((_seen(out, start_s, window_s) + _seen(back, start_s, window_s), is_used))
    return found


async def _follow(stream, uses, begin_s, window_s, draw):
    for number, is_used in enumerate(uses):
        if is_used:
            await use(stream, begin_s + number * window_s, window_s, draw)


def _seen(pieces, start_s, window_s):
    return features([piece for piece in pieces if start_s <= piece[0] < start_s + window_s], start_s, window_s)
