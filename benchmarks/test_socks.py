# SPDX-License-Identifier: MIT
"""SOCKS5 proxies: bulk, new connections, idle ones, many at once. What uses the proxy and its target do not count."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from benchmarks.harness import (
    AEGIS,
    BULK_LEN,
    PEERS,
    PPROXY,
    SSH_D,
    WARM_UP_LEN,
    Figures,
    Interval,
    Role,
    Transfer,
    compare,
    python_role,
)
from benchmarks.peers import pproxy, ssh
from benchmarks.program import Tunnel

N_WARM_UP, N_CONNECTIONS, N_IN_FLIGHT, ANSWER_LEN = 400, 4_000, 16, 1024
N_FEW, N_IDLE = 20, 1_000
N_DOWNLOADS, DOWNLOAD_LEN = 200, 8 << 20

Proxied = Callable[[], AbstractContextManager[Tunnel]]


@contextmanager
def qg_proxy() -> Iterator[Tunnel]:
    suite = PEERS[AEGIS][1]
    with (
        python_role("qg_socks", "exit", suite) as exit_role,
        python_role("qg_socks", "entry", exit_role.hello["address"], suite) as entry_role,
    ):
        yield Tunnel(entry_role.hello, {"entry": entry_role, "exit": exit_role})


@contextmanager
def loaded(proxy: Proxied) -> Iterator[tuple[Role, Tunnel]]:
    """A proxy, and what uses it."""
    with python_role("socks_load") as load, proxy() as tunnel:
        load.ask("proxy", port=tunnel.hello["port"])
        yield load, tunnel


def bulk_measure(proxy: Proxied) -> Figures:
    with python_role("plain_tcp", "server", "sink") as receiver, proxy() as (hello, processes):
        way = {"port": receiver.hello["port"], "socks_port": hello["port"], "user": ""}
        with python_role("plain_tcp", "client", json.dumps(way)) as sender:
            transfer = Transfer(sender, receiver)
            transfer.run(WARM_UP_LEN)
            interval = Interval(**processes)
            transfer.run(BULK_LEN)
            interval.stop()
            return interval.per_gb(BULK_LEN)


def connections_measure(proxy: Proxied) -> Figures:
    with loaded(proxy) as (load, tunnel):
        load.ask("connections", n=N_WARM_UP, n_at_once=N_IN_FLIGHT, length=ANSWER_LEN)
        interval = Interval(**tunnel.processes)
        figures: Figures = load.ask("connections", n=N_CONNECTIONS, n_at_once=N_IN_FLIGHT, length=ANSWER_LEN)
        interval.stop()
        cpu_ms = {f"{name}_cpu_ms": cpu_s / N_CONNECTIONS * 1e3 for name, cpu_s in interval.cpu_s.items()}
        return figures | cpu_ms


def idle_measure(proxy: Proxied) -> Figures:
    with loaded(proxy) as (load, (_, processes)):
        load.ask("hold", n=N_FEW)
        few_len = {name: role.resident_len() for name, role in processes.items() if isinstance(role, Role)}
        load.ask("hold", n=N_IDLE)
        return {
            f"{name}_bytes": (role.resident_len() - few_len[name]) / N_IDLE
            for name, role in processes.items()
            if isinstance(role, Role)
        }


def downloads_measure(proxy: Proxied) -> Figures:
    with loaded(proxy) as (load, _):
        figures: Figures = load.ask("downloads", n=N_DOWNLOADS, length=DOWNLOAD_LEN)
        return figures


def proxies_compare(benchmark: Any, measure: Callable[[Proxied], Figures], proxies: dict[str, Proxied]) -> None:
    compare(benchmark, {name: partial(measure, proxy) for name, proxy in proxies.items()})


def test_socks(benchmark: Any) -> None:
    proxies_compare(benchmark, bulk_measure, {AEGIS: qg_proxy, SSH_D: ssh.proxy, PPROXY: pproxy.proxy})


def test_socks_connections(benchmark: Any) -> None:
    proxies_compare(benchmark, connections_measure, {AEGIS: qg_proxy, SSH_D: ssh.proxy, PPROXY: pproxy.proxy})


def test_socks_idle(benchmark: Any) -> None:
    proxies_compare(benchmark, idle_measure, {AEGIS: qg_proxy})


def test_socks_downloads(benchmark: Any) -> None:
    proxies_compare(benchmark, downloads_measure, {AEGIS: qg_proxy, SSH_D: ssh.proxy, PPROXY: pproxy.proxy})
