# SPDX-License-Identifier: MIT
"""Circuits by number of hops: which relays are drawn, what happens when one fails, and the guards."""

import asyncio
import contextlib
import re
import socket

import pytest
from api.services import Echo
from api.test_keep import Visits
from model import frames
from model.peer import layer_answer
from net.chain import host, world
from net.live import Model
from net.support import Services, core, until

import qg
import qg.relays
from qg.keep import Backoff
from qg.relays import network_of

pytestmark = [pytest.mark.anyio, pytest.mark.net]


@contextlib.asynccontextmanager
async def crowd(n_relays, n_dead=0, **tables):
    """A source that knows so many relays, which serve each other and it, and a target; dead ones do not run."""
    async with world(n_relays + n_dead + 1) as made:
        identities = [qg.Identity.generate() for _ in range(n_relays + 1)]
        users = [identity.peer_id for identity in identities]
        made.target = await made.node(n_relays + n_dead, extenders=[*Services(), Visits()])
        for idx, identity in enumerate(identities[1:]):
            made.relays.append(await made.node(idx, identity=identity, config=made.config(users, **tables)))
        port = made.target.address.port
        made.dead = [qg.Address(qg.Identity.generate().link_key, host(n_relays + idx), port) for idx in range(n_dead)]
        known = [str(address) for address in (*(relay.address for relay in made.relays), *made.dead)]
        made.identity, made.known = identities[0], known
        yield made


async def source_of(made, **settings):
    config = qg.Config.from_dict({"relays": made.known} | settings)
    return await made.node(identity=made.identity, config=config)


def carrying(made):
    """The relays that a circuit passes through now."""
    return {relay.address.host for relay in made.relays if core(relay)["n_circuits"]}


@pytest.mark.parametrize("hops", range(1, 8))
async def test_a_circuit_of_so_many_hops_passes_so_many_relays(hops):
    async with crowd(8) as made:
        source = await source_of(made)
        peer = await source.connect(made.target.address, hops=hops)
        assert peer.id == made.target.id
        async with await peer.open_stream(Echo.id) as stream:
            await stream.write(b"far away")
            assert await stream.readexactly(8) == b"far away"
        assert len(carrying(made)) == hops == len(peer.via)
        assert carrying(made) == {relay.host for relay in peer.via}


async def test_paths_vary_and_begin_with_one_of_two_guards():
    async with crowd(8) as made:
        source = await source_of(made)
        paths = set()
        for _ in range(16):
            async with await source.connect(made.target.address, hops=2):
                paths.add(frozenset(carrying(made)))
        assert len(paths) > 3
        guards = {relay.address.host for relay in source._routes.guards.relays}
        assert guards == {peer.host for peer in source.peers}
        assert len(guards) == 2


async def test_a_direct_peer_that_relays_is_known_by_what_it_said():
    """It has no address that it could tell others, so no record: it was dialled at this one."""
    async with crowd(0) as made:
        relay_config = made.config([made.identity.peer_id])
        async with qg.Node(qg.Identity.generate(), listen=["tcp://0.0.0.0:0"], config=relay_config) as relay:
            source = await source_of(made)
            with pytest.raises(qg.NoRoute, match="0 are known"):
                await source.connect(made.target.address, hops=1)
            await source.connect(relay.address._replace(host="127.77.0.1"))
            peer = await source.connect(made.target.address, hops=1)
            assert await peer.ping() > 0
            assert core(relay)["n_circuits"] == 1
            await peer.close()
            await source.close()


async def test_too_few_networks_are_told_with_the_rule_that_removed_them():
    async with crowd(2) as made:
        source = await source_of(made)
        with pytest.raises(qg.NoRoute, match="choosing 2 relays failed: 2 are known"):
            await source.connect(made.target.address, hops=3)
        near = made.relays[0].address._replace(host=made.target.address.host.replace(".0.1", ".0.7"))
        made.known = [str(near)]
        other = await source_of(made)
        with pytest.raises(qg.NoRoute, match="1 in a network of the path or its ends"):
            await other.connect(made.target.address, hops=1)


async def test_relays_beside_the_source_are_never_drawn():
    """The rule holds on one machine too: the source has 127.0.0.1."""
    async with crowd(1) as made:
        made.known = [str(made.relays[0].address._replace(host="127.0.0.9"))]
        with pytest.raises(qg.NoRoute):
            await (await source_of(made)).connect(made.target.address, hops=1)


async def test_the_target_and_the_source_are_no_relays():
    async with crowd(1) as made:
        source = await source_of(made)
        with pytest.raises(qg.NoRoute, match="1 on the path or at its ends"):
            await source.connect(made.relays[0].address, hops=1)
        made.known = [f"qg://{made.identity.link_key}@{host(0)}:7447"]
        with pytest.raises(qg.NoRoute, match="1 on the path or at its ends"):
            await (await source_of(made)).connect(made.target.address, hops=1)


async def test_hops_and_via_exclude_each_other():
    async with crowd(1) as made:
        source = await source_of(made)
        with pytest.raises(qg.AddressError, match="give one of the two"):
            await source.connect(made.target.address, hops=1, via=[made.relays[0].address])
        for hops in (0, 8, True, 1.0, "2"):
            with pytest.raises(qg.InvalidValue, match="whole number from 1 to 7"):
                await source.connect(made.target.address, hops=hops)


@pytest.mark.parametrize("place", range(4))
async def test_a_failed_hop_of_a_named_path_is_named(place):
    """With `via` nothing is replaced: the path is the caller's."""
    async with crowd(4, n_dead=1) as made:
        source = await source_of(made)
        via = [relay.address for relay in made.relays]
        via[place] = made.dead[0]
        with pytest.raises(qg.Unreachable, match=f"relay {place + 1} of 4 .*{re.escape(made.dead[0].host)}") as caught:
            await source.connect(made.target.address, via=via)
        assert caught.value.hop_idx == place


async def test_a_relay_that_failed_is_replaced_and_avoided():
    async with crowd(5, n_dead=2) as made:
        source = await source_of(made)
        routes = source._routes
        guards = [qg.relays.KnownRelay.of(relay.address) for relay in made.relays[:2]]
        routes.guards.add(guards, 0)
        dead = [relay for relay in routes.book.relays(0) if relay.address in made.dead]
        for _ in range(100):
            async with await source.connect(made.target.address, hops=3):
                assert len(carrying(made)) == 3
            avoided = [routes.book.is_avoided(relay, routes._clock()) for relay in dead]
            if all(avoided):  # two relays have met each of them
                break
        assert avoided == [True, True]


@pytest.mark.parametrize("moment", ["build", "accept"])
async def test_a_relay_that_dies_in_the_midst_of_a_build_is_replaced(moment):
    """The model is a second relay: it goes when a layer is asked for, or between its ACCEPT and the first record."""
    async with crowd(4, n_dead=1) as made, Model() as model:
        met = []

        def die(peer):
            (link,) = [link for link in model.links if link.peer is peer]
            asyncio.get_running_loop().call_soon(link.sock.shutdown, socket.SHUT_RDWR)
            met.append(link)

        def answer(peer, stream):
            layer = layer_answer(model.party, peer, stream)

            def extend(layer, stream):
                layer.stream_accept(stream)
                die(peer)

            layer.handlers[frames.KIND_RELAY] = extend

        model.handlers[frames.KIND_PIPE] = answer if moment == "accept" else lambda peer, stream: die(peer)
        where = made.dead[0].host, made.dead[0].port
        made.known[-1] = str(model.listen(where))
        source = await source_of(made)
        source._routes.guards.add([qg.relays.KnownRelay.of(relay.address) for relay in made.relays[:2]], 0)
        while not met:
            peer = await source.connect(made.target.address, hops=2)
            assert await peer.ping() > 0
            await peer.close()


async def test_a_guard_that_is_down_is_passed_over_and_both_down_is_said():
    async with crowd(3, n_dead=2) as made:
        # None of the dead is drawn behind a guard: a relay dials ten that it does not know, and no more for a while.
        source = await source_of(made, relays=[str(relay.address) for relay in made.relays])
        guards = source._routes.guards
        dead, alive = (qg.relays.KnownRelay.of(address) for address in (made.dead[0], made.relays[0].address))
        guards.add([dead, alive], 0)
        for _ in range(6):
            async with await source.connect(made.target.address, hops=2):
                assert alive.address.host in carrying(made)
        other = await source_of(made)
        other._routes.guards.add([dead, qg.relays.KnownRelay.of(made.dead[1])], 0)
        with pytest.raises(qg.Unreachable, match=r"guards.*another takes its place if it stays down for 12\.0 hours"):
            await other.connect(made.target.address, hops=2)
        await until(lambda: not carrying(made), lambda: carrying(made))


async def test_a_guard_behind_which_bytes_were_changed_is_no_first_relay_for_an_hour():
    async with crowd(3) as made:
        source = await source_of(made)
        routes = source._routes
        bad, good = (qg.relays.KnownRelay.of(relay.address) for relay in made.relays[:2])
        routes.guards.add([bad, good], 0)
        others = [relay.address.link_key for relay in (made.relays[2], made.target)]
        for other in others:
            routes.tampered(bad.link_key, other)
        for _ in range(8):
            async with await source.connect(made.target.address, hops=1):
                assert carrying(made) == {good.address.host}
        for other in others:
            routes.tampered(good.link_key, other)
        with pytest.raises(qg.NoRoute, match="2 failed lately"):
            await source.connect(made.target.address, hops=1)


async def test_guards_survive_a_restart(tmp_path):
    path = str(tmp_path / "guards")
    async with crowd(6) as made:
        firsts = []
        for _ in range(3):
            source = await source_of(made, guards=path)
            await source.connect(made.target.address, hops=1)
            firsts.append(set(source._routes.guards.relays))
            await source.close()
        assert firsts[0] == firsts[1] == firsts[2]
        assert len(firsts[0]) == 2


async def test_a_guard_gone_for_good_is_replaced_by_one_that_answers():
    async with crowd(4, n_dead=1) as made:
        source = await source_of(made)
        routes, now_s = source._routes, [0.0]
        routes._clock = lambda: now_s[0]
        dead = qg.relays.KnownRelay.of(made.dead[0])
        routes.guards.add([dead], 0)
        for now_s[0] in (1000.0, 1000.0 + 43_199):
            async with await source.connect(made.target.address, hops=1):
                assert dead in routes.guards.relays
            routes.guards.failed(dead, now_s[0])
        now_s[0] = 1000.0 + 43_200
        routes.guards.failed(dead, now_s[0])
        async with await source.connect(made.target.address, hops=1):
            assert dead not in routes.guards.relays
            assert len(routes.guards.relays) == 2


async def test_a_target_that_is_gone_is_told_after_other_relays_have_tried():
    async with crowd(6, n_dead=1) as made:
        made.known = made.known[:-1]
        source = await source_of(made)
        with pytest.raises(qg.Unreachable, match="cannot be reached") as caught:
            await source.connect(made.dead[0], hops=2)
        assert caught.value.hop_idx == 2
        tried = [relay for relay in made.relays if core(relay)["n_links_up"]]
        assert len(tried) > 2


async def test_nodes_of_a_path_lie_in_networks_of_their_own():
    async with crowd(8) as made:
        source = await source_of(made)
        async with await source.connect(made.target.address, hops=7):
            networks = [network_of(where) for where in (*carrying(made), made.target.address.host, "127.0.0.1")]
        assert len(set(networks)) == 9


@pytest.mark.parametrize(
    ("relay", "words"),
    [
        ("qg://198.51.100.7:7447", "with a link key"),
        (f"qg://{qg.Identity.generate().link_key}@relay.example:7447", "an IP address"),
    ],
    ids=["no key", "a name"],  # the same in every process
)
def test_relays_of_the_configuration_have_a_link_key_and_an_ip_address(relay, words):
    with pytest.raises(qg.ConfigError, match=words):
        qg.Config.from_dict({"relays": [relay]})


async def test_a_kept_circuit_is_rebuilt_over_another_relay_when_its_own_has_gone(monkeypatch):
    monkeypatch.setattr("qg.keep.BACKOFF", Backoff(0.001, 0.05, 60.0))
    visits = Visits()
    async with crowd(3) as made:
        source = await made.node(
            identity=made.identity, extenders=[visits], config=qg.Config.from_dict({"relays": made.known})
        )
        peer = await source.connect(made.target.address, hops=1, keep=True)
        (place,) = carrying(made)
        (relay,) = (relay for relay in made.relays if relay.address.host == place)
        assert await relay.drain(0) == 1
        await relay.close()
        while await visits.went.get() is not peer:
            pass
        while await visits.came.get() is not peer or not peer.is_connected:
            pass
        async with await peer.open_stream(Echo.id) as stream:
            await stream.write(b"again")
            assert await stream.readexactly(5) == b"again"
        made.relays.remove(relay)
        assert carrying(made)
