# SPDX-License-Identifier: MIT
"""TCP connections of one worker: against themselves and against plain sockets on loopback."""

import contextlib
import errno
import gc
import hashlib
import os
import random
import resource
import socket
import struct
import time

import pytest
from qg._core.probe import Tcp

pytestmark = pytest.mark.net

IP4 = socket.inet_pton(socket.AF_INET, "127.0.0.1")
IP6 = socket.inet_pton(socket.AF_INET6, "::1")
ANY4, ANY6 = bytes(4), bytes(16)
REUSEPORT = 1
OK, E_STATE, E_CLOSED = 0, -9, -40
LIMIT_S = 60


def open_descriptors():
    return len(os.listdir("/dev/fd"))


class Driver(Tcp):
    """Tcp with waiting."""

    def until(self, is_done):
        give_up = time.monotonic() + LIMIT_S
        while not is_done():
            assert time.monotonic() < give_up, (self.counts, [self.log(i) for i in range(self.counts["n_slots"])][:8])
            self.loop.run(50)

    def pair(self, ip=IP4):
        """Dial the probe's own listener; give both ends."""
        idx, port = self.listen(ip)
        dialler = self.dial(ip, port)
        self.until(lambda: self.counts["n_slots"] > dialler + 1 and self.log(dialler).startswith("c"))
        self.unlisten(idx)
        return dialler, dialler + 1

    def peer(self):
        """Connect a plain socket; give it and the number of the accepted connection."""
        idx, port = self.listen(IP4)
        number = self.counts["n_slots"]
        sock = socket.create_connection(("127.0.0.1", port))
        sock.settimeout(0)
        self.until(lambda: self.counts["n_slots"] > number)
        self.unlisten(idx)
        return sock, number

    def receive(self, sock):
        """Read from a plain socket until its end; the loop runs meanwhile."""
        parts = []

        def is_done():
            with contextlib.suppress(BlockingIOError):
                while part := sock.recv(1 << 20):
                    parts.append(part)
                return True
            return False

        self.until(is_done)
        return b"".join(parts)


@pytest.fixture(scope="module", autouse=True)
def libuv_has_its_own_descriptors():
    Tcp().stop()  # one pipe for signals per process, kept from the first loop on


@pytest.fixture
def tcp():
    gc.collect()
    before = open_descriptors()
    tcp = Driver()
    yield tcp
    tcp.stop()
    for number in range(tcp.counts["n_slots"]):
        tcp.read(number)
    counts = tcp.counts
    assert (counts["n_handles"], counts["n_conns"], counts["n_lingering"], counts["n_blocks"]) == (0, 0, 0, 0)
    assert open_descriptors() == before


@pytest.mark.parametrize("ip", [IP4, IP6])
def test_bytes_go_both_ways(tcp, ip):
    if ip == IP6 and not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("no IPv6 here")
    a, b = tcp.pair(ip)
    assert tcp.write(a, b"there") == OK
    assert tcp.write(b, b"back") == OK
    tcp.until(lambda: tcp.log(a) == "cr" and tcp.log(b) == "ar")
    assert (tcp.read(a), tcp.read(b)) == (b"back", b"there")
    assert tcp.counts["in_len"] == tcp.counts["out_len"] == 9


def test_a_hundred_megabytes_arrive_unchanged_in_bounded_memory(tcp):
    a, b = tcp.pair()
    source = random.Random(1).randbytes(8 << 20)
    sent, received = hashlib.sha256(), hashlib.sha256()
    n_sent = n_received = n_blocks = 0
    give_up = time.monotonic() + LIMIT_S
    while n_received < 100 << 20:
        assert time.monotonic() < give_up
        while n_sent < 100 << 20 and tcp.pending(a) == 0:
            part = source[n_sent % 7919 : n_sent % 7919 + min(1 << 20, (100 << 20) - n_sent)]
            assert tcp.write(a, part) == OK
            sent.update(part)
            n_sent += len(part)
        tcp.loop.run(50)
        n_blocks = max(n_blocks, tcp.counts["n_blocks"])
        part = tcp.read(b)
        received.update(part)
        n_received += len(part)
    assert received.digest() == sent.digest()
    assert n_blocks < 1000


def test_a_reader_that_stops_holds_the_writer_back_and_loses_nothing(tcp):
    a, b = tcp.pair()
    tcp.pause(b)
    parts = [bytes([i % 251]) * 100_000 for i in range(200)]
    for part in parts:
        assert tcp.write(a, part) == OK
    held = tcp.pending(a)
    tcp.loop.run(50)
    assert 0 < tcp.pending(a) <= held
    assert (tcp.log(a), tcp.log(b)) == ("c", "a")
    tcp.resume(b)
    tcp.until(lambda: tcp.log(a) == "cw")
    assert tcp.pending(a) == 0
    tcp.until(lambda: tcp.counts["in_len"] == 20_000_000)
    assert tcp.read(b) == b"".join(parts)


def test_many_small_blocks_keep_their_order_when_the_kernel_refuses(tcp):
    a, b = tcp.pair()
    tcp.pause(b)
    assert tcp.write(a, bytes(8 << 20)) == OK
    assert tcp.pending(a) > 0
    for i in range(500):
        assert tcp.write(a, struct.pack(">I", i) * 100) == OK
    tcp.shutdown(a)
    tcp.resume(b)
    tcp.until(lambda: tcp.log(b).endswith("e"))
    assert tcp.read(b) == bytes(8 << 20) + b"".join(struct.pack(">I", i) * 100 for i in range(500))


def test_fin_follows_what_is_pending_and_the_other_way_stays_open(tcp):
    a, b = tcp.pair()
    tcp.pause(b)
    tcp.write(a, bytes(8 << 20))
    assert tcp.shutdown(a) == OK
    assert tcp.shutdown(a) == E_CLOSED
    assert tcp.write(a, b"late") == E_CLOSED
    tcp.resume(b)
    tcp.until(lambda: tcp.log(b) == "are")
    assert len(tcp.read(b)) == 8 << 20
    assert tcp.write(b, b"still here") == OK
    tcp.until(lambda: "r" in tcp.log(a))
    assert tcp.read(a) == b"still here"


def test_close_sends_fin_and_no_reset_while_the_peer_still_sends(tcp):
    sock, number = tcp.peer()
    tcp.pause(number)
    tcp.write(number, b"last words")
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(1 << 16))
    tcp.close(number)
    assert tcp.receive(sock) == b"last words"
    for _ in range(20):  # a reset would show here
        with contextlib.suppress(BlockingIOError):
            sock.send(bytes(1 << 16))
        tcp.loop.run(1)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert tcp.counts["n_lingering"] == 1
    sock.close()
    tcp.until(lambda: tcp.counts["n_conns"] == 0)
    assert tcp.log(number) == "a"


def test_close_first_writes_what_is_pending(tcp):
    sock, number = tcp.peer()
    tcp.write(number, bytes(16 << 20))
    assert tcp.pending(number) > 0
    tcp.close(number)
    assert len(tcp.receive(sock)) == 16 << 20
    sock.close()
    tcp.until(lambda: tcp.counts["n_conns"] == 0)


def test_close_after_the_peers_fin_waits_for_nothing(tcp):
    sock, number = tcp.peer()
    sock.shutdown(socket.SHUT_WR)
    tcp.until(lambda: tcp.log(number) == "ae")
    tcp.close(number)
    assert tcp.counts["n_lingering"] == 0
    assert tcp.receive(sock) == b""
    sock.close()


@pytest.mark.slow
def test_a_peer_that_never_closes_is_waited_for_only_so_long(tcp):
    sock, number = tcp.peer()
    tcp.close(number)
    tcp.until(lambda: tcp.counts["n_conns"] == 0)
    assert tcp.receive(sock) == b""
    sock.close()


def test_the_oldest_closed_connection_makes_room_for_another(tcp):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip("not enough descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    socks = []
    try:
        _, port = tcp.listen(IP4)
        tcp.close_on("a")
        for i in range(1030):
            socks.append(socket.create_connection(("127.0.0.1", port)))
            tcp.until(lambda i=i: tcp.counts["n_accepted"] == i + 1)
        assert tcp.counts["n_lingering"] == 1024
        tcp.until(lambda: tcp.counts["n_conns"] == 1024)
        assert tcp.receive(socks[0]) == b""
    finally:
        for sock in socks:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_abort_resets(tcp):
    sock, number = tcp.peer()
    tcp.write(number, bytes(1 << 20))
    tcp.abort(number)
    tcp.until(lambda: tcp.counts["n_conns"] == 0)
    with pytest.raises(ConnectionResetError):
        tcp.receive(sock)
    sock.close()


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_a_reset_is_reported_once_with_its_code(tcp):
    sock, number = tcp.peer()
    reset(sock)
    tcp.until(lambda: tcp.log(number) == "al")
    assert tcp.error(number) == -errno.ECONNRESET
    assert tcp.counts["n_conns"] == 0


def test_what_the_peer_sent_before_it_broke_is_read_first(tcp):
    sock, number = tcp.peer()
    tcp.write(number, b"unread")
    sock.send(b"my reason")
    sock.close()  # with unread input: a reset
    while tcp.write(number, b"more") == OK:
        pass
    assert tcp.write(number, b"again") == E_CLOSED
    tcp.pause(number)
    tcp.until(lambda: tcp.log(number) == "arl")
    assert tcp.read(number) == b"my reason"
    assert tcp.error(number) in (-errno.ECONNRESET, -errno.EPIPE)


def test_a_paused_connection_learns_from_a_failed_write_that_it_is_lost(tcp):
    sock, number = tcp.peer()
    tcp.pause(number)
    reset(sock)
    while tcp.write(number, b"more") == OK:
        pass
    assert tcp.log(number) == "a"  # never from inside the operation
    tcp.until(lambda: tcp.log(number) == "al")


def test_a_break_with_output_pending_gives_the_blocks_back(tcp):
    sock, number = tcp.peer()
    tcp.write(number, bytes(16 << 20))
    assert tcp.pending(number) > 0
    reset(sock)
    tcp.until(lambda: tcp.log(number) == "al")
    assert tcp.counts["n_blocks"] == 0


def test_a_refused_dial_is_reported(tcp):
    idx, port = tcp.listen(IP4)
    tcp.unlisten(idx)
    number = tcp.dial(IP4, port)
    assert tcp.write(number, b"early") == E_STATE
    assert tcp.shutdown(number) == E_STATE
    tcp.until(lambda: tcp.log(number) == "d")
    assert tcp.error(number) == -errno.ECONNREFUSED


@pytest.mark.parametrize("operation", ["close", "abort"])
def test_a_dial_in_progress_can_be_cancelled(tcp, operation):
    _, port = tcp.listen(IP4)
    number = tcp.dial(IP4, port)
    getattr(tcp, operation)(number)
    tcp.until(lambda: tcp.counts["n_slots"] == number + 2)
    tcp.until(lambda: tcp.log(number + 1)[-1] in "el")
    assert tcp.log(number) == ""


@pytest.mark.parametrize("letter", "acrwe")
def test_a_connection_can_be_closed_inside_each_of_its_events(tcp, letter):
    tcp.close_on(letter)
    _, port = tcp.listen(IP4)
    a = tcp.dial(IP4, port)
    b = a + 1
    tcp.until(lambda: tcp.counts["n_slots"] == 2 and tcp.log(a))
    if letter != "c":
        tcp.write(a, bytes(16 << 20))
        tcp.shutdown(a)
    tcp.until(lambda: letter in tcp.log(a) + tcp.log(b))
    closed, other = (a, b) if letter in tcp.log(a) else (b, a)
    tcp.close_on("")
    tcp.until(lambda: tcp.log(other)[-1] in "el")
    with contextlib.suppress(ValueError):  # lost already
        tcp.close(other)
    tcp.until(lambda: tcp.counts["n_conns"] == 0)
    assert tcp.log(closed).endswith(letter)  # no event followed


def test_a_connection_that_is_turned_away_sees_fin_and_no_reset(tcp):
    tcp.refuse()
    _, port = tcp.listen(IP4)
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setblocking(False)
    sock.send(b"hello")
    assert tcp.receive(sock) == b""
    sock.close()


def test_out_of_descriptors_accepting_pauses_is_counted_and_recovers(tcp):
    _, port = tcp.listen(IP4)
    socks = [socket.socket() for _ in range(6)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = [os.dup(0)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare[0] + 16, hard))
        with contextlib.suppress(OSError):
            while True:
                spare.append(os.dup(0))
        for _ in range(3):
            os.close(spare.pop())
        for sock in socks:
            sock.connect(("127.0.0.1", port))
        tcp.until(lambda: tcp.accept_errors[0] == 1)
        assert tcp.accept_errors == (1, -errno.EMFILE)
        n_turns = tcp.loop.n_turns
        n_accepted = tcp.counts["n_accepted"]
        assert n_accepted in (2, 3)  # libuv keeps one descriptor of its own for each loop
        tcp.until(lambda: tcp.accept_errors[0] == 2)  # it tried again, and waits again
        assert (tcp.counts["n_accepted"], tcp.counts["n_accept_errors"]) == (n_accepted, 2)
        assert tcp.loop.n_turns - n_turns < 100  # asleep in between
    finally:
        for fd in spare:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    tcp.until(lambda: tcp.counts["n_accepted"] == 6)
    for sock in socks:  # none of them was dropped
        sock.send(b"here")
    tcp.until(lambda: tcp.counts["in_len"] == 24)
    for sock in socks:
        sock.close()


def test_a_listener_that_is_paused_can_be_closed(tcp):
    idx, port = tcp.listen(IP4)
    sock = socket.socket()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        sock.connect(("127.0.0.1", port))
        tcp.until(lambda: tcp.accept_errors[0] == 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    tcp.unlisten(idx)
    sock.close()


def test_listeners_are_bounded_and_their_places_are_used_again(tcp):
    places = [tcp.listen(IP4)[0] for _ in range(16)]
    with pytest.raises(OSError) as refusal:
        tcp.listen(IP4)
    assert refusal.value.errno == errno.ENOBUFS
    tcp.unlisten(places[7])
    tcp.loop.run(1)
    assert tcp.listen(IP4)[0] == places[7]


def test_a_port_is_shared_only_when_both_listeners_say_so(tcp):
    _, port = tcp.listen(IP4, 0, 16, REUSEPORT)
    assert tcp.listen(IP4, port, 16, REUSEPORT)[1] == port
    with pytest.raises(OSError) as refusal:
        tcp.listen(IP4, port)
    assert refusal.value.errno == errno.EADDRINUSE


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="no IPv6 here")
def test_the_ipv6_wildcard_leaves_the_port_to_ipv4(tcp):
    _, port = tcp.listen(ANY6)
    assert tcp.listen(ANY4, port)[1] == port


def test_stop_reports_every_connection_as_lost_and_nothing_can_begin(tcp):
    a, b = tcp.pair()
    _, port = tcp.listen(IP4)
    dialling = tcp.dial(IP4, port)
    sock, number = tcp.peer()
    tcp.close(number)
    tcp.stop()
    assert [tcp.log(i) for i in (a, b)] == ["cl", "al"]
    assert tcp.error(a) == -errno.ECANCELED
    assert tcp.log(dialling) in ("d", "cl")
    with pytest.raises(OSError) as refusal:
        tcp.listen(IP4)
    assert refusal.value.errno == errno.ESHUTDOWN
    sock.close()
