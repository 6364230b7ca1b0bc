# SPDX-License-Identifier: MIT
"""The independent model and real nodes build circuits together: the model as source, as relay and as target."""

import asyncio
import os
import socket
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from api.services import Echo, Held
from model import frames
from model.envelope import KIND_NK1, KIND_XK1, KIND_XX1
from model.frames import REASON, Data, DataFin, HelloValues, RelayTarget
from model.peer import layer_answer, layer_dial
from model.reader import Address
from model.streams import splice
from net.live import CLOSED_NETWORK, Model, bytes_wait, host
from net.support import core

import qg

pytestmark = [pytest.mark.anyio, pytest.mark.net]

MIB = 1 << 20
WINDOW = 65536
CIRCUIT_SIZES = {1024, 16384}
LOOPBACK = qg.Prefix.parse("127.0.0.0/8")
EXTENDER = qg.ExtenderId("00010203-0405-0607-0809-0a0b0c0d0e0f")  # of the model, which takes any


def relay_config(*targets, **link):
    """Give the configuration of a relay that dials these addresses for members of its network."""
    relay = qg.RelayConfig(allow="members", targets=(LOOPBACK,), ports=tuple(target.port for target in targets) or (1,))
    return qg.Config(relay=relay, link=qg.LinkConfig(**link))


def member(config=None):
    return host(config, CLOSED_NETWORK)


def target_body(address, peer_id):
    where = Address(4, socket.inet_aton(address.host), address.port)
    return RelayTarget(bytes(address.link_key), bytes(peer_id), (where,)).build()


class Circuit:
    """What the model holds as the source: its link, an anonymous layer to each relay, a session with the target."""

    def __init__(self, model, relays, target):
        self.model, self.relays, self.layers, self.target = model, relays, [], target
        self.link = model.dial(relays[0].address)

    async def build(self):
        address, peer_id = self.target.node.address, self.target.node.id
        await self.model.connected(self.link.peer)
        outer = self.link.peer
        self.stream = outer.stream_open(frames.KIND_PIPE, b"\x08")
        onward = [(relay.address, relay.id) for relay in self.relays[1:]] + [(address, peer_id)]
        for relay, (next_address, next_id) in zip(self.relays, onward, strict=True):
            outer = layer_dial(self.model.party, outer, self.stream, bytes(relay.address.link_key), bytes(relay.id))
            self.layers.append(await self.model.connected(outer))
            self.stream = outer.stream_open(frames.KIND_RELAY, target_body(next_address, next_id))
        self.session = layer_dial(
            self.model.party, outer, self.stream, bytes(address.link_key), bytes(peer_id), KIND_XK1
        )
        await self.model.connected(self.session)
        while not (peer := await self.target.guest()).is_relayed:
            pass
        self.far = peer  # the model, as the target sees it

    @property
    def peers(self):
        return [self.link.peer, *self.layers, self.session]


@asynccontextmanager
async def circuit(n_relays=1, **link):
    """Build a circuit from the model over nodes to a node."""
    async with (
        member(qg.Config(link=qg.LinkConfig(**link))) as target,
        relay_chain(n_relays, target.node.address, **link) as relays,
        Model(CLOSED_NETWORK) as model,
    ):
        made = Circuit(model, relays, target)
        await made.build()
        yield made


@asynccontextmanager
async def relay_chain(n_relays, address, **link):
    async with member(relay_config(address, **link)) as last:
        if n_relays == 1:
            yield [last.node]
        else:
            async with relay_chain(n_relays - 1, last.node.address, **link) as before:
                yield [*before, last.node]


def answer_pipes(model):
    """Let the model answer sessions in pipes; they are in the list that is given back."""
    sessions = []
    model.handlers[frames.KIND_PIPE] = lambda peer, stream: sessions.append(layer_answer(model.party, peer, stream))
    return sessions


def echo_streams(model, session):
    """Let the model give back what comes on the streams of a session."""

    def echo():
        for stream in list(session.streams.values()):
            if not stream.is_ours:
                if data := session.stream_read(stream):
                    session.stream_write(stream, data)
                if stream.fin_received:
                    session.stream_finish(stream)

    model.steps.append(echo)


def data_of(peer):
    """Give the pieces that came in DATA frames, in order."""
    return [frame.data for frame in peer.received if isinstance(frame, Data | DataFin) and frame.data]


def sizes_check(link_peer):
    """Records with circuit data have one of two sizes."""
    lengths = {r.length for r in link_peer.records if any(isinstance(f, Data | DataFin) for f in r.frames)}
    assert lengths <= CIRCUIT_SIZES
    return lengths


async def model_echo_check(model, session, length):
    """Send bytes from the model to the echo at the other end and back."""
    data = os.urandom(length)
    stream = session.stream_open(frames.KIND_BYTES, bytes(Echo.id))
    session.stream_write(stream, data)
    session.stream_finish(stream)
    assert await model.read_all(session, stream) == data


async def node_echo_check(far, length):
    """Send bytes from a node to the echo of the model and back."""
    data = os.urandom(length)
    stream = await far.open_stream(EXTENDER)
    async with asyncio.TaskGroup() as group:

        async def send():
            await stream.write(data)
            stream.finish()

        group.create_task(send())
        assert await stream.read() == data


# The model as source


@pytest.mark.parametrize("n_relays", [1, 2, 3])
async def test_a_model_reaches_a_node_over_nodes(n_relays):
    async with circuit(n_relays) as made:
        assert bytes(made.far.id) == made.model.identity.peer_id
        assert made.session.established.remote_peer_id == bytes(made.target.node.id)
        await model_echo_check(made.model, made.session, MIB)
        echo_streams(made.model, made.session)
        await node_echo_check(made.far, MIB)
        assert await made.far.ping() > 0
        assert sizes_check(made.link.peer) == CIRCUIT_SIZES


async def test_keys_change_in_every_layer_while_bytes_cross():
    """By the clocks of the nodes at the other ends, and by the model."""
    async with circuit(2, rekey_s=1) as made:
        while not all(peer.keys.number for peer in made.peers):
            await model_echo_check(made.model, made.session, 100_000)  # every layer is in use then

        def renew():
            for peer in made.peers:
                if peer.keys.is_idle and not peer.control:
                    if peer.keys.number < 5:
                        peer.rekey()
                    peer.epoch()

        made.model.steps.append(renew)
        await model_echo_check(made.model, made.session, MIB)
        made.model.steps.clear()
        assert all(peer.keys.number >= 5 for peer in made.peers)
        await model_echo_check(made.model, made.session, 1000)


async def test_two_circuits_share_a_layer():
    async with circuit() as made:
        layer = made.layers[0]
        body = target_body(made.target.node.address, made.target.node.id)
        again = layer_dial(
            made.model.party,
            layer,
            layer.stream_open(frames.KIND_RELAY, body),
            bytes(made.target.node.address.link_key),
            bytes(made.target.node.id),
            KIND_XK1,
        )
        await made.model.connected(again)
        checks = [model_echo_check(made.model, session, 200_000) for session in (made.session, again)]
        await asyncio.gather(*checks)


async def test_closing_the_session_ends_the_circuit_and_not_the_link():
    async with circuit() as made:
        made.session.close(REASON["shutdown"])
        await made.model.until(lambda: made.stream.is_closed)
        assert made.stream.reset_reason is None
        while made.far.is_connected:
            await asyncio.sleep(0)
        await made.model.until(lambda: made.layers[0].end or not made.layers[0].streams)
        assert made.link.peer.end is None


async def test_the_target_that_closes_says_why_and_the_link_stays():
    async with circuit() as made:
        await made.far.close()
        await made.model.until(lambda: made.session.end)
        assert made.session.received[-1] == frames.Close(REASON["none"])
        assert made.link.peer.end is None


@asynccontextmanager
async def layer_at(config):
    """Give a link and an anonymous layer of the model to a node with this configuration, and a node behind it."""
    async with member() as target, member(config(target.node.address)) as relay, Model(CLOSED_NETWORK) as model:
        link = model.dial(relay.node.address)
        await model.connected(link.peer)
        pipe = link.peer.stream_open(frames.KIND_PIPE, b"\x08")
        layer = layer_dial(model.party, link.peer, pipe, bytes(relay.node.address.link_key), bytes(relay.node.id))
        await model.connected(layer)
        yield model, link, layer, relay, target


async def refusal(model, stream):
    """The reason with which a stream is reset."""
    await model.until(lambda: stream.is_closed)
    return frames.REASONS[stream.reset_reason]


async def test_a_relay_says_why_it_does_not_extend():
    async with layer_at(relay_config) as (model, _, layer, relay, target):
        where = target.node.address
        cases = [
            ("refused", where._replace(port=7447), target.node.id),  # a port that is not listed
            ("refused", where._replace(host="10.1.2.3"), target.node.id),  # a network that is not listed
            ("refused", relay.node.address, relay.node.id),  # itself
            ("refused", where._replace(link_key=qg.LinkKey(model.identity.link_public)), bytes(32)),  # back
            ("unreachable", where, os.urandom(32)),  # another identity lives there
        ]
        for reason, address, peer_id in cases:
            stream = layer.stream_open(frames.KIND_RELAY, target_body(address, peer_id))
            assert await refusal(model, stream) == reason, address
        assert layer.end is None


async def test_pipes_of_one_peer_leave_room_for_the_links_of_others():
    def config(address):
        return qg.Config(relay=relay_config(address).relay, limits=qg.LimitsConfig(sessions=8))

    async with layer_at(config) as (model, link, layer, relay, target):
        for _ in range(3):
            pipe = link.peer.stream_open(frames.KIND_PIPE, b"\x08")
            key = bytes(relay.node.address.link_key)
            await model.connected(layer_dial(model.party, link.peer, pipe, key, bytes(relay.node.id)))
        assert await refusal(model, link.peer.stream_open(frames.KIND_PIPE, b"\x08")) == "limit"
        peer = await target.node.connect(relay.node.address)
        assert await peer.ping() > 0
        assert layer.end is None


async def test_a_session_that_was_refused_takes_no_place_while_its_connection_is_a_sink():
    def config(address):
        return qg.Config(relay=relay_config(address).relay, limits=qg.LimitsConfig(sessions=2))

    async with layer_at(config) as (model, _, layer, relay, target), Model(CLOSED_NETWORK) as others:
        for n in (1, 2):
            others.dial(relay.node.address)
            while core(relay.node)["n_sinks"] < n:
                await asyncio.sleep(0.01)
        layer.close()
        await model.until(lambda: core(relay.node)["n_sessions"] == 3)
        peer = await target.node.connect(relay.node.address)
        assert await peer.ping() > 0


async def test_a_relay_opens_only_so_many_pipes_a_second_on_one_link():
    """Below what would make the next node close the link: many sources may want the same one."""
    limits = qg.LimitsConfig(pipes_per_s=1000, pipes_burst=1000)

    def config(address):
        return qg.Config(relay=relay_config(address).relay, limits=limits)

    async with (
        member(qg.Config(limits=limits)) as target,
        member(config(target.node.address)) as relay,
        Model(CLOSED_NETWORK, hello=HelloValues(max_pipes=8)) as model,
    ):
        link = model.dial(relay.node.address)
        await model.connected(link.peer)
        pipe = link.peer.stream_open(frames.KIND_PIPE, b"\x08")
        layer = layer_dial(model.party, link.peer, pipe, bytes(relay.node.address.link_key), bytes(relay.node.id))
        await model.connected(layer)
        body = target_body(target.node.address, target.node.id)
        first = layer.stream_open(frames.KIND_RELAY, body)
        await model.until(lambda: first.is_accepted)  # the link is there
        rest = [layer.stream_open(frames.KIND_RELAY, body) for _ in range(900)]
        await model.until(lambda: all(stream.is_accepted or stream.is_closed for stream in rest))
        refused = [stream for stream in rest if stream.is_closed]
        assert refused
        assert {frames.REASONS[stream.reset_reason] for stream in refused} == {"busy"}
        assert core(relay.node)["n_links_up"] == 3
        assert layer.end is None


async def test_what_waits_for_a_target_counts_for_the_relays_memory():
    """Each piece lies in a block of its own, so that 40 times 4 KiB take more than a MiB."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        policy = qg.RelayConfig(allow="members", targets=(LOOPBACK,), ports=(port,), memory_mib=1)
        async with layer_at(lambda _: qg.Config(relay=policy)) as (model, _, layer, relay, target):
            body = target_body(target.node.address._replace(port=port), target.node.id)
            streams = [layer.stream_open(frames.KIND_RELAY, body) for _ in range(40)]
            for stream in streams:
                for _ in range(16):
                    layer.frame_send(Data(stream.id, bytes(256)))
            layer.ping(bytes(8))
            await model.until(lambda: frames.Pong(bytes(8)) in layer.received)
            closed = [stream for stream in streams if stream.is_closed]
            assert {frames.REASONS[stream.reset_reason] for stream in closed} == {"memory"}
            assert len(closed) < 20
            assert core(relay.node)["relay_held_len"] <= MIB


@pytest.mark.parametrize("spoil", [lambda body: body[:-1], lambda body: body + b"\0", lambda body: body[:64] + b"\0"])
async def test_a_malformed_target_is_a_violation_and_ends_the_layer(spoil):
    async with layer_at(relay_config) as (model, link, layer, relay, target):
        layer.stream_open(frames.KIND_RELAY, spoil(target_body(target.node.address, target.node.id)))
        await model.until(lambda: layer.end)
        assert (layer.end, layer.end_reason) == ("fin", REASON["protocol"])
        assert link.peer.end is None
        assert relay.node.status().n_splices == 0


async def test_a_node_refuses_the_kinds_of_streams_that_a_session_may_not_open():
    async with circuit() as made:
        body = target_body(made.target.node.address, made.target.node.id)
        attempts = [
            (made.link.peer, frames.KIND_RELAY, body),
            (made.layers[0], frames.KIND_BYTES, bytes(Echo.id)),
            (made.layers[0], frames.KIND_PIPE, b"\x08"),
            (made.session, frames.KIND_PIPE, b"\x08"),
            (made.session, frames.KIND_RELAY, body),
        ]
        for peer, kind, body in attempts:
            assert await refusal(made.model, peer.stream_open(kind, body)) == "refused"
        for hops in (0, 9, 255):
            pipe = made.link.peer.stream_open(frames.KIND_PIPE, bytes([hops]))
            assert await refusal(made.model, pipe) == "hops"
        await model_echo_check(made.model, made.session, 1000)


async def test_only_xk_and_nk_run_in_pipes():
    async with layer_at(relay_config) as (model, link, _, relay, _):
        link_key = bytes(relay.node.address.link_key)
        for kind, key in ((KIND_XX1, b""), (KIND_XK1, os.urandom(32)), (KIND_NK1, os.urandom(32))):
            pipe = link.peer.stream_open(frames.KIND_PIPE, b"\x08")
            layer_dial(model.party, link.peer, pipe, key, kind=kind)
            assert await refusal(model, pipe) == "refused"
        pipe = link.peer.stream_open(frames.KIND_PIPE, b"\x08")
        session = layer_dial(model.party, link.peer, pipe, link_key, bytes(relay.node.id), KIND_XK1)
        await model.connected(session)
        await model_echo_check(model, session, 1000)


@pytest.mark.parametrize("frame", [frames.Services((), ()), frames.Peers(()), frames.Observed(Address(4, bytes(4), 1))])
async def test_frames_that_tell_of_peers_end_an_anonymous_layer(frame):
    async with layer_at(relay_config) as (model, link, layer, _, _):
        layer.frame_send(frame)
        await model.until(lambda: layer.end)
        assert (layer.end, layer.end_reason) == ("fin", REASON["protocol"])
        assert link.peer.end is None


# The model as target


@asynccontextmanager
async def reached_model(n_relays=1):
    """Let a node connect to the model over nodes: the model, its end of the session, the link, the node's end."""
    async with Model(CLOSED_NETWORK) as model, member() as source:
        address, sessions = model.listen(), answer_pipes(model)
        async with relay_chain(n_relays, address) as relays:
            far = await source.node.connect(address, via=[relay.address for relay in relays])
            link = await model.arrivals.get()
            await model.connected(sessions[0])
            yield model, sessions[0], link, far


@pytest.mark.parametrize("n_relays", [1, 2, 3])
async def test_a_node_reaches_a_model_over_nodes(n_relays):
    async with reached_model(n_relays) as (model, session, link, far):
        assert far.is_relayed
        assert bytes(far.id) == model.identity.peer_id
        assert session.established.remote_peer_id == bytes(far.node.id)
        assert session.established.remote_peer_id != link.peer.established.remote_peer_id
        echo_streams(model, session)
        await node_echo_check(far, MIB)
        await model_echo_check(model, session, MIB)
        assert await far.ping() > 0
        assert sizes_check(link.peer) == CIRCUIT_SIZES
        hops_left = next(f.body[0] for f in link.peer.received if isinstance(f, frames.Open))
        assert 5 - n_relays <= hops_left <= 8


async def test_a_relay_counts_the_hops_down():
    """From 8 it may stay at 8, so that no value proves an origin."""
    async with Model(CLOSED_NETWORK) as source, Model(CLOSED_NETWORK) as target:
        address, sessions = target.listen(), answer_pipes(target)
        async with relay_chain(1, address) as relays:
            link = source.dial(relays[0].address)
            await source.connected(link.peer)
            for hops_left in range(1, 9):
                pipe = link.peer.stream_open(frames.KIND_PIPE, bytes([hops_left]))
                layer = layer_dial(source.party, link.peer, pipe, bytes(relays[0].address.link_key))
                await source.connected(layer)
                stream = layer.stream_open(frames.KIND_RELAY, target_body(address, bytes(32)))
                if hops_left == 1:
                    assert await refusal(source, stream) == "hops"
                    continue
                session = layer_dial(source.party, layer, stream, bytes(address.link_key), kind=KIND_XK1)
                await source.connected(session)
            onward = target.links[0].peer
        opened = [frame.body[0] for frame in onward.received if isinstance(frame, frames.Open)]
        assert opened[:6] == [1, 2, 3, 4, 5, 6]
        assert opened[6] in (7, 8)
        assert len(sessions) == 7


# The model as relay


@asynccontextmanager
async def relaying_model():
    """Let a node connect to a node over the model: the model, its layer with the source, both links, both peers."""
    async with member() as source, member() as target, Model(CLOSED_NETWORK) as model:
        onward = model.dial(target.node.address)
        await model.connected(onward.peer)
        layers, joined = [], []

        def extend(layer, stream):
            wanted = frames.relay_target_parse(stream.opened.body)
            assert wanted.link_key == bytes(target.node.address.link_key)
            joined.append(onward.peer.stream_open(frames.KIND_PIPE, b"\x07", stream.opened.credit))
            splice(layer, stream, onward.peer, joined[-1])

        def relay(peer, stream):
            layers.append(layer_answer(model.party, peer, stream))
            layers[-1].handlers[frames.KIND_RELAY] = extend

        model.handlers[frames.KIND_PIPE] = relay
        far = await source.node.connect(target.node.address, via=[model.listen()])
        inward = await model.arrivals.get()
        yield model, layers[0], inward, onward, far, target


async def test_nodes_reach_each_other_over_a_model():
    async with relaying_model() as (_, layer, inward, onward, far, _):
        assert layer.established.remote_peer_id is None
        data = os.urandom(MIB)
        stream = await far.open_stream(Echo.id)
        async with asyncio.TaskGroup() as group:

            async def send():
                await stream.write(data)
                stream.finish()

            group.create_task(send())
            assert await stream.read() == data
        assert await far.ping() > 0
        assert sizes_check(inward.peer) == CIRCUIT_SIZES
        assert sizes_check(onward.peer) == CIRCUIT_SIZES
        assert all(sum(isinstance(f, Data | DataFin) for f in record.frames) <= 1 for record in layer.records)
        assert {len(piece) for piece in data_of(layer)[:2]} == {2048}  # the flights of the session inside


@pytest.mark.parametrize("direction", ["forward", "backward"])
async def test_a_bit_that_a_relay_flips_ends_the_circuit_and_nothing_else(direction):
    async with relaying_model() as (model, layer, inward, onward, far, target):
        stream = await far.open_stream(Held.id)
        held = await target.held.streams.get()
        carrier = onward.peer if direction == "forward" else layer
        spliced = next(s for s in carrier.streams.values())

        def flip():
            for idx, piece in enumerate(spliced.chunks):
                spliced.chunks[idx] = piece[:20] + bytes([piece[20] ^ 1]) + piece[21:]

        model.steps.append(flip)
        await (stream if direction == "forward" else held).write(b"to be flipped")
        with pytest.raises(qg.RemoteError):
            await stream.read()
        with pytest.raises(qg.RemoteError):
            await held.read()
        assert inward.peer.end is None
        assert onward.peer.end is None


@asynccontextmanager
async def spliced_models(credit=WINDOW, window_kib=1024, priority=frames.PRIORITY_NORMAL, **settings):
    """A relay between two models: the source's layer and its stream, and the stream and link at the target."""
    async with Model(CLOSED_NETWORK) as source, Model(CLOSED_NETWORK) as target:
        address, pipes = target.listen(), []
        target.handlers[frames.KIND_PIPE] = lambda peer, pipe: (peer.stream_accept(pipe, credit), pipes.append(pipe))
        policy = qg.RelayConfig(allow="members", targets=(LOOPBACK,), ports=(address.port,), **settings)
        limits = qg.LimitsConfig(stream_window_kib=window_kib, session_window_kib=4 * window_kib)
        async with member(qg.Config(relay=policy, limits=limits)) as made:
            relay = made.node
            link = source.dial(relay.address)
            await source.connected(link.peer)
            pipe = link.peer.stream_open(frames.KIND_PIPE, b"\x08")
            layer = layer_dial(source.party, link.peer, pipe, bytes(relay.address.link_key), bytes(relay.id))
            await source.connected(layer)
            stream = layer.stream_open(frames.KIND_RELAY, target_body(address, bytes(32)), priority=priority)
            await source.until(lambda: stream.is_accepted)
            far = await target.arrivals.get()
            await target.until(lambda: pipes)
            yield source, layer, stream, target, far, pipes[0]


@pytest.mark.parametrize("priority", [frames.PRIORITY_EXPEDITED, frames.PRIORITY_DELAYED])
async def test_no_source_has_its_circuit_go_before_those_of_others(priority):
    async with spliced_models(priority=priority) as (*_, pipe):
        assert pipe.opened.priority == frames.PRIORITY_NORMAL


@pytest.mark.parametrize("length", [1, 100, 255, 256, 1013, 1014, 1030, 2048, 4095, 4096, 8000, 16000])
async def test_no_size_of_pieces_makes_a_relay_send_many_times_what_it_got(length):
    data = os.urandom(60_000)
    async with spliced_models() as (source, layer, stream, target, far, pipe):
        before = len(far.peer.records)
        for start in range(0, len(data), length):
            layer.frame_send(Data(stream.id, data[start : start + length]))
        source.move()
        await target.until(lambda: len(pipe.receiver.data) == len(data))
        assert pipe.receiver.data == data
        sent = sum(record.length for record in far.peer.records[before:])
        assert sent <= 4.1 * len(data) + 16 * 16384


async def rounds(model, peer, count):
    """As often, ask whether all that was said before has been acted on, each time in a turn of its own."""
    for _ in range(count):
        n_pongs = sum(isinstance(frame, frames.Pong) for frame in peer.received)
        peer.ping(bytes(8))
        await model.until(lambda n=n_pongs: sum(isinstance(frame, frames.Pong) for frame in peer.received) > n)
        yield


@pytest.mark.parametrize("step", [1, 4096, WINDOW])
async def test_credit_in_small_steps_is_collected(step):
    """A far end that gives credit again and again does not make the relay say so every time."""
    async with spliced_models() as (source, layer, stream, target, far, pipe):
        layer.stream_write(stream, bytes(16_000))
        async for _ in rounds(target, far.peer, 300):
            far.peer.stream_grant(pipe, pipe.recv_limit + step)
        async for _ in rounds(source, layer, 1):
            pass
        assert sum(isinstance(frame, frames.Credit) for frame in layer.received) <= 10
        # What was collected is there once it is needed.
        far.peer.stream_grant(pipe, max(pipe.recv_limit, 3 * MIB))
        for _ in range(180):
            layer.stream_write(stream, bytes(16_000))
        await asyncio.gather(
            source.until(lambda: stream.n_sent == 181 * 16_000),
            target.until(lambda: len(pipe.receiver.data) == 181 * 16_000),
        )
        assert sum(isinstance(frame, frames.Credit) for frame in layer.received) <= 20


async def test_a_relay_counts_the_memory_that_pieces_take():
    """Pieces of 5,000 bytes lie in blocks for 16 KiB: 6 MB are below the budget, their memory is not."""
    async with spliced_models(8 * MIB, 8192, memory_mib=8) as (source, layer, stream, target, far, _):
        target.pause(far)
        for _ in range(1200):
            layer.frame_send(Data(stream.id, bytes(5000)))
        assert await refusal(source, stream) == "memory"
        target.resume(far)
        assert layer.end is None


# Records on their way (6.4): nobody cuts or joins what a session has sealed


def pieces_check(outer, inner, n_flights):
    """Each record of `outer` holds at most one flight or record of `inner`, the only session that it carries."""
    for record in outer.records:
        assert sum(isinstance(frame, Data | DataFin) for frame in record.frames) <= 1
    lengths = [len(piece) for piece in data_of(outer)]
    overhead = 2 + inner.keys.recv.tag_len
    assert lengths == [2048] * n_flights + [record.length + overhead for record in inner.records]


@pytest.mark.parametrize("n_relays", [1, 2, 3])
async def test_records_reach_a_source_as_they_were_sealed(n_relays):
    async with circuit(n_relays) as made:
        await model_echo_check(made.model, made.session, MIB)
        for outer, inner in pairwise(made.peers):
            pieces_check(outer, inner, 1)


@pytest.mark.parametrize("n_relays", [1, 2, 3])
async def test_records_reach_a_target_as_they_were_sealed(n_relays):
    async with reached_model(n_relays) as (model, session, link, far):
        echo_streams(model, session)
        await node_echo_check(far, MIB)
        pieces_check(link.peer, session, 2)


async def test_records_reach_a_relay_as_they_were_sealed():
    async with relaying_model() as (_, layer, inward, _, far, _):
        await (await far.open_stream(Held.id)).write(bytes(MIB // 4))
        assert await far.ping() > 0
        pieces_check(inward.peer, layer, 1)


async def test_a_slow_source_gets_each_record_whole():
    """While the model does not read, records wait in the relay; they must leave it as they came."""
    data = os.urandom(MIB)
    async with circuit() as made:
        stream = await made.far.open_stream(EXTENDER)
        theirs = await made.model.stream_from(made.session)
        made.model.pause(made.link)
        await stream.write(data)
        stream.finish()
        await bytes_wait(made.link.sock, WINDOW // 2)
        made.model.resume(made.link)
        assert await made.model.read_all(made.session, theirs) == data
        for outer, inner in pairwise(made.peers):
            pieces_check(outer, inner, 1)


async def test_a_slow_target_gets_each_record_whole():
    data = os.urandom(MIB)
    async with reached_model() as (model, session, link, far):
        stream = await far.open_stream(EXTENDER)
        theirs = await model.stream_from(session)
        model.pause(link)
        await stream.write(data)
        stream.finish()
        await bytes_wait(link.sock, WINDOW // 2)
        model.resume(link)
        assert await model.read_all(session, theirs) == data
        pieces_check(link.peer, session, 2)
