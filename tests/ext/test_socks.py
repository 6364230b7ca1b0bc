# SPDX-License-Identifier: MIT
"""Programs of one machine reach targets through a proxy, a link or circuit, and an exit."""

import asyncio
import errno
import socket
import threading
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_address

import pytest
from ext.support import HOST, Mirror, Program, closed, echo, hold, linger, server, silent, udp
from net.child import Child
from net.support import LISTEN, config, core, until

import qg
from qg.extenders.proxy.exit import Exit, ExitLimits, frame_read
from qg.extenders.proxy.exits import Exits
from qg.extenders.proxy.front import datagram_read, datagram_write
from qg.extenders.proxy.socks import Proxy
from qg.extenders.sockets.names import Names
from qg.extenders.sockets.outcome import Outcome
from qg.extenders.sockets.target import Target

pytestmark = [pytest.mark.net, pytest.mark.anyio]


class House:
    """An exit's node, a proxy's node, and targets that the exit alone is asked for."""

    def __init__(self, exit_, exit_node, node, proxy, exits):
        self.exit, self.exit_node, self.node, self.proxy, self.exits = exit_, exit_node, node, proxy, exits

    async def ask(self, target, *, user=b""):
        """Open a connection by SOCKS5; gives the outcome, and the streams of asyncio."""
        reader, writer = await asyncio.open_connection(*self.proxy.address)
        if user:
            writer.write(b"\5\1\2")
            assert await reader.readexactly(2) == b"\5\2"
            writer.write(bytes((1, len(user))) + user + b"\1x")
            assert await reader.readexactly(2) == b"\1\0"
        else:
            writer.write(b"\5\1\0")
            assert await reader.readexactly(2) == b"\5\0"
        writer.write(b"\5\1\0" + bytes(target))
        reply = await reader.readexactly(10)
        assert reply == bytes((5, reply[1], 0, 1)) + bytes(6)
        return Outcome(reply[1]), reader, writer


@asynccontextmanager
async def house(rules=("allow 127.0.0.0/8",), limits=None, **proxied):
    exit_ = Exit(rules, limits)
    async with AsyncExitStack() as stack:
        exit_node = await stack.enter_async_context(qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[exit_]))
        node = await stack.enter_async_context(qg.Node(qg.Identity.generate()))
        exits = Exits(node, [exit_node.address], **proxied)
        proxy = await stack.enter_async_context(Proxy(exits, f"{HOST}:0"))
        yield House(exit_, exit_node, node, proxy, exits)


async def test_bytes_go_there_and_back_whole_with_either_side_ending_first():
    async with house() as at, server(echo) as target:
        outcome, reader, writer = await at.ask(target)
        assert outcome is Outcome.OK
        data = bytes(range(256)) * 8192
        writer.write(data)
        writer.write_eof()
        assert await reader.read() == data
        await closed(writer)
        await until(lambda: at.exit.counts["bytes_out"] == len(data), lambda: at.exit.counts)
        assert at.exit.counts["bytes_in"] == len(data)
        assert at.proxy.counts["ok"] == 1


async def test_connections_beyond_a_second_s_worth_wait_for_their_turn():
    async with house(connections_per_s=20) as at, server(echo) as target:
        began_s = asyncio.get_running_loop().time()
        asked = await asyncio.gather(*(at.ask(target) for _ in range(30)))
        assert [outcome for outcome, _, _ in asked] == [Outcome.OK] * 30
        assert asyncio.get_running_loop().time() - began_s > 0.4  # ten of them at 20 a second
        for _, _, writer in asked:
            await closed(writer)


async def test_a_target_that_answers_late_is_connected_to():
    loop = asyncio.get_running_loop()
    with socket.create_server((HOST, 0), backlog=0) as listener:
        listener.setblocking(False)
        target = Target(*listener.getsockname())
        with socket.create_connection(target):  # takes the only place: what follows is not answered until that is free
            async with house() as at:
                asking = asyncio.create_task(at.ask(target))
                await until(lambda: len(at.exit_node.peers) == 1, lambda: at.exit_node.peers)
                for _ in range(2):
                    connection, _ = await loop.sock_accept(listener)
                    connection.close()
                outcome, reader, writer = await asking
                assert outcome is Outcome.OK
                assert await reader.read() == b""
                await closed(writer)


async def test_what_was_said_before_the_answer_arrives():
    async with house() as at, server(echo) as target:
        reader, writer = await asyncio.open_connection(*at.proxy.address)
        writer.write(b"\5\1\0" + b"\5\1\0" + bytes(target) + b"early")
        writer.write_eof()
        assert await reader.read() == b"\5\0" + b"\5\0\0\1" + bytes(6) + b"early"
        await closed(writer)


async def test_the_target_may_end_first():
    async def goodbye(reader, writer):
        writer.write(b"bye")
        writer.write_eof()
        assert await reader.read() == b"still here"

    async with house() as at, server(goodbye) as target:
        _, reader, writer = await at.ask(target)
        assert await reader.read() == b"bye"
        writer.write(b"still here")
        await closed(writer)
        await until(lambda: at.exit.counts["bytes_out"] == 10, lambda: at.exit.counts)


async def test_a_reset_of_the_target_is_one_to_the_program():
    async def cut(reader, writer):
        await reader.readexactly(1)
        linger(writer)

    async with house() as at, server(cut) as target:
        _, reader, writer = await at.ask(target)
        writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await closed(writer)


async def test_a_reset_of_the_program_is_one_to_the_target():
    errors = asyncio.Queue()

    async def note(reader, writer):
        writer.write(b"x")
        try:
            await reader.read()
        except OSError as error:
            errors.put_nowait(error)

    async with house() as at, server(note) as target:
        _, reader, writer = await at.ask(target)
        await reader.readexactly(1)
        linger(writer)
        await closed(writer)
        assert isinstance(await errors.get(), ConnectionResetError)


def hosts_file(name, *_, **__):
    """Know one name."""
    if name != "localhost":
        raise socket.gaierror(socket.EAI_NONAME, "no such name")
    return [(socket.AF_INET, 1, 6, "", (HOST, 0))]


@pytest.mark.parametrize(
    ("target", "outcome"),
    [
        (Target("127.0.0.1", 1), Outcome.REFUSED),
        (Target("10.255.255.1", 80), Outcome.NOT_ALLOWED),
        (Target("::ffff:10.0.0.1", 80), Outcome.NOT_ALLOWED),
        (Target("no-such-name.invalid", 80), Outcome.HOST_UNREACHABLE),
        (Target("localhost", 80), Outcome.NOT_ALLOWED),
    ],
)
async def test_each_failure_has_its_code(monkeypatch, target, outcome):
    monkeypatch.setattr("qg.extenders.sockets.names.socket.getaddrinfo", hosts_file)
    async with house(["allow 127.0.0.1:1"]) as at:
        found, reader, writer = await at.ask(target)
        assert found is outcome
        assert await reader.read() == b""
        await closed(writer)
        assert at.exit.counts[outcome.name.lower()] == at.proxy.counts[outcome.name.lower()] == 1


async def test_a_network_that_the_exit_moves_into_is_closed(monkeypatch):
    monkeypatch.setattr("qg.extenders.proxy.exit._NETWORKS_S", 0)
    async with house(["allow 127.0.0.0/8"]) as at:
        policy = at.exit._policy
        assert policy.allows("", ip_address("203.0.114.9"), 80)
        monkeypatch.setattr("qg.extenders.proxy.exit.own_networks", lambda: [(bytes((203, 0, 114, 1)), 24)])
        outcome, _, writer = await at.ask(Target("203.0.114.9", 80))
        assert outcome is Outcome.NOT_ALLOWED
        await closed(writer)


async def test_nothing_is_connected_to_while_the_exit_does_not_know_its_networks(monkeypatch):
    def out_of_descriptors():
        raise OSError(errno.EMFILE, "Too many open files")

    async with house() as at, server(echo) as target:
        monkeypatch.setattr("qg.extenders.proxy.exit.own_networks", out_of_descriptors)
        outcome, _, writer = await at.ask(target)
        assert outcome is Outcome.FAILED
        await closed(writer)
        assert [info.n_failures for info in at.exit_node.status().extenders] == [0]


async def test_a_target_that_does_not_answer_is_given_up():
    with silent() as target:
        async with house(limits=ExitLimits(connect_s=0.5)) as at:
            outcome, _, writer = await at.ask(target)
            assert outcome is Outcome.TIMED_OUT
            await closed(writer)


async def test_a_silent_address_does_not_hold_up_the_next(monkeypatch):
    places = [(socket.AF_INET, 1, 6, "", (host, 0)) for host in ("127.0.0.2", HOST)]
    monkeypatch.setattr("qg.extenders.sockets.names.socket.getaddrinfo", lambda *_, **__: places)
    async with house() as at, server(echo) as target:
        with silent(("127.0.0.2", target.port)):
            outcome, _, writer = await at.ask(Target("two.example", target.port))
            assert outcome is Outcome.OK
            await closed(writer)


async def test_one_peer_begins_so_many_connections_a_second():
    async with house(limits=ExitLimits(peer_connections_per_s=2)) as at, server(echo) as target:
        outcomes = []
        for _ in range(6):
            outcome, _, writer = await at.ask(target)
            outcomes.append(outcome)
            await closed(writer)
        assert outcomes[:4] == [Outcome.OK] * 4
        assert outcomes[4] is Outcome.FAILED
        while outcome is not Outcome.OK:
            await asyncio.sleep(0.1)
            outcome, _, writer = await at.ask(target)
            await closed(writer)


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fd00::1"])
async def test_a_name_that_resolves_to_a_closed_address_is_refused(monkeypatch, host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    place = (family, 1, 6, "", (host, 0))
    monkeypatch.setattr("qg.extenders.sockets.names.socket.getaddrinfo", lambda *_, **__: [place])
    async with house(["allow *"]) as at:
        outcome, _, writer = await at.ask(Target("rebound.example", 80))
        assert outcome is Outcome.NOT_ALLOWED
        await closed(writer)


async def test_names_are_resolved_at_the_exit(monkeypatch):
    asked = []

    def found(name, *_, **__):
        asked.append(name)
        return [(socket.AF_INET, 1, 6, "", (HOST, 0))]

    async with house() as at, server(echo) as target:
        monkeypatch.setattr("qg.extenders.sockets.names.socket.getaddrinfo", found)
        for _ in range(3):
            outcome, _, writer = await at.ask(Target("Name.Example", target.port))
            assert outcome is Outcome.OK
            await closed(writer)
        assert asked == ["name.example"]


async def test_without_an_exit_nothing_goes_out():
    called = asyncio.Event()

    async def note(reader, writer):
        called.set()

    async with house() as at, server(note) as target:
        await at.exit_node.close()
        outcome, reader, writer = await at.ask(target)
        assert outcome is Outcome.FAILED
        assert await reader.read() == b""
        await closed(writer)
        assert not called.is_set()
        assert at.proxy.counts["no_exit"] == 1


async def test_a_node_without_an_exit_is_none():
    async with (
        house() as at,
        qg.Node(qg.Identity.generate(), listen=LISTEN) as other,
        Proxy(Exits(at.node, [other.address]), f"{HOST}:0") as at.proxy,
    ):
        outcome, _, writer = await at.ask(Target("1.1.1.1", 80))
        assert outcome is Outcome.FAILED
        await closed(writer)


def keeper(answer, heard):
    """A target that leaves its connection open whatever it is asked for."""

    async def serve(reader, writer):
        heard.extend(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        while data := await reader.read(65536):
            heard.extend(data)

    return serve


KEPT = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n more\r\nContent-Length: 2\r\n\r\nok"


async def test_a_target_that_keeps_its_connection_is_not_asked_for_others():
    heard = bytearray()
    async with house() as h, server(keeper(KEPT, heard)) as target:
        reader, writer = await asyncio.open_connection(*h.proxy.address)
        writer.write(f"GET http://{target}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode() + b"GET http://bank/ HTTP/1.1\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head == b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n"
        assert await reader.readexactly(2) == b"ok"
        await closed(writer)
        await until(lambda: h.exit.counts["bytes_in"], lambda: h.exit.counts)
        assert bytes(heard) == f"GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n".encode()


@pytest.mark.parametrize("framing", [b"Content-Length: 300000", b"Transfer-Encoding: chunked"])
async def test_a_body_goes_on_with_the_answer_s_leave_and_ends_where_it_ends(framing):
    body = bytes(300_000)
    if b"chunked" in framing:
        body = b"493e0\r\n" + body + b"\r\n0\r\n\r\n"

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await reader.readexactly(len(body)) == body
        writer.write(b"HTTP/1.0 200\n\nthanks")

    async with house() as h, server(serve) as target:
        reader, writer = await asyncio.open_connection(*h.proxy.address)
        writer.write(f"PUT http://{target}/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n".encode())
        writer.write(framing + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body + b"GET http://bank/ HTTP/1.1\r\n\r\n")
        assert await reader.read() == b"HTTP/1.0 200\nConnection: close\r\n\nthanks"
        await closed(writer)


async def test_an_answer_may_come_before_the_body_is_taken():
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too much\r\n\r\n" + bytes(3_000_000))
        await writer.drain()
        await hold(reader, writer)

    async with house() as h, server(serve) as target:
        reader, writer = await asyncio.open_connection(*h.proxy.address)
        writer.write(f"PUT http://{target}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n".encode())
        writer.write(bytes(10_000_000))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 413 Too much\r\nConnection: close\r\n\r\n"
        assert len(await reader.readexactly(1_000_000)) == 1_000_000
        writer.transport.abort()  # a close would wait for a target that takes nothing more


@pytest.mark.parametrize(
    "answer", [b"", b"\n\n", b" HTTP/1.1 200 OK\r\n\r\n", b"ICY 200 OK\r\n\r\n", b"HTTP/1.1 200 \r Connection: a\n\n"]
)
async def test_what_is_no_answer_is_an_error_of_the_gateway(answer):
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    async with house() as h, server(serve) as target:
        reader, writer = await asyncio.open_connection(*h.proxy.address)
        writer.write(f"GET http://{target}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 502 ")
        await closed(writer)


async def test_a_head_without_end_is_not_kept():
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X: y\r\n" * 10_000)
            await writer.drain()

    async with house() as h, server(serve) as target:
        reader, writer = await asyncio.open_connection(*h.proxy.address)
        writer.write(f"GET http://{target}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 502 ")
        await closed(writer)


async def test_another_exit_takes_over_when_one_dies():
    async with house() as at, server(echo) as target, AsyncExitStack() as stack:
        spare = Exit(["allow 127.0.0.0/8"])
        spare_node = qg.Node(qg.Identity.generate(), listen=LISTEN, extenders=[spare])
        await stack.enter_async_context(spare_node)
        both = Proxy(Exits(at.node, [at.exit_node.address, spare_node.address]), f"{HOST}:0")
        await stack.enter_async_context(both)
        at.proxy = both
        outcome, reader, writer = await at.ask(target)
        assert outcome is Outcome.OK
        used, other = (at.exit, spare) if at.exit.counts["ok"] else (spare, at.exit)
        await (at.exit_node if used is at.exit else spare_node).close()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await closed(writer)
        outcome, reader, writer = await at.ask(target)
        assert outcome is Outcome.OK
        assert other.counts["ok"] == 1
        await closed(writer)


async def test_a_target_that_never_reads_stops_the_program():
    async with house() as at, server(hold) as target:
        _, _, writer = await at.ask(target)
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


async def test_connections_of_one_peer_are_bounded():
    async with house(limits=ExitLimits(peer_connections=2)) as at, server(hold) as target:
        asked = [await at.ask(target) for _ in range(3)]
        assert [outcome for outcome, *_ in asked] == [Outcome.OK, Outcome.OK, Outcome.FAILED]
        await closed(asked[0][2])
        asked[1][2].transport.abort()
        await closed(asked[2][2])


async def test_who_says_nothing_or_nonsense_is_dropped(monkeypatch):
    monkeypatch.setattr("qg.extenders.proxy.socks._REQUEST_S", 0.3)
    async with house() as at:
        for said in (b"", b"\5", b"\5\1\0\5\1", b"GET http://x/ HTTP/1.1\r\nHost:"):
            reader, writer = await asyncio.open_connection(*at.proxy.address)
            writer.write(said)
            assert len(await reader.read()) <= 2
            await closed(writer)
        assert at.proxy.counts["slow"] == 4
        for said in (b"\6", b"\x16\3\1", b"\5\1\1", b"GET / HTTP/1.1\r\n\r\n"):
            reader, writer = await asyncio.open_connection(*at.proxy.address)
            writer.write(said)
            await reader.read()
            await closed(writer)
        assert at.proxy.counts["misunderstood"] == 4
        reader, writer = await asyncio.open_connection(*at.proxy.address)
        writer.write(b"\5\1")
        writer.write_eof()
        assert await reader.read() == b""
        await closed(writer)
        assert at.proxy.counts["cut_short"] == 1


async def test_an_idle_connection_ends():
    async with house(limits=ExitLimits(idle_s=0.5)) as at, server(hold) as target:
        _, reader, writer = await at.ask(target)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await closed(writer)


# Datagrams


@asynccontextmanager
async def association(at):
    reader, writer = await asyncio.open_connection(*at.proxy.address)
    writer.write(b"\5\1\0" + b"\5\3\0\1" + bytes(6))
    assert await reader.readexactly(5) == b"\5\0" + b"\5\0\0"
    place = await reader.readexactly(7)
    try:
        yield (socket.inet_ntoa(place[1:5]), int.from_bytes(place[5:], "big")), reader, writer
    finally:
        await closed(writer)


async def test_datagrams_to_many_targets_on_one_association():
    program = Program()
    async with house() as at, udp(Mirror()) as (_, one), udp(Mirror()) as (_, two), udp(program) as (sock, _):
        async with association(at) as (relay, _, _):
            for target, payload in ((one, b"to one"), (two, b"to two"), (one, bytes(60_000)), (two, b"2")):
                sock.sendto(datagram_write(target, payload), relay)
                data, source = await program.received.get()
                assert source == relay
                assert datagram_read(data) == (target, payload)
        await until(lambda: at.exit.counts["datagrams_in"] == 4, lambda: at.exit.counts)


async def test_datagrams_that_nobody_asked_for_are_dropped():
    program, stranger, mirror = Program(), Program(), Mirror()
    async with (
        house() as at,
        udp(mirror) as (_, target),
        udp(program) as (sock, _),
        udp(stranger) as (other, _),
        association(at) as (relay, _, _),
    ):
        sock.sendto(datagram_write(target, b"first"), relay)
        await program.received.get()
        other.sendto(b"not from where we sent to", mirror.last)
        await until(lambda: at.exit.counts["datagrams_unasked"] == 1, lambda: at.exit.counts)
        other.sendto(datagram_write(target, b"of another program"), relay)
        await until(lambda: at.proxy.counts["datagrams_foreign"] == 1, lambda: at.proxy.counts)
        sock.sendto(b"\0\0\1" + bytes(target) + b"fragment", relay)
        await until(lambda: at.proxy.counts["datagrams_misunderstood"] == 1, lambda: at.proxy.counts)
        sock.sendto(datagram_write(Target("10.0.0.1", 9), b"denied"), relay)
        await until(lambda: at.exit.counts["datagrams_refused"] == 1, lambda: at.exit.counts)
        sock.sendto(datagram_write(target, b"last"), relay)
        assert datagram_read((await program.received.get())[0]) == (target, b"last")
        assert program.received.empty()


@pytest.fixture
def slow_names(monkeypatch):
    """Names are resolved to this machine, and slow.example not before the event is set."""
    released = threading.Event()

    def found(name, *_, **__):
        if name == "slow.example":
            assert released.wait(60)
        return [(socket.AF_INET, 1, 6, "", (HOST, 0))]

    with monkeypatch.context() as patch:
        patch.setattr("qg.extenders.sockets.names.socket.getaddrinfo", found)
        yield released
        released.set()


async def test_a_slow_name_holds_up_no_other_datagram(slow_names):
    program = Program()
    async with house() as at, udp(Mirror()) as (_, target), udp(program) as (sock, _), association(at) as (relay, _, _):
        slow = Target("slow.example", target.port)
        for idx in range(20):
            sock.sendto(datagram_write(slow, bytes((idx,))), relay)
        sock.sendto(datagram_write(target, b"quick"), relay)
        sock.sendto(datagram_write(Target("quick.example", target.port), b"named"), relay)
        answers = {datagram_read((await program.received.get())[0])[1] for _ in range(2)}
        assert answers == {b"quick", b"named"}
        assert at.exit.counts["datagrams_dropped"] == 4  # of the 20, 16 wait
        slow_names.set()
        answers = [datagram_read((await program.received.get())[0]) for _ in range(16)]
        assert answers == [(target, bytes((idx,))) for idx in range(16)]


async def test_an_association_may_end_while_its_names_are_asked_for(slow_names):
    program = Program()
    async with house() as at, udp(program) as (sock, _):
        async with association(at) as (relay, _, _):
            for idx in range(20):  # of which so many are asked for at a time
                sock.sendto(datagram_write(Target("slow.example", idx + 1), b"x"), relay)
            await until(lambda: at.exit.counts["datagrams_dropped"] == 12, lambda: at.exit.counts)
        await until(lambda: not at.exit._associations, lambda: at.exit._associations)
        slow_names.set()


async def test_look_ups_count_until_their_thread_is_free(slow_names):
    names, peer_id, other = Names(), qg.Identity.generate().peer_id, qg.Identity.generate().peer_id
    for _ in range(16):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await names.resolve("slow.example", peer_id)
    with pytest.raises(qg.Busy):
        await names.resolve("quick.example", peer_id)
    assert await names.resolve("quick.example", other) == [HOST]
    slow_names.set()
    await until(lambda: not names._n_waiting, lambda: names._n_waiting)
    assert await names.resolve("slow.example", peer_id) == [HOST]
    names.close()


async def test_an_association_ends_with_its_connection():
    program = Program()
    async with house() as at, udp(Mirror()) as (_, target), udp(program) as (sock, _):
        async with association(at) as (relay, _, _):
            sock.sendto(datagram_write(target, b"x"), relay)
            await program.received.get()
        await until(lambda: not at.exit._associations, lambda: at.exit._associations)


async def test_an_association_ends_with_its_exit():
    async with house() as at, association(at) as (_, reader, _):
        await at.exit_node.close()
        assert await reader.read() == b""


async def test_a_datagram_in_pieces_outlasts_the_look_for_idleness():
    mirror = Mirror()
    limits = ExitLimits(datagrams_idle_s=0.3)
    async with house(limits=limits) as at, udp(mirror) as (_, target), at.exits.associated(b"") as (_, stream):
        frame = bytes(target) + b"whole"
        frame = len(frame).to_bytes(2, "big") + frame
        await stream.write(frame + frame[:7])
        assert await frame_read(stream) == (target, b"whole")
        for _ in range(12):  # what comes in keeps it alive, beyond the moment at which it would have ended
            mirror.transport.sendto(b"more", mirror.last)
            await frame_read(stream)
            await asyncio.sleep(0.05)
        await stream.write(frame[7:])
        assert await frame_read(stream) == (target, b"whole")
        await until(lambda: not at.exit._associations, lambda: at.exit._associations)


# Over relays


async def test_credentials_keep_circuits_apart():
    async with house() as at, server(echo) as target:
        allowed = {"allow": [str(at.node.id)], "targets": ["127.0.0.0/8"], "ports": [at.exit_node.address.port]}
        settings = config(relay=allowed)
        async with qg.Node(qg.Identity.generate(), listen=["tcp://127.1.0.1:0"], config=settings) as relay:
            exits = Exits(at.node, [at.exit_node.address], via=[relay.address])
            async with Proxy(exits, f"{HOST}:0") as at.proxy:
                for user in (b"", b"a", b"a", b"b", b""):
                    outcome, _, writer = await at.ask(target, user=user)
                    assert outcome is Outcome.OK
                    await closed(writer)
                assert core(relay)["n_circuits"] == 3
                assert await exits.renew() == 3
                await until(lambda: core(relay)["n_circuits"] == 0, lambda: core(relay)["n_circuits"])
                outcome, _, writer = await at.ask(target)
                assert outcome is Outcome.OK
                await closed(writer)


@pytest.mark.parametrize("fate", ["killed", "silent"])
async def test_a_relay_that_dies_is_gone_round_within_seconds(fate):
    async with house() as at, server(echo) as target, AsyncExitStack() as stack:
        identity = qg.Identity.generate()
        allowed = {"allow": [str(identity.peer_id)], "targets": ["127.0.0.0/8"], "ports": [at.exit_node.address.port]}
        relays = [
            await stack.enter_async_context(Child(listen=[f"tcp://127.{idx}.0.1:0"], relay=allowed)) for idx in (11, 12)
        ]
        settings = config(relays=[str(relay.address) for relay in relays])
        node = await stack.enter_async_context(qg.Node(identity, config=settings))
        exits = Exits(node, [at.exit_node.address], hops=1)
        at.proxy = await stack.enter_async_context(Proxy(exits, f"{HOST}:0"))
        outcome, _, old = await at.ask(target)
        assert outcome is Outcome.OK
        used = [relay for relay in relays if (await relay.ask("status"))["core"]["n_circuits"]]
        assert len(used) == 1
        if fate == "killed":
            used[0].kill()
        else:
            await used[0].stop()
        async with asyncio.timeout(20):  # two for silence, one and a half for the first try; a dead link takes 60 s
            outcome, reader, writer = await at.ask(target)
            assert outcome is Outcome.OK
            writer.write(b"by the other one")
            assert await reader.readexactly(16) == b"by the other one"
        await closed(writer)
        await closed(old)
