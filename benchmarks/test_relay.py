# SPDX-License-Identifier: MIT
"""The relay process alone, between a sender and a receiver process, which writes 64 KiB or 1.4 KiB at a time.

The last of qg's candidates runs a Python thread that never rests in the relay's process: forwarding must not feel it.
"""

import json
from functools import partial
from typing import Any

from benchmarks.harness import (
    AEGIS,
    BULK_LEN,
    CHACHA,
    FORWARDER,
    PEERS,
    SPINNING,
    WARM_UP_LEN,
    Figures,
    Interval,
    Transfer,
    circuit,
    compare,
    python_role,
)
from benchmarks.peers import forwarder
from benchmarks.role import CHUNK_LEN

SMALL_LEN = 1_400
SMALL_TOTAL_LEN = SMALL_LEN * 250_000


def forwarder_measure(length: int, chunk_len: int) -> Figures:
    with (
        python_role("plain_tcp", "server", "sink") as receiver,
        forwarder.tunnel(receiver.hello["port"], 1) as (hello, relays),
        python_role("plain_tcp", "client", json.dumps(hello)) as sender,
    ):
        transfer = Transfer(sender, receiver)
        transfer.run(WARM_UP_LEN)
        interval = Interval(sender=sender, **relays, receiver=receiver)
        transfer.run(length, chunk_len=chunk_len)
        interval.stop()
        return interval.per_gb(length)


def qg_measure(load: str, suite: str, length: int, chunk_len: int) -> Figures:
    """`load` is what else the relay's process does: "resting" or "spinning"."""
    with circuit(suite, "sink", 1, load=load) as (sender, relays, receiver):
        relay = relays["relay1"]
        transfer = Transfer(sender, receiver)
        transfer.run(WARM_UP_LEN)
        python_threads = relay.ask("threads")
        interval = Interval(sender=sender, relay=relay, receiver=receiver)
        loop_cpu_s = relay.threads_cpu_s(python_threads)
        transfer.run(length, chunk_len=chunk_len)
        interval.stop()
        loop_cpu_s = relay.threads_cpu_s(python_threads) - loop_cpu_s
        return interval.per_gb(length) | {"loop_cpu_s_per_gb": loop_cpu_s / length * 1e9}


def suite_of(name: str) -> str:
    return PEERS[name][1]


def test_relay(benchmark: Any) -> None:
    bulk = {"length": BULK_LEN, "chunk_len": CHUNK_LEN}
    candidates = {
        FORWARDER: partial(forwarder_measure, **bulk),
        AEGIS: partial(qg_measure, "resting", suite_of(AEGIS), **bulk),
        CHACHA: partial(qg_measure, "resting", suite_of(CHACHA), **bulk),
        SPINNING: partial(qg_measure, "spinning", suite_of(AEGIS), **bulk),
    }
    compare(benchmark, candidates)


def test_relay_small(benchmark: Any) -> None:
    small = {"length": SMALL_TOTAL_LEN, "chunk_len": SMALL_LEN}
    candidates = {
        FORWARDER: partial(forwarder_measure, **small),
        AEGIS: partial(qg_measure, "resting", suite_of(AEGIS), **small),
    }
    compare(benchmark, candidates)
