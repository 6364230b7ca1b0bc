# SPDX-License-Identifier: MIT
"""All sessions of one worker: the sans-IO machine (architecture.md 3, L8).

Inputs from the transport: `engine_accepted`, `engine_connected`, `engine_dial_failed`, `engine_received`, `engine_ended`,
`engine_lost`, `engine_writable`. Inputs from time: `engine_tick` at `engine_deadline`. Commands: the rest. Outputs: the functions of
`transport_t`, and events, which `engine_emit` hands to `emit` until it answers 0 (the ring is full; the rest is kept and tried again).
`engine_settle` ends every input: it flushes links, frees what ended. All calls by one thread; `now_ns` is monotonic.
"""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from .guard cimport bucket_t, guard_t
from .heap cimport heap_node_t, heap_t
from .memory cimport block_t, chain_t, pool_t
from .mux cimport stream_t
from .relay cimport relay_t
from .session cimport context_t, session_t, session_times_t
from .table cimport table_t
from .wire cimport address_t

cdef enum:
    HOPS_MAX = 8                # relays and target of a circuit
    LINK_OUT_MAX = 262144       # sealed bytes of a link that may wait for the kernel

cdef enum channel_kind_t:
    CHANNEL_LINK = 0            # over a transport connection
    CHANNEL_LAYER = 1           # in a stream of another channel

cdef enum channel_state_t:
    CHANNEL_DIALLING = 0
    CHANNEL_LIVE = 1
    CHANNEL_SINK = 2            # a stranger: input is dropped until the deadline
    CHANNEL_SINK_SHUT = 3       # our FIN is sent
    CHANNEL_ENDED = 4           # freed by engine_settle

cdef enum event_type_t:
    EVENT_PEER_UP = 1
    EVENT_PEER_DOWN = 2
    EVENT_CONNECT_FAILED = 3
    EVENT_STREAM_OPEN = 4       # those of a stream are reported in this order
    EVENT_STREAM_ACCEPTED = 5
    EVENT_STREAM_SENT = 6
    EVENT_STREAM_DATA = 7
    EVENT_STREAM_FIN = 8
    EVENT_STREAM_RESET = 9
    EVENT_STREAM_DONE = 10
    EVENT_PONG = 11
    EVENT_LISTENING = 12
    EVENT_STOPPED = 13

ctypedef struct event_t:
    uint16_t type
    uint8_t reason
    uint8_t is_remote
    int32_t status
    uint64_t id                 # flow or channel; request where there is no channel
    uint64_t a                  # PEER_UP: request; STREAM_OPEN: channel; SENT: bytes; PONG: ns; CONNECT_FAILED: hop
    uint64_t b                  # PEER_UP: bit 0 relayed, suite << 8; STREAM_OPEN: kind | priority << 8
    block_t *blocks             # DATA, OPEN: chain that goes with the event
    uint8_t peer_id[32]
    uint8_t link_key[32]
    address_t address           # no names

ctypedef struct pending_t:      # an event that waits, of the kinds that are bounded by channels and requests
    event_t event
    pending_t *next

ctypedef struct transport_t:
    void *ctx
    void (*dial)(void *ctx, channel_t *channel, const address_t *address) noexcept nogil
        # answers by engine_connected or engine_dial_failed, later; names are resolved
    void (*cancel)(void *ctx, channel_t *channel) noexcept nogil            # forget the dial
    void (*write)(void *ctx, void *conn, chain_t *chain) noexcept nogil     # takes the chain
    uint64_t (*pending)(void *ctx, void *conn) noexcept nogil               # bytes that wait for the kernel
    void (*shutdown)(void *ctx, void *conn) noexcept nogil                  # FIN behind what is pending
    void (*close)(void *ctx, void *conn) noexcept nogil                     # the same and forget; no event follows
    void (*abort)(void *ctx, void *conn) noexcept nogil                     # drop what is pending and close

ctypedef int (*emit_fn)(void *ctx, const event_t *event) noexcept nogil     # takes the event's blocks; 0 = full, nothing taken

ctypedef struct hop_t:
    uint8_t link_key[32]
    uint8_t peer_id[32]
    uint8_t has_link_key
    uint8_t has_peer_id
    address_t address           # a name's bytes lie in `name`
    uint8_t name[256]

ctypedef struct path_t:         # a circuit under construction, or a direct link somebody waits for
    uint64_t request
    uint32_t n_hops
    uint32_t hop_idx            # the hop being reached
    channel_t *channel          # the channel being built
    path_t *next
    path_t *prev
    uint8_t is_new              # no existing session may be taken
    hop_t hops[1]               # n_hops of them

ctypedef struct flow_t:         # an application's stream, which may outlive the stream itself
    uint64_t id
    engine_t *engine
    channel_t *channel
    stream_t *stream            # NULL once gone
    chain_t rx                  # received, not yet handed over
    chain_t opening             # bytes of a peer's OPEN, until handed over
    uint64_t written            # bytes queued since the beginning
    uint64_t sent               # of them reported by STREAM_SENT
    uint64_t unused             # bytes received and not consumed by the application
    flow_t *next                # flows of the channel
    flow_t *prev
    flow_t *next_event          # in engine.flow_events
    uint32_t events             # bit mask of event types that wait
    uint8_t is_queued           # in that list
    uint8_t kind
    uint8_t priority
    uint8_t reason
    uint8_t is_over             # RESET or DONE was reported

ctypedef struct channel_t:
    session_t session           # first: a session of the engine is a channel
    engine_t *engine
    uint64_t id
    heap_node_t timer
    void *conn                  # of the transport; NULL for layers and when gone
    chain_t out                 # sealed bytes for the transport
    stream_t *stream            # layers: the carrier stream; NULL once gone
    channel_t *parent           # layers: whose stream that is
    channel_t *next             # all channels of the engine
    channel_t *prev
    channel_t *next_dirty
    flow_t *flows
    bucket_t pipes              # rate of pipes and relay streams that the peer opens
    address_t remote            # links
    uint64_t accept_ns
    uint64_t sink_ns            # when a sink shuts, then closes
    uint32_t n_flows
    uint8_t kind                # channel_kind_t
    uint8_t state               # channel_state_t
    uint8_t is_dirty
    uint8_t is_reported         # PEER_UP was emitted
    uint8_t is_half_open
    uint8_t is_auto             # made for circuits only; closes with the last of them
    uint8_t is_known            # in the table of links

ctypedef struct engine_config_t:
    session_times_t times
    uint64_t window_max         # of streams
    uint64_t session_window_max
    uint32_t max_streams        # that a peer may open per session
    uint32_t max_pipes
    uint32_t max_sessions
    uint32_t max_sinks
    uint64_t max_message
    uint64_t relay_memory_len
    uint8_t padding
    uint8_t relays              # pipes are accepted for others
    uint8_t accepts_xx
    uint8_t worker
    uint8_t n_workers
    uint8_t instance[8]

ctypedef struct engine_t:
    context_t ctx
    pool_t *pool                # borrowed
    guard_t *guard              # borrowed
    engine_config_t config
    transport_t transport
    emit_fn emit
    void *emit_ctx
    heap_t timers
    table_t links               # first 8 bytes of the peer's link key -> open link
    table_t flows               # id -> flow
    table_t channels            # id -> channel
    relay_t relay
    channel_t *all
    channel_t *dirty
    channel_t *ended
    path_t *paths
    pending_t *pending_head     # events that wait for room in the ring
    pending_t *pending_tail
    flow_t *flow_events
    flow_t *flow_events_tail
    heap_node_t relay_timer
    uint64_t next_id
    uint64_t next_flow          # id of the next stream that a peer opens: bit 62 is set in those
    uint32_t n_channels
    uint32_t n_sinks
    uint64_t n_links_up         # sessions that became ready
    uint64_t n_bytes_in
    uint64_t n_bytes_out
    uint64_t n_flow_in          # application bytes
    uint64_t n_flow_out
    uint64_t now_ns             # of the last engine_settle
    uint8_t is_stopping
    uint8_t is_stopped

cdef int engine_init(engine_t *engine, pool_t *pool, guard_t *guard, const engine_config_t *config) noexcept nogil
    # the caller fills ctx.party, ctx.scratch, transport, emit before any other call
cdef void engine_clear(engine_t *engine, uint64_t now_ns) noexcept nogil       # frees everything, no events

cdef channel_t *engine_accepted(engine_t *engine, void *conn, const address_t *remote, uint64_t now_ns) noexcept nogil
    # NULL: close it
cdef void engine_connected(engine_t *engine, channel_t *channel, void *conn, uint64_t now_ns) noexcept nogil
cdef void engine_dial_failed(engine_t *engine, channel_t *channel, uint64_t now_ns) noexcept nogil
cdef void engine_received(engine_t *engine, channel_t *channel, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil
cdef void engine_ended(engine_t *engine, channel_t *channel, uint64_t now_ns) noexcept nogil
cdef void engine_lost(engine_t *engine, channel_t *channel, uint64_t now_ns) noexcept nogil
cdef void engine_writable(engine_t *engine, channel_t *channel, uint64_t now_ns) noexcept nogil
cdef void engine_tick(engine_t *engine, uint64_t now_ns) noexcept nogil
cdef uint64_t engine_deadline(const engine_t *engine) noexcept nogil
cdef void engine_settle(engine_t *engine, uint64_t now_ns) noexcept nogil
cdef int engine_emit(engine_t *engine) noexcept nogil           # events to the ring; 0 when some had to wait

cdef path_t *path_create(engine_t *engine, uint32_t n_hops) noexcept nogil     # gives; E_MEMORY as NULL
cdef void engine_connect(engine_t *engine, path_t *path, uint64_t now_ns) noexcept nogil       # takes the path
cdef void engine_cancel(engine_t *engine, uint64_t request, uint64_t now_ns) noexcept nogil
cdef void engine_close_peer(engine_t *engine, uint64_t channel_id, int reason, uint64_t now_ns) noexcept nogil
cdef void engine_ping(engine_t *engine, uint64_t channel_id, uint64_t now_ns) noexcept nogil
cdef void engine_open(engine_t *engine, uint64_t flow_id, uint64_t channel_id, int kind, int priority, const uint8_t *opening,
                      size_t len, uint64_t now_ns) noexcept nogil
cdef void engine_accept(engine_t *engine, uint64_t flow_id, uint64_t now_ns) noexcept nogil
cdef void engine_write(engine_t *engine, uint64_t flow_id, chain_t *chain, uint64_t now_ns) noexcept nogil     # takes the chain
cdef void engine_finish(engine_t *engine, uint64_t flow_id, uint64_t now_ns) noexcept nogil
cdef void engine_reset(engine_t *engine, uint64_t flow_id, int reason, uint64_t now_ns) noexcept nogil
cdef void engine_used(engine_t *engine, uint64_t flow_id, uint64_t len, uint64_t now_ns) noexcept nogil
cdef void engine_stop(engine_t *engine, uint64_t now_ns) noexcept nogil        # closes all sessions; EVENT_STOPPED when they are gone
