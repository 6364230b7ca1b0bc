# SPDX-License-Identifier: MIT
"""Signed address records: what nobody signed is refused, what is signed is read as the second reading reads it."""

from model.cert import RECORD_CONTEXT, peer_record_parse
from model.errors import WireError

import qg
from qg._core import cert, crypto
from qg.records import Record, frame_pack, frame_split, may_dial
from tools.fuzz import Script

SEED = bytes(range(32))
LINK_KEY = bytes(range(32, 64))
PEER_ID = cert.peer_id_bytes(crypto.ed25519_public_key(SEED))
CERTIFICATE = cert.cert_bytes(SEED, LINK_KEY, 1 << 40)
NOW_S, WINDOW_S = 1_760_000_000, 120
SIGNATURE_LEN = 64
NETWORKS = (qg.address.Prefix.parse("10.0.0.0/8"), qg.address.Prefix.parse("fd00::/8"))


def run(data: bytes) -> None:
    assert isinstance(cert.peer_record_fields(data, NOW_S, WINDOW_S), int)
    assert isinstance(cert.peer_record_head(data), tuple) == is_record(data)
    for said in (as_it_is(data), with_times(Script(data))):
        signed(said)
    split(data)


def is_record(raw: bytes) -> bool:
    try:
        peer_record_parse(raw)
    except WireError:
        return False
    return True


def as_it_is(data: bytes) -> bytes:
    """An input behind what must be right for a signature to hold."""
    return b"\1" + PEER_ID + LINK_KEY + CERTIFICATE + data


def with_times(script: Script) -> bytes:
    """The same, with times that are near, so that most are lawful."""
    issued_s = NOW_S - 300 + script.number(2)
    times = issued_s.to_bytes(8, "big") + (issued_s + script.number(3)).to_bytes(8, "big")
    return as_it_is(script.rest() + times)


def signed(said: bytes) -> None:
    raw = said + crypto.ed25519_signature(SEED, RECORD_CONTEXT + said)
    fields = cert.peer_record_fields(raw, NOW_S, WINDOW_S)
    if not is_record(raw):
        assert isinstance(fields, int) and cert.peer_record_head(raw) == fields
        return
    lawful = peer_record_parse(raw)
    assert cert.peer_record_head(raw) == (PEER_ID, lawful.issued)
    is_now = lawful.issued - WINDOW_S <= NOW_S <= lawful.not_after + WINDOW_S
    record = Record.read(raw, NOW_S, WINDOW_S)
    assert isinstance(fields, tuple) == (record is not None) == is_now
    if record is None:
        return
    assert len(record.relay.endpoints) == len(lawful.addresses)
    for host, port in record.relay.endpoints:
        assert may_dial(host, port, NETWORKS, range(65536)) in (True, False)
    addresses = b"".join(address.build() for address in lawful.addresses)
    assert cert.peer_record_bytes(SEED, PEER_ID, LINK_KEY, CERTIFICATE, lawful.flags, lawful.kib_per_s,
                                  lawful.burst_kib, len(lawful.addresses), addresses, lawful.issued,
                                  lawful.not_after) == raw  # fmt: skip


def split(data: bytes) -> None:
    """Records in a frame come apart as they were put together."""
    n = 1 + len(data) // 3
    raws = [data[off : off + n] for off in range(0, len(data), n)]
    frame = frame_pack(raws)
    assert frame_split(frame[1:]) == raws[: frame[0]]
