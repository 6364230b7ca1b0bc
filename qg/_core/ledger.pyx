# SPDX-License-Identifier: MIT
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
"""What a node remembers of addresses, networks and neighbours."""
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .crypto cimport exactly, keyed_hash
from .memory cimport mem_give, mem_take, pool_clear, pool_init, pool_t
from .prefixes cimport prefix_cut, prefix_t
from .status cimport E_RATE, OK
from .sys cimport SECOND_NS


# Token buckets

cdef int bucket_take(bucket_t *bucket, uint32_t rate_per_s, uint32_t burst, uint64_t now_ns) noexcept nogil:
    cdef uint64_t token_ns, missing_ns
    if rate_per_s == 0:
        return E_RATE
    token_ns = SECOND_NS // rate_per_s
    missing_ns = bucket.full_ns - now_ns if bucket.full_ns > now_ns else 0
    if missing_ns + token_ns > burst * token_ns:
        return E_RATE
    bucket.full_ns = now_ns + missing_ns + token_ns
    return OK


# Entries

cdef void ledger_init(ledger_t *ledger, pool_t *pool, uint32_t n_sets, const uint8_t *key16) noexcept nogil:
    memset(ledger, 0, sizeof(ledger_t))
    ledger.pool = pool
    ledger.n_sets = n_sets
    memcpy(&ledger.key[0], key16, 16)


cdef void ledger_clear(ledger_t *ledger) noexcept nogil:
    mem_give(ledger.pool, ledger.entries, ledger.n_sets * LEDGER_WAYS * sizeof(entry_t))
    ledger.entries = NULL


cdef uint64_t ledger_id(const ledger_t *ledger, const void *src, size_t src_len) noexcept nogil:
    cdef uint64_t id = keyed_hash(&ledger.key[0], src, src_len)
    return id if id else 1


cdef uint64_t prefix_id(const ledger_t *ledger, const prefix_t *prefix) noexcept nogil:
    cdef uint8_t[17] name
    name[0] = prefix.len
    memcpy(&name[1], &prefix.ip[0], 16)
    return ledger_id(ledger, &name[0], sizeof(name))


cdef entry_t *ledger_find(const ledger_t *ledger, uint64_t id) noexcept nogil:
    cdef entry_t *way
    cdef int i
    if ledger.entries is NULL:
        return NULL
    way = &ledger.entries[(id & (ledger.n_sets - 1)) * LEDGER_WAYS]
    for i in range(LEDGER_WAYS):
        if way[i].id == id:
            return &way[i]
    return NULL


cdef bint is_staler(const entry_t *entry, const entry_t *other, uint64_t now_ns) noexcept nogil:
    """Whether entry is the better one to forget. Refusals go last, else new addresses would wash them out."""
    cdef bint is_refused = now_ns < entry.score.refused_ns
    if is_refused != (now_ns < other.score.refused_ns):
        return not is_refused
    return entry.seen_ns < other.seen_ns


cdef entry_t *ledger_take(ledger_t *ledger, uint64_t id, uint64_t now_ns) noexcept nogil:
    cdef entry_t *entry
    cdef entry_t *way
    cdef int i
    if ledger.entries is NULL:
        ledger.entries = <entry_t *>mem_take(ledger.pool, ledger.n_sets * LEDGER_WAYS * sizeof(entry_t))
        if ledger.entries is NULL:
            return NULL
    entry = ledger_find(ledger, id)
    if entry is NULL:
        way = &ledger.entries[(id & (ledger.n_sets - 1)) * LEDGER_WAYS]
        entry = way
        for i in range(1, LEDGER_WAYS):
            if entry.id != 0 and (way[i].id == 0 or is_staler(&way[i], entry, now_ns)):
                entry = &way[i]
        memset(entry, 0, sizeof(entry_t))
        entry.id = id
    entry.seen_ns = now_ns
    return entry


# Scores

cdef void score_improve(score_t *score, uint64_t now_ns) noexcept nogil:
    cdef uint64_t n_steps
    if now_ns <= score.scored_ns:
        return
    n_steps = (now_ns - score.scored_ns) // (SCORE_STEP_S * SECOND_NS)
    score.scored_ns += n_steps * SCORE_STEP_S * SECOND_NS
    if n_steps * SCORE_STEP < score.lost:
        score.lost -= <uint8_t>(n_steps * SCORE_STEP)
        return
    score.lost = 0
    score.n_refusals = 0


cdef void score_worsen(score_t *score, int points, uint64_t now_ns) noexcept nogil:
    if now_ns < score.refused_ns:
        return      # what was under way when the refusal began must not double it again
    score_improve(score, now_ns)
    if score.lost == 0:
        score.scored_ns = now_ns
    score.lost += <uint8_t>points
    if score.lost < SCORE_MAX:
        return
    score.refused_ns = now_ns + min(<uint64_t>REFUSE_MIN_S << score.n_refusals, <uint64_t>REFUSE_MAX_S) * SECOND_NS
    score.n_refusals = min(score.n_refusals + 1, N_REFUSALS_MAX)
    score.scored_ns = score.refused_ns
    score.lost = SCORE_MAX - SCORE_STEP


cdef int score_get(score_t *score, uint64_t now_ns) noexcept nogil:
    if now_ns < score.refused_ns:
        return 0
    score_improve(score, now_ns)
    return SCORE_MAX - score.lost


cdef void ledger_worsen(ledger_t *ledger, const prefix_t *prefix, int points, uint64_t now_ns) noexcept nogil:
    cdef entry_t *entry = ledger_take(ledger, prefix_id(ledger, prefix), now_ns)
    if entry is NULL:
        return
    score_worsen(&entry.score, points, now_ns)
    entry.prefix = prefix[0]
    entry.is_changed = 1


cdef uint32_t ledger_changed(ledger_t *ledger, uint32_t *set_idx, uint32_t n_sets, verdict_t *rows) noexcept nogil:
    cdef uint32_t end = min(ledger.n_sets, set_idx[0] + n_sets) if ledger.entries is not NULL else ledger.n_sets
    cdef uint32_t n = 0, i
    cdef entry_t *entry
    for i in range(set_idx[0] * LEDGER_WAYS, end * LEDGER_WAYS if ledger.entries is not NULL else 0):
        entry = &ledger.entries[i]
        if entry.is_changed:
            entry.is_changed = 0
            rows[n].prefix = entry.prefix
            rows[n].score = entry.score
            n += 1
    set_idx[0] = end
    return n


cdef void ledger_merge(ledger_t *ledger, const verdict_t *row, uint64_t now_ns) noexcept nogil:
    cdef entry_t *entry = ledger_take(ledger, prefix_id(ledger, &row.prefix), now_ns)
    cdef score_t theirs = row.score
    if entry is NULL:
        return
    if row.score.lost == 0 or score_get(&theirs, now_ns) < score_get(&entry.score, now_ns) or (
            theirs.refused_ns > entry.score.refused_ns):
        entry.score = theirs
        entry.prefix = row.prefix
        entry.is_changed = 0


@cython.final
cdef class Bucket:
    """Own a token bucket; for tests."""
    cdef bucket_t bucket

    def take(self, uint32_t rate_per_s, uint32_t burst, uint64_t now_ns):
        """Take one token; return the status code."""
        return bucket_take(&self.bucket, rate_per_s, burst, now_ns)


@cython.final
cdef class Ledger:
    """Own a ledger; for tests. Networks are (address of 16 bytes, bits), without bits behind these."""
    cdef pool_t pool
    cdef ledger_t ledger

    def __cinit__(self, uint32_t n_sets=64, bytes key not None=bytes(16)):
        pool_init(&self.pool, 0)
        ledger_init(&self.ledger, &self.pool, n_sets, exactly(key, 16, "a key"))

    def __dealloc__(self):
        ledger_clear(&self.ledger)
        pool_clear(&self.pool)

    def worsen(self, bytes ip not None, int n_bits, int points, uint64_t now_ns):
        """Take points off."""
        cdef prefix_t prefix = prefix_cut(exactly(ip, 16, "an address"), n_bits)
        ledger_worsen(&self.ledger, &prefix, points, now_ns)

    def score(self, bytes ip not None, int n_bits, uint64_t now_ns):
        """Return the score, SCORE_MAX of what is not known."""
        cdef prefix_t prefix = prefix_cut(exactly(ip, 16, "an address"), n_bits)
        cdef entry_t *entry = ledger_find(&self.ledger, prefix_id(&self.ledger, &prefix))
        return SCORE_MAX if entry is NULL else score_get(&entry.score, now_ns)

    def changed(self, uint32_t n_sets=1):
        """Return what has become worse since the last call, looking at so many sets at a time: what `merge` takes."""
        cdef verdict_t[256] rows
        cdef uint32_t set_idx = 0, i
        found = []
        while set_idx < self.ledger.n_sets:
            for i in range(ledger_changed(&self.ledger, &set_idx, min(n_sets, <uint32_t>(256 // LEDGER_WAYS)), rows)):
                found.append(((<char *>&rows[i].prefix.ip[0])[:16], rows[i].prefix.len, rows[i].score.lost,
                              rows[i].score.n_refusals, rows[i].score.scored_ns, rows[i].score.refused_ns))
        return found

    def merge(self, tuple row not None, uint64_t now_ns):
        """Take over what another ledger has found."""
        cdef verdict_t verdict
        verdict.prefix = prefix_cut(exactly(row[0], 16, "an address"), row[1])
        verdict.score.lost, verdict.score.n_refusals = row[2], row[3]
        verdict.score.scored_ns, verdict.score.refused_ns = row[4], row[5]
        ledger_merge(&self.ledger, &verdict, now_ns)
