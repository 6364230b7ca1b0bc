# SPDX-License-Identifier: MIT
"""Bounded hash table from a 64-bit id to a pointer."""
cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from .memory cimport mem_give, mem_take, pool_clear, pool_init, pool_t
from .status cimport E_EXISTS, E_FULL, E_MEMORY, OK

cdef enum:
    N_SLOTS_MIN = 8


cdef inline uint32_t home_of(const table_t *table, uint64_t id) noexcept nogil:
    cdef uint64_t mixed = (id ^ (table.mix >> 7)) * table.mix
    mixed ^= mixed >> 29
    mixed *= <uint64_t>0x9E3779B97F4A7C15
    return <uint32_t>(mixed >> 32) & (table.n_slots - 1)


cdef void table_init(table_t *table, pool_t *pool, uint32_t max_len, uint64_t mix) noexcept nogil:
    memset(table, 0, sizeof(table_t))
    table.pool = pool
    table.max_len = max_len
    table.mix = mix | 1


cdef void table_clear(table_t *table) noexcept nogil:
    mem_give(table.pool, table.slots, table.n_slots * sizeof(slot_t))
    table.slots = NULL
    table.n_slots = 0
    table.len = 0


cdef void slot_insert(table_t *table, uint64_t id, void *value) noexcept nogil:
    cdef uint32_t i = home_of(table, id)
    while table.slots[i].value is not NULL:
        i = (i + 1) & (table.n_slots - 1)
    table.slots[i].id = id
    table.slots[i].value = value


cdef int table_grow(table_t *table) noexcept nogil:
    cdef slot_t *old = table.slots
    cdef uint32_t n_old = table.n_slots, i
    cdef uint32_t n_slots = n_old * 2 if n_old else N_SLOTS_MIN
    cdef slot_t *slots = <slot_t *>mem_take(table.pool, n_slots * sizeof(slot_t))
    if slots is NULL:
        return E_MEMORY
    table.slots = slots
    table.n_slots = n_slots
    for i in range(n_old):
        if old[i].value is not NULL:
            slot_insert(table, old[i].id, old[i].value)
    mem_give(table.pool, old, n_old * sizeof(slot_t))
    return OK


cdef int table_put(table_t *table, uint64_t id, void *value) noexcept nogil:
    cdef int rc
    if table_get(table, id) is not NULL:
        return E_EXISTS
    if table.len >= table.max_len:
        return E_FULL
    if (table.len + 1) * 4 > table.n_slots * 3:
        rc = table_grow(table)
        if rc < 0:
            return rc
    slot_insert(table, id, value)
    table.len += 1
    return OK


cdef int slot_find(const table_t *table, uint64_t id) noexcept nogil:
    cdef uint32_t i
    if table.n_slots == 0:
        return -1
    i = home_of(table, id)
    while table.slots[i].value is not NULL:
        if table.slots[i].id == id:
            return <int>i
        i = (i + 1) & (table.n_slots - 1)
    return -1


cdef void *table_get(const table_t *table, uint64_t id) noexcept nogil:
    cdef int i = slot_find(table, id)
    return table.slots[i].value if i >= 0 else NULL


cdef void *table_drop(table_t *table, uint64_t id) noexcept nogil:
    cdef int found = slot_find(table, id)
    cdef uint32_t hole, i, mask = table.n_slots - 1
    cdef void *value
    if found < 0:
        return NULL
    hole = <uint32_t>found
    value = table.slots[hole].value
    i = hole
    while True:
        i = (i + 1) & mask
        if table.slots[i].value is NULL:
            break
        # An entry may move back into the hole unless its home lies behind the hole.
        if ((i - home_of(table, table.slots[i].id)) & mask) >= ((i - hole) & mask):
            table.slots[hole] = table.slots[i]
            hole = i
    table.slots[hole].value = NULL
    table.len -= 1
    return value


cdef void *table_next(const table_t *table, uint32_t *cursor) noexcept nogil:
    cdef void *value
    while cursor[0] < table.n_slots:
        value = table.slots[cursor[0]].value
        cursor[0] += 1
        if value is not NULL:
            return value
    return NULL


@cython.final
cdef class Table:
    """Own a table of numbers; for tests. Values are positive integers that fit a pointer."""
    cdef pool_t pool
    cdef table_t table

    def __cinit__(self, uint32_t max_len, uint64_t mix=0x5DEECE66D):
        pool_init(&self.pool, 0)
        table_init(&self.table, &self.pool, max_len, mix)

    def __dealloc__(self):
        table_clear(&self.table)
        pool_clear(&self.pool)

    def __len__(self):
        return self.table.len

    def put(self, uint64_t id, size_t value):
        """Insert and return the status code."""
        return table_put(&self.table, id, <void *>value)

    def get(self, uint64_t id):
        """Return the value or None."""
        cdef void *value = table_get(&self.table, id)
        return <size_t>value if value is not NULL else None

    def drop(self, uint64_t id):
        """Remove and return the value or None."""
        cdef void *value = table_drop(&self.table, id)
        return <size_t>value if value is not NULL else None

    def values(self):
        """List all values in slot order."""
        cdef uint32_t cursor = 0
        cdef void *value = table_next(&self.table, &cursor)
        found = []
        while value is not NULL:
            found.append(<size_t>value)
            value = table_next(&self.table, &cursor)
        return found

    @property
    def memory_len(self):
        """Bytes of slots in use."""
        return self.pool.plain_len
