# SPDX-License-Identifier: MIT
"""Dialling: the hops on the way to a peer, and the errors that say where the way ended."""

import os
from collections.abc import Sequence
from hashlib import sha256
from ipaddress import ip_address
from typing import Any

from qg.address import Address, Endpoint
from qg.errors import (
    AddressError,
    HandshakeFailed,
    InvalidValue,
    ListenError,
    LocalError,
    PeerTimeout,
    QGError,
    Reason,
    Unreachable,
    UsageError,
    error_from_reason,
    refusal_from_reason,
)
from qg.identity import Identity

__all__ = ["connect_error", "far_target", "hop_tuples", "hops_of", "isolation_number", "listen_error", "start_error"]

# Why a relay itself may refuse; that the next hop cannot be reached is not its doing.
_RELAY_REASONS = frozenset({Reason.REFUSED, Reason.BUSY, Reason.LIMIT, Reason.MEMORY, Reason.HOPS})
_RELAYS_MAX = 7  # docs/protocol.md, section 6.5
_E_IDENTITY = -20  # status codes of the core
_E_CLOCK = -13


def hops_of(address: str | Address, via: Sequence[str | Address] | None) -> tuple[Address, ...]:
    """Give the hops on the way to an address, the nearest relay first and the target last.

    `via` takes the place of the relays that the address names. Raises `AddressError` for a way that cannot be gone.
    """
    target = Address.parse(address) if isinstance(address, str) else address
    if isinstance(via, str):
        raise AddressError(f"via = {via!r}: give a list of relays, even for one")
    relays = target.via if via is None else [Address.parse(item) if isinstance(item, str) else item for item in via]
    hops = (*relays, target._replace(via=()))
    if len(relays) > _RELAYS_MAX:
        raise AddressError(f"{len(relays)} relays are too many: at most {_RELAYS_MAX} can stand on the way")
    for hop in hops if relays else ():
        _key_check(hop)
    for relay in relays:
        if relay.via:
            raise AddressError(f"{str(relay)!r} has relays of its own: name all relays in one list")
    for hop in hops[1:]:
        _address_check(hop)
    return hops


def far_target(address: str | Address, via: Sequence[str | Address] | None) -> Address:
    """Give the target of a circuit whose relays are drawn; raises `AddressError` if some are named, or it has no IP."""
    target = Address.parse(address) if isinstance(address, str) else address
    if via is not None or target.via:
        raise AddressError("hops lets the node choose the relays and via names them: give one of the two")
    _key_check(target)
    _address_check(target)
    return target


def isolation_number(isolation: str | bytes | None, identity: Identity) -> int:
    """Give the number that the core knows circuits of one isolation by: 0 for none, else 64 bits of a hash."""
    if isolation is None:
        return 0
    if not isinstance(isolation, str | bytes):
        raise InvalidValue(
            f"isolation = {isolation!r}: give a text or bytes, the same for circuits that may share layers"
        )
    kind = b"t" if isinstance(isolation, str) else b"b"
    data = isolation.encode() if isinstance(isolation, str) else isolation
    digest = sha256(b"qg isolation" + bytes(identity.peer_id) + kind + data).digest()
    return int.from_bytes(digest[:8]) | 1


def _key_check(hop: Address) -> None:
    if hop.link_key is None:
        raise AddressError(f"{str(hop)!r} has no link key: with relays, every address needs one")


def _address_check(hop: Address) -> None:
    try:
        ip_address(hop.host)
    except ValueError:
        raise AddressError(
            f"{hop.host!r} is a name, and relays look up no names: write the IP address of what lies behind a relay"
        ) from None


def hop_tuples(hops: Sequence[Address], others: Sequence[Sequence[tuple[str, int]]] = ()) -> list[tuple[Any, ...]]:
    """Give hops as the core takes them; `others` are addresses of each, tried where its first does not answer."""
    return [
        (
            None if hop.link_key is None else bytes(hop.link_key),
            None if hop.peer_id is None else bytes(hop.peer_id),
            hop.host,
            hop.port,
            *(others[idx] if others else ()),
        )
        for idx, hop in enumerate(hops)
    ]


def connect_error(
    hops: Sequence[Address],
    hop_idx: int,
    reason: Reason,
    status: int,
    by_relay: bool = False,
    terms: tuple[int, int] | None = None,
) -> QGError:
    """Make the error for a `connect` that ended at one of its hops.

    `by_relay`: the last relay reached would not carry the circuit on; `terms` are those that it had announced.
    """
    where, what = _hop_text(hops, hop_idx), f"connecting to {hops[-1].short}"
    is_direct = len(hops) == 1
    if status == _E_IDENTITY and hops[hop_idx].peer_id is None:
        return UsageError(
            f"{what} failed: {where} is this node itself, or another one that runs with the same identity"
        )
    if status == _E_IDENTITY:
        return HandshakeFailed(f"{what} failed: {where} has another identity than the address says; check ?id=", reason)
    if status == _E_CLOCK:
        return HandshakeFailed(f"{what} failed: the clock of {where} differs too much; set both clocks", reason)
    if reason is Reason.TIMEOUT or (is_direct and reason is Reason.UNREACHABLE and status < 0):
        return PeerTimeout(
            f"{what} failed: {where} does not answer; check that it is running there, and that link key and network"
            " secret are right: a node answers strangers with silence",
            reason,
        )
    if reason is Reason.PROTOCOL and status >= 0 and not is_direct:
        return Unreachable(
            f"{what} failed: bytes were changed on the way to {where}, by it or by"
            f" {_hop_text(hops, max(hop_idx - 1, 0))}; try again, over other relays",
            reason,
        )
    if reason is Reason.PROTOCOL:
        return HandshakeFailed(f"{what} failed: {where} did not prove to be the one that was dialled", reason)
    if by_relay and reason in _RELAY_REASONS:
        return refusal_from_reason(reason, what, _hop_text(hops, max(hop_idx - 1, 0)), _terms_text(terms))
    if hop_idx:  # which of the two refused cannot be seen from here
        where += f", or on the way there from {_hop_text(hops, hop_idx - 1)}"
    return error_from_reason(reason, what, where)


def _terms_text(terms: tuple[int, int] | None) -> str:
    if terms is None:
        return " (it announced that it carries no circuits)"
    rate_kib_s, burst_kib = terms
    return f" (it announced {rate_kib_s} KiB/s, {burst_kib} KiB at once)" if rate_kib_s else ""


def _hop_text(hops: Sequence[Address], hop_idx: int) -> str:
    if hop_idx >= len(hops) - 1:
        return hops[-1].short
    return f"relay {hop_idx + 1} of {len(hops) - 1} ({hops[hop_idx].short})"


def listen_error(endpoint: Endpoint, uv_error: int) -> ListenError:
    """Make the error for an endpoint that cannot be listened on; uv_error is a negative errno."""
    advice = {
        "EADDRINUSE": "choose another port, or stop what uses this one",
        "EADDRNOTAVAIL": "choose an address of this machine; 0.0.0.0 or [::] for all",
        "EACCES": "choose a port from 1024 up",
    }.get(_errno_name(-uv_error), "choose another endpoint")
    error = ListenError(f"{endpoint} cannot be listened on: {os.strerror(-uv_error)}; {advice}")
    error.errno = -uv_error
    return error


def start_error(error: OSError | MemoryError) -> LocalError:
    """Make the error for a node whose compiled half could not be started."""
    if isinstance(error, BlockingIOError):
        return LocalError(
            f"another node keeps its replay mark in {error.filename}: stop it if it has the same identity, else name"
            " another file by replay_mark"
        )
    if isinstance(error, OSError) and error.filename is not None:
        return LocalError(
            f"the replay mark {error.filename} cannot be kept: {error.strerror}; name another file by replay_mark"
        )
    words = error.strerror if isinstance(error, OSError) else error
    return LocalError(f"the node cannot be started: {words}; close other programs or raise the limits")


def _errno_name(number: int) -> str:
    import errno

    return errno.errorcode.get(number, "")
