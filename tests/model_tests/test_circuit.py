# SPDX-License-Identifier: MIT
"""Sessions inside streams of sessions: an NK layer to a relay, an XK session through it, and the splice between."""

import random

import pytest
from model import frames
from model.envelope import KIND_NK1, KIND_XK1, KIND_XX1
from model.errors import WireError
from model.frames import REASON, HelloValues, RelayTarget
from model.peer import layer_answer, layer_dial, peer_answer, peer_dial
from model.reader import Address
from model.streams import splice

UUID = bytes(range(16))
LINK_HELLO = HelloValues(max_pipes=8)
CIRCUIT_SIZES = {1024, 16384}


class World:
    """A, B and C with links A-B and B-C; B relays, C answers sessions in pipes."""

    def __init__(self, party, pump):
        self.pump = pump
        self.a, self.b, self.c = (party(name) for name in "ABC")
        self.ab = peer_dial(self.a, self.b.identity.link_public, hello=LINK_HELLO)
        self.ba = peer_answer(self.b, LINK_HELLO)
        self.bc = peer_dial(self.b, self.c.identity.link_public, hello=LINK_HELLO)
        self.cb = peer_answer(self.c, LINK_HELLO)
        self.relay_layers, self.targets = [], []
        self.ba.handlers[frames.KIND_PIPE] = self._relay_answer
        self.cb.handlers[frames.KIND_PIPE] = lambda peer, s: self.targets.append(layer_answer(self.c, peer, s))
        self.run()

    def run(self):
        self.pump((self.ab, self.ba), (self.bc, self.cb))

    def _relay_answer(self, peer, stream):
        layer = layer_answer(self.b, peer, stream)
        layer.handlers[frames.KIND_RELAY] = self._relay
        self.relay_layers.append(layer)

    def _relay(self, layer, stream):
        target = frames.relay_target_parse(stream.opened.body)
        assert target.link_key == self.c.identity.link_public
        splice(layer, stream, self.bc, self.bc.stream_open(frames.KIND_PIPE, b"\x07", stream.opened.credit))

    def layer_to_b(self):
        self.pipe = self.ab.stream_open(frames.KIND_PIPE, b"\x08")
        return layer_dial(self.a, self.ab, self.pipe, self.b.identity.link_public)

    def target_c(self):
        address = Address(4, bytes([127, 0, 0, 1]), 7447)
        return RelayTarget(self.c.identity.link_public, self.c.identity.peer_id, (address,)).build()

    def session_to_c(self, layer):
        self.relay_stream = layer.stream_open(frames.KIND_RELAY, self.target_c())
        return layer_dial(
            self.a, layer, self.relay_stream, self.c.identity.link_public, self.c.identity.peer_id, KIND_XK1
        )


@pytest.fixture
def world(party, pump):
    return World(party, pump)


@pytest.fixture
def circuit(world):
    """The layer to B and the session to C, both up."""
    layer = world.layer_to_b()
    world.run()
    session = world.session_to_c(layer)
    world.run()
    assert layer.is_connected
    assert session.is_connected
    return layer, session


def test_the_far_end_learns_the_source_and_the_relay_does_not(world, circuit):
    assert world.relay_layers[0].established.remote_peer_id is None
    assert world.targets[0].established.remote_peer_id == world.a.identity.peer_id
    layer, session = circuit
    assert layer.established.remote_peer_id == world.b.identity.peer_id
    assert session.established.remote_peer_id == world.c.identity.peer_id


def test_data_larger_than_all_windows_crosses_both_ways(world, circuit, read_all):
    _, session = circuit
    data = random.Random(5).randbytes(400_000)
    for opener, acceptor in ((session, world.targets[0]), (world.targets[0], session)):
        stream = opener.stream_open(frames.KIND_BYTES, UUID)
        opener.stream_write(stream, data)
        opener.stream_finish(stream)
        assert read_all(world.run, stream, acceptor) == data


def test_circuit_data_travels_in_two_sizes_on_every_link_and_is_never_cut(world, circuit):
    """Each record of the session to C is exactly one DATA frame on each link."""
    _, session = circuit
    stream = session.stream_open(frames.KIND_BYTES, UUID)
    session.stream_write(stream, bytes(40_000))
    n_before = [sum(isinstance(f, frames.Data) for f in peer.received) for peer in (world.ba, world.cb)]
    sizes = set()
    for record in world.ab.output():
        sizes.add(len(record) - 2 - world.ab.keys.send.tag_len)
        world.ba.receive(record)
    for record in world.bc.output():
        sizes.add(len(record) - 2 - world.bc.keys.send.tag_len)
        world.cb.receive(record)
    n_after = [sum(isinstance(f, frames.Data) for f in peer.received) for peer in (world.ba, world.cb)]
    assert sizes <= CIRCUIT_SIZES
    assert n_after[0] - n_before[0] == n_after[1] - n_before[1] > 0


def test_a_record_of_a_link_holds_the_data_of_one_circuit_only(world):
    layers = [world.layer_to_b() for _ in range(3)]
    world.run()
    for layer in layers:
        layer.ping(b"12345678")
    records = world.ab.output()
    assert len(records) == 3
    for record in records:
        n_before = len(world.ba.received)
        world.ba.receive(record)
        assert [type(frame) for frame in world.ba.received[n_before:]] == [frames.Data, frames.Padding]


def test_rekey_and_epoch_work_inside_a_circuit(world, circuit):
    for source, far in zip(circuit, (world.relay_layers[0], world.targets[0]), strict=True):
        for starter in (source, far):
            starter.epoch()
            starter.rekey()
            world.run()
        assert source.keys.number == far.keys.number == 2
        source.ping(b"still up")
        world.run()
        assert frames.Pong(b"still up") in source.received


def test_closing_the_session_finishes_the_pipe_at_the_far_end(world, circuit):
    _, session = circuit
    session.close()
    world.run()
    assert world.targets[0].end == "fin"
    assert not world.cb.streams
    assert world.relay_stream.is_closed
    assert world.ab.end is None


def test_the_end_of_a_layer_ends_what_is_spliced_to_it(world, circuit):
    layer, session = circuit
    layer.close()
    world.run()
    assert session.end == world.targets[0].end == "fin"
    assert not world.bc.streams


def test_a_bit_that_the_relay_flips_is_found_by_the_far_end_and_kills_the_circuit(world, circuit):
    _, session = circuit
    session.ping(b"12345678")
    world.ba.receive(world.ab.output_bytes())
    chunks = next(stream for stream in world.bc.streams.values() if stream.chunks).chunks
    chunks[0] = chunks[0][:9] + bytes([chunks[0][9] ^ 1]) + chunks[0][10:]
    world.run()
    assert world.targets[0].end == "reset"
    assert world.relay_stream.reset_reason == REASON["protocol"]  # so the source learns where bytes were changed
    assert session.end == "fin"
    assert world.ab.end is None


def test_a_refused_flight_resets_the_pipe(world, party):
    pipe = world.ab.stream_open(frames.KIND_PIPE, b"\x08")
    layer_dial(world.a, world.ab, pipe, party("nobody").identity.link_public)
    world.run()
    assert pipe.reset_reason == REASON["refused"]


def test_the_responder_of_nk_sends_nothing_but_flight_2_until_a_record_has_opened(world):
    layer = world.layer_to_b()
    world.ba.receive(world.ab.output_bytes())
    far = world.relay_layers[0]
    world.ab.receive(world.ba.output_bytes())
    assert layer.established is not None
    assert world.ba.output() == []
    assert far.remote_hello is None
    world.run()
    assert far.remote_hello == HelloValues()
    assert far.received[0] == frames.Hello(())
    assert layer.is_connected


@pytest.mark.parametrize(
    "frame", [frames.Services((), ()), frames.Peers(()), frames.Observed(Address(4, bytes(4), 1))], ids=repr
)
def test_frames_that_tell_of_peers_are_violations_in_nk(world, frame):
    layer = world.layer_to_b()
    world.run()
    layer.frame_send(frame)
    world.run()
    assert isinstance(world.relay_layers[0].failure, WireError)
    assert layer.end_reason == REASON["protocol"]


def test_kinds_of_streams_that_a_layer_may_not_open_are_refused(world, circuit):
    layer, session = circuit
    far_layer, target = world.relay_layers[0], world.targets[0]
    attempts = [
        (layer, frames.KIND_BYTES, UUID),
        (layer, frames.KIND_PIPE, b"\x08"),
        (far_layer, frames.KIND_RELAY, world.target_c()),
        (session, frames.KIND_PIPE, b"\x08"),
        (session, frames.KIND_RELAY, world.target_c()),
        (target, frames.KIND_RELAY, world.target_c()),
        (world.ab, frames.KIND_RELAY, world.target_c()),
    ]
    for opener, kind, body in attempts:
        stream = opener.stream_open(kind, body)
        world.run()
        assert stream.reset_reason == REASON["refused"]


def test_xk_runs_in_a_pipe_of_a_neighbour_too_and_xx_does_not(world, pump):
    world.ba.handlers[frames.KIND_PIPE] = lambda peer, stream: layer_answer(world.b, peer, stream)
    for kind, link_key, is_taken in ((KIND_XK1, world.b.identity.link_public, True), (KIND_XX1, b"", False)):
        pipe = world.ab.stream_open(frames.KIND_PIPE, b"\x08")
        session = layer_dial(world.a, world.ab, pipe, link_key, kind=kind)
        world.run()
        assert session.is_connected == is_taken
        assert (pipe.reset_reason == REASON["refused"]) != is_taken


def test_a_session_keeps_its_flights_back_when_the_carrier_has_no_room(world):
    layer = world.layer_to_b()
    assert layer.output(2047) == []
    assert [len(flight) for flight in layer.output(2048)] == [2048]


def test_two_layers_of_circuits_end_at_the_same_relay(world):
    layers = [world.layer_to_b() for _ in range(2)]
    world.run()
    sessions = [world.session_to_c(layer) for layer in layers for _ in range(2)]
    world.run()
    assert all(session.is_connected for session in sessions)
    assert {layer.kind for layer in world.relay_layers} == {KIND_NK1}
