# SPDX-License-Identifier: MIT
"""Seal and open transport records."""
cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .crypto cimport (
    aead_init, aead_nonce_len, aead_open, aead_seal, aead_tag_len, chacha20_keystream, exactly, hkdf_extract,
    hkdf_label, hkdf_prk_expand, hkdf_prk_label, hkdf_prk_set, hkdf_prk_t, wipe)
from .status cimport E_LENGTH, E_SUITE, OK, RECORD_LEN_MAX
from .sys cimport load_be64, store_be16, store_be64


cdef int record_extract(uint8_t *x32, const uint8_t *k1, const uint8_t *k2, const uint8_t *h32) noexcept nogil:
    cdef uint8_t[64] both
    cdef int rc
    memcpy(both, k1, 32)
    memcpy(both + 32, k2, 32)
    rc = hkdf_extract(x32, h32, 32, both, 64)
    wipe(both, 64)
    return rc


cdef int record_rekey_psk(uint8_t *psk32, const uint8_t *x32) noexcept nogil:
    return hkdf_label(psk32, x32, b"qg1 rekey psk", NULL, 0)


cdef int record_exporter(uint8_t *exporter32, const uint8_t *x32) noexcept nogil:
    return hkdf_label(exporter32, x32, b"qg1 exporter", NULL, 0)


cdef int epoch_derive(record_dir_t *direction) noexcept nogil:
    """Make key, iv and length key of the epoch from its secret."""
    cdef record_keys_t *keys = direction.keys
    cdef hkdf_prk_t prk
    cdef uint8_t[32] key
    cdef uint8_t[8] info
    cdef uint8_t[2] suite
    cdef int rc
    store_be16(suite, direction.suite)
    hkdf_prk_set(&prk, keys.secret)
    hkdf_prk_label(key, &prk, b"qg1 key", suite, 2)
    memcpy(info, b"qg1 iv", 6)
    memcpy(info + 6, suite, 2)
    memset(keys.iv, 0, 32)
    hkdf_prk_expand(keys.iv, aead_nonce_len(direction.suite), &prk, info, 8)
    hkdf_prk_label(keys.len_key, &prk, b"qg1 len", NULL, 0)
    wipe(&prk, sizeof(prk))
    rc = aead_init(&keys.key, direction.suite, key)
    wipe(key, 32)
    return rc


cdef int generation_start(record_dir_t *direction, const uint8_t *x32, int which) noexcept nogil:
    hkdf_label(direction.keys.secret, x32, b"qg1 i2r" if which == DIRECTION_I2R else b"qg1 r2i", NULL, 0)
    direction.seq = 0
    direction.epoch = 0
    direction.epoch_records = 0
    direction.epoch_len = 0
    direction.epoch_start_ns = 0
    direction.generation_len = 0
    return epoch_derive(direction)


cdef int record_begin(record_dir_t *direction, record_keys_t *keys, const uint8_t *x32, int which,
                      uint16_t suite) noexcept nogil:
    cdef int tag_len = aead_tag_len(suite)
    if tag_len < 0:
        return tag_len
    memset(direction, 0, sizeof(record_dir_t))
    direction.keys = keys
    direction.suite = suite
    direction.tag_len = <uint8_t>tag_len
    return generation_start(direction, x32, which)


cdef int record_renew(record_dir_t *direction, const uint8_t *x32, int which) noexcept nogil:
    direction.generation += 1
    return generation_start(direction, x32, which)


cdef int epoch_advance(record_dir_t *direction) noexcept nogil:
    hkdf_label(direction.keys.secret, direction.keys.secret, b"qg1 next", NULL, 0)
    direction.epoch += 1
    direction.epoch_records = 0
    direction.epoch_len = 0
    direction.epoch_start_ns = 0
    return epoch_derive(direction)


cdef int record_end_epoch(record_dir_t *direction) noexcept nogil:
    if direction.epoch_records == 0:
        return OK
    return epoch_advance(direction)


cdef inline void nonce_build(uint8_t *nonce, const record_dir_t *direction, uint64_t seq) noexcept nogil:
    cdef uint8_t *tail = nonce + direction.keys.key.nonce_len - 8
    memcpy(nonce, direction.keys.iv, 32)
    store_be64(tail, load_be64(tail) ^ seq)


cdef inline void length_mask(record_dir_t *direction, uint8_t *mask2) noexcept nogil:
    cdef uint64_t i = direction.epoch_records % MASK_RECORDS
    if i == 0:
        chacha20_keystream(direction.keys.mask, direction.keys.len_key,
                           <uint32_t>(direction.epoch_records // MASK_RECORDS))
    mask2[0] = direction.keys.mask[2 * i]
    mask2[1] = direction.keys.mask[2 * i + 1]


cdef inline int record_spent(record_dir_t *direction, size_t len, uint64_t now_ns) noexcept nogil:
    """Account for one record and end the epoch that its number ends."""
    if direction.epoch_records == 0:
        direction.epoch_start_ns = now_ns
    direction.epoch_records += 1
    direction.epoch_len += len
    direction.generation_len += len
    if direction.seq % EPOCH_RECORDS == 0:
        return epoch_advance(direction)
    return OK


cdef int record_seal(record_dir_t *direction, uint8_t *dst, const uint8_t *inner, size_t len,
                     uint64_t now_ns) noexcept nogil:
    cdef uint8_t[32] nonce
    cdef uint8_t[2] head
    cdef uint8_t[2] mask
    cdef uint64_t seq = direction.seq
    cdef int n
    if direction.keys.key.suite == 0:
        return E_SUITE
    direction.seq = seq + 1
    nonce_build(nonce, direction, seq)
    length_mask(direction, mask)
    store_be16(head, <uint32_t>(len + direction.tag_len))
    n = aead_seal(&direction.keys.key, dst + 2, inner, len, head, 2, nonce)
    if n < 0:
        return n
    dst[0] = head[0] ^ mask[0]
    dst[1] = head[1] ^ mask[1]
    record_spent(direction, n, now_ns)
    return 2 + n


cdef int record_peek(record_dir_t *direction, const uint8_t *src) noexcept nogil:
    cdef uint8_t[2] mask
    cdef int len
    if direction.keys.key.suite == 0:
        return E_SUITE
    length_mask(direction, mask)
    len = ((src[0] ^ mask[0]) << 8) | (src[1] ^ mask[1])
    if len < direction.tag_len + 1 or len > RECORD_LEN_MAX or len > 16384 + direction.tag_len:
        return E_LENGTH
    return len


cdef int record_open(record_dir_t *direction, uint8_t *dst, const uint8_t *src, size_t len,
                     uint64_t now_ns) noexcept nogil:
    cdef uint8_t[32] nonce
    cdef uint8_t[2] head
    cdef int n
    nonce_build(nonce, direction, direction.seq)
    store_be16(head, <uint32_t>len)
    n = aead_open(&direction.keys.key, dst, src, len, head, 2, nonce)
    if n < 0:
        return n
    direction.seq += 1
    record_spent(direction, len, now_ns)
    return n


def export_secrets(bytes k1 not None, bytes k2 not None, bytes h not None):
    """Derive what a session keeps beside its record keys: (psk of the next re-keying, exporter secret)."""
    cdef uint8_t[32] x
    cdef uint8_t[32] psk
    cdef uint8_t[32] exporter
    record_extract(x, exactly(k1, 32, "k1"), exactly(k2, 32, "k2"), exactly(h, 32, "h"))
    record_rekey_psk(psk, x)
    record_exporter(exporter, x)
    wipe(x, 32)
    return psk[:32], exporter[:32]


@cython.final
cdef class RecordDirection:
    """One direction of a session's records; for tests, vectors and fuzzers.

    `role` is 0 for initiator to responder, 1 for the other way. Keys lie in this object and are wiped with it.
    """
    cdef record_dir_t direction
    cdef record_keys_t keys
    cdef int which

    def __cinit__(self, bytes k1 not None, bytes k2 not None, bytes h not None, int role, int suite):
        cdef uint8_t[32] x
        cdef int rc
        if not (len(k1) == len(k2) == len(h) == 32):
            raise ValueError("k1, k2 and h have 32 bytes each")
        self.which = role
        record_extract(x, k1, k2, h)
        rc = record_begin(&self.direction, &self.keys, x, role, <uint16_t>suite)
        wipe(x, 32)
        if rc < 0:
            raise ValueError(f"suite {suite} is not usable here")

    def __dealloc__(self):
        wipe(&self.keys, sizeof(record_keys_t))

    def seal(self, bytes inner not None):
        """Seal one record and return its bytes."""
        cdef bytearray out = bytearray(len(inner) + 34)
        cdef int n = record_seal(&self.direction, <uint8_t *><char *>out, inner, len(inner), 1)
        return bytes(out[:n]) if n >= 0 else n

    def open(self, bytes record not None):
        """Open one whole record: its plaintext, or a negative status code."""
        cdef bytearray out = bytearray(len(record) + 1)
        cdef int n
        if len(record) < 2:
            return E_LENGTH
        n = record_peek(&self.direction, record)
        if n < 0 or n != len(record) - 2:
            return E_LENGTH
        n = record_open(&self.direction, <uint8_t *><char *>out, <const uint8_t *>record + 2, n, 1)
        return bytes(out[:n]) if n >= 0 else n

    def end_epoch(self):
        """Go to the next epoch, as after a record that held EPOCH."""
        record_end_epoch(&self.direction)

    def renew(self, bytes k1 not None, bytes k2 not None, bytes h not None):
        """Go to the next generation."""
        cdef uint8_t[32] x
        record_extract(x, k1, k2, h)
        record_renew(&self.direction, x, self.which)
        wipe(x, 32)

    @property
    def position(self):
        """(generation, epoch, sequence number of the next record)."""
        return self.direction.generation, self.direction.epoch, self.direction.seq
