# SPDX-License-Identifier: MIT
"""The programs, each with the command line that people paste; docs/clients.md shows the same lines."""

import os
from pathlib import Path
from typing import NamedTuple

from clients.targets import FILE

IS_ASKED_FOR = os.environ.get("QG_CLIENTS") == "1"  # all of them: `tools/dev test --clients`
WAYS = ("direct", "relays", "stopped")  # over the exit, over three relays to it, and the control: it is not there
PASTED = {"proxy": "127.0.0.1:1080", "proxy_host": "127.0.0.1", "proxy_port": "1080", "options": "", "user": "me"}


class Program(NamedTuple):
    """A program of somebody else, and how it is told of the proxy."""

    name: str
    needs: tuple[str, ...]  # commands; the first one is asked for its version
    command: str  # of the shell
    target: str  # a server of `Targets`
    got: str = "got"  # the file that has come in the end
    version: str = "--version"
    is_small: bool = False  # runs wherever its command is

    def proof(self, folder: Path) -> bool:
        """Tell whether what was asked for has come."""
        got = folder / self.got
        return got.exists() and got.read_bytes() == FILE

    def pasted(self) -> str:
        """Give the command as people paste it."""
        return " ".join(self.command.format(at="example.com", host="example.com", **PASTED).split())


def _small(*arguments: str, **options: str) -> Program:
    name, command, line, target = arguments
    return Program(name, (command,), line, target, is_small=True, **options)


_PYTHON = "python3 -c \"import urllib.request; urllib.request.urlretrieve('http://{at}/file', 'got')\""

PROGRAMS = [
    _small("curl, http", "curl", "curl {options} -x socks5h://{proxy} -o got http://{at}/file", "web"),
    _small("curl, SOCKS4a", "curl", "curl {options} -x socks4a://{proxy} -o got http://{at}/file", "web"),
    _small("curl, HTTP CONNECT", "curl", "curl {options} -p -x http://{proxy} -o got http://{at}/file", "web"),
    _small(
        "curl, user and password",
        "curl",
        "curl {options} -x socks5h://alice:any@{proxy} -o got http://{at}/file",
        "web",
    ),
    _small("wget, http", "wget", "http_proxy=http://{proxy} wget -t 1 -O got http://{at}/file", "web"),
    _small(
        "git, http",
        "git",
        "git -c http.proxy=socks5h://{proxy} clone http://{at}/repo.git got",
        "web",
        got="got/file",
    ),
    _small("Python's urllib", "python3", f"http_proxy=http://{{proxy}} {_PYTHON}", "web"),
]
