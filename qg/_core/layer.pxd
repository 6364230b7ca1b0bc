# SPDX-License-Identifier: MIT
"""The carrier of a session that runs inside a stream of another session (protocol.md 6.2, 6.4).

Nothing is queued between the two: the scheduler of the outer session pulls, the inner one builds a record, and its
bytes become one DATA frame that the outer session seals around it in place.
"""
from libc.stdint cimport uint64_t

from .mux cimport stream_t
from .session cimport carrier_t

cdef const carrier_t *layer_carrier() noexcept nogil
    # session.carrier_ctx is the stream, NULL once it is gone
cdef int layer_pull(stream_t *stream, uint64_t now_ns) noexcept nogil
    # for the sink of such a stream; its owner is the session
