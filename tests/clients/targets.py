# SPDX-License-Identifier: MIT
"""The servers that programs are pointed at, on the side of the exit; each starts when it is first asked for."""

import random
import sys
from functools import cache
from pathlib import Path

FILE = random.Random(64).randbytes(1 << 20)  # what programs fetch


class Targets:
    """Start servers, and give the port that each listens on."""

    def __init__(self, ground):
        self._ground = ground
        self._side = ground.there
        self.folder = self._side.folder / "served"
        self.folder.mkdir()
        (self.folder / "file").write_bytes(FILE)
        self.port = cache(self._port)

    def _port(self, name):
        """Start this server, and give its port."""
        port = self._side.port_free(self._ground.host)
        getattr(self, f"_{name}")(self._ground.host, port)
        return port

    def _web(self, host, port):
        self._repository()
        self._side.serve(host, port, sys.executable, Path(__file__).with_name("web.py"), host, port, self.folder)

    def _repository(self):
        work = self.folder / "work"
        if not work.exists():
            self._git("init", "-q", work)
            (work / "file").write_bytes(FILE)
            self._git("-C", work, "add", "file")
            self._git("-C", work, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-qm", "file")
            self._git("clone", "-q", "--bare", work, self.folder / "repo.git")

    def _git(self, *words):
        done = self._side.run("git", *words)
        assert done.returncode == 0, done.stderr
