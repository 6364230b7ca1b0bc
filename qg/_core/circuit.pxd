# SPDX-License-Identifier: MIT
"""Circuits: paths built by their source, and extended by the relays on them (protocol.md 6.2, 6.5, 6.6).

A path is a request to reach a target, directly or over relays. It waits for one channel at a time; when that is usable
it opens the next one inside it. A relay that is asked to extend a circuit makes a splice, which waits for the onward
link.
"""
from libc.stdint cimport uint32_t, uint64_t

from .channel cimport channel_t, engine_t, path_t
from .mux cimport stream_t
from .wire cimport frame_t

cdef bint is_awaited(channel_t *channel) noexcept nogil         # by a path or a splice
cdef void report_peer(channel_t *channel, uint64_t request) noexcept nogil     # PEER_UP

# The relay's side
cdef int circuit_extend(channel_t *layer, stream_t *stream, const frame_t *frame, uint64_t now_ns) noexcept nogil
    # a relay stream was opened: OK, or minus a reason_t; other refusals come later, as RESET
cdef void circuits_arm(engine_t *engine, uint64_t at_ns) noexcept nogil        # call relay_tick by then
cdef void circuits_join(channel_t *link, uint64_t now_ns) noexcept nogil
    # the link is ready: those that wait for it go on
cdef void circuits_refuse(channel_t *link, uint64_t now_ns) noexcept nogil     # the link failed

# The source's side
cdef path_t *path_create(engine_t *engine, uint32_t n_hops) noexcept nogil     # gives; NULL without memory
cdef void path_free(engine_t *engine, path_t *path) noexcept nogil
cdef void path_start(engine_t *engine, path_t *path, uint64_t now_ns) noexcept nogil   # takes the path
cdef void path_cancel(engine_t *engine, uint64_t request, uint64_t now_ns) noexcept nogil
cdef uint64_t paths_request(channel_t *channel) noexcept nogil
cdef void paths_continue(channel_t *channel, uint64_t now_ns) noexcept nogil   # the channel is usable
cdef void paths_failed(channel_t *channel, int reason, uint64_t now_ns) noexcept nogil
