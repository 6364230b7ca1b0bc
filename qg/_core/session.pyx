# SPDX-License-Identifier: MIT
"""One secure channel over one carrier."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .cover cimport (
    COVER_CHAFF, cover_is_paced, cover_spent, cover_start, cover_stop, cover_turns)
from .crypto cimport random_between, wipe
from .handshake cimport (
    FLIGHT_MAX, HANDSHAKE_NK, STAGE_DONE, STAGE_READ_M1, STAGE_WRITE_M1, STAGE_WRITE_M2, STAGE_WRITE_M3,
    handshake_admit, handshake_clear, handshake_connect, handshake_feed, handshake_flight, handshake_keys,
    handshake_listen, handshake_t)
from .memory cimport BLOCK_RECORD, block_give, block_len, block_start, block_t, block_take, mem_give, mem_take
from .mux cimport (
    PLAN_COPY, PLAN_NONE, PLAN_PULL, mux_clear, mux_commit, mux_control, mux_control_next, mux_deadline_ns, mux_end,
    mux_frame, mux_has_data, mux_has_output, mux_init, mux_plan, mux_set_peer, mux_tick, plan_t, stream_is_direct,
    stream_sent, stream_t)
from .noise cimport NOISE_NN
from .record cimport (
    direction_from, record_begin, record_exporter, record_extract, record_len, record_open, record_peek,
    record_rekey_psk, record_seal)
from .rekey cimport (
    EPOCH_LEN, rekey_clear, rekey_deadline_ns, rekey_frame, rekey_init, rekey_is_pending, rekey_may_follow, rekey_put,
    rekey_record_end, rekey_sent, rekey_start, rekey_t, rekey_tick)
from .secret cimport secret_give, secret_take
from .status cimport (
    E_CLOSED, E_CREDIT, E_FRAME, E_FULL, E_KIND, E_MEMORY, E_RATE, E_STATE, INNER_MAX, INNER_SMALL, LAYERS_MAX,
    LAYER_OVERHEAD, LAYER_ROOM_MIN, NEED_ADMIT, NEED_MORE, OK, REASON_INTERNAL, REASON_LIMIT, REASON_MEMORY,
    REASON_PROTOCOL, REASON_REFUSED, REASON_REKEY, REASON_SLOW_READER, REASON_TIMEOUT, RECORD_HEAD_LEN)
from .sys cimport NEVER, SECOND_NS
from .wire cimport (
    CLOSE_TEXT_MAX, CONTROL_FRAME_MAX, DATA_HEAD_MAX, FRAME_ACCEPT, FRAME_CLOSE, FRAME_COVER, FRAME_CREDIT,
    FRAME_DATA, FRAME_DATA_FIN, FRAME_EPOCH, FRAME_GREASE, FRAME_HELLO, FRAME_OPEN, FRAME_PADDING, FRAME_PEERS,
    FRAME_PING, FRAME_PONG, FRAME_REKEY1, FRAME_REKEY2, FRAME_REKEY_DONE, FRAME_RESET, FRAME_SERVICES,
    FRAME_SESSION_CREDIT, GREASE_RANDOM_LEN, STREAM_MESSAGES,
    frame_parse, frame_put_close, frame_put_cover, frame_put_data_head, frame_put_empty_hello,
    frame_put_grease, frame_put_hello, frame_put_ping, frame_t, hello_defaults, hello_parse, padded_len)

cdef enum:
    PAD_IN_PLACE = 1024             # padding up to this is written behind the payload and taken back
    LAYER_JITTER = 96               # random padding of a layer's small records, at most
    CONTROL_PER_SECOND = 1000
    CONTROL_UNIT = 16               # a control frame counts for 16 service streams, which have a rate of their own
    REKEYS_AT_ONCE = 10             # REKEY1, and one more per REKEYS_SHARE-th of the usual time between exchanges: one
    REKEYS_SHARE = 100              # costs 130 us, and a neighbour may have a thousand layers
    EPOCHS_PER_SECOND = 200         # each costs new keys, 10 us
    GREASE_PINGS = 16               # one PING in so many has GREASE behind it
    CREDIT_BYTES = 8192             # a CREDIT more per so many bytes sent
    DISCARD_MIN = 16416             # bytes read and dropped after a bad record

cdef uint64_t DISCARD_NS = 10 * SECOND_NS


cdef inline uint64_t unix_s(const session_t *session, uint64_t now_ns) noexcept nogil:
    return <uint64_t>(<int64_t>now_ns + session.ctx.unix_offset_ns) // SECOND_NS


cdef inline uint64_t draw(session_t *session, uint64_t low, uint64_t high) noexcept nogil:
    return random_between(session.ctx.party.random, session.ctx.party.random_ctx, low, high)


cdef inline void sooner(session_t *session, uint64_t at_ns) noexcept nogil:
    if at_ns < session.deadline_ns:
        session.deadline_ns = at_ns


# Begin and end of life

cdef void session_bind(session_t *session, void *owner, const session_hooks_t *hooks, const mux_hooks_t *mux_hooks,
                       void *carrier_ctx, const carrier_t *carrier, const session_times_t *times) noexcept nogil:
    memset(session, 0, sizeof(session_t))
    session.owner = owner
    session.hooks = hooks
    session.carrier_ctx = carrier_ctx
    session.carrier = carrier
    session.times = times
    session.mux.hooks = mux_hooks
    session.deadline_ns = NEVER
    session.cover.next_ns = NEVER
    session.large = INNER_MAX
    session.small = INNER_SMALL
    session.rate_limit = CONTROL_PER_SECOND
    hello_defaults(&session.hello)
    hello_defaults(&session.peer_hello)


cdef int session_start(session_t *session, context_t *ctx, int role, int layer, uint64_t now_ns) noexcept nogil:
    cdef uint64_t mix
    cdef const mux_hooks_t *hooks = session.mux.hooks
    session.ctx = ctx
    session.role = <uint8_t>role
    session.layer = <uint8_t>layer
    session.start_ns = now_ns
    session.received_ns = now_ns
    if layer == LAYER_FAR_END:
        # How many layers the other end put below this one is unknown: leave room for all of them (protocol.md 6.4).
        session.large = INNER_MAX - LAYERS_MAX * LAYER_OVERHEAD
        session.small = INNER_SMALL - LAYERS_MAX * LAYER_OVERHEAD
    ctx.party.random(ctx.party.random_ctx, <uint8_t *>&mix, 8)
    mux_init(&session.mux, ctx.pool, &ctx.graveyard, &ctx.receive, session, hooks, role, mix)
    session.handshake = <handshake_t *>mem_take(ctx.pool, sizeof(handshake_t))
    sooner(session, now_ns + session.times.handshake_ns)
    return OK if session.handshake is not NULL else E_MEMORY


cdef int session_connect(session_t *session, context_t *ctx, int kind, int layer, const uint8_t *link_key,
                         const uint8_t *peer_id, uint64_t now_ns) noexcept nogil:
    cdef int rc = session_start(session, ctx, 0, layer, now_ns)
    session.kind = <uint8_t>kind
    if rc >= 0:
        rc = handshake_connect(session.handshake, &ctx.party, session.local, kind, layer != LAYER_NONE, link_key,
                               peer_id, unix_s(session, now_ns))
    if rc >= 0:
        delay_flight(session, now_ns)
        session.carrier.wake(session, now_ns)
    return rc


cdef void delay_flight(session_t *session, uint64_t now_ns) noexcept nogil:
    """Hide how long the flight took to make, and which message of others it follows."""
    if session.times.delay_ns and session.layer == LAYER_NONE:
        session.flight_due_ns = now_ns + draw(session, 0, session.times.delay_ns)
        sooner(session, session.flight_due_ns)


cdef int session_listen(session_t *session, context_t *ctx, int kinds, int layer, uint64_t now_ns) noexcept nogil:
    cdef int rc = session_start(session, ctx, 1, layer, now_ns)
    if rc >= 0:
        rc = handshake_listen(session.handshake, &ctx.party, kinds, layer != LAYER_NONE)
    if layer == LAYER_NONE:
        sooner(session, now_ns + session.times.first_head_ns)
    return rc


cdef void drop_handshake(session_t *session) noexcept nogil:
    if session.handshake is not NULL:
        handshake_clear(session.handshake)
        mem_give(session.ctx.pool, session.handshake, sizeof(handshake_t))
        session.handshake = NULL


cdef void drop_stash(session_t *session) noexcept nogil:
    if session.stash is not NULL:
        block_give(session.stash)
        session.stash = NULL


cdef void drop_secrets(session_t *session) noexcept nogil:
    if session.cover.is_counted:
        cover_stop(&session.cover, &session.ctx.covers)
    drop_handshake(session)
    rekey_clear(&session.rekey)
    drop_stash(session)
    if session.keys is not NULL:
        secret_give(session.ctx.party.secrets, session.keys)
        session.keys = NULL


cdef void session_clear(session_t *session, uint64_t now_ns) noexcept nogil:
    session.state = SESSION_CLOSED
    session.deadline_ns = NEVER
    if session.ctx is not NULL:
        drop_secrets(session)
        mux_clear(&session.mux, now_ns)


cdef void end(session_t *session, int event, uint64_t now_ns) noexcept nogil:
    """The only way into SESSION_CLOSED: secrets go, then the streams, then the owner is told."""
    if session.state == SESSION_CLOSED:
        return
    session.state = SESSION_CLOSED
    session.deadline_ns = NEVER
    drop_secrets(session)
    mux_end(&session.mux, now_ns)
    session.hooks.on_event(session, event, now_ns)


cdef void session_drop(session_t *session, int reason, uint64_t now_ns) noexcept nogil:
    if session.state == SESSION_CLOSED:
        return
    session.reason = <uint8_t>reason
    end(session, SESSION_ON_FAILED if session.state == SESSION_HANDSHAKE else SESSION_ON_CLOSED, now_ns)


cdef void session_close(session_t *session, int reason, uint64_t now_ns) noexcept nogil:
    cdef uint8_t[CLOSE_TEXT_MAX + 16] frame
    if session.state == SESSION_CLOSING:
        return                                  # its CLOSE is on its way, and callers may be walking over its circuits
    if session.state != SESSION_KEYED and session.state != SESSION_OPEN:
        session_drop(session, reason, now_ns)
        return
    session.reason = <uint8_t>reason
    session.state = SESSION_CLOSING
    mux_end(&session.mux, now_ns)
    if not has_said_hello(session):
        queue_hello(session)                    # it was still waiting, and nothing may come before it
    mux_control(&session.mux, frame, frame_put_close(frame, reason, frame, 0))
    session.close_due_ns = now_ns + session.times.close_ns
    sooner(session, session.close_due_ns)
    session.carrier.wake(session, now_ns)


cdef inline void count_status(session_t *session) noexcept nogil:
    session.ctx.n_status[(-session.status) & 63] += 1


cdef void fail(session_t *session, int status, uint64_t now_ns) noexcept nogil:
    """A violation: before the keys silence, after them CLOSE(protocol); a bad record is answered by nothing at all."""
    session.status = status
    count_status(session)
    if session.state == SESSION_HANDSHAKE:
        session.reason = REASON_REFUSED
        end(session, SESSION_ON_FAILED, now_ns)
    else:
        session_close(session, REASON_PROTOCOL, now_ns)


cdef void bad_record(session_t *session, int status, uint64_t now_ns) noexcept nogil:
    """Length or tag was wrong. On a transport the border of the record must not show: read on, drop, close later."""
    session.status = status
    count_status(session)
    session.reason = REASON_PROTOCOL
    if session.layer != LAYER_NONE:
        end(session, SESSION_ON_CLOSED, now_ns)
        return
    session.state = SESSION_DISCARD
    drop_secrets(session)
    mux_end(&session.mux, now_ns)
    session.discard_left = draw(session, DISCARD_MIN, 2 * DISCARD_MIN)
    session.close_due_ns = now_ns + DISCARD_NS
    sooner(session, session.close_due_ns)


# Keys

cdef void queue_grease(session_t *session) noexcept nogil:
    """A peer that cannot skip what it does not know shall not go unnoticed (protocol.md 7)."""
    cdef uint8_t[GREASE_RANDOM_LEN] random
    cdef uint8_t[CONTROL_FRAME_MAX] frame
    session.ctx.party.random(session.ctx.party.random_ctx, random, GREASE_RANDOM_LEN)
    mux_control(&session.mux, frame, frame_put_grease(frame, random))


cdef void queue_hello(session_t *session) noexcept nogil:
    cdef uint8_t *frame = session.ctx.scratch
    cdef int n
    if session.kind == HANDSHAKE_NK and session.role == 0:
        n = frame_put_empty_hello(frame)
    else:
        session.hello.session_credit = session.mux.rx_credit
        if session.kind == HANDSHAKE_NK:
            session.hello.n_services = 0    # nothing runs here that they could be used in
        n = frame_put_hello(frame, &session.hello)
    mux_control(&session.mux, frame, n)
    queue_grease(session)


cdef void prepare_rekey(session_t *session, uint64_t now_ns) noexcept nogil:
    cdef rekey_t *rekey = &session.rekey
    rekey.tx = &session.tx
    rekey.rx = &session.rx
    rekey.keys = &session.keys.rekey
    rekey.times = &session.times.keys
    rekey.pattern = &session.ctx.party.patterns[<int>NOISE_NN]
    rekey.pool = session.ctx.pool
    rekey.secrets = session.ctx.party.secrets
    rekey.random = session.ctx.party.random
    rekey.random_ctx = session.ctx.party.random_ctx
    rekey.role = session.role
    rekey_init(rekey, session.channel_binding, now_ns)
    sooner(session, rekey_deadline_ns(rekey))


cdef int keyed(session_t *session, uint64_t now_ns) noexcept nogil:
    """The handshake is done: make the record keys and forget the handshake."""
    cdef handshake_t *hs = session.handshake
    cdef uint8_t[32] k1
    cdef uint8_t[32] k2
    cdef uint8_t[32] x
    cdef int rc
    session.keys = <session_keys_t *>secret_take(session.ctx.party.secrets)
    if session.keys is NULL:
        return E_MEMORY
    rc = handshake_keys(hs, k1, k2, session.channel_binding)
    if rc >= 0:
        record_extract(x, k1, k2, session.channel_binding)
        rc = record_begin(&session.tx, &session.keys.tx, x, direction_from(session.role), hs.suite)
    if rc >= 0:
        rc = record_begin(&session.rx, &session.keys.rx, x, direction_from(1 - session.role), hs.suite)
        record_rekey_psk(session.keys.rekey.psk, x)
        record_exporter(session.keys.exporter, x)
    wipe(k1, 32)
    wipe(k2, 32)
    wipe(x, 32)
    if rc < 0:
        return rc
    session.kind = hs.kind
    memcpy(session.peer_id, hs.peer_id, 32)
    memcpy(session.peer_link_key, hs.peer_link_key, 32)
    if session.role == 0:
        session.clock_skew_s = <int64_t>(hs.responder_time_s - unix_s(session, now_ns))
    session.state = SESSION_KEYED
    session.is_mute = session.kind == HANDSHAKE_NK and session.role == 1
    session.padding = max(session.hello.padding, session.peer_hello.padding)    # the defaults hold until HELLO is read
    session.received_ns = now_ns
    prepare_rekey(session, now_ns)
    session.ping_ns = now_ns + draw(session, session.times.ping_min_ns, session.times.ping_max_ns)
    sooner(session, session.ping_ns)
    queue_hello(session)
    session_cover(session, now_ns)
    session.hooks.on_event(session, SESSION_ON_KEYED, now_ns)
    return OK


cdef int after_flight(session_t *session, uint64_t now_ns) noexcept nogil:
    """A flight was read or written: the keys may be ready, a flight may be due."""
    cdef int rc = OK
    if session.handshake.stage == STAGE_DONE:
        rc = keyed(session, now_ns)
        if rc < 0:
            return rc
        drop_handshake(session)
    elif flight_is_due(session.handshake):
        delay_flight(session, now_ns)
    session_wake(session, now_ns)
    return rc


cdef inline uint64_t work_begin(const session_t *session) noexcept nogil:
    return session.ctx.clock() if session.role == 1 and session.ctx.clock is not NULL else 0


cdef inline void work_end(session_t *session, uint64_t began_ns) noexcept nogil:
    if began_ns:
        session.ctx.handshake_ns += session.ctx.clock() - began_ns


cdef int session_admit(session_t *session, uint64_t now_ns) noexcept nogil:
    cdef uint64_t began_ns = work_begin(session)
    cdef int rc = handshake_admit(session.handshake)
    if rc >= 0:
        rc = after_flight(session, now_ns)
    work_end(session, began_ns)
    if rc < 0:
        fail(session, rc, now_ns)
    return rc


# Output

cdef bint session_has_output(const session_t *session) noexcept nogil:
    if session.state == SESSION_HANDSHAKE:
        return session.handshake is not NULL and flight_is_due(session.handshake)
    if session.state >= SESSION_DISCARD or session.is_mute:
        return False
    if cover_is_paced(&session.cover):
        return session.turn_len > 0
    return mux_has_output(&session.mux) or rekey_is_pending(&session.rekey)


cdef void hasten(session_t *session, uint64_t now_ns) noexcept nogil:
    """What was done to a stream may have set a time that is to be kept."""
    cdef uint64_t at_ns = mux_deadline_ns(&session.mux, &session.times.streams)
    if at_ns < session.deadline_ns and session.state < SESSION_CLOSING:
        session.deadline_ns = at_ns
        session.hooks.on_event(session, SESSION_ON_DEADLINE, now_ns)


cdef void session_wake(session_t *session, uint64_t now_ns) noexcept nogil:
    if session.mux.full_ns | session.mux.starved_ns | session.mux.withheld_ns:
        hasten(session, now_ns)
    if session_has_output(session):
        session.carrier.wake(session, now_ns)


cdef inline bint waits_for_turn(const session_t *session) noexcept nogil:
    return cover_is_paced(&session.cover) and session.turn_len == 0


cdef inline bint is_of_one_size(const session_t *session) noexcept nogil:
    """A paced layer, whose records an observer can tell apart by their length; those of a paced link nobody can."""
    return cover_is_paced(&session.cover) and session.layer != LAYER_NONE


cdef size_t session_room(session_t *session) noexcept nogil:
    cdef size_t most = session.large
    cdef size_t room = session.carrier.room(session)
    if room < LAYER_ROOM_MIN or waits_for_turn(session):
        return 0
    if session.kind == HANDSHAKE_NK and session.role == 1:
        # A relay's layer passes on what a far end sized for fewer layers than its own records allow for.
        most = INNER_MAX
    return min(most, room - RECORD_HEAD_LEN - session.tx.tag_len)


cdef size_t session_padded(session_t *session, size_t len, size_t limit, int carries_pipe) noexcept nogil:
    cdef size_t target
    if session.layer == LAYER_NONE:
        if carries_pipe:
            target = INNER_SMALL if len <= INNER_SMALL else INNER_MAX
        else:
            target = padded_len(len, session.padding)
    elif len > session.small:
        # What is spliced through has its source's size already; a layer may not let it grow past the layers below.
        target = len if carries_pipe else session.large
    elif carries_pipe:
        target = min(<size_t>session.small, len + draw(session, 0, LAYER_JITTER))
    else:
        target = max(len, session.small - draw(session, 0, LAYER_JITTER))
    return max(len, min(target, limit))


cdef uint8_t *session_begin(session_t *session, size_t inner_len) noexcept nogil:
    session.begun = session.carrier.reserve(session, record_len(&session.tx, inner_len))
    session.begun_len = inner_len
    return session.begun + RECORD_HEAD_LEN if session.begun is not NULL else NULL


cdef int session_end(session_t *session, const uint8_t *inner, size_t len, uint64_t now_ns) noexcept nogil:
    cdef int n = record_seal(&session.tx, session.begun, inner, len, now_ns)
    if n < 0:
        return n
    session.n_bytes_out += n
    session.turn_len = 0 if session.layer != LAYER_NONE else session.turn_len - min(session.turn_len, <uint32_t>n)
    if session.tx.epoch_len >= EPOCH_LEN:
        session.rekey.epoch_due = 1
    elif session.tx.epoch_records == 1:
        sooner(session, now_ns + session.times.keys.epoch_ns)
    session.carrier.commit(session, n, now_ns)
    return n


cdef int seal(session_t *session, uint8_t *src, size_t len, size_t padded, size_t tail_len,
              uint64_t now_ns) noexcept nogil:
    """Seal src with zeros behind it up to `padded` bytes. What the zeros overwrite in src's buffer is put back."""
    cdef uint8_t[PAD_IN_PLACE] saved
    cdef size_t pad = padded - len
    cdef int n
    if session_begin(session, padded) is NULL:
        return E_MEMORY
    if pad > tail_len or pad > PAD_IN_PLACE:
        if src != session.ctx.scratch:
            memcpy(session.ctx.scratch, src, len)
            src = session.ctx.scratch
        memset(src + len, 0, pad)
        return session_end(session, src, padded, now_ns)
    memcpy(saved, src + len, pad)
    memset(src + len, 0, pad)
    n = session_end(session, src, padded, now_ns)
    memcpy(src + len, saved, pad)
    return n


cdef int session_send_data(session_t *session, stream_t *stream, uint8_t *payload, size_t len,
                           uint64_t now_ns) noexcept nogil:
    cdef uint8_t[DATA_HEAD_MAX] head
    cdef size_t room, total
    cdef uint8_t *src
    cdef int n
    if session.state != SESSION_OPEN and session.state != SESSION_KEYED or session.is_mute:
        return 0
    if session_holds_data(session) or is_of_one_size(session):
        return 0
    n = frame_put_data_head(head, stream.id, len, FRAME_DATA)
    total = n + len
    room = session_room(session)
    if total > room or not stream_is_direct(stream, len):
        return 0
    src = payload - n
    memcpy(src, head, n)
    n = seal(session, src, total, session_padded(session, total, room, 1), PAD_IN_PLACE, now_ns)
    if n > 0:
        stream_sent(stream, len)
    return n


cdef int pump_flight(session_t *session, uint64_t now_ns) noexcept nogil:
    cdef uint8_t *dst
    cdef uint64_t began_ns
    cdef int n, rc
    if not flight_is_due(session.handshake) or now_ns < session.flight_due_ns:
        return 0
    if session.carrier.room(session) < flight_room(session):
        return 0
    began_ns = work_begin(session)
    n = handshake_flight(session.handshake, session.ctx.scratch, unix_s(session, now_ns))
    work_end(session, began_ns)
    if n <= 0:
        return n
    dst = session.carrier.reserve(session, n)
    if dst is NULL:
        return E_MEMORY
    memcpy(dst, session.ctx.scratch, n)
    session.carrier.commit(session, n, now_ns)
    session.n_bytes_out += n
    session.flight_ns = now_ns
    rc = after_flight(session, now_ns)
    return n if rc >= 0 else rc


cdef inline size_t flight_room(const session_t *session) noexcept nogil:
    return 2048 if session.layer != LAYER_NONE else FLIGHT_MAX


cdef inline bint flight_is_due(const handshake_t *hs) noexcept nogil:
    return hs.stage == STAGE_WRITE_M1 or hs.stage == STAGE_WRITE_M2 or hs.stage == STAGE_WRITE_M3


cdef int start_due(session_t *session, uint64_t now_ns) noexcept nogil:
    """The session is used and its keys are old. What is sent meanwhile waits for no answer (protocol.md 4.5)."""
    cdef int rc = rekey_start(&session.rekey, now_ns)
    sooner(session, rekey_deadline_ns(&session.rekey))
    return rc


cdef int pump_rekey(session_t *session, size_t room, uint64_t now_ns) noexcept nogil:
    """Send what changes the keys in a record of its own."""
    cdef uint8_t *scratch = session.ctx.scratch
    cdef int len = rekey_put(&session.rekey, scratch, room)
    cdef int n = 0
    if len > 0:
        n = seal(session, scratch, len, session_padded(session, len, room, 0), SCRATCH_LEN - len, now_ns)
    if n > 0:
        rekey_sent(&session.rekey, now_ns)
        sooner(session, rekey_deadline_ns(&session.rekey))
    return n


cdef int pump_record(session_t *session, size_t room, uint64_t now_ns) noexcept nogil:
    cdef plan_t plan
    cdef int n, kind
    while True:
        kind = mux_plan(&session.mux, &plan, session.ctx.scratch, room, now_ns)
        if kind == PLAN_PULL:
            n = plan.stream.sink.pull(plan.stream, now_ns)
            if n == 0:
                continue
            return n
        break
    if kind == PLAN_NONE:
        return 0
    if kind == PLAN_COPY:
        plan.tail_len = SCRATCH_LEN - plan.len
    n = seal(session, plan.src, plan.len, session_padded(session, plan.len, room, plan.carries_pipe), plan.tail_len,
             now_ns)
    if n >= 0:
        mux_commit(&session.mux, &plan, now_ns)
    return n


cdef size_t record_room(const session_t *session, size_t room) noexcept nogil:
    """Room of a record of streams and control frames; a frame that is too long for the one size shows."""
    if not is_of_one_size(session) or mux_control_next(&session.mux) > session.small:
        return room
    return min(room, <size_t>session.small)


cdef inline bint has_said_hello(const session_t *session) noexcept nogil:
    """It is the first frame, so it went with the first record."""
    return session.tx.seq > 0 or session.tx.generation > 0


cdef inline bint may_cover(const session_t *session) noexcept nogil:
    return has_said_hello(session) and not rekey_is_pending(&session.rekey)     # what changes the keys does not wait


cdef int pump_cover(session_t *session, size_t room, uint64_t now_ns) noexcept nogil:
    """What nobody sent fills the turn: a record of a layer's one size, the bytes that the turn of a link has left."""
    cdef size_t len = session_padded(session, 1, room, 0)
    if session.layer == LAYER_NONE:
        len = session.turn_len - min(<size_t>session.turn_len, <size_t>record_len(&session.tx, 0))
    return put_cover(session, max(min(len, room), <size_t>1), now_ns)


cdef int put_cover(session_t *session, size_t len, uint64_t now_ns) noexcept nogil:
    cdef int n
    frame_put_cover(session.ctx.scratch, len)
    n = seal(session, session.ctx.scratch, len, len, 0, now_ns)
    if n > 0:
        session.n_bytes_cover += n
        cover_spent(&session.cover, &session.ctx.covers, n)
    return n


cdef int session_pump(session_t *session, uint64_t now_ns) noexcept nogil:
    cdef size_t room
    cdef int n
    if session.state == SESSION_HANDSHAKE:
        n = pump_flight(session, now_ns) if session.handshake is not NULL else 0
    elif session.state >= SESSION_DISCARD or session.is_mute:
        return 0
    elif session.mux.is_overfull:
        session.mux.is_overfull = 0
        session.status = E_FULL
        session_close(session, REASON_LIMIT, now_ns)
        return 0
    else:
        room = session_room(session)
        if room == 0:
            return 0
        # Of a layer whose records are to tell nothing, keys change by the clock: they would tell of use.
        n = OK
        if session.rekey.is_due and (mux_has_data(&session.mux) or is_of_one_size(session)):
            n = start_due(session, now_ns)
        if n >= 0 and rekey_is_pending(&session.rekey) and has_said_hello(session):
            n = pump_rekey(session, room, now_ns)
        elif n >= 0:
            n = pump_record(session, record_room(session, room), now_ns)
        if n == 0 and session.turn_len and may_cover(session):
            n = pump_cover(session, room, now_ns)
    if n < 0:
        session.status = n
        session_drop(session, REASON_MEMORY if n == E_MEMORY else REASON_INTERNAL, now_ns)
        return 0
    if session.state == SESSION_CLOSING and not mux_has_output(&session.mux):
        end(session, SESSION_ON_CLOSED, now_ns)
    return n


# Input

cdef int count_exchange(session_t *session, uint64_t now_ns) noexcept nogil:
    cdef uint64_t share_ns = session.times.keys.rekey_ns // REKEYS_SHARE
    cdef uint64_t missing_ns = session.rekeys_ns - now_ns if session.rekeys_ns > now_ns else 0
    if missing_ns > (REKEYS_AT_ONCE - 1) * share_ns:
        return E_RATE
    session.rekeys_ns = now_ns + missing_ns + share_ns
    return OK


cdef uint32_t control_cost(const session_t *session, const frame_t *frame) noexcept nogil:
    """What a frame takes of the limit of control frames, in parts of one."""
    if frame.type == FRAME_OPEN and frame.kind <= STREAM_MESSAGES:
        return 1
    if frame.type == FRAME_EPOCH:       # a share of the limit, not a number: one set low must not forbid what is due
        return CONTROL_UNIT * max(session.rate_limit // EPOCHS_PER_SECOND, <uint32_t>1)
    return CONTROL_UNIT


cdef int count_rate(session_t *session, const frame_t *frame, uint64_t now_ns) noexcept nogil:
    cdef uint64_t type = frame.type
    if now_ns - session.second_ns >= SECOND_NS:
        session.second_ns = now_ns
        session.n_control = 0
        session.n_credit = 0
        session.out_mark = session.out_next
        session.out_next = session.n_bytes_out
    if type == FRAME_CREDIT or type == FRAME_SESSION_CREDIT:
        session.n_credit += 1
        if session.n_credit > session.rate_limit + (session.n_bytes_out - session.out_mark) // CREDIT_BYTES:
            return E_RATE
        return OK
    if type == FRAME_REKEY1:
        return count_exchange(session, now_ns)
    session.n_control += control_cost(session, frame)
    return E_RATE if session.n_control > <uint64_t>session.rate_limit * CONTROL_UNIT else OK


cdef int on_hello(session_t *session, frame_t *frame, uint64_t now_ns) noexcept nogil:
    cdef int rc
    if session.has_hello:
        return E_STATE
    rc = hello_parse(&session.peer_hello, frame.data, frame.len)
    if rc < 0:
        return rc
    if session.kind == HANDSHAKE_NK and session.role == 1 and frame.len != 0:
        return E_FRAME
    if session.peer_hello.session_credit < session.mux.tx_credit:
        return E_CREDIT
    session.has_hello = 1
    session.is_mute = 0
    if session.role == 1:
        session.mux.rtt_ns = now_ns - session.flight_ns
    session.padding = max(session.hello.padding, session.peer_hello.padding)
    mux_set_peer(&session.mux, &session.peer_hello)
    session.state = SESSION_OPEN
    session.hooks.on_event(session, SESSION_ON_READY, now_ns)
    session.peer_hello.services = NULL      # it lies in this record
    session_wake(session, now_ns)
    return OK


cdef int on_ping(session_t *session, frame_t *frame, uint64_t now_ns) noexcept nogil:
    cdef uint8_t[16] pong
    cdef int rc
    if frame.type == FRAME_PING:
        rc = mux_control(&session.mux, pong, frame_put_ping(pong, FRAME_PONG, frame.id))
        session.carrier.wake(session, now_ns)
        return rc
    if session.ping_sent_ns and frame.id == session.ping_token:
        session.ping_rtt_ns = now_ns - session.ping_sent_ns
        session.mux.rtt_ns = session.ping_rtt_ns
        session.ping_sent_ns = 0
        session.hooks.on_event(session, SESSION_ON_PONG, now_ns)
    return OK


cdef int on_notice(session_t *session, frame_t *frame, uint64_t now_ns) noexcept nogil:
    """SERVICES, PEERS, OBSERVED: legal between known peers, a violation in an anonymous layer."""
    if session.kind == HANDSHAKE_NK:
        return E_KIND
    if frame.type == FRAME_PEERS or frame.type == FRAME_SERVICES:
        session.notice = frame.data
        session.notice_len = frame.len
        session.hooks.on_event(session, SESSION_ON_PEERS if frame.type == FRAME_PEERS else SESSION_ON_SERVICES, now_ns)
        session.notice = NULL
    return OK


cdef int on_rekey(session_t *session, frame_t *frame, uint64_t now_ns) noexcept nogil:
    cdef int rc = rekey_frame(&session.rekey, frame.type, frame.data, frame.len, now_ns)
    sooner(session, rekey_deadline_ns(&session.rekey))
    return rc


cdef int on_stream_frame(session_t *session, frame_t *frame, uint64_t now_ns) noexcept nogil:
    if session.rekey.is_due and start_due(session, now_ns) < 0:
        session_close(session, REASON_MEMORY, now_ns)
        return OK
    return mux_frame(&session.mux, frame, now_ns)


cdef int on_frame(session_t *session, frame_t *frame, uint64_t now_ns) noexcept nogil:
    cdef uint64_t type = frame.type
    cdef int rc
    if not session.has_hello and type != FRAME_HELLO:
        return E_STATE
    if type == FRAME_PADDING:
        return OK
    if not rekey_may_follow(&session.rekey, type):
        return E_STATE
    if type == FRAME_DATA or type == FRAME_DATA_FIN or type == FRAME_ACCEPT:
        return on_stream_frame(session, frame, now_ns)
    if type == FRAME_HELLO:
        return on_hello(session, frame, now_ns)
    if type == FRAME_CLOSE:
        session.reason = <uint8_t>frame.reason
        session.is_remote = 1
        end(session, SESSION_ON_CLOSED, now_ns)
        return OK
    if type == FRAME_REKEY2 or type == FRAME_REKEY_DONE:
        return on_rekey(session, frame, now_ns)
    if type == FRAME_COVER or type >= FRAME_GREASE:
        return OK
    if type == FRAME_RESET:
        rc = on_stream_frame(session, frame, now_ns)
        return rc if rc != OK else count_rate(session, frame, now_ns)
    rc = count_rate(session, frame, now_ns)
    if rc < 0:
        return rc
    if type == FRAME_PING or type == FRAME_PONG:
        return on_ping(session, frame, now_ns)
    if type == FRAME_REKEY1 or type == FRAME_EPOCH:
        return on_rekey(session, frame, now_ns)
    if type == FRAME_OPEN or type == FRAME_CREDIT or type == FRAME_SESSION_CREDIT:
        return on_stream_frame(session, frame, now_ns)
    return on_notice(session, frame, now_ns)


cdef void on_record(session_t *session, uint8_t *inner, size_t len, uint64_t now_ns) noexcept nogil:
    cdef frame_t frame
    cdef size_t at = 0
    cdef int rc
    session.received_ns = now_ns
    while at < len and session.state != SESSION_CLOSED and session.state != SESSION_CLOSING:
        rc = frame_parse(&frame, inner + at, len - at)
        if rc >= 0:
            session.is_final = at + rc == len or inner[at + rc] == FRAME_PADDING
            at += rc
            rc = on_frame(session, &frame, now_ns)
        if rc < 0:
            fail(session, rc, now_ns)
            return
    if session.state >= SESSION_CLOSING:
        return
    if session.rekey.last:
        rc = rekey_record_end(&session.rekey, now_ns)
        if rc < 0:
            fail(session, rc, now_ns)
            return
        sooner(session, rekey_deadline_ns(&session.rekey))
    session_wake(session, now_ns)


cdef int feed_stash(session_t *session, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    """Collect an incomplete record aside; bytes taken. The record is opened where it lies once it is whole."""
    cdef block_t *stash = session.stash
    cdef size_t have, need = RECORD_HEAD_LEN, n
    cdef int rc, inner_len
    if stash is NULL:
        stash = block_take(session.ctx.pool, BLOCK_RECORD)
        if stash is NULL:
            session_drop(session, REASON_MEMORY, now_ns)
            return <int>len
        session.stash = stash
        session.stash_ns = now_ns
        sooner(session, now_ns + session.times.record_ns)
    have = block_len(stash)
    if have >= RECORD_HEAD_LEN:
        rc = record_peek(&session.rx, block_start(stash))
        need = RECORD_HEAD_LEN + rc
    n = min(len, need - have)
    memcpy(block_start(stash) + have, data, n)
    stash.end += <uint32_t>n
    have += n
    if have == RECORD_HEAD_LEN:
        rc = record_peek(&session.rx, block_start(stash))
        if rc < 0:
            bad_record(session, rc, now_ns)
    elif have == need and need > RECORD_HEAD_LEN:
        session.stash = NULL
        open_record(session, stash, block_start(stash), need - RECORD_HEAD_LEN, now_ns)
    return <int>n


cdef void open_record(session_t *session, block_t *block, uint8_t *record, size_t len, uint64_t now_ns) noexcept nogil:
    """Open a whole record: in place, or into a block of its own where a sink is likely to take that over.

    `block` is the one that the record lies in, taken, or NULL; `len` counts the ciphertext behind the two bytes.
    """
    cdef uint8_t *inner = record + RECORD_HEAD_LEN
    cdef int n
    if block is NULL and session.wants_block:
        block = block_take(session.ctx.pool, BLOCK_RECORD)
        if block is not NULL:
            inner = block_start(block)
    n = record_open(&session.rx, inner, record + RECORD_HEAD_LEN, len, now_ns)
    session.donor = block
    session.wants_block = 0
    if n < 0:
        bad_record(session, n, now_ns)
    else:
        on_record(session, inner, n, now_ns)
    if session.donor is not NULL:
        block_give(session.donor)
        session.donor = NULL


cdef size_t feed_records(session_t *session, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    """Open what is whole, keep the rest; the bytes behind a record that ended the session."""
    cdef int n
    while len > 0 and session.state < SESSION_CLOSING:
        if session.stash is not NULL or len < RECORD_HEAD_LEN:
            n = feed_stash(session, data, len, now_ns)
        else:
            n = record_peek(&session.rx, data)
            if n < 0:
                bad_record(session, n, now_ns)
                return len - RECORD_HEAD_LEN
            if len < <size_t>n + RECORD_HEAD_LEN:
                n = feed_stash(session, data, len, now_ns)
            else:
                open_record(session, NULL, data, n, now_ns)
                n += RECORD_HEAD_LEN
        data += n
        len -= n
    return len


cdef int feed_handshake(session_t *session, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    """Feed one flight at most; what is left of the input is in session.left."""
    cdef size_t used = 0
    cdef uint64_t began_ns = work_begin(session)
    cdef int rc = handshake_feed(session.handshake, data, len, &used, unix_s(session, now_ns))
    work_end(session, began_ns)
    session.left = len - used
    if rc == NEED_MORE or rc == NEED_ADMIT:
        if session.role == 1 and session.handshake.in_need > 80:
            sooner(session, session.start_ns + session.times.first_flight_ns)
        return rc
    if rc >= 0:
        if session.role == 0:
            session.mux.rtt_ns = now_ns - session.flight_ns     # M1 to M2; the responder's is M2 to HELLO
        rc = after_flight(session, now_ns)
    if rc < 0:
        fail(session, rc, now_ns)
    return OK


cdef int session_feed(session_t *session, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    cdef int rc
    session.n_bytes_in += len
    while len > 0 and session.state == SESSION_HANDSHAKE:
        rc = feed_handshake(session, data, len, now_ns)
        data += len - session.left
        len = session.left
        if rc == NEED_ADMIT:
            session.n_bytes_in -= len
            return NEED_ADMIT
    if session.state < SESSION_CLOSING:
        len = feed_records(session, data, len, now_ns)
    if session.state == SESSION_DISCARD:
        if len >= session.discard_left:
            end(session, SESSION_ON_CLOSED, now_ns)
        else:
            session.discard_left -= len
    return OK


# Time

cdef int session_ping(session_t *session, uint64_t now_ns) noexcept nogil:
    cdef uint8_t[16] frame
    cdef int rc
    if session.state != SESSION_OPEN:
        return E_CLOSED
    if session.ping_sent_ns:
        return OK
    session.ctx.party.random(session.ctx.party.random_ctx, <uint8_t *>&session.ping_token, 8)
    session.ping_sent_ns = now_ns
    rc = mux_control(&session.mux, frame, frame_put_ping(frame, FRAME_PING, session.ping_token))
    if draw(session, 1, GREASE_PINGS) == 1 and not mux_has_data(&session.mux):
        queue_grease(session)
    session.carrier.wake(session, now_ns)
    return rc


cdef void tick_handshake(session_t *session, uint64_t now_ns) noexcept nogil:
    cdef uint64_t limit_ns = session.start_ns + session.times.handshake_ns
    if session.state == SESSION_HANDSHAKE and session.layer == LAYER_NONE and session.handshake.stage == STAGE_READ_M1:
        limit_ns = session.start_ns + (session.times.first_head_ns if session.handshake.in_need <= 80
                                       else session.times.first_flight_ns)
    if now_ns >= limit_ns:
        session.ctx.n_slow_handshakes += session.role
        session_drop(session, REASON_TIMEOUT, now_ns)
        return
    sooner(session, limit_ns)
    if now_ns < session.flight_due_ns:
        sooner(session, session.flight_due_ns)
    elif session.state == SESSION_HANDSHAKE:
        session_wake(session, now_ns)


cdef void tick_alive(session_t *session, uint64_t now_ns) noexcept nogil:
    """Idle links are pinged; a peer that stays silent is dead."""
    cdef uint64_t idle_ns = now_ns - session.received_ns
    if idle_ns >= session.times.dead_peer_ns:
        session_drop(session, REASON_TIMEOUT, now_ns)
        return
    if now_ns >= session.ping_ns:
        if idle_ns >= session.times.ping_min_ns:
            session_ping(session, now_ns)
        session.ping_ns = now_ns + draw(session, session.times.ping_min_ns, session.times.ping_max_ns)
    sooner(session, session.ping_ns)
    sooner(session, session.received_ns + session.times.dead_peer_ns)


cdef void tick_keys(session_t *session, uint64_t now_ns) noexcept nogil:
    if rekey_tick(&session.rekey, now_ns) < 0:
        session_close(session, REASON_REKEY, now_ns)
        return
    sooner(session, rekey_deadline_ns(&session.rekey))
    if rekey_is_pending(&session.rekey):
        session.carrier.wake(session, now_ns)


cdef void session_cover(session_t *session, uint64_t now_ns) noexcept nogil:
    if session.covering is NULL or session.kind == HANDSHAKE_NK:
        return                                  # layers of circuits: those above them are covered
    session.turn_len = 0
    if not (session.covering.on_links if session.layer == LAYER_NONE else session.covering.on_circuits):
        cover_stop(&session.cover, &session.ctx.covers)
    else:
        cover_start(&session.cover, &session.ctx.covers, session.covering,
                    session.covering.size if session.layer == LAYER_NONE else record_len(&session.tx, session.small),
                    session.ctx.party.random, session.ctx.party.random_ctx, now_ns)
    sooner(session, session.cover.next_ns)


cdef void add_chaff(session_t *session, uint32_t n, uint64_t now_ns) noexcept nogil:
    """Nothing where bytes wait already: it would make them wait longer."""
    cdef size_t room = session_room(session)
    while n > 0 and room > 0 and may_cover(session) and not mux_has_output(&session.mux):
        if put_cover(session, chaff_len(session, room), now_ns) < 0:
            return
        room = session_room(session)
        n -= 1


cdef size_t chaff_len(session_t *session, size_t room) noexcept nogil:
    cdef size_t len = draw(session, session.covering.min_len, session.covering.max_len)
    return session_padded(session, max(min(len, room), <size_t>1), room, 0)


cdef void tick_cover(session_t *session, uint64_t now_ns) noexcept nogil:
    cdef uint32_t n = 0
    if now_ns >= session.cover.next_ns:
        n = cover_turns(&session.cover, &session.ctx.covers, session.covering, session.ctx.party.random,
                        session.ctx.party.random_ctx, now_ns)
    sooner(session, session.cover.next_ns)
    if n > 0 and session.cover.mode == COVER_CHAFF:
        add_chaff(session, n, now_ns)
    elif n > 0:
        session.carrier.turn(session, n, now_ns)


cdef void tick_streams(session_t *session, uint64_t now_ns) noexcept nogil:
    if mux_tick(&session.mux, &session.times.streams, now_ns) < 0:
        session.ctx.n_slow_closes += 1
        session_close(session, REASON_SLOW_READER, now_ns)
        return
    sooner(session, mux_deadline_ns(&session.mux, &session.times.streams))
    session_wake(session, now_ns)


cdef void session_tick(session_t *session, uint64_t now_ns) noexcept nogil:
    session.deadline_ns = NEVER
    if session.state == SESSION_HANDSHAKE or session.state == SESSION_KEYED:
        tick_handshake(session, now_ns)
    elif session.state == SESSION_CLOSING or session.state == SESSION_DISCARD:
        if now_ns >= session.close_due_ns:
            end(session, SESSION_ON_CLOSED, now_ns)
        else:
            sooner(session, session.close_due_ns)
    if session.state != SESSION_CLOSED:
        tick_cover(session, now_ns)
    if session.state == SESSION_KEYED or session.state == SESSION_OPEN:
        tick_alive(session, now_ns)
        if session.state == SESSION_OPEN:
            tick_keys(session, now_ns)
        if session.state == SESSION_OPEN:
            tick_streams(session, now_ns)
        if session.stash is not NULL:
            if now_ns >= session.stash_ns + session.times.record_ns:
                session.ctx.n_slow_records += 1
                session_drop(session, REASON_TIMEOUT, now_ns)
            else:
                sooner(session, session.stash_ns + session.times.record_ns)
