# SPDX-License-Identifier: MIT
"""What a person can get wrong before a node runs: one line each that says what to do, and the right exit code."""

import os
import subprocess
import sys

import pytest

import qg

pytestmark = pytest.mark.net

FAILED, MISUSED = 1, 2


@pytest.fixture
def run(tmp_path):
    """Run `qg run` in a folder that holds a good key, and give its exit code and its lines."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "XDG_RUNTIME_DIR": str(tmp_path),
        "COLUMNS": "500",
    }
    qg.Identity.generate().create(tmp_path / "node.key")

    def run(*arguments):
        command = [sys.executable, "-m", "qg", "run", "--listen", "tcp://127.0.0.1:0", *arguments]
        options = {"capture_output": True, "text": True, "timeout": 30, "stdin": subprocess.DEVNULL}
        done = subprocess.run(command, cwd=tmp_path, env=environment, **options)
        lines = [line for line in done.stderr.splitlines() if line.startswith("qg: ")]
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        return done.returncode, lines

    return run


def remove(path):
    path.unlink()


def fold(path):
    path.unlink()
    path.mkdir()


def link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def pipe(path):
    path.unlink()
    os.mkfifo(path, 0o600)


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[20] ^= 1
    path.write_bytes(raw)


def open_to_all(path):
    path.chmod(0o644)


def close_to_all(path):
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")


@pytest.mark.parametrize("spoil", [remove, fold, link, pipe, cut, flip, open_to_all, close_to_all])
def test_a_key_file_that_cannot_be_used_is_said_in_one_line(run, tmp_path, spoil):
    spoil(tmp_path / "node.key")
    code, lines = run("--identity", "node.key")
    assert (code, len(lines)) == (FAILED, 1)
    assert "node.key" in lines[0]


@pytest.mark.parametrize("spoil", [remove, fold, link, pipe, cut, flip, open_to_all, close_to_all])
def test_a_network_secret_that_cannot_be_used_is_said_in_one_line(run, tmp_path, spoil):
    qg.NetworkSecret.generate().create(tmp_path / "friends.net")
    spoil(tmp_path / "friends.net")
    code, lines = run("--network", "friends.net")
    assert (code, len(lines)) == (FAILED, 1)
    assert "friends.net" in lines[0]


@pytest.mark.parametrize("spoil", [remove, fold, close_to_all])
def test_a_configuration_that_cannot_be_read_is_said_in_one_line(run, tmp_path, spoil):
    (tmp_path / "qg.toml").write_text("")
    spoil(tmp_path / "qg.toml")
    code, lines = run("-c", "qg.toml")
    assert (code, len(lines)) == (MISUSED, 1)
    assert "qg.toml" in lines[0]


@pytest.mark.parametrize("text", ["listen =", "\0", "[relay", 'log_level = "\xe9'])
def test_a_configuration_that_is_not_toml_is_said_in_one_line(run, tmp_path, text):
    (tmp_path / "qg.toml").write_bytes(text.encode("latin-1"))
    code, lines = run("-c", "qg.toml")
    assert (code, len(lines)) == (MISUSED, 1)
    assert "qg.toml" in lines[0]


def test_unknown_keys_and_wrong_values_are_said_one_line_each_and_all_at_once(run, tmp_path):
    (tmp_path / "qg.toml").write_text(
        """
        colour = "red"
        log_level = "loud"
        listen = ["tcp://127.0.0.1"]
        relay = "members"
        [link]
        dead_peer = 3
        dead_peer_s = 0
        [limits]
        sinks = -1
        """
    )
    code, lines = run("-c", "qg.toml")
    assert code == MISUSED
    assert [line.split()[2].rstrip(":") for line in lines] == [
        "colour",
        "log_level",
        "listen[0]",
        "relay",
        "link.dead_peer",
        "link.dead_peer_s",
        "limits.sinks",
    ]
    assert all(line.startswith("qg: qg.toml: ") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--listen", "tcp://127.0.0.1"), "port"),
        (("--listen", "udp://127.0.0.1:1"), "tcp"),
        (("--listen", "tcp://localhost:1"), "localhost"),
        (("--listen", "tcp://127.0.0.1:65536"), "65536"),
        (("--relay", "everybody"), "--relay"),
        (("--log-level", "loud"), "loud"),
        (("--colour", "red"), "--colour"),
        (("surplus",), "surplus"),
    ],
)
def test_options_that_make_no_sense_are_misuse(run, arguments, word):
    code, lines = run(*arguments)
    assert code == MISUSED
    assert any(word in line for line in lines)


def test_an_address_of_another_machine_is_said_in_one_line(run):
    code, lines = run("--listen", "tcp://192.0.2.1:7447")
    assert (code, len(lines)) == (FAILED, 1)
    assert "192.0.2.1:7447" in lines[0]
