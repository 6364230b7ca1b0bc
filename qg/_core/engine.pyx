# SPDX-License-Identifier: MIT
"""All sessions of one worker: links, layers, circuits, splices and application streams."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from .guard cimport (
    bucket_take, guard_accept, guard_allows, guard_allows_relay, guard_allows_target, guard_half_open_begin, guard_half_open_end,
    guard_handshake, guard_target_take)
from .handshake cimport HANDSHAKE_NK, HANDSHAKE_XK, HANDSHAKE_XX, STAGE_ADMIT_M1, party_init
from .heap cimport heap_clear, heap_drop, heap_first, heap_init, heap_node_t, heap_set
from .layer cimport layer_carrier, layer_pull
from .memory cimport (
    BLOCK_LARGE, block_give, block_room, block_start, block_t, block_take, chain_append, chain_clear, chain_push, chain_t,
    mem_give, mem_take, pool_t)
from .mux cimport (
    FLAG_DEAD, FLAG_FIN_RECEIVED, FLAG_FIN_SENT, STREAM_ACCEPTED, STREAM_CREDIT, STREAM_FIN, STREAM_GONE, STREAM_RESET,
    STREAM_SENT, mux_can_open, mux_hooks_t, mux_open, mux_t, mux_used, sink_t, stream_accept, stream_bind, stream_finish,
    stream_reset, stream_source_ready, stream_t, stream_used, stream_write, streams_sweep)
from .relay cimport (
    SPLICE_WAITS, relay_clear, relay_init, relay_join, relay_open, relay_refuse, relay_sweep, relay_tick, splice_t)
from .session cimport (
    LAYER_FAR_END, LAYER_NONE, LAYER_SOURCE, SESSION_CLOSED, SESSION_HANDSHAKE, SESSION_KEYED, SESSION_ON_CLOSED,
    SESSION_ON_FAILED, SESSION_ON_KEYED, SESSION_ON_PONG, SESSION_ON_READY, SESSION_OPEN, carrier_t, session_admit, session_bind,
    session_clear, session_close, session_connect, session_drop, session_feed, session_has_output, session_hooks_t,
    session_listen, session_ping, session_pump, session_t, session_tick, session_wake)
from .status cimport (
    E_FULL, E_IDENTITY, E_MEMORY, E_RATE, LAYER_OVERHEAD, NEED_ADMIT, OK, REASON_BUSY, REASON_CANCELLED, REASON_DUPLICATE,
    REASON_HOPS, REASON_INTERNAL, REASON_LIMIT, REASON_MEMORY, REASON_NONE, REASON_PROTOCOL, REASON_REFUSED, REASON_SHUTDOWN,
    REASON_TIMEOUT, REASON_UNREACHABLE, WINDOW_MIN)
from .sys cimport load_be64
from .table cimport table_clear, table_drop, table_get, table_init, table_next, table_put
from .wire cimport (
    PRIORITY_NORMAL, STREAM_BYTES, STREAM_MESSAGES, STREAM_PIPE, STREAM_RELAY, address_t, frame_t, open_relay_parse,
    open_relay_put, open_relay_t)

cdef enum:
    TABLE_MAX = 1 << 20
    LINK_ROOM = 32768           # of a link that takes more: a whole record, so that none is cut at the limit
    PIPES_PER_S = 50
    PIPES_BURST = 200

cdef uint64_t NEVER = <uint64_t>0xFFFFFFFFFFFFFFFF
cdef uint64_t SECOND_NS = 1000000000


cdef inline uint64_t unix_s(const engine_t *engine, uint64_t now_ns) noexcept nogil:
    return <uint64_t>(<int64_t>now_ns + engine.ctx.unix_offset_ns) // SECOND_NS


cdef uint64_t draw(engine_t *engine, uint64_t low, uint64_t high) noexcept nogil:
    cdef uint64_t value
    engine.ctx.party.random(engine.ctx.party.random_ctx, <uint8_t *>&value, 8)
    return low + value % (high - low + 1)


cdef int engine_init(engine_t *engine, pool_t *pool, guard_t *guard, const engine_config_t *config) noexcept nogil:
    memset(engine, 0, sizeof(engine_t))
    engine.pool = pool
    engine.guard = guard
    engine.config = config[0]
    engine.ctx.pool = pool
    engine.next_id = 1
    engine.next_flow = <uint64_t>1 << 62
    heap_init(&engine.timers, pool)
    table_init(&engine.links, pool, TABLE_MAX, <uint64_t>engine)
    table_init(&engine.flows, pool, TABLE_MAX, <uint64_t>engine)
    table_init(&engine.channels, pool, TABLE_MAX, <uint64_t>engine)
    relay_init(&engine.relay, pool, config.relay_memory_len)
    return party_init(&engine.ctx.party)


# Events

cdef void emit(engine_t *engine, const event_t *event) noexcept nogil:
    """Hand an event over, or keep it in order behind those that wait."""
    cdef pending_t *pending
    if engine.pending_head is NULL and engine.emit(engine.emit_ctx, event):
        return
    pending = <pending_t *>mem_take(engine.pool, sizeof(pending_t))
    if pending is NULL:
        return
    pending.event = event[0]
    if engine.pending_tail is NULL:
        engine.pending_head = pending
    else:
        engine.pending_tail.next = pending
    engine.pending_tail = pending


cdef bint emit_pending(engine_t *engine) noexcept nogil:
    cdef pending_t *pending
    while engine.pending_head is not NULL:
        pending = engine.pending_head
        if not engine.emit(engine.emit_ctx, &pending.event):
            return False
        engine.pending_head = pending.next
        if pending.next is NULL:
            engine.pending_tail = NULL
        mem_give(engine.pool, pending, sizeof(pending_t))
    return True


cdef void flow_notify(flow_t *flow, int event) noexcept nogil:
    cdef engine_t *engine = flow.engine
    flow.events |= <uint32_t>1 << event
    if flow.is_queued:
        return
    flow.is_queued = 1
    flow.next_event = NULL
    if engine.flow_events_tail is NULL:
        engine.flow_events = flow
    else:
        engine.flow_events_tail.next_event = flow
    engine.flow_events_tail = flow


cdef bint flow_emit_one(flow_t *flow, int type) noexcept nogil:
    cdef event_t event
    memset(&event, 0, sizeof(event))
    event.type = <uint16_t>type
    event.id = flow.id
    event.reason = flow.reason
    if type == EVENT_STREAM_DATA:
        event.blocks = flow.rx.head
    elif type == EVENT_STREAM_OPEN:
        event.blocks = flow.opening.head
        event.a = flow.channel.id
        event.b = flow.kind | (<uint64_t>flow.priority << 8)
    elif type == EVENT_STREAM_SENT:
        event.a = flow_left(flow) - flow.sent
    if not flow.engine.emit(flow.engine.emit_ctx, &event):
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


cdef int engine_emit(engine_t *engine) noexcept nogil:
    cdef flow_t *flow
    if not emit_pending(engine):
        return 0
    while engine.flow_events is not NULL:
        flow = engine.flow_events
        if not flow_emit(flow):
            return 0
        engine.flow_events = flow.next_event
        if flow.next_event is NULL:
            engine.flow_events_tail = NULL
        flow.is_queued = 0
        if flow.is_over and (flow.unused == 0 or flow.channel is NULL or flow.reason):
            flow_free(flow)
    return 1


# Flows: the application's streams

cdef inline uint64_t flow_left(const flow_t *flow) noexcept nogil:
    """Bytes that have left the queue since the beginning."""
    return flow.written - flow.stream.queue.len if flow.stream is not NULL else flow.written


cdef flow_t *flow_create(engine_t *engine, channel_t *channel, uint64_t id, int kind, int priority) noexcept nogil:
    cdef flow_t *flow = <flow_t *>mem_take(engine.pool, sizeof(flow_t))
    if flow is NULL:
        return NULL
    if table_put(&engine.flows, id, flow) < 0:
        mem_give(engine.pool, flow, sizeof(flow_t))
        return NULL
    flow.id = id
    flow.engine = engine
    flow.channel = channel
    flow.kind = <uint8_t>kind
    flow.priority = <uint8_t>priority
    flow.next = channel.flows
    if channel.flows is not NULL:
        channel.flows.prev = flow
    channel.flows = flow
    channel.n_flows += 1
    return flow


cdef void flow_detach(flow_t *flow) noexcept nogil:
    """Leave the channel; what was received and not consumed goes back to its session's credit."""
    cdef channel_t *channel = flow.channel
    if channel is NULL:
        return
    if flow.unused and channel.session.state == SESSION_OPEN:
        mux_used(&channel.session.mux, flow.unused, flow.engine.now_ns)
    flow.unused = 0
    if flow.prev is not NULL:
        flow.prev.next = flow.next
    else:
        channel.flows = flow.next
    if flow.next is not NULL:
        flow.next.prev = flow.prev
    channel.n_flows -= 1
    flow.channel = NULL


cdef void flow_free(flow_t *flow) noexcept nogil:
    """Only with nothing queued in the event list."""
    cdef engine_t *engine = flow.engine
    flow_detach(flow)
    chain_clear(&flow.rx)
    chain_clear(&flow.opening)
    table_drop(&engine.flows, flow.id)
    mem_give(engine.pool, flow, sizeof(flow_t))


cdef int flow_on_data(stream_t *stream, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    cdef flow_t *flow = <flow_t *>stream.owner
    cdef int rc = chain_append(&flow.rx, flow.engine.pool, data, len, now_ns)
    if rc < 0:
        stream_used(stream, len, now_ns)
        return rc
    flow.unused += len
    flow.engine.n_flow_in += len
    flow_notify(flow, EVENT_STREAM_DATA)
    return OK


cdef void flow_on_gone(flow_t *flow, stream_t *stream) noexcept nogil:
    flow.written -= stream.queue.len
    flow.stream = NULL
    if flow.events & (<uint32_t>1 << EVENT_STREAM_RESET) or flow.is_over:
        return
    if (stream.flags & FLAG_FIN_SENT) and (stream.flags & FLAG_FIN_RECEIVED):
        flow_notify(flow, EVENT_STREAM_DONE)
        return
    flow.reason = flow.channel.session.reason if flow.channel is not NULL and flow.channel.session.reason else REASON_UNREACHABLE
    chain_clear(&flow.rx)
    flow.events &= ~(<uint32_t>1 << EVENT_STREAM_DATA)
    flow_notify(flow, EVENT_STREAM_RESET)


cdef void flow_on_event(stream_t *stream, int event, uint64_t now_ns) noexcept nogil:
    cdef flow_t *flow = <flow_t *>stream.owner
    if event == STREAM_SENT:
        flow_notify(flow, EVENT_STREAM_SENT)
    elif event == STREAM_ACCEPTED:
        flow_notify(flow, EVENT_STREAM_ACCEPTED)
    elif event == STREAM_FIN:
        flow_notify(flow, EVENT_STREAM_FIN)
    elif event == STREAM_RESET:
        flow.reason = stream.reason
        flow_notify(flow, EVENT_STREAM_RESET)
    elif event == STREAM_GONE:
        flow_on_gone(flow, stream)


cdef sink_t FLOW_SINK
FLOW_SINK.on_data = flow_on_data
FLOW_SINK.on_event = flow_on_event
FLOW_SINK.pull = NULL


cdef inline flow_t *find_flow(engine_t *engine, uint64_t id) noexcept nogil:
    return <flow_t *>table_get(&engine.flows, id)


cdef void engine_open(engine_t *engine, uint64_t flow_id, uint64_t channel_id, int kind, int priority, const uint8_t *opening,
                      size_t len, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = <channel_t *>table_get(&engine.channels, channel_id)
    cdef flow_t *flow = NULL
    cdef event_t event
    cdef int reason = REASON_UNREACHABLE
    if channel is not NULL and channel.session.state == SESSION_OPEN:
        reason = REASON_MEMORY
        flow = flow_create(engine, channel, flow_id, kind, priority)
    if flow is not NULL:
        flow.stream = mux_open(&channel.session.mux, kind, priority, WINDOW_MIN, opening, len)
        if flow.stream is not NULL:
            stream_bind(flow.stream, flow, &FLOW_SINK)
            session_wake(&channel.session, now_ns)
            return
        flow_free(flow)
        reason = REASON_LIMIT
    memset(&event, 0, sizeof(event))
    event.type = EVENT_STREAM_RESET
    event.id = flow_id
    event.reason = <uint8_t>reason
    emit(engine, &event)


cdef void engine_accept(engine_t *engine, uint64_t flow_id, uint64_t now_ns) noexcept nogil:
    cdef flow_t *flow = find_flow(engine, flow_id)
    if flow is not NULL and flow.stream is not NULL:
        stream_accept(flow.stream, flow.stream.rx_used + WINDOW_MIN)
        session_wake(&flow.channel.session, now_ns)


cdef void engine_write(engine_t *engine, uint64_t flow_id, chain_t *chain, uint64_t now_ns) noexcept nogil:
    cdef flow_t *flow = find_flow(engine, flow_id)
    if flow is NULL or flow.stream is NULL:
        chain_clear(chain)
        return
    flow.written += chain.len
    engine.n_flow_out += chain.len
    stream_write(flow.stream, chain, now_ns)
    session_wake(&flow.channel.session, now_ns)


cdef void engine_finish(engine_t *engine, uint64_t flow_id, uint64_t now_ns) noexcept nogil:
    cdef flow_t *flow = find_flow(engine, flow_id)
    if flow is not NULL and flow.stream is not NULL:
        stream_finish(flow.stream, now_ns)
        session_wake(&flow.channel.session, now_ns)


cdef void flow_unqueue(flow_t *flow) noexcept nogil:
    cdef engine_t *engine = flow.engine
    cdef flow_t *before = NULL
    cdef flow_t *at = engine.flow_events
    if not flow.is_queued:
        return
    while at != flow:
        before = at
        at = at.next_event
    if before is NULL:
        engine.flow_events = flow.next_event
    else:
        before.next_event = flow.next_event
    if engine.flow_events_tail == flow:
        engine.flow_events_tail = before
    flow.is_queued = 0


cdef void engine_reset(engine_t *engine, uint64_t flow_id, int reason, uint64_t now_ns) noexcept nogil:
    """The application wants no more of the flow: no event of it follows."""
    cdef flow_t *flow = find_flow(engine, flow_id)
    cdef channel_t *channel
    if flow is NULL:
        return
    channel = flow.channel
    flow.is_over = 1
    if flow.stream is not NULL:
        stream_reset(flow.stream, reason, now_ns)
    flow_unqueue(flow)
    flow_free(flow)
    if channel is not NULL:
        session_wake(&channel.session, now_ns)


cdef void engine_used(engine_t *engine, uint64_t flow_id, uint64_t len, uint64_t now_ns) noexcept nogil:
    cdef flow_t *flow = find_flow(engine, flow_id)
    if flow is NULL:
        return
    len = min(len, flow.unused)
    flow.unused -= len
    if flow.stream is not NULL:
        stream_used(flow.stream, len, now_ns)
    elif flow.channel is not NULL and flow.channel.session.state == SESSION_OPEN:
        mux_used(&flow.channel.session.mux, len, now_ns)
    if flow.channel is not NULL:
        session_wake(&flow.channel.session, now_ns)
    if flow.is_over and flow.unused == 0 and not flow.is_queued:
        flow_free(flow)


# Links: the carrier of a session on a transport connection

cdef size_t link_room(session_t *session) noexcept nogil:
    cdef channel_t *channel = <channel_t *>session.carrier_ctx
    cdef uint64_t used
    if channel.conn is NULL:
        return 0
    used = channel.out.len + channel.engine.transport.pending(channel.engine.transport.ctx, channel.conn)
    return LINK_ROOM if used < LINK_OUT_MAX else 0


cdef uint8_t *link_reserve(session_t *session, size_t len) noexcept nogil:
    cdef channel_t *channel = <channel_t *>session.carrier_ctx
    cdef block_t *block = channel.out.tail
    if block is NULL or block_room(block) < len:
        block = block_take(channel.engine.pool, BLOCK_LARGE)
        if block is NULL:
            return NULL
        chain_push(&channel.out, block)
    return &block.data[0] + block.end


cdef void link_commit(session_t *session, size_t len, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = <channel_t *>session.carrier_ctx
    channel.out.tail.end += <uint32_t>len
    channel.out.len += len
    mark_dirty(channel)


cdef void link_wake(session_t *session, uint64_t now_ns) noexcept nogil:
    mark_dirty(<channel_t *>session.carrier_ctx)


cdef carrier_t LINK_CARRIER
LINK_CARRIER.room = link_room
LINK_CARRIER.reserve = link_reserve
LINK_CARRIER.commit = link_commit
LINK_CARRIER.wake = link_wake


cdef inline void mark_dirty(channel_t *channel) noexcept nogil:
    if not channel.is_dirty and channel.state != CHANNEL_ENDED:
        channel.is_dirty = 1
        channel.next_dirty = channel.engine.dirty
        channel.engine.dirty = channel


cdef void link_flush(channel_t *channel, uint64_t now_ns) noexcept nogil:
    """Seal what the scheduler has while the kernel takes it."""
    cdef engine_t *engine = channel.engine
    while channel.conn is not NULL:
        while session_has_output(&channel.session) and session_pump(&channel.session, now_ns) > 0:
            pass
        if channel.out.len == 0 or channel.conn is NULL:
            return
        engine.n_bytes_out += channel.out.len
        engine.transport.write(engine.transport.ctx, channel.conn, &channel.out)
        if engine.transport.pending(engine.transport.ctx, channel.conn) > 0:
            return


# Channels

cdef void arm(channel_t *channel) noexcept nogil:
    cdef uint64_t at_ns = channel.session.deadline_ns
    if channel.state == CHANNEL_ENDED:
        heap_drop(&channel.engine.timers, &channel.timer)
        return
    if channel.state == CHANNEL_SINK or channel.state == CHANNEL_SINK_SHUT:
        at_ns = channel.sink_ns
    if at_ns == NEVER:
        heap_drop(&channel.engine.timers, &channel.timer)
    elif channel.timer.idx == 0 or at_ns < channel.timer.at_ns:
        heap_set(&channel.engine.timers, &channel.timer, at_ns)


cdef channel_t *channel_create(engine_t *engine, int kind, const carrier_t *carrier, void *carrier_ctx) noexcept nogil:
    cdef channel_t *channel
    if engine.n_channels >= engine.config.max_sessions:
        return NULL
    channel = <channel_t *>mem_take(engine.pool, sizeof(channel_t))
    if channel is NULL:
        return NULL
    channel.engine = engine
    channel.kind = <uint8_t>kind
    channel.id = engine.next_id
    channel.timer.owner = channel
    if table_put(&engine.channels, channel.id, channel) < 0:
        mem_give(engine.pool, channel, sizeof(channel_t))
        return NULL
    engine.next_id += 1
    session_bind(&channel.session, channel, &HOOKS, &MUX_HOOKS, carrier_ctx if carrier_ctx is not NULL else <void *>channel,
                 carrier, &engine.config.times)
    channel.session.hello.padding = engine.config.padding
    channel.session.hello.worker = engine.config.worker
    channel.session.hello.n_workers = engine.config.n_workers
    channel.session.hello.max_service_streams = engine.config.max_streams
    channel.session.hello.max_message = engine.config.max_message
    memcpy(channel.session.hello.instance, engine.config.instance, 8)
    if kind == CHANNEL_LINK:
        channel.session.hello.max_pipes = engine.config.max_pipes
    channel.next = engine.all
    if engine.all is not NULL:
        engine.all.prev = channel
    engine.all = channel
    engine.n_channels += 1
    return channel


cdef void half_open_done(channel_t *channel) noexcept nogil:
    if channel.is_half_open:
        channel.is_half_open = 0
        guard_half_open_end(channel.engine.guard)


cdef void forget_link(channel_t *channel) noexcept nogil:
    if channel.is_known:
        channel.is_known = 0
        table_drop(&channel.engine.links, load_be64(channel.session.peer_link_key))


cdef void channel_end(channel_t *channel, uint64_t now_ns) noexcept nogil:
    """Off the lists; the memory waits for engine_settle. The carrier is closed or was lost."""
    cdef engine_t *engine = channel.engine
    if channel.state == CHANNEL_ENDED:
        return
    if channel.state == CHANNEL_SINK or channel.state == CHANNEL_SINK_SHUT:
        engine.n_sinks -= 1
    if channel.state == CHANNEL_DIALLING:
        engine.transport.cancel(engine.transport.ctx, channel)
    channel.state = CHANNEL_ENDED
    half_open_done(channel)
    forget_link(channel)
    heap_drop(&engine.timers, &channel.timer)
    session_drop(&channel.session, REASON_UNREACHABLE, now_ns)
    while channel.flows is not NULL:
        flow_detach(channel.flows)
    chain_clear(&channel.out)
    table_drop(&engine.channels, channel.id)
    if channel.prev is not NULL:
        channel.prev.next = channel.next
    else:
        engine.all = channel.next
    if channel.next is not NULL:
        channel.next.prev = channel.prev
    engine.n_channels -= 1
    channel.next = engine.ended
    engine.ended = channel


cdef void close_carrier(channel_t *channel, uint64_t now_ns) noexcept nogil:
    """The session is over: what it sealed goes out, then FIN, or RESET where the layer broke."""
    cdef engine_t *engine = channel.engine
    cdef stream_t *stream = channel.stream
    cdef void *conn = channel.conn
    cdef uint32_t n_own = 0
    if conn is not NULL:
        channel.conn = NULL
        if channel.out.len:
            engine.transport.write(engine.transport.ctx, conn, &channel.out)
        engine.transport.close(engine.transport.ctx, conn)
    if stream is not NULL:
        channel.stream = NULL
        channel.session.carrier_ctx = NULL
        stream_bind(stream, NULL, &DRAIN_SINK)
        if channel.session.status < 0:
            stream_reset(stream, REASON_REFUSED if channel.session.reason == REASON_REFUSED else REASON_PROTOCOL, now_ns)
        elif channel.session.reason and not channel.session.is_remote and channel.session.reason != REASON_SHUTDOWN:
            stream_reset(stream, channel.session.reason, now_ns)
        else:
            stream_finish(stream, now_ns)
        session_wake(<session_t *>stream.mux.owner, now_ns)
        n_own = 0 if stream.flags & FLAG_DEAD else 1
    leave_parent(channel, n_own, now_ns)


cdef void leave_parent(channel_t *channel, uint32_t n_own, uint64_t now_ns) noexcept nogil:
    """A layer that was made for circuits only goes with the last of them; `n_own` streams in it are the channel's own."""
    cdef channel_t *parent = channel.parent
    channel.parent = NULL
    if parent is not NULL and parent.kind == CHANNEL_LAYER and parent.is_auto and parent.session.mux.n_pipes <= n_own:
        session_close(&parent.session, REASON_NONE, now_ns)
        arm(parent)


# What a closed layer's stream still delivers is dropped

cdef int drain_on_data(stream_t *stream, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    stream_used(stream, len, now_ns)
    return OK


cdef void drain_on_event(stream_t *stream, int event, uint64_t now_ns) noexcept nogil:
    if event == STREAM_FIN:
        stream_finish(stream, now_ns)


cdef sink_t DRAIN_SINK
DRAIN_SINK.on_data = drain_on_data
DRAIN_SINK.on_event = drain_on_event
DRAIN_SINK.pull = NULL


# Layers: sessions inside streams

cdef int layer_on_data(stream_t *stream, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = <channel_t *>stream.owner
    channel_feed(channel, data, len, now_ns)
    if not (stream.flags & FLAG_DEAD):
        stream_used(stream, len, now_ns)
    return OK


cdef void layer_on_event(stream_t *stream, int event, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = <channel_t *>stream.owner
    if event == STREAM_CREDIT or event == STREAM_ACCEPTED:
        session_wake(&channel.session, now_ns)
    elif event == STREAM_FIN:
        session_drop(&channel.session, REASON_UNREACHABLE, now_ns)
    elif event == STREAM_RESET:
        channel.session.is_remote = 1
        session_drop(&channel.session, stream.reason if stream.reason else REASON_UNREACHABLE, now_ns)
    elif event == STREAM_GONE:
        channel.stream = NULL
        channel.session.carrier_ctx = NULL
        session_drop(&channel.session, REASON_UNREACHABLE, now_ns)


cdef sink_t LAYER_SINK
LAYER_SINK.on_data = layer_on_data
LAYER_SINK.on_event = layer_on_event
LAYER_SINK.pull = layer_pull


cdef channel_t *layer_create(channel_t *parent, stream_t *stream) noexcept nogil:
    cdef channel_t *channel = channel_create(parent.engine, CHANNEL_LAYER, layer_carrier(), stream)
    if channel is NULL:
        return NULL
    channel.state = CHANNEL_LIVE
    channel.parent = parent
    channel.stream = stream
    stream_bind(stream, channel, &LAYER_SINK)
    return channel


# Streams that a peer opens

cdef int open_service(channel_t *channel, stream_t *stream, const frame_t *frame, uint64_t now_ns) noexcept nogil:
    cdef engine_t *engine = channel.engine
    cdef flow_t *flow = flow_create(engine, channel, engine.next_flow, stream.kind, stream.priority)
    if flow is NULL:
        return -REASON_MEMORY
    engine.next_flow += 1
    flow.stream = stream
    stream_bind(stream, flow, &FLOW_SINK)
    if chain_append(&flow.opening, engine.pool, frame.data, frame.len, now_ns) < 0:
        return -REASON_MEMORY
    flow_notify(flow, EVENT_STREAM_OPEN)
    return OK


cdef int open_pipe(channel_t *channel, stream_t *stream, uint64_t now_ns) noexcept nogil:
    cdef channel_t *layer
    if stream.hops_left < 1 or stream.hops_left > 8:
        return -REASON_HOPS
    if bucket_take(&channel.pipes, PIPES_PER_S, PIPES_BURST, now_ns) < 0:
        return -REASON_LIMIT
    layer = layer_create(channel, stream)
    if layer is NULL:
        return -REASON_MEMORY
    layer.remote = channel.remote
    if session_listen(&layer.session, &channel.engine.ctx, (1 << HANDSHAKE_XK) | (1 << HANDSHAKE_NK), LAYER_FAR_END, now_ns) < 0:
        return -REASON_MEMORY
    stream_accept(stream, WINDOW_MIN)
    arm(layer)
    return OK


cdef bint is_own_key(const engine_t *engine, const uint8_t *link_key) noexcept nogil:
    cdef uint32_t i
    for i in range(engine.ctx.party.local.n_keys):
        if memcmp(engine.ctx.party.local.keys[i].public_key, link_key, 32) == 0:
            return True
    return False


cdef int onward_hops(engine_t *engine, int hops_left) noexcept nogil:
    """hops_left of the onward pipe, 0 to refuse (protocol.md 6.5)."""
    if hops_left < 8:
        return hops_left - 1
    return <int>(8 - draw(engine, 0, 1))


cdef void refuse_later(engine_t *engine, splice_t *splice, int reason, uint64_t now_ns) noexcept nogil:
    relay_refuse(splice, reason, now_ns + draw(engine, 50, 250) * 1000000)
    arm_relay(engine, splice.due_ns)


cdef void arm_relay(engine_t *engine, uint64_t at_ns) noexcept nogil:
    if engine.relay_timer.idx == 0 or at_ns < engine.relay_timer.at_ns:
        heap_set(&engine.timers, &engine.relay_timer, at_ns)


cdef int check_target(channel_t *layer, const open_relay_t *target, address_t *address) noexcept nogil:
    """Loops, and the addresses that policy lets this relay dial: OK or a reason. `address` is the first allowed one."""
    cdef engine_t *engine = layer.engine
    cdef uint32_t i
    if is_own_key(engine, target.link_key) or memcmp(layer.parent.session.peer_link_key, target.link_key, 32) == 0:
        return REASON_REFUSED
    for i in range(target.n_addresses):
        if guard_allows_target(engine.guard, &target.addresses[i]):
            address[0] = target.addresses[i]
            return OK
    return REASON_REFUSED


cdef int open_relay(channel_t *layer, stream_t *stream, const frame_t *frame, uint64_t now_ns) noexcept nogil:
    """A source asks to extend its circuit from here."""
    cdef engine_t *engine = layer.engine
    cdef open_relay_t target
    cdef address_t address
    cdef channel_t *link
    cdef splice_t *splice
    cdef int reason = OK
    if open_relay_parse(&target, frame.data, frame.len) < 0:
        return -REASON_PROTOCOL
    if layer.parent is NULL or layer.stream is NULL:
        return -REASON_UNREACHABLE
    splice = relay_open(&engine.relay, stream, now_ns)
    if splice is NULL:
        return -REASON_MEMORY
    memcpy(splice.link_key, target.link_key, 32)
    memcpy(splice.peer_id, target.peer_id, 32)
    splice.hops_left = <uint8_t>onward_hops(engine, layer.stream.hops_left)
    arm_relay(engine, splice.due_ns)
    if bucket_take(&layer.parent.pipes, PIPES_PER_S, PIPES_BURST, now_ns) < 0:
        reason = REASON_LIMIT
    elif not engine.config.relays or not guard_allows_relay(engine.guard, layer.parent.session.peer_id):
        reason = REASON_REFUSED
    elif splice.hops_left == 0:
        reason = REASON_HOPS
    else:
        reason = check_target(layer, &target, &address)
    if reason != OK:
        refuse_later(engine, splice, reason, now_ns)
        return OK
    link = find_link(engine, target.link_key)
    if link is NULL:
        link = find_dialling(engine, target.link_key)
    if link is NULL and guard_target_take(engine.guard, layer.parent.session.peer_id, now_ns) < 0:
        refuse_later(engine, splice, REASON_LIMIT, now_ns)
        return OK
    if link is NULL:
        link = dial(engine, &address, target.link_key, target.peer_id if has_id(target.peer_id) else NULL, now_ns)
        if link is not NULL:
            link.is_auto = 1
    if link is NULL:
        refuse_later(engine, splice, REASON_BUSY, now_ns)
        return OK
    splice.link = link
    if link.session.state == SESSION_OPEN:
        join_splice(engine, splice, link, now_ns)
    return OK


cdef inline bint has_id(const uint8_t *peer_id) noexcept nogil:
    """32 zero bytes: the source knows the link key only."""
    cdef int i
    for i in range(32):
        if peer_id[i]:
            return True
    return False


cdef void join_splice(engine_t *engine, splice_t *splice, channel_t *link, uint64_t now_ns) noexcept nogil:
    cdef stream_t *far
    if has_id(splice.peer_id) and memcmp(splice.peer_id, link.session.peer_id, 32) != 0:
        refuse_later(engine, splice, REASON_UNREACHABLE, now_ns)
        return
    if mux_can_open(&link.session.mux, STREAM_PIPE) < 0:
        refuse_later(engine, splice, REASON_BUSY, now_ns)
        return
    far = mux_open(&link.session.mux, STREAM_PIPE, splice.near.priority, splice.near.tx_credit, &splice.hops_left, 1)
    if far is NULL:
        refuse_later(engine, splice, REASON_MEMORY, now_ns)
        return
    relay_join(splice, far, now_ns)


cdef void join_waiting(channel_t *link, uint64_t now_ns) noexcept nogil:
    cdef splice_t *splice = link.engine.relay.splices
    cdef splice_t *following
    while splice is not NULL:
        following = splice.next
        if splice.state == SPLICE_WAITS and splice.link == link:
            join_splice(link.engine, splice, link, now_ns)
        splice = following


cdef void refuse_waiting(channel_t *link, uint64_t now_ns) noexcept nogil:
    cdef splice_t *splice = link.engine.relay.splices
    while splice is not NULL:
        if splice.state == SPLICE_WAITS and splice.link == link:
            refuse_later(link.engine, splice, REASON_UNREACHABLE, now_ns)
        splice = splice.next


cdef int on_open(mux_t *mux, stream_t *stream, const frame_t *frame, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = <channel_t *>mux.owner
    stream.rx_window_max = channel.engine.config.window_max
    stream_bind(stream, NULL, &DRAIN_SINK)
    if channel.engine.is_stopping:
        return -REASON_SHUTDOWN
    if stream.kind == STREAM_PIPE:
        return open_pipe(channel, stream, now_ns)
    if stream.kind == STREAM_RELAY:
        return open_relay(channel, stream, frame, now_ns)
    return open_service(channel, stream, frame, now_ns)


cdef mux_hooks_t MUX_HOOKS
MUX_HOOKS.on_open = on_open


# Sessions: admission and life

cdef int admit(channel_t *channel, uint64_t now_ns) noexcept nogil:
    """The verdict that a session asked for: OK or why not."""
    cdef engine_t *engine = channel.engine
    cdef int rc
    if channel.session.handshake.stage != STAGE_ADMIT_M1:
        return OK if guard_allows(engine.guard, channel.session.handshake.peer_id) else E_IDENTITY
    if channel.session.handshake.kind == HANDSHAKE_NK and not engine.config.relays:
        return E_FULL
    rc = guard_handshake(engine.guard, &channel.remote if channel.kind == CHANNEL_LINK else NULL,
                         channel.session.handshake.m1_hash, channel.session.handshake.first.time_s, unix_s(engine, now_ns), now_ns)
    if rc < 0:
        return rc
    rc = guard_half_open_begin(engine.guard)
    if rc >= 0:
        channel.is_half_open = 1
    return rc


cdef void channel_feed(channel_t *channel, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    cdef session_t *session = &channel.session
    cdef int rc
    while session_feed(session, data, len, now_ns) == NEED_ADMIT:
        data += len - session.left
        len = session.left
        rc = admit(channel, now_ns)
        if rc < 0:
            session.status = rc
            channel.engine.ctx.n_status[(-rc) & 63] += 1
            session_drop(session, REASON_REFUSED, now_ns)
            break
        if session_admit(session, now_ns) < 0 or len == 0:
            break
    arm(channel)


cdef void set_rights(channel_t *channel) noexcept nogil:
    """What the peer may open here, by the kind of its session (protocol.md 3.4)."""
    cdef mux_t *mux = &channel.session.mux
    cdef engine_config_t *config = &channel.engine.config
    mux.window_max = config.window_max
    mux.rx_window_max = config.session_window_max
    mux.max_service = config.max_streams
    if channel.session.kind == HANDSHAKE_NK:
        mux.peer_kinds = 1 << STREAM_RELAY if channel.session.role == 1 else 0
        mux.max_pipes = config.max_pipes
        return
    mux.peer_kinds = (1 << STREAM_BYTES) | (1 << STREAM_MESSAGES)
    if channel.kind == CHANNEL_LINK:
        mux.peer_kinds |= 1 << STREAM_PIPE
        mux.max_pipes = config.max_pipes


cdef void emit_peer_up(channel_t *channel, uint64_t request) noexcept nogil:
    cdef event_t event
    memset(&event, 0, sizeof(event))
    event.type = EVENT_PEER_UP
    event.id = channel.id
    event.a = request
    event.b = (1 if channel.kind == CHANNEL_LAYER else 0) | (<uint64_t>channel.session.tx.suite << 8)
    memcpy(event.peer_id, channel.session.peer_id, 32)
    memcpy(event.link_key, channel.session.peer_link_key, 32)
    event.address = channel.remote
    event.address.name = NULL
    channel.is_reported = 1
    emit(channel.engine, &event)


cdef inline bint is_older_kept(channel_t *older, channel_t *newer) noexcept nogil:
    """Of two links with one peer: same dialler, the newer; crossed dials, the one that the smaller PeerID dialled."""
    cdef channel_t *ours
    if older.session.role == newer.session.role:
        return False
    ours = older if older.session.role == 0 else newer
    if memcmp(older.engine.ctx.party.local.peer_id, older.session.peer_id, 32) < 0:
        return ours == older
    return ours != older


cdef void know_link(channel_t *channel, uint64_t now_ns) noexcept nogil:
    """Enter a ready link into the table; a second link with the same peer ends one of the two."""
    cdef engine_t *engine = channel.engine
    cdef channel_t *older = find_link(engine, channel.session.peer_link_key)
    if older is not NULL and is_older_kept(older, channel):
        return
    if older is not NULL:
        forget_link(older)
    if table_put(&engine.links, load_be64(channel.session.peer_link_key), channel) >= 0:
        channel.is_known = 1


cdef channel_t *find_link(engine_t *engine, const uint8_t *link_key) noexcept nogil:
    cdef channel_t *channel = <channel_t *>table_get(&engine.links, load_be64(link_key))
    if channel is NULL or memcmp(channel.session.peer_link_key, link_key, 32) != 0 or channel.session.state != SESSION_OPEN:
        return NULL
    return channel


cdef void on_ready(channel_t *channel, uint64_t now_ns) noexcept nogil:
    half_open_done(channel)
    channel.engine.n_links_up += 1
    if channel.session.kind == HANDSHAKE_NK:
        paths_continue(channel, now_ns)
        return
    if channel.kind == CHANNEL_LINK:
        know_link(channel, now_ns)
    emit_peer_up(channel, paths_request(channel))
    paths_continue(channel, now_ns)
    if channel.kind == CHANNEL_LINK:
        join_waiting(channel, now_ns)


cdef void begin_sink(channel_t *channel, uint64_t now_ns) noexcept nogil:
    """A stranger: nothing is answered; the connection closes at a time that was drawn when it was accepted."""
    cdef engine_t *engine = channel.engine
    cdef channel_t *oldest = NULL
    cdef channel_t *other
    half_open_done(channel)
    if engine.n_sinks >= engine.config.max_sinks:
        other = engine.all
        while other is not NULL:
            if (other.state == CHANNEL_SINK or other.state == CHANNEL_SINK_SHUT) and (oldest is NULL or other.id < oldest.id):
                oldest = other
            other = other.next
        if oldest is not NULL:
            close_carrier(oldest, now_ns)
            channel_end(oldest, now_ns)
    channel.state = CHANNEL_SINK
    engine.n_sinks += 1
    arm(channel)


cdef void on_failed(channel_t *channel, uint64_t now_ns) noexcept nogil:
    cdef int reason = channel.session.reason
    if channel.session.role == 1 and channel.kind == CHANNEL_LINK and channel.conn is not NULL:
        begin_sink(channel, now_ns)
        return
    if channel.session.role == 0 and channel.session.status < 0 and channel.session.status != E_IDENTITY:
        reason = REASON_PROTOCOL
    paths_failed(channel, reason, now_ns)
    refuse_waiting(channel, now_ns)
    close_carrier(channel, now_ns)
    channel_end(channel, now_ns)


cdef void on_closed(channel_t *channel, uint64_t now_ns) noexcept nogil:
    cdef event_t event
    if channel.is_reported:
        memset(&event, 0, sizeof(event))
        event.type = EVENT_PEER_DOWN
        event.id = channel.id
        event.reason = channel.session.reason
        event.is_remote = channel.session.is_remote
        event.status = channel.session.status
        engine_emit(channel.engine)             # the flows' last events come first
        emit(channel.engine, &event)
    paths_failed(channel, channel.session.reason, now_ns)
    refuse_waiting(channel, now_ns)
    close_carrier(channel, now_ns)
    channel_end(channel, now_ns)


cdef void on_session_event(session_t *session, int event, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = <channel_t *>session.owner
    cdef event_t pong
    if channel.state == CHANNEL_ENDED:
        return
    if event == SESSION_ON_KEYED:
        set_rights(channel)
        if session.kind == HANDSHAKE_NK and session.role == 0:
            paths_continue(channel, now_ns)
    elif event == SESSION_ON_READY:
        on_ready(channel, now_ns)
    elif event == SESSION_ON_FAILED:
        on_failed(channel, now_ns)
    elif event == SESSION_ON_CLOSED:
        on_closed(channel, now_ns)
    elif event == SESSION_ON_PONG:
        memset(&pong, 0, sizeof(pong))
        pong.type = EVENT_PONG
        pong.id = channel.id
        pong.a = session.ping_rtt_ns
        emit(channel.engine, &pong)


cdef session_hooks_t HOOKS
HOOKS.on_event = on_session_event


# Circuits: from the source's side

cdef path_t *path_create(engine_t *engine, uint32_t n_hops) noexcept nogil:
    cdef path_t *path
    if n_hops < 1 or n_hops > HOPS_MAX:
        return NULL
    path = <path_t *>mem_take(engine.pool, sizeof(path_t) + (n_hops - 1) * sizeof(hop_t))
    if path is not NULL:
        path.n_hops = n_hops
    return path


cdef void path_free(engine_t *engine, path_t *path) noexcept nogil:
    if path.prev is not NULL:
        path.prev.next = path.next
    elif engine.paths == path:
        engine.paths = path.next
    if path.next is not NULL:
        path.next.prev = path.prev
    mem_give(engine.pool, path, sizeof(path_t) + (path.n_hops - 1) * sizeof(hop_t))


cdef void path_fail(engine_t *engine, path_t *path, int reason, int status) noexcept nogil:
    cdef event_t event
    memset(&event, 0, sizeof(event))
    event.type = EVENT_CONNECT_FAILED
    event.id = path.request
    event.a = path.hop_idx
    event.reason = <uint8_t>reason
    event.status = status
    path_free(engine, path)
    emit(engine, &event)


cdef channel_t *find_dialling(engine_t *engine, const uint8_t *link_key) noexcept nogil:
    """A link to that key which is being made."""
    cdef channel_t *channel = engine.all
    while channel is not NULL:
        if (channel.kind == CHANNEL_LINK and channel.session.role == 0 and channel.session.state <= SESSION_KEYED
                and channel.state <= CHANNEL_LIVE and memcmp(channel.session.peer_link_key, link_key, 32) == 0):
            return channel
        channel = channel.next
    return NULL


cdef channel_t *dial(engine_t *engine, const address_t *address, const uint8_t *link_key, const uint8_t *peer_id,
                     uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = channel_create(engine, CHANNEL_LINK, &LINK_CARRIER, NULL)
    if channel is NULL:
        return NULL
    channel.state = CHANNEL_DIALLING
    channel.remote = address[0]
    if link_key is not NULL:
        memcpy(channel.session.peer_link_key, link_key, 32)
        channel.session.kind = HANDSHAKE_XK
    else:
        channel.session.kind = HANDSHAKE_XX
    if peer_id is not NULL:
        memcpy(channel.session.peer_id, peer_id, 32)
    channel.session.deadline_ns = now_ns + engine.config.times.handshake_ns
    channel.session.start_ns = now_ns
    arm(channel)
    engine.transport.dial(engine.transport.ctx, channel, &channel.remote)
    channel.remote.name = NULL
    return channel


cdef void engine_connect(engine_t *engine, path_t *path, uint64_t now_ns) noexcept nogil:
    cdef hop_t *hop = &path.hops[0]
    cdef channel_t *link = NULL
    path.next = engine.paths
    if engine.paths is not NULL:
        engine.paths.prev = path
    engine.paths = path
    if engine.is_stopping:
        path_fail(engine, path, REASON_SHUTDOWN, 0)
        return
    if hop.has_link_key and is_own_key(engine, hop.link_key):
        path_fail(engine, path, REASON_REFUSED, E_IDENTITY)
        return
    if hop.has_link_key and (path.n_hops > 1 or not path.is_new):
        link = find_link(engine, hop.link_key)
    if link is not NULL:
        path.channel = link
        path_next(engine, path, now_ns)
        return
    path.channel = dial(engine, &hop.address, hop.link_key if hop.has_link_key else NULL,
                        hop.peer_id if hop.has_peer_id else NULL, now_ns)
    if path.channel is NULL:
        path_fail(engine, path, REASON_LIMIT, 0)


cdef void path_layer(engine_t *engine, path_t *path, stream_t *stream, uint64_t now_ns) noexcept nogil:
    """Start the session with the hop being reached inside the stream: anonymous with a relay, full with the target."""
    cdef hop_t *hop = &path.hops[path.hop_idx]
    cdef channel_t *parent = path.channel
    cdef channel_t *layer = layer_create(parent, stream)
    cdef int kind = HANDSHAKE_XK if path.hop_idx == path.n_hops - 1 else HANDSHAKE_NK
    if layer is NULL:
        stream_bind(stream, NULL, &DRAIN_SINK)
        stream_reset(stream, REASON_MEMORY, now_ns)
        path_fail(engine, path, REASON_MEMORY, 0)
        return
    layer.is_auto = kind == HANDSHAKE_NK
    layer.remote = hop.address
    layer.remote.name = NULL
    layer.session.large = parent.session.large - LAYER_OVERHEAD
    layer.session.small = parent.session.small - LAYER_OVERHEAD
    path.channel = layer
    if session_connect(&layer.session, &engine.ctx, kind, LAYER_SOURCE, hop.link_key,
                       hop.peer_id if hop.has_peer_id else NULL, now_ns) < 0:
        session_drop(&layer.session, REASON_MEMORY, now_ns)
    arm(layer)


cdef void path_next(engine_t *engine, path_t *path, uint64_t now_ns) noexcept nogil:
    """The channel of the path is usable: it is the target's, or the circuit goes one hop on."""
    cdef channel_t *channel = path.channel
    cdef stream_t *stream
    cdef open_relay_t target
    cdef uint8_t[512] opening
    cdef hop_t *hop
    if channel.session.kind != HANDSHAKE_NK and path.hop_idx == path.n_hops - 1:
        if channel.is_reported:
            emit_peer_up(channel, path.request)
        path_free(engine, path)
        return
    if channel.kind == CHANNEL_LINK:
        opening[0] = <uint8_t>draw(engine, max(5, <int>path.n_hops), 8)
        stream = mux_open(&channel.session.mux, STREAM_PIPE, PRIORITY_NORMAL, WINDOW_MIN, opening, 1)
    else:
        path.hop_idx += 1
        hop = &path.hops[path.hop_idx]
        memset(&target, 0, sizeof(target))
        target.link_key = hop.link_key
        target.peer_id = hop.peer_id
        target.n_addresses = 1
        target.addresses[0] = hop.address
        stream = mux_open(&channel.session.mux, STREAM_RELAY, PRIORITY_NORMAL, WINDOW_MIN, opening,
                          open_relay_put(opening, &target))
    if stream is NULL:
        path_fail(engine, path, REASON_BUSY, 0)
        return
    stream.rx_window_max = engine.config.window_max
    path_layer(engine, path, stream, now_ns)


cdef uint64_t paths_request(channel_t *channel) noexcept nogil:
    """The request whose target this channel is, 0 when there is none."""
    cdef path_t *path = channel.engine.paths
    while path is not NULL:
        if path.channel == channel and path.hop_idx == path.n_hops - 1:
            path.channel = NULL                 # paths_continue need not report it again
            return path.request
        path = path.next
    return 0


cdef void paths_continue(channel_t *channel, uint64_t now_ns) noexcept nogil:
    cdef engine_t *engine = channel.engine
    cdef path_t *path = engine.paths
    cdef path_t *following
    while path is not NULL:
        following = path.next
        if path.channel == channel:
            path_next(engine, path, now_ns)
        elif path.channel is NULL:
            path_free(engine, path)
        path = following


cdef void paths_failed(channel_t *channel, int reason, uint64_t now_ns) noexcept nogil:
    cdef engine_t *engine = channel.engine
    cdef path_t *path = engine.paths
    cdef path_t *following
    while path is not NULL:
        following = path.next
        if path.channel == channel:
            path_fail(engine, path, reason, channel.session.status)
        path = following


cdef void engine_cancel(engine_t *engine, uint64_t request, uint64_t now_ns) noexcept nogil:
    cdef path_t *path = engine.paths
    cdef channel_t *channel
    while path is not NULL and path.request != request:
        path = path.next
    if path is NULL:
        return
    channel = path.channel
    path_free(engine, path)
    if channel is not NULL and not channel.is_reported and channel.session.role == 0 and not is_awaited(channel):
        session_close(&channel.session, REASON_CANCELLED, now_ns)


cdef bint is_awaited(channel_t *channel) noexcept nogil:
    """Does another path or a splice wait for this channel?"""
    cdef path_t *path = channel.engine.paths
    cdef splice_t *splice = channel.engine.relay.splices
    while path is not NULL:
        if path.channel == channel:
            return True
        path = path.next
    while splice is not NULL:
        if splice.link == channel:
            return True
        splice = splice.next
    return False


# Inputs from the transport

cdef channel_t *engine_accepted(engine_t *engine, void *conn, const address_t *remote, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel
    cdef int kinds = 1 << HANDSHAKE_XK
    cdef bint is_refused = guard_accept(engine.guard, remote, now_ns) < 0
    if engine.is_stopping:
        return NULL
    channel = channel_create(engine, CHANNEL_LINK, &LINK_CARRIER, NULL)
    if channel is NULL:
        return NULL
    channel.state = CHANNEL_LIVE
    channel.conn = conn
    channel.remote = remote[0]
    channel.accept_ns = now_ns
    channel.sink_ns = now_ns + draw(engine, 30000, 90000) * 1000000
    if engine.config.accepts_xx:
        kinds |= 1 << HANDSHAKE_XX
    if session_listen(&channel.session, &engine.ctx, kinds, LAYER_NONE, now_ns) < 0 or is_refused:
        session_drop(&channel.session, REASON_LIMIT, now_ns)
    arm(channel)
    return channel


cdef void engine_connected(engine_t *engine, channel_t *channel, void *conn, uint64_t now_ns) noexcept nogil:
    cdef uint8_t[32] link_key
    cdef uint8_t[32] peer_id
    channel.conn = conn
    channel.state = CHANNEL_LIVE
    memcpy(link_key, channel.session.peer_link_key, 32)
    memcpy(peer_id, channel.session.peer_id, 32)
    if session_connect(&channel.session, &engine.ctx, channel.session.kind, LAYER_NONE,
                       link_key if channel.session.kind == HANDSHAKE_XK else NULL, peer_id if has_id(peer_id) else NULL, now_ns) < 0:
        session_drop(&channel.session, REASON_MEMORY, now_ns)
    arm(channel)


cdef void engine_dial_failed(engine_t *engine, channel_t *channel, uint64_t now_ns) noexcept nogil:
    channel.conn = NULL
    session_drop(&channel.session, REASON_UNREACHABLE, now_ns)


cdef void engine_received(engine_t *engine, channel_t *channel, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    engine.n_bytes_in += len
    if channel.state == CHANNEL_LIVE:
        channel_feed(channel, data, len, now_ns)


cdef void engine_ended(engine_t *engine, channel_t *channel, uint64_t now_ns) noexcept nogil:
    """EOF: a sink closes with it, a session without CLOSE is gone."""
    if channel.state == CHANNEL_SINK or channel.state == CHANNEL_SINK_SHUT:
        close_carrier(channel, now_ns)
        channel_end(channel, now_ns)
    elif channel.session.state == SESSION_HANDSHAKE and channel.session.role == 1:
        close_carrier(channel, now_ns)
        session_drop(&channel.session, REASON_UNREACHABLE, now_ns)
        channel_end(channel, now_ns)
    else:
        session_drop(&channel.session, REASON_UNREACHABLE, now_ns)


cdef void engine_lost(engine_t *engine, channel_t *channel, uint64_t now_ns) noexcept nogil:
    channel.conn = NULL
    session_drop(&channel.session, REASON_UNREACHABLE, now_ns)
    channel_end(channel, now_ns)


cdef void engine_writable(engine_t *engine, channel_t *channel, uint64_t now_ns) noexcept nogil:
    mark_dirty(channel)


# Time

cdef uint64_t engine_deadline(const engine_t *engine) noexcept nogil:
    cdef heap_node_t *node = heap_first(&engine.timers)
    return node.at_ns if node is not NULL else NEVER


cdef void tick_sink(channel_t *channel, uint64_t now_ns) noexcept nogil:
    cdef engine_t *engine = channel.engine
    if now_ns >= channel.sink_ns:
        if channel.state == CHANNEL_SINK_SHUT:
            close_carrier(channel, now_ns)
            channel_end(channel, now_ns)
            return
        engine.transport.shutdown(engine.transport.ctx, channel.conn)
        channel.state = CHANNEL_SINK_SHUT
        channel.sink_ns = now_ns + draw(engine, 5000, 15000) * 1000000
    arm(channel)


cdef void engine_tick(engine_t *engine, uint64_t now_ns) noexcept nogil:
    cdef heap_node_t *node = heap_first(&engine.timers)
    cdef channel_t *channel
    cdef uint64_t next_ns
    while node is not NULL and node.at_ns <= now_ns:
        heap_drop(&engine.timers, node)
        channel = <channel_t *>node.owner
        if node == &engine.relay_timer:
            next_ns = relay_tick(&engine.relay, now_ns)
            if next_ns != NEVER:
                arm_relay(engine, next_ns)
        elif channel.state == CHANNEL_SINK or channel.state == CHANNEL_SINK_SHUT:
            tick_sink(channel, now_ns)
        elif channel.state == CHANNEL_DIALLING:
            session_drop(&channel.session, REASON_TIMEOUT, now_ns)
        else:
            session_tick(&channel.session, now_ns)
            arm(channel)
        node = heap_first(&engine.timers)


# The end of every input

cdef void free_ended(engine_t *engine, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel
    while engine.ended is not NULL:
        channel = engine.ended
        engine.ended = channel.next
        session_clear(&channel.session, now_ns)
        mem_give(engine.pool, channel, sizeof(channel_t))


cdef void engine_settle(engine_t *engine, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel
    cdef event_t event
    engine.now_ns = now_ns
    while engine.dirty is not NULL or engine.ended is not NULL:
        while engine.dirty is not NULL:
            channel = engine.dirty
            engine.dirty = channel.next_dirty
            channel.is_dirty = 0
            if channel.state == CHANNEL_LIVE and channel.kind == CHANNEL_LINK:
                link_flush(channel, now_ns)
                arm(channel)
        streams_sweep(&engine.ctx.graveyard, engine.pool)
        relay_sweep(&engine.relay)
        free_ended(engine, now_ns)
    streams_sweep(&engine.ctx.graveyard, engine.pool)
    if engine.is_stopping and not engine.is_stopped and engine.n_channels == 0:
        engine.is_stopped = 1
        memset(&event, 0, sizeof(event))
        event.type = EVENT_STOPPED
        engine_emit(engine)
        emit(engine, &event)


# Commands on peers

cdef void engine_close_peer(engine_t *engine, uint64_t channel_id, int reason, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = <channel_t *>table_get(&engine.channels, channel_id)
    if channel is not NULL:
        session_close(&channel.session, reason, now_ns)
        arm(channel)


cdef void engine_ping(engine_t *engine, uint64_t channel_id, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = <channel_t *>table_get(&engine.channels, channel_id)
    if channel is not NULL:
        session_ping(&channel.session, now_ns)


cdef void engine_stop(engine_t *engine, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = engine.all
    cdef channel_t *following
    engine.is_stopping = 1
    while channel is not NULL:
        following = channel.next
        if channel.kind == CHANNEL_LINK:
            if channel.state == CHANNEL_SINK or channel.state == CHANNEL_SINK_SHUT or channel.session.state == SESSION_HANDSHAKE:
                close_carrier(channel, now_ns)
                session_drop(&channel.session, REASON_SHUTDOWN, now_ns)
                channel_end(channel, now_ns)
            else:
                session_close(&channel.session, REASON_SHUTDOWN, now_ns)
                arm(channel)
        channel = following


cdef void engine_clear(engine_t *engine, uint64_t now_ns) noexcept nogil:
    cdef pending_t *pending
    cdef uint32_t cursor
    cdef flow_t *flow
    engine.is_stopping = 1
    engine.is_stopped = 1
    relay_clear(&engine.relay, now_ns)
    while engine.all is not NULL:
        if engine.all.conn is not NULL:
            engine.transport.abort(engine.transport.ctx, engine.all.conn)
            engine.all.conn = NULL
        channel_end(engine.all, now_ns)
    while engine.paths is not NULL:
        path_free(engine, engine.paths)
    free_ended(engine, now_ns)
    streams_sweep(&engine.ctx.graveyard, engine.pool)
    while engine.flows.len > 0:
        cursor = 0
        flow = <flow_t *>table_next(&engine.flows, &cursor)
        flow_free(flow)
    while engine.pending_head is not NULL:
        pending = engine.pending_head
        engine.pending_head = pending.next
        mem_give(engine.pool, pending, sizeof(pending_t))
    relay_sweep(&engine.relay)
    heap_clear(&engine.timers)
    table_clear(&engine.links)
    table_clear(&engine.flows)
    table_clear(&engine.channels)
