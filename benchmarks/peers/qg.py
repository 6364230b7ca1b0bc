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

import qg
from benchmarks.role import CHUNK_LEN, MESSAGE_LEN, Commands, Tally, percentiles, role_serve, times_at_once

LISTEN = ["tcp://127.0.0.1:0"]
SUITES_REMOVED = {"aegis-256": (), "chacha20-poly1305": ("aes-256-gcm", "aegis-256")}
# Everybody here has the same address, and more comes from it at once than an honest network sends.
LIMITS = qg.LimitsConfig(
    accepts_per_s=100_000,
    accepts_burst=100_000,
    handshakes_per_s=100_000,
    handshakes_burst=100_000,
    network_handshakes_per_s=100_000,
    network_handshakes_burst=100_000,
    node_handshakes_per_s=100_000,
    handshake_cpu_ms=100,
    network_sessions=10_000,
)


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


def config_make(suite: str, relay: qg.RelayConfig | None = None) -> qg.Config:
    """The defaults, padding included, but for the suite and for limits that would be measured instead of the work."""
    link = qg.LinkConfig(suites_removed=SUITES_REMOVED[suite])
    return qg.Config(link=link, limits=LIMITS, relay=relay or qg.RelayConfig())


async def server_main(_service: str, suite: str) -> None:
    sink, counted = Sink(), Counted()
    commands = {"received": sink.received.reach, "opened": counted.opened.reach, "closed": counted.closed.reach}
    async with qg.Node(
        qg.Identity.generate(), listen=LISTEN, extenders=[sink, Echo(), counted], config=config_make(suite)
    ) as node:
        await role_serve(commands, {"address": str(node.address)})


async def threads() -> list[int]:
    """Say which threads are Python's; the harness counts the others."""
    return [thread.native_id or 0 for thread in threading.enumerate()]


def spin() -> None:
    while True:
        pass


async def relay_main(load: str, suite: str, sender_id: str, target: str) -> None:
    """Relay for that sender to that address only, while the process does nothing else or is `spinning`."""
    if load == "spinning":
        threading.Thread(target=spin, daemon=True).start()
    address = qg.Address.parse(target)
    relay = qg.RelayConfig(
        allow=(qg.PeerId(sender_id),), targets=(qg.Prefix.parse(f"{address.host}/32"),), ports=(address.port,)
    )
    async with qg.Node(qg.Identity.generate(), listen=LISTEN, config=config_make(suite, relay)) as node:
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


async def client_main(server_hello: str, suite: str) -> None:
    identity = qg.Identity.generate()
    async with qg.Node(identity, config=config_make(suite)) as node:
        client = Client(node, json.loads(server_hello)["address"])
        commands: Commands = {
            "route": client.route,
            "send": client.send,
            "ping": client.ping,
            "prepare": client.prepare,
            "handshakes": client.handshakes,
            "hold": client.hold,
        }
        await role_serve(commands, {"peer_id": str(identity.peer_id)})


ROLES: dict[str, Callable[..., Awaitable[None]]] = {"server": server_main, "relay": relay_main, "client": client_main}

if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    asyncio.run(ROLES[role](*arguments))  # type: ignore[arg-type]
