# SPDX-License-Identifier: MIT
"""What may change in the configuration of a node that runs, and what needs a restart."""

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from qg.config import Config
from qg.errors import ConfigError

__all__ = ["changes_check"]

# Settings that a running node takes over. Everything else needs a restart: sockets and files that are open, memory that
# is measured, and what peers were promised in HELLO.
_LIVE = frozenset(
    """
    advertise allow allow_first_contact log_format log_level network_secret network_secret_previous peers relays
    cover.bytes_max cover.bytes_min cover.budget_mib_h cover.circuits cover.interval_s cover.links cover.mode
    cover.rate_max_per_s cover.rate_per_s cover.records_max cover.records_min cover.size
    security link.clock_window_s link.handshake_delay_ms
    link.dead_peer_s link.epoch_s link.first_bytes link.padding link.rekey_s link.suites_removed
    forward.offer
    relay.allow relay.build_s relay.drain_s relay.idle_s relay.life_s relay.monthly_gib relay.ports relay.targets
    limits.accepts_burst limits.accepts_per_s limits.control_frames_per_s limits.exempt limits.flight_s limits.half_open
    limits.handshake_cpu_ms limits.handshake_s limits.handshakes_burst limits.handshakes_per_s limits.head_s
    limits.log_lines_per_s limits.network_handshakes_burst limits.network_handshakes_per_s limits.network_sessions
    limits.node_handshakes_per_s limits.peer_pipe_sessions limits.pipes limits.pipes_burst limits.pipes_per_link
    limits.pipes_per_s limits.service_streams limits.service_streams_per_s limits.sink_max_s limits.sink_min_s
    limits.sinks limits.slow_reader_s limits.slow_record_s
    relay.burst_kib relay.neighbour_burst_kib relay.neighbour_rate_kib_s relay.rate_kib_s
    rates.neighbour_burst_kib rates.neighbour_kib_s rates.node_burst_kib rates.node_kib_s
    """.split()
)


def changes_check(running: Config, wanted: Config) -> list[str]:
    """Give the names of the settings that differ; raises `ConfigError` that names each that needs a restart."""
    changes = list(_changes(running, wanted, ""))
    problems = [
        f"{name}: needs a restart to become {_text(value)}; it stays {_text(former)} until then"
        for name, former, value in changes
        if name not in _LIVE
    ]
    if problems:
        raise ConfigError(*problems)
    return [name for name, _, _ in changes]


def _changes(running: Struct, wanted: Struct, where: str) -> Iterator[tuple[str, Any, Any]]:
    for key in running.__struct_fields__:
        former, value = getattr(running, key), getattr(wanted, key)
        if isinstance(former, Struct):
            yield from _changes(former, value, f"{where}{key}.")
        elif former != value:
            yield where + key, former, value


def _text(value: Any) -> str:
    """Write a value much as the file has it."""
    if isinstance(value, Struct):
        return "{" + ", ".join(f"{key} = {_text(getattr(value, key))}" for key in value.__struct_fields__) + "}"
    if isinstance(value, tuple) and type(value) is tuple:
        return f"[{', '.join(map(_text, value))}]"
    return "unset" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
