# SPDX-License-Identifier: MIT
"""The twin for programs without an event loop: the same methods, which wait; threads, timeouts, interrupts, the end."""

import asyncio
import inspect
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from api.services import UNKNOWN, Echo, Guests

import qg
import qg.sync

LISTEN = ["tcp://127.0.0.1:0"]


class Shout(qg.Extender):
    id = qg.ExtenderId("5a3c57ad-5a3b-4e0f-8a41-5c6c13b1d001")

    async def on_request(self, peer, payload):
        if payload == b"never":
            await asyncio.Event().wait()
        return payload.upper()

    async def on_message(self, peer, message):
        await peer.send_batch(self.id, [b"%d" % n for n in range(int(message))])


@pytest.fixture
def near():
    with qg.sync.Node(qg.Identity.generate(), listen=LISTEN, extenders=[Echo(), Shout()]) as node:
        yield node


@pytest.fixture
def far():
    with qg.sync.Node(qg.Identity.generate()) as node:
        yield node


@pytest.fixture
def peer(near, far):
    return far.connect(near.address, timeout_s=30)


def public(kind):
    return {name for name in dir(kind) if not name.startswith("_")}


def options(method):
    return {name: each.default for name, each in inspect.signature(method).parameters.items()}


# What only the node itself, its tasks or its tests need.
KEPT_BACK = {
    qg.Node: {"is_working", "remains", "calls_with_messages"},
    qg.Peer: {
        *("node", "keeper", "n_claims", "n_serving", "links", "where", "takes_links", "is_closed_here"),
        *("close_start", "link_add", "link_drop", "revive", "on_pong", "inbox_find", "inbox_make"),
    },
    qg.Stream: {
        *("write_nowait", "drain", "accepted", "peer", "link", "is_gone", "is_spliced", "wake", "open", "abort"),
        *("on_accepted", "on_data", "on_done", "on_fin", "on_reset", "on_sent"),
    },
    qg.Access: {"open", "attach", "close", "is_shut_out"},
}


@pytest.mark.parametrize("name", ["Node", "Peer", "Stream", "Access"])
def test_it_has_what_its_twin_has(name):
    kind, twin = getattr(qg, name), getattr(qg.sync, name)
    own = {"start", "close"} if name == "Node" else set()
    assert public(twin) == (public(kind) - KEPT_BACK[kind]) | own
    for method in public(twin):
        if inspect.isfunction(getattr(twin, method)):
            asked, given = options(getattr(kind, method)), options(getattr(twin, method))
            assert {key: given.get(key, "missing") for key in asked} == asked, method
            assert given.keys() - asked.keys() <= {"timeout_s"}, method


def test_peers_and_nodes_are_known_by_what_they_stand_for(near, far, peer):
    assert far.connect(near.address) == peer
    assert far.peers == (peer,)
    assert {peer: 1}[far.find_peers(is_outgoing=True)[0]] == 1
    assert far.find_peers(UNKNOWN) == []
    assert peer != near
    assert peer.id == near.id
    assert (peer.is_connected, peer.is_outgoing, peer.is_relayed) == (True, True, False)
    assert set(peer.extenders) == {Echo.id, Shout.id}
    assert far.totals().n_peers == len(far.status().peers) == 1
    assert str(near.id)[:12] in repr(peer)
    with peer:
        pass
    assert not peer.is_connected
    assert near.addresses == (near.address,)
    assert "running" in repr(near)


def test_streams_messages_requests_and_pings(near, far, peer):
    with peer.open_stream(Echo.id, b"about", timeout_s=30) as stream:
        stream.write(b"hello")
        assert stream.readexactly(5, timeout_s=30) == b"hello"
        stream.write(b"x" * 100_000)
        stream.finish()
        assert b"".join(stream) == b"x" * 100_000
        assert stream.read() == b""
    assert (stream.metadata, stream.extender_id) == (b"about", Echo.id)
    assert peer.request(Shout.id, b"hello") == b"HELLO"
    batches, taken = peer.messages(Shout.id, timeout_s=30), []
    peer.send(Shout.id, b"1000", compress=True, timeout_s=30)
    for batch in batches:
        taken += batch
        if len(taken) == 1000:
            break
    assert taken == [b"%d" % n for n in range(1000)]
    assert peer.try_send(Shout.id, b"1")
    peer.send_batch(Shout.id, (message for message in (b"1", b"1")))
    assert far.broadcast(Shout.id, b"1") == far.broadcast(Shout.id, b"1", peers=[peer]) == [peer]
    assert 0 < peer.ping(timeout_s=30) < 30


def test_a_stream_is_reset_where_its_block_raises(peer):
    with pytest.raises(ZeroDivisionError), peer.open_stream(Echo.id) as stream:
        _ = 1 / 0
    with pytest.raises(qg.ClosedError):
        stream.write(b"x")
    with peer.open_stream(Echo.id) as stream:
        stream.reset(qg.Reason.REFUSED)


def test_streams_are_joined_with_sockets(peer):
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as pool:
        with socket.create_connection(server.getsockname()) as client:
            joined = pool.submit(peer.open_stream(Echo.id).splice, server.accept()[0])
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            assert client.makefile("rb").read() == b"hello"
        joined.result(30)


def test_services_come_and_go(near, far, peer):
    far.add_extender(Guests())
    assert [info.name for info in far.status().extenders] == ["Guests"]
    far.remove_extender(Guests.id, grace_s=1)
    with pytest.raises(qg.InvalidValue):
        far.remove_extender(Guests.id)
    assert far.configure(qg.Config()) == []
    assert near.drain(0) == 0


def test_errors_are_those_of_the_twin_and_calls_end_in_time(peer):
    with pytest.raises(qg.Unsupported):
        peer.open_stream(UNKNOWN)
    with pytest.raises(qg.PeerTimeout):
        peer.request(Shout.id, b"never", timeout_s=0.01)
    with peer.open_stream(Echo.id) as stream:
        with pytest.raises(TimeoutError):
            stream.read(1, timeout_s=0.01)
        stream.write(b"y")
        assert stream.read(1) == b"y"  # a read that took too long has lost nothing
    with pytest.raises(TimeoutError):
        next(iter(peer.messages(UNKNOWN, timeout_s=0.01)))
    with pytest.raises(qg.InvalidValue):
        peer.messages("no id")


def test_a_node_has_one_life():
    node = qg.sync.Node(qg.Identity.generate())
    with pytest.raises(qg.UsageError, match="not started"):
        node.status()
    node.close()
    with node, pytest.raises(qg.UsageError, match="once"):
        node.start()
    node.close()
    with pytest.raises(qg.ClosedError, match="closed"):
        node.status()
    assert not [thread for thread in threading.enumerate() if thread.name == "qg.sync"]


def test_a_node_that_cannot_start_leaves_no_thread():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        node = qg.sync.Node(qg.Identity.generate(), listen=[f"tcp://127.0.0.1:{taken.getsockname()[1]}"])
        with pytest.raises(qg.ListenError):
            node.start()
    assert not [thread for thread in threading.enumerate() if thread.name == "qg.sync"]


def test_closing_the_node_ends_the_calls_of_other_threads(near, far, peer):
    with ThreadPoolExecutor() as pool:
        stream = peer.open_stream(Echo.id)
        reading = [pool.submit(stream.read, 1), pool.submit(peer.request, Shout.id, b"never")]
        reading.append(pool.submit(next, peer.messages(Shout.id)))
        while len(far.status().peers[0].extenders) < 2 or any(not each.running() for each in reading):
            pass
        closing = [pool.submit(far.close) for _ in range(3)]
        for each in reading:
            with pytest.raises((qg.QGError, StopIteration)):
                each.result(30)
        for each in closing:
            each.result(30)


def test_many_threads_may_call(peer):
    def ask(n):
        return peer.request(Shout.id, b"a%d" % n)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(200))) == [b"A%d" % n for n in range(200)]


def test_an_event_loop_is_not_held_up(peer):
    async def main():
        with pytest.raises(qg.UsageError, match=r"use qg\.Node"):
            peer.ping()

    asyncio.run(main())


def test_a_forked_child_is_told(peer):
    pid = os.fork()
    if not pid:
        try:
            peer.ping()
        except qg.UsageError as error:
            os._exit(0 if "forked" in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


SCRIPT = """
import sys, qg, qg.sync
node = qg.sync.Node(qg.Identity.generate(), listen=["tcp://127.0.0.1:0"])
node.start()
other = qg.sync.Node(qg.Identity.generate())
other.start()
peer = other.connect(node.address)
try:
    print("ready", flush=True)
    if "wait" in sys.argv:
        next(peer.messages(qg.ExtenderId("5a3c57ad-5a3b-4e0f-8a41-5c6c13b1d001")))
except KeyboardInterrupt:
    print(round(peer.ping()), "still works")
"""


def test_a_node_that_is_never_closed_lets_the_program_end():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "ready\n", "")


def test_ctrl_c_ends_a_call_and_nothing_else():
    arguments = [sys.executable, "-c", SCRIPT, "wait"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "ready\n"
        run.send_signal(signal.SIGINT)
        out, error = run.communicate(timeout=60)
    assert (run.returncode, out, error) == (0, "0 still works\n", "")
