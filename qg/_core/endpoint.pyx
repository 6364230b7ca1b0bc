# SPDX-License-Identifier: MIT
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
"""One session over memory, its clock and its randomness in the caller's hands; for tests and fuzzers."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from .cert cimport cert_cache_init, cert_cache_t, cert_entry_t
from .crypto cimport crypto_random, exactly, random_seed, random_seed_t, random_seeded, wipe
from .envelope cimport network_derive
from .handshake cimport STAGE_ADMIT_M1, local_fill, local_t, party_init
from .keyfile cimport KeyRing, NetworkSecret
from .memory cimport (
    BLOCK_LARGE, block_len, block_room, block_start, block_t, block_take, chain_append, chain_clear, chain_push,
    chain_t, mem_give, mem_take, pool_clear, pool_init, pool_outstanding, pool_t)
from .mux cimport (
    STREAM_ACCEPTED, STREAM_FIN, STREAM_GONE, STREAM_RESET, mux_control, mux_hooks_t, mux_open, mux_t, mux_used,
    receive_init, sink_t, stream_accept, stream_bind, stream_copy, stream_finish, stream_grant, stream_reset, stream_t,
    stream_used, streams_sweep)
from .rekey cimport rekey_start
from .secret cimport SECRET_LOCK_PREFERRED, secret_pool_free, secret_pool_init, secret_pool_t, secret_take
from .session cimport (
    SCRATCH_LEN, SESSION_ON_DEADLINE, SESSION_ON_KEYED, SESSION_ON_PEERS, SESSION_ON_PONG, SESSION_ON_SERVICES,
    SESSION_OPEN, carrier_t, context_t, session_admit, session_bind, session_clear, session_close, session_connect,
    session_drop, session_feed, session_has_output, session_hooks_t, session_listen, session_ping, session_pump,
    session_t, session_tick, session_times_t, session_wake)
from .status cimport E_CLOSED, NEED_ADMIT, REASON_MEMORY, REASON_REFUSED
from .sys cimport NEVER, SECOND_NS
from .table cimport table_clear, table_get, table_init, table_next, table_put, table_t
from .wire cimport STREAM_BYTES, STREAM_MESSAGES, STREAM_PIPE, frame_t

cdef enum:
    N_NOTES = 2048              # events kept until `events` takes them
    N_CERTS = 64
    SECRETS_MAX = 64
    STREAMS_MAX = 65536         # streams that one session may have seen
    NOTE_OPEN = 16              # types of events: those of the session as they are, those of streams from here
    NOTE_M1 = 32                # a verdict was asked for
    NOTE_M3 = 33

cdef uint64_t RECEIVE_MAX = 256 << 20      # protocol.md 9
cdef uint64_t MEMORY_MAX = <uint64_t>1 << 40

cdef tuple STATES = ("handshake", "keyed", "open", "closing", "discard", "closed")
cdef dict NAMES = {
    1: "keyed", 2: "ready", 3: "closed", 4: "pong", 5: "failed",
    NOTE_OPEN: "open", NOTE_OPEN + STREAM_ACCEPTED: "accepted", NOTE_OPEN + STREAM_FIN: "fin",
    NOTE_OPEN + STREAM_RESET: "reset", NOTE_OPEN + STREAM_GONE: "gone", NOTE_M1: "admit M1", NOTE_M3: "admit M3"}

ctypedef struct note_t:         # one event
    uint64_t value              # id of a stream; of a pong, the round trip in ns; else the reason
    int type
    int reason                  # of a stream's reset; of a session's end, 1 when the peer closed

ctypedef struct draws_t:
    const uint8_t *script       # given out first; borrowed
    size_t script_len
    random_seed_t stream        # follows it

ctypedef struct seen_t:         # what is known of a stream; outlives it
    stream_t *stream            # NULL once it is gone
    chain_t opening             # bytes of the peer's OPEN
    chain_t input               # payload that has come and was not taken
    uint8_t kind
    uint8_t priority
    uint8_t hops_left

ctypedef struct state_t:        # what the hooks reach
    pool_t own                  # memory beside the session's
    chain_t out                 # sealed bytes not yet taken
    uint64_t room_len           # bytes that `out` may hold
    table_t streams             # id -> seen_t
    uint32_t n_missed           # times that there was output without a wake since the last take
    uint32_t max_service
    uint32_t max_pipes
    uint32_t n_notes
    uint8_t peer_kinds
    uint8_t padding
    uint8_t is_awake            # the session has woken its carrier, or has output left that there was no room for
    int refusal                 # reason for which new streams are refused, or 0
    note_t notes[2048]


cdef void draw_bytes(void *ctx, uint8_t *dst, size_t n) noexcept nogil:
    cdef draws_t *draws = <draws_t *>ctx
    cdef size_t scripted = min(n, draws.script_len)
    if scripted:
        memcpy(dst, draws.script, scripted)
    draws.script += scripted
    draws.script_len -= scripted
    random_seeded(&draws.stream, dst + scripted, n - scripted)


cdef inline state_t *state_of(const session_t *session) noexcept nogil:
    return <state_t *>session.owner


cdef void note(state_t *state, int type, uint64_t value, int reason) noexcept nogil:
    if state.n_notes < N_NOTES:
        state.notes[state.n_notes].type = type
        state.notes[state.n_notes].value = value
        state.notes[state.n_notes].reason = reason
    state.n_notes += 1


# The carrier

cdef size_t room(session_t *session) noexcept nogil:
    cdef state_t *state = state_of(session)
    return state.room_len - state.out.len if state.room_len > state.out.len else 0


cdef uint8_t *reserve(session_t *session, size_t len) noexcept nogil:
    cdef state_t *state = state_of(session)
    cdef block_t *block = state.out.tail
    if block is NULL or block_room(block) < len:
        block = block_take(&state.own, BLOCK_LARGE)
        if block is NULL:
            return NULL
        chain_push(&state.out, block)
    return &block.data[0] + block.end


cdef void commit(session_t *session, size_t len, uint64_t now_ns) noexcept nogil:
    cdef state_t *state = state_of(session)
    state.out.tail.end += <uint32_t>len
    state.out.len += len


cdef void wake(session_t *session, uint64_t now_ns) noexcept nogil:
    state_of(session).is_awake = 1


cdef carrier_t CARRIER
CARRIER.room = room
CARRIER.reserve = reserve
CARRIER.commit = commit
CARRIER.wake = wake


# Events

cdef void on_session_event(session_t *session, int event, uint64_t now_ns) noexcept nogil:
    cdef state_t *state = state_of(session)
    if event == SESSION_ON_DEADLINE or event == SESSION_ON_PEERS or event == SESSION_ON_SERVICES:
        return                                  # whoever owns an endpoint reads `deadline_ns`; notices are the engine's
    if event == SESSION_ON_KEYED:
        session.mux.peer_kinds = state.peer_kinds
        session.mux.max_service = state.max_service
        session.mux.max_pipes = state.max_pipes
    note(state, event, session.ping_rtt_ns if event == SESSION_ON_PONG else session.reason, session.is_remote)


cdef session_hooks_t HOOKS
HOOKS.on_event = on_session_event


cdef int on_data(stream_t *stream, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    cdef seen_t *seen = <seen_t *>stream.owner
    return chain_append(&seen.input, &state_of(<session_t *>stream.mux.owner).own, data, len, now_ns)


cdef void on_stream_event(stream_t *stream, int event, uint64_t now_ns) noexcept nogil:
    if event == STREAM_GONE:
        (<seen_t *>stream.owner).stream = NULL
        if stream.kind <= STREAM_MESSAGES:
            mux_used(stream.mux, stream.rx_off - stream.rx_used, now_ns)
    if event == STREAM_ACCEPTED or event == STREAM_FIN or event == STREAM_RESET or event == STREAM_GONE:
        note(state_of(<session_t *>stream.mux.owner), NOTE_OPEN + event, stream.id, stream.reason)


cdef sink_t SINK
SINK.on_data = on_data
SINK.on_event = on_stream_event
SINK.pull = NULL


cdef seen_t *seen_create(state_t *state, stream_t *stream) noexcept nogil:
    cdef seen_t *seen = <seen_t *>mem_take(&state.own, sizeof(seen_t))
    if seen is NULL or table_put(&state.streams, stream.id, seen) < 0:
        mem_give(&state.own, seen, sizeof(seen_t))
        return NULL
    seen.stream = stream
    seen.kind = stream.kind
    seen.priority = stream.priority
    seen.hops_left = stream.hops_left
    stream_bind(stream, seen, &SINK)
    return seen


cdef int on_open(mux_t *mux, stream_t *stream, const frame_t *frame, uint64_t now_ns) noexcept nogil:
    cdef state_t *state = state_of(<session_t *>mux.owner)
    cdef seen_t *seen = seen_create(state, stream)
    if seen is NULL or chain_append(&seen.opening, &state.own, frame.data, frame.len, now_ns) < 0:
        return -REASON_MEMORY
    note(state, NOTE_OPEN, stream.id, 0)
    return -state.refusal


cdef mux_hooks_t MUX_HOOKS
MUX_HOOKS.on_open = on_open


cdef bytes chain_take(chain_t *chain):
    """Take everything out of a chain."""
    cdef list parts = []
    cdef block_t *block = chain.head
    while block is not NULL:
        parts.append((<const char *>block_start(block))[:block_len(block)])
        block = block.next
    chain_clear(chain)
    return b"".join(parts)


@cython.final
cdef class Endpoint:
    """Own one session at a time, with all that a node would give it; the times are those of protocol.md.

    What it sends waits until `take`, what it receives comes by `feed`, time passes by `tick`. With a `seed` all
    randomness follows from it. The certificate of a link key ends with the key. Answers of type int are status codes,
    and streams are named by their ids.
    """
    cdef readonly KeyRing ring
    cdef bytes script               # keeps what `draws` borrows
    cdef readonly uint64_t now_ns   # monotonic
    cdef public bint admits         # the verdict that a handshake gets
    cdef session_t session
    cdef context_t ctx
    cdef state_t *state             # owned
    cdef local_t *local             # a slot of `secrets`
    cdef pool_t base                # memory of the two above and of the scratch
    cdef pool_t pool                # the session's memory, and nothing else
    cdef secret_pool_t secrets
    cdef cert_cache_t certs
    cdef cert_entry_t[64] cert_entries
    cdef session_times_t times
    cdef draws_t draws

    def __cinit__(self, KeyRing ring not None, NetworkSecret network=None, NetworkSecret previous=None, *,
                  uint16_t suites=7, uint8_t padding=1, uint8_t first_bytes=0, bytes seed=None,
                  uint64_t unix_s=1750000000):
        self.ring = ring
        self.now_ns = 1000 * SECOND_NS
        self.admits = True
        pool_init(&self.base, MEMORY_MAX)
        pool_init(&self.pool, MEMORY_MAX)
        secret_pool_init(&self.secrets, SECRETS_MAX, SECRET_LOCK_PREFERRED)
        self.state = <state_t *>mem_take(&self.base, sizeof(state_t))
        self.ctx.scratch = <uint8_t *>mem_take(&self.base, SCRATCH_LEN)
        self.local = <local_t *>secret_take(&self.secrets)
        if self.state is NULL or self.ctx.scratch is NULL or self.local is NULL:
            raise MemoryError
        self.make_state(padding)
        self.make_times()
        self.make_draws(seed)
        self.make_local(network, previous, suites)
        self.make_context()
        self.ctx.party.first_bytes = first_bytes
        self.unix_s = unix_s

    cdef void make_state(self, uint8_t padding) noexcept:
        pool_init(&self.state.own, MEMORY_MAX)
        table_init(&self.state.streams, &self.state.own, STREAMS_MAX, 1)
        self.state.room_len = MEMORY_MAX
        self.state.peer_kinds = (1 << STREAM_BYTES) | (1 << STREAM_MESSAGES) | (1 << STREAM_PIPE)
        self.state.max_service = 1024
        self.state.max_pipes = 1024
        self.state.padding = padding

    cdef void make_times(self) noexcept:
        self.times.handshake_ns = 30 * SECOND_NS
        self.times.first_head_ns = 10 * SECOND_NS
        self.times.first_flight_ns = 15 * SECOND_NS
        self.times.ping_min_ns = 15 * SECOND_NS
        self.times.ping_max_ns = 30 * SECOND_NS
        self.times.dead_peer_ns = 60 * SECOND_NS
        self.times.record_ns = 20 * SECOND_NS
        self.times.keys.epoch_ns = 120 * SECOND_NS
        self.times.keys.rekey_ns = 600 * SECOND_NS
        self.times.keys.answer_ns = 60 * SECOND_NS
        self.times.close_ns = 2 * SECOND_NS
        self.times.streams.slow_reader_ns = 30 * SECOND_NS
        self.times.streams.starved_ns = 10 * SECOND_NS

    cdef void make_draws(self, bytes seed) noexcept:
        cdef uint8_t[32] fresh
        if seed is None:
            crypto_random(NULL, fresh, 32)
            random_seed(&self.draws.stream, fresh, 32)
        else:
            random_seed(&self.draws.stream, <const uint8_t *>PyBytes_AS_STRING(seed), <size_t>PyBytes_GET_SIZE(seed))

    cdef int make_local(self, NetworkSecret network, NetworkSecret previous, uint16_t suites) except -1:
        """Copy what the handshakes need; keys that have ended by the clock too."""
        cdef local_t *local = self.local
        local.suites = suites
        local.clock_window_s = 120
        local.n_networks = 1 if previous is None else 2
        network_derive(&local.networks[0], NULL if network is None else network.borrow())
        if previous is not None:
            network_derive(&local.networks[1], previous.borrow())
        local_fill(local, self.ring.borrow(), 0, NEVER)
        return 0

    cdef void make_context(self) noexcept:
        cert_cache_init(&self.certs, self.cert_entries, N_CERTS)
        self.ctx.pool = &self.pool
        receive_init(&self.ctx.receive, RECEIVE_MAX)
        self.ctx.party.secrets = &self.secrets
        self.ctx.party.local = self.local
        self.ctx.party.certs = &self.certs
        self.ctx.party.random = draw_bytes
        self.ctx.party.random_ctx = &self.draws
        party_init(&self.ctx.party)

    def __dealloc__(self):
        if self.state is not NULL:
            self.forget()
            pool_clear(&self.state.own)
        mem_give(&self.base, self.state, sizeof(state_t))
        mem_give(&self.base, self.ctx.scratch, SCRATCH_LEN)
        pool_clear(&self.pool)
        secret_pool_free(&self.secrets)
        wipe(&self.draws, sizeof(draws_t))

    def __reduce__(self):
        raise TypeError("sessions are not serialised")

    cdef void forget(self) noexcept:
        cdef state_t *state = self.state
        cdef uint32_t cursor = 0
        cdef seen_t *seen
        session_clear(&self.session, self.now_ns)
        self.sweep()
        chain_clear(&state.out)
        while True:
            seen = <seen_t *>table_next(&state.streams, &cursor)
            if seen is NULL:
                break
            chain_clear(&seen.opening)
            chain_clear(&seen.input)
            mem_give(&state.own, seen, sizeof(seen_t))
        table_clear(&state.streams)
        state.n_notes = 0
        state.is_awake = 0

    cdef void begin(self) noexcept:
        self.forget()
        session_bind(&self.session, self.state, &HOOKS, &MUX_HOOKS, self.state, &CARRIER, &self.times)
        self.session.hello.padding = self.state.padding
        self.session.hello.max_service_streams = self.state.max_service
        self.session.hello.max_pipes = self.state.max_pipes

    cdef void sweep(self) noexcept:
        streams_sweep(&self.ctx.graveyard, &self.pool)

    # Life

    def draw_first(self, bytes script not None):
        """Let the next random bytes be these, in the order in which the core draws them."""
        self.script = script
        self.draws.script = <const uint8_t *>PyBytes_AS_STRING(script)
        self.draws.script_len = <size_t>PyBytes_GET_SIZE(script)

    def connect(self, int kind, bytes link_key=None, bytes peer_id=None, int layer=0):
        """Begin as initiator; `kind` is that of the first flight, `layer` one of layer_role_t."""
        cdef const uint8_t *key = NULL
        cdef const uint8_t *peer = NULL
        if link_key is not None:
            key = <const uint8_t *>PyBytes_AS_STRING(exactly(link_key, 32, "link_key"))
        if peer_id is not None:
            peer = <const uint8_t *>PyBytes_AS_STRING(exactly(peer_id, 32, "peer_id"))
        self.begin()
        return session_connect(&self.session, &self.ctx, kind, layer, key, peer, self.now_ns)

    def listen(self, int kinds, int layer=0):
        """Begin as responder to first flights whose kind is a bit of `kinds`."""
        self.begin()
        return session_listen(&self.session, &self.ctx, kinds, layer, self.now_ns)

    def feed(self, bytes data not None):
        """Give bytes of the carrier; the code of the violation that ended the session, or 0.

        The verdict that a handshake asks for is given at once; what is not admitted is dropped.
        """
        cdef size_t len = <size_t>PyBytes_GET_SIZE(data)
        cdef uint8_t *copy = <uint8_t *>mem_take(&self.state.own, len + (len == 0))
        cdef uint8_t *at = copy
        cdef size_t left = len
        if copy is NULL:
            raise MemoryError
        memcpy(copy, PyBytes_AS_STRING(data), len)
        while session_feed(&self.session, at, left, self.now_ns) == NEED_ADMIT:
            at += left - self.session.left
            left = self.session.left
            note(self.state, NOTE_M1 if self.session.handshake.stage == STAGE_ADMIT_M1 else NOTE_M3, 0, 0)
            if not self.admits:
                session_drop(&self.session, REASON_REFUSED, self.now_ns)
                break
            if session_admit(&self.session, self.now_ns) < 0 or left == 0:
                break
        self.sweep()
        mem_give(&self.state.own, copy, len + (len == 0))
        return self.session.status

    def take(self):
        """Let the session send what there is room for; take all that it has sent."""
        self.state.n_missed += session_has_output(&self.session) and not self.state.is_awake
        while session_has_output(&self.session) and session_pump(&self.session, self.now_ns) > 0:
            pass
        self.state.is_awake = session_has_output(&self.session)
        self.sweep()
        return chain_take(&self.state.out)

    def tick(self, uint64_t now_ns):
        """Let it be `now_ns`; the wall clock goes along."""
        self.now_ns = now_ns
        session_tick(&self.session, now_ns)
        self.sweep()

    def ping(self):
        """Send a PING."""
        return session_ping(&self.session, self.now_ns)

    def start_rekey(self):
        """Start an exchange as if its time had come and the session were used."""
        if self.session.state == SESSION_OPEN and self.session.tx.seq + self.session.rx.seq > 0:
            rekey_start(&self.session.rekey, self.now_ns)
            session_tick(&self.session, self.now_ns)

    def end_epoch(self):
        """End the sending epoch as if its time had come."""
        self.session.rekey.epoch_due = 1
        session_wake(&self.session, self.now_ns)

    def inject(self, bytes frames not None):
        """Queue bytes that a record shall hold as they are, before any stream's."""
        cdef int rc = mux_control(&self.session.mux, <const uint8_t *>PyBytes_AS_STRING(frames),
                                  <size_t>PyBytes_GET_SIZE(frames))
        session_wake(&self.session, self.now_ns)
        return rc

    def close(self, int reason):
        """Say CLOSE, then end."""
        session_close(&self.session, reason, self.now_ns)
        self.sweep()

    def drop(self, int reason):
        """End without a word."""
        session_drop(&self.session, reason, self.now_ns)
        self.sweep()

    def clear(self):
        """Free the session and forget what it did."""
        self.forget()

    # Streams

    cdef seen_t *seen(self, uint64_t id) except NULL:
        cdef seen_t *seen = <seen_t *>table_get(&self.state.streams, id)
        if seen is NULL:
            raise KeyError(id)
        return seen

    def open_stream(self, int kind, int priority, uint64_t credit, bytes opening not None):
        """Open a stream: its id, or None when a limit forbids."""
        cdef stream_t *stream = mux_open(&self.session.mux, kind, priority, credit,
                                         <const uint8_t *>PyBytes_AS_STRING(opening), <size_t>PyBytes_GET_SIZE(opening))
        if stream is NULL:
            return None
        if seen_create(self.state, stream) is NULL:
            raise MemoryError
        session_wake(&self.session, self.now_ns)
        return stream.id

    def accept(self, uint64_t id, uint64_t credit):
        """Accept, with credit up to an absolute offset."""
        cdef seen_t *seen = self.seen(id)
        cdef int rc = E_CLOSED if seen.stream is NULL else stream_accept(seen.stream, credit)
        session_wake(&self.session, self.now_ns)
        return rc

    def write(self, uint64_t id, bytes data not None):
        """Queue payload."""
        cdef seen_t *seen = self.seen(id)
        cdef int rc = E_CLOSED
        if seen.stream is not NULL:
            rc = stream_copy(seen.stream, <const uint8_t *>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data),
                             self.now_ns)
        session_wake(&self.session, self.now_ns)
        return rc

    def finish(self, uint64_t id):
        """Send FIN after what is queued."""
        cdef seen_t *seen = self.seen(id)
        if seen.stream is not NULL:
            stream_finish(seen.stream, self.now_ns)
        session_wake(&self.session, self.now_ns)

    def reset(self, uint64_t id, int reason):
        """Reset."""
        cdef seen_t *seen = self.seen(id)
        cdef int rc = E_CLOSED if seen.stream is NULL else stream_reset(seen.stream, reason, self.now_ns)
        session_wake(&self.session, self.now_ns)
        self.sweep()
        return rc

    def used(self, uint64_t id, uint64_t length):
        """Say that so much payload was consumed."""
        cdef seen_t *seen = self.seen(id)
        if seen.stream is not NULL:
            stream_used(seen.stream, length, self.now_ns)
        session_wake(&self.session, self.now_ns)

    def grant(self, uint64_t id, uint64_t offset):
        """Give credit up to an absolute offset."""
        cdef seen_t *seen = self.seen(id)
        if seen.stream is not NULL:
            stream_grant(seen.stream, offset)
        session_wake(&self.session, self.now_ns)

    def received(self, uint64_t id):
        """Take the payload that has come."""
        return chain_take(&self.seen(id).input)

    def opening(self, uint64_t id):
        """Take what the peer's OPEN said: kind, priority, hops_left, bytes."""
        cdef seen_t *seen = self.seen(id)
        return seen.kind, seen.priority, seen.hops_left, chain_take(&seen.opening)

    def offsets(self, uint64_t id):
        """Sent, send limit, received, receive limit in bytes; None once the stream is gone."""
        cdef stream_t *stream = self.seen(id).stream
        return None if stream is NULL else (stream.tx_off, stream.tx_credit, stream.rx_off, stream.rx_credit)

    # What can be seen

    def events(self):
        """Take the events so far: (name,), ("pong", rtt_ns), ("closed" or "failed", reason, is_remote), (name, id),
        ("reset", id, reason)."""
        cdef list told = []
        cdef note_t *event
        cdef uint32_t i
        if self.state.n_notes > N_NOTES:
            raise OverflowError("more events than are kept")
        for i in range(self.state.n_notes):
            event = &self.state.notes[i]
            name = NAMES[event.type]
            if name in ("closed", "failed"):
                told.append((name, event.value, bool(event.reason)))
            elif name == "reset":
                told.append((name, event.value, event.reason))
            elif name == "pong" or NOTE_OPEN <= event.type < NOTE_M1:
                told.append((name, event.value))
            else:
                told.append((name,))
        self.state.n_notes = 0
        return told

    @property
    def state(self):
        """Of session_state_t, in words."""
        return STATES[self.session.state]

    @property
    def status(self):
        """Why it failed."""
        return self.session.status

    @property
    def reason(self):
        """Reason on the wire, once closed."""
        return self.session.reason

    @property
    def is_remote(self):
        """Whether the peer closed."""
        return bool(self.session.is_remote)

    @property
    def suite(self):
        """Of suite_t; 0 before the keys exist."""
        return self.session.tx.suite

    @property
    def peer_id(self):
        """PeerID of the peer; zeros where it is anonymous."""
        return self.session.peer_id[:32]

    @property
    def peer_link_key(self):
        """Link key of the peer."""
        return self.session.peer_link_key[:32]

    @property
    def channel_binding(self):
        """Handshake hash."""
        return self.session.channel_binding[:32]

    @property
    def exporter(self):
        """Exporter secret; None without keys."""
        return None if self.session.keys is NULL else self.session.keys.exporter[:32]

    @property
    def sending(self):
        """Generation, epoch, sequence number of the next record sent."""
        return self.session.tx.generation, self.session.tx.epoch, self.session.tx.seq

    @property
    def receiving(self):
        """Generation, epoch, sequence number of the next record received."""
        return self.session.rx.generation, self.session.rx.epoch, self.session.rx.seq

    @property
    def is_rekeying(self):
        """Whether an exchange runs."""
        return self.session.rekey.exchange is not NULL

    @property
    def session_credit(self):
        """Service payload: sent, send limit, received, receive limit."""
        return self.session.mux.tx_off, self.session.mux.tx_credit, self.session.mux.rx_off, self.session.mux.rx_credit

    @property
    def peer_hello(self):
        """What the peer's HELLO said: credit, service streams, pipes, message, padding."""
        return (self.session.peer_hello.session_credit, self.session.peer_hello.max_service_streams,
                self.session.peer_hello.max_pipes, self.session.peer_hello.max_message, self.session.peer_hello.padding)

    @property
    def deadline_ns(self):
        """When to tick."""
        return self.session.deadline_ns

    @property
    def n_missed_wakes(self):
        """How often `take` found output for which the carrier had not been woken."""
        return self.state.n_missed

    @property
    def failures(self):
        """Status code to how often it ended a session."""
        return {-i: self.ctx.n_status[i] for i in range(64) if self.ctx.n_status[i]}

    @property
    def slow(self):
        """Of slow readers: unread bytes, sessions closed, streams reset, times credit was withheld."""
        return (self.ctx.receive.unread.used, self.ctx.n_slow_closes, self.ctx.receive.n_slow_resets,
                self.ctx.receive.n_withheld)

    @property
    def held(self):
        """What the session holds: blocks, bytes of other memory, secret slots."""
        return pool_outstanding(&self.pool), self.pool.plain_len, self.secrets.n_taken - 1

    # What can be set

    @property
    def unix_s(self):
        """Wall clock."""
        return (<int64_t>self.now_ns + self.ctx.unix_offset_ns) // <int64_t>SECOND_NS

    @unix_s.setter
    def unix_s(self, uint64_t value):
        self.ctx.unix_offset_ns = <int64_t>(value * SECOND_NS) - <int64_t>self.now_ns

    @property
    def room(self):
        """Bytes that the carrier takes between two `take`."""
        return self.state.room_len

    @room.setter
    def room(self, uint64_t value):
        self.state.room_len = value

    @property
    def memory_len(self):
        """Bytes of blocks that the session may hold."""
        return self.pool.own.max

    @memory_len.setter
    def memory_len(self, uint64_t value):
        self.pool.own.max = value
        self.pool.own.len = self.pool.taken.leased = self.pool.taken.used   # nothing is leased ahead of it

    @property
    def receive_len(self):
        """Bytes that the sessions of a node may hold for their applications."""
        return self.ctx.receive.own.max

    @receive_len.setter
    def receive_len(self, uint64_t value):
        self.ctx.receive.own.max = value

    @property
    def rights(self):
        """What the peer may open from the next session on: mask of stream kinds, service streams, pipes."""
        return self.state.peer_kinds, self.state.max_service, self.state.max_pipes

    @rights.setter
    def rights(self, tuple value):
        self.state.peer_kinds, self.state.max_service, self.state.max_pipes = value

    @property
    def refusal(self):
        """Reason for which streams of the peer are refused; 0 for none."""
        return self.state.refusal

    @refusal.setter
    def refusal(self, int value):
        self.state.refusal = value
