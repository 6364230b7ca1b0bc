# SPDX-License-Identifier: MIT
"""Signed records of relays: made, read, and packed into PEERS frames (docs/protocol.md, sections 2.2 and 7.1)."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from qg._core.cert import peer_record_fields, peer_record_head
from qg.address import Endpoint, Prefix
from qg.config import RelayConfig
from qg.identity import Identity
from qg.relays import KnownRelay
from qg.types import LinkKey, PeerId

__all__ = [
    "FRAME_LEN_MAX",
    "FRAME_RECORDS_MAX",
    "Record",
    "frame_pack",
    "frame_split",
    "may_dial",
    "record_make",
    "record_withdraw",
]

RELAYS, LISTED = 1, 2  # flags
FRAME_LEN_MAX = 4096
FRAME_RECORDS_MAX = 12
_ADDRESSES_MAX = 4
_LIFE_S = 86_400  # of a record; it is made anew four times in that


class Record(NamedTuple):
    """Say what a verified record says."""

    relay: KnownRelay
    does_relay: bool  # not: it takes back what it said before
    is_listed: bool  # it relays only for peers that it lists
    issued_s: int
    expires_s: int
    raw: bytes

    @classmethod
    def head(cls, raw: bytes) -> tuple[PeerId, int] | None:
        """Give whose record it is and when it was issued, unverified; None for bytes that are no record."""
        found = peer_record_head(raw)
        return None if isinstance(found, int) else (PeerId(found[0]), found[1])

    @classmethod
    def read(cls, raw: bytes, now_s: int, window_s: int) -> "Record | None":
        """Verify a record, two signatures; None if it is forged, malformed, expired, or of the future."""
        found = peer_record_fields(raw, now_s, window_s)
        if isinstance(found, int):
            return None
        peer_id, link_key, flags, rate_kib, burst_kib, addresses, issued_s, expires_s = found
        endpoints = tuple((str(ip_address(host)), port) for host, port in addresses)
        relay = KnownRelay(LinkKey(link_key), PeerId(peer_id), endpoints, rate_kib, burst_kib)
        return cls(relay, bool(flags & RELAYS), bool(flags & LISTED), issued_s, expires_s, raw)


def may_dial(host: str, port: int, listed: Iterable[Prefix], ports: Sequence[int]) -> bool:
    """Tell whether a record may send this node there: where its own relay would dial, and no further."""
    if port not in ports:
        return False
    address = ip_address(host)
    if isinstance(address, IPv6Address) and (address.sixtofour or address.ipv4_mapped or address.teredo):
        return False
    if address.is_global and not address.is_multicast:
        return True
    number, n_bits = int(address), address.max_prefixlen
    return any(
        len(prefix.network) * 8 == n_bits
        and number >> (n_bits - prefix.n_bits) == int.from_bytes(prefix.network) >> (n_bits - prefix.n_bits)
        for prefix in listed
    )


def record_make(identity: Identity, endpoints: Iterable[Endpoint], relay: RelayConfig, now_s: int) -> bytes | None:
    """Sign the record of a node; None if it does not relay, or cannot be dialled at one of these endpoints."""
    if relay.allow == "none":
        return None
    flags = RELAYS if relay.allow == "members" else RELAYS | LISTED
    return _record_sign(identity, endpoints, flags, relay, now_s)


def record_withdraw(identity: Identity, endpoints: Iterable[Endpoint], now_s: int) -> bytes | None:
    """Sign that a node relays no more, for those who have an older record of it; None if it cannot have given one."""
    return _record_sign(identity, endpoints, 0, RelayConfig(), now_s)


def _record_sign(
    identity: Identity, endpoints: Iterable[Endpoint], flags: int, relay: RelayConfig, now_s: int
) -> bytes | None:
    dialable = [endpoint for endpoint in endpoints if not ip_address(endpoint.host).is_unspecified]
    if not dialable:
        return None
    addresses = [_address_bytes(endpoint) for endpoint in dialable[:_ADDRESSES_MAX]]
    return identity._ring.peer_record(
        flags, relay.rate_kib_s, relay.burst_kib, len(addresses), b"".join(addresses), now_s, _LIFE_S
    )


def _address_bytes(endpoint: Endpoint) -> bytes:
    packed = ip_address(endpoint.host).packed
    return bytes([4 if len(packed) == 4 else 6]) + packed + endpoint.port.to_bytes(2, "big")


def frame_pack(raws: Sequence[bytes]) -> bytes:
    """Write what a PEERS frame holds behind its type: as many of the records as fit."""
    parts: list[bytes] = []
    for raw in raws[:FRAME_RECORDS_MAX]:
        part = _varint(len(raw)) + raw
        if 1 + sum(map(len, parts)) + len(part) > FRAME_LEN_MAX:
            break
        parts.append(part)
    return _varint(len(parts)) + b"".join(parts)


def frame_split(data: bytes) -> list[bytes]:
    """Cut records apart, each behind its length; the core has checked the lengths. Those too many are left out."""
    raws: list[bytes] = []
    at = 0
    while at < len(data) and len(raws) < FRAME_RECORDS_MAX:
        n_bytes = 1 << (data[at] >> 6)
        length = int.from_bytes(data[at : at + n_bytes]) & ((1 << (8 * n_bytes - 2)) - 1)
        at += n_bytes
        raws.append(data[at : at + length])
        at += length
    return raws


def _varint(number: int) -> bytes:
    """Write a QUIC varint of up to 16,383."""
    return bytes([number]) if number < 64 else (number | 0x4000).to_bytes(2, "big")
