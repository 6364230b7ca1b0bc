# SPDX-License-Identifier: MIT
"""What goes to the application: events in order, and flows, the application's streams.

A flow is what the application knows of a stream; it may outlive the stream itself while received bytes are not
consumed. Nothing is queued for a flow but its own bytes, which credit bounds, and a bit mask of what is to be told.
`outbox_emit` hands all this to the owner's `emit` until that answers 0 (full); the rest is kept.
"""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from .memory cimport block_t, chain_t, pool_t
from .mux cimport stream_t
from .session cimport session_t
from .table cimport table_t
from .wire cimport address_t

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
    EVENT_IDENTITY_TWICE = 14   # two processes have links with this node under peer_id
    EVENT_DRAINED = 15          # engine_drain was called and no circuit passes through any more
    EVENT_CONFIGURED = 16       # new settings are in force
    EVENT_PEERS = 17            # a direct peer tells of others: records, each behind its length, in the blocks
    EVENT_TAMPERED = 18         # a layer of ours failed to open, here or at its far end: between the relay of link_key
                                # and the node that peer_id holds the link key of, one has changed bytes
    EVENT_SERVICES = 20         # a peer offers other services than before: ids in the blocks, added ones first
    EVENT_TWINS = 19            # a peer runs under a new instance; for the owner of several engines

ctypedef struct event_t:
    uint16_t type
    uint8_t reason
    uint8_t is_remote
    int32_t status
    uint64_t id                 # flow or channel; request where there is no channel
    uint64_t a                  # PEER_UP: request; TWINS: instance;
                                # STREAM_OPEN: channel; SENT: bytes; PONG: ns; SERVICES: n added; CONNECT_FAILED: hop;
                                # STREAM_RESET, DONE: bytes sent
    uint64_t b                  # PEER_UP: bit 0 relayed, bit 1 dialled, bit 2 takes new streams, suite << 8;
                                # CONNECT_FAILED: 1: it was the relay before this hop that refused (a circuit's first
                                # hop: that hop itself), else 0;
                                # STREAM_OPEN: kind | priority << 8; STREAM_RESET, DONE: bytes received
    block_t *blocks             # DATA, OPEN: chain that goes with the event; PEER_UP: one with the ids of services, or
                                # NULL
    uint32_t rate_kib           # PEER_UP, CONNECT_FAILED: terms that the peer, or the relay, has announced
    uint32_t burst_kib
    uint8_t has_terms
    uint8_t peer_id[32]
    uint8_t link_key[32]
    address_t address           # no names

ctypedef struct pending_t:      # an event that waits, of the kinds that are bounded by channels and requests
    event_t event
    pending_t *next

ctypedef int (*emit_fn)(void *ctx, const event_t *event) noexcept nogil
    # takes the event's blocks; 0 = full, nothing taken

ctypedef struct outbox_t:       # one per worker
    pool_t *pool                # borrowed
    emit_fn emit
    void *emit_ctx
    pending_t *pending_head     # before the flows' events
    pending_t *pending_tail
    pending_t *late_head        # behind them: what ends channels
    pending_t *late_tail
    uint32_t owed               # bits of types: events of the node that are still to be told, behind all others
    uint32_t n_waiting          # flows in the list below
    flow_t *flows_head          # flows with something to tell
    flow_t *flows_tail
    table_t flows               # id -> flow
    uint64_t next_id            # of the next stream that a peer opens: bit PEERS_BIT is set in those
    uint64_t now_ns             # of the input under way

ctypedef struct flow_t:
    uint64_t id
    outbox_t *outbox
    session_t *session          # NULL once that is gone
    flow_t **list               # head of the list of the session's flows
    stream_t *stream            # NULL once gone
    uint64_t channel_id
    chain_t rx                  # received, not yet handed over
    chain_t opening             # bytes of a peer's OPEN, until handed over
    uint64_t written            # bytes queued since the beginning
    uint64_t sent               # of them reported by STREAM_SENT
    uint64_t unused             # bytes received and not consumed by the application
    uint64_t out_len            # bytes of the stream that were sent and received when it went
    uint64_t in_len
    const tap_t *tap            # NULL: the application itself
    void *tap_owner             # borrowed
    flow_t *next                # flows of the session
    flow_t *prev
    flow_t *next_event          # in the outbox
    uint32_t events             # bit mask of event types that wait
    uint8_t is_queued           # in that list
    uint8_t kind
    uint8_t priority
    uint8_t reason
    int32_t status              # what a tap's other end broke with; goes with RESET
    uint8_t is_over             # RESET or DONE was reported

ctypedef struct tap_t:          # takes the application's place at a flow, between flow_tap and flow_untap
    void (*on_data)(flow_t *flow, uint64_t now_ns) noexcept nogil
        # flow.rx has grown; take it and call flow_used
    void (*on_event)(flow_t *flow, int event, uint64_t now_ns) noexcept nogil
        # stream_event_t; STREAM_GONE: the stream is NULL now and flow.reason tells why, 0: both sides had finished
    void (*on_freed)(void *owner) noexcept nogil    # the application reset the flow, or the worker ends: forget it

cdef enum:
    PEERS_BIT = 47              # above it the owner of several outboxes may number them
    FLOWS_WAITING_MAX = 4096    # flows that Python has not heard of; peers' OPENs are refused (busy) above

cdef void outbox_init(outbox_t *outbox, pool_t *pool, uint64_t mix) noexcept nogil
cdef void outbox_clear(outbox_t *outbox) noexcept nogil         # frees flows and events without a word
cdef void outbox_put(outbox_t *outbox, const event_t *event) noexcept nogil     # in order behind those that wait
cdef void outbox_put_late(outbox_t *outbox, const event_t *event) noexcept nogil    # behind all that flows have to tell
cdef void outbox_owe(outbox_t *outbox, int type) noexcept nogil # behind all others: DRAINED, CONFIGURED, STOPPED, which
                                                                # hold nothing but their type; never lost
cdef int outbox_emit(outbox_t *outbox) noexcept nogil           # 0 when some had to wait
cdef bint outbox_is_empty(const outbox_t *outbox) noexcept nogil

cdef flow_t *flow_create(outbox_t *outbox, session_t *session, flow_t **list, uint64_t channel_id, uint64_t id,
                         int kind, int priority) noexcept nogil # NULL without memory or when the id is taken
cdef void flow_bind(flow_t *flow, stream_t *stream) noexcept nogil
cdef int flow_announce(flow_t *flow, const uint8_t *opening, size_t len) noexcept nogil   # STREAM_OPEN; E_MEMORY
cdef void flow_free(flow_t *flow) noexcept nogil
cdef void flow_abandon(flow_t *flow) noexcept nogil             # its session goes; freed once all is told

# Commands of the application; unknown ids are ignored, since the flow may have ended meanwhile.
cdef int flow_open(outbox_t *outbox, session_t *session, flow_t **list, uint64_t channel_id, uint64_t id,
                   int kind, int priority, const uint8_t *opening, size_t len, uint64_t now_ns) noexcept nogil
    # OK or minus a reason_t
cdef void flow_accept(outbox_t *outbox, uint64_t id, uint64_t now_ns) noexcept nogil
cdef void flow_write(outbox_t *outbox, uint64_t id, chain_t *chain, uint64_t now_ns) noexcept nogil
    # takes the chain; accepts the stream if that has not been done
cdef void flow_finish(outbox_t *outbox, uint64_t id, uint64_t now_ns) noexcept nogil
cdef void flow_reset(outbox_t *outbox, uint64_t id, int reason, uint64_t now_ns) noexcept nogil
    # no event of it follows
cdef flow_t *flow_find(outbox_t *outbox, uint64_t id) noexcept nogil    # borrowed; NULL: unknown or ended
cdef flow_t *flow_tap(outbox_t *outbox, uint64_t id, const tap_t *tap, void *owner) noexcept nogil
    # NULL: it has no stream any more, or a tap already. What the application was not told of stays in flow.rx
cdef void flow_untap(flow_t *flow) noexcept nogil
    # after STREAM_GONE: the application hears of DONE, or of RESET
cdef void flow_used(outbox_t *outbox, uint64_t id, uint64_t len, uint64_t now_ns) noexcept nogil
