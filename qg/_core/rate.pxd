# SPDX-License-Identifier: MIT
"""Rates in bytes, and turns for those who share one (protocol.md 6.4, 9). Knows no protocol.

A bucket is one number, the time at which it is full again, so that all workers of a node can take from it without
a lock. They take it in chunks; what one has taken and not used is its own. Whoever finds the bucket empty waits in a
lane: lanes take turns of a quantum each, by deficit round robin, so that none takes what is there for all. Nothing is
cut and nothing is queued here: a lane says who may send, not what.
"""
from libc.stdint cimport int64_t, uint8_t, uint64_t

from .sys cimport atomic_peek

cdef enum:
    LANE_QUANTUM = 16384        # bytes of a turn
    NEIGHBOURS = 16384          # buckets of neighbours: a keyed hash of the PeerID picks one, so that a new link finds
                                # the old one's; two of a hundred neighbours share one in a third of all nodes

ctypedef struct rate_t:         # settings, by rate_set
    uint64_t per_s              # bytes a second; 0: unlimited
    uint64_t burst_len          # bytes at once, at least 4 * RATE_CHUNK_MIN

ctypedef struct rates_t:        # of a node, shared by its workers
    rate_t links                # sealed bytes sent on all links
    rate_t neighbour            # the same, to one neighbour
    rate_t relay                # payload passed on for others, both directions
    rate_t relay_neighbour      # the same, at the request of one neighbour
    uint8_t key[16]             # of the hashes
    uint64_t links_ns           # atomic, like all below: when the bucket is full again
    uint64_t relay_ns
    uint64_t neighbours_ns[NEIGHBOURS]
    uint64_t relay_neighbours_ns[NEIGHBOURS]
    rate_t own[NEIGHBOURS]      # of neighbours that have a rate of their own, in the place of `neighbour`; else zero
    uint64_t has_own            # some have one

ctypedef struct meter_t:        # one worker's view of a bucket; zeroed = unlimited
    const rate_t *rate          # borrowed; NULL: unlimited
    uint64_t *full_ns           # borrowed: the bucket
    int64_t left                # bytes taken from it and not used; below zero: used and not taken yet
    uint64_t taken_len          # taken ahead of others, to be used from due_ns on; 0: none
    uint64_t due_ns

cdef enum lane_state_t:
    LANE_OUT = 0
    LANE_WAITS = 1              # in the ring
    LANE_SLEEPS = 2             # its own bucket is empty

ctypedef struct lane_t:         # zeroed = with no bucket of its own
    void *owner
    meter_t own
    int64_t turn_left           # bytes left of its turn; below zero: more were sent, and the next turn is shorter
    uint64_t due_ns             # LANE_SLEEPS: until when
    lane_t *next                # in the ring or among those asleep
    lane_t *prev
    uint8_t state               # lane_state_t

ctypedef struct shaper_t:
    meter_t meter               # of all
    lane_t *ring                # who waits, the next first
    lane_t *asleep
    lane_t *turn                # whose turn it is, between shaper_next and shaper_done; else NULL
    uint64_t due_ns             # the ring waits until then; 0
    uint64_t asleep_ns          # when to look at those asleep; NEVER when there are none
    uint64_t n_waits            # times that a lane had to wait, ever
    uint8_t is_on               # some rate is set: without that nothing here is called

cdef void rate_set(rate_t *rate, uint64_t per_s, uint64_t burst_len) noexcept nogil    # any thread
cdef uint64_t meter_ask(meter_t *meter, uint64_t now_ns) noexcept nogil
    # 0 when bytes are left, taking a chunk of the bucket where none are; else when to ask again. A chunk that is not
    # there yet is taken all the same: those who wait come in the order in which they asked, whatever each needs
cdef inline bint meter_may(const meter_t *meter) noexcept nogil:
    return meter.rate is NULL or atomic_peek(&meter.rate.per_s) == 0 or meter.left > 0

cdef void shaper_init(shaper_t *shaper, const rate_t *rate, uint64_t *full_ns) noexcept nogil
cdef void lane_init(lane_t *lane, void *owner, const rate_t *rate, uint64_t *full_ns) noexcept nogil
cdef bint shaper_ask(shaper_t *shaper, lane_t *lane, uint64_t now_ns) noexcept nogil
    # fills the meters; may this lane send now?
cdef inline bint shaper_may(const shaper_t *shaper, const lane_t *lane) noexcept nogil:
    # the same as far as is known without the time
    if not meter_may(&shaper.meter) or not meter_may(&lane.own):
        return False
    return lane.turn_left > 0 if shaper.turn == lane else (shaper.ring is NULL and lane.state == LANE_OUT)
cdef inline void shaper_charge(shaper_t *shaper, lane_t *lane, int64_t len) noexcept nogil:
    # len bytes went out
    shaper.meter.left -= len
    lane.own.left -= len
    if shaper.turn == lane:
        lane.turn_left -= len
cdef void shaper_wait(shaper_t *shaper, lane_t *lane, uint64_t now_ns) noexcept nogil
    # it has something to send and may not: behind the others
cdef lane_t *shaper_next(shaper_t *shaper, uint64_t now_ns) noexcept nogil
    # begins the turn of a lane; NULL when there is no one or nothing left
cdef void shaper_done(shaper_t *shaper, bint has_more) noexcept nogil          # ends it
cdef void shaper_leave(shaper_t *shaper, lane_t *lane) noexcept nogil          # the lane ends, or wants no more
cdef uint64_t shaper_deadline(const shaper_t *shaper) noexcept nogil
    # once shaper_next gave NULL: when to call it again; NEVER
