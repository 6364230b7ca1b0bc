# SPDX-License-Identifier: MIT
"""`qg run`, `qg status`, `qg stop`: a node as a process that people and service managers handle."""

import json
import os
import resource
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.net

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Any]

LOOPBACK = ("--listen", "tcp://127.0.0.1:0")


def one_error(result: subprocess.CompletedProcess[str], code: int) -> str:
    assert (result.returncode, result.stdout) == (code, "")
    errors = [line for line in result.stderr.splitlines() if line.startswith("qg: ")]
    assert len(errors) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return errors[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_cleanly(qg_start: Start, folder: Path, number: signal.Signals) -> None:
    node = qg_start("run", *LOOPBACK)
    assert node.line().startswith("qg://")
    node.process.send_signal(number)
    code, out, err = node.end()
    assert (code, out) == (0, "")
    assert "Traceback" not in err
    assert not (folder / "qg.sock").exists()


def test_status_and_stop_reach_the_running_node(qg_start: Start, qg_run: Run, folder: Path) -> None:
    node = qg_start("run", *LOOPBACK)
    address = node.line()
    assert stat.S_IMODE((folder / "qg.sock").stat().st_mode) == 0o600

    ping = qg_run("ping", "--count", "2", "--interval", "0.005", address)
    assert ping.returncode == 0, ping.stderr
    assert "round trip 2:" in ping.stdout

    status = json.loads(qg_run("status", "--json").stdout)
    assert status["link_key"] in address
    assert status["peers"] == []
    assert {"links", "relayed_bytes", "counters", "memory_bytes", "locked_bytes", "clock_skew_s"} <= set(status)
    assert status["peer_id"] in qg_run("status").stdout

    assert qg_run("stop").returncode == 0
    assert node.end()[0] == 0
    assert "qg run" in one_error(qg_run("status"), 1)


def test_the_configuration_file_is_read_and_options_win(qg_start: Start, qg_run: Run, folder: Path) -> None:
    qg_run("keygen", "--no-passphrase", "node.key")
    (folder / "qg.toml").write_text(
        'identity = "node.key"\nlisten = ["tcp://127.0.0.1:0"]\ncontrol_socket = "own.sock"\nlog_level = "error"\n'
    )
    node = qg_start("run", "-c", "qg.toml", "--log-level", "info", "--listen", "tcp://127.0.0.2:0")
    address = node.line()
    assert "@127.0.0.2:" in address
    key = qg_run("address", "node.key").stdout
    status = json.loads(qg_run("status", "--json", "--control", "own.sock").stdout)
    assert status["peer_id"] in key
    assert qg_run("stop", "--control", "own.sock").returncode == 0
    assert "control_socket=own.sock" in node.end()[2]


def test_an_identity_of_a_file_keeps_a_replay_mark_beside_it_which_one_node_has(
    qg_start: Start, qg_run: Run, folder: Path
) -> None:
    qg_run("keygen", "--no-passphrase", "node.key")
    node = qg_start("run", *LOOPBACK, "--identity", "node.key")
    address = node.line()
    assert qg_run("ping", "--count", "1", address).returncode == 0
    assert int.from_bytes((folder / "node.key.mark").read_bytes()) > time.time()
    second = qg_run("run", *LOOPBACK, "--identity", "node.key", "--control", "second.sock")
    assert "node.key.mark" in one_error(second, 1)
    assert "node.key.mark" in one_error(qg_run("receive", *LOOPBACK, "--identity", "node.key"), 1)
    assert qg_run("stop").returncode == 0
    assert node.end()[0] == 0
    assert (folder / "node.key.mark").read_bytes()[:8] == bytes(8)  # of a clean stop


def test_the_previous_secret_of_a_network_is_taken_too(qg_start: Start, qg_run: Run, folder: Path) -> None:
    for name in ("old", "new"):
        assert qg_run("keygen", "--network", f"{name}.net").returncode == 0
    node = qg_start("run", *LOOPBACK, "--network", "new.net", "--network-previous", "old.net")
    address = node.line()
    for name in ("old", "new"):
        assert qg_run("ping", "--count", "1", "--network", f"{name}.net", address).returncode == 0
    assert "--network" in one_error(qg_run("run", *LOOPBACK, "--network-previous", "old.net"), 2)


def test_every_fault_of_a_configuration_is_told_at_once(qg_run: Run, folder: Path) -> None:
    (folder / "qg.toml").write_text('colour = "red"\n[relay]\nallow = "everybody"\n')
    result = qg_run("run", "-c", "qg.toml")
    assert result.returncode == 2
    assert [line.split(":")[:2] for line in result.stderr.splitlines()] == [["qg", " qg.toml"], ["qg", " qg.toml"]]


def test_a_port_in_use_is_one_line(qg_run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        assert endpoint in one_error(qg_run("run", "--listen", endpoint), 1)


@pytest.mark.parametrize(("content", "mode"), [(b"QGKEY1\r\n\0damaged", 0o600), (b"", 0o600), (None, 0o644)])
def test_a_key_file_that_cannot_be_used_is_one_line(
    qg_run: Run, folder: Path, content: bytes | None, mode: int
) -> None:
    if content is None:
        qg_run("keygen", "--no-passphrase", "node.key")
    else:
        (folder / "node.key").write_bytes(content)
    (folder / "node.key").chmod(mode)
    assert "node.key" in one_error(qg_run("run", "--identity", "node.key", *LOOPBACK), 1)


def test_members_without_a_closed_network_is_one_line(qg_run: Run) -> None:
    assert "closed network" in one_error(qg_run("run", "--relay", "members", *LOOPBACK), 2)


def test_a_second_node_does_not_take_the_socket_of_the_first(qg_start: Start, qg_run: Run) -> None:
    node = qg_start("run", *LOOPBACK)
    node.line()
    assert "--control" in one_error(qg_run("run", *LOOPBACK), 1)
    assert qg_run("status").returncode == 0


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads the limit of another process from /proc")
def test_the_soft_limit_of_descriptors_is_raised(qg_start: Start) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        node = qg_start("run", *LOOPBACK)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    node.line()
    limits = Path(f"/proc/{node.process.pid}/limits").read_text()
    soft, hard = next(line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files"))
    assert soft == hard


@pytest.mark.slow
def test_a_stranger_gets_silence_and_is_counted(qg_start: Start, qg_run: Run) -> None:
    for name in ("ours.net", "theirs.net"):
        qg_run("keygen", "--network", name)
    address = qg_start("run", "--network", "ours.net", *LOOPBACK).line()
    assert qg_run("ping", "-n", "1", "--network", "ours.net", address).returncode == 0
    assert "bad_envelope" not in json.loads(qg_run("status", "--json").stdout)["counters"]
    assert "silence" in one_error(qg_run("ping", "-n", "1", "--network", "theirs.net", address), 1)
    assert json.loads(qg_run("status", "--json").stdout)["counters"]["bad_envelope"] == 1


def test_a_relay_for_members_carries_a_ping(qg_start: Start, qg_run: Run, folder: Path) -> None:
    qg_run("keygen", "--network", "ours.net")
    target = qg_start("run", "--network", "ours.net", *LOOPBACK, "--control", "target.sock")
    address = target.line()
    port = address.rpartition(":")[2]
    (folder / "relay.toml").write_text(
        f'listen = ["tcp://127.0.0.1:0"]\n[relay]\ntargets = ["127.0.0.0/8"]\nports = [{port}]\n'
    )
    relay = qg_start("run", "-c", "relay.toml", "--network", "ours.net", "--relay", "members")
    result = qg_run("ping", "-n", "1", "--network", "ours.net", "--via", relay.line(), address)
    assert result.returncode == 0, result.stderr
    assert json.loads(qg_run("status", "--json").stdout)["relayed_bytes"] > 0
