# SPDX-License-Identifier: MIT
"""Streams that native extenders serve, on the loop's thread."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from .abi cimport qg_extender_v1, qg_host_v1, qg_opening_v1, qg_stream
from .channel cimport CHANNEL_LAYER, channel_t
from .engine cimport engine_settle, engine_t
from .flow cimport flow_accept, flow_finish, flow_reset, flow_t, flow_tap, flow_used, tap_t
from .loop cimport loop_now, loop_t, loop_wake
from .memory cimport (
    BLOCK_LARGE, block_len, block_room, block_start, block_t, block_take, chain_clear, chain_drop, chain_push, chain_t,
    mem_give, mem_take)
from .mux cimport (
    FLAG_FIN_QUEUED, STREAM_CREDIT, STREAM_FIN, STREAM_GONE, STREAM_SENT, stream_copy, stream_t, stream_write)
from .session cimport session_wake
from .shared cimport inbox_push, inbox_take, news_take, news_tell
from .status cimport E_MEMORY, OK, REASON_COUNT, REASON_MEMORY, REASON_REFUSED, REASON_SHUTDOWN
from .sys cimport atomic_add, atomic_peek

cdef enum:
    QUEUE_MAX = 262144          # bytes of a stream that wait for its link: nothing more is taken
    LARGE_MIN = 8192            # bytes from which a large block is worth its memory
    LARGE_FILL = 65536          # what is behind them in a block is room for padding
    FLUSH_LEN = 65536           # bytes that are handed over before the turn ends, so that few blocks are in use


# Services

cdef void services_init(services_t *services, engine_t *engine, loop_t *loop) noexcept nogil:
    memset(services, 0, sizeof(services_t))
    services.engine = engine
    services.loop = loop
    engine.serve = service_take
    engine.serve_ctx = services


cdef service_t *service_find(services_t *services, const uint8_t *id) noexcept nogil:
    """The service that takes streams for that id, or NULL."""
    cdef service_t *service = services.list
    while service is not NULL and (
            memcmp(service.id, id, SERVICE_ID_LEN) != 0 or atomic_peek(&service.tally.is_closed)):
        service = service.next
    return service


cdef void services_add(services_t *services, const uint8_t *id, const qg_extender_v1 *calls,
                       tally_t *tally) noexcept nogil:
    cdef service_t *service = <service_t *>mem_take(services.engine.pool, sizeof(service_t))
    if service is NULL:
        return
    memcpy(service.id, id, SERVICE_ID_LEN)
    service.calls = calls[0]
    service.tally = tally
    service.next = services.list
    services.list = service


cdef void services_remove(services_t *services, const tally_t *tally, uint64_t now_ns) noexcept nogil:
    cdef service_t **link = &services.list
    cdef service_t *service
    while link[0] is not NULL and link[0].tally != tally:
        link = &link[0].next
    service = link[0]
    if service is NULL:
        return
    link[0] = service.next
    while service.streams is not NULL:
        served_end(service.streams, REASON_SHUTDOWN, now_ns)
    mem_give(services.engine.pool, service, sizeof(service_t))


cdef void services_stop(services_t *services) noexcept nogil:
    """Nobody turns the loop any more, and the flows of the streams that are left have been freed."""
    services_work(services, 0)
    while services.list is not NULL:
        services_remove(services, services.list.tally, 0)


# Life of a stream

cdef void served_mark(served_t *served) noexcept nogil:
    if not served.is_dirty:
        served.is_dirty = 1
        served.next_dirty = served.services.dirty
        served.services.dirty = served


cdef int service_take(void *ctx, channel_t *channel, flow_t *flow, const uint8_t *opening, size_t len,
                      uint64_t now_ns) noexcept nogil:
    """The engine's `serve`."""
    cdef services_t *services = <services_t *>ctx
    cdef service_t *service
    cdef served_t *served
    cdef int reason
    if services.list is NULL or len < SERVICE_ID_LEN:
        return 0
    service = service_find(services, opening)
    if service is NULL:
        return 0
    served = <served_t *>mem_take(services.engine.pool, sizeof(served_t))
    if served is NULL:
        return -REASON_MEMORY
    services.n += 1
    served.stream.host = &HOST
    served.services = services
    served.service = service
    served.state = service.calls.ctx
    served.wake.served = served
    reason = service_ask(served, channel, flow, opening + SERVICE_ID_LEN, len - SERVICE_ID_LEN)
    served_mark(served)
    if reason:
        return -reason if 0 < reason < REASON_COUNT else -REASON_REFUSED
    served.flow = flow_tap(flow.outbox, flow.id, &TAP, served)
    served.next = service.streams
    if served.next is not NULL:
        served.next.prev = served
    service.streams = served
    atomic_add(&service.tally.n_streams, 1)
    flow_accept(flow.outbox, flow.id, now_ns)
    return 1


cdef int service_ask(served_t *served, const channel_t *channel, const flow_t *flow, const uint8_t *metadata,
                     size_t len) noexcept nogil:
    """What on_open says; 0 where there is none."""
    cdef qg_extender_v1 *calls = &served.service.calls
    cdef qg_opening_v1 opening
    if calls.on_open is NULL:
        return 0
    opening.size = sizeof(qg_opening_v1)
    opening.priority = flow.priority
    opening.is_relayed = channel.kind == CHANNEL_LAYER
    opening.metadata_len = <uint16_t>len
    opening.metadata = metadata
    opening.peer_id = channel.session.peer_id
    return calls.on_open(calls.ctx, &served.stream, &opening, &served.state)


cdef void served_end(served_t *served, int reason, uint64_t now_ns) noexcept nogil:
    """Reset what is left of the stream, which has tap_on_freed call on_close."""
    served.reset_reason = reason
    flow_reset(served.flow.outbox, served.flow.id, reason, now_ns)


cdef void served_leave(served_t *served) noexcept nogil:
    if served.prev is not NULL:
        served.prev.next = served.next
    else:
        served.service.streams = served.next
    if served.next is not NULL:
        served.next.prev = served.prev
    atomic_add(&served.service.tally.n_streams, <uint64_t>-1)


cdef void tap_on_freed(void *owner) noexcept nogil:
    cdef served_t *served = <served_t *>owner
    cdef int reason = served.flow.reason
    if served.reset_reason:
        reason = served.reset_reason
    elif not served.is_gone:
        reason = REASON_SHUTDOWN
    served.flow = NULL
    served_leave(served)
    if served.service.calls.on_close is not NULL:
        served.service.calls.on_close(served.state, &served.stream, reason)
    served_mark(served)


# Callbacks that are due

cdef size_t served_room(const served_t *served) noexcept nogil:
    """Bytes that may be written: the peer's credit beyond what waits in the queue, which is short."""
    cdef const stream_t *stream = served.flow.stream if served.flow is not NULL else NULL
    cdef uint64_t credit
    if stream is NULL or served.reset_reason or stream.queue.len >= QUEUE_MAX or stream.flags & FLAG_FIN_QUEUED:
        return 0
    credit = stream.tx_credit - stream.tx_off
    return <size_t>min(credit - stream.queue.len, QUEUE_MAX - stream.queue.len) if credit > stream.queue.len else 0


cdef void served_write(served_t *served) noexcept nogil:
    """Tell of room, not before half of a full queue has left."""
    if not served.is_short or served_room(served) == 0 or served.flow.stream.queue.len > QUEUE_MAX // 2:
        return
    served.is_short = 0
    served.is_paused = 0
    if served.service.calls.on_writable is not NULL:
        served.service.calls.on_writable(served.state, &served.stream)


cdef void served_wake(served_t *served) noexcept nogil:
    if not served.is_woken:
        return
    served.is_woken = 0
    served.is_paused = 0
    if served.service.calls.on_wake is not NULL:
        served.service.calls.on_wake(served.state, &served.stream)


cdef void served_deliver(served_t *served, uint64_t now_ns) noexcept nogil:
    """Hand over what has come until the extender takes less than it is given; credit goes back for what it took."""
    cdef flow_t *flow = served.flow
    cdef uint64_t total = 0
    cdef size_t len, n
    while flow.rx.head is not NULL and not served.is_paused and not served.reset_reason:
        len = block_len(flow.rx.head)
        n = min(served.service.calls.on_data(served.state, &served.stream, block_start(flow.rx.head), len), len)
        served.is_paused = n < len
        chain_drop(&flow.rx, n)
        total += n
    if total:
        flow_used(flow.outbox, flow.id, total, now_ns)


cdef void served_finish(served_t *served, uint64_t now_ns) noexcept nogil:
    """Pass on the peer's FIN, once everything before it was taken."""
    if not served.is_finished or served.is_ended or served.flow.rx.len or served.reset_reason:
        return
    served.is_ended = 1
    if served.service.calls.on_end is not NULL:
        served.service.calls.on_end(served.state, &served.stream)
    else:
        flow_finish(served.flow.outbox, served.flow.id, now_ns)


cdef void served_work(served_t *served, uint64_t now_ns) noexcept nogil:
    if served.is_gone:
        served.is_paused = 0                    # the last chance
    served_write(served)
    served_wake(served)
    served_deliver(served, now_ns)
    served_finish(served, now_ns)
    if served.reset_reason or served.is_gone:
        served_end(served, served.reset_reason if served.reset_reason else served.flow.reason, now_ns)


cdef void woken_take(services_t *services) noexcept nogil:
    cdef wake_t *wake = <wake_t *>inbox_take(&services.woken)
    cdef wake_t *following
    while wake is not NULL:
        following = <wake_t *>wake.next
        news_take(&wake.news)
        wake.served.is_woken = 1
        served_mark(wake.served)
        wake = following


cdef void services_work(services_t *services, uint64_t now_ns) noexcept nogil:
    cdef served_t *served = services.dirty
    while served is not NULL:
        services.dirty = served.next_dirty
        served.is_dirty = 0
        if served.flow is not NULL:
            served_work(served, now_ns)
        else:
            woken_take(services)                # before on_close another thread may have put it into the inbox
            if not served.is_dirty:
                services.n -= 1
                mem_give(services.engine.pool, served, sizeof(served_t))
        served = services.dirty


cdef void services_settle(services_t *services, uint64_t now_ns) noexcept nogil:
    woken_take(services)
    while services.dirty is not NULL:
        services_work(services, now_ns)
        engine_settle(services.engine, now_ns)


# The tap

cdef void tap_on_data(flow_t *flow, uint64_t now_ns) noexcept nogil:
    cdef served_t *served = <served_t *>flow.tap_owner
    if flow.rx.len >= FLUSH_LEN:
        served_deliver(served, now_ns)
    served_mark(served)


cdef void tap_on_event(flow_t *flow, int event, uint64_t now_ns) noexcept nogil:
    cdef served_t *served = <served_t *>flow.tap_owner
    if event == STREAM_FIN:
        served.is_finished = 1
    elif event == STREAM_GONE:
        served.is_gone = 1
    elif not served.is_short or (event != STREAM_SENT and event != STREAM_CREDIT):
        return
    served_mark(served)


cdef tap_t TAP
TAP.on_data = tap_on_data
TAP.on_event = tap_on_event
TAP.on_freed = tap_on_freed


# The host's table

cdef int served_put(stream_t *stream, const uint8_t *src, size_t len, uint64_t now_ns) noexcept nogil:
    """Fill the last block of the queue; of much, the rest goes into large blocks, from which records are sealed."""
    cdef block_t *block = stream.queue.tail
    cdef size_t n = min(len, <size_t>block_room(block)) if block is not NULL else 0
    cdef chain_t chain
    if len - n < LARGE_MIN:
        return stream_copy(stream, src, len, now_ns)
    if n and stream_copy(stream, src, n, now_ns) < 0:
        return E_MEMORY
    memset(&chain, 0, sizeof(chain_t))
    while len > n:
        src += n
        len -= n
        block = block_take(stream.mux.pool, BLOCK_LARGE)
        if block is NULL:
            chain_clear(&chain)
            return E_MEMORY
        n = min(len, <size_t>LARGE_FILL)
        memcpy(block_start(block), src, n)
        block.end += <uint32_t>n
        chain_push(&chain, block)
    stream_write(stream, &chain, now_ns)
    return OK


cdef size_t host_write(qg_stream *stream, const void *src, size_t len) noexcept nogil:
    cdef served_t *served = <served_t *>stream
    cdef size_t n = min(len, served_room(served))
    cdef uint64_t now_ns = loop_now(served.services.loop)
    if n and served_put(served.flow.stream, <const uint8_t *>src, n, now_ns) < 0:
        host_reset(stream, REASON_MEMORY)
        return 0
    if n:
        served.flow.written += n
        session_wake(served.flow.session, now_ns)
    if n < len:
        served.is_short = 1
        served_mark(served)
    return n


cdef void host_finish(qg_stream *stream) noexcept nogil:
    cdef served_t *served = <served_t *>stream
    if served.flow is not NULL:
        flow_finish(served.flow.outbox, served.flow.id, loop_now(served.services.loop))


cdef void host_reset(qg_stream *stream, int reason) noexcept nogil:
    cdef served_t *served = <served_t *>stream
    if not served.reset_reason:
        served.reset_reason = reason if 0 < reason < REASON_COUNT else REASON_REFUSED
        served_mark(served)


cdef void host_wake(qg_stream *stream) noexcept nogil:
    cdef served_t *served = <served_t *>stream
    if news_tell(&served.wake.news) and inbox_push(&served.services.woken, &served.wake):
        loop_wake(served.services.loop)


cdef uint64_t host_now_ns(const qg_stream *stream) noexcept nogil:
    return loop_now((<const served_t *>stream).services.loop)


cdef qg_host_v1 HOST
HOST.size = sizeof(qg_host_v1)
HOST.version = 1
HOST.stream_write = host_write
HOST.stream_finish = host_finish
HOST.stream_reset = host_reset
HOST.stream_wake = host_wake
HOST.stream_now_ns = host_now_ns
