# SPDX-License-Identifier: MIT
"""What it costs to look an address up among many networks."""

import random
from functools import partial
from time import process_time
from typing import Any

from qg._core.prefixes import Marks

from benchmarks.harness import Figures, compare

IP4, IP6 = "qg, IPv4", "qg, IPv6"
N_NETWORKS = 100_000
N_LOOKUPS = 1_000_000
IP4_HEAD = bytes(10) + b"\xff\xff"


def table_make(draw: random.Random) -> Marks:
    """Networks as blocklists have them: /24s and single addresses of IPv4, and /48s of IPv6."""
    networks: set[tuple[bytes, int]] = set()
    while len(networks) < N_NETWORKS:
        ip4 = draw.getrandbits(32)
        networks.add((IP4_HEAD + (ip4 >> 8 << 8).to_bytes(4, "big"), 120))
        networks.add((IP4_HEAD + ip4.to_bytes(4, "big"), 128))
        networks.add(((0x2000 << 112 | draw.getrandbits(45) << 80).to_bytes(16, "big"), 48))
    return Marks(sorted(networks))


def lookups_measure(*, is_ip4: bool) -> Figures:
    draw = random.Random(1)
    marks = table_make(draw)
    head, n_bits = (IP4_HEAD, 32) if is_ip4 else (b"\x20", 120)
    addresses = b"".join(head + draw.getrandbits(n_bits).to_bytes(n_bits // 8, "big") for _ in range(N_LOOKUPS))
    began_s = process_time()
    marks.count(addresses)
    return {"ns_per_lookup": (process_time() - began_s) / N_LOOKUPS * 1e9}


def test_access(benchmark: Any) -> None:
    compare(benchmark, {IP4: partial(lookups_measure, is_ip4=True), IP6: partial(lookups_measure, is_ip4=False)})
