# SPDX-License-Identifier: MIT
"""Streams joined with TCP connections on the loop's thread."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport close as fd_close

from .engine cimport engine_settle, engine_t
from .flow cimport flow_find, flow_t, flow_tap, flow_untap, flow_used, tap_t
from .loop cimport loop_now, loop_t
from .memory cimport (
    BLOCK_LARGE, block_give, block_start, block_take, chain_clear, chain_push, chain_t, mem_give, mem_take)
from .mux cimport (
    FLAG_FIN_RECEIVED, STREAM_CREDIT, STREAM_FIN, STREAM_GONE, STREAM_SENT, stream_copy, stream_finish, stream_reset,
    stream_t, stream_write)
from .session cimport session_wake
from .status cimport REASON_CANCELLED, REASON_IDLE, REASON_MEMORY, REASON_NONE
from .tcp cimport (
    CONN_WRITE_FAILED, conn_t, tcp_abort, tcp_adopt, tcp_close, tcp_events_t, tcp_init, tcp_pause, tcp_pending_len,
    tcp_resume, tcp_shutdown, tcp_stop, tcp_write)
from .uv cimport sockaddr_storage, uv_close, uv_handle_t, uv_timer_init, uv_timer_start, uv_timer_stop, uv_timer_t

cdef enum:
    READ_MAX = 65536            # bytes read at once: what is behind them in a block is room for padding
    LOOK_MS = 1000              # between two looks for those that are idle
    COPY_BELOW = 2048           # what is shorter does not keep a block of READ_MAX
    QUEUE_MAX = 262144          # bytes of a stream that wait for its link: nothing more is read
    FLUSH_LEN = 65536           # bytes that are written before the turn ends, so that few blocks are in use


# Life

cdef int tunnels_init(tunnels_t *tunnels, engine_t *engine, loop_t *loop) noexcept nogil:
    cdef tcp_events_t events
    cdef int rc
    memset(tunnels, 0, sizeof(tunnels_t))
    memset(&events, 0, sizeof(events))
    events.on_accept = on_accept
    events.on_room = on_room
    events.on_read = on_read
    events.on_end = on_end
    events.on_lost = on_lost
    events.on_writable = on_writable
    tunnels.engine = engine
    rc = tcp_init(&tunnels.tcp, loop, engine.pool, &events, tunnels)
    tunnels.tcp.unsent_max = 0
    uv_timer_init(&loop.uv, &tunnels.timer)
    tunnels.timer.data = tunnels
    tunnels.n_handles = 1
    return rc


cdef void tunnels_stop(tunnels_t *tunnels) noexcept nogil:
    tcp_stop(&tunnels.tcp)
    tunnels_flush(tunnels, 0)
    if tunnels.n_handles:
        uv_close(<uv_handle_t *>&tunnels.timer, on_uv_timer_closed)


cdef void on_uv_timer_closed(uv_handle_t *handle) noexcept nogil:
    cdef tunnels_t *tunnels = <tunnels_t *>handle.data
    tunnels.n_handles -= 1


cdef void tunnel_mark(tunnel_t *tunnel) noexcept nogil:
    if not tunnel.is_dirty:
        tunnel.is_dirty = 1
        tunnel.next_dirty = tunnel.tunnels.dirty
        tunnel.tunnels.dirty = tunnel


cdef void timed_enter(tunnel_t *tunnel, uint64_t idle_ns, uint64_t now_ns) noexcept nogil:
    cdef tunnels_t *tunnels = tunnel.tunnels
    if idle_ns == 0:
        return
    tunnel.idle_ns = idle_ns
    tunnel.moved_ns = now_ns
    tunnel.next_timed = tunnels.timed
    if tunnels.timed is not NULL:
        tunnels.timed.prev_timed = tunnel
    else:
        uv_timer_start(&tunnels.timer, on_uv_timer, LOOK_MS, LOOK_MS)
    tunnels.timed = tunnel


cdef void timed_leave(tunnel_t *tunnel) noexcept nogil:
    cdef tunnels_t *tunnels = tunnel.tunnels
    if tunnel.idle_ns == 0:
        return
    tunnel.idle_ns = 0
    if tunnel.prev_timed is not NULL:
        tunnel.prev_timed.next_timed = tunnel.next_timed
    else:
        tunnels.timed = tunnel.next_timed
    if tunnel.next_timed is not NULL:
        tunnel.next_timed.prev_timed = tunnel.prev_timed
    if tunnels.timed is NULL:
        uv_timer_stop(&tunnels.timer)


cdef void on_uv_timer(uv_timer_t *timer) noexcept nogil:
    cdef tunnels_t *tunnels = <tunnels_t *>timer.data
    cdef tunnel_t *tunnel = tunnels.timed
    cdef tunnel_t *following
    cdef uint64_t now_ns = loop_now(tunnels.tcp.loop)
    while tunnel is not NULL:
        following = tunnel.next_timed
        if now_ns - min(tunnel.moved_ns, now_ns) >= tunnel.idle_ns:
            tunnel_expire(tunnel, now_ns)
        tunnel = following
    tunnels_settle(tunnels, now_ns)


cdef void tunnel_expire(tunnel_t *tunnel, uint64_t now_ns) noexcept nogil:
    cdef flow_t *flow = tunnel.flow
    flow.reason = REASON_IDLE
    if flow.stream is not NULL:
        stream_reset(flow.stream, REASON_IDLE, now_ns)
        session_wake(flow.session, now_ns)
    else:
        tunnel_end(tunnel)


cdef void tunnel_end(tunnel_t *tunnel) noexcept nogil:
    """Whoever stands on the stack may still look at it: the memory goes at the end of the turn."""
    cdef flow_t *flow = tunnel.flow
    if flow is NULL:
        return
    tunnel.flow = NULL
    timed_leave(tunnel)
    if tunnel.conn is not NULL:
        tcp_abort(tunnel.conn)
        tunnel.conn = NULL
    tunnel_mark(tunnel)
    flow_untap(flow)


cdef void flow_break(flow_t *flow, int status, uint64_t now_ns) noexcept nogil:
    """The connection is lost: the peer gets a reset, and the application hears why."""
    flow.reason = REASON_CANCELLED
    flow.status = status
    stream_reset(flow.stream, REASON_CANCELLED, now_ns)
    session_wake(flow.session, now_ns)


cdef void tunnel_join(tunnels_t *tunnels, uint64_t flow_id, int fd, chain_t *early, uint64_t idle_ns,
                      uint64_t now_ns) noexcept nogil:
    cdef engine_t *engine = tunnels.engine
    cdef tunnel_t *tunnel = <tunnel_t *>mem_take(engine.pool, sizeof(tunnel_t))
    cdef flow_t *flow = flow_tap(&engine.outbox, flow_id, &TAP, tunnel) if tunnel is not NULL else NULL
    cdef int rc
    if flow is NULL:
        # Without memory the application's wait ends when the peer, which hears nothing more, ends the stream.
        mem_give(engine.pool, tunnel, sizeof(tunnel_t))
        chain_clear(early)
        fd_close(fd)
        return
    tunnels.n += 1
    tunnel.tunnels = tunnels
    tunnel.flow = flow
    tunnel.missing_len = flow.unused - flow.rx.len
    tunnel.is_finished = 1 if flow.stream.flags & FLAG_FIN_RECEIVED else 0
    tunnels.joining = tunnel
    rc = tcp_adopt(&tunnels.tcp, fd, NULL)
    tunnels.joining = NULL
    if rc < 0:
        chain_clear(early)
        flow_break(flow, rc, now_ns)
        return
    timed_enter(tunnel, idle_ns, now_ns)
    tcp_write(tunnel.conn, early)
    tunnel_look(tunnel)
    tunnel_mark(tunnel)


cdef void tunnel_supply(tunnels_t *tunnels, uint64_t flow_id, chain_t *early, uint64_t now_ns) noexcept nogil:
    cdef flow_t *flow = flow_find(&tunnels.engine.outbox, flow_id)
    cdef tunnel_t *tunnel
    cdef uint64_t len = early.len
    if flow is NULL or flow.tap != &TAP:
        chain_clear(early)
        return
    tunnel = <tunnel_t *>flow.tap_owner
    tcp_write(tunnel.conn, early)
    tunnel.missing_len -= min(len, tunnel.missing_len)
    tunnel_mark(tunnel)
    flow_used(flow.outbox, flow.id, len, now_ns)


# From the stream to the connection

cdef void tunnel_write(tunnel_t *tunnel, uint64_t now_ns) noexcept nogil:
    """Hand over what has come, give credit for what the kernel took, and pass on the end behind it."""
    cdef flow_t *flow = tunnel.flow
    cdef uint64_t len, left
    if tunnel.missing_len:
        return
    len = flow.rx.len
    if len:
        tunnel.unpaid_len += len
        tcp_write(tunnel.conn, &flow.rx)
    left = min(tcp_pending_len(tunnel.conn), tunnel.unpaid_len)
    len = tunnel.unpaid_len - left
    if len:
        tunnel.moved_ns = now_ns
        tunnel.unpaid_len = left
        flow_used(flow.outbox, flow.id, len, now_ns)
    if tunnel.is_finished and not tunnel.is_shut:
        tunnel.is_shut = 1
        tcp_shutdown(tunnel.conn)
    if flow.stream is NULL and tcp_pending_len(tunnel.conn) == 0 and not tunnel.conn.flags & CONN_WRITE_FAILED:
        tcp_close(tunnel.conn)
        tunnel.conn = NULL
        tunnel_end(tunnel)


cdef void tunnels_flush(tunnels_t *tunnels, uint64_t now_ns) noexcept nogil:
    cdef tunnel_t *tunnel = tunnels.dirty
    while tunnel is not NULL:
        tunnels.dirty = tunnel.next_dirty
        tunnel.is_dirty = 0
        if tunnel.flow is not NULL:
            tunnel_write(tunnel, now_ns)
        elif not tunnel.is_dirty:
            tunnels.n -= 1
            mem_give(tunnels.engine.pool, tunnel, sizeof(tunnel_t))
        tunnel = tunnels.dirty


cdef void tunnels_settle(tunnels_t *tunnels, uint64_t now_ns) noexcept nogil:
    while tunnels.dirty is not NULL or tunnels.is_unsettled:
        tunnels.is_unsettled = 0
        tunnels_flush(tunnels, now_ns)
        engine_settle(tunnels.engine, now_ns)
    if tunnels.spare is not NULL:
        block_give(tunnels.spare)
        tunnels.spare = NULL


cdef void tap_on_data(flow_t *flow, uint64_t now_ns) noexcept nogil:
    cdef tunnel_t *tunnel = <tunnel_t *>flow.tap_owner
    if flow.rx.len >= FLUSH_LEN:
        tunnel_write(tunnel, now_ns)
    else:
        tunnel_mark(tunnel)


cdef void tap_on_event(flow_t *flow, int event, uint64_t now_ns) noexcept nogil:
    cdef tunnel_t *tunnel = <tunnel_t *>flow.tap_owner
    if event == STREAM_SENT or event == STREAM_CREDIT:
        tunnel_look(tunnel)
    elif event == STREAM_FIN:
        tunnel.is_finished = 1
        tunnel_mark(tunnel)
    elif event == STREAM_GONE and flow.reason != REASON_NONE:
        tunnel_end(tunnel)
    elif event == STREAM_GONE:
        tunnel_mark(tunnel)


cdef void tap_on_freed(void *owner) noexcept nogil:
    cdef tunnel_t *tunnel = <tunnel_t *>owner
    tunnel.flow = NULL
    timed_leave(tunnel)
    if tunnel.conn is not NULL:
        tcp_abort(tunnel.conn)
        tunnel.conn = NULL
    tunnel_mark(tunnel)


cdef tap_t TAP
TAP.on_data = tap_on_data
TAP.on_event = tap_on_event
TAP.on_freed = tap_on_freed


# From the connection to the stream

cdef size_t tunnel_room(const tunnel_t *tunnel) noexcept nogil:
    """Bytes that may be read: the stream's credit beyond what waits in its queue, which is short."""
    cdef const stream_t *stream = tunnel.flow.stream
    cdef uint64_t credit
    if stream is NULL or stream.queue.len >= QUEUE_MAX:
        return 0
    credit = stream.tx_credit - stream.tx_off
    return <size_t>min(credit - stream.queue.len, <uint64_t>READ_MAX) if credit > stream.queue.len else 0


cdef void tunnel_look(tunnel_t *tunnel) noexcept nogil:
    """Read on or rest, by the room there is; not before half of a full queue has left."""
    if tunnel.conn is NULL or tunnel.flow is NULL:
        return
    if not tunnel.is_paused and tunnel_room(tunnel) == 0:
        tunnel.is_paused = 1
        tcp_pause(tunnel.conn)
    elif tunnel.is_paused and tunnel_room(tunnel) > 0 and tunnel.flow.stream.queue.len <= QUEUE_MAX // 2:
        tunnel.is_paused = 0
        tcp_resume(tunnel.conn)


cdef void *on_accept(void *ctx, conn_t *conn, const sockaddr_storage *remote, uint64_t now_ns) noexcept nogil:
    cdef tunnels_t *tunnels = <tunnels_t *>ctx
    tunnels.joining.conn = conn
    return tunnels.joining


cdef uint8_t *on_room(void *ctx, void *user, size_t *len) noexcept nogil:
    cdef tunnels_t *tunnels = <tunnels_t *>ctx
    if tunnels.spare is NULL:
        tunnels.spare = block_take(tunnels.engine.pool, BLOCK_LARGE)
        if tunnels.spare is NULL:
            return NULL
    len[0] = tunnel_room(<tunnel_t *>user)
    return block_start(tunnels.spare)


cdef void on_read(void *ctx, void *user, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    cdef tunnels_t *tunnels = <tunnels_t *>ctx
    cdef tunnel_t *tunnel = <tunnel_t *>user
    cdef flow_t *flow = tunnel.flow
    cdef chain_t chain
    flow.written += len
    tunnel.moved_ns = now_ns
    if len < COPY_BELOW:
        if stream_copy(flow.stream, data, len, now_ns) < 0:
            flow.reason = REASON_MEMORY
            stream_reset(flow.stream, REASON_MEMORY, now_ns)
        tunnels.is_unsettled = 1    # records of many small reads are one system call
        session_wake(flow.session, now_ns)
    else:
        memset(&chain, 0, sizeof(chain_t))
        tunnels.spare.end += <uint32_t>len
        chain_push(&chain, tunnels.spare)
        tunnels.spare = NULL
        stream_write(flow.stream, &chain, now_ns)
        session_wake(flow.session, now_ns)
        engine_settle(tunnels.engine, now_ns)
    tunnel_look(tunnel)


cdef void on_end(void *ctx, void *user, uint64_t now_ns) noexcept nogil:
    cdef tunnel_t *tunnel = <tunnel_t *>user
    cdef flow_t *flow = tunnel.flow
    flow.written += 1
    stream_finish(flow.stream, now_ns)
    session_wake(flow.session, now_ns)
    tunnel.tunnels.is_unsettled = 1


cdef void on_lost(void *ctx, void *user, int uv_error, uint64_t now_ns) noexcept nogil:
    cdef tunnel_t *tunnel = <tunnel_t *>user
    cdef flow_t *flow = tunnel.flow
    tunnel.conn = NULL
    if flow is NULL:
        return
    if flow.stream is not NULL:
        flow_break(flow, uv_error, now_ns)
    else:
        flow.reason = REASON_CANCELLED
        flow.status = uv_error
        tunnel_end(tunnel)
    tunnel.tunnels.is_unsettled = 1


cdef void on_writable(void *ctx, void *user, uint64_t now_ns) noexcept nogil:
    cdef tunnel_t *tunnel = <tunnel_t *>user
    tunnel_write(tunnel, now_ns)
    tunnel.tunnels.is_unsettled = 1
