# SPDX-License-Identifier: MIT
"""Ports of one machine lead to what another one reaches, over a link or circuit, as far as that one allows it."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from ext.support import HOST, closed, echo, server
from net.support import LISTEN, until

import qg
from qg.extenders.forward import Forward, Forwarder

pytestmark = [pytest.mark.net, pytest.mark.anyio]

ANY = ("tcp 127.0.0.1", "udp 127.0.0.1")


def spec(target, port=0, *, udp=False):
    return qg.ForwardSpec.parse(f"{HOST}:{port}{'/udp' if udp else ''}:{target}")


def offer(allow=ANY, listen=ANY, peers="anyone"):
    return qg.Config.from_dict(
        {"forward": {"offer": [{"allow": allow, "listen": listen, "peers": peers}]}}
    ).forward.offer


class House:
    """A node that offers, and one that forwards."""

    def __init__(self, service, offering, near, node):
        self.service, self.offering, self.near, self.node = service, offering, near, node

    def forwarder(self, local=(), remote=(), **way):
        return Forwarder(self.node, self.near, self.offering.address, local=local, remote=remote, **way)


@asynccontextmanager
async def house(offers=None, limits=None):
    service, near = Forward(offer() if offers is None else offers, limits), Forward()
    async with AsyncExitStack() as stack:
        offering = qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[service])
        await stack.enter_async_context(offering)
        node = await stack.enter_async_context(qg.Node(qg.Identity.generate(), extenders=[near]))
        yield House(service, offering, near, node)


async def test_bytes_go_there_and_back_whole_with_the_program_ending_first():
    async with house() as at, server(echo) as target, at.forwarder([spec(target)]) as forwarder:
        reader, writer = await asyncio.open_connection(*forwarder.local[0][0])
        data = bytes(range(256)) * 8192
        writer.write(data)
        writer.write_eof()
        assert await reader.read() == data
        await closed(writer)
        await until(lambda: at.service.counts["bytes_out"] == len(data), lambda: at.service.counts)
        (counts,) = forwarder.counts.values()
        await until(lambda: counts["bytes_in"] == len(data), lambda: counts)
        assert (counts["ok"], counts["bytes_out"], counts["open"]) == (1, len(data), 0)
