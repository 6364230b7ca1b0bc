/* SPDX-License-Identifier: MIT */
/* Native extenders: services of a qg node whose streams are served by C functions, on the node's own threads, without
 * Python and its lock. docs/extenders.md, section "Native", has the whole story, examples/native_extender an example.
 *
 * An extender is a table of functions, qg_extender_v1, which `qg.NativeExtender(id, table)` hands to a node. Each
 * stream that a peer opens to that id belongs to it: on_open says yes or no, then on_data, on_end, on_writable and
 * on_wake are called as things happen, and on_close once, last. What they do with a stream goes through the functions
 * below, qg_stream_*.
 *
 * Threads: a node has one thread per worker. All calls for one stream come from one thread, one at a time, never from
 * inside a qg_stream_* function; those for different streams may run at once in different threads. qg_stream_* are
 * called with the stream whose callback runs, inside that callback; qg_stream_wake alone from any thread.
 *
 * A callback keeps all streams of its thread waiting: it must not block, call Python, raise a C++ exception or jump out,
 * and keep no pointer that it was given beyond its return, but `stream` until on_close has returned.
 *
 * Stable: in every struct the size comes first, and members are only ever added at the end. What the other side's size
 * does not cover is not there; a member that is NULL is not called. */
#ifndef QG_EXTENDER_H
#define QG_EXTENDER_H

#include <stddef.h>
#include <stdint.h>

#include "qg_wire.h" /* the reasons, QG_REASON_* */

#ifdef __cplusplus
extern "C" {
#endif

#define QG_EXTENDER_VERSION 1
#define QG_EXTENDER_CAPSULE "qg.extender.v1" /* the name of a PyCapsule that holds a table */

typedef struct qg_stream qg_stream;

/* What an extender can do with a stream; qg_stream_* below call these. */
typedef struct qg_host_v1 {
    uint32_t size;
    uint32_t version;
    size_t (*stream_write)(qg_stream *stream, const void *src, size_t len);
    void (*stream_finish)(qg_stream *stream);
    void (*stream_reset)(qg_stream *stream, int reason);
    void (*stream_wake)(qg_stream *stream);
    uint64_t (*stream_now_ns)(const qg_stream *stream);
} qg_host_v1;

struct qg_stream {
    const qg_host_v1 *host; /* what follows is the host's */
};

/* What is known of a stream that a peer opens; valid during on_open. */
typedef struct qg_opening_v1 {
    uint32_t size;
    uint8_t priority;   /* 0 expedited, 1 normal, 2 delayed */
    uint8_t is_relayed; /* the peer is at the end of a circuit */
    uint16_t metadata_len;
    const uint8_t *metadata; /* what the opener said about the stream */
    const uint8_t *peer_id;  /* 32 bytes: who it is, proved by the handshake */
} qg_opening_v1;

/* An extender. `state` is what on_open left in *state for this stream, `ctx` unless it did. Only on_data must be there. */
typedef struct qg_extender_v1 {
    uint32_t size;    /* sizeof(qg_extender_v1) */
    uint32_t version; /* QG_EXTENDER_VERSION */
    void *ctx;        /* the extender's own; the host hands it on and never looks at it */

    /* A peer asks for a stream. 0 takes it; everything else refuses it with that reason (QG_REASON_REFUSED, for example), and
     * no other callback comes. Nothing can be written yet. */
    int (*on_open)(void *ctx, qg_stream *stream, const qg_opening_v1 *opening, void **state);

    /* Bytes have come. Returns how many of them it took, from the front; the peer gets credit for those. The others are
     * given again, with what came behind them, after the next on_writable or on_wake. Once both sides have finished,
     * bytes that are not taken are lost. */
    size_t (*on_data)(void *state, qg_stream *stream, const uint8_t *data, size_t len);

    /* The peer has finished and everything was taken. NULL: the stream is finished from this side too. */
    void (*on_end)(void *state, qg_stream *stream);

    /* There is room again after qg_stream_write took less than it was given. */
    void (*on_writable)(void *state, qg_stream *stream);

    /* qg_stream_wake was called, once or more. */
    void (*on_wake)(void *state, qg_stream *stream);

    /* The stream is over: 0 when both sides had finished, else why it was reset, by either side, or by the node when the
     * link or the extender goes. Comes exactly once for each stream that was taken; the last call, `stream` is dead
     * afterwards. May come from the thread that closes the node, after the node's own threads have ended. */
    void (*on_close)(void *state, qg_stream *stream, int reason);
} qg_extender_v1;

/* Sends up to `len` bytes, which are copied; returns how many were taken, like a socket that does not block: what the
 * peer's credit, or 256 KiB that wait already, leave room for. After less than `len`, on_writable comes. 0 after finish. */
static inline size_t qg_stream_write(qg_stream *stream, const void *src, size_t len) {
    return stream->host->stream_write(stream, src, len);
}

/* Ends this side's direction behind what was written. The peer may go on. */
static inline void qg_stream_finish(qg_stream *stream) { stream->host->stream_finish(stream); }

/* Ends both directions; on_close follows, after the callback under way has returned. What was not sent is lost. */
static inline void qg_stream_reset(qg_stream *stream, int reason) { stream->host->stream_reset(stream, reason); }

/* Asks for on_wake: the way back into the stream's thread. Any thread may call it until on_close has returned; that no
 * call comes later is the extender's business. */
static inline void qg_stream_wake(qg_stream *stream) { stream->host->stream_wake(stream); }

/* The loop's monotonic clock, in ns, as it was when this turn of the loop began. */
static inline uint64_t qg_stream_now_ns(const qg_stream *stream) { return stream->host->stream_now_ns(stream); }

#ifdef __cplusplus
}
#endif
#endif
