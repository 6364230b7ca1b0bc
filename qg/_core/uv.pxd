# SPDX-License-Identifier: MIT
"""libuv and the sockets calls it does not cover: what the modules of L9 use of them. No code of its own.

libuv's error codes are negative `errno` values and overlap with `status_t`: every function of L9 says which of
the two it returns.
"""
from libc.stdint cimport uint64_t

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr:
        unsigned short sa_family
    struct sockaddr_storage:
        unsigned short ss_family
    int AF_INET, AF_INET6, AF_UNSPEC, SOCK_STREAM, SOL_SOCKET, SO_REUSEADDR, SO_REUSEPORT
    int setsockopt(int fd, int level, int name, const void *value, socklen_t len) noexcept
    int bind(int fd, const sockaddr *address, socklen_t len) noexcept
    int listen(int fd, int backlog) noexcept
    int getsockname(int fd, sockaddr *address, socklen_t *len) noexcept

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_IPV6, IPV6_V6ONLY, IPPROTO_TCP
    struct in_addr:
        unsigned int s_addr
    struct in6_addr:
        unsigned char s6_addr[16]
    struct sockaddr_in:
        unsigned short sin_family
        unsigned short sin_port         # network order
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_family
        unsigned short sin6_port        # network order
        in6_addr sin6_addr

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_NOTSENT_LOWAT

cdef extern from "<netdb.h>" nogil:
    struct addrinfo:
        int ai_family
        int ai_socktype
        sockaddr *ai_addr
        addrinfo *ai_next

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <sys/socket.h>
    #include <time.h>
    #include <unistd.h>
    #ifndef QG_SOCKET_H
    #define QG_SOCKET_H
    static inline int qg_socket(int family) {
    #ifdef __linux__
        return socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    #else
        int fd = socket(family, SOCK_STREAM, 0);
        if (fd >= 0) { fcntl(fd, F_SETFD, FD_CLOEXEC); fcntl(fd, F_SETFL, O_NONBLOCK); }
        return fd;
    #endif
    }
    static inline int qg_accept(int fd, struct sockaddr *address, socklen_t *len) {
    #ifdef __linux__
        return accept4(fd, address, len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    #else
        int accepted = accept(fd, address, len);
        if (accepted >= 0) { fcntl(accepted, F_SETFD, FD_CLOEXEC); fcntl(accepted, F_SETFL, O_NONBLOCK); }
        return accepted;
    #endif
    }
    /* Throws away what waits to be read, at most 64 times a megabyte, and touches no buffer of the caller. */
    static inline void qg_discard(int fd) {
        int i;
        for (i = 0; i < 64; i++) {
    #ifdef __linux__
            if (recv(fd, NULL, 1 << 20, MSG_DONTWAIT | MSG_TRUNC) <= 0) return;
    #else
            char scratch[16384];
            if (recv(fd, scratch, sizeof(scratch), MSG_DONTWAIT) <= 0) return;
    #endif
        }
    }
    static inline uint64_t qg_thread_cpu_ns(void) {
        struct timespec t;
        return clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) ? 0 : (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    }
    #endif
    """
    # The first two give a non-blocking, close-on-exec descriptor, or -1 and errno.
    int socket_open "qg_socket"(int family) noexcept nogil                      # a stream
    int socket_accept "qg_accept"(int fd, sockaddr *address, socklen_t *len) noexcept nogil
    void socket_discard "qg_discard"(int fd) noexcept nogil                     # empties the receive queue
    uint64_t thread_cpu_ns "qg_thread_cpu_ns"() noexcept nogil                  # of the calling thread

cdef extern from "uv.h" nogil:
    enum:
        UV_EOF
        UV_EAGAIN
        UV_ECANCELED
        UV_EINVAL
        UV_EMFILE
        UV_ENFILE
        UV_ENOBUFS
        UV_ENOMEM
        UV_ESHUTDOWN
        UV_EAI_NODATA
        UV_READABLE

    ctypedef enum uv_run_mode:
        UV_RUN_DEFAULT

    ctypedef struct uv_buf_t:
        char *base
        size_t len
    ctypedef struct uv_loop_t:
        void *data
    ctypedef struct uv_handle_t:
        void *data
    ctypedef struct uv_stream_t:
        void *data
    ctypedef struct uv_tcp_t:
        void *data
    ctypedef struct uv_poll_t:
        void *data
    ctypedef struct uv_timer_t:
        void *data
    ctypedef struct uv_async_t:
        void *data
    ctypedef struct uv_prepare_t:
        void *data
    ctypedef struct uv_req_t:
        void *data
    ctypedef struct uv_write_t:
        void *data
    ctypedef struct uv_connect_t:
        void *data
    ctypedef struct uv_shutdown_t:
        void *data
    ctypedef struct uv_getaddrinfo_t:
        void *data
    ctypedef struct uv_thread_t:
        pass

    ctypedef void (*uv_alloc_cb)(uv_handle_t *, size_t, uv_buf_t *) noexcept nogil
    ctypedef void (*uv_read_cb)(uv_stream_t *, ssize_t, const uv_buf_t *) noexcept nogil
    ctypedef void (*uv_write_cb)(uv_write_t *, int) noexcept nogil
    ctypedef void (*uv_connect_cb)(uv_connect_t *, int) noexcept nogil
    ctypedef void (*uv_shutdown_cb)(uv_shutdown_t *, int) noexcept nogil
    ctypedef void (*uv_close_cb)(uv_handle_t *) noexcept nogil
    ctypedef void (*uv_walk_cb)(uv_handle_t *, void *) noexcept nogil
    ctypedef void (*uv_poll_cb)(uv_poll_t *, int, int) noexcept nogil
    ctypedef void (*uv_timer_cb)(uv_timer_t *) noexcept nogil
    ctypedef void (*uv_async_cb)(uv_async_t *) noexcept nogil
    ctypedef void (*uv_prepare_cb)(uv_prepare_t *) noexcept nogil
    ctypedef void (*uv_getaddrinfo_cb)(uv_getaddrinfo_t *, int, addrinfo *) noexcept nogil
    ctypedef void (*uv_thread_cb)(void *) noexcept nogil

    int uv_loop_init(uv_loop_t *loop) noexcept
    int uv_loop_close(uv_loop_t *loop) noexcept
    int uv_run(uv_loop_t *loop, uv_run_mode mode) noexcept
    void uv_stop(uv_loop_t *loop) noexcept
    void uv_walk(uv_loop_t *loop, uv_walk_cb callback, void *arg) noexcept
    uint64_t uv_now(const uv_loop_t *loop) noexcept             # ms, cached
    uint64_t uv_hrtime() noexcept                               # ns, same clock
    void uv_close(uv_handle_t *handle, uv_close_cb callback) noexcept
    bint uv_is_closing(const uv_handle_t *handle) noexcept
    int uv_translate_sys_error(int error) noexcept

    int uv_timer_init(uv_loop_t *loop, uv_timer_t *timer) noexcept
    int uv_timer_start(uv_timer_t *timer, uv_timer_cb callback, uint64_t timeout_ms, uint64_t repeat_ms) noexcept
    int uv_timer_stop(uv_timer_t *timer) noexcept
    int uv_async_init(uv_loop_t *loop, uv_async_t *async_, uv_async_cb callback) noexcept
    int uv_async_send(uv_async_t *async_) noexcept              # any thread; no system call when one is pending
    int uv_prepare_init(uv_loop_t *loop, uv_prepare_t *prepare) noexcept
    int uv_prepare_start(uv_prepare_t *prepare, uv_prepare_cb callback) noexcept
    int uv_poll_init(uv_loop_t *loop, uv_poll_t *poll, int fd) noexcept
    int uv_poll_start(uv_poll_t *poll, int events, uv_poll_cb callback) noexcept
    int uv_poll_stop(uv_poll_t *poll) noexcept

    int uv_tcp_init(uv_loop_t *loop, uv_tcp_t *tcp) noexcept
    int uv_tcp_open(uv_tcp_t *tcp, int fd) noexcept
    int uv_tcp_nodelay(uv_tcp_t *tcp, int enable) noexcept
    int uv_tcp_connect(uv_connect_t *req, uv_tcp_t *tcp, const sockaddr *address, uv_connect_cb callback) noexcept
    int uv_tcp_close_reset(uv_tcp_t *tcp, uv_close_cb callback) noexcept
    int uv_fileno(const uv_handle_t *handle, int *fd) noexcept
    int uv_read_start(uv_stream_t *stream, uv_alloc_cb alloc, uv_read_cb read) noexcept
    int uv_read_stop(uv_stream_t *stream) noexcept
    int uv_try_write(uv_stream_t *stream, const uv_buf_t *bufs, unsigned int n_bufs) noexcept
    int uv_write(uv_write_t *req, uv_stream_t *stream, const uv_buf_t *bufs, unsigned int n_bufs,
                 uv_write_cb callback) noexcept
    int uv_shutdown(uv_shutdown_t *req, uv_stream_t *stream, uv_shutdown_cb callback) noexcept

    int uv_getaddrinfo(uv_loop_t *loop, uv_getaddrinfo_t *req, uv_getaddrinfo_cb callback, const char *node,
                       const char *service, const addrinfo *hints) noexcept
    void uv_freeaddrinfo(addrinfo *first) noexcept
    int uv_cancel(uv_req_t *req) noexcept
    int uv_inet_pton(int family, const char *src, void *dst) noexcept

    ctypedef union uv_interface_ip "union { struct sockaddr_in address4; struct sockaddr_in6 address6; }":
        sockaddr_in address4
    ctypedef struct uv_interface_address_t:
        uv_interface_ip address
        uv_interface_ip netmask
    int uv_interface_addresses(uv_interface_address_t **addresses, int *n_addresses) noexcept
    void uv_free_interface_addresses(uv_interface_address_t *addresses, int n_addresses) noexcept

    int uv_thread_create(uv_thread_t *thread, uv_thread_cb entry, void *arg) noexcept
    int uv_thread_join(uv_thread_t *thread) noexcept

    ctypedef struct uv_mutex_t:
        pass
    ctypedef struct uv_cond_t:
        pass
    int uv_mutex_init(uv_mutex_t *lock) noexcept
    void uv_mutex_destroy(uv_mutex_t *lock) noexcept
    void uv_mutex_lock(uv_mutex_t *lock) noexcept
    void uv_mutex_unlock(uv_mutex_t *lock) noexcept
    int uv_cond_init(uv_cond_t *cond) noexcept
    void uv_cond_destroy(uv_cond_t *cond) noexcept
    void uv_cond_signal(uv_cond_t *cond) noexcept
    int uv_cond_timedwait(uv_cond_t *cond, uv_mutex_t *lock, uint64_t timeout_ns) noexcept
