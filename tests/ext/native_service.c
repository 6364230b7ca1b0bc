/* SPDX-License-Identifier: MIT */
/* A native extender that does what the first byte of a stream's metadata asks for, and watches over the order of calls. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "qg/extender.h"

enum { STATES_MAX = 4096, CHUNK_MAX = 300000, PERIOD = 251 };

typedef struct {
    qg_stream *stream;
    pthread_t thread;
    uint64_t left; /* bytes that a source has to send yet, so many at a time */
    uint64_t chunk;
    uint64_t taken;
    char kind;
    char is_closed;
    char is_called; /* a callback runs */
    char has_thread;
} state_t;

/* Read by the test. */
typedef struct {
    uint64_t opened, closed, ends, writables, wakes, faults, taken;
    int64_t reason, priority, is_relayed;
    uint64_t now_ns;
    uint8_t peer_id[32];
} counts_t;

counts_t counts;
static state_t states[STATES_MAX];
static uint8_t pattern[CHUNK_MAX + PERIOD];

__attribute__((constructor)) static void pattern_make(void) {
    size_t i;
    for (i = 0; i < sizeof pattern; i++)
        pattern[i] = (uint8_t)(i % PERIOD);
}

static void add(uint64_t *count, uint64_t n) { __atomic_fetch_add(count, n, __ATOMIC_SEQ_CST); }

static void enter(state_t *state, qg_stream *stream) {
    if (state->is_closed || state->is_called || state->stream != stream)
        add(&counts.faults, 1);
    state->is_called = 1;
}

static int on_open(void *ctx, qg_stream *stream, const qg_opening_v1 *opening, void **state) {
    char kind = opening->metadata_len ? (char)opening->metadata[0] : 'e';
    char number[24] = {0};
    state_t *mine;
    if (ctx != &counts || opening->size != sizeof *opening || qg_stream_write(stream, "early", 5) != 0)
        add(&counts.faults, 1);
    if (kind == 'n')
        return QG_REASON_BUSY;
    if (kind == 'o')
        return 4711;
    mine = &states[__atomic_fetch_add(&counts.opened, 1, __ATOMIC_SEQ_CST) % STATES_MAX];
    memset(mine, 0, sizeof *mine);
    mine->stream = stream;
    mine->kind = kind;
    if (opening->metadata_len > 1 && opening->metadata_len < sizeof number) {
        memcpy(number, opening->metadata + 1, opening->metadata_len - 1u);
        mine->left = strtoull(number, NULL, 10);
    }
    mine->chunk = kind == 's' ? 40000 : kind == 't' ? 1 : kind == 'h' ? CHUNK_MAX : 0;
    memcpy(counts.peer_id, opening->peer_id, 32);
    counts.priority = opening->priority;
    counts.is_relayed = opening->is_relayed;
    counts.now_ns = qg_stream_now_ns(stream);
    if (kind == 'a')
        qg_stream_reset(stream, QG_REASON_CANCELLED);
    *state = mine;
    return 0;
}

/* Byte i is i % PERIOD, from where the source stands on; FIN behind the last one. */
static void source(state_t *state) {
    uint64_t n, taken;
    while (state->left) {
        n = state->left < state->chunk ? state->left : state->chunk;
        taken = qg_stream_write(state->stream, pattern + state->taken % PERIOD, n);
        state->taken += taken;
        state->left -= taken;
        if (taken < n)
            return;
    }
    qg_stream_finish(state->stream);
    if (qg_stream_write(state->stream, pattern, 1) != 0)
        add(&counts.faults, 1);
}

static void *wake_later(void *arg) {
    int i;
    for (i = 0; i < 100; i++)
        qg_stream_wake(((state_t *)arg)->stream);
    return NULL;
}

static size_t take(state_t *state, const uint8_t *data, size_t len) {
    switch (state->kind) {
    case 'e': return qg_stream_write(state->stream, data, len);
    case 'x': qg_stream_reset(state->stream, QG_REASON_CANCELLED); return 0;
    case 'p': return 0;
    case 'f': /* ends its side before it has taken anything */
        qg_stream_finish(state->stream);
        return state->left++ ? len : 0;
    case 'b': return 1; /* byte by byte */
    case 'w':
        if (state->taken == 0 && !state->has_thread)
            state->has_thread = pthread_create(&state->thread, NULL, wake_later, state) == 0;
        return 0;
    default: return len + 5; /* more than there is: all of it */
    }
}

static size_t on_data(void *arg, qg_stream *stream, const uint8_t *data, size_t len) {
    state_t *state = arg;
    size_t n;
    enter(state, stream);
    n = take(state, data, len);
    if (state->kind == 'b')
        qg_stream_wake(stream);
    add(&counts.taken, n < len ? n : len);
    state->is_called = 0;
    return n;
}

static void on_end(void *arg, qg_stream *stream) {
    state_t *state = arg;
    enter(state, stream);
    add(&counts.ends, 1);
    if (!state->chunk)
        qg_stream_finish(stream);
    state->is_called = 0;
}

static void on_writable(void *arg, qg_stream *stream) {
    state_t *state = arg;
    enter(state, stream);
    add(&counts.writables, 1);
    if (state->chunk)
        source(state);
    state->is_called = 0;
}

static void on_wake(void *arg, qg_stream *stream) {
    state_t *state = arg;
    enter(state, stream);
    add(&counts.wakes, 1);
    if (state->kind == 'w')
        state->kind = 'e'; /* what was not taken comes again */
    state->is_called = 0;
}

static void on_close(void *arg, qg_stream *stream, int reason) {
    state_t *state = arg;
    enter(state, stream);
    if (state->has_thread)
        pthread_join(state->thread, NULL);
    if (qg_stream_write(stream, "late", 4) != 0)
        add(&counts.faults, 1);
    qg_stream_finish(stream);
    qg_stream_reset(stream, QG_REASON_BUSY);
    qg_stream_wake(stream);
    state->is_closed = 1;
    counts.reason = reason;
    add(&counts.closed, 1);
}

qg_extender_v1 table = {sizeof(qg_extender_v1), QG_EXTENDER_VERSION, &counts,  on_open, on_data,
                        on_end,                 on_writable,         on_wake, on_close};

/* One of a compiler that knew nothing behind on_data: what is missing has its default. */
qg_extender_v1 short_table = {offsetof(qg_extender_v1, on_end), QG_EXTENDER_VERSION, &counts, on_open, on_data, NULL, NULL,
                              NULL, (void (*)(void *, qg_stream *, int))abort};
