# SPDX-License-Identifier: MIT
"""Seal and open transport records: counters, hidden lengths, key epochs, key generations (protocol.md 4.1, 4.2, 4.5).

Laws of this file: the sequence number is spent before the cipher is called; a secret is wiped when its successor
exists; a direction whose keys are gone (after fork or wipe) refuses with E_SUITE.
"""
from libc.stdint cimport uint8_t, uint16_t, uint64_t

from .crypto cimport aead_key_t

cdef enum:
    EPOCH_RECORDS = 65536           # records after which the epoch ends by itself
    MASK_RECORDS = 32               # records whose length masks one key stream block holds

cdef enum direction_t:
    DIRECTION_I2R = 0
    DIRECTION_R2I = 1

ctypedef struct record_keys_t:      # one direction's secrets; lies in a secret slot
    aead_key_t key                  # of this epoch
    uint8_t secret[32]              # S[e]
    uint8_t len_key[32]
    uint8_t iv[32]                  # nonce_len bytes in use
    uint8_t mask[64]                # key stream for the lengths of the current 32 records

ctypedef struct record_dir_t:
    record_keys_t *keys             # borrowed from the session's slot
    uint64_t seq                    # of the next record in this generation
    uint64_t epoch                  # of this generation
    uint64_t epoch_records          # records of this epoch so far
    uint64_t epoch_len              # ciphertext bytes of this epoch
    uint64_t epoch_start_ns         # when the epoch's first record was sealed or opened; 0 before it
    uint64_t generation             # 0 after the handshake, + 1 per re-key
    uint64_t generation_len         # ciphertext bytes of this generation
    uint16_t suite
    uint8_t tag_len

cdef int record_extract(uint8_t *x32, const uint8_t *k1, const uint8_t *k2, const uint8_t *h32) noexcept nogil
    # X from the two Noise keys and the handshake hash
cdef int record_rekey_psk(uint8_t *psk32, const uint8_t *x32) noexcept nogil
cdef int record_exporter(uint8_t *exporter32, const uint8_t *x32) noexcept nogil
cdef int record_begin(record_dir_t *direction, record_keys_t *keys, const uint8_t *x32, int which,
                      uint16_t suite) noexcept nogil
    # first generation; E_SUITE
cdef int record_renew(record_dir_t *direction, const uint8_t *x32, int which) noexcept nogil
    # next generation with the same suite: sequence 0, epoch 0
cdef int record_end_epoch(record_dir_t *direction) noexcept nogil
    # after a record that held EPOCH; does nothing where the record itself ended the epoch by its number

cdef int record_seal(record_dir_t *direction, uint8_t *dst, const uint8_t *inner, size_t len,
                     uint64_t now_ns) noexcept nogil
    # writes 2 + len + tag bytes, returns that; inner may be dst + 2 or lie elsewhere
cdef int record_peek(record_dir_t *direction, const uint8_t *src) noexcept nogil
    # ciphertext length of the record whose 2 first bytes are at src, or E_LENGTH; changes nothing
cdef int record_open(record_dir_t *direction, uint8_t *dst, const uint8_t *src, size_t len,
                     uint64_t now_ns) noexcept nogil
    # src: ciphertext of record_peek's length, behind the 2 bytes; dst may equal src; plain length, E_TAG

cdef inline int direction_from(int role) noexcept nogil:
    """Whose records these are: 0, the initiator's, 1, the responder's."""
    return DIRECTION_I2R if role == 0 else DIRECTION_R2I

cdef inline int record_len(const record_dir_t *direction, size_t inner_len) noexcept nogil:
    return <int>(2 + inner_len + direction.tag_len)
