# SPDX-License-Identifier: MIT
"""The C header of native extenders, include/qg/extender.h, which says what each of these is and promises."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "qg/extender.h" nogil:
    enum:
        QG_EXTENDER_VERSION

    const char *QG_EXTENDER_CAPSULE

    enum qg_reason:
        QG_REASON_NONE
        QG_REASON_PROTOCOL
        QG_REASON_INTERNAL
        QG_REASON_SHUTDOWN
        QG_REASON_REFUSED
        QG_REASON_UNREACHABLE
        QG_REASON_BUSY
        QG_REASON_LIMIT
        QG_REASON_UNSUPPORTED
        QG_REASON_TIMEOUT
        QG_REASON_MEMORY
        QG_REASON_SLOW_READER
        QG_REASON_HOPS
        QG_REASON_DUPLICATE
        QG_REASON_IDLE
        QG_REASON_REKEY
        QG_REASON_CANCELLED

    ctypedef struct qg_stream:
        const qg_host_v1 *host

    ctypedef struct qg_host_v1:
        uint32_t size
        uint32_t version
        size_t (*stream_write)(qg_stream *stream, const void *src, size_t len) noexcept nogil
        void (*stream_finish)(qg_stream *stream) noexcept nogil
        void (*stream_reset)(qg_stream *stream, int reason) noexcept nogil
        void (*stream_wake)(qg_stream *stream) noexcept nogil
        uint64_t (*stream_now_ns)(const qg_stream *stream) noexcept nogil

    ctypedef struct qg_opening_v1:
        uint32_t size
        uint8_t priority
        uint8_t is_relayed
        uint16_t metadata_len
        const uint8_t *metadata
        const uint8_t *peer_id

    ctypedef struct qg_extender_v1:
        uint32_t size
        uint32_t version
        void *ctx
        int (*on_open)(void *ctx, qg_stream *stream, const qg_opening_v1 *opening, void **state) noexcept nogil
        size_t (*on_data)(void *state, qg_stream *stream, const uint8_t *data, size_t len) noexcept nogil
        void (*on_end)(void *state, qg_stream *stream) noexcept nogil
        void (*on_writable)(void *state, qg_stream *stream) noexcept nogil
        void (*on_wake)(void *state, qg_stream *stream) noexcept nogil
        void (*on_close)(void *state, qg_stream *stream, int reason) noexcept nogil

    size_t qg_stream_write(qg_stream *stream, const void *src, size_t len) noexcept
    void qg_stream_finish(qg_stream *stream) noexcept
    void qg_stream_reset(qg_stream *stream, int reason) noexcept
    void qg_stream_wake(qg_stream *stream) noexcept
    uint64_t qg_stream_now_ns(const qg_stream *stream) noexcept
