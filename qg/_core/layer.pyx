# SPDX-License-Identifier: MIT
"""The carrier of a session that runs inside a stream of another session."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from .mux cimport (
    FLAG_DEAD, FLAG_FIN_QUEUED, FLAG_SOURCE_READY, stream_may_fill, stream_room, stream_sent, stream_source_ready,
    stream_t)
from .session cimport (
    SESSION_KEYED, SESSION_OPEN, carrier_t, session_begin, session_end, session_has_output, session_holds_data,
    session_padded, session_pump, session_room, session_t, session_wake)
from .status cimport RECORD_HEAD_LEN
from .wire cimport FRAME_DATA, frame_put_data_head, varint_len


cdef inline session_t *outer_of(stream_t *stream) noexcept nogil:
    return <session_t *>stream.mux.owner


cdef size_t room(session_t *session) noexcept nogil:
    cdef stream_t *stream = <stream_t *>session.carrier_ctx
    cdef session_t *outer
    cdef size_t inner, head
    if stream is NULL or stream.flags & (FLAG_DEAD | FLAG_FIN_QUEUED):
        return 0
    outer = outer_of(stream)
    if (outer.state != SESSION_OPEN and outer.state != SESSION_KEYED) or outer.is_mute or session_holds_data(outer):
        return 0
    inner = session_room(outer)
    head = 3 + varint_len(stream.id)
    if inner <= head or not stream_may_fill(stream, inner - head):
        return 0
    return min(stream_room(stream), inner - head)


cdef uint8_t *reserve(session_t *session, size_t len) noexcept nogil:
    cdef stream_t *stream = <stream_t *>session.carrier_ctx
    cdef session_t *outer = outer_of(stream)
    cdef size_t head = 1 + varint_len(stream.id) + varint_len(len)
    cdef uint8_t *inner = session_begin(outer, session_padded(outer, head + len, session_room(outer), 1))
    return inner + head if inner is not NULL else NULL


cdef void commit(session_t *session, size_t len, uint64_t now_ns) noexcept nogil:
    cdef stream_t *stream = <stream_t *>session.carrier_ctx
    cdef session_t *outer = outer_of(stream)
    cdef uint8_t *inner = outer.begun + RECORD_HEAD_LEN
    cdef size_t used = len
    used += frame_put_data_head(inner, stream.id, len, FRAME_DATA)
    memset(inner + used, 0, outer.begun_len - used)
    stream_sent(stream, len)
    session_end(outer, inner, outer.begun_len, now_ns)


cdef void wake(session_t *session, uint64_t now_ns) noexcept nogil:
    cdef stream_t *stream = <stream_t *>session.carrier_ctx
    if stream is NULL or not session_has_output(session):
        return
    stream_source_ready(stream, now_ns)
    session_wake(outer_of(stream), now_ns)


cdef void turn(session_t *session, uint32_t n, uint64_t now_ns) noexcept nogil:
    """One record, however many turns have come: an observer sees when the stream below has room, not them."""
    cdef stream_t *stream = <stream_t *>session.carrier_ctx
    if stream is not NULL:
        session.turn_len = session.cover.turn_len
        wake(session, now_ns)


cdef int layer_pull(stream_t *stream, uint64_t now_ns) noexcept nogil:
    cdef session_t *session = <session_t *>stream.owner
    cdef int n = session_pump(session, now_ns)
    if n <= 0 or not session_has_output(session):
        stream.flags &= ~FLAG_SOURCE_READY
    return n


cdef carrier_t CARRIER
CARRIER.room = room
CARRIER.reserve = reserve
CARRIER.commit = commit
CARRIER.wake = wake
CARRIER.turn = turn


cdef const carrier_t *layer_carrier() noexcept nogil:
    return &CARRIER
