# SPDX-License-Identifier: MIT
"""`qg send` and `qg receive` between processes: the file is there whole, or both ends say why not."""

import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import qg

pytestmark = pytest.mark.net

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Any]

CONTENT = os.urandom(3_000_000)
HUGE_LEN = 8 << 30  # sparse; nobody waits for its end
LOOPBACK = ("--listen", "tcp://127.0.0.1:0")


@pytest.fixture
def file(folder: Path) -> Path:
    (folder / "inbox").mkdir()
    path = folder / "photo.jpg"
    path.write_bytes(CONTENT)
    return path


def one_error(text: str) -> str:
    assert text.startswith("qg: "), text
    assert text.count("\n") == 1, text
    return text


def test_a_file_arrives_and_both_ends_print_its_hash(qg_start: Start, qg_run: Run, folder: Path, file: Path) -> None:
    receiver = qg_start("receive", "inbox", *LOOPBACK)
    sent = qg_run("send", "photo.jpg", receiver.line())
    assert (sent.returncode, sent.stderr) == (0, "")
    code, out, err = receiver.end()
    assert (code, err) == (0, "")
    digest = hashlib.blake2b(CONTENT, digest_size=32).hexdigest()
    assert sent.stdout.startswith(f"{digest}  photo.jpg  ")
    assert out.startswith(f"{digest}  inbox/photo.jpg  ")
    assert (folder / "inbox" / "photo.jpg").read_bytes() == CONTENT


def test_a_file_goes_through_a_relay_that_the_sender_names(
    qg_start: Start, qg_run: Run, folder: Path, file: Path
) -> None:
    for name in ("sender.key", "relay.key"):
        qg_run("keygen", "--no-passphrase", name)
    sender = qg_run("address", "sender.key").stdout.split()[1]
    receiver = qg_start("receive", "inbox", "--from", sender, *LOOPBACK)
    address = receiver.line()
    (folder / "relay.toml").write_text(
        'identity = "relay.key"\nlisten = ["tcp://127.0.0.1:0"]\n'
        f'[relay]\ntargets = ["127.0.0.0/8"]\nports = [{address.rpartition(":")[2]}]\n'
    )
    relay = qg_start("run", "-c", "relay.toml", "--relay", sender)
    sent = qg_run("send", "photo.jpg", address, "--via", relay.line(), "--identity", "sender.key")
    assert sent.returncode == 0, sent.stderr
    code, out, _ = receiver.end()
    assert code == 0
    assert sender in out
    assert (folder / "inbox" / "photo.jpg").read_bytes() == CONTENT
    assert json.loads(qg_run("status", "--json").stdout)["relayed_bytes"] > len(CONTENT)


@pytest.fixture
def two_relays(qg_start: Start, qg_run: Run, folder: Path) -> tuple[str, str, str]:
    """The addresses of two relays in a row and of a node that answers behind them, each in a network of its own."""
    ids = {}
    for name in ("sender", "one", "two"):
        qg_run("keygen", "--no-passphrase", f"{name}.key")
        ids[name] = qg_run("address", f"{name}.key").stdout.split()[1]
    last = target = qg_start("receive", "inbox", "--listen", "tcp://127.43.0.1:0").line()
    addresses = []
    for name, users, n in (("two", [ids["sender"], ids["one"]], 42), ("one", [ids["sender"], ids["two"]], 41)):
        ports = sorted({int(address.rpartition(":")[2]) for address in (last, target)})
        (folder / f"{name}.toml").write_text(
            f'identity = "{name}.key"\nlisten = ["tcp://127.{n}.0.1:0"]\ncontrol_socket = "{name}.sock"\n'
            f'[relay]\nallow = {json.dumps(users)}\ntargets = ["127.0.0.0/8"]\nports = {ports}\n'
        )
        last = qg_start("run", "-c", f"{name}.toml").line()
        addresses.append(last)
    return addresses[1], addresses[0], target


def test_a_ping_goes_over_several_relays_in_the_order_given(two_relays: tuple[str, str, str], qg_run: Run) -> None:
    one, two, target = two_relays
    run = qg_run("ping", "-n", "2", "--interval", "0.005", "-i", "sender.key", "--via", one, "--via", two, target)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("round trip") == 2
    *_, way, first, second = run.stdout.splitlines()
    assert way == "aegis-256, over 2 relays:"
    assert [first, second] == [f"  {n}  {qg.Address.parse(relay).short}" for n, relay in ((1, one), (2, two))]
    assert qg_run("ping", "-i", "sender.key", "--via", two, "--via", one, target).returncode == 1


def test_a_file_goes_over_relays_that_are_drawn_from_the_configuration(
    two_relays: tuple[str, str, str], qg_run: Run, folder: Path, file: Path
) -> None:
    *relays, target = two_relays
    (folder / "sender.toml").write_text(f'identity = "sender.key"\nrelays = {json.dumps(relays)}\n')
    sent = qg_run("send", "photo.jpg", target, "--hops", "1", "-c", "sender.toml")
    assert sent.returncode == 0, sent.stderr
    assert (folder / "inbox" / "photo.jpg").read_bytes() == CONTENT
    guards = [guard["relay"] for guard in json.loads((folder / "sender.key.guards").read_text())["guards"]]
    assert sorted(guards) == sorted(relays)
    failed = qg_run("ping", target, "--hops", "3", "-c", "sender.toml")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "2 are known" in one_error(failed.stderr) or "1 are known" in one_error(failed.stderr)


def test_a_relay_that_does_not_serve_us_refuses(qg_start: Start, qg_run: Run, file: Path) -> None:
    receiver, relay = qg_start("receive", "inbox", *LOOPBACK), qg_start("run", *LOOPBACK)
    sent = qg_run("send", "photo.jpg", receiver.line(), "--via", relay.line())
    assert sent.returncode == 1
    assert "refused" in one_error(sent.stderr)


def test_an_existing_file_is_kept_unless_force_is_given(qg_start: Start, qg_run: Run, folder: Path, file: Path) -> None:
    existing = folder / "inbox" / "photo.jpg"
    existing.write_bytes(b"old")
    receiver = qg_start("receive", "inbox", *LOOPBACK)
    sent = qg_run("send", "photo.jpg", receiver.line())
    assert (sent.returncode, sent.stdout) == (1, "")
    assert "another file has this name already" in one_error(sent.stderr)
    code, _, err = receiver.end()
    assert code == 1
    assert "another file has this name already" in one_error(err)
    assert existing.read_bytes() == b"old"

    receiver = qg_start("receive", "inbox", "--force", *LOOPBACK)
    assert qg_run("send", "photo.jpg", receiver.line()).returncode == 0
    assert receiver.end()[0] == 0
    assert existing.read_bytes() == CONTENT


def test_a_receiver_that_keeps_on_takes_one_file_after_the_other(
    qg_start: Start, qg_run: Run, folder: Path, file: Path
) -> None:
    receiver = qg_start("receive", "inbox", "--keep", *LOOPBACK)
    address = receiver.line()
    (folder / "second").write_bytes(b"2")
    for name in ("photo.jpg", "photo.jpg", "second"):
        qg_run("send", name, address)
    assert sorted(os.listdir(folder / "inbox")) == ["photo.jpg", "second"]
    receiver.process.send_signal(signal.SIGTERM)
    assert receiver.end()[0] == 0


def test_a_sender_that_is_not_on_the_list_is_refused_and_does_not_end_the_waiting(
    qg_start: Start, qg_run: Run, folder: Path, file: Path
) -> None:
    qg_run("keygen", "--no-passphrase", "friend.key")
    friend = qg_run("address", "friend.key").stdout.split()[1]
    receiver = qg_start("receive", "inbox", "--from", friend, *LOOPBACK)
    address = receiver.line()
    stranger = qg_run("send", "photo.jpg", address)
    assert stranger.returncode == 1
    assert "from others only" in one_error(stranger.stderr)
    assert os.listdir(folder / "inbox") == []
    assert qg_run("send", "photo.jpg", address, "--identity", "friend.key").returncode == 0
    code, out, err = receiver.end()
    assert code == 0
    assert friend in out
    assert "from others only" in one_error(err)


def test_a_full_disk_is_an_error_at_both_ends_and_the_part_file_stays(
    qg_run: Run, folder: Path, environment: dict[str, str], file: Path
) -> None:
    # No file may grow beyond 1,024 blocks of 512 or 1,024 bytes.
    command = f"ulimit -f 1024; exec {shlex.quote(sys.executable)} -m qg receive inbox --listen tcp://127.0.0.1:0"
    with subprocess.Popen(
        ["sh", "-c", command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as receiver:
        assert receiver.stdout
        sent = qg_run("send", "photo.jpg", receiver.stdout.readline().strip())
        _, err = receiver.communicate(timeout=60)
    assert (sent.returncode, receiver.returncode) == (1, 1)
    assert "cannot be written" in one_error(sent.stderr)
    assert "cannot be written" in one_error(err)
    assert os.listdir(folder / "inbox") == ["photo.jpg.qg-part"]
    part = (folder / "inbox" / "photo.jpg.qg-part").read_bytes()
    assert part == CONTENT[: len(part)] != b""


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal, the person's first."""
    ends = os.openpty()
    yield ends
    for end in ends:
        os.close(end)


def transfer_begin(
    qg_start: Start, folder: Path, environment: dict[str, str], terminal: tuple[int, int]
) -> tuple[Any, "subprocess.Popen[str]"]:
    """Start a transfer that does not end by itself, and return when the sender's progress bar has reached 1 %."""
    (folder / "inbox").mkdir()
    with open(folder / "huge", "wb") as huge:
        huge.truncate(HUGE_LEN)
    receiver = qg_start("receive", "inbox", *LOOPBACK)
    command = [sys.executable, "-m", "qg", "send", "huge", receiver.line()]
    sender = subprocess.Popen(command, cwd=folder, env=environment, stderr=terminal[1], text=True)
    shown = b""
    while not re.search(rb" [1-9]\d* %", shown):
        shown += os.read(terminal[0], 4096)
    return receiver, sender


def last_words(terminal: tuple[int, int]) -> str:
    return os.read(terminal[0], 65536).decode().rpartition("\x1b[K")[2].strip()


def test_a_receiver_that_dies_is_an_error_at_the_sender(
    qg_start: Start, folder: Path, environment: dict[str, str], terminal: tuple[int, int]
) -> None:
    receiver, sender = transfer_begin(qg_start, folder, environment, terminal)
    receiver.process.kill()
    assert sender.wait(60) == 1
    assert last_words(terminal).startswith("qg: ")
    assert os.listdir(folder / "inbox") == ["huge.qg-part"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_sender_that_stops_is_an_error_at_the_receiver(
    qg_start: Start, folder: Path, environment: dict[str, str], terminal: tuple[int, int], number: signal.Signals
) -> None:
    receiver, sender = transfer_begin(qg_start, folder, environment, terminal)
    sender.send_signal(number)
    if number is signal.SIGKILL:
        assert sender.wait(60) == -number
    else:
        assert sender.wait(60) == 1
        assert last_words(terminal) == "qg: interrupted"
    code, out, err = receiver.end()
    assert (code, out) == (1, "")
    assert "huge.qg-part" in one_error(err)
    assert os.listdir(folder / "inbox") == ["huge.qg-part"]
