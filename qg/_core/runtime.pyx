# SPDX-License-Identifier: MIT
"""The border to Python: commands in, events out, one object per node."""
import errno
import fcntl
import os
import stat
import time

from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from .border cimport (
    access_take, config_fill, event_tuple, fill_bytes, fill_hops, fill_ip, guard_fill, local_options,
    relay_access_take, relay_fill)
from .cert cimport cert_cache_init, cert_entry_t
from .channel cimport HOPS_MAX, SKEWS_KEPT, engine_config_t, engine_t, hop_t
from .crypto cimport crypto_init, crypto_random, random_pooled
from .engine cimport engine_init
from .flow cimport (
    EVENT_CONNECT_FAILED, EVENT_DRAINED, EVENT_IDENTITY_TWICE, EVENT_LISTENING, EVENT_PEER_DOWN, EVENT_PEER_UP,
    EVENT_PONG, EVENT_STOPPED, EVENT_STREAM_ACCEPTED, EVENT_STREAM_DATA, EVENT_STREAM_DONE, EVENT_STREAM_FIN,
    EVENT_STREAM_OPEN, EVENT_STREAM_RESET, EVENT_STREAM_SENT, event_t)
from .guard cimport N_GUARD_COUNTS, PREFIXES_MAX, access_t, guard_access_free, guard_access_swap, guard_init
from .handshake cimport local_t
from .keyfile cimport KeyRing, NetworkSecret, ring_t
from .loop cimport gate_wait, loop_cpu_ns, loop_thread_join, loop_wake
from .memory cimport pool_clear, pool_collect, pool_init, pool_t
from .replay cimport (
    REPLAY_MARK_AHEAD_S, REPLAY_SAVED_ENTRY_LEN, REPLAY_SAVED_HEAD_LEN, replay_init, replay_restore, replay_save,
    replay_saved_len, replay_t)
from .resolve cimport INTERFACES_MAX, interface_t, interfaces_list
from .secret cimport (
    SECRET_LOCK_PREFERRED, SECRET_LOCK_REQUIRED, secret_give, secret_pool_free, secret_pool_init, secret_pool_t,
    secret_take)
from .session cimport SCRATCH_LEN
from .status cimport METADATA_MAX
from .sys cimport (
    SECOND_NS, atomic_cas_ptr, atomic_exchange, atomic_exchange_ptr, atomic_fence, atomic_load, atomic_load_ptr,
    atomic_store)
from .wire cimport HELLO_SERVICES_MAX
from .worker cimport (
    CERT_ENTRIES, COMMAND_ACCEPT, COMMAND_CANCEL, COMMAND_CLOSE_PEER, COMMAND_CONNECT, COMMAND_DRAIN, COMMAND_FINISH,
    COMMAND_KILL, COMMAND_LINKS, COMMAND_LISTEN, COMMAND_OPEN, COMMAND_PING, COMMAND_RENEW, COMMAND_RESET, COMMAND_STOP,
    COMMAND_USED, COMMAND_WRITE, RING_LEN, command_free, command_t, event_ring_t, link_rows_t, local_renew, mark_write,
    worker_free, worker_start, worker_stop, worker_t)

cdef enum:
    REPLAY_SLOTS = 1 << 18
    MARK_LEN_MAX = 8 + REPLAY_SAVED_HEAD_LEN + REPLAY_SLOTS * REPLAY_SAVED_ENTRY_LEN
    HEAP_KEEP_LEN = 8 << 20     # freed memory that the C library shall keep; twice that at the end of the heap
    BORDER_SLOTS = 1024         # throw-away identities on their way to the worker


WAKE = (1).to_bytes(8, "little")     # what an eventfd takes; any byte of it wakes a pipe

EV_PEER_UP = EVENT_PEER_UP
EV_PEER_DOWN = EVENT_PEER_DOWN
EV_CONNECT_FAILED = EVENT_CONNECT_FAILED
EV_STREAM_OPEN = EVENT_STREAM_OPEN
EV_STREAM_ACCEPTED = EVENT_STREAM_ACCEPTED
EV_STREAM_DATA = EVENT_STREAM_DATA
EV_STREAM_FIN = EVENT_STREAM_FIN
EV_STREAM_RESET = EVENT_STREAM_RESET
EV_STREAM_SENT = EVENT_STREAM_SENT
EV_STREAM_DONE = EVENT_STREAM_DONE
EV_PONG = EVENT_PONG
EV_LISTENING = EVENT_LISTENING
EV_STOPPED = EVENT_STOPPED
EV_IDENTITY_TWICE = EVENT_IDENTITY_TWICE
EV_DRAINED = EVENT_DRAINED


cdef class Runtime:
    """Own the compiled half of a node: its workers and the border to them.

    Threading: every method belongs to the thread of the asyncio loop that uses it. Nothing here waits, except `join`.
    """
    cdef worker_t *worker
    cdef pool_t border              # blocks of what Python writes
    cdef secret_pool_t secrets      # slots in which Python hands keys over
    cdef replay_t replay
    cdef uint64_t *replay_slots
    cdef access_t *access
    cdef access_t *relay_access
    cdef pool_t plain               # of the snapshots
    cdef int read_fd
    cdef int mark_fd                # of the replay filter's high-water mark; -1: none is kept
    cdef int write_fd
    cdef int pid
    cdef bint is_started
    cdef bint is_joined
    cdef object ring                # keeps the keys alive while they are copied
    cdef dict options
    cdef bytes services             # read by the worker as long as it runs
    cdef uint64_t n_asked           # COMMAND_LINKS posted

    def __cinit__(self, KeyRing ring not None, NetworkSecret network, NetworkSecret previous, dict options not None):
        cdef uint8_t[16] key
        self.read_fd = -1
        self.write_fd = -1
        self.mark_fd = -1
        self.pid = os.getpid()
        self.options = dict(options)
        pool_init(&self.border, <uint64_t>1 << 40)
        self.border.is_border = 1
        pool_init(&self.plain, <uint64_t>1 << 40)
        secret_pool_init(&self.secrets, BORDER_SLOTS, SECRET_LOCK_PREFERRED)
        if crypto_init() < 0:
            raise OSError("libsodium cannot be initialised on this machine")
        self.worker = <worker_t *>calloc(1, sizeof(worker_t))
        self.replay_slots = <uint64_t *>calloc(REPLAY_SLOTS, sizeof(uint64_t))
        if self.worker is NULL or self.replay_slots is NULL:
            raise MemoryError
        crypto_random(NULL, key, 16)
        replay_init(&self.replay, self.replay_slots, REPLAY_SLOTS, 2 * int(options.get("clock_window_s", 120)), key)
        self._make_memory(options)
        self._make_local(ring, network, previous, options)
        self._make_guard(options)
        self._make_engine(options)

    def _make_memory(self, dict options):
        cdef worker_t *worker = self.worker
        pool_init(&worker.pool, <uint64_t>options.get("memory_len", 1 << 30))
        secret_pool_init(&worker.secrets, 4 * <uint32_t>options.get("max_sessions", 10000) + 4096,
                         SECRET_LOCK_PREFERRED if options.get("allow_unlocked", True) else SECRET_LOCK_REQUIRED)
        worker.scratch = <uint8_t *>malloc(SCRATCH_LEN)
        worker.cert_entries = <cert_entry_t *>calloc(CERT_ENTRIES, sizeof(cert_entry_t))
        worker.ring.events = <event_t *>calloc(RING_LEN, sizeof(event_t))
        worker.local = <local_t *>secret_take(&worker.secrets)
        if worker.scratch is NULL or worker.cert_entries is NULL or worker.ring.events is NULL or worker.local is NULL:
            raise MemoryError
        cert_cache_init(&worker.certs, worker.cert_entries, CERT_ENTRIES)

    def _make_local(self, KeyRing ring, NetworkSecret network, NetworkSecret previous, dict options):
        """Copy what the handshakes need into the worker's own guarded memory."""
        cdef local_t *local = self.worker.local
        local_options(local, network, previous, options)
        local_renew(local, ring.ring)

    def _make_guard(self, dict options):
        cdef worker_t *worker = self.worker
        cdef uint8_t[16] key
        crypto_random(NULL, key, 16)
        guard_init(&worker.guard, &worker.pool, &self.replay, key)
        self.access = access_take(&self.plain, options)
        self.relay_access = relay_access_take(&self.plain, options)
        guard_access_swap(&worker.guard.access, self.access)
        guard_access_swap(&worker.guard.relay, self.relay_access)
        guard_fill(&worker.guard, options)

    def _make_engine(self, dict options):
        cdef worker_t *worker = self.worker
        cdef engine_config_t config
        cdef uint64_t mix
        crypto_random(NULL, <uint8_t *>&mix, 8)
        config_fill(&config, options)
        self.services = b"".join(options.get("services", ())[:HELLO_SERVICES_MAX])
        config.services = self.services
        config.n_services = len(self.services) // 16
        crypto_random(NULL, config.instance, 8)
        if engine_init(&worker.engine, &worker.pool, &worker.guard, &config, mix) < 0:
            raise MemoryError
        relay_fill(&worker.engine.relay, options)
        worker.engine.ctx.party.secrets = &worker.secrets
        worker.engine.ctx.party.local = worker.local
        worker.engine.ctx.party.certs = &worker.certs
        worker.engine.ctx.party.random = random_pooled
        worker.engine.ctx.party.random_ctx = &worker.random
        worker.engine.ctx.scratch = worker.scratch

    def start(self):
        """Start the worker's thread. Raises OSError when the machine refuses a loop, a thread or a descriptor."""
        self._check()
        if self.is_started:
            raise RuntimeError("the runtime runs already")
        # glibc adapts what it keeps of freed memory to the largest block that was freed. Before it has seen one, it
        # gives each large bytes object back to the system and faults it in again: a quarter of a bulk receiver's time.
        PyMem_RawFree(PyMem_RawMalloc(HEAP_KEEP_LEN))
        try:
            self._start()
        except BaseException:
            self._descriptors_close()
            raise
        self.is_started = True

    def _start(self):
        if self.options.get("mark_path") is not None:
            self._mark_open(self.options["mark_path"])
        if hasattr(os, "eventfd"):
            self.read_fd = self.write_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self.read_fd, self.write_fd = os.pipe()
            os.set_blocking(self.read_fd, False)
            os.set_blocking(self.write_fd, False)
        self.worker.event_fd = self.write_fd
        if worker_start(self.worker, <size_t>self.options.get("read_len", 0)) < 0:
            raise OSError("the machine refuses an event loop or a thread: too many open files or threads?")

    def _mark_open(self, path):
        """Keep the replay filter's high-water mark at `path`, and go on from what an earlier run left there.

        The file begins with the mark, 8 bytes. After a clean stop it is zero, and behind it lies all that the filter
        had seen: nobody who comes anew is refused. Otherwise the mark is the floor. One from beyond what can be taken
        now (the clock was set back since) and a damaged one count as the latest that can be: nobody gets in for
        minutes, and not for years. The file is locked: a second node would lower the mark of the first.
        """
        cdef bytes left
        cdef int flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        cdef uint64_t latest_s = int(time.time()) + self.worker.local.clock_window_s + REPLAY_MARK_AHEAD_S
        self.mark_fd = os.open(path, flags, 0o600)
        if not stat.S_ISREG(os.fstat(self.mark_fd).st_mode):
            raise OSError(errno.EINVAL, "it is not a file", path)
        try:
            fcntl.flock(self.mark_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
        left = os.pread(self.mark_fd, MARK_LEN_MAX, 0)
        if len(left) >= 8 and left[:8] != bytes(8):
            self.replay.floor_s = min(int.from_bytes(left[:8], "big"), latest_s)
        elif left and replay_restore(&self.replay, <const uint8_t *><char *>left + 8, max(len(left), 8) - 8) < 0:
            self.replay.floor_s = latest_s
        self.replay.floor_s = min(self.replay.floor_s, latest_s)
        self.replay.mark_s = max(self.replay.newest_s, self.replay.floor_s)
        if self.replay.mark_s:
            os.pwrite(self.mark_fd, (<object>self.replay.mark_s).to_bytes(8, "big"), 0)
        os.ftruncate(self.mark_fd, 8 if self.replay.mark_s else 0)
        self.replay.mark_ctx = <void *><size_t>self.mark_fd
        self.replay.mark = mark_write

    def _mark_close(self):
        """A clean end leaves what was seen: the next run refuses what this one accepted, and nothing else."""
        cdef bytes saved
        if self.mark_fd < 0:
            return
        self.replay.mark = NULL
        saved = bytes(replay_saved_len(&self.replay))
        replay_save(&self.replay, <uint8_t *><char *>saved)
        try:
            if os.pwrite(self.mark_fd, saved, 8) == len(saved):
                os.pwrite(self.mark_fd, bytes(8), 0)
        except OSError:
            pass                    # the disk is full: the mark stays what it was
        fcntl.flock(self.mark_fd, fcntl.LOCK_UN)    # a forked child may still have the descriptor
        os.close(self.mark_fd)
        self.mark_fd = -1

    def fileno(self):
        """Return the descriptor that is readable when events wait."""
        return self.read_fd

    def _check(self):
        if self.pid != os.getpid():
            raise RuntimeError("this node was made in another process: make a new one after fork")

    cdef command_t *_command(self, int type, uint64_t id, size_t extra) except NULL:
        cdef command_t *command
        if not self.is_started or self.is_joined:
            raise RuntimeError("the runtime does not run")
        if self.pid != os.getpid():
            raise RuntimeError("this node was made in another process: make a new one after fork")
        command = <command_t *>malloc(sizeof(command_t) + extra)
        if command is NULL:
            raise MemoryError
        memset(command, 0, sizeof(command_t))
        command.type = <uint32_t>type
        command.id = id
        return command

    cdef int _post(self, command_t *command) except -1:
        cdef void *old
        while True:
            old = atomic_load_ptr(&self.worker.inbox)
            command.next = <command_t *>old
            if atomic_cas_ptr(&self.worker.inbox, old, command):
                break
        if old is NULL:
            loop_wake(&self.worker.loop)
        return 0

    def listen(self, uint64_t request, str host not None, int port):
        """Listen on an IP literal; answered by EV_LISTENING."""
        cdef command_t *command = self._command(COMMAND_LISTEN, request, 0)
        try:
            if not fill_ip(&command.address, host, port):
                raise ValueError(f"{host!r} is not an IP address")
        except BaseException:
            command_free(self.worker, command)
            raise
        self._post(command)

    cdef ring_t *_ring_copy(self, KeyRing ring) except NULL:
        """The keys of another identity, in a guarded slot that the worker gives back wiped."""
        cdef void *slot = atomic_exchange_ptr(&self.worker.spent, NULL)
        cdef void *following
        while slot is not NULL:
            following = (<void **>slot)[0]
            secret_give(&self.secrets, slot)
            slot = following
        slot = secret_take(&self.secrets)
        if slot is NULL:
            raise MemoryError("no guarded memory is left for throw-away identities")
        memcpy(slot, ring.ring, sizeof(ring_t))
        return <ring_t *>slot

    def connect(self, uint64_t request, list hops not None, bint is_new=False, KeyRing ring=None):
        """Reach the last of `hops` over the others; answered by EV_PEER_UP or EV_CONNECT_FAILED.

        `ring` is a throw-away identity that the target sees instead of the node's.
        """
        cdef command_t *command
        if not 1 <= len(hops) <= HOPS_MAX:
            raise ValueError(f"a circuit has 1 to {HOPS_MAX} hops, not {len(hops)}")
        command = self._command(COMMAND_CONNECT, request, 0)
        command.n = <uint32_t>len(hops)
        command.reason = is_new
        if ring is not None:
            command.ring = self._ring_copy(ring)
        command.hops = <hop_t *>calloc(command.n, sizeof(hop_t))
        try:
            fill_hops(command.hops, hops)
        except BaseException:
            command_free(self.worker, command)
            raise
        self._post(command)

    def renew(self, KeyRing ring not None):
        """Take certificates that are new by today's date, and the link keys of `ring` if the identity was rotated."""
        cdef command_t *command = self._command(COMMAND_RENEW, 0, 0)
        try:
            command.ring = self._ring_copy(ring)
        except BaseException:
            command_free(self.worker, command)
            raise
        self._post(command)

    def cancel(self, uint64_t request):
        """Forget a connect: nothing more is reported for it."""
        self._post(self._command(COMMAND_CANCEL, request, 0))

    def close_peer(self, uint64_t channel, int reason):
        """Close a session; EV_PEER_DOWN follows."""
        cdef command_t *command = self._command(COMMAND_CLOSE_PEER, channel, 0)
        command.reason = reason
        self._post(command)

    def ping(self, uint64_t channel):
        """Ask for a PONG; EV_PONG follows."""
        self._post(self._command(COMMAND_PING, channel, 0))

    def open_stream(self, uint64_t flow, uint64_t channel, int kind, int priority, bytes opening not None):
        """Open a stream; its acceptance or reset follows. `opening` is the extender's UUID and metadata."""
        cdef command_t *command
        if not 0 <= kind <= 1 or not 0 <= priority <= 2 or len(opening) > 16 + METADATA_MAX:
            raise ValueError(f"kind {kind}, priority {priority}, {len(opening)} bytes: not a service stream")
        command = self._command(COMMAND_OPEN, flow, len(opening))
        command.a = channel
        command.reason = kind | (priority << 8)
        command.n = <uint32_t>len(opening)
        memcpy(command.data, <const char *>opening, len(opening))
        self._post(command)

    def accept(self, uint64_t flow):
        """Accept a stream that the peer opened."""
        self._post(self._command(COMMAND_ACCEPT, flow, 0))

    def finish(self, uint64_t flow):
        """End our direction of a stream after what was written."""
        self._post(self._command(COMMAND_FINISH, flow, 0))

    def reset(self, uint64_t flow, int reason):
        """End a stream at once and forget it: no event of it follows."""
        cdef command_t *command = self._command(COMMAND_RESET, flow, 0)
        command.reason = reason
        self._post(command)

    def used(self, uint64_t flow, uint64_t n):
        """Give credit back for `n` bytes that the application has taken."""
        cdef command_t *command = self._command(COMMAND_USED, flow, 0)
        command.a = n
        self._post(command)

    def write(self, uint64_t flow, data):
        """Queue bytes on a stream; copies. EV_STREAM_SENT tells when they have left the queue."""
        cdef command_t *command = self._command(COMMAND_WRITE, flow, 0)
        try:
            fill_bytes(&command.chain, &self.border, data)
        except BaseException:
            command_free(self.worker, command)
            raise
        self._post(command)

    def drain(self, int limit):
        """Take up to `limit` events. Call it until it answers [], then wait for the descriptor."""
        cdef event_ring_t *ring = &self.worker.ring
        cdef uint64_t head = ring.head, tail = atomic_load(&ring.tail)
        cdef list events = []
        if self.read_fd < 0:
            return events
        if head == tail:
            clear_fd(self.read_fd)
            atomic_store(&ring.is_asleep, 1)
            atomic_fence()
            tail = atomic_load(&ring.tail)
            if head == tail:
                return events
            if atomic_exchange(&ring.is_asleep, 0):
                # The worker saw nobody asleep: whoever stops draining here must be called again.
                os.write(self.write_fd, WAKE)
        while head != tail and limit > 0:
            events.append(event_tuple(&ring.events[head % RING_LEN]))
            head += 1
            limit -= 1
            atomic_store(&ring.head, head)
        atomic_fence()
        if atomic_exchange(&ring.is_starved, 0):
            loop_wake(&self.worker.loop)
        return events

    def refuse_circuits(self):
        """Take no more connections and circuits; EV_DRAINED follows when no circuit passes through any more."""
        self._post(self._command(COMMAND_DRAIN, 0, 0))

    def stop(self):
        """Close everything with SHUTDOWN; EV_STOPPED follows within seconds."""
        self._post(self._command(COMMAND_STOP, 0, 0))

    def join(self):
        """Wait for the worker's thread, without the GIL, and free everything; after its last event, or to give up."""
        if self.is_joined or not self.is_started or self.pid != os.getpid():
            return
        if not self.worker.engine.is_stopped:
            self._post(self._command(COMMAND_KILL, 0, 0))
        self.is_joined = True
        with nogil:
            loop_thread_join(&self.worker.loop)
        self._free()

    def _free(self):
        cdef worker_t *worker = self.worker
        cdef command_t *command
        if worker is NULL:
            return
        with nogil:
            worker_stop(worker)
        self._descriptors_close()

    def _descriptors_close(self):
        self._mark_close()
        if self.read_fd >= 0:
            os.close(self.read_fd)
            if self.write_fd != self.read_fd:
                os.close(self.write_fd)
            self.read_fd = self.write_fd = -1

    def __dealloc__(self):
        if self.worker is NULL or self.pid != os.getpid():
            return
        if self.is_started and not self.is_joined:
            try:
                self.join()
            except Exception:
                return                              # the interpreter goes down: the process frees the rest
        guard_access_free(self.access)
        guard_access_free(self.relay_access)
        pool_clear(&self.plain)
        pool_clear(&self.border)
        secret_pool_free(&self.secrets)
        worker_free(self.worker)
        free(self.worker)
        free(self.replay_slots)

    def links(self):
        """Return how the reported sessions stand: channel -> (bytes in, bytes out, generation).

        Waits for the worker's turn. The dict is empty once the worker has stopped, or when it is kept from
        running for a second.
        """
        cdef worker_t *worker = self.worker
        cdef link_rows_t *links
        cdef uint32_t i
        if worker.engine.is_stopped:
            return {}
        self.n_asked += 1
        self._post(self._command(COMMAND_LINKS, self.n_asked, 0))
        with nogil:
            gate_wait(&worker.gate, self.n_asked, SECOND_NS)
        links = <link_rows_t *>atomic_exchange_ptr(&worker.links, NULL)
        if links is NULL:
            return {}
        try:
            return {links.rows[i].channel: (links.rows[i].in_len, links.rows[i].out_len, links.rows[i].generation)
                    for i in range(links.n)}
        finally:
            free(links)

    def status(self):
        """Return counters and sizes as they are at this moment: a dict of ints and dicts."""
        cdef worker_t *worker = self.worker
        cdef engine_t *engine = &worker.engine
        cdef dict by_status = {}
        cdef list skews = sorted([engine.skews_s[i] for i in range(min(engine.n_skews, <uint32_t>SKEWS_KEPT))])
        cdef int i
        pool_collect(&self.border)
        for i in range(64):
            if engine.ctx.n_status[i]:
                by_status[-i] = engine.ctx.n_status[i]
        return {
            "n_sessions": engine.n_channels, "n_sinks": worker.guard.n_sinks, "n_half_open": worker.guard.n_half_open,
            "n_links_up": engine.n_links_up, "n_auto_links": engine.n_auto_links, "n_circuits": engine.relay.n_splices,
            "n_flows": engine.outbox.flows.len, "n_conns": worker.tcp.n_conns, "n_lingering": worker.tcp.n_lingering,
            "n_accepted": worker.tcp.n_accepted, "n_accept_errors": worker.tcp.n_accept_errors,
            "in_len": engine.n_bytes_in, "out_len": engine.n_bytes_out, "relayed_len": engine.relay.n_bytes,
            "relay_held_len": engine.relay.held, "n_relay_memory_resets": engine.relay.n_memory_resets,
            "n_slow_reader_closes": engine.ctx.n_slow_closes, "n_slow_reader_resets": engine.ctx.receive.n_slow_resets,
            "n_credit_withheld": engine.ctx.receive.n_withheld, "receive_unread_len": engine.ctx.receive.len,
            "by_status": by_status, "guard_counts": [worker.guard.counts[i] for i in range(N_GUARD_COUNTS)],
            "pool_taken_len": worker.pool.taken_len, "plain_len": worker.pool.plain_len,
            "n_blocks": worker.pool.n_taken, "n_border_blocks": self.border.n_taken,
            "n_secret_slots": worker.secrets.n_taken, "is_locked": bool(worker.secrets.is_locked),
            "replay_floor_s": self.replay.floor_s,
            "clock_skew_s": float(skews[len(skews) // 2]) if skews else None,
            "handshake_cpu_ns": engine.ctx.handshake_ns,
            "loop_cpu_ns": loop_cpu_ns(&worker.loop) if worker.is_loop_ready else 0,
        }


def own_networks():
    """List the networks of this machine's interfaces as they are now: (address, leading bits), the widest first."""
    cdef interface_t[INTERFACES_MAX] found
    cdef int i, n = interfaces_list(found, INTERFACES_MAX)
    networks = {((<char *>found[i].ip)[:found[i].ip_len], found[i].n_bits) for i in range(n)}
    return sorted(networks, key=lambda network: (network[1], network[0]))[:PREFIXES_MAX]


cdef int clear_fd(int fd) except -1:
    try:
        os.read(fd, 4096)
    except BlockingIOError:
        pass
    return 0
