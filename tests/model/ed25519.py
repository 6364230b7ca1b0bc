# SPDX-License-Identifier: MIT
"""Ed25519 with libsodium's strict check, which section 2.1 asks for: nothing of small order, nothing non-canonical."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P


def public_key(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def sign(seed: bytes, message: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).sign(message)


def _y(encoded_point: bytes) -> int:
    return int.from_bytes(encoded_point, "little") & ((1 << 255) - 1)


def _has_small_order(encoded_point: bytes) -> bool:
    """y = 1, -1 and 0 are the points of order 1, 2 and 4; those of order 8 double to y = 0: d y^4 + 2 y^2 - 1 = 0."""
    y = _y(encoded_point)
    return y * (y * y - 1) * (D * y**4 + 2 * y * y - 1) % P == 0


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    if len(public) != 32 or len(signature) != 64:
        return False
    if _y(public) >= P or _has_small_order(public) or _has_small_order(signature[:32]):
        return False
    if int.from_bytes(signature[32:], "little") >= ORDER:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
