# SPDX-License-Identifier: MIT
"""The command line teaches, answers misuse in one line, and starts fast."""

import subprocess
import sys
from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner

from qg._core import _build_info
from qg.cli import COMMANDS, main

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_help_names_every_command_with_what_it_does() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.output


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_each_command_has_examples_that_name_it(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    examples = result.output.partition("Examples:")[2]
    assert f"qg {name}" in examples


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_explains_every_option(name: str) -> None:
    command = main.get_command(None, name)  # type: ignore[arg-type]
    assert command
    unexplained = [option.name for option in command.params if isinstance(option, click.Option) and not option.help]
    assert not unexplained


def test_without_a_command_the_help_is_shown_and_it_counts_as_misuse() -> None:
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 2
    assert "Usage: qg" in result.stderr


in_builds_for_use = pytest.mark.skipif(_build_info.IS_TEST, reason="a build for measurements has a null cipher")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nothing"], "nothing"),
        (["run", "--colour"], "--colour"),
        (["run", "--listen", "tcp://somewhere:1"], "somewhere"),
        (["run", "--relay", "everybody"], "PeerID"),
        (["run", "--relay", "none", "--relay", "members"], "stands alone"),
        (["ping"], "ADDRESS"),
        (["ping", "http://example.org"], "qg://"),
        (["ping", "qg://127.0.0.1:1", "--via", "qg://127.0.0.1:2"], "link key"),
        (["send", "file"], "ADDRESS"),
        (["demo", "--size", "many"], "many"),
        (["bench"], "link"),
        (["bench", "link", "--suite", "rot13"], "aegis-256"),
        pytest.param(["bench", "link", "--suite", "null"], "aegis-256", marks=in_builds_for_use),
        (["keygen", "node.key"], "--no-passphrase"),
    ],
)
def test_misuse_is_one_line_that_names_the_fault_and_where_to_look(arguments: list[str], word: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("qg: ")
    assert result.stderr.count("\n") == 1
    assert word in result.stderr
    assert "--help" in result.stderr


def test_help_imports_no_command_and_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from qg.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)\n"
    )
    modules = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.split())
    assert "qg.cli" in modules
    assert not {f"qg.cli.{name}" for name in COMMANDS} & modules
    assert not {"asyncio", "msgspec", "ssl", "logging", "subprocess", "qg._core.runtime"} & modules


def test_an_interrupt_at_a_question_is_one_line_and_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    command = main.get_command(None, "version")  # type: ignore[arg-type]

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "callback", lambda **_: interrupted())
    result = CliRunner().invoke(main, ["version"])
    assert (result.exit_code, result.stderr.strip()) == (1, "qg: interrupted")


def test_version_says_what_it_was_built_from_and_which_suites_it_has(qg_run: Run) -> None:
    short, long = qg_run("version"), qg_run("version", "--verbose")
    assert short.returncode == long.returncode == 0
    assert long.stdout.startswith(short.stdout)
    facts = dict(line.split("  ", 1) for line in long.stdout.splitlines()[1:])
    assert "ChaCha20-Poly1305" in facts["suites"]
    assert {"libsodium", "libuv", "compiler", "flags", "CPU features"} <= set(facts)
