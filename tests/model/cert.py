# SPDX-License-Identifier: MIT
"""Identity keys, PeerID, link certificate, address record and the text form of a network secret (section 2)."""

import dataclasses
import uuid

from . import ed25519
from .errors import AuthError, WireError
from .primitives import base32_decode, base32_encode, sha256, x25519_public
from .reader import Address, Reader, address_read

CERT_LEN = 108
CERT_CONTEXT = b"qg1 link cert\0"
RECORD_CONTEXT = b"qg1 peer record\0"
RECORD_LIFE_MAX = 172_800
NETWORK_PREFIX = "qgnet1:"


def peer_id_of(ed25519_public: bytes) -> bytes:
    """Section 2.1; 0x01 is the key type Ed25519."""
    return sha256(b"qg1 peer id" + b"\x00" + b"\x01" + ed25519_public)


def peer_uuid(peer_id: bytes) -> uuid.UUID:
    """RFC 9562 UUIDv8: version nibble 8, variant 10."""
    raw = bytearray(peer_id[:16])
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return uuid.UUID(bytes=bytes(raw))


def certificate_build(ed25519_seed: bytes, link_public: bytes, not_after: int) -> bytes:
    body = bytes([1, 1, 0, 0]) + not_after.to_bytes(8, "big") + ed25519.public_key(ed25519_seed)
    return body + ed25519.sign(ed25519_seed, CERT_CONTEXT + body + link_public)


def certificate_verify(cert: bytes, link_public: bytes, now_s: int) -> bytes:
    """The PeerID that vouches for this link key; AuthError otherwise."""
    if len(cert) != CERT_LEN or cert[:4] != bytes([1, 1, 0, 0]):
        raise AuthError("link certificate: version, signature type or reserved bytes")
    signer = cert[12:44]
    if not ed25519.verify(signer, cert[44:], CERT_CONTEXT + cert[:44] + link_public):
        raise AuthError("link certificate: signature")
    if now_s > int.from_bytes(cert[4:12], "big"):
        raise AuthError("link certificate: expired")
    return peer_id_of(signer)


@dataclasses.dataclass(frozen=True)
class Identity:
    """An Ed25519 identity key with one X25519 link key."""

    ed25519_seed: bytes
    link_secret: bytes
    not_after: int

    @property
    def link_public(self) -> bytes:
        return x25519_public(self.link_secret)

    @property
    def peer_id(self) -> bytes:
        return peer_id_of(ed25519.public_key(self.ed25519_seed))

    @property
    def certificate(self) -> bytes:
        return certificate_build(self.ed25519_seed, self.link_public, self.not_after)


@dataclasses.dataclass(frozen=True)
class PeerRecord:
    """Section 2.2, what one machine tells another about a peer."""

    peer_id: bytes
    link_key: bytes
    certificate: bytes
    flags: int
    kib_per_s: int
    burst_kib: int
    addresses: tuple[Address, ...]
    issued: int
    not_after: int
    signature: bytes = b""

    def build_unsigned(self) -> bytes:
        return b"".join(
            [
                b"\x01",
                self.peer_id,
                self.link_key,
                self.certificate,
                bytes([self.flags]),
                self.kib_per_s.to_bytes(4, "big"),
                self.burst_kib.to_bytes(4, "big"),
                bytes([len(self.addresses)]),
                *(address.build() for address in self.addresses),
                self.issued.to_bytes(8, "big"),
                self.not_after.to_bytes(8, "big"),
            ]
        )

    def build(self) -> bytes:
        return self.build_unsigned() + self.signature

    def signed(self, ed25519_seed: bytes) -> "PeerRecord":
        signature = ed25519.sign(ed25519_seed, RECORD_CONTEXT + self.build_unsigned())
        return dataclasses.replace(self, signature=signature)


def peer_record_parse(data: bytes) -> PeerRecord:
    """Layout only; peer_record_verify does the signatures."""
    reader = Reader(data)
    if reader.uint(1) != 1:
        raise WireError("peer record: unknown version")
    peer_id, link_key, certificate = reader.take(32), reader.take(32), reader.take(CERT_LEN)
    flags, kib_per_s, burst_kib, n_addresses = reader.uint(1), reader.uint(4), reader.uint(4), reader.uint(1)
    if flags > 3:
        raise WireError("peer record: unknown flag")
    if not 1 <= n_addresses <= 4:
        raise WireError("peer record: 1..4 addresses")
    addresses = tuple(address_read(reader) for _ in range(n_addresses))
    if any(address.kind == 1 for address in addresses):
        raise WireError("peer record: a name")
    issued, not_after, signature = reader.uint(8), reader.uint(8), reader.take(64)
    reader.end()
    if not 0 < not_after - issued <= RECORD_LIFE_MAX:
        raise WireError("peer record: lives too long, or not at all")
    return PeerRecord(
        peer_id, link_key, certificate, flags, kib_per_s, burst_kib, addresses, issued, not_after, signature
    )


def peer_record_verify(record: PeerRecord, now_s: int, window_s: int = 0) -> None:
    """The certificate must tie the record's link key to its PeerID, whose key signs the record."""
    if certificate_verify(record.certificate, record.link_key, now_s) != record.peer_id:
        raise AuthError("peer record: certificate of another peer")
    signer = record.certificate[12:44]
    if not ed25519.verify(signer, record.signature, RECORD_CONTEXT + record.build_unsigned()):
        raise AuthError("peer record: signature")
    if now_s > record.not_after + window_s:
        raise AuthError("peer record: expired")
    if record.issued > now_s + window_s:
        raise AuthError("peer record: from the future")


def network_secret_text(secret: bytes) -> str:
    return NETWORK_PREFIX + base32_encode(secret + _network_check(secret))


def network_secret_parse(text: str) -> bytes:
    if not text.startswith(NETWORK_PREFIX):
        raise ValueError("a network secret starts with " + NETWORK_PREFIX)
    raw = base32_decode(text[len(NETWORK_PREFIX) :], 36)
    if raw[32:] != _network_check(raw[:32]):
        raise ValueError("network secret: mistyped, its check does not match")
    return raw[:32]


def _network_check(secret: bytes) -> bytes:
    return sha256(b"qg1 net check" + secret)[:4]
