# SPDX-License-Identifier: MIT
"""pproxy as a SOCKS5 proxy that connects itself, in one process and without encryption."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.program import Program, Tunnel, distribution_version, ports_free

HOST = "127.0.0.1"
# As it comes from PyPI: it takes uvloop where that is installed, and fails to start with versions of today.
START = "import sys; sys.modules['uvloop'] = None; from pproxy.server import main; main()"


def version() -> str:
    return distribution_version("pproxy")


@contextmanager
def proxy() -> Iterator[Tunnel]:
    version()
    (port,) = ports_free(1)
    with tempfile.TemporaryDirectory(prefix="qg-pproxy-") as name:
        command = [sys.executable, "-c", START, "-l", f"socks5://{HOST}:{port}"]
        with Program(command, Path(name) / "pproxy.log") as process:
            process.listening(port)
            yield Tunnel({"port": port}, {"entry": process})
