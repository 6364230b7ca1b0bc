# SPDX-License-Identifier: MIT
"""Blocking TCP sockets and nothing else: what the kernel alone costs, and what drives tunnels, also over SOCKS5."""

import asyncio
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from socket import IPPROTO_TCP, TCP_NODELAY, create_connection, create_server, socket

from benchmarks.role import CHUNK_LEN, MESSAGE_LEN
from qg.measured import percentiles, role_serve

HOST = "127.0.0.1"
READ_LEN = 1 << 20

N_TRIES = 5  # to connect over a proxy


def version() -> str:
    return f"{platform.system()} {platform.release()}"


class Server:
    """Serve every connection in a thread of its own: count what comes and throw it away, or echo."""

    def __init__(self, service: str) -> None:
        self._listener = create_server((HOST, 0), backlog=128)
        self._received_len = 0
        self._changed = threading.Condition()
        serve = {"sink": self._sink, "echo": self._echo}[service]
        threading.Thread(target=self._accept, args=[serve], daemon=True).start()

    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def _accept(self, serve: Callable[[socket], None]) -> None:
        while True:
            threading.Thread(target=serve, args=[self._listener.accept()[0]], daemon=True).start()

    def _sink(self, connection: socket) -> None:
        buf = bytearray(READ_LEN)
        while n_read := connection.recv_into(buf):
            with self._changed:
                self._received_len += n_read
                self._changed.notify()

    def _echo(self, connection: socket) -> None:
        connection.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        while message := connection.recv(MESSAGE_LEN):
            connection.sendall(message)

    async def received(self, total: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._received_len >= total)


class Client:
    """Connect as often as told; over SOCKS with a name of its own each, a circuit of its own to tor, or user ""."""

    def __init__(self, port: int, socks_port: int = 0, n_streams: int = 1, user: str | None = None) -> None:
        if socks_port:
            user = str(os.getpid()) if user is None else user
            names = [f"{user}-{idx}" if user else "" for idx in range(n_streams)]
            self._connections = [socks_connection(socks_port, port, name) for name in names]
        else:
            self._connections = [create_connection((HOST, port)) for _ in range(n_streams)]
        for connection in self._connections:
            connection.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)

    async def send(self, length: int, chunk_len: int = CHUNK_LEN) -> None:
        """Send so much in all, in writes of that length."""
        n_chunks = length // len(self._connections) // chunk_len
        threads = [threading.Thread(target=chunks_send, args=[c, n_chunks, chunk_len]) for c in self._connections]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    async def ping(self, n: int) -> dict[str, float]:
        connection = self._connections[0]
        message = os.urandom(MESSAGE_LEN)
        samples_ns = []
        for _ in range(n):
            started_ns = time.perf_counter_ns()
            connection.sendall(message)
            connection.recv(MESSAGE_LEN)
            samples_ns.append(time.perf_counter_ns() - started_ns)
        return percentiles(samples_ns)


def chunks_send(connection: socket, n_chunks: int, chunk_len: int) -> None:
    chunk = os.urandom(chunk_len)
    for _ in range(n_chunks):
        connection.sendall(chunk)


def socks_connection(socks_port: int, port: int, user: str) -> socket:
    """Connect over a proxy; tor fails now and then to build a circuit, and then takes a new one for another user."""
    for turn in range(N_TRIES):
        connection = create_connection((HOST, socks_port))
        try:
            socks_connect(connection, port, f"{user}-{turn}".encode() if user else b"")
        except ConnectionError:
            connection.close()
            if turn == N_TRIES - 1:
                raise
        else:
            return connection
    raise AssertionError


def socks_connect(connection: socket, port: int, user: bytes) -> None:
    """Ask a SOCKS5 proxy for a port of this machine (RFC 1928, RFC 1929); without a user none is named."""
    named = [(b"\5\1\2", b"\5\2"), (b"\1" + bytes([len(user)]) + user + b"\1x", b"\1\0")]
    asked = b"\5\1\0\1\x7f\0\0\1" + port.to_bytes(2, "big"), b"\5\0\0\1"
    for request, reply in (*(named if user else [(b"\5\1\0", b"\5\0")]), asked):
        connection.sendall(request)
        if not (got := connection.recv(10)).startswith(reply):
            raise ConnectionError(f"the proxy answered {got!r} to {request!r}")


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
