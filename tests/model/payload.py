# SPDX-License-Identifier: MIT
"""The three fixed-size payloads inside the Noise messages (section 3.3) and the choice of a suite (section 3.6)."""

import dataclasses

from .cert import CERT_LEN
from .errors import HandshakeError, WireError
from .primitives import SUITE_AEGIS_256, SUITE_AES_256_GCM, SUITE_CHACHA20_POLY1305
from .reader import Reader

KEM_MLKEM768 = 1
VERSION = 1
P1_LEN, P2_LEN, P3_LEN = 24, 144, 160


@dataclasses.dataclass(frozen=True)
class P1:
    suites: int
    grease: bytes
    kems: int = KEM_MLKEM768
    features: int = 0
    min_version: int = VERSION
    max_version: int = VERSION

    def build(self) -> bytes:
        return b"".join(
            [
                self.suites.to_bytes(2, "big"),
                self.kems.to_bytes(2, "big"),
                self.features.to_bytes(4, "big"),
                self.min_version.to_bytes(2, "big"),
                self.max_version.to_bytes(2, "big"),
                self.grease,
            ]
        )


@dataclasses.dataclass(frozen=True)
class P2:
    suite: int
    cid_r: bytes
    responder_time_s: int
    certificate: bytes
    kem: int = KEM_MLKEM768
    features: int = 0

    def build(self) -> bytes:
        return b"".join(
            [
                self.suite.to_bytes(2, "big"),
                self.kem.to_bytes(2, "big"),
                self.features.to_bytes(4, "big"),
                self.cid_r,
                self.responder_time_s.to_bytes(8, "big"),
                bytes(12),
                self.certificate,
            ]
        )


@dataclasses.dataclass(frozen=True)
class P3:
    cid_i: bytes
    to_peer_id: bytes
    certificate: bytes
    features: int = 0

    def build(self) -> bytes:
        return self.cid_i + self.features.to_bytes(4, "big") + bytes(4) + self.to_peer_id + self.certificate + bytes(4)


def _sized(data: bytes, length: int) -> Reader:
    if len(data) != length:
        raise HandshakeError("a handshake payload has the wrong size")
    return Reader(data)


def p1_parse(data: bytes) -> P1:
    reader = _sized(data, P1_LEN)
    suites, kems, features = reader.uint(2), reader.uint(2), reader.uint(4)
    min_version, max_version, grease = reader.uint(2), reader.uint(2), reader.take(12)
    if not suites & SUITE_CHACHA20_POLY1305 or not kems & KEM_MLKEM768:
        raise HandshakeError("P1 must offer ChaCha20-Poly1305 and ML-KEM-768")
    if not min_version <= VERSION <= max_version:
        raise HandshakeError("P1 does not offer this version")
    return P1(suites, grease, kems, features, min_version, max_version)


def p2_parse(data: bytes, offered: P1) -> P2:
    reader = _sized(data, P2_LEN)
    suite, kem, features = reader.uint(2), reader.uint(2), reader.uint(4)
    cid_r, responder_time_s = reader.take(8), reader.uint(8)
    _zeros(reader, 12)
    certificate = reader.take(CERT_LEN)
    if suite not in (1, 2, 4) or not suite & offered.suites:
        raise HandshakeError("P2 picks a suite that was not offered")
    if kem != KEM_MLKEM768 or features & ~offered.features:
        raise HandshakeError("P2 picks a KEM or a feature that was not offered")
    return P2(suite, cid_r, responder_time_s, certificate, kem, features)


def p3_parse(data: bytes, chosen: P2) -> P3:
    reader = _sized(data, P3_LEN)
    cid_i, features = reader.take(8), reader.uint(4)
    _zeros(reader, 4)
    to_peer_id, certificate = reader.take(32), reader.take(CERT_LEN)
    _zeros(reader, 4)
    if features != chosen.features:
        raise HandshakeError("P3 does not echo the features of P2")
    return P3(cid_i, to_peer_id, certificate, features)


def _zeros(reader: Reader, length: int) -> None:
    try:
        reader.zeros(length)
    except WireError as error:
        raise HandshakeError(str(error)) from error


def suite_choose(offered: int, own: int) -> int:
    """AEGIS-256, else AES-256-GCM, else ChaCha20-Poly1305, of those that both sides have."""
    for suite in (SUITE_AEGIS_256, SUITE_AES_256_GCM):
        if offered & own & suite:
            return suite
    return SUITE_CHACHA20_POLY1305
