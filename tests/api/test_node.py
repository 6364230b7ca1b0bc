# SPDX-License-Identifier: MIT
"""Nodes: how they start, find each other, and end; what is refused, and in which words."""

import asyncio
import contextlib
import errno
import socket
import threading

import pytest
from api.services import UNKNOWN, Broken, Echo, Guests, Held
from net.support import until

import qg
from qg.testing import conserved, network

pytestmark = [pytest.mark.anyio, pytest.mark.net]

LISTEN = ["tcp://127.0.0.1:0"]
QUICK = qg.Config(limits=qg.LimitsConfig(handshake_s=1))


def listener(**options):
    return qg.Node(qg.Identity.generate(), listen=LISTEN, **options)


def dialler(**options):
    return qg.Node(qg.Identity.generate(), **options)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# Starting


async def test_its_address_is_one_line_that_others_can_dial():
    async with listener() as node, dialler() as other:
        text = str(node.address)
        assert text.startswith(f"qg://{node.address.link_key}@127.0.0.1:")
        assert node.addresses == (qg.Address.parse(text),)
        assert (await other.connect(f"  {text}\n")).id == node.id


async def test_it_listens_wherever_it_is_told():
    async with qg.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0", qg.Endpoint("tcp", "::1", 0)]) as node:
        assert [address.host for address in node.addresses] == ["127.0.0.1", "::1"]
        async with dialler() as other:
            assert (await other.connect(node.addresses[1])).host == "::1"


async def test_the_configuration_says_where_to_listen_unless_the_call_does():
    config = qg.Config(listen=(qg.Endpoint.parse("tcp://127.0.0.1:0"),))
    async with dialler(config=config) as node:
        assert len(node.addresses) == 1
    async with listener(config=qg.Config(listen=(qg.Endpoint("tcp", "127.0.0.1", 1),))) as node:
        assert node.address.port != 1


async def test_a_node_that_listens_nowhere_has_no_address():
    async with dialler() as node:
        assert node.addresses == ()
        with pytest.raises(qg.UsageError, match="listen is empty"):
            _ = node.address


async def test_a_port_in_use_is_one_line_that_names_it():
    async with conserved() as nodes, listener() as first:
        nodes.append(first)
        second = qg.Node(qg.Identity.generate(), listen=[f"tcp://127.0.0.1:{first.address.port}"])
        nodes.append(second)
        with pytest.raises(qg.ListenError, match=f":{first.address.port} .*in use.*choose another port") as caught:
            await second.start()
        assert caught.value.errno == errno.EADDRINUSE
        assert isinstance(caught.value, OSError)


async def test_an_address_of_another_machine_cannot_be_listened_on():
    with pytest.raises(qg.ListenError, match=r"192\.0\.2\.1"):
        await qg.Node(qg.Identity.generate(), listen=["tcp://192.0.2.1:0"]).start()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: qg.Node("node.key"), "Identity"),
        (lambda: qg.Node(qg.Identity.generate(), listen="tcp://127.0.0.1:0"), "list"),
        (lambda: qg.Node(qg.Identity.generate(), listen=["127.0.0.1:0"]), "tcp://"),
        (lambda: qg.Node(qg.Identity.generate(), extenders=[Echo]), "instance"),
        (lambda: qg.Node(qg.Identity.generate(), extenders=[qg.Extender()]), "Extender.id"),
        (lambda: qg.Node(qg.Identity.generate(), extenders=[Echo(), Echo()]), "two extenders"),
    ],
)
def test_what_a_node_cannot_be_made_of_is_said_at_once(make, words):
    with pytest.raises(qg.InvalidValue, match=words):
        make()


async def test_a_node_starts_once_and_works_only_between_start_and_close():
    node = dialler()
    assert "new" in repr(node)
    with pytest.raises(qg.UsageError, match="not started"):
        await node.connect("qg://127.0.0.1:1")
    await node.close()
    async with node:
        assert "running" in repr(node)
        with pytest.raises(qg.UsageError, match="started before"):
            await node.start()
    assert "closed" in repr(node)
    await node.close()
    with pytest.raises(qg.ClosedError):
        await node.connect("qg://127.0.0.1:1")
    with pytest.raises(qg.UsageError):
        await node.start()


# Connecting


async def test_both_ends_know_each_other_by_their_identity():
    guests = Guests()
    async with listener(extenders=[guests]) as near, dialler(extenders=[Guests()]) as far:
        peer = await far.connect(near.address)
        assert (peer.id, peer.link_key, peer.node) == (near.id, near.address.link_key, far)
        assert peer.is_connected
        assert not peer.is_relayed
        assert far.peers == (peer,)
        event, guest = await guests.seen.get()
        assert (event, guest.id, guest.node) == ("connected", far.id, near)
        assert near.peers == (guest,)
        assert str(near.id)[:12] in repr(peer)


async def test_a_session_that_is_there_is_used_again():
    async with listener() as near, dialler() as far:
        peer = await far.connect(near.address)
        assert await far.connect(str(near.address)) is peer
        others = await asyncio.gather(*(far.connect(near.address) for _ in range(5)))
        assert all(other is peer for other in others)


async def test_calls_at_the_same_time_end_with_the_same_peer():
    async with conserved() as nodes, listener() as near, dialler() as far:
        nodes += [near, far]
        peers = await asyncio.gather(*(far.connect(near.address) for _ in range(8)))
        assert len(set(peers)) == 1


async def test_a_throw_away_identity_has_a_session_of_its_own():
    guests, mask = Guests(), qg.Identity.generate()
    async with listener(extenders=[guests, Echo()]) as near, dialler(extenders=[Guests()]) as far:
        plain = await far.connect(near.address)
        masked = await far.connect(near.address, identity=mask)
        assert masked is not plain
        assert (await guests.seen.get())[1].id == far.id
        await until(lambda: {peer.id for peer in near.peers} == {far.id, mask.peer_id}, lambda: near.peers)
        for peer in (plain, masked):
            async with await peer.open_stream(Echo.id) as stream:
                await stream.write(b"x")
                assert await stream.readexactly(1) == b"x"


async def test_ping_measures_seconds():
    async with network() as net:
        assert 0 < await net.peer(0, 1).ping() < 10
        trips = await asyncio.gather(*(net.peer(1, 0).ping() for _ in range(10)))
        assert all(0 < trip < 10 for trip in trips)


async def test_a_cancelled_ping_does_not_spoil_the_next():
    async with network() as net:
        pinging = asyncio.create_task(net.peer(0, 1).ping())
        await asyncio.sleep(0)
        pinging.cancel()
        await asyncio.gather(pinging, return_exceptions=True)
        assert await net.peer(0, 1).ping() > 0


async def test_nobody_at_the_address_is_unreachable():
    async with dialler() as node:
        with pytest.raises(qg.Unreachable, match="cannot be reached") as caught:
            await node.connect(f"qg://{qg.Identity.generate().link_key}@127.0.0.1:{free_port()}")
        assert caught.value.reason is qg.Reason.UNREACHABLE
        assert isinstance(caught.value, ConnectionError)


async def test_a_wrong_link_key_meets_silence_and_the_error_says_so():
    async with listener() as near, dialler(config=QUICK) as far:
        wrong = near.address._replace(link_key=qg.Identity.generate().link_key)
        with pytest.raises(qg.PeerTimeout, match="link key"):
            await far.connect(wrong)
        assert near.peers == ()


async def test_another_pinned_identity_is_not_the_one():
    async with listener() as near, dialler(config=QUICK) as far:
        wrong = near.address._replace(peer_id=qg.Identity.generate().peer_id)
        with pytest.raises(qg.HandshakeFailed, match="another identity"):
            await far.connect(wrong)
        right = near.address._replace(peer_id=near.id)
        assert (await far.connect(right)).id == near.id


async def test_a_node_does_not_dial_itself():
    async with listener() as node:
        with pytest.raises(qg.UsageError, match="itself"):
            await node.connect(node.address)


async def test_members_of_a_closed_network_meet_and_strangers_hear_nothing():
    secret = qg.NetworkSecret.generate()
    async with listener(network_secret=secret) as near:
        async with dialler(network_secret=secret) as member:
            assert (await member.connect(near.address)).id == near.id
        async with dialler(config=QUICK) as stranger:
            with pytest.raises(qg.PeerTimeout, match="network secret"):
                await stranger.connect(near.address)
        async with dialler(config=QUICK, network_secret=qg.NetworkSecret.generate()) as stranger:
            with pytest.raises(qg.PeerTimeout, match="network secret"):
                await stranger.connect(near.address)


async def test_the_network_secret_comes_from_the_file_that_the_configuration_names(tmp_path):
    secret = qg.NetworkSecret.generate()
    secret.create(tmp_path / "net")
    async with (
        listener(network_secret=secret) as near,
        dialler(config=qg.Config(network_secret=str(tmp_path / "net"))) as far,
    ):
        await far.connect(near.address)
    with pytest.raises(qg.KeyFileError, match="nothing here"):
        await dialler(config=qg.Config(network_secret=str(tmp_path / "nothing here"))).start()


async def test_members_only_makes_no_sense_in_the_open_network():
    relay = qg.RelayConfig(allow="members")
    with pytest.raises(qg.ConfigError, match=r"allow = .members(?s:.*)relay.allow"):
        await dialler(config=qg.Config(allow="members", relay=relay)).start()
    async with dialler(config=qg.Config(allow="members", relay=relay), network_secret=qg.NetworkSecret.generate()):
        pass


async def test_only_listed_peers_get_in():
    friend = qg.Identity.generate()
    async with listener(config=qg.Config(allow=(friend.peer_id,))) as near:
        async with qg.Node(friend) as far:
            assert (await far.connect(near.address)).id == near.id
        async with dialler(config=QUICK) as stranger:
            with pytest.raises(qg.RemoteError):
                await stranger.connect(near.address)


async def test_a_first_contact_needs_no_key_where_the_listener_allows_it():
    async with (
        listener(config=qg.Config(allow_first_contact=True)) as near,
        dialler(config=qg.Config(allow_first_contact=True)) as far,
    ):
        assert (await far.connect(near.address._replace(link_key=None))).id == near.id
    async with listener() as near, dialler(config=QUICK) as far:
        with pytest.raises(qg.RemoteError):
            await far.connect(near.address._replace(link_key=None))


@pytest.mark.parametrize("suite", ["aegis-256", "aes-256-gcm", "chacha20-poly1305"])
async def test_the_best_suite_that_is_left_is_used(suite):
    others = tuple(name for name in ("aegis-256", "aes-256-gcm") if name != suite)
    config = qg.Config(link=qg.LinkConfig(suites_removed=others))
    async with network(extenders=lambda: [Echo()], config=config) as net:
        assert net.peer(0, 1).suite in (suite, "chacha20-poly1305")  # where the CPU has no AES instructions
        async with await net.peer(0, 1).open_stream(Echo.id) as stream:
            await stream.write(bytes(100_000))
            assert await stream.readexactly(100_000) == bytes(100_000)


# Cancelling


async def test_a_cancelled_connect_leaves_nothing_behind():
    guests = Guests()
    async with conserved() as nodes, listener(extenders=[guests]) as near, dialler(extenders=[Guests()]) as far:
        nodes += [near, far]
        for n_turns in range(40):  # a few of them are cancelled before anything is sent, some after all is done
            connecting = asyncio.create_task(far.connect(near.address))
            for _ in range(n_turns):
                await asyncio.sleep(0)
            connecting.cancel()
            (outcome,) = await asyncio.gather(connecting, return_exceptions=True)
            if isinstance(outcome, qg.Peer):
                await outcome.close()
            while far.peers:
                await asyncio.sleep(0)
        while any(far.remains().values()):
            await asyncio.sleep(0)
        peer = await far.connect(near.address)
        assert await peer.ping() > 0


async def test_a_connect_cancelled_at_the_moment_of_success_leaves_nothing_behind():
    class Canceller(qg.Extender):
        id = Guests.id

        async def on_peer_connected(self, peer):  # runs before the task that waits in `connect`
            connecting.cancel()

    async with conserved() as nodes, listener(extenders=[Guests()]) as near, dialler(extenders=[Canceller()]) as far:
        nodes += [near, far]
        connecting = asyncio.create_task(far.connect(near.address))
        with pytest.raises(asyncio.CancelledError):
            await connecting
        while far.peers or near.peers:
            await asyncio.sleep(0)


async def test_a_success_that_comes_after_the_cancel_is_undone():
    async with conserved() as nodes, listener() as near, dialler() as far:
        nodes += [near, far]
        connecting = asyncio.create_task(far.connect(near.address))
        await asyncio.sleep(0)
        while not far._border.runtime.status()["n_links_up"]:  # nothing else runs meanwhile: its event waits unseen
            pass
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        while not near.status().counters["handshakes"] or near.peers or far.peers:
            await asyncio.sleep(0)


async def test_a_timeout_ends_a_connect_to_someone_silent():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        patient = qg.Config(limits=qg.LimitsConfig(handshake_s=3600))
        async with conserved() as nodes, dialler(config=patient) as node:
            nodes.append(node)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await node.connect(f"qg://{qg.Identity.generate().link_key}@127.0.0.1:{silent.getsockname()[1]}")
            while node.remains()["n_sessions"]:
                await asyncio.sleep(0)


async def test_a_cancelled_connect_does_not_take_the_peer_from_others():
    async with listener(extenders=[Echo()]) as near, dialler() as far:
        peer = await far.connect(near.address)
        second = asyncio.create_task(far.connect(near.address))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert await peer.ping() > 0


async def test_a_failure_in_a_task_group_cancels_what_waits():
    async with conserved() as nodes, listener(extenders=[Held()]) as near, dialler() as far:
        nodes += [near, far]
        peer = await far.connect(near.address)

        async def wait_for_ever():
            stream = await peer.open_stream(Held.id)
            await stream.read(1)

        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(wait_for_ever())
                await peer.ping()
                raise ZeroDivisionError
        assert caught.group_contains(ZeroDivisionError)


async def test_a_cancelled_open_leaves_no_stream():
    async with network(extenders=lambda: [Echo()]) as net:
        peer = net.peer(0, 1)
        for n_turns in range(12):
            opening = asyncio.create_task(peer.open_stream(Echo.id))
            for _ in range(n_turns):
                await asyncio.sleep(0)
            opening.cancel()
            (outcome,) = await asyncio.gather(opening, return_exceptions=True)
            if isinstance(outcome, qg.Stream):
                await outcome.close()
        assert not net.nodes[0]._border.flows


# Ending


async def test_closing_a_peer_ends_its_streams_on_both_sides():
    guests, held = Guests(), Held()
    async with listener(extenders=[guests, held]) as near, dialler(extenders=[Guests()]) as far:
        peer = await far.connect(near.address)
        stream = await peer.open_stream(Held.id)
        served = await held.streams.get()
        await peer.close()
        assert not peer.is_connected
        assert far.peers == ()
        with pytest.raises(qg.ClosedError, match="this side has closed"):
            await stream.read()
        with pytest.raises(qg.ClosedError, match="connect again"):
            await peer.open_stream(Held.id)
        with pytest.raises(qg.RemoteError):
            await served.read()
        seen = [await guests.seen.get() for _ in range(2)]
        assert [event for event, _ in seen] == ["connected", "disconnected"]
        await peer.close()
        again = await far.connect(near.address)
        assert again is not peer
        assert await again.ping() > 0
        _, guest = await guests.seen.get()
        assert guest is not seen[0][1]


async def test_closing_a_node_tells_its_peers_that_it_shuts_down():
    guests = Guests()
    async with listener(extenders=[guests]) as near:
        async with dialler(extenders=[Held(), Guests()]) as far:
            await far.connect(near.address)
            _, guest = await guests.seen.get()
            stream = await guest.open_stream(Held.id)
        with pytest.raises(qg.PeerClosed, match="shutting down") as caught:
            await stream.read()
        assert caught.value.reason is qg.Reason.SHUTDOWN
        assert (await guests.seen.get()) == ("disconnected", guest)
        with pytest.raises(qg.PeerClosed):
            await guest.ping()


async def test_what_was_written_arrives_before_the_node_closes():
    held = Held()
    async with listener(extenders=[held]) as near:
        async with dialler() as far:
            stream = await (await far.connect(near.address)).open_stream(Held.id)
            await stream.write(bytes(60_000))
            stream.finish()
        served = await held.streams.get()
        assert len(await served.read()) == 60_000


async def test_a_peer_that_does_not_read_holds_up_a_close_for_a_moment_only():
    async with conserved() as nodes, listener(extenders=[Held()]) as near, dialler() as far:
        nodes += [near, far]
        stream = await (await far.connect(near.address)).open_stream(Held.id)
        await stream.write(bytes(900_000))
        await far.close()


async def test_a_peer_that_goes_while_it_is_closed_is_closed():
    guests = Guests()
    async with listener(extenders=[guests, Held()]) as near, dialler(extenders=[Guests()]) as far:
        peer = await far.connect(near.address)
        _, guest = await guests.seen.get()
        stream = await peer.open_stream(Held.id)
        writing = asyncio.create_task(stream.write(bytes(64 << 20)))  # more than may be on its way: closing waits
        await asyncio.sleep(0)
        closing = asyncio.create_task(peer.close())
        await asyncio.sleep(0)
        await guest.close()
        await closing
        assert not peer.is_connected
        with pytest.raises(qg.QGError):
            await writing


async def test_closing_cancels_the_tasks_of_extenders_and_tells_of_peers_that_go():
    cancelled, guests = asyncio.Event(), Guests()

    class Endless(qg.Extender):
        id = UNKNOWN

        async def on_stream(self, stream):
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    async with dialler(extenders=[Guests()]) as far:
        async with listener(extenders=[Endless(), guests]) as near:
            await (await far.connect(near.address)).open_stream(UNKNOWN)
        assert cancelled.is_set()
        assert [guests.seen.get_nowait()[0] for _ in range(2)] == ["connected", "disconnected"]


async def test_a_hook_that_does_not_end_is_cancelled():
    cancelled = asyncio.Event()

    class Endless(Guests):
        async def on_peer_disconnected(self, peer):
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    async with conserved() as nodes, dialler(extenders=[Guests()]) as far:
        nodes.append(far)
        async with listener(extenders=[Endless()]) as near:
            await far.connect(near.address)
        assert cancelled.is_set()


async def test_an_extender_may_close_its_node():
    class Switch(qg.Extender):
        id = UNKNOWN

        async def on_stream(self, stream):
            await stream.peer.node.close()

    async with listener(extenders=[Switch()]) as near, dialler() as far:
        peer = await far.connect(near.address)
        with pytest.raises(qg.RemoteError):
            await (await peer.open_stream(UNKNOWN)).read()


async def test_a_cancelled_close_goes_on():
    async with conserved() as nodes, listener() as near, dialler() as far:
        nodes += [near, far]
        await far.connect(near.address)
        closing = asyncio.create_task(far.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        await far.close()
        assert "closed" in repr(far)


async def test_what_waits_while_the_node_closes_ends_with_an_error():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with dialler() as node:
            address = f"qg://{qg.Identity.generate().link_key}@127.0.0.1:{silent.getsockname()[1]}"
            connecting = asyncio.create_task(node.connect(address))
            await asyncio.sleep(0)
            await node.close()
            with pytest.raises(qg.ClosedError):
                await connecting


# Hooks, and where calls come from


async def test_hooks_that_fail_are_logged_and_harm_nobody(caplog):
    class Fragile(Guests):
        async def on_peer_connected(self, peer):
            raise ZeroDivisionError

    fragile = Fragile()
    async with listener(extenders=[fragile, Echo()]) as near, dialler(extenders=[Guests()]) as far:
        peer = await far.connect(near.address)
        async with await peer.open_stream(Echo.id) as stream:
            await stream.write(b"x")
            assert await stream.readexactly(1) == b"x"
        await peer.close()
        assert (await fragile.seen.get())[0] == "disconnected"
    assert any("on_peer_connected_failed extender=Fragile" in line.message for line in caplog.records)


async def test_the_end_of_a_peer_is_told_after_its_beginning_was_taken_in():
    may_go_on, order = asyncio.Event(), []

    class Slow(Guests):
        async def on_peer_connected(self, peer):
            await may_go_on.wait()
            order.append("connected")

        async def on_peer_disconnected(self, peer):
            order.append("disconnected")
            self.seen.put_nowait(peer)

    slow = Slow()
    async with listener(extenders=[slow]) as near, dialler(extenders=[Guests()]) as far:
        peer = await far.connect(near.address)
        await peer.close()
        while near.peers:
            await asyncio.sleep(0)
        may_go_on.set()
        await slow.seen.get()
        assert order == ["connected", "disconnected"]


async def test_another_loop_or_thread_is_told_so():
    async with network(extenders=lambda: [Echo()]) as net:
        peer = net.peer(0, 1)
        stream = await peer.open_stream(Echo.id)
        errors = []

        async def elsewhere():
            for call in (
                lambda: net.nodes[0].connect("qg://127.0.0.1:1"),
                net.nodes[0].close,
                peer.ping,
                peer.close,
                lambda: peer.send(Echo.id, b"x"),
                lambda: peer.open_stream(Echo.id),
                lambda: stream.read(1),
                lambda: stream.write(b"x"),
                stream.close,
            ):
                try:
                    await call()
                except qg.LocalError as error:
                    errors.append(error)

        def without_loop():
            for call in (stream.finish, stream.reset, lambda: stream.write_nowait(b"x"), net.nodes[0].status):
                try:
                    call()
                except qg.LocalError as error:
                    errors.append(error)

        for target in (lambda: asyncio.run(elsewhere()), without_loop):
            thread = threading.Thread(target=target)
            thread.start()
            await asyncio.to_thread(thread.join)
        assert len(errors) == 13
        assert all(isinstance(error, qg.UsageError) and "event loop" in str(error) for error in errors)
        await stream.write(b"x")
        assert await stream.readexactly(1) == b"x"


async def test_several_nodes_of_one_process_and_loop_do_not_know_of_each_other():
    async with network(4, extenders=lambda: [Echo()]) as net:
        assert sorted(len(node.peers) for node in net.nodes) == [3, 3, 3, 3]


async def test_the_status_counts_what_there_is():
    async with network(extenders=lambda: [Held()]) as net:
        stream = await net.peer(0, 1).open_stream(Held.id)
        status = net.nodes[0].status()
        assert status.peer_id == net.nodes[0].id
        assert status.listen == (f"tcp://127.0.0.1:{net.nodes[0].address.port}",)
        assert [(peer.peer_id, peer.n_links, peer.n_streams) for peer in status.peers] == [(net.nodes[1].id, 1, 1)]
        assert [(link.peer_id, link.carrier, link.n_streams) for link in status.links] == [(net.nodes[1].id, "tcp", 1)]
        assert status.memory_bytes > 0
        assert status.relayed_bytes == status.n_splices == 0
        stream.reset()


async def test_the_status_tells_how_each_link_stands():
    async with network(3, extenders=lambda: [Echo()]) as net:
        near, far = net.peer(0, 1), net.peer(1, 0)
        before = {link.peer_id: link for link in net.nodes[0].status().links}
        assert all(link.bytes_in > 1000 and link.bytes_out > 1000 for link in before.values())  # the handshake
        async with await near.open_stream(Echo.id) as stream:
            await stream.write(bytes(100_000))
            await stream.readexactly(100_000)
        await near.ping()
        after = {link.peer_id: link for link in net.nodes[0].status().links}
        busy, idle = after[near.id], after[net.nodes[2].id]
        assert 100_000 < busy.bytes_in - before[near.id].bytes_in < 120_000
        assert 100_000 < busy.bytes_out - before[near.id].bytes_out < 120_000
        assert idle.bytes_out - before[idle.peer_id].bytes_out < 10_000
        assert (busy.rtt_us is not None, idle.rtt_us, busy.generation) == (True, None, 0)
        (other,) = [link for link in net.nodes[1].status().links if link.peer_id == far.id]
        assert (other.is_outgoing, busy.is_outgoing) == (False, True)
        assert other.age_s > 0


async def test_the_status_counts_exchanges_of_keys():
    config = qg.Config.from_dict({"link": {"rekey_s": 1}})
    async with network(extenders=lambda: [Echo()], config=config) as net:
        stream = await net.peer(0, 1).open_stream(Echo.id)
        while not all(node.status().links[0].generation for node in net.nodes):
            await stream.write(b"x")
            assert await stream.readexactly(1) == b"x"
        stream.reset()


async def test_the_status_can_be_asked_for_while_the_node_closes():
    held = Held()
    async with network(extenders=lambda: [held]) as net:
        await net.peer(0, 1).open_stream(Held.id)
        closing = asyncio.create_task(net.nodes[0].close())
        while not closing.done():
            with contextlib.suppress(qg.ClosedError):
                net.nodes[0].status()
            await asyncio.sleep(0)
        held.release.set()


async def test_an_extender_of_many_nodes_is_told_which_one_called():
    broken = Broken()
    async with network(3, extenders=lambda: [broken]) as net:
        assert net.peer(0, 2).node is net.nodes[0]
