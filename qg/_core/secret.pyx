# SPDX-License-Identifier: MIT
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
"""Slabs of guarded, locked memory for keys.

One guarded allocation per key would cost 8 KiB and 22 us each and exhaust RLIMIT_MEMLOCK (8 MiB) near 1,000 keys;
slabs hold 5,376.
"""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .fork cimport wipe_on_fork
from .sodium cimport sodium_free, sodium_init, sodium_malloc, sodium_memzero, sodium_mlock
from .status cimport E_ARGUMENT, E_LOCK, E_MEMORY, OK

cdef enum:
    CANARY_LEN = 16             # libsodium writes it before the region and checks it in sodium_free
    REGION_LEN = 65536          # locked bytes of a slab, a multiple of every page size up to 64 KiB
    SLAB_LEN = REGION_LEN - CANARY_LEN
    SLOTS_OFF = SLAB_LEN - SECRET_SLAB_SLOTS * SECRET_SLOT_LEN     # with the canary 1,024: slots are 64-byte aligned

cdef uint64_t SLAB_MARK = 0x716773656372657A


cdef int secret_pool_init(secret_pool_t *pool, uint32_t max_slots, secret_policy_t policy) noexcept nogil:
    memset(pool, 0, sizeof(secret_pool_t))
    pool.max_slots = max_slots
    pool.policy = policy
    pool.is_locked = True
    pool.is_wiped_on_fork = True
    return OK if max_slots else E_ARGUMENT


cdef bint secret_pool_is_alive(const secret_pool_t *pool) noexcept nogil:
    return pool.slabs is NULL or pool.slabs.mark == SLAB_MARK


cdef void slot_link(secret_pool_t *pool, void *slot) noexcept nogil:
    (<void **>slot)[0] = pool.free_slots
    pool.free_slots = slot


cdef int slab_add(secret_pool_t *pool) noexcept nogil:
    cdef uint8_t *base = <uint8_t *>sodium_malloc(SLAB_LEN)
    cdef slab_t *slab = <slab_t *>base
    cdef int i
    if base is NULL:
        return E_MEMORY
    # sodium_malloc does not tell whether locking worked; locking again is not counted twice and does.
    if sodium_mlock(base, SLAB_LEN) != 0:
        if pool.policy == SECRET_LOCK_REQUIRED:
            sodium_free(base)
            return E_LOCK
        pool.is_locked = False
    if wipe_on_fork(base - CANARY_LEN, REGION_LEN) != 0:
        pool.is_wiped_on_fork = False
    sodium_memzero(base, SLAB_LEN)
    slab.mark = SLAB_MARK
    slab.next = pool.slabs
    pool.slabs = slab
    pool.n_slabs += 1
    for i in range(SECRET_SLAB_SLOTS - 1, -1, -1):
        slot_link(pool, base + SLOTS_OFF + i * SECRET_SLOT_LEN)
    return OK


cdef void *secret_take(secret_pool_t *pool) noexcept nogil:
    cdef void *slot
    if pool.n_taken >= pool.max_slots or not secret_pool_is_alive(pool):
        return NULL
    if pool.free_slots is NULL and slab_add(pool) != OK:
        return NULL
    slot = pool.free_slots
    pool.free_slots = (<void **>slot)[0]
    memset(slot, 0, sizeof(void *))
    pool.n_taken += 1
    return slot


cdef void secret_give(secret_pool_t *pool, void *slot) noexcept nogil:
    if slot is NULL or not secret_pool_is_alive(pool):
        return
    sodium_memzero(slot, SECRET_SLOT_LEN)
    slot_link(pool, slot)
    pool.n_taken -= 1


cdef void secret_pool_free(secret_pool_t *pool) noexcept nogil:
    cdef slab_t *slab = pool.slabs
    cdef slab_t *following
    # In a forked child libsodium's canary is wiped too and sodium_free would abort: the memory goes with the process.
    if not secret_pool_is_alive(pool):
        slab = NULL
    while slab is not NULL:
        following = slab.next
        sodium_free(slab)
        slab = following
    memset(pool, 0, sizeof(secret_pool_t))


@cython.final
cdef class SecretPool:
    """Own a pool of secret slots; for tests. Slots are named by the number that `take` returns."""
    cdef secret_pool_t pool
    cdef list slots

    def __cinit__(self, uint32_t max_slots, bytes policy not None=b"preferred"):
        if policy not in (b"preferred", b"required"):
            raise ValueError("policy is b'preferred' or b'required'")
        self.slots = []
        if secret_pool_init(&self.pool, max_slots,
                            SECRET_LOCK_REQUIRED if policy == b"required" else SECRET_LOCK_PREFERRED) != OK:
            raise ValueError("a pool has at least one slot")

    def __dealloc__(self):
        secret_pool_free(&self.pool)

    def __reduce__(self):
        raise TypeError("secrets are not serialised")

    cdef uint8_t *address(self, size_t idx) except NULL:
        return <uint8_t *><size_t>self.slots[idx]

    def take(self):
        """Return the number of a fresh slot, or None when there is none."""
        cdef void *slot = secret_take(&self.pool)
        if slot is NULL:
            return None
        if <size_t>slot not in self.slots:
            self.slots.append(<size_t>slot)
        return self.slots.index(<size_t>slot)

    def give(self, size_t idx):
        """Give a slot back."""
        secret_give(&self.pool, self.address(idx))

    def write(self, size_t idx, bytes data not None):
        """Fill the start of a slot."""
        if len(data) > SECRET_SLOT_LEN:
            raise ValueError("longer than a slot")
        memcpy(self.address(idx), <const char *>data, len(data))

    def read(self, size_t idx):
        """Return all bytes of a slot, taken or given back."""
        return PyBytes_FromStringAndSize(<char *>self.address(idx), SECRET_SLOT_LEN)

    def offset(self, size_t idx):
        """Return the slot's address modulo 64."""
        return <size_t>self.address(idx) % 64

    @property
    def n_taken(self):
        """Slots out."""
        return self.pool.n_taken

    @property
    def n_slabs(self):
        """Slabs in memory."""
        return self.pool.n_slabs

    @property
    def is_locked(self):
        """Whether every slab is locked in memory."""
        return bool(self.pool.is_locked)

    @property
    def is_wiped_on_fork(self):
        """Whether a forked child reads zeros."""
        return bool(self.pool.is_wiped_on_fork)

    @property
    def is_alive(self):
        """Whether this process made the slabs."""
        return secret_pool_is_alive(&self.pool)


if sodium_init() < 0:
    raise ImportError("libsodium could not be initialised")
