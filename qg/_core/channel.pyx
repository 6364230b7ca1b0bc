# SPDX-License-Identifier: MIT
"""Channels: sessions with their carriers."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from .cover cimport cover_is_paced
from .crypto cimport keyed_hash, random_between
from .flow cimport flow_abandon
from .guard cimport guard_half_open_end, guard_is_spent, guard_peer_end, guard_session_end, guard_sink_end, guard_t
from .handshake cimport HANDSHAKE_NK, HANDSHAKE_XK, HANDSHAKE_XX
from .heap cimport heap_drop, heap_set
from .layer cimport layer_carrier, layer_pull
from .memory cimport (
    BLOCK_LARGE, block_class_for, block_room, block_start, block_t, block_take, chain_clear, chain_cut, chain_push,
    chain_t, mem_give, mem_take)
from .mux cimport (
    FLAG_DEAD, STREAM_ACCEPTED, STREAM_CREDIT, STREAM_FIN, STREAM_GONE, STREAM_RESET, sink_t, stream_bind,
    stream_finish, stream_reset, stream_t, stream_used)
from .rate cimport (
    NEIGHBOURS, lane_init, lane_t, rates_t, shaper_ask, shaper_charge, shaper_done, shaper_leave, shaper_may,
    shaper_next, shaper_wait)
from .relay cimport relay_forget
from .roster cimport roster_enter, roster_leave, roster_link_begin, roster_link_end
from .secret cimport secret_give
from .session cimport (
    LAYER_NONE, SESSION_KEYED, SESSION_OPEN, carrier_t, session_admit, session_bind, session_clear, session_close,
    session_connect, session_cover, session_drop, session_feed, session_has_output, session_listen, session_pump,
    session_t, session_wake)
from .status cimport (
    E_FULL, NEED_ADMIT, OK, REASON_MEMORY, REASON_NONE, REASON_PROTOCOL, REASON_REFUSED, REASON_SHUTDOWN,
    REASON_UNREACHABLE)
from .sys cimport NEVER, SECOND_NS, atomic_add, atomic_peek, is_zero, load_be64
from .table cimport table_drop, table_get, table_put, table_t
from .wire cimport HELLO_SERVICES_MAX, PADDING_NONE, address_t, hello_t, services_read

cdef enum:
    LINK_ROOM = 32768           # of a link that takes more: a whole record, so that none is cut at the limit
    READ_ROOM = 1024            # behind what another worker reads from the block: see session_send_data

cdef uint64_t RETIRE_NS = SECOND_NS    # what the peer sent before it knew of the other link has come by then


# Links: the carrier of a session on a transport connection

cdef inline bint is_shaped(const channel_t *channel) noexcept nogil:
    return channel.engine.shaper.is_on and not channel.is_crossing


cdef size_t link_room(session_t *session) noexcept nogil:
    cdef channel_t *channel = <channel_t *>session.carrier_ctx
    cdef uint64_t used
    if channel.conn is NULL or (is_shaped(channel) and not shaper_may(&channel.engine.shaper, &channel.lane)):
        return 0
    used = channel.out.len + channel.transport.pending(channel.transport.ctx, channel.conn)
    return LINK_ROOM if used < channel.out_max else 0


cdef uint8_t *link_reserve(session_t *session, size_t len) noexcept nogil:
    cdef channel_t *channel = <channel_t *>session.carrier_ctx
    cdef block_t *block = channel.out.tail
    if block is NULL or block_room(block) < len + READ_ROOM:
        block = block_take(channel.engine.pool, BLOCK_LARGE)
        if block is NULL:
            return NULL
        chain_push(&channel.out, block)
    return &block.data[0] + block.end


cdef void link_commit(session_t *session, size_t len, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = <channel_t *>session.carrier_ctx
    channel.out.tail.end += <uint32_t>len
    channel.out.len += len
    if is_shaped(channel):
        shaper_charge(&channel.engine.shaper, &channel.lane, <int64_t>len)
    channel_mark(channel)


cdef void link_wake(session_t *session, uint64_t now_ns) noexcept nogil:
    channel_mark(<channel_t *>session.carrier_ctx)


cdef void link_turn(session_t *session, uint32_t n, uint64_t now_ns) noexcept nogil:
    """Bytes of the last record that no turn has let out yet are the first of this one."""
    cdef channel_t *channel = <channel_t *>session.carrier_ctx
    cdef uint64_t waiting = channel.transport.pending(channel.transport.ctx, channel.conn) if channel.conn else 0
    if waiting < LINK_OUT_MIN:                  # a kernel that takes nothing gets nothing more
        channel.due_len = min(channel.due_len + n * session.cover.turn_len, <uint32_t>LINK_OUT_MIN)
    session.turn_len = channel.due_len - <uint32_t>min(<uint64_t>channel.due_len, channel.out.len)
    channel_mark(channel)


cdef carrier_t LINK_CARRIER
LINK_CARRIER.room = link_room
LINK_CARRIER.reserve = link_reserve
LINK_CARRIER.commit = link_commit
LINK_CARRIER.wake = link_wake
LINK_CARRIER.turn = link_turn


cdef void channel_mark(channel_t *channel) noexcept nogil:
    if not channel.is_dirty and channel.state != CHANNEL_ENDED:
        channel.is_dirty = 1
        channel.next_dirty = channel.engine.dirty
        channel.engine.dirty = channel


cdef void channel_flush(channel_t *channel, uint64_t now_ns) noexcept nogil:
    """Seal what the scheduler has while the kernel takes it."""
    cdef engine_t *engine = channel.engine
    cdef const transport_t *transport = channel.transport
    while channel.conn is not NULL:
        if is_shaped(channel) and not shaper_ask(&engine.shaper, &channel.lane, now_ns):
            if session_has_output(&channel.session):
                shaper_wait(&engine.shaper, &channel.lane, now_ns)
        while session_has_output(&channel.session) and session_pump(&channel.session, now_ns) > 0:
            pass
        if channel.out.len == 0 or channel.conn is NULL:
            return
        if cover_is_paced(&channel.session.cover):
            flush_due(channel)
            return
        if not channel.is_crossing:
            engine.n_bytes_out += channel.out.len
        transport.write(transport.ctx, channel.conn, &channel.out)
        if transport.pending(transport.ctx, channel.conn) > 0:
            channel.out_max = LINK_OUT_MIN
            return
        channel.out_max = min(2 * channel.out_max, <uint32_t>LINK_OUT_MAX)


cdef void flush_due(channel_t *channel) noexcept nogil:
    """What the turns have let out goes to the kernel; the rest of the last record waits for the next one."""
    cdef chain_t due = chain_t(NULL, NULL, 0, 0)
    cdef uint64_t len = min(<uint64_t>channel.due_len, channel.out.len)
    cdef block_t *block = chain_cut(&channel.out, channel.engine.pool, len) if len else NULL
    if block is NULL:
        return                                  # without memory it waits for the next turn
    chain_push(&due, block)
    channel.due_len = 0
    channel.engine.n_bytes_out += len
    channel.transport.write(channel.transport.ctx, channel.conn, &due)


cdef void channels_cover(engine_t *engine, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = engine.all
    while channel is not NULL:
        if channel.session.state == SESSION_KEYED or channel.session.state == SESSION_OPEN:
            channel.due_len = 0
            session_cover(&channel.session, now_ns)
            session_wake(&channel.session, now_ns)      # what waited for a turn that will not come
            channel_mark(channel)
            channel_arm(channel)
        channel = channel.next


cdef void channels_serve(engine_t *engine, uint64_t now_ns) noexcept nogil:
    cdef lane_t *lane = shaper_next(&engine.shaper, now_ns)
    cdef channel_t *channel
    cdef uint64_t before
    while lane is not NULL:
        channel = <channel_t *>lane.owner
        before = channel.session.n_bytes_out
        channel_flush(channel, now_ns)
        channel_arm(channel)
        shaper_done(&engine.shaper, channel.session.n_bytes_out != before and session_has_output(&channel.session))
        lane = shaper_next(&engine.shaper, now_ns)


cdef void channel_rates(channel_t *channel) noexcept nogil:
    cdef rates_t *rates = channel.engine.config.rates
    cdef size_t i
    shaper_leave(&channel.engine.shaper, &channel.lane)
    lane_init(&channel.lane, channel, NULL, NULL)
    lane_init(&channel.asker.lane, &channel.asker, NULL, NULL)
    if rates is not NULL and has_id(channel.session.peer_id):
        i = keyed_hash(rates.key, channel.session.peer_id, 32) % NEIGHBOURS
        lane_init(&channel.lane, channel, &rates.own[i] if atomic_peek(&rates.own[i].per_s) else &rates.neighbour,
                  &rates.neighbours_ns[i])
        lane_init(&channel.asker.lane, &channel.asker, &rates.relay_neighbour, &rates.relay_neighbours_ns[i])


# Channels

cdef uint64_t draw(engine_t *engine, uint64_t low, uint64_t high) noexcept nogil:
    return random_between(engine.ctx.party.random, engine.ctx.party.random_ctx, low, high)


cdef void channel_arm(channel_t *channel) noexcept nogil:
    cdef uint64_t at_ns = min(channel.session.deadline_ns, channel.idle_ns)
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
    channel = <channel_t *>mem_take(engine.pool, sizeof(channel_t))
    if channel is NULL:
        return NULL
    channel.engine = engine
    channel.transport = &engine.transport
    channel.kind = <uint8_t>kind
    channel.id = engine.next_id
    channel.timer.owner = channel
    channel.out_max = LINK_OUT_MAX
    channel_rates(channel)
    channel.idle_ns = NEVER
    if table_put(&engine.channels, channel.id, channel) < 0:
        mem_give(engine.pool, channel, sizeof(channel_t))
        return NULL
    engine.next_id += 1
    session_bind(&channel.session, channel, engine.session_hooks, engine.mux_hooks,
                 carrier_ctx if carrier_ctx is not NULL else <void *>channel, carrier, &engine.config.times)
    channel.session.hello.padding = engine.config.padding
    channel.session.hello.worker = engine.config.worker
    channel.session.hello.n_workers = engine.config.n_workers
    channel.session.hello.max_service_streams = engine.config.max_streams
    channel.session.hello.max_message = engine.config.max_message
    memcpy(channel.session.hello.instance, engine.config.instance, 8)
    channel.session.hello.has_terms = (engine.config.relays and not engine.is_draining
                                       and not guard_is_spent(engine.guard))
    channel.session.hello.rate_kib = engine.config.terms_rate_kib
    channel.session.hello.burst_kib = engine.config.terms_burst_kib
    channel.session.hello.services = engine.services
    channel.session.hello.n_services = engine.config.n_services
    channel.session.rate_limit = engine.config.control_frames
    channel.session.covering = &engine.config.cover
    if kind == CHANNEL_LINK:
        channel.session.hello.max_pipes = engine.config.max_pipes
    channel.next = engine.all
    if engine.all is not NULL:
        engine.all.prev = channel
    engine.all = channel
    engine.n_channels += 1
    atomic_add(&engine.guard.n_channels, 1)
    return channel


cdef uint64_t n_settled(const engine_t *engine) noexcept nogil:
    cdef const guard_t *guard = engine.guard
    cdef uint64_t n_channels = atomic_peek(&guard.n_channels)
    return n_channels - min(n_channels, atomic_peek(&guard.n_half_open) + atomic_peek(&guard.n_sinks))


cdef bint is_full(const engine_t *engine) noexcept nogil:
    """Strangers come in nevertheless, since guard bounds them: they must not see whether the node is full."""
    return n_settled(engine) >= engine.config.max_sessions


cdef void queue_push(queue_t *queue, channel_t *channel) noexcept nogil:
    channel.queue = queue
    channel.queue_next = NULL
    channel.queue_prev = queue.tail
    if queue.tail is NULL:
        queue.head = channel
    else:
        queue.tail.queue_next = channel
    queue.tail = channel


cdef void queue_insert(queue_t *queue, channel_t *channel) noexcept nogil:
    cdef channel_t *before = queue.tail
    while before is not NULL and before.id > channel.id:
        before = before.queue_prev
    if before is queue.tail:
        queue_push(queue, channel)
        return
    channel.queue = queue
    channel.queue_prev = before
    channel.queue_next = queue.head if before is NULL else before.queue_next
    channel.queue_next.queue_prev = channel
    if before is NULL:
        queue.head = channel
    else:
        before.queue_next = channel


cdef void queue_leave(channel_t *channel) noexcept nogil:
    cdef queue_t *queue = channel.queue
    if queue is NULL:
        return
    channel.queue = NULL
    if channel.queue_prev is NULL:
        queue.head = channel.queue_next
    else:
        channel.queue_prev.queue_next = channel.queue_next
    if channel.queue_next is NULL:
        queue.tail = channel.queue_prev
    else:
        channel.queue_next.queue_prev = channel.queue_prev


cdef void channel_admitted(channel_t *channel) noexcept nogil:
    if channel.is_half_open:
        channel.is_half_open = 0
        queue_leave(channel)
        guard_half_open_end(channel.engine.guard)


cdef void channel_uncount(channel_t *channel) noexcept nogil:
    if channel.is_counted:
        channel.is_counted = 0
        guard_session_end(channel.engine.guard, &channel.remote if channel.kind == CHANNEL_LINK else NULL)
    if channel.pipe_peer:
        guard_peer_end(channel.engine.guard, channel.pipe_peer)
        channel.pipe_peer = 0


cdef void services_keep(channel_t *channel) noexcept nogil:
    cdef const hello_t *hello = &channel.session.peer_hello
    services_store(channel, hello.services, hello.n_services)


cdef void services_store(channel_t *channel, const uint8_t *services, uint32_t n) noexcept nogil:
    services_forget(channel)
    if n:
        channel.services = <uint8_t *>mem_take(channel.engine.pool, 16 * n)
    if channel.services is not NULL:
        memcpy(channel.services, services, 16 * n)
        channel.n_services = n


cdef void services_forget(channel_t *channel) noexcept nogil:
    if channel.services is not NULL:
        mem_give(channel.engine.pool, channel.services, 16 * channel.n_services)
    channel.services = NULL
    channel.n_services = 0


cdef int has_service(const uint8_t *services, uint32_t n, const uint8_t *id) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if memcmp(services + 16 * i, id, 16) == 0:
            return 1
    return 0


cdef void services_change(channel_t *channel) noexcept nogil:
    cdef uint8_t[16 * HELLO_SERVICES_MAX] left
    cdef uint32_t n_added, n_removed, i, n = 0
    cdef const uint8_t *removed
    cdef const uint8_t *added = services_read(channel.session.notice, &n_added, &n_removed, &removed)
    for i in range(channel.n_services):
        if not has_service(removed, n_removed, channel.services + 16 * i):
            memcpy(&left[16 * n], channel.services + 16 * i, 16)
            n += 1
    for i in range(n_added):
        if n < HELLO_SERVICES_MAX and not has_service(&left[0], n, added + 16 * i):
            memcpy(&left[16 * n], added + 16 * i, 16)
            n += 1
    services_store(channel, &left[0], n)


cdef block_t *services_take(channel_t *channel) noexcept nogil:
    cdef uint32_t len = 16 * channel.n_services
    cdef block_t *block = NULL
    if channel.services is NULL:
        return NULL
    block = block_take(channel.engine.pool, block_class_for(len))
    if block is not NULL:
        memcpy(block_start(block), channel.services, len)
        block.end += len
    services_forget(channel)
    return block


cdef void channel_claim(channel_t *channel) noexcept nogil:
    if channel.is_auto and channel.kind == CHANNEL_LINK:
        channel.is_auto = 0
        atomic_add(&channel.engine.guard.n_auto_links, -1)


cdef void channel_end(channel_t *channel, uint64_t now_ns) noexcept nogil:
    """Off the lists; the memory waits for engine_settle. The carrier is closed or was lost."""
    cdef engine_t *engine = channel.engine
    if channel.state == CHANNEL_ENDED:
        return
    if channel.state == CHANNEL_SINK or channel.state == CHANNEL_SINK_SHUT:
        guard_sink_end(engine.guard)
        queue_leave(channel)
    if channel.state == CHANNEL_DIALLING:
        engine.transport.cancel(engine.transport.ctx, channel)
    channel.state = CHANNEL_ENDED
    if channel.is_crossing and engine.crossings[channel.crosses_to] == channel:
        engine.crossings[channel.crosses_to] = NULL
    channel_admitted(channel)
    channel_claim(channel)
    link_leave(channel)
    channel_uncount(channel)
    atomic_add(&engine.guard.n_far_ends, -<int>channel.is_far_end)
    heap_drop(&engine.timers, &channel.timer)
    session_drop(&channel.session, REASON_UNREACHABLE, now_ns)
    while channel.flows is not NULL:
        flow_abandon(channel.flows)
    relay_forget(&engine.relay, &channel.asker, now_ns)
    shaper_leave(&engine.shaper, &channel.lane)
    chain_clear(&channel.out)
    services_forget(channel)
    if channel.shared_id and table_get(&engine.shared, channel.shared_id) == channel:
        table_drop(&engine.shared, channel.shared_id)
    if table_get(&engine.dials, load_be64(channel.session.peer_link_key)) == channel:
        table_drop(&engine.dials, load_be64(channel.session.peer_link_key))
    table_drop(&engine.channels, channel.id)
    if channel.prev is not NULL:
        channel.prev.next = channel.next
    else:
        engine.all = channel.next
    if channel.next is not NULL:
        channel.next.prev = channel.prev
    engine.n_channels -= 1
    atomic_add(&engine.guard.n_channels, -1)
    channel.next = engine.ended
    engine.ended = channel


cdef void channel_close(channel_t *channel, uint64_t now_ns) noexcept nogil:
    """The session is over: what it sealed goes out, then FIN, or RESET where the layer broke."""
    cdef stream_t *stream = channel.stream
    cdef void *conn = channel.conn
    cdef int reason = channel.session.reason
    cdef uint32_t n_own = 0
    if conn is not NULL:
        channel.conn = NULL
        if channel.session.role == 0 and channel.session.n_bytes_in == 0:
            channel.transport.abort(channel.transport.ctx, conn)    # it has not said a word: no FIN of it to wait for
        else:
            if channel.out.len:
                channel.transport.write(channel.transport.ctx, conn, &channel.out)
            channel.transport.close(channel.transport.ctx, conn)
    if stream is not NULL:
        channel.stream = NULL
        channel.session.carrier_ctx = NULL
        stream_drain(stream)
        if channel.session.status < 0:
            stream_reset(stream, REASON_REFUSED if reason == REASON_REFUSED else REASON_PROTOCOL, now_ns)
        elif reason and not channel.session.is_remote and reason != REASON_SHUTDOWN:
            stream_reset(stream, reason, now_ns)
        else:
            stream_finish(stream, now_ns)
        session_wake(<session_t *>stream.mux.owner, now_ns)
        n_own = 0 if stream.flags & FLAG_DEAD else 1
    leave_parent(channel, n_own, now_ns)


cdef void leave_parent(channel_t *channel, uint32_t n_own, uint64_t now_ns) noexcept nogil:
    """A layer that was made for circuits only goes with the last of them; `n_own` streams in it are its own."""
    cdef channel_t *parent = channel.parent
    channel.parent = NULL
    if parent is not NULL and parent.kind == CHANNEL_LAYER and parent.is_auto and parent.session.mux.n_pipes <= n_own:
        session_close(&parent.session, REASON_NONE, now_ns)
        channel_arm(parent)


# Links with one peer

cdef inline uint64_t peer_key(const channel_t *channel) noexcept nogil:
    return load_be64(channel.session.peer_id) + channel.session.peer_hello.worker


cdef channel_t *links_find(engine_t *engine, const uint8_t *peer_id, uint32_t worker) noexcept nogil:
    cdef channel_t *first = <channel_t *>table_get(&engine.peers, load_be64(peer_id) + worker)
    if first is NULL or memcmp(first.session.peer_id, peer_id, 32) != 0:
        return NULL
    return first


cdef bint has_instance(const channel_t *channel) noexcept nogil:
    return load_be64(channel.session.peer_hello.instance) != 0


cdef channel_t *links_of(const channel_t *channel) noexcept nogil:
    return links_find(channel.engine, channel.session.peer_id, channel.session.peer_hello.worker)


cdef bint is_older_kept(const channel_t *older, const channel_t *newer) noexcept nogil:
    """Of two links with one peer: same dialler, the newer; crossed dials, the one that the smaller PeerID dialled."""
    cdef bint is_smaller = memcmp(older.engine.ctx.party.local.peer_id, older.session.peer_id, 32) < 0
    if older.session.state != SESSION_OPEN or older.session.role == newer.session.role:
        return False
    return (older.session.role == 0) == is_smaller


cdef void name_put(channel_t *channel) noexcept nogil:
    """Let the link be found by the peer's link key, unless an open one has the place."""
    cdef table_t *links = &channel.engine.links
    cdef channel_t *other = <channel_t *>table_get(links, load_be64(channel.session.peer_link_key))
    if other is not NULL and (other.session.state == SESSION_OPEN and not other.is_retiring):
        return
    table_drop(links, load_be64(channel.session.peer_link_key))
    if table_put(links, load_be64(channel.session.peer_link_key), channel) >= 0 and channel.engine.roster is not NULL:
        roster_enter(channel.engine.roster, channel.session.peer_link_key, channel.engine.config.worker)


cdef void link_retire(channel_t *channel, uint64_t now_ns) noexcept nogil:
    """It takes no new streams. The larger PeerID closes it, but not before the other side knows of the other link."""
    channel.is_retiring = 1
    if memcmp(channel.engine.ctx.party.local.peer_id, channel.session.peer_id, 32) > 0:
        channel.idle_ns = now_ns + RETIRE_NS
        channel_arm(channel)


cdef uint32_t n_links_max(const channel_t *channel) noexcept nogil:
    """Of the node with one peer: each worker of both dials one, and there are those that are about to end."""
    return (channel.engine.config.n_workers + min(<uint32_t>channel.session.peer_hello.n_workers, <uint32_t>WORKERS_MAX)
            + LINKS_PER_PEER)


cdef int link_enter(channel_t *channel, uint64_t now_ns) noexcept nogil:
    cdef table_t *peers = &channel.engine.peers
    cdef channel_t *first = links_of(channel)
    cdef channel_t *link = first
    cdef int n = 0
    while link is not NULL:
        n += link.session.state == SESSION_OPEN
        link = link.sibling
    if n >= LINKS_PER_PEER:
        return E_FULL
    if channel.engine.roster is not NULL and roster_link_begin(channel.engine.roster, channel.session.peer_id,
                                                               n_links_max(channel)) < 0:
        return E_FULL
    channel.is_rostered = channel.engine.roster is not NULL
    if first is not NULL and is_older_kept(first, channel):
        channel.sibling = first.sibling
        first.sibling = channel
        link_retire(channel, now_ns)
    else:
        if first is not NULL:
            table_drop(peers, peer_key(channel))
            link_retire(first, now_ns)
        if table_put(peers, peer_key(channel), channel) < 0:
            return OK                           # no memory, or two PeerIDs that begin alike: it stands alone
        channel.sibling = first
        name_put(channel)
    channel.is_known = 1
    channel.known_ns = now_ns
    return OK


cdef void link_leave(channel_t *channel) noexcept nogil:
    """Where it was the first, the next one takes its place."""
    cdef engine_t *engine = channel.engine
    cdef channel_t *link = channel.sibling
    if table_get(&engine.links, load_be64(channel.session.peer_link_key)) == channel:
        table_drop(&engine.links, load_be64(channel.session.peer_link_key))
        if engine.roster is not NULL:
            roster_leave(engine.roster, channel.session.peer_link_key, engine.config.worker)
    if channel.is_rostered:
        channel.is_rostered = 0
        roster_link_end(engine.roster, channel.session.peer_id)
    if not channel.is_known:
        return
    channel.is_known = 0
    if table_get(&engine.peers, peer_key(channel)) == channel:
        table_drop(&engine.peers, peer_key(channel))
        if link is not NULL:
            table_put(&engine.peers, peer_key(channel), link)     # into the place just left: cannot fail
            link.is_retiring = 0
            name_put(link)
        return
    link = links_of(channel)
    while link is not NULL and link.sibling != channel:
        link = link.sibling
    if link is not NULL:
        link.sibling = channel.sibling


cdef channel_t *find_link(engine_t *engine, const uint8_t *link_key) noexcept nogil:
    cdef channel_t *channel = <channel_t *>table_get(&engine.links, load_be64(link_key))
    if channel is NULL or channel.session.state != SESSION_OPEN:
        return NULL
    if memcmp(channel.session.peer_link_key, link_key, 32) != 0:
        return NULL
    return channel


cdef bint same_address(const address_t *a, const address_t *b) noexcept nogil:
    return a.type == b.type and a.port == b.port and memcmp(a.ip, b.ip, 16) == 0


cdef bint is_dialling(const channel_t *channel) noexcept nogil:
    return (channel.session.state <= SESSION_KEYED and channel.state <= CHANNEL_LIVE and channel.identity is NULL)


cdef channel_t *find_dialling(engine_t *engine, const uint8_t *link_key, const address_t *addresses,
                              uint32_t n_addresses) noexcept nogil:
    """A link to that key at one of those addresses which is being made."""
    cdef channel_t *channel = <channel_t *>table_get(&engine.dials, load_be64(link_key))
    cdef uint32_t i
    if channel is NULL or not is_dialling(channel) or memcmp(channel.session.peer_link_key, link_key, 32) != 0:
        return NULL
    for i in range(n_addresses):
        if same_address(&channel.remote, &addresses[i]):
            return channel
    return NULL


cdef void dial_enter(channel_t *channel) noexcept nogil:
    """Let the dial be found, unless another one has the place: of several to one key only the first is shared."""
    cdef table_t *dials = &channel.engine.dials
    cdef uint64_t id = load_be64(channel.session.peer_link_key)
    cdef channel_t *other = <channel_t *>table_get(dials, id)
    if other is NULL or not is_dialling(other):
        table_drop(dials, id)
        table_put(dials, id, channel)           # without memory it stands alone


cdef channel_t *channel_dial(engine_t *engine, const address_t *addresses, uint32_t n_addresses,
                             const uint8_t *link_key, const uint8_t *peer_id, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = NULL
    if not is_full(engine):
        channel = channel_create(engine, CHANNEL_LINK, &LINK_CARRIER, NULL)
    if channel is NULL:
        return NULL
    channel.state = CHANNEL_DIALLING
    channel.remote = addresses[0]
    if link_key is not NULL:
        memcpy(channel.session.peer_link_key, link_key, 32)
        channel.session.kind = HANDSHAKE_XK
        dial_enter(channel)
    else:
        channel.session.kind = HANDSHAKE_XX
    if peer_id is not NULL:
        memcpy(channel.session.peer_id, peer_id, 32)
    channel.session.deadline_ns = now_ns + engine.config.times.handshake_ns
    channel.session.start_ns = now_ns
    channel_arm(channel)
    engine.transport.dial(engine.transport.ctx, channel, addresses, n_addresses)
    channel.remote.name = NULL
    return channel


cdef bint is_own_key(const engine_t *engine, const uint8_t *link_key) noexcept nogil:
    cdef uint32_t i
    for i in range(engine.ctx.party.local.n_keys):
        if memcmp(engine.ctx.party.local.keys[i].public_key, link_key, 32) == 0:
            return True
    return False


cdef bint has_id(const uint8_t *peer_id) noexcept nogil:
    return not is_zero(peer_id, 32)


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


cdef void stream_drain(stream_t *stream) noexcept nogil:
    stream_bind(stream, NULL, &DRAIN_SINK)


# Layers: sessions inside streams

cdef int layer_on_data(stream_t *stream, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = <channel_t *>stream.owner
    channel_feed(channel, data, len, now_ns)
    if not (stream.flags & FLAG_DEAD):
        stream.rtt_ns = channel.session.mux.rtt_ns      # its credit goes as far as the records in it come from
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


cdef channel_t *channel_layer(channel_t *parent, stream_t *stream) noexcept nogil:
    cdef channel_t *channel = NULL
    if not is_full(parent.engine):
        channel = channel_create(parent.engine, CHANNEL_LAYER, layer_carrier(), stream)
    if channel is NULL:
        return NULL
    channel.state = CHANNEL_LIVE
    channel.parent = parent
    channel.stream = stream
    stream_bind(stream, channel, &LAYER_SINK)
    return channel


cdef void channel_feed(channel_t *channel, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    cdef session_t *session = &channel.session
    cdef int rc
    while session_feed(session, data, len, now_ns) == NEED_ADMIT:
        data += len - session.left
        len = session.left
        rc = channel.engine.admit(channel, now_ns)
        if rc < 0:
            session.status = rc
            channel.engine.ctx.n_status[(-rc) & 63] += 1
            session_drop(session, REASON_REFUSED, now_ns)
            break
        if session_admit(session, now_ns) < 0 or len == 0:
            break
    channel_arm(channel)


cdef channel_t *channel_accept(engine_t *engine, void *conn, const address_t *remote, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = channel_create(engine, CHANNEL_LINK, &LINK_CARRIER, NULL)
    cdef int kinds = 1 << HANDSHAKE_XK
    if channel is NULL:
        return NULL
    channel.state = CHANNEL_LIVE
    channel.conn = conn
    channel.remote = remote[0]
    channel.sink_ns = now_ns + draw(engine, engine.config.sink_min_ns, engine.config.sink_max_ns)
    if engine.config.accepts_xx:
        kinds |= 1 << HANDSHAKE_XX
    if session_listen(&channel.session, &engine.ctx, kinds, LAYER_NONE, now_ns) < 0:
        session_drop(&channel.session, REASON_MEMORY, now_ns)
    channel_arm(channel)
    return channel


# Links between two workers of this node: sessions like others, so that what crosses is bounded and ends like the rest

cdef channel_t *crossing_create(engine_t *engine) noexcept nogil:
    cdef channel_t *channel = channel_create(engine, CHANNEL_LINK, &LINK_CARRIER, NULL)
    if channel is not NULL:
        channel.is_crossing = 1
        channel.transport = &engine.crossing
        channel.state = CHANNEL_LIVE
        channel.session.hello.padding = PADDING_NONE
        channel.session.covering = NULL
    return channel


cdef channel_t *channel_cross(engine_t *engine, uint32_t worker, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = engine.crossings[worker]
    cdef const uint8_t *own_key = engine.ctx.party.local.keys[0].public_key
    if channel is not NULL and channel.session.state <= SESSION_OPEN:
        return channel
    channel = crossing_create(engine)
    if channel is NULL:
        return NULL
    channel.conn = engine.crossing.cross(engine.crossing.ctx, channel, worker)
    if channel.conn is NULL:
        channel_end(channel, now_ns)
        return NULL
    channel.crosses_to = <uint8_t>worker
    channel.is_auto = 1
    atomic_add(&engine.guard.n_auto_links, 1)
    engine.crossings[worker] = channel
    if session_connect(&channel.session, &engine.ctx, HANDSHAKE_NK, LAYER_NONE, own_key, NULL, now_ns) < 0:
        session_drop(&channel.session, REASON_MEMORY, now_ns)
        return NULL
    channel_arm(channel)
    return channel


cdef channel_t *channel_crossed(engine_t *engine, void *conn, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel = crossing_create(engine) if not engine.is_stopping else NULL
    if channel is NULL:
        return NULL
    channel.conn = conn
    channel.crosses_to = engine.config.worker
    if session_listen(&channel.session, &engine.ctx, 1 << HANDSHAKE_NK, LAYER_NONE, now_ns) < 0:
        session_drop(&channel.session, REASON_MEMORY, now_ns)
    channel_arm(channel)
    return channel


cdef void channels_sweep(engine_t *engine, uint64_t now_ns) noexcept nogil:
    cdef channel_t *channel
    while engine.ended is not NULL:
        channel = engine.ended
        engine.ended = channel.next
        session_clear(&channel.session, now_ns)
        secret_give(engine.ctx.party.secrets, channel.identity)
        mem_give(engine.pool, channel, sizeof(channel_t))
