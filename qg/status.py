# SPDX-License-Identifier: MIT
"""What a node says about itself: the counters of the core in the words of `qg.types.Status`."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from time import monotonic
from typing import Any, final

from qg._core._build_info import VERSION
from qg.address import Endpoint
from qg.config import Config
from qg.flow import Border
from qg.identity import Identity
from qg.peer import Peer
from qg.types import PeerInfo, Status, WorkerInfo

__all__ = ["COUNTERS", "Watch", "overloads", "status_make"]

_log = logging.getLogger("qg.node")

_NEARLY = 0.9  # of a budget; from there on peers are given no more credit (docs/protocol.md, section 9)
_SECRET_SLOT_LEN = 1536  # docs/protocol.md, section 8

# What is counted, with its meaning for people. First the core's outcomes that end a handshake, a session or a dial, by
# status code (qg/_core/status.pxd).
_OUTCOMES = {
    -1: ("too_short", "a message ended before its time"),
    -2: ("too_long", "a message was longer than it may be"),
    -3: ("bad_envelope", "sealed bytes did not open: a stranger, or changed on the way"),
    -4: ("bad_version", "a version of the protocol that is not spoken here"),
    -5: ("bad_kind", "a handshake or stream of a kind that may not come there"),
    -6: ("not_zero", "padding or a reserved field was not zero"),
    -7: ("bad_varint", "a number was malformed"),
    -8: ("bad_frame", "a frame was unknown or malformed"),
    -9: ("bad_state", "a message came at a moment when it may not"),
    -10: ("over_credit", "more bytes than were allowed"),
    -11: ("bad_stream_id", "a stream had a number out of order"),
    -12: ("bad_length", "a record had an impossible length"),
    -13: ("bad_clock", "a handshake came from a clock that is off too far"),
    -14: ("replay", "a handshake was seen before"),
    -15: ("no_suite", "no cipher in common"),
    -16: ("bad_dh", "a public key was worthless"),
    -17: ("bad_kem", "a post-quantum key or answer was malformed"),
    -18: ("bad_signature", "a certificate was not signed by its owner"),
    -19: ("expired", "a certificate had run out"),
    -20: ("wrong_identity", "a peer was not the one meant, or is not allowed"),
    -21: ("over_rate", "more messages a second than are allowed"),
    -22: ("mismatch", "a handshake contradicted itself"),
    -23: ("bad_utf8", "a text was malformed"),
    -24: ("bad_address", "an address was malformed"),
    -32: ("full", "a limit of this node was reached"),
    -33: ("no_memory", "no memory was left"),
    -37: ("not_locked", "no memory was left that stays out of the swap file"),
    -38: ("io", "the system refused something"),
}
# What the guard let in or refused, in the order of its counts (qg/_core/guard.pxd).
_GUARD = (
    ("accepted", "connections taken"),
    ("refused_accept_rate", "connections too quick after one another"),
    ("refused_score", "connections from addresses that misbehaved"),
    ("refused_half_open", "connections while too many handshakes were under way"),
    ("handshakes", "handshakes begun in order"),
    ("refused_replay", "handshakes seen before, or older than the replay mark"),
    ("refused_address_rate", "handshakes too quick, from one address"),
    ("refused_network_rate", "handshakes too quick, from one network"),
    ("refused_node_rate", "handshakes too quick, from all"),
    ("replay_full", "handshakes refused since the replay filter was full"),
    ("sinks_full", "strangers closed to make room for others"),
    ("sessions_full", "peers refused since there were too many"),
    ("peers_denied", "peers that neither `allow` nor a rule lets in"),
    ("relays_denied", "requests to relay for peers that `relay.allow` does not list"),
    ("targets_denied", "requests to relay to where policy forbids"),
    ("targets_rate", "requests to relay to too many new targets"),
    ("pipes_rate", "circuits opened too quick after one another"),
    ("pipes_full", "circuits refused since there were too many"),
    ("streams_rate", "streams opened too quick after one another"),
    ("peer_sessions_full", "sessions over relays beyond those that one peer may have"),
    ("refused_cpu", "handshakes refused to spare the processor"),
    ("refused_networks", "connections from networks that a rule blocks"),
)
# The rest, by the core's names.
_OTHERS = {
    "n_accept_errors": ("accept_errors", "connections that wait: out of descriptors, or of memory"),
    "n_relay_memory_resets": ("relay_memory_resets", "circuits reset since `relay.memory_mib` was used up"),
    "n_slow_reader_closes": ("slow_reader_closes", "sessions closed whose peer took nothing"),
    "n_slow_reader_resets": ("slow_reader_resets", "streams reset that nobody read"),
    "n_slow_records": ("slow_records", "sessions ended since a record did not come whole in time"),
    "n_slow_handshakes": ("slow_handshakes", "handshakes that others began and did not finish in time"),
    "n_overruns": ("streams_overrun", "streams reset since more bytes came than they may"),
    "n_streams_full": ("streams_full", "streams refused since their session had as many as it may"),
    "n_cover_overdrawn": ("cover_overdrawn", "turns of covered links although `cover.budget_mib_h` was used up"),
    "n_rate_waits": ("rate_waits", "times that bytes waited for a rate of `[rates]` or `[relay]`"),
    "n_credit_withheld": ("credit_withheld", "times that a peer had to wait: `limits.receive_credit_mib` unread"),
}
# What became of the records of relays that peers told of, by the words of `Gossip.counts`.
_RECORDS = {
    "taken": ("records_taken", "records of relays that were new and right"),
    "withdrawn": ("records_withdrawn", "records of relays that relay no more"),
    "known": ("records_known", "records that were here already, or newer ones"),
    "own": ("records_own", "records of this node itself"),
    "malformed": ("records_malformed", "records that are none"),
    "refused": ("records_refused", "records that were forged, expired, from the future or of no relay"),
    "not_dialled": ("records_not_dialled", "records without an address that may be dialled"),
    "over_rate": ("records_over_rate", "records not looked at, since the neighbour told too many"),
    "verified": ("records_verified", "records whose signatures were checked"),
}

_MESSAGES = ("messages_refused", "streams of messages reset for one that was too long, malformed or too much")
_WRITES = ("write_waits", "writes of this node's applications that waited for room in a queue")
COUNTERS: dict[str, str] = dict(
    (*_OUTCOMES.values(), *_GUARD, *_OTHERS.values(), _MESSAGES, _WRITES, *_RECORDS.values())
)
_IN_ORDER = frozenset(
    "accepted handshakes records_taken records_withdrawn records_known records_own records_verified".split()
)
_SHORTAGES = frozenset({"accept_errors", "replay_full", "no_memory", "not_locked", "io"})  # honest peers suffer too


def status_make(
    border: Border,
    identity: Identity,
    bound: Iterable[Endpoint],
    peers: tuple[Peer, ...],
    started_s: float,
    records: Mapping[str, int],
    config: Config,
) -> Status:
    """Take a snapshot of a running node; `records` are the counts of its `Gossip`."""
    core = border.runtime.status()
    of_streams = {_MESSAGES[0]: border.n_messages_refused, _WRITES[0]: border.n_write_waits}
    n_streams = Counter(flow.link for flow in border.flows.values())
    figures = border.runtime.links() if peers else {}
    links = tuple(
        link.info(n_streams[link], figures.get(link.channel, (0, 0, 0, 0))) for peer in peers for link in peer.links
    )
    return Status(
        version=VERSION,
        peer_id=identity.peer_id,
        link_key=identity.link_key,
        uptime_s=monotonic() - started_s,
        listen=tuple(map(str, bound)),
        peers=tuple(_peer_info(peer, n_streams) for peer in peers),
        links=links,
        relayed_bytes=core["relayed_len"],
        n_splices=core["n_circuits"],
        n_circuit_links=core["n_auto_links"],
        counters=_counters(core)
        | {name: n for name, n in of_streams.items() if n}
        | {_RECORDS[word][0]: n for word, n in records.items() if n},
        memory_bytes=core["pool_taken_len"] + core["plain_len"],
        locked_bytes=core["n_secret_slots"] * _SECRET_SLOT_LEN,
        is_locked=core["is_locked"],
        clock_skew_s=core["clock_skew_s"],
        bytes_in=core["in_len"],
        bytes_out=core["out_len"],
        workers=tuple(map(_worker_info, core["workers"])),
        overload=overloads(core, config),
        security=config.security,
        cover_bytes=core["cover_len"],
    )


def overloads(core: Mapping[str, Any], config: Config) -> tuple[str, ...]:
    """Name the budgets of a node that are nearly used up, by their settings; `core` are the figures of its core."""
    limits = config.limits
    used = {
        "limits.sessions": (core["n_sessions"] - core["n_half_open"] - core["n_sinks"], limits.sessions),
        "limits.half_open": (core["n_half_open"], limits.half_open),
        "limits.pipes": (core["n_circuits"], limits.pipes),
        "limits.receive_credit_mib": (core["receive_unread_len"], limits.receive_credit_mib << 20),
        "relay.memory_mib": (core["relay_held_len"], config.relay.memory_mib << 20),
    }
    return tuple(name for name, (n, most) in used.items() if n >= most * _NEARLY)


def _peer_info(peer: Peer, n_streams: Mapping[Any, int]) -> PeerInfo:
    return PeerInfo(
        peer_id=peer.id,
        n_links=len(peer.links),
        n_streams=sum(n_streams[link] for link in peer.links),
        extenders=peer.extenders,
    )


def _worker_info(worker: dict[str, Any]) -> WorkerInfo:
    return WorkerInfo(
        n_sessions=worker["n_sessions"],
        n_splices=worker["n_circuits"],
        bytes_in=worker["in_len"],
        bytes_out=worker["out_len"],
        relayed_bytes=worker["relayed_len"],
        cpu_s=worker["loop_cpu_ns"] / 1e9,
    )


def _counters(core: dict[str, Any]) -> dict[str, int]:
    """Name what is not zero."""
    names = {code: name for code, (name, _) in _OUTCOMES.items()}
    counters = {names.get(code, f"status_{-code}"): n for code, n in core["by_status"].items()}
    counters |= {name: n for (name, _), n in zip(_GUARD, core["guard_counts"], strict=True) if n}
    return counters | {name: core[key] for key, (name, _) in _OTHERS.items() if core[key]}


@final
class Watch:
    """Say in the log what only the counters know: what strangers did, summed up, and what to look into.

    However many strangers there are, they cause `lines_max` lines per look at most (docs/protocol.md, section 9).
    """

    def __init__(self, lines_max: int, clock_window_s: int) -> None:
        self.lines_max = lines_max
        self.clock_window_s = clock_window_s
        self._counters: dict[str, int] = {}
        self._is_skewed = False
        self._is_unlocked = False

    def look(self, core: dict[str, Any]) -> None:
        """Log what is new since the last look at the core's figures."""
        counters = _counters(core)
        grown = {name: n - self._counters.get(name, 0) for name, n in counters.items() if name not in _IN_ORDER}
        self._counters = counters
        lines = [(name, n) for name, n in grown.items() if n]
        for name, n in lines[: self.lines_max]:
            level = logging.WARNING if name in _SHORTAGES else logging.INFO
            _log.log(level, "counted %s=%d: %s", name, n, COUNTERS.get(name, "see status.pxd"))
        if len(lines) > self.lines_max:
            _log.info("counted more=%d: reasons left out, see the status", len(lines) - self.lines_max)
        self._warn(core)

    def _warn(self, core: dict[str, Any]) -> None:
        skew_s = core["clock_skew_s"]
        is_skewed = skew_s is not None and abs(skew_s) * 2 > self.clock_window_s
        if is_skewed and not self._is_skewed:
            _log.warning(
                "clock_skew skew_s=%+.0f: peers say that this clock is off; they refuse it from %d s on, so set it",
                skew_s,
                self.clock_window_s,
            )
        if not core["is_locked"] and not self._is_unlocked:
            _log.warning("not_locked: the limit for locked memory is reached, keys may reach the swap; raise ulimit -l")
        self._is_skewed = is_skewed
        self._is_unlocked = not core["is_locked"]
