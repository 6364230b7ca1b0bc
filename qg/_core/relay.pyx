# SPDX-License-Identifier: MIT
"""Splices: two streams joined."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from .memory cimport block_len, block_t, chain_append, chain_clear, chain_copy, mem_give, mem_take, pool_t
from .mux cimport (
    FLAG_DEAD, FLAG_FIN_QUEUED, FLAG_FIN_RECEIVED, STREAM_ACCEPTED, STREAM_CREDIT, STREAM_FIN, STREAM_GONE, STREAM_SENT,
    sink_t, stream_accept, stream_bind, stream_copy, stream_finish, stream_grant, stream_pack, stream_reset, stream_t,
    stream_pace, stream_write)
from .rate cimport (
    LANE_QUANTUM, lane_t, rates_t, shaper_ask, shaper_charge, shaper_done, shaper_init, shaper_leave, shaper_next,
    shaper_t, shaper_wait)
from .session cimport session_send_data, session_t, session_wake
from .shared cimport budget_t, lease_add, lease_init, lease_total
from .status cimport (
    E_CREDIT, E_MEMORY, INITIAL_CREDIT_PIPE, OK, REASON_BUSY, REASON_HOPS, REASON_LIMIT, REASON_MEMORY, REASON_NONE,
    REASON_PROTOCOL, REASON_REFUSED, REASON_SLOW_READER, REASON_TIMEOUT, REASON_UNREACHABLE, WINDOW_MIN)
from .sys cimport NEVER, SECOND_NS, atomic_add, atomic_peek

cdef enum:
    LEASE_STEP = 16384          # of the budget, taken ahead
    WINDOW_LEAST = 2 * 16450    # no layer is to have less (protocol.md 6.4)
    HELD_SHARE = WINDOW_MIN // 2    # held by a splice that waits for a rate, before credit is withheld
    CREDIT_STEP = 4096          # credit is passed on in steps of at least this while the sender has any left

    PIECE_MIN = 256             # a quarter of a small record; what comes in smaller pieces is packed
    PIECE_SMALL = 1013          # a piece up to here fits a small record
    PIECE_LARGE = 4096          # a quarter of a large one
    ODD_MAX = 16                # pieces between the two that keep their borders: the flights of seven sessions above

cdef uint64_t SCAN_NS = 5 * SECOND_NS       # how often idle circuits are looked for
cdef uint64_t WALK_NS = 10000000      # not more often than this: refusals due one by one would cost a walk each


cdef inline session_t *session_of(stream_t *stream) noexcept nogil:
    return <session_t *>stream.mux.owner


cdef inline stream_t *other_of(splice_t *splice, stream_t *stream) noexcept nogil:
    return splice.far if stream == splice.near else splice.near


cdef inline bint is_paced(const splice_t *splice) noexcept nogil:
    return splice.relay.shaper.is_on and splice.asker is not NULL


cdef int relay_reason(int reason) noexcept nogil:
    if (reason == REASON_PROTOCOL or reason == REASON_REFUSED or reason == REASON_UNREACHABLE or reason == REASON_BUSY
            or reason == REASON_LIMIT or reason == REASON_TIMEOUT or reason == REASON_MEMORY
            or reason == REASON_SLOW_READER or reason == REASON_HOPS):
        return reason
    return REASON_NONE


cdef void relay_init(relay_t *relay, pool_t *pool, uint64_t held_max, uint64_t *n_all) noexcept nogil:
    memset(relay, 0, sizeof(relay_t))
    relay.pool = pool
    relay.n_all = n_all
    relay.own.max = held_max
    relay_share(relay, &relay.own, 1)
    relay.idle_ns = 300 * SECOND_NS
    relay.life_ns = 86400 * SECOND_NS
    relay.build_ns = 15 * SECOND_NS


cdef void relay_share(relay_t *relay, budget_t *budget, uint32_t n_sharers) noexcept nogil:
    lease_init(&relay.held, budget, LEASE_STEP)
    relay.n_sharers = n_sharers


cdef splice_t *relay_open(relay_t *relay, stream_t *near, asker_t *asker, uint64_t now_ns) noexcept nogil:
    cdef splice_t *splice = <splice_t *>mem_take(relay.pool, sizeof(splice_t))
    if splice is NULL:
        return NULL
    splice.relay = relay
    splice.near = near
    splice.state = SPLICE_WAITS
    splice.start_ns = now_ns
    splice.used_ns = now_ns
    splice.due_ns = now_ns + relay.build_ns
    splice.next = relay.splices
    if relay.splices is not NULL:
        relay.splices.prev = splice
    relay.splices = splice
    relay.n_splices += 1
    atomic_add(relay.n_all, 1)
    splice.asker = asker
    if asker is not NULL:
        asker.n_splices += 1
    else:
        splice.is_crossed = 1
        relay.n_crossed += 1
    stream_bind(near, splice, &SINK)
    return splice


cdef void splice_unlink(splice_t *splice) noexcept nogil:
    """Take it off the list; the memory waits for relay_sweep, since its sink may be on the stack."""
    cdef relay_t *relay = splice.relay
    if splice.state == SPLICE_ENDED:
        return
    splice.state = SPLICE_ENDED
    chain_clear(&splice.early)
    lease_add(&relay.held, -splice.held)
    splice.held = 0
    if splice.prev is not NULL:
        splice.prev.next = splice.next
    else:
        relay.splices = splice.next
    if splice.next is not NULL:
        splice.next.prev = splice.prev
    relay.n_splices -= 1
    relay.n_crossed -= splice.is_crossed
    atomic_add(relay.n_all, -1)
    if splice.asker is not NULL:
        pace_leave(splice, &splice.to_near)
        pace_leave(splice, &splice.to_far)
        splice.asker.n_splices -= 1
        splice.asker = NULL
    splice.next = relay.ended
    relay.ended = splice


cdef void relay_sweep(relay_t *relay) noexcept nogil:
    cdef splice_t *splice
    while relay.ended is not NULL:
        splice = relay.ended
        relay.ended = splice.next
        mem_give(relay.pool, splice, sizeof(splice_t))


cdef void reset_both(splice_t *splice, int reason, uint64_t now_ns) noexcept nogil:
    cdef stream_t *near = splice.near
    cdef stream_t *far = splice.far
    if near is not NULL:
        near.reason = <uint8_t>reason           # so that the partner, which goes with it, is told the same
        stream_reset(near, reason, now_ns)
        session_wake(session_of(near), now_ns)
    if far is not NULL:
        far.reason = <uint8_t>reason
        stream_reset(far, reason, now_ns)
        session_wake(session_of(far), now_ns)


cdef void relay_clear(relay_t *relay, uint64_t now_ns) noexcept nogil:
    cdef splice_t *splice
    while relay.splices is not NULL:
        splice = relay.splices
        reset_both(splice, REASON_NONE, now_ns)
        splice_unlink(splice)
    relay_sweep(relay)


cdef inline bint is_overfull(const relay_t *relay) noexcept nogil:
    """Above three quarters no new credit goes out."""
    return lease_total(&relay.held) * 4 > relay.held.budget.max * 3


# Credit: what one side may take, the other may send

cdef uint64_t relay_ahead(const relay_t *relay, const stream_t *stream) noexcept nogil:
    """What a rate makes wait is held here, so many circuits at once get smaller windows, but two full records each."""
    cdef uint64_t share
    if not relay.shaper.is_on:
        return stream.rx_window_max
    share = relay.held.budget.max // 4 // max(atomic_peek(relay.n_all), <uint64_t>1)
    return max(<uint64_t>WINDOW_LEAST, min(share, stream.rx_window_max))


cdef bint withholds(const splice_t *splice) noexcept nogil:
    """Does credit wait until it holds less?"""
    cdef const relay_t *relay = splice.relay
    if splice.held == 0:
        return False
    if is_overfull(relay):
        return True
    if not is_paced(splice):
        return False
    return splice.held > min(relay.held.budget.max // 2 // max(atomic_peek(relay.n_all), <uint64_t>1),
                             <uint64_t>HELD_SHARE)


cdef void pass_credit(splice_t *splice, stream_t *source, uint64_t now_ns) noexcept nogil:
    """`source` may send more: its splice partner may receive as much more."""
    cdef stream_t *other = other_of(splice, source)
    cdef uint64_t left, offset
    if other is NULL:
        return
    # Credit in crumbs, or far ahead, waits until it doubles what the sender may send, which on_data looks at again. So
    # no far end can make this relay send more CREDIT frames than a few, and one per CREDIT_STEP of the bytes that pass.
    left = other.rx_credit - other.rx_off
    offset = min(source.tx_credit, other.rx_off + relay_ahead(splice.relay, other))
    if offset <= other.rx_credit or (left > 0 and offset - other.rx_credit < max(left, <uint64_t>CREDIT_STEP)):
        return
    if withholds(splice):
        splice.is_credit_held = 1
        return
    stream_grant(other, offset)
    session_wake(session_of(other), now_ns)


cdef void release_credit(splice_t *splice, uint64_t now_ns) noexcept nogil:
    if splice.is_credit_held and not withholds(splice):
        splice.is_credit_held = 0
        if splice.near is not NULL:
            pass_credit(splice, splice.near, now_ns)
        if splice.far is not NULL:
            pass_credit(splice, splice.far, now_ns)


# Budget

cdef inline void count_held(splice_t *splice) noexcept nogil:
    cdef uint64_t held = splice.early.taken_len
    if splice.near is not NULL:
        held += splice.near.queue.taken_len
    if splice.far is not NULL:
        held += splice.far.queue.taken_len
    if held != splice.held:
        lease_add(&splice.relay.held, held - splice.held)
        splice.held = held


cdef inline uint64_t oldest_ns(const splice_t *splice) noexcept nogil:
    cdef uint64_t oldest = NEVER
    if splice.near is not NULL and splice.near.queue.head is not NULL:
        oldest = splice.near.queue.head.stamp_ns
    if splice.far is not NULL and splice.far.queue.head is not NULL:
        oldest = min(oldest, splice.far.queue.head.stamp_ns)
    if splice.early.head is not NULL:
        oldest = min(oldest, splice.early.head.stamp_ns)
    return oldest


cdef inline bint has_share(const relay_t *relay) noexcept nogil:
    """Whether it holds its part of the node's bytes. Of those that share, one always does: what the others have leased
    is less than three steps ahead of what they hold."""
    return (relay.held.used + 3 * LEASE_STEP) * relay.n_sharers >= lease_total(&relay.held)


cdef void relay_relieve(relay_t *relay, uint64_t now_ns) noexcept nogil:
    if lease_total(&relay.held) <= relay.held.budget.max:
        return
    reset_oldest(relay, now_ns)
    if relay.call_others is not NULL and lease_total(&relay.held) > relay.held.budget.max:
        relay.call_others(relay.ctx)


cdef void reset_oldest(relay_t *relay, uint64_t now_ns) noexcept nogil:
    """Each round resets all whose bytes are about as old as the oldest, or many splices that hold little would cost a
    walk each.
    """
    cdef splice_t *splice
    cdef splice_t *following
    cdef uint64_t oldest
    while is_overfull(relay) and has_share(relay):
        oldest = NEVER
        splice = relay.splices
        while splice is not NULL:
            oldest = min(oldest, oldest_ns(splice))
            splice = splice.next
        if oldest == NEVER:
            return
        splice = relay.splices
        while splice is not NULL and is_overfull(relay):
            following = splice.next
            if oldest_ns(splice) <= oldest + (now_ns - oldest) // 8:
                relay.n_memory_resets += 1
                reset_both(splice, REASON_MEMORY, now_ns)
                splice_unlink(splice)
            splice = following


# Rates: who waits, and turns

cdef inline pace_t *pace_of(splice_t *splice, const stream_t *stream) noexcept nogil:
    return &splice.to_near if stream == splice.near else &splice.to_far


cdef void pace_leave(splice_t *splice, pace_t *pace) noexcept nogil:
    cdef asker_t *asker = splice.asker
    if pace.stream is NULL:
        return
    pace.stream = NULL
    if pace.next == pace:
        asker.paces = NULL
        shaper_leave(&splice.relay.shaper, &asker.lane)
        return
    pace.prev.next = pace.next
    pace.next.prev = pace.prev
    if asker.paces == pace:
        asker.paces = pace.next


cdef void pace_wait(splice_t *splice, stream_t *stream, uint64_t now_ns) noexcept nogil:
    """Let it wait behind the others of its neighbour, if there is something that is not paid for."""
    cdef asker_t *asker = splice.asker
    cdef pace_t *pace = pace_of(splice, stream)
    if pace.stream is not NULL or stream.queue.len == 0 or stream.tx_pace > stream.tx_off:
        return
    pace.stream = stream
    if asker.paces is NULL:
        pace.next = pace
        pace.prev = pace
        asker.paces = pace
    else:
        pace.next = asker.paces
        pace.prev = asker.paces.prev
        pace.prev.next = pace
        pace.next.prev = pace
    shaper_wait(&splice.relay.shaper, &asker.lane, now_ns)


cdef bint pace_now(splice_t *splice, stream_t *stream, size_t len, uint64_t now_ns) noexcept nogil:
    """Pay for bytes that are to go out at once; False: they wait."""
    cdef shaper_t *shaper = &splice.relay.shaper
    if stream.tx_pace != stream.tx_off + stream.queue.len or not shaper_ask(shaper, &splice.asker.lane, now_ns):
        return False
    shaper_charge(shaper, &splice.asker.lane, <int64_t>len)
    stream.tx_pace += len
    return True


cdef uint64_t pace_give(stream_t *stream, uint64_t now_ns) noexcept nogil:
    """Let whole pieces go out, a record's worth of them; bytes."""
    cdef const block_t *block = stream.queue.head
    cdef uint64_t len = 0
    while block is not NULL and (len == 0 or len + block_len(block) <= LANE_QUANTUM):
        len += block_len(block)
        block = block.next
    stream_pace(stream, stream.tx_off + len, now_ns)
    session_wake(session_of(stream), now_ns)
    return len


cdef void relay_serve(relay_t *relay, uint64_t now_ns) noexcept nogil:
    cdef lane_t *lane = shaper_next(&relay.shaper, now_ns)
    cdef asker_t *asker
    cdef stream_t *stream
    while lane is not NULL:
        asker = <asker_t *>lane.owner
        stream = asker.paces.stream
        pace_leave(<splice_t *>stream.owner, asker.paces)
        shaper_charge(&relay.shaper, lane, <int64_t>pace_give(stream, now_ns))
        shaper_done(&relay.shaper, asker.paces is not NULL)
        lane = shaper_next(&relay.shaper, now_ns)


cdef void relay_forget(relay_t *relay, asker_t *asker, uint64_t now_ns) noexcept nogil:
    """What still goes out of its last splices goes out unpaid."""
    cdef splice_t *splice = relay.splices if asker.n_splices else NULL
    while splice is not NULL:
        if splice.asker == asker:
            pace_end(splice, splice.near, now_ns)
            pace_end(splice, splice.far, now_ns)
            splice.asker = NULL
        splice = splice.next
    asker.n_splices = 0
    shaper_leave(&relay.shaper, &asker.lane)


cdef void pace_end(splice_t *splice, stream_t *stream, uint64_t now_ns) noexcept nogil:
    if stream is not NULL:
        pace_leave(splice, pace_of(splice, stream))
        stream_pace(stream, NEVER, now_ns)
        session_wake(session_of(stream), now_ns)


cdef void pace_begin(splice_t *splice, stream_t *stream, uint64_t now_ns) noexcept nogil:
    """From now on what it sends is paid for, what it holds too."""
    if stream is not NULL:
        stream.tx_pace = stream.tx_off
        pace_wait(splice, stream, now_ns)


cdef void relay_pause(relay_t *relay, uint64_t now_ns) noexcept nogil:
    cdef splice_t *splice = relay.splices
    while splice is not NULL:
        if splice.asker is not NULL:
            pace_end(splice, splice.near, now_ns)
            pace_end(splice, splice.far, now_ns)
        splice = splice.next


cdef void relay_rates(relay_t *relay, rates_t *rates, uint64_t now_ns) noexcept nogil:
    cdef splice_t *splice = relay.splices
    shaper_init(&relay.shaper, &rates.relay, &rates.relay_ns)
    relay.shaper.is_on = rates.relay.per_s > 0 or rates.relay_neighbour.per_s > 0
    while splice is not NULL:
        if splice.state == SPLICE_JOINED and is_paced(splice):
            pace_begin(splice, splice.near, now_ns)
            pace_begin(splice, splice.far, now_ns)
        release_credit(splice, now_ns)          # what a rate withheld
        splice = splice.next


# The sink of both streams

cdef int hold_early(splice_t *splice, const uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    cdef int rc
    if splice.early.len + len > INITIAL_CREDIT_PIPE:
        return E_CREDIT
    if len < PIECE_MIN:
        rc = chain_append(&splice.early, splice.relay.pool, data, len, now_ns)
    else:
        rc = chain_copy(&splice.early, splice.relay.pool, data, len, now_ns)
    count_held(splice)
    return rc


cdef inline bint is_piece(splice_t *splice, size_t len) noexcept nogil:
    """Do these bytes go out as they came, in a record of their own (protocol.md 6.4)?

    That record has one of two sizes. What fills less than a quarter of it, and no source makes often, is packed
    instead, or a source could make the relay send many times what it got.
    """
    if len >= PIECE_LARGE or (len >= PIECE_MIN and len <= PIECE_SMALL):
        return True
    if len < PIECE_MIN or splice.n_odd == ODD_MAX:
        return False
    splice.n_odd += 1
    return True


cdef int on_data(stream_t *stream, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    cdef splice_t *splice = <splice_t *>stream.owner
    cdef relay_t *relay = splice.relay
    cdef stream_t *other = other_of(splice, stream)
    cdef bint is_whole, is_paid
    cdef int rc
    if splice.state == SPLICE_REFUSED:
        return OK
    splice.used_ns = now_ns
    if other is NULL:
        rc = hold_early(splice, data, len, now_ns)
        relay_relieve(relay, now_ns)
        return rc
    if not splice.is_crossed:
        relay.n_bytes += len
    if stream.rx_credit < other.tx_credit:
        pass_credit(splice, other, now_ns)
    is_whole = is_piece(splice, len)
    is_paid = not is_paced(splice) or pace_now(splice, other, len, now_ns)
    if is_whole and is_paid and session_send_data(session_of(other), other, data, len, now_ns) > 0:
        return OK
    if other.flags & FLAG_DEAD:
        return OK
    rc = stream_copy(other, data, len, now_ns) if is_whole else stream_pack(other, data, len, now_ns)
    if rc == E_MEMORY:
        reset_both(splice, REASON_MEMORY, now_ns)
        return OK
    count_held(splice)
    if not is_paid:
        pace_wait(splice, other, now_ns)
    session_wake(session_of(other), now_ns)
    relay_relieve(relay, now_ns)
    return OK


cdef void on_gone(splice_t *splice, stream_t *stream, uint64_t now_ns) noexcept nogil:
    cdef stream_t *other = other_of(splice, stream)
    cdef bint is_complete
    pace_leave(splice, pace_of(splice, stream))
    if stream == splice.near:
        splice.near = NULL
    else:
        splice.far = NULL
    if other is NULL:
        splice_unlink(splice)
        return
    count_held(splice)
    # A stream that ended by FIN in both directions leaves a partner that ends the same way once its queue is sent.
    is_complete = (stream.flags & other.flags & FLAG_FIN_RECEIVED) and (other.flags & FLAG_FIN_QUEUED)
    if not is_complete:
        stream_reset(other, relay_reason(stream.reason) if stream.reason else REASON_UNREACHABLE, now_ns)
        session_wake(session_of(other), now_ns)


cdef void on_event(stream_t *stream, int event, uint64_t now_ns) noexcept nogil:
    cdef splice_t *splice = <splice_t *>stream.owner
    cdef stream_t *other = other_of(splice, stream)
    if event == STREAM_CREDIT or event == STREAM_ACCEPTED:
        pass_credit(splice, stream, now_ns)
    elif event == STREAM_SENT:
        count_held(splice)
        if is_paced(splice):
            pace_wait(splice, stream, now_ns)
        release_credit(splice, now_ns)
    elif event == STREAM_FIN:
        if other is not NULL:
            stream_finish(other, now_ns)
            session_wake(session_of(other), now_ns)
    elif event == STREAM_GONE:
        on_gone(splice, stream, now_ns)


cdef sink_t SINK
SINK.on_data = on_data
SINK.on_event = on_event
SINK.pull = NULL


# Life of a splice

cdef void relay_join(splice_t *splice, stream_t *far, uint64_t now_ns) noexcept nogil:
    splice.far = far
    splice.link = NULL
    splice.state = SPLICE_JOINED
    stream_bind(far, splice, &SINK)
    stream_accept(splice.near, far.tx_credit)
    if is_paced(splice):
        pace_begin(splice, splice.near, now_ns)
        far.tx_pace = far.tx_off
    if splice.early.len:
        stream_write(far, &splice.early, now_ns)
        if is_paced(splice):
            pace_wait(splice, far, now_ns)
    if splice.near.flags & FLAG_FIN_RECEIVED:
        stream_finish(far, now_ns)
    count_held(splice)
    session_wake(session_of(splice.near), now_ns)
    session_wake(session_of(far), now_ns)


cdef void relay_refuse(splice_t *splice, int reason, uint64_t due_ns) noexcept nogil:
    splice.state = SPLICE_REFUSED
    splice.reason = <uint8_t>reason
    splice.due_ns = due_ns
    splice.link = NULL
    chain_clear(&splice.early)
    count_held(splice)


cdef void relay_reset_all(relay_t *relay, int reason, uint64_t now_ns) noexcept nogil:
    cdef splice_t *splice = relay.splices
    cdef splice_t *following
    while splice is not NULL:
        following = splice.next
        reset_both(splice, reason, now_ns)
        splice = following


cdef uint64_t relay_tick(relay_t *relay, uint64_t now_ns) noexcept nogil:
    cdef splice_t *splice = relay.splices
    cdef splice_t *following
    cdef uint64_t next_ns = now_ns + min(SCAN_NS, relay.idle_ns) if splice is not NULL else NEVER
    while splice is not NULL:
        following = splice.next
        if splice.state == SPLICE_JOINED:
            if now_ns - splice.used_ns >= relay.idle_ns or now_ns - splice.start_ns >= relay.life_ns:
                reset_both(splice, REASON_TIMEOUT, now_ns)
        elif now_ns >= splice.due_ns:
            reset_both(splice, splice.reason if splice.state == SPLICE_REFUSED else REASON_TIMEOUT, now_ns)
        else:
            next_ns = min(next_ns, splice.due_ns)
        splice = following
    return max(next_ns, now_ns + WALK_NS)
