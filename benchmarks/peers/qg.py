# SPDX-License-Identifier: MIT
"""qg through its public Python API: the same services and commands as the TLS peers, and a relay.

A service is an extender, so a server offers all of them whatever the harness asks for. Every session of `handshakes`
and `hold` has an identity of its own.
"""

import asyncio
import json
import os
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

import qg
from benchmarks.role import CHUNK_LEN, MESSAGE_LEN, Tally, times_at_once
from qg.measured import Commands, config_make, percentiles, relay_config, role_serve

HOST = "127.0.0.1"
BUSY_S = 0.1
LOOK_S = 0.02


def version() -> str:
    return f"qg {qg.__version__} of this tree"


class Sink(qg.Extender):
    """Count what comes."""

    id = qg.ExtenderId("0d6fb5a5-6a34-4ce5-8a4f-3b1d7b0c7a01")

    def __init__(self) -> None:
        self.received = Tally()

    async def on_stream(self, stream: qg.Stream) -> None:
        async for chunk in stream:
            self.received.add(len(chunk))


class Echo(qg.Extender):
    """Give back what comes."""

    id = qg.ExtenderId("0d6fb5a5-6a34-4ce5-8a4f-3b1d7b0c7a02")

    async def on_stream(self, stream: qg.Stream) -> None:
        async for chunk in stream:
            await stream.write(chunk)


def node_make(suite: str, secret: str, **options: Any) -> qg.Node:
    """A node with a throw-away identity; `secret` is that of a network in which relays serve, "" for none."""
    network = qg.NetworkSecret.parse(secret) if secret else None
    options = {"config": config_make(suite)} | options
    return qg.Node(qg.Identity.generate(), network_secret=network, **options)


async def server_main(_service: str, suite: str, secret: str = "") -> None:
    sink = Sink()

    async def opened(total: int) -> None:
        """Return once there have been so many sessions; those of throw-away identities come to no extender."""
        while node.totals().counters["handshakes"] < total:
            await asyncio.sleep(LOOK_S)

    async def closed(total: int) -> None:
        await opened(total)
        while node.peers:
            await asyncio.sleep(LOOK_S)

    async with node_make(suite, secret, listen=[f"tcp://{HOST}:0"], extenders=[sink, Echo()]) as node:
        commands = {"received": sink.received.reach, "opened": opened, "closed": closed}
        await role_serve(commands, {"address": str(node.address)})


async def threads() -> list[int]:
    """Say which threads are Python's; the harness counts the others."""
    return [thread.native_id or 0 for thread in threading.enumerate()]


def spin() -> None:
    while True:
        pass


def rated(config: qg.Config, rate_kib_s: str) -> qg.Config:
    """The same with a rate for all that the node sends; "0": none."""
    per_s = int(rate_kib_s)
    return msgspec.structs.replace(config, rates=qg.RatesConfig(node_kib_s=per_s, node_burst_kib=per_s // 16))


async def relay_main(load: str, host: str, target: str, suite: str, secret: str, rate_kib_s: str = "0") -> None:
    """Relay to that address, while the process does nothing else (`resting`) or is `spinning`."""
    if load == "spinning":
        threading.Thread(target=spin, daemon=True).start()
    config = rated(config_make(suite, relay_config(qg.Address.parse(target).port)), rate_kib_s)
    async with node_make(suite, secret, listen=[f"tcp://{host}:0"], config=config) as node:
        await role_serve({"threads": threads}, {"address": str(node.address)})


class Client:
    def __init__(self, node: qg.Node, address: str) -> None:
        self._node, self._address = node, address
        self._via: list[str] = []
        self._n_streams = 1
        self._idle: list[qg.Peer] = []
        self._identities: list[qg.Identity] = []
        self._unused = iter(self._identities)
        self._streams: list[qg.Stream] = []

    async def route(self, via: list[str], n_streams: int = 1) -> None:
        """Reach the server over these relays from now on, by circuits of their own for so many streams."""
        self._via, self._n_streams = via, n_streams

    async def _opened(self, service: qg.ExtenderId) -> list[qg.Stream]:
        while len(self._streams) < self._n_streams:
            peer = await self._node.connect(self._address, via=self._via)
            self._streams.append(await peer.open_stream(service))
        return self._streams

    async def send(self, length: int, chunk_len: int = CHUNK_LEN) -> None:
        """Send so much in all, in writes of that length."""
        streams = await self._opened(Sink.id)
        n_chunks = length // len(streams) // chunk_len
        await asyncio.gather(*(chunks_send(stream, n_chunks, chunk_len) for stream in streams))

    async def ping(self, n: int) -> dict[str, float]:
        (stream,) = await self._opened(Echo.id)
        message = os.urandom(MESSAGE_LEN)
        samples_ns = []
        for _ in range(n):
            started_ns = time.perf_counter_ns()
            await stream.write(message)
            await stream.readexactly(MESSAGE_LEN)
            samples_ns.append(time.perf_counter_ns() - started_ns)
        return percentiles(samples_ns)

    async def chat(self, n: int, gap_s: float) -> dict[str, float]:
        """Let each stream ask and get an answer `n` times, with pauses of `gap_s` on average."""
        samples_ns: list[int] = []
        await asyncio.gather(*(chat_lane(stream, n, gap_s, samples_ns) for stream in await self._opened(Echo.id)))
        return percentiles(samples_ns)

    async def flood(self) -> None:
        """Send from now on, until `flooded`."""
        (stream,) = await self._opened(Sink.id)
        self._flooding = asyncio.create_task(self._flood(stream))

    async def _flood(self, stream: qg.Stream) -> None:
        self._n_flooded, chunk = 0, os.urandom(CHUNK_LEN)
        while True:
            await stream.write(chunk)
            self._n_flooded += CHUNK_LEN

    async def flooded(self) -> int:
        self._flooding.cancel()
        return self._n_flooded

    async def prepare(self, n: int) -> None:
        """Make the identities of n handshakes, which stay: what is measured is the handshake."""
        self._identities = [qg.Identity.generate() for _ in range(n)]
        self._unused = iter(self._identities)

    async def _handshake(self) -> None:
        peer = await self._node.connect(self._address, identity=next(self._unused))
        await peer.close()

    async def handshakes(self, n: int, n_in_flight: int) -> None:
        await times_at_once(n, n_in_flight, self._handshake)

    async def _hold(self) -> None:
        identity = qg.Identity.generate()
        while True:
            try:
                self._idle.append(await self._node.connect(self._address, via=self._via, identity=identity))
                return
            except qg.Busy:  # a relay opens no more than some hundred circuits a second over one link
                await asyncio.sleep(BUSY_S)

    async def hold(self, n: int, n_in_flight: int) -> None:
        await times_at_once(n, n_in_flight, self._hold)


async def chunks_send(stream: qg.Stream, n_chunks: int, chunk_len: int) -> None:
    chunk = os.urandom(chunk_len)
    for _ in range(n_chunks):
        await stream.write(chunk)


async def chat_lane(stream: qg.Stream, n: int, gap_s: float, samples_ns: list[int]) -> None:
    message = os.urandom(MESSAGE_LEN)
    for _ in range(n):
        await asyncio.sleep(random.uniform(0, 2 * gap_s))
        started_ns = time.perf_counter_ns()
        await stream.write(message)
        await stream.readexactly(MESSAGE_LEN)
        samples_ns.append(time.perf_counter_ns() - started_ns)


async def client_main(server_hello: str, suite: str, secret: str = "", rate_kib_s: str = "0") -> None:
    async with node_make(suite, secret, config=rated(config_make(suite), rate_kib_s)) as node:
        client = Client(node, json.loads(server_hello)["address"])
        commands: Commands = {
            "route": client.route,
            "send": client.send,
            "ping": client.ping,
            "chat": client.chat,
            "flood": client.flood,
            "flooded": client.flooded,
            "prepare": client.prepare,
            "handshakes": client.handshakes,
            "hold": client.hold,
        }
        await role_serve(commands, {})


ROLES: dict[str, Callable[..., Awaitable[None]]] = {"server": server_main, "relay": relay_main, "client": client_main}

if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    asyncio.run(ROLES[role](*arguments))  # type: ignore[arg-type]
