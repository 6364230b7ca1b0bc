# SPDX-License-Identifier: MIT
"""One secure channel over one carrier: handshake, records, streams, life cycle, timers (protocol.md 3 to 5).

Calling contract. Inputs: `session_feed` (bytes of the carrier), `session_tick` (time), `session_admit` (verdict).
Output: when the session has something to send it calls `carrier.wake`; the owner then calls `session_pump` until it
answers 0. Events: `hooks.on_event`, from inside any input; the owner must not free the session before its own call
stack has left it. All calls by one thread.

A record goes out by reserve and commit: the carrier gives the place, the session seals into it. A carrier that is a
stream of another session reserves in turn, so the innermost record is built once, in its final place.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from .cover cimport cover_account_t, cover_config_t, cover_t
from .handshake cimport handshake_t, local_t, party_t
from .memory cimport block_t, pool_t
from .mux cimport mux_hooks_t, mux_t, mux_times_t, receive_t, stream_t
from .record cimport record_dir_t, record_keys_t
from .rekey cimport rekey_is_pending, rekey_secret_t, rekey_t, rekey_times_t
from .wire cimport hello_t

cdef enum session_state_t:
    SESSION_HANDSHAKE = 0
    SESSION_KEYED = 1           # records flow; the peer's HELLO has not come
    SESSION_OPEN = 2
    SESSION_CLOSING = 3         # CLOSE is queued; ends when it is sent
    SESSION_DISCARD = 4         # a bad record came: bytes are read and dropped
    SESSION_CLOSED = 5

cdef enum session_event_t:
    SESSION_ON_KEYED = 1        # streams may be opened
    SESSION_ON_READY = 2        # the peer's HELLO is here
    SESSION_ON_CLOSED = 3       # session.reason, session.is_remote tell why; the carrier is the owner's to close
    SESSION_ON_PONG = 4         # session.ping_rtt_ns is new
    SESSION_ON_FAILED = 5       # the handshake failed; session.status tells why; nothing was answered
    SESSION_ON_DEADLINE = 6     # session.deadline_ns is sooner than it was, outside of feed and tick
    SESSION_ON_PEERS = 7        # session.notice holds records, each behind its length; nothing of them is verified
    SESSION_ON_SERVICES = 8     # session.notice holds what services_read reads

cdef enum:
    SCRATCH_LEN = 20480

cdef enum layer_role_t:
    LAYER_NONE = 0              # on a transport
    LAYER_SOURCE = 1            # in a stream that this node opened
    LAYER_FAR_END = 2           # in a pipe that a peer opened

ctypedef struct context_t:      # what all sessions of one worker share
    party_t party
    pool_t *pool                # borrowed
    int64_t unix_offset_ns      # wall clock minus monotonic clock
    uint8_t *scratch            # SCRATCH_LEN bytes: one record or flight being built; valid until the next call that
                                # builds
    stream_t *graveyard         # ended streams of all sessions
    receive_t receive           # what they hold for applications; the owner sets its budget
    cover_account_t covers      # what cover traffic costs
    uint64_t n_slow_closes      # sessions closed because their peer took nothing
    uint64_t n_slow_records     # sessions ended since a record that began did not come whole in time
    uint64_t n_slow_handshakes  # handshakes that others began and did not finish in time
    uint64_t (*clock)() noexcept nogil      # of this thread's work, ns; NULL: handshakes are not measured
    uint64_t handshake_ns       # that handshakes took which others began
    uint64_t n_status[64]       # how often a status code ended a session or a handshake, by minus the code

ctypedef struct carrier_t:
    size_t (*room)(session_t *session) noexcept nogil           # bytes it takes whole now
    uint8_t *(*reserve)(session_t *session, size_t len) noexcept nogil
        # place for len bytes, which commit makes final; NULL without memory. Nothing else may happen in between
    void (*commit)(session_t *session, size_t len, uint64_t now_ns) noexcept nogil
    void (*wake)(session_t *session, uint64_t now_ns) noexcept nogil
    void (*turn)(session_t *session, uint32_t n, uint64_t now_ns) noexcept nogil
        # of a paced session, n of them have come: sets session.turn_len

ctypedef struct session_hooks_t:
    void (*on_event)(session_t *session, int event, uint64_t now_ns) noexcept nogil

ctypedef struct session_times_t:        # all in ns; one per node
    uint64_t handshake_ns       # from start to the peer's HELLO
    uint64_t first_head_ns      # responder: the first 80 bytes
    uint64_t first_flight_ns    # responder: the first flight
    uint64_t delay_ns           # links: each flight waits for a time drawn up to it
    uint64_t ping_min_ns        # idle time before a PING, drawn between the two
    uint64_t ping_max_ns
    uint64_t dead_peer_ns       # silence that ends the session
    uint64_t record_ns          # a record begun must be whole by then
    uint64_t close_ns           # the CLOSE must have left by then
    rekey_times_t keys
    mux_times_t streams

ctypedef struct session_keys_t:         # a secret slot
    record_keys_t tx
    record_keys_t rx
    rekey_secret_t rekey
    uint8_t exporter[32]

ctypedef struct session_t:
    context_t *ctx
    void *owner                 # of the hooks; borrowed
    void *carrier_ctx           # of the carrier; borrowed
    const carrier_t *carrier
    const session_hooks_t *hooks
    const session_times_t *times
    const cover_config_t *covering      # borrowed; NULL: this session sends no cover, whatever it is
    mux_t mux
    record_dir_t tx
    record_dir_t rx
    session_keys_t *keys        # owned slot; NULL before the keys exist
    handshake_t *handshake      # owned; NULL once done
    const local_t *local        # a throw-away identity, set before session_connect; borrowed; NULL: the party's
    rekey_t rekey               # zeros before the keys exist
    cover_t cover
    block_t *stash              # an incomplete record; NULL when there is none
    block_t *donor              # the block that the record being read lies in, for a sink that takes it over; else NULL
    uint8_t *begun              # between reserve and commit: where the record starts
    size_t begun_len            # its inner length
    uint64_t deadline_ns        # call session_tick then; UINT64_MAX = never
    uint64_t start_ns
    uint64_t received_ns        # last time a record opened
    uint64_t stash_ns           # when the record in the stash began
    uint64_t ping_ns            # next PING when idle
    uint64_t ping_sent_ns
    uint64_t ping_token
    uint64_t ping_rtt_ns
    uint64_t flight_ns          # when our last flight went out; 0: none has
    uint64_t flight_due_ns      # when the next one may
    uint64_t close_due_ns
    uint64_t discard_left       # bytes until a bad session closes
    uint64_t second_ns          # start of the control frame count
    uint64_t out_mark           # n_bytes_out when the count before this one began: credit comes after what it is for
    uint64_t out_next           # n_bytes_out when the count began
    int64_t clock_skew_s        # dialled: the peer's clock minus ours, when its answer came
    uint64_t n_bytes_in         # carrier bytes
    uint64_t n_bytes_out
    uint64_t n_bytes_cover      # of them COVER
    uint64_t rekeys_ns          # when as many REKEY1 as may come at once may come again
    uint32_t n_control          # frames of the limited kinds in this second, in 16ths
    uint32_t n_credit
    uint32_t large              # inner length of a big record
    uint32_t small              # layers: inner length of a small record
    uint32_t rate_limit         # control frames per second
    uint32_t turn_len           # paced: bytes that this turn still wants, records as a whole
    uint8_t state
    uint8_t role                # 0 initiator, 1 responder
    uint8_t kind                # handshake_kind_t
    uint8_t layer               # layer_role_t
    uint8_t reason              # reason_t once closed
    uint8_t is_remote           # the peer closed
    uint8_t padding             # padding_t in force
    uint8_t has_hello           # the peer's came
    uint8_t is_final            # the frame being read is the last one of its record, padding aside
    uint8_t wants_block         # a sink copied a large payload: open the next record into a block of its own
    uint8_t is_mute             # NK responder: nothing may be sent until a record has opened
    size_t left                 # after NEED_ADMIT: bytes of the input not taken yet
    int status                  # why it failed
    uint8_t channel_binding[32] # h of generation 0
    uint8_t peer_id[32]
    uint8_t peer_link_key[32]
    hello_t hello               # ours, to be sent
    hello_t peer_hello          # theirs; `services` is valid during SESSION_ON_READY only
    const uint8_t *notice       # of a PEERS or SERVICES frame, valid during its event only
    size_t notice_len

cdef int session_connect(session_t *session, context_t *ctx, int kind, int layer, const uint8_t *link_key,
                         const uint8_t *peer_id, uint64_t now_ns) noexcept nogil    # after session_bind and `local`
cdef int session_listen(session_t *session, context_t *ctx, int kinds, int layer, uint64_t now_ns) noexcept nogil
cdef void session_bind(session_t *session, void *owner, const session_hooks_t *hooks, const mux_hooks_t *mux_hooks,
                       void *carrier_ctx, const carrier_t *carrier, const session_times_t *times) noexcept nogil
cdef int session_feed(session_t *session, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil
    # data may be overwritten. OK, or NEED_ADMIT: session.handshake.stage tells which verdict is asked; after
    # session_admit call again with the last session.left bytes
cdef int session_admit(session_t *session, uint64_t now_ns) noexcept nogil
cdef int session_pump(session_t *session, uint64_t now_ns) noexcept nogil
    # sends at most one record; bytes, 0 when nothing
cdef bint session_has_output(const session_t *session) noexcept nogil
cdef void session_tick(session_t *session, uint64_t now_ns) noexcept nogil
cdef void session_close(session_t *session, int reason, uint64_t now_ns) noexcept nogil
    # CLOSE to the peer, then SESSION_ON_CLOSED: later, where there are keys; nothing where it is closing already
cdef void session_drop(session_t *session, int reason, uint64_t now_ns) noexcept nogil     # at once, without a word
cdef void session_clear(session_t *session, uint64_t now_ns) noexcept nogil    # wipes and frees everything; no event
cdef void session_wake(session_t *session, uint64_t now_ns) noexcept nogil
    # after a command on a stream: wakes the carrier
cdef int session_ping(session_t *session, uint64_t now_ns) noexcept nogil
cdef void session_cover(session_t *session, uint64_t now_ns) noexcept nogil    # goes by `covering` as it is now

# For carriers that are streams, and for splices
cdef size_t session_room(session_t *session) noexcept nogil     # inner bytes that the next record may hold; 0 = wait
cdef size_t session_padded(session_t *session, size_t len, size_t limit, int carries_pipe) noexcept nogil
cdef uint8_t *session_begin(session_t *session, size_t inner_len) noexcept nogil
    # where the inner bytes go; NULL without memory
cdef int session_end(session_t *session, const uint8_t *inner, size_t len, uint64_t now_ns) noexcept nogil
cdef int session_send_data(session_t *session, stream_t *stream, uint8_t *payload, size_t len,
                           uint64_t now_ns) noexcept nogil
    # seals one DATA frame straight from payload (17 bytes before it and 1 KiB behind it may be touched); bytes, or 0:
    # queue it

cdef inline bint session_holds_data(const session_t *session) noexcept nogil:
    """Keys change first: until session_pump has seen to that, nobody seals a stream's bytes past it."""
    return session.rekey.is_due != 0 or rekey_is_pending(&session.rekey)
