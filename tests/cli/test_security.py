# SPDX-License-Identifier: MIT
"""`qg security`: the level of a running node is shown and changed."""

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from qg.security import LEVELS

pytestmark = pytest.mark.net

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def node(qg_start: Callable[..., Any], qg_run: Run, folder: Path) -> Any:
    assert qg_run("keygen", "--no-passphrase", "node.key").returncode == 0
    (folder / "qg.toml").write_text('identity = "node.key"\nsecurity = "two"\nlisten = ["tcp://127.0.0.1:0"]\n')
    running = qg_start("run", "-c", "qg.toml")
    running.line()
    return running


def marked(qg_run: Run) -> str:
    """The line of the level that is in force."""
    result = qg_run("security")
    assert result.returncode == 0, result.stderr
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert all(level in result.stdout for level in LEVELS)
    return next((line for line in result.stdout.splitlines() if line.startswith("*")), "")


def test_the_level_is_shown_and_changed_until_the_configuration_is_read_again(node: Any, qg_run: Run) -> None:
    assert marked(qg_run).startswith("* two")
    result = qg_run("security", "four")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("changed: security, ")
    assert "cover.mode" in result.stdout
    assert marked(qg_run).startswith("* four")
    assert "level four" in qg_run("status").stdout
    assert qg_run("security", "four").stdout == "level four is in force already\n"
    assert "cover.mode" in qg_run("reload").stdout
    assert marked(qg_run).startswith("* two")


def test_a_level_that_there_is_not_is_refused(node: Any, qg_run: Run) -> None:
    result = qg_run("security", "six")
    assert result.returncode == 2
    assert "five" in result.stderr


def test_a_node_that_goes_by_its_own_settings_is_at_no_level(qg_start: Callable[..., Any], qg_run: Run) -> None:
    qg_start("run", "--listen", "tcp://127.0.0.1:0").line()
    assert marked(qg_run) == ""
    assert "[link] and [cover] of its configuration hold" in qg_run("security").stdout
