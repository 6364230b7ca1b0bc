# cython: language_level=3
# SPDX-License-Identifier: MIT
"""Count the lines, words and bytes that a peer sends, as `wc` does, on the node's own threads and without the GIL."""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint8_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from qg.extender cimport (
    QG_EXTENDER_CAPSULE, QG_EXTENDER_VERSION, QG_REASON_MEMORY, qg_extender_v1, qg_opening_v1, qg_stream,
    qg_stream_finish, qg_stream_write)

ctypedef struct count_t:        # of one stream
    uint64_t n_lines
    uint64_t n_words
    uint64_t n_bytes
    bint is_in_word
    char[80] answer
    size_t answer_len
    size_t sent_len


cdef int on_open(void *ctx, qg_stream *stream, const qg_opening_v1 *opening, void **state) noexcept nogil:
    state[0] = calloc(1, sizeof(count_t))
    return 0 if state[0] is not NULL else QG_REASON_MEMORY


cdef size_t on_data(void *state, qg_stream *stream, const uint8_t *data, size_t len) noexcept nogil:
    cdef count_t *count = <count_t *>state
    cdef size_t i
    cdef bint is_space
    for i in range(len):
        is_space = data[i] == 32 or 9 <= data[i] <= 13
        count.n_lines += data[i] == 10
        count.n_words += not is_space and not count.is_in_word
        count.is_in_word = not is_space
    count.n_bytes += len
    return len


cdef void on_end(void *state, qg_stream *stream) noexcept nogil:
    cdef count_t *count = <count_t *>state
    count.answer_len = snprintf(count.answer, sizeof(count.answer), "%llu %llu %llu\n", <unsigned long long>count.n_lines,
                                <unsigned long long>count.n_words, <unsigned long long>count.n_bytes)
    on_writable(state, stream)


cdef void on_writable(void *state, qg_stream *stream) noexcept nogil:
    """Go on with the answer: a write takes what there is room for, and the rest follows when there is more."""
    cdef count_t *count = <count_t *>state
    count.sent_len += qg_stream_write(stream, count.answer + count.sent_len, count.answer_len - count.sent_len)
    if count.sent_len == count.answer_len:
        qg_stream_finish(stream)


cdef void on_close(void *state, qg_stream *stream, int reason) noexcept nogil:
    free(state)


cdef qg_extender_v1 TABLE
TABLE.size = sizeof(qg_extender_v1)
TABLE.version = QG_EXTENDER_VERSION
TABLE.on_open = on_open
TABLE.on_data = on_data
TABLE.on_end = on_end
TABLE.on_writable = on_writable
TABLE.on_close = on_close


def table():
    """Give what `qg.NativeExtender` takes."""
    return PyCapsule_New(&TABLE, QG_EXTENDER_CAPSULE, NULL)
