# SPDX-License-Identifier: MIT
"""What a link begins with: bytes that take all values, or six printable characters (docs/protocol.md 3.7)."""

import random
from collections import Counter

import pytest
from core.endpoint_help import IN_PIPE, IN_STREAM, NK, NOW_S, ON_LINK, XK, XX, Pair, link_key_of, ring_of
from looks.measure import chi_square, deviations
from looks.probes import HELLOS, Flights
from looks.rules import rule_exempting
from model.cert import Identity
from model.handshake import CARRIER_TCP, Party, Responder

from qg._core.endpoint import Endpoint

PRINTABLE = frozenset(range(0x20, 0x7F))
N_FLIGHTS = 2000
rng = random.Random(7447)


def endpoint(**options):
    return Endpoint(ring_of(Identity(rng.randbytes(32), rng.randbytes(32), 1 << 62)), seed=rng.randbytes(32), **options)


def flights(**options):
    make = Flights(rng.randbytes(32), NOW_S, 7447, **options).make
    return [make() for _ in range(N_FLIGHTS)]


def is_printable(data):
    return PRINTABLE.issuperset(data)


def test_six_printable_characters_of_all_kinds_and_then_none():
    found = flights(first_bytes=1)
    assert all(is_printable(flight[:6]) for flight in found)
    limit = deviations(1e-6 / 24)
    for offset in range(6):
        assert chi_square(Counter(flight[offset] for flight in found), 95) < limit, offset
    for offset in range(6, 24):
        assert chi_square(Counter(flight[offset] >> 4 for flight in found), 16) < limit, offset


def test_without_the_setting_first_bytes_take_all_values():
    limit = deviations(1e-6 / 6)
    found = flights()
    for offset in range(6):
        assert chi_square(Counter(flight[offset] >> 4 for flight in found), 16) < limit, offset


@pytest.mark.parametrize("kind", [XK, XX])
def test_only_the_first_flight_of_a_link_is_shaped(kind):
    n_printable = Counter()
    for _ in range(10):
        pair = Pair(endpoint(first_bytes=1), endpoint(first_bytes=1))
        assert pair.one.connect(kind, None if kind == XX else link_key_of(pair.other.ring)) == 0
        assert pair.other.listen(1 << kind) == 0
        for side, other in ((pair.one, pair.other), (pair.other, pair.one), (pair.one, pair.other)):
            flight = side.take()
            n_printable[side is pair.one, side.state] += is_printable(flight[:6])
            other.feed(flight)
        pair.pump()
        assert (pair.one.state, pair.other.state) == ("open", "open")
    assert sum(n_printable.values()) == 10


def test_flights_within_circuits_stay_uniform():
    """Nobody but the relay before the last sees them, and to it they would tell who has this setting."""
    n_printable = 0
    for _ in range(50):
        one, other = endpoint(first_bytes=1), endpoint()
        assert one.connect(NK, link_key_of(other.ring), None, IN_STREAM) == 0
        assert other.listen(1 << NK, IN_PIPE) == 0
        flight = one.take()
        assert len(flight) == 2048
        n_printable += is_printable(flight[:6])
    assert n_printable <= 2  # one in 380 is by chance


def test_a_peer_that_knows_nothing_of_the_setting_answers():
    """The independent implementation, as written from the text."""
    one = endpoint(first_bytes=1)
    identity = Identity(rng.randbytes(32), rng.randbytes(32), 1 << 62)
    responder = Responder(Party(identity, clock_s=lambda: NOW_S), CARRIER_TCP)
    assert one.connect(XK, identity.link_public, None, ON_LINK) == 0
    flight = one.take()
    assert is_printable(flight[:6])
    answer = responder.read(bytearray(flight))
    assert one.feed(answer) == 0
    assert one.take()


# The published rules of one censor


def test_the_rules_block_uniform_flights_and_let_printable_ones_pass():
    blocked = sum(rule_exempting(flight) is None for flight in flights())
    assert blocked / N_FLIGHTS > 0.98  # 0.9973 are expected: the first six bytes may be printable by chance
    assert {rule_exempting(flight) for flight in flights(first_bytes=1)} == {2}


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (bytes(100), 1),
        (b"\xff" * 100, 1),
        (b"\x0f" * 100, None),
        (b"abcdef" + b"\x0f" * 94, 2),
        (b"abcde" + b"\x0f" * 95, None),
        (b"\x0f" + b"U" * 10 + b"\x8f" * 2 + b"U" * 10 + b"\x0f" * 17, None),
        (b"\x0f" + b"U" * 20 + b"\x8f" * 2 + b"U" * 10 + b"\x0f" * 17, 3),
        (b"\x0f" * 50 + b"U" * 21 + b"\x0f" * 50, 4),
        (b"\x0f" * 50 + b"U" * 20 + b"\x0f" * 50, None),
        (b"\x16\x03\x01" + b"\x0f" * 100, 5),
        (b"GET \x8f" + b"\x0f" * 100, 5),
        (HELLOS["http"], 2),
    ],
)
def test_the_rules_are_those_published(data, rule):
    assert rule_exempting(data) == rule
