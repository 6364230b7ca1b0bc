# SPDX-License-Identifier: MIT
"""qg through its public Python API: the same services and commands as the TLS peers, and a relay.

A service is an extender, so a server offers all of them whatever the harness asks for. Every session of `handshakes`
and `hold` has an identity of its own.
"""

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import qg
from benchmarks.role import CHUNK_LEN, MESSAGE_LEN, Tally, times_at_once
from qg.cli.child import Commands, percentiles, role_serve
from qg.cli.roles import config_make, relay_config

HOST = "127.0.0.1"


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


class Counted(qg.Extender):
    """Count peers that come and go."""

    id = qg.ExtenderId("0d6fb5a5-6a34-4ce5-8a4f-3b1d7b0c7a03")

    def __init__(self) -> None:
        self.opened, self.closed = Tally(), Tally()

    async def on_peer_connected(self, peer: qg.Peer) -> None:
        self.opened.add(1)

    async def on_peer_disconnected(self, peer: qg.Peer) -> None:
        self.closed.add(1)


def node_make(suite: str, secret: str, **options: Any) -> qg.Node:
    """A node with a throw-away identity; `secret` is that of a network in which relays serve, "" for none."""
    network = qg.NetworkSecret.parse(secret) if secret else None
    options = {"config": config_make(suite)} | options
    return qg.Node(qg.Identity.generate(), network_secret=network, **options)


async def server_main(_service: str, suite: str, secret: str = "") -> None:
    sink, counted = Sink(), Counted()
    commands = {"received": sink.received.reach, "opened": counted.opened.reach, "closed": counted.closed.reach}
    async with node_make(suite, secret, listen=[f"tcp://{HOST}:0"], extenders=[sink, Echo(), counted]) as node:
        await role_serve(commands, {"address": str(node.address)})


async def threads() -> list[int]:
    """Say which threads are Python's; the harness counts the others."""
    return [thread.native_id or 0 for thread in threading.enumerate()]


def spin() -> None:
    while True:
        pass


async def relay_main(load: str, host: str, target: str, suite: str, secret: str) -> None:
    """Relay to that address, while the process does nothing else (`resting`) or is `spinning`."""
    if load == "spinning":
        threading.Thread(target=spin, daemon=True).start()
    config = config_make(suite, relay_config(qg.Address.parse(target).port))
    async with node_make(suite, secret, listen=[f"tcp://{host}:0"], config=config) as node:
        await role_serve({"threads": threads}, {"address": str(node.address)})


class Client:
    def __init__(self, node: qg.Node, address: str) -> None:
        self._node, self._address = node, address
        self._via: list[str] = []
        self._idle: list[qg.Peer] = []
        self._identities: list[qg.Identity] = []
        self._unused = iter(self._identities)
        self._stream: qg.Stream | None = None

    async def _opened(self, service: qg.ExtenderId) -> qg.Stream:
        if not self._stream:
            peer = await self._node.connect(self._address, via=self._via)
            self._stream = await peer.open_stream(service)
        return self._stream

    async def route(self, via: list[str]) -> None:
        """Reach the server over these relays from now on."""
        self._via = via

    async def send(self, length: int) -> None:
        stream = await self._opened(Sink.id)
        chunk = os.urandom(CHUNK_LEN)
        for _ in range(length // CHUNK_LEN):
            await stream.write(chunk)

    async def ping(self, n: int) -> dict[str, float]:
        stream = await self._opened(Echo.id)
        message = os.urandom(MESSAGE_LEN)
        samples_ns = []
        for _ in range(n):
            started_ns = time.perf_counter_ns()
            await stream.write(message)
            await stream.readexactly(MESSAGE_LEN)
            samples_ns.append(time.perf_counter_ns() - started_ns)
        return percentiles(samples_ns)

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
        self._idle.append(await self._node.connect(self._address, identity=qg.Identity.generate()))

    async def hold(self, n: int, n_in_flight: int) -> None:
        await times_at_once(n, n_in_flight, self._hold)


async def client_main(server_hello: str, suite: str, secret: str = "") -> None:
    async with node_make(suite, secret) as node:
        client = Client(node, json.loads(server_hello)["address"])
        commands: Commands = {
            "route": client.route,
            "send": client.send,
            "ping": client.ping,
            "prepare": client.prepare,
            "handshakes": client.handshakes,
            "hold": client.hold,
        }
        await role_serve(commands, {})


ROLES: dict[str, Callable[..., Awaitable[None]]] = {"server": server_main, "relay": relay_main, "client": client_main}

if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    asyncio.run(ROLES[role](*arguments))  # type: ignore[arg-type]
