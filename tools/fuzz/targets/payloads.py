# SPDX-License-Identifier: MIT
"""Payloads of the handshake, and certificates: taken where the second reading takes them, and built again alike."""

from model.cert import CERT_CONTEXT
from model.errors import HandshakeError
from model.payload import P1, P2, p1_parse, p2_parse, p3_parse

from qg._core import cert, crypto, envelope
from tools.fuzz import Script

SEED = bytes(range(32))
LINK_KEY = bytes(range(32, 64))
CERT_LEN, CERT_PLAIN_LEN = 108, 44
NOW_S = 1_760_000_000
OTHER_ID = b"\xff" * 32


def run(data: bytes) -> None:
    script = Script(data)
    (p1, p2, p3, certificate)[script.number() % 4](script)


def is_taken(parse, *arguments) -> bool:
    try:
        parse(*arguments)
    except HandshakeError:
        return False
    return True


def p1(script: Script) -> None:
    src = script.rest()
    fields = envelope.p1_fields(src)
    assert isinstance(fields, tuple) == is_taken(p1_parse, src)
    if isinstance(fields, tuple):
        assert envelope.p1_bytes(*fields, src[12:]) == src


def p2(script: Script) -> None:
    offer = P1(script.number(2) | 1, bytes(12), 1, script.number(4))
    src = script.rest()
    fields = envelope.p2_fields(src, offer.suites, offer.kems, offer.features)
    assert isinstance(fields, tuple) == is_taken(p2_parse, src, offer)
    if isinstance(fields, tuple):
        assert envelope.p2_bytes(*fields) == src


def p3(script: Script) -> None:
    answer = P2(1, bytes(8), 0, bytes(CERT_LEN), 1, script.number(4))
    is_meant = script.number() % 8 > 0
    src = script.rest()
    own = src[16:48].ljust(32, b"\0") if is_meant else OTHER_ID
    fields = envelope.p3_fields(src, answer.features, own)
    assert isinstance(fields, tuple) == (is_taken(p3_parse, src, answer) and src[16:48] == own)
    if isinstance(fields, tuple):
        cid, features, to_peer_id, certificate_ = fields
        assert envelope.p3_bytes(cid, features, to_peer_id, certificate_) == src


def certificate(script: Script) -> None:
    """One that is signed over whatever it says, and one that is not signed."""
    plain, signature, now_s = script.exactly(CERT_PLAIN_LEN), script.exactly(64), script.number(8)
    public = crypto.ed25519_public_key(SEED)
    if plain[12:44] != public:
        plain = plain[:12] + public
    assert isinstance(cert.cert_fields(plain + signature, LINK_KEY, now_s), int)
    signed = plain + crypto.ed25519_signature(SEED, CERT_CONTEXT + plain + LINK_KEY)
    fields = cert.cert_fields(signed, LINK_KEY, now_s)
    not_after_s = int.from_bytes(plain[4:12], "big")
    assert isinstance(fields, tuple) == (plain[:4] == b"\1\1\0\0" and now_s <= not_after_s)
    if isinstance(fields, tuple):
        assert fields == (cert.peer_id_bytes(public), public, not_after_s)
        assert cert.cert_bytes(SEED, LINK_KEY, not_after_s) == signed
