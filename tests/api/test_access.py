# SPDX-License-Identifier: MIT
"""Rules of access are in force at once, also for sessions that run, and are explained."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from api.services import Echo
from api.test_circuit import relay_config
from api.test_configure import echo_through
from api.test_keep import Visits, echo

import qg
from qg.access.answers import access_answers
from qg.testing import conserved

pytestmark = [pytest.mark.anyio, pytest.mark.net]

LISTEN = ["tcp://127.0.0.1:0"]
LOOPBACK = "127.0.0.0/8"
HASTY = qg.Config(limits=qg.LimitsConfig(handshake_s=1))


@asynccontextmanager
async def met(config=None):
    """A node, and a peer of it that has dialled it: (node, visits to it, the peer's node, its view of the node)."""
    visits = Visits()
    async with (
        conserved() as nodes,
        qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[visits, Echo()], config=config) as node,
        qg.Node(qg.Identity.generate(), extenders=[Visits()], config=HASTY) as other,
    ):
        nodes += [node, other]
        yield node, visits, other


async def is_let_in(node, other):
    """Dial anew: is there a session?"""
    try:
        await (await other.connect(node.address)).ping()
    except qg.RemoteError:
        return False
    return True


async def test_a_network_that_is_blocked_loses_its_sessions_and_gets_no_others():
    async with met() as (node, visits, other):
        await echo(await other.connect(node.address))
        await visits.came.get()
        await node.access.network_set(LOOPBACK, is_allowed=False, note="a test")
        assert (await visits.went.get()).id == other.id
        assert not await is_let_in(node, other)
        assert node.status().counters["refused_networks"] >= 1
        verdict = node.access.check_address("127.0.0.1")
        assert verdict == (False, "127.0.0.0/8 is blocked (a test)", ())
        await node.access.network_set("127.0.0.1/32", is_allowed=True)
        assert node.access.check_address("127.0.0.1").is_allowed
        assert not node.access.check_address("127.0.0.2").is_allowed
        assert await is_let_in(node, other)
        await node.access.change(gone=list(node.access.rules.networks))
        assert node.access.check_address("127.0.0.2") == (
            True,
            "no network that has a rule holds it",
            ("score 100 of 100",),
        )


async def test_a_peer_that_is_blocked_loses_its_session_whoever_dialled():
    async with met() as (node, visits, other):
        await other.connect(node.address)
        await visits.came.get()
        await node.access.peer_set(qg.PeerRule(other.id, "anna", is_allowed=False))
        assert (await visits.went.get()).id == other.id
        assert not await is_let_in(node, other)
        assert node.access.check_peer(other.id) == (
            False,
            "the rule for this peer: anna is blocked",
            ("anna is blocked",),
        )
        await node.access.peer_remove(other.id)
        assert node.access.check_peer(other.id) == (True, 'no rule names it: allow = "anyone"', ())
        peer = await other.connect(node.address)
        await other.access.peer_set(qg.PeerRule(node.id, is_allowed=False))
        while peer.is_connected:
            await asyncio.sleep(0)


async def test_who_is_dialled_by_this_node_need_not_be_allowed_to_dial_it():
    async with met() as (node, _, other):
        peer = await other.connect(node.address)
        await other.configure(qg.Config(allow=(), limits=HASTY.limits))
        await other.access.network_set(LOOPBACK, is_allowed=False)
        await echo(peer)


async def test_a_rule_lets_in_whom_the_configuration_does_not_list():
    config = qg.Config(allow=())
    async with met(config) as (node, _, other):
        assert node.access.check_peer(other.id) == (False, "no rule names it: allow does not list it", ())
        assert not await is_let_in(node, other)
        await node.access.peer_set(qg.PeerRule(other.id, is_allowed=True))
        assert await is_let_in(node, other)
        assert node.access.check_peer(other.id).is_allowed


async def test_a_peer_relays_by_a_rule_although_the_configuration_says_nobody():
    async with (
        qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[Echo()]) as target,
        qg.Node(qg.Identity.generate(), listen=LISTEN, config=relay_config(target.address.port)) as relay,
        qg.Node(qg.Identity.generate()) as source,
    ):
        await source.connect(relay.address)
        with pytest.raises(qg.RemoteError):
            await source.connect(target.address, via=[relay.address])
        await relay.access.peer_set(qg.PeerRule(source.id, may_relay=True))
        await echo(await source.connect(target.address, via=[relay.address]))
        await relay.access.peer_set(qg.PeerRule(source.id, may_relay=False))
        with pytest.raises(qg.RemoteError):
            await source.connect(target.address, via=[relay.address], isolation="another")


async def test_the_rights_of_a_peer_are_shown_to_extenders():
    async with met() as (node, visits, other):
        await other.connect(node.address)
        peer = await visits.came.get()
        assert peer.rule == qg.PeerRule(other.id)
        rule = qg.PeerRule(other.id, "anna", may_exit=False, rate_kib_s=64)
        await node.access.peer_set(rule)
        assert peer.rule == rule
        assert peer.rule.words == "may not use the exit, gets 64 KiB/s"


async def test_the_rate_of_a_peer_begins_and_ends_while_its_link_is_in_use():
    async with met() as (node, _, other):
        stream = await (await other.connect(node.address)).open_stream(Echo.id)
        for rate_kib_s in (None, 0):
            await echo_through(stream)
            await node.access.peer_set(qg.PeerRule(other.id, rate_kib_s=1))
            # An hour at 1 KiB/s, and nothing at all without.
            waiting = asyncio.create_task(echo_through(stream))
            assert await asyncio.wait([waiting], timeout=0.3) == (set(), {waiting})
            await node.access.peer_set(qg.PeerRule(other.id, rate_kib_s=rate_kib_s))
            await waiting
        stream.reset()


async def test_many_changes_at_once_are_one_after_the_other():
    async with met() as (node, _, other):
        networks = [f"10.{n}.0.0/16" for n in range(20)]
        await asyncio.gather(*(node.access.network_set(network, is_allowed=False) for network in networks))
        assert len(node.access.rules.networks) == 20
        assert not node.access.check_address("10.7.1.1").is_allowed
        assert await is_let_in(node, other)


async def test_a_change_that_shuts_everybody_out_is_warned_about():
    async with met(qg.Config(allow=())) as (node, _, other):
        access = node.access
        await access.peer_set(qg.PeerRule(other.id, is_allowed=True))
        assert access.warnings(gone=[other.id]) == ["no peer could connect any more: allow one first"]
        assert access.warnings([qg.PeerRule(other.id, is_allowed=False)]) == access.warnings(gone=[other.id])
        everything = [qg.NetworkRule(qg.Prefix.parse(text), False) for text in ("0.0.0.0/0", "::/0")]
        assert access.warnings(everything) == [
            "no IPv4 address could connect any more: allow a network first",
            "no IPv6 address could connect any more: allow a network first",
        ]
        part = qg.NetworkRule(qg.Prefix.parse("192.0.2.0/24"), True)
        assert access.warnings([*everything, part]) == ["no IPv6 address could connect any more: allow a network first"]
        assert access.warnings([part]) == []
        halves = [qg.NetworkRule(qg.Prefix.parse(text), False) for text in ("0.0.0.0/1", "128.0.0.0/1")]
        assert access.warnings(halves) == ["no IPv4 address could connect any more: allow a network first"]
        assert access.warnings([*halves[:1], qg.NetworkRule(qg.Prefix.parse("0.0.0.0/2"), False)]) == []


@pytest.mark.parametrize(
    "rule",
    [
        qg.PeerRule(qg.PeerId(bytes(32)), "x" * 65),
        qg.PeerRule(qg.PeerId(bytes(32)), "two\nlines"),
        qg.PeerRule(qg.PeerId(bytes(32)), rate_kib_s=-1),
        qg.PeerRule(qg.PeerId(bytes(32)), rate_kib_s=1.5),
        qg.NetworkRule(qg.Prefix.parse("10.0.0.0/8"), True, "x" * 257),
    ],
)
async def test_what_is_no_rule_changes_nothing(rule):
    async with qg.Node(qg.Identity.generate()) as node:
        with pytest.raises(qg.LocalError):
            await node.access.change([qg.PeerRule(node.id), rule])
        assert node.access.rules == qg.Rules()


async def test_there_are_bounds_to_the_rules_and_a_change_beyond_them_changes_nothing():
    peers = [qg.PeerRule(qg.PeerId(number.to_bytes(32)), is_allowed=False) for number in range(50_001)]
    async with qg.Node(qg.Identity.generate()) as node:
        await node.access.change(peers[:-1])
        assert not node.access.check_peer(peers[7].peer_id).is_allowed
        with pytest.raises(qg.LocalError, match="not more"):
            await node.access.change(peers[-1:])
        assert len(node.access.rules.peers) == 50_000


async def test_an_ipv4_network_in_ipv6_clothes_is_one_of_ipv4():
    async with qg.Node(qg.Identity.generate()) as node:
        await node.access.network_set("::ffff:10.0.0.0/104", is_allowed=False)
        assert [str(network) for network in node.access.rules.networks] == ["10.0.0.0/8"]
        answers = access_answers(node.access)
        assert (await answers["access_set"](["::ffff:192.0.2.1"], False))["is_done"]
        assert (await answers["access_forget"](["::ffff:192.0.2.1"]))["is_done"]
        for text in ("10.1.2.3", "::ffff:10.1.2.3"):
            assert node.access.check_address(text).rule == "10.0.0.0/8 is blocked"
        for text in ("", "10.0.0.0/8", "x"):
            with pytest.raises(qg.LocalError, match="is not an IP address"):
                node.access.check_address(text)


async def test_peers_are_found_by_name_uuid_and_peer_id():
    first, second = qg.PeerId(bytes(32)), qg.PeerId(b"\x01" + bytes(31))
    rules = qg.Rules(peers=[qg.PeerRule(first, "anna"), qg.PeerRule(second, "anna"), qg.PeerRule(first, "bert")])
    assert rules.peer_find("bert") == rules.peer_find(str(first.uuid)) == rules.peer_find(str(first)) == first
    assert rules.changed([qg.PeerRule(second, str(first))]).peer_find(str(first)) == first
    both = rules.changed([qg.PeerRule(first, "anna")])
    with pytest.raises(qg.LocalError, match="the name of 2 peers"):
        both.peer_find("anna")
    with pytest.raises(qg.LocalError):
        rules.peer_find("carl")


async def test_sessions_are_limited_per_network_of_any_width():
    limits = qg.LimitsConfig(exempt=(), prefix_sessions=(qg.config.PrefixLimit.parse("ip4/15 = 2"),), handshake_s=1)
    async with (
        qg.Node(qg.Identity.generate(), listen=LISTEN, config=qg.Config(limits=limits)) as node,
        qg.Node(qg.Identity.generate()) as first,
        qg.Node(qg.Identity.generate()) as second,
        qg.Node(qg.Identity.generate(), config=HASTY) as third,
    ):
        await (await first.connect(node.address)).ping()
        peer = await second.connect(node.address)
        await peer.ping()
        assert not await is_let_in(node, third)
        assert node.status().counters["sessions_full"] == 1
        await peer.close()
        while node.status().n_links > 1:
            await asyncio.sleep(0.01)
        assert await is_let_in(node, third)
