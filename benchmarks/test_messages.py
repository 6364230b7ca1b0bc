# SPDX-License-Identifier: MIT
"""Messages of 64 bytes from one Python process to another: how many a second, and what they cost."""

import json
from functools import partial
from typing import Any

from benchmarks.harness import AEGIS, BATCH, EACH, PEERS, ZMQ, Figures, Interval, compare, pair, python_role

N_WARM_UP, N_MESSAGES = 100_000, 1_000_000
SUITE = PEERS[AEGIS][1]
# How qg's are sent and taken, see `peers.qg_messages`.
WAYS = {BATCH: ("batch", "lists"), EACH: ("each", "each")}


def transfer(sender: Any, receiver: Any, n: int, total: int) -> None:
    sender.post("messages", n=n)
    receiver.ask("received_messages", total=total)
    sender.answer()


def messages_figures(sender: Any, receiver: Any) -> Figures:
    transfer(sender, receiver, N_WARM_UP, N_WARM_UP)
    interval = Interval(sender=sender, receiver=receiver)
    transfer(sender, receiver, N_MESSAGES, N_WARM_UP + N_MESSAGES)
    interval.stop()
    cpu_us = {f"{name}_cpu_us_per_message": cpu_s / N_MESSAGES * 1e6 for name, cpu_s in interval.cpu_s.items()}
    return {"messages_per_s": N_MESSAGES / interval.wall_s, **cpu_us}


def qg_measure(sent: str, taken: str) -> Figures:
    with (
        python_role("qg_messages", "server", taken, SUITE) as receiver,
        python_role("qg_messages", "client", json.dumps(receiver.hello), sent, SUITE) as sender,
    ):
        return messages_figures(sender, receiver)


def zmq_measure() -> Figures:
    with pair("zmq_curve", "messages") as (receiver, sender):
        return messages_figures(sender, receiver)


def test_messages(benchmark: Any) -> None:
    compare(benchmark, {ZMQ: zmq_measure} | {name: partial(qg_measure, *way) for name, way in WAYS.items()})
