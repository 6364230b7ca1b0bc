# SPDX-License-Identifier: MIT
"""Rates in bytes, and turns for those who share one."""
cimport cython
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from .sys cimport NEVER, SECOND_NS, atomic_cas, atomic_peek, atomic_store

cdef enum:
    CHUNKS_PER_S = 128          # a chunk is what comes within 8 ms, in these bounds
    CHUNK_MIN = 4096
    CHUNK_MAX = 65536
    AHEAD_MAX = 64              # chunks taken ahead: one by each worker

cdef uint64_t LOOK_NS = 5000000        # those asleep are not looked at more often: each look is a walk


# Buckets

cdef void rate_set(rate_t *rate, uint64_t per_s, uint64_t burst_len) noexcept nogil:
    atomic_store(&rate.per_s, per_s)
    atomic_store(&rate.burst_len, burst_len)


cdef uint64_t bucket_take(uint64_t per_s, uint64_t burst_len, uint64_t *full_ns, uint64_t len,
                          uint64_t now_ns) noexcept nogil:
    """Take so many bytes, there or not; when they are."""
    cdef uint64_t cost_ns = len * SECOND_NS // per_s
    cdef uint64_t burst_ns = burst_len * SECOND_NS // per_s
    cdef uint64_t found_ns, taken_ns
    while True:
        found_ns = atomic_peek(full_ns)
        # What a lower rate, or a larger burst, left behind when it ended is no debt at this one.
        taken_ns = min(max(found_ns, now_ns), now_ns + burst_ns + AHEAD_MAX * cost_ns) + cost_ns
        if atomic_cas(full_ns, found_ns, taken_ns):
            return taken_ns - burst_ns if taken_ns > now_ns + burst_ns else now_ns


cdef uint64_t meter_ask(meter_t *meter, uint64_t now_ns) noexcept nogil:
    cdef const rate_t *rate = meter.rate
    cdef uint64_t per_s, burst_len
    if rate is NULL:
        return 0
    per_s = atomic_peek(&rate.per_s)            # each once: they may change
    burst_len = atomic_peek(&rate.burst_len)
    if per_s == 0:
        meter.left = 0                          # nothing is owed for what went out meanwhile
        return 0
    while meter.left <= 0:
        if meter.taken_len == 0:
            meter.taken_len = min(max(per_s // CHUNKS_PER_S, <uint64_t>CHUNK_MIN), <uint64_t>CHUNK_MAX)
            meter.due_ns = bucket_take(per_s, burst_len, meter.full_ns, meter.taken_len, now_ns)
        if meter.due_ns > now_ns:
            return meter.due_ns
        meter.left += meter.taken_len
        meter.taken_len = 0
    return 0


# Turns

cdef void shaper_init(shaper_t *shaper, const rate_t *rate, uint64_t *full_ns) noexcept nogil:
    cdef uint64_t n_waits = shaper.n_waits
    memset(shaper, 0, sizeof(shaper_t))
    shaper.n_waits = n_waits
    shaper.meter.rate = rate
    shaper.meter.full_ns = full_ns
    shaper.asleep_ns = NEVER


cdef void lane_init(lane_t *lane, void *owner, const rate_t *rate, uint64_t *full_ns) noexcept nogil:
    memset(lane, 0, sizeof(lane_t))
    lane.owner = owner
    lane.own.rate = rate
    lane.own.full_ns = full_ns


cdef void push(lane_t **head, lane_t *lane) noexcept nogil:
    if head[0] is NULL:
        lane.next = lane
        lane.prev = lane
        head[0] = lane
        return
    lane.next = head[0]
    lane.prev = head[0].prev
    lane.prev.next = lane
    lane.next.prev = lane


cdef void drop(lane_t **head, lane_t *lane) noexcept nogil:
    if lane.next == lane:
        head[0] = NULL
    else:
        lane.prev.next = lane.next
        lane.next.prev = lane.prev
        if head[0] == lane:
            head[0] = lane.next


cdef void shaper_leave(shaper_t *shaper, lane_t *lane) noexcept nogil:
    if lane.state != LANE_OUT:
        drop(&shaper.ring if lane.state == LANE_WAITS else &shaper.asleep, lane)
        lane.state = LANE_OUT
    if shaper.turn == lane:
        shaper.turn = NULL


cdef void lane_sleep(shaper_t *shaper, lane_t *lane, uint64_t due_ns) noexcept nogil:
    lane.state = LANE_SLEEPS
    lane.due_ns = due_ns
    push(&shaper.asleep, lane)
    shaper.asleep_ns = min(shaper.asleep_ns, due_ns)


cdef void wake_lanes(shaper_t *shaper, uint64_t now_ns) noexcept nogil:
    """Those whose own bucket has something again go behind those that wait for the bucket of all."""
    cdef lane_t *lane = shaper.asleep
    cdef lane_t *last = lane.prev if lane is not NULL else NULL
    cdef lane_t *following
    cdef uint64_t next_ns = NEVER
    while lane is not NULL:
        following = lane.next if lane != last else NULL
        if lane.due_ns <= now_ns:
            drop(&shaper.asleep, lane)
            lane.state = LANE_WAITS
            push(&shaper.ring, lane)
        else:
            next_ns = min(next_ns, lane.due_ns)
        lane = following
    shaper.asleep_ns = next_ns if next_ns == NEVER else max(next_ns, now_ns + LOOK_NS)


cdef bint shaper_ask(shaper_t *shaper, lane_t *lane, uint64_t now_ns) noexcept nogil:
    meter_ask(&shaper.meter, now_ns)
    meter_ask(&lane.own, now_ns)
    return shaper_may(shaper, lane)


cdef void shaper_wait(shaper_t *shaper, lane_t *lane, uint64_t now_ns) noexcept nogil:
    cdef uint64_t due_ns
    if lane.state != LANE_OUT or shaper.turn == lane:
        return
    shaper.n_waits += 1
    due_ns = meter_ask(&lane.own, now_ns)
    if due_ns:
        lane_sleep(shaper, lane, due_ns)
        return
    lane.state = LANE_WAITS
    push(&shaper.ring, lane)
    shaper.due_ns = meter_ask(&shaper.meter, now_ns)


cdef lane_t *shaper_next(shaper_t *shaper, uint64_t now_ns) noexcept nogil:
    cdef lane_t *lane
    cdef uint64_t due_ns
    if shaper.asleep_ns <= now_ns:
        wake_lanes(shaper, now_ns)
    while shaper.ring is not NULL:
        shaper.due_ns = meter_ask(&shaper.meter, now_ns)
        if shaper.due_ns:
            return NULL
        lane = shaper.ring
        due_ns = meter_ask(&lane.own, now_ns)
        if due_ns:
            drop(&shaper.ring, lane)
            lane_sleep(shaper, lane, due_ns)
            continue
        if lane.turn_left <= 0:
            lane.turn_left += LANE_QUANTUM
        if lane.turn_left > 0:
            lane.turn_left = min(lane.turn_left, <int64_t>LANE_QUANTUM)
            shaper.turn = lane
            return lane
        shaper.ring = lane.next                 # what it sent beyond its last turn was more than a whole one
    return NULL


cdef void shaper_done(shaper_t *shaper, bint has_more) noexcept nogil:
    cdef lane_t *lane = shaper.turn
    shaper.turn = NULL
    if lane is NULL or lane.state != LANE_WAITS:
        return
    if not has_more:
        lane.turn_left = min(lane.turn_left, <int64_t>0)
        shaper_leave(shaper, lane)
    elif lane.turn_left <= 0 and shaper.ring == lane:
        shaper.ring = lane.next


cdef uint64_t shaper_deadline(const shaper_t *shaper) noexcept nogil:
    cdef uint64_t at_ns = shaper.asleep_ns
    if shaper.ring is not NULL:
        at_ns = min(at_ns, shaper.due_ns)
    return at_ns


@cython.final
cdef class Bucket:
    """Own a bucket of bytes; for tests."""
    cdef rate_t rate
    cdef uint64_t full_ns

    def __cinit__(self, uint64_t per_s, uint64_t burst_len):
        self.rate.per_s = per_s
        self.rate.burst_len = burst_len

    def set(self, uint64_t per_s, uint64_t burst_len):
        """Change the rate."""
        rate_set(&self.rate, per_s, burst_len)


@cython.final
cdef class Shaper:
    """Own a shaper with 64 lanes on a bucket, which others may share; for tests."""
    cdef shaper_t shaper
    cdef lane_t[64] lanes
    cdef Bucket bucket
    cdef Bucket own

    def __cinit__(self, Bucket bucket not None, Bucket own=None):
        cdef int i
        self.bucket = bucket
        self.own = own                          # of the first lane alone
        shaper_init(&self.shaper, &bucket.rate, &bucket.full_ns)
        for i in range(64):
            lane_init(&self.lanes[i], <void *><size_t>i, NULL, NULL)
        if own is not None:
            lane_init(&self.lanes[0], <void *><size_t>0, &own.rate, &own.full_ns)

    def send(self, int number, int64_t length, uint64_t now_ns):
        """Let a lane send as much at once; False: it waits from now on."""
        cdef lane_t *lane = &self.lanes[number % 64]
        if shaper_ask(&self.shaper, lane, now_ns):
            shaper_charge(&self.shaper, lane, length)
            return True
        shaper_wait(&self.shaper, lane, now_ns)
        return False

    def turn(self, uint64_t now_ns, int64_t length, bint has_more=True):
        """Let the next lane send pieces of this length in its turn: (number, bytes), or None."""
        cdef lane_t *lane = shaper_next(&self.shaper, now_ns)
        cdef int64_t sent = 0
        if lane is NULL:
            return None
        while shaper_may(&self.shaper, lane) and (has_more or sent == 0):
            shaper_charge(&self.shaper, lane, length)
            sent += length
        shaper_done(&self.shaper, has_more)
        return <size_t>lane.owner, sent

    @property
    def peek(self):
        """Who waits for the bucket of all and comes next; None."""
        return None if self.shaper.ring is NULL else <size_t>self.shaper.ring.owner

    def leave(self, int number):
        """Let a lane end."""
        shaper_leave(&self.shaper, &self.lanes[number % 64])

    @property
    def deadline_ns(self):
        """When to ask for a turn."""
        return shaper_deadline(&self.shaper)
