# SPDX-License-Identifier: MIT
"""A small blocking TCP driver: runs one or several ModelPeers, each over its socket, until a condition holds.

with dial("127.0.0.1", port, peer_dial(party, link_key)) as link:
    run_until([link], lambda: link.peer.is_connected, timeout_s=5)
"""

import select
import socket
import time
from collections.abc import Callable, Sequence

from .peer import ModelPeer

READ_LEN = 65536


class TcpLink:
    """A socket with the peer that speaks over it. The caller closes it, best by `with`."""

    def __init__(self, sock: socket.socket, peer: ModelPeer) -> None:
        self.sock = sock
        self.peer = peer
        self.is_at_eof = False
        self.read_len = self.write_len = READ_LEN  # most bytes that one system call moves
        self._unsent = bytearray()
        self._fin_sent = False
        sock.setblocking(False)

    def __enter__(self) -> "TcpLink":
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def fileno(self) -> int:
        return self.sock.fileno()

    def has_unsent(self) -> bool:
        self._unsent += self.peer.output_bytes()
        return bool(self._unsent)

    def write(self) -> None:
        """Send what the socket takes; when the peer is done and all is out, finish our direction (section 5)."""
        if self.is_at_eof:
            return
        try:
            while self.has_unsent():
                del self._unsent[: self.sock.send(self._unsent[: self.write_len])]
        except BlockingIOError:
            return
        except OSError:  # the other end is gone
            self._unsent.clear()
            self.is_at_eof = True
            return
        if self.peer.end == "fin" and not self._fin_sent:
            self.sock.shutdown(socket.SHUT_WR)
            self._fin_sent = True

    def read(self) -> None:
        """A peer in the sink goes on reading and says nothing (3.8), which ModelPeer.receive does by itself."""
        try:
            data = self.sock.recv(self.read_len)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if data:
            self.peer.receive(data)
        else:
            self.is_at_eof = True
            self.peer.receive_eof()


def dial(host: str, port: int, peer: ModelPeer) -> TcpLink:
    sock = socket.create_connection((host, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return TcpLink(sock, peer)


def answer(listener: socket.socket, peer: ModelPeer) -> TcpLink:
    """Take one connection from a listening socket, waiting for it as long as the listener's timeout says."""
    sock, _ = listener.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return TcpLink(sock, peer)


def run_until(links: Sequence[TcpLink], condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Move bytes until `condition()` holds and everything queued is sent; TimeoutError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        is_true = condition()
        for link in links:
            link.write()
        writers = [link for link in links if not link.is_at_eof and link.has_unsent()]
        if is_true and not writers:
            return
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            failures = [link.peer.failure for link in links]
            raise TimeoutError(f"the condition did not come true; failures: {failures}")
        readers = [link for link in links if not link.is_at_eof]
        if not readers:
            raise ConnectionError("every link is at its end and the condition does not hold")
        readable, _, _ = select.select(readers, writers, [], left_s)
        for link in readable:
            link.read()
