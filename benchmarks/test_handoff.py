# SPDX-License-Identifier: MIT
"""Messages of 64 bytes handed from the loop thread to Python, which takes them in one of three ways.

A sender in another process keeps the receiver busy. Counted by the clock, where the sender and two loop threads may be
what holds it up, and per second of CPU time of the receiver's Python thread.
"""

import json
from functools import partial
from typing import Any

from benchmarks.harness import AEGIS, PEERS, TAKEN, Figures, Interval, compare, python_role
from benchmarks.test_messages import N_MESSAGES, N_WARM_UP, transfer

SUITE = PEERS[AEGIS][1]


def handoff_measure(taken: str) -> Figures:
    with (
        python_role("qg_messages", "server", taken, SUITE) as receiver,
        python_role("qg_messages", "client", json.dumps(receiver.hello), "batch", SUITE) as sender,
    ):
        transfer(sender, receiver, N_WARM_UP, N_WARM_UP)
        tid = receiver.ask("python_thread")
        python_s = receiver.thread_cpu_s(tid)
        interval = Interval(receiver=receiver)
        transfer(sender, receiver, N_MESSAGES, N_WARM_UP + N_MESSAGES)
        interval.stop()
        python_s = receiver.thread_cpu_s(tid) - python_s
        return {
            "per_python_cpu_s": N_MESSAGES / python_s,
            "messages_per_s": N_MESSAGES / interval.wall_s,
            "python_cpu_ns_per_message": python_s / N_MESSAGES * 1e9,
        }


def test_handoff(benchmark: Any) -> None:
    compare(benchmark, {name: partial(handoff_measure, taken) for name, taken in TAKEN.items()})
