# SPDX-License-Identifier: MIT
"""Bridges: connections between two workers of one process, over bounded rings of blocks.

A bridge has two ends, and each belongs to its worker's thread alone. What is written at one end is read at the other,
in the same blocks: nothing is copied or allocated, and no end waits for the other. BRIDGE_BLOCKS may be on their way;
more stay with their writer, as bridge_pending tells.

An end that something happened to lies in its worker's inbox, once, whatever else happens meanwhile. It ends in three
steps, so that nobody touches what is freed: each end closes and tells the other NEWS_SHUT; the far end, once it has
closed and read that, tells NEWS_LAST, its last touch; then the near end frees both.
"""
from libc.stdint cimport uint8_t, uint64_t

from .memory cimport block_t, chain_t, pool_t
from .shared cimport cursors_t

cdef enum:
    BRIDGE_BLOCKS = 16          # of 64 KiB at most, in each direction

cdef enum news_t:               # news_tell is 1: there is something to read, or room to write
    NEWS_SHUT = 2               # the other end is closed
    NEWS_LAST = 3               # and its worker has forgotten it

ctypedef struct bridge_events_t:
    void *(*on_bridge)(void *ctx, end_t *end, uint64_t now_ns) noexcept nogil
        # another worker opened a bridge to this one; what its events are to bring, NULL: close it
    void (*on_read)(void *ctx, void *user, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil
        # data may be overwritten, and so may BLOCK_HEADROOM before it and what link_reserve leaves behind it
    void (*on_end)(void *ctx, void *user, uint64_t now_ns) noexcept nogil       # the other end is closed
    void (*on_writable)(void *ctx, void *user, uint64_t now_ns) noexcept nogil  # nothing is pending any more

ctypedef struct shore_t:        # a worker's side of all its bridges
    void *news                  # inbox of ends
    void (*wake)(void *ctx) noexcept nogil      # any thread: bridges_turn is to be called
    void *ctx                   # borrowed; of all these functions
    pool_t *pool                # borrowed
    bridge_events_t events
    bridge_t *bridges           # opened here

ctypedef struct end_t:
    void *next                  # in the inbox
    uint64_t news               # atomic: news_t; 0 while it is not in the inbox
    cursors_t at                # ring: written by the other end, read by this one
    block_t *blocks[BRIDGE_BLOCKS]
    bridge_t *bridge            # what follows belongs to this end's worker
    shore_t *shore
    void *user                  # of the events; NULL: not open yet, or closed
    chain_t queue               # written, and the other's ring had no slot for it
    uint8_t is_closed
    uint8_t is_shut             # NEWS_SHUT was read

ctypedef struct bridge_t:
    end_t near                  # of the worker that opened it
    end_t far
    bridge_t *next              # of its shore
    bridge_t *prev

cdef end_t *bridge_open(shore_t *near, shore_t *far, void *user) noexcept nogil     # NULL without memory
cdef void bridge_write(end_t *end, chain_t *chain) noexcept nogil       # takes the chain
cdef uint64_t bridge_pending(const end_t *end) noexcept nogil           # bytes that wait for slots; on_writable follows
cdef void bridge_close(end_t *end) noexcept nogil
    # what found no slot is dropped; no event follows. The pointer is the caller's no more
cdef int bridges_turn(shore_t *shore, uint64_t now_ns) noexcept nogil  # what came in; ends read
cdef void bridges_free(shore_t *shore) noexcept nogil
    # of those opened here, when all threads have ended and all ends are closed; gives their blocks back
