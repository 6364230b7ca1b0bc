# SPDX-License-Identifier: MIT
"""Two engines push bulk data over memory, on one thread and on two with a pair each: what a second core adds.

No kernel, no Python and nothing shared is in between, so that two threads are twice as fast where two cores are. How
many cores there really are, hyperthreads and other work aside, is measured beside it by a hash that lies in registers.
"""

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from qg._core.machine import Machine

from benchmarks.harness import ENGINES, HASHING, Figures, compare
from qg.identity import Identity

LENGTH = 1 << 29
N_HASHES = 1_500_000
NOW_NS = 10**15
SERVICE = bytes(16)
DIALLED, ACCEPTED = 1, 2  # numbers of the two ends of a connection
FLOW = 1


class Pair:
    """Two machines with a link and an open stream between them."""

    def __init__(self) -> None:
        rings = [Identity.generate()._ring for _ in range(2)]
        options = {"services": [SERVICE], "unix_offset_s": 0}
        self.source, self.target = (
            Machine(ring, options=options, seed=os.urandom(32), unix_offset_s=0, now_ns=NOW_NS) for ring in rings
        )
        self.events: dict[Machine, list[Any]] = {self.source: [], self.target: []}
        key = rings[1].link_keys[-1][0]
        self.source.connect(1, [(key, None, "127.0.0.1", 1)], NOW_NS)
        self.target.accepted(ACCEPTED, "127.0.0.1", 1, NOW_NS)
        self.settle()
        channel = self.events[self.source][0][1]
        self.source.open(FLOW, channel, 0, 1, SERVICE, NOW_NS)
        self.settle()
        self.far_flow = self.events[self.target][-1][1]
        self.target.accept(self.far_flow, NOW_NS)
        self.settle()

    def settle(self) -> None:
        """Carry what the one sends to the other until both are silent."""
        is_moving = True
        while is_moving:
            is_moving = False
            for one, other, conn in ((self.source, self.target, ACCEPTED), (self.target, self.source, DIALLED)):
                actions, events = one.settle(NOW_NS)
                self.events[one] += events
                for kind, _, *rest in actions:
                    is_moving = True
                    if kind == "dial":
                        one.connected(DIALLED, NOW_NS)
                    elif kind == "send":
                        other.received(conn, rest[0], NOW_NS)

    def push(self, length: int) -> None:
        self.source.push(FLOW, DIALLED, self.target, self.far_flow, ACCEPTED, length, NOW_NS)


def hash_long(_: int) -> None:
    hashlib.pbkdf2_hmac("sha256", b"", b"", N_HASHES)


def measure(works: list[Callable[[int], None]], length: int) -> Figures:
    """Each does `length` on a thread of its own."""
    with ThreadPoolExecutor(len(works)) as pool:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        for done in [pool.submit(work, length) for work in works]:
            done.result()
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    total = len(works) * length
    return {"mb_per_s": total / wall_s / 1e6, "cpu_s_per_gb": cpu_s / total * 1e9, "cores": cpu_s / wall_s}


def test_engines(benchmark: Any) -> None:
    pairs = [Pair(), Pair()]
    for pair in pairs:
        pair.push(LENGTH >> 3)
    candidates = {}
    for n_threads in (1, 2):
        pushes = [pair.push for pair in pairs[:n_threads]]
        candidates[ENGINES[n_threads]] = partial(measure, pushes, LENGTH)
        candidates[HASHING[n_threads]] = partial(measure, [hash_long] * n_threads, N_HASHES)
    compare(benchmark, candidates)
