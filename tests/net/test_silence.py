# SPDX-License-Identifier: MIT
"""To strangers a node says nothing: whatever is wrong is counted by reason, and the connection stays open."""

import asyncio
import contextlib
import random
import time

import pytest
from looks.probes import HELLOS
from model import handshake
from model.envelope import KIND_COOKIE, KIND_M3, KIND_NK1, KIND_REPLY, KIND_XX1
from model.payload import P3
from net.flights import dialler, first_flight, party, resealed
from net.proxy import DOWN, UP, Proxy, bit_flipper
from net.support import MIB, config, core, faults, target, until

import qg

pytestmark = [pytest.mark.anyio, pytest.mark.net]

rng = random.Random(7447)


async def all_silent(to, strangers):
    """Nobody has got a byte or an end; and when the node goes, everybody gets FIN and nothing else."""
    assert [stranger.answer() for stranger in strangers] == [None] * len(strangers)
    assert core(to.node)["n_sinks"] == len(strangers)
    assert len(to.node.peers) == 1
    await to.close_with(strangers)


async def test_a_flight_in_order_is_answered():
    """What all other tests of this file change."""
    async with target() as to:
        (stranger,) = await to.tell(first_flight(to.node))
        assert await stranger.receive()
        assert faults(to.node) == {}


async def test_garbage_of_any_length_is_met_with_silence():
    lengths = [80, 81, 1367, 1368, 2391, 3543, 8192, *(rng.randint(80, 8192) for _ in range(93))]
    async with target() as to:
        strangers = await to.tell(*(rng.randbytes(n) for n in lengths))
        await to.heard(bad_envelope=len(lengths))
        await all_silent(to, strangers)


@pytest.mark.parametrize("name", HELLOS)
async def test_hellos_of_other_protocols_are_met_with_silence(name):
    async with target() as to:
        strangers = await to.tell(HELLOS[name])
        await to.heard(bad_envelope=1)
        await all_silent(to, strangers)


async def test_too_little_to_judge_is_waited_on_in_silence():
    async with target() as to:
        strangers = await to.tell(*(rng.randbytes(n) for n in (0, 1, 23, 24, 79)))
        await until(lambda: core(to.node)["n_half_open"] == 5, lambda: core(to.node))
        await to.settled()
        assert faults(to.node) == {}
        assert [stranger.answer() for stranger in strangers] == [None] * 5
        for stranger in strangers:
            stranger.finish()
        assert [await stranger.receive_all() for stranger in strangers] == [b""] * 5
        await until(lambda: core(to.node)["n_half_open"] == 0, lambda: core(to.node))


async def test_a_truncated_flight_is_waited_on_in_silence_and_answered_once_whole():
    async with target() as to:
        whole = [first_flight(to.node) for _ in range(12)]
        cuts = [1, 23, 24, 25, 79, 80, 81, 96, 1351, 1352, 1367, 0]
        cuts = [cut or len(one) - 1 for cut, one in zip(cuts, whole, strict=True)]
        strangers = await to.tell(*(one[:cut] for one, cut in zip(whole, cuts, strict=True)))
        await to.settled()
        assert [stranger.answer() for stranger in strangers] == [None] * len(whole)
        for stranger, one, cut in zip(strangers, whole, cuts, strict=True):
            await stranger.send(one[cut:])
        assert all([await stranger.receive() for stranger in strangers])
        assert faults(to.node) == {}


async def test_a_truncated_flight_ends_with_fin_and_not_a_byte():
    async with target() as to:
        one = first_flight(to.node)
        strangers = await to.tell(*(one[:cut] for cut in (1, 24, 79, 80, 81, 1351, len(one) - 1)))
        for stranger in strangers:
            stranger.finish()
        assert [await stranger.receive_all() for stranger in strangers] == [b""] * len(strangers)
        await until(lambda: core(to.node)["n_half_open"] == 0, lambda: core(to.node))
        (late,) = await to.tell(one)  # nothing of it is in the replay filter
        assert await late.receive()


async def test_every_flipped_bit_of_a_flight_is_met_with_silence():
    """One bit of each part, and 100 of any: nonce, head, its tag, body, padding, its tag."""
    async with target() as to:
        one = first_flight(to.node)
        bits = [0, 191, 192, 511, 512, 639, 640, 8 * 1352, len(one) * 8 - 128, len(one) * 8 - 1]
        bits += rng.sample(range(len(one) * 8), 100)
        flipped = []
        for bit in bits:
            raw = bytearray(one)
            raw[bit // 8] ^= 1 << bit % 8
            flipped.append(bytes(raw))
        strangers = await to.tell(*flipped)
        await to.heard(bad_envelope=len(bits))
        await all_silent(to, strangers)


async def test_a_good_head_with_a_wrong_body_is_met_with_silence():
    async with target() as to:
        one, other = first_flight(to.node), first_flight(to.node)
        strangers = await to.tell(one[:80] + other[80:] + bytes(1024), one[:80] + rng.randbytes(4096))
        await to.heard(bad_envelope=2)
        await all_silent(to, strangers)


async def test_a_replayed_flight_is_met_with_silence_while_and_after_the_first_lives():
    async with target() as to:
        one = first_flight(to.node)
        (first,) = await to.tell(one)
        assert await first.receive()
        strangers = await to.tell(one)
        await to.heard(replay=1, refused_replay=1)
        first.finish()
        await first.receive_all()
        strangers += await to.tell(one, one)
        await to.heard(replay=3, refused_replay=3)
        await all_silent(to, strangers)


@pytest.mark.parametrize("version", [0, 2, 255])
async def test_another_version_is_met_with_silence(monkeypatch, version):
    async with target() as to:
        strangers = await to.tell(resealed(to.node, monkeypatch, {0: bytes([version])}))
        await to.heard(bad_version=1)
        await all_silent(to, strangers)


@pytest.mark.parametrize("kind", [0, KIND_XX1, KIND_NK1, KIND_REPLY, KIND_M3, KIND_COOKIE, 255])
async def test_a_kind_that_may_not_come_is_met_with_silence(monkeypatch, kind):
    async with target() as to:
        strangers = await to.tell(resealed(to.node, monkeypatch, {1: bytes([kind])}))
        await to.heard(bad_kind=1)
        await all_silent(to, strangers)


@pytest.mark.parametrize(
    "changes", [{16: b"\x05\x79"}, {18: b"\x08\x00"}, {16: b"\xff\xff"}, {18: b"\xff\xff"}], ids=repr
)
async def test_lengths_out_of_range_are_met_with_silence(monkeypatch, changes):
    async with target() as to:
        strangers = await to.tell(resealed(to.node, monkeypatch, changes))
        await to.heard(too_long=1)
        await all_silent(to, strangers)


@pytest.mark.parametrize("offset", [2, 3, 20, 23, 24, 39])
async def test_a_field_that_must_not_be_used_off_udp_is_met_with_silence(monkeypatch, offset):
    async with target() as to:
        strangers = await to.tell(resealed(to.node, monkeypatch, {offset: b"\x07"}))
        await to.heard(not_zero=1)
        await all_silent(to, strangers)


async def test_a_first_contact_is_met_with_silence_unless_it_is_allowed():
    async with target() as to:
        strangers = await to.tell(first_flight(to.node, KIND_XX1))
        await to.heard(bad_envelope=1)
        await all_silent(to, strangers)
    async with target(allow_first_contact=True) as to:
        (stranger,) = await to.tell(first_flight(to.node, KIND_XX1))
        assert await stranger.receive()


async def test_an_anonymous_dialler_on_tcp_is_met_with_silence():
    async with target() as to:
        strangers = await to.tell(first_flight(to.node, KIND_NK1))
        await to.heard(bad_kind=1)
        await all_silent(to, strangers)


@pytest.mark.parametrize("skew_s", [-3600, -125, 125, 3600, 1 << 40])
async def test_a_clock_that_is_wrong_is_met_with_silence(skew_s):
    async with target() as to:
        strangers = await to.tell(first_flight(to.node, clock_s=lambda: int(time.time()) + skew_s))
        await to.heard(bad_clock=1)
        await all_silent(to, strangers)


@pytest.mark.parametrize("skew_s", [-115, 115])
async def test_a_clock_that_is_off_by_less_than_two_minutes_is_answered(skew_s):
    async with target() as to:
        (stranger,) = await to.tell(first_flight(to.node, clock_s=lambda: int(time.time()) + skew_s))
        assert await stranger.receive()


# A first flight that was right, and then something else


async def test_a_third_flight_that_does_not_open_is_met_with_silence():
    async with target() as to:
        strangers = []
        for spoil in (lambda last: bytes(len(last)), lambda last: rng.randbytes(len(last)), flip_last_bit):
            one = dialler(to.node)
            strangers += await to.tell(one.flight1())
            last = one.read(bytearray(await strangers[-1].receive()))
            await strangers[-1].send(spoil(last))
        await to.heard(bad_envelope=3)
        await all_silent(to, strangers)


def flip_last_bit(raw):
    return raw[:-1] + bytes([raw[-1] ^ 1])


@pytest.mark.parametrize("reason", ["wrong_identity", "bad_signature", "expired"])
async def test_a_third_flight_of_a_liar_is_met_with_silence(monkeypatch, reason):
    """For another PeerID; with the certificate of somebody else; with one that is past."""
    other = party().identity

    def lie(cid, to_peer_id, certificate, features):
        if reason == "wrong_identity":
            to_peer_id = other.peer_id
        return P3(cid, to_peer_id, other.certificate if reason == "bad_signature" else certificate, features)

    async with target() as to:
        one = dialler(to.node, until_s=-1 if reason == "expired" else 10**6)
        strangers = await to.tell(one.flight1())
        monkeypatch.setattr(handshake, "P3", lie)
        await strangers[0].send(one.read(bytearray(await strangers[0].receive())))
        await to.heard(**{reason: 1})
        await all_silent(to, strangers)


# Nodes that dial, through a proxy or with something wrong

IMPATIENT = config(limits={"handshake_s": 1})


def impatient(**options):
    return qg.Node(qg.Identity.generate(), config=IMPATIENT, **options)


async def fails_in_silence(node, address):
    with pytest.raises(qg.PeerTimeout, match=f":{address.port} .*silence") as caught:
        await node.connect(address)
    assert caught.value.reason is qg.Reason.TIMEOUT


@pytest.mark.parametrize("is_member", [True, False])
async def test_a_node_of_another_network_meets_silence(is_member):
    theirs = qg.NetworkSecret.generate() if is_member else None
    async with target(qg.NetworkSecret.generate()) as to, impatient(network_secret=theirs) as node:
        await fails_in_silence(node, to.node.address)
        await to.heard(bad_envelope=1)


async def test_a_node_of_a_closed_network_meets_silence_in_the_open_one():
    async with target() as to, impatient(network_secret=qg.NetworkSecret.generate()) as node:
        await fails_in_silence(node, to.node.address)
        await to.heard(bad_envelope=1)


async def test_a_node_that_dials_another_key_meets_silence():
    async with target() as to, impatient() as node:
        await fails_in_silence(node, to.node.address._replace(link_key=qg.Identity.generate().link_key))
        await to.heard(bad_envelope=1)


async def test_a_node_that_pins_another_identity_breaks_off_before_it_shows_its_own():
    async with target() as to, Proxy(to.node.address) as proxy, impatient() as node:
        with pytest.raises(qg.HandshakeFailed, match=r"another identity.*\?id="):
            await node.connect(proxy.address._replace(peer_id=qg.Identity.generate().peer_id))
        await until(lambda: core(to.node)["n_half_open"] == 0, lambda: core(to.node))
        assert (len(proxy.chunks[UP]), len(proxy.chunks[DOWN])) == (1, 1)
        assert faults(to.node) == {}


async def test_a_node_that_is_not_allowed_meets_silence_after_its_third_flight():
    friend = qg.Identity.generate()
    async with target(friend=friend, allow=[str(friend.peer_id)]) as to, impatient() as node:
        await fails_in_silence(node, to.node.address)
        assert faults(to.node) == {"wrong_identity": 1, "peers_denied": 1}


async def test_a_captured_flight_is_met_with_silence():
    async with target() as to, Proxy(to.node.address) as proxy, impatient() as node:
        await node.connect(proxy.address)
        strangers = await to.tell(proxy.chunks[UP][0], b"".join(proxy.chunks[UP]))
        await to.heard(replay=2, refused_replay=2)
        assert [stranger.answer() for stranger in strangers] == [None, None]


@pytest.mark.parametrize(("chunk_idx", "n_answers"), [(0, 0), (1, 1)])
async def test_flights_with_a_flipped_bit_meet_silence(chunk_idx, n_answers):
    """First and third flights: in the nonce, the head, its tag, the body."""
    bits = [0, 24 * 8, 79 * 8, 80 * 8, 319 * 8 + 7]
    async with target() as to, contextlib.AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(Proxy(to.node.address)) for _ in bits]
        nodes = [await stack.enter_async_context(impatient()) for _ in bits]
        for proxy, bit in zip(proxies, bits, strict=True):
            proxy.change = bit_flipper(UP, chunk_idx, bit)
        await asyncio.gather(
            *(fails_in_silence(node, proxy.address) for node, proxy in zip(nodes, proxies, strict=True))
        )
        await to.heard(bad_envelope=len(bits))
        assert [len(proxy.chunks[DOWN]) for proxy in proxies] == [n_answers] * len(bits)


@pytest.mark.parametrize("bit", [0, 24 * 8, 80 * 8, 1380 * 8])
async def test_a_second_flight_with_a_flipped_bit_ends_the_dial(bit):
    async with target() as to, Proxy(to.node.address) as proxy, impatient() as node:
        proxy.change = bit_flipper(DOWN, 0, bit)
        with pytest.raises(qg.HandshakeFailed) as caught:
            await node.connect(proxy.address)
        assert caught.value.reason is qg.Reason.PROTOCOL
        assert len(proxy.chunks[UP]) == 1
        assert faults(node) == {"bad_envelope": 1}
        assert faults(to.node) == {}


# How many strangers are borne, and how they are let go


async def test_sinks_are_bounded_and_the_oldest_is_closed_first():
    async with target(limits={"sinks": 4}, workers=1) as to:  # of several, each closes the oldest of its own
        strangers = []
        for n in range(1, 8):
            strangers += await to.tell(rng.randbytes(200))
            await until(lambda n=n: faults(to.node).get("bad_envelope") == n, lambda: faults(to.node))
        for gone in strangers[:3]:
            assert await gone.receive_all() == b""
            gone.sock.close()
        await until(lambda: core(to.node)["n_sinks"] == 4, lambda: core(to.node))
        assert faults(to.node) == {"bad_envelope": 7, "sinks_full": 3}
        await all_silent(to, strangers[3:])


async def test_half_open_connections_are_bounded_and_the_oldest_becomes_a_sink():
    async with target(limits={"half_open": 10}) as to:
        strangers = []
        for n in range(1, 15):
            strangers.append(await to.dial())
            await until(lambda n=n: core(to.node)["n_accepted"] == n + 1, lambda: core(to.node))
        await to.settled()
        status = core(to.node)
        assert status["n_half_open"] <= 10
        assert status["n_half_open"] + status["n_sinks"] == 14
        assert faults(to.node)["refused_half_open"] >= 4
        assert [stranger.answer() for stranger in strangers] == [None] * 14
        newest = strangers[-1]
        await newest.send(first_flight(to.node))
        assert await newest.receive()
        await strangers[0].send(first_flight(to.node))  # too late: nothing is read in a sink
        await to.settled()
        assert strangers[0].answer() is None


async def test_a_stranger_that_sends_on_and_on_is_read_and_ended_by_fin():
    async with target(limits={"sinks": 1}, workers=1) as to:
        (chatty,) = await to.tell(rng.randbytes(8 * MIB))
        await until(lambda: core(to.node)["in_len"] > 8 * MIB, lambda: core(to.node))
        assert chatty.answer() is None
        assert core(to.node)["pool_taken_len"] < 8 * MIB
        await chatty.send(rng.randbytes(MIB))
        await to.tell(rng.randbytes(200))
        assert await chatty.receive_all() == b""


async def test_a_stranger_that_goes_is_answered_with_fin_and_forgotten():
    async with target() as to:
        strangers = await to.tell(*(rng.randbytes(500) for _ in range(5)))
        await to.heard(bad_envelope=5)
        n_conns = core(to.node)["n_conns"]
        for stranger in strangers:
            stranger.finish()
            assert await stranger.receive_all() == b""
        await until(lambda: core(to.node)["n_sinks"] == 0, lambda: core(to.node))
        await until(lambda: core(to.node)["n_conns"] == n_conns - 5, lambda: core(to.node))
        assert core(to.node)["n_sessions"] == 1


async def test_strangers_leave_no_memory_behind():
    async with target() as to:
        await until(lambda: core(to.node)["n_blocks"] == 0, lambda: core(to.node))  # of the new link
        before = core(to.node)
        for _ in range(3):
            strangers = await to.tell(*(rng.randbytes(rng.randint(80, 4096)) for _ in range(20)))
            strangers += await to.tell(*(first_flight(to.node)[: rng.randint(1, 1300)] for _ in range(10)))
            strangers += await to.tell(*(first_flight(to.node) for _ in range(5)))
            for stranger in strangers:
                stranger.finish()
                await stranger.receive_all()
                stranger.sock.close()
        names = ("n_sessions", "n_sinks", "n_half_open", "n_conns", "n_blocks", "n_secret_slots")
        await until(
            lambda: [core(to.node)[name] for name in names] == [before[name] for name in names],
            lambda: {name: (before[name], core(to.node)[name]) for name in names},
        )


SOON = {"head_s": 1, "flight_s": 1, "handshake_s": 1, "sink_min_s": 2, "sink_max_s": 3}


async def test_silent_slow_and_wrong_strangers_are_all_ended_by_fin_and_without_a_byte():
    async with target(limits=SOON) as to:
        one, late = first_flight(to.node), dialler(to.node)
        strangers = await to.tell(b"", b"\0", one[:79], one[:80], one[:-1], bytes(80), bytes(4096))
        half = await to.tell(late.flight1())
        assert await half[0].receive()
        strangers += half  # it was answered, and says nothing more
        await until(lambda: core(to.node)["n_sinks"] == len(strangers), lambda: core(to.node))
        assert core(to.node)["n_half_open"] == 0
        assert [stranger.answer() for stranger in strangers] == [None] * len(strangers)
        assert faults(to.node) == {"bad_envelope": 2, "slow_handshakes": 6}
        assert [await stranger.receive_all() for stranger in strangers] == [b""] * len(strangers)
        # Who was ended and does not go is read for a while yet: no RST tells where reading stopped.
        for stranger in strangers:
            await stranger.send(bytes(10_000))
            stranger.finish()
        await until(lambda: core(to.node)["n_sinks"] == 0, lambda: core(to.node))
        await until(lambda: core(to.node)["n_conns"] == 1, lambda: core(to.node))
