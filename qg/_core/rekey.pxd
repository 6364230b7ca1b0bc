# SPDX-License-Identifier: MIT
"""When keys change: epochs by a sender's word, generations by an exchange of both sides (protocol.md 4.5).

One machine per session, for as long as it has record keys. It is fed frames and time, and moves both record directions
itself. Output: while `rekey_is_pending`, the next record holds what `rekey_put` writes and nothing else, and
`rekey_sent` follows its sealing. Input: `rekey_frame` for every EPOCH and REKEY frame, `rekey_record_end` behind a
record in which `last` was set; from then on the receiving direction has the new keys. Time alone starts no exchange:
while `is_due`, the session calls `rekey_start` when it next has bytes of a stream to send or has read a frame of one.
Knows neither streams nor carriers.
"""
from libc.stdint cimport uint8_t, uint64_t

from .crypto cimport mlkem768_secret_t, random_fn
from .memory cimport pool_t
from .noise cimport noise_pattern_t, noise_secret_t, noise_t
from .record cimport record_dir_t
from .secret cimport secret_pool_t
from .wire cimport FRAME_REKEY2, FRAME_REKEY_DONE

cdef enum:
    EPOCH_LEN = 1 << 30             # bytes after which the sender ends the epoch

ctypedef struct rekey_times_t:      # all in ns; one per node
    uint64_t epoch_ns               # a sending epoch ends so long after its first record
    uint64_t rekey_ns               # from one exchange until the next is due, +- 20 %
    uint64_t answer_ns              # an exchange that was begun must be complete by then

ctypedef struct rekey_secret_t:     # lies in the session's secret slot
    uint8_t psk[32]                 # RK, for the next exchange
    uint8_t next_x[32]              # X of the generation that one direction has not entered yet

ctypedef struct exchange_secret_t:  # a secret slot of its own
    noise_secret_t noise
    mlkem768_secret_t kem           # of REKEY1

ctypedef struct exchange_t:
    exchange_secret_t *secret       # owned slot
    noise_t noise
    uint8_t message[1272]           # REKEY1 or REKEY2 that is pending

ctypedef struct rekey_t:
    # Set by the session before rekey_init; all borrowed
    record_dir_t *tx
    record_dir_t *rx
    rekey_secret_t *keys            # psk is valid
    const rekey_times_t *times
    const noise_pattern_t *pattern  # NNhfs+psk0
    pool_t *pool
    secret_pool_t *secrets
    random_fn random
    void *random_ctx
    uint8_t role                    # of the session: 0 initiator, 1 responder
    # Its own
    uint8_t pending                 # FRAME_REKEY1, REKEY2 (with REKEY_DONE) or REKEY_DONE to be sent; 0
    uint8_t epoch_due               # EPOCH is to be sent
    uint8_t is_due                  # the keys are old: the session must start an exchange when it is next used
    uint8_t last                    # EPOCH or REKEY_DONE came: only PADDING may follow in this record; REKEY2: only
                                    # REKEY_DONE; 0
    uint8_t is_asked                # our REKEY1 was made, REKEY2 is awaited
    uint8_t has_next                # keys.next_x and next_h are valid
    uint8_t tx_waits                # our REKEY_DONE is to be sent
    uint8_t rx_waits                # the peer's REKEY_DONE is to come
    exchange_t *exchange            # owned; NULL unless one runs
    uint64_t begun_ns               # when REKEY1 was made or read
    uint64_t due_ns                 # of the next exchange
    uint8_t h[32]                   # of the current generation
    uint8_t next_h[32]

cdef void rekey_init(rekey_t *rekey, const uint8_t *h32, uint64_t now_ns) noexcept nogil   # h32: of the handshake
cdef void rekey_clear(rekey_t *rekey) noexcept nogil
    # wipes and frees the exchange; safe at any time, also on zeros
cdef int rekey_start(rekey_t *rekey, uint64_t now_ns) noexcept nogil
    # begins an exchange unless one runs; OK, E_MEMORY
cdef int rekey_frame(rekey_t *rekey, uint64_t type, const uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil
    # EPOCH, REKEY1, REKEY2 or REKEY_DONE was read; a negative code is a violation, or E_MEMORY
cdef int rekey_record_end(rekey_t *rekey, uint64_t now_ns) noexcept nogil
    # behind the frames of a record that set `last`: OK, or E_STATE where REKEY2 came without REKEY_DONE
cdef int rekey_put(rekey_t *rekey, uint8_t *dst, size_t dst_cap) noexcept nogil
    # the pending frames; 0 where they do not fit
cdef void rekey_sent(rekey_t *rekey, uint64_t now_ns) noexcept nogil               # the record with them is sealed
cdef int rekey_tick(rekey_t *rekey, uint64_t now_ns) noexcept nogil
    # OK; E_CLOSED: an exchange was not completed, the session must close
cdef uint64_t rekey_deadline_ns(const rekey_t *rekey) noexcept nogil                # of the next rekey_tick

cdef inline bint rekey_is_pending(const rekey_t *rekey) noexcept nogil:
    return rekey.pending != 0 or rekey.epoch_due != 0

cdef inline bint rekey_may_follow(const rekey_t *rekey, uint64_t type) noexcept nogil:
    """Whether a frame that is not PADDING may stand behind what the record being read has held."""
    return rekey.last == 0 or (rekey.last == FRAME_REKEY2 and type == FRAME_REKEY_DONE)
