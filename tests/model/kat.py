# SPDX-License-Identifier: MIT
"""Write the known-answer files of protocol version 1: `python -m tests.model.kat [DIRECTORY]`.

Each file says what its fields mean. All byte strings are hexadecimal. The same input always gives the same files.
"""

import hashlib
import json
import pathlib
import sys

from . import ed25519, envelope, frames
from .cert import (
    Identity,
    PeerRecord,
    certificate_build,
    network_secret_text,
    peer_uuid,
)
from .envelope import KIND_NK1, KIND_XK1, KIND_XX1, Network
from .handshake import CARRIER_PIPE, CARRIER_TCP, Initiator, Party, Responder
from .kat_frames import frames_invalid, frames_valid
from .keys import Keys
from .reader import Address
from .record import Direction, Generation, padded_len

NOW_S = 1_750_000_000
NOT_AFTER = 1_900_000_000
NETWORK_SECRET = bytes(range(0x40, 0x60))
SUITES = {1: "ChaCha20-Poly1305", 2: "AES-256-GCM", 4: "AEGIS-256"}
DIRECTORY = pathlib.Path(__file__).parent.parent / "kat"


class FixedDraw:
    """Random bytes that follow from a label, and the list of what was drawn."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.drawn: list[dict[str, str]] = []

    def __call__(self, purpose: str, length: int) -> bytes:
        seed = f"qg model kat/{self.label}/{len(self.drawn)}/{purpose}".encode()
        value = hashlib.shake_256(seed).digest(length)
        self.drawn.append({"purpose": purpose, "value": value.hex()})
        return value


def identity_of(number: int) -> Identity:
    return Identity(bytes([number]) * 32, bytes([number + 1]) * 32, NOT_AFTER)


INITIATOR, RESPONDER = identity_of(0x11), identity_of(0x21)


def identities() -> dict:
    fields = {
        "network": "network secrets (2.4): text form, NX, PSK, envelope keys of `link_public` and of open mode",
        "identities": "Ed25519 seed and X25519 link secret with everything that follows (2.1)",
        "records": "address records (2.2), signed by the identity of the same index",
    }
    people = [identity_of(number) for number in (0x11, 0x21, 0x31)]
    return {
        "fields": fields,
        "network": [_network(secret, people[0].link_public) for secret in (bytes(32), NETWORK_SECRET)],
        "identities": [_identity(person) for person in people],
        "records": [_peer_record(person) for person in people],
    }


def _envelope_key(key: envelope.EnvelopeKey) -> dict:
    names = ("key", "head", "body", "cookie", "cid")
    return {name: getattr(key, name).hex() for name in names}


def _network(secret: bytes, link_public: bytes) -> dict:
    network = Network(secret)
    return {
        "secret": secret.hex(),
        "text": network_secret_text(secret),
        "nx": network.nx.hex(),
        "psk": network.psk.hex(),
        "link_public": link_public.hex(),
        "known": _envelope_key(network.key_known(link_public)),
        "open": _envelope_key(network.key_open()),
    }


def _identity(person: Identity) -> dict:
    return {
        "ed25519_seed": person.ed25519_seed.hex(),
        "ed25519_public": ed25519.public_key(person.ed25519_seed).hex(),
        "link_secret": person.link_secret.hex(),
        "link_public": person.link_public.hex(),
        "peer_id": person.peer_id.hex(),
        "uuid": str(peer_uuid(person.peer_id)),
        "not_after": NOT_AFTER,
        "certificate": certificate_build(person.ed25519_seed, person.link_public, NOT_AFTER).hex(),
    }


def _peer_record(person: Identity) -> dict:
    addresses = (
        Address(4, bytes([192, 0, 2, 1]), 7447),
        Address(6, bytes.fromhex("20010db8") + bytes(11) + b"\x01", 443),
    )
    record = PeerRecord(
        person.peer_id, person.link_public, person.certificate, 1, 2048, 512, addresses, NOT_AFTER - 86_400, NOT_AFTER
    ).signed(person.ed25519_seed)
    return {"record": record.build().hex()}


def handshakes() -> dict:
    fields = {
        "cases": "one handshake each: kind 1 XK, 2 XX, 3 NK; identities are in identity.json by their peer_id",
        "initiator_draws, responder_draws": "random bytes by purpose, in the model's order",
        "flights": "envelopes on the wire. On TCP p = u16(flight padding) mod 1024, on a pipe each is 2,048",
        "noise": "the Noise messages inside, without envelope and padding; payloads are those of 3.3",
        "hash, k1, k2": "handshake hash and Split() output",
        "time": "the clock of both sides; on a pipe the initiator rounds it down to 30 s",
    }
    cases = []
    for name, carrier, kind, secret in (
        ("XK on TCP, closed network", CARRIER_TCP, KIND_XK1, NETWORK_SECRET),
        ("XK on TCP, open network", CARRIER_TCP, KIND_XK1, bytes(32)),
        ("XX on TCP, closed network", CARRIER_TCP, KIND_XX1, NETWORK_SECRET),
        ("NK on a pipe, closed network", CARRIER_PIPE, KIND_NK1, NETWORK_SECRET),
        ("XK on a pipe, open network", CARRIER_PIPE, KIND_XK1, bytes(32)),
    ):
        cases.append(_handshake(name, carrier, kind, secret))
    return {"fields": fields, "cases": cases}


def _handshake(name: str, carrier: str, kind: int, secret: bytes) -> dict:
    draws = [FixedDraw(f"{name}/{role}") for role in ("initiator", "responder")]
    network, accepted = Network(secret), (KIND_XK1, KIND_XX1, KIND_NK1)
    own = Party(None if kind == KIND_NK1 else INITIATOR, network, 7, (), lambda: NOW_S + 7, draws[0])
    other = Party(RESPONDER, network, 7, accepted, lambda: NOW_S + 9, draws[1])
    initiator = Initiator(own, carrier, kind, b"" if kind == KIND_XX1 else RESPONDER.link_public)
    responder = Responder(other, carrier)
    flights = [initiator.flight1()]
    flights.append(responder.read(bytearray(flights[0])))
    flights.append(initiator.read(bytearray(flights[1])))
    if flights[2]:
        responder.read(bytearray(flights[2]))
    done = initiator.established
    assert done.hash == responder.established.hash
    written = initiator.noise.written[:1] + responder.noise.written + initiator.noise.written[1:]
    return {
        "name": name,
        "carrier": carrier,
        "kind": kind,
        "network_secret": secret.hex(),
        "initiator_peer_id": None if kind == KIND_NK1 else INITIATOR.peer_id.hex(),
        "responder_peer_id": RESPONDER.peer_id.hex(),
        "initiator_time": NOW_S + 7,
        "responder_time": NOW_S + 9,
        "envelope_time": initiator.time_s,
        "initiator_draws": draws[0].drawn,
        "responder_draws": draws[1].drawn,
        "noise": [{"payload": payload.hex(), "message": m.hex()} for payload, m in written],
        "flights": [flight.hex() for flight in flights if flight],
        "suite": done.suite,
        "hash": done.hash.hex(),
        "k1": done.k1.hex(),
        "k2": done.k2.hex(),
    }


def records() -> dict:
    fields = {
        "cases": "per suite: generation 0 from hash, k1 and k2, then a script of records i2r",
        "script": "`inner` is sealed as it is; `epoch`: it holds EPOCH, which advances the key after it",
        "rollover": "records 65,535 and 65,536 i2r, every inner 64 zero bytes: the epoch advances between",
        "rekey": "started by the initiator after the script; the first records of generation 1 both ways",
        "padding": "[mode, length of the frames, inner length], modes as in HELLO",
    }
    cases = [_records_of(suite) for suite in SUITES]
    lengths = [0, 1, 63, 64, 65, 128, 129, 512, 513, 1024, 1025, 1088, 1089]
    lengths += [2048, 2049, 5000, 9000, 16000, 16383, 16384]
    padding = [[mode, length, padded_len(mode, length)] for mode in range(4) for length in lengths]
    return {"fields": fields, "cases": cases, "padding": padding}


def _epoch_keys(direction: Direction) -> dict:
    return {"key": direction.key.hex(), "iv": direction.iv.hex(), "len": direction.len_key.hex()}


class _Fixed:
    """Enough of an Established for Keys."""

    def __init__(self, role: str, suite: int) -> None:
        self.role, self.suite = role, suite
        self.hash, self.k1, self.k2 = (hashlib.sha256(f"{name}{suite}".encode()).digest() for name in ("h", "k1", "k2"))


def _records_of(suite: int) -> dict:
    fixed = _Fixed("initiator", suite)
    draw_i, draw_r = FixedDraw(f"rekey initiator {suite}"), FixedDraw(f"rekey responder {suite}")
    own, other = Keys(fixed, draw_i), Keys(_Fixed("responder", suite), draw_r)
    generation = own.generation
    bulk = frames.Data(1, hashlib.shake_256(b"bulk").digest(700)).build().ljust(1024, b"\0")
    script = []
    for inner, held_epoch in (
        (frames.Hello(()).build().ljust(64, b"\0"), False),
        (bulk, False),
        (frames.Epoch().build().ljust(64, b"\0"), True),
        (frames.Ping(b"12345678").build(), False),
        (frames.Epoch().build(), True),
        (b"\0", False),
    ):
        entry = {"seq": own.send.seq, "epoch_before": own.send.epoch, "inner": inner.hex(), "epoch": held_epoch}
        entry |= _epoch_keys(own.send)
        entry["record"] = own.send.seal(inner).hex()
        own.send.record_done(held_epoch)
        script.append(entry)
    return {
        "suite": suite,
        "name": SUITES[suite],
        "hash": fixed.hash.hex(),
        "k1": fixed.k1.hex(),
        "k2": fixed.k2.hex(),
        **_generation(generation),
        "script": script,
        "rollover": _rollover(generation.i2r, suite),
        "rekey": _rekey(own, other, draw_i, draw_r),
    }


def _generation(generation: Generation) -> dict:
    return {
        "s_i2r": generation.i2r.hex(),
        "s_r2i": generation.r2i.hex(),
        "rekey_psk": generation.rekey_psk.hex(),
        "exporter": generation.exporter.hex(),
    }


def _rollover(secret: bytes, suite: int) -> list[dict]:
    direction = Direction(secret, suite)
    direction.seq = direction.record_idx = 65535
    out = []
    for _ in range(2):
        entry = {"seq": direction.seq, "epoch_before": direction.epoch, "record_of_epoch": direction.record_idx}
        entry["record"] = direction.seal(bytes(64)).hex()
        direction.record_done(False)
        out.append(entry)
    return out


def _rekey(own: Keys, other: Keys, draw_i: FixedDraw, draw_r: FixedDraw) -> dict:
    rekey1 = own.rekey_start()
    rekey2, _ = other.rekey1_read(rekey1)
    own.rekey2_read(rekey2)
    for side in (own, other):
        side.switch("send")
        side.switch("recv")
    inner = frames.Ping(b"new keys").build().ljust(64, b"\0")
    return {
        "initiator_draws": draw_i.drawn,
        "responder_draws": draw_r.drawn,
        "rekey1": rekey1.message.hex(),
        "rekey2": rekey2.message.hex(),
        "hash": own.generation.hash.hex(),
        **_generation(own.generation),
        "inner": inner.hex(),
        "record_i2r": own.send.seal(inner).hex(),
        "record_r2i": other.send.seal(inner).hex(),
    }


def frame_bytes() -> dict:
    fields = {
        "valid": "inner bytes of a record and the frames they hold; bytes as hexadecimal",
        "invalid": "inner bytes that are answered with CLOSE(protocol), and why",
    }
    return {"fields": fields, "valid": frames_valid(), "invalid": frames_invalid()}


FILES = {
    "identity.json": identities,
    "handshake.json": handshakes,
    "record.json": records,
    "frame.json": frame_bytes,
}


def kat_text(name: str) -> str:
    header = {"protocol": "qg-v1", "source": "tests/model/kat.py, written from docs/protocol.md alone"}
    return json.dumps(header | FILES[name](), indent=1) + "\n"


def main() -> None:
    directory = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (directory / name).write_text(kat_text(name))


if __name__ == "__main__":
    main()
