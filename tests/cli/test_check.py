# SPDX-License-Identifier: MIT
"""`qg check` finds everything that `qg run` would stumble over, and changes nothing."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


def faults(result: subprocess.CompletedProcess[str]) -> list[str]:
    """Give the settings that were found fault with, in the order of the lines."""
    assert (result.returncode, result.stdout) == (1, "")
    assert "Traceback" not in result.stderr
    return [line.split()[2].rstrip(":") for line in result.stderr.splitlines()]


def test_a_good_configuration_is_said_to_be_good(qg_run: Run, folder: Path) -> None:
    qg_run("keygen", "--no-passphrase", "node.key")
    qg_run("keygen", "--network", "ours.net")
    (folder / "qg.toml").write_text(
        'identity = "node.key"\nnetwork_secret = "ours.net"\n'
        'replay_mark = "node.mark"\ncontrol_socket = "run/qg.sock"\n'
    )
    before = sorted(folder.iterdir())
    result = qg_run("check", "-c", "qg.toml")
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(folder.iterdir()) == before


def test_all_faults_of_the_file_are_told_at_once(qg_run: Run, folder: Path) -> None:
    (folder / "qg.toml").write_text('colour = "red"\nlisten = ["here"]\n[relay]\nallow = "everybody"\n')
    assert faults(qg_run("check", "-c", "qg.toml")) == ["colour", "listen[0]", "relay.allow"]


def test_files_that_are_missing_or_cannot_be_used_are_told_at_once(qg_run: Run, folder: Path) -> None:
    qg_run("keygen", "--network", "ours.net")
    (folder / "ours.net").chmod(0o644)
    (folder / "qg.toml").write_text(
        'identity = "gone.key"\nnetwork_secret = "ours.net"\nnetwork_secret_previous = "gone.net"\n'
    )
    assert faults(qg_run("check", "-c", "qg.toml")) == ["identity", "network_secret", "network_secret_previous"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_told(qg_run: Run, folder: Path) -> None:
    (folder / "closed").mkdir(mode=0o500)
    (folder / "qg.toml").write_text('replay_mark = "closed/node.mark"\n')
    assert faults(qg_run("check", "-c", "qg.toml")) == ["replay_mark"]


def test_the_passphrase_of_a_key_file_is_tried_when_it_is_given(qg_run: Run, folder: Path) -> None:
    (folder / "right").write_text("correct horse\n")
    (folder / "wrong").write_text("battery staple\n")
    assert qg_run("keygen", "--passphrase-file", "right", "node.key").returncode == 0
    (folder / "qg.toml").write_text('identity = "node.key"\n')
    assert qg_run("check", "-c", "qg.toml").returncode == 0
    assert qg_run("check", "-c", "qg.toml", "--passphrase-file", "right").returncode == 0
    assert faults(qg_run("check", "-c", "qg.toml", "--passphrase-file", "wrong")) == ["identity"]


def test_a_configuration_that_is_not_there_is_one_line(qg_run: Run) -> None:
    result = qg_run("check", "-c", "gone.toml")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
