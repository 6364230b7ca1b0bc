# SPDX-License-Identifier: MIT
"""What stands at each place of a path sees of the sizes and the hops (docs/protocol.md, sections 6.4 and 6.5).

The independent model takes that place; all others are nodes. What a place can see are the records of its links, and
what is in the layer or session that ends there.
"""

import asyncio
import os
from contextlib import asynccontextmanager

import pytest
from api.services import Echo
from model import frames
from model.frames import REASON, Data, DataFin
from model.peer import layer_answer
from model.streams import splice
from net.live import CLOSED_NETWORK, Model
from net.test_model_circuits import (
    CIRCUIT_SIZES,
    circuit,
    echo_streams,
    member,
    model_echo_check,
    node_echo_check,
    pieces_check,
    reached_model,
    relay_chain,
)

import qg

pytestmark = [pytest.mark.anyio, pytest.mark.net]

HOPS = range(1, 8)
PLACES = [(n_relays, idx) for n_relays in HOPS for idx in range(n_relays)]
BULK_LEN = 400_000
N_PINGS = 12
LAYER_OVERHEAD = 45  # of one layer, at most


def carries_data(record):
    """Tell whether bytes of a circuit are in a record of a link."""
    return any(isinstance(frame, Data | DataFin) for frame in record.frames)


def link_check(peer):
    """Every record of a link that holds bytes of a circuit has one of two lengths, and a large one holds one piece."""
    lengths = set()
    for record in peer.records:
        n_data = sum(isinstance(frame, Data | DataFin) for frame in record.frames)
        if n_data:
            lengths.add(record.length)
            assert n_data == 1 or record.length == min(CIRCUIT_SIZES)
    assert lengths == CIRCUIT_SIZES


def inner_check(inner, depth):
    """Records of the layer `depth` steps below the link leave room for what is above them; small ones vary."""
    small_max, large_max = (size - LAYER_OVERHEAD * depth for size in sorted(CIRCUIT_SIZES))
    lengths = [record.length for record in inner.records[1:]]
    assert max(lengths) <= large_max
    assert not [length for length in lengths if small_max < length < 2048]


@pytest.mark.parametrize("n_relays", HOPS)
async def test_the_source_sees_two_sizes_and_whole_records(n_relays):
    async with circuit(n_relays) as made:
        await model_echo_check(made.model, made.session, BULK_LEN)
        for _ in range(N_PINGS):
            await made.far.ping()
        link_check(made.link.peer)
        for outer, inner in zip(made.peers, made.peers[1:], strict=False):
            pieces_check(outer, inner, 1)


@pytest.mark.parametrize("n_relays", HOPS)
async def test_the_target_sees_two_sizes_and_whole_records(n_relays):
    async with reached_model(n_relays) as (model, session, link, far):
        echo_streams(model, session)
        await node_echo_check(far, BULK_LEN)
        for _ in range(N_PINGS):
            await far.ping()
        link_check(link.peer)
        pieces_check(link.peer, session, 2)
        inner_check(session, n_relays + 1)


@asynccontextmanager
async def model_within(n_relays, idx):
    """A path of nodes whose relay `idx` is the model: its layer with the source, both its links, and the target."""
    async with member() as source, member() as target, Model(CLOSED_NETWORK) as model:
        n_behind = n_relays - idx - 1
        behind = relay_chain(n_behind, target.node.address) if n_behind else nothing()
        async with behind as relays_behind:
            onward = model.dial((*(relay.address for relay in relays_behind), target.node.address)[0])
            await model.connected(onward.peer)
            layers = []

            def extend(layer, stream):
                hops_left = bytes([layer.hops_left - 1])
                splice(layer, stream, onward.peer, onward.peer.stream_open(frames.KIND_PIPE, hops_left))

            def answer(peer, stream):
                layers.append(layer_answer(model.party, peer, stream))
                layers[-1].hops_left = stream.opened.body[0]
                layers[-1].handlers[frames.KIND_RELAY] = extend

            model.handlers[frames.KIND_PIPE] = answer
            address = model.listen()
            before = relay_chain(idx, address) if idx else nothing()
            async with before as relays_before:
                via = [*(relay.address for relay in relays_before), address]
                via += [relay.address for relay in relays_behind]
                far = await source.node.connect(target.node.address, via=via)
                yield layers[0], await model.arrivals.get(), onward, far


@asynccontextmanager
async def nothing():
    yield []


@pytest.mark.parametrize(("n_relays", "idx"), PLACES)
async def test_a_relay_sees_two_sizes_and_whole_records_wherever_it_stands(n_relays, idx):
    data = os.urandom(BULK_LEN)
    async with model_within(n_relays, idx) as (layer, inward, onward, far):
        async with await far.open_stream(Echo.id) as stream, asyncio.TaskGroup() as group:
            group.create_task(stream.write(data))
            assert await stream.readexactly(len(data)) == data
        for _ in range(N_PINGS):
            await far.ping()
        link_check(inward.peer)
        link_check(onward.peer)
        pieces_check(inward.peer, layer, 1)
        inner_check(layer, idx + 1)


async def test_small_records_have_random_lengths_inside_the_layers():
    """On the links they are all alike; a relay that opens its layer finds pings of many lengths, none too long."""
    async with model_within(3, 1) as (layer, inward, _, far):
        n_before = len(layer.records)
        for _ in range(60):
            await far.ping()
        lengths = {record.length for record in layer.records[n_before:]}
        assert len(lengths) > 6
        assert max(lengths) == min(CIRCUIT_SIZES) - 2 * LAYER_OVERHEAD
        outside = {record.length for record in inward.peer.records[-30:] if carries_data(record)}
        assert outside == {min(CIRCUIT_SIZES)}


@pytest.mark.parametrize("n_relays", HOPS)
async def test_the_hops_that_a_source_says_are_drawn_from_what_fits_its_path(n_relays):
    """From the greater of 5 and relays + 1, up to 8: no value proves that the neighbour is the source."""
    async with Model(CLOSED_NETWORK) as model, member() as source:
        said = []

        def refuse(peer, stream):
            said.append(stream.opened.body[0])
            peer.stream_reset(stream, REASON["refused"])

        model.handlers[frames.KIND_PIPE] = refuse
        via = [model.listen()]
        via += [qg.Address(qg.Identity.generate().link_key, "127.0.0.1", 1 + idx) for idx in range(n_relays)]
        for _ in range(80):
            with pytest.raises(qg.Refused):
                await source.node.connect(via[-1], via=via[:-1])
        assert set(said) == set(range(max(5, n_relays + 1), 9))
