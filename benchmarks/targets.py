# SPDX-License-Identifier: MIT
"""What is to be reached: the table of docs/performance.md."""

import statistics
from dataclasses import dataclass
from typing import Literal

from benchmarks.harness import (
    AEGIS,
    ASYNCIO,
    BARE,
    BATCH,
    CHACHA,
    CHAIN,
    EACH,
    ENGINES,
    FORWARDER,
    HASHING,
    HELP,
    IDLE_FEW,
    IDLE_MANY,
    IMPORT,
    ONE_WORKER,
    OPENSSL,
    PPROXY,
    QG_8,
    SCP,
    SPINNING,
    SSH,
    SSH_D,
    STUNNEL,
    TAKEN,
    TOR,
    TOR_8,
    TWO_WORKERS,
    UVLOOP,
    ZMQ,
)

Figures = dict[str, dict[str, dict[str, list[float]]]]  # work, candidate, key: one figure per round


@dataclass(frozen=True)
class Target:
    """A line of the table: a figure is at most, or at least, `limit` as a multiple of that of `against`, or alone."""

    work: str
    test: str
    candidate: str
    key: str
    limit: float
    unit: str = "×"
    against: str | None = None
    sense: Literal["at most", "at least"] = "at most"

    def compared(self, figures: Figures) -> tuple[float, float | None, float] | None:
        """The figure, what it is held against, and what is compared with the limit; None if it was not measured."""
        candidates = figures.get(self.test, {})
        if self.candidate not in candidates or (self.against and self.against not in candidates):
            return None
        figure = statistics.median(candidates[self.candidate][self.key])
        if self.against is None:
            return figure, None, figure
        other = statistics.median(candidates[self.against][self.key])
        return figure, other, figure - other if self.unit == "ms above" else figure / other

    def is_reached(self, compared: float) -> bool:
        return compared <= self.limit if self.sense == "at most" else compared >= self.limit


LISTS, CALLBACKS, AWAITS = TAKEN
CONNECTIONS, RATE, DOWNLOADS = "test_socks_connections", "connections_per_s", "test_socks_downloads"
CLOCK, CPU = "messages_per_s", "per_python_cpu_s"

TARGETS = [
    Target("one link, bulk, AEGIS-256, CPU s/GB", "test_link", AEGIS, "cpu_s_per_gb", 0.6, against=UVLOOP),
    Target("same", "test_link", AEGIS, "cpu_s_per_gb", 0.35, against=ASYNCIO),
    Target("same", "test_link", AEGIS, "cpu_s_per_gb", 0.7, against=ZMQ),
    Target("same", "test_link", AEGIS, "cpu_s_per_gb", 0.8, against=OPENSSL),
    Target("same, ChaCha20-Poly1305", "test_link", CHACHA, "cpu_s_per_gb", 1.0, against=UVLOOP),
    Target("relay process alone, CPU s/GB", "test_relay", AEGIS, "relay_cpu_s_per_gb", 1.8, against=FORWARDER),
    Target("same, ChaCha20-Poly1305", "test_relay", CHACHA, "relay_cpu_s_per_gb", 4.5, against=FORWARDER),
    Target("same, 1.4 KiB writes", "test_relay_small", AEGIS, "relay_cpu_s_per_gb", 2.3, against=FORWARDER),
    Target("same, its loop thread, Python spinning", "test_relay", SPINNING, "loop_cpu_s_per_gb", 1.1, against=AEGIS),
    Target("tunnel, entry and exit process, CPU s/GB", "test_tunnel", AEGIS, "cpu_s_per_gb", 0.75, against=SSH),
    Target("same", "test_tunnel", AEGIS, "cpu_s_per_gb", 0.6, against=STUNNEL),
    Target("busiest relay of 3, 8 circuits, s/GB", "test_circuit", QG_8, "busiest_cpu_s_per_gb", 1 / 6, against=TOR_8),
    Target("client + 3 relays, 8 circuits, s/GB", "test_circuit", QG_8, "cpu_s_per_gb", 1 / 7, against=TOR_8),
    Target("same, MB/s", "test_circuit", QG_8, "mb_per_s", 4, against=TOR_8, sense="at least"),
    Target("same, one stream", "test_circuit", AEGIS, "mb_per_s", 8, against=TOR, sense="at least"),
    Target("round trip p50 over 3 relays, 64 B, µs", "test_circuit_ping", AEGIS, "p50_us", 1.8, against=CHAIN),
    Target("same", "test_circuit_ping", AEGIS, "p50_us", 1 / 20, against=TOR),
    Target("round trip p50 over one link, 64 B, µs", "test_ping", AEGIS, "p50_us", 1.8, against=UVLOOP),
    Target("SOCKS5 and exit, both processes, CPU s/GB", "test_socks", AEGIS, "cpu_s_per_gb", 0.8, against=SSH_D),
    Target("same", "test_socks", AEGIS, "cpu_s_per_gb", 0.9, against=PPROXY),
    Target("SOCKS5, 1 KiB connections/s, 16 at once", CONNECTIONS, AEGIS, RATE, 1.5, against=SSH_D, sense="at least"),
    Target("idle proxied connection, SOCKS5 side, bytes", "test_socks_idle", AEGIS, "entry_bytes", 16_384, "B"),
    Target("same, exit side", "test_socks_idle", AEGIS, "exit_bytes", 16_384, "B"),
    Target("200 downloads, slowest of fastest", DOWNLOADS, AEGIS, "slowest_share", 0.5, "", sense="at least"),
    Target("10,000 files of 4 KiB, wall clock", "test_files", AEGIS, "wall_s", 0.5, against=SCP),
    Target("64 B messages/s, batches", "test_messages", BATCH, "messages_per_s", 2, against=ZMQ, sense="at least"),
    Target("same, `await` each", "test_messages", EACH, "messages_per_s", 1, against=ZMQ, sense="at least"),
    Target("64 B messages/s to Python by the clock, lists", "test_handoff", LISTS, CLOCK, 6e6, "/s", sense="at least"),
    Target("same, callback each", "test_handoff", CALLBACKS, CLOCK, 2e6, "/s", sense="at least"),
    Target("same, `await` each", "test_handoff", AWAITS, CLOCK, 1e6, "/s", sense="at least"),
    Target("64 B messages per CPU s of its Python, lists", "test_handoff", LISTS, CPU, 6e6, "/s", sense="at least"),
    Target("same, callback each", "test_handoff", CALLBACKS, CPU, 2e6, "/s", sense="at least"),
    Target("same, `await` each", "test_handoff", AWAITS, CPU, 1e6, "/s", sense="at least"),
    Target("relay of two workers, CPU s/GB", "test_workers", TWO_WORKERS, "cpu_s_per_gb", 1.1, against=ONE_WORKER),
    Target("same, least share of one", "test_workers", TWO_WORKERS, "smallest_share", 0.4, "of all", sense="at least"),
    Target("engines, 2 threads", "test_engines", ENGINES[2], "mb_per_s", 1.8, against=ENGINES[1], sense="at least"),
    Target("same, hashing instead", "test_engines", HASHING[2], "mb_per_s", 1.8, against=HASHING[1], sense="at least"),
    Target("engines, 2 threads, CPU s/GB", "test_engines", ENGINES[2], "cpu_s_per_gb", 1.1, against=ENGINES[1]),
    Target("idle circuit on a relay, bytes", "test_idle_circuits", IDLE_MANY, "bytes_per_idle_circuit", 16_384, "B"),
    Target("relay beside 10,000, CPU s/GB", "test_idle_circuits", IDLE_MANY, "cpu_s_per_gb", 1.3, against=IDLE_FEW),
    Target("connect + handshake + close, CPU ms", "test_handshake", AEGIS, "cpu_ms_per_handshake", 0.6, against=UVLOOP),
    Target("idle session, server side, bytes", "test_memory", AEGIS, "bytes_per_idle_session", 8192, "B"),
    Target("idle node, resident MB", "test_memory", AEGIS, "idle_resident_mb", 45, "MB"),
    Target("`import qg`, CPU ms", "test_import", IMPORT, "cpu_ms", 80, "ms above", BARE),
    Target("`qg --help`, CPU ms", "test_import", HELP, "cpu_ms", 120, "ms above", BARE),
    Target("look-up among 100,000 networks, IPv4", "test_access", "qg, IPv4", "ns_per_lookup", 200, "ns"),
    Target("same, IPv6", "test_access", "qg, IPv6", "ns_per_lookup", 200, "ns"),
]  # fmt: skip
