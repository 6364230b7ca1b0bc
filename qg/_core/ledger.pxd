# SPDX-License-Identifier: MIT
"""What a node remembers of addresses, networks and neighbours: token buckets and a score (protocol.md 9).

Fixed memory, which forgets its oldest entries and never refuses. Nothing here is safe between threads: the guard's lock
is held around it.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .memory cimport pool_t
from .prefixes cimport prefix_t

cdef enum:
    LEDGER_WAYS = 4
    SCORE_MAX = 100
    SCORE_STEP = 10             # regained per SCORE_STEP_S, and left when a refusal ends
    SCORE_STEP_S = 600
    REFUSE_MIN_S = 600          # the first refusal; each one is twice the last until the score was SCORE_MAX again
    REFUSE_MAX_S = 86400
    N_REFUSALS_MAX = 8          # REFUSE_MIN_S doubled so often is above REFUSE_MAX_S

ctypedef struct bucket_t:       # token bucket; zeroed = full
    uint64_t full_ns            # when it is full again, if nothing more is taken

ctypedef struct score_t:        # zeroed = SCORE_MAX
    uint64_t scored_ns          # the next SCORE_STEP counts from here
    uint64_t refused_ns         # refused until
    uint8_t lost                # SCORE_MAX less the score
    uint8_t n_refusals          # since the score was last SCORE_MAX

ctypedef struct entry_t:        # one address, network or neighbour
    uint64_t id                 # keyed hash of which; 0 = free
    uint64_t seen_ns            # last use; the oldest entry of a set is replaced, one that is refused last of all
    bucket_t accepts
    bucket_t handshakes
    bucket_t targets
    score_t score               # of an address or network; of a neighbour, who has none, scored_ns is its instance
    prefix_t prefix             # whose score this is, once it has lost anything
    uint8_t is_known            # an address that had a session
    uint8_t is_changed          # the score has become worse since ledger_changed told it

ctypedef struct ledger_t:
    pool_t *pool                # borrowed
    entry_t *entries            # owned; NULL until first used
    uint32_t n_sets             # power of two
    uint8_t key[16]             # of the hashes

ctypedef struct verdict_t:      # a score, for outside
    prefix_t prefix
    score_t score

cdef int bucket_take(bucket_t *bucket, uint32_t rate_per_s, uint32_t burst, uint64_t now_ns) noexcept nogil
    # takes one token: OK, E_RATE

cdef void ledger_init(ledger_t *ledger, pool_t *pool, uint32_t n_sets, const uint8_t *key16) noexcept nogil
cdef void ledger_clear(ledger_t *ledger) noexcept nogil
cdef uint64_t ledger_id(const ledger_t *ledger, const void *src, size_t src_len) noexcept nogil     # never 0
cdef uint64_t prefix_id(const ledger_t *ledger, const prefix_t *prefix) noexcept nogil
    # of a prefix without bits behind its length
cdef entry_t *ledger_find(const ledger_t *ledger, uint64_t id) noexcept nogil       # borrowed until the next call; NULL
cdef entry_t *ledger_take(ledger_t *ledger, uint64_t id, uint64_t now_ns) noexcept nogil
    # finds or makes an entry, borrowed until the next call; NULL without memory

cdef int score_get(score_t *score, uint64_t now_ns) noexcept nogil      # 1..SCORE_MAX, or 0 while refused
cdef void score_worsen(score_t *score, int points, uint64_t now_ns) noexcept nogil      # nothing while it is refused
cdef void ledger_worsen(ledger_t *ledger, const prefix_t *prefix, int points, uint64_t now_ns) noexcept nogil
cdef uint32_t ledger_changed(ledger_t *ledger, uint32_t *set_idx, uint32_t n_sets, verdict_t *rows) noexcept nogil
    # writes the scores of the next n_sets that have become worse since they were told, LEDGER_WAYS a set at most, and
    # counts them; set_idx moves on, and is ledger.n_sets at the end
cdef void ledger_merge(ledger_t *ledger, const verdict_t *row, uint64_t now_ns) noexcept nogil
    # what another node, or an earlier run, found: the worse score counts, but one that has lost nothing is a pardon
