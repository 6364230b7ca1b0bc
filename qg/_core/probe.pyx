# SPDX-License-Identifier: MIT
"""Owners of loop, tcp and resolve that record what happens; for tests and measurements, not used by the package."""
cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .bridge cimport (
    bridge_close, bridge_open, bridge_pending, bridge_t, bridge_write, bridges_free, bridges_turn, end_t, shore_t)
from .loop cimport (
    READ_HEADROOM, READ_TAILROOM, loop_cpu_ns, loop_free, loop_hooks_t, loop_init, loop_run, loop_set_deadline,
    loop_stop, loop_t, loop_thread_join, loop_thread_start, loop_wake)
from .memory cimport (
    block_len, block_start, block_t, chain_append, chain_clear, chain_t, mem_give, mem_take, pool_clear, pool_init,
    pool_outstanding, pool_t)
from .resolve cimport resolve_cancel, resolve_init, resolve_start, resolve_stop, resolve_t
from .status cimport OK
from .tcp cimport (
    address_from_sockaddr, conn_t, sockaddr_from_address, tcp_abort, tcp_close, tcp_dial, tcp_events_t, tcp_init,
    tcp_listen, tcp_listen_address, tcp_pause, tcp_pending_len, tcp_resume, tcp_shutdown, tcp_stop, tcp_t, tcp_unlisten,
    tcp_write)
from .uv cimport sockaddr_storage, uv_hrtime
from .wire cimport ADDRESS_IP4, ADDRESS_IP6, ADDRESS_NAME, address_t


# The loop

ctypedef struct hook_log_t:
    loop_t *loop
    uint64_t n_wakes
    uint64_t n_timers
    uint64_t n_turns
    uint64_t hook_ns            # when the last on_wake or on_timer came


cdef void on_wake(void *ctx, uint64_t now_ns) noexcept nogil:
    cdef hook_log_t *log = <hook_log_t *>ctx
    log.n_wakes += 1
    log.hook_ns = now_ns
    loop_stop(log.loop)


cdef void on_timer(void *ctx, uint64_t now_ns) noexcept nogil:
    cdef hook_log_t *log = <hook_log_t *>ctx
    log.n_timers += 1
    log.hook_ns = now_ns
    loop_stop(log.loop)


cdef void on_turn_end(void *ctx, uint64_t now_ns) noexcept nogil:
    cdef hook_log_t *log = <hook_log_t *>ctx
    log.n_turns += 1


cdef class Loop:
    """Own a loop that counts its hooks and stops at each wake-up and deadline; for tests and measurements.

    Only `wake` may be called from a second thread while `run` or a started thread is busy.
    """
    cdef loop_t loop
    cdef hook_log_t log
    cdef readonly bint is_open

    def __cinit__(self, size_t read_len=0):
        cdef loop_hooks_t hooks
        hooks.on_wake = on_wake
        hooks.on_timer = on_timer
        hooks.on_turn_end = on_turn_end
        self.log.loop = &self.loop
        if loop_init(&self.loop, &hooks, &self.log, read_len) < 0:
            raise ValueError("the loop cannot be made: read_len above the limit, or no memory or descriptors left")
        self.is_open = True

    def __dealloc__(self):
        if self.is_open:
            loop_free(&self.loop)

    def close(self):
        """Free the loop; RuntimeError while another owner's handle is open. Waits for look-ups under way."""
        cdef int rc = OK
        if self.is_open:
            with nogil:
                rc = loop_free(&self.loop)
        if rc < 0:
            raise RuntimeError("a handle is still open")
        self.is_open = False

    def run(self, uint64_t timeout_ms):
        """Run until a wake-up, an event of an owner on this loop, or for `timeout_ms` (0: no limit)."""
        with nogil:
            loop_set_deadline(&self.loop, uv_hrtime() + timeout_ms * 1000000 if timeout_ms else 0)
            loop_run(&self.loop)

    def set_deadline(self, uint64_t deadline_ns):
        """Replace the deadline by a time on `time.monotonic_ns`'s clock; 0 for none."""
        loop_set_deadline(&self.loop, deadline_ns)

    def start(self, uint64_t deadline_ns):
        """Run in a native thread until a wake-up or the deadline, which is as for `set_deadline`."""
        loop_set_deadline(&self.loop, deadline_ns)
        if loop_thread_start(&self.loop) < 0:
            raise OSError("no thread")

    def join(self):
        """Wait for the thread of `start`."""
        with nogil:
            loop_thread_join(&self.loop)

    def wake(self):
        """Wake the loop; from any thread."""
        loop_wake(&self.loop)

    @property
    def cpu_ns(self):
        """CPU time of the thread that last ran the loop."""
        return loop_cpu_ns(&self.loop)

    @property
    def n_wakes(self):
        """Calls of on_wake."""
        return self.log.n_wakes

    @property
    def n_timers(self):
        """Calls of on_timer."""
        return self.log.n_timers

    @property
    def n_turns(self):
        """Calls of on_turn_end."""
        return self.log.n_turns

    @property
    def hook_ns(self):
        """The time that the last wake-up or deadline was told."""
        return self.log.hook_ns


# Connections: each has a slot with a log of its events, one letter each

cdef enum:
    N_SLOTS = 2048
    LOG_LEN = 64

ctypedef struct slot_t:
    recorder_t *recorder
    conn_t *conn                # NULL when it is gone
    chain_t input
    int error                   # of on_lost, on_dial_error
    int n_log
    char log[64]                # letters as in Tcp's docstring, none twice in a row

ctypedef struct recorder_t:
    loop_t *loop
    pool_t *pool
    slot_t *slots
    uint32_t n_slots
    char close_on               # letter of the event inside which the connection is closed
    bint is_refusing            # on_accept answers NULL
    int accept_error
    uint32_t n_accept_errors


cdef void slot_note(slot_t *slot, char letter) noexcept nogil:
    if slot.n_log < LOG_LEN and (slot.n_log == 0 or slot.log[slot.n_log - 1] != letter):
        slot.log[slot.n_log] = letter
        slot.n_log += 1
    if slot.conn is not NULL and slot.recorder.close_on == letter:
        tcp_close(slot.conn)
        slot.conn = NULL
    loop_stop(slot.recorder.loop)


cdef slot_t *slot_take(recorder_t *recorder, conn_t *conn) noexcept nogil:
    cdef slot_t *slot
    if recorder.n_slots == N_SLOTS:
        return NULL
    slot = &recorder.slots[recorder.n_slots]
    recorder.n_slots += 1
    slot.recorder = recorder
    slot.conn = conn
    return slot


cdef void *on_accept(void *ctx, conn_t *conn, const sockaddr_storage *remote, uint64_t now_ns) noexcept nogil:
    cdef recorder_t *recorder = <recorder_t *>ctx
    cdef slot_t *slot = NULL if recorder.is_refusing else slot_take(recorder, conn)
    if slot is not NULL:
        slot_note(slot, c"a")
    return slot


cdef void on_connect(void *ctx, void *user, conn_t *conn, uint64_t now_ns) noexcept nogil:
    slot_note(<slot_t *>user, c"c")


cdef void on_gone(slot_t *slot, int uv_error, char letter) noexcept nogil:
    slot.error = uv_error
    slot.conn = NULL
    slot_note(slot, letter)


cdef void on_dial_error(void *ctx, void *user, int uv_error, uint64_t now_ns) noexcept nogil:
    on_gone(<slot_t *>user, uv_error, c"d")


cdef void on_lost(void *ctx, void *user, int uv_error, uint64_t now_ns) noexcept nogil:
    on_gone(<slot_t *>user, uv_error, c"l")


cdef void on_read(void *ctx, void *user, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    cdef slot_t *slot = <slot_t *>user
    chain_append(&slot.input, slot.recorder.pool, data, len, now_ns)
    memset(data - READ_HEADROOM, 0xAA, READ_HEADROOM + len + READ_TAILROOM)     # as the promise allows
    slot_note(slot, c"r")


cdef void on_end(void *ctx, void *user, uint64_t now_ns) noexcept nogil:
    slot_note(<slot_t *>user, c"e")


cdef void on_writable(void *ctx, void *user, uint64_t now_ns) noexcept nogil:
    slot_note(<slot_t *>user, c"w")


cdef void on_accept_error(void *ctx, int uv_error, uint64_t now_ns) noexcept nogil:
    cdef recorder_t *recorder = <recorder_t *>ctx
    recorder.accept_error = uv_error
    recorder.n_accept_errors += 1
    loop_stop(recorder.loop)


@cython.no_gc_clear     # __dealloc__ needs its loop
cdef class Tcp:
    """Own a loop with its listeners and connections, at most 2,048 of them; for tests and measurements.

    Connections are known by number. `loop.run` returns after each batch with an event; `log` tells what happened to a
    connection, in letters: a accepted, c connected, d dial failed, r read, w writable again, e end of input, l lost.
    """
    cdef readonly Loop loop
    cdef pool_t pool
    cdef tcp_t tcp
    cdef recorder_t recorder

    def __cinit__(self, size_t read_len=0):
        cdef tcp_events_t events
        events.on_offer = NULL
        events.on_room = NULL
        events.on_accept = on_accept
        events.on_connect = on_connect
        events.on_dial_error = on_dial_error
        events.on_read = on_read
        events.on_end = on_end
        events.on_lost = on_lost
        events.on_writable = on_writable
        events.on_accept_error = on_accept_error
        self.loop = Loop(read_len)
        pool_init(&self.pool, <uint64_t>1 << 40)
        self.recorder.loop = &self.loop.loop
        self.recorder.pool = &self.pool
        self.recorder.slots = <slot_t *>mem_take(&self.pool, N_SLOTS * sizeof(slot_t))
        if self.recorder.slots is NULL:
            raise MemoryError
        tcp_init(&self.tcp, &self.loop.loop, &self.pool, &events, &self.recorder)

    def __dealloc__(self):
        cdef uint32_t i
        if self.recorder.slots is NULL:
            return
        tcp_stop(&self.tcp)
        if self.loop.is_open:
            loop_free(&self.loop.loop)
            self.loop.is_open = False
        for i in range(self.recorder.n_slots):
            chain_clear(&self.recorder.slots[i].input)
        mem_give(&self.pool, self.recorder.slots, N_SLOTS * sizeof(slot_t))
        pool_clear(&self.pool)

    cdef slot_t *slot(self, uint32_t idx) except NULL:
        if idx >= self.recorder.n_slots:
            raise IndexError(idx)
        return &self.recorder.slots[idx]

    cdef conn_t *conn(self, uint32_t idx) except NULL:
        cdef slot_t *slot = self.slot(idx)
        if slot.conn is NULL:
            raise ValueError("the connection is gone")
        return slot.conn

    def stop(self):
        """Close everything and free the loop."""
        tcp_stop(&self.tcp)
        self.loop.close()

    def listen(self, bytes ip not None, uint16_t port=0, int backlog=128, int flags=0):
        """Listen on `ip` (4 or 16 bytes); give the listener's index and port. OSError with libuv's code."""
        cdef sockaddr_storage address
        cdef address_t bound
        cdef int idx
        sockaddr_make(&address, ip, port)
        idx = uv_check(tcp_listen(&self.tcp, &address, backlog, flags))
        uv_check(tcp_listen_address(&self.tcp, &address, idx))
        address_from_sockaddr(&bound, &address)
        return idx, bound.port

    def unlisten(self, int idx):
        """Close a listener."""
        tcp_unlisten(&self.tcp, idx)

    def dial(self, bytes ip not None, uint16_t port):
        """Begin a connection; give its number."""
        cdef sockaddr_storage address
        cdef slot_t *slot = slot_take(&self.recorder, NULL)
        if slot is NULL:
            raise IndexError("all slots are taken")
        sockaddr_make(&address, ip, port)
        uv_check(tcp_dial(&self.tcp, &slot.conn, &address, slot))
        return self.recorder.n_slots - 1

    def write(self, uint32_t idx, bytes data not None):
        """Write `data`; give tcp_write's code."""
        cdef chain_t chain
        cdef conn_t *conn = self.conn(idx)
        memset(&chain, 0, sizeof(chain))
        if chain_append(&chain, &self.pool, <const uint8_t *>data, len(data), 0) < 0:
            raise MemoryError
        return tcp_write(conn, &chain)

    def read(self, uint32_t idx):
        """Take what has been read."""
        cdef chain_t *input = &self.slot(idx).input
        cdef block_t *block = input.head
        cdef list parts = []
        while block is not NULL:
            parts.append((<const char *>block_start(block))[:block_len(block)])
            block = block.next
        chain_clear(input)
        return b"".join(parts)

    def shutdown(self, uint32_t idx):
        """Send FIN after what is pending; give tcp_shutdown's code."""
        return tcp_shutdown(self.conn(idx))

    def close(self, uint32_t idx):
        """Close quietly."""
        tcp_close(self.conn(idx))
        self.slot(idx).conn = NULL

    def abort(self, uint32_t idx):
        """Close with RST."""
        tcp_abort(self.conn(idx))
        self.slot(idx).conn = NULL

    def pause(self, uint32_t idx):
        """Stop reading."""
        tcp_pause(self.conn(idx))

    def resume(self, uint32_t idx):
        """Read again."""
        tcp_resume(self.conn(idx))

    def pending(self, uint32_t idx):
        """Bytes that the kernel has not taken."""
        return tcp_pending_len(self.conn(idx))

    def log(self, uint32_t idx):
        """Letters of the events so far."""
        cdef slot_t *slot = self.slot(idx)
        return slot.log[:slot.n_log].decode("ascii")

    def error(self, uint32_t idx):
        """Return the libuv code that a dial or the connection ended with, or 0."""
        return self.slot(idx).error

    def close_on(self, str letter not None):
        """Close each connection inside its event `letter` from now on; "" for none."""
        self.recorder.close_on = <char>ord(letter) if letter else 0

    def refuse(self):
        """Turn away each new connection from now on."""
        self.recorder.is_refusing = True

    @property
    def accept_errors(self):
        """How often accepting had to pause, and the last libuv code."""
        return self.recorder.n_accept_errors, self.recorder.accept_error

    @property
    def counts(self):
        """Counters of tcp_t and blocks that are out, by name."""
        return {
            "n_slots": self.recorder.n_slots, "n_handles": self.tcp.n_handles, "n_conns": self.tcp.n_conns,
            "n_lingering": self.tcp.n_lingering, "n_accepted": self.tcp.n_accepted,
            "n_accept_errors": self.tcp.n_accept_errors, "in_len": self.tcp.in_len, "out_len": self.tcp.out_len,
            "n_blocks": pool_outstanding(&self.pool),
        }


cdef int uv_check(int rc) except -1:
    if rc < 0:
        raise OSError(-rc, "libuv")
    return rc


cdef int sockaddr_make(sockaddr_storage *dst, bytes ip, uint16_t port) except -1:
    cdef address_t address
    memset(&address, 0, sizeof(address))
    if len(ip) not in (4, 16):
        raise ValueError("an address has 4 or 16 bytes")
    address.type = ADDRESS_IP4 if len(ip) == 4 else ADDRESS_IP6
    address.port = port
    memcpy(address.ip, <const uint8_t *>ip, len(ip))
    return sockaddr_from_address(dst, &address)


# Look-ups

ctypedef struct answer_t:
    loop_t *loop
    uint64_t n_answers
    uint64_t tags[64]           # user pointers are numbers here
    int errors[64]
    uint32_t n_addresses[64]
    address_t first[64]


cdef void on_resolved(void *ctx, void *user, const address_t *addresses, uint32_t n_addresses, int uv_error,
                      uint64_t now_ns) noexcept nogil:
    cdef answer_t *answers = <answer_t *>ctx
    cdef uint64_t i = answers.n_answers
    loop_stop(answers.loop)
    if i == 64:
        return
    answers.tags[i] = <uint64_t>user
    answers.errors[i] = uv_error
    answers.n_addresses[i] = n_addresses
    if n_addresses:
        answers.first[i] = addresses[0]
    answers.n_answers += 1


@cython.no_gc_clear     # __dealloc__ needs its loop
cdef class Resolver:
    """Own a loop with its look-ups; for tests. Keeps the first 64 answers."""
    cdef readonly Loop loop
    cdef resolve_t resolve
    cdef answer_t answers

    def __cinit__(self):
        self.loop = Loop()
        self.answers.loop = &self.loop.loop
        resolve_init(&self.resolve, &self.loop.loop, on_resolved, &self.answers)

    def __dealloc__(self):
        if self.loop is not None and self.loop.is_open:
            resolve_stop(&self.resolve)
            loop_free(&self.loop.loop)
            self.loop.is_open = False

    def start(self, name not None, uint16_t port, uint64_t tag):
        """Look up a name (str), or an address of 4 or 16 bytes; give resolve_start's code. `tag` is not 0."""
        cdef address_t address
        cdef bytes raw = name.encode() if isinstance(name, str) else name
        memset(&address, 0, sizeof(address))
        address.port = port
        if isinstance(name, str):
            address.type = ADDRESS_NAME
            address.name = <const uint8_t *>raw
            address.name_len = <uint8_t>len(raw)
        else:
            address.type = ADDRESS_IP4 if len(raw) == 4 else ADDRESS_IP6
            memcpy(address.ip, <const uint8_t *>raw, min(len(raw), 16))
        return resolve_start(&self.resolve, &address, <void *>tag)

    def cancel(self, uint64_t tag):
        """Forget the look-ups with `tag`."""
        resolve_cancel(&self.resolve, <void *>tag)

    def stop(self):
        """Cancel everything and free the loop."""
        resolve_stop(&self.resolve)
        self.loop.close()

    @property
    def answered(self):
        """List (tag, uv code, number of addresses, first address, its port) in the order of arrival."""
        cdef list result = []
        cdef uint64_t i
        cdef address_t *first
        for i in range(self.answers.n_answers):
            first = &self.answers.first[i]
            ip = (<const char *>first.ip)[:4 if first.type == ADDRESS_IP4 else 16]
            result.append((self.answers.tags[i], self.answers.errors[i], self.answers.n_addresses[i], ip, first.port))
        return result

    @property
    def counts(self):
        """Counters of resolve_t by name."""
        return {"n_lookups": self.resolve.n_lookups, "n_handles": self.resolve.n_handles,
                "n_started": self.resolve.n_started, "n_failed": self.resolve.n_failed}


# Bridges

cdef enum:
    SPANS_MAX = 64

ctypedef struct span_t:         # one bridge, by side: 0 opened it
    bridge_t *bridge
    end_t *ends[2]              # NULL: not open yet, or closed
    chain_t received[2]
    uint8_t is_ended[2]         # the other end was closed
    uint32_t n_writable[2]

ctypedef struct bank_t:         # what the events of one shore reach
    shore_t shore
    pool_t pool
    pool_t *own                 # of what was received
    span_t *spans
    uint64_t n_wakes
    int side


cdef void bank_wake(void *ctx) noexcept nogil:
    (<bank_t *>ctx).n_wakes += 1


cdef void *bank_bridge(void *ctx, end_t *end, uint64_t now_ns) noexcept nogil:
    cdef bank_t *bank = <bank_t *>ctx
    cdef int i = SPANS_MAX - 1
    while bank.spans[i].bridge != end.bridge:       # the latest: memory is used again
        i -= 1
    bank.spans[i].ends[1] = end
    return &bank.spans[i]


cdef void bank_read(void *ctx, void *user, uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    cdef bank_t *bank = <bank_t *>ctx
    chain_append(&(<span_t *>user).received[bank.side], bank.own, data, len, 0)


cdef void bank_end(void *ctx, void *user, uint64_t now_ns) noexcept nogil:
    (<span_t *>user).is_ended[(<bank_t *>ctx).side] = 1


cdef void bank_writable(void *ctx, void *user, uint64_t now_ns) noexcept nogil:
    (<span_t *>user).n_writable[(<bank_t *>ctx).side] += 1


cdef class Bridges:
    """Own both shores of bridges, and take their turns as two workers would; for the tests."""
    cdef bank_t banks[2]
    cdef span_t spans[SPANS_MAX]
    cdef pool_t own
    cdef int n_spans

    def __cinit__(self):
        cdef bank_t *bank
        pool_init(&self.own, <uint64_t>1 << 40)
        for side in range(2):
            bank = &self.banks[<int>side]
            bank.side = side
            bank.own = &self.own
            bank.spans = self.spans
            pool_init(&bank.pool, <uint64_t>1 << 40)
            bank.shore.ctx = bank
            bank.shore.wake = bank_wake
            bank.shore.pool = &bank.pool
            bank.shore.events.on_bridge = bank_bridge
            bank.shore.events.on_read = bank_read
            bank.shore.events.on_end = bank_end
            bank.shore.events.on_writable = bank_writable

    def __dealloc__(self):
        bridges_free(&self.banks[0].shore)
        for i in range(self.n_spans):
            chain_clear(&self.spans[<int>i].received[0])
            chain_clear(&self.spans[<int>i].received[1])
        for side in range(2):
            pool_clear(&self.banks[<int>side].pool)
        pool_clear(&self.own)

    def open(self):
        """Open a bridge from side 0; its number."""
        cdef span_t *span = &self.spans[self.n_spans]
        if self.n_spans == SPANS_MAX:
            raise ValueError("no more bridges")
        span.ends[0] = bridge_open(&self.banks[0].shore, &self.banks[1].shore, span)
        span.bridge = span.ends[0].bridge
        self.n_spans += 1
        return self.n_spans - 1

    def write(self, int i, int side, bytes data not None):
        """Write in one block; how many bytes are pending. -1: that end is not open."""
        cdef end_t *end = self.spans[i].ends[side]
        cdef chain_t chain = chain_t(NULL, NULL, 0, 0)
        if end is NULL:
            return -1
        chain_append(&chain, &self.banks[side].pool, data, len(data), 0)
        bridge_write(end, &chain)
        return bridge_pending(end)

    def close(self, int i, int side):
        """Close an end; False: it is not open."""
        cdef end_t *end = self.spans[i].ends[side]
        if end is NULL:
            return False
        self.spans[i].ends[side] = NULL
        bridge_close(end)
        return True

    def turn(self, int side):
        """Take one worker's turn: how many ends had news."""
        return bridges_turn(&self.banks[side].shore, 0)

    def received(self, int i, int side):
        """Return what has come."""
        cdef const block_t *block = self.spans[i].received[side].head
        cdef bytearray data = bytearray()
        while block is not NULL:
            data += (<const char *>&block.data[0])[block.start:block.end]
            block = block.next
        return bytes(data)

    def is_ended(self, int i, int side):
        """Whether an end was told that the other one is closed."""
        return bool(self.spans[i].is_ended[side])

    def n_writable(self, int i, int side):
        """How often an end was told that nothing is pending any more."""
        return self.spans[i].n_writable[side]

    @property
    def left(self):
        """Blocks that are out on both sides, and whether a bridge exists."""
        return (pool_outstanding(&self.banks[0].pool) + pool_outstanding(&self.banks[1].pool),
                self.banks[0].shore.bridges is not NULL)
