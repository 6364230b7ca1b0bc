# SPDX-License-Identifier: MIT
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
"""Replay filter: a lock-free table of admitted flights."""
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .crypto cimport exactly, keyed_hash
from .memory cimport mem_give, mem_take, pool_clear, pool_init, pool_t
from .status cimport E_ARGUMENT, E_CLOCK, E_FULL, E_IO, E_LENGTH, E_REPLAY, OK
from .sys cimport (
    atomic_add, atomic_cas, atomic_load, atomic_peek, atomic_store, load_be32, load_be64, store_be32, store_be64)

cdef enum:
    SECOND_BITS = 24
    SECOND_MASK = 0xffffff


cdef int replay_init(replay_t *replay, uint64_t *slots, uint32_t n_slots, uint32_t keep_s,
                     const uint8_t *key16) noexcept nogil:
    memset(replay, 0, sizeof(replay_t))
    if n_slots < REPLAY_PROBE_LEN or n_slots & (n_slots - 1) or not 0 < keep_s < REPLAY_BACK_S:
        return E_ARGUMENT
    memset(slots, 0, n_slots * sizeof(uint64_t))
    replay.slots = slots
    replay.n_slots = n_slots
    replay.keep_s = keep_s
    memcpy(&replay.key[0], key16, 16)
    return OK


cdef void replay_widen(replay_t *replay, uint32_t keep_s, uint64_t now_s) noexcept nogil:
    """An entry forgotten by now is of a flight that is at least half of the former time old (protocol.md 3.5)."""
    cdef uint64_t gone_s = now_s - min(now_s, <uint64_t>(replay.keep_s // 2))
    if keep_s <= replay.keep_s:
        return                                  # flights that were taken while it was wider are still under way
    if gone_s > atomic_peek(&replay.floor_s):
        atomic_store(&replay.floor_s, gone_s)
    replay.keep_s = keep_s


cdef uint64_t tag_of(uint64_t hash) noexcept nogil:
    """The upper 40 bits of a slot; never 0, for a zero word is a slot never used."""
    cdef uint64_t tag = hash >> SECOND_BITS
    return tag if tag else 1


cdef bint is_live(const replay_t *replay, uint64_t word, uint64_t now_s) noexcept nogil:
    """Whether the entry still counts. Seconds are kept modulo 2^24; a clock that was set back makes ages negative."""
    cdef uint64_t age = (now_s - word) & SECOND_MASK
    return word != 0 and (age <= replay.keep_s or age > SECOND_MASK - REPLAY_BACK_S)


cdef int find(const replay_t *replay, uint64_t hash, uint64_t now_s, int except_off, int *vacant_off) noexcept nogil:
    """Offset from home of a live entry with this hash, not except_off, or -1. vacant_off: first usable slot or -1."""
    cdef uint64_t tag = tag_of(hash), word
    cdef uint32_t mask = replay.n_slots - 1
    cdef int off
    vacant_off[0] = -1
    for off in range(REPLAY_PROBE_LEN):
        word = atomic_load(&replay.slots[(hash + <uint64_t>off) & mask])
        if is_live(replay, word, now_s):
            if word >> SECOND_BITS == tag and off != except_off:
                return off
        elif vacant_off[0] < 0:
            vacant_off[0] = off
        if word == 0:
            return -1       # never used, and the first free slot is taken always: nothing lies beyond
    return -1


cdef int replay_lookup(const replay_t *replay, const uint8_t *id8, uint64_t time_s, uint64_t now_s) noexcept nogil:
    cdef int vacant_off
    if time_s <= atomic_load(&replay.floor_s):
        return E_CLOCK
    return E_REPLAY if find(replay, keyed_hash(&replay.key[0], id8, REPLAY_ID_LEN), now_s, -1, &vacant_off) >= 0 else OK


cdef void newest_raise(replay_t *replay, uint64_t time_s) noexcept nogil:
    cdef uint64_t newest = atomic_peek(&replay.newest_s)
    while newest < time_s and not atomic_cas(&replay.newest_s, newest, time_s):
        newest = atomic_peek(&replay.newest_s)


cdef int replay_insert(replay_t *replay, const uint8_t *id8, uint64_t time_s, uint64_t now_s) noexcept nogil:
    cdef uint64_t hash = keyed_hash(&replay.key[0], id8, REPLAY_ID_LEN)
    cdef uint64_t word = (tag_of(hash) << SECOND_BITS) | (now_s & SECOND_MASK)
    cdef uint64_t old
    cdef uint64_t *slot
    cdef int vacant_off, own_off
    if time_s <= atomic_load(&replay.floor_s):
        return E_CLOCK
    if replay.mark is not NULL and time_s > atomic_load(&replay.mark_s):
        if replay.mark(replay.mark_ctx, time_s + REPLAY_MARK_AHEAD_S) < 0:
            return E_IO
        atomic_store(&replay.mark_s, time_s + REPLAY_MARK_AHEAD_S)
    while True:
        if find(replay, hash, now_s, -1, &vacant_off) >= 0:
            return E_REPLAY
        if vacant_off < 0:
            atomic_add(&replay.n_full, 1)
            return E_FULL
        slot = &replay.slots[(hash + <uint64_t>vacant_off) & (replay.n_slots - 1)]
        old = atomic_load(slot)
        if not is_live(replay, old, now_s) and atomic_cas(slot, old, word):
            break
    # Two workers whose clocks differ by a second may have chosen different slots for one flight. Whoever sees the
    # other's entry gives way; at worst both do, and the handshake fails closed.
    own_off = vacant_off
    if find(replay, hash, now_s, own_off, &vacant_off) >= 0:
        return E_REPLAY
    newest_raise(replay, time_s)
    return OK


cdef size_t replay_saved_len(const replay_t *replay) noexcept nogil:
    cdef uint32_t i
    cdef size_t n = 0
    for i in range(replay.n_slots):
        n += replay.slots[i] != 0
    return REPLAY_SAVED_HEAD_LEN + n * REPLAY_SAVED_ENTRY_LEN


cdef void replay_save(const replay_t *replay, uint8_t *dst) noexcept nogil:
    """Expired entries too: `find` stops at a slot that was never used."""
    cdef uint32_t i
    store_be64(dst, replay.newest_s)
    store_be64(dst + 8, replay.floor_s)
    memcpy(dst + 16, &replay.key[0], 16)
    dst += REPLAY_SAVED_HEAD_LEN
    for i in range(replay.n_slots):
        if replay.slots[i] != 0:
            store_be32(dst, i)
            store_be64(dst + 4, replay.slots[i])
            dst += REPLAY_SAVED_ENTRY_LEN


cdef int replay_restore(replay_t *replay, const uint8_t *src, size_t len) noexcept nogil:
    cdef const uint8_t *end = src + len
    cdef const uint8_t *entry = src + REPLAY_SAVED_HEAD_LEN
    if len < REPLAY_SAVED_HEAD_LEN or (len - REPLAY_SAVED_HEAD_LEN) % REPLAY_SAVED_ENTRY_LEN:
        return E_LENGTH
    while entry < end:
        if load_be32(entry) >= replay.n_slots:
            return E_ARGUMENT
        entry += REPLAY_SAVED_ENTRY_LEN
    replay.newest_s = load_be64(src)
    replay.floor_s = load_be64(src + 8)
    memcpy(&replay.key[0], src + 16, 16)
    entry = src + REPLAY_SAVED_HEAD_LEN
    while entry < end:
        replay.slots[load_be32(entry)] = load_be64(entry + 4)
        entry += REPLAY_SAVED_ENTRY_LEN
    return OK


@cython.final
cdef class ReplayFilter:
    """Own a replay filter; for tests and fuzzers. Methods release the GIL, so that threads really race."""
    cdef pool_t pool
    cdef replay_t replay
    cdef uint64_t *slots
    cdef size_t slots_len

    def __cinit__(self, uint32_t n_slots=REPLAY_SLOTS, uint32_t keep_s=REPLAY_KEEP_S, bytes key not None=bytes(16)):
        self.slots_len = n_slots * sizeof(uint64_t)
        pool_init(&self.pool, 0)
        self.slots = <uint64_t *>mem_take(&self.pool, self.slots_len)
        if self.slots is NULL:
            raise MemoryError
        if replay_init(&self.replay, self.slots, n_slots, keep_s, exactly(key, 16, "a key")) != OK:
            raise ValueError("slots are a power of two and at least 256, seconds 1 to 65535")

    def __dealloc__(self):
        if self.slots is not NULL:
            mem_give(&self.pool, self.slots, self.slots_len)
        pool_clear(&self.pool)

    def lookup(self, bytes flight_id not None, uint64_t time_s, uint64_t now_s):
        """Return the status code for a flight of 8 bytes."""
        return replay_lookup(&self.replay, exactly(flight_id, REPLAY_ID_LEN, "a flight id"), time_s, now_s)

    def insert(self, bytes flight_id not None, uint64_t time_s, uint64_t now_s):
        """Return the status code for a flight of 8 bytes."""
        return replay_insert(&self.replay, exactly(flight_id, REPLAY_ID_LEN, "a flight id"), time_s, now_s)

    def insert_all(self, bytes flight_ids not None, uint64_t time_s, uint64_t now_s):
        """Insert many flights of 8 bytes each without the GIL; return how many were accepted."""
        cdef const uint8_t *src = flight_ids
        cdef size_t i, n = len(flight_ids) // REPLAY_ID_LEN
        cdef long n_new = 0
        with nogil:
            for i in range(n):
                n_new += replay_insert(&self.replay, src + i * REPLAY_ID_LEN, time_s, now_s) == OK
        return n_new

    def save(self):
        """Return all that was seen, as bytes."""
        cdef bytes saved = bytes(replay_saved_len(&self.replay))
        replay_save(&self.replay, <uint8_t *><char *>saved)
        return saved

    def restore(self, bytes saved not None):
        """Take over what another filter saved; return the status code."""
        return replay_restore(&self.replay, saved, len(saved))

    def set_floor(self, uint64_t floor_s):
        """Refuse flights of this second and older."""
        self.replay.floor_s = floor_s

    def widen(self, uint32_t keep_s, uint64_t now_s):
        """Let entries count for `keep_s` from now on, where that is longer."""
        replay_widen(&self.replay, keep_s, now_s)

    @property
    def newest_s(self):
        """The largest flight time accepted."""
        return atomic_peek(&self.replay.newest_s)

    @property
    def n_full(self):
        """Insertions refused for want of a slot."""
        return atomic_peek(&self.replay.n_full)
