# SPDX-License-Identifier: MIT
"""Events in order, and the application's streams."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from .memory cimport block_give, block_t, chain_append, chain_clear, chain_push, chain_t, mem_give, mem_take, pool_t
from .mux cimport (
    FLAG_ACCEPTED, FLAG_FIN_QUEUED, FLAG_FIN_RECEIVED, FLAG_FIN_SENT, FLAG_LOCAL, STREAM_ACCEPTED, STREAM_FIN,
    STREAM_GONE, STREAM_RESET, STREAM_SENT, mux_open, mux_used, sink_t, stream_accept, stream_bind, stream_finish,
    stream_reset, stream_t, stream_used, stream_write)
from .session cimport SESSION_OPEN, session_t, session_wake
from .status cimport OK, REASON_LIMIT, REASON_MEMORY, REASON_NONE, REASON_UNREACHABLE, WINDOW_MIN
from .table cimport table_clear, table_drop, table_get, table_init, table_next, table_put

cdef enum:
    TAKE_OVER_MIN = 8192        # payload from which a record's block is taken instead of copied from
    FLOWS_MAX = 1 << 20         # the limits per session are reached long before
    TAPPED_EVENTS = (1 << EVENT_STREAM_SENT) | (1 << EVENT_STREAM_DATA) | (1 << EVENT_STREAM_FIN)


cdef void outbox_init(outbox_t *outbox, pool_t *pool, uint64_t mix) noexcept nogil:
    memset(outbox, 0, sizeof(outbox_t))
    outbox.pool = pool
    outbox.next_id = <uint64_t>1 << PEERS_BIT
    table_init(&outbox.flows, pool, FLOWS_MAX, mix)


cdef inline void drop_blocks(const event_t *event) noexcept nogil:
    if event.blocks is not NULL:
        block_give(event.blocks)


cdef void drop_kept(outbox_t *outbox, pending_t **head, pending_t **tail) noexcept nogil:
    cdef pending_t *pending
    while head[0] is not NULL:
        pending = head[0]
        head[0] = pending.next
        drop_blocks(&pending.event)
        mem_give(outbox.pool, pending, sizeof(pending_t))
    tail[0] = NULL


cdef void outbox_clear(outbox_t *outbox) noexcept nogil:
    cdef uint32_t cursor
    while outbox.flows.len > 0:
        cursor = 0
        flow_free(<flow_t *>table_next(&outbox.flows, &cursor))
    drop_kept(outbox, &outbox.pending_head, &outbox.pending_tail)
    drop_kept(outbox, &outbox.late_head, &outbox.late_tail)
    table_clear(&outbox.flows)


# Events

cdef void keep(outbox_t *outbox, const event_t *event, pending_t **head, pending_t **tail) noexcept nogil:
    cdef pending_t *pending = <pending_t *>mem_take(outbox.pool, sizeof(pending_t))
    if pending is NULL:
        drop_blocks(event)
        return
    pending.event = event[0]
    if tail[0] is NULL:
        head[0] = pending
    else:
        tail[0].next = pending
    tail[0] = pending


cdef void outbox_put(outbox_t *outbox, const event_t *event) noexcept nogil:
    """Hand an event over, or keep it in order behind those that wait."""
    if outbox.pending_head is not NULL or not outbox.emit(outbox.emit_ctx, event):
        keep(outbox, event, &outbox.pending_head, &outbox.pending_tail)


cdef void outbox_put_late(outbox_t *outbox, const event_t *event) noexcept nogil:
    if not outbox_emit(outbox) or not outbox.emit(outbox.emit_ctx, event):
        keep(outbox, event, &outbox.late_head, &outbox.late_tail)


cdef bint outbox_is_empty(const outbox_t *outbox) noexcept nogil:
    return outbox.pending_head is NULL and outbox.flows_head is NULL and outbox.late_head is NULL and outbox.owed == 0


cdef bint emit_kept(outbox_t *outbox, pending_t **head, pending_t **tail) noexcept nogil:
    cdef pending_t *pending
    while head[0] is not NULL:
        pending = head[0]
        if not outbox.emit(outbox.emit_ctx, &pending.event):
            return False
        head[0] = pending.next
        if pending.next is NULL:
            tail[0] = NULL
        mem_give(outbox.pool, pending, sizeof(pending_t))
    return True


cdef void flow_notify(flow_t *flow, int event) noexcept nogil:
    cdef outbox_t *outbox = flow.outbox
    flow.events |= <uint32_t>1 << event
    if flow.is_queued:
        return
    flow.is_queued = 1
    outbox.n_waiting += 1
    flow.next_event = NULL
    if outbox.flows_tail is NULL:
        outbox.flows_head = flow
    else:
        outbox.flows_tail.next_event = flow
    outbox.flows_tail = flow


cdef bint flow_emit_one(flow_t *flow, int type) noexcept nogil:
    cdef event_t event
    memset(&event, 0, sizeof(event))
    event.type = <uint16_t>type
    event.id = flow.id
    event.reason = flow.reason
    event.status = flow.status
    if type == EVENT_STREAM_DATA:
        event.blocks = flow.rx.head
    elif type == EVENT_STREAM_OPEN:
        event.blocks = flow.opening.head
        event.a = flow.channel_id
        event.b = flow.kind | (<uint64_t>flow.priority << 8)
    elif type == EVENT_STREAM_SENT:
        event.a = flow_left(flow) - flow.sent
    elif type == EVENT_STREAM_RESET or type == EVENT_STREAM_DONE:
        event.a = flow.out_len if flow.stream is NULL else flow.stream.tx_off
        event.b = flow.in_len if flow.stream is NULL else flow.stream.rx_off
    if not flow.outbox.emit(flow.outbox.emit_ctx, &event):
        return False
    flow.events &= ~(<uint32_t>1 << type)
    if type == EVENT_STREAM_DATA:
        memset(&flow.rx, 0, sizeof(chain_t))
    elif type == EVENT_STREAM_OPEN:
        memset(&flow.opening, 0, sizeof(chain_t))
    elif type == EVENT_STREAM_SENT:
        flow.sent += event.a
    elif type == EVENT_STREAM_RESET or type == EVENT_STREAM_DONE:
        flow.is_over = 1
    return True


cdef bint flow_emit(flow_t *flow) noexcept nogil:
    """All events of a flow, in their order; False when the ring filled up."""
    cdef int type
    for type in range(EVENT_STREAM_OPEN, EVENT_STREAM_DONE + 1):
        if flow.events & (<uint32_t>1 << type) and not flow_emit_one(flow, type):
            return False
    return True


cdef int outbox_emit(outbox_t *outbox) noexcept nogil:
    cdef flow_t *flow
    if not emit_kept(outbox, &outbox.pending_head, &outbox.pending_tail):
        return 0
    while outbox.flows_head is not NULL:
        flow = outbox.flows_head
        if not flow_emit(flow):
            return 0
        outbox.flows_head = flow.next_event
        if flow.next_event is NULL:
            outbox.flows_tail = NULL
        outbox.n_waiting -= 1
        flow.is_queued = 0
        if flow.is_over and (flow.unused == 0 or flow.session is NULL or flow.reason):
            flow_free(flow)
    if not emit_kept(outbox, &outbox.late_head, &outbox.late_tail):
        return 0
    return emit_owed(outbox)


cdef bint emit_owed(outbox_t *outbox) noexcept nogil:
    """STOPPED last: its number is the lowest."""
    cdef event_t event
    cdef int type = EVENT_TWINS
    while outbox.owed:
        if outbox.owed >> type & 1:
            memset(&event, 0, sizeof(event))
            event.type = <uint16_t>type
            if not outbox.emit(outbox.emit_ctx, &event):
                return False
            outbox.owed &= ~(<uint32_t>1 << type)
        type -= 1
    return True


cdef void outbox_owe(outbox_t *outbox, int type) noexcept nogil:
    outbox.owed |= <uint32_t>1 << type
    outbox_emit(outbox)


# Flows

cdef inline uint64_t flow_left(const flow_t *flow) noexcept nogil:
    """Bytes that have left the queue since the beginning; the FIN counts as one."""
    if flow.stream is NULL:
        return flow.written
    return flow.written - flow.stream.queue.len - fin_waits(flow.stream)


cdef inline bint fin_waits(const stream_t *stream) noexcept nogil:
    return (stream.flags & (FLAG_FIN_QUEUED | FLAG_FIN_SENT)) == FLAG_FIN_QUEUED


cdef flow_t *flow_create(outbox_t *outbox, session_t *session, flow_t **list, uint64_t channel_id, uint64_t id,
                         int kind, int priority) noexcept nogil:
    cdef flow_t *flow = <flow_t *>mem_take(outbox.pool, sizeof(flow_t))
    if flow is NULL:
        return NULL
    if table_put(&outbox.flows, id, flow) < 0:
        mem_give(outbox.pool, flow, sizeof(flow_t))
        return NULL
    flow.id = id
    flow.outbox = outbox
    flow.session = session
    flow.channel_id = channel_id
    flow.kind = <uint8_t>kind
    flow.priority = <uint8_t>priority
    flow.list = list
    flow.next = list[0]
    if list[0] is not NULL:
        list[0].prev = flow
    list[0] = flow
    return flow


cdef void flow_bind(flow_t *flow, stream_t *stream) noexcept nogil:
    flow.stream = stream
    stream_bind(stream, flow, &SINK)


cdef int flow_announce(flow_t *flow, const uint8_t *opening, size_t len) noexcept nogil:
    cdef int rc = chain_append(&flow.opening, flow.outbox.pool, opening, len, 0)
    flow_notify(flow, EVENT_STREAM_OPEN)
    return rc


cdef void flow_abandon(flow_t *flow) noexcept nogil:
    if flow.is_over and not flow.is_queued:
        flow_free(flow)
    else:
        flow_detach(flow)


cdef void flow_detach(flow_t *flow) noexcept nogil:
    """Leave the session; what was received and not consumed goes back to its credit."""
    cdef session_t *session = flow.session
    if session is NULL:
        return
    if flow.unused and session.state == SESSION_OPEN:
        mux_used(&session.mux, flow.unused, flow.outbox.now_ns)
    flow.unused = 0
    if flow.prev is not NULL:
        flow.prev.next = flow.next
    else:
        flow.list[0] = flow.next
    if flow.next is not NULL:
        flow.next.prev = flow.prev
    flow.session = NULL


cdef void flow_free(flow_t *flow) noexcept nogil:
    cdef outbox_t *outbox = flow.outbox
    if flow.tap is not NULL:
        flow.tap.on_freed(flow.tap_owner)
    flow_unqueue(flow)
    flow_detach(flow)
    chain_clear(&flow.rx)
    chain_clear(&flow.opening)
    table_drop(&outbox.flows, flow.id)
    mem_give(outbox.pool, flow, sizeof(flow_t))


cdef bint take_over(flow_t *flow, uint8_t *data, size_t len) noexcept nogil:
    """Take the block that a large payload lies in, instead of copying it. False: there is none, copy."""
    cdef session_t *session = flow.session
    cdef block_t *block = session.donor
    if not session.is_final:
        return False                            # what follows in the record still lies in the block
    session.wants_block = 1
    if block is NULL or data < block.data or data + len > block.data + block.cap:
        return False
    session.donor = NULL
    block.start = <uint32_t>(data - block.data)
    block.end = block.start + <uint32_t>len
    chain_push(&flow.rx, block)
    return True


cdef int flow_on_data(stream_t *stream, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    cdef flow_t *flow = <flow_t *>stream.owner
    cdef int rc
    if len < TAKE_OVER_MIN or not take_over(flow, data, len):
        rc = chain_append(&flow.rx, flow.outbox.pool, data, len, now_ns)
        if rc < 0:
            stream_used(stream, len, now_ns)
            return rc
    flow.unused += len
    if flow.tap is not NULL:
        flow.tap.on_data(flow, now_ns)
    else:
        flow_notify(flow, EVENT_STREAM_DATA)
    return OK


cdef void flow_on_gone(flow_t *flow, stream_t *stream, uint64_t now_ns) noexcept nogil:
    flow.written -= stream.queue.len
    flow.out_len = stream.tx_off
    flow.in_len = stream.rx_off
    flow.stream = NULL
    if flow.events & (<uint32_t>1 << EVENT_STREAM_RESET) or flow.is_over:
        return
    if flow.reason == REASON_NONE and not ((stream.flags & FLAG_FIN_SENT) and (stream.flags & FLAG_FIN_RECEIVED)):
        flow.reason = stream.reason
        if flow.reason == REASON_NONE:
            flow.reason = flow.session.reason if flow.session is not NULL else REASON_NONE
        if flow.reason == REASON_NONE:
            flow.reason = REASON_UNREACHABLE
    if flow.tap is not NULL:
        flow.tap.on_event(flow, STREAM_GONE, now_ns)
    else:
        notify_end(flow)


cdef void notify_end(flow_t *flow) noexcept nogil:
    """RESET goes behind the DATA that is here: the peer may have finished it."""
    flow_notify(flow, EVENT_STREAM_DONE if flow.reason == REASON_NONE else EVENT_STREAM_RESET)


cdef void flow_on_event(stream_t *stream, int event, uint64_t now_ns) noexcept nogil:
    cdef flow_t *flow = <flow_t *>stream.owner
    if event == STREAM_GONE:
        flow_on_gone(flow, stream, now_ns)
    elif flow.tap is not NULL:
        flow.tap.on_event(flow, event, now_ns)
    elif event == STREAM_SENT:
        flow_notify(flow, EVENT_STREAM_SENT)
    elif event == STREAM_ACCEPTED:
        flow_notify(flow, EVENT_STREAM_ACCEPTED)
    elif event == STREAM_FIN:
        flow_notify(flow, EVENT_STREAM_FIN)
    elif event == STREAM_RESET:
        flow.reason = stream.reason
        flow_notify(flow, EVENT_STREAM_RESET)


cdef sink_t SINK
SINK.on_data = flow_on_data
SINK.on_event = flow_on_event
SINK.pull = NULL


cdef flow_t *flow_find(outbox_t *outbox, uint64_t id) noexcept nogil:
    return <flow_t *>table_get(&outbox.flows, id)


cdef int flow_open(outbox_t *outbox, session_t *session, flow_t **list, uint64_t channel_id, uint64_t id, int kind,
                   int priority, const uint8_t *opening, size_t len, uint64_t now_ns) noexcept nogil:
    cdef flow_t *flow = flow_create(outbox, session, list, channel_id, id, kind, priority)
    cdef stream_t *stream
    if flow is NULL:
        return -REASON_MEMORY
    stream = mux_open(&session.mux, kind, priority, WINDOW_MIN, opening, len)
    if stream is NULL:
        flow_free(flow)
        return -REASON_LIMIT
    flow_bind(flow, stream)
    session_wake(session, now_ns)
    return OK


cdef void flow_accept(outbox_t *outbox, uint64_t id, uint64_t now_ns) noexcept nogil:
    cdef flow_t *flow = flow_find(outbox, id)
    if flow is not NULL and flow.stream is not NULL:
        stream_accept(flow.stream, flow.stream.rx_used + WINDOW_MIN)
        session_wake(flow.session, now_ns)


cdef void flow_write(outbox_t *outbox, uint64_t id, chain_t *chain, uint64_t now_ns) noexcept nogil:
    cdef flow_t *flow = flow_find(outbox, id)
    if flow is NULL or flow.stream is NULL:
        chain_clear(chain)
        return
    if not flow.stream.flags & (FLAG_LOCAL | FLAG_ACCEPTED):
        flow_accept(outbox, id, now_ns)
    flow.written += chain.len
    stream_write(flow.stream, chain, now_ns)
    session_wake(flow.session, now_ns)


cdef void flow_finish(outbox_t *outbox, uint64_t id, uint64_t now_ns) noexcept nogil:
    cdef flow_t *flow = flow_find(outbox, id)
    if flow is not NULL and flow.stream is not NULL and not (flow.stream.flags & FLAG_FIN_QUEUED):
        flow.written += 1
        stream_finish(flow.stream, now_ns)
        session_wake(flow.session, now_ns)


cdef void flow_unqueue(flow_t *flow) noexcept nogil:
    cdef outbox_t *outbox = flow.outbox
    cdef flow_t *before = NULL
    cdef flow_t *at = outbox.flows_head
    if not flow.is_queued:
        return
    while at != flow:
        before = at
        at = at.next_event
    if before is NULL:
        outbox.flows_head = flow.next_event
    else:
        before.next_event = flow.next_event
    if outbox.flows_tail == flow:
        outbox.flows_tail = before
    outbox.n_waiting -= 1
    flow.is_queued = 0


cdef void flow_reset(outbox_t *outbox, uint64_t id, int reason, uint64_t now_ns) noexcept nogil:
    cdef flow_t *flow = flow_find(outbox, id)
    cdef session_t *session
    if flow is NULL:
        return
    session = flow.session
    flow.is_over = 1
    if flow.stream is not NULL:
        stream_reset(flow.stream, reason, now_ns)
    flow_free(flow)
    if session is not NULL:
        session_wake(session, now_ns)


cdef flow_t *flow_tap(outbox_t *outbox, uint64_t id, const tap_t *tap, void *owner) noexcept nogil:
    cdef flow_t *flow = flow_find(outbox, id)
    if flow is NULL or flow.stream is NULL or flow.tap is not NULL:
        return NULL
    flow.tap = tap
    flow.tap_owner = owner
    flow.events &= ~TAPPED_EVENTS
    return flow


cdef void flow_untap(flow_t *flow) noexcept nogil:
    flow.tap = NULL
    notify_end(flow)


cdef void flow_used(outbox_t *outbox, uint64_t id, uint64_t len, uint64_t now_ns) noexcept nogil:
    cdef flow_t *flow = flow_find(outbox, id)
    if flow is NULL:
        return
    len = min(len, flow.unused)
    flow.unused -= len
    if flow.stream is not NULL:
        stream_used(flow.stream, len, now_ns)
    elif flow.session is not NULL and flow.session.state == SESSION_OPEN:
        mux_used(&flow.session.mux, len, now_ns)
    if flow.session is not NULL:
        session_wake(flow.session, now_ns)
    if flow.is_over and flow.unused == 0 and not flow.is_queued:
        flow_free(flow)
