# SPDX-License-Identifier: MIT
"""The payloads of the handshake: what a receiver refuses (sections 3.3 and 3.6)."""

import dataclasses

import pytest
from model.errors import HandshakeError
from model.payload import P1, P2, P3, p1_parse, p2_parse, p3_parse

OFFER = P1(suites=3, grease=bytes(12))
CHOICE = P2(suite=2, cid_r=b"12345678", responder_time_s=7, certificate=bytes(range(108)))
FINAL = P3(cid_i=b"87654321", to_peer_id=bytes(32), certificate=bytes(range(108)))


def test_payloads_round_trip_in_their_sizes():
    assert [len(payload.build()) for payload in (OFFER, CHOICE, FINAL)] == [24, 144, 160]
    assert p1_parse(OFFER.build()) == OFFER
    assert p2_parse(CHOICE.build(), OFFER) == CHOICE
    assert p3_parse(FINAL.build(), CHOICE) == FINAL


@pytest.mark.parametrize("changes", [{"suites": 6}, {"kems": 2}, {"min_version": 2}, {"max_version": 0}])
def test_an_offer_without_the_common_ground_is_refused(changes):
    with pytest.raises(HandshakeError):
        p1_parse(dataclasses.replace(OFFER, **changes).build())


def test_an_offer_may_hold_what_is_not_known_yet():
    p1_parse(dataclasses.replace(OFFER, suites=0xFFFF, kems=0xFFFF, features=0xFFFFFFFF, max_version=9).build())


@pytest.mark.parametrize("changes", [{"suite": 4}, {"suite": 3}, {"suite": 0}, {"kem": 3}, {"kem": 0}, {"features": 1}])
def test_a_choice_of_anything_but_one_offered_thing_is_refused(changes):
    with pytest.raises(HandshakeError):
        p2_parse(dataclasses.replace(CHOICE, **changes).build(), OFFER)


def test_the_features_are_echoed():
    with pytest.raises(HandshakeError, match="echo"):
        p3_parse(dataclasses.replace(FINAL, features=1).build(), CHOICE)


@pytest.mark.parametrize(
    ("payload", "parse", "zero_offsets"),
    [
        (CHOICE, lambda data: p2_parse(data, OFFER), (24, 35)),
        (FINAL, lambda data: p3_parse(data, CHOICE), (12, 15, 156, 159)),
    ],
)
def test_zero_fields_and_sizes_are_checked(payload, parse, zero_offsets):
    built = payload.build()
    wrongs = [built[:-1], built + b"\0"]
    wrongs += [built[:offset] + b"\x01" + built[offset + 1 :] for offset in zero_offsets]
    for wrong in wrongs:
        with pytest.raises(HandshakeError):
            parse(wrong)
