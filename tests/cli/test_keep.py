# SPDX-License-Identifier: MIT
"""`peers` in the configuration: another node that restarts is found again."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli.test_drain import log_wait

pytestmark = pytest.mark.net

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Any]


def test_a_peer_of_the_configuration_is_dialled_again_after_its_restart(
    qg_start: Start, qg_run: Run, folder: Path
) -> None:
    assert qg_run("keygen", "--no-passphrase", "there.key").returncode == 0
    there = ("run", "-i", "there.key", "--control", "there.sock", "--listen")
    address = qg_start(*there, "tcp://127.0.0.1:0").line()
    endpoint = f"tcp://{address.rpartition('@')[2]}"
    (folder / "qg.toml").write_text(f'peers = ["{address}"]\n')
    node = qg_start("run", "-c", "qg.toml")
    log_wait(node, " peer_up ")

    assert qg_run("stop", "--control", "there.sock").returncode == 0
    log_wait(node, " peer_down ")
    (kept,) = json.loads(qg_run("status", "--json").stdout)["kept"]
    assert (kept["address"], kept["is_connected"]) == (address, False)
    assert f"{endpoint.removeprefix('tcp://')} {kept['peer_id'][:8]}" in qg_run("status").stdout

    qg_start(*there, endpoint).line()
    log_wait(node, " peer_up ")
    assert json.loads(qg_run("status", "--json").stdout)["kept"][0]["is_connected"]
