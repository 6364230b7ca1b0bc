# SPDX-License-Identifier: MIT
"""The TCP driver: two models over loopback, and the silent sink."""

import random
import socket
import threading

import pytest
from model import frames
from model.peer import peer_answer, peer_dial
from model.tcp import answer, dial, run_until

pytestmark = pytest.mark.net
UUID = bytes(range(16))


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(5)
        yield sock


@pytest.fixture
def links(listener, party):
    one, other = party("one"), party("other")
    port = listener.getsockname()[1]
    with (
        dial("127.0.0.1", port, peer_dial(one, other.identity.link_public)) as near,
        answer(listener, peer_answer(other)) as far,
    ):
        yield near, far


def test_a_stream_crosses_loopback_with_rekeys_on_the_way(links):
    near, far = links
    run_until(links, lambda: near.peer.is_connected and far.peer.is_connected)
    data = random.Random(7).randbytes(1_000_000)
    stream = near.peer.stream_open(frames.KIND_BYTES, UUID)
    near.peer.stream_write(stream, data)
    near.peer.stream_finish(stream)
    taken = bytearray()

    def all_read():
        for end in far.peer.streams.values():
            taken.extend(far.peer.stream_read(end))
            if end.fin_received:
                far.peer.stream_finish(end)
        if near.peer.keys.is_idle and near.peer.keys.number < 3:
            near.peer.rekey()
        return stream.is_closed

    run_until(links, all_read)
    assert bytes(taken) == data
    assert near.peer.keys.number >= 1


def test_close_finishes_the_connection_in_both_directions(links):
    near, far = links
    run_until(links, lambda: near.peer.is_connected)
    near.peer.close()
    run_until(links, lambda: near.is_at_eof and far.is_at_eof)
    assert far.peer.received[-1] == frames.Close(frames.REASON["shutdown"])


def test_a_stranger_gets_no_byte_and_no_close(listener, party):
    stranger = socket.create_connection(listener.getsockname())
    with stranger, answer(listener, peer_answer(party("other"))) as far:
        writer = threading.Thread(target=stranger.sendall, args=(bytes(4000),))
        writer.start()
        run_until([far], lambda: far.peer.end == "sink")
        writer.join()
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.recv(1)
