# SPDX-License-Identifier: MIT
"""`qg run` under a service manager: it tells how it goes, logs what machines read, and shows its figures."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from qg.errors import LocalError, UsageError
from qg.notify import Notifier
from qg.status import COUNTERS

pytestmark = pytest.mark.net

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Any]
LOOPBACK = ("--listen", "tcp://127.0.0.1:0")
UNIT = Path(__file__).parents[2] / "contrib/systemd/qg.service"


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, environment: dict[str, str]) -> Iterator[socket.socket]:
    """Be a service manager: the socket that the started service is told to notify."""
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("abstract sockets are Linux's")
    name = str(tmp_path / "notify") if request.param == "path" else f"@{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(name.replace("@", "\0", 1))
        heard.settimeout(60)
        environment["NOTIFY_SOCKET"] = name
        yield heard


def told(manager: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in manager.recv(4096).decode().splitlines())


def told_until(manager: socket.socket, key: str) -> dict[str, str]:
    while key not in (message := told(manager)):
        pass
    return message


def test_the_manager_is_told_of_start_and_stop_and_hears_the_watchdog(
    qg_start: Start, manager: socket.socket, environment: dict[str, str]
) -> None:
    environment["WATCHDOG_USEC"] = "100000"
    node = qg_start("run", "--notify", *LOOPBACK)
    told_until(manager, "READY")
    for _ in range(3):
        assert told_until(manager, "WATCHDOG")["WATCHDOG"] == "1"
    node.line()  # it listens when it is ready
    node.process.send_signal(signal.SIGTERM)
    assert "30 s" in told_until(manager, "STOPPING")["STATUS"]
    assert int(told_until(manager, "EXTEND_TIMEOUT_USEC")["EXTEND_TIMEOUT_USEC"]) > 30_000_000
    assert node.end()[0] == 0


def test_the_watchdog_hears_nothing_while_a_thread_is_stuck(tmp_path: Path) -> None:
    turns = [True, False, False, True]

    async def main() -> None:
        with contextlib.closing(Notifier(str(tmp_path / "notify"), 0.0)) as notifier:
            await notifier.watch(turns.pop)

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        with pytest.raises(IndexError):  # the turns have run out
            asyncio.run(main())
        heard.setblocking(False)
        assert [told(heard) for _ in range(2)] == [{"WATCHDOG": "1"}] * 2
        with pytest.raises(BlockingIOError):
            told(heard)


def test_the_manager_is_asked_for_patience_while_the_key_file_is_not_there(
    qg_start: Start, manager: socket.socket
) -> None:
    node = qg_start("run", "--notify", "--wait-for-key", "-i", "gone.key", *LOOPBACK)
    assert "gone.key" in told_until(manager, "STATUS")["STATUS"]
    for _ in range(2):
        assert int(told_until(manager, "EXTEND_TIMEOUT_USEC")["EXTEND_TIMEOUT_USEC"]) > 1_000_000
    node.process.send_signal(signal.SIGTERM)
    assert node.end()[0] == 0


def test_the_manager_is_told_of_a_reload(qg_start: Start, manager: socket.socket) -> None:
    node = qg_start("run", "--notify", *LOOPBACK)
    told_until(manager, "READY")
    before_us = time.monotonic_ns() // 1000
    node.process.send_signal(signal.SIGHUP)
    assert int(told_until(manager, "RELOADING")["MONOTONIC_USEC"]) >= before_us
    told_until(manager, "READY")


def test_a_watchdog_for_another_process_is_not_ours(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
        for pid, watchdog_s in ((1, None), (os.getpid(), 0.5)):
            with contextlib.closing(Notifier.from_environment(environment | {"WATCHDOG_PID": str(pid)})) as notifier:
                assert notifier.watchdog_s == watchdog_s


def test_a_manager_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="NOTIFY_SOCKET is not set"):
        Notifier.from_environment({})
    with pytest.raises(UsageError, match="abstract"):
        Notifier("vsock:2:1234")
    with pytest.raises(LocalError, match="nobody listens"):
        Notifier(str(tmp_path / "gone"))


def test_notify_without_a_manager_is_misuse(qg_run: Run, environment: dict[str, str]) -> None:
    environment.pop("NOTIFY_SOCKET", None)
    result = qg_run("run", "--notify", *LOOPBACK)
    assert result.returncode == 1
    assert "NOTIFY_SOCKET" in result.stderr


def test_each_line_of_a_json_log_is_an_object_with_the_fields_of_its_event(qg_start: Start, qg_run: Run) -> None:
    node = qg_start("run", "--log-format", "json", *LOOPBACK)
    address = node.line()
    assert qg_run("ping", "-n", "1", address).returncode == 0
    assert qg_run("stop").returncode == 0
    lines = [json.loads(line) for line in node.end()[2].splitlines()]
    by_event = {line["event"]: line for line in lines}
    assert {"no_key_file", "node_started", "running", "peer_up", "peer_down", "closing", "node_closed"} <= set(by_event)
    assert all(line["time"].endswith("+00:00") and line["logger"].startswith("qg.") for line in lines)
    up = by_event["peer_up"]
    assert (up["level"], up["relayed"]) == ("info", False)
    assert up["remote"].startswith("127.0.0.1:")
    assert by_event["peer_down"]["peer"] == up["peer"]


def metrics_url(node: Any) -> str:
    for line in node.process.stderr:
        if "url=" in line:
            return str(line).rpartition("url=")[2].strip()
    raise AssertionError("no figures were offered")


def test_prometheus_reads_the_figures(qg_start: Start, qg_run: Run, folder: Path) -> None:
    (folder / "qg.toml").write_text('listen = ["tcp://127.0.0.1:0"]\nmetrics = "127.0.0.1:0"\n')
    node = qg_start("run", "-c", "qg.toml")
    address = node.line()
    url = metrics_url(node)
    assert qg_run("ping", "-n", "1", address).returncode == 0
    with urllib.request.urlopen(url, timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = answer.read().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {f"qg_{name}" for name in COUNTERS} <= set(families)
    assert families["qg_handshakes"].type == "counter"
    assert families["qg_handshakes"].samples[0].name == "qg_handshakes_total"
    assert families["qg_handshakes"].samples[0].value == 1
    assert families["qg_received_bytes"].samples[0].value > 2000
    assert families["qg_relayed_bytes"].samples[0].value == 0
    assert families["qg_build_info"].samples[0].labels["version"]
    assert all(family.documentation for family in families.values())
    status = json.loads(qg_run("status", "--json").stdout)
    assert status["peer_id"] not in text
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(url.replace("/metrics", "/"), timeout=60)


def test_figures_for_other_machines_have_to_be_asked_for(qg_run: Run, folder: Path) -> None:
    (folder / "qg.toml").write_text('metrics = "0.0.0.0:9464"\n')
    result = qg_run("run", "-c", "qg.toml")
    assert result.returncode == 2
    assert "metrics_remote" in result.stderr


def test_addresses_that_are_advertised_take_the_place_of_those_listened_on(qg_start: Start, folder: Path) -> None:
    (folder / "qg.toml").write_text(
        'listen = ["tcp://127.0.0.1:0"]\nadvertise = ["tcp://203.0.113.7:7447", "tcp://[2001:db8::7]:7447"]\n'
    )
    node = qg_start("run", "-c", "qg.toml")
    assert node.line().endswith("@203.0.113.7:7447")
    assert node.line().endswith("@[2001:db8::7]:7447")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit_and_finds_it_confined(tmp_path: Path) -> None:
    unit = tmp_path / "qg.service"
    unit.write_text(UNIT.read_text().replace("/opt/qg/bin/qg", sys.executable))
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit], capture_output=True, text=True
    )
    assert judged.returncode == 0, judged.stdout
