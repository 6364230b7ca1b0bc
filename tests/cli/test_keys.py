# SPDX-License-Identifier: MIT
"""`qg keygen` and `qg address`."""

import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import qg

Run = Callable[..., subprocess.CompletedProcess[str]]


def facts(result: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert result.returncode == 0, result.stderr
    return {name: value.strip() for name, value in (line.split("  ", 1) for line in result.stdout.splitlines())}


def one_error(result: subprocess.CompletedProcess[str], code: int) -> str:
    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr.startswith("qg: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_a_key_file_is_private_and_holds_who_was_printed(qg_run: Run, folder: Path) -> None:
    made = facts(qg_run("keygen", "--no-passphrase", "node.key"))
    assert stat.S_IMODE((folder / "node.key").stat().st_mode) == 0o600
    assert made["PeerID"] == str(qg.Identity.load(folder / "node.key").peer_id)
    assert facts(qg_run("address", "node.key")) == made


def test_a_key_file_is_never_overwritten(qg_run: Run, folder: Path) -> None:
    assert qg_run("keygen", "--no-passphrase", "node.key").returncode == 0
    before = (folder / "node.key").read_bytes()
    assert "exists already" in one_error(qg_run("keygen", "--no-passphrase", "node.key"), 1)
    assert (folder / "node.key").read_bytes() == before


def test_a_passphrase_comes_from_a_file(qg_run: Run, folder: Path) -> None:
    (folder / "passphrase").write_text("correct horse\nsecond line\n")
    made = facts(qg_run("keygen", "--passphrase-file", "passphrase", "node.key"))
    assert facts(qg_run("address", "--passphrase-file", "passphrase", "node.key")) == made
    assert "passphrase" in one_error(qg_run("address", "node.key"), 1)
    assert str(qg.Identity.load(folder / "node.key", passphrase="correct horse").peer_id) == made["PeerID"]


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\n"])
def test_a_passphrase_file_without_a_passphrase_is_refused(qg_run: Run, folder: Path, content: bytes) -> None:
    (folder / "passphrase").write_bytes(content)
    one_error(qg_run("keygen", "--passphrase-file", "passphrase", "node.key"), 1)
    assert not (folder / "node.key").exists()


def test_a_network_secret_is_private_and_can_be_used(qg_run: Run, folder: Path) -> None:
    result = qg_run("keygen", "--network", "friends.net")
    assert result.returncode == 0
    assert stat.S_IMODE((folder / "friends.net").stat().st_mode) == 0o600
    secret = qg.NetworkSecret.load(folder / "friends.net").export()
    assert secret not in result.stdout + result.stderr


def test_an_address_can_be_pasted(qg_run: Run, folder: Path) -> None:
    made = facts(qg_run("keygen", "--no-passphrase", "node.key"))
    line = qg_run("address", "node.key", "[2001:db8::7]:7447").stdout.strip()
    address = qg.Address.parse(line)
    assert (address.host, address.port, str(address.link_key)) == ("2001:db8::7", 7447, made["link key"])
    relayed = qg.Address.parse(qg_run("address", "node.key", "a.example:1", "--via", line).stdout.strip())
    assert relayed.via == (address,)


def test_an_address_that_is_none_is_misuse(qg_run: Run, folder: Path) -> None:
    qg_run("keygen", "--no-passphrase", "node.key")
    assert "port" in one_error(qg_run("address", "node.key", "a.example"), 2)


@pytest.mark.parametrize(("mode", "word"), [(0o644, "chmod"), (None, "does not exist")])
def test_a_key_file_that_cannot_be_used_is_one_line(qg_run: Run, folder: Path, mode: int | None, word: str) -> None:
    if mode is not None:
        qg_run("keygen", "--no-passphrase", "node.key")
        (folder / "node.key").chmod(mode)
    assert word in one_error(qg_run("address", "node.key"), 1)
