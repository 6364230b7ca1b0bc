# SPDX-License-Identifier: MIT
"""Names that lead elsewhere than they should, and targets that give too much: an exit holds to what is allowed."""

import asyncio
import socket

import pytest
from ext.support import HOST, Program, closed, server, udp
from ext.test_socks import association, house
from net.support import until

from qg.extenders.proxy.front import datagram_write
from qg.extenders.sockets.outcome import Outcome
from qg.extenders.sockets.target import Target

pytestmark = [pytest.mark.net, pytest.mark.anyio]

OTHER = "127.0.0.2"


@pytest.fixture
def leads_to(monkeypatch):
    """Have all names lead to these addresses, in this order."""

    def set_(*hosts):
        places = [(socket.AF_INET6 if ":" in host else socket.AF_INET, 1, 6, "", (host, 0)) for host in hosts]
        monkeypatch.setattr("qg.extenders.sockets.names.socket.getaddrinfo", lambda *_, **__: places)

    return set_


async def name_itself(reader, writer):
    writer.write(writer.get_extra_info("sockname")[0].encode())
    writer.write_eof()


async def test_of_several_addresses_those_that_are_closed_are_left_out(leads_to):
    leads_to(OTHER, "::1", "10.0.0.1", HOST)
    async with house([f"allow {HOST}/32"]) as at, server(name_itself) as target:
        other = await asyncio.start_server(name_itself, OTHER, target.port)
        async with other:
            outcome, reader, writer = await at.ask(Target("two.example", target.port))
            assert outcome is Outcome.OK
            assert await reader.read() == HOST.encode()
            await closed(writer)


@pytest.mark.parametrize("hosts", [[HOST], [HOST, OTHER]])
async def test_a_name_whose_addresses_all_refuse_is_refused(leads_to, hosts):
    leads_to(*hosts)
    with socket.socket() as taken:
        taken.bind(("", 0))  # nobody listens there, nor begins to
        async with house() as at:
            outcome, _, writer = await at.ask(Target("two.example", taken.getsockname()[1]))
            assert outcome is Outcome.REFUSED
            await closed(writer)


async def test_a_network_that_is_not_reached_is_said_so():
    async with house(["allow 255.255.255.255/32"]) as at:
        outcome, _, writer = await at.ask(Target("255.255.255.255", 80))
        assert outcome is Outcome.NETWORK_UNREACHABLE
        await closed(writer)


@pytest.mark.parametrize("host", [HOST, "closed.example"])
async def test_datagrams_to_closed_addresses_do_not_leave(leads_to, host):
    program, kept = Program(), Program()
    async with (
        house([f"allow {OTHER}/32"]) as at,
        udp(kept) as (_, target),
        udp(program) as (sock, _),
        association(at) as (relay, _, _),
    ):
        leads_to(HOST)
        sock.sendto(datagram_write(Target(host, target.port), b"to a closed place"), relay)
        await until(lambda: at.exit.counts["datagrams_refused"] == 1, lambda: at.exit.counts)
        assert kept.received.empty()
        assert not at.exit.counts["datagrams_out"]


async def test_a_target_that_floods_waits_for_the_program():
    n_written = 0

    async def flood(reader, writer):
        nonlocal n_written
        while True:
            writer.write(bytes(1 << 16))
            await writer.drain()
            n_written += 1 << 16

    async with house() as at, server(flood) as target:
        _, _, writer = await at.ask(target)
        writer.transport.pause_reading()
        n_before = -1
        while n_written != n_before:
            n_before = n_written
            await asyncio.sleep(1)
        assert 0 < n_written <= 64 << 20
        writer.transport.abort()
