# SPDX-License-Identifier: MIT
"""py-libp2p over TCP with what it picks by itself (Noise, Yamux). It needs trio, which runs in a thread of its own."""

import asyncio
import json
import os
import sys
import threading
import time
from typing import Any

from benchmarks.program import distribution_version, ports_free
from benchmarks.role import CHUNK_LEN, MESSAGE_LEN
from qg.measured import percentiles, role_serve

HOST = "127.0.0.1"
PROTOCOL = "/qg-benchmark/1"


def version() -> str:
    return distribution_version("libp2p")


class Host:
    """A libp2p host in a thread; `call` runs a coroutine function there and waits for it."""

    def __init__(self, port: int) -> None:
        import multiaddr
        import trio
        from libp2p import new_host

        self._listen = [multiaddr.Multiaddr(f"/ip4/{HOST}/tcp/{port}")]
        self._trio, self.host = trio, new_host(listen_addrs=self._listen)
        self._is_up = threading.Event()
        threading.Thread(target=trio.run, args=[self._run], daemon=True).start()
        self._is_up.wait()

    async def _run(self) -> None:
        async with self.host.run(listen_addrs=self._listen):
            self._token = self._trio.lowlevel.current_trio_token()
            self._is_up.set()
            await self._trio.sleep_forever()

    def call(self, work: Any, *arguments: Any) -> Any:
        return self._trio.from_thread.run(work, *arguments, trio_token=self._token)


class Server:
    def __init__(self, service: str) -> None:
        self._received_len = 0
        self._changed = threading.Condition()
        port = ports_free(1)[0]
        host = Host(port)
        host.host.set_stream_handler(PROTOCOL, {"sink": self._sink, "echo": self._echo}[service])
        self.hello = {"address": f"/ip4/{HOST}/tcp/{port}/p2p/{host.host.get_id()}"}

    async def _sink(self, stream: Any) -> None:
        while chunk := await stream.read(CHUNK_LEN):
            with self._changed:
                self._received_len += len(chunk)
                self._changed.notify()

    async def _echo(self, stream: Any) -> None:
        while message := await stream.read(MESSAGE_LEN):
            await stream.write(message)

    async def received(self, total: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._received_len >= total)


class Client:
    def __init__(self, address: str) -> None:
        self._host = Host(0)
        self._stream = self._host.call(self._open, address)

    async def _open(self, address: str) -> Any:
        import multiaddr
        from libp2p.peer.peerinfo import info_from_p2p_addr

        info = info_from_p2p_addr(multiaddr.Multiaddr(address))
        await self._host.host.connect(info)
        return await self._host.host.new_stream(info.peer_id, [PROTOCOL])

    async def send(self, length: int) -> None:
        self._host.call(self._send, length)

    async def _send(self, length: int) -> None:
        chunk = os.urandom(CHUNK_LEN)
        for _ in range(length // CHUNK_LEN):
            await self._stream.write(chunk)

    async def ping(self, n: int) -> dict[str, float]:
        return percentiles(self._host.call(self._ping, n))

    async def _ping(self, n: int) -> list[int]:
        message = os.urandom(MESSAGE_LEN)
        samples_ns = []
        for _ in range(n):
            started_ns = time.perf_counter_ns()
            await self._stream.write(message)
            n_left = MESSAGE_LEN
            while n_left:
                n_left -= len(await self._stream.read(n_left))
            samples_ns.append(time.perf_counter_ns() - started_ns)
        return samples_ns


def main() -> None:
    role, argument = sys.argv[1:]
    if role == "server":
        server = Server(argument)
        asyncio.run(role_serve({"received": server.received}, server.hello))
    else:
        client = Client(**json.loads(argument))
        asyncio.run(role_serve({"send": client.send, "ping": client.ping}, {}))


if __name__ == "__main__":
    main()
