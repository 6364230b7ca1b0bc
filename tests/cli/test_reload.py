# SPDX-License-Identifier: MIT
"""`qg reload` and SIGHUP: a running node takes what its files say now, or says what is wrong and goes on as before."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli.test_drain import log_wait

import qg

pytestmark = pytest.mark.net

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Any]

LISTEN = 'listen = ["tcp://127.0.0.1:0"]\n'


@pytest.fixture
def node(qg_start: Start, qg_run: Run, folder: Path) -> Any:
    """Give a running node with a configuration and a key file, and the address in its `address`."""
    assert qg_run("keygen", "--no-passphrase", "node.key").returncode == 0
    (folder / "qg.toml").write_text('identity = "node.key"\n' + LISTEN)
    running = qg_start("run", "-c", "qg.toml")
    running.address = running.line()
    return running


def test_a_changed_file_is_taken_and_what_changed_is_named(node: Any, qg_run: Run, folder: Path) -> None:
    assert qg_run("ping", "-n", "1", node.address).returncode == 0
    nobody = qg.Identity.generate().peer_id
    (folder / "qg.toml").write_text(
        f'identity = "node.key"\nallow = ["{nobody}"]\nlog_level = "debug"\n{LISTEN}[limits]\nsinks = 7\n'
    )
    result = qg_run("reload")
    assert (result.returncode, result.stdout) == (0, "changed: allow, log_level, limits.sinks\n"), result.stderr
    assert qg_run("reload").stdout == "nothing has changed\n"
    log_wait(node, "changes=allow,log_level,limits.sinks")
    assert node.process.poll() is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("colour = 1\n[limits]\nsinks = 0\n", ["colour", "limits.sinks"]),
        ('allow = "members"\n', ["allow"]),
        ('network_secret = "gone.net"\n', ["gone.net"]),
        ("allow = []\nallow_unlocked = false\n[limits]\nsessions = 7\n", ["allow_unlocked", "limits.sessions"]),
        ("this is not TOML\n", ["TOML"]),
    ],
)
def test_a_file_that_is_wrong_is_rejected_whole_line_by_line(
    node: Any, qg_run: Run, folder: Path, text: str, names: list[str]
) -> None:
    tables = text.partition("[")
    (folder / "qg.toml").write_text(f'identity = "node.key"\n{LISTEN}{tables[0]}{tables[1]}{tables[2]}')
    result = qg_run("reload")
    assert (result.returncode, result.stdout) == (1, "")
    lines = result.stderr.splitlines()
    assert len(lines) == len(names)
    for line, name in zip(lines, names, strict=True):
        assert line.startswith("qg: ")
        assert name in line
        assert name in log_wait(node, "reload_rejected")
    assert qg_run("ping", "-n", "1", node.address).returncode == 0
    (folder / "qg.toml").write_text('identity = "node.key"\n' + LISTEN)
    assert qg_run("reload").stdout == "nothing has changed\n"


def test_a_hangup_does_the_same_and_says_it_in_the_log(node: Any, qg_run: Run, folder: Path) -> None:
    (folder / "qg.toml").write_text('identity = "node.key"\nlisten = []\n')
    node.process.send_signal(signal.SIGHUP)
    assert "listen: needs a restart" in log_wait(node, "reload_rejected")
    (folder / "qg.toml").write_text(f'identity = "node.key"\nlog_format = "json"\n{LISTEN}')
    node.process.send_signal(signal.SIGHUP)
    log_wait(node, "changes=log_format")
    assert qg_run("stop").returncode == 0
    assert json.loads(node.end()[2].splitlines()[-1])["event"] == "node_closed"


def test_a_rotated_key_is_taken(node: Any, qg_run: Run, folder: Path) -> None:
    identity = qg.Identity.load(folder / "node.key")
    identity.rotate_link_key()
    identity.save(folder / "node.key")
    assert qg_run("reload").returncode == 0
    assert json.loads(qg_run("status", "--json").stdout)["link_key"] == str(identity.link_key)
    key, _, place = node.address.rpartition("@")
    for address in (node.address, f"qg://{identity.link_key}@{place}"):
        assert qg_run("ping", "-n", "1", address).returncode == 0
    assert key != f"qg://{identity.link_key}"


def test_a_key_file_of_another_identity_is_rejected(node: Any, qg_run: Run, folder: Path) -> None:
    qg.Identity.generate().save(folder / "node.key")
    result = qg_run("reload")
    assert result.returncode == 1
    assert "another identity" in result.stderr


def test_a_key_that_got_a_passphrase_needs_it(node: Any, qg_run: Run, folder: Path) -> None:
    qg.Identity.load(folder / "node.key").save(folder / "node.key", passphrase="correct horse")
    result = qg_run("reload")
    assert result.returncode == 1
    assert "--passphrase-file" in result.stderr


def test_options_of_the_command_line_still_win(qg_start: Start, qg_run: Run, folder: Path) -> None:
    (folder / "qg.toml").write_text('log_level = "error"\n')
    running = qg_start("run", "-c", "qg.toml", "--listen", "tcp://127.0.0.1:0", "--log-level", "info")
    running.line()
    (folder / "qg.toml").write_text('log_level = "warning"\nlisten = ["tcp://127.0.0.1:1"]\n')
    assert qg_run("reload").stdout == "nothing has changed\n"


def test_without_a_node_it_is_one_line(qg_run: Run) -> None:
    result = qg_run("reload")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
