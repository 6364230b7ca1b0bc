# SPDX-License-Identifier: MIT
"""One worker: engine, loop and transports wired together on a native thread."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_THREAD_CPUTIME_ID, clock_gettime, timespec
from posix.unistd cimport close as fd_close, pwrite, write as fd_write

from .abi cimport qg_extender_v1
from .border cimport drop_blocks
from .bridge cimport (
    bridge_close, bridge_open, bridge_pending, bridge_write, bridges_turn, end_t)
from .channel cimport channel_crossed, channel_t, find_link, hop_t, path_t
from .circuit cimport path_cancel, path_create, path_free, path_start
from .crypto cimport wipe
from .engine cimport (
    engine_accepted, engine_clear, engine_close_peer, engine_configure, engine_connected, engine_deadline,
    engine_dial_failed, engine_drain, engine_end_twins, engine_ended, engine_halt, engine_lost, engine_open,
    engine_ping, engine_received, engine_serve, engine_settle, engine_stop, engine_tell_peers, engine_tick,
    engine_writable)
from .flow cimport (
    EVENT_CONFIGURED, EVENT_LISTENING, EVENT_STREAM_SENT, event_t, flow_accept, flow_finish, flow_reset, flow_used,
    flow_write, outbox_emit, outbox_is_empty, outbox_owe, outbox_put)
from .handshake cimport local_fill, local_t
from .keyfile cimport ring_t
from .loop cimport (
    gate_free, gate_init, gate_open, loop_free, loop_hooks_t, loop_init, loop_now, loop_set_deadline, loop_stop,
    loop_thread_start, loop_wake)
from .memory cimport chain_clear, chain_t, pool_clear, pool_collect
from .relay cimport relay_relieve
from .resolve cimport resolve_cancel, resolve_init, resolve_start, resolve_stop
from .roster cimport roster_other
from .secret cimport SECRET_SLOT_LEN, secret_pool_free, secret_take
from .service cimport (
    SERVICE_ID_LEN, services_add, services_init, services_remove, services_settle, services_stop)
from .shared cimport bell_ring, bell_tap, inbox_push, inbox_take, ring_drop, ring_filled, ring_publish, ring_vacant
from .status cimport E_IO, E_MEMORY, OK
from .sys cimport NEVER, SECOND_NS, atomic_add, atomic_exchange_ptr, atomic_peek, atomic_poke, store_be64
from .tcp cimport (
    TCP_LISTENERS_MAX, TCP_REUSEPORT, TCP_REUSEPORT_FIRST, address_from_sockaddr, conn_t, sockaddr_from_address,
    tcp_abort, tcp_adopt, tcp_close, tcp_dial, tcp_events_t, tcp_init, tcp_listen, tcp_listen_address, tcp_pending_len,
    tcp_shutdown, tcp_stop, tcp_unlisten, tcp_write)
from .tunnel cimport tunnel_join, tunnel_supply, tunnels_init, tunnels_settle, tunnels_stop
from .uv cimport sockaddr_storage
from .wire cimport ADDRESS_NAME, address_t

cdef enum:
    BACKLOG = 1024
    CERT_LIFE_S = 366 * 86400   # of the certificates made at start, unless the key itself ends before

cdef uint64_t STOP_NS = 3 * SECOND_NS       # for goodbyes
cdef uint64_t DIAL_STEP_NS = 3 * SECOND_NS  # for an address while there are others: time for a lost SYN


# Events: worker to Python

cdef int on_emit(void *ctx, const event_t *event) noexcept nogil:
    cdef worker_t *worker = <worker_t *>ctx
    cdef int64_t slot = ring_vacant(&worker.ring.at, RING_LEN)
    if slot < 0:
        worker.has_news = 1                     # all of it may have come quietly
        return 0
    worker.ring.events[slot] = event[0]
    ring_publish(&worker.ring.at)
    if event.type == EVENT_STREAM_SENT and worker.quiet_len + event.a <= QUIET_MAX:
        worker.quiet_len += event.a
        worker.has_quiet_news = 1
    else:
        worker.has_news = 1
    return 1


cdef void signal_python(worker_t *worker) noexcept nogil:
    cdef uint64_t one = 1
    cdef bint is_rung = False
    if worker.has_news:
        worker.quiet_len = 0
        is_rung = bell_ring(&worker.node.is_asleep)
    elif worker.has_quiet_news:
        is_rung = bell_tap(&worker.node.is_asleep)
    worker.has_news = worker.has_quiet_news = 0
    if is_rung:
        fd_write(worker.node.event_fd, &one, 8)


# Transport: engine to tcp

cdef void dial_free(worker_t *worker, dial_t *dial) noexcept nogil:
    cdef dial_t **link = &worker.dials
    while link[0] is not NULL and link[0] != dial:
        link = &link[0].next
    if link[0] is not NULL:
        link[0] = dial.next
    free(dial)


cdef dial_t *dial_of(worker_t *worker, channel_t *channel) noexcept nogil:
    cdef dial_t *dial = worker.dials
    while dial is not NULL and dial.channel != channel:
        dial = dial.next
    return dial


cdef void dial_next(worker_t *worker, dial_t *dial, uint64_t now_ns) noexcept nogil:
    """Try the next address; when none is left the engine is told on the next turn, never from inside its own call."""
    cdef sockaddr_storage address
    cdef conn_t *conn = NULL
    dial.channel.conn = NULL
    dial.next_ns = NEVER
    while dial.address_idx < dial.n_addresses:
        dial.address_idx += 1
        if sockaddr_from_address(&address, &dial.addresses[dial.address_idx - 1]) < 0:
            continue
        if tcp_dial(&worker.tcp, &conn, &address, dial.channel) >= 0:
            dial.channel.conn = conn
            dial.channel.remote = dial.addresses[dial.address_idx - 1]
            dial.next_ns = NEVER if dial.address_idx == dial.n_addresses else now_ns + DIAL_STEP_NS
            worker.dial_ns = min(worker.dial_ns, dial.next_ns)
            return
    dial.has_failed = 1
    loop_wake(&worker.loop)


cdef void dials_tick(worker_t *worker, uint64_t now_ns) noexcept nogil:
    """An address that is silent is given up for the next one; the last one has all the time that is left."""
    cdef dial_t *dial = worker.dials
    if now_ns < worker.dial_ns:
        return
    worker.dial_ns = NEVER
    while dial is not NULL:
        if now_ns >= dial.next_ns:
            tcp_abort(<conn_t *>dial.channel.conn)
            dial_next(worker, dial, now_ns)
        worker.dial_ns = min(worker.dial_ns, dial.next_ns)
        dial = dial.next


cdef void transport_dial(void *ctx, channel_t *channel, const address_t *addresses,
                         uint32_t n_addresses) noexcept nogil:
    cdef worker_t *worker = <worker_t *>ctx
    cdef dial_t *dial = <dial_t *>calloc(1, sizeof(dial_t))
    if dial is NULL:
        return                                  # the handshake's deadline ends it
    dial.channel = channel
    dial.next_ns = NEVER
    dial.next = worker.dials
    worker.dials = dial
    if addresses.type == ADDRESS_NAME:
        if resolve_start(&worker.resolve, addresses, channel) < 0:
            dial.has_failed = 1
            loop_wake(&worker.loop)
        return
    dial.n_addresses = min(n_addresses, <uint32_t>DIAL_ADDRESSES_MAX)
    memcpy(dial.addresses, addresses, dial.n_addresses * sizeof(address_t))
    dial_next(worker, dial, loop_now(&worker.loop))


cdef void on_resolved(void *ctx, void *user, const address_t *addresses, uint32_t n_addresses, int uv_error,
                      uint64_t now_ns) noexcept nogil:
    cdef worker_t *worker = <worker_t *>ctx
    cdef dial_t *dial = dial_of(worker, <channel_t *>user)
    if dial is NULL:
        return
    dial.n_addresses = min(n_addresses, <uint32_t>DIAL_ADDRESSES_MAX)
    memcpy(dial.addresses, addresses, dial.n_addresses * sizeof(address_t))
    dial_next(worker, dial, now_ns)


cdef void fail_dials(worker_t *worker, uint64_t now_ns) noexcept nogil:
    cdef dial_t *dial = worker.dials
    cdef channel_t *channel
    while dial is not NULL:
        if dial.has_failed:
            channel = dial.channel
            dial_free(worker, dial)
            engine_dial_failed(&worker.engine, channel, now_ns)
            dial = worker.dials
        else:
            dial = dial.next


cdef void transport_cancel(void *ctx, channel_t *channel) noexcept nogil:
    cdef worker_t *worker = <worker_t *>ctx
    cdef dial_t *dial = dial_of(worker, channel)
    if dial is NULL:
        return
    resolve_cancel(&worker.resolve, channel)
    dial_free(worker, dial)
    if channel.conn is not NULL:
        tcp_abort(<conn_t *>channel.conn)
        channel.conn = NULL


cdef void transport_write(void *ctx, void *conn, chain_t *chain) noexcept nogil:
    tcp_write(<conn_t *>conn, chain)


cdef uint64_t transport_pending(void *ctx, void *conn) noexcept nogil:
    return tcp_pending_len(<conn_t *>conn)


cdef void transport_shutdown(void *ctx, void *conn) noexcept nogil:
    tcp_shutdown(<conn_t *>conn)


cdef void transport_close(void *ctx, void *conn) noexcept nogil:
    tcp_close(<conn_t *>conn)


cdef void transport_abort(void *ctx, void *conn) noexcept nogil:
    tcp_abort(<conn_t *>conn)


# Transport: tcp to engine

cdef inline uint64_t load_of(worker_t *worker) noexcept nogil:
    return atomic_peek(&worker.n_conns) + atomic_peek(&worker.n_offered)


cdef bint on_offer(void *ctx, int fd, const sockaddr_storage *remote) noexcept nogil:
    """The kernel spreads connections by hash, and unevenly: one goes to the worker that has fewest."""
    cdef worker_t *worker = <worker_t *>ctx
    cdef node_t *node = worker.node
    cdef worker_t *least = worker
    cdef command_t *command
    cdef uint32_t i
    look_at_load(worker)
    for i in range(node.n_workers):
        if load_of(&node.workers[i]) < load_of(least):
            least = &node.workers[i]
    if least == worker:
        return False
    command = command_make(COMMAND_ADOPT, 0, 0)
    if command is NULL or address_from_sockaddr(&command.address, remote) < 0:
        free(command)
        return False
    command.a = <uint64_t>fd + 1
    atomic_add(&least.n_offered, 1)
    worker_post(least, command)
    return True


cdef void look_at_load(worker_t *worker) noexcept nogil:
    atomic_poke(&worker.n_conns, worker.tcp.n_conns - worker.tcp.n_lingering)


cdef void do_adopt(worker_t *worker, command_t *command) noexcept nogil:
    cdef sockaddr_storage remote
    cdef int fd = <int>(command.a - 1)
    command.a = 0
    sockaddr_from_address(&remote, &command.address)
    tcp_adopt(&worker.tcp, fd, &remote)
    look_at_load(worker)
    atomic_add(&worker.n_offered, -1)


cdef void *on_accept(void *ctx, conn_t *conn, const sockaddr_storage *remote, uint64_t now_ns) noexcept nogil:
    cdef worker_t *worker = <worker_t *>ctx
    cdef address_t address
    cdef channel_t *channel
    if address_from_sockaddr(&address, remote) < 0:
        return NULL
    channel = engine_accepted(&worker.engine, conn, &address, now_ns)
    engine_settle(&worker.engine, now_ns)
    return channel


cdef void on_connect(void *ctx, void *user, conn_t *conn, uint64_t now_ns) noexcept nogil:
    cdef worker_t *worker = <worker_t *>ctx
    cdef dial_t *dial = dial_of(worker, <channel_t *>user)
    if dial is not NULL:
        dial_free(worker, dial)
    engine_connected(&worker.engine, <channel_t *>user, conn, now_ns)
    engine_settle(&worker.engine, now_ns)


cdef void on_dial_error(void *ctx, void *user, int uv_error, uint64_t now_ns) noexcept nogil:
    cdef worker_t *worker = <worker_t *>ctx
    cdef dial_t *dial = dial_of(worker, <channel_t *>user)
    if dial is not NULL:
        dial_next(worker, dial, now_ns)


cdef void on_read(void *ctx, void *user, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    cdef worker_t *worker = <worker_t *>ctx
    engine_received(&worker.engine, <channel_t *>user, data, len, now_ns)
    engine_settle(&worker.engine, now_ns)


cdef void on_end(void *ctx, void *user, uint64_t now_ns) noexcept nogil:
    cdef worker_t *worker = <worker_t *>ctx
    engine_ended(&worker.engine, <channel_t *>user, now_ns)
    engine_settle(&worker.engine, now_ns)


cdef void on_lost(void *ctx, void *user, int uv_error, uint64_t now_ns) noexcept nogil:
    cdef worker_t *worker = <worker_t *>ctx
    engine_lost(&worker.engine, <channel_t *>user, now_ns)
    engine_settle(&worker.engine, now_ns)


cdef void on_writable(void *ctx, void *user, uint64_t now_ns) noexcept nogil:
    cdef worker_t *worker = <worker_t *>ctx
    engine_writable(&worker.engine, <channel_t *>user, now_ns)
    engine_settle(&worker.engine, now_ns)


cdef void on_accept_error(void *ctx, int uv_error, uint64_t now_ns) noexcept nogil:
    pass                                        # tcp counts it


# Bridges: to and from other workers

cdef void shore_wake(void *ctx) noexcept nogil:
    loop_wake(&(<worker_t *>ctx).loop)


cdef void *crossing_open(void *ctx, channel_t *channel, uint32_t worker) noexcept nogil:
    cdef worker_t *self = <worker_t *>ctx
    return bridge_open(&self.shore, &self.node.workers[worker].shore, channel)


cdef void crossing_write(void *ctx, void *conn, chain_t *chain) noexcept nogil:
    bridge_write(<end_t *>conn, chain)


cdef uint64_t crossing_pending(void *ctx, void *conn) noexcept nogil:
    return bridge_pending(<end_t *>conn)


cdef void crossing_close(void *ctx, void *conn) noexcept nogil:
    bridge_close(<end_t *>conn)


cdef void *on_bridge(void *ctx, end_t *end, uint64_t now_ns) noexcept nogil:
    return channel_crossed(&(<worker_t *>ctx).engine, end, now_ns)


cdef void on_bridge_read(void *ctx, void *user, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    engine_received(&(<worker_t *>ctx).engine, <channel_t *>user, data, len, now_ns)


cdef void on_bridge_end(void *ctx, void *user, uint64_t now_ns) noexcept nogil:
    engine_ended(&(<worker_t *>ctx).engine, <channel_t *>user, now_ns)


cdef void on_bridge_writable(void *ctx, void *user, uint64_t now_ns) noexcept nogil:
    engine_writable(&(<worker_t *>ctx).engine, <channel_t *>user, now_ns)


cdef void bridges_init(worker_t *worker) noexcept nogil:
    """Before the first worker runs: any may open a bridge to any other."""
    worker.shore.ctx = worker
    worker.shore.wake = shore_wake
    worker.shore.pool = &worker.pool
    worker.shore.events.on_bridge = on_bridge
    worker.shore.events.on_read = on_bridge_read
    worker.shore.events.on_end = on_bridge_end
    worker.shore.events.on_writable = on_bridge_writable
    worker.engine.crossing.ctx = worker
    worker.engine.crossing.cross = crossing_open
    worker.engine.crossing.write = crossing_write
    worker.engine.crossing.pending = crossing_pending
    worker.engine.crossing.close = crossing_close
    worker.engine.crossing.abort = crossing_close


# Commands: Python to worker

cdef int listening_flags(const worker_t *worker) noexcept nogil:
    if worker.node.n_workers == 1:
        return 0
    return TCP_REUSEPORT_FIRST if worker.idx == 0 else TCP_REUSEPORT


cdef void do_listen(worker_t *worker, command_t *command) noexcept nogil:
    """One worker after the other: the first may choose the port, the last one says that all are listening."""
    cdef sockaddr_storage address
    cdef event_t event
    cdef command_t *following = NULL
    cdef int idx
    memset(&event, 0, sizeof(event))
    event.type = EVENT_LISTENING
    event.id = command.id
    idx = sockaddr_from_address(&address, &command.address)
    if idx >= 0:
        idx = tcp_listen(&worker.tcp, &address, BACKLOG, listening_flags(worker))
    if idx >= 0:
        tcp_listen_address(&worker.tcp, &address, idx)
        address_from_sockaddr(&event.address, &address)
        if worker.idx + 1 < worker.node.n_workers:
            following = command_make(COMMAND_LISTEN, command.id, 0)
            if following is not NULL:
                following.address = event.address
                worker_post(worker + 1, following)
                return
            event.status = E_MEMORY
    else:
        event.status = idx
    outbox_put(&worker.engine.outbox, &event)


cdef bint hand_over(worker_t *worker, command_t *command) noexcept nogil:
    """A direct connect goes to a worker that has a link with the peer, where this one has none; once, for links end.

    A cancel that the other worker has had already is not repeated: then a link that was there anyway is told.
    """
    cdef const hop_t *hop = command.hops
    cdef command_t *following
    cdef int other
    if (command.n != 1 or command.reason != CONNECT_ANY or command.ring is not NULL or not hop.has_link_key
            or find_link(&worker.engine, hop.link_key) is not NULL):
        return False
    other = roster_other(&worker.node.roster, hop.link_key, worker.idx)
    following = command_make(COMMAND_CONNECT, command.id, 0) if other >= 0 else NULL
    if following is NULL:
        return False
    following.n = 1
    following.reason = CONNECT_HANDED
    following.hops = command.hops
    command.hops = NULL
    worker_post(&worker.node.workers[other], following)
    return True


cdef void do_connect(worker_t *worker, command_t *command, uint64_t now_ns) noexcept nogil:
    cdef path_t *path
    cdef uint32_t i
    if hand_over(worker, command):
        return
    path = path_create(&worker.engine, command.n)
    if path is NULL:
        return
    if command.ring is not NULL:
        path.identity = <local_t *>secret_take(&worker.secrets)
        if path.identity is NULL:
            path_free(&worker.engine, path)
            return
        memcpy(path.identity, worker.local, sizeof(local_t))
        path.identity.n_networks = 0            # it never listens
        local_renew(path.identity, command.ring)
    path.request = command.id
    path.is_new = command.reason == CONNECT_NEW
    path.isolation = command.a
    memcpy(path.hops, command.hops, command.n * sizeof(hop_t))
    for i in range(command.n):
        if path.hops[i].addresses[0].type == ADDRESS_NAME:
            path.hops[i].addresses[0].name = path.hops[i].name
    path_start(&worker.engine, path, now_ns)


cdef void do_links(worker_t *worker, command_t *command) noexcept nogil:
    """No answer without memory: whoever asked waits in vain for a second."""
    cdef channel_t *channel = worker.engine.all
    cdef link_rows_t *links = <link_rows_t *>malloc(sizeof(link_rows_t) + worker.engine.n_channels * sizeof(link_row_t))
    cdef link_row_t *row
    if links is NULL:
        return
    links.n = 0
    while channel is not NULL:
        if channel.is_reported:
            row = &links.rows[links.n]
            row.channel = channel.id
            row.in_len = channel.session.n_bytes_in
            row.out_len = channel.session.n_bytes_out
            row.cover_len = channel.session.n_bytes_cover
            row.generation = channel.session.tx.generation
            links.n += 1
        channel = channel.next
    free(atomic_exchange_ptr(&worker.links, links))
    gate_open(&worker.gate, command.id)


cdef void do_drain(worker_t *worker) noexcept nogil:
    """The listeners close, so that another process may have their ports."""
    cdef int idx
    for idx in range(TCP_LISTENERS_MAX):
        tcp_unlisten(&worker.tcp, idx)
    engine_drain(&worker.engine)


cdef void do_configure(worker_t *worker, command_t *command, uint64_t now_ns) noexcept nogil:
    engine_configure(&worker.engine, command.config, now_ns)
    memcpy(worker.local, command.local, sizeof(local_t))
    outbox_owe(&worker.engine.outbox, EVENT_CONFIGURED)


cdef void do_splice(worker_t *worker, command_t *command, uint64_t now_ns) noexcept nogil:
    cdef int fd = <int>(command.a - 1)
    if command.a == 0:
        tunnel_supply(&worker.tunnels, command.id, &command.chain, now_ns)
        return
    command.a = 0
    flow_accept(&worker.engine.outbox, command.id, now_ns)
    flow_used(&worker.engine.outbox, command.id, command.n, now_ns)
    tunnel_join(&worker.tunnels, command.id, fd, &command.chain, <uint64_t>command.reason * 1_000_000, now_ns)


cdef void do_service(worker_t *worker, command_t *command, uint64_t now_ns) noexcept nogil:
    cdef qg_extender_v1 calls
    if command.n == 0:
        services_remove(&worker.services, command.tally, now_ns)
        return
    memcpy(&calls, command.data + SERVICE_ID_LEN, sizeof(qg_extender_v1))
    services_add(&worker.services, command.data, &calls, command.tally)


cdef void do_command(worker_t *worker, command_t *command, uint64_t now_ns) noexcept nogil:
    cdef engine_t *engine = &worker.engine
    cdef uint32_t type = command.type
    if type == COMMAND_WRITE:
        flow_write(&engine.outbox, command.id, &command.chain, now_ns)
    elif type == COMMAND_USED:
        flow_used(&engine.outbox, command.id, command.a, now_ns)
    elif type == COMMAND_OPEN:
        engine_open(engine, command.id, command.a, command.reason & 255, command.reason >> 8, command.data, command.n,
                    now_ns)
    elif type == COMMAND_ACCEPT:
        flow_accept(&engine.outbox, command.id, now_ns)
    elif type == COMMAND_FINISH:
        flow_finish(&engine.outbox, command.id, now_ns)
    elif type == COMMAND_RESET:
        flow_reset(&engine.outbox, command.id, command.reason, now_ns)
    elif type == COMMAND_SPLICE:
        do_splice(worker, command, now_ns)
    elif type == COMMAND_CONNECT:
        do_connect(worker, command, now_ns)
    elif type == COMMAND_CANCEL:
        path_cancel(engine, command.id, now_ns)
    elif type == COMMAND_CLOSE_PEER:
        engine_close_peer(engine, command.id, command.reason, now_ns)
    elif type == COMMAND_PING:
        engine_ping(engine, command.id, now_ns)
        worker.loop.is_fresh = 0    # the answer may come within this very turn: it must not look as if it took no time
    elif type == COMMAND_PEERS:
        engine_tell_peers(engine, command.id, command.data, command.n, now_ns)
    elif type == COMMAND_OFFER:
        engine_serve(engine, command.data, <uint32_t>command.a, command.data + 16 * command.a,
                     command.n - 16 * command.a, now_ns)
    elif type == COMMAND_LISTEN:
        do_listen(worker, command)
    elif type == COMMAND_ADOPT:
        do_adopt(worker, command)
    elif type == COMMAND_TWINS:
        engine_end_twins(engine, command.data, command.a, command.id, now_ns)
    elif type == COMMAND_RENEW:
        local_renew(worker.local, command.ring)
    elif type == COMMAND_SERVICE:
        do_service(worker, command, now_ns)
    elif type == COMMAND_LINKS:
        do_links(worker, command)
    elif type == COMMAND_CONFIGURE:
        do_configure(worker, command, now_ns)
    elif type == COMMAND_DRAIN:
        do_drain(worker)
    elif type == COMMAND_STOP:
        engine_stop(engine, now_ns)
        worker.stop_ns = now_ns + STOP_NS
    elif type == COMMAND_KILL:
        worker.stop_ns = now_ns
        worker.is_killed = 1


cdef void slot_return(node_t *node, void *slot) noexcept nogil:
    """A slot of the border, wiped, goes into the inbox from which Python collects."""
    wipe(slot, SECRET_SLOT_LEN)
    inbox_push(&node.spent, slot)


cdef void command_free(node_t *node, command_t *command) noexcept nogil:
    chain_clear(&command.chain)
    if command.ring is not NULL:
        slot_return(node, command.ring)
    if command.local is not NULL:
        slot_return(node, command.local)
    free(command.config)
    if command.type in (COMMAND_ADOPT, COMMAND_SPLICE) and command.a:
        fd_close(<int>(command.a - 1))
    free(command.hops)
    free(command)


cdef command_t *command_make(uint32_t type, uint64_t id, size_t extra) noexcept nogil:
    cdef command_t *command = <command_t *>calloc(1, sizeof(command_t) + extra)
    if command is not NULL:
        command.type = type
        command.id = id
    return command


cdef void worker_post(worker_t *worker, command_t *command) noexcept nogil:
    if inbox_push(&worker.inbox, command):
        loop_wake(&worker.loop)


cdef void on_wake(void *ctx, uint64_t now_ns) noexcept nogil:
    cdef worker_t *worker = <worker_t *>ctx
    cdef command_t *command = <command_t *>inbox_take(&worker.inbox)
    cdef command_t *following
    while command is not NULL:
        following = command.next
        do_command(worker, command, now_ns)
        command_free(worker.node, command)
        command = following
    bridges_turn(&worker.shore, now_ns)
    fail_dials(worker, now_ns)
    relay_relieve(&worker.engine.relay, now_ns)
    engine_settle(&worker.engine, now_ns)


cdef void wake_others(void *ctx) noexcept nogil:
    cdef worker_t *worker = <worker_t *>ctx
    cdef uint32_t i
    for i in range(worker.node.n_workers):
        if i != worker.idx:
            loop_wake(&worker.node.workers[i].loop)


cdef void on_timer(void *ctx, uint64_t now_ns) noexcept nogil:
    cdef worker_t *worker = <worker_t *>ctx
    engine_tick(&worker.engine, now_ns)
    dials_tick(worker, now_ns)
    engine_settle(&worker.engine, now_ns)


cdef uint64_t work_ns() noexcept nogil:
    cdef timespec spent
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &spent)
    return <uint64_t>spent.tv_sec * SECOND_NS + <uint64_t>spent.tv_nsec


cdef void look_at_clock(worker_t *worker, uint64_t now_ns) noexcept nogil:
    cdef timespec wall
    cdef timespec steady
    if worker.offset_ns and now_ns - worker.offset_ns < SECOND_NS:
        return
    worker.offset_ns = now_ns
    clock_gettime(CLOCK_REALTIME, &wall)
    clock_gettime(CLOCK_MONOTONIC, &steady)
    worker.engine.ctx.unix_offset_ns = ((<int64_t>wall.tv_sec - <int64_t>steady.tv_sec) * <int64_t>SECOND_NS
                                        + <int64_t>wall.tv_nsec - <int64_t>steady.tv_nsec)


cdef void settle_all(worker_t *worker, uint64_t now_ns) noexcept nogil:
    """What one of them has sent may be what the other one waited for."""
    tunnels_settle(&worker.tunnels, now_ns)
    services_settle(&worker.services, now_ns)
    while worker.tunnels.dirty is not NULL or worker.services.dirty is not NULL:
        tunnels_settle(&worker.tunnels, now_ns)
        services_settle(&worker.services, now_ns)


cdef void on_turn_end(void *ctx, uint64_t now_ns) noexcept nogil:
    cdef worker_t *worker = <worker_t *>ctx
    cdef uint64_t deadline_ns
    settle_all(worker, now_ns)
    outbox_emit(&worker.engine.outbox)
    signal_python(worker)
    look_at_load(worker)
    look_at_clock(worker, now_ns)
    deadline_ns = min(engine_deadline(&worker.engine), worker.dial_ns)
    if worker.stop_ns:
        if not worker.engine.is_stopped and now_ns >= worker.stop_ns:
            engine_halt(&worker.engine, now_ns)
            signal_python(worker)
        # Not before Python had room for all that it is to be told, EVENT_STOPPED last.
        if worker.is_killed or (worker.engine.is_stopped and outbox_is_empty(&worker.engine.outbox)
                                and (worker.tcp.n_lingering == 0 or now_ns >= worker.stop_ns)):
            loop_stop(&worker.loop)
        deadline_ns = min(deadline_ns, now_ns + 10000000)
    loop_set_deadline(&worker.loop, deadline_ns)


# Identities

cdef void local_renew(local_t *local, const ring_t *ring) noexcept nogil:
    cdef timespec wall
    clock_gettime(CLOCK_REALTIME, &wall)
    local_fill(local, ring, <uint64_t>wall.tv_sec, <uint64_t>wall.tv_sec + CERT_LIFE_S)


# The mark of the replay filter

cdef int mark_write(void *ctx, uint64_t mark_s) noexcept nogil:
    """Eight bytes to the page cache: what a killed process leaves behind. No fsync on the loop's thread."""
    cdef uint8_t[8] mark
    store_be64(mark, mark_s)
    return OK if pwrite(<int><size_t>ctx, mark, 8, 0) == 8 else E_IO


# Life

cdef int worker_start(worker_t *worker, size_t read_len) noexcept nogil:
    cdef loop_hooks_t hooks
    cdef tcp_events_t events
    cdef int rc
    hooks.on_wake = on_wake
    hooks.on_timer = on_timer
    hooks.on_turn_end = on_turn_end
    events.on_offer = NULL
    if worker.node.n_workers > 1:
        events.on_offer = on_offer
    events.on_accept = on_accept
    events.on_room = NULL
    events.on_connect = on_connect
    events.on_dial_error = on_dial_error
    events.on_read = on_read
    events.on_end = on_end
    events.on_lost = on_lost
    events.on_writable = on_writable
    events.on_accept_error = on_accept_error
    worker.dial_ns = NEVER
    worker.engine.ctx.clock = work_ns
    if worker.node.n_workers > 1:
        bridges_init(worker)
        worker.engine.relay.call_others = wake_others
        worker.engine.relay.ctx = worker
    worker.engine.outbox.emit = on_emit
    worker.engine.outbox.emit_ctx = worker
    worker.engine.transport.ctx = worker
    worker.engine.transport.dial = transport_dial
    worker.engine.transport.cancel = transport_cancel
    worker.engine.transport.write = transport_write
    worker.engine.transport.pending = transport_pending
    worker.engine.transport.shutdown = transport_shutdown
    worker.engine.transport.close = transport_close
    worker.engine.transport.abort = transport_abort
    rc = gate_init(&worker.gate)
    if rc < 0:
        return rc
    worker.has_gate = 1
    rc = loop_init(&worker.loop, &hooks, worker, read_len)
    if rc < 0:
        return rc
    worker.is_loop_ready = 1
    rc = tcp_init(&worker.tcp, &worker.loop, &worker.pool, &events, worker)
    if rc >= 0:
        rc = tunnels_init(&worker.tunnels, &worker.engine, &worker.loop)
    if rc >= 0:
        services_init(&worker.services, &worker.engine, &worker.loop)
        rc = resolve_init(&worker.resolve, &worker.loop, on_resolved, worker)
    if rc >= 0:
        look_at_clock(worker, loop_now(&worker.loop))
        rc = loop_thread_start(&worker.loop)
    return rc if rc < 0 else OK


cdef void worker_end(worker_t *worker) noexcept nogil:
    cdef command_t *command = <command_t *>inbox_take(&worker.inbox)
    cdef command_t *following
    while command is not NULL:
        following = command.next
        command_free(worker.node, command)
        command = following
    engine_clear(&worker.engine, loop_now(&worker.loop))


cdef void worker_stop(worker_t *worker) noexcept nogil:
    while worker.dials is not NULL:
        dial_free(worker, worker.dials)
    resolve_stop(&worker.resolve)
    tcp_stop(&worker.tcp)
    tunnels_stop(&worker.tunnels)
    services_stop(&worker.services)
    loop_free(&worker.loop)
    worker.is_loop_ready = 0
    while ring_filled(&worker.ring.at, RING_LEN) >= 0:
        drop_blocks(worker.ring.events[ring_filled(&worker.ring.at, RING_LEN)].blocks)
        ring_drop(&worker.ring.at)
    pool_collect(&worker.pool)


cdef void worker_free(worker_t *worker) noexcept nogil:
    secret_pool_free(&worker.secrets)
    pool_clear(&worker.pool)
    free(worker.scratch)
    free(worker.cert_entries)
    free(worker.ring.events)
    free(worker.links)
    if worker.has_gate:
        gate_free(&worker.gate)
