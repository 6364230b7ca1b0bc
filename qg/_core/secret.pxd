# SPDX-License-Identifier: MIT
"""Slabs of guarded, locked memory for keys (protocol.md 8).

A slab is one region of libsodium's guarded heap: guard pages around it, locked, left out of core dumps, 64 KiB of
locked memory for 42 slots. Slots are 64-byte aligned. A pool belongs to one thread.

After fork the child reads zeros in every slab (Linux: MADV_WIPEONFORK), so a key there is no key
(`aead_key_t.suite` 0 refuses), secret_pool_is_alive is false, secret_take answers NULL, and give and free touch
nothing. Slabs are kept until secret_pool_free: a peak of sessions keeps its slabs, wiped, for the next one.
"""
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    SECRET_SLOT_LEN = 1536      # bytes of a slot
    SECRET_SLAB_SLOTS = 42      # slots of a slab

cdef enum secret_policy_t:      # what to do when the machine refuses to lock memory (RLIMIT_MEMLOCK)
    SECRET_LOCK_REQUIRED = 0    # secret_take answers NULL
    SECRET_LOCK_PREFERRED = 1   # go on unlocked, is_locked turns false

ctypedef struct slab_t:         # at the start of a region; slots follow
    slab_t *next
    uint64_t mark               # SLAB_MARK; 0 in a forked child

ctypedef struct secret_pool_t:
    slab_t *slabs               # owned
    void *free_slots            # wiped slots; the first 8 bytes link to the next
    uint32_t max_slots          # secret_take answers NULL above this many taken
    uint32_t n_taken            # slots out
    uint32_t n_slabs
    secret_policy_t policy
    bint is_locked              # every slab is locked in memory
    bint is_wiped_on_fork       # the system zeroes every slab in a forked child

cdef int secret_pool_init(secret_pool_t *pool, uint32_t max_slots, secret_policy_t policy) noexcept nogil
    # takes no memory yet; OK or E_ARGUMENT for 0 slots
cdef void *secret_take(secret_pool_t *pool) noexcept nogil
    # gives a slot of SECRET_SLOT_LEN zero bytes; NULL at max_slots, without memory, unlocked against policy, after fork
cdef void secret_give(secret_pool_t *pool, void *slot) noexcept nogil      # takes and wipes; NULL is allowed
cdef void secret_pool_free(secret_pool_t *pool) noexcept nogil         # wipes and unmaps all slabs, slots out or not
cdef bint secret_pool_is_alive(const secret_pool_t *pool) noexcept nogil
    # false in a forked child once a slot was ever taken
