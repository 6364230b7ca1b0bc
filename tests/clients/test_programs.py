# SPDX-License-Identifier: MIT
"""Programs that nobody here wrote reach their targets over an exit, and nothing without it."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clients.ground import PATH, processes_of
from clients.ground import ground as ground_make
from clients.programs import FILES, IS_ASKED_FOR, PASTED, PROGRAMS, WAYS
from clients.report import PAGE

pytestmark = pytest.mark.net


def run(program, way, ground, targets, folder):
    """Run a program in its folder; tells whether it ended well, and what it said."""
    port = targets.port(program.target)
    proxy = ground.proxy(way)
    words = {
        "proxy": proxy,
        "proxy_host": proxy.partition(":")[0],
        "proxy_port": proxy.partition(":")[2],
        "host": ground.name,
        "ip": ground.host,
        "port": port,
        "at": f"{ground.name}:{port}",
        "user": "root",
        "home": f"{targets.folder}/",
        "tests": Path(__file__).parent,
    }
    for name, text in (FILES | targets.files).items():
        (folder / name).write_text(text.format(**words))
        (folder / name).chmod(0o700)
    command = program.command.format(**words, options=program.options.format(**words))
    done = ground.here.run("sh", "-c", f"cd '{folder}' && {command}")
    said = done.stdout + done.stderr
    return done.returncode == 0 and program.is_good(folder, said), said


def grown(ground, before):
    """Give what the exit has counted since: connections, bytes out and bytes in, by target."""
    rows = ground.exit.counts()[1]
    changed = {
        name: [n - m for n, m in zip(row, before.get(name, (0, 0, 0)), strict=True)] for name, row in rows.items()
    }
    return {name: row for name, row in changed.items() if any(row)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name.replace(" ", "-"))
def test_a_program(program, way, ground, targets, tmp_path):
    if not (program.is_small or IS_ASKED_FOR):
        pytest.skip("runs by `tools/dev test --clients`")
    missing = [command for command in program.needs if not shutil.which(command, path=PATH)]
    if missing:
        assert not IS_ASKED_FOR, f"not installed: {missing}"
        pytest.skip(f"not installed: {missing}")
    before = ground.exit.settled()[1]
    is_good, said = run(program, way, ground, targets, tmp_path)
    if way == "stopped":
        assert not is_good, said
        assert not grown(ground, before)
        return
    assert is_good, said
    port = targets.port(program.target)
    places = [f"{kind}{host}:{port}" for kind in ("", "udp ") for host in (ground.name, ground.host)]
    until_s = time.monotonic() + 30
    while not has_gone(grown(ground, before), program.least, places):
        assert time.monotonic() < until_s, grown(ground, before)
        time.sleep(0.05)


def has_gone(rows, n_bytes, places):
    """Tell whether so many bytes went over the exit, some of them to or from one of these places."""
    return sum(sum(row[1:]) for row in rows.values()) >= n_bytes and not rows.keys().isdisjoint(places)


def test_the_target_is_out_of_reach_but_for_the_exit(ground, targets):
    if not ground.is_apart:
        pytest.skip("this machine grants no network namespaces")
    port = targets.port("web")
    probe = f"import socket; socket.create_connection(('{ground.host}', {port}), 5)"
    assert "Network is unreachable" in ground.here.run("python3", "-c", probe).stderr
    assert ground.there.run("python3", "-c", probe).returncode == 0


DATAGRAM = """
import socket, sys
host, port, target = sys.argv[1].rpartition(":")[0], int(sys.argv[1].rpartition(":")[2]), sys.argv[2]
with socket.create_connection((host, port), 30) as front, socket.socket(type=socket.SOCK_DGRAM) as here:
    front.sendall(b"\\5\\1\\0" + b"\\5\\3\\0\\1" + bytes(6))
    answer = b""
    while len(answer) < 12:
        answer += front.recv(12 - len(answer))
    there = socket.inet_ntoa(answer[6:10]), int.from_bytes(answer[10:])
    here.sendto(bytes(3) + b"\\1" + socket.inet_aton(target) + (9).to_bytes(2) + b"hello", there)
    sys.stdin.read()
"""


def test_datagrams_are_counted_for_their_target(ground):
    before = ground.exit.settled()[1]
    ground.here.start(sys.executable, "-c", DATAGRAM, ground.proxy("direct"), ground.host, stdin=subprocess.PIPE)
    until_s = time.monotonic() + 30
    while not grown(ground, before).get(f"udp {ground.host}:9", [0])[0]:
        assert time.monotonic() < until_s, ground.exit.counts()
        time.sleep(0.05)


def test_no_process_and_no_namespace_is_left(tmp_path):
    with ground_make(tmp_path) as made:
        made.proxy("relays")
        assert len(processes_of(tmp_path)) > 5
    assert not processes_of(tmp_path)


@pytest.mark.skipif(IS_ASKED_FOR, reason="this run writes the table")
def test_the_page_has_the_commands_as_they_were_tried():
    page = PAGE.read_text()
    for program in PROGRAMS:
        assert f"| `{program.pasted()}` | works | works |" in page
    for text in FILES.values():
        assert text.format(**PASTED) in page
