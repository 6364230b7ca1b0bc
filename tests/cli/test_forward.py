# SPDX-License-Identifier: MIT
"""`qg forward` and the offers of `qg run`: a program that knows only TCP reaches what the peer offers."""

import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.net

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Any]


class Upper(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.read().upper())


@pytest.fixture
def target() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Upper) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def offering(start: Start, folder: Path, offer: str) -> str:
    (folder / "offer.toml").write_text(f"[[forward.offer]]\n{offer}\n")
    address: str = start("run", "-c", "offer.toml", "--listen", "tcp://127.0.0.1:0", "--control", "offer.sock").line()
    return address


def asked(place: str, said: bytes) -> bytes:
    host, port = place.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)
        with sock.makefile("rb") as file:
            return file.read()


def test_a_local_port_leads_to_what_the_peer_offers(qg_start: Start, folder: Path, target: str) -> None:
    peer = offering(qg_start, folder, f'allow = ["tcp {target}"]')
    forward = qg_start("forward", "-L", f"0:{target}", "-L", "0:127.0.0.1:1", peer)
    words, others = forward.line().split(), forward.line().split()
    assert words[1:4] == ["here", "->", target]
    assert asked(words[0], b"there and back") == b"THERE AND BACK"
    with pytest.raises(ConnectionResetError):
        asked(others[0], b"not offered")
    with pytest.raises(ConnectionResetError):
        asked(others[0], b"not offered either")
    assert "127.0.0.1:1 behind" in (said := forward.process.stderr.readline())
    assert "not offered" in said


def test_a_port_of_the_peer_leads_here(qg_start: Start, qg_run: Run, folder: Path, target: str) -> None:
    peer = offering(qg_start, folder, 'listen = ["tcp 127.0.0.1"]')
    forward = qg_start("forward", "-v", "-R", f"0:{target}", peer)
    words = forward.line().split()
    assert (words[1], words[3:]) == ("at", ["->", target, "behind", "this", "machine"])
    assert asked(words[0], b"there and back") == b"THERE AND BACK"
    denied = qg_run("forward", "-R", f"{words[0]}:{target}", peer)
    assert (denied.returncode, "already in use" in denied.stderr) == (1, True)
    forward.process.terminate()
    _, _, counted = forward.end()
    assert "14 bytes there, 14 bytes back, 1 ok" in counted


def test_datagrams_go_through_too(qg_start: Start, folder: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target, socket.socket(type=socket.SOCK_DGRAM) as program:
        target.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{target.getsockname()[1]}"
        peer = offering(qg_start, folder, f'allow = ["udp {at}"]')
        place = qg_start("forward", "-L", f"0/udp:{at}", peer).line().split()[0]
        assert place.endswith("/udp")
        program.settimeout(30)
        target.settimeout(30)
        program.sendto(b"question", ("127.0.0.1", int(place.removesuffix("/udp").rsplit(":", 1)[1])))
        question, source = target.recvfrom(100)
        target.sendto(b"answer to " + question, source)
        assert program.recv(100) == b"answer to question"


def test_a_node_forwards_what_its_configuration_lists(qg_start: Start, folder: Path, target: str) -> None:
    peer = offering(qg_start, folder, f'allow = ["tcp {target}"]')
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    (folder / "to.toml").write_text(f'[[forward.to]]\npeer = "{peer}"\nlocal = ["{port}:{target}"]\n')
    qg_start("run", "-c", "to.toml", "--listen", "tcp://127.0.0.1:0", "--control", "to.sock").line()
    assert asked(f"127.0.0.1:{port}", b"by configuration") == b"BY CONFIGURATION"


def test_offers_change_while_the_node_runs(qg_start: Start, qg_run: Run, folder: Path, target: str) -> None:
    peer = offering(qg_start, folder, 'allow = ["tcp 127.0.0.1:1"]')
    place = qg_start("forward", "-L", f"0:{target}", peer).line().split()[0]
    with pytest.raises(ConnectionResetError):
        asked(place, b"not yet")
    (folder / "offer.toml").write_text(f'[[forward.offer]]\nallow = ["tcp {target}"]\n')
    reloaded = qg_run("reload", "--control", "offer.sock")
    assert (reloaded.returncode, reloaded.stdout) == (0, "changed: forward.offer\n"), reloaded.stderr
    assert asked(place, b"from now on") == b"FROM NOW ON"
    (folder / "offer.toml").write_text(f'[[forward.to]]\npeer = "{peer}"\nlocal = ["0:{target}"]\n')
    rejected = qg_run("reload", "--control", "offer.sock")
    assert (rejected.returncode, "forward.to: needs a restart" in rejected.stderr) == (1, True)


def test_a_peer_that_is_not_there_ends_it(qg_run: Run, qg_start: Start) -> None:
    node = qg_start("run", "--listen", "tcp://127.0.0.1:0", "--control", "gone.sock")
    address = node.line()
    node.process.kill()
    node.end()
    ended = qg_run("forward", "-L", "0:127.0.0.1:1", address)
    assert (ended.returncode, "127.0.0.1" in ended.stderr) == (1, True)


def test_a_peer_that_offers_nothing_is_named(qg_start: Start, qg_run: Run) -> None:
    node = qg_start("run", "--listen", "tcp://127.0.0.1:0", "--control", "none.sock")
    ended = qg_run("forward", "-L", "0:127.0.0.1:1", node.line())
    assert ended.returncode == 1
    assert "[[forward.offer]]" in ended.stderr


@pytest.mark.parametrize(
    "forward", ["1", "80:127.0.0.1", "name:80:127.0.0.1:1", "80/icmp:127.0.0.1:1", "80:127.0.0.1:0"]
)
def test_what_is_no_forward_is_misuse(qg_run: Run, forward: str) -> None:
    ended = qg_run("forward", "-L", forward, "qg://127.0.0.1:1")
    assert (ended.returncode, forward in ended.stderr) == (2, True)
