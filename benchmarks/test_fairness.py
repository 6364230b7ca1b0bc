# SPDX-License-Identifier: MIT
"""Round trips of 100 interactive circuits over a relay with a rate, alone and beside a bulk circuit that takes half.

Reported and not required: where there are fewer cores than processes, what is measured is the kernel's scheduler too.
What is required stands in `tests/sim/test_fairness.py`.
"""

import json
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks.harness import Figures, Interval, compare, python_role
from qg.identity import NetworkSecret

SUITE = "aegis-256"
N_CHATS = 100
N_ROUND_TRIPS = 40  # of each
GAP_S = 0.05  # between them, on average
LINK_KIB_S = 131_072
ALONE, BESIDE = f"{N_CHATS} interactive circuits", "same, beside bulk at half the rate"


def fairness_measure(bulk_kib_s: int) -> Figures:
    secret = NetworkSecret.generate().export()
    with ExitStack() as stack:

        def role(*arguments: str) -> Any:
            return stack.enter_context(python_role("qg", *arguments))

        server = role("server", "echo", SUITE, secret)
        address = server.hello["address"]
        relay = role("relay", "resting", "127.1.0.1", address, SUITE, secret, str(LINK_KIB_S))
        hello = json.dumps(server.hello)
        client, bulk = (role("client", hello, SUITE, secret, str(kib_s)) for kib_s in (0, bulk_kib_s))
        for each, n_circuits in ((client, N_CHATS), (bulk, 1)):
            each.ask("route", via=[relay.hello["address"]], n_streams=n_circuits)
        client.ask("chat", n=N_ROUND_TRIPS // 4, gap_s=GAP_S)
        if bulk_kib_s:
            bulk.ask("flood")
        interval = Interval(relay=relay)
        figures: Figures = client.ask("chat", n=N_ROUND_TRIPS, gap_s=GAP_S)
        interval.stop()
        if bulk_kib_s:
            figures["bulk_mb_per_s"] = bulk.ask("flooded") / interval.wall_s / 1e6
        return figures


def test_fairness(benchmark: Any) -> None:
    candidates = {ALONE: partial(fairness_measure, 0), BESIDE: partial(fairness_measure, LINK_KIB_S // 2)}
    compare(benchmark, candidates)
