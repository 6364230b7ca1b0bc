# SPDX-License-Identifier: MIT
"""Flights: byte layout, who opens what, every flipped bit rejected, payloads inside (protocol.md 2.4, 3.2 to 3.5)."""

import hashlib
import hmac
import struct

import pytest
from core.crypto_help import fixed_bytes, status
from hypothesis import given, settings
from hypothesis import strategies as st

from qg._core import crypto, envelope
from qg._core.envelope import EnvelopeKeys
from qg._core.noise import NoiseHandshake

NOW_S = 1_760_000_000
SECRET = fixed_bytes("network secret", 32)
NONCE = fixed_bytes("nonce", 24)
XK1, XX1, NK1, REPLY, M3, COOKIE = range(1, 7)
BODY_LEN = {XK1: 1272, XX1: 1272, NK1: 1272, REPLY: 1296, M3: 224}
LINK_SECRET = fixed_bytes("link key of R", 32)
LINK_KEY = crypto.x25519_public_key(LINK_SECRET)


def expand(prk, info):
    """HKDF-Expand of RFC 5869 for one block."""
    return hmac.digest(prk, info + b"\1", "sha256")


def keys():
    return EnvelopeKeys.known(LINK_KEY, SECRET)


def flight_of(kind, pad_len=0, **fields):
    body = fixed_bytes(f"body {kind}", BODY_LEN.get(kind, 100))
    return keys().seal(NONCE, kind, 7, NOW_S, body, pad_len, **fields)


def resealed(plain, body=b"", key=None):
    """Return a flight whose head is `plain` (40 bytes), whatever it says, properly sealed."""
    _, head_key, body_key = (key or keys()).export_keys()
    head = crypto.xchacha_sealed(head_key, NONCE, plain)
    return NONCE + head + crypto.xchacha_sealed(body_key, NONCE, body, head)


def head_plain(version=1, kind=1, frag_idx=0, frag_n=1, flight_id=7, time_s=NOW_S, body_len=1272, pad_len=0, zero=0):
    return struct.pack(">BBBBIQHHI16x", version, kind, frag_idx, frag_n, flight_id, time_s, body_len, pad_len, zero)


# Keys


@pytest.mark.parametrize("secret", [None, SECRET])
def test_network_keys_follow_the_protocol(secret):
    nx = hmac.digest(b"qg1 network", secret or bytes(32), "sha256")
    assert envelope.network_keys(secret) == (nx, expand(nx, b"qg1 noise psk"))


@pytest.mark.parametrize("secret", [None, SECRET])
def test_envelope_keys_follow_the_protocol(secret):
    nx, _ = envelope.network_keys(secret)
    for made, key in (
        (EnvelopeKeys.known(LINK_KEY, secret), expand(nx, b"qg1 env known" + LINK_KEY)),
        (EnvelopeKeys.open_mode(secret), expand(nx, b"qg1 env open")),
    ):
        assert made.export_keys() == (key, *(expand(key, label) for label in (b"head", b"body")))
        m1_hash = hashlib.sha256(b"M1").digest()
        reply = expand(key, b"qg1 reply" + m1_hash)
        assert made.reply(m1_hash).export_keys() == (reply, expand(reply, b"head"), expand(reply, b"body"))


# Layout


@pytest.mark.parametrize("pad_len", [0, 1, 1023, 2047])
def test_a_flight_has_the_bytes_of_the_protocol(pad_len):
    body = fixed_bytes("body", 1272)
    flight = keys().seal(NONCE, XK1, 0x01020304, NOW_S, body, pad_len, frag_idx=1, frag_n=2, cookie=bytes(range(16)))
    _, head_key, body_key = keys().export_keys()
    assert len(flight) == 80 + 1272 + pad_len + 16
    assert flight[:24] == NONCE
    head = crypto.xchacha_opened(head_key, NONCE, flight[24:80])
    assert head == struct.pack(">BBBBIQHHI", 1, XK1, 1, 2, 0x01020304, NOW_S, 1272, pad_len, 0) + bytes(range(16))
    inner = crypto.xchacha_opened(body_key, NONCE, flight[80:], flight[24:80])
    assert inner == body + bytes(pad_len)


@pytest.mark.parametrize("kind", BODY_LEN)
def test_opening_gives_head_and_body(kind):
    flight = flight_of(kind, 33)
    assert keys().open_head(flight) == {
        "kind": kind,
        "frag_idx": 0,
        "frag_n": 1,
        "flight_id": 7,
        "time_s": NOW_S,
        "body_len": BODY_LEN[kind],
        "pad_len": 33,
        "cookie": bytes(16),
    }
    assert keys().open(flight) == fixed_bytes(f"body {kind}", BODY_LEN[kind])
    assert keys().check(flight, 120, NOW_S) == status.OK


def test_the_longest_flight_is_3543_bytes():
    assert len(keys().seal(NONCE, XK1, 7, NOW_S, bytes(1400), 2047)) == 3543


@pytest.mark.parametrize(("body_len", "pad_len"), [(1401, 0), (0, 2048), (65535, 65535)])
def test_too_long_flights_are_neither_sealed_nor_opened(body_len, pad_len):
    assert keys().seal(NONCE, XK1, 7, NOW_S, bytes(body_len), pad_len) == status.E_LONG
    assert keys().open_head(resealed(head_plain(body_len=body_len, pad_len=pad_len))) == status.E_LONG


# What is rejected


@pytest.mark.parametrize("kind", BODY_LEN)
def test_every_flipped_bit_of_a_flight_is_rejected(kind):
    made = keys()
    flight = bytearray(flight_of(kind, 40))
    for off in range(8 * len(flight)):
        flight[off // 8] ^= 1 << off % 8
        changed = bytes(flight)
        # The head stands on its own; the body's tag covers head and body.
        assert made.open(changed) == status.E_TAG, off
        if off < 8 * 80:
            assert made.open_head(changed) == status.E_TAG, off
        flight[off // 8] ^= 1 << off % 8
    assert made.open(bytes(flight)) == fixed_bytes(f"body {kind}", BODY_LEN[kind])


def test_every_truncation_and_extension_is_rejected():
    made, flight = keys(), flight_of(XK1, 20)
    for length in range(len(flight)):
        assert made.open(flight[:length]) == status.E_SHORT
    assert made.open(flight + b"x") == status.E_LONG


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"version": 0}, "E_VERSION"),
        ({"version": 2}, "E_VERSION"),
        ({"kind": 0}, "E_KIND"),
        ({"kind": 7}, "E_KIND"),
        ({"zero": 1}, "E_NONZERO"),
        ({"zero": 0x80000000}, "E_NONZERO"),
        ({"body_len": 1401}, "E_LONG"),
        ({"pad_len": 2048}, "E_LONG"),
        ({}, "OK"),
    ],
)
def test_a_sealed_head_with_a_wrong_field_is_rejected_by_its_reason(fields, code):
    outcome = keys().open_head(resealed(head_plain(**fields)))
    if code == "OK":
        assert outcome["kind"] == XK1
    else:
        assert outcome == getattr(status, code)


@pytest.mark.parametrize("off", [0, 1, 39])
def test_padding_that_is_not_zero_is_rejected(off):
    body = bytearray(1272 + 40)
    body[1272 + off] = 1
    assert keys().open(resealed(head_plain(pad_len=40), bytes(body))) == status.E_NONZERO


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"frag_idx": 1}, "E_NONZERO"),
        ({"frag_n": 0}, "E_NONZERO"),
        ({"frag_n": 2}, "E_NONZERO"),
        ({"kind": COOKIE}, "E_KIND"),
        ({"body_len": 1271}, "E_LENGTH"),
        ({"body_len": 1273}, "E_LENGTH"),
        ({"kind": REPLY, "body_len": 1272}, "E_LENGTH"),
        ({"kind": REPLY, "body_len": 1344}, "OK"),
        ({"kind": M3, "body_len": 225}, "E_LENGTH"),
        ({"time_s": NOW_S - 120}, "OK"),
        ({"time_s": NOW_S + 120}, "OK"),
        ({"time_s": NOW_S - 121}, "E_CLOCK"),
        ({"time_s": NOW_S + 121}, "E_CLOCK"),
        ({"time_s": 0}, "E_CLOCK"),
        ({"time_s": 2**64 - 1}, "E_CLOCK"),
    ],
)
def test_a_flight_on_a_stream_has_one_fragment_its_length_and_a_recent_time(fields, code):
    assert keys().check(resealed(head_plain(**fields)), 120, NOW_S) == getattr(status, code)


def test_a_cookie_may_not_stand_in_a_flight_on_a_stream():
    assert keys().check(flight_of(XK1, cookie=b"\1" + bytes(15)), 120, NOW_S) == status.E_NONZERO
    assert keys().check(flight_of(XK1, cookie=bytes(15) + b"\1"), 120, NOW_S) == status.E_NONZERO


@pytest.mark.parametrize(
    "others",
    [
        EnvelopeKeys.known(LINK_KEY),
        EnvelopeKeys.known(LINK_KEY, fixed_bytes("another network", 32)),
        EnvelopeKeys.known(crypto.x25519_public_key(fixed_bytes("another peer", 32)), SECRET),
        EnvelopeKeys.open_mode(SECRET),
        EnvelopeKeys.known(LINK_KEY, SECRET).reply(bytes(32)),
    ],
)
def test_other_keys_open_nothing(others):
    assert others.open_head(flight_of(XK1)) == status.E_TAG


def test_a_reply_opens_only_with_the_hash_of_its_own_m1():
    reply = keys().reply(hashlib.sha256(b"M1").digest())
    flight = reply.seal(NONCE, REPLY, 7, NOW_S, bytes(1296))
    assert reply.open(flight) == bytes(1296)
    assert keys().reply(hashlib.sha256(b"M1'").digest()).open(flight) == status.E_TAG
    assert keys().open(flight) == status.E_TAG


def test_head_and_body_of_two_flights_do_not_mix():
    first, second = flight_of(XK1), keys().seal(fixed_bytes("nonce 2", 24), XK1, 7, NOW_S, bytes(1272))
    assert keys().open(first[:80] + second[80:]) == status.E_TAG


# Prologues


def test_prologues_have_the_bytes_of_the_protocol():
    assert envelope.prologue(XK1, NOW_S) == b"qg-v1\0\0\0\1" + NOW_S.to_bytes(8, "big")
    h = fixed_bytes("h", 32)
    assert envelope.rekey_prologue(3, h, 1) == b"qg-v1\0\0\0\7" + (3).to_bytes(8, "big") + h + b"\1"


# Payloads

RANDOM = fixed_bytes("grease", 12)
CERT = fixed_bytes("certificate", 108)
CID = fixed_bytes("cid", 8)
PEER_ID = fixed_bytes("peer id", 32)


def test_payloads_have_the_bytes_of_the_protocol():
    assert envelope.p1_bytes(7, 1, 0xA0B0C0D0, 1, 2, RANDOM) == struct.pack(">HHIHH", 7, 1, 0xA0B0C0D0, 1, 2) + RANDOM
    p2 = envelope.p2_bytes(4, 1, 5, CID, NOW_S, CERT)
    assert p2 == struct.pack(">HHI", 4, 1, 5) + CID + struct.pack(">Q12x", NOW_S) + CERT
    assert envelope.p3_bytes(CID, 5, PEER_ID, CERT) == CID + struct.pack(">I4x", 5) + PEER_ID + CERT + bytes(4)


def test_payloads_are_read_back():
    assert envelope.p1_fields(envelope.p1_bytes(5, 1, 9, 1, 3, RANDOM)) == (5, 1, 9, 1, 3)
    p2 = envelope.p2_bytes(4, 1, 1, CID, NOW_S, CERT)
    assert envelope.p2_fields(p2, 7, 1, 3) == (4, 1, 1, CID, NOW_S, CERT)
    assert envelope.p3_fields(envelope.p3_bytes(CID, 1, PEER_ID, CERT), 1, PEER_ID) == (CID, 1, PEER_ID, CERT)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ((7, 1, 0, 2, 3), "E_VERSION"),
        ((7, 1, 0, 0, 0), "E_VERSION"),
        ((7, 1, 0, 2, 1), "E_VERSION"),
        ((6, 1, 0, 1, 1), "E_SUITE"),
        ((0, 1, 0, 1, 1), "E_SUITE"),
        ((7, 0, 0, 1, 1), "E_KEM"),
        ((7, 2, 0, 1, 1), "E_KEM"),
    ],
)
def test_an_offer_without_what_everybody_has_is_refused(fields, code):
    assert envelope.p1_fields(envelope.p1_bytes(*fields, RANDOM)) == getattr(status, code)


def test_an_offer_of_more_than_we_know_is_fine():
    assert envelope.p1_fields(envelope.p1_bytes(0xFFFF, 0xFFFF, 2**32 - 1, 0, 0xFFFF, RANDOM))[0] == 0xFFFF


@pytest.mark.parametrize(
    ("fields", "offer", "code"),
    [
        ((4, 1, 0), (3, 1, 0), "E_SUITE"),
        ((3, 1, 0), (7, 1, 0), "E_SUITE"),
        ((0, 1, 0), (7, 1, 0), "E_SUITE"),
        ((8, 1, 0), (7, 1, 0), "E_SUITE"),
        ((1, 2, 0), (7, 3, 0), "E_KEM"),
        ((1, 0, 0), (7, 1, 0), "E_KEM"),
        ((1, 3, 0), (7, 3, 0), "E_KEM"),
        ((1, 1, 2), (7, 1, 1), "E_MISMATCH"),
    ],
)
def test_an_answer_outside_the_offer_is_refused(fields, offer, code):
    assert envelope.p2_fields(envelope.p2_bytes(*fields, CID, NOW_S, CERT), *offer) == getattr(status, code)


@pytest.mark.parametrize("off", range(24, 36))
def test_the_zero_bytes_of_p2_are_checked(off):
    changed = bytearray(envelope.p2_bytes(1, 1, 0, CID, NOW_S, CERT))
    changed[off] = 0x80
    assert envelope.p2_fields(bytes(changed), 7, 1, 0) == status.E_NONZERO


@pytest.mark.parametrize("off", [*range(12, 16), *range(156, 160)])
def test_the_zero_bytes_of_p3_are_checked(off):
    changed = bytearray(envelope.p3_bytes(CID, 0, PEER_ID, CERT))
    changed[off] = 1
    assert envelope.p3_fields(bytes(changed), 0, PEER_ID) == status.E_NONZERO


def test_p3_repeats_the_features_and_names_us():
    p3 = envelope.p3_bytes(CID, 4, PEER_ID, CERT)
    assert envelope.p3_fields(p3, 5, PEER_ID) == status.E_MISMATCH
    assert envelope.p3_fields(p3, 4, fixed_bytes("somebody else", 32)) == status.E_IDENTITY


@pytest.mark.parametrize(
    ("parse", "length"),
    [
        (envelope.p1_fields, 24),
        (lambda src: envelope.p2_fields(src, 7, 1, 0), 144),
        (lambda src: envelope.p3_fields(src, 0, PEER_ID), 160),
    ],
)
def test_payloads_have_exactly_one_length(parse, length):
    for wrong in range(length):
        assert parse(bytes(wrong)) == status.E_SHORT
    assert parse(bytes(length + 1)) == status.E_LONG


# A whole handshake over flights


def test_a_handshake_in_flights_of_a_known_responder():
    name = "Noise_XKhfs+psk3_25519+MLKEM768_ChaChaPoly_SHA256"
    _, psk = envelope.network_keys(SECRET)
    prologue = envelope.prologue(XK1, NOW_S)
    initiator = NoiseHandshake(name, "initiator", prologue, fixed_bytes("s of A", 32), LINK_KEY, (psk,))
    responder = NoiseHandshake(name, "responder", prologue, LINK_SECRET, None, (psk,))
    made = keys()

    m1 = initiator.write_message(envelope.p1_bytes(7, 1, 0, 1, 1, RANDOM))
    flight_1 = made.seal(fixed_bytes("n1", 24), XK1, 7, NOW_S, m1, 300)
    assert len(flight_1) == 1368 + 300
    assert envelope.p1_fields(responder.read_message(made.open(flight_1)))[0] == 7

    reply = made.reply(hashlib.sha256(m1).digest())
    m2 = responder.write_message(envelope.p2_bytes(4, 1, 0, CID, NOW_S, CERT))
    flight_2 = reply.seal(fixed_bytes("n2", 24), REPLY, 7, NOW_S, m2)
    assert len(flight_2) == 1392
    assert envelope.p2_fields(initiator.read_message(reply.open(flight_2)), 7, 1, 0)[0] == 4

    m3 = initiator.write_message(envelope.p3_bytes(CID, 0, PEER_ID, CERT))
    flight_3 = made.seal(fixed_bytes("n3", 24), M3, 7, NOW_S, m3)
    assert len(flight_3) == 320
    assert envelope.p3_fields(responder.read_message(made.open(flight_3)), 0, PEER_ID)[2] == PEER_ID
    assert responder.remote_static == crypto.x25519_public_key(fixed_bytes("s of A", 32))
    assert initiator.split()[2] == responder.split()[2]


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400))
def test_any_bytes_are_rejected_without_a_crash(data):
    made = keys()
    assert made.open(data) in (status.E_SHORT, status.E_TAG)
    envelope.p1_fields(data)
    envelope.p2_fields(data, 7, 1, 0)
    envelope.p3_fields(data, 0, PEER_ID)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=1400), st.integers(0, 2047), st.sampled_from([XK1, XX1, NK1, REPLY, M3, COOKIE]))
def test_any_body_and_padding_come_back(body, pad_len, kind):
    flight = keys().seal(NONCE, kind, 7, NOW_S, body, pad_len)
    assert len(flight) == 96 + len(body) + pad_len
    assert keys().open(flight) == body
