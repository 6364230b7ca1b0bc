# SPDX-License-Identifier: MIT
"""The processes that `qg demo` and `qg bench` measure: `python -m qg.cli.roles sender|relay|receiver SETTINGS`."""

import asyncio
import hashlib
import json
import os
import re
import resource
import shutil
import sys
import sysconfig
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import qg
from qg._core.crypto import null_cipher_allow
from qg.cli.common import descriptors_raise
from qg.cli.tree import tar_digest, tree_digest
from qg.extenders.echo import Echo
from qg.extenders.files import FileReceiver, file_send

Commands = Mapping[str, Callable[..., Awaitable[Any]]]

_LISTEN = ["tcp://127.0.0.1:0"]
_CHUNK_LEN = 64 * 1024
_MESSAGE_LEN = 64
_FILE_BLOCK_LEN = 1 << 20
# Best first: a suite is chosen by refusing those before it.
_SUITES_REMOVED: dict[str, Any] = {
    "aegis-256": (),
    "aes-256-gcm": ("aegis-256",),
    "chacha20-poly1305": ("aegis-256", "aes-256-gcm"),
    "null": (),
}
# Everybody here has one address, and more comes from it at once than an honest network sends.
_LIMITS = qg.LimitsConfig(
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


def _config_make(suite: str | None, relay: "qg.RelayConfig | None" = None) -> "qg.Config":
    """The defaults, padding included, but for the suite and for limits that would be measured instead of the work."""
    if suite == "null":
        null_cipher_allow()
    link = qg.LinkConfig(suites_removed=_SUITES_REMOVED[suite] if suite else ())
    return qg.Config(link=link, limits=_LIMITS, relay=relay or qg.RelayConfig())


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

    async def take(self, peer: "qg.Peer") -> None:
        """Count those of one peer, until it goes."""
        async for batch in peer.messages(self.id):
            self.n_messages += len(batch)


def _usage() -> dict[str, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"at_s": time.monotonic(), "cpu_s": usage.ru_utime + usage.ru_stime}


async def _memory() -> dict[str, int]:
    """Bytes of this process in memory, now and at the most."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:  # not Linux
        peak_len = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"resident_len": peak_len, "peak_len": peak_len}
    now_len, peak_len = (int(re.findall(rf"{name}:\s+(\d+) kB", text)[0]) << 10 for name in ("VmRSS", "VmHWM"))
    return {"resident_len": now_len, "peak_len": peak_len}


class Sender:
    """What a sender does for the one who measures."""

    def __init__(self, node: "qg.Node") -> None:
        self._node = node
        self._held: list[qg.Peer] = []
        self._target: qg.Peer | None = None
        self._pushing: asyncio.Task[None] | None = None

    @property
    def _peer(self) -> "qg.Peer":
        assert self._target, "connect first"
        return self._target

    async def connect(self, address: str, via: Sequence[str] = ()) -> dict[str, Any]:
        """Connect; say how long it took and with which suite."""
        started_s = time.perf_counter()
        self._target = peer = await self._node.connect(address, via=via or None)
        connect_ms = (time.perf_counter() - started_s) * 1e3
        return {"ms": connect_ms, "suite": peer.suite}

    async def push(self, what: str) -> None:
        """Send "bytes" or "messages" to the sink without end, until `push_end`."""
        self._pushing = asyncio.create_task(self._push_bytes() if what == "bytes" else self._push_messages())

    async def push_end(self) -> None:
        assert self._pushing
        self._pushing.cancel()
        with suppress(asyncio.CancelledError):
            await self._pushing

    async def _push_bytes(self) -> None:
        stream = await self._peer.open_stream(Sink.id)
        chunk = os.urandom(_CHUNK_LEN)
        while True:
            await stream.write(chunk)

    async def _push_messages(self) -> None:
        message = os.urandom(_MESSAGE_LEN)
        while True:
            await self._peer.send(Mailbox.id, message)

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
        rtts_ns.sort()
        return {"p50_us": rtts_ns[len(rtts_ns) // 2] / 1e3, "p99_us": rtts_ns[len(rtts_ns) * 99 // 100] / 1e3}

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
        return (await file_send(self._peer, path)).size


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
    shutil.copytree(sysconfig.get_path("stdlib"), path, ignore=ignored, symlinks=True)
    return tree_digest(path)


async def _sender_main(suite: str | None) -> None:
    identity = qg.Identity.generate()
    async with qg.Node(identity, config=_config_make(suite)) as node:
        sender = Sender(node)
        names = "connect push push_end ping handshakes hold file_make tree_make file_send".split()
        await _serve({name: getattr(sender, name) for name in names}, {"peer_id": str(identity.peer_id)})


async def _relay_main(suite: str | None, sender_id: str, target: str) -> None:
    """Relay for that sender, to that address only; loopback is dialled because it is listed."""
    address = qg.Address.parse(target)
    relay = qg.RelayConfig(
        allow=(qg.PeerId(sender_id),), targets=(qg.Prefix.parse(f"{address.host}/32"),), ports=(address.port,)
    )
    async with qg.Node(qg.Identity.generate(), listen=_LISTEN, config=_config_make(suite, relay)) as node:

        def counts() -> dict[str, float]:
            return {"n_relayed": node.status().relayed_bytes}

        await _serve({}, {"address": str(node.address)}, counts)


async def _receiver_main(suite: str | None, folder: str) -> None:
    sink, mailbox = Sink(), Mailbox()

    async def file_digest(name: str) -> str:
        with open(Path(folder, name), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    async def archive_digest(name: str) -> dict[str, Any]:
        return await asyncio.to_thread(tar_digest, Path(folder, name))

    async def messages_take() -> None:
        tasks.extend(asyncio.create_task(mailbox.take(peer)) for peer in node.peers)

    def counts() -> dict[str, float]:
        return {"n_bytes": sink.n_bytes, "n_messages": mailbox.n_messages}

    tasks: list[asyncio.Task[None]] = []
    extenders = [sink, mailbox, Echo(), FileReceiver(folder)]
    async with qg.Node(qg.Identity.generate(), listen=_LISTEN, extenders=extenders, config=_config_make(suite)) as node:
        commands: Commands = {
            "file_digest": file_digest,
            "tar_digest": archive_digest,
            "messages_take": messages_take,
        }
        await _serve(commands, {"address": str(node.address)}, counts)


async def _serve(
    commands: Commands, hello: dict[str, Any], counts: Callable[[], dict[str, float]] = lambda: {}
) -> None:
    """Say `hello`, then run one command after the other until standard input ends."""

    async def usage() -> dict[str, float]:
        return _usage() | counts()

    commands = {"usage": usage, "memory": _memory, **commands}
    requests = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)
    print(json.dumps({"ok": hello}), flush=True)
    while line := await requests.readline():
        request = json.loads(line)
        try:
            answer = {"ok": await commands[request.pop("do")](**request)}
        except (qg.QGError, OSError) as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


_ROLES: dict[str, Callable[..., Awaitable[None]]] = {
    "sender": _sender_main,
    "relay": _relay_main,
    "receiver": _receiver_main,
}

if __name__ == "__main__":
    descriptors_raise()
    with suppress(KeyboardInterrupt):
        asyncio.run(_ROLES[sys.argv[1]](**json.loads(sys.argv[2])))  # type: ignore[arg-type]
