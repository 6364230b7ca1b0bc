# SPDX-License-Identifier: MIT
"""The programs, each with the command line that people paste; docs/clients.md shows the same lines."""

import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from clients.targets import FILE

IS_ASKED_FOR = os.environ.get("QG_CLIENTS") == "1"  # all of them: `tools/dev test --clients`
WAYS = ("direct", "relays", "stopped")  # over the exit, over three relays to it, and the control: it is not there
PASTED = {"proxy": "127.0.0.1:1080", "proxy_host": "127.0.0.1", "proxy_port": "1080", "user": "me", "home": ""}


# What a command finds in its folder; docs/clients.md shows them too.
FILES = {
    "proxychains.conf": "strict_chain\nproxy_dns\n[ProxyList]\nsocks5 {proxy_host} {proxy_port}\n",
    "qg-connect": '#!/bin/sh\nexec nc -X 5 -x {proxy} "$1" "$2"\n',
}


class Program(NamedTuple):
    """A program of somebody else, and how it is told of the proxy."""

    name: str
    needs: tuple[str, ...]  # commands; the first one is asked for its version
    command: str  # of the shell
    target: str  # a server of `Targets`
    got: str = "got"  # the file that has come in the end
    said: str = ""  # what it prints at a good end, instead
    least: int = len(FILE)  # bytes that the exit must have counted
    version: str = "--version"
    options: str = ""  # what only the tests add
    shown: str = ""  # what people paste, where that is not the command
    is_small: bool = False  # runs wherever its command is

    def is_good(self, folder: Path, output: str) -> bool:
        """Tell whether what was asked for has come."""
        if self.said:
            return self.said in output
        got = folder / self.got
        return got.exists() and got.read_bytes()[: len(FILE)] == FILE

    def pasted(self) -> str:
        """Give the command as people paste it."""
        words = PASTED | {"options": "", "at": "example.com", "host": "example.com", "ip": "192.0.2.1"}
        return " ".join((self.shown or self.command).format(**words).split())


def _curl(name: str, line: str, target: str = "web") -> Program:
    return Program(name, ("curl",), f"curl {{options}} {line}", target, options="-fsS -m 50", is_small=target == "web")


def _ssh(name: str, needs: tuple[str, ...], line: str, **more: Any) -> Program:
    proxied = "-o ProxyCommand='nc -X 5 -x {proxy} %h %p'"
    needs = (*needs, "ssh", "nc", "sshd")
    return Program(name, needs, line.replace("PROXIED", proxied), "ssh", options="-F ssh_config", **more)


def _chained(name: str, command: str, line: str, target: str, **more: Any) -> Program:
    line = f"proxychains4 -q -f proxychains.conf {command} {line}"
    return Program(name, (command, "proxychains4"), line, target, **more)


def _torrent(name: str, protocol: str) -> Program:
    line = f"{sys.executable} {{tests}}/torrent.py get {{home}}file.torrent . {{ip}} {{port}} {{proxy}} {protocol}"
    shown = (
        f"enable_outgoing_{protocol}=True, proxy_type=socks5, proxy_hostname={{proxy_host}}, proxy_port={{proxy_port}},"
        " proxy_peer_connections=True"
    )
    return Program(name, (sys.executable,), line, "torrent", got="file", version=_TORRENT, shown=shown)


_TORRENT = "-cimport libtorrent; print(libtorrent.__version__)"
_PYTHON = "python3 -c \"import urllib.request; urllib.request.urlretrieve('http://{at}/file', 'got')\""
_CLONED = {"got": "got/file"}

PROGRAMS = [
    _curl("curl, http", "-x socks5h://{proxy} -o got http://{at}/file"),
    _curl("curl, SOCKS4a", "-x socks4a://{proxy} -o got http://{at}/file"),
    _curl("curl, HTTP CONNECT", "-p -x http://{proxy} -o got http://{at}/file"),
    _curl("curl, user and password", "-x socks5h://alice:any@{proxy} -o got http://{at}/file"),
    _curl("curl, ftp", "-x socks5h://{proxy} -o got ftp://{at}/file", "ftp"),
    Program(
        "wget, http", ("wget",), "http_proxy=http://{proxy} wget -t 1 -O got http://{at}/file", "web", is_small=True
    ),
    Program("Python's urllib", ("python3",), f"http_proxy=http://{{proxy}} {_PYTHON}", "web", is_small=True),
    Program(
        "git, http",
        ("git",),
        "git -c http.proxy=socks5h://{proxy} clone http://{at}/repo.git got",
        "web",
        is_small=True,
        **_CLONED,
    ),
    Program(
        "git, git://",
        ("git", "nc"),
        "git -c core.gitProxy=./qg-connect clone git://{at}/repo.git got",
        "git",
        **_CLONED,
    ),
    _ssh(
        "git, ssh",
        ("git",),
        'git -c core.sshCommand="ssh {options} PROXIED" clone {user}@{host}:{home}repo.git got',
        **_CLONED,
    ),
    _ssh("ssh", (), "ssh {options} PROXIED {user}@{host} cat {home}file > got", version="-V"),
    _ssh("sftp", (), "sftp {options} PROXIED {user}@{host}:{home}file got", version="-V"),
    _ssh("rsync", ("rsync",), 'rsync -e "ssh {options} PROXIED" {user}@{host}:{home}file got'),
    _chained("redis-cli", "redis-cli", "-h {host} {options} get file > got", "redis", options="-p {port}"),
    _chained(
        "iperf3", "iperf3", "-c {host} {options} -n 32M", "iperf", options="-p {port}", said="receiver", least=16 << 20
    ),
    _chained("lftp, ftp", "lftp", "-c '{options} get ftp://{at}/file -o got'", "ftp", options="set net:max-retries 1;"),
    Program(
        "aria2",
        ("aria2c",),
        "aria2c {options} --all-proxy=http://{proxy} -o got http://{at}/file",
        "web",
        options="-m 1",
    ),
    Program(
        "Chromium, 50 resources and 5 MB",
        ("chromium",),
        "chromium {options} --proxy-server=socks5://{proxy} http://{at}/page.html",
        "web",
        said="50 images, 5242880 bytes",
        least=5 << 20,
        options="--headless=new --no-sandbox --disable-gpu --user-data-dir=profile --virtual-time-budget=40000"
        " --proxy-bypass-list='<-loopback>' --dump-dom",
    ),
    _torrent("libtorrent, TCP peers", "tcp"),
    _torrent("libtorrent, uTP over UDP ASSOCIATE", "utp"),
    Program(
        "litecoind, 200 blocks",
        ("litecoind", "litecoin-cli"),
        "sh {tests}/litecoin.sh sync {at} {proxy} .",
        "litecoin",
        said="200 blocks are here",
        least=200 * 200,
        shown="litecoind -proxy={proxy}",
    ),
]
