# SPDX-License-Identifier: MIT
"""TCP listeners and connections of one worker over libuv.

Listeners are polled descriptors rather than uv_tcp_t: libuv's own listener answers EMFILE by accepting and closing what
waits, and it cannot be paused.
"""
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from posix.unistd cimport close

from .loop cimport loop_now, loop_t
from .memory cimport block_len, block_start, block_t, chain_clear, chain_drop, chain_t, mem_give, mem_take, pool_t
from .status cimport E_ADDRESS, E_CLOSED, E_STATE, OK
from .sys cimport load_be16, store_be16
from .uv cimport (
    AF_INET, AF_INET6, IPPROTO_IPV6, IPPROTO_TCP, IPV6_V6ONLY, SO_REUSEADDR, SO_REUSEPORT, SOL_SOCKET,
    TCP_NOTSENT_LOWAT, UV_EAGAIN, UV_ECANCELED, UV_EINVAL, UV_EMFILE, UV_ENFILE, UV_ENOBUFS, UV_ENOMEM, UV_EOF,
    UV_ESHUTDOWN, UV_READABLE, bind, getsockname, listen, setsockopt, sockaddr, sockaddr_in, sockaddr_in6,
    sockaddr_storage, socket_accept, socket_discard, socket_open, socklen_t, uv_buf_t, uv_close, uv_connect_t,
    uv_fileno, uv_handle_t, uv_poll_init, uv_poll_start, uv_poll_stop, uv_poll_t, uv_read_start, uv_read_stop,
    uv_shutdown, uv_shutdown_t, uv_stream_t, uv_tcp_close_reset, uv_tcp_connect, uv_tcp_init, uv_tcp_nodelay,
    uv_tcp_open, uv_timer_init, uv_timer_start, uv_timer_stop, uv_timer_t, uv_translate_sys_error, uv_try_write,
    uv_write, uv_write_t)
from .wire cimport ADDRESS_IP4, ADDRESS_IP6, address_t

cdef enum:
    TICK_MS = 250
    ACCEPT_BATCH = 64           # accepted per turn and listener, so that a flood of dials does not starve the rest
    N_BUFS = 64                 # blocks per system call
    UNSENT_MAX = 131072         # of tcp.unsent_max: nothing can overtake what the kernel has
    LONG_READ_LEN = 65536       # working on this much takes long enough for the clock to be looked at again

cdef uint8_t[12] MAPPED_PREFIX = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]


# Addresses

cdef int sockaddr_from_address(sockaddr_storage *dst, const address_t *address) noexcept nogil:
    cdef sockaddr_in *ip4 = <sockaddr_in *>dst
    cdef sockaddr_in6 *ip6 = <sockaddr_in6 *>dst
    memset(dst, 0, sizeof(sockaddr_storage))
    if address.type == ADDRESS_IP4:
        ip4.sin_family = AF_INET
        store_be16(<uint8_t *>&ip4.sin_port, address.port)
        memcpy(&ip4.sin_addr, address.ip, 4)
        return OK
    if address.type == ADDRESS_IP6:
        ip6.sin6_family = AF_INET6
        store_be16(<uint8_t *>&ip6.sin6_port, address.port)
        memcpy(&ip6.sin6_addr, address.ip, 16)
        return OK
    return E_ADDRESS


cdef int address_from_sockaddr(address_t *dst, const sockaddr_storage *address) noexcept nogil:
    cdef const sockaddr_in *ip4 = <const sockaddr_in *>address
    cdef const sockaddr_in6 *ip6 = <const sockaddr_in6 *>address
    memset(dst, 0, sizeof(address_t))
    if address.ss_family == AF_INET:
        dst.type = ADDRESS_IP4
        dst.port = <unsigned short>load_be16(<const uint8_t *>&ip4.sin_port)
        memcpy(dst.ip, &ip4.sin_addr, 4)
        return OK
    if address.ss_family != AF_INET6:
        return E_ADDRESS
    dst.port = <unsigned short>load_be16(<const uint8_t *>&ip6.sin6_port)
    if memcmp(&ip6.sin6_addr, MAPPED_PREFIX, 12) == 0:
        dst.type = ADDRESS_IP4
        memcpy(dst.ip, <const uint8_t *>&ip6.sin6_addr + 12, 4)
    else:
        dst.type = ADDRESS_IP6
        memcpy(dst.ip, &ip6.sin6_addr, 16)
    return OK


cdef inline socklen_t sockaddr_len(const sockaddr_storage *address) noexcept nogil:
    return sizeof(sockaddr_in) if address.ss_family == AF_INET else sizeof(sockaddr_in6)


# Life of the whole

cdef int tcp_init(tcp_t *tcp, loop_t *loop, pool_t *pool, const tcp_events_t *events, void *ctx) noexcept nogil:
    memset(tcp, 0, sizeof(tcp_t))
    tcp.loop = loop
    tcp.pool = pool
    tcp.events = events[0]
    tcp.ctx = ctx
    tcp.unsent_max = UNSENT_MAX
    uv_timer_init(&loop.uv, &tcp.tick)
    tcp.tick.data = tcp
    tcp.n_handles = 1
    if uv_tcp_init(&loop.uv, &tcp.first) == 0:
        tcp.first.data = tcp
        tcp.n_handles += 1
        uv_close(<uv_handle_t *>&tcp.first, on_uv_helper_closed)
    return OK


cdef void tcp_stop(tcp_t *tcp) noexcept nogil:
    cdef int i
    if tcp.is_stopped:
        return
    tcp.is_stopped = 1
    for i in range(TCP_LISTENERS_MAX):
        tcp_unlisten(tcp, i)
    while tcp.lingering.head is not NULL:
        conn_discard(tcp.lingering.head)
    while tcp.open.head is not NULL:
        conn_break(tcp.open.head, UV_ECANCELED)
    uv_close(<uv_handle_t *>&tcp.tick, on_uv_helper_closed)


cdef void on_uv_helper_closed(uv_handle_t *handle) noexcept nogil:
    cdef tcp_t *tcp = <tcp_t *>handle.data
    tcp.n_handles -= 1


cdef void tick_start(tcp_t *tcp) noexcept nogil:
    if not tcp.is_ticking and not tcp.is_stopped:
        tcp.is_ticking = 1
        uv_timer_start(&tcp.tick, on_uv_tick, TICK_MS, TICK_MS)


cdef void on_uv_tick(uv_timer_t *timer) noexcept nogil:
    cdef tcp_t *tcp = <tcp_t *>timer.data
    cdef uint64_t now_ns = loop_now(tcp.loop)
    cdef bint is_needed = False
    cdef int i
    for i in range(TCP_LISTENERS_MAX):
        if tcp.listeners[i].state == LISTENER_PAUSED:
            if now_ns >= tcp.listeners[i].resume_ns:
                listener_resume(&tcp.listeners[i])
            else:
                is_needed = True
    while tcp.lingering.head is not NULL and now_ns >= tcp.lingering.head.linger_until_ns:
        conn_discard(tcp.lingering.head)
    if not is_needed and tcp.lingering.head is NULL:
        tcp.is_ticking = 0
        uv_timer_stop(&tcp.tick)


# Listeners

cdef int tcp_listen(tcp_t *tcp, const sockaddr_storage *address, int backlog, int flags) noexcept nogil:
    cdef listener_t *listener
    cdef int idx = 0, fd, rc
    if tcp.is_stopped:
        return UV_ESHUTDOWN
    while tcp.listeners[idx].state != LISTENER_FREE:
        idx += 1
        if idx == TCP_LISTENERS_MAX:
            return UV_ENOBUFS
    fd = listening_socket(address, backlog, flags)
    if fd < 0:
        return fd
    listener = &tcp.listeners[idx]
    rc = uv_poll_init(&tcp.loop.uv, &listener.poll, fd)
    if rc < 0:
        close(fd)
        return rc
    listener.poll.data = listener
    listener.tcp = tcp
    listener.fd = fd
    tcp.n_handles += 1
    listener_resume(listener)
    return idx


cdef int listening_socket(const sockaddr_storage *address, int backlog, int flags) noexcept nogil:
    # gives a descriptor or a uv code
    cdef int on = 1, rc = 0
    cdef int fd = socket_open(address.ss_family)
    if fd < 0:
        return uv_translate_sys_error(errno)
    rc = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on))
    if rc == 0 and flags & TCP_REUSEPORT:
        rc = setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on))
    if rc == 0 and address.ss_family == AF_INET6:
        rc = setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on))
    if rc == 0:
        rc = bind(fd, <const sockaddr *>address, sockaddr_len(address))
    # The first one binds without the option, or two nodes of one user would share a port without knowing.
    if rc == 0 and flags & TCP_REUSEPORT_FIRST:
        rc = setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on))
    if rc == 0:
        rc = listen(fd, backlog)
    if rc == 0:
        return fd
    rc = uv_translate_sys_error(errno)
    close(fd)
    return rc


cdef int tcp_listen_address(tcp_t *tcp, sockaddr_storage *dst, int idx) noexcept nogil:
    cdef socklen_t len = sizeof(sockaddr_storage)
    if tcp.listeners[idx].state not in (LISTENER_OPEN, LISTENER_PAUSED):
        return UV_EINVAL
    memset(dst, 0, sizeof(sockaddr_storage))
    if getsockname(tcp.listeners[idx].fd, <sockaddr *>dst, &len) < 0:
        return uv_translate_sys_error(errno)
    return 0


cdef void tcp_unlisten(tcp_t *tcp, int idx) noexcept nogil:
    cdef listener_t *listener = &tcp.listeners[idx]
    if listener.state != LISTENER_OPEN and listener.state != LISTENER_PAUSED:
        return
    listener.state = LISTENER_CLOSING
    uv_close(<uv_handle_t *>&listener.poll, on_uv_listener_closed)
    close(listener.fd)


cdef void on_uv_listener_closed(uv_handle_t *handle) noexcept nogil:
    cdef listener_t *listener = <listener_t *>handle.data
    listener.state = LISTENER_FREE
    listener.tcp.n_handles -= 1


cdef void listener_resume(listener_t *listener) noexcept nogil:
    listener.state = LISTENER_OPEN
    uv_poll_start(&listener.poll, UV_READABLE, on_uv_acceptable)


cdef void listener_pause(listener_t *listener, int uv_error) noexcept nogil:
    cdef tcp_t *tcp = listener.tcp
    cdef uint64_t now_ns = loop_now(tcp.loop)
    listener.state = LISTENER_PAUSED
    listener.resume_ns = now_ns + <uint64_t>TICK_MS * 1000000
    uv_poll_stop(&listener.poll)
    tick_start(tcp)
    tcp.events.on_accept_error(tcp.ctx, uv_error, now_ns)


cdef void on_uv_acceptable(uv_poll_t *handle, int status, int events) noexcept nogil:
    cdef listener_t *listener = <listener_t *>handle.data
    cdef int i, rc
    for i in range(ACCEPT_BATCH):
        rc = listener_accept(listener)
        if rc == UV_EAGAIN or listener.state != LISTENER_OPEN:
            return
        if rc < 0:
            listener.tcp.n_accept_errors += 1
        if rc in (UV_EMFILE, UV_ENFILE, UV_ENOBUFS, UV_ENOMEM):
            listener_pause(listener, rc)
            return


cdef int listener_accept(listener_t *listener) noexcept nogil:
    # 0, or a uv code
    cdef tcp_t *tcp = listener.tcp
    cdef sockaddr_storage remote
    cdef socklen_t len = sizeof(sockaddr_storage)
    cdef int fd
    memset(&remote, 0, sizeof(remote))
    fd = socket_accept(listener.fd, <sockaddr *>&remote, &len)
    if fd < 0:
        return uv_translate_sys_error(errno)
    if tcp.events.on_offer is not NULL and tcp.events.on_offer(tcp.ctx, fd, &remote):
        return 0
    return tcp_adopt(tcp, fd, &remote)


cdef int tcp_adopt(tcp_t *tcp, int fd, const sockaddr_storage *remote) noexcept nogil:
    cdef conn_t *conn
    cdef void *user
    cdef int rc = conn_create(tcp, &conn, NULL)
    if rc == 0:
        rc = uv_tcp_open(&conn.handle, fd)
        if rc < 0:
            conn_break(conn, 0)
    if rc < 0:
        close(fd)
        return rc
    tcp.n_accepted += 1
    conn.flags |= CONN_CONNECTED
    unsent_limit(conn)
    uv_read_start(<uv_stream_t *>&conn.handle, on_uv_alloc, on_uv_read)
    user = tcp.events.on_accept(tcp.ctx, conn, remote, loop_now(tcp.loop))
    if conn.flags & (CONN_LINGERING | CONN_CLOSING):
        return 0
    conn.user = user
    if user is NULL:
        conn_discard(conn)
    return 0


# Life of a connection

cdef void list_push(conn_list_t *conns, conn_t *conn) noexcept nogil:
    conn.next = NULL
    conn.prev = conns.tail
    if conns.tail is NULL:
        conns.head = conn
    else:
        conns.tail.next = conn
    conns.tail = conn


cdef void list_remove(conn_list_t *conns, conn_t *conn) noexcept nogil:
    if conn.prev is NULL:
        conns.head = conn.next
    else:
        conn.prev.next = conn.next
    if conn.next is NULL:
        conns.tail = conn.prev
    else:
        conn.next.prev = conn.prev


cdef int conn_create(tcp_t *tcp, conn_t **result, void *user) noexcept nogil:
    # 0, or a uv code
    cdef conn_t *conn
    cdef int rc
    result[0] = NULL
    if tcp.is_stopped:
        return UV_ESHUTDOWN
    conn = <conn_t *>mem_take(tcp.pool, sizeof(conn_t))
    if conn is NULL:
        return UV_ENOMEM
    rc = uv_tcp_init(&tcp.loop.uv, &conn.handle)
    if rc < 0:
        mem_give(tcp.pool, conn, sizeof(conn_t))
        return rc
    conn.tcp = tcp
    conn.user = user
    conn.handle.data = conn.write_req.data = conn.connect_req.data = conn.shutdown_req.data = conn
    uv_tcp_nodelay(&conn.handle, 1)     # no descriptor yet: libuv applies it to the one that comes
    list_push(&tcp.open, conn)
    tcp.n_conns += 1
    tcp.n_handles += 1
    result[0] = conn
    return 0


cdef void unsent_limit(conn_t *conn) noexcept nogil:
    cdef int fd, most = conn.tcp.unsent_max
    if most and uv_fileno(<uv_handle_t *>&conn.handle, &fd) == 0:
        setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &most, sizeof(most))


cdef void conn_detach(conn_t *conn, int uv_error) noexcept nogil:
    cdef tcp_t *tcp = conn.tcp
    conn.flags |= CONN_CLOSING
    conn.error = uv_error
    if conn.flags & CONN_LINGERING:
        list_remove(&tcp.lingering, conn)
        tcp.n_lingering -= 1
    else:
        list_remove(&tcp.open, conn)


cdef void conn_break(conn_t *conn, int uv_error) noexcept nogil:
    # closes the descriptor now; the user hears of an error from the close callback
    if conn.flags & CONN_CLOSING:
        return
    conn_detach(conn, uv_error)
    uv_close(<uv_handle_t *>&conn.handle, on_uv_closed)


cdef void conn_discard(conn_t *conn) noexcept nogil:
    # closing with unread input would send RST
    cdef int fd
    if conn.flags & CONN_CONNECTED and uv_fileno(<uv_handle_t *>&conn.handle, &fd) == 0:
        socket_discard(fd)
    conn_break(conn, 0)


cdef void on_uv_closed(uv_handle_t *handle) noexcept nogil:
    cdef conn_t *conn = <conn_t *>handle
    cdef tcp_t *tcp = conn.tcp
    cdef void *user = conn.user
    cdef int error = conn.error
    cdef bint was_connected = conn.flags & CONN_CONNECTED
    tcp.n_conns -= 1
    tcp.n_handles -= 1
    chain_clear(&conn.pending)
    mem_give(tcp.pool, conn, sizeof(conn_t))
    if user is NULL or error == 0:
        return
    if was_connected:
        tcp.events.on_lost(tcp.ctx, user, error, loop_now(tcp.loop))
    else:
        tcp.events.on_dial_error(tcp.ctx, user, error, loop_now(tcp.loop))


cdef int tcp_dial(tcp_t *tcp, conn_t **result, const sockaddr_storage *address, void *user) noexcept nogil:
    cdef conn_t *conn
    cdef int rc = conn_create(tcp, &conn, user)
    result[0] = conn
    if rc < 0:
        return rc
    rc = uv_tcp_connect(&conn.connect_req, &conn.handle, <const sockaddr *>address, on_uv_connected)
    if rc < 0:
        conn_break(conn, 0)
        result[0] = NULL
    return rc


cdef void on_uv_connected(uv_connect_t *req, int status) noexcept nogil:
    cdef conn_t *conn = <conn_t *>req.data
    cdef tcp_t *tcp = conn.tcp
    if conn.flags & CONN_CLOSING:
        return
    if status < 0:
        conn_break(conn, status)
        return
    conn.flags |= CONN_CONNECTED
    unsent_limit(conn)
    if not conn.flags & CONN_PAUSED:
        uv_read_start(<uv_stream_t *>&conn.handle, on_uv_alloc, on_uv_read)
    if conn.user is not NULL:
        tcp.events.on_connect(tcp.ctx, conn.user, conn, loop_now(tcp.loop))


cdef void tcp_close(conn_t *conn) noexcept nogil:
    cdef tcp_t *tcp = conn.tcp
    conn.user = NULL
    if conn.flags & (CONN_CLOSING | CONN_LINGERING):
        return
    if not conn.flags & CONN_CONNECTED or conn.flags & CONN_WRITE_FAILED:
        conn_discard(conn)
        return
    if tcp.n_lingering >= TCP_LINGERING_MAX:
        conn_discard(tcp.lingering.head)
    tcp_shutdown(conn)
    tcp_resume(conn)
    list_remove(&tcp.open, conn)
    list_push(&tcp.lingering, conn)
    tcp.n_lingering += 1
    conn.flags |= CONN_LINGERING
    conn.linger_until_ns = loop_now(tcp.loop) + <uint64_t>TCP_LINGER_MS * 1000000
    tick_start(tcp)
    conn_settle(conn)


cdef void conn_settle(conn_t *conn) noexcept nogil:
    # a lingering connection is done when both directions are
    if conn.flags & CONN_ENDED and conn.pending.head is NULL:
        conn_break(conn, 0)


cdef void tcp_abort(conn_t *conn) noexcept nogil:
    conn.user = NULL
    if conn.flags & CONN_CLOSING:
        return
    conn_detach(conn, 0)
    # libuv refuses while a FIN of ours is on its way
    if not conn.flags & CONN_CONNECTED or uv_tcp_close_reset(&conn.handle, on_uv_closed) < 0:
        uv_close(<uv_handle_t *>&conn.handle, on_uv_closed)


# Input

cdef void on_uv_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) noexcept nogil:
    cdef conn_t *conn = <conn_t *>handle
    cdef tcp_t *tcp = conn.tcp
    buf.base = <char *>tcp.loop.read_start
    buf.len = tcp.loop.read_len
    if tcp.events.on_room is not NULL and conn.user is not NULL:
        buf.base = <char *>tcp.events.on_room(tcp.ctx, conn.user, &buf.len)


cdef void on_uv_read(uv_stream_t *stream, ssize_t n_read, const uv_buf_t *buf) noexcept nogil:
    cdef conn_t *conn = <conn_t *>stream
    cdef tcp_t *tcp = conn.tcp
    if n_read > 0:
        tcp.in_len += <uint64_t>n_read
        if n_read >= LONG_READ_LEN:
            tcp.loop.is_fresh = 0
        if conn.user is not NULL:
            tcp.events.on_read(tcp.ctx, conn.user, <uint8_t *>buf.base, <size_t>n_read, loop_now(tcp.loop))
    elif n_read == UV_EOF:
        conn_ended(conn)
    elif n_read < 0:
        conn_break(conn, <int>n_read)


cdef void conn_ended(conn_t *conn) noexcept nogil:
    cdef tcp_t *tcp = conn.tcp
    conn.flags |= CONN_ENDED
    if conn.flags & CONN_LINGERING:
        conn_settle(conn)
    elif conn.flags & CONN_WRITE_FAILED:
        conn_break(conn, conn.error)
    elif conn.user is not NULL:
        tcp.events.on_end(tcp.ctx, conn.user, loop_now(tcp.loop))


cdef void tcp_pause(conn_t *conn) noexcept nogil:
    # after a failed write it is the end of the input that tells of the failure
    if not conn.flags & (CONN_CLOSING | CONN_LINGERING | CONN_WRITE_FAILED):
        conn.flags |= CONN_PAUSED
        uv_read_stop(<uv_stream_t *>&conn.handle)


cdef void tcp_resume(conn_t *conn) noexcept nogil:
    if not conn.flags & CONN_PAUSED or conn.flags & CONN_CLOSING:
        return
    conn.flags &= ~<uint32_t>CONN_PAUSED
    if conn.flags & CONN_CONNECTED and not conn.flags & CONN_ENDED:
        uv_read_start(<uv_stream_t *>&conn.handle, on_uv_alloc, on_uv_read)


# Output

cdef int conn_check_writable(const conn_t *conn) noexcept nogil:
    if conn.flags & (CONN_SHUT | CONN_WRITE_FAILED | CONN_LINGERING | CONN_CLOSING):
        return E_CLOSED
    return OK if conn.flags & CONN_CONNECTED else E_STATE


cdef int tcp_write(conn_t *conn, chain_t *chain) noexcept nogil:
    cdef int rc = conn_check_writable(conn)
    if rc < 0:
        chain_clear(chain)
        return rc
    chain_move(&conn.pending, chain)
    if conn.inflight_len:
        return OK
    rc = conn_flush(conn)
    if rc < 0:
        conn_write_failed(conn, rc)
        return E_CLOSED
    return OK


cdef void chain_move(chain_t *dst, chain_t *src) noexcept nogil:
    if src.head is NULL:
        return
    if dst.head is NULL:
        dst[0] = src[0]
    else:
        dst.tail.next = src.head
        dst.tail = src.tail
        dst.len += src.len
        dst.taken_len += src.taken_len
    memset(src, 0, sizeof(chain_t))


cdef uint32_t bufs_fill(uv_buf_t *bufs, const chain_t *chain, uint64_t *len) noexcept nogil:
    cdef block_t *block = chain.head
    cdef uint32_t n = 0
    len[0] = 0
    while block is not NULL and n < N_BUFS:
        bufs[n].base = <char *>block_start(block)
        bufs[n].len = block_len(block)
        len[0] += bufs[n].len
        n += 1
        block = block.next
    return n


cdef int conn_flush(conn_t *conn) noexcept nogil:
    # writes what the kernel takes and leaves the rest to libuv; 0 or a uv code
    cdef uv_buf_t[N_BUFS] bufs
    cdef uint64_t len
    cdef uint32_t n
    cdef int rc
    while conn.pending.head is not NULL:
        n = bufs_fill(bufs, &conn.pending, &len)
        rc = uv_try_write(<uv_stream_t *>&conn.handle, bufs, n)
        if rc == UV_EAGAIN:
            rc = 0
        if rc < 0:
            return rc
        conn.tcp.out_len += <uint64_t>rc
        chain_drop(&conn.pending, <uint64_t>rc)
        if <uint64_t>rc < len:
            return conn_submit(conn)
    return 0


cdef int conn_submit(conn_t *conn) noexcept nogil:
    cdef uv_buf_t[N_BUFS] bufs
    cdef uint32_t n = bufs_fill(bufs, &conn.pending, &conn.inflight_len)
    cdef int rc = uv_write(&conn.write_req, <uv_stream_t *>&conn.handle, bufs, n, on_uv_written)
    if rc < 0:
        conn.inflight_len = 0
    return rc


cdef void on_uv_written(uv_write_t *req, int status) noexcept nogil:
    cdef conn_t *conn = <conn_t *>req.data
    cdef tcp_t *tcp = conn.tcp
    cdef uint64_t len = conn.inflight_len
    conn.inflight_len = 0
    if conn.flags & CONN_CLOSING:
        return
    if status == 0:
        tcp.out_len += len
        chain_drop(&conn.pending, len)
        status = conn_flush(conn)
    if status < 0:
        conn_write_failed(conn, status)
    elif conn.pending.head is NULL:
        conn_drained(conn)


cdef void conn_drained(conn_t *conn) noexcept nogil:
    cdef tcp_t *tcp = conn.tcp
    if conn.flags & CONN_SHUT:
        uv_shutdown(&conn.shutdown_req, <uv_stream_t *>&conn.handle, on_uv_shut)
    if conn.flags & CONN_LINGERING:
        conn_settle(conn)
    elif conn.user is not NULL:
        tcp.events.on_writable(tcp.ctx, conn.user, loop_now(tcp.loop))


cdef void conn_write_failed(conn_t *conn, int uv_error) noexcept nogil:
    # The peer may have sent its reason before it closed: as long as input is read, its end reports the failure.
    chain_clear(&conn.pending)
    conn.flags |= CONN_WRITE_FAILED
    conn.error = uv_error
    if conn.flags & (CONN_PAUSED | CONN_ENDED | CONN_LINGERING):
        conn_break(conn, uv_error)


cdef int tcp_shutdown(conn_t *conn) noexcept nogil:
    cdef int rc = conn_check_writable(conn)
    if rc < 0:
        return rc
    conn.flags |= CONN_SHUT
    if conn.pending.head is NULL:
        uv_shutdown(&conn.shutdown_req, <uv_stream_t *>&conn.handle, on_uv_shut)
    return OK


cdef void on_uv_shut(uv_shutdown_t *req, int status) noexcept nogil:
    pass        # a failure shows at the input
