# SPDX-License-Identifier: MIT
"""Reticulum over a TCP interface of loopback: bulk as resources, its way for large data, round trips as packets.

Each end is an instance of its own, with that interface alone and settings in a folder that ends with the process.
"""

import asyncio
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.program import distribution_version, ports_free
from benchmarks.role import MESSAGE_LEN
from qg.measured import percentiles, role_serve

HOST = "127.0.0.1"
RESOURCE_LEN = 1 << 20
NAME = ("qg", "benchmark")
SETTINGS = """[reticulum]
enable_transport = no
share_instance = no
[interfaces]
  [[loopback]]
    enabled = yes
    type = {type}
    {place}
"""
SERVER = ("TCPServerInterface", "listen_ip = {host}\n    listen_port = {port}")
CLIENT = ("TCPClientInterface", "target_host = {host}\n    target_port = {port}")


def version() -> str:
    return distribution_version("rns")


def instance_start(folder: str, interface: tuple[str, str], port: int) -> Any:
    import RNS

    kind, place = interface
    Path(folder, "config").write_text(SETTINGS.format(type=kind, place=place.format(host=HOST, port=port)))
    RNS.Reticulum(folder, loglevel=RNS.LOG_ERROR, logdest=lambda line: print(line, file=sys.stderr))
    return RNS


class Server:
    def __init__(self, folder: str) -> None:
        port = ports_free(1)[0]
        rns = self._rns = instance_start(folder, SERVER, port)
        identity = rns.Identity()
        self._destination = rns.Destination(identity, rns.Destination.IN, rns.Destination.SINGLE, *NAME)
        self._destination.set_link_established_callback(self._linked)
        self.hello = {"port": port, "public_key": identity.get_public_key().hex()}
        self._received_len = 0
        self._changed = threading.Condition()

    def _linked(self, link: Any) -> None:
        link.set_resource_strategy(self._rns.Link.ACCEPT_ALL)
        link.set_resource_concluded_callback(self._concluded)
        link.set_packet_callback(lambda message, packet: self._rns.Packet(link, message).send())

    def _concluded(self, resource: Any) -> None:
        with self._changed:
            self._received_len += resource.total_size if resource.status == self._rns.Resource.COMPLETE else 0
            self._changed.notify()

    async def received(self, total: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._received_len >= total)


class Client:
    def __init__(self, folder: str, port: int, public_key: str) -> None:
        rns = self._rns = instance_start(folder, CLIENT, port)
        identity = rns.Identity(create_keys=False)
        identity.load_public_key(bytes.fromhex(public_key))
        target = rns.Destination(identity, rns.Destination.OUT, rns.Destination.SINGLE, *NAME)
        is_linked, self._answered, self._done = threading.Event(), threading.Event(), threading.Event()
        self._link = rns.Link(target, established_callback=lambda link: is_linked.set())
        self._link.set_packet_callback(lambda message, packet: self._answered.set())
        if not is_linked.wait(30):
            raise ConnectionError("no link within 30 s")

    async def send(self, length: int) -> None:
        data = os.urandom(RESOURCE_LEN)
        for _ in range(length // RESOURCE_LEN):
            self._done.clear()
            self._rns.Resource(data, self._link, callback=lambda resource: self._done.set(), auto_compress=False)
            self._done.wait()

    async def ping(self, n: int) -> dict[str, float]:
        message = os.urandom(MESSAGE_LEN)
        samples_ns = []
        for _ in range(n):
            self._answered.clear()
            started_ns = time.perf_counter_ns()
            self._rns.Packet(self._link, message).send()
            self._answered.wait()
            samples_ns.append(time.perf_counter_ns() - started_ns)
        return percentiles(samples_ns)


def main() -> None:
    role, argument = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="qg-rns-") as folder:
        if role == "server":
            server = Server(folder)
            asyncio.run(role_serve({"received": server.received}, server.hello))
        else:
            client = Client(folder, **json.loads(argument))
            asyncio.run(role_serve({"send": client.send, "ping": client.ping}, {}))
    sys.stdout.flush()
    os._exit(0)  # its threads are not all made to end


if __name__ == "__main__":
    main()
