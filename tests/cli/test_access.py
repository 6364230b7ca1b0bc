# SPDX-License-Identifier: MIT
"""`qg access`: rules for a running node, as an operator makes them."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import qg

pytestmark = pytest.mark.net

Run = Callable[..., subprocess.CompletedProcess[str]]

ANNA = str(qg.PeerId(bytes(32)))


@pytest.fixture
def node(qg_start: Callable[..., Any], qg_run: Run, folder: Path) -> Any:
    """Give a running node with a store."""
    assert qg_run("keygen", "--no-passphrase", "node.key").returncode == 0
    config = 'identity = "node.key"\nlisten = ["tcp://127.0.0.1:0"]\n[access]\nstore = "sqlite:access.db"\n'
    (folder / "qg.toml").write_text(config)
    running = qg_start("run", "-c", "qg.toml")
    running.address = running.line()
    return running


def test_rules_are_made_shown_explained_and_taken_away(node: Any, qg_run: Run, folder: Path) -> None:
    assert qg_run("access", "block", "192.0.2.0/24", "2001:db8::1", "--note", "scans").stdout == "2 rules changed\n"
    assert qg_run("access", "allow", "192.0.2.7").returncode == 0
    named = qg_run("access", "allow", ANNA, "--name", "anna", "--relay", "--no-exit", "--rate", "64")
    assert named.returncode == 0, named.stderr
    shown = qg_run("access", "list").stdout
    assert shown.splitlines()[:2] == ["store  ready", "allow  anyone"]
    for words in ("192.0.2.0/24  blocked  scans", "192.0.2.7/32  allowed", "2001:db8::1/128", "anna"):
        assert " ".join(words.split()) in " ".join(shown.split())
    refused = qg_run("access", "check", "192.0.2.1")
    assert (refused.returncode, refused.stdout) == (
        1,
        "192.0.2.1: may not connect: 192.0.2.0/24 is blocked (scans)\n",
    )
    allowed = qg_run("access", "check", "192.0.2.7")
    assert (allowed.returncode, allowed.stdout.splitlines()[0]) == (
        0,
        "192.0.2.7: may connect: 192.0.2.7/32 is allowed",
    )
    assert "anna is allowed, may relay, may not use the exit, gets 64 KiB/s" in qg_run("access", "check", "anna").stdout
    assert qg_run("access", "block", "anna").returncode == 0
    assert qg_run("access", "check", ANNA).returncode == 1
    assert "may relay" in qg_run("access", "check", "anna").stdout  # what was said before stays
    assert qg_run("access", "forget", "anna", "192.0.2.0/24").returncode == 0
    assert qg_run("access", "check", "192.0.2.1").returncode == 0
    assert qg_run("access", "pardon", "192.0.2.1").stdout.startswith("192.0.2.1: may connect")
    assert json.loads(qg_run("status", "--json").stdout)["access"] == "ready"
    assert qg_run("stop").returncode == 0
    assert node.end()[0] == 0


def test_a_rule_ends_sessions_and_keeps_strangers_out(node: Any, qg_run: Run) -> None:
    assert qg_run("ping", "-n", "1", node.address).returncode == 0
    assert qg_run("access", "block", "127.0.0.0/8").returncode == 0
    assert qg_run("ping", "-n", "1", "--timeout", "1", node.address).returncode == 1
    assert qg_run("access", "allow", "127.0.0.0/8").returncode == 0
    assert qg_run("ping", "-n", "1", node.address).returncode == 0


def test_what_shuts_everybody_out_has_to_be_said_twice(node: Any, qg_run: Run) -> None:
    refused = qg_run("access", "block", "0.0.0.0/0", "::/0")
    assert refused.returncode == 1
    assert refused.stderr.splitlines() == [
        "qg: warning: no IPv4 address could connect any more: allow a network first",
        "qg: warning: no IPv6 address could connect any more: allow a network first",
        "qg: nothing was changed; --yes does it all the same",
    ]
    assert qg_run("access", "check", "127.0.0.1").returncode == 0
    assert qg_run("access", "block", "0.0.0.0/0", "::/0", "--yes").returncode == 0
    assert qg_run("access", "check", "127.0.0.1").returncode == 1


def test_lists_come_from_files(node: Any, qg_run: Run, folder: Path) -> None:
    lines = [f"10.{n // 256}.{n % 256}.0/24" for n in range(20_000)]
    (folder / "bad.txt").write_text("# known for spam\n" + "\n".join(lines) + "\n\n192.0.2.1 # one\n")
    assert qg_run("access", "block", "--from", "bad.txt").stdout == "20001 rules changed\n"
    assert qg_run("access", "check", "10.5.7.9").returncode == 1
    assert qg_run("access", "check", "11.5.7.9").returncode == 0
    assert qg_run("access", "forget", "--from", "bad.txt").stdout == "20001 rules changed\n"
    assert qg_run("access", "check", "10.5.7.9").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("block",), "name a network or a peer"),
        (("block", "10.0.0.1/8"), "has bits behind the first 8"),
        (("block", "nobody"), "not 6"),
        (("check", "10.0.0.0/8"), "ask for one address"),
        (("forget", "10.0.0.0/8"), "has no rule"),
        (("allow", "10.0.0.0/8", "--relay"), "are of peers"),
        (("allow", "10.0.0.0/8", "11.0.0.0/8", "--name", "x"), "give one peer"),
        (("pardon", "10.0.0.0/8"), "is not an IP address"),
    ],
)
def test_what_is_wrong_is_said(node: Any, qg_run: Run, arguments: tuple[str, ...], words: str) -> None:
    result = qg_run("access", *arguments)
    assert result.returncode in (1, 2)
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
