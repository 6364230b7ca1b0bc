# SPDX-License-Identifier: MIT
"""The roster of a node: which of its workers has a link with whom, and how many links all have with one peer.

All workers share it, under one short lock that is taken when a link comes up or goes and once per circuit, never per
record. Only links that a worker's own tables know are in it.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .memory cimport pool_t
from .table cimport table_t

ctypedef struct roster_t:
    uint64_t lock               # of all that follows
    pool_t pool                 # of the tables
    table_t workers             # first 8 bytes of a peer's link key -> the workers that have a link with it, a bit each
    table_t peers               # first 8 bytes of a PeerID -> how many links the node has with it

cdef void roster_init(roster_t *roster, uint64_t mix) noexcept nogil    # it may not move
cdef void roster_clear(roster_t *roster) noexcept nogil         # gives its memory back
cdef void roster_enter(roster_t *roster, const uint8_t *link_key32, uint32_t worker) noexcept nogil
    # circuits to that peer may go over this worker; without memory nobody learns of it
cdef void roster_leave(roster_t *roster, const uint8_t *link_key32, uint32_t worker) noexcept nogil
cdef int roster_other(roster_t *roster, const uint8_t *link_key32, uint32_t worker) noexcept nogil
    # the next worker behind this one that has a link; E_STATE: no other has
cdef int roster_link_begin(roster_t *roster, const uint8_t *peer_id32, uint32_t n_max) noexcept nogil   # OK, E_FULL
cdef void roster_link_end(roster_t *roster, const uint8_t *peer_id32) noexcept nogil    # of a link that began
