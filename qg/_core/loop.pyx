# SPDX-License-Identifier: MIT
"""One worker's event loop over libuv."""
from libc.stdint cimport UINT64_MAX, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from .status cimport E_ARGUMENT, E_IO, E_MEMORY, E_STATE, OK
from .sys cimport atomic_peek, atomic_poke
from .uv cimport (
    UV_RUN_DEFAULT, thread_cpu_ns, uv_async_init, uv_async_send, uv_async_t, uv_close, uv_cond_destroy, uv_cond_init,
    uv_cond_signal, uv_cond_timedwait, uv_handle_t, uv_hrtime, uv_is_closing, uv_loop_close, uv_loop_init,
    uv_mutex_destroy, uv_mutex_init, uv_mutex_lock, uv_mutex_unlock, uv_now, uv_prepare_init, uv_prepare_start,
    uv_prepare_t, uv_run, uv_stop, uv_thread_create, uv_thread_join, uv_timer_init, uv_timer_start, uv_timer_stop,
    uv_timer_t, uv_walk)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int SIG_SETMASK
    int sigfillset(sigset_t *set) noexcept
    int pthread_sigmask(int how, const sigset_t *set, sigset_t *old) noexcept

cdef enum:
    CPU_SAMPLE_NS = 1000000


cdef int loop_init(loop_t *loop, const loop_hooks_t *hooks, void *ctx, size_t read_len) noexcept nogil:
    cdef uint8_t *memory
    if read_len > READ_LEN_MAX:
        return E_ARGUMENT
    memset(loop, 0, sizeof(loop_t))
    loop.hooks = hooks[0]
    loop.ctx = ctx
    loop.deadline_ms = UINT64_MAX
    loop.read_len = read_len if read_len else READ_LEN_DEFAULT
    memory = <uint8_t *>malloc(READ_HEADROOM + loop.read_len + READ_TAILROOM)
    if memory is NULL:
        return E_MEMORY
    loop.read_start = memory + READ_HEADROOM
    if uv_loop_init(&loop.uv) < 0:
        free(memory)
        return E_IO
    loop.wake.data = loop.timer.data = loop.turn.data = loop
    uv_timer_init(&loop.uv, &loop.timer)
    uv_prepare_init(&loop.uv, &loop.turn)
    uv_prepare_start(&loop.turn, on_uv_prepare)
    if uv_async_init(&loop.uv, &loop.wake, on_uv_async) < 0:
        handles_close(loop)
        free(memory)
        return E_IO
    return OK


cdef void handles_close(loop_t *loop) noexcept nogil:
    uv_close(<uv_handle_t *>&loop.timer, NULL)
    uv_close(<uv_handle_t *>&loop.turn, NULL)
    uv_run(&loop.uv, UV_RUN_DEFAULT)    # returns at once when loop_stop came in the turn end behind the last run
    uv_run(&loop.uv, UV_RUN_DEFAULT)
    uv_loop_close(&loop.uv)


cdef void count_foreign(uv_handle_t *handle, void *arg) noexcept nogil:
    cdef uint64_t *n_open = <uint64_t *>arg
    n_open[0] += not uv_is_closing(handle)


cdef int loop_free(loop_t *loop) noexcept nogil:
    cdef uint64_t n_open = 0
    uv_walk(&loop.uv, count_foreign, &n_open)
    if n_open > 3:
        return E_STATE
    uv_close(<uv_handle_t *>&loop.wake, NULL)
    handles_close(loop)
    free(loop.read_start - READ_HEADROOM)
    loop.read_start = NULL
    return OK


cdef void turn_end(loop_t *loop) noexcept nogil:
    cdef uint64_t now_ns = loop_now(loop)
    loop.hooks.on_turn_end(loop.ctx, now_ns)
    if now_ns - loop.cpu_at_ns >= CPU_SAMPLE_NS:
        loop.cpu_at_ns = now_ns
        atomic_poke(&loop.cpu_ns, thread_cpu_ns())
    loop.is_fresh = 0


cdef void on_uv_prepare(uv_prepare_t *handle) noexcept nogil:
    turn_end(<loop_t *>handle.data)


cdef void on_uv_async(uv_async_t *handle) noexcept nogil:
    cdef loop_t *loop = <loop_t *>handle.data
    loop.hooks.on_wake(loop.ctx, loop_now(loop))


cdef void on_uv_timer(uv_timer_t *handle) noexcept nogil:
    cdef loop_t *loop = <loop_t *>handle.data
    loop.deadline_ms = UINT64_MAX
    loop.is_fresh = 0       # the batch before it may have taken long: the deadline must not look unreached
    loop.hooks.on_timer(loop.ctx, loop_now(loop))


cdef void loop_run(loop_t *loop) noexcept nogil:
    loop.is_fresh = 0
    uv_run(&loop.uv, UV_RUN_DEFAULT)
    loop.cpu_at_ns = 0
    turn_end(loop)          # uv_run leaves after the callbacks of its last turn


cdef void loop_stop(loop_t *loop) noexcept nogil:
    uv_stop(&loop.uv)


cdef void thread_main(void *arg) noexcept nogil:
    loop_run(<loop_t *>arg)


cdef int loop_thread_start(loop_t *loop) noexcept nogil:
    cdef sigset_t every, before
    cdef int rc
    # A new thread inherits the mask. Signals are the application's: none may land on a thread that cannot handle them.
    sigfillset(&every)
    pthread_sigmask(SIG_SETMASK, &every, &before)
    rc = uv_thread_create(&loop.thread, thread_main, loop)
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    return OK if rc == 0 else E_IO


cdef int loop_thread_join(loop_t *loop) noexcept nogil:
    return OK if uv_thread_join(&loop.thread) == 0 else E_IO


cdef int gate_init(gate_t *gate) noexcept nogil:
    gate.n_opened = 0
    if uv_mutex_init(&gate.lock) != 0:
        return E_IO
    if uv_cond_init(&gate.opened) != 0:
        uv_mutex_destroy(&gate.lock)
        return E_IO
    return OK


cdef void gate_free(gate_t *gate) noexcept nogil:
    uv_cond_destroy(&gate.opened)
    uv_mutex_destroy(&gate.lock)


cdef void gate_open(gate_t *gate, uint64_t n) noexcept nogil:
    uv_mutex_lock(&gate.lock)
    gate.n_opened = n
    uv_cond_signal(&gate.opened)
    uv_mutex_unlock(&gate.lock)


cdef int gate_wait(gate_t *gate, uint64_t n, uint64_t timeout_ns) noexcept nogil:
    cdef uint64_t end_ns = uv_hrtime() + timeout_ns
    cdef uint64_t now_ns = end_ns - timeout_ns
    cdef int rc = E_IO
    uv_mutex_lock(&gate.lock)
    while gate.n_opened < n and now_ns < end_ns:
        uv_cond_timedwait(&gate.opened, &gate.lock, end_ns - now_ns)
        now_ns = uv_hrtime()
    if gate.n_opened >= n:
        rc = OK
    uv_mutex_unlock(&gate.lock)
    return rc


cdef void loop_wake(loop_t *loop) noexcept nogil:
    uv_async_send(&loop.wake)


cdef void loop_set_deadline(loop_t *loop, uint64_t deadline_ns) noexcept nogil:
    cdef uint64_t deadline_ms = UINT64_MAX, now_ms
    if deadline_ns != 0 and deadline_ns != UINT64_MAX:
        deadline_ms = (deadline_ns - 1) // 1000000 + 1
    if deadline_ms == loop.deadline_ms:
        return
    loop.deadline_ms = deadline_ms
    if deadline_ms == UINT64_MAX:
        uv_timer_stop(&loop.timer)
        return
    now_ms = uv_now(&loop.uv)
    uv_timer_start(&loop.timer, on_uv_timer, deadline_ms - now_ms if deadline_ms > now_ms else 0, 0)


cdef uint64_t loop_cpu_ns(loop_t *loop) noexcept nogil:
    return atomic_peek(&loop.cpu_ns)
