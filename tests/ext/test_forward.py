# SPDX-License-Identifier: MIT
"""Ports of one machine lead to what another one reaches, over a link or circuit, as far as that one allows it."""

import asyncio
import socket
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from ext.support import HOST, Mirror, Program, closed, echo, free_port, hold, linger, server, silent, udp
from net.proxy import Proxy as Cable
from net.support import LISTEN, config, until

import qg
from qg.extenders.forward import Forward, Forwarder, ForwardLimits, NotForwarded
from qg.extenders.forward.service import FORWARD_ID, Kind
from qg.extenders.sockets.outcome import Outcome, outcome_read
from qg.extenders.sockets.target import Target

pytestmark = [pytest.mark.net, pytest.mark.anyio]

ANY = ("tcp 127.0.0.1", "udp 127.0.0.1")


def spec(target, port=0, *, udp=False):
    return qg.ForwardSpec.parse(f"{HOST}:{port}{'/udp' if udp else ''}:{target}")


def offer(allow=ANY, listen=ANY, peers="anyone"):
    return config(forward={"offer": [{"allow": allow, "listen": listen, "peers": peers}]}).forward.offer


class House:
    """A node that offers, and one that forwards."""

    def __init__(self, service, offering, near, node):
        self.service, self.offering, self.near, self.node = service, offering, near, node

    def forwarder(self, local=(), remote=(), address=None, **way):
        return Forwarder(self.node, self.near, address or self.offering.address, local=local, remote=remote, **way)

    async def ask(self, metadata):
        """Open a stream as no honest node would; gives the outcome."""
        peer = await self.node.connect(self.offering.address)
        async with await peer.open_stream(FORWARD_ID, metadata) as stream:
            return await outcome_read(stream)


@asynccontextmanager
async def house(offers=None, limits=None):
    service, near = Forward(offer() if offers is None else offers, limits), Forward()
    async with AsyncExitStack() as stack:
        offering = qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[service])
        await stack.enter_async_context(offering)
        node = await stack.enter_async_context(qg.Node(qg.Identity.generate(), extenders=[near]))
        yield House(service, offering, near, node)


@asynccontextmanager
async def forwarded(at, target, direction, *, udp=False):
    """A port that leads to the target, whichever side it is at."""
    async with at.forwarder(**{direction: [spec(target, udp=udp)]}) as forwarder:
        await forwarder.reach()
        yield getattr(forwarder, direction)[0]


async def asked(place, said):
    """Say something, end, and hear all that comes back."""
    reader, writer = await asyncio.open_connection(*place)
    try:
        writer.write(said)
        writer.write_eof()
        return await reader.read()
    finally:
        await closed(writer)


BOTH = pytest.mark.parametrize("direction", ["local", "remote"])


# Connections


@BOTH
async def test_bytes_go_there_and_back_whole_with_the_program_ending_first(direction):
    data = bytes(range(256)) * 8192
    async with house() as at, server(echo) as target, forwarded(at, target, direction) as one:
        assert await asked(one.address, data) == data
        for end in (one, at.service):
            await until(lambda end=end: end.counts["bytes_out"] == len(data), lambda end=end: end.counts)
            assert (end.counts["bytes_in"], end.counts["ok"]) == (len(data), 1)
        await until(lambda: not one.counts["open"], lambda: one.counts)


@BOTH
async def test_the_target_may_end_first(direction):
    heard = asyncio.Queue()

    async def goodbye(reader, writer):
        writer.write(b"bye")
        writer.write_eof()
        heard.put_nowait(await reader.read())

    async with house() as at, server(goodbye) as target, forwarded(at, target, direction) as one:
        reader, writer = await asyncio.open_connection(*one.address)
        assert await reader.read() == b"bye"
        writer.write(b"still here")
        await closed(writer)
        assert await heard.get() == b"still here"


@BOTH
async def test_a_reset_of_the_target_is_one_to_the_program(direction):
    async def cut(reader, writer):
        await reader.readexactly(1)
        linger(writer)

    async with house() as at, server(cut) as target, forwarded(at, target, direction) as one:
        reader, writer = await asyncio.open_connection(*one.address)
        writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await closed(writer)


@BOTH
async def test_a_reset_of_the_program_is_one_to_the_target(direction):
    errors = asyncio.Queue()

    async def note(reader, writer):
        writer.write(b"x")
        try:
            await reader.read()
        except OSError as error:
            errors.put_nowait(error)

    async with house() as at, server(note) as target, forwarded(at, target, direction) as one:
        reader, writer = await asyncio.open_connection(*one.address)
        await reader.readexactly(1)
        linger(writer)
        await closed(writer)
        assert isinstance(await errors.get(), ConnectionResetError)


@BOTH
async def test_a_connection_to_a_target_that_refuses_is_reset(direction):
    async with house() as at, forwarded(at, Target(HOST, free_port()), direction) as one:
        reader, writer = await asyncio.open_connection(*one.address)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await closed(writer)
        await until(lambda: one.counts["refused"] == 1, lambda: one.counts)


async def test_a_target_that_does_not_answer_is_given_up():
    with silent() as target:
        async with house(limits=ForwardLimits(connect_s=0.5)) as at, forwarded(at, target, "local") as one:
            with pytest.raises(ConnectionResetError):
                await asked(one.address, b"x")
            assert one.counts["timed_out"] == 1


async def test_an_idle_connection_ends():
    limits = ForwardLimits(idle_s=0.5)
    async with house(limits=limits) as at, server(hold) as target, forwarded(at, target, "local") as one:
        reader, writer = await asyncio.open_connection(*one.address)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await closed(writer)


@BOTH
async def test_a_target_that_never_reads_stops_the_program(direction):
    async with house() as at, server(hold) as target, forwarded(at, target, direction) as one:
        _, writer = await asyncio.open_connection(*one.address)
        writer.transport.set_write_buffer_limits(0)
        n_written = 0
        try:
            while True:
                async with asyncio.timeout(2):
                    writer.write(bytes(1 << 20))
                    n_written += 1 << 20
                    await writer.drain()
        except TimeoutError:
            pass
        assert n_written <= 64 << 20
        writer.transport.abort()


@BOTH
async def test_a_target_that_floods_waits_for_the_program(direction):
    n_written = 0

    async def flood(reader, writer):
        nonlocal n_written
        while True:
            writer.write(bytes(1 << 16))
            await writer.drain()
            n_written += 1 << 16

    async with house() as at, server(flood) as target, forwarded(at, target, direction) as one:
        with socket.create_connection(one.address):
            n_before = -1
            while n_written != n_before:
                n_before = n_written
                await asyncio.sleep(1)
            assert 0 < n_written <= 64 << 20


@BOTH
async def test_connections_of_one_peer_are_bounded(direction):
    limits = ForwardLimits(peer_connections=2)
    async with house(limits=limits) as at, server(hold) as target, forwarded(at, target, direction) as one:
        held = [await asyncio.open_connection(*one.address) for _ in range(2)]
        await until(lambda: one.counts["ok"] == 2, lambda: one.counts)
        with pytest.raises(ConnectionResetError):
            await asked(one.address, b"x")
        for _, writer in held:
            writer.transport.abort()


async def test_a_forward_goes_over_relays():
    async with house() as at, server(echo) as target:
        allowed = {"allow": [str(at.node.id)], "targets": ["127.0.0.0/8"], "ports": [at.offering.address.port]}
        settings = config(relay=allowed)
        async with qg.Node(qg.Identity.generate(), listen=["tcp://127.1.0.1:0"], config=settings) as relay:
            both = {"local": [spec(target)], "remote": [spec(target)]}
            async with at.forwarder(**both, via=[relay.address]) as forwarder:
                assert (await forwarder.reach()).is_relayed
                for one in (*forwarder.local, *forwarder.remote):
                    assert await asked(one.address, b"over a relay") == b"over a relay"


# What is allowed


async def test_what_is_not_offered_is_refused(monkeypatch):
    found = {"one.example": HOST, "two.example": HOST, "listed.example": HOST}
    monkeypatch.setattr(
        "qg.extenders.sockets.names.socket.getaddrinfo",
        lambda name, *_, **__: [(socket.AF_INET, 1, 6, "", (found[name], 0))],
    )
    async with server(echo) as target, house(offer([f"tcp {target}", "tcp listed.example"])) as at:
        for host, port, outcome in (
            (HOST, target.port, "ok"),
            (f"::ffff:{HOST}", target.port, "ok"),
            ("one.example", target.port, "ok"),  # leads to an address that is offered
            ("listed.example", target.port, "ok"),
            (HOST, 1, "not_allowed"),
            ("two.example", 1, "not_allowed"),
            ("127.0.0.2", target.port, "not_allowed"),
            ("::1", target.port, "not_allowed"),
        ):
            async with forwarded(at, Target(host, port), "local") as one:
                if outcome == "ok":
                    assert await asked(one.address, b"x") == b"x"
                else:
                    with pytest.raises(ConnectionResetError):
                        await asked(one.address, b"x")
                assert one.counts[outcome] == 1, (host, port)


async def test_without_offers_nothing_is_reached_and_nothing_listened_on():
    async with house(()) as at:
        assert await at.ask(bytes((Kind.CONNECT,)) + bytes(Target(HOST, 80))) is Outcome.NOT_ALLOWED
        assert await at.ask(bytes((Kind.LISTEN,)) + bytes(Target(HOST, 0)) + bytes(16)) is Outcome.NOT_ALLOWED


async def test_an_offer_is_for_the_peers_that_it_names():
    async with server(echo) as target, house(()) as at:
        other = qg.Identity.generate().peer_id
        for peers, is_allowed in (([str(at.node.id)], True), ([str(other)], False), ([], False)):
            at.service.offers = offer(peers=peers)
            asked_for = bytes((Kind.CONNECT,)) + bytes(target)
            assert (await at.ask(asked_for) is Outcome.OK) is is_allowed
            asked_for = bytes((Kind.LISTEN,)) + bytes(Target(HOST, 0)) + bytes(16)
            assert (await at.ask(asked_for) is Outcome.OK) is is_allowed


@pytest.mark.parametrize(
    "metadata", [b"", b"\0", b"\7", b"\1", b"\1\1\x7f\0\0", b"\1\5x\0\1", b"\3\1\x7f\0\0\1\0\1" + bytes(15), b"\5x"]
)
async def test_what_is_not_understood_is_refused(metadata):
    async with house() as at:
        outcome = await at.ask(metadata)
        assert outcome in (Outcome.NO_COMMAND, Outcome.NO_ADDRESS_KIND, Outcome.NOT_ALLOWED)


async def test_a_token_is_of_use_to_one_peer_only():
    async with server(echo) as target, house() as at, forwarded(at, target, "remote"):
        (token,) = at.near._expected
        at.service._expected[token] = at.near._expected[token]  # as if it were our own, for the other peer
        assert await at.ask(bytes((Kind.CONNECT_BACK,)) + token) is Outcome.NOT_ALLOWED
        assert await at.ask(bytes((Kind.DATAGRAMS_BACK,)) + token) is Outcome.NOT_ALLOWED


# Ports of the peer


async def test_a_peer_says_why_it_does_not_listen():
    port = free_port()
    async with house(offer(listen=[f"tcp {HOST}:{port}"])) as at:
        async with at.forwarder(remote=[spec("x:1", port + 1)]) as forwarder:
            with pytest.raises(NotForwarded, match="none of the places"):
                await forwarder.reach()
        with socket.create_server((HOST, port)):
            async with at.forwarder(remote=[spec("x:1", port)]) as forwarder:
                with pytest.raises(NotForwarded, match="already in use"):
                    await forwarder.reach()


async def test_a_node_that_offers_nothing_is_named():
    async with (
        house() as at,
        qg.Node(qg.Identity.generate(), listen=LISTEN) as other,
        at.forwarder([spec("x:1")], address=other.address) as forwarder,
    ):
        with pytest.raises(NotForwarded, match="operator lists"):
            await forwarder.reach()


async def refuses(place):
    """Wait until nothing listens there."""
    while True:
        try:
            _, writer = await asyncio.open_connection(*place)
        except ConnectionRefusedError:
            return
        except ConnectionResetError:  # it was in the queue of the listener when that closed
            continue
        await closed(writer)
        await asyncio.sleep(0.01)


async def test_a_port_of_the_peer_is_closed_when_the_forward_ends_or_its_node_goes():
    async with house() as at, server(hold) as target:
        async with forwarded(at, target, "remote") as one:
            reader, writer = await asyncio.open_connection(*one.address)
        await refuses(one.address)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await closed(writer)
        async with forwarded(at, target, "remote") as one:
            await at.node.close()
            await refuses(one.address)
        await until(lambda: not at.service._places, lambda: at.service._places)


async def test_a_peer_gets_its_own_place_again_and_nobody_elses():
    async with house() as at, server(echo) as target:
        wanted = spec(target, free_port())
        async with at.forwarder(remote=[wanted]) as first:
            await first.reach()
            near = Forward()
            async with (
                qg.Node(qg.Identity.generate(), extenders=[near]) as other,
                Forwarder(other, near, at.offering.address, remote=[wanted]) as foreign,
            ):
                with pytest.raises(NotForwarded, match="already in use"):
                    await foreign.reach()
            peer = await at.node.connect(at.offering.address)
            metadata = bytes((Kind.LISTEN,)) + bytes(first.remote[0].address)
            with at.near.expecting(peer.id, "tcp", target, first.remote[0].counts) as token:
                async with await peer.open_stream(FORWARD_ID, metadata + token) as stream:
                    assert await outcome_read(stream) is Outcome.OK
                    assert await asked(first.remote[0].address, b"mine") == b"mine"


# What fails on the way


async def test_a_peer_that_goes_and_comes_back_takes_the_next_connection(monkeypatch):
    for name in ("_PAUSE_S", "_PAUSE_MAX_S"):  # only who waits makes it dial
        monkeypatch.setattr(f"qg.extenders.forward.way.{name}", 1e6)
    identity = qg.Identity.generate()
    async with house() as at, server(echo) as target:
        offering = qg.Node(identity, listen=LISTEN, extenders=[Forward(offer())])
        await offering.start()
        address = offering.address
        wanted = {"local": [spec(target)], "remote": [spec(target, free_port())]}
        async with at.forwarder(**wanted, address=address) as forwarder:
            await forwarder.reach()
            (near,), (far,) = forwarder.local, forwarder.remote
            readers, writers = zip(*[await asyncio.open_connection(*one.address) for one in (near, far)], strict=True)
            for reader, writer in zip(readers, writers, strict=True):
                writer.write(b"x")
                await reader.readexactly(1)
            await offering.close()
            for reader, writer in zip(readers, writers, strict=True):
                with pytest.raises(ConnectionResetError):
                    await reader.read()
                await closed(writer)
            waiting = asyncio.create_task(asked(near.address, b"while it is away"))
            async with qg.Node(identity, listen=[f"tcp://{HOST}:{address.port}"], extenders=[Forward(offer())]):
                assert await waiting == b"while it is away"
                async with asyncio.timeout(20):
                    while True:
                        try:
                            assert await asked(far.address, b"listened on again") == b"listened on again"
                            break
                        except OSError:
                            await asyncio.sleep(0.05)


async def test_a_session_that_died_silently_is_left(monkeypatch):
    monkeypatch.setattr("qg.extenders.forward.way._OPEN_S", 0.5)
    monkeypatch.setattr("qg.extenders.forward.way._DIAL_S", 1.0)
    async with (
        house() as at,
        server(echo) as target,
        Cable(at.offering.address) as cable,
        at.forwarder([spec(target)], address=cable.address) as forwarder,
    ):
        peer = await forwarder.reach()
        cable.swallow()
        waiting = asyncio.create_task(asked(forwarder.local[0].address, b"x"))
        await until(lambda: not peer.is_connected, lambda: peer)
        cable._is_swallowing = False
        assert await waiting == b"x"


async def test_a_program_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr("qg.extenders.forward.way._WAIT_S", 0.5)
    async with house() as at, server(echo) as target, forwarded(at, target, "local") as one:
        await at.offering.close()
        with pytest.raises(ConnectionResetError):
            await asked(one.address, b"x")
        assert one.counts["cut"] == 1


async def test_a_port_that_is_taken_is_named():
    async with house() as at:
        with socket.create_server((HOST, 0)) as taken, pytest.raises(qg.ListenError, match="already in use"):
            async with at.forwarder([spec("x:1", taken.getsockname()[1])]):
                pass
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind((HOST, 0))
            with pytest.raises(qg.ListenError, match="already in use"):
                async with at.forwarder([spec("x:1"), spec("x:1", taken.getsockname()[1], udp=True)]):
                    pass


# Datagrams


async def test_few_datagrams_wait_for_a_peer_that_is_away():
    async with (
        house() as at,
        udp(Program()) as (sock, _),
        udp(Mirror()) as (_, target),
        forwarded(at, target, "local", udp=True) as one,
    ):
        await at.offering.close()
        counts = one.counts
        for n in range(1, 6):
            sock.sendto(bytes(30_000), one.address)
            await until(lambda n=n: counts["datagrams_out"] + counts["datagrams_dropped"] == n, lambda: counts)
        assert counts["datagrams_out"] == 2


@BOTH
async def test_each_program_gets_its_own_answers(direction):
    one, two = Program(), Program()
    async with house() as at, udp(Mirror()) as (_, target), forwarded(at, target, direction, udp=True) as forward:
        async with udp(one) as (first, _), udp(two) as (second, _):
            for program, sock, data in (
                (one, first, b"of one"),
                (two, second, b"of two"),
                (one, first, bytes(60_000)),
                (two, second, b"2"),
            ):
                sock.sendto(data, forward.address)
                assert await program.received.get() == (data, forward.address)
        assert (forward.counts["ok"], forward.counts["datagrams_in"], forward.counts["datagrams_out"]) == (2, 4, 4)


async def test_datagrams_that_are_not_offered_or_refused_do_no_harm():
    program = Program()
    async with house(offer(["udp 127.0.0.1"])) as at, udp(program) as (sock, _):
        gone = Target(HOST, 1)
        async with forwarded(at, Target("127.0.0.2", 1), "local", udp=True) as one:
            sock.sendto(b"x", one.address)
            await until(lambda: one.counts["not_allowed"] == 1, lambda: one.counts)
        async with forwarded(at, gone, "local", udp=True) as one:
            sock.sendto(b"x", one.address)
            await until(lambda: at.service.counts["datagrams_refused"] == 1, lambda: at.service.counts)
        assert program.received.empty()


async def test_a_source_of_datagrams_that_is_quiet_is_forgotten():
    limits, program = ForwardLimits(datagrams_idle_s=0.3), Program()
    async with (
        house(limits=limits) as at,
        udp(Mirror()) as (_, target),
        udp(program) as (sock, _),
        forwarded(at, target, "local", udp=True) as one,
    ):
        slots = at.service._slots["udp"]
        for n in (1, 2):
            while one.counts["ok"] < n or program.received.empty():  # what comes as it is forgotten is lost
                sock.sendto(b"x", one.address)
                await asyncio.sleep(0.1)
            while not program.received.empty():
                program.received.get_nowait()
            await until(lambda: not len(slots), lambda: len(slots))


async def test_the_quietest_source_makes_room_for_a_new_one(monkeypatch):
    monkeypatch.setattr("qg.extenders.forward.ends._SOURCES_MAX", 2)
    programs = [Program() for _ in range(3)]
    async with house() as at, udp(Mirror()) as (_, target), AsyncExitStack() as stack:
        socks = [(await stack.enter_async_context(udp(program)))[0] for program in programs]
        async with forwarded(at, target, "local", udp=True) as one:
            for number in (0, 1, 0, 2, 0, 1):
                socks[number].sendto(b"x", one.address)
                await programs[number].received.get()
            assert one.counts["ok"] == 4  # 0 stays, 1 gives way to 2, and 2 to 1
            await until(lambda: len(at.service._slots["udp"]) == 2, lambda: len(at.service._slots["udp"]))
