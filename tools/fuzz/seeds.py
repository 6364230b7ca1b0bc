# SPDX-License-Identifier: MIT
"""Make the inputs that fuzzing begins with, from real runs: `PYTHONPATH=tests python -m tools.fuzz.seeds`.

They follow from this file and the code alone, so that another run makes the same ones.
"""

import re
import shutil
import tempfile
from pathlib import Path

from core.endpoint_help import XK, XX, Pair, link_key_of, ring_of
from model.cert import Identity, network_secret_text
from model.kat_frames import INVALID, VALID
from model.payload import P1, P2, P3

from qg._core import crypto
from qg._core.endpoint import Endpoint
from qg._core.envelope import EnvelopeKeys
from qg._core.message import message_head
from qg.extenders.files.frames import (
    DIGEST_LEN,
    Answer,
    Entry,
    Failure,
    Flag,
    Kind,
    Offer,
    Want,
    Wish,
    frame_make,
    plan_encode,
    wants_encode,
)
from qg.types import LinkKey, PeerId
from tools.fuzz import ROOT, SEEDS, TARGETS

RINGS = [ring_of(Identity(label * 32, label.upper() * 32, 1 << 62)) for label in (b"i", b"r")]
SECRET = bytes(range(32))
NOW_S = 1_760_000_000
NONCE_LEN, HEAD_LEN = 24, 80


def u16(number: int) -> bytes:
    return number.to_bytes(2, "big")


def counted(data: bytes) -> bytes:
    return u16(len(data)) + data


def flights() -> list[bytes]:
    """The first flights of two handshakes, as they go over the wire."""
    taken = []
    for kind in (XK, XX):
        pair = Pair(*(Endpoint(ring, seed=bytes([kind]), unix_s=NOW_S) for ring in RINGS))
        pair.one.connect(kind, link_key_of(RINGS[1]) if kind == XK else None)
        taken.append(pair.one.take())
    return taken


def envelope() -> list[bytes]:
    """What those flights hold, nonce and plain text, and the flights themselves."""
    made = []
    keys = (EnvelopeKeys.known(link_key_of(RINGS[1])), EnvelopeKeys.open_mode())
    for flight, key in zip(flights(), keys, strict=True):
        head_key = key.export_keys()[1]
        plain = crypto.xchacha_opened(head_key, flight[:NONCE_LEN], flight[NONCE_LEN:HEAD_LEN])
        padded = key.open(flight) + bytes(int.from_bytes(plain[18:20], "big"))
        made += [flight[:NONCE_LEN] + plain + padded, flight]
    return made


def payloads() -> list[bytes]:
    certificate = RINGS[0].link_cert(0, NOW_S)
    return [
        b"\0" + P1(7, bytes(12)).build(),
        b"\1" + u16(7) + bytes(4) + P2(4, bytes(8), NOW_S, certificate).build(),
        b"\2" + bytes(4) + b"\1" + P3(bytes(8), RINGS[1].peer_id, certificate).build(),
        b"\3" + certificate + NOW_S.to_bytes(8, "big"),
    ]


def records() -> list[bytes]:
    """One script for each way to end, behind records, epochs and generations."""
    lead = b"\0\1" + b"".join(b"\0" + counted(b"x" * n) for n in (1, 63, 1024)) + b"\x08\0" + counted(b"e")
    return [lead, *(lead + bytes([end]) + counted(b"last") + b"\0\5\3" for end in (3, 4, 5, 6, 7, 9))]


def frames() -> list[bytes]:
    return [b"".join(each.build() for each in made) for made in VALID] + [raw for raw, _ in INVALID[::4]]


def messages() -> list[bytes]:
    lengths = (0, 1, 63, 64, 300)
    whole = b"".join(message_head(n) + b"m" * n for n in lengths)
    return [whole, whole[:-9], message_head(9, True) + b"z" * 9 + whole[:70], message_head(5000) + b"long"]


def session() -> list[bytes]:
    spoken = [b"\0" + counted(raw) for raw in frames() if raw]
    flight = flights()[0]
    return [
        b"\1" + b"".join(spoken[:12]),
        b"\1\3" + counted(b"data" * 50) + b"\1" + b"\6\1\0\6\1\1" + counted(b"answer") + b"\6\1\2\7\x28\0" + spoken[2],
        b"\0\4" + counted(flight),
        b"\0\5\0\7\1\7\4\4" + counted(bytes(200)),
        *(b"\1" + each for each in spoken[12:]),
    ]


def engine() -> list[bytes]:
    circuit = b"\0\0\2\x20\0\x30\0\1"
    return [
        circuit + b"\2\x0c" + circuit + b"\2\x0f",
        circuit + b"\2\x07\6\2\6\2\x0d",
        circuit + b"\2\x09\5\1\1\1\0\2\x0e",
        circuit + b"\2\x0a\7\0\3\1\2\x0e",
        circuit + b"\x08\2\x0f" + circuit + b"\2\x0b\x09\0\2\x0f",
        circuit + b"\2\x0b\x0a\2\x0f\x0b\5\2\x0f\x0b\x10\2\x0f",
        b"\3\1\4\0" + counted(flights()[0][:100]) + b"\2\x0f" + circuit + b"\4\0" + counted(bytes(50)),
    ]


def address_records() -> list[bytes]:
    """Records with a wrong signature, and what of them is behind the certificate."""
    places = [b"\4" + bytes([192, 0, 2, 7]) + u16(7447), b"\6" + bytes(15) + b"\1" + u16(443)]
    made = [RINGS[0].peer_record(n, 1000, 0, n, b"".join(places[:n]), NOW_S, 86_400) for n in (1, 2)]
    parts = [record[173:-64] for record in made]
    forged = [record[:-64] + bytes(64) for record in made]
    return [*forged, *parts, *(u16(300) + b"\1\x51\x80" + part[:-16] for part in parts)]


def key_files() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        RINGS[0].create(Path(folder) / "key")
        length = len((Path(folder) / "key").read_bytes())
    plain = [b"s" * 32 + b"l" * 32 * n + NOW_S.to_bytes(8, "big") + (1 << 62).to_bytes(8, "big") for n in (1, 2)]
    head = b"QGKEY1\r\n"
    return [
        b"\0" + head.ljust(length, b"\0"),
        b"\0" + head + b"\1" + bytes(16) + (3).to_bytes(8, "big") + (1 << 28).to_bytes(8, "big") + bytes(24 + 96),
        b"\1" + plain[0],
        b"\1" + plain[0] + plain[0][32:],
        b"\2" + network_secret_text(SECRET).encode() + b"\n",
    ]


def files() -> list[bytes]:
    entries = [Entry(b"folder", 0, Flag.FOLDER), Entry("folder/ä".encode(), 70_000, Flag.EXECUTABLE)]
    wants = [Want(Wish.SEND), Want(Wish.RESUME, 9, bytes(DIGEST_LEN)), Want(Wish.REFUSE, why="no"), Want(Wish.HERE)]
    spoken = [
        Offer(2, 70_000, (b"folder",)).encode() + Answer(None).encode(),
        Answer("no room").encode(),
        plan_encode(entries) + wants_encode(wants[:2]),
        wants_encode(wants),
        Failure(1, True, "it is there").encode() + frame_make(Kind.DONE),
        frame_make(Kind.START, bytes(4)) + frame_make(Kind.CHUNK, b"bytes") + frame_make(Kind.END, bytes(DIGEST_LEN)),
    ]
    return [*spoken, b"".join(spoken)]


def socks() -> list[bytes]:
    """What curl, ssh, a browser and a datagram say."""
    name = b"\3\x0bexample.org\1\xbb"
    return [
        b"\5\1\0\5\1\0" + name + b"early",
        b"\5\2\0\2\1\4user\4pass\5\1\0\1\x7f\0\0\1\0\x50",
        b"\5\1\0\5\3\0\4" + bytes(16) + b"\0\0",
        b"\4\1\0\x50\xc0\0\2\7user\0",
        b"\4\1\0\x50\0\0\0\1user\0example.org\0rest",
        b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic dTpw\r\n\r\n\x16\3\1",
        b"GET http://example.org/a?b=c HTTP/1.1\r\nHost: example.org\r\nConnection: keep-alive, x-y\r\nX-Y: 1\r\n\r\n",
        b"POST http://example.org:8080/ HTTP/1.1\r\nHost:e\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nG",
        b"POST http://example.org/ HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello",
        b"\0\0\0" + name + b"payload",
        name,
        b"[2001:db8::1]:443",
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n",
    ]


def configuration() -> list[bytes]:
    """Every configuration of the documentation, and a line of each kind of text."""
    text = (ROOT / "docs" / "running.md").read_text("utf-8")
    files = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    key, peer_id = LinkKey(SECRET), PeerId(SECRET)
    lines = f"""tcp://[::1]:7447
127.0.0.1:9464
10.0.0.0/8
fd00::/8
8080/udp:[::1]:53
2222:127.0.0.1:22
deny *.example.org:25
tcp [2001:db8::]/32:1-9
qg://{key}@h.example:1?id={peer_id}&via={key}@10.0.0.1:9
qg://[::1]:7447""".splitlines()
    return [each.encode() for each in (*files, *lines)]


def main() -> None:
    for name in TARGETS:
        folder = SEEDS / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for idx, data in enumerate(globals()[name]()):
            (folder / f"{idx:02}").write_bytes(data)


if __name__ == "__main__":
    main()
