# SPDX-License-Identifier: MIT
"""Relays with several addresses, of which some do not answer (docs/protocol.md, section 6.2)."""

import contextlib
import socket

import pytest
from net.chain import host, world
from net.support import core, until

import qg
from qg.relays import KnownRelay

pytestmark = [pytest.mark.anyio, pytest.mark.net]

N_RELAYS = 3
NOWHERE = "2001:db8::7"  # an address that no machine has


@contextlib.asynccontextmanager
async def crowd():
    """A source, three relays that serve it and each other, and a target."""
    async with world(N_RELAYS + 1) as made:
        identities = [qg.Identity.generate() for _ in range(N_RELAYS + 1)]
        users = [identity.peer_id for identity in identities]
        made.target = await made.node(N_RELAYS)
        for idx, identity in enumerate(identities[1:]):
            made.relays.append(await made.node(idx, identity=identity, config=made.config(users)))
        made.identity = identities[0]
        yield made


@contextlib.contextmanager
def silent(where, port):
    """A port that lets nobody connect and says nothing: its queue is full, so a SYN is dropped."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((where, port))
        listener.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex((where, port))
        yield where


async def path_check(made, spare, n_hops):
    """Draw paths over relays that have another address each, tried first; all of them must come about."""
    lines = []
    for idx, relay in enumerate(made.relays):
        lines += [relay.address._replace(host=spare(idx)), relay.address]
    source = await made.node(identity=made.identity, config=qg.Config(relays=tuple(lines)))
    async with await source.connect(made.target.address, hops=n_hops) as peer:
        assert await peer.ping() > 0
        # A path that was slow to come about has had another beside it, which goes when it has come about too.

        def counts():
            return [core(relay)["n_circuits"] for relay in made.relays]

        await until(lambda: sum(counts()) == n_hops, counts)
        assert all(guard.endpoints[1][0].startswith("127.1") for guard in source._routes.guards.relays)


@pytest.mark.parametrize("n_hops", [1, 3])
async def test_where_nobody_listens_at_the_first_address_the_second_is_taken(n_hops):
    """The source dials the first relay; for those behind it, it is the relay before them."""
    async with crowd() as made:
        await path_check(made, lambda idx: host(20 + idx), n_hops)


@pytest.mark.parametrize("n_hops", [1, 3])
async def test_where_the_first_family_does_not_work_the_other_is_taken(n_hops):
    async with crowd() as made:
        await path_check(made, lambda idx: f"2001:db8:{idx}::7", n_hops)


@pytest.mark.parametrize("n_hops", [1, 2])
async def test_where_the_first_address_is_silent_the_second_is_taken_within_the_time_of_the_build(n_hops):
    async with crowd() as made:
        with contextlib.ExitStack() as stack:
            spares = [stack.enter_context(silent(host(20 + idx), made.port)) for idx in range(N_RELAYS)]
            await path_check(made, spares.__getitem__, n_hops)


async def test_two_ports_of_one_host_are_tried_in_order():
    async with crowd() as made:
        with socket.socket() as other:
            other.bind((host(0), 0))  # taken, and nobody listens
            relay = KnownRelay.of(made.relays[0].address)
            both = relay._replace(endpoints=((host(0), other.getsockname()[1]), *relay.endpoints))
            source = await made.node(identity=made.identity)
            source._routes.guards.add([both], 0)
            async with await source.connect(made.target.address, hops=1) as peer:
                assert await peer.ping() > 0
                (link,) = [link for link in source.status().links if link.remote.startswith(host(0))]
                assert link.remote == f"{host(0)}:{made.port}"


async def test_what_a_relay_advertises_is_tried_in_order():
    """Its record names two addresses, of which the first is out of reach."""
    secret = qg.NetworkSecret.generate()
    async with world(2) as made:
        advertised = (qg.Endpoint("tcp", host(20), made.port), qg.Endpoint("tcp", host(0), made.port))
        policy = qg.RelayConfig(allow="members", targets=(qg.Prefix.parse("127.0.0.0/8"),), ports=(made.port,))
        relay = await made.node(0, config=qg.Config(relay=policy, advertise=advertised), network_secret=secret)
        target = await made.node(1, network_secret=secret)
        source = await made.node(config=qg.Config(relay=policy), network_secret=secret)
        book = source._routes.book
        async with await source.connect(relay.address._replace(host=host(0))):
            await until(lambda: len(book), lambda: source._gossip.counts)
        (known,) = book.relays(source._routes._clock())
        assert known.endpoints == ((host(20), made.port), (host(0), made.port))
        peer = await source.connect(target.address, hops=1)
        assert await peer.ping() > 0


async def test_all_addresses_out_of_reach_are_one_error_that_names_the_first():
    async with crowd() as made:
        dead = [made.relays[0].address._replace(host=where) for where in (host(20), host(21), NOWHERE)]
        source = await made.node(identity=made.identity, config=qg.Config(relays=tuple(dead)))
        with pytest.raises(qg.Unreachable, match=host(20)) as caught:
            await source.connect(made.target.address, hops=1)
        assert caught.value.hop_idx == 0


async def test_a_relay_dials_only_the_addresses_that_its_policy_allows():
    """The first is a printer's; the second is where the target is."""
    async with crowd() as made:
        with socket.create_server((host(20), 0)) as printer:
            printer.setblocking(False)
            relay, target = (KnownRelay.of(node.address) for node in (made.relays[0], made.target))
            forbidden = (host(20), printer.getsockname()[1])
            source = await made.node(identity=made.identity)
            hops = (relay.address, target.address._replace(host=forbidden[0], port=forbidden[1]))
            peer = await source._dial(hops, None, 0, None, others=((), target.endpoints))
            assert await peer.ping() > 0
            with pytest.raises(BlockingIOError):
                printer.accept()
