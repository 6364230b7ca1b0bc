# SPDX-License-Identifier: MIT
"""Bounded hash table from a 64-bit id to a pointer: linear probing, deletion by backward shift.

The mixing key comes from the caller, since ids may be chosen by a peer. Memory comes from a pool and doubles on growth
up to `max_len` entries; at the limit `table_put` answers E_FULL and nothing changes.
"""
from libc.stdint cimport uint32_t, uint64_t

from .memory cimport pool_t

ctypedef struct slot_t:
    uint64_t id
    void *value                 # NULL marks a free slot

ctypedef struct table_t:
    slot_t *slots               # owned; NULL while the table is empty
    uint32_t n_slots            # power of two, or 0
    uint32_t len                # entries
    uint32_t max_len            # entries allowed
    uint64_t mix                # secret odd multiplier
    pool_t *pool                # borrowed

cdef void table_init(table_t *table, pool_t *pool, uint32_t max_len, uint64_t mix) noexcept nogil
cdef void table_clear(table_t *table) noexcept nogil
    # forgets all entries and gives the memory back
cdef int table_put(table_t *table, uint64_t id, void *value) noexcept nogil # OK, E_EXISTS, E_FULL, E_MEMORY
cdef void *table_get(const table_t *table, uint64_t id) noexcept nogil      # NULL when missing
cdef void *table_drop(table_t *table, uint64_t id) noexcept nogil           # removes and returns, NULL when missing
cdef void *table_next(const table_t *table, uint32_t *cursor) noexcept nogil
    # walks values in slot order, start with *cursor = 0; NULL at the end; the table must not change meanwhile
