# SPDX-License-Identifier: MIT
"""Flights: sizes, what a responder answers, and that everything else meets silence."""

import copy
import dataclasses

import pytest
from model.envelope import KIND_NK1, KIND_XK1, KIND_XX1, FlightReader, Head, head_parse
from model.errors import AuthError, HandshakeError
from model.handshake import CARRIER_PIPE, CARRIER_TCP, Initiator, Responder
from model.primitives import xchacha20_poly1305_seal

REFUSED = (AuthError, HandshakeError)
NOW_S = 1_750_000_000
KINDS = [(CARRIER_TCP, KIND_XK1), (CARRIER_TCP, KIND_XX1), (CARRIER_PIPE, KIND_XK1), (CARRIER_PIPE, KIND_NK1)]


def sides(one, other, carrier=CARRIER_TCP, kind=KIND_XK1):
    link_key = b"" if kind == KIND_XX1 else other.identity.link_public
    return Initiator(one, carrier, kind, link_key), Responder(other, carrier)


def run(initiator, responder):
    flights = [initiator.flight1()]
    flights.append(responder.read(bytearray(flights[0])))
    flights.append(initiator.read(bytearray(flights[1])))
    if flights[2]:
        assert responder.read(bytearray(flights[2])) == b""
    return flights


@pytest.mark.parametrize(("carrier", "kind"), KINDS)
def test_both_sides_agree_on_keys_and_on_who_the_other_is(party, carrier, kind):
    one, other = party("one"), party("other")
    initiator, responder = sides(one, other, carrier, kind)
    flights = run(initiator, responder)
    ours, theirs = initiator.established, responder.established
    assert (ours.hash, ours.k1, ours.k2, ours.suite) == (theirs.hash, theirs.k1, theirs.k2, theirs.suite)
    assert ours.remote_peer_id == other.identity.peer_id
    assert ours.remote_link_key == other.identity.link_public
    assert theirs.remote_peer_id == (None if kind == KIND_NK1 else one.identity.peer_id)
    if carrier == CARRIER_PIPE:
        assert {len(flight) for flight in flights if flight} == {2048}
    else:
        least = [1368, 1440 if kind == KIND_XX1 else 1392, 320]
        for flight, low in zip(flights, least, strict=True):
            assert low <= len(flight) <= low + 1023


@pytest.mark.parametrize(("own", "other", "chosen"), [(7, 7, 4), (3, 7, 2), (7, 3, 2), (5, 3, 1), (1, 7, 1), (7, 1, 1)])
def test_the_best_suite_that_both_have_is_taken(party, own, other, chosen):
    initiator, responder = sides(party("one", suites=own), party("other", suites=other))
    run(initiator, responder)
    assert initiator.established.suite == chosen


@pytest.mark.parametrize(
    ("flight_no", "carrier", "kind"),
    [(0, CARRIER_TCP, KIND_XK1), (1, CARRIER_TCP, KIND_XX1), (2, CARRIER_PIPE, KIND_XK1)],
)
def test_a_flipped_bit_anywhere_in_a_flight_is_refused(party, flight_no, carrier, kind):
    initiator, responder = sides(party("one"), party("other"), carrier, kind)
    flight, receiver = initiator.flight1(), responder
    if flight_no >= 1:
        flight, receiver = responder.read(bytearray(flight)), initiator
    if flight_no == 2:
        flight, receiver = initiator.read(bytearray(flight)), responder
    for i in range(len(flight)):
        wrong = bytearray(flight)
        wrong[i] ^= 1 << i % 8
        with pytest.raises(REFUSED):
            copy.deepcopy(receiver).read(wrong)
    copy.deepcopy(receiver).read(bytearray(flight))


def test_a_flight_may_arrive_byte_by_byte(party):
    initiator, responder = sides(party("one"), party("other"))
    flight1 = initiator.flight1()
    buffer = bytearray()
    for i, byte in enumerate(flight1):
        buffer.append(byte)
        answer = responder.read(buffer)
        assert (answer is None) == (i < len(flight1) - 1)
    assert not buffer


def test_a_flight_of_another_network_or_for_another_key_meets_silence(party):
    other = party("other", secret=b"\x01" * 32)
    for one, link_key in (
        (party("one"), other.identity.link_public),
        (party("one", secret=b"\x01" * 32), party("third").identity.link_public),
    ):
        flight = Initiator(one, CARRIER_TCP, KIND_XK1, link_key).flight1()
        with pytest.raises(AuthError):
            Responder(other, CARRIER_TCP).read(bytearray(flight))


def test_kinds_are_answered_only_where_they_belong(party):
    one, other = party("one"), party("other")
    for carrier, kind in ((CARRIER_TCP, KIND_NK1), (CARRIER_PIPE, KIND_XX1)):
        initiator, responder = sides(one, other, carrier, kind)
        with pytest.raises(REFUSED):
            responder.read(bytearray(initiator.flight1()))
    closed = dataclasses.replace(other, accepted_kinds=(KIND_XK1,))
    initiator, responder = sides(one, closed, CARRIER_TCP, KIND_XX1)
    with pytest.raises(REFUSED):
        responder.read(bytearray(initiator.flight1()))


@pytest.mark.parametrize(("skew_s", "is_taken"), [(120, True), (-120, True), (121, False), (-121, False)])
def test_the_clock_window_is_120_seconds(party, skew_s, is_taken):
    initiator, responder = sides(party("one", clock_s=NOW_S + skew_s), party("other"))
    flight = bytearray(initiator.flight1())
    if is_taken:
        assert responder.read(flight)
    else:
        with pytest.raises(HandshakeError, match="clock"):
            responder.read(flight)


def test_a_flight_is_answered_once(party):
    other = party("other")
    flight = sides(party("one"), other)[0].flight1()
    assert Responder(other, CARRIER_TCP).read(bytearray(flight))
    with pytest.raises(HandshakeError, match="replay"):
        Responder(other, CARRIER_TCP).read(bytearray(flight))


def test_a_pinned_peer_id_is_compared(party):
    one, other, third = party("one"), party("other"), party("third")
    for pinned, is_taken in ((other.identity.peer_id, True), (third.identity.peer_id, False)):
        initiator = Initiator(one, CARRIER_TCP, KIND_XK1, other.identity.link_public, pinned)
        flight2 = Responder(other, CARRIER_TCP).read(bytearray(initiator.flight1()))
        if is_taken:
            assert initiator.read(bytearray(flight2))
        else:
            with pytest.raises(HandshakeError):
                initiator.read(bytearray(flight2))


def change_before_seal(side, name, value):
    """From now on `side` seals its flights with another flight id or time."""
    seal = side._flight_seal

    def changed(*args):
        setattr(side, name, value)
        return seal(*args)

    side._flight_seal = changed


@pytest.mark.parametrize(("name", "value"), [("flight_id", 7), ("time_s", NOW_S + 1)])
def test_flights_2_and_3_repeat_the_id_and_time_of_flight_1(party, name, value):
    initiator, responder = sides(party("one"), party("other"))
    flight1 = initiator.flight1()
    change_before_seal(responder, name, value)
    with pytest.raises(HandshakeError, match="another kind or handshake"):
        initiator.read(bytearray(responder.read(bytearray(flight1))))
    initiator, responder = sides(party("one"), party("other"))
    flight2 = responder.read(bytearray(initiator.flight1()))
    change_before_seal(initiator, name, value)
    with pytest.raises(HandshakeError, match="another kind or handshake"):
        responder.read(bytearray(initiator.read(bytearray(flight2))))


def test_message_3_for_another_peer_id_is_refused(party):
    """A foreign identity that certifies the responder's link key as its own gains nothing."""
    initiator, responder = sides(party("one"), party("other"))
    flight2 = responder.read(bytearray(initiator.flight1()))
    flight3 = initiator.read(bytearray(flight2))
    responder.party = dataclasses.replace(responder.party, identity=party("third").identity)
    with pytest.raises(HandshakeError, match="another PeerID"):
        responder.read(bytearray(flight3))


@pytest.mark.parametrize("pad", [bytes(10), bytes(9) + b"\x01", b"\x80" + bytes(9)])
def test_the_padding_of_a_flight_is_zero(party, pad):
    key, nonce = party("other").network.key_known(bytes(32)), bytes(24)
    sealed_head = xchacha20_poly1305_seal(key.head, nonce, b"", Head(KIND_XK1, 1, NOW_S, 100, 10).build())
    flight = nonce + sealed_head + xchacha20_poly1305_seal(key.body, nonce, sealed_head, bytes(100) + pad)
    reader = FlightReader([key], lambda head: None)
    if any(pad):
        with pytest.raises(HandshakeError, match="padding"):
            reader.read(bytearray(flight))
    else:
        assert reader.read(bytearray(flight)) == bytes(100)


def test_the_source_of_a_circuit_rounds_its_clock(party):
    one = party("one", clock_s=NOW_S + 29)
    assert Initiator(one, CARRIER_TCP, KIND_XK1, bytes([9]) * 32).time_s == NOW_S + 29
    assert Initiator(one, CARRIER_PIPE, KIND_XK1, bytes([9]) * 32).time_s % 30 == 0


def test_a_head_with_any_unlawful_field_is_refused():
    good = Head(1, 2, 3, 1400, 2047).build()
    assert head_parse(good) == Head(1, 2, 3, 1400, 2047)
    wrong_bytes = {0: 2, 2: 1, 3: 2, 20: 1, 23: 1, 24: 1, 39: 1, 16: 0x06, 18: 0x08}
    for offset, value in wrong_bytes.items():
        wrong = bytearray(good)
        wrong[offset] = value
        with pytest.raises(HandshakeError):
            head_parse(bytes(wrong))


def test_the_head_is_checked_before_the_body_arrives(party):
    other = party("other")
    flight = Initiator(party("one"), CARRIER_TCP, KIND_XK1, other.identity.link_public).flight1()

    def refuse(head):
        raise HandshakeError("seen")

    reader = FlightReader([other.network.key_known(other.identity.link_public)], refuse)
    assert reader.read(bytearray(flight[:79])) is None
    with pytest.raises(HandshakeError, match="seen"):
        reader.read(bytearray(flight[:80]))
