# SPDX-License-Identifier: MIT
"""Where a node listens, and what it tells others of it."""

import contextlib
import socket

import pytest

import qg
from qg.testing import conserved

pytestmark = [pytest.mark.anyio, pytest.mark.net]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


async def start_on_both(hosts):
    """Start a node that listens with IPv4 and IPv6 on one port, whichever is free with both."""
    for _ in range(20):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        node = qg.Node(qg.Identity.generate(), listen=[qg.Endpoint("tcp", host, port) for host in hosts])
        try:
            await node.start()
        except qg.ListenError:
            continue
        return node, port
    raise AssertionError("no port is free with both")


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("hosts", [("127.0.0.1", "::1"), ("0.0.0.0", "::"), ("::", "0.0.0.0")])
async def test_ipv4_and_ipv6_share_a_port_and_each_answers_its_own(hosts):
    async with conserved() as nodes:
        node, port = await start_on_both(hosts)
        nodes.append(node)
        async with contextlib.AsyncExitStack() as stack, qg.Node(qg.Identity.generate()) as client:
            stack.push_async_callback(node.close)
            assert [address.host for address in node.addresses] == list(hosts)
            for host in ("127.0.0.1", "::1"):
                peer = await client.connect(qg.Address(node.address.link_key, host, port))
                assert peer.host == host
                assert client.status().links[0].remote == (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
                await peer.close()


async def test_what_is_advertised_is_told_instead_of_what_is_listened_on():
    outside = (qg.Endpoint.parse("tcp://203.0.113.7:7447"), qg.Endpoint.parse("tcp://[2001:db8::7]:443"))
    config = qg.Config(advertise=outside)
    async with qg.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0"], config=config) as node:
        assert [(address.host, address.port) for address in node.addresses] == [
            ("203.0.113.7", 7447),
            ("2001:db8::7", 443),
        ]
        assert str(node.address).startswith(f"qg://{node.address.link_key}@203.0.113.7:")
        assert node.status().listen[0].startswith("tcp://127.0.0.1:")
