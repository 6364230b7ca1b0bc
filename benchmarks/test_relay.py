# SPDX-License-Identifier: MIT
"""The relay process alone, between a sender and a receiver process.

The second of qg's candidates runs a Python thread that never rests in the relay's process: forwarding must not feel it.
"""

import json
from functools import partial
from typing import Any

from benchmarks.harness import (
    AEGIS,
    BULK_LEN,
    FORWARDER,
    HOST,
    PEERS,
    SPINNING,
    WARM_UP_LEN,
    Figures,
    Interval,
    Transfer,
    compare,
    python_role,
)
from benchmarks.peers import forwarder
from qg.identity import NetworkSecret


def forwarder_measure() -> Figures:
    with (
        python_role("plain_tcp", "server", "sink") as receiver,
        forwarder.tunnel(receiver.hello["port"], 1) as (hello, relays),
        python_role("plain_tcp", "client", json.dumps(hello)) as sender,
    ):
        transfer = Transfer(sender, receiver)
        transfer.run(WARM_UP_LEN)
        interval = Interval(sender=sender, **relays, receiver=receiver)
        transfer.run(BULK_LEN)
        interval.stop()
        return interval.per_gb(BULK_LEN)


def qg_relay_measure(load: str, module: str, suite: str) -> Figures:
    """`load` is what else the relay's process does: "resting" or "spinning"."""
    secret = NetworkSecret.generate().export()
    with (
        python_role(module, "server", "sink", suite, secret) as receiver,
        python_role(module, "client", json.dumps(receiver.hello), suite, secret) as sender,
        python_role(module, "relay", load, HOST, receiver.hello["address"], suite, secret) as relay,
    ):
        sender.ask("route", via=[relay.hello["address"]])
        transfer = Transfer(sender, receiver)
        transfer.run(WARM_UP_LEN)
        python_threads = relay.ask("threads")
        interval = Interval(sender=sender, relay=relay, receiver=receiver)
        loop_cpu_s = relay.threads_cpu_s(python_threads)
        transfer.run(BULK_LEN)
        interval.stop()
        loop_cpu_s = relay.threads_cpu_s(python_threads) - loop_cpu_s
        return interval.per_gb(BULK_LEN) | {"loop_cpu_s_per_gb": loop_cpu_s / BULK_LEN * 1e9}


def test_relay(benchmark: Any) -> None:
    candidates = {
        FORWARDER: forwarder_measure,
        AEGIS: partial(qg_relay_measure, "resting", *PEERS[AEGIS]),
        SPINNING: partial(qg_relay_measure, "spinning", *PEERS[AEGIS]),
    }
    compare(benchmark, candidates)
