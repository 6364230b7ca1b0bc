# SPDX-License-Identifier: MIT
"""Handshakes prove who they say, and to everybody else not one byte is answered (protocol.md 3)."""

import dataclasses
import random

import pytest
from core.crypto_help import status
from core.endpoint_help import (
    AEGIS,
    CHACHA,
    GCM,
    IN_PIPE,
    IN_STREAM,
    M3,
    NK,
    NOW_S,
    ON_LINK,
    REFUSED,
    REPLY,
    SECOND_NS,
    TIMEOUT,
    XK,
    XX,
    Pair,
    initiator_draws,
    link_key_of,
    network_of,
    responder_draws,
    ring_of,
)
from model.cert import Identity
from model.envelope import Network
from model.handshake import CARRIER_TCP, Initiator, Party, Responder
from model.payload import P1
from model.primitives import xchacha20_poly1305_open, xchacha20_poly1305_seal

from qg._core.envelope import EnvelopeKeys

KINDS = [XK, XX, NK]
LAYERS = {XK: (ON_LINK, ON_LINK), XX: (ON_LINK, ON_LINK), NK: (IN_STREAM, IN_PIPE)}
HEAD_LEN, OVERHEAD, PAD_MAX, PIPE_FLIGHT_LEN = 80, 96, 1023, 2048
NOISE_LEN = {XK: (1272, 1296, 224), XX: (1272, 1344, 224), NK: (1272, 1296)}
CLOCK_WINDOW_S = 120
SECRET, OTHER_SECRET = bytes(range(32)), bytes(range(1, 33))

every_kind = pytest.mark.parametrize("kind", KINDS, ids=["XK", "XX", "NK"])


@pytest.fixture
def pair(endpoint):
    """Make an initiator and a responder of one network, each with a handshake begun."""

    def make(kind=XK, **options):
        made = Pair(endpoint("initiator", **options), endpoint("responder", **options))
        begin(made, kind)
        return made

    return make


def begin(pair, kind, peer_id=None):
    """Begin a handshake that draws the same bytes each time and pads no flight on a link."""
    pair.one.draw_first(initiator_draws())
    pair.other.draw_first(responder_draws())
    link_key = None if kind == XX else link_key_of(pair.other.ring)
    assert pair.one.connect(kind, link_key, peer_id, LAYERS[kind][0]) == status.OK
    assert pair.other.listen(1 << kind, LAYERS[kind][1]) == status.OK


def flights_of(pair, kind):
    """Run a handshake: its flights. What follows the third in its write is left out."""
    begin(pair, kind)
    flights = [pair.one.take()]
    pair.other.feed(flights[0])
    flights.append(pair.other.take())
    pair.one.feed(flights[1])
    if kind != NK:
        flights.append(pair.one.take()[: OVERHEAD + NOISE_LEN[kind][2]])
    return flights


def is_silent(endpoint):
    """Whether the session is over and has nothing to say, now and later."""
    ended = endpoint.state == "closed" and endpoint.take() == b""
    endpoint.tick(endpoint.now_ns + 60 * SECOND_NS)
    return ended and endpoint.take() == b"" and endpoint.held[2] == 0


# What a handshake gives


@pytest.mark.parametrize("kind", [XK, XX], ids=["XK", "XX"])
@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "closed"])
def test_both_sides_prove_who_they_are(endpoint, kind, secret):
    network = None if secret is None else network_of(secret)
    pair = Pair(endpoint("initiator", network), endpoint("responder", network))
    pair.connect(kind)
    for side, peer in ((pair.one, pair.other), (pair.other, pair.one)):
        assert side.state == "open"
        assert side.peer_id == peer.ring.peer_id
        assert side.peer_link_key == link_key_of(peer.ring)
        assert side.suite == AEGIS
    assert pair.one.channel_binding == pair.other.channel_binding != bytes(32)
    assert pair.one.exporter == pair.other.exporter
    assert pair.one.events() == [("keyed",), ("ready",)]
    assert pair.other.events() == [("admit M1",), ("admit M3",), ("keyed",), ("ready",)]


def test_the_initiator_of_nk_stays_unknown(endpoint):
    pair = Pair(endpoint("initiator"), endpoint("responder"))
    pair.connect(NK, LAYERS[NK])
    assert pair.one.peer_id == pair.other.ring.peer_id
    assert pair.other.peer_id == pair.other.peer_link_key == bytes(32)
    assert pair.other.events() == [("admit M1",), ("keyed",), ("ready",)]
    assert (pair.one.state, pair.other.state) == ("open", "open")


def test_two_handshakes_share_nothing(endpoint):
    pair, seen = Pair(endpoint("initiator"), endpoint("responder")), set()
    for _ in range(3):
        pair.connect()
        seen |= {pair.one.channel_binding, pair.one.exporter}
    assert len(seen) == 6


@pytest.mark.parametrize("offered", [1, 3, 5, 7])
@pytest.mark.parametrize("usable", [1, 3, 5, 7])
def test_the_best_suite_of_both_is_chosen(endpoint, offered, usable):
    pair = Pair(endpoint("initiator", suites=offered), endpoint("responder", suites=usable))
    pair.connect()
    common = offered & usable
    assert pair.one.suite == pair.other.suite == next(suite for suite in (AEGIS, GCM, CHACHA) if common & suite)


def test_an_offer_without_chacha20_is_refused(endpoint):
    pair = Pair(endpoint("initiator", suites=GCM | AEGIS), endpoint("responder"))
    pair.one.connect(XK, link_key_of(pair.other.ring))
    pair.other.listen(1 << XK)
    assert pair.other.feed(pair.one.take()) == status.E_SUITE
    assert is_silent(pair.other)


# Flights


@every_kind
def test_flights_have_the_sizes_of_the_text(pair, kind):
    made = pair(kind)
    lengths = {tuple(map(len, flights_of(made, kind)))}
    expected = [PIPE_FLIGHT_LEN] * 2 if kind == NK else [OVERHEAD + length for length in NOISE_LEN[kind]]
    assert lengths == {tuple(expected)}


def test_flights_on_a_link_are_padded_by_chance(endpoint):
    one, other = endpoint("initiator"), endpoint("responder")
    lengths = set()
    for _ in range(60):
        one.connect(XK, link_key_of(other.ring))
        lengths.add(len(one.take()) - OVERHEAD - NOISE_LEN[XK][0])
    assert len(lengths) > 30
    assert min(lengths) >= 0
    assert max(lengths) <= PAD_MAX


@every_kind
def test_only_the_flight_that_is_due_is_said(pair, kind):
    made = pair(kind)
    assert made.other.take() == b""
    first = made.one.take()
    assert made.one.take() == b""
    made.other.feed(first)
    second = made.other.take()
    assert made.other.take() == b""
    made.one.feed(second)
    assert made.one.take()
    assert made.one.take() == b""


def test_records_follow_the_third_flight_in_the_same_write(pair):
    made = pair(XK)
    made.other.feed(made.one.take())
    made.one.feed(made.other.take())
    assert len(made.one.take()) > OVERHEAD + NOISE_LEN[XK][2] + 34
    assert made.one.state == "keyed"


def test_the_responder_of_nk_is_mute_until_a_record_has_opened(pair):
    made = pair(NK)
    made.other.feed(made.one.take())
    assert len(made.other.take()) == PIPE_FLIGHT_LEN
    assert made.other.state == "keyed"
    assert made.other.take() == b""
    assert made.other.ping() == status.E_CLOSED


@every_kind
@pytest.mark.parametrize("pieces", ["bytes", "halves", "random"])
def test_flights_may_come_in_pieces(pair, kind, pieces):
    made = pair(kind)
    reference = made.one.channel_binding, made.other.channel_binding
    for _ in range(2):
        for source, target in ((made.one, made.other), (made.other, made.one)):
            data = source.take()
            for piece in cut(data, pieces):
                target.feed(piece)
    assert made.one.state == "open"
    made.pump()
    assert made.one.channel_binding == made.other.channel_binding != reference[0]


def cut(data, how):
    if how == "bytes":
        ends = range(1, len(data) + 1)
    elif how == "halves":
        ends = [len(data) // 2, len(data)]
    else:
        ends = [*sorted(random.Random(len(data)).sample(range(len(data) + 1), 5)), len(data)]
    starts = [0, *ends][: len(ends)]
    return [data[start:end] for start, end in zip(starts, ends, strict=True)]


def test_times_in_a_pipe_are_rounded_so_that_clocks_link_no_circuits(endpoint):
    now_s = NOW_S - NOW_S % 30 + 17
    one, other = endpoint("initiator", unix_s=now_s), endpoint("responder")
    keys = EnvelopeKeys.known(link_key_of(other.ring))
    for kind, layer, expected in ((XK, ON_LINK, now_s), (XK, IN_STREAM, now_s - 17), (NK, IN_STREAM, now_s - 17)):
        one.connect(kind, link_key_of(other.ring), None, layer)
        assert keys.open_head(one.take())["time_s"] == expected


# Tampering


def flips(data):
    """Every way to flip one bit."""
    damaged = bytearray(data)
    for bit in range(8 * len(data)):
        damaged[bit // 8] ^= 1 << bit % 8
        yield bytes(damaged)
        damaged[bit // 8] ^= 1 << bit % 8


@every_kind
def test_every_flipped_bit_of_flight_1_is_met_with_silence(pair, kind):
    made = pair(kind)
    first = flights_of(made, kind)[0]
    made.other.events()
    for damaged in flips(first):
        made.other.listen(1 << kind, LAYERS[kind][1])
        assert made.other.feed(damaged) == status.E_TAG
        assert made.other.take() == b""
        assert made.other.events() == [("failed", REFUSED, False)]
    assert made.other.held[2] == 0


@every_kind
def test_every_flipped_bit_of_flight_2_is_met_with_silence(pair, kind):
    made = pair(kind)
    second = flights_of(made, kind)[1]
    link_key = None if kind == XX else link_key_of(made.other.ring)
    for damaged in [*flips(second), second]:
        made.one.draw_first(initiator_draws())
        made.one.connect(kind, link_key, None, LAYERS[kind][0])
        made.one.take()
        is_whole = damaged == second
        assert made.one.feed(damaged) == (status.OK if is_whole else status.E_TAG)
        assert (made.one.take() != b"") == is_whole
        assert (made.one.state == "closed") == (not is_whole)


@pytest.mark.parametrize("kind", [XK, XX], ids=["XK", "XX"])
def test_every_flipped_bit_of_flight_3_is_met_with_silence(pair, kind):
    made = pair(kind)
    first, _, third = flights_of(made, kind)
    for damaged in [*flips(third), third]:
        made.other.draw_first(responder_draws())
        made.other.listen(1 << kind)
        made.other.feed(first)
        made.other.take()
        is_whole = damaged == third
        assert made.other.feed(damaged) == (status.OK if is_whole else status.E_TAG)
        assert (made.other.take() != b"") == is_whole
        assert (made.other.state == "closed") == (not is_whole)


@every_kind
def test_a_cut_flight_is_waited_for_and_not_answered(pair, kind):
    made = pair(kind)
    flights = flights_of(made, kind)
    for length in range(0, len(flights[0]), 7):
        made.other.listen(1 << kind, LAYERS[kind][1])
        made.other.feed(flights[0][:length])
        assert made.other.state == "handshake"
        assert made.other.take() == b""
        assert made.other.events() == []
    begin(made, kind)
    made.one.take()
    made.one.feed(flights[1][:-1])
    assert made.one.state == "handshake"
    assert made.one.take() == b""
    made.one.feed(flights[1][-1:])
    assert made.one.take() != b""


def test_bytes_behind_a_flight_before_its_answer_are_a_violation(pair):
    made = pair(XK)
    assert made.other.feed(made.one.take() + b"\0") == status.E_STATE
    assert is_silent(made.other)


@pytest.mark.parametrize("length", [80, 1367, 3543, 8192])
def test_noise_is_met_with_silence(endpoint, length):
    other = endpoint("responder")
    other.listen(1 << XK | 1 << XX)
    assert other.feed(random.Random(length).randbytes(length)) == status.E_TAG
    assert other.events() == [("failed", REFUSED, False)]
    assert is_silent(other)


def test_failures_are_counted_by_reason(endpoint):
    other = endpoint("responder")
    for number in range(3):
        other.listen(1 << XK)
        other.feed(bytes([number]) * 100)
    assert other.failures == {status.E_TAG: 3}


# Replay


@pytest.mark.parametrize("kind", [XK, XX, NK], ids=["XK", "XX", "NK"])
def test_a_replayed_flight_1_gets_no_answer_without_a_verdict(pair, kind):
    made = pair(kind)
    first = flights_of(made, kind)[0]
    made.other.admits = False
    made.other.listen(1 << kind, LAYERS[kind][1])
    made.other.feed(first)
    assert made.other.events() == [("admit M1",), ("failed", REFUSED, False)]
    assert is_silent(made.other)


def test_a_replayed_flight_2_opens_for_nobody_else(endpoint):
    pair = Pair(endpoint("initiator"), endpoint("responder"))
    second = flights_of(pair, XK)[1]
    pair.one.connect(XK, link_key_of(pair.other.ring))
    pair.one.take()
    assert pair.one.feed(second) == status.E_TAG
    assert is_silent(pair.one)


def test_a_replayed_flight_3_completes_no_other_handshake(endpoint):
    pair = Pair(endpoint("initiator"), endpoint("responder"))
    first, _, third = flights_of(pair, XK)
    pair.other.listen(1 << XK)
    pair.other.feed(first)
    assert pair.other.take() != b""
    assert pair.other.feed(third) == status.E_TAG
    assert is_silent(pair.other)


def test_flights_of_two_handshakes_cannot_be_mixed(endpoint):
    two = [Pair(endpoint("initiator"), endpoint("responder")) for _ in range(2)]
    for pair in two:
        pair.one.connect(XK, link_key_of(pair.other.ring))
        pair.other.listen(1 << XK)
        pair.other.feed(pair.one.take())
    assert two[0].one.feed(two[1].other.take()) == status.E_TAG
    two[1].one.feed(two[0].other.take())
    assert is_silent(two[0].one)
    assert is_silent(two[1].one)


def test_a_flight_sent_back_is_no_answer(endpoint):
    one = endpoint("initiator")
    one.connect(XK, link_key_of(one.ring))
    assert one.feed(one.take()) == status.E_TAG
    assert is_silent(one)


def test_who_is_not_admitted_after_flight_3_learns_nothing(pair):
    made = pair(XK)
    made.other.feed(made.one.take())
    made.one.feed(made.other.take())
    made.other.admits = False
    made.other.feed(made.one.take())
    assert made.other.events() == [("admit M1",), ("admit M3",), ("failed", REFUSED, False)]
    assert is_silent(made.other)


# Strangers


def listening(endpoint, kinds=1 << XK, layer=ON_LINK):
    endpoint.listen(kinds, layer)
    return endpoint


@pytest.mark.parametrize(("own", "theirs"), [(SECRET, OTHER_SECRET), (SECRET, None), (None, SECRET)])
@pytest.mark.parametrize("kind", [XK, XX], ids=["XK", "XX"])
def test_another_network_is_met_with_silence(endpoint, kind, own, theirs):
    networks = [None if secret is None else network_of(secret) for secret in (own, theirs)]
    one, other = endpoint("initiator", networks[0]), listening(endpoint("responder", networks[1]), 1 << kind)
    one.connect(kind, None if kind == XX else link_key_of(other.ring))
    assert other.feed(one.take()) == status.E_TAG
    assert is_silent(other)


def test_a_flight_to_another_key_is_met_with_silence(endpoint):
    one, other = endpoint("initiator"), listening(endpoint("responder"), 1 << XK | 1 << XX)
    one.connect(XK, link_key_of(one.ring))
    assert other.feed(one.take()) == status.E_TAG
    assert is_silent(other)


@pytest.mark.parametrize(
    ("kind", "kinds", "layer"),
    [
        (XX, 1 << XK, ON_LINK),
        (NK, 1 << XK | 1 << XX, ON_LINK),
        (XX, 1 << XK | 1 << NK, IN_PIPE),
        (NK, 1 << XK, IN_PIPE),
        (XK, 1 << NK, IN_PIPE),
    ],
)
def test_a_kind_that_may_not_arrive_here_is_met_with_silence(endpoint, kind, kinds, layer):
    one, other = endpoint("initiator"), listening(endpoint("responder"), kinds, layer)
    one.connect(kind, None if kind == XX else link_key_of(other.ring), None, IN_STREAM if layer else ON_LINK)
    assert other.feed(one.take()) in (status.E_KIND, status.E_TAG)
    assert is_silent(other)


def test_a_pipe_wants_flights_of_its_own_size(endpoint):
    one, other = endpoint("initiator"), listening(endpoint("responder"), 1 << XK, IN_PIPE)
    one.draw_first(initiator_draws())
    one.connect(XK, link_key_of(other.ring))
    assert other.feed(one.take()) == status.E_LENGTH
    assert is_silent(other)


@pytest.mark.parametrize("offset", [-CLOCK_WINDOW_S - 1, CLOCK_WINDOW_S + 1, -3600, 86400])
def test_a_clock_that_is_off_is_met_with_silence(endpoint, offset):
    one, other = endpoint("initiator", unix_s=NOW_S + offset), listening(endpoint("responder"))
    one.connect(XK, link_key_of(other.ring))
    assert other.feed(one.take()) == status.E_CLOCK
    assert is_silent(other)


@pytest.mark.parametrize("offset", [-CLOCK_WINDOW_S, CLOCK_WINDOW_S])
def test_a_clock_within_the_window_will_do(endpoint, offset):
    pair = Pair(endpoint("initiator", unix_s=NOW_S + offset), endpoint("responder"))
    pair.connect()
    assert pair.other.state == "open"


def test_flights_2_and_3_do_not_depend_on_the_clock(pair):
    made = pair(XK)
    made.other.feed(made.one.take())
    made.one.unix_s = NOW_S + 5000
    made.one.feed(made.other.take())
    made.other.unix_s = NOW_S - 5000
    made.pump()
    assert (made.one.state, made.other.state) == ("open", "open")


# Heads and payloads that no lawful peer sends, with the right keys


def resealed(flight, key, change, pad=b""):
    """Open the head and body of a flight and seal them again with `change(head)` done to the plain head."""
    nonce = flight[:24]
    head = bytearray(xchacha20_poly1305_open(key.head, nonce, b"", flight[24:HEAD_LEN]))
    body = xchacha20_poly1305_open(key.body, nonce, flight[24:HEAD_LEN], flight[HEAD_LEN:])
    change(head)
    sealed = xchacha20_poly1305_seal(key.head, nonce, b"", bytes(head))
    return nonce + sealed + xchacha20_poly1305_seal(key.body, nonce, sealed, body + pad)


def putting(offset, *values):
    def change(head):
        head[offset : offset + len(values)] = bytes(values)

    return change


HEADS = {
    "version 0": (putting(0, 0), "E_VERSION"),
    "version 2": (putting(0, 2), "E_VERSION"),
    "kind 0": (putting(1, 0), "E_KIND"),
    "a reply": (putting(1, REPLY), "E_KIND"),
    "a third flight": (putting(1, M3), "E_KIND"),
    "a cookie": (putting(1, 6), "E_KIND"),
    "kind 7": (putting(1, 7), "E_KIND"),
    "XX under the key of XK": (putting(1, XX), "E_KIND"),
    "fragment 1": (putting(2, 1), "E_NONZERO"),
    "two fragments": (putting(3, 2), "E_NONZERO"),
    "no fragment": (putting(3, 0), "E_NONZERO"),
    "L above 1,400": (putting(16, 5, 0x79), "E_LONG"),
    "another L": (putting(16, 4, 0xF7), "E_LENGTH"),
    "p above 2,047": (putting(18, 8, 0), "E_LONG"),
    "a zero field": (putting(23, 1), "E_NONZERO"),
    "a cookie field": (putting(39, 1), "E_NONZERO"),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_wrong_head_is_met_with_silence(pair, name):
    change, code = HEADS[name]
    made = pair(XK)
    key = Network().key_known(link_key_of(made.other.ring))
    made.other.listen(1 << XK | 1 << XX)
    assert made.other.feed(resealed(made.one.take(), key, change)) == getattr(status, code)
    assert is_silent(made.other)


def test_a_known_kind_under_the_key_of_xx_is_met_with_silence(pair):
    made = pair(XX)
    made.other.listen(1 << XK | 1 << XX)
    flight = resealed(made.one.take(), Network().key_open(), putting(1, XK))
    assert made.other.feed(flight) == status.E_KIND
    assert is_silent(made.other)


def turning(offset, mask):
    def change(head):
        head[offset] ^= mask

    return change


ECHOES = {
    "an unknown kind": (turning(1, 0x0F), "E_KIND"),
    "the kind of the other reply": (turning(1, REPLY ^ M3), "E_KIND"),
    "another flight id": (turning(4, 1), "E_MISMATCH"),
    "another time": (turning(15, 1), "E_MISMATCH"),
}


@pytest.mark.parametrize("name", ECHOES)
def test_a_second_flight_that_repeats_the_first_wrongly_is_met_with_silence(pair, name):
    change, code = ECHOES[name]
    made = pair(XK)
    key = Network().key_known(link_key_of(made.other.ring))
    first = made.one.take()
    made.other.feed(first)
    message = xchacha20_poly1305_open(key.body, first[:24], first[24:HEAD_LEN], first[HEAD_LEN:])
    assert made.one.feed(resealed(made.other.take(), key.reply(message), change)) == getattr(status, code)
    assert is_silent(made.one)


@pytest.mark.parametrize("name", ECHOES)
def test_a_third_flight_that_repeats_the_first_wrongly_is_met_with_silence(pair, name):
    change, code = ECHOES[name]
    made = pair(XK)
    key = Network().key_known(link_key_of(made.other.ring))
    _, _, third = flights_of(made, XK)
    assert made.other.feed(resealed(third, key, change)) == getattr(status, code)
    assert is_silent(made.other)


def test_padding_that_is_not_zero_is_met_with_silence(pair):
    made = pair(XK)
    key = Network().key_known(link_key_of(made.other.ring))
    flight = made.one.take()
    for pad, code in ((b"\0\0", "OK"), (b"\0\1", "E_NONZERO"), (b"\1\0", "E_NONZERO")):
        made.other.listen(1 << XK)
        assert made.other.feed(resealed(flight, key, putting(18, 0, 2), pad)) == getattr(status, code)
        assert (made.other.take() == b"") == (code != "OK")


def identity_of(label):
    """The identity behind the fixtures' rings."""
    seed, secret = (f"{part} of {label}".encode().ljust(32, b".")[:32] for part in ("seed", "link"))
    return Identity(seed, secret, 1 << 62)


def party_of(label, **changes):
    values = {"identity": identity_of(label), "accepted_kinds": (XK, XX, NK), "clock_s": lambda: NOW_S}
    return Party(**values | changes)


OFFERS = {
    "no ChaCha20-Poly1305": ({"suites": 6}, "E_SUITE"),
    "no suite": ({"suites": 0}, "E_SUITE"),
    "no ML-KEM-768": ({"kems": 2}, "E_KEM"),
    "only later versions": ({"min_version": 2, "max_version": 3}, "E_VERSION"),
    "only an older version": ({"min_version": 0, "max_version": 0}, "E_VERSION"),
}


@pytest.mark.parametrize("name", OFFERS)
def test_an_offer_without_what_every_node_has_is_met_with_silence(endpoint, name):
    fields, code = OFFERS[name]
    other = listening(endpoint("responder"))
    initiator = Initiator(party_of("initiator"), CARRIER_TCP, XK, link_key_of(other.ring))
    message = initiator.noise.write_message(dataclasses.replace(P1(7, bytes(12)), **fields).build())
    assert other.feed(initiator._flight_seal(initiator.key, XK, message)) == getattr(status, code)
    assert is_silent(other)


def test_what_later_versions_may_add_to_an_offer_is_ignored(endpoint):
    other = listening(endpoint("responder"))
    initiator = Initiator(party_of("initiator"), CARRIER_TCP, XK, link_key_of(other.ring))
    offer = P1(0xFFFF, b"grease123456", kems=0xFFFF, features=0xFFFFFFFF, min_version=0, max_version=9)
    message = initiator.noise.write_message(offer.build())
    assert other.feed(initiator._flight_seal(initiator.key, XK, message)) == status.OK
    assert other.take() != b""


def answer_of(one, change):
    """Let the model answer `one` with `change` done to P2."""
    responder = Responder(party_of("responder"), CARRIER_TCP)
    start = responder._noise_start

    def started(*arguments):
        start(*arguments)
        send = responder.noise.write_message
        responder.noise.write_message = lambda payload: send(change(payload))

    responder._noise_start = started
    return responder.read(bytearray(one.take()))


def put(offset, value):
    def change(payload):
        return payload[:offset] + value + payload[offset + len(value) :]

    return change


ANSWERS = {
    "a suite that was not offered": (put(0, b"\0\2"), "E_SUITE"),
    "two suites": (put(0, b"\0\5"), "E_SUITE"),
    "no suite": (put(0, b"\0\0"), "E_SUITE"),
    "another KEM": (put(2, b"\0\2"), "E_KEM"),
    "a feature that was not offered": (put(4, b"\0\0\0\1"), "E_MISMATCH"),
    "a zero field": (put(24, b"\1"), "E_NONZERO"),
    "a certificate of another version": (put(36, b"\2"), "E_VERSION"),
    "a certificate of another kind": (put(37, b"\2"), "E_KIND"),
    "a certificate that ends sooner": (put(40, bytes(8)), "E_EXPIRED"),
    "a certificate that ends later": (put(40, b"\x3f" + b"\xff" * 7), "E_SIGNATURE"),
    "a certificate of another identity": (put(48, identity_of("mallory").certificate[12:44]), "E_SIGNATURE"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_wrong_answer_is_met_with_silence(endpoint, name):
    change, code = ANSWERS[name]
    one = endpoint("initiator", suites=CHACHA | AEGIS)
    one.connect(XK, identity_of("responder").link_public)
    assert one.feed(answer_of(one, change)) == getattr(status, code)
    assert is_silent(one)


def test_another_identity_than_the_one_dialled_is_left_without_a_word(endpoint):
    pair = Pair(endpoint("initiator"), endpoint("responder"))
    pair.other.listen(1 << XK)
    pair.one.connect(XK, link_key_of(pair.other.ring), pair.one.ring.peer_id)
    pair.other.feed(pair.one.take())
    assert pair.one.feed(pair.other.take()) == status.E_IDENTITY
    assert is_silent(pair.one)


def test_the_identity_dialled_is_accepted(endpoint):
    pair = Pair(endpoint("initiator"), endpoint("responder"))
    pair.other.listen(1 << XK)
    pair.one.connect(XK, link_key_of(pair.other.ring), pair.other.ring.peer_id)
    pair.pump()
    assert pair.one.state == "open"


def certified_by(label, owner):
    """An identity that claims the link key of another one."""
    return dataclasses.replace(identity_of(label), link_secret=identity_of(owner).link_secret)


def test_who_certifies_a_foreign_key_as_his_own_gains_no_session(endpoint):
    """The initiator means mallory, whose certificate covers the responder's key: message 3 says so (2.1, rule 3)."""
    other = listening(endpoint("responder"))
    initiator = Initiator(party_of("initiator"), CARRIER_TCP, XK, link_key_of(other.ring))
    other.feed(initiator.flight1())
    second = bytearray(other.take())
    send = initiator.noise.write_message
    mallory = certified_by("mallory", "responder").peer_id
    initiator.noise.write_message = lambda payload: send(put(16, mallory)(payload))
    assert other.feed(initiator.read(second)) == status.E_IDENTITY
    assert is_silent(other)


THIRDS = {
    "features that were not chosen": (put(8, b"\0\0\0\1"), "E_MISMATCH"),
    "a zero field": (put(12, b"\1"), "E_NONZERO"),
    "the last zero field": (put(159, b"\1"), "E_NONZERO"),
    "a certificate of another identity": (put(60, identity_of("mallory").certificate[12:44]), "E_SIGNATURE"),
    "a certificate for another key": (put(48, identity_of("mallory").certificate), "E_SIGNATURE"),
    "an expired certificate": (
        put(48, dataclasses.replace(identity_of("initiator"), not_after=NOW_S - 1).certificate),
        "E_EXPIRED",
    ),
}


@pytest.mark.parametrize("name", THIRDS)
def test_a_wrong_third_flight_is_met_with_silence(endpoint, name):
    change, code = THIRDS[name]
    other = listening(endpoint("responder"))
    initiator = Initiator(party_of("initiator"), CARRIER_TCP, XK, link_key_of(other.ring))
    other.feed(initiator.flight1())
    second = bytearray(other.take())
    send = initiator.noise.write_message
    initiator.noise.write_message = lambda payload: send(change(payload))
    assert other.feed(initiator.read(second)) == getattr(status, code)
    assert ("admit M3",) not in other.events()
    assert is_silent(other)


def test_an_expired_certificate_is_left_without_a_word(endpoint):
    late = dataclasses.replace(identity_of("late"), not_after=NOW_S)
    for now_s, expected in ((NOW_S, "open"), (NOW_S + 1, "closed")):
        pair = Pair(endpoint("initiator", unix_s=now_s), endpoint("late", ring=ring_of(late), unix_s=now_s))
        pair.connect()
        assert pair.one.state == expected
    assert pair.one.status == status.E_EXPIRED


# Rotation


def test_a_rotated_link_key_stays_valid_beside_the_new_one(endpoint, rings):
    old = rings("responder")
    new = old.rotate(NOW_S, 90 * 86400)
    assert link_key_of(new) != link_key_of(old)
    for link_key in (link_key_of(old), link_key_of(new)):
        pair = Pair(endpoint("initiator"), endpoint("responder", ring=new))
        pair.one.connect(XK, link_key, new.peer_id)
        pair.other.listen(1 << XK)
        pair.pump()
        assert pair.one.state == "open"
        assert pair.one.peer_link_key == link_key


def test_xx_shows_the_newest_link_key(endpoint, rings):
    new = rings("responder").rotate(NOW_S, 90 * 86400)
    pair = Pair(endpoint("initiator"), endpoint("responder", ring=new))
    pair.connect(XX)
    assert pair.one.peer_link_key == link_key_of(new)


@pytest.mark.parametrize("kind", [XK, XX], ids=["XK", "XX"])
def test_the_previous_network_secret_is_answered_and_not_used(endpoint, kind):
    current, previous = network_of(SECRET), network_of(OTHER_SECRET)
    for theirs in (current, previous):
        pair = Pair(endpoint("initiator", theirs), endpoint("responder", current, previous))
        pair.connect(kind)
        assert pair.one.state == "open"
    one, other = endpoint("initiator", current, previous), listening(endpoint("responder", previous), 1 << kind)
    one.connect(kind, None if kind == XX else link_key_of(other.ring))
    assert other.feed(one.take()) == status.E_TAG


# Time


def later(endpoint, seconds):
    endpoint.tick(1000 * SECOND_NS + int(seconds * SECOND_NS))
    return endpoint.state


@pytest.mark.parametrize(
    ("stage", "limit_s"), [("nothing", 10), ("79 bytes", 10), ("80 bytes", 15), ("all but one", 15), ("flight 1", 30)]
)
def test_a_slow_initiator_is_left(pair, stage, limit_s):
    made = pair(XK)
    first = made.one.take()
    lengths = {"nothing": 0, "79 bytes": 79, "80 bytes": 80, "all but one": len(first) - 1, "flight 1": len(first)}
    made.other.feed(first[: lengths[stage]])
    answered = made.other.take() != b""
    assert answered == (stage == "flight 1")
    made.other.events()
    assert later(made.other, limit_s - 0.1) == "handshake"
    assert made.other.deadline_ns <= (1000 + limit_s) * SECOND_NS
    assert later(made.other, limit_s) == "closed"
    assert made.other.events() == [("failed", TIMEOUT, False)]
    assert made.other.take() == b""


def test_in_a_pipe_only_the_whole_handshake_has_a_limit(endpoint):
    other = listening(endpoint("responder"), 1 << NK, IN_PIPE)
    assert later(other, 29.9) == "handshake"
    assert later(other, 30) == "closed"


def test_the_initiator_waits_30_seconds_for_the_answer_and_the_hello(pair):
    made = pair(XK)
    first = made.one.take()
    assert later(made.one, 29.9) == "handshake"
    made.other.feed(first)
    made.one.feed(made.other.take())
    assert made.one.state == "handshake"
    made.one.take()
    assert later(made.one, 29.95) == "keyed"
    assert later(made.one, 30) == "closed"
    assert made.one.reason == TIMEOUT


def test_a_responder_that_gets_no_hello_waits_no_longer_than_30_seconds(pair):
    made = pair(XK)
    made.other.feed(made.one.take())
    made.one.feed(made.other.take())
    made.other.feed(made.one.take()[: OVERHEAD + NOISE_LEN[XK][2]])
    made.other.take()
    assert later(made.other, 29) == "keyed"
    assert later(made.other, 30) == "closed"
