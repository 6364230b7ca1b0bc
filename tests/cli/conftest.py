# SPDX-License-Identifier: MIT
"""Run `qg` as people do: as a process of its own, in an empty folder."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TIMEOUT_S = 60


class Running:
    """A `qg` process in the background."""

    def __init__(self, arguments: tuple[str, ...], folder: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "qg", *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """Wait for the next line of its output."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            pytest.fail(f"it ended with {self.process.wait(TIMEOUT_S)}: {self.process.stderr.read()}")  # type: ignore[union-attr]
        return line.rstrip("\n")

    def end(self) -> tuple[int, str, str]:
        """Wait for its end; return the exit code and what it printed last."""
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, out, err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"XDG_RUNTIME_DIR": str(tmp_path), "COLUMNS": "120"}


@pytest.fixture
def qg_run(folder: Path, environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command to its end."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "qg", *arguments]
        return subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    return run


@pytest.fixture
def qg_start(folder: Path, environment: dict[str, str]) -> Iterator[Callable[..., Running]]:
    """Start a command in the background; what still runs at the end of the test is killed."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str) -> Running:
            running = Running(arguments, folder, environment)
            stack.enter_context(running.process)
            stack.callback(running.process.kill)
            return running

        yield start
