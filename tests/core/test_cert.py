# SPDX-License-Identifier: MIT
"""PeerIDs, link certificates with their cache, and peer records (protocol.md 2.1, 2.2)."""

import hashlib
import struct
import uuid

import pytest
from core.crypto_help import fixed_bytes, status
from hypothesis import given, settings
from hypothesis import strategies as st

from qg._core import cert, crypto
from qg._core.cert import CertCache
from qg._core.keyfile import KeyRing

NOW_S = 1_760_000_000
NOT_AFTER_S = NOW_S + 86400
SEED = fixed_bytes("identity", 32)
PUBLIC = crypto.ed25519_public_key(SEED)
PEER_ID = cert.peer_id_bytes(PUBLIC)
LINK_KEY = crypto.x25519_public_key(fixed_bytes("link", 32))
ADDRESSES = b"\x04\x7f\x00\x00\x01\x1d\x17" + b"\x06" + bytes(15) + b"\x01\x1d\x17"


def certificate():
    return cert.cert_bytes(SEED, LINK_KEY, NOT_AFTER_S)


def signed(body):
    """Return a certificate with these 44 bytes, properly signed."""
    return body + crypto.ed25519_signature(SEED, b"qg1 link cert\0" + body + LINK_KEY)


def flipped(data):
    for off in range(8 * len(data)):
        changed = bytearray(data)
        changed[off // 8] ^= 1 << off % 8
        yield off, bytes(changed)


def test_a_peer_id_is_the_labelled_hash_of_the_key():
    assert hashlib.sha256(b"qg1 peer id\0\1" + PUBLIC).digest() == PEER_ID


def test_a_uuid_is_the_start_of_the_peer_id_as_version_8():
    made = uuid.UUID(bytes=cert.uuid_bytes(PEER_ID))
    assert (made.version, made.variant) == (8, uuid.RFC_4122)
    mask = 0xFFFFFFFF_FFFF_0FFF_3FFF_FFFFFFFFFFFF
    assert made.int & mask == int.from_bytes(PEER_ID[:16], "big") & mask


def test_a_certificate_has_the_bytes_of_the_protocol():
    made = certificate()
    body = b"\1\1\0\0" + struct.pack(">Q", NOT_AFTER_S) + PUBLIC
    assert len(made) == 108
    assert made == signed(body)


def test_a_certificate_names_its_peer():
    assert cert.cert_fields(certificate(), LINK_KEY, NOW_S) == (PEER_ID, PUBLIC, NOT_AFTER_S)


def test_every_flipped_bit_of_a_certificate_is_rejected():
    allowed = {status.E_VERSION, status.E_KIND, status.E_NONZERO, status.E_EXPIRED, status.E_SIGNATURE}
    for off, changed in flipped(certificate()):
        assert cert.cert_fields(changed, LINK_KEY, NOW_S) in allowed, off


def test_a_certificate_holds_for_one_link_key_only():
    for off, changed in flipped(LINK_KEY):
        assert cert.cert_fields(certificate(), changed, NOW_S) == status.E_SIGNATURE, off


@pytest.mark.parametrize(
    ("start", "code"),
    [
        (b"\0\1\0\0", "E_VERSION"),
        (b"\2\1\0\0", "E_VERSION"),
        (b"\1\0\0\0", "E_KIND"),
        (b"\1\2\0\0", "E_KIND"),
        (b"\1\1\1\0", "E_NONZERO"),
        (b"\1\1\0\1", "E_NONZERO"),
    ],
)
def test_a_signed_certificate_with_a_wrong_field_is_rejected_by_its_reason(start, code):
    body = start + struct.pack(">Q", NOT_AFTER_S) + PUBLIC
    assert cert.cert_fields(signed(body), LINK_KEY, NOW_S) == getattr(status, code)


def test_a_certificate_ends_after_its_last_second():
    assert cert.cert_fields(certificate(), LINK_KEY, NOT_AFTER_S)[0] == PEER_ID
    assert cert.cert_fields(certificate(), LINK_KEY, NOT_AFTER_S + 1) == status.E_EXPIRED


def test_the_cache_saves_a_verification_for_an_hour():
    cache = CertCache(4)
    for now_s in (NOW_S, NOW_S + 1, NOW_S + 3599):
        assert cache.verify(certificate(), LINK_KEY, now_s)[0] == PEER_ID
    assert (cache.n_checks, cache.n_hits) == (1, 2)
    assert cache.verify(certificate(), LINK_KEY, NOW_S + 3600)[0] == PEER_ID
    assert (cache.n_checks, cache.n_hits) == (2, 2)


def test_the_cache_does_not_outlive_the_certificate():
    cache = CertCache(4)
    assert cache.verify(certificate(), LINK_KEY, NOT_AFTER_S)[0] == PEER_ID
    assert cache.verify(certificate(), LINK_KEY, NOT_AFTER_S + 1) == status.E_EXPIRED


def test_the_cache_never_answers_for_other_bytes():
    cache = CertCache(4)
    cache.verify(certificate(), LINK_KEY, NOW_S)
    for off, changed in flipped(certificate()):
        assert isinstance(cache.verify(changed, LINK_KEY, NOW_S), int), off
    assert cache.verify(certificate(), crypto.x25519_public_key(SEED), NOW_S) == status.E_SIGNATURE
    assert (cache.n_checks, cache.n_hits) == (1, 0)


def test_failures_are_not_remembered():
    cache = CertCache(4)
    changed = certificate()[:-1] + b"\0"
    assert cache.verify(changed, LINK_KEY, NOW_S) == status.E_SIGNATURE
    assert cache.verify(changed, LINK_KEY, NOW_S) == status.E_SIGNATURE
    assert cache.n_checks == 0


def test_a_clock_set_back_makes_the_cache_verify_again():
    cache = CertCache(4)
    cache.verify(certificate(), LINK_KEY, NOW_S)
    cache.verify(certificate(), LINK_KEY, NOW_S - 10)
    assert (cache.n_checks, cache.n_hits) == (2, 0)


def test_a_full_set_forgets_its_oldest_entry():
    cache = CertCache(4)
    links = [crypto.x25519_public_key(fixed_bytes(f"link {i}", 32)) for i in range(5)]
    certs = [cert.cert_bytes(SEED, link, NOT_AFTER_S) for link in links]
    for i in range(5):
        cache.verify(certs[i], links[i], NOW_S + i)
    assert cache.n_checks == 5
    for i in (1, 2, 3, 4):
        cache.verify(certs[i], links[i], NOW_S + 5)
    assert (cache.n_checks, cache.n_hits) == (5, 4)
    cache.verify(certs[0], links[0], NOW_S + 5)
    assert cache.n_checks == 6


def test_the_cache_uses_all_its_sets():
    cache = CertCache(1024)
    links = [crypto.x25519_public_key(fixed_bytes(f"link {i}", 32)) for i in range(40)]
    certs = [cert.cert_bytes(SEED, link, NOT_AFTER_S) for link in links]
    for _ in range(2):
        for made, link in zip(certs, links, strict=True):
            cache.verify(made, link, NOW_S)
    assert (cache.n_checks, cache.n_hits) == (40, 40)


@pytest.mark.parametrize("n_entries", [0, 1, 2, 3, 5, 6, 1023])
def test_a_cache_has_a_power_of_two_of_entries(n_entries):
    with pytest.raises(ValueError):
        CertCache(n_entries)


# Peer records


def record(**changes):
    fields = {
        "seed": SEED,
        "peer_id": PEER_ID,
        "link_key": LINK_KEY,
        "cert": certificate(),
        "flags": 1,
        "rate_kib": 2048,
        "burst_kib": 512,
        "n_addresses": 2,
        "addresses": ADDRESSES,
        "issued_s": NOW_S,
        "not_after_s": NOW_S + 3600,
    }
    return cert.peer_record_bytes(*(fields | changes).values())


def verified(raw, now_s=NOW_S, window_s=0):
    return cert.peer_record_fields(raw, now_s, window_s)


def test_a_record_has_the_bytes_of_the_protocol():
    body = (
        b"\1"
        + PEER_ID
        + LINK_KEY
        + certificate()
        + b"\1"
        + struct.pack(">IIB", 2048, 512, 2)
        + ADDRESSES
        + struct.pack(">QQ", NOW_S, NOW_S + 3600)
    )
    assert record() == body + crypto.ed25519_signature(SEED, b"qg1 peer record\0" + body)


def test_a_record_is_read_back():
    addresses = [(bytes([127, 0, 0, 1]), 7447), (bytes(15) + b"\1", 7447)]
    assert verified(record()) == (PEER_ID, LINK_KEY, 1, 2048, 512, addresses, NOW_S, NOW_S + 3600)
    assert cert.peer_record_head(record()) == (PEER_ID, NOW_S)


def test_a_key_ring_signs_a_record_of_itself():
    ring = KeyRing.generate(NOW_S)
    raw = ring.peer_record(1, 2048, 512, 2, ADDRESSES, NOW_S, 3600)
    fields = verified(raw)
    assert fields[:2] == (ring.peer_id, ring.link_keys[-1][0])
    assert fields[-2:] == (NOW_S, NOW_S + 3600)
    for n_addresses, addresses in ((0, b""), (1, ADDRESSES), (1, b"\x01\x03abc\x1d\x17")):
        with pytest.raises(ValueError):
            ring.peer_record(1, 2048, 512, n_addresses, addresses, NOW_S, 3600)


def test_every_flipped_bit_of_a_record_is_rejected():
    for off, changed in flipped(record()):
        assert isinstance(verified(changed), int), off


def test_a_record_of_another_length_is_rejected():
    made = record()
    for length in range(len(made)):
        assert verified(made[:length]) < 0
    assert verified(made + b"\0") == status.E_LONG
    assert verified(made + bytes(3000)) == status.E_LONG


def test_a_record_ends_after_its_last_second_and_begins_with_its_first():
    assert isinstance(verified(record(), NOW_S + 3600), tuple)
    assert verified(record(), NOW_S + 3601) == status.E_EXPIRED
    assert verified(record(), NOW_S - 1) == status.E_CLOCK


def test_clocks_may_differ_by_the_window():
    assert isinstance(verified(record(), NOW_S + 3720, 120), tuple)
    assert verified(record(), NOW_S + 3721, 120) == status.E_EXPIRED
    assert isinstance(verified(record(), NOW_S - 120, 120), tuple)
    assert verified(record(), NOW_S - 121, 120) == status.E_CLOCK


@pytest.mark.parametrize("life_s", [0, -1, 172_801, 2**63])
def test_a_record_that_lives_too_long_or_not_at_all_is_rejected(life_s):
    assert verified(record(not_after_s=NOW_S + life_s)) == status.E_LENGTH
    assert isinstance(verified(record(not_after_s=NOW_S + 172_800)), tuple)


@pytest.mark.parametrize("flags", [4, 128, 255])
def test_unknown_flags_are_rejected(flags):
    assert verified(record(flags=flags)) == status.E_NONZERO


@pytest.mark.parametrize("n_addresses", [0, 1, 3, 5])
def test_addresses_and_their_number_agree(n_addresses):
    assert record(n_addresses=n_addresses) == status.E_ADDRESS


def test_a_record_holds_four_addresses_and_no_names():
    longest = b"\x06" + bytes(15) + b"\x01\x1d\x17"
    made = record(n_addresses=4, addresses=4 * longest)
    assert len(made) == 339
    assert len(verified(made)[5]) == 4
    assert record(n_addresses=1, addresses=b"\x01\x03abc\x1d\x17") == status.E_ADDRESS
    with pytest.raises(ValueError):
        record(n_addresses=5, addresses=5 * longest)


def test_a_record_must_be_of_the_peer_that_its_certificate_names():
    assert verified(record(peer_id=fixed_bytes("other", 32))) == status.E_IDENTITY


def test_a_record_must_carry_a_certificate_of_its_link_key():
    assert verified(record(link_key=fixed_bytes("other", 32))) == status.E_SIGNATURE


def test_a_record_must_be_signed_by_the_identity_of_its_certificate():
    assert verified(record(seed=fixed_bytes("other", 32))) == status.E_SIGNATURE


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=500))
def test_any_bytes_are_rejected_without_a_crash(data):
    assert isinstance(verified(data), int)
    assert isinstance(verified(record()[:182] + data), int)
