# SPDX-License-Identifier: MIT
"""No known key is left in any memory of a node once its session is closed or re-keyed, or its handshake has failed.

The independent model is the peer, so the keys are known here. The node is a process of its own, whose memory is
searched as if it were dumped, with the mappings that a dump leaves out. The control comes first: keys in use are found,
and nowhere but in those mappings.
"""

import asyncio
import contextlib
import os
import sys

import pytest
from api.services import Echo
from model import frames, handshake, noise
from net.child import Child
from net.dump import secrets_find
from net.flights import dialler
from net.live import Model
from net.support import Stranger
from net.test_restart import dial_port

from qg._core import _build_info

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.net,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
    pytest.mark.skipif(_build_info.IS_SANITIZED, reason="the sanitizer maps more memory than can be searched"),
]

suites = pytest.mark.parametrize("offered", [7, 3, 1], ids=["aegis-256", "aes-256-gcm", "chacha20-poly1305"])


@pytest.fixture
def mixed(monkeypatch):
    """Every secret that goes into or comes out of a step of a Noise handshake of the model, by the step's number."""
    known, public = {}, set()
    mix_key, mix_ephemeral = noise.SymmetricState.mix_key, noise.Handshake._mix_ephemeral

    def key_mixed(state, ikm):
        mix_key(state, ikm)
        step = len(known)
        known.update({f"{step} ck": state.ck, f"{step} k": state.cipher.key})
        if ikm not in public:
            known[f"{step} ikm"] = ikm

    def ephemeral_mixed(self, key):
        public.add(key)
        mix_ephemeral(self, key)

    monkeypatch.setattr(noise.SymmetricState, "mix_key", key_mixed)
    monkeypatch.setattr(noise.Handshake, "_mix_ephemeral", ephemeral_mixed)
    return known


def keys_of(keys, mark=""):
    """The keys of a session that end with its generation. No nonces: they are on no list of secrets."""
    named = {"rekey_psk": keys.generation.rekey_psk}
    for name, direction in (("sent", keys.send), ("received", keys.recv)):
        named |= {f"{name} {part}": getattr(direction, part) for part in ("secret", "key", "len_key")}
    return {f"{mark}{name}": key for name, key in named.items()}


async def found(child, secrets):
    """Search the memory of a child that stands still: the names that are there, each in no memory that is dumped."""
    await child.stop()
    try:
        places, undumped = await asyncio.to_thread(secrets_find, child.pid, secrets)
    finally:
        child.go()
    assert places == undumped
    return set(places)


async def handled(model, peer):
    """Wait until the node has handled all that was sent."""
    token = os.urandom(8)
    peer.ping(token)
    await model.until(lambda: frames.Pong(token) in peer.received)


async def status_wait(child, condition):
    async with asyncio.timeout(20):
        while not condition(status := await child.ask("status")):
            await asyncio.sleep(0.01)
    return status


@suites
async def test_keys_that_are_no_longer_used_are_in_no_memory(mixed, offered):
    async with Child() as child, Model(suites=offered) as model:
        link = model.dial(child.address)
        peer = await model.connected(link.peer)
        established = peer.established
        first, exporter = keys_of(peer.keys, "first "), {"exporter": peer.keys.exporter}
        handshaken = {"k1": established.k1, "k2": established.k2} | mixed
        assert await found(child, first | exporter | handshaken) == set(first | exporter)

        peer.epoch()
        await handled(model, peer)
        second = keys_of(peer.keys, "second ")
        ended = {name: key for name, key in first.items() if key not in second.values()}
        assert set(ended) == {"first sent secret", "first sent key", "first sent len_key"}
        assert await found(child, ended | second) == set(second)

        peer.rekey()
        await model.until(lambda: peer.keys.number == 1)
        await handled(model, peer)
        third = keys_of(peer.keys, "third ")
        assert await found(child, first | second | third | mixed | exporter) == set(third | exporter)

        await model.hang_up(link)
        await status_wait(child, lambda status: status["core"]["n_sessions"] == 0)
        assert await found(child, first | second | third | exporter | handshaken | mixed) == set()


async def test_generations_that_the_node_ends_by_itself_are_in_no_memory(mixed):
    async with Child(link={"rekey_s": 1}) as child, Model() as model:
        link = model.dial(child.address)
        peer = await model.connected(link.peer)
        stream = peer.stream_open(frames.KIND_BYTES, bytes(Echo.id))
        ended = {}
        for number in (0, 1):
            keys, handshaken = keys_of(peer.keys, f"{number} "), dict(mixed)
            while peer.keys.number == number:  # new keys come with bytes
                peer.stream_write(stream, b"x")
                await model.until(lambda: peer.stream_read(stream))
                await asyncio.sleep(0.02)
            ended |= keys | handshaken
        await handled(model, peer)
        assert await found(child, ended) == set()


@pytest.mark.parametrize("fault", ["sealed wrongly", "for somebody else", "never sent"])
async def test_a_handshake_that_fails_leaves_no_key(mixed, monkeypatch, fault):
    if fault == "for somebody else":  # all keys are there when this is seen
        real = handshake.P3
        monkeypatch.setattr(handshake, "P3", lambda cid, _, *rest: real(cid, os.urandom(32), *rest))
    async with Child() as child:
        initiator = dialler(child)
        with contextlib.closing(await dial_port(child.address.port)) as sock:
            await Stranger(sock).send(initiator.flight1())
            buffer, flight3 = bytearray(), None
            while flight3 is None:
                buffer += await Stranger(sock).receive()
                flight3 = initiator.read(buffer)
            during = await found(child, mixed)
            assert any(name.endswith("ck") for name in during)
            if fault == "never sent":
                sock.close()
            else:
                await Stranger(sock).send(flight3[:-1] + bytes([flight3[-1] ^ (fault == "sealed wrongly")]))
            status = await status_wait(child, lambda status: status["core"]["n_half_open"] == 0)
            assert status["core"]["n_links_up"] == 0
            established = initiator.established
            split = {"k1": established.k1, "k2": established.k2}
            assert await found(child, mixed | split) == set()


@pytest.mark.parametrize("fault", ["sealed wrongly", "not certified"])
async def test_a_handshake_that_fails_for_who_began_it_leaves_no_key(mixed, monkeypatch, fault):
    if fault == "not certified":  # all keys of both flights are there when this is seen
        real = handshake.P2
        monkeypatch.setattr(handshake, "P2", lambda *first: real(*first[:-1], os.urandom(len(first[-1]))))
    answer, answers = handshake.Responder._m1_answer, asyncio.Queue()

    def withhold(responder, m1):
        answers.put_nowait(answer(responder, m1))
        return b""

    monkeypatch.setattr(handshake.Responder, "_m1_answer", withhold)
    async with Child() as child, Model() as model:
        connecting = asyncio.create_task(child.ask("connect", to=str(model.listen())))
        flight2 = await answers.get()
        during = await found(child, mixed)
        assert any(name.endswith("ck") for name in during)
        sock = (await model.arrivals.get()).sock
        await Stranger(sock).send(flight2[:-1] + bytes([flight2[-1] ^ (fault == "sealed wrongly")]))
        assert (await connecting)["error"] == "HandshakeFailed"
        assert await found(child, mixed) == set()
