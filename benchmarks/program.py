# SPDX-License-Identifier: MIT
"""Programs that know nothing of the harness: find them, run them on ports of loopback, read their clocks, end them.

What `tools/dev bench --peers` could not install for the whole system lies unpacked under build/peers.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import which
from types import ModuleType
from typing import Any, NamedTuple, Protocol, Self

ROOT = Path(__file__).resolve().parent.parent
UNPACKED = ROOT / "build" / "peers"
_FOLDERS = ("usr/bin", "usr/sbin")
_PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", *(str(UNPACKED / folder) for folder in _FOLDERS)])
_READY_S, _END_S = 120.0, 10.0
_LISTENING = "0A"  # of the states in /proc/net/tcp


class NotInstalled(Exception):
    """Says what is missing, and how to install it."""


class Clocked(Protocol):
    """A process, or several that work as one, whose CPU time can be read."""

    def cpu_s(self) -> float: ...


class Tunnel(NamedTuple):
    """A way through other processes: what tells a plain TCP client where it begins, and the processes by name."""

    hello: dict[str, Any]
    processes: dict[str, Clocked]


def program_find(name: str, package: str) -> str:
    """Give the path of a program that comes with that Debian package."""
    if found := which(name, path=_PATH):
        return found
    raise NotInstalled(f"{name} is not installed: apt-get install {package}, or tools/dev bench --peers")


def distribution_version(name: str) -> str:
    """Give the version of a Python distribution."""
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        raise NotInstalled(f"{name} is not installed: pip install {name}, or tools/dev bench --peers") from None


def output_of(*command: str) -> str:
    """Run something that prints its version, wherever it prints it."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
    return done.stdout


def environment() -> dict[str, str]:
    libraries = [str(folder) for folder in UNPACKED.glob("usr/lib/*-linux-*")]
    libraries += [str(folder) for folder in UNPACKED.glob("lib/*-linux-*")]
    return os.environ | ({"LD_LIBRARY_PATH": os.pathsep.join(libraries)} if libraries else {})


def program_compile(source: Path, needed: Path, options: Sequence[str]) -> Path:
    """Give the program made of one C file; it is compiled unless it is newer than that and than `needed`."""
    program = ROOT / "build" / "benchmarks" / source.stem
    newest_s = max(path.stat().st_mtime for path in (source, needed))
    if not program.exists() or program.stat().st_mtime < newest_s:
        program.parent.mkdir(parents=True, exist_ok=True)
        command = [*native_tools().compiler_command(), "-O3", "-Wall", "-Wextra", str(source), *options]
        done = subprocess.run([*command, "-o", str(program)], capture_output=True, text=True)
        if done.returncode:
            raise NotInstalled(f"{source.name} cannot be compiled: {done.stderr.splitlines()[0]}; see its first lines")
    return program


def native_tools() -> ModuleType:
    """Give the module that finds the compiler, and the libraries that qg itself is linked with."""
    sys.path.insert(0, str(ROOT / "tools"))
    return import_module("native")


def ports_free(n: int, host: str = "127.0.0.1") -> list[int]:
    """Give ports that nobody listens on now."""
    sockets = [socket.create_server((host, 0)) for _ in range(n)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def process_cpu_s(pid: int) -> float:
    """CPU seconds of all threads of a process, exact also while they run (clock_getcpuclockid(3))."""
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e9


def descendants(pid: int) -> list[int]:
    """Give a process and all that come from it."""
    children: list[str] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            children += path.read_text().split()
    return [pid, *(found for child in children for found in descendants(int(child)))]


def is_running(pid: int) -> bool:
    """Tell whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Program:
    """A process and its children from the making of this object to the end of the `with` block."""

    def __init__(self, command: Sequence[str], log: Path, **options: Any) -> None:
        self._log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment(), **options
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu_s(self) -> float:
        return sum(process_cpu_s(pid) for pid in descendants(self.pid))

    def ready(self, is_ready: Callable[[], bool]) -> None:
        """Wait until it is ready; raises with its log when it ends before, or takes too long."""
        end_s = time.monotonic() + _READY_S
        while not is_ready():
            if self._process.poll() is not None or time.monotonic() > end_s:
                raise ChildProcessError(f"{self._process.args!r} is not ready: {self._log.read_text()[-2000:]}")
            time.sleep(0.05)

    def listening(self, port: int) -> None:
        """Wait until somebody listens on that port of this machine; nobody is connected to find out."""
        self.ready(lambda: port_is_open(port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        end_s = time.monotonic() + _END_S
        while (children := [*filter(is_running, descendants(self.pid)[1:])]) and time.monotonic() < end_s:
            with suppress(ProcessLookupError):  # from the last on, so that each is reaped by its parent
                os.kill(children[-1], signal.SIGTERM)
            time.sleep(0.05)
        self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def port_is_open(port: int) -> bool:
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(
        local.endswith(f":{port:04X}") and state == _LISTENING for _, local, _, state, *_ in map(str.split, lines)
    )
