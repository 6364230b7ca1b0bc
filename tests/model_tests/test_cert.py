# SPDX-License-Identifier: MIT
"""Identities, certificates, address records and the text form of a network secret."""

import dataclasses

import pytest
from model.cert import (
    CERT_LEN,
    PeerRecord,
    certificate_verify,
    network_secret_parse,
    network_secret_text,
    peer_record_parse,
    peer_record_verify,
    peer_uuid,
)
from model.errors import AuthError, WireError
from model.reader import Address

NOW_S = 1_750_000_000
ADDRESSES = (Address(4, b"\xc0\x00\x02\x01", 7447), Address(6, bytes(16), 65535))


@pytest.fixture
def person(party):
    return party("a person").identity


@pytest.fixture
def record(person):
    certificate = person.certificate
    plain = PeerRecord(person.peer_id, person.link_public, certificate, 1, 100, 9, ADDRESSES, NOW_S, NOW_S + 60)
    return plain.signed(person.ed25519_seed)


def test_a_certificate_ties_one_link_key_to_one_peer_id(person, party):
    cert = person.certificate
    assert len(cert) == CERT_LEN
    assert certificate_verify(cert, person.link_public, NOW_S) == person.peer_id
    with pytest.raises(AuthError):
        certificate_verify(cert, party("another").identity.link_public, NOW_S)


def test_an_expired_certificate_is_refused(person):
    certificate_verify(person.certificate, person.link_public, person.not_after)
    with pytest.raises(AuthError, match="expired"):
        certificate_verify(person.certificate, person.link_public, person.not_after + 1)


def test_every_flipped_bit_of_a_certificate_is_refused(person):
    for bit in range(8 * CERT_LEN):
        cert = bytearray(person.certificate)
        cert[bit // 8] ^= 1 << bit % 8
        with pytest.raises(AuthError):
            certificate_verify(bytes(cert), person.link_public, NOW_S)


def test_the_uuid_shown_to_people_is_version_8(person):
    shown = peer_uuid(person.peer_id)
    assert shown.version == 8
    assert shown.variant == "specified in RFC 4122"
    assert shown.bytes[:6] == person.peer_id[:6]


def test_an_address_record_round_trips_and_verifies(record):
    parsed = peer_record_parse(record.build())
    assert parsed == record
    peer_record_verify(parsed, NOW_S)


def test_an_address_record_with_a_changed_field_is_refused(record, party):
    other = party("another").identity
    changes = {"issued": NOW_S - 1, "flags": 0, "addresses": ADDRESSES[:1], "peer_id": other.peer_id}
    changes |= {"kib_per_s": 7, "burst_kib": 7}
    for name, value in changes.items():
        with pytest.raises(AuthError):
            peer_record_verify(dataclasses.replace(record, **{name: value}), NOW_S)
    with pytest.raises(AuthError, match="expired"):
        peer_record_verify(record, NOW_S + 61)
    with pytest.raises(AuthError, match="future"):
        peer_record_verify(record, NOW_S - 1)
    peer_record_verify(record, NOW_S - 120, 120)


@pytest.mark.parametrize(
    "change",
    [
        {"flags": 4},
        {"not_after": NOW_S},
        {"not_after": NOW_S + 172_801},
        {"addresses": ()},
        {"addresses": 5 * ADDRESSES[:1]},
        {"addresses": (Address(1, b"a.example", 1),)},
    ],
)
def test_an_address_record_outside_its_bounds_is_refused(record, change):
    with pytest.raises(WireError):
        peer_record_parse(dataclasses.replace(record, **change).build())


def test_a_cut_or_longer_address_record_is_refused(record):
    data = record.build()
    for length in range(len(data)):
        with pytest.raises(WireError):
            peer_record_parse(data[:length])
    with pytest.raises(WireError):
        peer_record_parse(data + b"\0")


def test_a_network_secret_survives_its_text_form_and_a_typing_error_is_noticed():
    secret = bytes(range(32))
    text = network_secret_text(secret)
    assert network_secret_parse(text) == secret
    for wrong in (text[7:], text[:-1], text.replace("a", "b", 1), text.upper(), text + "a"):
        with pytest.raises(ValueError, match=r"network secret|base32"):
            network_secret_parse(wrong)
