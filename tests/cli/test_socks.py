# SPDX-License-Identifier: MIT
"""`qg socks` and the exit of `qg run`: a program that knows only HTTP reaches a page behind the exit."""

import http.server
import json
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.net

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Any]
PAGE = b"the page behind the exit\n"


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def target() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def exit_node(qg_start: Start, folder: Path, target: str) -> str:
    (folder / "exit.toml").write_text(f'[exit]\nenabled = true\nrules = ["allow {target}", "deny *"]\n')
    node = qg_start("run", "-c", "exit.toml", "--listen", "tcp://127.0.0.1:0", "--control", "exit.sock")
    address: str = node.line()
    return address


def fetched(proxy: str, target: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": f"http://{proxy}"}))
    with opener.open(f"http://{target}/", timeout=30) as answer:
        page: bytes = answer.read()
        return page


def test_a_program_fetches_a_page_over_an_exit(qg_start: Start, exit_node: str, target: str) -> None:
    proxy = qg_start("socks", "--listen", "127.0.0.1:0", exit_node)
    words = proxy.line().split()
    assert words[:-1] == ["SOCKS5,", "SOCKS4a", "and", "HTTP", "proxy", "on"]
    assert fetched(words[-1], target) == PAGE
    with pytest.raises(urllib.error.HTTPError, match="403"):
        fetched(words[-1], "127.0.0.1:1")


def test_a_proxy_that_others_can_reach_says_so(qg_start: Start, exit_node: str) -> None:
    for host, is_open in (("0.0.0.0", True), ("127.0.0.1", False)):
        proxy = qg_start("socks", "--listen", f"{host}:0", exit_node)
        port = proxy.line().rpartition(":")[2]
        proxy.process.send_signal(signal.SIGINT)
        warning = f"warning: whoever can connect to {host}:{port} may use this proxy"
        assert (warning in proxy.end()[2]) == is_open


def test_check_says_what_works(qg_run: Run, exit_node: str, target: str) -> None:
    good = qg_run("socks", "--check", "--check-target", target, exit_node)
    assert good.returncode == 0, good.stderr
    assert f"connected to {target} in " in good.stdout
    bad = qg_run("socks", "--check", "--check-target", "127.0.0.1:1", exit_node)
    assert (bad.returncode, "not allowed" in bad.stdout) == (1, True)


def test_a_node_that_offers_no_exit_is_named(qg_start: Start, qg_run: Run) -> None:
    node = qg_start("run", "--listen", "tcp://127.0.0.1:0", "--control", "none.sock")
    ended = qg_run("socks", "--listen", "127.0.0.1:0", node.line())
    assert ended.returncode == 1
    assert "is no exit" in ended.stderr
    assert "[exit]" in ended.stderr


def test_rules_that_are_none_are_named_by_the_check(qg_run: Run, folder: Path) -> None:
    (folder / "bad.toml").write_text('[exit]\nrules = ["allow everything everywhere", "permit *"]\n')
    found = qg_run("check", "-c", "bad.toml")
    assert found.returncode == 1
    assert "exit.rules" in found.stdout + found.stderr


def test_a_running_proxy_takes_new_circuits(qg_start: Start, qg_run: Run, exit_node: str, target: str) -> None:
    proxy = qg_start("socks", "--listen", "127.0.0.1:0", exit_node).line().split()[-1]
    assert fetched(proxy, target) == PAGE
    ended = qg_run("socks", "--new-circuits", "--listen", proxy)
    assert (ended.returncode, ended.stdout) == (0, "1 way left behind; new connections take others\n")
    assert fetched(proxy, target) == PAGE


def test_new_circuits_for_nobody_say_what_to_do(qg_run: Run) -> None:
    ended = qg_run("socks", "--new-circuits", "--listen", "127.0.0.1:1")
    assert ended.returncode == 1
    assert "no `qg socks` of this user runs at 127.0.0.1:1" in ended.stderr


@pytest.mark.parametrize("is_named", [True, False])
def test_a_peer_of_the_configuration_is_the_exit(
    qg_start: Start, qg_run: Run, exit_node: str, target: str, folder: Path, is_named: bool
) -> None:
    (folder / "near.toml").write_text(f'peers = ["{exit_node}"]\n')
    exit_id = json.loads(qg_run("status", "--json", "--control", "exit.sock").stdout)["peer_id"]
    name = [exit_id] if is_named else []
    proxy = qg_start("socks", "-c", "near.toml", "--listen", "127.0.0.1:0", *name)
    assert fetched(proxy.line().split()[-1], target) == PAGE
