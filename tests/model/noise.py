# SPDX-License-Identifier: MIT
"""Noise revision 34 with psk and hybrid forward secrecy revision 1, for the patterns of section 3.2.

Randomness is handed in: each handshake gets its ephemeral X25519 secret, the ML-KEM seed (d || z) and the encapsulation
randomness when it is made, so that the same input always gives the same bytes.
"""

import dataclasses

from . import mlkem
from .errors import AuthError
from .primitives import (
    SUITE_CHACHA20_POLY1305,
    aead_open,
    aead_seal,
    hmac_sha256,
    sha256,
    x25519,
    x25519_public,
)

# Section 3.2, exact: responder's pre-message, then one line of tokens per message, the initiator first.
PATTERNS = {
    "XKhfs+psk3": ("s", "e es e1", "e ee ekem1", "s se psk"),
    "XXhfs+psk3": ("", "e e1", "e ee ekem1 s es", "s se psk"),
    "NKhfs+psk2": ("s", "e es e1", "e ee ekem1 psk"),
    "NNhfs+psk0": ("", "psk e e1", "e ee ekem1"),
    # Their bases, in the form in which third parties publish vectors.
    "XXhfs": ("", "e e1", "e ee ekem1 s es", "s se"),
    "NN": ("", "e", "e ee"),
    "NNpsk0": ("", "psk e", "e ee"),
    "NNpsk2": ("", "e", "e ee psk"),
    "NK": ("s", "e es", "e ee"),
    "NKpsk0": ("s", "psk e es", "e ee"),
    "NKpsk2": ("s", "e es", "e ee psk"),
    "XK": ("s", "e es", "e ee", "s se"),
    "XKpsk3": ("s", "e es", "e ee", "s se psk"),
    "XX": ("", "e", "e ee s es", "s se"),
    "XXpsk3": ("", "e", "e ee s es", "s se psk"),
}

TAG_LEN = 16


def protocol_name(pattern: str) -> bytes:
    """`MLKEM768` joins the DH name only where the hfs modifier is in the pattern."""
    dh = "25519+MLKEM768" if "hfs" in pattern else "25519"
    return f"Noise_{pattern}_{dh}_ChaChaPoly_SHA256".encode("ascii")


def _hkdf(chaining_key: bytes, ikm: bytes, n_outputs: int) -> list[bytes]:
    """Noise section 4.3."""
    temp_key = hmac_sha256(chaining_key, ikm)
    outputs: list[bytes] = []
    for i in range(n_outputs):
        previous = outputs[-1] if outputs else b""
        outputs.append(hmac_sha256(temp_key, previous + bytes([i + 1])))
    return outputs


class CipherState:
    """Noise section 5.1, ChaChaPoly: the nonce is 32 zero bits, then the counter as 64 bits little-endian."""

    def __init__(self, key: bytes | None = None) -> None:
        self.key = key
        self.n = 0

    def _nonce(self) -> bytes:
        return bytes(4) + self.n.to_bytes(8, "little")

    def encrypt(self, ad: bytes, plain: bytes) -> bytes:
        if self.key is None:
            return plain
        sealed = aead_seal(SUITE_CHACHA20_POLY1305, self.key, self._nonce(), ad, plain)
        self.n += 1
        return sealed

    def decrypt(self, ad: bytes, sealed: bytes) -> bytes:
        if self.key is None:
            return sealed
        plain = aead_open(SUITE_CHACHA20_POLY1305, self.key, self._nonce(), ad, sealed)
        self.n += 1
        return plain


class SymmetricState:
    """Noise section 5.2."""

    def __init__(self, name: bytes) -> None:
        self.h = name.ljust(32, b"\0") if len(name) <= 32 else sha256(name)
        self.ck = self.h
        self.cipher = CipherState()

    def mix_key(self, ikm: bytes) -> None:
        self.ck, key = _hkdf(self.ck, ikm, 2)
        self.cipher = CipherState(key)

    def mix_hash(self, data: bytes) -> None:
        self.h = sha256(self.h + data)

    def mix_key_and_hash(self, ikm: bytes) -> None:
        self.ck, temp_h, key = _hkdf(self.ck, ikm, 3)
        self.mix_hash(temp_h)
        self.cipher = CipherState(key)

    def encrypt_and_hash(self, plain: bytes) -> bytes:
        sealed = self.cipher.encrypt(self.h, plain)
        self.mix_hash(sealed)
        return sealed

    def decrypt_and_hash(self, sealed: bytes) -> bytes:
        plain = self.cipher.decrypt(self.h, sealed)
        self.mix_hash(sealed)
        return plain

    def split(self) -> tuple[bytes, bytes]:
        """(k1, k2): k1 is for what the Noise initiator sends."""
        k1, k2 = _hkdf(self.ck, b"", 2)
        return k1, k2


@dataclasses.dataclass(frozen=True)
class Secrets:
    """What one side brings to one handshake; empty where its tokens never ask for it."""

    ephemeral: bytes
    static: bytes = b""
    remote_static: bytes = b""
    psk: bytes = b""
    kem_seed: bytes = b""
    encaps_randomness: bytes = b""


class Handshake:
    """Noise section 5.3. `is_initiator` names the Noise role."""

    def __init__(self, pattern: str, role: str, prologue: bytes, secrets: Secrets) -> None:
        pre_message, *messages = PATTERNS[pattern]
        self.is_initiator = role == "initiator"
        self.secrets = secrets
        self.messages = [line.split() for line in messages]
        self.has_psk = "psk" in pattern
        self.n_done = 0
        self.written: list[tuple[bytes, bytes]] = []  # (payload, message), for the known-answer files
        self.remote_static = secrets.remote_static
        self.remote_ephemeral = b""
        self.remote_kem_public = b""
        self.symmetric = SymmetricState(protocol_name(pattern))
        self.symmetric.mix_hash(prologue)
        if pre_message == "s":
            known = secrets.remote_static if self.is_initiator else x25519_public(secrets.static)
            self.symmetric.mix_hash(known)

    @property
    def is_complete(self) -> bool:
        return self.n_done == len(self.messages)

    @property
    def hash(self) -> bytes:
        return self.symmetric.h

    def split(self) -> tuple[bytes, bytes]:
        if not self.is_complete:
            raise ValueError("the handshake is not complete")
        return self.symmetric.split()

    def _next_tokens(self, is_initiators_turn: bool) -> list[str]:
        if self.is_complete or (self.n_done % 2 == 0) != is_initiators_turn:
            raise ValueError("not this side's turn")
        return self.messages[self.n_done]

    def write_message(self, payload: bytes) -> bytes:
        out = b""
        for token in self._next_tokens(self.is_initiator):
            out += self._write_token(token)
        out += self.symmetric.encrypt_and_hash(payload)
        self.written.append((payload, out))
        self.n_done += 1
        return out

    def read_message(self, message: bytes) -> bytes:
        rest = message
        for token in self._next_tokens(not self.is_initiator):
            rest = self._read_token(token, rest)
        payload = self.symmetric.decrypt_and_hash(rest)
        self.n_done += 1
        return payload

    def _write_token(self, token: str) -> bytes:
        if token == "e":
            public = x25519_public(self.secrets.ephemeral)
            self._mix_ephemeral(public)
            return public
        if token == "s":
            return self.symmetric.encrypt_and_hash(x25519_public(self.secrets.static))
        if token == "e1":
            return self.symmetric.encrypt_and_hash(mlkem.public_from_seed(self.secrets.kem_seed))
        if token == "ekem1":
            ciphertext, shared = mlkem.encapsulate(self.remote_kem_public, self.secrets.encaps_randomness)
            out = self.symmetric.encrypt_and_hash(ciphertext)
            self.symmetric.mix_key(shared)
            return out
        self._mix_shared(token)
        return b""

    def _read_token(self, token: str, rest: bytes) -> bytes:
        if token == "e":
            self.remote_ephemeral, rest = _cut(rest, 32)
            self._mix_ephemeral(self.remote_ephemeral)
        elif token == "s":
            sealed, rest = _cut(rest, 32 + self._tag_len())
            self.remote_static = self.symmetric.decrypt_and_hash(sealed)
        elif token == "e1":
            sealed, rest = _cut(rest, mlkem.PUBLIC_LEN + self._tag_len())
            self.remote_kem_public = self.symmetric.decrypt_and_hash(sealed)
        elif token == "ekem1":
            sealed, rest = _cut(rest, mlkem.CIPHERTEXT_LEN + self._tag_len())
            ciphertext = self.symmetric.decrypt_and_hash(sealed)
            self.symmetric.mix_key(mlkem.decapsulate(self.secrets.kem_seed, ciphertext))
        else:
            self._mix_shared(token)
        return rest

    def _tag_len(self) -> int:
        return TAG_LEN if self.symmetric.cipher.key is not None else 0

    def _mix_ephemeral(self, public: bytes) -> None:
        self.symmetric.mix_hash(public)
        if self.has_psk:  # Noise section 9.2
            self.symmetric.mix_key(public)

    def _mix_shared(self, token: str) -> None:
        """psk, or one of the four DH tokens: the first letter names the initiator's key, the second the responder's."""
        if token == "psk":
            self.symmetric.mix_key_and_hash(self.secrets.psk)
            return
        own, other = token if self.is_initiator else reversed(token)
        secret = self.secrets.ephemeral if own == "e" else self.secrets.static
        public = self.remote_ephemeral if other == "e" else self.remote_static
        self.symmetric.mix_key(x25519(secret, public))


def _cut(data: bytes, length: int) -> tuple[bytes, bytes]:
    if len(data) < length:
        raise AuthError("Noise message too short")
    return data[:length], data[length:]
