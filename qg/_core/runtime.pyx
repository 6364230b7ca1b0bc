# SPDX-License-Identifier: MIT
"""The border to Python: commands in, events out, one object per node."""
import errno
import fcntl
import os
import stat
import time

from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from .abi cimport qg_extender_v1
from .border cimport (
    access_take, calls_read, config_fill, event_tuple, fill_bytes, fill_hops, fill_ip, local_options, network_mark,
    networks_free, networks_take, policy_fill, rates_fill, relay_access_take, score_put, score_tuple, scores_list)
from .bridge cimport bridges_free
from .cert cimport cert_cache_init, cert_entry_t
from .channel cimport HOPS_MAX, WORKERS_MAX, engine_config_t, engine_t, hop_t
from .crypto cimport crypto_init, crypto_random, exactly, random_pooled
from .engine cimport engine_init
from .figures cimport node_figures
from .flow cimport (
    EVENT_CONFIGURED, EVENT_CONNECT_FAILED, EVENT_DRAINED, EVENT_IDENTITY_TWICE, EVENT_LISTENING, EVENT_PEERS,
    EVENT_PEER_DOWN, EVENT_PEER_UP, EVENT_PONG, EVENT_SERVICES, EVENT_STOPPED, EVENT_STREAM_ACCEPTED, EVENT_STREAM_DATA,
    EVENT_STREAM_DONE, EVENT_STREAM_FIN, EVENT_STREAM_OPEN, EVENT_STREAM_RESET, EVENT_STREAM_SENT, EVENT_TAMPERED,
    EVENT_TWINS, event_t)
from .fork cimport forks_count, forks_watch
from .guard cimport (
    access_holds, access_t, guard_access_free, guard_access_swap, guard_clear, guard_init,
    guard_policy_swap, policy_init, policy_t)
from .handshake cimport local_t
from .keyfile cimport KeyRing, NetworkSecret, ring_t
from .loop cimport gate_wait, loop_thread_join, loop_wake
from .memory cimport pool_clear, pool_collect, pool_init, pool_share, pool_t
from .mux cimport receive_share
from .prefixes cimport PREFIXES_MAX
from .rate cimport rates_t
from .relay cimport relay_share
from .replay cimport (
    REPLAY_MARK_AHEAD_S, REPLAY_SAVED_ENTRY_LEN, REPLAY_SAVED_HEAD_LEN, replay_init, replay_restore, replay_save,
    replay_saved_len, replay_widen)
from .resolve cimport INTERFACES_MAX, interface_t, interfaces_list
from .roster cimport roster_clear, roster_init
from .secret cimport (
    SECRET_LOCK_PREFERRED, SECRET_LOCK_REQUIRED, secret_give, secret_pool_free, secret_pool_init, secret_pool_t,
    secret_take)
from .service cimport SERVICE_ID_LEN, tally_t
from .session cimport SCRATCH_LEN
from .shared cimport (
    bell_ring, bell_sleep, bell_sleep_deep, inbox_push, inbox_take, ring_drop, ring_filled, ring_relieved)
from .status cimport METADATA_MAX, PEERS_LEN_MAX, SERVICES_LEN_MAX
from .sys cimport SECOND_NS, atomic_exchange_ptr, atomic_peek, atomic_poke
from .wire cimport HELLO_SERVICES_MAX, varint_put
from .worker cimport (
    CERT_ENTRIES, COMMAND_ACCEPT, COMMAND_CANCEL, COMMAND_CLOSE_PEER, COMMAND_CONFIGURE, COMMAND_CONNECT, COMMAND_DRAIN,
    COMMAND_FINISH, COMMAND_KILL, COMMAND_LINKS, COMMAND_LISTEN, COMMAND_OPEN, COMMAND_PEERS, COMMAND_PING,
    COMMAND_RENEW, COMMAND_RESET, COMMAND_OFFER, COMMAND_SERVICE, COMMAND_SPLICE, COMMAND_STOP, COMMAND_TWINS,
    COMMAND_USED, COMMAND_WRITE, RING_LEN, WORKER_SHIFT, command_free, command_make, command_t, link_rows_t,
    local_renew, mark_write, node_t, worker_end, worker_free, worker_of, worker_post, worker_start, worker_stop,
    worker_t)

cdef enum:
    REPLAY_SLOTS = 1 << 18
    MARK_LEN_MAX = 8 + REPLAY_SAVED_HEAD_LEN + REPLAY_SLOTS * REPLAY_SAVED_ENTRY_LEN
    HEAP_KEEP_LEN = 8 << 20     # freed memory that the C library shall keep; twice that at the end of the heap
    CIRCUITS_TOGETHER = 8       # that begin at the same worker, one after the other
    BORDER_SLOTS = 1024         # throw-away identities on their way to the worker

if forks_watch() != 0:
    raise MemoryError

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
EV_CONFIGURED = EVENT_CONFIGURED
EV_PEERS = EVENT_PEERS
EV_SERVICES = EVENT_SERVICES
EV_TAMPERED = EVENT_TAMPERED


cdef bytes ids_bytes(list ids):
    """A list of a SERVICES frame."""
    cdef uint8_t[8] n
    return (<char *>&n[0])[:varint_put(n, <uint64_t>len(ids))] + b"".join(ids)


ctypedef struct settings_t:     # what the guard reads, swapped as a whole
    policy_t *policy            # from malloc, owned
    access_t *access            # owned
    access_t *relay


cdef void settings_free(settings_t *settings) noexcept:
    guard_access_free(settings.access)
    guard_access_free(settings.relay)
    if settings.policy is not NULL:
        networks_free(settings.policy)
    free(settings.policy)
    memset(settings, 0, sizeof(settings_t))


cdef class Service:
    """A native extender that serves streams; `Runtime.service_add` makes them. Any thread."""
    cdef tally_t tally              # zeroed by __new__
    cdef object table

    def close(self):
        """Take no more streams; those that are open go on."""
        atomic_poke(&self.tally.is_closed, 1)

    @property
    def n_streams(self):
        """Count the streams that are open."""
        return atomic_peek(&self.tally.n_streams)


cdef class Runtime:
    """Own the compiled half of a node: its workers and the border to them.

    Threading: every method belongs to the thread of the asyncio loop that uses it. Nothing here waits, except `join`.
    """
    cdef node_t node
    cdef pool_t border              # blocks of what Python writes
    cdef secret_pool_t secrets      # slots in which Python hands keys over
    cdef uint64_t *replay_slots
    cdef rates_t *rates             # shared by the workers
    cdef settings_t settings        # that the guard has
    cdef settings_t retired         # that it had, until EVENT_CONFIGURED
    cdef pool_t plain               # of the snapshots
    cdef int read_fd
    cdef int mark_fd                # of the replay filter's high-water mark; -1: none is kept
    cdef int write_fd
    cdef uint64_t n_forks           # when it was made: in a forked child there are more
    cdef bint is_started
    cdef bint is_joined
    cdef object ring                # keeps the keys alive while they are copied
    cdef dict options
    cdef list kept                  # tables that were handed to workers: alive as long as these run
    cdef uint64_t n_asked           # COMMAND_LINKS posted
    cdef int n_sent_waiters         # tasks that wait for the last byte to be sent
    cdef uint32_t n_silent          # workers that did not answer the last of them
    cdef uint64_t n_circuits        # asked for
    cdef uint32_t turn              # the worker whose ring is read first
    cdef uint32_t n_stopped         # workers whose EVENT_STOPPED was read
    cdef uint32_t n_drained         # and EVENT_DRAINED
    cdef uint32_t n_configured      # and EVENT_CONFIGURED of the settings under way

    def __cinit__(self, KeyRing ring not None, NetworkSecret network, NetworkSecret previous, dict options not None):
        cdef uint8_t[16] key
        self.read_fd = -1
        self.write_fd = -1
        self.mark_fd = -1
        self.n_forks = forks_count()
        self.options = dict(options)
        self.kept = []
        pool_init(&self.border, <uint64_t>1 << 40)
        self.border.is_border = 1
        pool_init(&self.plain, <uint64_t>1 << 40)
        secret_pool_init(&self.secrets, BORDER_SLOTS, SECRET_LOCK_PREFERRED)
        if crypto_init() < 0:
            raise OSError("libsodium cannot be initialised on this machine")
        self.replay_slots = <uint64_t *>calloc(REPLAY_SLOTS, sizeof(uint64_t))
        self.node.n_workers = options.get("workers", 1)
        if not 1 <= self.node.n_workers <= WORKERS_MAX:
            raise ValueError(f"workers = {self.node.n_workers}: from 1 to {WORKERS_MAX}")
        self.node.workers = <worker_t *>calloc(self.node.n_workers, sizeof(worker_t))
        if self.node.workers is NULL or self.replay_slots is NULL:
            raise MemoryError
        crypto_random(NULL, key, 16)
        replay_init(&self.node.replay, self.replay_slots, REPLAY_SLOTS, 2 * options.get("clock_window_s", 120), key)
        self._make_shared(options)
        self._make_workers(ring, network, previous, options)

    def _make_shared(self, dict options):
        """What all workers agree on."""
        cdef uint8_t[16] key
        crypto_random(NULL, key, 16)
        pool_init(&self.node.guard_pool, <uint64_t>1 << 40)
        guard_init(&self.node.guard, &self.node.guard_pool, &self.node.replay, key)
        roster_init(&self.node.roster, (<uint64_t *>key)[0])
        self._settings_make(&self.settings, options)
        self._make_rates(options)
        guard_access_swap(&self.node.guard.access, self.settings.access)
        guard_access_swap(&self.node.guard.relay, self.settings.relay)
        guard_policy_swap(&self.node.guard, self.settings.policy)
        self.node.memory.max = <uint64_t>options.get("memory_len", 1 << 30)

    def _make_workers(self, KeyRing ring, NetworkSecret network, NetworkSecret previous, dict options):
        cdef engine_config_t config
        cdef worker_t *worker
        cdef uint32_t i
        config_fill(&config, options)
        self.node.unread.max = config.receive_credit_len
        self.node.relayed.max = config.relay_memory_len
        config.rates = self.rates
        services = b"".join(options.get("services", ())[:HELLO_SERVICES_MAX])
        config.services = services
        config.n_services = len(services) // 16
        config.n_workers = <uint8_t>self.node.n_workers
        crypto_random(NULL, config.instance, 8)
        for i in range(self.node.n_workers):
            worker = &self.node.workers[i]
            worker.node = &self.node
            worker.idx = i
            config.worker = <uint8_t>i
            self._make_memory(worker, options)
            local_options(worker.local, network, previous, options)
            local_renew(worker.local, ring.borrow())
            self._make_engine(worker, &config, options)

    cdef int _make_memory(self, worker_t *worker, dict options) except -1:
        pool_init(&worker.pool, 0)
        pool_share(&worker.pool, &self.node.memory)
        secret_pool_init(&worker.secrets, 4 * <uint32_t>options.get("max_sessions", 10000) + 4096,
                         SECRET_LOCK_PREFERRED if options.get("allow_unlocked", True) else SECRET_LOCK_REQUIRED)
        worker.scratch = <uint8_t *>malloc(SCRATCH_LEN)
        worker.cert_entries = <cert_entry_t *>calloc(CERT_ENTRIES, sizeof(cert_entry_t))
        worker.ring.events = <event_t *>calloc(RING_LEN, sizeof(event_t))
        worker.local = <local_t *>secret_take(&worker.secrets)
        if worker.scratch is NULL or worker.cert_entries is NULL or worker.ring.events is NULL or worker.local is NULL:
            raise MemoryError
        cert_cache_init(&worker.certs, worker.cert_entries, CERT_ENTRIES)
        return 0

    def _make_rates(self, dict options):
        self.rates = <rates_t *>calloc(1, sizeof(rates_t))
        if self.rates is NULL:
            raise MemoryError
        crypto_random(NULL, self.rates.key, 16)
        rates_fill(self.rates, options)

    cdef int _make_engine(self, worker_t *worker, const engine_config_t *config, dict options) except -1:
        cdef engine_t *engine = &worker.engine
        cdef uint64_t mix
        crypto_random(NULL, <uint8_t *>&mix, 8)
        if engine_init(engine, &worker.pool, &self.node.guard, config, mix) < 0:
            raise MemoryError
        engine.roster = &self.node.roster
        receive_share(&engine.ctx.receive, &self.node.unread)
        relay_share(&engine.relay, &self.node.relayed, self.node.n_workers)
        engine.next_id |= <uint64_t>worker.idx << WORKER_SHIFT
        engine.outbox.next_id |= <uint64_t>worker.idx << WORKER_SHIFT
        engine.ctx.party.secrets = &worker.secrets
        engine.ctx.party.local = worker.local
        engine.ctx.party.certs = &worker.certs
        engine.ctx.party.random = random_pooled
        engine.ctx.party.random_ctx = &worker.random
        engine.ctx.scratch = worker.scratch
        return 0

    def start(self):
        """Start the workers' threads. Raises OSError when the machine refuses a loop, a thread or a descriptor."""
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
        self.node.event_fd = self.write_fd
        bell_sleep(&self.node.is_asleep)
        for i in range(self.node.n_workers):
            if worker_start(&self.node.workers[<uint32_t>i], <size_t>self.options.get("read_len", 0)) < 0:
                self._kill(i)
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
        cdef uint64_t latest_s = int(time.time()) + self.node.workers[0].local.clock_window_s + REPLAY_MARK_AHEAD_S
        self.mark_fd = os.open(path, flags, 0o600)
        if not stat.S_ISREG(os.fstat(self.mark_fd).st_mode):
            raise OSError(errno.EINVAL, "it is not a file", path)
        try:
            fcntl.flock(self.mark_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
        left = os.pread(self.mark_fd, MARK_LEN_MAX, 0)
        if len(left) >= 8 and left[:8] != bytes(8):
            self.node.replay.floor_s = min(int.from_bytes(left[:8], "big"), latest_s)
        elif left and replay_restore(&self.node.replay, <const uint8_t *><char *>left + 8, max(len(left), 8) - 8) < 0:
            self.node.replay.floor_s = latest_s
        self.node.replay.floor_s = min(self.node.replay.floor_s, latest_s)
        self.node.replay.mark_s = max(self.node.replay.newest_s, self.node.replay.floor_s)
        if self.node.replay.mark_s:
            os.pwrite(self.mark_fd, (<object>self.node.replay.mark_s).to_bytes(8, "big"), 0)
        os.ftruncate(self.mark_fd, 8 if self.node.replay.mark_s else 0)
        self.node.replay.mark_ctx = <void *><size_t>self.mark_fd
        self.node.replay.mark = mark_write

    def _mark_close(self):
        """A clean end leaves what was seen: the next run refuses what this one accepted, and nothing else."""
        cdef bytes saved
        if self.mark_fd < 0:
            return
        self.node.replay.mark = NULL
        saved = bytes(replay_saved_len(&self.node.replay))
        replay_save(&self.node.replay, <uint8_t *><char *>saved)
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
        if self.n_forks != forks_count():
            raise RuntimeError("this node was made in another process: make a new one after fork")

    cdef command_t *_command(self, int type, uint64_t id, size_t extra) except NULL:
        if not self.is_started or self.is_joined:
            raise RuntimeError("the runtime does not run")
        if self.n_forks != forks_count():
            raise RuntimeError("this node was made in another process: make a new one after fork")
        return command_new(type, id, extra)

    cdef int _post(self, command_t *command) except -1:
        """To the worker that the command's id names."""
        worker_post(worker_of(&self.node, command.id), command)
        return 0

    cdef int _post_all(self, int type, uint64_t id) except -1:
        cdef uint32_t i
        for i in range(self.node.n_workers):
            worker_post(&self.node.workers[i], self._command(type, id, 0))
        return 0

    def listen(self, uint64_t request, str host not None, int port):
        """Listen on an IP literal; answered by EV_LISTENING."""
        cdef command_t *command = self._command(COMMAND_LISTEN, request, 0)
        try:
            if not fill_ip(&command.address, host, port):
                raise ValueError(f"{host!r} is not an IP address")
        except BaseException:
            command_free(&self.node, command)
            raise
        self._post(command)

    cdef void *_slot(self) except NULL:
        """A guarded slot that a worker gives back wiped."""
        cdef void *slot = inbox_take(&self.node.spent)
        cdef void *following
        while slot is not NULL:
            following = (<void **>slot)[0]
            secret_give(&self.secrets, slot)
            slot = following
        slot = secret_take(&self.secrets)
        if slot is NULL:
            raise MemoryError("no guarded memory is left for throw-away identities")
        return slot

    cdef ring_t *_ring_copy(self, KeyRing ring) except NULL:
        cdef const ring_t *source = ring.borrow()
        cdef void *slot = self._slot()
        memcpy(slot, source, sizeof(ring_t))
        return <ring_t *>slot

    def connect(self, uint64_t request, list hops not None, bint is_new=False, KeyRing ring=None,
                uint64_t isolation=0, near=None):
        """Reach the last of `hops` over the others; answered by EV_PEER_UP or EV_CONNECT_FAILED.

        Each is (link key or None, PeerID or None, host, port), and up to three pairs (IP address, port) more, which are
        tried in this order.
        Circuits of an equal `isolation` share layers where their paths begin alike; 0 never does. `ring` is a
        throw-away identity that the target sees instead of the node's. The worker of the session `near` does it;
        without one the first link key and the isolation say which, so that calls for one peer, and circuits that
        share, meet. Other circuits go round from there in groups of eight, so that few of them share a link.
        """
        cdef command_t *command
        if not 1 <= len(hops) <= HOPS_MAX:
            raise ValueError(f"a circuit has 1 to {HOPS_MAX} hops, not {len(hops)}")
        command = self._command(COMMAND_CONNECT, request, 0)
        command.n = <uint32_t>len(hops)
        command.reason = is_new
        command.a = isolation
        if ring is not None:
            command.ring = self._ring_copy(ring)
        command.hops = <hop_t *>calloc(command.n, sizeof(hop_t))
        try:
            fill_hops(command.hops, hops)
        except BaseException:
            command_free(&self.node, command)
            raise
        worker_post(self._worker_for(command, near), command)

    cdef worker_t *_worker_for(self, const command_t *command, near) except NULL:
        cdef uint64_t which = 0
        if near is not None:
            return worker_of(&self.node, near)
        memcpy(&which, command.hops[0].link_key, 6)
        if command.n > 1 and command.a:
            which += command.a
        elif command.n > 1:
            which += self.n_circuits // CIRCUITS_TOGETHER
            self.n_circuits += 1
        return &self.node.workers[which % self.node.n_workers]

    def renew(self, KeyRing ring not None):
        """Take certificates that are new by today's date, and the link keys of `ring` if the identity was rotated."""
        cdef command_t *command
        cdef uint32_t i
        for i in range(self.node.n_workers):
            command = self._command(COMMAND_RENEW, 0, 0)
            try:
                command.ring = self._ring_copy(ring)
            except BaseException:
                command_free(&self.node, command)
                raise
            worker_post(&self.node.workers[i], command)

    def cancel(self, uint64_t request):
        """Forget a connect: nothing more is reported for it."""
        self._post_all(COMMAND_CANCEL, request)

    def close_peer(self, uint64_t channel, int reason):
        """Close a session; EV_PEER_DOWN follows."""
        cdef command_t *command = self._command(COMMAND_CLOSE_PEER, channel, 0)
        command.reason = reason
        self._post(command)

    def ping(self, uint64_t channel):
        """Ask for a PONG; EV_PONG follows."""
        self._post(self._command(COMMAND_PING, channel, 0))

    def tell_peers(self, uint64_t channel, bytes frame not None):
        """Send a direct peer what a PEERS frame holds behind its type; nothing where the session may not carry it."""
        cdef command_t *command
        if len(frame) > PEERS_LEN_MAX:
            raise ValueError(f"{len(frame)} bytes are more than a PEERS frame holds")
        command = self._command(COMMAND_PEERS, channel, len(frame))
        command.n = <uint32_t>len(frame)
        memcpy(command.data, <const char *>frame, len(frame))
        self._post(command)

    def serve(self, list services not None, list added not None, list removed not None):
        """Offer these services from now on, ids of 16 bytes each, and tell peers what has changed."""
        cdef bytes ids = b"".join(services)
        cdef bytes frame = ids_bytes(added) + ids_bytes(removed)
        cdef bytes data = ids + frame
        cdef command_t *commands[WORKERS_MAX]
        cdef uint32_t i
        if len(services) > HELLO_SERVICES_MAX or len(ids) != 16 * len(services) or len(frame) > SERVICES_LEN_MAX:
            raise ValueError(f"{len(services)} services, {len(frame)} bytes to tell: more than a node may offer")
        for i in range(self.node.n_workers):
            commands[i] = self._command(COMMAND_OFFER, <uint64_t>i << WORKER_SHIFT, len(data))
            commands[i].a = len(services)
            commands[i].n = <uint32_t>len(data)
            memcpy(commands[i].data, <const char *>data, len(data))
        for i in range(self.node.n_workers):
            self._post(commands[i])

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
        self._post(self._filled(COMMAND_WRITE, flow, data))

    cdef command_t *_filled(self, int type, uint64_t flow, data) except NULL:
        """A command with a copy of these bytes."""
        cdef command_t *command = self._command(type, flow, 0)
        try:
            fill_bytes(&command.chain, &self.border, data)
        except BaseException:
            command_free(&self.node, command)
            raise
        return command

    def splice(self, uint64_t flow, int fd, data, uint32_t idle_ms=0, uint32_t n_used=0, head=b""):
        """Join a stream with the TCP connection `fd`, which is taken; `data` of the stream goes there first.

        `head` is written to the stream before, and the worker woken once. Stream and connection are reset when nothing
        moves for `idle_ms`, 0 for never.

        Gives credit back for `n_used` bytes, as `used` does, those of `data` among them. What EV_STREAM_DATA still
        brings comes back here with fd -1, which gives the credit too. EV_STREAM_DONE or EV_STREAM_RESET, with the
        connection's error, tells of the end.
        """
        cdef worker_t *worker = worker_of(&self.node, flow)
        cdef command_t *command = self._filled(COMMAND_SPLICE, flow, data)
        cdef command_t *before = NULL
        cdef int is_asleep = 0
        if head:
            try:
                before = self._filled(COMMAND_WRITE, flow, head)
            except BaseException:
                command_free(&self.node, command)
                raise
            is_asleep = inbox_push(&worker.inbox, before)
        command.a = <uint64_t>(fd + 1)
        command.reason = idle_ms
        command.n = n_used
        if inbox_push(&worker.inbox, command) or is_asleep:
            loop_wake(&worker.loop)

    def service_add(self, bytes id not None, table):
        """Have a native extender serve the streams that peers open to `id`: a capsule, or the address of its table.

        The table is copied; what it points to must stay until `join`, and `table` itself is kept. Of several with one
        id the newest that is not closed gets the streams. Raises ValueError for a table that cannot be used.
        """
        cdef Service service = Service.__new__(Service)
        cdef qg_extender_v1 calls
        calls_read(&calls, table)
        service.table = table
        self.kept.append(service)
        self._service_post(service, id, &calls)
        return service

    def service_remove(self, Service service not None):
        """End the streams that are left of a native extender (shutdown), and give it no more."""
        atomic_poke(&service.tally.is_closed, 1)
        self._service_post(service, None, NULL)

    cdef int _service_post(self, Service service, bytes id, const qg_extender_v1 *calls) except -1:
        """Its id and table for one that comes, nothing for one that goes."""
        cdef uint32_t len = <uint32_t>(SERVICE_ID_LEN + sizeof(qg_extender_v1)) if calls is not NULL else 0
        cdef command_t *command
        cdef uint32_t i
        for i in range(self.node.n_workers):
            command = self._command(COMMAND_SERVICE, 0, len)
            command.n = len
            command.tally = &service.tally
            if len:
                memcpy(command.data, <const char *>id, SERVICE_ID_LEN)
                memcpy(command.data + SERVICE_ID_LEN, calls, sizeof(qg_extender_v1))
            worker_post(&self.node.workers[i], command)
        return 0

    def drain(self, int limit):
        """Take up to `limit` events. Call it until it answers [], then wait for the descriptor."""
        cdef list events = []
        if self.read_fd < 0:
            return events
        self._take(events, limit)
        if events or limit <= 0:
            return events
        clear_fd(self.read_fd)
        if self.n_sent_waiters:
            bell_sleep(&self.node.is_asleep)
        else:
            bell_sleep_deep(&self.node.is_asleep)
        self._take(events, limit)
        if events and bell_ring(&self.node.is_asleep):
            # The workers saw nobody asleep: whoever stops draining here must be called again.
            os.write(self.write_fd, WAKE)
        return events

    def await_sent(self, int n):
        """Count who waits for the last byte to be sent: n more of them.

        While there are none, EV_STREAM_SENT of a few bytes waits for other events: it wakes nobody.
        """
        self.n_sent_waiters += n
        if n > 0:
            os.write(self.write_fd, WAKE)       # something may have waited already

    cdef int _take(self, list events, int limit) except -1:
        """Every worker's events, the first in turn, for none may keep the others waiting."""
        cdef worker_t *worker
        cdef event_t *event
        cdef uint32_t i
        cdef int64_t slot
        for i in range(self.node.n_workers):
            worker = &self.node.workers[(self.turn + i) % self.node.n_workers]
            slot = ring_filled(&worker.ring.at, RING_LEN)
            if slot < 0:
                continue
            while slot >= 0 and limit > 0:
                event = &worker.ring.events[slot]
                if event.type == EVENT_TWINS:
                    self._end_twins(event)
                elif self._is_told(event.type):
                    events.append(event_tuple(event))
                ring_drop(&worker.ring.at)
                limit -= 1
                slot = ring_filled(&worker.ring.at, RING_LEN)
            if ring_relieved(&worker.ring.at):
                loop_wake(&worker.loop)
            if limit <= 0:
                self.turn = worker.idx + 1
                break
        return 0

    cdef int _end_twins(self, const event_t *event) except -1:
        """Links of the other workers with an older process of this peer end, once the new one is told."""
        cdef command_t *command
        cdef uint32_t i
        for i in range(self.node.n_workers):
            if &self.node.workers[i] != worker_of(&self.node, event.id):
                command = self._command(COMMAND_TWINS, event.b, 0)
                command.a = event.a
                memcpy(command.data, event.peer_id, 32)
                worker_post(&self.node.workers[i], command)
        return 0

    cdef bint _is_told(self, int type) noexcept:
        """What all workers have to say before it is true of the node is told once."""
        if type == EVENT_STOPPED:
            self.n_stopped += 1
            return self.n_stopped == self.node.n_workers
        if type == EVENT_CONFIGURED:
            self.n_configured += 1
            if self.n_configured < self.node.n_workers:
                return False
            self.n_configured = 0
            settings_free(&self.retired)        # every worker has left the turn in which it may have read them
            return True
        if type == EVENT_DRAINED:
            self.n_drained += 1
            return self.n_drained == self.node.n_workers
        return True

    def configure(self, KeyRing ring not None, NetworkSecret network, NetworkSecret previous, dict options not None):
        """Take new settings, all of them or, where this raises, none; EV_CONFIGURED follows when they are in force.

        Of `options`, those that memory is made for keep their first values. Not again before EV_CONFIGURED.
        """
        cdef settings_t fresh
        cdef command_t *commands[WORKERS_MAX]
        cdef uint32_t i, n = 0
        if self.retired.policy is not NULL:
            raise RuntimeError("settings are being taken over: wait for EV_CONFIGURED")
        memset(&fresh, 0, sizeof(fresh))
        try:
            self._settings_make(&fresh, options)
            for i in range(self.node.n_workers):
                commands[i] = self._command(COMMAND_CONFIGURE, <uint64_t>i << WORKER_SHIFT, 0)
                n += 1
                commands[i].config = <engine_config_t *>calloc(1, sizeof(engine_config_t))
                commands[i].local = <local_t *>self._slot()
                if commands[i].config is NULL:
                    raise MemoryError
                config_fill(commands[i].config, options)
                local_options(commands[i].local, network, previous, options)
                local_renew(commands[i].local, ring.borrow())
        except BaseException:
            for i in range(n):
                command_free(&self.node, commands[i])
            settings_free(&fresh)
            raise
        rates_fill(self.rates, options)
        replay_widen(&self.node.replay, 2 * options.get("clock_window_s", 120), int(time.time()))
        self.retired.access = guard_access_swap(&self.node.guard.access, fresh.access)
        self.retired.relay = guard_access_swap(&self.node.guard.relay, fresh.relay)
        self.retired.policy = guard_policy_swap(&self.node.guard, fresh.policy)
        self.settings = fresh
        for i in range(n):
            self._post(commands[i])

    cdef int _settings_make(self, settings_t *settings, dict options) except -1:
        settings.policy = <policy_t *>malloc(sizeof(policy_t))
        if settings.policy is NULL:
            raise MemoryError
        policy_init(settings.policy)
        policy_fill(settings.policy, options)
        networks_take(settings.policy, &self.plain, options)
        settings.access = access_take(&self.plain, options)
        settings.relay = relay_access_take(&self.plain, options)
        return 0

    def refuse_circuits(self):
        """Take no more connections and circuits; EV_DRAINED follows when no circuit passes through any more."""
        self._post_all(COMMAND_DRAIN, 0)

    def stop(self):
        """Close everything with SHUTDOWN; EV_STOPPED follows within seconds."""
        self._post_all(COMMAND_STOP, 0)

    def join(self):
        """Wait for the workers' threads, without the GIL, and free everything; after the last event, or to give up."""
        if self.is_joined or not self.is_started or self.n_forks != forks_count():
            return
        self._kill(self.node.n_workers)
        self.is_joined = True
        self._descriptors_close()

    cdef int _kill(self, uint32_t n) except -1:
        """End the first `n` workers: no thread may run when the first of them is freed."""
        cdef worker_t *worker
        cdef uint32_t i
        for i in range(n):
            worker = &self.node.workers[i]
            if not worker.engine.is_stopped:
                worker_post(worker, command_new(COMMAND_KILL, 0, 0))
        with nogil:
            for i in range(n):
                loop_thread_join(&self.node.workers[i].loop)
            for i in range(n):
                worker_end(&self.node.workers[i])
            for i in range(n):
                bridges_free(&self.node.workers[i].shore)
            for i in range(n):
                worker_stop(&self.node.workers[i])
        return 0

    def _descriptors_close(self):
        self._mark_close()
        if self.read_fd >= 0:
            os.close(self.read_fd)
            if self.write_fd != self.read_fd:
                os.close(self.write_fd)
            self.read_fd = self.write_fd = -1

    def __dealloc__(self):
        cdef uint32_t i
        if self.n_forks != forks_count():
            return
        if self.is_started and not self.is_joined:
            try:
                self.join()
            except Exception:
                return                              # the interpreter goes down: the process frees the rest
        settings_free(&self.settings)
        settings_free(&self.retired)
        pool_clear(&self.plain)
        pool_clear(&self.border)
        secret_pool_free(&self.secrets)
        for i in range(self.node.n_workers if self.node.workers is not NULL else 0):
            worker_free(&self.node.workers[i])
        if self.node.guard.pool is not NULL:
            guard_clear(&self.node.guard)
            roster_clear(&self.node.roster)
        pool_clear(&self.node.guard_pool)
        free(self.node.workers)
        free(self.replay_slots)
        free(self.rates)

    def allows(self, bytes peer_id not None):
        """Tell whether a peer may have a session."""
        return access_holds(&self.node.guard.access, exactly(peer_id, 32, "a PeerID"))

    def network_rule(self, bytes ip not None):
        """Return the place in the `networks` option of what decides about an address, or None."""
        return network_mark(self.settings.policy, ip)

    def score(self, bytes ip not None):
        """Return the score of an address, the lower of its own and its network's, and for how long it is refused."""
        return score_tuple(&self.node.guard, ip, time.monotonic_ns())

    def scores_changed(self):
        """Return what has become worse since the last call, as `score_put` takes it."""
        return scores_list(&self.node.guard, time.monotonic_ns())

    def score_put(self, bytes ip not None, int n_bits, int lost, int n_refusals, double ago_s, double left_s):
        """Take over what another node, or an earlier run, found out, if it is worse; nothing lost is a pardon.

        The network, points lost, refusals, seconds since it was scored, and for which it is still refused.
        """
        score_put(&self.node.guard, ip, n_bits, (lost, n_refusals, ago_s, left_s), time.monotonic_ns())

    def relay_spend(self, bint is_spent):
        """Take no new circuits from now on, or again."""
        atomic_poke(&self.node.guard.is_spent, 1 if is_spent else 0)

    def links(self):
        """Return how the reported sessions stand: channel -> (bytes in, bytes out, generation, bytes of cover).

        Waits for the workers' turns. Sessions of a worker that has stopped, or is kept from running for a second, are
        not in it.
        """
        cdef dict rows = {}
        cdef link_rows_t *links
        cdef worker_t *worker
        cdef uint32_t i, k
        self.n_asked += 1
        self.n_silent = 0
        for i in range(self.node.n_workers):
            if not self.node.workers[i].engine.is_stopped:
                worker_post(&self.node.workers[i], self._command(COMMAND_LINKS, self.n_asked, 0))
        for i in range(self.node.n_workers):
            worker = &self.node.workers[i]
            if worker.engine.is_stopped:
                continue
            with nogil:
                gate_wait(&worker.gate, self.n_asked, SECOND_NS)
            links = <link_rows_t *>atomic_exchange_ptr(&worker.links, NULL)
            if links is NULL:
                self.n_silent += 1
                continue
            for k in range(links.n):
                rows[links.rows[k].channel] = (
                    links.rows[k].in_len, links.rows[k].out_len, links.rows[k].generation, links.rows[k].cover_len)
            free(links)
        return rows

    def is_turning(self):
        """Tell whether every worker that runs takes its turns; waits for them, a second each at most."""
        self.links()
        return self.n_silent == 0

    def status(self):
        """Return counters and sizes as they are at this moment, of all workers together: a dict of ints and dicts."""
        pool_collect(&self.border)
        return node_figures(&self.node) | {"n_border_blocks": self.border.n_taken}


def extender_table_check(table):
    """Raise ValueError or TypeError unless `service_add` would take this table of a native extender."""
    cdef qg_extender_v1 calls
    calls_read(&calls, table)


cdef int interfaces(interface_t *found) except -1:
    cdef int n = interfaces_list(found, INTERFACES_MAX)
    if n < 0:
        raise OSError(-n, f"the networks of this machine cannot be listed: {os.strerror(-n)}")
    return n


def own_networks():
    """List the networks of this machine's interfaces as they are now: (address, leading bits), the widest first."""
    cdef interface_t[INTERFACES_MAX] found
    cdef int i, n = interfaces(found)
    networks = {((<char *>found[i].ip)[:found[i].ip_len], found[i].n_bits) for i in range(n)}
    return sorted(networks, key=lambda network: (network[1], network[0]))[:PREFIXES_MAX]


def own_addresses():
    """List the addresses of this machine's interfaces as they are now, 4 or 16 bytes each."""
    cdef interface_t[INTERFACES_MAX] found
    cdef int i, n = interfaces(found)
    return [(<char *>found[i].own)[:found[i].ip_len] for i in range(n)]


cdef int clear_fd(int fd) except -1:
    try:
        os.read(fd, 4096)
    except BlockingIOError:
        pass
    return 0


cdef command_t *command_new(int type, uint64_t id, size_t extra) except NULL:
    cdef command_t *command = command_make(<uint32_t>type, id, extra)
    if command is NULL:
        raise MemoryError
    return command
