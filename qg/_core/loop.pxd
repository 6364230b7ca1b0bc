# SPDX-License-Identifier: MIT
"""One worker's event loop: wake-ups, the next deadline, the end of a turn, the shared read buffer.

A turn is what happens between two sleeps: a batch of callbacks, then `on_turn_end`. All functions belong to the
loop's own thread except `loop_wake` and `loop_cpu_ns`. Before `loop_run` and after it returned, the caller's
thread counts as the loop's own.
"""
from libc.stdint cimport uint8_t, uint64_t

from .uv cimport uv_async_t, uv_cond_t, uv_hrtime, uv_loop_t, uv_mutex_t, uv_prepare_t, uv_thread_t, uv_timer_t

cdef enum:
    READ_LEN_DEFAULT = 262144
    READ_LEN_MAX = 1048576
    READ_HEADROOM = 256             # writable bytes before what was read: headers that grow
    READ_TAILROOM = 17408           # writable bytes behind it: 16 KiB padding of a record, 1 KiB tags and layers

ctypedef struct loop_hooks_t:
    void (*on_wake)(void *ctx, uint64_t now_ns) noexcept nogil      # after loop_wake; several may become one
    void (*on_timer)(void *ctx, uint64_t now_ns) noexcept nogil     # the deadline is over; none is set any more
    void (*on_turn_end)(void *ctx, uint64_t now_ns) noexcept nogil  # once before each sleep and before loop_run returns

ctypedef struct loop_t:
    uv_loop_t uv                    # for uv.pxd's functions
    uv_async_t wake
    uv_timer_t timer
    uv_prepare_t turn
    uv_thread_t thread              # of loop_thread_start
    loop_hooks_t hooks
    void *ctx                       # borrowed; handed to the hooks
    uint8_t *read_start             # `read_len` bytes that everything is read into; room around it as above
    size_t read_len
    uint64_t deadline_ms            # the armed one, on uv_now's clock; UINT64_MAX = none
    uint64_t now_ns                 # valid while is_fresh
    uint64_t cpu_ns                 # atomic; CPU time of the thread in loop_run, at most 1 ms of it missing
    uint64_t cpu_at_ns              # when cpu_ns was measured
    uint8_t is_fresh

ctypedef struct gate_t:             # where another thread waits for the loop's thread, rarely
    uv_mutex_t lock
    uv_cond_t opened
    uint64_t n_opened               # the highest number that gate_open had; under the lock

cdef int gate_init(gate_t *gate) noexcept nogil                 # E_IO
cdef void gate_free(gate_t *gate) noexcept nogil                # nobody waits any more
cdef void gate_open(gate_t *gate, uint64_t n) noexcept nogil    # the loop's thread: whoever waits for n or less goes on
cdef int gate_wait(gate_t *gate, uint64_t n, uint64_t timeout_ns) noexcept nogil
    # any other thread; OK, E_IO when the time is over

cdef int loop_init(loop_t *loop, const loop_hooks_t *hooks, void *ctx, size_t read_len) noexcept nogil
    # read_len 0 = READ_LEN_DEFAULT; E_ARGUMENT above READ_LEN_MAX, E_MEMORY, E_IO; the struct may not move afterwards
cdef int loop_free(loop_t *loop) noexcept nogil
    # waits for handles and look-ups that are being closed; E_STATE while another module's handle is still open
cdef void loop_run(loop_t *loop) noexcept nogil                 # until loop_stop; may be called again
cdef void loop_stop(loop_t *loop) noexcept nogil                # the turn under way is finished
cdef int loop_thread_start(loop_t *loop) noexcept nogil     # loop_run in a native thread with all signals blocked; E_IO
cdef int loop_thread_join(loop_t *loop) noexcept nogil      # waits for that thread; E_IO
cdef void loop_wake(loop_t *loop) noexcept nogil                # any thread; cheap while a wake-up is pending already
cdef void loop_set_deadline(loop_t *loop, uint64_t deadline_ns) noexcept nogil
    # replaces the deadline; 0 and UINT64_MAX = none; on_timer comes in the first millisecond not before it
cdef uint64_t loop_cpu_ns(loop_t *loop) noexcept nogil          # any thread

cdef inline uint64_t loop_now(loop_t *loop) noexcept nogil:
    # monotonic; the clock is looked at once per batch of callbacks, and again after a long read
    if not loop.is_fresh:
        loop.now_ns = uv_hrtime()
        loop.is_fresh = 1
    return loop.now_ns
