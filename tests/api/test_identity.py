# SPDX-License-Identifier: MIT
"""Identities, network secrets, and the files they are kept in (docs/protocol.md, section 2)."""

import base64
import copy
import hashlib
import os
import pickle
import re
import stat
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from model import cert as model_cert
from model import ed25519, primitives

from qg._core import _build_info
from qg._core.keyfile import KeyRing
from qg.errors import InvalidValue, KeyFileError, KeyFileExists, KeyFileMissing, UsageError
from qg.identity import Identity, NetworkSecret

ROOT = Path(__file__).parents[2]
DAY_S = 86400
FOREVER = 2**63 - 1


def keyfile_open(data: bytes, key: bytes = bytes(32)) -> bytes:
    """Open a key file with the Python model: seed and link keys."""
    return primitives.xchacha20_poly1305_open(key, data[41:65], data[:65], data[65:])


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.key"


# --- the file and what is in it ---


def test_an_identity_reads_back_as_it_was_written(path):
    identity = Identity.generate()
    identity.create(path)
    again = Identity.load(path)
    assert (again.peer_id, again.link_keys) == (identity.peer_id, identity.link_keys)


def test_a_new_key_file_has_the_documented_bytes(path):
    identity = Identity.generate()
    identity.create(path)
    data = path.read_bytes()
    assert data[:8] == b"QGKEY1\r\n"
    assert data[8:41] == bytes(33)  # no key derivation: no salt, no costs
    plain = keyfile_open(data)
    assert len(plain) == 32 + 48
    seed, secret, not_after = plain[:32], plain[32:64], plain[72:80]
    assert bytes(identity.peer_id) == model_cert.peer_id_of(ed25519.public_key(seed))
    assert bytes(identity.link_key) == primitives.x25519_public(secret)
    assert int.from_bytes(not_after) == FOREVER


def test_a_passphrase_seals_with_argon2id_moderate(path):
    Identity.generate().create(path, passphrase="pässword")
    data = path.read_bytes()
    assert data[8] == 1
    assert [int.from_bytes(data[25:33]), int.from_bytes(data[33:41])] == [3, 256 << 20]
    kdf = Argon2id(salt=data[9:25], length=32, iterations=3, lanes=1, memory_cost=256 << 10)
    assert len(keyfile_open(data, kdf.derive("pässword".encode()))) == 80
    assert Identity.load(path, passphrase="pässword").peer_id
    with pytest.raises(KeyFileError, match="passphrase is wrong"):
        Identity.load(path, passphrase="password")
    with pytest.raises(KeyFileError, match="protected by a passphrase: give it"):
        Identity.load(path)


def test_a_file_without_a_passphrase_is_not_taken_for_one_with(path):
    Identity.generate().create(path)
    with pytest.raises(KeyFileError, match="is not protected by a passphrase"):
        Identity.load(path, passphrase="x")


def test_an_empty_passphrase_is_refused(path):
    with pytest.raises(InvalidValue):
        Identity.generate().create(path, passphrase="")


def test_two_files_of_one_identity_share_no_bytes(path, tmp_path):
    identity = Identity.generate()
    identity.create(path)
    identity.create(tmp_path / "second.key")
    assert path.read_bytes()[41:65] != (tmp_path / "second.key").read_bytes()[41:65]


def test_a_link_certificate_verifies_and_ends_with_its_key_or_after_90_days():
    now_s = 1_800_000_000
    ring = KeyRing.generate(now_s).rotate(now_s, 10 * DAY_S)
    for link_idx, end_s in ((0, now_s + 10 * DAY_S), (1, now_s + 90 * DAY_S)):
        cert = ring.link_cert(link_idx, now_s)
        link_key = ring.link_keys[link_idx][0]
        assert model_cert.certificate_verify(cert, link_key, now_s) == ring.peer_id
        assert int.from_bytes(cert[4:12]) == end_s
    with pytest.raises(IndexError):
        ring.link_cert(2, now_s)


# --- rotation ---


def test_rotation_keeps_the_peer_and_the_link_key_before(path):
    identity = Identity.generate()
    peer_id, first = identity.peer_id, identity.link_key
    identity.rotate_link_key()
    assert identity.peer_id == peer_id
    assert identity.link_keys == (first, identity.link_key)
    identity.save(path)
    assert Identity.load(path).link_keys == identity.link_keys
    identity.rotate_link_key()
    assert len(identity.link_keys) == 2
    assert first not in identity.link_keys


def test_rotation_without_overlap_leaves_one_link_key():
    identity = Identity.generate()
    first = identity.link_key
    identity.rotate_link_key(overlap_days=0)
    assert identity.link_keys == (identity.link_key,)
    assert identity.link_key != first


@pytest.mark.parametrize("days", [-1, 3651])
def test_an_absurd_overlap_is_refused(days):
    with pytest.raises(InvalidValue, match="from 0 to 3650"):
        Identity.generate().rotate_link_key(days)


def test_a_link_key_ends_when_its_overlap_ends():
    ring = KeyRing.generate(1000).rotate(5000, DAY_S)
    assert [times for _, *times in ring.link_keys] == [[1000, 5000 + DAY_S], [5000, FOREVER]]


# --- files that must not be used ---


def test_a_new_file_is_private_and_alone(path):
    Identity.generate().create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601])
def test_a_file_that_others_can_use_is_refused(path, mode):
    Identity.generate().create(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        Identity.load(path)


def test_a_file_of_another_user_is_refused(path):
    if os.geteuid() == 0:
        Identity.generate().create(path)
        os.chown(path, 65534, -1)
    else:
        path = Path("/etc/passwd")
    with pytest.raises(KeyFileError, match="belongs to another user"):
        Identity.load(path)


def test_a_symbolic_link_is_refused(path, tmp_path):
    Identity.generate().create(path)
    link = tmp_path / "link.key"
    link.symlink_to(path)
    with pytest.raises(KeyFileError, match="symbolic link"):
        Identity.load(link)


def test_a_pipe_in_the_files_place_is_refused_at_once(path):
    os.mkfifo(path, 0o600)
    with pytest.raises(KeyFileError, match="not a regular file"):
        Identity.load(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(KeyFileError, match="not a regular file"):
        Identity.load(tmp_path)


def test_a_missing_file_is_told_as_missing(path):
    with pytest.raises(KeyFileMissing, match="does not exist"):
        Identity.load(path)
    with pytest.raises(FileNotFoundError):
        Identity.load(path)
    with pytest.raises(KeyFileError, match="make its folder first"):
        Identity.generate().create(path / "no" / "folder")


def test_create_never_overwrites(path):
    first = Identity.generate()
    first.create(path)
    with pytest.raises(KeyFileExists):
        Identity.generate().create(path)
    assert Identity.load(path).peer_id == first.peer_id
    assert os.listdir(path.parent) == [path.name]


def test_every_truncation_and_every_extension_is_refused(path):
    identity = Identity.generate()
    identity.rotate_link_key()
    identity.create(path)
    data = path.read_bytes()
    for content in [data[:length] for length in range(len(data))] + [data + bytes(n) for n in (1, 48, 500)]:
        path.write_bytes(content)
        with pytest.raises(KeyFileError) as caught:
            Identity.load(path)
        assert re.fullmatch(r"[^\n]+: [^\n]+", str(caught.value))


def test_every_single_bit_flip_is_refused(path):
    Identity.generate().create(path)
    data = path.read_bytes()
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(KeyFileError):
            Identity.load(path)


def test_a_file_that_asks_for_absurd_work_is_refused_without_doing_it(path):
    Identity.generate().create(path)
    data = bytearray(path.read_bytes())
    data[8] = 1
    for passes, memory in ((0, 1 << 20), (1 << 60, 1 << 20), (3, 0), (3, 1 << 50)):
        data[25:41] = passes.to_bytes(8) + memory.to_bytes(8)
        path.write_bytes(data)
        with pytest.raises(KeyFileError, match="damaged or of a newer version"):
            Identity.load(path, passphrase="x")


# --- writing ---


def test_load_or_create_makes_one_identity_however_many_start_at_once(path):
    found, start = [], threading.Barrier(8)

    def run() -> None:
        start.wait()
        found.append(Identity.load_or_create(path).peer_id)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert set(found) == {Identity.load(path).peer_id}
    assert os.listdir(path.parent) == [path.name]


WRITE_OVER_LIMIT = """
import os, resource, sys
from qg.errors import KeyFileError
from qg.identity import Identity
identity = Identity.load(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
for write in (identity.save, identity.create):
    try:
        write(sys.argv[1] if write == identity.save else sys.argv[1] + "2")
    except KeyFileError as error:
        print(error)
"""


def test_a_full_disk_is_told_and_leaves_the_old_file(path):
    Identity.generate().create(path)
    before = path.read_bytes()
    run = run_python(WRITE_OVER_LIMIT, str(path))
    assert run.stderr == ""
    assert [line.count("File too large") for line in run.stdout.splitlines()] == [1, 1]
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


# Runs a function in a child and kills that at its n-th stop: each system call stops it twice, before and after.
KILL_AT_EVERY_CALL = """
import ctypes, os, signal, sys
from qg.identity import Identity

PTRACE_TRACEME, PTRACE_SYSCALL = 0, 24
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

def killed_at(n_stops, name):
    pid = os.fork()
    if pid == 0:
        function = getattr(Identity.load(new_path), name)  # keys do not outlive a fork
        if libc.ptrace(PTRACE_TRACEME, 0, None, None):
            os._exit(77)
        os.kill(os.getpid(), signal.SIGSTOP)
        function(path)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 77:
        sys.exit(77)
    for _ in range(n_stops):
        libc.ptrace(PTRACE_SYSCALL, pid, None, None)
        status = os.waitpid(pid, 0)[1]
        if os.WIFEXITED(status):
            return False
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True

def folder_clear():
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))

folder = sys.argv[1]
path = os.path.join(folder, "node.key")
old = Identity.generate()
new = Identity.generate()
new_path = sys.argv[2]
new.create(new_path)
outcomes = []
for name, has_old in (("save", True), ("create", False)):
    n_stops = 0
    is_running = True
    while is_running:
        folder_clear()
        if has_old:
            old.create(path)
        n_stops += 1
        is_running = killed_at(n_stops, name)
        found = Identity.load(path).peer_id if os.path.exists(path) else None
        assert found in ((old.peer_id if has_old else None), new.peer_id), n_stops
        outcomes.append("new" if found == new.peer_id else "old")
        for left in os.listdir(folder):
            assert os.stat(os.path.join(folder, left)).st_mode & 0o777 == 0o600, left
    assert outcomes[-1] == "new"
    print(n_stops, outcomes.count("old"), outcomes.count("new"))
    outcomes.clear()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="stops at system calls by Linux's ptrace")
def test_a_kill_at_any_system_call_leaves_the_old_file_or_the_new_one(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    run = run_python(KILL_AT_EVERY_CALL, str(folder), str(tmp_path / "new.key"))
    if run.returncode == 77:
        pytest.skip("ptrace is not allowed here")
    assert run.stderr == ""
    for line in run.stdout.splitlines():
        n_stops, n_old, n_new = map(int, line.split())
        assert n_stops > 12  # open, write, fsync, close, rename and the folder's three, at least
        assert n_old > 0
        assert n_new > 0


# --- secrets stay secret ---

HOLD_IDENTITY = """
import gc, sys
from qg.identity import Identity
identity = Identity.load(sys.argv[1])
identity.rotate_link_key()
print("held", flush=True)
sys.stdin.readline()
del identity
gc.collect()
print("gone", flush=True)
sys.stdin.readline()
"""


def memory_find(pid: int, secret: bytes) -> list[bool]:
    """Search the memory of a process: for each place where the secret stands, whether that memory is locked."""
    found = []
    with open(f"/proc/{pid}/smaps") as smaps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        area: tuple[int, int] | None = None
        for line in smaps:
            head = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                area = (int(head[1], 16), int(head[2], 16)) if head and "[v" not in line else None
            elif line.startswith("VmFlags:") and area:
                memory.seek(area[0])
                found += [" lo" in line] * memory.read(area[1] - area[0]).count(secret)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.skipif(_build_info.IS_SANITIZED, reason="the sanitizer maps more memory than can be searched")
def test_secret_keys_stand_only_in_locked_memory_and_are_gone_with_the_identity(path):
    Identity.generate().create(path)
    plain = keyfile_open(path.read_bytes())
    seed, link_secret = plain[:32], plain[32:64]
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD_IDENTITY, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout.readline() == "held\n"
        for secret in (seed, link_secret):
            places = memory_find(child.pid, secret)
            assert places
            assert all(places)
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "gone\n"
        for secret in (seed, link_secret):
            assert memory_find(child.pid, secret) == []
        child.stdin.close()


HOLD_IN_CHILD = """
import asyncio, os, sys
import qg
from qg.errors import UsageError
from qg.identity import Identity, NetworkSecret

identity, secret = Identity.load(sys.argv[1]), NetworkSecret.load(sys.argv[2])
if (pid := os.fork()) == 0:
    for use in (lambda: identity.create(sys.argv[1] + "2"), identity.rotate_link_key, secret.export,
                lambda: secret.create(sys.argv[2] + "2"), lambda: asyncio.run(qg.Node(identity).start()),
                lambda: asyncio.run(qg.Node(Identity.generate(), network_secret=secret).start())):
        try:
            use()
        except UsageError as error:
            assert "after fork" in str(error)
        else:
            os._exit(1)
    assert Identity.load(sys.argv[1]).link_key == identity.link_key  # what is public stays
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    del identity, secret  # libsodium would abort over its canary
    os._exit(0)
assert identity.peer_id
secret.export()
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.skipif(_build_info.IS_SANITIZED, reason="the sanitizer maps more memory than can be searched")
def test_a_forked_child_has_no_keys_and_is_told(path, tmp_path):
    Identity.generate().create(path)
    link_secret = keyfile_open(path.read_bytes())[32:64]
    NetworkSecret.generate().create(tmp_path / "net")
    network = base64.b32decode((tmp_path / "net").read_text().strip().partition(":")[2].upper() + "=" * 6)[:32]
    command = [sys.executable, "-c", HOLD_IN_CHILD, str(path), str(tmp_path / "net")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        for secret in (link_secret, network):
            assert memory_find(parent.pid, secret)
            assert memory_find(child, secret) == []
        parent.stdin.close()
        assert parent.wait(60) == 0
    assert sorted(name.name for name in tmp_path.iterdir()) == sorted(["net", path.name])


def test_nothing_shows_a_secret(path):
    identity = Identity.generate()
    identity.create(path)
    plain = keyfile_open(path.read_bytes())
    network = NetworkSecret.generate()
    text = network.export()
    try:
        raise RuntimeError("planted")
    except RuntimeError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    # The traceback shows this function's own plain text; the objects must not.
    shown = "\n".join(line for line in shown.splitlines() if "plain = " not in line and "text = " not in line)
    shown += repr(identity) + str(identity) + f"{identity}" + repr(identity._ring) + repr(network) + str(network)
    for secret in (plain[:32], plain[32:64]):
        for form in (secret.hex(), repr(secret)[2:-1], base64.b32encode(secret).decode().lower().rstrip("=")):
            assert form not in shown
    assert text.removeprefix("qgnet1:") not in shown


@pytest.mark.parametrize(
    "holder", [Identity.generate(), KeyRing.generate(0), NetworkSecret.generate()], ids=lambda it: type(it).__name__
)
def test_holders_of_secrets_are_neither_pickled_nor_copied(holder):
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(UsageError):
            attempt(holder)


@pytest.mark.parametrize("kind", [Identity, KeyRing, NetworkSecret])
def test_holders_of_secrets_are_not_made_empty(kind):
    with pytest.raises(UsageError, match="comes from"):
        kind()


# --- network secrets ---


def test_a_network_secret_has_the_documented_text():
    text = NetworkSecret.generate().export()
    raw = model_cert.network_secret_parse(text)
    assert len(text) == 65
    assert NetworkSecret.parse(text).export() == model_cert.network_secret_text(raw) == text
    assert NetworkSecret.parse(f"\n {text}\r\n").export() == text


def test_network_secrets_differ():
    assert NetworkSecret.generate().export() != NetworkSecret.generate().export()


def test_every_changed_character_of_a_network_secret_is_noticed():
    text = NetworkSecret.generate().export()
    for idx in range(len(text)):
        for character in {"a", "7", "A", "1", " ", "\u00e9", "\0"} - {text[idx]}:
            with pytest.raises(InvalidValue) as caught:
                NetworkSecret.parse(text[:idx] + character + text[idx + 1 :])
            assert text[7:20] not in str(caught.value)


def test_every_truncation_of_a_network_secret_is_noticed():
    text = NetworkSecret.generate().export()
    for length in range(len(text)):
        with pytest.raises(InvalidValue):
            NetworkSecret.parse(text[:length])
    with pytest.raises(InvalidValue):
        NetworkSecret.parse(text + "a")


def test_unused_bits_of_a_network_secret_are_zero():
    text = NetworkSecret.generate().export()
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    for bits in (1, 2, 3):
        with pytest.raises(InvalidValue):
            NetworkSecret.parse(text[:-1] + alphabet[alphabet.index(text[-1]) | bits])


def test_a_network_secret_is_kept_in_a_private_file(path):
    secret = NetworkSecret.generate()
    secret.create(path)
    assert path.read_text() == secret.export() + "\n"
    assert NetworkSecret.load(path).export() == secret.export()
    with pytest.raises(KeyFileExists):
        secret.create(path)
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        NetworkSecret.load(path)


@pytest.mark.parametrize("content", [b"", b"\n", b"qgnet1:abc\n", b"qgnet1:" + b"a" * 58, b"x" * 1000])
def test_a_file_without_a_network_secret_is_told_in_one_line(path, content):
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=r"holds no network secret: [^\n]+$"):
        NetworkSecret.load(path)


@pytest.mark.slow
def test_a_network_secret_from_a_passphrase_is_argon2id_sensitive_and_warns():
    with pytest.warns(UserWarning, match="can be guessed"):
        secret = NetworkSecret.from_passphrase("correct horse", "home")
    salt = hashlib.sha256(b"qg1 net salt" + b"home").digest()[:16]
    kdf = Argon2id(salt=salt, length=32, iterations=4, lanes=1, memory_cost=1 << 20)
    assert secret.export() == model_cert.network_secret_text(kdf.derive(b"correct horse"))
