# SPDX-License-Identifier: MIT
"""One engine over memory; its time, randomness and transport are in the caller's hands. For tests and simulators."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from .border cimport (
    access_take, config_fill, drop_blocks, event_tuple, fill_bytes, fill_hops, fill_ip, local_options, networks_free,
    networks_take, policy_fill, rates_fill, rates_wanted, relay_access_take)
from .cert cimport cert_cache_init, cert_cache_t, cert_entry_t
from .channel cimport channel_t, engine_config_t, engine_t, path_t, transport_t
from .circuit cimport path_cancel, path_create, path_start
from .crypto cimport crypto_init, random_seed, random_seed_t, random_seeded, wipe
from .engine cimport (
    engine_accepted, engine_clear, engine_close_peer, engine_connected, engine_deadline, engine_dial_failed,
    engine_drain, engine_ended, engine_halt, engine_init, engine_lost, engine_open, engine_ping, engine_received,
    engine_serve, engine_settle, engine_stop, engine_tick, engine_writable)
from .flow cimport event_t, flow_accept, flow_finish, flow_reset, flow_used, flow_write, outbox_emit, outbox_is_empty
from .guard cimport N_GUARD_COUNTS, access_t, guard_access_free, guard_access_swap, guard_clear, guard_init, guard_t
from .handshake cimport local_fill, local_t
from .keyfile cimport KeyRing, NetworkSecret
from .memory cimport (
    BLOCK_LARGE, block_len, block_start, block_t, block_take, chain_clear, chain_drop, chain_pop, chain_push, chain_t,
    mem_give, mem_take, pool_clear, pool_init, pool_outstanding, pool_t)
from .mux cimport STREAM_GONE, sink_t, stream_bind, stream_t
from .relay cimport SPLICE_JOINED, splice_t
from .rate cimport rates_t
from .replay cimport replay_init, replay_t
from .secret cimport SECRET_LOCK_PREFERRED, secret_pool_free, secret_pool_init, secret_pool_t, secret_take
from .session cimport SCRATCH_LEN
from .status cimport E_MEMORY, E_STATE, OK
from .sys cimport SECOND_NS
from .table cimport table_clear, table_drop, table_get, table_init, table_next, table_put, table_t
from .wire cimport ADDRESS_IP4, HELLO_SERVICES_MAX, address_t

cdef enum:
    EVENTS_MAX = 64             # handed over at once; the engine keeps what follows until they were taken
    N_CERTS = 1024
    PORTS_MAX = 65536           # connections of one machine
    REPLAY_LEN = 4096
    READ_LEN = 65536            # given to the engine at once
    READ_ROOM = 17408           # that it may write to around what it gets (loop.pxd)
    CERT_LIFE_S = 366 * 86400   # as worker's
    PIECE_ROOM = 2048           # around a copied piece, for headers and padding
    PIECE_LEN = 65536           # of what facing engines push
    UNDER_WAY_LEN = 1048576     # of it between two applications
    IDLE_ROUNDS = 16            # without a byte: nothing will come any more

cdef uint64_t MEMORY_MAX = <uint64_t>1 << 40

cdef enum tamper_t:             # what an evil relay does to one piece that it passes on
    TAMPER_NONE = 0
    TAMPER_FLIP = 1
    TAMPER_DROP = 2
    TAMPER_REPEAT = 3
    TAMPER_SWAP = 4             # with the one that follows
    TAMPER_SWALLOW = 5          # it and all that follow, of every circuit

cdef tuple TAMPERS = ("none", "flip", "drop", "repeat", "swap", "swallow")

ctypedef struct port_t:         # a connection, as a kernel would have it
    uint64_t id
    channel_t *channel          # NULL once the engine has closed it
    chain_t out                 # what the engine has written
    uint64_t room               # bytes of it that the send buffer takes
    port_t *next_dirty
    address_t address           # dialled
    uint8_t is_dirty
    uint8_t is_dialling         # not connected yet
    uint8_t is_new              # the dial was not told yet
    uint8_t is_shut             # FIN follows what is in `out`
    uint8_t is_told             # FIN was told
    uint8_t is_closed           # the engine has forgotten it
    uint8_t is_aborted

ctypedef struct body_t:         # what the hooks reach
    engine_t engine
    guard_t guard
    pool_t pool                 # the engine's memory, and nothing else
    pool_t own                  # memory beside it
    pool_t border               # blocks of what the application writes
    secret_pool_t secrets
    replay_t replay
    random_seed_t random
    cert_cache_t certs
    table_t ports               # id -> port_t
    port_t *dirty
    uint64_t next_port          # of those that it dials
    uint64_t room               # send buffer of a new connection
    uint32_t n_events
    event_t events[EVENTS_MAX]
    int tamper                  # tamper_t
    uint8_t is_backward         # pieces from the target to the source; else the other way
    uint64_t tamper_in          # pieces until then
    uint64_t n_tampered
    const sink_t *relay_sink    # of splices, as relay has it
    uint8_t *piece              # held back for TAMPER_SWAP; NULL
    size_t piece_len
    stream_t *piece_stream


# The transport

cdef void port_mark(body_t *body, port_t *port) noexcept nogil:
    if not port.is_dirty:
        port.is_dirty = 1
        port.next_dirty = body.dirty
        body.dirty = port


cdef port_t *port_create(body_t *body, uint64_t id) noexcept nogil:
    cdef port_t *port = <port_t *>mem_take(&body.own, sizeof(port_t))
    if port is NULL:
        return NULL
    port.id = id
    port.room = body.room
    if table_put(&body.ports, id, port) < 0:
        mem_give(&body.own, port, sizeof(port_t))
        return NULL
    return port


cdef void port_free(body_t *body, port_t *port) noexcept nogil:
    cdef port_t **at = &body.dirty
    while port.is_dirty and at[0] != port:
        at = &at[0].next_dirty
    if port.is_dirty:
        at[0] = port.next_dirty
    chain_clear(&port.out)
    table_drop(&body.ports, port.id)
    mem_give(&body.own, port, sizeof(port_t))


cdef void transport_dial(void *ctx, channel_t *channel, const address_t *addresses,
                         uint32_t n_addresses) noexcept nogil:
    """The first one only: trying others is the worker's."""
    cdef body_t *body = <body_t *>ctx
    cdef port_t *port = port_create(body, body.next_port)
    if port is NULL:
        return                                  # the handshake's deadline ends it
    body.next_port += 2
    port.channel = channel
    port.address = addresses[0]
    port.is_dialling = 1
    port.is_new = 1
    channel.conn = port
    port_mark(body, port)


cdef void transport_cancel(void *ctx, channel_t *channel) noexcept nogil:
    cdef body_t *body = <body_t *>ctx
    cdef uint32_t cursor = 0
    cdef port_t *port = <port_t *>table_next(&body.ports, &cursor)
    while port is not NULL and port.channel != channel:
        port = <port_t *>table_next(&body.ports, &cursor)
    if port is not NULL:
        channel.conn = NULL
        transport_abort(ctx, port)


cdef void transport_write(void *ctx, void *conn, chain_t *chain) noexcept nogil:
    cdef port_t *port = <port_t *>conn
    while chain.head is not NULL:
        chain_push(&port.out, chain_pop(chain))
    port_mark(<body_t *>ctx, port)


cdef inline uint64_t waiting(const port_t *port) noexcept nogil:
    return port.out.len - min(port.out.len, port.room)


cdef uint64_t transport_pending(void *ctx, void *conn) noexcept nogil:
    return waiting(<port_t *>conn)


cdef void transport_shutdown(void *ctx, void *conn) noexcept nogil:
    (<port_t *>conn).is_shut = 1
    port_mark(<body_t *>ctx, <port_t *>conn)


cdef void transport_close(void *ctx, void *conn) noexcept nogil:
    (<port_t *>conn).channel = NULL
    (<port_t *>conn).is_closed = 1
    transport_shutdown(ctx, conn)


cdef void transport_abort(void *ctx, void *conn) noexcept nogil:
    cdef port_t *port = <port_t *>conn
    port.channel = NULL
    port.is_aborted = 1
    chain_clear(&port.out)
    port_mark(<body_t *>ctx, port)


cdef int on_emit(void *ctx, const event_t *event) noexcept nogil:
    cdef body_t *body = <body_t *>ctx
    if body.n_events == EVENTS_MAX:
        return 0
    body.events[body.n_events] = event[0]
    body.n_events += 1
    return 1


# Two engines face to face, for measurements of what engines cost without a kernel

ctypedef struct facing_t:
    body_t *body
    port_t *port
    uint8_t *read
    uint64_t flow
    uint64_t n_taken            # bytes of the flow that its application had


cdef void facing_carry(facing_t *source, facing_t *target, uint64_t now_ns) noexcept nogil:
    """Copy what one has written to where the other reads, as kernels do."""
    cdef size_t n
    while source.port.out.head is not NULL:
        n = 0
        while source.port.out.head is not NULL and n < READ_LEN:
            n += block_read(&source.port.out, target.read + n, READ_LEN - n)
        engine_received(&target.body.engine, target.port.channel, target.read, n, now_ns)
        engine_settle(&target.body.engine, now_ns)


cdef size_t block_read(chain_t *chain, uint8_t *dst, size_t len) noexcept nogil:
    len = min(len, <size_t>block_len(chain.head))
    memcpy(dst, block_start(chain.head), len)
    chain_drop(chain, len)
    return len


cdef void facing_take(facing_t *facing, uint64_t now_ns) noexcept nogil:
    """Take what the application is told; bytes are used at once."""
    cdef body_t *body = facing.body
    cdef uint64_t len
    cdef uint32_t i
    cdef block_t *block
    outbox_emit(&body.engine.outbox)
    while body.n_events > 0:
        len = 0
        for i in range(body.n_events):
            block = body.events[i].blocks
            while block is not NULL:
                len += block_len(block)
                block = block.next
            drop_blocks(body.events[i].blocks)
        body.n_events = 0
        facing.n_taken += len
        flow_used(&body.engine.outbox, facing.flow, len, now_ns)
        outbox_emit(&body.engine.outbox)
    engine_settle(&body.engine, now_ns)


cdef int facing_push(facing_t *source, facing_t *target, uint64_t len, uint64_t now_ns) noexcept nogil:
    """OK; E_STATE when nothing moves any more, E_MEMORY."""
    cdef chain_t chain = chain_t(NULL, NULL, 0, 0)
    cdef uint64_t sent = 0, before = 1, n_idle = 0
    cdef block_t *block
    while target.n_taken < len and n_idle < IDLE_ROUNDS:
        n_idle = n_idle + 1 if target.n_taken == before else 0
        before = target.n_taken
        while sent < len and sent - target.n_taken < UNDER_WAY_LEN:
            block = block_take(&source.body.border, BLOCK_LARGE)
            if block is NULL:
                return E_MEMORY
            block.end += PIECE_LEN
            chain_push(&chain, block)
            sent += PIECE_LEN
            flow_write(&source.body.engine.outbox, source.flow, &chain, now_ns)
        engine_settle(&source.body.engine, now_ns)
        facing_carry(source, target, now_ns)
        facing_take(target, now_ns)
        facing_carry(target, source, now_ns)
        facing_take(source, now_ns)
    return <int>OK if n_idle < IDLE_ROUNDS else <int>E_STATE


# An evil relay: its splices are the real ones, with a hand between two hops

cdef inline body_t *body_of(stream_t *stream) noexcept nogil:
    return <body_t *>(<channel_t *>stream.mux.owner).engine.transport.ctx


cdef void piece_drop(body_t *body) noexcept nogil:
    if body.piece is not NULL:
        mem_give(&body.own, body.piece - PIECE_ROOM, body.piece_len + 2 * PIECE_ROOM)
        body.piece = NULL


cdef bint piece_keep(body_t *body, stream_t *stream, const uint8_t *data, size_t len) noexcept nogil:
    cdef uint8_t *memory = <uint8_t *>mem_take(&body.own, len + 2 * PIECE_ROOM)
    if memory is NULL:
        return False
    memcpy(memory + PIECE_ROOM, data, len)
    body.piece = memory + PIECE_ROOM
    body.piece_len = len
    body.piece_stream = stream
    return True


cdef int piece_pass(body_t *body, uint64_t now_ns) noexcept nogil:
    """Pass on what was kept."""
    cdef int rc = body.relay_sink.on_data(body.piece_stream, body.piece, body.piece_len, now_ns)
    piece_drop(body)
    return rc


cdef int evil_on_data(stream_t *stream, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    cdef body_t *body = body_of(stream)
    cdef splice_t *splice = <splice_t *>stream.owner
    cdef bint is_backward = stream == splice.far
    cdef int rc
    if body.piece is not NULL and body.piece_stream == stream:
        rc = body.relay_sink.on_data(stream, data, len, now_ns)
        return rc if rc < 0 else piece_pass(body, now_ns)
    if body.tamper == TAMPER_NONE or is_backward != body.is_backward:
        return body.relay_sink.on_data(stream, data, len, now_ns)
    if body.tamper_in > 0:
        body.tamper_in -= 1
        return body.relay_sink.on_data(stream, data, len, now_ns)
    body.n_tampered += 1
    if body.tamper == TAMPER_SWALLOW:
        return OK
    if body.tamper == TAMPER_FLIP:
        data[len // 2] ^= 1
    elif (body.tamper == TAMPER_REPEAT or body.tamper == TAMPER_SWAP) and not piece_keep(body, stream, data, len):
        return OK
    rc = body.tamper
    body.tamper = TAMPER_NONE
    if rc == TAMPER_DROP or rc == TAMPER_SWAP:
        return OK
    if rc == TAMPER_FLIP:
        return body.relay_sink.on_data(stream, data, len, now_ns)
    rc = body.relay_sink.on_data(stream, data, len, now_ns)
    return rc if rc < 0 else piece_pass(body, now_ns)


cdef void evil_on_event(stream_t *stream, int event, uint64_t now_ns) noexcept nogil:
    cdef body_t *body = body_of(stream)
    if event == STREAM_GONE and body.piece_stream == stream:
        piece_drop(body)
        body.piece_stream = NULL
    body.relay_sink.on_event(stream, event, now_ns)


cdef sink_t EVIL_SINK
EVIL_SINK.on_data = evil_on_data
EVIL_SINK.on_event = evil_on_event
EVIL_SINK.pull = NULL


cdef void evil_bind(body_t *body) noexcept nogil:
    """Get between the streams of all splices that have been joined."""
    cdef splice_t *splice = body.engine.relay.splices
    while splice is not NULL:
        if splice.state == SPLICE_JOINED and splice.near is not NULL and splice.far is not NULL:
            if splice.near.sink != &EVIL_SINK:
                body.relay_sink = splice.near.sink
                stream_bind(splice.near, splice, &EVIL_SINK)
                stream_bind(splice.far, splice, &EVIL_SINK)
        splice = splice.next


cdef bytes chain_part(chain_t *chain, uint64_t len):
    """Take the first `len` bytes out of a chain."""
    cdef list parts = []
    cdef block_t *block = chain.head
    cdef uint64_t left = len, n
    while left > 0:
        n = min(left, <uint64_t>block_len(block))
        parts.append((<const char *>block_start(block))[:n])
        left -= n
        block = block.next
    chain_drop(chain, len)
    return parts[0] if n_is_one(parts) else b"".join(parts)


cdef inline bint n_is_one(list parts):
    return len(parts) == 1


@cython.final
cdef class Machine:
    """Own one engine, with all that a worker would give it but a loop, sockets, a clock and randomness.

    Inputs do nothing but what they say; `settle` ends them and answers (actions, events). An action is ("dial", conn,
    ip, port), ("send", conn, bytes), ("shutdown", conn), ("close", conn) or ("abort", conn); nothing is known of a
    connection after the last two. Events are tuples as those of `Runtime.drain`. `options` are those of a `Runtime`.
    All randomness follows from `seed`. Connections that others make have even numbers, chosen by the caller.
    """
    cdef readonly KeyRing ring
    cdef body_t *body               # owned
    cdef pool_t base                # its memory, and that of what follows
    cdef local_t *local             # a slot of the secrets
    cdef uint8_t *read              # READ_LEN bytes with READ_ROOM on both sides
    cdef cert_entry_t *cert_entries
    cdef uint64_t *replay_slots
    cdef rates_t *rates             # NULL: none is named in the options
    cdef access_t *access
    cdef access_t *relay_access

    def __cinit__(self, KeyRing ring not None, NetworkSecret network=None, *, dict options=None, bytes seed not None,
                  int64_t unix_offset_s=1750000000, uint64_t now_ns=0):
        options = options or {}
        self.ring = ring
        crypto_init()
        pool_init(&self.base, MEMORY_MAX)
        self.body = <body_t *>self.take(sizeof(body_t))
        self.read = <uint8_t *>self.take(READ_LEN + 2 * READ_ROOM)
        self.cert_entries = <cert_entry_t *>self.take(N_CERTS * sizeof(cert_entry_t))
        self.replay_slots = <uint64_t *>self.take(REPLAY_LEN * sizeof(uint64_t))
        self.body.next_port = 1
        self.body.room = MEMORY_MAX
        pool_init(&self.body.pool, <uint64_t>options.get("memory_len", 1 << 30))
        pool_init(&self.body.own, MEMORY_MAX)
        pool_init(&self.body.border, MEMORY_MAX)
        table_init(&self.body.ports, &self.body.own, PORTS_MAX, 1)
        random_seed(&self.body.random, <const uint8_t *>PyBytes_AS_STRING(seed), <size_t>PyBytes_GET_SIZE(seed))
        self.make_local(network, options, unix_offset_s + <int64_t>(now_ns // SECOND_NS))
        self.make_guard(options)
        self.make_engine(options)
        self.body.engine.ctx.unix_offset_ns = unix_offset_s * <int64_t>SECOND_NS

    cdef void *take(self, size_t len) except NULL:
        cdef void *memory = mem_take(&self.base, len)
        if memory is NULL:
            raise MemoryError
        return memory

    cdef uint64_t draw(self) noexcept:
        cdef uint64_t value
        random_seeded(&self.body.random, <uint8_t *>&value, 8)
        return value

    cdef int make_local(self, NetworkSecret network, dict options, int64_t unix_s) except -1:
        secret_pool_init(&self.body.secrets, 4 * <uint32_t>options.get("max_sessions", 10000) + 4096,
                         SECRET_LOCK_PREFERRED)
        self.local = <local_t *>secret_take(&self.body.secrets)
        if self.local is NULL:
            raise MemoryError
        local_options(self.local, network, None, options)
        local_fill(self.local, self.ring.borrow(), <uint64_t>unix_s, <uint64_t>unix_s + CERT_LIFE_S)
        return 0

    cdef int make_guard(self, dict options) except -1:
        cdef uint8_t[16] key
        cdef guard_t *guard = &self.body.guard
        random_seeded(&self.body.random, key, 16)
        replay_init(&self.body.replay, self.replay_slots, REPLAY_LEN, 2 * <uint32_t>self.local.clock_window_s, key)
        random_seeded(&self.body.random, key, 16)
        guard_init(guard, &self.body.pool, &self.body.replay, key)
        self.access = access_take(&self.base, options)
        self.relay_access = relay_access_take(&self.base, options)
        guard_access_swap(&guard.access, self.access)
        guard_access_swap(&guard.relay, self.relay_access)
        networks_take(&guard.first, &self.base, options)
        return policy_fill(&guard.first, options)

    cdef int make_engine(self, dict options) except -1:
        cdef engine_t *engine = &self.body.engine
        cdef engine_config_t config
        config_fill(&config, options)
        if rates_wanted(options):
            self.rates = <rates_t *>self.take(sizeof(rates_t))
            random_seeded(&self.body.random, self.rates.key, 16)
            rates_fill(self.rates, options)
            config.rates = self.rates
        services = b"".join(options.get("services", ())[:HELLO_SERVICES_MAX])
        config.services = services
        config.n_services = len(services) // 16
        random_seeded(&self.body.random, config.instance, 8)
        if engine_init(engine, &self.body.pool, &self.body.guard, &config, self.draw()) < 0:
            raise MemoryError
        cert_cache_init(&self.body.certs, self.cert_entries, N_CERTS)
        engine.ctx.party.secrets = &self.body.secrets
        engine.ctx.party.local = self.local
        engine.ctx.party.certs = &self.body.certs
        engine.ctx.party.random = random_seeded
        engine.ctx.party.random_ctx = &self.body.random
        engine.ctx.scratch = <uint8_t *>self.take(SCRATCH_LEN)
        engine.outbox.emit = on_emit
        engine.outbox.emit_ctx = self.body
        transport_fill(&engine.transport, self.body)
        return 0

    def __dealloc__(self):
        if self.body is not NULL and self.body.engine.ctx.scratch is not NULL:
            self.forget(0)
            mem_give(&self.base, self.body.engine.ctx.scratch, SCRATCH_LEN)
        guard_access_free(self.access)
        guard_access_free(self.relay_access)
        if self.body is not NULL:
            pool_clear(&self.body.pool)
            pool_clear(&self.body.own)
            pool_clear(&self.body.border)
            secret_pool_free(&self.body.secrets)
            wipe(&self.body.random, sizeof(random_seed_t))
        mem_give(&self.base, self.rates, sizeof(rates_t))
        mem_give(&self.base, self.replay_slots, REPLAY_LEN * sizeof(uint64_t))
        mem_give(&self.base, self.cert_entries, N_CERTS * sizeof(cert_entry_t))
        mem_give(&self.base, self.read, READ_LEN + 2 * READ_ROOM)
        mem_give(&self.base, self.body, sizeof(body_t))
        pool_clear(&self.base)

    def __reduce__(self):
        raise TypeError("machines are not serialised")

    cdef int forget(self, uint64_t now_ns) except -1:
        cdef body_t *body = self.body
        cdef uint32_t i, cursor
        cdef port_t *port
        engine_clear(&body.engine, now_ns)
        for i in range(body.n_events):
            event_tuple(&body.events[i])
        body.n_events = 0
        piece_drop(body)
        while True:
            cursor = 0
            port = <port_t *>table_next(&body.ports, &cursor)
            if port is NULL:
                break
            port_free(body, port)
        table_clear(&body.ports)
        guard_clear(&body.guard)
        networks_free(&body.guard.first)
        return 0

    def clear(self, uint64_t now_ns):
        """End at once, as a process that is killed; nobody is told."""
        self.forget(now_ns)

    # Inputs from the transport

    cdef port_t *port(self, uint64_t conn) noexcept:
        """The connection, if the engine still knows it."""
        cdef port_t *port = <port_t *>table_get(&self.body.ports, conn)
        return port if port is not NULL and port.channel is not NULL else NULL

    def accepted(self, uint64_t conn, str host not None, int port, uint64_t now_ns):
        """Let somebody at that address connect. It may be closed at once."""
        cdef address_t address
        cdef port_t *new = port_create(self.body, conn)
        if new is NULL:
            raise ValueError(f"no place for connection {conn}, or it is there already")
        fill_ip(&address, host, port)
        new.channel = engine_accepted(&self.body.engine, new, &address, now_ns)
        engine_settle(&self.body.engine, now_ns)
        if new.channel is NULL:
            transport_close(self.body, new)

    def connected(self, uint64_t conn, uint64_t now_ns):
        """Say that a dial has come through."""
        cdef port_t *port = self.port(conn)
        if port is not NULL and port.is_dialling:
            port.is_dialling = 0
            engine_connected(&self.body.engine, port.channel, port, now_ns)
            engine_settle(&self.body.engine, now_ns)

    def dial_failed(self, uint64_t conn, uint64_t now_ns):
        """Say that it has not."""
        cdef port_t *port = self.port(conn)
        cdef channel_t *channel
        if port is not NULL and port.is_dialling:
            channel = port.channel
            port_free(self.body, port)
            engine_dial_failed(&self.body.engine, channel, now_ns)
            engine_settle(&self.body.engine, now_ns)

    def received(self, uint64_t conn, bytes data not None, uint64_t now_ns):
        """Give bytes that came on a connection."""
        cdef const uint8_t *src = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef size_t left = <size_t>PyBytes_GET_SIZE(data), n
        cdef port_t *port = self.port(conn)
        while left > 0 and port is not NULL:
            n = min(left, <size_t>READ_LEN)
            memcpy(self.read + READ_ROOM, src, n)
            engine_received(&self.body.engine, port.channel, self.read + READ_ROOM, n, now_ns)
            engine_settle(&self.body.engine, now_ns)
            src += n
            left -= n
            port = self.port(conn)

    def ended(self, uint64_t conn, uint64_t now_ns):
        """Give the peer's FIN."""
        cdef port_t *port = self.port(conn)
        if port is not NULL:
            engine_ended(&self.body.engine, port.channel, now_ns)
            engine_settle(&self.body.engine, now_ns)

    def lost(self, uint64_t conn, uint64_t now_ns):
        """Say that a connection broke; it is forgotten."""
        cdef port_t *port = <port_t *>table_get(&self.body.ports, conn)
        cdef channel_t *channel
        if port is not NULL:
            channel = port.channel
            port_free(self.body, port)
            if channel is not NULL:
                engine_lost(&self.body.engine, channel, now_ns)
                engine_settle(&self.body.engine, now_ns)

    def writable(self, uint64_t conn, uint64_t n, uint64_t now_ns):
        """Let the send buffer of a connection take `n` bytes more."""
        cdef port_t *port = <port_t *>table_get(&self.body.ports, conn)
        cdef uint64_t before
        if port is NULL:
            return
        before = waiting(port)
        port.room += n
        port_mark(self.body, port)
        if before > 0 and waiting(port) == 0 and port.channel is not NULL:
            engine_writable(&self.body.engine, port.channel, now_ns)
            engine_settle(&self.body.engine, now_ns)

    # Time

    def tick(self, uint64_t now_ns):
        """Let it be `now_ns`; to be called at `deadline_ns`."""
        engine_tick(&self.body.engine, now_ns)
        engine_settle(&self.body.engine, now_ns)

    @property
    def deadline_ns(self):
        """When to tick; 2^64 - 1: never."""
        return engine_deadline(&self.body.engine)

    @property
    def unix_offset_ns(self):
        """The machine's wall clock minus `now_ns`."""
        return self.body.engine.ctx.unix_offset_ns

    @unix_offset_ns.setter
    def unix_offset_ns(self, int64_t value):
        self.body.engine.ctx.unix_offset_ns = value

    # Commands

    def connect(self, uint64_t request, list hops not None, uint64_t now_ns, bint is_new=False, uint64_t isolation=0):
        """Reach the last of `hops` over the others: each (link key or None, PeerID or None, ip, port)."""
        cdef path_t *path = path_create(&self.body.engine, <uint32_t>len(hops))
        if path is NULL:
            raise ValueError(f"no path of {len(hops)} hops")
        fill_hops(path.hops, hops)
        path.request = request
        path.is_new = is_new
        path.isolation = isolation
        path_start(&self.body.engine, path, now_ns)
        engine_settle(&self.body.engine, now_ns)

    def cancel(self, uint64_t request, uint64_t now_ns):
        """Forget a connect."""
        path_cancel(&self.body.engine, request, now_ns)
        engine_settle(&self.body.engine, now_ns)

    def open(self, uint64_t flow, uint64_t channel, int kind, int priority, bytes opening not None, uint64_t now_ns):
        """Open a stream of a kind and priority; `opening` is the extender's UUID and metadata."""
        engine_open(&self.body.engine, flow, channel, kind, priority, <const uint8_t *>PyBytes_AS_STRING(opening),
                    <size_t>PyBytes_GET_SIZE(opening), now_ns)
        engine_settle(&self.body.engine, now_ns)

    def accept(self, uint64_t flow, uint64_t now_ns):
        """Accept a stream that the peer opened."""
        flow_accept(&self.body.engine.outbox, flow, now_ns)
        engine_settle(&self.body.engine, now_ns)

    def write(self, uint64_t flow, data, uint64_t now_ns):
        """Queue bytes on a stream."""
        cdef chain_t chain = chain_t(NULL, NULL, 0, 0)
        fill_bytes(&chain, &self.body.border, data)
        flow_write(&self.body.engine.outbox, flow, &chain, now_ns)
        engine_settle(&self.body.engine, now_ns)

    def finish(self, uint64_t flow, uint64_t now_ns):
        """End our direction of a stream."""
        flow_finish(&self.body.engine.outbox, flow, now_ns)
        engine_settle(&self.body.engine, now_ns)

    def reset(self, uint64_t flow, int reason, uint64_t now_ns):
        """End a stream at once; no event of it follows."""
        flow_reset(&self.body.engine.outbox, flow, reason, now_ns)
        engine_settle(&self.body.engine, now_ns)

    def used(self, uint64_t flow, uint64_t len, uint64_t now_ns):
        """Give credit back for bytes of a stream that were consumed."""
        flow_used(&self.body.engine.outbox, flow, len, now_ns)
        engine_settle(&self.body.engine, now_ns)

    def close_peer(self, uint64_t channel, int reason, uint64_t now_ns):
        """Close a session."""
        engine_close_peer(&self.body.engine, channel, reason, now_ns)
        engine_settle(&self.body.engine, now_ns)

    def serve(self, list services not None, bytes frame not None, uint64_t now_ns):
        """Offer these services from now on; `frame` says what has changed, as a SERVICES frame behind its type."""
        ids = b"".join(services)
        engine_serve(&self.body.engine, ids, len(services), frame, len(frame), now_ns)
        engine_settle(&self.body.engine, now_ns)

    def ping(self, uint64_t channel, uint64_t now_ns):
        """Ask for a PONG."""
        engine_ping(&self.body.engine, channel, now_ns)
        engine_settle(&self.body.engine, now_ns)

    def drain(self, uint64_t now_ns):
        """Take no new circuits."""
        engine_drain(&self.body.engine)
        engine_settle(&self.body.engine, now_ns)

    def stop(self, uint64_t now_ns):
        """Say goodbye to everybody."""
        engine_stop(&self.body.engine, now_ns)
        engine_settle(&self.body.engine, now_ns)

    def halt(self, uint64_t now_ns):
        """Wait for no more goodbyes."""
        engine_halt(&self.body.engine, now_ns)

    def tamper(self, str how not None, uint64_t after=0, bint is_backward=False):
        """Do evil to one piece of a circuit that is relayed, once `after` pieces have passed in that direction:
        "flip" a bit, "drop", "repeat", "swap" it with the next; or "swallow" all from there."""
        self.body.tamper = TAMPERS.index(how)
        self.body.tamper_in = after
        self.body.is_backward = is_backward
        evil_bind(self.body)

    def push(self, uint64_t flow, uint64_t conn, Machine other not None, uint64_t far_flow, uint64_t far_conn,
             uint64_t len, uint64_t now_ns):
        """Send at least `len` bytes on an open stream to another machine's application, over memory.

        Without the GIL, and time stands still. `conn` and `far_conn` are the two ends of the connection between them.
        """
        cdef facing_t source = facing_t(self.body, self.port(conn), self.read + READ_ROOM, flow, 0)
        cdef facing_t target = facing_t(other.body, other.port(far_conn), other.read + READ_ROOM, far_flow, 0)
        cdef int rc
        if source.port is NULL or target.port is NULL:
            raise ValueError(f"connections {conn} and {far_conn} are not both open")
        with nogil:
            rc = facing_push(&source, &target, len, now_ns)
        if rc < 0:
            raise RuntimeError(f"bytes do not come through: status {rc}")

    # Outputs

    def settle(self, uint64_t now_ns):
        """End the inputs: what the transport shall do, and what the application is told."""
        cdef body_t *body = self.body
        cdef list actions = []
        cdef list events = []
        cdef uint32_t i
        engine_settle(&body.engine, now_ns)
        while True:
            outbox_emit(&body.engine.outbox)
            if body.n_events == 0:
                break
            for i in range(body.n_events):
                events.append(event_tuple(&body.events[i]))
            body.n_events = 0
        if body.tamper or body.relay_sink is not NULL:
            evil_bind(body)
        while body.dirty is not NULL:
            self.act(actions)
        return actions, events

    cdef int act(self, list actions) except -1:
        """What one connection shall do."""
        cdef body_t *body = self.body
        cdef port_t *port = body.dirty
        cdef uint64_t n
        body.dirty = port.next_dirty
        port.is_dirty = 0
        if port.is_new:
            port.is_new = 0
            actions.append(("dial", port.id, ip_text(&port.address), port.address.port))
        if port.is_aborted:
            actions.append(("abort", port.id))
            port_free(body, port)
            return 0
        n = min(port.out.len, port.room)
        if n > 0:
            actions.append(("send", port.id, chain_part(&port.out, n)))
            port.room -= n
        if port.is_shut and port.out.len == 0:
            if port.is_closed:
                actions.append(("close", port.id))
                port_free(body, port)
            elif not port.is_told:
                port.is_told = 1
                actions.append(("shutdown", port.id))
        return 0

    # What can be seen and set

    @property
    def send_buffer_len(self):
        """Bytes that the send buffer of a new connection takes."""
        return self.body.room

    @send_buffer_len.setter
    def send_buffer_len(self, uint64_t value):
        self.body.room = value

    @property
    def is_idle(self):
        """Whether the application has been told everything."""
        return bool(outbox_is_empty(&self.body.engine.outbox)) and self.body.n_events == 0

    @property
    def n_tampered(self):
        """Pieces that `tamper` has touched."""
        return self.body.n_tampered

    @property
    def held(self):
        """What the engine holds: blocks, bytes of its own ones, bytes of other memory, secret slots beside its keys."""
        return (pool_outstanding(&self.body.pool) + pool_outstanding(&self.body.border),
                self.body.pool.taken.used, self.body.pool.plain_len, self.body.secrets.n_taken - 1)

    @property
    def relay_held_len(self):
        """Bytes that the splices hold, as their budget counts them."""
        return self.body.engine.relay.held.used

    @property
    def n_circuits(self):
        """Splices."""
        return self.body.engine.relay.n_splices

    def status(self):
        """Counters as they are at this moment."""
        cdef engine_t *engine = &self.body.engine
        return {
            "n_sessions": engine.n_channels, "n_half_open": self.body.guard.n_half_open,
            "n_sinks": self.body.guard.n_sinks, "n_auto_links": self.body.guard.n_auto_links,
            "n_far_ends": self.body.guard.n_far_ends, "n_links_up": engine.n_links_up,
            "n_circuits": engine.relay.n_splices, "n_flows": engine.outbox.flows.len, "n_conns": self.body.ports.len,
            "in_len": engine.n_bytes_in, "out_len": engine.n_bytes_out, "relayed_len": engine.relay.n_bytes,
            "relay_held_len": engine.relay.held.used, "n_relay_memory_resets": engine.relay.n_memory_resets,
            "n_cover_records": engine.ctx.covers.n_records, "cover_len": engine.ctx.covers.len,
            "n_rate_waits": engine.shaper.n_waits + engine.relay.shaper.n_waits,
            "by_status": {-i: engine.ctx.n_status[i] for i in range(64) if engine.ctx.n_status[i]},
            "guard_counts": [self.body.guard.counts[i] for i in range(N_GUARD_COUNTS)],
        }

    @property
    def is_building(self):
        """Whether a connect waits."""
        return self.body.engine.paths is not NULL


cdef void transport_fill(transport_t *transport, body_t *body) noexcept nogil:
    transport.ctx = body
    transport.dial = transport_dial
    transport.cancel = transport_cancel
    transport.write = transport_write
    transport.pending = transport_pending
    transport.shutdown = transport_shutdown
    transport.close = transport_close
    transport.abort = transport_abort


cdef str ip_text(const address_t *address):
    if address.type != ADDRESS_IP4:
        raise ValueError("machines dial IPv4 addresses only")
    return "%d.%d.%d.%d" % (address.ip[0], address.ip[1], address.ip[2], address.ip[3])
