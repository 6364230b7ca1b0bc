# SPDX-License-Identifier: MIT
"""`qg chat` between processes: through pipes, and in a terminal."""

import importlib.util
import os
import pty
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.net

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Any]
TIMEOUT_S = 30


@pytest.fixture
def host(qg_start: Start) -> tuple[Any, str]:
    """A host with nobody at its keyboard, and its address."""
    running = qg_start("chat", "--listen", "tcp://127.0.0.1:0", "--nick", "anna", "--history", "anna.txt")
    return running, running.line()


def said(words: str, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run `qg chat` with words from a pipe."""
    command = [sys.executable, "-m", "qg", "chat", *arguments]
    return subprocess.run(command, input=words, capture_output=True, text=True, timeout=TIMEOUT_S, **settings)


def test_lines_from_a_pipe_are_said_and_that_ends_it(host: tuple[Any, str], folder: Path) -> None:
    running, address = host
    run = said("hi\n\nthere \x1b[31m\nlast, without an end", address, "--nick", "ben")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("* anna ")
    lines = [running.line() for _ in range(5)]
    name = lines[0].removeprefix("* ").removesuffix(" is here")
    assert name.startswith("ben ")
    assert lines[1:] == [
        f"<{name}> hi",
        f"<{name}> there \\x1b[31m",
        f"<{name}> last, without an end",
        f"* {name} has gone",
    ]
    history = folder / "anna.txt"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert [line[20:] for line in history.read_text().splitlines()] == lines


def test_commands_are_done_here(host: tuple[Any, str]) -> None:
    running, address = host
    run = said("/who\n/help\n/nothing\n/quit\nnot any more\n", address, "--nick", "ben")
    assert run.returncode == 0
    here, *lines = run.stdout.splitlines()
    assert lines[0] == here.removesuffix(" is here")
    assert [line.split()[1] for line in lines[1:]] == ["/who", "/who"]
    assert [running.line().split()[-1] for _ in range(2)] == ["here", "gone"]


def test_a_long_line_becomes_several(host: tuple[Any, str]) -> None:
    running, address = host
    assert said("-" * 1500, address, "--nick", "ben").returncode == 0
    _, *lines, _ = (running.line() for _ in range(4))
    assert [line.count("-") for line in lines] == [1000, 500]


def test_a_signal_ends_a_host_in_order(host: tuple[Any, str]) -> None:
    running, _ = host
    running.process.send_signal(signal.SIGINT)
    assert running.end() == (0, "", "")


def test_another_room_is_told_from_a_wrong_address(host: tuple[Any, str]) -> None:
    run = said("hi", host[1], "--room", "cellar")
    assert (run.returncode, run.stdout) == (1, "")
    assert "--room" in run.stderr


def test_misuse_is_one_line(qg_run: Run) -> None:
    for arguments, word in (
        (("--nick", "anna"), "--listen"),
        (("--listen", "tcp://127.0.0.1:0", "--nick", "a b"), "24"),
    ):
        run = qg_run("chat", *arguments)
        assert (run.returncode, run.stdout) == (2, "")
        assert run.stderr.startswith("qg: ")
        assert run.stderr.count("\n") == 1
        assert word in run.stderr


class Terminal:
    """`qg chat` in a terminal: what it shows is collected, what is typed goes there."""

    def __init__(self, *arguments: str, hidden: str = "") -> None:
        hide = f"sys.modules[{hidden!r}] = None; " if hidden else ""
        code = f"import sys; {hide}from qg.cli import main; main(sys.argv[1:])"
        self.screen = ""
        self.is_edited = not hidden
        self._near, far = pty.openpty()
        environment = os.environ | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        command = [sys.executable, "-c", code, "chat", *arguments]
        self.process = subprocess.Popen(
            command, stdin=far, stdout=far, stderr=far, env=environment, start_new_session=True
        )
        os.close(far)

    def shows(self, text: str) -> None:
        while text not in self.screen:
            if not self._read():
                pytest.fail(f"it ended, without {text!r}: {self.screen!r}")

    def _read(self) -> bool:
        """Take more of what is shown; False when it has ended."""
        if not select.select([self._near], [], [], TIMEOUT_S)[0]:
            pytest.fail(f"nothing comes any more: {self.screen!r}")
        try:
            self.screen += os.read(self._near, 65536).decode()
        except OSError:  # how the near side is told that the far one is closed
            return False
        return True

    def type(self, keys: str) -> None:
        os.write(self._near, keys.encode())

    def end(self) -> int:
        while self._read():
            pass
        return self.process.wait(TIMEOUT_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._near)


@pytest.fixture(params=["plain", "edited"])
def terminal(request: Any, host: tuple[Any, str]) -> Iterator[Terminal]:
    if request.param == "edited" and importlib.util.find_spec("prompt_toolkit") is None:
        pytest.skip("prompt_toolkit is not installed")
    made = Terminal(host[1], "--nick", "ben", hidden="prompt_toolkit" if request.param == "plain" else "")
    yield made
    made.close()


def test_two_people_talk_in_terminals(terminal: Terminal, host: tuple[Any, str]) -> None:
    running, address = host
    terminal.shows("* anna ")
    assert running.line().endswith(" is here")
    terminal.type("hello from a keyboard\r")
    assert running.line().endswith("> hello from a keyboard")
    assert said("hello from a pipe\n", address, "--nick", "carl").returncode == 0
    terminal.shows(" by anna> hello from a pipe")
    terminal.type("/quit\r")
    assert terminal.end() == 0
    assert "Traceback" not in terminal.screen


def test_the_end_of_input_ends_it(terminal: Terminal) -> None:
    terminal.shows("* anna ")
    if terminal.is_edited:
        terminal.shows(">")  # from here on keys are taken as they come
    terminal.type("\x04")
    assert terminal.end() == 0


def test_a_host_that_goes_and_a_line_that_nobody_hears_are_told(terminal: Terminal, host: tuple[Any, str]) -> None:
    terminal.shows("* anna ")
    host[0].process.kill()
    terminal.shows(" has gone")
    terminal.type("anybody?\r")
    terminal.shows("* nobody is here")
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.end() == 0
