# SPDX-License-Identifier: MIT
"""Replay filter: remembers each admitted flight for as long as its time would be accepted again (protocol.md 3.5).

One open-addressing table per process, shared by all workers without a lock: a slot is one atomic word, 40 bits of a
keyed hash and 24 bits of the second of insertion. A slot is free again `keep_s` seconds later. A flight may lie in
REPLAY_PROBE_LEN neighbouring slots; when all of them are live the answer is E_FULL and the handshake is refused.
Times are unix seconds.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    REPLAY_MARK_AHEAD_S = 15    # seconds that a mark lies above the flight that raised it
    REPLAY_ID_LEN = 8           # SHA-256(M1)[0:8]
    REPLAY_SLOTS = 262144       # 2 MiB; at 240 s enough for 800 handshakes a second
    REPLAY_KEEP_S = 240         # twice the clock window
    REPLAY_PROBE_LEN = 256      # slots that are looked at: no refusal up to three quarters of a full table
    REPLAY_SAVED_HEAD_LEN = 32
    REPLAY_SAVED_ENTRY_LEN = 12
    REPLAY_BACK_S = 65536       # an entry may come from so far in the future when the clock was set back

# Puts a new high-water mark on disk, from the thread that inserts. Negative: it could not, and the flight is refused.
ctypedef int (*mark_fn)(void *ctx, uint64_t mark_s) noexcept nogil

ctypedef struct replay_t:
    uint64_t *slots             # n_slots words, borrowed from the owner for life; zeroed by replay_init; shared
    uint32_t n_slots            # power of two, at least REPLAY_PROBE_LEN
    uint32_t keep_s
    uint8_t key[16]             # of the keyed hash, random per process
    uint64_t floor_s            # atomic: flights of this second and older are refused (unclean stop, a wider window)
    uint64_t newest_s           # largest flight time accepted, atomic
    uint64_t mark_s             # atomic: no flight above it is accepted before the owner has put a higher one on disk
    mark_fn mark                # NULL: no mark is kept
    void *mark_ctx              # borrowed
    uint64_t n_full             # E_FULL answers, atomic

cdef int replay_init(replay_t *replay, uint64_t *slots, uint32_t n_slots, uint32_t keep_s,
                     const uint8_t *key16) noexcept nogil      # E_ARGUMENT
cdef void replay_widen(replay_t *replay, uint32_t keep_s, uint64_t now_s) noexcept nogil
    # entries count for so long from now on, if that is longer; flights that may be forgotten already are refused
cdef int replay_lookup(const replay_t *replay, const uint8_t *id8, uint64_t time_s, uint64_t now_s) noexcept nogil
    # OK when unseen; E_REPLAY; E_CLOCK at or below floor_s. time_s is the flight's own time.
cdef int replay_insert(replay_t *replay, const uint8_t *id8, uint64_t time_s, uint64_t now_s) noexcept nogil
    # OK for exactly one of all callers; E_REPLAY, E_CLOCK, E_FULL, E_IO (the mark could not be kept)
cdef size_t replay_saved_len(const replay_t *replay) noexcept nogil     # bytes that replay_save writes; no worker runs
cdef void replay_save(const replay_t *replay, uint8_t *dst) noexcept nogil
    # newest_s 8 | floor_s 8 | key 16 | n x (slot 4, word 8): all that was seen, for a filter of as many slots in
    # another process
cdef int replay_restore(replay_t *replay, const uint8_t *src, size_t len) noexcept nogil
    # into a filter just initialised; E_LENGTH, E_ARGUMENT: nothing was taken over
