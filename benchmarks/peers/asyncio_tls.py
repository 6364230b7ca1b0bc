# SPDX-License-Identifier: MIT
"""TLS 1.3 over asyncio streams: TLS_AES_256_GCM_SHA384, X25519, a P-256 certificate made now, no tickets.

The client checks the certificate, which is its only trust anchor, and the name in it; it shows none itself.
"""

import asyncio
import datetime
import json
import os
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.role import CHUNK_LEN, MESSAGE_LEN, Tally, times_at_once
from qg.measured import Commands, percentiles, role_serve

HOST = "127.0.0.1"
NAME = "localhost"
READ_LEN = 256 * 1024
LIMIT_LEN = 1 << 20  # of those tried from 64 KiB to 1 MiB, the one with which both loops do best
CIPHER = "TLS_AES_256_GCM_SHA384"


def version() -> str:
    return f"asyncio with {ssl.OPENSSL_VERSION}"


def certificate_make() -> tuple[bytes, bytes]:
    """A self-signed certificate and its key, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key_pem


def context_narrow(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_ecdh_curve("X25519")
    return context


def server_context(certificate: bytes, key: bytes) -> ssl.SSLContext:
    context = context_narrow(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    context.num_tickets = 0
    with tempfile.NamedTemporaryFile() as chain:
        chain.write(certificate + key)
        chain.flush()
        context.load_cert_chain(chain.name)
    return context


class Server:
    """One service for every connection; what it counts is what the commands wait for."""

    def __init__(self) -> None:
        self.received, self.opened, self.closed = Tally(), Tally(), Tally()

    async def sink(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(READ_LEN):
            self.received.add(len(chunk))
        writer.close()

    async def echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while message := await reader.read(MESSAGE_LEN):
            writer.write(message)
        writer.close()

    async def idle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened.add(1)
        await reader.read(1)
        writer.close()
        await writer.wait_closed()
        self.closed.add(1)


async def server_main(service: str) -> None:
    server = Server()
    certificate, key = certificate_make()
    listener = await asyncio.start_server(
        getattr(server, service), HOST, 0, ssl=server_context(certificate, key), limit=LIMIT_LEN, backlog=1024
    )
    hello = {"port": listener.sockets[0].getsockname()[1], "certificate": certificate.decode()}
    commands = {"received": server.received.reach, "opened": server.opened.reach, "closed": server.closed.reach}
    await role_serve(commands, hello)


class Client:
    def __init__(self, port: int, certificate: str) -> None:
        self._port = port
        self._context = context_narrow(ssl.create_default_context(cadata=certificate))
        self._idle: list[asyncio.StreamWriter] = []
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(HOST, self._port, ssl=self._context, server_hostname=NAME)

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not self._stream:
            self._stream = await self._connect()
            cipher = self._stream[1].get_extra_info("cipher")[0]
            if cipher != CIPHER:
                raise ssl.SSLError(f"negotiated {cipher} instead of {CIPHER}")
        return self._stream

    async def send(self, length: int) -> None:
        _, writer = await self._connected()
        chunk = os.urandom(CHUNK_LEN)
        for _ in range(length // CHUNK_LEN):
            writer.write(chunk)
            await writer.drain()

    async def ping(self, n: int) -> dict[str, float]:
        reader, writer = await self._connected()
        message = os.urandom(MESSAGE_LEN)
        samples_ns = []
        for _ in range(n):
            started_ns = time.perf_counter_ns()
            writer.write(message)
            await reader.readexactly(MESSAGE_LEN)
            samples_ns.append(time.perf_counter_ns() - started_ns)
        return percentiles(samples_ns)

    async def prepare(self, n: int) -> None:
        """Make nothing: a TLS client shows no identity."""

    async def _handshake(self) -> None:
        _, writer = await self._connect()
        writer.close()
        await writer.wait_closed()

    async def handshakes(self, n: int, n_in_flight: int) -> None:
        await times_at_once(n, n_in_flight, self._handshake)

    async def _hold(self) -> None:
        self._idle.append((await self._connect())[1])

    async def hold(self, n: int, n_in_flight: int) -> None:
        await times_at_once(n, n_in_flight, self._hold)


async def client_main(server_hello: str) -> None:
    client = Client(**json.loads(server_hello))
    commands: Commands = {
        "send": client.send,
        "ping": client.ping,
        "prepare": client.prepare,
        "handshakes": client.handshakes,
        "hold": client.hold,
    }
    await role_serve(commands, {})


def main(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    role, argument = sys.argv[1:]
    run({"server": server_main, "client": client_main}[role](argument))


if __name__ == "__main__":
    main(asyncio.run)
