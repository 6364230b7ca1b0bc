# SPDX-License-Identifier: MIT
"""The Noise engine against cacophony's vectors and libp2p's XXhfs vector, and the sizes that section 3.2 states."""

import dataclasses

import pytest
from model import mlkem
from model.errors import AuthError
from model.noise import PATTERNS, CipherState, Handshake, Secrets, protocol_name
from model.primitives import sha256, x25519_public


def octets(vector, name):
    return bytes.fromhex(vector.get(name, ""))


def supported(document):
    for vector in document["vectors"]:
        _, pattern, *rest = vector["protocol_name"].split("_")
        if pattern in PATTERNS and rest == ["25519", "ChaChaPoly", "SHA256"]:
            yield pattern, vector


def side_of(pattern, vector, role):
    short = role[:4]
    psk = bytes.fromhex((vector.get(f"{short}_psks") or [""])[0])
    secrets = Secrets(
        octets(vector, f"{short}_ephemeral"),
        octets(vector, f"{short}_static"),
        octets(vector, f"{short}_remote_static"),
        psk,
    )
    return Handshake(pattern, role, octets(vector, f"{short}_prologue"), secrets)


def run(pattern, vector):
    """Messages alternate, the initiator first, in the handshake and after it."""
    initiator, responder = (side_of(pattern, vector, role) for role in ("initiator", "responder"))
    transport = None
    for i, message in enumerate(vector["messages"]):
        payload, expected = octets(message, "payload"), octets(message, "ciphertext")
        if not initiator.is_complete:
            writer, reader = (initiator, responder) if i % 2 == 0 else (responder, initiator)
            assert writer.write_message(payload) == expected
            assert reader.read_message(expected) == payload
            continue
        if transport is None:
            transport = [CipherState(key) for key in initiator.split()]
        assert transport[i % 2].encrypt(b"", payload) == expected
    assert initiator.hash == responder.hash == octets(vector, "handshake_hash")
    assert initiator.split() == responder.split()


def test_engine_agrees_with_cacophony(vectors):
    n_run = 0
    for pattern, vector in supported(vectors("noise-cacophony.json")):
        run(pattern, vector)
        n_run += 1
    assert n_run == 10


def test_a_planted_wrong_byte_in_a_vector_is_noticed(vectors):
    pattern, vector = next(supported(vectors("noise-cacophony.json")))
    message = vector["messages"][1]
    message["ciphertext"] = message["ciphertext"][:-2] + f"{int(message['ciphertext'][-2:], 16) ^ 1:02x}"
    with pytest.raises(AssertionError):
        run(pattern, vector)


def test_hybrid_handshake_agrees_with_libp2p(vectors):
    vector = vectors("noise-xxhfs-mlkem768.json")
    assert protocol_name("XXhfs").decode() == vector["protocol_name"]
    initiator = Handshake(
        "XXhfs",
        "initiator",
        b"",
        Secrets(
            octets(vector, "init_ephemeral"),
            octets(vector, "init_static"),
            kem_seed=octets(vector, "init_kem_seed_d_z"),
        ),
    )
    responder = Handshake(
        "XXhfs",
        "responder",
        b"",
        Secrets(
            octets(vector, "resp_ephemeral"),
            octets(vector, "resp_static"),
            encaps_randomness=octets(vector, "resp_encaps_seed"),
        ),
    )
    messages = []
    for writer, reader in ((initiator, responder), (responder, initiator), (initiator, responder)):
        messages.append(writer.write_message(b""))
        assert reader.read_message(messages[-1]) == b""
    assert [len(message) for message in messages] == vector["message_sizes"]
    assert messages[2] == octets(vector, "message_3")
    assert initiator.hash == responder.hash == octets(vector, "handshake_hash")
    keys = (octets(vector, "cipherstate_1_key"), octets(vector, "cipherstate_2_key"))
    assert initiator.split() == responder.split() == keys


@pytest.mark.parametrize(
    ("pattern", "sizes"),
    [
        ("XKhfs+psk3", [1248, 1152, 64]),
        ("XXhfs+psk3", [1248, 1200, 64]),
        ("NKhfs+psk2", [1248, 1152]),
        ("NNhfs+psk0", [1248, 1152]),
    ],
)
def test_messages_have_the_sizes_of_section_3_2(pattern, sizes):
    def sides():
        responder_static = bytes([4]) * 32
        known = x25519_public(responder_static) if PATTERNS[pattern][0] == "s" else b""
        one = Secrets(bytes([1]) * 32, bytes([2]) * 32, known, bytes([3]) * 32, kem_seed=bytes([5]) * 64)
        other = Secrets(bytes([6]) * 32, responder_static, b"", bytes([3]) * 32, encaps_randomness=bytes([7]) * 32)
        return Handshake(pattern, "initiator", b"prologue", one), Handshake(pattern, "responder", b"prologue", other)

    initiator, responder = sides()
    turns = [(initiator, responder), (responder, initiator)] * 2
    messages = []
    for (writer, reader), size in zip(turns, sizes, strict=False):
        messages.append(writer.write_message(b""))
        assert len(messages[-1]) == size
        reader.read_message(messages[-1])
    assert initiator.is_complete
    assert initiator.split() == responder.split()
    assert initiator.hash == responder.hash


class Thief(Handshake):
    """Whoever has a recording of a link and, later, secrets of its dialler; `kem_public` is in the recording."""

    def __init__(self, secrets, kem_public):
        super().__init__("XKhfs+psk3", "initiator", b"prologue", secrets)
        self.kem_public = kem_public

    def _write_token(self, token):
        if token == "e1":
            return self.symmetric.encrypt_and_hash(self.kem_public)
        return super()._write_token(token)


def secret(label):
    return sha256(label.encode())


@pytest.mark.parametrize(
    ("lost", "reads"),
    [((), True), (("kem_seed",), False), (("ephemeral",), False), (("ephemeral", "kem_seed"), False)],
)
def test_a_recording_opens_only_to_who_has_the_x25519_secrets_and_that_of_the_kem(lost, reads):
    """Both have to be broken; the static keys and the psk alone open nothing (promises P4 and P6)."""
    responder_key = secret("responder")
    public = x25519_public(responder_key)
    dialler = Secrets(secret("e"), secret("dialler"), public, secret("psk"), secret("kem") * 2)
    answer = Secrets(secret("re"), responder_key, psk=secret("psk"), encaps_randomness=secret("r"))
    initiator = Handshake("XKhfs+psk3", "initiator", b"prologue", dialler)
    responder = Handshake("XKhfs+psk3", "responder", b"prologue", answer)
    first = initiator.write_message(b"")
    responder.read_message(first)
    second = responder.write_message(b"the certificate")
    others = {name: secret(name) * (len(getattr(dialler, name)) // 32) for name in lost}
    thief = Thief(dataclasses.replace(dialler, **others), mlkem.public_from_seed(dialler.kem_seed))
    thief.write_message(b"")
    if reads:
        assert thief.read_message(second) == b"the certificate"
    else:
        with pytest.raises(AuthError):
            thief.read_message(second)
