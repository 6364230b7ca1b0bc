# SPDX-License-Identifier: MIT
"""Many streams over one channel: credit, priorities, scheduling (protocol.md 6.4, 7). Knows frames, not encryption.

Calling contract. Inputs: `mux_frame` for every stream frame of an opened record. Commands: `mux_open` and the
`stream_*` functions. Outputs: `mux_plan` fills in what the next record holds, the caller seals it and calls
`mux_commit`. A stream that ended is taken out at once and freed by `streams_sweep`, which is called when no stream
pointer is on the stack.

What arrives on a stream goes to its sink, a table of functions set by the stream's owner: application, splice, or a
session that runs inside the stream. A sink with `pull` makes its own output when the scheduler calls, so that nothing
is queued between layers.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .memory cimport chain_t, pool_t
from .shared cimport budget_t, lease_t
from .table cimport table_t
from .wire cimport frame_t, hello_t

cdef enum stream_event_t:
    STREAM_ACCEPTED = 1         # the peer accepted
    STREAM_CREDIT = 2           # tx_credit has grown
    STREAM_FIN = 3              # no more data will arrive
    STREAM_SENT = 4             # queued bytes or the FIN went into a record
    STREAM_RESET = 5            # the peer reset; stream.reason tells; the stream is gone after the call
    STREAM_GONE = 6             # last call: the stream leaves the mux, forget the pointer

cdef enum stream_flag_t:
    FLAG_LOCAL = 1              # opened here
    FLAG_ACCEPTED = 2
    FLAG_FIN_QUEUED = 4
    FLAG_FIN_SENT = 8
    FLAG_FIN_RECEIVED = 16
    FLAG_DEAD = 32              # out of the table, waits for streams_sweep
    FLAG_CREDIT_DUE = 64
    FLAG_ACCEPT_DUE = 128
    FLAG_SOURCE_READY = 256     # its sink has something to pull
    FLAG_PACKED = 512           # the queue ends in bytes without borders

cdef enum plan_kind_t:
    PLAN_NONE = 0
    PLAN_COPY = 1               # frames were copied to the scratch buffer
    PLAN_BULK = 2               # one DATA frame lies in the stream's own block
    PLAN_PULL = 3               # call the stream's sink

cdef enum:
    N_LISTS = 4                 # a ready list per priority, and the starved list
    LIST_STARVED = 3            # service streams that wait for session credit
    LIST_NONE = 255
    BULK_MIN = 1024             # payload from which a frame is sealed from its block instead of being packed
    QUANTUM = 16007             # bytes a stream may send before the next one of its class: one full record, eight
                                # layers deep too
    CONTROL_MAX = 65536         # bytes of control frames that may wait; above: E_FULL, the session closes
    PACKED_MAX = 979            # bytes without borders that share a block: with a DATA head and one layer they fit a
                                # small record
    CLOSED_PIPES = 64           # closed pipes whose late DATA is known not to count for session credit
    ENDED = 1                   # mux_frame: a RESET ended an open stream
    LEASE_STEP = 16384          # of the budget for unread bytes, taken ahead
    GROW_NS = 50000000          # a quarter of a window used up within this time, or two round trips, doubles it

ctypedef struct receive_t:      # what the sessions of one worker hold for their applications
    lease_t unread              # service payload received and not consumed. Of its budget windows shrink from the half
                                # on, credit is withheld from nine tenths
    budget_t own                # that budget, unless one is shared
    uint64_t n_withheld         # times that a session's credit was withheld
    uint64_t n_streams_full     # streams refused since their session had as many as it may
    uint64_t n_overruns         # streams reset since more came than they may
    uint64_t n_slow_resets      # streams reset because nobody read them while their session had no credit left

ctypedef struct mux_times_t:    # all in ns
    uint64_t slow_reader_ns     # a full send queue without progress ends the session
    uint64_t starved_ns         # a session credit used up ends the stream that was not read for longest

ctypedef struct stream_t:
    uint64_t id
    mux_t *mux
    void *owner                 # of the sink; borrowed
    const sink_t *sink
    uint64_t tx_off             # bytes sent as DATA
    uint64_t tx_credit          # absolute limit of tx_off, from the peer
    uint64_t tx_pace            # absolute limit of tx_off set here, NEVER: none; at the border of a piece
    uint64_t tx_window          # credit that was there when the peer last gave some
    chain_t queue               # payload that waits
    uint64_t rx_off             # bytes received
    uint64_t rx_used            # bytes the owner has consumed
    uint64_t rx_credit          # absolute limit of rx_off that the peer knows or will know
    uint64_t rx_window          # bytes granted ahead of rx_used
    uint64_t rx_window_max
    uint64_t grant_ns           # time of the last grant
    uint64_t rtt_ns             # round trip to who sends, where that is not the peer but lies behind it; 0
    uint64_t unread_ns          # when the oldest byte that waits came, or some were consumed last
    uint64_t ready_ns           # when it became ready
    stream_t *next              # in a scheduler list
    stream_t *prev
    stream_t *next_due          # in the list of streams with credit or accept due; or in the graveyard
    uint32_t turn_len           # bytes sent in this turn, and in the last one beyond it
    uint16_t flags
    uint8_t kind
    uint8_t priority
    uint8_t list_idx            # scheduler list or LIST_NONE
    uint8_t reason              # of a reset received
    uint8_t hops_left           # kind pipe

ctypedef struct sink_t:
    int (*on_data)(stream_t *stream, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil
        # data may be overwritten, also the frame head before it; what lies behind it may be if it is restored;
        # negative: the stream is reset (protocol)
    void (*on_event)(stream_t *stream, int event, uint64_t now_ns) noexcept nogil
    int (*pull)(stream_t *stream, uint64_t now_ns) noexcept nogil
        # sends at most one record; bytes sent, 0 when there is nothing to send now; NULL for sinks without output of
        # their own

ctypedef struct mux_hooks_t:
    int (*on_open)(mux_t *mux, stream_t *stream, const frame_t *frame, uint64_t now_ns) noexcept nogil
        # sets owner and sink; OK, or minus a reason_t: the stream is reset with it

ctypedef struct mux_t:
    table_t streams
    stream_t *last              # found last; spares the look-up
    pool_t *pool                # borrowed
    void *owner                 # the session; borrowed
    const mux_hooks_t *hooks
    stream_t *heads[N_LISTS]    # scheduler lists
    stream_t *due               # streams with CREDIT or ACCEPT to announce
    stream_t **graveyard        # shared list of ended streams; borrowed
    receive_t *receive          # shared budget; borrowed
    chain_t control             # control frames that wait, each behind its u16 length
    uint64_t next_id            # of the next stream opened here
    uint64_t peer_id            # next id the peer must use
    uint64_t tx_off             # session credit: service payload sent
    uint64_t tx_credit
    uint64_t rx_off             # service payload received
    uint64_t rx_used
    uint64_t rx_credit
    uint64_t rx_window
    uint64_t rx_window_max
    uint64_t grant_ns
    uint64_t rtt_ns             # round trip to the peer, from the session; 0: not known
    uint64_t starved_ns         # since when the peer has credit for less than a record left; 0 while it has more
    uint64_t withheld_ns        # when credit was withheld last, for the budget; 0 when none is
    uint64_t queue_len          # service payload that waits to be sent
    uint64_t queue_max          # above it the queue is full, until half of it is sent
    uint64_t full_ns            # since when a full queue made no progress; 0 while it is not full
    uint64_t n_begun            # streams ever opened and not refused at once, by either side
    uint64_t *closed_pipes      # ring, owned; NULL until a pipe closed
    uint32_t n_closed_pipes
    uint32_t n_service          # open streams of kinds bytes and messages
    uint32_t n_pipes            # of kinds pipe and relay
    uint32_t n_peer_service     # of them, opened by the peer
    uint32_t n_peer_pipes
    uint32_t max_service        # the peer may open
    uint32_t max_pipes
    uint32_t peer_max_service   # we may open
    uint32_t peer_max_pipes
    uint64_t window_max         # rx_window_max of new service streams
    uint8_t peer_kinds          # bit mask of stream_kind_t that the peer may open
    uint8_t is_overfull         # a control frame found no place: the session must close
    uint8_t is_session_due      # a SESSION_CREDIT is to be announced

ctypedef struct plan_t:
    int kind                    # plan_kind_t
    uint8_t *src                # the inner bytes
    size_t tail_len             # bytes behind them in the same buffer that may be overwritten if they are restored
    size_t len
    stream_t *stream            # PLAN_BULK and PLAN_PULL
    size_t payload_len          # PLAN_BULK
    int carries_pipe            # the record holds bytes of a pipe or relay stream

cdef void receive_init(receive_t *receive, uint64_t max) noexcept nogil    # with a budget of its own; it may not move
cdef void receive_share(receive_t *receive, budget_t *budget) noexcept nogil   # one with other workers; before use
cdef int mux_init(mux_t *mux, pool_t *pool, stream_t **graveyard, receive_t *receive, void *owner,
                  const mux_hooks_t *hooks, int role, uint64_t mix) noexcept nogil
cdef void mux_end(mux_t *mux, uint64_t now_ns) noexcept nogil
    # every stream ends with STREAM_GONE; control frames go
cdef void mux_clear(mux_t *mux, uint64_t now_ns) noexcept nogil
    # mux_end, and frees the tables; the streams wait for the sweep
cdef void streams_sweep(stream_t **graveyard, pool_t *pool) noexcept nogil
cdef void mux_set_peer(mux_t *mux, const hello_t *hello) noexcept nogil # what the peer's HELLO allows us
cdef int mux_frame(mux_t *mux, frame_t *frame, uint64_t now_ns) noexcept nogil
    # OPEN, ACCEPT, DATA, DATA_FIN, CREDIT, RESET, SESSION_CREDIT: OK, ENDED; negative: the session must close
cdef int mux_control(mux_t *mux, const uint8_t *frame, size_t len) noexcept nogil
    # queues a control frame; copies; E_FULL, E_MEMORY
cdef size_t mux_control_next(const mux_t *mux) noexcept nogil
    # length of the control frame that is sent next; 0: none waits
cdef stream_t *mux_open(mux_t *mux, int kind, int priority, uint64_t credit, const uint8_t *data,
                        size_t len) noexcept nogil
    # gives a stream (the mux owns it) whose OPEN is queued, NULL when a limit or memory forbids
cdef int mux_can_open(const mux_t *mux, int kind) noexcept nogil        # OK or E_FULL
cdef bint mux_has_output(const mux_t *mux) noexcept nogil
cdef bint mux_has_data(const mux_t *mux) noexcept nogil
    # bytes of a stream may be sent: more than control frames
cdef int mux_plan(mux_t *mux, plan_t *plan, uint8_t *scratch, size_t max_inner, uint64_t now_ns) noexcept nogil
    # what goes into the next record; scratch holds INNER_MAX and is borrowed; returns plan.kind
cdef void mux_commit(mux_t *mux, plan_t *plan, uint64_t now_ns) noexcept nogil         # the planned record is sealed
cdef void mux_used(mux_t *mux, uint64_t len, uint64_t now_ns) noexcept nogil
    # len bytes of service payload were consumed
cdef uint64_t mux_deadline_ns(const mux_t *mux, const mux_times_t *times) noexcept nogil
    # call mux_tick then; UINT64_MAX = never
cdef int mux_tick(mux_t *mux, const mux_times_t *times, uint64_t now_ns) noexcept nogil
    # resets a stream that nobody reads, gives credit that was withheld; E_FULL: the peer takes nothing, the session
    # must close

cdef void stream_bind(stream_t *stream, void *owner, const sink_t *sink) noexcept nogil
cdef int stream_accept(stream_t *stream, uint64_t credit) noexcept nogil
    # credit: absolute offset given to the opener
cdef void stream_write(stream_t *stream, chain_t *chain, uint64_t now_ns) noexcept nogil
    # takes all blocks of the chain
cdef int stream_copy(stream_t *stream, const uint8_t *src, size_t len, uint64_t now_ns) noexcept nogil
    # copies to the queue; on a pipe or relay stream the bytes keep their borders; E_MEMORY
cdef int stream_pack(stream_t *stream, const uint8_t *src, size_t len, uint64_t now_ns) noexcept nogil
    # copies to the queue of a pipe or relay stream, joined and cut so that small records come out full; E_MEMORY
cdef void stream_finish(stream_t *stream, uint64_t now_ns) noexcept nogil       # FIN after what is queued
cdef int stream_reset(stream_t *stream, int reason, uint64_t now_ns) noexcept nogil     # RESET to the peer, then gone
cdef void stream_used(stream_t *stream, uint64_t len, uint64_t now_ns) noexcept nogil
    # owner consumed; grants when a quarter of a window is due
cdef void stream_grant(stream_t *stream, uint64_t offset) noexcept nogil
    # absolute credit to the peer; never falls
cdef void stream_source_ready(stream_t *stream, uint64_t now_ns) noexcept nogil # its sink has something to pull
cdef size_t stream_room(const stream_t *stream) noexcept nogil
    # payload bytes the peer's credit allows now
cdef bint stream_may_fill(const stream_t *stream, size_t len) noexcept nogil
    # False where credit for less than len bytes is left and more is sure to come: waiting makes fuller records (RFC
    # 1122 4.2.3.4)
cdef void stream_pace(stream_t *stream, uint64_t offset, uint64_t now_ns) noexcept nogil
    # lets bytes up to the absolute offset go out; before it credit alone counts
cdef void stream_sent(stream_t *stream, size_t len) noexcept nogil
    # a record carried len payload bytes outside mux_plan
cdef bint stream_is_direct(const stream_t *stream, size_t len) noexcept nogil
    # len payload bytes may go out at once: nothing queued here, credit covers them, no control frames or higher class
    # wait
