# SPDX-License-Identifier: MIT
"""The processes that `qg demo` and `qg bench` measure: `python -m qg.cli.roles sender|relay|receiver SETTINGS`.

All are of one closed network, so that relays know whom they serve.
"""

import asyncio
import hashlib
import json
import os
import shutil
import statistics
import sys
import sysconfig
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import qg
from qg.cli.common import descriptors_raise
from qg.cli.tree import tree_digest
from qg.extenders.echo import Echo
from qg.extenders.files import FileReceiver, files_send
from qg.measured import Commands, config_make, percentiles, relay_config, role_serve

_CHUNK_LEN = 64 * 1024
_MESSAGE_LEN = 64
_FILE_BLOCK_LEN = 1 << 20


class Sink(qg.Extender):
    """Count bytes that come."""

    id = qg.ExtenderId("9b442a33-ce34-4aa5-bedc-8b39db66f119")
    n_bytes = 0

    async def on_stream(self, stream: "qg.Stream") -> None:
        async for chunk in stream:
            self.n_bytes += len(chunk)


class Mailbox(qg.Extender):
    """Count messages, in batches as they come."""

    id = qg.ExtenderId("4d6fc18e-6650-4cf8-a6c2-f03155cb5eb4")
    n_messages = 0

    def __init__(self) -> None:
        self.has_peer = asyncio.Event()

    async def on_peer_connected(self, peer: "qg.Peer") -> None:
        self.has_peer.set()

    async def take(self, peer: "qg.Peer") -> None:
        """Count those of one peer, until it goes."""
        async for batch in peer.messages(self.id):
            self.n_messages += len(batch)


class Sender:
    """What a sender does for the one who measures."""

    def __init__(self, node: "qg.Node") -> None:
        self._node = node
        self._held: list[qg.Peer] = []
        self._targets: list[qg.Peer] = []
        self._pushing: asyncio.Future[Any] | None = None

    @property
    def _peer(self) -> "qg.Peer":
        assert self._targets, "connect first"
        return self._targets[0]

    async def connect(self, address: str, via: Sequence[str] = (), n_times: int = 1) -> dict[str, Any]:
        """Connect, over relays as often as told; say how long half of them took at most, and with which suite."""
        self._targets, took_ms = [], []
        for _ in range(n_times):
            started_s = time.perf_counter()
            self._targets.append(await self._node.connect(address, via=via or None))
            took_ms.append((time.perf_counter() - started_s) * 1e3)
        return {"ms": statistics.median(took_ms), "suite": self._peer.suite}

    async def push(self, what: str) -> None:
        """Send "bytes" or "messages" over all circuits to the sink without end, until `push_end`."""
        push = self._push_bytes if what == "bytes" else self._push_messages
        self._pushing = asyncio.ensure_future(asyncio.gather(*map(push, self._targets)))

    async def push_end(self) -> None:
        assert self._pushing
        self._pushing.cancel()
        with suppress(asyncio.CancelledError):
            await self._pushing

    async def _push_bytes(self, peer: "qg.Peer") -> None:
        stream = await peer.open_stream(Sink.id)
        chunk = os.urandom(_CHUNK_LEN)
        while True:
            await stream.write(chunk)

    async def _push_messages(self, peer: "qg.Peer") -> None:
        message = os.urandom(_MESSAGE_LEN)
        while True:
            await peer.send(Mailbox.id, message)

    async def ping(self, seconds: float) -> dict[str, float]:
        """Send 64 bytes to the echo and wait for them, one after the other."""
        stream = await self._peer.open_stream(Echo.id)
        message = os.urandom(_MESSAGE_LEN)
        rtts_ns = []
        now_ns = time.perf_counter_ns()
        end_ns = now_ns + int(seconds * 1e9)
        while now_ns < end_ns:
            await stream.write(message)
            await stream.readexactly(_MESSAGE_LEN)
            began_ns, now_ns = now_ns, time.perf_counter_ns()
            rtts_ns.append(now_ns - began_ns)
        stream.reset()
        return percentiles(rtts_ns)

    async def handshakes(self, address: str, seconds: float, n_in_flight: int) -> int:
        """Connect under a new identity and close, over and over, so many at a time; return how often."""
        end_s = time.perf_counter() + seconds
        n_done = 0

        async def lane() -> None:
            nonlocal n_done
            while time.perf_counter() < end_s:
                peer = await self._node.connect(address, identity=qg.Identity.generate())
                await peer.close()
                n_done += 1

        await asyncio.gather(*(lane() for _ in range(n_in_flight)))
        return n_done

    async def hold(self, address: str, n: int, n_in_flight: int) -> None:
        """Have `n` sessions in all, each under an identity of its own, and keep them."""

        async def lane(n_more: int) -> None:
            for _ in range(n_more):
                self._held.append(await self._node.connect(address, identity=qg.Identity.generate()))

        n_new = n - len(self._held)
        await asyncio.gather(*(lane((n_new + idx) // n_in_flight) for idx in range(n_in_flight)))

    async def file_make(self, path: str, size: int) -> str:
        """Write a file of random bytes; return its SHA-256."""
        return await asyncio.to_thread(_file_make, Path(path), size)

    async def tree_make(self, path: str) -> dict[str, Any]:
        """Copy Python's library there, which every machine has; return how many files it is and the digest of all."""
        return await asyncio.to_thread(_tree_make, Path(path))

    async def file_send(self, path: str) -> int:
        """Send a file or folder; return its size once the receiver has it."""
        return (await files_send(self._peer, path)).n_bytes


def _file_make(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for done_len in range(0, size, _FILE_BLOCK_LEN):
            block = os.urandom(min(_FILE_BLOCK_LEN, size - done_len))
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def _tree_make(path: Path) -> dict[str, Any]:
    ignored = shutil.ignore_patterns("site-packages", "dist-packages", "__pycache__", "test", "config-*", "*.so")
    shutil.copytree(sysconfig.get_path("stdlib"), path, ignore=ignored, ignore_dangling_symlinks=True)
    return tree_digest(path)


async def _sender_main(suite: str | None, secret: str) -> None:
    network = qg.NetworkSecret.parse(secret)
    mailbox = Mailbox()  # a receiver learns of those that have one too
    config = config_make(suite)
    async with qg.Node(qg.Identity.generate(), extenders=[mailbox], config=config, network_secret=network) as node:
        sender = Sender(node)
        names = "connect push push_end ping handshakes hold file_make tree_make file_send".split()
        await role_serve({name: getattr(sender, name) for name in names}, {})


async def _relay_main(suite: str | None, secret: str, host: str, port: int) -> None:
    """Relay to `port`, where the next of the circuit listens."""
    config, network = config_make(suite, relay_config(port)), qg.NetworkSecret.parse(secret)
    async with qg.Node(
        qg.Identity.generate(), listen=[f"tcp://{host}:0"], config=config, network_secret=network
    ) as node:

        def counts() -> dict[str, float]:
            return {"n_relayed": node.status().relayed_bytes}

        await role_serve({}, {"address": str(node.address)}, counts)


async def _receiver_main(suite: str | None, secret: str, host: str, folder: str) -> None:
    sink, mailbox = Sink(), Mailbox()

    async def file_digest(name: str) -> str:
        with open(Path(folder, name), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    async def folder_digest(name: str) -> dict[str, Any]:
        return await asyncio.to_thread(tree_digest, Path(folder, name))

    async def messages_take() -> None:
        await mailbox.has_peer.wait()  # the sender may know of the session first
        tasks.extend(asyncio.create_task(mailbox.take(peer)) for peer in node.peers)

    def counts() -> dict[str, float]:
        return {"n_bytes": sink.n_bytes, "n_messages": mailbox.n_messages}

    tasks: list[asyncio.Task[None]] = []
    async with qg.Node(
        qg.Identity.generate(),
        listen=[f"tcp://{host}:0"],
        extenders=[sink, mailbox, Echo(), FileReceiver(folder)],
        config=config_make(suite),
        network_secret=qg.NetworkSecret.parse(secret),
    ) as node:
        commands: Commands = {
            "file_digest": file_digest,
            "tree_digest": folder_digest,
            "messages_take": messages_take,
        }
        await role_serve(commands, {"address": str(node.address)}, counts)


_ROLES: dict[str, Callable[..., Awaitable[None]]] = {
    "sender": _sender_main,
    "relay": _relay_main,
    "receiver": _receiver_main,
}

if __name__ == "__main__":
    descriptors_raise()
    with suppress(KeyboardInterrupt):
        asyncio.run(_ROLES[sys.argv[1]](**json.loads(sys.argv[2])))  # type: ignore[arg-type]
