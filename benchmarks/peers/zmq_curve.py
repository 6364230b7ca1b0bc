# SPDX-License-Identifier: MIT
"""ZeroMQ with CURVE through pyzmq: blocking sockets of type PAIR, keys made now.

Bulk goes in messages of 1 MiB without copies, 64-byte messages one by one with them, each of which is what pyzmq does
best. `messages` counts them at the receiver.
"""

import asyncio
import json
import os
import sys
import threading
import time

from benchmarks.program import distribution_version
from benchmarks.role import MESSAGE_LEN
from qg.measured import percentiles, role_serve

HOST = "127.0.0.1"
BULK_MESSAGE_LEN = 1 << 20
BULK_HELD = 16  # messages of that length on each side, at most


def version() -> str:
    name = distribution_version("pyzmq")
    import zmq

    return f"{name}, libzmq {zmq.zmq_version()}"


def socket_make(service: str):
    import zmq

    connection = zmq.Context.instance().socket(zmq.PAIR)
    connection.linger = 0
    if service == "sink":
        connection.set_hwm(BULK_HELD)
    return connection


class Server:
    def __init__(self, service: str) -> None:
        import zmq

        public, secret = zmq.curve_keypair()
        self._socket = socket_make(service)
        self._socket.curve_server, self._socket.curve_secretkey = True, secret
        port = self._socket.bind_to_random_port(f"tcp://{HOST}")
        self.hello = {"port": port, "public": public.decode(), "service": service}
        self._n = 0
        if service == "echo":
            threading.Thread(target=self._echo, daemon=True).start()

    def _echo(self) -> None:
        while True:
            self._socket.send(self._socket.recv())

    async def received(self, total: int) -> None:
        while self._n < total:
            self._n += len(self._socket.recv(copy=False).buffer)

    async def received_messages(self, total: int) -> None:
        recv = self._socket.recv
        while self._n < total:
            recv()
            self._n += 1


class Client:
    def __init__(self, port: int, public: str, service: str) -> None:
        import zmq

        self._socket = socket_make(service)
        self._socket.curve_publickey, self._socket.curve_secretkey = zmq.curve_keypair()
        self._socket.curve_serverkey = public.encode()
        self._socket.connect(f"tcp://{HOST}:{port}")

    async def send(self, length: int) -> None:
        message = os.urandom(BULK_MESSAGE_LEN)
        for _ in range(length // BULK_MESSAGE_LEN):
            self._socket.send(message, copy=False)

    async def messages(self, n: int) -> None:
        message, send = os.urandom(MESSAGE_LEN), self._socket.send
        for _ in range(n):
            send(message)

    async def ping(self, n: int) -> dict[str, float]:
        message = os.urandom(MESSAGE_LEN)
        samples_ns = []
        for _ in range(n):
            started_ns = time.perf_counter_ns()
            self._socket.send(message)
            self._socket.recv()
            samples_ns.append(time.perf_counter_ns() - started_ns)
        return percentiles(samples_ns)


def main() -> None:
    role, argument = sys.argv[1:]
    if role == "server":
        server = Server(argument)
        commands = {"received": server.received, "received_messages": server.received_messages}
        asyncio.run(role_serve(commands, server.hello))
    else:
        client = Client(**json.loads(argument))
        asyncio.run(role_serve({"send": client.send, "messages": client.messages, "ping": client.ping}, {}))


if __name__ == "__main__":
    main()
