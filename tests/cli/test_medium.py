# SPDX-License-Identifier: MIT
"""`qg run` with a key file on a medium that comes later and goes again."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli.test_drain import log_wait
from cli.test_run import LOOPBACK, one_error

pytestmark = pytest.mark.net

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Any]


@pytest.mark.parametrize("by", ["option", "file"])
def test_the_node_starts_once_its_key_file_is_there(qg_start: Start, qg_run: Run, folder: Path, by: str) -> None:
    medium = folder / "medium"
    (folder / "qg.toml").write_text('identity = "medium/node.key"\nwait_for_key = true\n')
    given = ("-i", "medium/node.key", "--wait-for-key") if by == "option" else ("-c", "qg.toml")
    node = qg_start("run", *given, *LOOPBACK)
    assert "medium/node.key" in log_wait(node, "key_awaited")
    assert qg_run("keygen", "--no-passphrase", "node.key").returncode == 0
    (folder / "plugged").mkdir()
    (folder / "node.key").rename(folder / "plugged" / "node.key")
    (folder / "plugged").rename(medium)
    address = node.line()
    assert qg_run("ping", "-n", "1", address).returncode == 0
    assert json.loads(qg_run("status", "--json").stdout)["peer_id"] in qg_run("address", "medium/node.key").stdout
    assert qg_run("stop").returncode == 0
    code, _, err = node.end()
    assert code == 0
    assert "key_awaited" not in err  # it was said once


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait(qg_start: Start, number: signal.Signals) -> None:
    node = qg_start("run", "--wait-for-key", "-i", "node.key", *LOOPBACK)
    log_wait(node, "key_awaited")
    node.process.send_signal(number)
    assert node.end() == (0, "", "")


def test_without_the_option_a_missing_key_file_is_one_line(qg_run: Run) -> None:
    assert "node.key does not exist" in one_error(qg_run("run", "-i", "node.key", *LOOPBACK), 1)


def test_there_must_be_a_key_file_to_wait_for(qg_run: Run) -> None:
    assert "--identity" in one_error(qg_run("run", "--wait-for-key", *LOOPBACK), 2)


def test_a_key_file_that_comes_later_is_no_fault_of_a_configuration(qg_run: Run, folder: Path) -> None:
    (folder / "qg.toml").write_text('identity = "node.key"\n')
    assert qg_run("check", "-c", "qg.toml").returncode == 1
    (folder / "qg.toml").write_text('identity = "node.key"\nwait_for_key = true\n')
    assert qg_run("check", "-c", "qg.toml").returncode == 0


def test_a_node_goes_on_and_reloads_when_its_key_file_is_gone(qg_start: Start, qg_run: Run, folder: Path) -> None:
    assert qg_run("keygen", "--no-passphrase", "node.key").returncode == 0
    (folder / "qg.toml").write_text('identity = "node.key"\n')
    node = qg_start("run", "-c", "qg.toml", *LOOPBACK)
    address = node.line()
    for name in ("node.key", "node.key.mark"):
        (folder / name).unlink()
    assert qg_run("ping", "-n", "1", address).returncode == 0
    (folder / "qg.toml").write_text('identity = "node.key"\nlog_level = "debug"\n')
    assert "log_level" in qg_run("reload").stdout
    assert qg_run("ping", "-n", "1", address).returncode == 0
    (folder / "qg.toml").write_text('identity = "other.key"\n')
    assert "identity" in qg_run("reload").stderr  # a restart is needed to be somebody else
    assert qg_run("stop").returncode == 0
    assert node.end()[0] == 0
