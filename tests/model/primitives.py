# SPDX-License-Identifier: MIT
"""Hash, key derivation, Diffie-Hellman and AEAD, from hashlib, hmac, `cryptography` and `pyaegis` (4.1, 4.4)."""

import base64
import hashlib
import hmac
import struct

import pyaegis
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .errors import AuthError

SUITE_CHACHA20_POLY1305 = 1
SUITE_AES_256_GCM = 2
SUITE_AEGIS_256 = 4

TAG_LEN = {SUITE_CHACHA20_POLY1305: 16, SUITE_AES_256_GCM: 16, SUITE_AEGIS_256: 32}
NONCE_LEN = {SUITE_CHACHA20_POLY1305: 12, SUITE_AES_256_GCM: 12, SUITE_AEGIS_256: 32}


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def hkdf_extract(salt: bytes, ikm: bytes) -> bytes:
    """RFC 5869, step 1."""
    return hmac_sha256(salt, ikm)


def hkdf_expand(prk: bytes, info: bytes, length: int = 32) -> bytes:
    """RFC 5869, step 2. Output is 32 bytes unless said (section 4.1)."""
    if length > 255 * 32:
        raise ValueError("HKDF-SHA256 gives at most 8,160 bytes")
    out = block = b""
    counter = 1
    while len(out) < length:
        block = hmac_sha256(prk, block + info + bytes([counter]))
        out += block
        counter += 1
    return out[:length]


def x25519_public(secret: bytes) -> bytes:
    key = X25519PrivateKey.from_private_bytes(secret)
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def x25519(secret: bytes, public: bytes) -> bytes:
    """The shared secret; an all-zero result aborts (section 3.2), which the library does by ValueError."""
    try:
        shared = X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise AuthError("X25519: all-zero result") from error
    if not any(shared):
        raise AuthError("X25519: all-zero result")
    return shared


def aead_seal(suite: int, key: bytes, nonce: bytes, ad: bytes, plain: bytes) -> bytes:
    """ciphertext || tag under one of the three record suites."""
    if suite == SUITE_AEGIS_256:
        return bytes(pyaegis.Aegis256(tag_size=32).encrypt(key, nonce, plain, ad))
    cipher = ChaCha20Poly1305(key) if suite == SUITE_CHACHA20_POLY1305 else AESGCM(key)
    return cipher.encrypt(nonce, plain, ad)


def aead_open(suite: int, key: bytes, nonce: bytes, ad: bytes, sealed: bytes) -> bytes:
    if len(sealed) < TAG_LEN[suite]:
        raise AuthError("shorter than a tag")
    try:
        if suite == SUITE_AEGIS_256:
            return bytes(pyaegis.Aegis256(tag_size=32).decrypt(key, nonce, sealed, ad))
        cipher = ChaCha20Poly1305(key) if suite == SUITE_CHACHA20_POLY1305 else AESGCM(key)
        return cipher.decrypt(nonce, sealed, ad)
    except (InvalidTag, pyaegis.DecryptionError) as error:
        raise AuthError("tag does not verify") from error


def chacha20_keystream(key: bytes, nonce: bytes, counter: int, length: int) -> bytes:
    """IETF ChaCha20 (RFC 8439): 12 byte nonce, 32 bit block counter, which the library takes in front of the nonce."""
    cipher = Cipher(ChaCha20(key, struct.pack("<L", counter) + nonce), mode=None).encryptor()
    return cipher.update(bytes(length))


def _rotl32(value: int, n_bits: int) -> int:
    return ((value << n_bits) | (value >> (32 - n_bits))) & 0xFFFFFFFF


def _quarter_round(state: list[int], a: int, b: int, c: int, d: int) -> None:
    for n_first, n_second in ((16, 12), (8, 7)):
        state[a] = (state[a] + state[b]) & 0xFFFFFFFF
        state[d] = _rotl32(state[d] ^ state[a], n_first)
        state[c] = (state[c] + state[d]) & 0xFFFFFFFF
        state[b] = _rotl32(state[b] ^ state[c], n_second)


def hchacha20(key: bytes, nonce16: bytes) -> bytes:
    """draft-irtf-cfrg-xchacha-03, section 2.2: the ChaCha rounds without the final addition."""
    state = list(struct.unpack("<16L", b"expand 32-byte k" + key + nonce16))
    for _ in range(10):
        for a in range(4):
            _quarter_round(state, a, a + 4, a + 8, a + 12)
        for a in range(4):
            _quarter_round(state, a, 4 + (a + 1) % 4, 8 + (a + 2) % 4, 12 + (a + 3) % 4)
    return struct.pack("<8L", *state[:4], *state[12:])


def xchacha20_poly1305_seal(key: bytes, nonce24: bytes, ad: bytes, plain: bytes) -> bytes:
    subkey = hchacha20(key, nonce24[:16])
    return aead_seal(SUITE_CHACHA20_POLY1305, subkey, bytes(4) + nonce24[16:], ad, plain)


def xchacha20_poly1305_open(key: bytes, nonce24: bytes, ad: bytes, sealed: bytes) -> bytes:
    subkey = hchacha20(key, nonce24[:16])
    return aead_open(SUITE_CHACHA20_POLY1305, subkey, bytes(4) + nonce24[16:], ad, sealed)


def base32_encode(data: bytes) -> str:
    """RFC 4648 alphabet in lower case, no padding (section 2.2)."""
    return base64.b32encode(data).decode("ascii").rstrip("=").lower()


def base32_decode(text: str, length: int) -> bytes:
    """Exactly `length` bytes; upper case, padding and unused bits that are not zero are refused."""
    try:
        data = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except ValueError as error:
        raise ValueError("not base32") from error
    if len(data) != length or base32_encode(data) != text:
        raise ValueError(f"not the one base32 form of {length} bytes")
    return data
