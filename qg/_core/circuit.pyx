# SPDX-License-Identifier: MIT
"""Circuits: paths built by their source, and extended by the relays on them."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from .channel cimport (
    CHANNEL_LAYER, CHANNEL_LINK, HOPS_MAX, channel_arm, channel_claim, channel_cross, channel_dial, channel_layer,
    channel_t, draw,
    engine_t, find_dialling, find_link, has_id, hop_t, is_own_key, path_t, services_take, stream_drain)
from .flow cimport EVENT_CONNECT_FAILED, EVENT_PEER_UP, event_t, outbox_put
from .guard cimport (
    guard_allows_relay, guard_allows_target, guard_is_spent, guard_pipe_take, guard_target_take)
from .ledger cimport bucket_take
from .handshake cimport HANDSHAKE_NK, HANDSHAKE_XK
from .heap cimport heap_set
from .memory cimport mem_give, mem_take
from .mux cimport FLAG_ACCEPTED, mux_can_open, mux_open, stream_reset, stream_t
from .relay cimport SPLICE_WAITS, relay_join, relay_open, relay_refuse, splice_t
from .roster cimport roster_other
from .secret cimport secret_give
from .session cimport (
    LAYER_SOURCE, SESSION_HANDSHAKE, SESSION_KEYED, SESSION_OPEN, session_close, session_connect, session_drop)
from .status cimport (
    E_IDENTITY, E_STATE, LAYER_OVERHEAD, OK, REASON_BUSY, REASON_CANCELLED, REASON_HOPS, REASON_LIMIT, REASON_MEMORY,
    REASON_REFUSED, REASON_SHUTDOWN, REASON_UNREACHABLE, WINDOW_MIN)
from .sys cimport SECOND_NS, atomic_add, atomic_peek, load_be64
from .table cimport table_drop, table_get, table_put, table_t
from .wire cimport (
    ADDRESS_IP4, ADDRESS_MAX, ADDRESS_NAME, PRIORITY_NORMAL, STREAM_PIPE, STREAM_RELAY, frame_t, hello_t,
    open_relay_parse, open_relay_put, open_relay_t)

cdef enum:
    ONWARD_PER_S = 400          # pipes per link: many sources may want one next node, which closes a link that sends
                                # it 1,000 control frames in a second

cdef uint64_t DIAL_NS = SECOND_NS       # to connect, where another worker has a link: the peer may be behind NAT


cdef void report_peer(channel_t *channel, uint64_t request) noexcept nogil:
    cdef event_t event
    memset(&event, 0, sizeof(event))
    event.type = EVENT_PEER_UP
    event.id = channel.id
    event.a = request
    event.b = ((1 if channel.kind == CHANNEL_LAYER else 0) | (2 if channel.session.role == 0 else 0)
               | (0 if channel.is_retiring else 4)
               | (<uint64_t>channel.session.tx.suite << 8))
    memcpy(event.peer_id, channel.session.peer_id, 32)
    memcpy(event.link_key, channel.session.peer_link_key, 32)
    event.address = channel.remote
    event.address.name = NULL
    event.blocks = services_take(channel)
    note_terms(&event, channel)
    channel.is_reported = 1
    outbox_put(&channel.engine.outbox, &event)


# The relay's side

cdef int onward_hops(engine_t *engine, int hops_left) noexcept nogil:
    """hops_left of the onward pipe, 0 to refuse (protocol.md 6.5)."""
    if hops_left < 8:
        return hops_left - 1
    return <int>(8 - draw(engine, 0, 1))


cdef void refuse_later(engine_t *engine, splice_t *splice, int reason, uint64_t now_ns) noexcept nogil:
    relay_refuse(splice, reason, now_ns + draw(engine, 50, 240) * 1000000)      # relay_tick may be 10 ms late
    circuits_arm(engine, splice.due_ns)


cdef void circuits_arm(engine_t *engine, uint64_t at_ns) noexcept nogil:
    if engine.relay_timer.idx == 0 or at_ns < engine.relay_timer.at_ns:
        heap_set(&engine.timers, &engine.relay_timer, at_ns)


cdef int check_target(channel_t *layer, open_relay_t *target) noexcept nogil:
    """Loops, and the addresses that policy lets this relay dial: OK or a reason. Others are taken out."""
    cdef engine_t *engine = layer.engine
    cdef uint32_t i, n = 0
    if is_own_key(engine, target.link_key) or memcmp(layer.parent.session.peer_link_key, target.link_key, 32) == 0:
        return REASON_REFUSED
    for i in range(target.n_addresses):
        if guard_allows_target(engine.guard, &target.addresses[i]):
            target.addresses[n] = target.addresses[i]
            n += 1
    target.n_addresses = n
    return <int>OK if n else <int>REASON_REFUSED


cdef channel_t *dial_onward(channel_t *layer, const open_relay_t *target, uint64_t now_ns) noexcept nogil:
    """A new link, to as many of the addresses as the neighbour may have dialled now; NULL without room for one more.

    It is given up soon where another worker has one that will do.
    """
    cdef engine_t *engine = layer.engine
    cdef channel_t *link = NULL
    cdef uint32_t n = 1
    while n < target.n_addresses and guard_target_take(engine.guard, layer.parent.session.peer_id, now_ns) == OK:
        n += 1
    if 4 * atomic_peek(&engine.guard.n_auto_links) < engine.config.max_sessions:
        # Whose key it is, each circuit compares for itself: others may wait for this dial, and one may name anybody.
        link = channel_dial(engine, target.addresses, n, target.link_key, NULL, now_ns)
    if link is not NULL:
        link.is_auto = 1
        atomic_add(&engine.guard.n_auto_links, 1)
        if has_other(engine, target.link_key):
            link.session.deadline_ns = min(link.session.deadline_ns, now_ns + DIAL_NS)
            channel_arm(link)
    return link


cdef int circuit_extend(channel_t *layer, stream_t *stream, const frame_t *frame, uint64_t now_ns) noexcept nogil:
    """A source asks to extend its circuit from here."""
    cdef engine_t *engine = layer.engine
    cdef open_relay_t target
    cdef channel_t *link
    cdef splice_t *splice
    cdef int reason = OK
    open_relay_parse(&target, frame.data, frame.len)        # the frame was checked when it was read
    if layer.is_crossing:
        return circuit_crossed(layer, stream, &target, now_ns)
    if layer.parent is NULL or layer.stream is NULL:
        return -REASON_UNREACHABLE
    splice = relay_open(&engine.relay, stream, &layer.parent.asker, now_ns)
    if splice is NULL:
        return -REASON_MEMORY
    memcpy(splice.link_key, target.link_key, 32)
    memcpy(splice.peer_id, target.peer_id, 32)
    splice.hops_left = <uint8_t>onward_hops(engine, layer.stream.hops_left)
    circuits_arm(engine, splice.due_ns)
    if guard_pipe_take(engine.guard, &layer.parent.pipes, now_ns) < 0:
        reason = REASON_LIMIT
    elif not engine.config.relays or not guard_allows_relay(engine.guard, layer.parent.session.peer_id):
        reason = REASON_REFUSED
    elif guard_is_spent(engine.guard):
        reason = REASON_LIMIT
    elif splice.hops_left == 0:
        reason = REASON_HOPS
    else:
        reason = check_target(layer, &target)
    if reason != OK:
        refuse_later(engine, splice, reason, now_ns)
        return OK
    link = find_link(engine, target.link_key)
    if link is NULL:
        link = find_dialling(engine, target.link_key, target.addresses, target.n_addresses)
    if link is NULL and guard_target_take(engine.guard, layer.parent.session.peer_id, now_ns) < 0:
        reason = REASON_LIMIT
    elif link is NULL:
        link = dial_onward(layer, &target, now_ns)
        reason = REASON_BUSY
    if link is NULL:
        link = other_link(engine, target.link_key, now_ns)
    if link is NULL:
        refuse_later(engine, splice, reason, now_ns)
        return OK
    await_link(engine, splice, link, now_ns)
    return OK


cdef void await_link(engine_t *engine, splice_t *splice, channel_t *link, uint64_t now_ns) noexcept nogil:
    splice.link = link
    if link.session.state == SESSION_OPEN:
        join_splice(engine, splice, link, now_ns)


cdef void join_splice(engine_t *engine, splice_t *splice, channel_t *link, uint64_t now_ns) noexcept nogil:
    cdef uint8_t[65 + ADDRESS_MAX] opening
    cdef int kind = STREAM_RELAY if link.is_crossing else STREAM_PIPE
    cdef size_t len
    cdef stream_t *far
    if (has_id(splice.peer_id) and not link.is_crossing
            and memcmp(splice.peer_id, link.session.peer_id, 32) != 0):
        refuse_later(engine, splice, REASON_UNREACHABLE, now_ns)
        return
    if (mux_can_open(&link.session.mux, kind) < 0
            or bucket_take(&link.onward, ONWARD_PER_S, ONWARD_PER_S, now_ns) < 0):
        refuse_later(engine, splice, REASON_BUSY, now_ns)
        return
    len = opening_put(opening, splice, link)
    far = mux_open(&link.session.mux, kind, PRIORITY_NORMAL,        # no source goes before the others
                   min(splice.near.tx_credit, link.session.mux.window_max), opening, len)
    if far is NULL:
        refuse_later(engine, splice, REASON_MEMORY, now_ns)
        return
    relay_join(splice, far, now_ns)


# Circuits to peers whose link is with another worker of this node (architecture.md 6)

cdef bint has_other(engine_t *engine, const uint8_t *link_key) noexcept nogil:
    return engine.roster is not NULL and roster_other(engine.roster, link_key, engine.config.worker) >= 0


cdef channel_t *other_link(engine_t *engine, const uint8_t *link_key, uint64_t now_ns) noexcept nogil:
    """The link to a worker that has one with that peer, NULL."""
    cdef int worker = E_STATE
    if engine.roster is not NULL:
        worker = roster_other(engine.roster, link_key, engine.config.worker)
    return channel_cross(engine, <uint32_t>worker, now_ns) if worker >= 0 else NULL


cdef size_t opening_put(uint8_t *dst, const splice_t *splice, const channel_t *link) noexcept nogil:
    """A peer hears how many hops are left. Another worker hears the target too; nobody dials there, so the hops travel
    as its address's port."""
    cdef open_relay_t target
    if not link.is_crossing:
        dst[0] = splice.hops_left
        return 1
    memset(&target, 0, sizeof(target))
    target.link_key = splice.link_key
    target.peer_id = splice.peer_id
    target.n_addresses = 1
    target.addresses[0].type = ADDRESS_IP4
    target.addresses[0].port = splice.hops_left
    return <size_t>open_relay_put(dst, &target)


cdef int circuit_crossed(channel_t *crossing, stream_t *stream, const open_relay_t *target,
                         uint64_t now_ns) noexcept nogil:
    """The same for a circuit that another worker was asked for, and allowed: OK, or minus a reason_t."""
    cdef engine_t *engine = crossing.engine
    cdef channel_t *link = find_link(engine, target.link_key)
    cdef splice_t *splice
    if link is NULL:
        return -REASON_UNREACHABLE
    splice = relay_open(&engine.relay, stream, NULL, now_ns)
    if splice is NULL:
        return -REASON_MEMORY
    memcpy(splice.link_key, target.link_key, 32)
    memcpy(splice.peer_id, target.peer_id, 32)
    splice.hops_left = <uint8_t>target.addresses[0].port
    circuits_arm(engine, splice.due_ns)
    join_splice(engine, splice, link, now_ns)
    return OK


cdef inline splice_t *waiting_first(channel_t *channel) noexcept nogil:
    """Where to begin looking for splices that wait for this channel; only a link that was dialled has any."""
    return channel.engine.relay.splices if channel.kind == CHANNEL_LINK and channel.session.role == 0 else NULL


cdef void circuits_join(channel_t *link, uint64_t now_ns) noexcept nogil:
    cdef splice_t *splice = waiting_first(link)
    cdef splice_t *following
    while splice is not NULL:
        following = splice.next
        if splice.state == SPLICE_WAITS and splice.link == link:
            join_splice(link.engine, splice, link, now_ns)
        splice = following


cdef void circuits_refuse(channel_t *link, uint64_t now_ns) noexcept nogil:
    cdef engine_t *engine = link.engine
    cdef splice_t *splice = waiting_first(link)
    cdef channel_t *other
    while splice is not NULL:
        if splice.state == SPLICE_WAITS and splice.link == link:
            other = other_link(engine, splice.link_key, now_ns) if not link.is_crossing else NULL
            if other is NULL:
                refuse_later(engine, splice, REASON_UNREACHABLE, now_ns)
            else:
                await_link(engine, splice, other, now_ns)
        splice = splice.next


# The source's side

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
    secret_give(engine.ctx.party.secrets, path.identity)
    mem_give(engine.pool, path, sizeof(path_t) + (path.n_hops - 1) * sizeof(hop_t))


cdef inline void note_terms(event_t *event, const channel_t *channel) noexcept nogil:
    """What the peer said of relaying."""
    cdef const hello_t *hello = &channel.session.peer_hello
    event.has_terms = hello.has_terms
    event.rate_kib = hello.rate_kib
    event.burst_kib = hello.burst_kib


cdef void note_refuser(event_t *event, const channel_t *channel) noexcept nogil:
    """A stream that is reset before it was accepted was refused by whoever it was opened at, not by the hop behind."""
    if channel is not NULL and channel.stream is not NULL and channel.parent is not NULL:
        event.b = channel.session.is_remote and not (channel.stream.flags & FLAG_ACCEPTED)
        note_terms(event, channel.parent)


cdef void path_fail(engine_t *engine, path_t *path, int reason, int status) noexcept nogil:
    cdef event_t event
    memset(&event, 0, sizeof(event))
    note_refuser(&event, path.channel)
    event.type = EVENT_CONNECT_FAILED
    event.id = path.request
    event.a = path.hop_idx
    event.reason = <uint8_t>reason
    event.status = status
    path_free(engine, path)
    outbox_put(&engine.outbox, &event)


cdef void give_identity(path_t *path, channel_t *channel) noexcept nogil:
    """The target's session shows the path's throw-away identity where there is one."""
    if path.identity is not NULL:
        memset(channel.session.hello.instance, 0, 8)    # this and what follows would tell whose identity this is
        channel.session.hello.n_services = 0
        channel.session.hello.has_terms = 0
    channel.identity = path.identity
    channel.session.local = path.identity
    path.identity = NULL


cdef inline bint may_share(const path_t *path) noexcept nogil:
    """May its first link be one that exists? Not one for a throw-away identity, nor one to whoever answers."""
    return path.hops[0].has_link_key and (path.n_hops > 1 or not path.is_new)


cdef void path_start(engine_t *engine, path_t *path, uint64_t now_ns) noexcept nogil:
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
    if may_share(path):
        link = find_link(engine, hop.link_key)
        if link is not NULL:
            path.channel = link
            path_next(engine, path, now_ns)
            return
        if hop.addresses[0].type != ADDRESS_NAME:       # another name may lead elsewhere
            link = find_dialling(engine, hop.link_key, hop.addresses, hop.n_addresses)
    if link is not NULL and (not has_id(link.session.peer_id) or memcmp(link.session.peer_id, hop.peer_id, 32) == 0
                             or (not hop.has_peer_id and link.session.state == SESSION_KEYED)):
        path.channel = link                     # somebody else's dial is as good as one of its own
        return
    path.channel = channel_dial(engine, hop.addresses, hop.n_addresses, hop.link_key if hop.has_link_key else NULL,
                        hop.peer_id if hop.has_peer_id else NULL, now_ns)
    if path.channel is NULL:
        path_fail(engine, path, REASON_LIMIT, 0)
    elif path.n_hops == 1:
        give_identity(path, path.channel)


cdef void path_stop(engine_t *engine, path_t *path, int reason, uint64_t now_ns) noexcept nogil:
    """It goes no further, for a reason of our own: the layers that were made for it go as well."""
    cdef channel_t *channel = path.channel
    path_fail(engine, path, reason, 0)
    if channel.is_auto and channel.kind == CHANNEL_LAYER and channel.session.mux.n_pipes == 0:
        session_close(&channel.session, REASON_CANCELLED, now_ns)
        channel_arm(channel)


cdef void path_layer(engine_t *engine, path_t *path, stream_t *stream, uint64_t now_ns) noexcept nogil:
    """Start the session with the hop being reached inside the stream: anonymous with a relay, full with the target."""
    cdef hop_t *hop = &path.hops[path.hop_idx]
    cdef channel_t *parent = path.channel
    cdef channel_t *layer = channel_layer(parent, stream)
    cdef int kind = HANDSHAKE_XK if path.hop_idx == path.n_hops - 1 else HANDSHAKE_NK
    if layer is NULL:
        stream_drain(stream)
        stream_reset(stream, REASON_MEMORY, now_ns)
        path_stop(engine, path, REASON_LIMIT, now_ns)
        return
    layer.is_auto = kind == HANDSHAKE_NK
    layer.remote = hop.addresses[0]
    layer.remote.name = NULL
    if kind == HANDSHAKE_XK:
        give_identity(path, layer)
    layer.session.large = parent.session.large - LAYER_OVERHEAD
    layer.session.small = parent.session.small - LAYER_OVERHEAD
    layer.hops = stream.hops_left if parent.kind == CHANNEL_LINK else parent.hops
    memcpy(layer.session.peer_link_key, hop.link_key, 32)
    if kind == HANDSHAKE_NK and path.isolation:
        share(path, layer)
    path.channel = layer
    if session_connect(&layer.session, &engine.ctx, kind, LAYER_SOURCE, hop.link_key,
                       hop.peer_id if hop.has_peer_id else NULL, now_ns) < 0:
        session_drop(&layer.session, REASON_MEMORY, now_ns)
    channel_arm(layer)


cdef inline uint64_t shared_id(const path_t *path, const channel_t *parent, const hop_t *hop) noexcept nogil:
    """A name for the table; what it finds is compared in full."""
    cdef uint64_t id = (path.isolation ^ load_be64(hop.link_key)) + parent.id * <uint64_t>0x9e3779b97f4a7c15
    return id if id else 1


cdef void share(path_t *path, channel_t *layer) noexcept nogil:
    """Let paths with the same isolation find the layer. Without memory it stands alone."""
    cdef table_t *shared = &layer.engine.shared
    layer.isolation = path.isolation
    layer.shared_id = shared_id(path, layer.parent, &path.hops[path.hop_idx])
    table_drop(shared, layer.shared_id)
    table_put(shared, layer.shared_id, layer)


cdef channel_t *find_shared(engine_t *engine, const path_t *path, const hop_t *hop) noexcept nogil:
    """A layer to that relay in the channel that the path has reached, made for paths of the same isolation; NULL.

    The pipe below it must have been opened for as many hops as this path has.
    """
    cdef channel_t *layer
    if path.isolation == 0:
        return NULL
    layer = <channel_t *>table_get(&engine.shared, shared_id(path, path.channel, hop))
    if layer is NULL or layer.isolation != path.isolation or layer.parent != path.channel or layer.hops < path.n_hops:
        return NULL
    if memcmp(layer.session.peer_link_key, hop.link_key, 32) != 0 or layer.session.state > SESSION_OPEN:
        return NULL
    if layer.session.state == SESSION_HANDSHAKE:
        return layer
    if hop.has_peer_id and memcmp(layer.session.peer_id, hop.peer_id, 32) != 0:
        return NULL
    return layer if mux_can_open(&layer.session.mux, STREAM_RELAY) >= 0 else NULL


cdef void path_next(engine_t *engine, path_t *path, uint64_t now_ns) noexcept nogil:
    """The channel of the path is usable: it is the target's, or the circuit goes one hop on."""
    cdef channel_t *channel = path.channel
    cdef stream_t *stream
    cdef open_relay_t target
    cdef uint8_t[512] opening
    cdef hop_t *hop
    cdef uint32_t next_idx = 0 if channel.kind == CHANNEL_LINK else path.hop_idx + 1
    if channel.session.kind != HANDSHAKE_NK and path.hop_idx == path.n_hops - 1:
        hop = &path.hops[path.hop_idx]
        if hop.has_peer_id and memcmp(hop.peer_id, channel.session.peer_id, 32) != 0:
            path_fail(engine, path, REASON_REFUSED, E_IDENTITY)
            return
        channel_claim(channel)
        report_peer(channel, path.request)
        path_free(engine, path)
        return
    if channel.session.state > SESSION_OPEN:
        path_fail(engine, path, REASON_LIMIT, 0)    # a path that shares the layer found no room, and closed it
        return
    hop = &path.hops[next_idx]
    channel = find_shared(engine, path, hop) if next_idx + 1 < path.n_hops else NULL
    if channel is not NULL:
        path.hop_idx = next_idx
        path.channel = channel
        if channel.session.state != SESSION_HANDSHAKE:
            path_next(engine, path, now_ns)     # at most as often as there are hops
        return
    channel = path.channel
    if channel.kind == CHANNEL_LINK:
        opening[0] = <uint8_t>draw(engine, max(5, <int>path.n_hops), 8)
        stream = mux_open(&channel.session.mux, STREAM_PIPE, PRIORITY_NORMAL, WINDOW_MIN, opening, 1)
    else:
        path.hop_idx = next_idx
        memset(&target, 0, sizeof(target))
        target.link_key = hop.link_key
        target.peer_id = hop.peer_id
        target.n_addresses = hop.n_addresses
        memcpy(target.addresses, hop.addresses, sizeof(target.addresses))
        stream = mux_open(&channel.session.mux, STREAM_RELAY, PRIORITY_NORMAL, WINDOW_MIN, opening,
                          open_relay_put(opening, &target))
    if stream is NULL:
        path_stop(engine, path, REASON_BUSY, now_ns)
        return
    if channel.kind == CHANNEL_LINK:
        stream.hops_left = opening[0]
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
    cdef channel_t *link
    while path is not NULL:
        following = path.next
        if path.channel == channel:
            link = NULL
            if channel.kind == CHANNEL_LINK and may_share(path):
                link = find_link(engine, path.hops[0].link_key)
            if link is not NULL:
                path.channel = link
                path_next(engine, path, now_ns)     # the peer's own dial has come through meanwhile
            else:
                path_fail(engine, path, reason, channel.session.status)
        path = following


cdef void path_cancel(engine_t *engine, uint64_t request, uint64_t now_ns) noexcept nogil:
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
    """Does another path or a splice wait for this channel? Splices wait for links that are not open yet."""
    cdef path_t *path = channel.engine.paths
    cdef splice_t *splice = channel.engine.relay.splices
    while path is not NULL:
        if path.channel == channel:
            return True
        path = path.next
    while splice is not NULL and channel.session.state < SESSION_OPEN:
        if splice.link == channel:
            return True
        splice = splice.next
    return False
