# SPDX-License-Identifier: MIT
"""Policy as the core wants it: a node's configuration turned into the tables and numbers of its runtime."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qg._core.runtime import own_networks
from qg.access.rules import NO_RULES, Rules
from qg.address import Prefix
from qg.config import Config, CoverConfig
from qg.errors import ConfigError
from qg.identity import NetworkSecret

__all__ = ["cores_count", "runtime_options"]

_SUITES = {"chacha20-poly1305": 1, "aes-256-gcm": 2, "aegis-256": 4}  # docs/protocol.md, section 3.3
_PADDINGS = {"none": 0, "light": 1, "blocks-1k": 2, "blocks-16k": 3}
_COVERS = {"off": 0, "chaff": 1, "poisson": 2, "shaped": 3}  # qg/_core/cover.pxd
_FIRST_BYTES = {"uniform": 0, "printable6": 1}  # qg/_core/handshake.pxd
_LOOPBACK = Prefix.parse("127.0.0.0/8")
_WORKERS_MAX = 64  # qg/_core/worker.pxd


def runtime_options(config: Config, network_secret: NetworkSecret | None, rules: Rules = NO_RULES) -> dict[str, Any]:
    """Give the options of a `Runtime`; raises `ConfigError` where only a closed network makes sense."""
    limits, link, relay = config.limits, config.link, config.relay
    _members_check(config, network_secret)
    # Whoever completes a handshake in a closed network is a member.
    is_anyone_allowed, exceptions = rules.admitted(config.allow)
    may_anyone_relay, relay_exceptions = rules.relaying(relay.allow)
    relays = may_anyone_relay or bool(relay_exceptions)
    workers = config.workers or min(cores_count(), _WORKERS_MAX)
    return {
        "workers": workers,
        "suites_removed": [_SUITES[name] for name in link.suites_removed],
        "padding": _PADDINGS[link.padding],
        "cover": _cover(config.cover, workers),
        "first_bytes": _FIRST_BYTES[link.first_bytes],
        "accepts_xx": config.allow_first_contact,
        "handshake_delay_s": link.handshake_delay_ms / 1000,
        "clock_window_s": link.clock_window_s,
        "dead_peer_s": link.dead_peer_s,
        "epoch_s": link.epoch_s,
        "rekey_s": link.rekey_s,
        "head_s": limits.head_s,
        "flight_s": limits.flight_s,
        "handshake_s": limits.handshake_s,
        "slow_record_s": limits.slow_record_s,
        "sink_min_s": limits.sink_min_s,
        "sink_max_s": limits.sink_max_s,
        "control_frames_per_s": limits.control_frames_per_s,
        "relays": relays,
        "may_anyone_relay": may_anyone_relay,
        "relay_exceptions": [bytes(peer_id) for peer_id in relay_exceptions],
        "relay_targets": _prefixes(relay.targets),
        "relay_ports": list(relay.ports),
        "own_networks": own_networks() if relays else [],
        "relay_memory_len": relay.memory_mib << 20,
        "relay_rate": (relay.rate_kib_s << 10, relay.burst_kib << 10),
        "relay_neighbour_rate": (relay.neighbour_rate_kib_s << 10, relay.neighbour_burst_kib << 10),
        "link_rate": (config.rates.node_kib_s << 10, config.rates.node_burst_kib << 10),
        "neighbour_rate": (config.rates.neighbour_kib_s << 10, config.rates.neighbour_burst_kib << 10),
        "relay_idle_s": relay.idle_s,
        "relay_build_s": relay.build_s,
        "relay_life_s": relay.life_s,
        "is_anyone_allowed": is_anyone_allowed,
        "exceptions": [bytes(peer_id) for peer_id in exceptions],
        "networks": [tuple(rule.network) for rule in rules.ordered],
        "denials": bytes(not rule.is_allowed for rule in rules.ordered),
        "network_widths": [(limit.is_ip4, limit.n_bits, limit.limit) for limit in limits.prefix_sessions],
        "peer_rates": _peer_rates(rules),
        "exempt": _prefixes(limits.exempt),
        "is_loopback_exempt": _LOOPBACK in limits.exempt,
        "accepts_per_s": limits.accepts_per_s,
        "accepts_burst": limits.accepts_burst,
        "address_handshakes_per_s": limits.handshakes_per_s,
        "address_handshakes_burst": limits.handshakes_burst,
        "network_handshakes_per_s": limits.network_handshakes_per_s,
        "network_handshakes_burst": limits.network_handshakes_burst,
        "handshakes_per_s": limits.node_handshakes_per_s,
        "max_half_open": limits.half_open,
        "max_sinks": limits.sinks,
        "max_sessions": limits.sessions,
        "network_sessions": limits.network_sessions,
        "max_streams": limits.service_streams,
        "max_pipes": limits.pipes_per_link,
        "pipes_per_s": limits.pipes_per_s,
        "pipes_burst": limits.pipes_burst,
        "max_node_pipes": limits.pipes,
        "streams_per_s": limits.service_streams_per_s,
        "peer_pipe_sessions": limits.peer_pipe_sessions,
        "handshake_cpu_ms": limits.handshake_cpu_ms,
        "max_message": limits.message_max_kib << 10,
        "stream_window_max": limits.stream_window_kib << 10,
        "session_window_max": limits.session_window_kib << 10,
        "send_queue_len": limits.send_queue_kib << 10,
        "slow_reader_s": limits.slow_reader_s,
        "receive_credit_len": limits.receive_credit_mib << 20,
        "allow_unlocked": config.allow_unlocked,
        "mark_path": config.replay_mark,
    }


def _cover(cover: CoverConfig, workers: int) -> dict[str, Any]:
    """Give what the core takes of cover traffic; each worker has its share of the budget."""
    return {
        "mode": _COVERS[cover.mode],
        "on_links": cover.links,
        "on_circuits": cover.circuits,
        "size": cover.size,
        "per_s": cover.rate_per_s,
        "per_s_max": cover.rate_max_per_s,
        "interval_s": cover.interval_s,
        "records": (cover.records_min, cover.records_max),
        "lengths": (cover.bytes_min, cover.bytes_max),
        "budget_len": -(-(cover.budget_mib_h << 20) // workers),
    }


def cores_count(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Count the cores that this process may use: of its affinity, and of the quota of its control group (v2) if any."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        name = next(line[3:] for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return n
    group = cgroups / name.strip().lstrip("/")
    for folder in (group, *group.parents):  # each bounds those below it
        try:
            quota, period = folder.joinpath("cpu.max").read_text().split()
            n = min(n, max(1, -(-int(quota) // int(period))))
        except (OSError, ValueError):  # none there, or "max"
            continue
    return n


def _members_check(config: Config, network_secret: NetworkSecret | None) -> None:
    problems = [
        f'{key} = "members": only a closed network has members; give the node a network secret, or list PeerIDs'
        for key, allow in (("allow", config.allow), ("relay.allow", config.relay.allow))
        if allow == "members" and network_secret is None
    ]
    if problems:
        raise ConfigError(*problems)


def _prefixes(prefixes: Iterable[Prefix]) -> list[tuple[bytes, int]]:
    return [(prefix.network, prefix.n_bits) for prefix in prefixes]


def _peer_rates(rules: Rules) -> list[tuple[bytes, int]]:
    """Give what is sent to some peers at most, in bytes a second; 0: as much as the line takes."""
    return [(bytes(r.peer_id), r.rate_kib_s << 10) for r in rules.peers.values() if r.rate_kib_s is not None]
