# SPDX-License-Identifier: MIT
"""Blocking TCP sockets and nothing else: what the kernel alone costs, and what drives the forwarder."""

import asyncio
import json
import os
import sys
import threading
import time
from socket import IPPROTO_TCP, TCP_NODELAY, create_connection, create_server, socket

from benchmarks.role import CHUNK_LEN, MESSAGE_LEN
from qg.cli.child import percentiles, role_serve

HOST = "127.0.0.1"
READ_LEN = 1 << 20


def connection_echo(connection: socket) -> None:
    connection.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
    while message := connection.recv(MESSAGE_LEN):
        connection.sendall(message)


class Server:
    """Serve one connection: throw away what a command waits for, or echo in a thread."""

    def __init__(self, service: str) -> None:
        self._listener = create_server((HOST, 0))
        self._buf = bytearray(READ_LEN)
        self._connection: socket | None = None
        self._received_len = 0
        if service == "echo":
            threading.Thread(target=lambda: connection_echo(self._listener.accept()[0]), daemon=True).start()

    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    async def received(self, total: int) -> None:
        self._connection = self._connection or self._listener.accept()[0]
        while self._received_len < total:
            n_read = self._connection.recv_into(self._buf)
            if not n_read:
                raise ConnectionError("the other side closed the connection")
            self._received_len += n_read


class Client:
    def __init__(self, port: int) -> None:
        self._connection = create_connection((HOST, port))
        self._connection.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)

    async def send(self, length: int) -> None:
        chunk = os.urandom(CHUNK_LEN)
        for _ in range(length // CHUNK_LEN):
            self._connection.sendall(chunk)

    async def ping(self, n: int) -> dict[str, float]:
        message = os.urandom(MESSAGE_LEN)
        samples_ns = []
        for _ in range(n):
            started_ns = time.perf_counter_ns()
            self._connection.sendall(message)
            self._connection.recv(MESSAGE_LEN)
            samples_ns.append(time.perf_counter_ns() - started_ns)
        return percentiles(samples_ns)


def main() -> None:
    role, argument = sys.argv[1:]
    if role == "server":
        server = Server(argument)
        asyncio.run(role_serve({"received": server.received}, {"port": server.port()}))
    else:
        client = Client(**json.loads(argument))
        asyncio.run(role_serve({"send": client.send, "ping": client.ping}, {}))


if __name__ == "__main__":
    main()
