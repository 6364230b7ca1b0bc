# SPDX-License-Identifier: MIT
"""Programs that nobody here wrote reach their targets over an exit, and nothing without it."""

import shutil
import time

import pytest
from clients.ground import ground as ground_make
from clients.ground import processes_of
from clients.programs import IS_ASKED_FOR, PROGRAMS, WAYS
from clients.report import PAGE
from clients.targets import FILE

pytestmark = pytest.mark.net

# What a test adds to a command: it ends soon when nothing comes.
OPTIONS = {"curl": "-fsS -m 50"}


def run(program, way, ground, targets, folder):
    """Run a program in its folder; tells whether it ended well, and what it said."""
    port = targets.port(program.target)
    proxy = ground.proxy(way)
    words = {
        "proxy": proxy,
        "proxy_host": proxy.partition(":")[0],
        "proxy_port": proxy.partition(":")[2],
        "host": ground.name,
        "port": port,
        "at": f"{ground.name}:{port}",
        "options": OPTIONS.get(program.needs[0], ""),
        "user": "root",
    }
    done = ground.here.run("sh", "-c", f"cd '{folder}' && {program.command.format(**words)}")
    return done.returncode == 0 and program.proof(folder), done.stdout + done.stderr


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
    missing = [command for command in program.needs if not shutil.which(command)]
    if missing:
        assert not IS_ASKED_FOR, f"not installed: {missing}"
        pytest.skip(f"not installed: {missing}")
    before = ground.exit.counts()[1]
    is_good, said = run(program, way, ground, targets, tmp_path)
    if way == "stopped":
        assert not is_good, said
        assert not grown(ground, before)
        return
    assert is_good, said
    until_s = time.monotonic() + 30
    while sum(sum(row[1:]) for row in grown(ground, before).values()) < len(FILE):
        assert time.monotonic() < until_s, grown(ground, before)
        time.sleep(0.05)
    assert f"{ground.name}:{targets.port(program.target)}" in grown(ground, before)


def test_the_target_is_out_of_reach_but_for_the_exit(ground, targets):
    if not ground.is_apart:
        pytest.skip("this machine grants no network namespaces")
    port = targets.port("web")
    probe = f"import socket; socket.create_connection(('{ground.host}', {port}), 5)"
    assert "Network is unreachable" in ground.here.run("python3", "-c", probe).stderr
    assert ground.there.run("python3", "-c", probe).returncode == 0


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
