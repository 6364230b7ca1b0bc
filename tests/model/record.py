# SPDX-License-Identifier: MIT
"""Transport records on a byte stream: key schedule, masked lengths, epochs and padding (4.1, 4.2, 4.5, 4.6)."""

from .errors import AuthError, BadRecord
from .primitives import (
    NONCE_LEN,
    TAG_LEN,
    aead_open,
    aead_seal,
    chacha20_keystream,
    hkdf_expand,
    hkdf_extract,
)

INNER_MAX = 16384
EPOCH_RECORDS = 1 << 16
PADDING_NONE, PADDING_LIGHT, PADDING_BLOCKS_SMALL, PADDING_BLOCKS_LARGE = 0, 1, 2, 3
BLOCK_SMALL = 1024


class Generation:
    """Everything that follows from one Noise handshake: generation 0 from XK, XX or NK, later ones from NN."""

    def __init__(self, handshake_hash: bytes, k1: bytes, k2: bytes) -> None:
        x = hkdf_extract(handshake_hash, k1 + k2)
        self.hash = handshake_hash
        self.i2r = hkdf_expand(x, b"qg1 i2r")
        self.r2i = hkdf_expand(x, b"qg1 r2i")
        self.rekey_psk = hkdf_expand(x, b"qg1 rekey psk")
        self.exporter = hkdf_expand(x, b"qg1 exporter")


class Direction:
    """The keys and counters of one direction in one generation. One side seals with it, the other opens."""

    def __init__(self, secret: bytes, suite: int) -> None:
        self.suite = suite
        self.seq = 0  # never resets inside a generation
        self.epoch = 0
        self._epoch_start(secret)

    def _epoch_start(self, secret: bytes) -> None:
        label = self.suite.to_bytes(2, "big")
        self.secret = secret
        self.key = hkdf_expand(secret, b"qg1 key" + label)
        self.iv = hkdf_expand(secret, b"qg1 iv" + label, NONCE_LEN[self.suite])
        self.len_key = hkdf_expand(secret, b"qg1 len")
        self.record_idx = 0  # restarts each epoch: selects the bytes of the length mask

    def epoch_advance(self) -> None:
        self._epoch_start(hkdf_expand(self.secret, b"qg1 next"))
        self.epoch += 1

    @property
    def tag_len(self) -> int:
        return TAG_LEN[self.suite]

    def nonce(self) -> bytes:
        padded_seq = self.seq.to_bytes(len(self.iv), "big")
        return bytes(a ^ b for a, b in zip(self.iv, padded_seq, strict=True))

    def length_mask(self) -> bytes:
        """Bytes 2i and 2i+1 of the ChaCha20 keystream, i the record of the epoch; a block of it has 64 bytes."""
        block, offset = divmod(2 * self.record_idx, 64)
        return chacha20_keystream(self.len_key, bytes(12), block, 64)[offset : offset + 2]

    def length_unmask(self, masked: bytes) -> int:
        """L; it cannot be known to be right before the record opens, but it can be known to be wrong."""
        length = int.from_bytes(_xor(masked, self.length_mask()), "big")
        if not self.tag_len + 1 <= length <= self.tag_len + INNER_MAX:
            raise BadRecord("record length")
        return length

    def seal(self, inner: bytes) -> bytes:
        """A whole record; record_done must follow."""
        length = (len(inner) + self.tag_len).to_bytes(2, "big")
        sealed = aead_seal(self.suite, self.key, self.nonce(), length, inner)
        return _xor(length, self.length_mask()) + sealed

    def open(self, sealed: bytes) -> bytes:
        """The inner bytes of one ct; record_done must follow."""
        try:
            return aead_open(self.suite, self.key, self.nonce(), len(sealed).to_bytes(2, "big"), sealed)
        except AuthError as error:
            raise BadRecord("record tag") from error

    def record_done(self, held_epoch: bool) -> None:
        """Counts the record; the epoch advances by one after record 2^16 k - 1 or after EPOCH, once if both."""
        self.seq += 1
        self.record_idx += 1
        if held_epoch or self.seq % EPOCH_RECORDS == 0:
            self.epoch_advance()


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def pad_light(length: int) -> int:
    """pad(n) of section 4.6: powers of two up to 1,024, then Padme."""
    for size in (64, 128, 256, 512, 1024):
        if length <= size:
            return size
    exponent = length.bit_length() - 1
    n_significant = exponent.bit_length()
    mask = (1 << (exponent - n_significant)) - 1
    return min((length + mask) & ~mask, INNER_MAX)


def padded_len(mode: int, length: int) -> int:
    """Inner size for `length` bytes of frames. A record has at least one inner byte, since L is at least tag + 1."""
    if mode == PADDING_NONE:
        return max(length, 1)
    if mode == PADDING_LIGHT:
        return pad_light(length)
    block = BLOCK_SMALL if mode == PADDING_BLOCKS_SMALL else INNER_MAX
    return max(-(-length // block), 1) * block
