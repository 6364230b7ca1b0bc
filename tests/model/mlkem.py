# SPDX-License-Identifier: MIT
"""ML-KEM-768 in plain Python (FIPS 203), because `cryptography` offers no encapsulation with given randomness.

Algorithm numbers are those of FIPS 203. Not constant time, which is fine for a model and for nothing else.
"""

import functools
import hashlib

from .errors import AuthError

Q = 3329
N = 256
K = 3
ETA = 2
DU, DV = 10, 4
PUBLIC_LEN = 384 * K + 32
CIPHERTEXT_LEN = 32 * (DU * K + DV)
SEED_LEN = 64

Poly = list[int]


def _bit_reverse7(value: int) -> int:
    return int(f"{value:07b}"[::-1], 2)


ZETAS = [pow(17, _bit_reverse7(i), Q) for i in range(128)]
GAMMAS = [pow(17, 2 * _bit_reverse7(i) + 1, Q) for i in range(128)]


def _h(data: bytes) -> bytes:
    return hashlib.sha3_256(data).digest()


def _g(data: bytes) -> tuple[bytes, bytes]:
    out = hashlib.sha3_512(data).digest()
    return out[:32], out[32:]


def _byte_encode(poly: Poly, n_bits: int) -> bytes:
    """Algorithm 5."""
    packed = sum(value << (n_bits * i) for i, value in enumerate(poly))
    return packed.to_bytes(32 * n_bits, "little")


def _byte_decode(data: bytes, n_bits: int) -> Poly:
    """Algorithm 6."""
    packed = int.from_bytes(data, "little")
    modulus = Q if n_bits == 12 else 1 << n_bits
    return [(packed >> (n_bits * i) & ((1 << n_bits) - 1)) % modulus for i in range(N)]


def _compress(poly: Poly, n_bits: int) -> Poly:
    return [((value << (n_bits + 1)) + Q) // (2 * Q) % (1 << n_bits) for value in poly]


def _decompress(poly: Poly, n_bits: int) -> Poly:
    return [(2 * value * Q + (1 << n_bits)) >> (n_bits + 1) for value in poly]


def _sample_ntt(seed: bytes) -> Poly:
    """Algorithm 7. 1,536 bytes of XOF output are enough except with negligible probability; then more are taken."""
    length = 1536
    while True:
        stream = hashlib.shake_128(seed).digest(length)
        out: Poly = []
        for i in range(0, length, 3):
            first = stream[i] + 256 * (stream[i + 1] % 16)
            second = stream[i + 1] // 16 + 16 * stream[i + 2]
            out += [value for value in (first, second) if value < Q]
        if len(out) >= N:
            return out[:N]
        length *= 2


def _sample_cbd(seed: bytes, counter: int) -> Poly:
    """Algorithm 8 over PRF_eta(seed, counter)."""
    bits = int.from_bytes(hashlib.shake_256(seed + bytes([counter])).digest(64 * ETA), "little")
    out = []
    for i in range(N):
        chunk = bits >> (2 * ETA * i)
        out.append(((chunk & 1) + (chunk >> 1 & 1) - (chunk >> 2 & 1) - (chunk >> 3 & 1)) % Q)
    return out


def _ntt(poly: Poly) -> Poly:
    """Algorithm 9."""
    f = list(poly)
    i, span = 1, 128
    while span >= 2:
        for start in range(0, N, 2 * span):
            for j in range(start, start + span):
                t = ZETAS[i] * f[j + span] % Q
                f[j + span] = (f[j] - t) % Q
                f[j] = (f[j] + t) % Q
            i += 1
        span //= 2
    return f


def _ntt_inverse(poly: Poly) -> Poly:
    """Algorithm 10."""
    f = list(poly)
    i, span = 127, 2
    while span <= 128:
        for start in range(0, N, 2 * span):
            for j in range(start, start + span):
                t = f[j]
                f[j] = (t + f[j + span]) % Q
                f[j + span] = ZETAS[i] * (f[j + span] - t) % Q
            i -= 1
        span *= 2
    return [value * 3303 % Q for value in f]


def _multiply(f: Poly, g: Poly) -> Poly:
    """Algorithms 11 and 12."""
    out = []
    for i in range(0, N, 2):
        out.append((f[i] * g[i] + f[i + 1] * g[i + 1] * GAMMAS[i // 2]) % Q)
        out.append((f[i] * g[i + 1] + f[i + 1] * g[i]) % Q)
    return out


def _add(f: Poly, g: Poly) -> Poly:
    return [(a + b) % Q for a, b in zip(f, g, strict=True)]


def _dot(left: list[Poly], right: list[Poly]) -> Poly:
    total = [0] * N
    for f, g in zip(left, right, strict=True):
        total = _add(total, _multiply(f, g))
    return total


@functools.lru_cache(maxsize=K * K)
def _matrix_entry(rho: bytes, row: int, column: int) -> Poly:
    return _sample_ntt(rho + bytes([column, row]))


@functools.lru_cache(maxsize=1)  # an initiator makes its key again from the seed when it decapsulates
def _pke_keypair(d: bytes) -> tuple[bytes, list[Poly]]:
    """Algorithm 13: the encoded encryption key and the secret vector in the NTT domain."""
    rho, sigma = _g(d + bytes([K]))
    s = [_ntt(_sample_cbd(sigma, i)) for i in range(K)]
    e = [_ntt(_sample_cbd(sigma, K + i)) for i in range(K)]
    t = [_add(_dot([_matrix_entry(rho, i, j) for j in range(K)], s), e[i]) for i in range(K)]
    return b"".join(_byte_encode(poly, 12) for poly in t) + rho, s


def _pke_encrypt(public: bytes, message: bytes, randomness: bytes) -> bytes:
    """Algorithm 14."""
    t = [_byte_decode(public[384 * i : 384 * (i + 1)], 12) for i in range(K)]
    rho = public[384 * K :]
    y = [_ntt(_sample_cbd(randomness, i)) for i in range(K)]
    e1 = [_sample_cbd(randomness, K + i) for i in range(K)]
    e2 = _sample_cbd(randomness, 2 * K)
    u = [_add(_ntt_inverse(_dot([_matrix_entry(rho, j, i) for j in range(K)], y)), e1[i]) for i in range(K)]
    mu = _decompress(_byte_decode(message, 1), 1)
    v = _add(_add(_ntt_inverse(_dot(t, y)), e2), mu)
    c1 = b"".join(_byte_encode(_compress(poly, DU), DU) for poly in u)
    return c1 + _byte_encode(_compress(v, DV), DV)


def _pke_decrypt(s: list[Poly], ciphertext: bytes) -> bytes:
    """Algorithm 15."""
    size = 32 * DU
    u = [_decompress(_byte_decode(ciphertext[size * i : size * (i + 1)], DU), DU) for i in range(K)]
    v = _decompress(_byte_decode(ciphertext[size * K :], DV), DV)
    product = _ntt_inverse(_dot(s, [_ntt(poly) for poly in u]))
    w = [(a - b) % Q for a, b in zip(v, product, strict=True)]
    return _byte_encode(_compress(w, 1), 1)


def public_from_seed(seed: bytes) -> bytes:
    """The encapsulation key of the 64 byte seed d || z."""
    return _pke_keypair(seed[:32])[0]


def encapsulate(public: bytes, message: bytes) -> tuple[bytes, bytes]:
    """(ciphertext, shared secret) with the 32 byte randomness `message`, after the input check of FIPS 203 7.2."""
    if len(public) != PUBLIC_LEN:
        raise AuthError("ML-KEM-768: wrong length of the public key")
    encoded = [public[384 * i : 384 * (i + 1)] for i in range(K)]
    if any(_byte_encode(_byte_decode(poly, 12), 12) != poly for poly in encoded):
        raise AuthError("ML-KEM-768: a coefficient of the public key is not reduced")
    shared, randomness = _g(message + _h(public))
    return _pke_encrypt(public, message, randomness), shared


def decapsulate(seed: bytes, ciphertext: bytes) -> bytes:
    """The shared secret; a ciphertext that does not match gives the implicit rejection key (algorithm 18)."""
    if len(ciphertext) != CIPHERTEXT_LEN:
        raise AuthError("ML-KEM-768: wrong length of the ciphertext")
    public, s = _pke_keypair(seed[:32])
    message = _pke_decrypt(s, ciphertext)
    shared, randomness = _g(message + _h(public))
    if _pke_encrypt(public, message, randomness) == ciphertext:
        return shared
    return hashlib.shake_256(seed[32:] + ciphertext).digest(32)
