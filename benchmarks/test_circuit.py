# SPDX-License-Identifier: MIT
"""Circuits over three relays: bulk on one and on eight at a time, and round trips of 64 bytes.

What counts is the client and the relays. tor's client takes plain TCP from a sender that does not count; qg's makes
the bytes itself. Neither target counts. Round trips are made by asyncio at both ends of qg's circuit and of the chain
of forwarders; blocking sockets, at tor's ends and at those of a second chain, save 70 µs.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from typing import Any

import pytest

from benchmarks.harness import (
    AEGIS,
    CHAIN,
    CHAIN_BARE,
    PEERS,
    QG_8,
    TOR,
    TOR_8,
    Figures,
    Interval,
    Role,
    Transfer,
    circuit,
    compare,
    python_role,
)
from benchmarks.peers import forwarder, tor

N_RELAYS, N_CIRCUITS = 3, 8
SUITE = PEERS[AEGIS][1]
WARM_UP_LEN, QG_LEN, TOR_LEN = 32 << 20, 512 << 20, 96 << 20
N_PINGS, N_TOR_PINGS = 3_000, 500

TorNetwork = Callable[[], tor.Network]


@pytest.fixture(scope="module")
def tor_network() -> Iterator[TorNetwork]:
    """Give a function that starts the network when it is called first."""
    with ExitStack() as stack:
        yield cache(lambda: stack.enter_context(tor.network()))


def circuit_figures(interval: Interval, length: int) -> Figures:
    figures = interval.per_gb(length)
    return figures | {"busiest_cpu_s_per_gb": max(figures[f"relay{idx}_cpu_s_per_gb"] for idx in (1, 2, 3))}


def qg_bulk_measure(n_streams: int) -> Figures:
    with circuit(SUITE, "sink", N_RELAYS, n_streams) as (client, relays, server):
        transfer = Transfer(client, server)
        transfer.run(WARM_UP_LEN)
        interval = Interval(client=client, **relays)
        transfer.run(QG_LEN)
        interval.stop()
        return circuit_figures(interval, QG_LEN)


def tor_bulk_measure(network: TorNetwork, n_streams: int) -> Figures:
    socks_port, client, relays = network()
    with (
        python_role("plain_tcp", "server", "sink") as server,
        python_role("plain_tcp", "client", tor_hello(server.hello["port"], socks_port, n_streams)) as sender,
    ):
        transfer = Transfer(sender, server)
        transfer.run(WARM_UP_LEN)
        interval = Interval(client=client, **{f"relay{idx + 1}": relay for idx, relay in enumerate(relays)})
        transfer.run(TOR_LEN)
        interval.stop()
        return circuit_figures(interval, TOR_LEN)


def tor_hello(port: int, socks_port: int, n_streams: int) -> str:
    return json.dumps({"port": port, "socks_port": socks_port, "n_streams": n_streams})


def qg_ping_measure() -> Figures:
    with circuit(SUITE, "echo", N_RELAYS) as (client, _, _):
        return ping_figures(client, N_PINGS)


def chain_ping_measure(ends: str) -> Figures:
    with python_role(ends, "server", "echo") as server, forwarder.tunnel(server.hello["port"]) as (hello, _):
        return tcp_ping_measure(ends, json.dumps(hello), N_PINGS)


def tor_ping_measure(network: TorNetwork) -> Figures:
    with python_role("plain_tcp", "server", "echo") as server:
        return tcp_ping_measure("plain_tcp", tor_hello(server.hello["port"], network().socks_port, 1), N_TOR_PINGS)


def tcp_ping_measure(ends: str, hello: str, n: int) -> Figures:
    with python_role(ends, "client", hello) as client:
        return ping_figures(client, n)


def ping_figures(client: Role, n: int) -> Figures:
    client.ask("ping", n=n // 10)
    figures: Figures = client.ask("ping", n=n)
    return figures


def test_circuit(benchmark: Any, tor_network: TorNetwork) -> None:
    candidates = {
        AEGIS: partial(qg_bulk_measure, 1),
        TOR: partial(tor_bulk_measure, tor_network, 1),
        QG_8: partial(qg_bulk_measure, N_CIRCUITS),
        TOR_8: partial(tor_bulk_measure, tor_network, N_CIRCUITS),
    }
    compare(benchmark, candidates)


def test_circuit_ping(benchmark: Any, tor_network: TorNetwork) -> None:
    candidates: dict[str, Callable[[], Figures]] = {
        AEGIS: qg_ping_measure,
        CHAIN: partial(chain_ping_measure, "asyncio_tcp"),
        CHAIN_BARE: partial(chain_ping_measure, "plain_tcp"),
        TOR: partial(tor_ping_measure, tor_network),
    }
    compare(benchmark, candidates)
