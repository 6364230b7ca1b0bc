# SPDX-License-Identifier: MIT
"""Host names to addresses through libuv's getaddrinfo, and the networks of the machine."""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr, memcpy, memset

from .loop cimport loop_now, loop_t
from .status cimport E_ADDRESS, E_CLOSED, E_FULL, E_IO, OK
from .tcp cimport address_from_sockaddr
from .uv cimport (
    AF_INET, AF_INET6, AF_UNSPEC, SOCK_STREAM, UV_EAI_NODATA, UV_EINVAL, addrinfo, sockaddr_in, sockaddr_in6,
    sockaddr_storage, uv_cancel, uv_close, uv_free_interface_addresses, uv_freeaddrinfo, uv_getaddrinfo,
    uv_getaddrinfo_t, uv_handle_t, uv_inet_pton, uv_interface_address_t, uv_interface_addresses, uv_req_t,
    uv_timer_init, uv_timer_start, uv_timer_t)
from .wire cimport ADDRESS_IP4, ADDRESS_IP6, ADDRESS_NAME, address_t


cdef int resolve_init(resolve_t *resolve, loop_t *loop, resolved_t on_resolved, void *ctx) noexcept nogil:
    cdef int i
    memset(resolve, 0, sizeof(resolve_t))
    resolve.loop = loop
    resolve.on_resolved = on_resolved
    resolve.ctx = ctx
    uv_timer_init(&loop.uv, &resolve.ready)
    resolve.ready.data = resolve
    resolve.n_handles = 1
    for i in range(RESOLVE_MAX):
        resolve.lookups[i].resolve = resolve
        resolve.lookups[i].req.data = &resolve.lookups[i]
    return OK


cdef void resolve_stop(resolve_t *resolve) noexcept nogil:
    cdef int i
    if resolve.is_stopped:
        return
    resolve.is_stopped = 1
    for i in range(RESOLVE_MAX):
        lookup_cancel(&resolve.lookups[i])
    uv_close(<uv_handle_t *>&resolve.ready, on_uv_timer_closed)


cdef void on_uv_timer_closed(uv_handle_t *handle) noexcept nogil:
    cdef resolve_t *resolve = <resolve_t *>handle.data
    resolve.n_handles -= 1


cdef void resolve_cancel(resolve_t *resolve, void *user) noexcept nogil:
    cdef int i
    for i in range(RESOLVE_MAX):
        if resolve.lookups[i].user is user:
            lookup_cancel(&resolve.lookups[i])


cdef void lookup_cancel(lookup_t *lookup) noexcept nogil:
    if lookup.state == LOOKUP_READY:
        lookup_release(lookup)
    elif lookup.state == LOOKUP_WAITING:
        lookup.state = LOOKUP_CANCELLED
        uv_cancel(<uv_req_t *>&lookup.req)      # refused when a thread has begun: the slot is free when that returns


cdef void lookup_release(lookup_t *lookup) noexcept nogil:
    lookup.state = LOOKUP_FREE
    lookup.user = NULL
    lookup.resolve.n_lookups -= 1


cdef int resolve_start(resolve_t *resolve, const address_t *address, void *user) noexcept nogil:
    cdef char[256] name
    cdef lookup_t *lookup
    cdef int i = 0, rc
    if resolve.is_stopped:
        return E_CLOSED
    while resolve.lookups[i].state != LOOKUP_FREE:
        i += 1
        if i == RESOLVE_MAX:
            return E_FULL
    lookup = &resolve.lookups[i]
    rc = literal_read(&lookup.literal, name, address)
    if rc < 0:
        return rc
    if rc:
        lookup.state = LOOKUP_READY
        uv_timer_start(&resolve.ready, on_uv_ready, 0, 0)
    else:
        rc = lookup_submit(lookup, name)
        if rc < 0:
            return rc
        lookup.state = LOOKUP_WAITING
    lookup.user = user
    lookup.port = address.port
    resolve.n_lookups += 1
    resolve.n_started += 1
    return OK


cdef int literal_read(address_t *dst, char *name, const address_t *address) noexcept nogil:
    # 1 when `dst` holds the answer; 0 when `name` holds a name, with its final 0; E_ADDRESS
    if address.type != ADDRESS_NAME:
        dst[0] = address[0]
        return 1
    if address.name_len == 0 or memchr(address.name, 0, address.name_len) is not NULL:
        return E_ADDRESS
    memcpy(name, address.name, address.name_len)
    name[address.name_len] = 0
    memset(dst, 0, sizeof(address_t))
    dst.port = address.port
    if uv_inet_pton(AF_INET, name, dst.ip) == 0:
        dst.type = ADDRESS_IP4
        return 1
    if uv_inet_pton(AF_INET6, name, dst.ip) == 0:
        dst.type = ADDRESS_IP6
        return 1
    return 0


cdef int lookup_submit(lookup_t *lookup, const char *name) noexcept nogil:
    cdef addrinfo hints
    cdef int rc
    memset(&hints, 0, sizeof(hints))
    hints.ai_family = AF_UNSPEC
    hints.ai_socktype = SOCK_STREAM     # else every address comes three times
    rc = uv_getaddrinfo(&lookup.resolve.loop.uv, &lookup.req, on_uv_resolved, name, NULL, &hints)
    if rc == 0:
        return OK
    return E_ADDRESS if rc == UV_EINVAL else E_IO


cdef void on_uv_ready(uv_timer_t *timer) noexcept nogil:
    cdef resolve_t *resolve = <resolve_t *>timer.data
    cdef lookup_t *lookup
    cdef int i
    for i in range(RESOLVE_MAX):
        lookup = &resolve.lookups[i]
        if lookup.state == LOOKUP_READY:
            lookup_answer(lookup, &lookup.literal, 1, 0)


cdef void on_uv_resolved(uv_getaddrinfo_t *req, int status, addrinfo *first) noexcept nogil:
    cdef lookup_t *lookup = <lookup_t *>req.data
    cdef address_t[RESOLVE_ADDRESSES_MAX] addresses
    cdef addrinfo *info = first
    cdef uint32_t n = 0
    if lookup.state == LOOKUP_CANCELLED:
        uv_freeaddrinfo(first)
        lookup_release(lookup)
        return
    while info is not NULL and n < RESOLVE_ADDRESSES_MAX:
        if address_from_sockaddr(&addresses[n], <const sockaddr_storage *>info.ai_addr) == OK:
            addresses[n].port = lookup.port
            n += 1
        info = info.ai_next
    uv_freeaddrinfo(first)
    if status == 0 and n == 0:
        status = UV_EAI_NODATA
    lookup_answer(lookup, addresses, n, status)


cdef void lookup_answer(lookup_t *lookup, const address_t *addresses, uint32_t n_addresses,
                        int uv_error) noexcept nogil:
    # frees the slot first, so that the receiver may start the next look-up
    cdef resolve_t *resolve = lookup.resolve
    cdef void *user = lookup.user
    cdef address_t literal
    if addresses is &lookup.literal:
        literal = lookup.literal
        addresses = &literal
    resolve.n_failed += uv_error < 0
    lookup_release(lookup)
    resolve.on_resolved(resolve.ctx, user, addresses, n_addresses, uv_error, loop_now(resolve.loop))


# The machine's own networks

cdef int interfaces_list(interface_t *dst, size_t max) noexcept nogil:
    cdef uv_interface_address_t *found = NULL
    cdef int n_found = 0
    cdef int i, n = 0
    i = uv_interface_addresses(&found, &n_found)
    if i < 0:
        return i
    for i in range(n_found):
        if <size_t>n < max and interface_read(&dst[n], <const sockaddr_in6 *>&found[i].address,
                                              <const sockaddr_in6 *>&found[i].netmask):
            n += 1
    uv_free_interface_addresses(found, n_found)
    return n


cdef bint interface_read(interface_t *dst, const sockaddr_in6 *address, const sockaddr_in6 *mask) noexcept nogil:
    cdef const uint8_t *ip
    cdef const uint8_t *bits
    cdef int i
    memset(dst, 0, sizeof(interface_t))
    if address.sin6_family == AF_INET:
        dst.ip_len = 4
        ip, bits = <const uint8_t *>&(<sockaddr_in *>address).sin_addr, <const uint8_t *>&(<sockaddr_in *>mask).sin_addr
    elif address.sin6_family == AF_INET6:
        dst.ip_len = 16
        ip, bits = <const uint8_t *>&address.sin6_addr, <const uint8_t *>&mask.sin6_addr
    else:
        return False
    while dst.n_bits < 8 * dst.ip_len and bits[dst.n_bits >> 3] & (128 >> (dst.n_bits & 7)):
        dst.n_bits += 1
    for i in range(dst.ip_len):
        dst.ip[i] = ip[i] & bits[i]
        dst.own[i] = ip[i]
    return True
