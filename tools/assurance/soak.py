# SPDX-License-Identifier: MIT
"""Mixed traffic with churn on many nodes in one process: python -m tools.assurance.soak [--minutes M] [--nodes N]

Streams, messages and circuits run between nodes that come and go. The slope of the resident memory after the first ten
minutes (the first sixth of a shorter run) is that of a straight line through one look a second. At the end all nodes
have closed, and nothing may be left. The last line is one object of JSON.
"""

import argparse
import asyncio
import random
import resource
import socket
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from api.services import Echo

import qg
from qg.testing import conserved
from tools.assurance import finish

SLOPE_MAX = 1 << 20  # bytes an hour and node
WARM_S = 600.0
WORKERS_AT_ONCE = 8  # pieces of traffic
LIFE_S = 20.0  # between two nodes that go, over all nodes; another comes in the place of each
STEP_S = 30.0  # no piece of traffic takes longer


class Received(Echo):
    """Streams are given back, messages are taken."""

    async def on_message(self, peer: qg.Peer, message: bytes) -> None:
        """It came."""


class Soak:
    """Nodes of one process that relay for each other, and what they do."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.nodes: list[qg.Node] = []
        self.past: list[qg.Node] = []
        self.n_done = {"streams": 0, "messages": 0, "circuits": 0, "churn": 0}
        self.failed: Counter[str] = Counter()  # nodes go, and links that others used are closed

    async def node_add(self) -> None:
        loopback = (qg.Prefix.parse("127.0.0.0/8"),)
        relay = qg.RelayConfig(allow="members", targets=loopback, ports=tuple(self._ports))
        config = qg.Config(workers=1, relay=relay, limits=qg.LimitsConfig(handshake_s=5))
        node = qg.Node(qg.Identity.generate(), listen=[f"tcp://127.0.0.1:{self._ports_left.pop()}"],
                       extenders=[Received()], config=config, network_secret=self._secret)  # fmt: skip
        await node.start()
        self.nodes.append(node)

    async def begin(self, n_nodes: int) -> None:
        self._secret = qg.NetworkSecret.generate()
        self._ports = ports_free(n_nodes)
        self._ports_left = list(self._ports)
        for _ in range(n_nodes):
            await self.node_add()

    async def churn(self) -> None:
        """Let a node go, and another one come."""
        gone = self._random.choice(self.nodes)
        self.nodes.remove(gone)
        port = gone.address.port
        await gone.close()
        self.past.append(gone)
        if len(self.past) > 8:
            left = self.past.pop(0).remains()
            assert not any(left.values()), left
        self._ports_left.append(port)
        await self.node_add()
        self.n_done["churn"] += 1

    async def step(self) -> None:
        """One piece of traffic between nodes by chance; it may fail, since nodes go."""
        near, far, *relays = self._random.sample(self.nodes, min(4, len(self.nodes)))
        what = self._random.choice(("streams", "messages", "circuits"))
        via = [relay.address for relay in relays] if what == "circuits" else ()
        try:
            async with asyncio.timeout(STEP_S):
                peer = await near.connect(far.address, via=via)
                if what == "messages":
                    for _ in range(20):
                        await peer.send(Echo.id, self._random.randbytes(self._random.randint(1, 20_000)))
                else:
                    await echoed(peer, self._random.randbytes(self._random.randint(1, 300_000)))
                if self._random.random() < 0.5:
                    await peer.close()
                self.n_done[what] += 1
        except* (qg.QGError, TimeoutError) as errors:
            for error in errors.exceptions:
                self.failed[f"{what}: {type(error).__name__}"] += 1


def ports_free(n: int) -> list[int]:
    """Ports that the system gives to nobody by itself."""
    found: list[int] = []
    while len(found) < n:
        port = random.randint(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
    return found


def resident_len() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def slope(looks: list[tuple[float, int]]) -> float:
    """Bytes a second of the straight line through the looks, by least squares."""
    middle_s, middle = (sum(column) / len(looks) for column in zip(*looks, strict=True))
    spread = sum((s - middle_s) ** 2 for s, _ in looks)
    return sum((s - middle_s) * (n - middle) for s, n in looks) / spread if spread else 0.0


async def echoed(peer: qg.Peer, data: bytes) -> None:
    async with await peer.open_stream(Echo.id) as stream, asyncio.TaskGroup() as group:
        group.create_task(stream.write(data))
        assert await stream.readexactly(len(data)) == data


async def repeat(work: Any, until_s: float, pause_s: float) -> None:
    while time.monotonic() < until_s:
        await asyncio.sleep(pause_s)
        await work()


async def looked(looks: list[tuple[float, int]], until_s: float) -> None:
    while time.monotonic() < until_s:
        looks.append((time.monotonic(), resident_len()))
        await asyncio.sleep(1)


async def soaked(n_nodes: int, seconds: float, seed: int) -> dict[str, Any]:
    """Run it, close everything, and check that nothing is left; raises AssertionError with what is."""
    looks: list[tuple[float, int]] = []
    async with conserved() as closed:
        soak = Soak(seed)
        try:
            await soak.begin(n_nodes)
            began = time.monotonic()
            until_s = began + seconds
            life_s = min(LIFE_S, seconds / 6)
            async with asyncio.TaskGroup() as group:
                for _ in range(WORKERS_AT_ONCE):
                    group.create_task(repeat(soak.step, until_s, 0.05))
                group.create_task(repeat(soak.churn, until_s, life_s))
                group.create_task(looked(looks, until_s))
        finally:
            for node in soak.nodes:
                await node.close()
        closed += soak.nodes + soak.past
    warm_s = began + min(WARM_S, seconds / 6)
    per_hour = slope([look for look in looks if look[0] >= warm_s]) * 3600 / n_nodes
    return {
        "seed": seed, "nodes": n_nodes, "seconds": seconds, "done": soak.n_done, "failed": soak.failed,
        "resident_mib": looks[-1][1] / (1 << 20), "slope_bytes_per_hour_and_node": per_hour,
        "slope_max": SLOPE_MAX, "left": sum(sum(node.remains().values()) for node in closed),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Mixed traffic with churn on many nodes.")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    figures = asyncio.run(soaked(arguments.nodes, arguments.minutes * 60, seed))
    finish("soak", figures["slope_bytes_per_hour_and_node"] < SLOPE_MAX and figures["left"] == 0, **figures)


if __name__ == "__main__":
    main()
