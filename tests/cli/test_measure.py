# SPDX-License-Identifier: MIT
"""`qg demo` and `qg bench` with little to do: what they print, and that they fail when something is wrong."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from qg.cli import demo, main
from qg.cli.measure import Role, roles_run, suite_check
from qg.cli.tree import tree_digest

pytestmark = [pytest.mark.net, pytest.mark.slow]

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Any]

BENCH_KEYS = {
    "link": {"mb_per_s", "cpu_s_per_gb"},
    "relay": {"mb_per_s", "cpu_s_per_gb"},
    "circuit": {"mb_per_s", "cpu_s_per_gb", "p50_us", "p99_us", "build_ms", "hops", "circuits"},
    "ping": {"p50_us", "p99_us"},
    "handshake": {"handshakes_per_s", "cpu_ms_per_handshake", "bytes_per_idle_session"},
    "messages": {"messages_per_s"},
}


@pytest.mark.parametrize("suite", [None, "chacha20-poly1305"])
def test_the_demo_moves_a_file_and_a_tree_and_shows_what_it_cost(qg_run: Run, suite: str | None) -> None:
    result = qg_run("demo", "--size", "2M", *(["--suite", suite] if suite else []))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("equal at C") == 2
    for word in (suite or "three processes", "MB/s", "CPU s/GB", "resident MB", "A sender", "B relay", "C receiver"):
        assert word in result.stdout


def test_the_demo_goes_over_as_many_relays_as_told(qg_run: Run) -> None:
    result = qg_run("demo", "--size", "2M", "--hops", "3")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("A -> B -> C -> D -> E: five processes, ")
    assert "A-E through B, C, D" in result.stdout
    assert result.stdout.count("equal at E") == 2
    for row in ("A sender", "B relay", "C relay", "D relay", "E receiver"):
        assert row in result.stdout


def test_the_demo_leaves_nothing_behind(folder: Path, environment: dict[str, str], qg_run: Run) -> None:
    environment["TMPDIR"] = str(folder)
    assert qg_run("demo", "--size", "1M").returncode == 0
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_leaves_nothing_behind(
    folder: Path, environment: dict[str, str], qg_start: Start, number: signal.Signals
) -> None:
    environment["TMPDIR"] = str(folder)
    running = qg_start("demo", "--size", "1G")
    assert running.line().startswith("A -> B -> C")
    running.process.send_signal(number)
    code, _, err = running.end()
    assert (code, err.strip()) == (1, "qg: interrupted")
    assert list(folder.iterdir()) == []


def test_the_demo_fails_loudly_when_the_file_differs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Damage the received file on the disk, behind the back of everybody."""

    def spoil(self: Role, do: str, **arguments: Any) -> Any:
        if do == "file_digest":
            received = next(tmp_path.glob("qg-demo-*/received/random.bin"))
            received.write_bytes(received.read_bytes()[:-1] + b"\0")
        return ask(self, do, **arguments)

    ask = Role.ask
    monkeypatch.setattr(demo.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Role, "ask", spoil)
    result = CliRunner().invoke(main, ["demo", "--size", "1M"])
    assert result.exit_code == 1
    assert "the file differs at C" in result.stderr


def test_the_demo_says_when_the_disk_is_too_small() -> None:
    result = CliRunner().invoke(main, ["demo", "--size", "1000T"])
    assert result.exit_code == 1
    assert "--size" in result.stderr


@pytest.mark.parametrize("what", sorted(BENCH_KEYS))
def test_bench_gives_one_object_with_the_figures_of_its_kind(qg_run: Run, what: str) -> None:
    result = qg_run("bench", what, "--seconds", "0.2", "--suite", "chacha20-poly1305", "--json")
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert set(figures) == BENCH_KEYS[what] | {"suite", "seconds"}
    assert (figures.pop("suite"), figures.pop("seconds")) == ("chacha20-poly1305", 0.2)
    cpu_s_per_gb = figures.pop("cpu_s_per_gb", None)
    if cpu_s_per_gb:
        relays = {"relay": {"relay"}, "circuit": {"relay 1", "relay 2", "relay 3"}}.get(what, set())
        assert set(cpu_s_per_gb) == {"sender", "receiver", "total"} | relays
        assert cpu_s_per_gb.pop("total") == pytest.approx(sum(cpu_s_per_gb.values()))
    assert all(value > 0 for value in figures.values())


def test_bench_builds_as_many_circuits_of_as_many_relays_as_told(qg_run: Run) -> None:
    lines = qg_run("bench", "circuit", "--hops", "2", "--circuits", "3", "--seconds", "0.2").stdout.splitlines()
    assert lines[0].startswith("circuit, 2 relays, 3 circuits, ")
    assert sum("CPU s/GB, relay" in line for line in lines) == 2


def test_bench_prints_figures_with_their_units(qg_run: Run) -> None:
    lines = qg_run("bench", "link", "--seconds", "0.2").stdout.splitlines()
    assert lines[0].startswith("link, ")
    assert any(line.endswith("MB/s") for line in lines)
    assert any(line.endswith("CPU s/GB, total") for line in lines)


def test_a_process_that_cannot_do_its_part_is_one_error() -> None:
    with roles_run(None) as (sender, _, _):
        with pytest.raises(click.ClickException, match=r"sender.*qg://"):
            sender.ask("connect", address="nowhere")
        assert sender.ask("usage")["cpu_s"] > 0


def test_messages_are_counted_although_the_receiver_learns_of_the_session_last() -> None:
    with roles_run(None) as (sender, _, receiver):
        receiver.post("messages_take")
        sender.ask("connect", address=receiver.hello["address"])
        receiver.answer()
        sender.ask("push", what="messages")
        end_s = time.monotonic() + 60
        while receiver.ask("usage")["n_messages"] == 0:
            assert time.monotonic() < end_s


def test_a_process_that_dies_is_one_error() -> None:
    with roles_run(None) as (sender, _, _):
        sender.process.kill()
        with pytest.raises(click.ClickException, match="ended with -9"):
            sender.ask("usage")


def test_a_suite_that_is_not_used_is_an_error() -> None:
    suite_check(None, "aegis-256")
    suite_check("aegis-256", "aegis-256")
    with pytest.raises(click.ClickException, match="leave out --suite"):
        suite_check("aegis-256", "aes-256-gcm")


def test_a_tree_and_its_copy_have_one_digest_and_another_tree_has_not(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "a").write_bytes(b"a")
    (tree / "b").symlink_to("deep/a")
    shutil.copytree(tree, tmp_path / "copy" / "tree", symlinks=True)
    before = tree_digest(tree)
    assert tree_digest(tmp_path / "copy" / "tree") == before
    assert before["n_files"] == 2
    (tree / "deep" / "a").write_bytes(b"b")
    assert tree_digest(tree)["digest"] != before["digest"]
