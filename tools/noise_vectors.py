#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Run a file of Noise test vectors through the handshake engine of qg.

Reads the JSON layout that cacophony and snow publish (`{"vectors": [...]}`), and the single vector of libp2p's XXhfs
with ML-KEM. Every vector is run with both sides: each message must have the listed bytes and open to the listed
payload, the handshake hash and the transport messages must be equal. What the engine does not run is counted by
reason. The last line is `N passed, M failed`; the exit code is 1 after a failure or when nothing ran, 2 for misuse.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qg._core.crypto import suites
from qg._core.noise import NoiseHandshake, protocol_needs

AES_256_GCM = 2
CIPHERS = {"ChaChaPoly", "AESGCM"}
GROUPS = {"25519", "25519+MLKEM768"}


class Mismatch(Exception):
    """A vector's bytes and ours differ; the text says where."""


def left_out_reason(vector: dict[str, Any]) -> str | None:
    """Tell why the engine does not run this vector, or None if it does."""
    sections = name_of(vector).split("_")
    if len(sections) != 5 or sections[0] != "Noise":
        return "no protocol name of revision 32 or later"
    _, pattern, group, cipher, digest = sections
    if "fallback" in pattern or vector.get("fallback"):
        return "fallback patterns"
    if group not in GROUPS:
        return f"DH {group}"
    if cipher not in CIPHERS:
        return f"cipher {cipher}"
    if digest != "SHA256":
        return f"hash {digest}"
    if cipher == "AESGCM" and not suites() & AES_256_GCM:
        return "AESGCM (this CPU has no AES instructions)"
    return None


def name_of(vector: dict[str, Any]) -> str:
    return str(vector.get("protocol_name") or vector.get("name") or "?")


def field(vector: dict[str, Any], key: str) -> bytes | None:
    return bytes.fromhex(vector[key]) if vector.get(key) is not None else None


def side(vector: dict[str, Any], prefix: str, role: str, random: bytes) -> NoiseHandshake:
    """Make one side. Some files list keys that the pattern has no use for; those are not handed on."""
    needs = protocol_needs(name_of(vector), role)
    if needs is None:
        raise ValueError("not a pattern of the Noise tables")
    return NoiseHandshake(
        name_of(vector),
        role,
        prologue=field(vector, prefix + "prologue") or field(vector, "prologue") or b"",
        static=field(vector, prefix + "static") if needs[0] else None,
        remote_static=field(vector, prefix + "remote_static") if needs[1] else None,
        psks=tuple(bytes.fromhex(psk) for psk in vector.get(prefix + "psks") or ()),
        random=random,
    )


def expect(got: object, wanted: object, where: str) -> None:
    if got != wanted:
        raise Mismatch(f"{where} differs")


def vector_run(vector: dict[str, Any]) -> None:
    """Run both sides of a vector. Raises Mismatch; ValueError and LookupError for one that is malformed."""
    initiator = side(vector, "init_", "initiator", field(vector, "init_ephemeral") or b"")
    responder = side(vector, "resp_", "responder", field(vector, "resp_ephemeral") or b"")
    messages = [(bytes.fromhex(each["payload"]), bytes.fromhex(each["ciphertext"])) for each in vector["messages"]]
    n_messages = initiator.n_messages
    if len(messages) < n_messages:
        raise ValueError(f"{len(messages)} messages, the pattern has {n_messages}")
    for idx, (payload, ciphertext) in enumerate(messages[:n_messages]):
        writer, reader = (initiator, responder) if idx % 2 == 0 else (responder, initiator)
        expect(writer.write_message(payload), ciphertext, f"message {idx}")
        expect(reader.read_message(ciphertext), payload, f"payload {idx}")
    sender_ciphers, reader_ciphers, digest = split_both(initiator, responder)
    if vector.get("handshake_hash"):
        expect(digest, field(vector, "handshake_hash"), "handshake hash")
    for idx, (payload, ciphertext) in enumerate(messages[n_messages:], n_messages):
        direction = 0 if initiator.is_one_way else idx % 2
        expect(sender_ciphers[direction].seal(payload), ciphertext, f"message {idx}")
        expect(reader_ciphers[direction].open(ciphertext), payload, f"payload {idx}")


def split_both(initiator: NoiseHandshake, responder: NoiseHandshake) -> tuple[Any, Any, bytes]:
    """Return (ciphers that seal, ciphers that open, handshake hash), each pair by direction."""
    ours: Any = initiator.split()
    theirs: Any = responder.split()
    expect(ours[2], theirs[2], "the two sides' handshake hash")
    return (ours[0], theirs[1]), (theirs[0], ours[1]), ours[2]


def kem_vector_run(vector: dict[str, Any]) -> None:
    """Run the single-vector layout of XXhfs with ML-KEM: empty payloads, scripted KEM randomness, keys listed."""
    randoms = [
        bytes.fromhex(vector[first] + vector[second])
        for first, second in (("init_ephemeral", "init_kem_seed_d_z"), ("resp_ephemeral", "resp_encaps_seed"))
    ]
    initiator = side(vector, "init_", "initiator", randoms[0])
    responder = side(vector, "resp_", "responder", randoms[1])
    message: Any = b""
    for idx, length in enumerate(vector["message_sizes"]):
        writer, reader = (initiator, responder) if idx % 2 == 0 else (responder, initiator)
        message = writer.write_message()
        expect(len(message), length, f"length of message {idx}")
        expect(reader.read_message(message), b"", f"payload {idx}")
    expect(message, field(vector, "message_3"), "message 3")
    ciphers, _, digest = split_both(initiator, responder)
    expect(digest, field(vector, "handshake_hash"), "handshake hash")
    expect(ciphers[0].export_key(), field(vector, "cipherstate_1_key"), "key of cipher state 1")
    expect(ciphers[1].export_key(), field(vector, "cipherstate_2_key"), "key of cipher state 2")


def run_all(vectors: list[dict[str, Any]]) -> tuple[int, int]:
    n_passed = n_failed = 0
    left_out: collections.Counter[str] = collections.Counter()
    for vector in vectors:
        reason = left_out_reason(vector)
        if reason:
            left_out[reason] += 1
            continue
        try:
            (kem_vector_run if "init_kem_seed_d_z" in vector else vector_run)(vector)
            n_passed += 1
        except (Mismatch, ValueError, LookupError, TypeError) as error:
            n_failed += 1
            print(f"FAILED {name_of(vector)}: {error}")
    for reason, count in sorted(left_out.items()):
        print(f"left out {count}: {reason}")
    return n_passed, n_failed


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE", type=Path, help="JSON file of vectors")
    path = parser.parse_args(arguments).file
    try:
        content = json.loads(path.read_text("utf-8"))
        vectors = content.get("vectors", [content])
        if not all(isinstance(vector, dict) for vector in vectors):
            raise ValueError("a vector is an object")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        print(f"{path}: not a file of Noise vectors: {error}", file=sys.stderr)
        return 1
    n_passed, n_failed = run_all(vectors)
    print(f"{n_passed} passed, {n_failed} failed")
    return 1 if n_failed or not n_passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
