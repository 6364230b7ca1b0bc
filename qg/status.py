# SPDX-License-Identifier: MIT
"""What a node says about itself: the counters of the core in the words of `qg.types.Status`."""

from collections import Counter
from collections.abc import Iterable, Mapping
from time import monotonic
from typing import Any

from qg._core._build_info import VERSION
from qg.address import Endpoint
from qg.flow import Border
from qg.identity import Identity
from qg.peer import Peer
from qg.types import PeerInfo, Status

__all__ = ["status_make"]

_SECRET_SLOT_LEN = 1536  # docs/protocol.md, section 8

# Status codes of the core that end sessions and handshakes (qg/_core/status.pxd).
_OUTCOMES = {
    -1: "short", -2: "long", -3: "bad_envelope", -4: "bad_version", -5: "bad_kind", -6: "not_zero", -7: "bad_varint",
    -8: "bad_frame", -9: "bad_state", -10: "over_credit", -11: "bad_stream_id", -12: "bad_length", -13: "bad_clock",
    -14: "replay", -15: "no_suite", -16: "bad_dh", -17: "bad_kem", -18: "bad_signature", -19: "expired",
    -20: "wrong_identity", -21: "over_rate", -22: "mismatch", -23: "bad_utf8", -24: "bad_address", -32: "full",
    -33: "no_memory", -37: "not_locked", -38: "io",
}  # fmt: skip

# What the guard let in or refused (qg/_core/guard.pxd), in the order of its counts.
_GUARD = (
    "accepted", "refused_accept_rate", "refused_score", "refused_half_open", "handshakes", "refused_replay",
    "refused_address_rate", "refused_network_rate", "refused_node_rate", "replay_full", "sinks_full", "sessions_full",
    "peers_denied", "relays_denied", "targets_denied", "targets_rate", "pipes_rate",
)  # fmt: skip


def status_make(
    border: Border, identity: Identity, bound: Iterable[Endpoint], peers: tuple[Peer, ...], started_s: float
) -> Status:
    """Take a snapshot of a running node."""
    core = border.runtime.status()
    n_streams = Counter(flow.link for flow in border.flows.values())
    links = tuple(link.info(n_streams[link]) for peer in peers for link in peer.links)
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
        counters=_counters(core),
        memory_bytes=core["pool_taken_len"] + core["plain_len"],
        locked_bytes=core["n_secret_slots"] * _SECRET_SLOT_LEN,
        is_locked=core["is_locked"],
        clock_skew_s=core["clock_skew_s"],
    )


def _peer_info(peer: Peer, n_streams: Mapping[Any, int]) -> PeerInfo:
    return PeerInfo(
        peer_id=peer.id,
        n_links=len(peer.links),
        n_streams=sum(n_streams[link] for link in peer.links),
        extenders=(),
    )


def _counters(core: dict[str, Any]) -> dict[str, int]:
    """Name what is not zero."""
    counters = {_OUTCOMES.get(code, f"status_{-code}"): n for code, n in core["by_status"].items()}
    counters |= {name: n for name, n in zip(_GUARD, core["guard_counts"], strict=True) if n}
    if core["n_accept_errors"]:
        counters["accept_errors"] = core["n_accept_errors"]
    return counters
