# SPDX-License-Identifier: MIT
"""Many streams over one channel."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .memory cimport (
    BLOCK_RECORD, BLOCK_SMALL, block_give, block_len, block_room, block_start, block_t, block_take, chain_append,
    chain_clear, chain_copy, chain_drop, chain_pop, chain_push, chain_t, mem_give, mem_take, pool_t)
from .shared cimport budget_t, lease_add, lease_init, lease_total
from .status cimport (
    E_CREDIT, E_FRAME, E_FULL, E_STATE, E_STREAM_ID, INITIAL_CREDIT_PIPE, INITIAL_CREDIT_SERVICE, INNER_MAX,
    INNER_SMALL, LAYER_OVERHEAD, OK, OPEN_MAX, REASON_LIMIT, REASON_MEMORY, REASON_PROTOCOL, REASON_REFUSED,
    REASON_SLOW_READER, SEND_QUEUE_MAX, SESSION_WINDOW_MAX, SESSION_WINDOW_MIN, WINDOW_MAX, WINDOW_MIN)
from .sys cimport NEVER, load_be16, store_be16
from .table cimport table_clear, table_drop, table_get, table_init, table_next, table_put
from .wire cimport (
    CONTROL_FRAME_MAX, DATA_HEAD_MAX, FRAME_ACCEPT, FRAME_CREDIT, FRAME_DATA, FRAME_DATA_FIN, FRAME_OPEN, FRAME_RESET,
    FRAME_SESSION_CREDIT, N_PRIORITIES, STREAM_MESSAGES, STREAM_PIPE, frame_put_data_head, frame_put_offset,
    frame_put_open, frame_put_reset, frame_put_session_credit, frame_t, hello_defaults, hello_t, varint_len)

cdef enum:
    CONTROL_SMALL = 1800        # a control frame that a small block holds
    STREAMS_MAX = 1 << 20       # entries of the stream table; the limits per kind are reached long before

cdef uint64_t WITHHELD_NS = 500000000      # a session that got no credit for the budget looks again after this


cdef void receive_init(receive_t *receive, uint64_t max) noexcept nogil:
    memset(receive, 0, sizeof(receive_t))
    receive.own.max = max
    receive_share(receive, &receive.own)


cdef void receive_share(receive_t *receive, budget_t *budget) noexcept nogil:
    lease_init(&receive.unread, budget, LEASE_STEP)


cdef int mux_init(mux_t *mux, pool_t *pool, stream_t **graveyard, receive_t *receive, void *owner,
                  const mux_hooks_t *hooks, int role, uint64_t mix) noexcept nogil:
    cdef hello_t hello
    memset(mux, 0, sizeof(mux_t))
    table_init(&mux.streams, pool, STREAMS_MAX, mix)
    mux.pool = pool
    mux.graveyard = graveyard
    mux.receive = receive
    mux.queue_max = SEND_QUEUE_MAX
    mux.owner = owner
    mux.hooks = hooks
    mux.next_id = 1 if role == 0 else 2
    mux.peer_id = 2 if role == 0 else 1
    mux.rx_credit = SESSION_WINDOW_MIN
    mux.rx_window = SESSION_WINDOW_MIN
    mux.rx_window_max = SESSION_WINDOW_MAX
    mux.window_max = WINDOW_MAX
    hello_defaults(&hello)
    mux_set_peer(mux, &hello)
    return OK


cdef void mux_set_peer(mux_t *mux, const hello_t *hello) noexcept nogil:
    mux.tx_credit = max(mux.tx_credit, hello.session_credit)
    mux.peer_max_service = <uint32_t>min(hello.max_service_streams, <uint64_t>1 << 20)
    mux.peer_max_pipes = <uint32_t>min(hello.max_pipes, <uint64_t>1 << 20)
    wake_starved(mux)


cdef inline bint is_service(const stream_t *stream) noexcept nogil:
    return stream.kind <= STREAM_MESSAGES


# Scheduler lists: rings, the head is next to send

cdef void list_add(mux_t *mux, stream_t *stream, int idx) noexcept nogil:
    cdef stream_t *head = mux.heads[idx]
    stream.list_idx = <uint8_t>idx
    if head is NULL:
        stream.next = stream
        stream.prev = stream
        mux.heads[idx] = stream
        return
    stream.next = head
    stream.prev = head.prev
    head.prev.next = stream
    head.prev = stream


cdef void list_drop(mux_t *mux, stream_t *stream) noexcept nogil:
    cdef int idx = stream.list_idx
    if idx == LIST_NONE:
        return
    if stream.next == stream:
        mux.heads[idx] = NULL
    else:
        stream.prev.next = stream.next
        stream.next.prev = stream.prev
        if mux.heads[idx] == stream:
            mux.heads[idx] = stream.next
    stream.list_idx = LIST_NONE
    stream.turn_len = 0


cdef inline void list_turn(mux_t *mux, stream_t *stream, size_t len) noexcept nogil:
    """Count what the stream sent in its turn; after a quantum the next one of its class comes, and what was sent beyond
    it counts for the turn that follows.
    """
    stream.turn_len += <uint32_t>len
    if stream.turn_len >= QUANTUM and stream.list_idx != LIST_NONE:
        stream.turn_len = min(stream.turn_len - QUANTUM, <uint32_t>(QUANTUM - 1))
        if mux.heads[stream.list_idx] == stream:
            mux.heads[stream.list_idx] = stream.next


cdef void wake_starved(mux_t *mux) noexcept nogil:
    cdef stream_t *stream
    while mux.heads[LIST_STARVED] is not NULL:
        stream = mux.heads[LIST_STARVED]
        list_drop(mux, stream)
        list_add(mux, stream, stream.priority)


cdef inline bint wants_turn(const stream_t *stream) noexcept nogil:
    if stream.queue.len > 0:
        return (min(stream.tx_credit, stream.tx_pace) > stream.tx_off
                and stream_may_fill(stream, min(<uint64_t>QUANTUM, stream.queue.len)))
    if stream.flags & FLAG_SOURCE_READY:
        return True
    return (stream.flags & FLAG_FIN_QUEUED) != 0 and not (stream.flags & FLAG_FIN_SENT)


cdef void stream_ready(stream_t *stream, uint64_t now_ns) noexcept nogil:
    if stream.list_idx == LIST_NONE and not (stream.flags & FLAG_DEAD) and wants_turn(stream):
        stream.ready_ns = now_ns
        list_add(stream.mux, stream, stream.priority)


# Life of a stream

cdef stream_t *stream_create(mux_t *mux, uint64_t id, int kind, int priority) noexcept nogil:
    cdef stream_t *stream = <stream_t *>mem_take(mux.pool, sizeof(stream_t))
    if stream is NULL:
        return NULL
    if table_put(&mux.streams, id, stream) < 0:
        mem_give(mux.pool, stream, sizeof(stream_t))
        return NULL
    stream.id = id
    stream.mux = mux
    stream.kind = <uint8_t>kind
    stream.priority = <uint8_t>priority
    stream.list_idx = LIST_NONE
    stream.tx_pace = NEVER
    stream.rx_window = WINDOW_MIN
    stream.rx_window_max = mux.window_max
    if kind <= STREAM_MESSAGES:
        mux.n_service += 1
    else:
        mux.n_pipes += 1
    return stream


cdef void due_drop(mux_t *mux, stream_t *stream) noexcept nogil:
    cdef stream_t **link = &mux.due
    if not (stream.flags & (FLAG_CREDIT_DUE | FLAG_ACCEPT_DUE)):
        return
    while link[0] is not NULL and link[0] != stream:
        link = &link[0].next_due
    if link[0] is not NULL:
        link[0] = stream.next_due
    stream.flags &= ~(FLAG_CREDIT_DUE | FLAG_ACCEPT_DUE)


cdef void remember_pipe(mux_t *mux, uint64_t id) noexcept nogil:
    if mux.closed_pipes is NULL:
        mux.closed_pipes = <uint64_t *>mem_take(mux.pool, CLOSED_PIPES * sizeof(uint64_t))
        if mux.closed_pipes is NULL:
            return
    mux.closed_pipes[mux.n_closed_pipes % CLOSED_PIPES] = id
    mux.n_closed_pipes += 1


cdef bint was_pipe(const mux_t *mux, uint64_t id) noexcept nogil:
    cdef int i
    if mux.closed_pipes is NULL:
        return False
    for i in range(CLOSED_PIPES):
        if mux.closed_pipes[i] == id:
            return True
    return False


cdef void stream_remove(stream_t *stream, uint64_t now_ns) noexcept nogil:
    """Take the stream out of everything, tell its owner, leave the memory to streams_sweep."""
    cdef mux_t *mux = stream.mux
    if stream.flags & FLAG_DEAD:
        return
    list_drop(mux, stream)
    due_drop(mux, stream)
    stream.flags |= FLAG_DEAD
    if is_service(stream):
        queue_shrank(mux, stream.queue.len, now_ns)
    chain_clear(&stream.queue)
    table_drop(&mux.streams, stream.id)
    if mux.last == stream:
        mux.last = NULL
    if is_service(stream):
        mux.n_service -= 1
        if not (stream.flags & FLAG_LOCAL):
            mux.n_peer_service -= 1
    else:
        mux.n_pipes -= 1
        if not (stream.flags & FLAG_LOCAL):
            mux.n_peer_pipes -= 1
        remember_pipe(mux, stream.id)
    stream.next_due = mux.graveyard[0]
    mux.graveyard[0] = stream
    if stream.sink is not NULL:
        stream.sink.on_event(stream, STREAM_GONE, now_ns)
        stream.sink = NULL


cdef void streams_sweep(stream_t **graveyard, pool_t *pool) noexcept nogil:
    cdef stream_t *stream
    while graveyard[0] is not NULL:
        stream = graveyard[0]
        graveyard[0] = stream.next_due
        mem_give(pool, stream, sizeof(stream_t))


cdef void mux_end(mux_t *mux, uint64_t now_ns) noexcept nogil:
    cdef uint32_t cursor
    while mux.streams.len > 0:
        cursor = 0
        stream_remove(<stream_t *>table_next(&mux.streams, &cursor), now_ns)
    chain_clear(&mux.control)
    mux.is_session_due = 0
    if mux.rx_off > mux.rx_used:
        lease_add(&mux.receive.unread, mux.rx_used - mux.rx_off)
        mux.rx_used = mux.rx_off
    mux.starved_ns = 0
    mux.withheld_ns = 0


cdef void mux_clear(mux_t *mux, uint64_t now_ns) noexcept nogil:
    mux_end(mux, now_ns)
    table_clear(&mux.streams)
    mem_give(mux.pool, mux.closed_pipes, CLOSED_PIPES * sizeof(uint64_t))
    mux.closed_pipes = NULL


cdef void finish_if_done(stream_t *stream, uint64_t now_ns) noexcept nogil:
    if (stream.flags & FLAG_FIN_SENT) and (stream.flags & FLAG_FIN_RECEIVED):
        stream_remove(stream, now_ns)


# Control frames

cdef uint8_t *control_reserve(mux_t *mux, size_t len) noexcept nogil:
    """Give room for a frame of `len` bytes at the end of the control queue, its length written; NULL when full."""
    cdef block_t *block = mux.control.tail
    if mux.control.len + len + 2 > CONTROL_MAX:
        mux.is_overfull = 1
        return NULL
    if block is NULL or block_room(block) < len + 2:
        block = block_take(mux.pool, BLOCK_SMALL if len + 2 <= CONTROL_SMALL else BLOCK_RECORD)
        if block is NULL:
            mux.is_overfull = 1
            return NULL
        chain_push(&mux.control, block)
    store_be16(&block.data[0] + block.end, <uint32_t>len)
    block.end += <uint32_t>len + 2
    mux.control.len += len + 2
    return &block.data[0] + block.end - len


cdef int mux_control(mux_t *mux, const uint8_t *frame, size_t len) noexcept nogil:
    cdef uint8_t *dst = control_reserve(mux, len)
    if dst is NULL:
        return E_FULL
    memcpy(dst, frame, len)
    return OK


cdef size_t mux_control_next(const mux_t *mux) noexcept nogil:
    cdef block_t *block = mux.control.head
    while block is not NULL and block_len(block) == 0:
        block = block.next
    return load_be16(block_start(block)) if block is not NULL else 0


cdef int put_due(mux_t *mux, uint8_t *dst, int at, size_t max_inner) noexcept nogil:
    """Announce credit and accepts while there is room; the rest stays due."""
    cdef stream_t *stream
    while mux.due is not NULL and <size_t>at + CONTROL_FRAME_MAX <= max_inner:
        stream = mux.due
        mux.due = stream.next_due
        if stream.flags & FLAG_ACCEPT_DUE:
            at += frame_put_offset(dst + at, FRAME_ACCEPT, stream.id, stream.rx_credit)
        else:
            at += frame_put_offset(dst + at, FRAME_CREDIT, stream.id, stream.rx_credit)
        stream.flags &= ~(FLAG_CREDIT_DUE | FLAG_ACCEPT_DUE)
    if mux.is_session_due and <size_t>at + CONTROL_FRAME_MAX <= max_inner:
        at += frame_put_session_credit(dst + at, mux.rx_credit)
        mux.is_session_due = 0
    return at


cdef int put_control(mux_t *mux, uint8_t *dst, size_t max_inner) noexcept nogil:
    """Move whole control frames to dst; bytes written."""
    cdef int at = 0
    cdef size_t len
    cdef uint8_t *src
    while mux.control.head is not NULL:
        if block_len(mux.control.head) == 0:
            block_give(chain_pop(&mux.control))
            continue
        src = block_start(mux.control.head)
        len = load_be16(src)
        if at + len > max_inner:
            return at
        memcpy(dst + at, src + 2, len)
        at += <int>len
        chain_drop(&mux.control, len + 2)
    return put_due(mux, dst, at, max_inner)


cdef void mark_due(stream_t *stream, int flag) noexcept nogil:
    if not (stream.flags & (FLAG_CREDIT_DUE | FLAG_ACCEPT_DUE)):
        stream.next_due = stream.mux.due
        stream.mux.due = stream
    stream.flags |= <uint16_t>flag


# Commands

cdef int mux_can_open(const mux_t *mux, int kind) noexcept nogil:
    if kind <= STREAM_MESSAGES:
        return OK if mux.n_service - mux.n_peer_service < mux.peer_max_service else E_FULL
    if kind == STREAM_PIPE:
        return OK if mux.n_pipes - mux.n_peer_pipes < mux.peer_max_pipes else E_FULL
    return OK


cdef stream_t *mux_open(mux_t *mux, int kind, int priority, uint64_t credit, const uint8_t *data,
                        size_t len) noexcept nogil:
    cdef uint8_t[OPEN_MAX + 64] frame
    cdef stream_t *stream
    cdef int n
    if len > OPEN_MAX or mux_can_open(mux, kind) < 0 or mux.control.len + OPEN_MAX + 64 > CONTROL_MAX:
        return NULL
    stream = stream_create(mux, mux.next_id, kind, priority)
    if stream is NULL:
        return NULL
    stream.flags |= FLAG_LOCAL
    stream.rx_credit = credit
    note_credit(stream, INITIAL_CREDIT_SERVICE if kind <= STREAM_MESSAGES else INITIAL_CREDIT_PIPE)
    n = frame_put_open(frame, stream.id, kind, priority, credit, data, len)
    if mux_control(mux, frame, n) < 0:          # no memory; the session closes, so that the id is not missed
        stream_remove(stream, 0)
        return NULL
    mux.next_id += 2
    mux.n_begun += 1
    return stream


cdef void stream_bind(stream_t *stream, void *owner, const sink_t *sink) noexcept nogil:
    stream.owner = owner
    stream.sink = sink
    if sink.pull is NULL:
        stream.flags &= ~FLAG_SOURCE_READY


cdef int stream_accept(stream_t *stream, uint64_t credit) noexcept nogil:
    if stream.flags & (FLAG_LOCAL | FLAG_ACCEPTED):
        return E_STATE
    stream.flags |= FLAG_ACCEPTED
    stream.rx_credit = max(stream.rx_credit, credit)
    mark_due(stream, FLAG_ACCEPT_DUE)
    stream_ready(stream, stream.ready_ns)
    return OK


cdef inline void queue_grew(stream_t *stream, uint64_t len, uint64_t now_ns) noexcept nogil:
    cdef mux_t *mux = stream.mux
    if not is_service(stream):
        return                                  # the relay's budget bounds those
    mux.queue_len += len
    if mux.queue_len >= mux.queue_max and mux.full_ns == 0:
        mux.full_ns = now_ns


cdef inline void queue_shrank(mux_t *mux, uint64_t len, uint64_t now_ns) noexcept nogil:
    mux.queue_len -= len
    if mux.full_ns:
        mux.full_ns = now_ns if mux.queue_len > mux.queue_max // 2 else 0


cdef void stream_write(stream_t *stream, chain_t *chain, uint64_t now_ns) noexcept nogil:
    if stream.flags & (FLAG_DEAD | FLAG_FIN_QUEUED):
        chain_clear(chain)
        return
    queue_grew(stream, chain.len, now_ns)
    while chain.head is not NULL:
        chain_push(&stream.queue, chain_pop(chain))
    stream.flags &= ~FLAG_PACKED
    stream_ready(stream, now_ns)


cdef int stream_copy(stream_t *stream, const uint8_t *src, size_t len, uint64_t now_ns) noexcept nogil:
    cdef int rc
    if stream.flags & (FLAG_DEAD | FLAG_FIN_QUEUED):
        return E_STATE
    if is_service(stream):
        rc = chain_append(&stream.queue, stream.mux.pool, src, len, now_ns)
    else:
        rc = chain_copy(&stream.queue, stream.mux.pool, src, len, now_ns)
    if rc >= 0:
        stream.flags &= ~FLAG_PACKED
        queue_grew(stream, len, now_ns)
        stream_ready(stream, now_ns)
    return rc


cdef int stream_pack(stream_t *stream, const uint8_t *src, size_t len, uint64_t now_ns) noexcept nogil:
    cdef size_t n
    cdef int rc = OK
    if stream.flags & (FLAG_DEAD | FLAG_FIN_QUEUED):
        return E_STATE
    while len > 0 and rc >= 0:
        n = block_len(stream.queue.tail) if stream.flags & FLAG_PACKED and stream.queue.tail is not NULL else PACKED_MAX
        if n < PACKED_MAX:
            n = min(len, PACKED_MAX - n)
            rc = chain_append(&stream.queue, stream.mux.pool, src, n, now_ns)
        else:
            n = min(len, <size_t>PACKED_MAX)
            rc = chain_copy(&stream.queue, stream.mux.pool, src, n, now_ns)
        stream.flags |= FLAG_PACKED
        src += n
        len -= n
    if rc >= 0:
        stream_ready(stream, now_ns)
    return rc


cdef void stream_finish(stream_t *stream, uint64_t now_ns) noexcept nogil:
    if stream.flags & FLAG_DEAD:
        return
    stream.flags |= FLAG_FIN_QUEUED
    stream_ready(stream, now_ns)


cdef int stream_reset(stream_t *stream, int reason, uint64_t now_ns) noexcept nogil:
    cdef uint8_t[CONTROL_FRAME_MAX] frame
    cdef int n, rc
    if stream.flags & FLAG_DEAD:
        return OK
    n = frame_put_reset(frame, stream.id, reason, stream.tx_off)
    rc = mux_control(stream.mux, frame, n)
    stream_remove(stream, now_ns)
    return rc


cdef void stream_source_ready(stream_t *stream, uint64_t now_ns) noexcept nogil:
    stream.flags |= FLAG_SOURCE_READY
    stream_ready(stream, now_ns)


# Credit

cdef size_t stream_room(const stream_t *stream) noexcept nogil:
    cdef uint64_t limit = min(stream.tx_credit, stream.tx_pace)
    cdef uint64_t room = limit - stream.tx_off if limit > stream.tx_off else 0
    if is_service(stream):
        room = min(room, stream.mux.tx_credit - stream.mux.tx_off)
    return <size_t>room


cdef bint stream_may_fill(const stream_t *stream, size_t len) noexcept nogil:
    cdef uint64_t room = stream.tx_credit - stream.tx_off
    return room >= len or room * 2 >= stream.tx_window


cdef void stream_pace(stream_t *stream, uint64_t offset, uint64_t now_ns) noexcept nogil:
    stream.tx_pace = offset
    stream_ready(stream, now_ns)


cdef inline void note_credit(stream_t *stream, uint64_t offset) noexcept nogil:
    stream.tx_credit = max(stream.tx_credit, offset)
    stream.tx_window = stream.tx_credit - stream.tx_off


cdef void stream_grant(stream_t *stream, uint64_t offset) noexcept nogil:
    if stream.flags & (FLAG_DEAD | FLAG_FIN_RECEIVED) or offset <= stream.rx_credit:
        return
    stream.rx_credit = offset
    if stream.flags & (FLAG_LOCAL | FLAG_ACCEPTED):
        mark_due(stream, FLAG_CREDIT_DUE)


cdef inline uint64_t window_grown(uint64_t window, uint64_t limit, uint64_t since_ns, uint64_t within_ns,
                                  uint64_t now_ns) noexcept nogil:
    if since_ns and now_ns - since_ns < max(within_ns, <uint64_t>GROW_NS) and window < limit:
        return min(window * 2, limit)
    return window


cdef void stream_used(stream_t *stream, uint64_t len, uint64_t now_ns) noexcept nogil:
    cdef uint64_t limit = stream.rx_window_max
    stream.rx_used += len
    stream.unread_ns = now_ns
    if is_service(stream):
        mux_used(stream.mux, len, now_ns)
        limit = max(min(limit, stream.mux.rx_window // 4), <uint64_t>WINDOW_MIN)
        stream.rx_window = min(stream.rx_window, limit)
    if stream.rx_credit <= stream.rx_used + stream.rx_window - stream.rx_window // 4:
        stream.rx_window = window_grown(stream.rx_window, limit, stream.grant_ns,
                                        2 * (stream.rtt_ns if stream.rtt_ns else stream.mux.rtt_ns), now_ns)
        stream.grant_ns = now_ns
        stream_grant(stream, stream.rx_used + stream.rx_window)


cdef void mux_used(mux_t *mux, uint64_t len, uint64_t now_ns) noexcept nogil:
    len = min(len, mux.rx_off - mux.rx_used)
    mux.rx_used += len
    lease_add(&mux.receive.unread, -len)
    if mux.rx_credit <= mux.rx_used + mux.rx_window - mux.rx_window // 4:
        session_grant(mux, now_ns)


cdef void session_grant(mux_t *mux, uint64_t now_ns) noexcept nogil:
    """A quarter of a window is unannounced: announce it, as far as the node's budget goes (protocol.md 9)."""
    cdef uint64_t unread = lease_total(&mux.receive.unread)
    cdef uint64_t unread_max = mux.receive.unread.budget.max
    if unread >= unread_max // 10 * 9:
        if mux.rx_off > mux.rx_used:
            mux.receive.n_withheld += 1
            mux.withheld_ns = now_ns
            return
        mux.rx_window = SESSION_WINDOW_MIN      # it holds nothing: what others do not read is not its fault
    elif unread >= unread_max // 2:
        mux.rx_window = max(mux.rx_window // 2, <uint64_t>SESSION_WINDOW_MIN)
    else:
        # One stream may have a quarter of it, which takes that stream a round trip at least.
        mux.rx_window = window_grown(mux.rx_window, mux.rx_window_max, mux.grant_ns, 4 * mux.rtt_ns, now_ns)
    mux.withheld_ns = 0
    if mux.rx_used + mux.rx_window > mux.rx_credit:
        mux.rx_credit = mux.rx_used + mux.rx_window
        mux.grant_ns = now_ns
        mux.is_session_due = 1
        mux.starved_ns = 0


# Who does not read

cdef uint64_t mux_deadline_ns(const mux_t *mux, const mux_times_t *times) noexcept nogil:
    cdef uint64_t at_ns = mux.full_ns + times.slow_reader_ns if mux.full_ns else NEVER
    if mux.starved_ns:
        at_ns = min(at_ns, mux.starved_ns + times.starved_ns)
    if mux.withheld_ns:
        at_ns = min(at_ns, mux.withheld_ns + WITHHELD_NS)
    return at_ns


cdef void reset_unread(mux_t *mux, uint64_t now_ns) noexcept nogil:
    """Reset the stream that was not read for longest; its bytes give the others credit."""
    cdef stream_t *oldest = NULL
    cdef stream_t *stream
    cdef uint32_t cursor = 0
    while True:
        stream = <stream_t *>table_next(&mux.streams, &cursor)
        if stream is NULL:
            break
        if (is_service(stream) and stream.rx_off > stream.rx_used
                and (oldest is NULL or stream.unread_ns < oldest.unread_ns)):
            oldest = stream
    mux.starved_ns = now_ns
    if oldest is not NULL:
        mux.receive.n_slow_resets += 1
        oldest.reason = REASON_SLOW_READER
        stream_reset(oldest, REASON_SLOW_READER, now_ns)


cdef int mux_tick(mux_t *mux, const mux_times_t *times, uint64_t now_ns) noexcept nogil:
    if mux.full_ns and now_ns >= mux.full_ns + times.slow_reader_ns:
        return E_FULL
    if mux.starved_ns and now_ns >= mux.starved_ns + times.starved_ns:
        reset_unread(mux, now_ns)
    if mux.withheld_ns and now_ns >= mux.withheld_ns + WITHHELD_NS:
        session_grant(mux, now_ns)
    return OK


# Output

cdef bint mux_has_data(const mux_t *mux) noexcept nogil:
    return mux.heads[0] is not NULL or mux.heads[1] is not NULL or mux.heads[2] is not NULL


cdef bint mux_has_output(const mux_t *mux) noexcept nogil:
    return mux.control.len > 0 or mux.due is not NULL or mux.is_session_due or mux_has_data(mux)


cdef void stream_sent(stream_t *stream, size_t len) noexcept nogil:
    stream.tx_off += len
    if is_service(stream):
        stream.mux.tx_off += len
    list_turn(stream.mux, stream, len)


cdef bint stream_is_direct(const stream_t *stream, size_t len) noexcept nogil:
    cdef const mux_t *mux = stream.mux
    cdef int i
    if stream.queue.len > 0 or (stream.flags & (FLAG_DEAD | FLAG_FIN_QUEUED)) or stream_room(stream) < len:
        return False
    if mux.control.len > 0 or mux.due is not NULL:
        return False
    for i in range(stream.priority + 1):
        if mux.heads[i] is not NULL and mux.heads[i] != stream:
            return False
    return True


cdef inline bint sends_fin(const stream_t *stream, size_t len) noexcept nogil:
    return (stream.flags & FLAG_FIN_QUEUED) != 0 and len == stream.queue.len


cdef void after_data(stream_t *stream, size_t len, uint64_t now_ns) noexcept nogil:
    """`len` bytes of the queue went into a record: account for them and leave the list when nothing more can go."""
    cdef bint is_fin = sends_fin(stream, len)
    if is_service(stream):
        queue_shrank(stream.mux, len, now_ns)
    chain_drop(&stream.queue, len)
    stream_sent(stream, len)
    if is_fin:
        stream.flags |= FLAG_FIN_SENT
    if not wants_turn(stream):
        list_drop(stream.mux, stream)
    if stream.sink is not NULL:
        stream.sink.on_event(stream, STREAM_SENT, now_ns)
    if is_fin:
        finish_if_done(stream, now_ns)


cdef inline size_t frame_most(const stream_t *stream, size_t room) noexcept nogil:
    """Payload that a frame with room for so much may hold. What is spliced leaves in the pieces in which it came."""
    cdef uint64_t most = stream.queue.len
    if not is_service(stream) and stream.queue.head is not NULL:
        most = block_len(stream.queue.head)
    return min(min(<size_t>most, stream_room(stream)), room)


cdef bint plan_bulk(plan_t *plan, stream_t *stream, size_t max_inner) noexcept nogil:
    """Plan one DATA frame that lies in the stream's first block, its header in the bytes before it."""
    cdef block_t *block = stream.queue.head
    cdef size_t len
    cdef int head
    if block is NULL or block_len(block) < BULK_MIN:
        return False
    len = frame_most(stream, max_inner - 3 - varint_len(stream.id))
    if len < BULK_MIN or len > block_len(block):
        return False                            # the end of a block is packed with what follows it
    head = 1 + varint_len(stream.id) + varint_len(len)
    plan.kind = PLAN_BULK
    plan.stream = stream
    plan.payload_len = len
    plan.src = block_start(block) - head
    plan.len = head + len
    plan.tail_len = block.cap - block.start - len
    frame_put_data_head(plan.src, stream.id, len, FRAME_DATA_FIN if sends_fin(stream, len) else FRAME_DATA)
    plan.carries_pipe = not is_service(stream)
    return True


cdef size_t copy_payload(stream_t *stream, uint8_t *dst, size_t len) noexcept nogil:
    cdef block_t *block = stream.queue.head
    cdef size_t n, at = 0
    while at < len:
        n = min(<size_t>block_len(block), len - at)
        memcpy(dst + at, block_start(block), n)
        at += n
        block = block.next
    return at


cdef size_t copy_frame(stream_t *stream, uint8_t *dst, size_t room, uint64_t now_ns) noexcept nogil:
    """Write one DATA frame of the stream; bytes written, 0 when it does not fit."""
    cdef size_t overhead = 3 + varint_len(stream.id)
    cdef size_t len
    cdef int head
    if room <= overhead:
        return 0
    len = frame_most(stream, room - overhead)
    head = frame_put_data_head(dst, stream.id, len, FRAME_DATA_FIN if sends_fin(stream, len) else FRAME_DATA)
    copy_payload(stream, dst + head, len)
    after_data(stream, len, now_ns)
    return head + len


cdef bint may_send(mux_t *mux, stream_t *stream) noexcept nogil:
    """False takes the stream off its list: nothing to send, or no credit."""
    if not wants_turn(stream):
        list_drop(mux, stream)
        return False
    if stream.queue.len > 0 and is_service(stream) and mux.tx_credit == mux.tx_off:
        list_drop(mux, stream)
        list_add(mux, stream, LIST_STARVED)
        return False
    return True


cdef int mux_plan(mux_t *mux, plan_t *plan, uint8_t *scratch, size_t max_inner, uint64_t now_ns) noexcept nogil:
    cdef stream_t *stream
    cdef size_t at, n
    cdef int i
    memset(plan, 0, sizeof(plan_t))
    at = put_control(mux, scratch, max_inner)
    for i in range(N_PRIORITIES):
        while mux.heads[i] is not NULL:
            stream = mux.heads[i]
            if not may_send(mux, stream):
                continue
            if stream.queue.len == 0 and (stream.flags & FLAG_SOURCE_READY):
                if at == 0:
                    plan.kind = PLAN_PULL
                    plan.stream = stream
                    return PLAN_PULL
                return plan_copied(plan, scratch, at)
            if at == 0 and plan_bulk(plan, stream, max_inner):
                return PLAN_BULK
            if at > 0 and not joins(stream, at):
                return plan_copied(plan, scratch, at)
            plan.carries_pipe |= not is_service(stream)
            n = copy_frame(stream, scratch + at, max_inner - at, now_ns)
            if n == 0:
                return plan_copied(plan, scratch, at)
            at += n
    return plan_copied(plan, scratch, at)


cdef inline bint joins(const stream_t *stream, size_t at) noexcept nogil:
    """May the stream's next frame stand behind `at` bytes? A spliced piece only where a small record holds both."""
    return is_service(stream) or at + DATA_HEAD_MAX + frame_most(stream, INNER_MAX) <= INNER_SMALL - LAYER_OVERHEAD


cdef int plan_copied(plan_t *plan, uint8_t *scratch, size_t at) noexcept nogil:
    if at == 0:
        return PLAN_NONE
    plan.kind = PLAN_COPY
    plan.src = scratch
    plan.len = at
    return PLAN_COPY


cdef void mux_commit(mux_t *mux, plan_t *plan, uint64_t now_ns) noexcept nogil:
    if plan.kind == PLAN_BULK:
        after_data(plan.stream, plan.payload_len, now_ns)


# Input

cdef inline stream_t *find(mux_t *mux, uint64_t id) noexcept nogil:
    if mux.last is not NULL and mux.last.id == id:
        return mux.last
    cdef stream_t *stream = <stream_t *>table_get(&mux.streams, id)
    if stream is not NULL:
        mux.last = stream
    return stream


cdef inline bint is_past(const mux_t *mux, uint64_t id) noexcept nogil:
    """Was a stream of this id ever opened?"""
    if id == 0:
        return False
    return id < mux.next_id if (id & 1) == (mux.next_id & 1) else id < mux.peer_id


cdef int refuse_open(mux_t *mux, uint64_t id, int reason) noexcept nogil:
    cdef uint8_t[CONTROL_FRAME_MAX] frame
    return mux_control(mux, frame, frame_put_reset(frame, id, reason, 0))


cdef int on_open(mux_t *mux, frame_t *frame, uint64_t now_ns) noexcept nogil:
    cdef stream_t *stream
    cdef int rc
    if frame.id != mux.peer_id:
        return E_STREAM_ID
    mux.peer_id += 2
    if not (mux.peer_kinds & (1 << frame.kind)):
        if frame.kind > STREAM_MESSAGES:
            remember_pipe(mux, frame.id)
        return refuse_open(mux, frame.id, REASON_REFUSED)
    if frame.kind <= STREAM_MESSAGES:
        if mux.n_peer_service >= mux.max_service:
            mux.receive.n_streams_full += 1
            return refuse_open(mux, frame.id, REASON_LIMIT)
    elif mux.n_peer_pipes >= mux.max_pipes:
        remember_pipe(mux, frame.id)
        mux.receive.n_streams_full += 1
        return refuse_open(mux, frame.id, REASON_LIMIT)
    stream = stream_create(mux, frame.id, frame.kind, frame.priority)
    if stream is NULL:
        return refuse_open(mux, frame.id, REASON_MEMORY)
    if is_service(stream):
        mux.n_peer_service += 1
        stream.rx_credit = INITIAL_CREDIT_SERVICE
    else:
        mux.n_peer_pipes += 1
        stream.rx_credit = INITIAL_CREDIT_PIPE
        if frame.kind == STREAM_PIPE:
            stream.hops_left = frame.data[0]
    note_credit(stream, frame.offset)
    rc = mux.hooks.on_open(mux, stream, frame, now_ns)
    if rc < 0:
        return stream_reset(stream, -rc, now_ns)
    mux.n_begun += 1
    return OK


cdef inline void session_received(mux_t *mux, uint64_t len, uint64_t now_ns) noexcept nogil:
    mux.rx_off += len
    lease_add(&mux.receive.unread, len)
    if mux.rx_credit - mux.rx_off < INNER_MAX and mux.starved_ns == 0:
        mux.starved_ns = now_ns


cdef int late_data(mux_t *mux, frame_t *frame, uint64_t now_ns) noexcept nogil:
    """DATA for a closed id counts for the session's credit, unless it was a pipe's, and is returned at once."""
    if not is_past(mux, frame.id):
        return E_STREAM_ID
    if was_pipe(mux, frame.id):
        return OK
    if frame.len > mux.rx_credit - mux.rx_off:
        return E_CREDIT
    session_received(mux, frame.len, now_ns)
    mux_used(mux, frame.len, now_ns)
    return OK


cdef int on_data(mux_t *mux, frame_t *frame, uint64_t now_ns) noexcept nogil:
    cdef stream_t *stream = find(mux, frame.id)
    cdef int rc
    if stream is NULL:
        return late_data(mux, frame, now_ns)
    if stream.flags & FLAG_FIN_RECEIVED:
        return E_STATE
    if is_service(stream):
        if frame.len > mux.rx_credit - mux.rx_off:
            return E_CREDIT
        session_received(mux, frame.len, now_ns)
    if frame.len > stream.rx_credit - stream.rx_off:
        if is_service(stream):
            mux_used(mux, frame.len, now_ns)
        mux.receive.n_overruns += 1
        return stream_reset(stream, REASON_PROTOCOL, now_ns)
    if stream.rx_off == stream.rx_used:
        stream.unread_ns = now_ns
    stream.rx_off += frame.len
    if frame.len > 0:
        rc = stream.sink.on_data(stream, frame.data, frame.len, now_ns)
        if rc < 0:
            return stream_reset(stream, REASON_PROTOCOL, now_ns)
    if frame.type == FRAME_DATA_FIN and not (stream.flags & FLAG_DEAD):
        stream.flags |= FLAG_FIN_RECEIVED
        stream.sink.on_event(stream, STREAM_FIN, now_ns)
        finish_if_done(stream, now_ns)
    return OK


cdef int on_credit(mux_t *mux, frame_t *frame, uint64_t now_ns) noexcept nogil:
    cdef stream_t *stream = find(mux, frame.id)
    if stream is NULL:
        return OK if is_past(mux, frame.id) else E_STREAM_ID
    if frame.type == FRAME_ACCEPT:
        if not (stream.flags & FLAG_LOCAL) or (stream.flags & FLAG_ACCEPTED):
            return E_STATE
        stream.flags |= FLAG_ACCEPTED
    if frame.offset < stream.tx_credit:
        return E_CREDIT
    note_credit(stream, frame.offset)
    stream_ready(stream, now_ns)
    stream.sink.on_event(stream, STREAM_ACCEPTED if frame.type == FRAME_ACCEPT else STREAM_CREDIT, now_ns)
    return OK


cdef int on_reset(mux_t *mux, frame_t *frame, uint64_t now_ns) noexcept nogil:
    cdef stream_t *stream = find(mux, frame.id)
    if stream is NULL:
        return OK if is_past(mux, frame.id) else E_STREAM_ID
    if frame.offset != stream.rx_off:
        return E_FRAME
    stream.reason = <uint8_t>frame.reason
    stream.sink.on_event(stream, STREAM_RESET, now_ns)
    stream_remove(stream, now_ns)
    return ENDED


cdef int mux_frame(mux_t *mux, frame_t *frame, uint64_t now_ns) noexcept nogil:
    if frame.type == FRAME_DATA or frame.type == FRAME_DATA_FIN:
        return on_data(mux, frame, now_ns)
    if frame.type == FRAME_CREDIT or frame.type == FRAME_ACCEPT:
        return on_credit(mux, frame, now_ns)
    if frame.type == FRAME_OPEN:
        return on_open(mux, frame, now_ns)
    if frame.type == FRAME_RESET:
        return on_reset(mux, frame, now_ns)
    if frame.type == FRAME_SESSION_CREDIT:
        if frame.offset < mux.tx_credit:
            return E_CREDIT
        mux.tx_credit = frame.offset
        wake_starved(mux)
        return OK
    return E_FRAME
