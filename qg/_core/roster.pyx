# SPDX-License-Identifier: MIT
"""The roster of a node: which of its workers has a link with whom."""
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t

from .memory cimport pool_clear, pool_init
from .shared cimport lock_give, lock_take
from .status cimport E_FULL, E_STATE, OK
from .sys cimport load_be64
from .table cimport table_clear, table_drop, table_get, table_init, table_put, table_t

cdef enum:
    TABLE_MAX = 1 << 20
    N_BITS = 64


cdef void roster_init(roster_t *roster, uint64_t mix) noexcept nogil:
    roster.lock = 0
    pool_init(&roster.pool, <uint64_t>1 << 40)
    table_init(&roster.workers, &roster.pool, TABLE_MAX, mix)
    table_init(&roster.peers, &roster.pool, TABLE_MAX, mix)


cdef void roster_clear(roster_t *roster) noexcept nogil:
    table_clear(&roster.workers)
    table_clear(&roster.peers)
    pool_clear(&roster.pool)


cdef int value_put(table_t *table, uint64_t id, uint64_t value) noexcept nogil:
    """The tables hold no zeros. What takes the place of another value always finds one."""
    table_drop(table, id)
    return table_put(table, id, <void *><uintptr_t>value) if value else OK


cdef void worker_put(roster_t *roster, const uint8_t *link_key32, uint64_t added, uint64_t removed) noexcept nogil:
    cdef uint64_t id = load_be64(link_key32)
    lock_take(&roster.lock)
    value_put(&roster.workers, id, (<uintptr_t>table_get(&roster.workers, id) | added) & ~removed)
    lock_give(&roster.lock)


cdef void roster_enter(roster_t *roster, const uint8_t *link_key32, uint32_t worker) noexcept nogil:
    worker_put(roster, link_key32, <uint64_t>1 << worker, 0)


cdef void roster_leave(roster_t *roster, const uint8_t *link_key32, uint32_t worker) noexcept nogil:
    worker_put(roster, link_key32, 0, <uint64_t>1 << worker)


cdef int roster_other(roster_t *roster, const uint8_t *link_key32, uint32_t worker) noexcept nogil:
    cdef uint64_t workers
    cdef uint32_t i
    lock_take(&roster.lock)
    workers = <uintptr_t>table_get(&roster.workers, load_be64(link_key32))
    lock_give(&roster.lock)
    for i in range(worker + 1, worker + N_BITS):
        if workers >> (i % N_BITS) & 1:
            return <int>(i % N_BITS)
    return E_STATE


cdef int roster_link_begin(roster_t *roster, const uint8_t *peer_id32, uint32_t n_max) noexcept nogil:
    cdef uint64_t id = load_be64(peer_id32)
    cdef uint64_t n
    cdef int rc = E_FULL
    lock_take(&roster.lock)
    n = <uintptr_t>table_get(&roster.peers, id)
    if n < n_max and value_put(&roster.peers, id, n + 1) >= 0:
        rc = OK
    lock_give(&roster.lock)
    return rc


cdef void roster_link_end(roster_t *roster, const uint8_t *peer_id32) noexcept nogil:
    cdef uint64_t id = load_be64(peer_id32)
    lock_take(&roster.lock)
    value_put(&roster.peers, id, <uintptr_t>table_get(&roster.peers, id) - 1)
    lock_give(&roster.lock)


@cython.final
cdef class Roster:
    """Own a roster; for tests."""
    cdef roster_t roster

    def __cinit__(self, uint64_t mix=0):
        roster_init(&self.roster, mix)

    def __dealloc__(self):
        roster_clear(&self.roster)

    def enter(self, bytes link_key not None, uint32_t worker):
        """Note that `worker` has a link."""
        roster_enter(&self.roster, link_key, worker)

    def leave(self, bytes link_key not None, uint32_t worker):
        """Note that it has none any more."""
        roster_leave(&self.roster, link_key, worker)

    def other(self, bytes link_key not None, uint32_t worker):
        """Return the next worker with a link behind `worker`, or a negative status code."""
        return roster_other(&self.roster, link_key, worker)

    def link_begin(self, bytes peer_id not None, uint32_t n_max):
        """Count a link: 0, or a negative status code."""
        return roster_link_begin(&self.roster, peer_id, n_max)

    def link_end(self, bytes peer_id not None):
        """Count one less."""
        roster_link_end(&self.roster, peer_id)
