# SPDX-License-Identifier: MIT
"""Nodes for tests: connected with each other on loopback, and checked for leaks when they are closed.

async with qg.testing.network(3, extenders=lambda: [Echo()]) as net:
    stream = await net.peer(0, 2).open_stream(Echo.id)
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import final

from qg.config import Config
from qg.extender import Extender
from qg.identity import Identity, NetworkSecret
from qg.node import Node
from qg.peer import Peer
from qg.types import ExtenderId, PeerId

__all__ = ["Network", "conserved", "network"]

_LISTEN = "tcp://127.0.0.1:0"


@final
class Network:
    """Hold nodes that are connected with each other."""

    def __init__(self, nodes: tuple[Node, ...]) -> None:
        self.nodes = nodes

    def peer(self, from_idx: int, to_idx: int) -> Peer:
        """Give one node's end of its link to another one, both by their place in `nodes`."""
        wanted = self.nodes[to_idx].id
        return next(peer for peer in self.nodes[from_idx].peers if peer.id == wanted)


@final
class _Arrivals(Extender):
    """Tell when peers have come."""

    id = ExtenderId("b0b2f1de-5f0a-4c63-9f3f-7a6a3d1f2c11")

    def __init__(self) -> None:
        self._known: set[PeerId] = set()
        self._changed = asyncio.Event()

    async def on_peer_connected(self, peer: Peer) -> None:
        self._known.add(peer.id)
        self._changed.set()

    async def wait_for(self, peer_id: PeerId) -> None:
        while peer_id not in self._known:
            self._changed.clear()
            await self._changed.wait()


@asynccontextmanager
async def network(
    n_nodes: int = 2,
    *,
    extenders: Callable[[], Iterable[Extender]] = list,
    config: Config | None = None,
    network_secret: NetworkSecret | None = None,
) -> AsyncIterator[Network]:
    """Run nodes in this process, each connected with each other one, and close them at the end of the block.

    `extenders` is called once per node. After the block without an error, raises `AssertionError` when something is
    left: memory blocks, connections or streams of the core, tasks, file descriptors.
    """
    async with conserved() as nodes, AsyncExitStack() as stack:
        arrivals = [_Arrivals() for _ in range(n_nodes)]
        for arrival in arrivals:
            node = Node(
                Identity.generate(),
                listen=[_LISTEN],
                extenders=[*extenders(), arrival],
                config=config,
                network_secret=network_secret,
            )
            nodes.append(await stack.enter_async_context(node))
        for idx, node in enumerate(nodes):
            for other, arrival in zip(nodes[idx + 1 :], arrivals[idx + 1 :], strict=True):
                await node.connect(other.address)
                await arrival.wait_for(node.id)
        yield Network(tuple(nodes))


@asynccontextmanager
async def conserved() -> AsyncIterator[list[Node]]:
    """Check that a block leaves nothing behind: no tasks, descriptors, or memory of the nodes that it puts in the list.

    The nodes must be closed inside of the block. Raises `AssertionError` that lists what is left.
    """
    nodes: list[Node] = []
    await _warm_up()
    tasks, n_descriptors = asyncio.all_tasks(), _descriptors_count()
    yield nodes
    left = [f"task {task.get_name()}: {task.get_coro()}" for task in asyncio.all_tasks() - tasks]
    if _descriptors_count() > n_descriptors:
        left.append(f"{_descriptors_count() - n_descriptors} file descriptors")
    for node in nodes:
        left += [f"{node!r}: {n} {name}" for name, n in node.remains().items() if n]
    if left:
        raise AssertionError("left behind: " + "; ".join(left))


_is_warm = False


async def _warm_up() -> None:
    """Let the first node of the process have made what stays: libuv keeps a pipe."""
    global _is_warm
    if not _is_warm:
        async with Node(Identity.generate()):
            _is_warm = True


def _descriptors_count() -> int:
    return len(os.listdir("/dev/fd"))
