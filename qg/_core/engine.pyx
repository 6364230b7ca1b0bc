# SPDX-License-Identifier: MIT
"""All sessions of one worker: admission, what a session's events mean, inputs, time, commands."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from .channel cimport (
    CHANNEL_DIALLING, CHANNEL_ENDED, CHANNEL_LINK, CHANNEL_LIVE, CHANNEL_SINK, CHANNEL_SINK_SHUT, LAYER_WINDOWS,
    LINKS_PER_PEER, SKEWS_KEPT, channel_accept, channel_admitted, channel_arm, channel_close, channel_end,
    channel_claim, channel_feed, channel_flush, channel_layer, channel_mark, channel_rates, channel_t, channel_uncount,
    channels_cover, channels_serve, channels_sweep, draw, engine_config_t, engine_t, has_id, has_instance, link_enter,
    links_find, links_of, n_settled, name_put, queue_insert, queue_push, services_change, services_keep, stream_drain)
from .circuit cimport (
    circuit_extend, circuits_arm, circuits_join, circuits_refuse, is_awaited, path_free, paths_continue, paths_failed,
    paths_request, report_peer)
from .cover cimport cover_config_t
from .flow cimport (
    FLOWS_WAITING_MAX, EVENT_DRAINED, EVENT_IDENTITY_TWICE, EVENT_PEERS, EVENT_PEER_DOWN, EVENT_PONG, EVENT_SERVICES,
    EVENT_STOPPED, EVENT_STREAM_RESET, EVENT_TAMPERED, EVENT_TWINS, event_t, flow_announce, flow_bind, flow_create,
    flow_free, flow_open, flow_t, outbox_clear, outbox_init, outbox_owe, outbox_put, outbox_put_late, outbox_t)
from .guard cimport (
    PENALTY_ENVELOPE, PENALTY_HANDSHAKE, PENALTY_LIMIT, PENALTY_REPLAY, PENALTY_VIOLATION, guard_accept, guard_allows,
    guard_half_open_begin, guard_handshake, guard_instance_swap, guard_link_begin, guard_peer_begin, guard_penalise,
    guard_pipe_take, guard_session_begin, guard_sink_begin, guard_spend, guard_stream_take, guard_t, limits_of)
from .handshake cimport HANDSHAKE_NK, HANDSHAKE_XK, STAGE_ADMIT_M1, handshake_t, party_init
from .heap cimport heap_clear, heap_drop, heap_first, heap_init, heap_node_t, heap_set
from .memory cimport block_class_for, block_start, block_take, pool_t
from .mux cimport mux_control, mux_hooks_t, mux_t, receive_init, stream_accept, stream_t, streams_sweep
from .rate cimport rates_t, shaper_deadline, shaper_init
from .relay cimport (
    relay_clear, relay_init, relay_pause, relay_rates, relay_reset_all, relay_serve, relay_sweep, relay_tick)
from .session cimport (
    LAYER_FAR_END, LAYER_NONE, SESSION_HANDSHAKE, SESSION_KEYED, SESSION_ON_CLOSED, SESSION_ON_DEADLINE,
    SESSION_ON_FAILED, SESSION_ON_KEYED, SESSION_ON_PEERS, SESSION_ON_PONG, SESSION_ON_READY, SESSION_ON_SERVICES,
    SESSION_OPEN, session_close, session_connect, session_drop, session_hooks_t, session_listen, session_ping,
    session_t, session_tick, session_wake)
from .status cimport (
    E_FULL, E_IDENTITY, E_IO, E_LENGTH, E_MEMORY, E_RATE, E_REPLAY, E_TAG, OK, PEERS_LEN_MAX, REASON_BUSY,
    REASON_DUPLICATE, REASON_HOPS, REASON_IDLE, REASON_LIMIT, REASON_MEMORY, REASON_PROTOCOL, REASON_REFUSED,
    REASON_SHUTDOWN, REASON_TIMEOUT, REASON_UNREACHABLE, SERVICES_LEN_MAX, WINDOW_MIN)
from .sys cimport NEVER, SECOND_NS, atomic_add, atomic_peek, load_be64
from .table cimport table_clear, table_get, table_init
from .wire cimport (
    FRAME_PEERS, FRAME_SERVICES, HELLO_SERVICES_MAX, STREAM_BYTES, STREAM_MESSAGES, STREAM_PIPE, STREAM_RELAY,
    address_t, frame_t, services_read)

cdef enum:
    TABLE_MAX = 1 << 20
    PEERS_BURST = 4             # PEERS frames of one link at once, and one per PEERS_NS after that
    SERVICES_BURST = 256        # SERVICES frames of one session at once, and one per SERVICES_NS after that

cdef uint64_t PEERS_NS = 60 * SECOND_NS
cdef uint64_t SERVICES_NS = SECOND_NS // 10



cdef inline uint64_t unix_s(const engine_t *engine, uint64_t now_ns) noexcept nogil:
    return <uint64_t>(<int64_t>now_ns + engine.ctx.unix_offset_ns) // SECOND_NS


cdef int engine_init(engine_t *engine, pool_t *pool, guard_t *guard, const engine_config_t *config,
                     uint64_t mix) noexcept nogil:
    memset(engine, 0, sizeof(engine_t))
    engine.pool = pool
    engine.guard = guard
    engine.config = config[0]
    memcpy(engine.services, config.services, 16 * config.n_services)
    engine.config.services = engine.services
    engine.ctx.pool = pool
    receive_init(&engine.ctx.receive, config.receive_credit_len)
    engine.next_id = 1
    engine.session_hooks = &SESSION_HOOKS
    engine.mux_hooks = &MUX_HOOKS
    engine.admit = admit
    outbox_init(&engine.outbox, pool, mix)
    heap_init(&engine.timers, pool)
    table_init(&engine.links, pool, TABLE_MAX, mix)
    table_init(&engine.dials, pool, TABLE_MAX, mix)
    table_init(&engine.shared, pool, TABLE_MAX, mix)
    table_init(&engine.peers, pool, TABLE_MAX, mix)
    table_init(&engine.channels, pool, TABLE_MAX, mix)
    relay_init(&engine.relay, pool, config.relay_memory_len, &guard.n_splices)
    relay_configure(engine, config)
    rates_apply(engine, 0)
    engine.ctx.party.first_bytes = config.first_bytes
    return party_init(&engine.ctx.party)


# Streams that a peer opens

cdef int open_service(channel_t *channel, stream_t *stream, const frame_t *frame, uint64_t now_ns) noexcept nogil:
    cdef outbox_t *outbox = &channel.engine.outbox
    cdef flow_t *flow
    cdef int rc
    if outbox.n_waiting >= FLOWS_WAITING_MAX:
        channel.engine.ctx.n_status[-E_FULL] += 1
        return -REASON_BUSY
    if guard_stream_take(channel.engine.guard, &channel.openings, now_ns) < 0:
        if guard_stream_take(channel.engine.guard, &channel.refusals, now_ns) < 0:
            channel.engine.ctx.n_status[-E_RATE] += 1
            session_close(&channel.session, REASON_LIMIT, now_ns)
        return -REASON_LIMIT
    if channel.is_auto:
        if not guard_allows(channel.engine.guard, channel.session.peer_id):
            return -REASON_REFUSED              # that somebody had us dial it lets nobody in
        channel_claim(channel)                  # the peer uses it
        report_peer(channel, 0)
    flow = flow_create(outbox, &channel.session, &channel.flows, channel.id, outbox.next_id, stream.kind,
                       stream.priority)
    if flow is NULL:
        return -REASON_MEMORY
    outbox.next_id += 1
    flow_bind(flow, stream)
    if stream.kind == STREAM_BYTES and channel.engine.serve is not NULL:
        rc = channel.engine.serve(channel.engine.serve_ctx, channel, flow, frame.data, frame.len, now_ns)
        if rc < 0:
            flow.stream = NULL
            stream_drain(stream)
            flow_free(flow)
        if rc != 0:
            return min(rc, <int>OK)
    return OK if flow_announce(flow, frame.data, frame.len) >= 0 else -REASON_MEMORY


cdef int open_pipe(channel_t *channel, stream_t *stream, uint64_t now_ns) noexcept nogil:
    cdef channel_t *layer
    if stream.hops_left < 1 or stream.hops_left > 8:
        return -REASON_HOPS
    if guard_pipe_take(channel.engine.guard, &channel.pipes, now_ns) < 0:
        return -REASON_LIMIT
    if 2 * atomic_peek(&channel.engine.guard.n_far_ends) >= channel.engine.config.max_sessions:
        channel.engine.ctx.n_status[-E_FULL] += 1
        return -REASON_LIMIT                    # one link can hold a thousand: the other half is for links
    layer = channel_layer(channel, stream)
    if layer is NULL:
        return -REASON_MEMORY
    layer.remote = channel.remote
    layer.is_far_end = 1
    atomic_add(&channel.engine.guard.n_far_ends, 1)
    if begin_half_open(layer, now_ns) < 0:
        return -REASON_BUSY
    if session_listen(&layer.session, &channel.engine.ctx, (1 << HANDSHAKE_XK) | (1 << HANDSHAKE_NK), LAYER_FAR_END,
                      now_ns) < 0:
        return -REASON_MEMORY
    stream_accept(stream, WINDOW_MIN)
    channel_arm(layer)
    return OK


cdef int on_open(mux_t *mux, stream_t *stream, const frame_t *frame, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = <channel_t *>mux.owner
    stream.rx_window_max = channel.engine.config.window_max
    stream_drain(stream)
    if channel.engine.is_stopping:
        return -REASON_SHUTDOWN
    if channel.engine.is_draining and (stream.kind == STREAM_PIPE or stream.kind == STREAM_RELAY):
        return -REASON_BUSY                     # at once: it tells nothing of any target
    if stream.kind == STREAM_PIPE:
        return open_pipe(channel, stream, now_ns)
    if stream.kind == STREAM_RELAY:
        return circuit_extend(channel, stream, frame, now_ns)
    return open_service(channel, stream, frame, now_ns)


cdef mux_hooks_t MUX_HOOKS
MUX_HOOKS.on_open = on_open


# Sessions: admission and life

cdef inline void evict_half_open(engine_t *engine, uint64_t now_ns) noexcept nogil:
    """The oldest of the half-open ones becomes a sink."""
    if engine.half_open.head is not NULL:
        session_drop(&engine.half_open.head.session, REASON_LIMIT, now_ns)


cdef int begin_half_open(channel_t *channel, uint64_t now_ns) noexcept nogil:
    """A place among the half-open ones, that of the oldest where none is free."""
    cdef guard_t *guard = channel.engine.guard
    if guard_half_open_begin(guard) < 0:
        evict_half_open(channel.engine, now_ns)
        if guard_half_open_begin(guard) < 0:
            return E_FULL
    channel.is_half_open = 1
    queue_push(&channel.engine.half_open, channel)
    return OK


cdef void penalise(channel_t *channel, uint64_t now_ns) noexcept nogil:
    """What a session's end costs the address that it came from (protocol.md 9)."""
    cdef int status = channel.session.status
    cdef int penalty
    if channel.kind != CHANNEL_LINK or channel.is_crossing or channel.session.role == 0:
        return
    if status == 0 or status == E_MEMORY or status == E_IO:
        return
    if status == E_FULL or channel.is_counted and (status == E_TAG or status == E_LENGTH):
        return                                  # our own limit, or bits that somebody on the way may have flipped
    if channel.is_counted:
        penalty = PENALTY_VIOLATION
    elif status == E_TAG and channel.session.kind == 0:
        penalty = PENALTY_ENVELOPE
    elif status == E_REPLAY:
        penalty = PENALTY_REPLAY
    elif status == E_RATE:
        penalty = PENALTY_LIMIT
    else:
        penalty = PENALTY_HANDSHAKE
    guard_penalise(channel.engine.guard, &channel.remote, penalty, now_ns)


cdef int admit(channel_t *channel, uint64_t now_ns) noexcept nogil:
    """The verdict that a session asked for: OK or why not."""
    cdef engine_t *engine = channel.engine
    cdef handshake_t *handshake = channel.session.handshake
    cdef const address_t *remote = &channel.remote if channel.kind == CHANNEL_LINK else NULL
    cdef int rc
    if channel.is_crossing:
        return OK
    if handshake.stage != STAGE_ADMIT_M1:
        if not guard_allows(engine.guard, handshake.peer_id):
            return E_IDENTITY
        if remote is NULL and guard_peer_begin(engine.guard, handshake.peer_id, &channel.pipe_peer) < 0:
            return E_FULL
        rc = guard_session_begin(engine.guard, remote, now_ns)
        channel.is_counted = rc >= 0
        return E_FULL if rc >= 0 and n_settled(engine) >= engine.config.max_sessions else rc
    if handshake.kind == HANDSHAKE_NK and not engine.config.relays:
        return E_FULL
    guard_spend(engine.guard, engine.ctx.handshake_ns - engine.spent_ns, now_ns)
    engine.spent_ns = engine.ctx.handshake_ns
    return guard_handshake(engine.guard, remote, handshake.m1_hash, handshake.first.time_s, unix_s(engine, now_ns),
                           now_ns)


cdef void set_rights(channel_t *channel) noexcept nogil:
    """What the peer may open here, by the kind of its session (protocol.md 3.4)."""
    cdef mux_t *mux = &channel.session.mux
    cdef engine_config_t *config = &channel.engine.config
    mux.window_max = config.window_max
    mux.rx_window_max = config.session_window_max
    mux.queue_max = config.send_queue_len
    mux.max_service = config.max_streams
    if channel.session.kind == HANDSHAKE_NK:
        mux.peer_kinds = 1 << STREAM_RELAY if channel.session.role == 1 else 0
        mux.max_pipes = config.max_pipes
        return
    mux.peer_kinds = (1 << STREAM_BYTES) | (1 << STREAM_MESSAGES)
    if channel.kind == CHANNEL_LINK:
        mux.peer_kinds |= 1 << STREAM_PIPE
        mux.max_pipes = config.max_pipes


cdef void report_twice(channel_t *channel) noexcept nogil:
    cdef event_t event
    memset(&event, 0, sizeof(event))
    event.type = EVENT_IDENTITY_TWICE
    event.id = channel.id
    memcpy(event.peer_id, channel.session.peer_id, 32)
    outbox_put(&channel.engine.outbox, &event)


cdef void engine_end_twins(engine_t *engine, const uint8_t *peer_id, uint64_t instance, uint64_t seen_ns,
                           uint64_t now_ns) noexcept nogil:
    cdef channel_t *link
    cdef channel_t *following
    cdef uint32_t worker
    for worker in range(256):
        link = links_find(engine, peer_id, worker)
        while link is not NULL:
            following = link.sibling
            if (link.session.state == SESSION_OPEN and link.known_ns <= seen_ns
                    and load_be64(link.session.peer_hello.instance) != instance):
                report_twice(link)
                session_close(&link.session, REASON_DUPLICATE, now_ns)
                channel_arm(link)
            link = following


cdef void tell_twins(channel_t *channel, uint64_t now_ns) noexcept nogil:
    """The owner calls engine_end_twins of its other engines, after it has heard of the new link."""
    cdef event_t event
    memset(&event, 0, sizeof(event))
    event.type = EVENT_TWINS
    event.id = channel.id
    event.a = load_be64(channel.session.peer_hello.instance)
    event.b = now_ns
    memcpy(event.peer_id, channel.session.peer_id, 32)
    outbox_put(&channel.engine.outbox, &event)


cdef void end_twins(channel_t *channel, uint64_t now_ns) noexcept nogil:
    """Links that another process has under the same PeerID: a copied key, or a crash that nobody noticed."""
    cdef engine_t *engine = channel.engine
    cdef uint64_t instance = load_be64(channel.session.peer_hello.instance)
    if guard_instance_swap(engine.guard, channel.session.peer_id, instance, now_ns):
        return
    engine_end_twins(engine, channel.session.peer_id, instance, now_ns, now_ns)
    channel.has_twins = engine.config.n_workers > 1


cdef bint is_peer(channel_t *link) noexcept nogil:
    """Is one of the links of this peer, whose first is given, the application's, or may its peer make it so?"""
    cdef const uint8_t *peer_id = link.session.peer_id
    cdef guard_t *guard = link.engine.guard
    while link is not NULL:
        if not link.is_auto:
            return True
        link = link.sibling
    return guard_allows(guard, peer_id)


cdef void know_link(channel_t *channel, uint64_t now_ns) noexcept nogil:
    """Enter a ready link among those with its peer. Where there are several, all of them are the application's."""
    cdef channel_t *link
    if not has_instance(channel):
        if guard_link_begin(channel.engine.guard, channel.session.peer_id, LINKS_PER_PEER, &channel.pipe_peer) < 0:
            session_close(&channel.session, REASON_DUPLICATE, now_ns)
        else:
            name_put(channel)
        return
    end_twins(channel, now_ns)
    if link_enter(channel, now_ns) < 0:
        session_close(&channel.session, REASON_DUPLICATE, now_ns)
        return
    link = links_of(channel)
    if link is NULL or link.sibling is NULL or not is_peer(link):
        return
    while link is not NULL:
        if link.is_auto:
            channel_claim(link)
            if link != channel:
                report_peer(link, 0)
        link = link.sibling


cdef void look_at_idle(channel_t *channel, uint64_t now_ns) noexcept nogil:
    """Close a link that nobody needs: another one took its place, or it was dialled for circuits and has none."""
    cdef mux_t *mux = &channel.session.mux
    cdef bint is_needed = mux.n_service + mux.n_pipes > 0 or is_awaited(channel)
    channel.idle_ns = NEVER
    if channel.session.state != SESSION_OPEN or not (channel.is_retiring or channel.is_auto):
        return
    if not is_needed and (channel.is_retiring or mux.n_begun == channel.idle_mark):
        session_close(&channel.session, REASON_DUPLICATE if channel.is_retiring else REASON_IDLE, now_ns)
        return
    channel.idle_mark = NEVER if is_needed else mux.n_begun
    channel.idle_ns = now_ns + (SECOND_NS if channel.is_retiring else channel.engine.relay.idle_ns)


cdef inline void note_skew(engine_t *engine, int64_t skew_s) noexcept nogil:
    engine.skews_s[engine.n_skews % SKEWS_KEPT] = skew_s
    engine.n_skews += 1


cdef void on_crossing(channel_t *channel, uint64_t now_ns) noexcept nogil:
    """The link to another worker of this node is ready."""
    if channel.is_auto:
        channel.idle_ns = now_ns + channel.engine.relay.idle_ns
    circuits_join(channel, now_ns)


cdef void on_ready(channel_t *channel, uint64_t now_ns) noexcept nogil:
    cdef uint64_t request
    if channel.is_crossing:
        on_crossing(channel, now_ns)
        return
    channel_admitted(channel)
    channel.engine.n_links_up += 1
    if channel.session.role == 0:
        note_skew(channel.engine, channel.session.clock_skew_s)
    if channel.session.kind == HANDSHAKE_NK:
        paths_continue(channel, now_ns)
        return
    services_keep(channel)
    if channel.kind == CHANNEL_LINK and channel.identity is NULL:
        know_link(channel, now_ns)
        if channel.session.state != SESSION_OPEN:
            return
    request = paths_request(channel)
    if request:
        channel_claim(channel)
    if channel.is_auto:
        channel.idle_ns = now_ns + channel.engine.relay.idle_ns     # nobody's peer until somebody uses it
    else:
        report_peer(channel, request)
    if channel.has_twins:
        tell_twins(channel, now_ns)
    paths_continue(channel, now_ns)
    if channel.kind == CHANNEL_LINK:
        circuits_join(channel, now_ns)


cdef void leave(channel_t *channel, uint64_t now_ns) noexcept nogil:
    channel_close(channel, now_ns)
    channel_end(channel, now_ns)


cdef void begin_sink(channel_t *channel, uint64_t now_ns) noexcept nogil:
    """A stranger: nothing is answered; the connection closes at a time that was drawn when it was accepted."""
    cdef engine_t *engine = channel.engine
    cdef channel_t *oldest = engine.sinks.head
    channel_admitted(channel)
    channel_uncount(channel)
    if guard_sink_begin(engine.guard) < 0:
        # By when they were accepted: silent ones come here later than wrong ones, and shall not live longer for it.
        if oldest is not NULL and oldest.id < channel.id:
            leave(oldest, now_ns)
        if oldest is NULL or oldest.id > channel.id or guard_sink_begin(engine.guard) < 0:
            leave(channel, now_ns)
            return
    channel.state = CHANNEL_SINK
    queue_insert(&engine.sinks, channel)
    channel_arm(channel)


cdef void on_failed(channel_t *channel, uint64_t now_ns) noexcept nogil:
    cdef int reason = channel.session.reason
    penalise(channel, now_ns)
    if (channel.session.role == 1 and channel.kind == CHANNEL_LINK and channel.conn is not NULL
            and not channel.is_crossing):
        begin_sink(channel, now_ns)
        return
    if channel.session.role == 0 and channel.session.status < 0 and channel.session.status != E_IDENTITY:
        reason = REASON_PROTOCOL
    paths_failed(channel, reason, now_ns)
    circuits_refuse(channel, now_ns)
    leave(channel, now_ns)


cdef void on_closed(channel_t *channel, uint64_t now_ns) noexcept nogil:
    cdef event_t event
    penalise(channel, now_ns)
    if channel.is_reported:
        memset(&event, 0, sizeof(event))
        event.type = EVENT_PEER_DOWN
        event.id = channel.id
        event.reason = channel.session.reason
        event.is_remote = channel.session.is_remote
        event.status = channel.session.status
        outbox_put_late(&channel.engine.outbox, &event)
    if channel.session.role == 0 and channel.parent is not NULL and is_tampered(channel):
        report_tampered(channel)
    paths_failed(channel, channel.session.reason, now_ns)
    circuits_refuse(channel, now_ns)
    leave(channel, now_ns)


cdef void on_session_event(session_t *session, int event, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = <channel_t *>session.owner
    cdef event_t pong
    if channel.state == CHANNEL_ENDED:
        return
    if event == SESSION_ON_KEYED:
        set_rights(channel)
        if channel.kind == CHANNEL_LINK:
            channel_rates(channel)
        elif session.kind == HANDSHAKE_NK and channel.stream is not NULL:
            # The credit of the streams in it bounds what is on the way; this one's would only cost records.
            channel.stream.rx_window_max *= LAYER_WINDOWS
        if session.kind == HANDSHAKE_NK and session.role == 0:
            paths_continue(channel, now_ns)
    elif event == SESSION_ON_DEADLINE:
        channel_arm(channel)
    elif event == SESSION_ON_READY:
        on_ready(channel, now_ns)
    elif event == SESSION_ON_FAILED:
        on_failed(channel, now_ns)
    elif event == SESSION_ON_CLOSED:
        on_closed(channel, now_ns)
    elif event == SESSION_ON_PEERS:
        on_peers(channel, now_ns)
    elif event == SESSION_ON_SERVICES:
        on_services(channel, now_ns)
    elif event == SESSION_ON_PONG:
        memset(&pong, 0, sizeof(pong))
        pong.type = EVENT_PONG
        pong.id = channel.id
        pong.a = session.ping_rtt_ns
        outbox_put(&channel.engine.outbox, &pong)


# What direct peers tell of others

cdef bint is_direct(const channel_t *channel) noexcept nogil:
    """Records name addresses: only those talk of them that know each other's anyway."""
    return channel.kind == CHANNEL_LINK and channel.identity is NULL and channel.is_reported


cdef void on_peers(channel_t *channel, uint64_t now_ns) noexcept nogil:
    """Pass on a few frames; the rest is dropped and counted, for each costs the reader signatures (protocol.md 7.1)."""
    cdef engine_t *engine = channel.engine
    cdef uint64_t missing_ns = channel.peers_ns - now_ns if channel.peers_ns > now_ns else 0
    cdef event_t event
    if not is_direct(channel) or channel.session.notice_len == 0:
        return
    if missing_ns > (PEERS_BURST - 1) * PEERS_NS or channel.session.notice_len > PEERS_LEN_MAX:
        engine.ctx.n_status[-E_RATE] += 1
        return
    channel.peers_ns = now_ns + missing_ns + PEERS_NS
    memset(&event, 0, sizeof(event))
    event.type = EVENT_PEERS
    event.id = channel.id
    event.blocks = block_take(engine.pool, block_class_for(channel.session.notice_len))
    if event.blocks is not NULL:
        memcpy(block_start(event.blocks), channel.session.notice, channel.session.notice_len)
        event.blocks.end += <uint32_t>channel.session.notice_len
        outbox_put(&engine.outbox, &event)


cdef void on_services(channel_t *channel, uint64_t now_ns) noexcept nogil:
    """What comes too often is dropped and counted, for Python may be slow to take it (protocol.md 7)."""
    cdef engine_t *engine = channel.engine
    cdef uint64_t missing_ns = channel.services_ns - now_ns if channel.services_ns > now_ns else 0
    cdef uint32_t n_added, n_removed
    cdef const uint8_t *removed
    cdef const uint8_t *added
    cdef event_t event
    if not channel.is_reported:
        services_change(channel)
        return
    if missing_ns > (SERVICES_BURST - 1) * SERVICES_NS:
        engine.ctx.n_status[-E_RATE] += 1
        return
    channel.services_ns = now_ns + missing_ns + SERVICES_NS
    added = services_read(channel.session.notice, &n_added, &n_removed, &removed)
    memset(&event, 0, sizeof(event))
    event.type = EVENT_SERVICES
    event.id = channel.id
    event.a = n_added
    event.blocks = block_take(engine.pool, block_class_for(16 * (n_added + n_removed)))
    if event.blocks is not NULL:
        memcpy(block_start(event.blocks), added, 16 * n_added)
        memcpy(block_start(event.blocks) + 16 * n_added, removed, 16 * n_removed)
        event.blocks.end += 16 * (n_added + n_removed)
        outbox_put(&engine.outbox, &event)


cdef bint is_tampered(const channel_t *layer) noexcept nogil:
    """Did a record of this layer not open, here or, as is said, at its far end?"""
    if layer.session.status == E_TAG or layer.session.status == E_LENGTH:
        return True
    return layer.session.is_remote and layer.stream is not NULL and layer.stream.reason == REASON_PROTOCOL


cdef void report_tampered(channel_t *layer) noexcept nogil:
    """Name the two that may have changed its records: in whose layer it ran, and its far end (protocol.md 6.5)."""
    cdef event_t event
    memset(&event, 0, sizeof(event))
    event.type = EVENT_TAMPERED
    event.id = layer.id
    memcpy(event.link_key, layer.parent.session.peer_link_key, 32)
    memcpy(event.peer_id, layer.session.peer_link_key, 32)
    outbox_put(&layer.engine.outbox, &event)


cdef session_hooks_t SESSION_HOOKS
SESSION_HOOKS.on_event = on_session_event


# Inputs from the transport

cdef channel_t *engine_accepted(engine_t *engine, void *conn, const address_t *remote, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel
    cdef int rc
    if engine.is_draining or engine.is_stopping:
        return NULL
    rc = guard_accept(engine.guard, remote, now_ns)
    if rc == E_FULL:
        evict_half_open(engine, now_ns)
    elif rc < 0 and atomic_peek(&engine.guard.n_sinks) >= limits_of(engine.guard).sinks:
        return NULL                             # no room for more silence, and older strangers shall keep theirs
    channel = channel_accept(engine, conn, remote, now_ns)
    if channel is not NULL and ((rc < 0 and rc != E_FULL) or begin_half_open(channel, now_ns) < 0):
        session_drop(&channel.session, REASON_LIMIT, now_ns)
    return channel


cdef void engine_connected(engine_t *engine, channel_t *channel, void *conn, uint64_t now_ns) noexcept nogil:
    cdef uint8_t[32] link_key
    cdef uint8_t[32] peer_id
    channel.conn = conn
    channel.state = CHANNEL_LIVE
    memcpy(link_key, channel.session.peer_link_key, 32)
    memcpy(peer_id, channel.session.peer_id, 32)
    if session_connect(&channel.session, &engine.ctx, channel.session.kind, LAYER_NONE,
                       link_key if channel.session.kind == HANDSHAKE_XK else NULL, peer_id if has_id(peer_id) else NULL,
                       now_ns) < 0:
        session_drop(&channel.session, REASON_MEMORY, now_ns)
    channel_arm(channel)


cdef void engine_dial_failed(engine_t *engine, channel_t *channel, uint64_t now_ns) noexcept nogil:
    channel.conn = NULL
    session_drop(&channel.session, REASON_UNREACHABLE, now_ns)


cdef void engine_received(engine_t *engine, channel_t *channel, uint8_t *data, size_t len,
                          uint64_t now_ns) noexcept nogil:
    if not channel.is_crossing:
        engine.n_bytes_in += len
    if channel.state == CHANNEL_LIVE:
        channel_feed(channel, data, len, now_ns)


cdef void engine_ended(engine_t *engine, channel_t *channel, uint64_t now_ns) noexcept nogil:
    """EOF: a sink closes with it, a session without CLOSE is gone."""
    if channel.state == CHANNEL_SINK or channel.state == CHANNEL_SINK_SHUT:
        leave(channel, now_ns)
    elif channel.session.state == SESSION_HANDSHAKE and channel.session.role == 1:
        channel_close(channel, now_ns)
        session_drop(&channel.session, REASON_UNREACHABLE, now_ns)
        channel_end(channel, now_ns)
    else:
        session_drop(&channel.session, REASON_UNREACHABLE, now_ns)


cdef void engine_lost(engine_t *engine, channel_t *channel, uint64_t now_ns) noexcept nogil:
    channel.conn = NULL
    session_drop(&channel.session, REASON_UNREACHABLE, now_ns)
    channel_end(channel, now_ns)


cdef void engine_writable(engine_t *engine, channel_t *channel, uint64_t now_ns) noexcept nogil:
    channel_mark(channel)


# Time

cdef uint64_t engine_deadline(const engine_t *engine) noexcept nogil:
    cdef heap_node_t *node = heap_first(&engine.timers)
    return node.at_ns if node is not NULL else NEVER


cdef void tick_sink(channel_t *channel, uint64_t now_ns) noexcept nogil:
    cdef engine_t *engine = channel.engine
    if now_ns >= channel.sink_ns:
        if channel.state == CHANNEL_SINK_SHUT:
            leave(channel, now_ns)
            return
        engine.transport.shutdown(engine.transport.ctx, channel.conn)
        channel.state = CHANNEL_SINK_SHUT
        channel.sink_ns = now_ns + draw(engine, 5000, 15000) * 1000000
    channel_arm(channel)


cdef void engine_tick(engine_t *engine, uint64_t now_ns) noexcept nogil:
    cdef heap_node_t *node = heap_first(&engine.timers)
    cdef channel_t *channel
    cdef uint64_t next_ns
    while node is not NULL and node.at_ns <= now_ns:
        heap_drop(&engine.timers, node)
        channel = <channel_t *>node.owner
        if node == &engine.shaper_timer:
            serve_shaped(engine, now_ns)
        elif node == &engine.relay_timer:
            next_ns = relay_tick(&engine.relay, now_ns)
            if next_ns != NEVER:
                circuits_arm(engine, next_ns)
        elif channel.state == CHANNEL_SINK or channel.state == CHANNEL_SINK_SHUT:
            tick_sink(channel, now_ns)
        elif channel.state == CHANNEL_DIALLING:
            session_drop(&channel.session, REASON_TIMEOUT, now_ns)
        else:
            if now_ns >= channel.idle_ns:
                look_at_idle(channel, now_ns)
            session_tick(&channel.session, now_ns)
            channel_arm(channel)
        node = heap_first(&engine.timers)


# The end of every input

cdef inline void serve_shaped(engine_t *engine, uint64_t now_ns) noexcept nogil:
    """Let go out what waited for a rate; that may mark links."""
    if engine.relay.shaper.is_on:
        relay_serve(&engine.relay, now_ns)
    if engine.shaper.is_on:
        channels_serve(engine, now_ns)


cdef inline void arm_shaped(engine_t *engine) noexcept nogil:
    cdef uint64_t at_ns
    if not engine.relay.shaper.is_on and not engine.shaper.is_on:
        return
    at_ns = min(shaper_deadline(&engine.shaper) if engine.shaper.is_on else NEVER,
                shaper_deadline(&engine.relay.shaper) if engine.relay.shaper.is_on else NEVER)
    if at_ns == NEVER:
        heap_drop(&engine.timers, &engine.shaper_timer)
    else:
        heap_set(&engine.timers, &engine.shaper_timer, at_ns)


cdef void engine_settle(engine_t *engine, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel
    engine.outbox.now_ns = now_ns
    while engine.dirty is not NULL or engine.ended is not NULL:
        while engine.dirty is not NULL:
            channel = engine.dirty
            engine.dirty = channel.next_dirty
            channel.is_dirty = 0
            if channel.state == CHANNEL_LIVE and channel.kind == CHANNEL_LINK:
                channel_flush(channel, now_ns)
                channel_arm(channel)
        streams_sweep(&engine.ctx.graveyard, engine.pool)
        relay_sweep(&engine.relay)
        channels_sweep(engine, now_ns)
        serve_shaped(engine, now_ns)
    arm_shaped(engine)
    streams_sweep(&engine.ctx.graveyard, engine.pool)
    if engine.is_draining and not engine.is_drained and engine.relay.n_splices == 0:
        engine.is_drained = 1
        outbox_owe(&engine.outbox, EVENT_DRAINED)
    if engine.is_stopping and not engine.is_stopped and engine.n_channels == 0:
        engine.is_stopped = 1
        outbox_owe(&engine.outbox, EVENT_STOPPED)


# Commands

cdef void engine_close_peer(engine_t *engine, uint64_t channel_id, int reason, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = <channel_t *>table_get(&engine.channels, channel_id)
    if channel is not NULL:
        session_close(&channel.session, reason, now_ns)
        channel_arm(channel)


cdef void engine_tell_peers(engine_t *engine, uint64_t channel_id, const uint8_t *data, size_t len,
                            uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = <channel_t *>table_get(&engine.channels, channel_id)
    cdef uint8_t[1 + PEERS_LEN_MAX] frame
    if channel is NULL or channel.session.state != SESSION_OPEN or not is_direct(channel) or len > PEERS_LEN_MAX:
        return
    frame[0] = FRAME_PEERS
    memcpy(&frame[1], data, len)
    if mux_control(&channel.session.mux, frame, 1 + len) >= 0:
        session_wake(&channel.session, now_ns)


cdef bint knows_services(const channel_t *channel) noexcept nogil:
    """Was the peer told in HELLO what this node offers, not what a throw-away identity or a layer does?"""
    return channel.identity is NULL and channel.session.kind != HANDSHAKE_NK and not channel.is_crossing


cdef void engine_serve(engine_t *engine, const uint8_t *services, uint32_t n_services, const uint8_t *data, size_t len,
                       uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = engine.all
    cdef uint8_t[1 + SERVICES_LEN_MAX] frame
    if n_services > HELLO_SERVICES_MAX or len > SERVICES_LEN_MAX:
        return
    memcpy(engine.services, services, 16 * n_services)
    engine.config.n_services = n_services
    frame[0] = FRAME_SERVICES
    memcpy(&frame[1], data, len)
    while channel is not NULL:
        if knows_services(channel):
            channel.session.hello.n_services = n_services       # of a HELLO that is yet to come
            if channel.session.state == SESSION_KEYED or channel.session.state == SESSION_OPEN:
                if mux_control(&channel.session.mux, frame, 1 + len) >= 0:
                    session_wake(&channel.session, now_ns)
        channel = channel.next


cdef void engine_ping(engine_t *engine, uint64_t channel_id, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = <channel_t *>table_get(&engine.channels, channel_id)
    if channel is not NULL:
        session_ping(&channel.session, now_ns)


cdef void engine_configure(engine_t *engine, const engine_config_t *config, uint64_t now_ns) noexcept nogil:
    cdef engine_config_t *now = &engine.config
    now.times = config.times
    now.sink_min_ns = config.sink_min_ns
    now.sink_max_ns = config.sink_max_ns
    now.control_frames = config.control_frames
    now.max_streams = config.max_streams
    now.max_pipes = config.max_pipes
    now.padding = config.padding
    engine.ctx.party.first_bytes = config.first_bytes
    now.relays = config.relays
    now.accepts_xx = config.accepts_xx
    now.terms_rate_kib = config.terms_rate_kib
    now.terms_burst_kib = config.terms_burst_kib
    relay_configure(engine, config)
    rates_apply(engine, now_ns)
    if memcmp(&now.cover, &config.cover, sizeof(cover_config_t)) != 0:
        now.cover = config.cover
        channels_cover(engine, now_ns)


cdef void rates_apply(engine_t *engine, uint64_t now_ns) noexcept nogil:
    """The node's rates were set, or are others now: whoever waits for one asks again, and nobody has a debt."""
    cdef rates_t *rates = engine.config.rates
    cdef channel_t *channel = engine.all
    if rates is NULL:
        return
    relay_pause(&engine.relay, now_ns)
    while channel is not NULL:
        if channel.kind == CHANNEL_LINK:
            channel_rates(channel)
            channel_mark(channel)
        channel = channel.next
    shaper_init(&engine.shaper, &rates.links, &rates.links_ns)
    engine.shaper.is_on = rates.links.per_s > 0 or rates.neighbour.per_s > 0 or rates.has_own > 0
    relay_rates(&engine.relay, rates, now_ns)


cdef void relay_configure(engine_t *engine, const engine_config_t *config) noexcept nogil:
    engine.relay.idle_ns = config.relay_idle_ns
    engine.relay.build_ns = config.relay_build_ns
    engine.relay.life_ns = config.relay_life_ns


cdef void engine_drain(engine_t *engine) noexcept nogil:
    engine.is_draining = 1


cdef void engine_stop(engine_t *engine, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel
    cdef channel_t *before
    engine.is_stopping = 1
    # What the ends of circuits are told has to leave before the sessions that carry it close.
    relay_reset_all(&engine.relay, REASON_BUSY, now_ns)
    engine_settle(engine, now_ns)
    channel = engine.all
    while channel is not NULL:
        before = channel.prev                   # ending a session may end the layers in it, which are on the same list
        if channel.kind == CHANNEL_LINK:
            if (channel.state == CHANNEL_SINK or channel.state == CHANNEL_SINK_SHUT
                    or channel.session.state == SESSION_HANDSHAKE):
                channel_close(channel, now_ns)
                session_drop(&channel.session, REASON_SHUTDOWN, now_ns)
                channel_end(channel, now_ns)
            else:
                session_close(&channel.session, REASON_SHUTDOWN, now_ns)
                channel_arm(channel)
        if channel.state != CHANNEL_ENDED:
            channel = channel.next
        else:
            channel = before.next if before is not NULL else engine.all


cdef void engine_halt(engine_t *engine, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel
    while engine.all is not NULL:
        channel = engine.all
        channel_close(channel, now_ns)
        session_drop(&channel.session, REASON_SHUTDOWN, now_ns)
        channel_end(channel, now_ns)
    engine_settle(engine, now_ns)


cdef void engine_open(engine_t *engine, uint64_t flow_id, uint64_t channel_id, int kind, int priority,
                      const uint8_t *opening, size_t len, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = <channel_t *>table_get(&engine.channels, channel_id)
    cdef event_t event
    cdef int rc = -REASON_UNREACHABLE
    if channel is not NULL and channel.session.state == SESSION_OPEN:
        rc = flow_open(&engine.outbox, &channel.session, &channel.flows, channel_id, flow_id, kind, priority, opening,
                       len, now_ns)
    if rc < 0:
        memset(&event, 0, sizeof(event))
        event.type = EVENT_STREAM_RESET
        event.id = flow_id
        event.reason = <uint8_t>-rc
        outbox_put(&engine.outbox, &event)


cdef void engine_clear(engine_t *engine, uint64_t now_ns) noexcept nogil:
    engine.is_stopping = 1
    engine.is_stopped = 1
    relay_clear(&engine.relay, now_ns)
    while engine.all is not NULL:
        if engine.all.conn is not NULL:
            engine.all.transport.abort(engine.all.transport.ctx, engine.all.conn)
            engine.all.conn = NULL
        channel_end(engine.all, now_ns)
    engine.dirty = NULL
    while engine.paths is not NULL:
        path_free(engine, engine.paths)
    channels_sweep(engine, now_ns)
    streams_sweep(&engine.ctx.graveyard, engine.pool)
    relay_sweep(&engine.relay)
    outbox_clear(&engine.outbox)
    heap_clear(&engine.timers)
    table_clear(&engine.links)
    table_clear(&engine.dials)
    table_clear(&engine.shared)
    table_clear(&engine.peers)
    table_clear(&engine.channels)
