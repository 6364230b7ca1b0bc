# SPDX-License-Identifier: MIT
"""The core talks with an implementation that was written from the text alone, in both roles, and makes its bytes."""

import json
import random

import pytest
from core.crypto_help import ROOT, status
from core.endpoint_help import (
    BUSY,
    BYTES,
    CANCELLED,
    IDLE,
    IN_PIPE,
    IN_STREAM,
    KINDS_LINK,
    KINDS_RELAY,
    MESSAGES,
    NK,
    NORMAL,
    NOW_S,
    ON_LINK,
    PIPE,
    PROTOCOL,
    REFUSED,
    RELAY,
    SECOND_NS,
    UUID,
    WINDOW,
    XK,
    XX,
    initiator_draws,
    link_key_of,
    network_of,
    responder_draws,
    ring_of,
)
from model import frames
from model.cert import Identity
from model.envelope import Network
from model.frames import HelloValues
from model.handshake import CARRIER_PIPE, CARRIER_TCP, Initiator, Party, Responder
from model.packer import Sizes
from model.peer import ModelPeer

from qg._core import wire
from qg._core.endpoint import Endpoint

KINDS = {"XK": XK, "XX": XX, "NK": NK}
OFFERS = {"ChaCha20-Poly1305": 1, "AES-256-GCM": 3, "AEGIS-256": 7}
SECRETS = {"open": bytes(32), "closed": bytes(range(32))}
MODEL = Identity(b"seed of the model..............."[:32], b"link key of the model..........."[:32], 1 << 40)

every_role = pytest.mark.parametrize("role", ["initiator", "responder"])


class Wire:
    """The model and the core with bytes between them; `role` is the model's."""

    def __init__(
        self, endpoint, *, role="initiator", kind=XK, suites=7, secret=bytes(32), hello=None, padding=1, pieces=None
    ):
        self.core = endpoint("core", network_of(secret), suites=suites, padding=padding)
        self.role, self.kind, self.pieces = role, kind, pieces
        draw = random.Random(f"{role} {kind} {suites}")
        party = Party(MODEL, Network(secret), suites, (XK, XX, NK), lambda: NOW_S, lambda _, n: draw.randbytes(n))
        carrier = CARRIER_PIPE if kind == NK else CARRIER_TCP
        layer = ON_LINK if kind != NK else IN_PIPE if role == "initiator" else IN_STREAM
        if kind == NK:
            self.core.rights = (KINDS_RELAY if role == "initiator" else 0, 0, 16)
        if role == "initiator":
            self.core.listen(1 << kind, layer)
            handshake = Initiator(party, carrier, kind, b"" if kind == XX else link_key_of(self.core.ring))
        else:
            self.core.connect(kind, None if kind == XX else MODEL.link_public, None, layer)
            handshake = Responder(party, carrier)
        sizes = Sizes.link() if kind != NK else Sizes.answering() if role == "responder" else Sizes.link().inside(0)
        self.model = ModelPeer(handshake, hello or HelloValues(), sizes)
        self.talk()

    def feed_core(self, data):
        ends = sorted(self.pieces.sample(range(len(data) + 1), min(4, len(data)))) if self.pieces else []
        for start, end in zip([0, *ends], [*ends, len(data)], strict=True):
            self.core.feed(data[start:end])

    def talk(self):
        """Carry bytes until nobody has anything to say."""
        while (said := self.model.output_bytes()) + (answered := self.core.take()):
            self.feed_core(said)
            self.model.receive(answered)

    def is_open(self):
        return self.model.is_connected and self.core.state == "open"

    def has_same_keys(self):
        """Whether both are at the same place of the same generation, in both directions."""
        keys = self.model.keys
        ours = [self.core.sending, self.core.receiving]
        theirs = [(keys.number, side.epoch, side.seq) for side in (keys.recv, keys.send)]
        return ours == theirs


def grease_of(link):
    return [frame for frame in link.model.received if isinstance(frame, frames.Skipped)]


# Handshakes


@every_role
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("secret", SECRETS)
def test_handshakes(endpoint, role, kind, secret):
    link = Wire(endpoint, role=role, kind=KINDS[kind], secret=SECRETS[secret])
    assert link.is_open()
    done = link.model.established
    assert done.suite == link.core.suite
    assert done.hash == link.core.channel_binding
    assert link.model.keys.exporter == link.core.exporter
    knows_initiator = KINDS[kind] != NK
    if role == "responder" or knows_initiator:
        assert link.core.peer_id == MODEL.peer_id
    else:
        assert link.core.peer_id == bytes(32)
    if role == "initiator" or knows_initiator:
        assert done.remote_peer_id == link.core.ring.peer_id
        assert done.remote_link_key == link_key_of(link.core.ring)
    assert link.has_same_keys()


@every_role
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suite", OFFERS)
def test_suites(endpoint, role, kind, suite):
    link = Wire(endpoint, role=role, kind=KINDS[kind], suites=OFFERS[suite], pieces=random.Random(suite))
    assert link.is_open()
    assert link.core.suite == link.model.established.suite == {1: 1, 3: 2, 7: 4}[OFFERS[suite]]
    for number in range(20):
        link.model.ping(bytes([number]) * 8)
        link.core.ping()
        link.talk()
    assert frames.Pong(b"\x13" * 8) in link.model.received
    assert link.core.events().count(("pong", 0)) == 20
    assert link.has_same_keys()


@every_role
def test_another_network_is_met_with_silence(endpoint, role):
    core = endpoint("core", network_of(SECRETS["closed"]))
    stranger = Party(MODEL, Network(), 7, (XK,), lambda: NOW_S)
    if role == "initiator":
        core.listen(1 << XK)
        assert core.feed(Initiator(stranger, CARRIER_TCP, XK, link_key_of(core.ring)).flight1()) == status.E_TAG
        assert core.take() == b""
    else:
        core.connect(XK, MODEL.link_public)
        model = ModelPeer(Responder(stranger, CARRIER_TCP), HelloValues(), Sizes.link())
        model.receive(core.take())
        assert (model.end, model.output()) == ("sink", [])


@every_role
def test_limits_and_padding_of_hello(endpoint, role):
    hello = HelloValues(max_service_streams=3, max_pipes=2, max_message=5000, padding=2, services=(UUID,))
    link = Wire(endpoint, role=role, hello=hello, padding=1)
    assert link.core.peer_hello == (1048576, 3, 2, 5000, 2)
    assert link.model.remote_hello.max_pipes == 1024
    assert link.model.remote_hello.padding == 1
    link.core.inject(b"\x40\x40\x05hello")
    assert len(link.core.take()) == 2 + 1024 + 32


# Streams


def model_read(link, number, length):
    """Read in the model until so much has come."""
    data = b""
    for _ in range(200):
        link.talk()
        stream = link.model.streams.get(number)
        if stream is not None:
            data += link.model.stream_read(stream)
        if len(data) >= length:
            break
    return data


def core_read(link, number, length):
    data = b""
    for _ in range(200):
        link.talk()
        chunk = link.core.received(number)
        link.core.used(number, len(chunk))
        data += chunk
        if len(data) >= length:
            break
    return data


@every_role
@pytest.mark.parametrize("suite", OFFERS)
def test_more_than_any_window_goes_both_ways(endpoint, role, suite):
    link = Wire(endpoint, role=role, suites=OFFERS[suite], pieces=random.Random(1))
    there, back = random.Random(2).randbytes(400_000), random.Random(3).randbytes(400_000)
    stream = link.model.stream_open(BYTES, UUID)
    link.model.stream_write(stream, there)
    link.talk()
    assert ("open", stream.id) in link.core.events()
    link.core.accept(stream.id, WINDOW)
    link.core.write(stream.id, back)
    link.core.finish(stream.id)
    assert core_read(link, stream.id, len(there)) == there
    assert model_read(link, stream.id, len(back)) == back
    link.model.stream_finish(stream)
    link.talk()
    assert link.core.events()[-2:] == [("fin", stream.id), ("gone", stream.id)]
    assert link.core.offsets(stream.id) is None
    assert not link.model.streams


@every_role
def test_streams_opened_by_the_core(endpoint, role):
    link = Wire(endpoint, role=role)
    data = random.Random(4).randbytes(300_000)
    for kind, priority in ((BYTES, 0), (MESSAGES, 2)):
        number = link.core.open_stream(kind, priority, WINDOW, UUID + b"metadata")
        link.core.write(number, data)
        link.core.finish(number)
        link.talk()
        assert ("accepted", number) in link.core.events()
        opened = link.model.streams[number].opened
        assert (opened.kind, opened.priority, opened.credit, opened.body) == (
            kind,
            priority,
            WINDOW,
            UUID + b"metadata",
        )
        assert model_read(link, number, len(data)) == data
    assert link.is_open()


@every_role
def test_the_credit_of_the_session_bounds_many_streams(endpoint, role):
    link = Wire(endpoint, role=role)
    ids = [link.core.open_stream(BYTES, NORMAL, WINDOW, UUID) for _ in range(20)]
    streams = [link.model.stream_open(BYTES, UUID) for _ in range(20)]
    for number in ids:
        link.core.write(number, bytes(WINDOW))
    for stream in streams:
        link.model.stream_write(stream, bytes(WINDOW))
    link.talk()
    for stream in streams:
        link.core.accept(stream.id, WINDOW)
    link.talk()
    assert link.core.session_credit[0] == 1048576
    assert link.model.session_sent == 1048576
    read = dict.fromkeys(ids + [stream.id for stream in streams], 0)
    for _ in range(10):
        for number in ids:
            read[number] += len(link.model.stream_read(link.model.streams[number]))
        for stream in streams:
            data = link.core.received(stream.id)
            link.core.used(stream.id, len(data))
            read[stream.id] += len(data)
        link.talk()
    assert set(read.values()) == {WINDOW}


@every_role
@pytest.mark.parametrize(("credit", "code"), [(1048575, status.E_CREDIT), (1048576, status.OK)])
def test_hello_never_gives_less_session_credit_than_there_is_already(endpoint, role, credit, code):
    link = Wire(endpoint, role=role, hello=HelloValues(session_credit=credit))
    assert link.core.status == code
    assert link.is_open() == (code == status.OK)


@every_role
def test_resets_carry_their_reason(endpoint, role):
    link = Wire(endpoint, role=role)
    stream = link.model.stream_open(BYTES, UUID)
    link.model.stream_write(stream, bytes(1000))
    link.talk()
    link.core.reset(stream.id, BUSY)
    link.model.stream_write(stream, bytes(1000))
    link.talk()
    assert stream.reset_reason == BUSY
    number = link.core.open_stream(BYTES, NORMAL, WINDOW, UUID)
    link.core.write(number, bytes(10_000))
    link.talk()
    link.model.stream_reset(link.model.streams[number], CANCELLED)
    link.talk()
    assert ("reset", number, CANCELLED) in link.core.events()
    assert link.is_open()


@every_role
@pytest.mark.parametrize("kind", [PIPE, RELAY])
def test_kinds_that_may_not_be_opened_are_refused(endpoint, role, kind):
    core = endpoint("core")
    core.rights = (KINDS_LINK & ~(1 << PIPE), 10, 10)
    link = Wire(lambda *_, **__: core, role=role)
    body = b"\x08" if kind == PIPE else wire.build_open_relay(bytes(32), bytes(32), [(4, b"\x01\x02\x03\x04", 5)])
    stream = link.model.stream_open(kind, body)
    link.talk()
    assert stream.reset_reason == REFUSED
    assert link.is_open()


def test_relay_streams_in_a_layer(endpoint):
    link = Wire(endpoint, kind=NK)
    body = wire.build_open_relay(bytes(32), bytes(32), [(4, bytes([192, 0, 2, 1]), 7447)])
    stream = link.model.stream_open(RELAY, body)
    link.talk()
    assert link.core.opening(stream.id) == (RELAY, NORMAL, 0, body)
    link.core.accept(stream.id, WINDOW)
    link.talk()
    assert stream.is_accepted
    link.model.stream_write(stream, bytes(2048))
    link.talk()
    assert len(link.core.received(stream.id)) == 2048


@every_role
def test_more_than_the_credit_is_answered_by_a_reset(endpoint, role):
    link = Wire(endpoint, role=role)
    stream = link.model.stream_open(BYTES, UUID)
    stream.send_limit = 1 << 20
    link.model.stream_write(stream, bytes(16385))
    link.talk()
    assert stream.reset_reason == PROTOCOL
    assert link.is_open()


@every_role
def test_frames_without_use_here_are_skipped(endpoint, role):
    link = Wire(endpoint, role=role)
    for frame in (
        frames.Skipped(0x40, b"later"),
        frames.Skipped(1 << 40, bytes(3000)),
        frames.Cover(bytes(500)),
        frames.Services((UUID,), ()),
        frames.Peers((b"record",)),
        frames.Observed(frames.Address(4, bytes([192, 0, 2, 7]), 7447)),
    ):
        link.model.frame_send(frame)
        link.talk()
    assert link.is_open()
    assert (
        link.core.events() == [("admit M1",), ("admit M3",), ("keyed",), ("ready",)][0 if role == "initiator" else 2 :]
    )


# Keys


def mark(link, number):
    """Send something in both directions, so that keys that differ would show."""
    link.model.ping(number.to_bytes(8, "big"))
    link.core.ping()
    link.talk()
    assert frames.Pong(number.to_bytes(8, "big")) in link.model.received
    assert ("pong", 0) in link.core.events()
    assert link.has_same_keys()


@every_role
@pytest.mark.parametrize("suite", OFFERS)
def test_epochs_in_both_directions(endpoint, role, suite):
    link = Wire(endpoint, role=role, suites=OFFERS[suite])
    for number in range(5):
        link.model.epoch()
        mark(link, number)
        link.core.end_epoch()
        mark(link, 100 + number)
    assert link.core.sending[1] == link.core.receiving[1] == 5


@every_role
@pytest.mark.parametrize("suite", OFFERS)
@pytest.mark.parametrize("starter", ["model", "core", "both"])
def test_exchanges_of_keys(endpoint, role, suite, starter):
    link = Wire(endpoint, role=role, suites=OFFERS[suite])
    binding, exporter = link.core.channel_binding, link.core.exporter
    for generation in range(1, 4):
        if starter != "core":
            link.model.rekey()
        if starter != "model":
            link.core.start_rekey()
        said, answered = link.model.output_bytes(), link.core.take()
        link.core.feed(said)
        link.model.receive(answered)
        link.talk()
        assert link.model.keys.number == link.core.sending[0] == link.core.receiving[0] == generation
        assert not link.core.is_rekeying
        assert link.model.keys.is_idle
        mark(link, generation)
        link.core.end_epoch()
        link.model.epoch()
        mark(link, 50 + generation)
    assert (link.core.channel_binding, link.core.exporter) == (binding, exporter)
    assert link.model.keys.exporter == exporter


@every_role
def test_data_flows_across_an_exchange(endpoint, role):
    link = Wire(endpoint, role=role)
    stream = link.model.stream_open(BYTES, UUID)
    number = link.core.open_stream(BYTES, NORMAL, WINDOW, UUID)
    link.talk()
    link.core.accept(stream.id, WINDOW)
    there = back = b""
    for step in range(12):
        data = bytes([step]) * 5000
        link.model.stream_write(stream, data)
        link.core.write(number, data)
        there += data
        back += data
        if step % 4 == 1:
            link.model.rekey()
        if step % 4 == 3:
            link.core.start_rekey()
        link.core.feed(link.model.output_bytes())
        link.model.receive(link.core.take())
        if step % 4 == 2:
            link.talk()
    assert core_read(link, stream.id, len(there)) == there
    assert model_read(link, number, len(back)) == back
    assert link.has_same_keys()
    assert link.core.sending[0] == 6


@every_role
@pytest.mark.parametrize("behind", [(), (frames.Ping(bytes(8)), frames.RekeyDone())], ids=["nothing", "another frame"])
def test_an_answer_is_one_record_with_nothing_between(endpoint, role, behind):
    link = Wire(endpoint, role=role)
    link.core.start_rekey()
    link.model.receive(link.core.take())
    answer, _ = link.model.control.popleft()
    link.model.control.append((answer, *behind))
    link.core.feed(link.model.output_bytes())
    assert link.core.status == status.E_STATE
    assert link.core.take() != b""
    assert link.core.state == "closed"


# The end


@every_role
def test_the_core_closes(endpoint, role):
    link = Wire(endpoint, role=role)
    link.core.close(IDLE)
    link.talk()
    assert (link.model.end, link.model.end_reason) == ("fin", IDLE)
    assert link.core.state == "closed"


@every_role
def test_the_model_closes(endpoint, role):
    link = Wire(endpoint, role=role)
    link.model.close(IDLE, "nothing to say")
    link.talk()
    assert link.core.events()[-1] == ("closed", IDLE, True)


@every_role
@pytest.mark.parametrize("who", ["model", "core"])
def test_a_record_that_was_touched_is_met_with_silence(endpoint, role, who):
    link = Wire(endpoint, role=role)
    if who == "core":
        link.model.ping(bytes(8))
        record = bytearray(link.model.output_bytes())
        record[-1] ^= 1
        assert link.core.feed(bytes(record)) == status.E_TAG
        assert (link.core.state, link.core.take()) == ("discard", b"")
    else:
        link.core.ping()
        record = bytearray(link.core.take())
        record[-1] ^= 1
        link.model.receive(bytes(record))
        assert (link.model.end, link.model.output()) == ("discard", [])


# First words of a session that no lawful peer says

FIRST = [
    frames.Ping(bytes(8)),
    frames.Epoch(),
    frames.Open(1, BYTES, 1, 0, UUID),
    frames.Cover(b""),
    frames.Skipped(64, b""),
    frames.Padding(5),
]


@every_role
@pytest.mark.parametrize("first", FIRST, ids=lambda frame: type(frame).__name__)
def test_hello_is_the_first_frame(endpoint, monkeypatch, role, first):
    monkeypatch.setattr(ModelPeer, "_hello_send", lambda self: self.frame_send(first))
    link = Wire(endpoint, role=role)
    assert link.core.status == status.E_STATE
    assert (link.model.end, link.model.end_reason) == ("fin", PROTOCOL)


def test_the_initiator_of_a_layer_says_an_empty_hello(endpoint, monkeypatch):
    monkeypatch.setattr(ModelPeer, "_hello_send", lambda self: self.frame_send(HelloValues(max_pipes=1).frame()))
    link = Wire(endpoint, kind=NK)
    assert link.core.status == status.E_FRAME


@every_role
@pytest.mark.parametrize("body", [b"\x05\x01\x04", b"\x04\x01\x08\x03\x01\x08", b"\x03\x02\x08"])
def test_a_malformed_hello_ends_the_session(endpoint, monkeypatch, role, body):
    class Malformed:
        @staticmethod
        def build():
            return b"\x03" + wire.build_varint(len(body)) + body

    monkeypatch.setattr(ModelPeer, "_hello_send", lambda self: self.frame_send(Malformed()))
    link = Wire(endpoint, role=role)
    assert link.core.status < 0
    assert (link.model.end, link.model.end_reason) == ("fin", PROTOCOL)


# Known answers

HANDSHAKES = json.loads((ROOT / "tests" / "kat" / "handshake.json").read_text())["cases"]
IDENTITIES = json.loads((ROOT / "tests" / "kat" / "identity.json").read_text())["identities"]


def draws_of(case, role):
    """The draws of a case in the order of the core; the flight id is drawn as a number of the machine."""
    drawn = {}
    for each in case[role + "_draws"]:
        drawn.setdefault(each["purpose"], []).append(bytes.fromhex(each["value"]))
    is_pipe = case["carrier"] == "pipe"
    pads = drawn.get("flight padding", [b"", b""])
    cid = drawn.get("cid", [bytes(8)])[0]
    if role == "responder":
        return responder_draws(
            cid=cid,
            ephemeral=drawn["ephemeral"][0],
            encaps=drawn["encaps randomness"][0],
            nonce=drawn["flight nonce"][0],
            pad=pads[0],
            is_pipe=is_pipe,
        )
    return initiator_draws(
        flight_id=drawn["flight id"][0][::-1],
        grease=drawn["grease"][0],
        cid=cid,
        ephemeral=drawn["ephemeral"][0],
        kem_seed=drawn["kem seed"][0],
        nonces=drawn["flight nonce"],
        pads=pads,
        is_pipe=is_pipe,
    )


def ring_of_case(peer_id):
    known = next((each for each in IDENTITIES if each["peer_id"] == peer_id), IDENTITIES[2])
    return ring_of(
        Identity(bytes.fromhex(known["ed25519_seed"]), bytes.fromhex(known["link_secret"]), known["not_after"])
    )


@pytest.mark.parametrize("case", HANDSHAKES, ids=lambda case: case["name"])
def test_whole_sessions_make_the_known_flights(case):
    network = network_of(bytes.fromhex(case["network_secret"]))
    one, other = (
        Endpoint(ring_of_case(case[f"{role}_peer_id"]), network, seed=b"after the draws", unix_s=case[f"{role}_time"])
        for role in ("initiator", "responder")
    )
    one.draw_first(draws_of(case, "initiator"))
    other.draw_first(draws_of(case, "responder"))
    is_pipe, kind = case["carrier"] == "pipe", case["kind"]
    link_key = None if kind == XX else link_key_of(other.ring)
    one.connect(kind, link_key, None, IN_STREAM if is_pipe else ON_LINK)
    other.listen(1 << kind, IN_PIPE if is_pipe else ON_LINK)
    for idx, flight in enumerate(bytes.fromhex(flight) for flight in case["flights"]):
        source, target = (one, other) if idx % 2 == 0 else (other, one)
        said = source.take()
        assert said[: len(flight)] == flight, idx
        assert said == flight or idx == 2
        target.feed(said)
    one.feed(other.take())
    other.feed(one.take())
    one.feed(other.take())
    for side in (one, other):
        assert side.state == "open"
        assert side.suite == case["suite"]
        assert side.channel_binding.hex() == case["hash"]


# Frames that mean nothing (section 7)


@every_role
@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_that_means_nothing_follows_each_hello(endpoint, role, kind):
    link = Wire(endpoint, role=role, kind=KINDS[kind])
    hello, grease = link.model.received[:2]
    assert isinstance(hello, frames.Hello)
    assert isinstance(grease, frames.Skipped)
    assert len(grease_of(link)) == 1


def test_some_pings_have_one_behind_them(endpoint):
    link = Wire(endpoint)
    n_pings = 1600
    for _ in range(n_pings):
        link.core.ping()
        link.talk()
        link.core.tick(link.core.now_ns + SECOND_NS // 100)
    assert sum(isinstance(frame, frames.Ping) for frame in link.model.received) == n_pings
    assert n_pings / 32 < len(grease_of(link)) < n_pings / 8
    assert link.is_open()


def test_bytes_of_streams_never_share_a_record_with_one(endpoint):
    link = Wire(endpoint)
    number = link.core.open_stream(BYTES, NORMAL, WINDOW, UUID)
    link.talk()
    for _ in range(500):
        link.core.write(number, b"x")
        link.core.ping()
        link.talk()
        link.core.tick(link.core.now_ns + SECOND_NS // 100)
    assert len(grease_of(link)) == 1


def test_they_have_all_kinds_of_types_and_lengths():
    draw = random.Random(1)
    made = [frames.frames_parse(wire.build_grease(draw.randbytes(24)))[0] for _ in range(1000)]
    assert {len(frame.data) for frame in made} == set(range(16))
    assert {len(frames.varint_build(frame.type)) for frame in made} == {2, 4, 8}
    assert all(frame.type >= 0x40 for frame in made)
    assert wire.build_grease(bytes(24)) == b"\x40\x40\x00"
