# SPDX-License-Identifier: MIT
"""Ten thousand small files: `qg send` and `scp -r`, whole commands, to receivers that run already; nobody syncs."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks.harness import AEGIS, SCP, Figures, compare
from benchmarks.peers import ssh
from benchmarks.program import ROOT, Program

N_FILES, FILE_LEN, N_FOLDERS = 10_000, 4096, 100
QG = [sys.executable, "-m", "qg"]


class Receiver(NamedTuple):
    """A program that waits for files in a folder, and what sends them there."""

    program: Program
    folder: Path
    command: list[str]


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    """Folders of files that no two are alike, read by everybody."""
    with tempfile.TemporaryDirectory(prefix="qg-files-") as name:
        root = Path(name) / "tree"
        for idx in range(N_FILES):
            folder = root / f"{idx % N_FOLDERS:02}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{idx:05}").write_bytes(os.urandom(FILE_LEN))
        Path(name).chmod(0o755)
        yield root


@contextmanager
def qg_receiver(tree: Path, folder: Path) -> Iterator[Receiver]:
    log = folder.parent / "receive.log"
    command = [*QG, "receive", str(folder), "--listen", "tcp://127.0.0.1:0"]
    with Program(command, log, cwd=ROOT) as program:
        program.ready(lambda: log.exists() and "qg://" in log.read_text())
        address = next(word for word in log.read_text().split() if word.startswith("qg://"))
        yield Receiver(program, folder, [*QG, "send", str(tree), address])


@contextmanager
def scp_receiver(tree: Path, folder: Path) -> Iterator[Receiver]:
    shutil.chown(folder, ssh.server_account().pw_uid)
    with ssh.server(folder.parent) as server:
        yield Receiver(server.program, folder, server.scp(tree, folder))


def sending_measure(receiver: Any, tree: Path) -> Figures:
    with tempfile.TemporaryDirectory(prefix="qg-files-") as name:
        Path(name).chmod(0o755)
        (Path(name) / "got").mkdir()
        with receiver(tree, Path(name) / "got") as (_, folder, command):
            began_s = time.perf_counter()
            subprocess.run(command, check=True, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
            wall_s = time.perf_counter() - began_s
            assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) == N_FILES * FILE_LEN
    return {"wall_s": wall_s, "files_per_s": N_FILES / wall_s}


def test_files(benchmark: Any, tree: Path) -> None:
    candidates = {AEGIS: qg_receiver, SCP: scp_receiver}
    compare(benchmark, {name: partial(sending_measure, receiver, tree) for name, receiver in candidates.items()})
