# SPDX-License-Identifier: MIT
"""Bulk of plain TCP through a pair of processes, entry and exit; the sender and receiver outside do not count."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from benchmarks.harness import (
    AEGIS,
    BULK_LEN,
    PEERS,
    SSH,
    STUNNEL,
    WARM_UP_LEN,
    Figures,
    Interval,
    Transfer,
    compare,
    python_role,
)
from benchmarks.peers import ssh, stunnel
from benchmarks.program import Tunnel


@contextmanager
def qg_tunnel(target: int) -> Iterator[Tunnel]:
    suite = PEERS[AEGIS][1]
    with (
        python_role("qg_tunnel", "exit", str(target), suite) as exit_role,
        python_role("qg_tunnel", "entry", exit_role.hello["address"], suite) as entry_role,
    ):
        yield Tunnel(entry_role.hello, {"entry": entry_role, "exit": exit_role})


def tunnel_measure(tunnel: Callable[[int], AbstractContextManager[Tunnel]]) -> Figures:
    with (
        python_role("plain_tcp", "server", "sink") as receiver,
        tunnel(receiver.hello["port"]) as (hello, processes),
        python_role("plain_tcp", "client", json.dumps(hello)) as sender,
    ):
        transfer = Transfer(sender, receiver)
        transfer.run(WARM_UP_LEN)
        interval = Interval(**processes)
        transfer.run(BULK_LEN)
        interval.stop()
        return interval.per_gb(BULK_LEN)


def test_tunnel(benchmark: Any) -> None:
    tunnels = {AEGIS: qg_tunnel, SSH: ssh.tunnel, STUNNEL: stunnel.tunnel}
    compare(benchmark, {name: partial(tunnel_measure, tunnel) for name, tunnel in tunnels.items()})
