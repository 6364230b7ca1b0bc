# SPDX-License-Identifier: MIT
"""All TCP listeners and connections of one worker.

Everything happens on the loop's thread. `tcp_t` may not move between `tcp_init` and the return of a `loop_free`
after `tcp_stop`.

A `conn_t` belongs to this module. The pointer is good until its user calls `tcp_close` or `tcp_abort`, or until
`on_lost` or `on_dial_error` returns; no event follows any of these. Every operation may be called inside every
event. No event comes from inside an operation.

Functions marked *uv* return libuv's negative codes, the others `status_t`.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .loop cimport loop_t
from .memory cimport chain_t, pool_t
from .uv cimport sockaddr_storage, uv_connect_t, uv_poll_t, uv_shutdown_t, uv_tcp_t, uv_timer_t, uv_write_t
from .wire cimport address_t

cdef enum:
    TCP_LISTENERS_MAX = 16
    TCP_LINGERING_MAX = 1024        # closed connections that wait for the peer's FIN; the oldest is closed first
    TCP_LINGER_MS = 5000            # the longest such wait

cdef enum tcp_flag_t:
    TCP_REUSEPORT = 1               # several workers listen on one port: all but the first
    TCP_REUSEPORT_FIRST = 2         # the first, which finds out whether the port is free

cdef enum conn_flag_t:
    CONN_CONNECTED = 1              # else a dial is in progress
    CONN_PAUSED = 2                 # tcp_pause
    CONN_ENDED = 4                  # the peer's FIN was read
    CONN_SHUT = 8                   # ours is sent or follows what is pending
    CONN_WRITE_FAILED = 16          # nothing can be written any more; what the peer had sent is still being read
    CONN_LINGERING = 32             # tcp_close was called; input is discarded
    CONN_CLOSING = 64               # freed by the next close callback

ctypedef struct tcp_events_t:
    bint (*on_offer)(void *ctx, int fd, const sockaddr_storage *remote) noexcept nogil
        # before on_accept; True: it took the descriptor, for the tcp_adopt of another loop. NULL: nobody else wants it
    void *(*on_accept)(void *ctx, conn_t *conn, const sockaddr_storage *remote, uint64_t now_ns) noexcept nogil
        # gives the user pointer; NULL closes the connection with FIN
    uint8_t *(*on_room)(void *ctx, void *user, size_t *len) noexcept nogil
        # where the next bytes go, good until the on_read that follows or the next on_room; NULL: the connection breaks.
        # NULL instead of a function: the loop's read buffer
    void (*on_connect)(void *ctx, void *user, conn_t *conn, uint64_t now_ns) noexcept nogil
    void (*on_dial_error)(void *ctx, void *user, int uv_error, uint64_t now_ns) noexcept nogil
    void (*on_read)(void *ctx, void *user, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil
        # in the loop's read buffer with its room around it, or where on_room said; may be overwritten; good until
        # return
    void (*on_end)(void *ctx, void *user, uint64_t now_ns) noexcept nogil       # the peer's FIN; writing goes on
    void (*on_lost)(void *ctx, void *user, int uv_error, uint64_t now_ns) noexcept nogil    # it broke and is freed
    void (*on_writable)(void *ctx, void *user, uint64_t now_ns) noexcept nogil  # nothing is pending any more
    void (*on_accept_error)(void *ctx, int uv_error, uint64_t now_ns) noexcept nogil
        # out of descriptors or memory: the listener leaves connections in its backlog for 250 to 500 ms

ctypedef struct conn_t:
    uv_tcp_t handle                 # first: a handle pointer is a conn pointer
    uv_write_t write_req
    uv_connect_t connect_req
    uv_shutdown_t shutdown_req
    tcp_t *tcp
    void *user                      # NULL: nothing is reported and input is dropped
    conn_t *next                    # in tcp.open or tcp.lingering
    conn_t *prev
    chain_t pending                 # output that the kernel refused
    uint64_t inflight_len           # bytes at its start that write_req holds
    uint64_t linger_until_ns
    uint32_t flags                  # conn_flag_t
    int error                       # uv code for on_lost, on_dial_error; 0 = report nothing

ctypedef struct conn_list_t:
    conn_t *head
    conn_t *tail

cdef enum listener_state_t:
    LISTENER_FREE = 0
    LISTENER_OPEN = 1
    LISTENER_PAUSED = 2
    LISTENER_CLOSING = 3

ctypedef struct listener_t:
    uv_poll_t poll
    tcp_t *tcp
    int fd
    int state                       # listener_state_t
    uint64_t resume_ns              # while paused

ctypedef struct tcp_t:
    loop_t *loop                    # borrowed
    pool_t *pool                    # borrowed; connections and nothing else are taken from it
    tcp_events_t events
    void *ctx                       # borrowed; handed to the events
    uv_tcp_t first                  # closed at once: libuv keeps a descriptor from a loop's first stream on
    uv_timer_t tick                 # runs while something lingers or is paused
    listener_t listeners[TCP_LISTENERS_MAX]
    conn_list_t open                # dials in progress too
    conn_list_t lingering           # oldest first
    int unsent_max                  # bytes that the kernel takes beyond what it may send now; 0: as many as it likes
    uint8_t is_ticking
    uint8_t is_stopped
    uint32_t n_handles              # libuv handles not yet freed; 0 after tcp_stop and a finished loop_free
    uint32_t n_conns                # not yet freed
    uint32_t n_lingering
    uint64_t n_accepted
    uint64_t n_accept_errors
    uint64_t in_len                 # bytes read
    uint64_t out_len                # bytes that the kernel took

cdef int tcp_init(tcp_t *tcp, loop_t *loop, pool_t *pool, const tcp_events_t *events, void *ctx) noexcept nogil
cdef void tcp_stop(tcp_t *tcp) noexcept nogil
    # closes everything at once: on_lost or on_dial_error (UV_ECANCELED) for each connection that has a user

cdef int tcp_listen(tcp_t *tcp, const sockaddr_storage *address, int backlog, int flags) noexcept nogil
    # gives a listener index; uv, UV_ENOBUFS when all are taken; tcp_flag_t; [::] is IPv6 only
cdef int tcp_listen_address(tcp_t *tcp, sockaddr_storage *dst, int idx) noexcept nogil      # what it is bound to; uv
cdef int tcp_adopt(tcp_t *tcp, int fd, const sockaddr_storage *remote) noexcept nogil
    # takes a connection that was accepted elsewhere, on_accept follows at once; uv, the descriptor is closed then
cdef void tcp_unlisten(tcp_t *tcp, int idx) noexcept nogil
cdef int tcp_dial(tcp_t *tcp, conn_t **conn, const sockaddr_storage *address, void *user) noexcept nogil
    # uv for what fails at once (nothing is reported then), else on_connect or on_dial_error follow

cdef int tcp_write(conn_t *conn, chain_t *chain) noexcept nogil
    # takes all blocks, in every case. What the kernel refuses stays pending, in order; on_writable follows then.
    # OK; E_STATE before on_connect; E_CLOSED after tcp_shutdown or a failure (which on_lost reports)
cdef int tcp_shutdown(conn_t *conn) noexcept nogil      # FIN behind what is pending; E_STATE, E_CLOSED as tcp_write
cdef void tcp_close(conn_t *conn) noexcept nogil
    # writes what is pending, sends FIN, discards input until the peer's FIN or TCP_LINGER_MS: no RST
cdef void tcp_abort(conn_t *conn) noexcept nogil        # drops what is pending; RST
cdef void tcp_pause(conn_t *conn) noexcept nogil        # no on_read, on_end until tcp_resume
cdef void tcp_resume(conn_t *conn) noexcept nogil

cdef inline uint64_t tcp_pending_len(const conn_t *conn) noexcept nogil:
    return conn.pending.len

cdef int sockaddr_from_address(sockaddr_storage *dst, const address_t *address) noexcept nogil  # E_ADDRESS for names
cdef int address_from_sockaddr(address_t *dst, const sockaddr_storage *address) noexcept nogil
    # E_ADDRESS for other families; an IPv4 address mapped into IPv6 becomes ADDRESS_IP4
