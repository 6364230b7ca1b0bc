# SPDX-License-Identifier: MIT
"""Whatever a peer says to the services that come with qg, they do not fail: twenty failures would stop them for all."""

import asyncio
import random
import socket
from contextlib import suppress

import pytest
from ext.support import HOST
from net.support import LISTEN

import qg
from qg.extenders.chat import Chat
from qg.extenders.echo import Echo
from qg.extenders.files import FileReceiver
from qg.extenders.forward import Forward
from qg.extenders.proxy import Exit
from qg.extenders.sockets.target import Target
from qg.peer import KIND_MESSAGES
from qg.request import REQUEST, Question

pytestmark = [pytest.mark.net, pytest.mark.anyio]

NOWHERE = bytes(Target(HOST, 9))
NAMED = bytes(Target("host.invalid", 9))
# What a stream is opened with: nothing, nonsense, and what each service understands.
METADATA = [
    *(b"", b"\xff", bytes(17), b"\1" + bytes(16), bytes(1024)),
    *(bytes((kind,)) + rest for kind in range(1, 8) for rest in (b"", NOWHERE, NAMED, NOWHERE + bytes(16), b"\3\0")),
]
BODIES = [
    *(b"", b"\0", bytes(100), b"\xff" * 100, b"\0\1\xff", b"\0\0", b"\0\3\1\0\0", b"[" * 5000, b'{"kind":"line"}'),
    *((len(place) + 1).to_bytes(2, "big") + place + b"x" for place in (NOWHERE, NAMED, bytes(Target("::1", 9)))),
    *(random.Random(seed).randbytes(200) for seed in range(4)),
]


class Asked(qg.Extender):
    id = qg.ExtenderId("6f1d6a52-4a5e-4f8c-9d0e-3b2a1c0d9eaa")

    async def on_request(self, peer, payload):
        return payload


def no_such_name(*_, **__):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.fixture
def services(tmp_path, monkeypatch):
    monkeypatch.setattr("qg.extenders.sockets.names.socket.getaddrinfo", no_such_name)
    ports = qg.ForwardRule.parse(f"tcp {HOST}"), qg.ForwardRule.parse(f"udp {HOST}")
    offer = qg.ForwardOffer(peers="*", allow=ports, listen=ports)
    chat = Chat("me", "room", print)
    return [Asked(), Echo(), Exit([f"allow {HOST}/32"]), Forward([offer]), FileReceiver(tmp_path), chat]


async def stream_tried(peer, extender_id, metadata, body, end):
    """Open a stream, say something, and end it in one of the ways that there are."""
    with suppress(qg.RemoteError, TimeoutError):
        async with asyncio.timeout(5):
            stream = await peer.open_stream(extender_id, metadata)
            await stream.write(body)
            if end == "reset":
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await stream.read(1)
                stream.reset()
                return
            if end == "finish":
                stream.finish()
                await stream.read()
            await stream.close()


def request_broken(peer, extender_id, body):
    """Say the same where one message is due."""
    link = peer.links[-1]
    question = Question(link, peer.node._border.flow_next(link))
    question.open(KIND_MESSAGES, qg.Priority.NORMAL, bytes(extender_id) + REQUEST)
    question._put(body, len(body))
    question._finish()


async def others_tried(peer, extender_id, body):
    """Say the same in messages and in a request."""
    request_broken(peer, extender_id, body)
    with suppress(qg.RemoteError):
        await peer.send(extender_id, body, compress=len(body) > 1000)
        await peer.request(extender_id, body, timeout_s=5)
    with suppress(qg.RemoteError):
        await peer.ping()


@pytest.mark.parametrize("end", ["finish", "close", "reset"])
async def test_services_do_not_fail_whatever_they_are_told(services, end):
    async with qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=services) as node:
        for service in services:
            async with qg.Node(qg.Identity.generate()) as hostile:
                peer = await hostile.connect(node.address)
                tries = [(metadata, body) for metadata in METADATA for body in random.Random(0).sample(BODIES, 4)]
                for start in range(0, len(tries), 20):
                    await asyncio.gather(
                        *(stream_tried(peer, service.id, *each, end) for each in tries[start : start + 20])
                    )
                for body in BODIES:
                    await others_tried(peer, service.id, body)
                peer = await hostile.connect(node.address)
                assert await peer.ping() > 0
        for info in node.status().extenders:
            assert (info.name, info.n_failures, info.is_stopped) == (info.name, 0, False)
