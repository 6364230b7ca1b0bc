# SPDX-License-Identifier: MIT
"""Splices: two streams joined, bytes and credit passed on, memory bounded (protocol.md 6.2, 6.4, 6.7).

A splice owns the sinks of both its streams until they are gone. Byte positions are equal on both sides, so absolute
credit is handed on as it is. What cannot go out at once is held on the other stream's queue, and all held bytes count
for one budget.

Where a rate is set, a piece is paid for before it goes out. One that cannot be waits on its queue; neighbours take
turns, and so do the directions of the splices that they asked for. A splice that holds more than its share gets no
credit.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .memory cimport chain_t, pool_t
from .mux cimport stream_t
from .rate cimport lane_t, rates_t, shaper_t
from .shared cimport budget_t, lease_t

cdef enum relay_wait_t:
    SPLICE_WAITS = 1            # the onward link is not there yet
    SPLICE_JOINED = 2
    SPLICE_REFUSED = 3          # the refusal goes out at due_ns
    SPLICE_ENDED = 4

ctypedef struct pace_t:         # one direction of a splice that waits for its turn
    stream_t *stream            # that it goes out on; NULL: it does not wait
    pace_t *next
    pace_t *prev

ctypedef struct asker_t:        # a link, as the neighbour that splices are for
    lane_t lane
    pace_t *paces               # who waits, the next first
    uint32_t n_splices

ctypedef struct splice_t:
    relay_t *relay
    stream_t *near              # the relay stream in the source's layer; NULL once gone
    stream_t *far               # the pipe on the onward link; NULL before the join and once gone
    void *link                  # of the owner: the onward link waited for; NULL
    asker_t *asker              # whom its bytes are charged to where a rate is set; NULL: that link has ended
    pace_t to_near
    pace_t to_far
    chain_t early               # what the source sent before the join: at most INITIAL_CREDIT_PIPE
    splice_t *next
    splice_t *prev
    uint64_t held               # memory of both queues and of `early`
    uint64_t used_ns            # last time a byte passed
    uint64_t start_ns
    uint64_t due_ns             # SPLICE_WAITS: give up; SPLICE_REFUSED: send the RESET
    uint8_t state
    uint8_t reason
    uint8_t hops_left           # for the onward pipe
    uint8_t n_odd               # pieces of a size that no source makes often, up to ODD_MAX
    uint8_t is_crossed          # it goes on here from another worker, which counts it and pays for its bytes
    uint8_t is_credit_held      # credit of both sides waits until nothing is held
    uint8_t link_key[32]        # of the next node
    uint8_t peer_id[32]

ctypedef struct relay_t:
    pool_t *pool                # borrowed
    splice_t *splices           # all, newest first
    splice_t *ended             # to be freed by relay_sweep
    uint32_t n_splices
    uint32_t n_crossed          # of these, that came from another worker
    uint64_t *n_all             # atomic: those of the node; borrowed
    lease_t held                # memory of all splices, in blocks as the pool counts them
    budget_t own                # the budget of that, unless one is shared
    uint32_t n_sharers          # relays that share it
    void (*call_others)(void *ctx) noexcept nogil   # wakes them for relay_relieve; NULL with one
    void *ctx                   # borrowed
    uint64_t idle_ns
    uint64_t life_ns
    uint64_t build_ns
    uint64_t n_bytes            # payload passed on, both directions
    uint64_t n_memory_resets
    shaper_t shaper             # is_on: splices with an asker are paced

cdef void relay_init(relay_t *relay, pool_t *pool, uint64_t held_max, uint64_t *n_all) noexcept nogil
    # with a budget of its own; it may not move
cdef void relay_share(relay_t *relay, budget_t *budget, uint32_t n_sharers) noexcept nogil     # before use
cdef void relay_pause(relay_t *relay, uint64_t now_ns) noexcept nogil           # before rates change: nobody waits
cdef void relay_rates(relay_t *relay, rates_t *rates, uint64_t now_ns) noexcept nogil
    # borrowed; they are set, or have changed since relay_pause
cdef void relay_relieve(relay_t *relay, uint64_t now_ns) noexcept nogil
    # if the budget is spent: resets what holds the oldest bytes, until three quarters are left or others hold more
cdef void relay_clear(relay_t *relay, uint64_t now_ns) noexcept nogil          # resets all (shutdown) and frees
cdef splice_t *relay_open(relay_t *relay, stream_t *near, asker_t *asker, uint64_t now_ns) noexcept nogil
    # binds the stream; NULL without memory. The asker is borrowed until relay_forget; NULL: another worker. The owner
    # fills link_key, peer_id, hops_left
cdef void relay_join(splice_t *splice, stream_t *far, uint64_t now_ns) noexcept nogil
    # binds the pipe, accepts the near stream
cdef void relay_refuse(splice_t *splice, int reason, uint64_t due_ns) noexcept nogil
    # RESET(reason) to the source at due_ns
cdef void relay_forget(relay_t *relay, asker_t *asker, uint64_t now_ns) noexcept nogil         # the link ends
cdef void relay_serve(relay_t *relay, uint64_t now_ns) noexcept nogil
    # lets go out what the rates allow; at shaper_deadline, and after input
cdef uint64_t relay_ahead(const relay_t *relay, const stream_t *stream) noexcept nogil
    # how far ahead of what has come the credit of a spliced stream may be
cdef uint64_t relay_tick(relay_t *relay, uint64_t now_ns) noexcept nogil
    # idle, life, refusals; returns the next time to call
cdef void relay_reset_all(relay_t *relay, int reason, uint64_t now_ns) noexcept nogil   # both streams of every splice
cdef void relay_sweep(relay_t *relay) noexcept nogil
    # frees what ended; when no splice pointer is on the stack
cdef int relay_reason(int reason) noexcept nogil                # what may be passed on of a reason
