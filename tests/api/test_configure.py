# SPDX-License-Identifier: MIT
"""A node that runs takes a changed configuration whole, or not at all."""

import asyncio
from contextlib import AsyncExitStack

import msgspec
import pytest
from api.services import Echo
from api.test_circuit import LISTEN, relay_config
from api.test_keep import Visits, echo

import qg
from qg.keep import Backoff
from qg.reload import _LIVE, changes_check
from qg.testing import conserved

pytestmark = [pytest.mark.anyio, pytest.mark.net]

replace = msgspec.structs.replace


async def test_peers_that_are_no_longer_allowed_lose_their_session_and_get_no_other():
    visits = Visits()
    friend, stranger = qg.Identity.generate(), qg.Identity.generate()
    async with (
        conserved() as nodes,
        qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[visits, Echo()]) as node,
        qg.Node(friend, extenders=[Visits()]) as friendly,
        qg.Node(stranger, extenders=[Visits()]) as strange,
        qg.Node(stranger, config=qg.Config(limits=qg.LimitsConfig(handshake_s=1))) as hasty,
    ):
        nodes += [node, friendly, strange, hasty]
        peer = await friendly.connect(node.address)
        await strange.connect(node.address)
        came = {(await visits.came.get()).id, (await visits.came.get()).id}
        assert came == {friend.peer_id, stranger.peer_id}
        assert await node.configure(qg.Config(allow=(friend.peer_id,))) == ["allow"]
        assert (await visits.went.get()).id == stranger.peer_id
        await echo(peer)
        with pytest.raises(qg.RemoteError):
            await (await hasty.connect(node.address)).ping()
        await node.configure(qg.Config())
        await (await strange.connect(node.address)).ping()


async def test_a_peer_that_was_kept_at_two_addresses_is_still_kept_at_the_one_that_is_left(monkeypatch):
    monkeypatch.setattr("qg.keep.BACKOFF", Backoff(0.001, 0.05, 60.0))
    identity, visits = qg.Identity.generate(), Visits()
    async with qg.Node(qg.Identity.generate(), extenders=[visits]) as node:
        there = qg.Node(identity, listen=[*LISTEN, *LISTEN], extenders=[Visits()])
        await there.start()
        both = there.addresses
        for left in both:
            await node.configure(qg.Config(peers=both))
            while not all(kept.is_connected for kept in node.status().kept):
                await asyncio.sleep(0)
            await node.configure(qg.Config(peers=(left,)))
            await there.close()
            listen = [qg.Endpoint("tcp", "127.0.0.1", address.port) for address in both]
            there = qg.Node(identity, listen=listen, extenders=[Visits()])
            await there.start()
            while not node.status().kept[0].is_connected:
                await asyncio.sleep(0)
        await there.close()


async def test_a_relay_takes_over_whom_it_relays_for_and_where_to():
    source = qg.Identity.generate()
    async with (
        qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[Echo()]) as target,
        qg.Node(qg.Identity.generate(), listen=LISTEN) as relay,
        qg.Node(source) as node,
    ):
        port = target.address.port
        with pytest.raises(qg.RemoteError):
            await node.connect(target.address, via=[relay.address])
        await relay.configure(relay_config(port, allow=[source.peer_id]))
        await echo(await node.connect(target.address, via=[relay.address]))
        for config in (relay_config(port, allow=[relay.id]), relay_config(port + 1, allow=[source.peer_id])):
            await relay.configure(config)
            with pytest.raises(qg.Refused):
                await node.connect(target.address, via=[relay.address])


async def test_what_needs_a_restart_is_refused_by_name_and_nothing_changes():
    friend = qg.Identity.generate()
    async with qg.Node(qg.Identity.generate(), listen=LISTEN) as node, qg.Node(qg.Identity.generate()) as other:
        wanted = qg.Config(
            allow=(friend.peer_id,),
            listen=(qg.Endpoint("tcp", "127.0.0.1", 7447),),
            relay=qg.RelayConfig(memory_mib=1, idle_s=7),
            limits=qg.LimitsConfig(sessions=7),
        )
        with pytest.raises(qg.ConfigError) as caught:
            await node.configure(wanted)
        assert [problem.split(":")[0] for problem in caught.value.problems] == [
            "listen",
            "relay.memory_mib",
            "limits.sessions",
        ]
        assert "[tcp://127.0.0.1:7447]" in caught.value.problems[0]
        await (await other.connect(node.address)).ping()
        assert await node.configure(qg.Config()) == []


async def test_a_rate_changes_while_bytes_are_sent():
    def rates(**settings):
        return qg.Config(rates=qg.RatesConfig(**settings))

    slow, quick = rates(node_kib_s=256, node_burst_kib=64), rates(node_kib_s=1_048_576)
    async with (
        qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[Echo()]) as there,
        qg.Node(qg.Identity.generate(), config=slow) as node,
    ):
        stream = await (await node.connect(there.address)).open_stream(Echo.id)
        data = bytes(1 << 28)  # a quarter of an hour at 256 KiB/s
        async with asyncio.TaskGroup() as group:
            group.create_task(stream.write(data))
            await stream.readexactly(65536)
            assert await node.configure(quick) == ["rates.node_kib_s", "rates.node_burst_kib"]
            for _ in range((len(data) >> 16) - 1):
                await stream.readexactly(65536)


@pytest.mark.parametrize(
    ("table", "key"),
    [("rates", "node"), ("rates", "neighbour"), ("relay", "rate"), ("relay", "neighbour_rate")],
)
async def test_a_rate_begins_and_ends_on_links_and_circuits_that_are_in_use(table, key):
    source = qg.Identity.generate()
    async with (
        conserved() as nodes,
        qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[Echo()]) as target,
        qg.Node(source) as node,
        qg.Node(
            qg.Identity.generate(), listen=LISTEN, config=relay_config(target.address.port, allow=[source.peer_id])
        ) as relay,
    ):
        nodes += [target, node, relay]
        plain = relay_config(target.address.port, allow=[source.peer_id])
        slow = replace(plain, **{table: replace(getattr(plain, table), **{f"{key}_kib_s": 1})})
        peer = await node.connect(target.address, via=[relay.address])
        stream = await peer.open_stream(Echo.id)
        for _ in range(2):
            await echo_through(stream)
            assert await relay.configure(slow) == [f"{table}.{key}_kib_s"]
            # An hour at 1 KiB/s, and nothing at all without.
            waiting = asyncio.create_task(echo_through(stream))
            assert await asyncio.wait([waiting], timeout=0.3) == (set(), {waiting})
            await relay.configure(plain)
            await waiting
        await peer.close()


async def echo_through(stream):
    data = bytes(1 << 22)
    async with asyncio.TaskGroup() as group:
        group.create_task(stream.write(data))
        assert await stream.readexactly(len(data)) == data


async def test_a_file_of_secrets_that_cannot_be_read_changes_nothing(tmp_path):
    async with qg.Node(qg.Identity.generate(), listen=LISTEN) as node:
        with pytest.raises(qg.KeyFileError):
            await node.configure(qg.Config(network_secret=str(tmp_path / "gone.net"), log_level="debug"))
        assert await node.configure(qg.Config(log_level="debug")) == ["log_level"]


async def test_the_secret_of_the_network_changes_while_sessions_go_on(tmp_path):
    for name in ("old", "new"):
        qg.NetworkSecret.generate().create(tmp_path / f"{name}.net")
    old, new = (str(tmp_path / f"{name}.net") for name in ("old", "new"))
    async with (
        qg.Node(
            qg.Identity.generate(), listen=LISTEN, extenders=[Echo()], config=qg.Config(network_secret=old)
        ) as node,
        qg.Node(qg.Identity.generate(), config=qg.Config(network_secret=old)) as late,
        qg.Node(qg.Identity.generate(), config=qg.Config(network_secret=new)) as early,
    ):
        peer = await late.connect(node.address)
        await node.configure(qg.Config(network_secret=new, network_secret_previous=old))
        await echo(peer)
        await echo(await early.connect(node.address))
        await late.configure(qg.Config(network_secret=new))
        await peer.close()
        await node.configure(qg.Config(network_secret=new))
        await echo(await late.connect(node.address))


async def test_a_rotated_link_key_is_taken_and_another_identity_is_not():
    identity = qg.Identity.generate()
    async with (
        qg.Node(identity, listen=LISTEN, extenders=[Echo()]) as node,
        qg.Node(qg.Identity.generate()) as one,
        qg.Node(qg.Identity.generate()) as two,
    ):
        before = node.address
        identity.rotate_link_key()
        await node.configure(qg.Config(), identity=identity)
        assert node.address != before
        await echo(await one.connect(node.address))
        await echo(await two.connect(before))
        with pytest.raises(qg.UsageError, match="another identity"):
            await node.configure(qg.Config(), identity=qg.Identity.generate())


async def test_peers_to_be_kept_come_and_go():
    visits = Visits()
    async with (
        qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[Visits()]) as there,
        qg.Node(qg.Identity.generate(), extenders=[visits]) as node,
    ):
        await node.configure(qg.Config(peers=(there.address,)))
        peer = await visits.came.get()
        assert [kept.peer_id for kept in node.status().kept] == [there.id]
        await node.configure(qg.Config())
        assert node.status().kept == ()
        assert peer.is_connected


async def test_the_end_of_a_months_relaying_moves():
    source = qg.Identity.generate()
    async with (
        qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[Echo()]) as target,
        qg.Node(source) as node,
    ):
        plain = relay_config(target.address.port, allow=[source.peer_id])
        async with qg.Node(qg.Identity.generate(), listen=LISTEN, config=plain) as relay:
            peer = await node.connect(target.address, via=[relay.address])
            await relay.configure(replace(plain, relay=replace(plain.relay, monthly_gib=1)))
            assert relay.status().relayed_month_limit == 1 << 30
            await echo(peer)
            await relay.configure(plain)
            assert relay.status().relayed_month_limit == 0


async def test_limits_of_connections_hold_at_once():
    exempt_nobody = qg.LimitsConfig(exempt=(), network_sessions=1)
    async with (
        qg.Node(qg.Identity.generate(), listen=LISTEN) as node,
        qg.Node(qg.Identity.generate()) as one,
        qg.Node(qg.Identity.generate(), config=qg.Config(limits=qg.LimitsConfig(handshake_s=1))) as two,
    ):
        await (await one.connect(node.address)).ping()
        await node.configure(qg.Config(limits=exempt_nobody))
        with pytest.raises(qg.RemoteError):
            await (await two.connect(node.address)).ping()
        assert node.status().counters["sessions_full"] == 1


async def test_all_workers_take_a_configuration():
    visits = Visits()
    async with AsyncExitStack() as stack:
        node = qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[visits, Echo()], config=qg.Config(workers=3))
        await stack.enter_async_context(node)
        others = [
            await stack.enter_async_context(qg.Node(qg.Identity.generate(), extenders=[Visits()])) for _ in range(9)
        ]
        for other in others:
            await other.connect(node.address)
            await visits.came.get()
        await node.configure(qg.Config(workers=3, allow=(others[0].id,)))
        gone = {(await visits.went.get()).id for _ in others[1:]}
        assert gone == {other.id for other in others[1:]}
        assert [peer.id for peer in node.peers] == [others[0].id]


async def test_one_configuration_at_a_time():
    async with conserved() as nodes, qg.Node(qg.Identity.generate()) as node:
        nodes.append(node)
        first = asyncio.create_task(node.configure(qg.Config(log_level="debug")))
        await asyncio.sleep(0)
        with pytest.raises(qg.UsageError):
            await node.configure(qg.Config())
        assert await first == ["log_level"]
        for n in range(50):
            await node.configure(qg.Config(limits=qg.LimitsConfig(sinks=n + 1)))


async def test_a_node_can_be_closed_while_it_takes_a_configuration():
    async with conserved() as nodes, qg.Node(qg.Identity.generate()) as node:
        nodes.append(node)
        taking = asyncio.create_task(node.configure(qg.Config(log_level="debug")))
        await asyncio.sleep(0)
        await node.close()
        await asyncio.wait([taking])


def test_settings_that_a_running_node_takes_exist():
    def names(config, where=""):
        for key in config.__struct_fields__:
            value = getattr(config, key)
            yield from names(value, f"{key}.") if isinstance(value, msgspec.Struct) else [where + key]

    assert set(names(qg.Config())) > _LIVE
    assert changes_check(qg.Config(), replace(qg.Config(), log_level="debug")) == ["log_level"]
