# SPDX-License-Identifier: MIT
"""Key files and network secrets: what does not belong is refused in words, what does is written again alike."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from qg._core.crypto import x25519_public_key, xchacha_sealed
from qg._core.keyfile import KeyRing, NetworkSecret
from qg.errors import InvalidValue, KeyFileError
from tools.fuzz import Script

FOLDER = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
HEAD = b"QGKEY1\r\n" + bytes(1 + 16 + 8 + 8 + 24)  # not encrypted
SEED_LEN, LINK_LEN, LINKS_MAX = 32, 48, 4
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


def run(data: bytes) -> None:
    script = Script(data)
    (as_it_is, sealed, secret)[script.number() % 3](script.rest())


def path_of(data: bytes) -> Path:
    path = FOLDER / "key"
    path.touch(0o600)
    path.write_bytes(data)
    return path


def as_it_is(data: bytes) -> None:
    ring_read(path_of(data))


def sealed(plain: bytes) -> None:
    """Who writes the file may write anything into it."""
    ring = ring_read(path_of(HEAD + xchacha_sealed(bytes(32), HEAD[-24:], plain, HEAD)))
    n_links, left = divmod(len(plain) - SEED_LEN, LINK_LEN)
    assert (ring is not None) == (1 <= n_links <= LINKS_MAX and not left)
    if ring is None:
        return
    links = [plain[SEED_LEN + LINK_LEN * idx :][:LINK_LEN] for idx in range(n_links)]
    assert ring.link_keys == tuple(
        (x25519_public_key(each[:32]), int.from_bytes(each[32:40], "big"), int.from_bytes(each[40:], "big"))
        for each in links
    )
    copy = FOLDER / "copy"
    ring.replace(copy)
    again = ring_read(copy)
    assert again is not None and (again.peer_id, again.link_keys) == (ring.peer_id, ring.link_keys)


def ring_read(path: Path) -> KeyRing | None:
    try:
        return KeyRing.load(path)
    except KeyFileError as error:
        assert str(path) in str(error)
        return None


def secret(data: bytes) -> None:
    try:
        made = NetworkSecret.load(path_of(data))
    except KeyFileError:
        return
    text = made.export()
    assert data.strip(bytes(range(33))).decode("ascii") == text
    assert NetworkSecret.parse(text).export() == text
    other = text[:-1] + ("b" if text[-1] == "a" else "a")
    try:
        NetworkSecret.parse(other)
    except InvalidValue as error:
        assert text[7:-1] not in str(error), "the secret is shown"
    else:
        raise AssertionError("a mistyped secret is taken")
