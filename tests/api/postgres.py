# SPDX-License-Identifier: MIT
"""A real PostgreSQL, of Debian's packages or the system's, on a socket of its own."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = [*ROOT.glob("build/postgres/usr/lib/postgresql/*/bin"), *Path("/usr/lib/postgresql").glob("*/bin")]


def program(name):
    """Find one of its programs; unpacked packages come first."""
    path = os.pathsep.join(map(str, PLACES)) + os.pathsep + os.environ["PATH"]
    return shutil.which(name, path=path)


def unprivileged(folder):
    """What runs a command as somebody who is not root, which the server refuses."""
    if os.geteuid():
        return []
    os.chown(folder, 65534, 65534)
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.fixture
def open_folder():
    """A folder that others than this user can reach: pytest's own are shut."""
    with tempfile.TemporaryDirectory(prefix="qg-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


class Postgres:
    """A server in a folder."""

    def __init__(self, folder):
        self.folder = folder
        self._as = unprivileged(folder)
        libraries = ":".join(str(path) for path in (ROOT / "build/postgres").glob("usr/lib/*-linux-gnu*"))
        self._environment = os.environ | {"LD_LIBRARY_PATH": libraries, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        self._run("initdb", "--auth=trust", "--username=qg", "--no-sync", "-D", folder / "data")
        self.start()

    @property
    def url(self):
        return f"postgresql://qg@/postgres?host={self.folder}"

    def start(self):
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off"
        self._run("pg_ctl", "-w", "-D", self.folder / "data", "-l", self.folder / "log", "-o", options, "start")

    def stop(self):
        self._run("pg_ctl", "-w", "-D", self.folder / "data", "-m", "immediate", "stop")

    def _run(self, name, *arguments):
        command = [*self._as, program(name), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=60,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout


@pytest.fixture
def postgres(open_folder):
    if program("initdb") is None or program("pg_ctl") is None:
        pytest.skip("no PostgreSQL here: tools/dev test unpacks it on Debian and Ubuntu")
    pytest.importorskip("asyncpg")
    server = Postgres(open_folder)
    yield server
    server.stop()


@pytest.fixture
def postgres_url(postgres):
    return postgres.url
