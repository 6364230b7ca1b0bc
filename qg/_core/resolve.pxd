# SPDX-License-Identifier: MIT
"""Host names to addresses, in libuv's threads, a bounded number at a time; and the networks that this machine is in.

All but `interfaces_list` belongs to the loop's thread. `resolve_t` may not move between `resolve_init` and the return
of a `loop_free` after `resolve_stop`.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .loop cimport loop_t
from .uv cimport uv_getaddrinfo_t, uv_timer_t
from .wire cimport address_t

cdef enum:
    RESOLVE_MAX = 32                # look-ups under way, cancelled ones whose thread still waits included
    RESOLVE_ADDRESSES_MAX = 8       # of one answer; further ones are dropped
    INTERFACES_MAX = 256            # addresses of interfaces that are looked at

cdef enum lookup_state_t:
    LOOKUP_FREE = 0
    LOOKUP_WAITING = 1              # a thread works on it
    LOOKUP_READY = 2                # a literal; answered at the end of the turn
    LOOKUP_CANCELLED = 3            # a thread works on it and nobody wants to know

ctypedef void (*resolved_t)(void *ctx, void *user, const address_t *addresses, uint32_t n_addresses, int uv_error,
                            uint64_t now_ns) noexcept nogil
    # addresses in the order of preference, with the port asked for, good until return; uv_error 0 = n_addresses > 0

ctypedef struct lookup_t:
    uv_getaddrinfo_t req
    resolve_t *resolve
    void *user
    address_t literal               # while ready
    unsigned short port
    uint8_t state                   # lookup_state_t

ctypedef struct resolve_t:
    loop_t *loop                    # borrowed
    resolved_t on_resolved
    void *ctx                       # borrowed; handed to on_resolved
    uv_timer_t ready                # at 0 ms: literals are answered from the loop, never from inside resolve_start
    lookup_t lookups[32]
    uint32_t n_lookups              # slots in use
    uint32_t n_handles              # 0 after resolve_stop and a finished loop_free
    uint64_t n_started
    uint64_t n_failed
    uint8_t is_stopped

ctypedef struct interface_t:        # a network that this machine is in
    uint8_t ip[16]                  # its address, zero behind n_bits
    uint8_t own[16]                 # that of the interface in it
    uint8_t ip_len                  # 4 or 16
    uint8_t n_bits

cdef int interfaces_list(interface_t *dst, size_t max) noexcept nogil
    # networks of the interfaces that are up, one for each address; their number, at most max, or a negative errno.
    # Takes and frees memory of libuv
cdef int resolve_init(resolve_t *resolve, loop_t *loop, resolved_t on_resolved, void *ctx) noexcept nogil
cdef void resolve_stop(resolve_t *resolve) noexcept nogil       # cancels all, reports nothing
cdef int resolve_start(resolve_t *resolve, const address_t *address, void *user) noexcept nogil
    # copies the name; OK: on_resolved follows, once; E_FULL, E_ADDRESS (cannot be a name), E_CLOSED when stopped, E_IO
cdef void resolve_cancel(resolve_t *resolve, void *user) noexcept nogil     # nothing is reported for user any more
