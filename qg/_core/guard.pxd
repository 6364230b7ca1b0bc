# SPDX-License-Identifier: MIT
"""Admission: who may connect and how often, who may use this node, what is dialled for others (protocol.md 3, 6, 9).

One guard per node, which all its workers call: its limits are the node's. A lock, held for less than a microsecond,
keeps ledgers and tables whole; nothing that comes once per record or stream takes it. Any thread may read `counts`,
`penalties` and the `n_*` with atomic_peek and swap the access snapshots.

"Address" below is an IPv4 /32 or an IPv6 /64, "network" a /24 or a /48. Exempt addresses have neither rates nor a
score.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .ledger cimport bucket_t, ledger_t, verdict_t
from .memory cimport pool_t
from .prefixes cimport marks_t, prefix_list_t
from .replay cimport replay_t
from .sys cimport atomic_load_ptr, atomic_peek
from .table cimport table_t
from .wire cimport address_t

cdef enum:
    PORTS_MAX = 64
    ACCESS_MAX = 65536          # PeerIDs in an access_t
    ADDRESS_SETS = 16384        # 65,536 entries in sets of LEDGER_WAYS; 5.5 MiB, made of pages touched as used
    NEIGHBOUR_SETS = 1024       # 4,096 entries
    WIDTHS_MAX = 18             # of networks whose sessions are limited
    SCORES_TOGETHER = 256       # that are looked at under one hold of the lock
    PORT_DEFAULT = 7447
    CPU_WINDOW_MS = 100

cdef enum:                      # penalties, with their points (protocol.md 9)
    PENALTY_ENVELOPE = 0        # 1: an envelope on TCP did not open
    PENALTY_HANDSHAKE = 1       # 10: the handshake failed after a good envelope
    PENALTY_REPLAY = 2          # 20
    PENALTY_LIMIT = 3           # 20: abuse of a limit
    PENALTY_VIOLATION = 4       # 50: protocol violation after authentication
    N_PENALTIES = 5

cdef enum:                      # outcomes: index of guard_t.counts
    GUARD_ACCEPTED = 0          # connections let in
    GUARD_ACCEPT_RATE = 1       # accept rate of the address
    GUARD_REFUSED = 2           # address or network without score; accepts and handshakes
    GUARD_HALF_OPEN_FULL = 3
    GUARD_ADMITTED = 4          # handshakes let in
    GUARD_REPLAY = 5            # E_REPLAY and E_CLOCK of the filter
    GUARD_ADDRESS_RATE = 6      # handshake rates
    GUARD_NETWORK_RATE = 7
    GUARD_NODE_RATE = 8
    GUARD_REPLAY_FULL = 9
    GUARD_SINKS_FULL = 10
    GUARD_SESSIONS_FULL = 11    # of the node or of a network
    GUARD_PEER_DENIED = 12      # guard_allows said no
    GUARD_RELAY_DENIED = 13
    GUARD_TARGET_DENIED = 14
    GUARD_TARGET_RATE = 15
    GUARD_PIPE_RATE = 16        # pipes and relay streams of one link
    GUARD_PIPES_FULL = 17       # of the node
    GUARD_STREAM_RATE = 18      # service streams of one session
    GUARD_PEER_FULL = 19        # sessions over pipes of one PeerID
    GUARD_CPU = 20              # handshakes take too much of the processor
    GUARD_NETWORK_DENIED = 21   # an address that the lists of networks deny
    N_GUARD_COUNTS = 22

ctypedef struct guard_limits_t: # named as in the configuration's [limits]
    uint32_t accepts_per_s              # per address
    uint32_t accepts_burst
    uint32_t handshakes_per_s           # per address
    uint32_t handshakes_burst
    uint32_t network_handshakes_per_s   # per network
    uint32_t network_handshakes_burst
    uint32_t node_handshakes_per_s      # all; as many at once
    uint32_t half_open                  # connections and pipes before their session; strangers get nine tenths
    uint32_t sinks
    uint32_t sessions
    uint32_t network_sessions           # per network
    uint32_t pipes_per_s                # pipes and relay streams that one link may open
    uint32_t pipes_burst
    uint32_t pipes                      # and relay streams, all
    uint32_t streams_per_s              # service streams that one session may open; as many at once
    uint32_t peer_pipe_sessions         # sessions over pipes per PeerID
    uint32_t handshake_cpu_ms           # of handshakes that others began, per CPU_WINDOW_MS
    uint32_t targets_per_s              # new relay targets per neighbour
    uint32_t targets_burst
    uint32_t is_loopback_exempt         # 1: 127.0.0.0/8 and ::1 are exempt

ctypedef struct width_t:        # a limit of the sessions of each network of this width
    uint32_t sessions           # 0: limits.network_sessions
    uint8_t n_bits              # of the 16-byte form
    uint8_t is_ip4

ctypedef struct policy_t:       # what the configuration says, but who is allowed; not changed while a guard has it
    guard_limits_t limits
    prefix_list_t exempt
    prefix_list_t own           # networks of this node, which a relay does not dial
    prefix_list_t listed        # networks that a relay dials although it otherwise would not
    uint16_t ports[PORTS_MAX]   # that a relay dials
    uint32_t n_ports
    width_t widths[WIDTHS_MAX]  # each once, the same ones as long as the guard lives
    uint32_t n_widths
    marks_t *networks           # borrowed; NULL: none is denied
    uint8_t *denials            # borrowed; by mark: 1 denies the addresses, 0 allows them
    uint32_t n_denials

cdef enum access_policy_t:      # of those who are not listed; the listed ones are the exceptions
    ACCESS_NONE = 0
    ACCESS_ANYONE = 1           # whoever is authenticated; in a closed network: its members

ctypedef struct access_t:       # immutable once built; any thread may read it
    pool_t *pool                # borrowed; of the thread that builds and frees
    uint32_t policy             # access_policy_t
    uint32_t n_ids
    uint8_t ids[32]             # n_ids PeerIDs, ascending

ctypedef struct guard_t:
    policy_t *policy            # snapshot, atomic; borrowed, &first to begin with
    policy_t first              # set before start
    uint64_t lock               # of the pool, ledgers, tables, `node` and cpu_free_ns
    pool_t *pool                # borrowed; used by the guard alone, under its lock
    replay_t *replay            # borrowed
    access_t *access            # snapshot or NULL (nobody), atomic; borrowed: who may have a session
    access_t *relay             # the same: who may relay through this node
    ledger_t addresses          # addresses and networks
    ledger_t neighbours         # by PeerID
    table_t networks            # keyed hash of a network -> number of its sessions, as a pointer
    table_t peers               # keyed hash of a PeerID -> number of its sessions over pipes, as a pointer; the hash's
                                # complement -> number of its links without an instance
    bucket_t node               # handshakes of all
    uint64_t cpu_free_ns        # when the time that handshakes took is paid for
    uint64_t n_half_open        # atomic, like all below
    uint64_t n_sinks
    uint64_t n_sessions         # that guard_session_begin let in
    uint64_t n_channels         # counted by the engines: all, half-open ones and sinks too
    uint64_t n_far_ends         # sessions in pipes that peers opened
    uint64_t n_auto_links       # links dialled for circuits only
    uint64_t n_splices          # counted by the relays: circuits that pass through
    uint64_t is_spent           # written by the border: no new circuits pass until the month ends
    uint64_t counts[N_GUARD_COUNTS]     # by outcome
    uint64_t penalties[N_PENALTIES]     # by penalty

cdef access_t *guard_access_build(pool_t *pool, int policy, const uint8_t *ids, size_t n_ids) noexcept nogil
    # copies and sorts n_ids x 32 bytes; gives the snapshot, NULL without memory or above ACCESS_MAX
cdef void guard_access_free(access_t *access) noexcept nogil            # takes; NULL is allowed
cdef access_t *guard_access_swap(access_t **place, access_t *access) noexcept nogil
    # place: &guard.access or &guard.relay; any thread. Gives the former snapshot, to be freed once the worker has left
    # the turn in which it may have read it

cdef inline const policy_t *guard_policy(guard_t *guard) noexcept nogil:
    # as it is now; borrowed for this call
    return <const policy_t *>atomic_load_ptr(<void **>&guard.policy)
cdef inline const guard_limits_t *limits_of(guard_t *guard) noexcept nogil:
    return &guard_policy(guard).limits
cdef policy_t *guard_policy_swap(guard_t *guard, policy_t *policy) noexcept nogil
    # any thread. Gives the former snapshot, to be freed as an access_t is, unless it is &guard.first
cdef void policy_init(policy_t *policy) noexcept nogil          # default limits, no networks, port 7447
cdef void guard_limits_default(guard_limits_t *limits) noexcept nogil   # protocol.md 9
cdef int guard_init(guard_t *guard, pool_t *pool, replay_t *replay, const uint8_t *key16) noexcept nogil
    # default limits, nobody allowed, no prefixes, port 7447; takes no memory yet
cdef void guard_clear(guard_t *guard) noexcept nogil        # gives its memory back; snapshots are the caller's
cdef int policy_ports_set(policy_t *policy, const uint16_t *ports, size_t n_ports) noexcept nogil   # OK, E_FULL

cdef int guard_accept(guard_t *guard, const address_t *remote, uint64_t now_ns) noexcept nogil
    # OK; E_RATE: too many connections, or no score; E_FULL: within the rates, but no half-open slot for this address
    # (the caller's oldest goes to the sink, then the new one may have its slot); E_MEMORY, E_ADDRESS
cdef int guard_handshake(guard_t *guard, const address_t *remote, const uint8_t *m1_hash32, uint64_t flight_s,
                         uint64_t unix_s, uint64_t now_ns) noexcept nogil
    # steps 4, 5 and 5b of protocol.md 3.5. flight_s: the time in M1's envelope; remote: NULL on a pipe.
    # OK for one of all workers; E_REPLAY, E_CLOCK; E_RATE: this address; E_FULL: the node; E_MEMORY, E_ADDRESS
cdef int guard_half_open_begin(guard_t *guard) noexcept nogil           # from accept on, TCP or pipe: OK, E_FULL
cdef void guard_half_open_end(guard_t *guard) noexcept nogil            # session, sink or closed
cdef int guard_sink_begin(guard_t *guard) noexcept nogil                # OK, E_FULL: the caller closes its oldest
cdef void guard_sink_end(guard_t *guard) noexcept nogil
cdef int guard_session_begin(guard_t *guard, const address_t *remote, uint64_t now_ns) noexcept nogil
    # after M3; remote NULL on a pipe. OK: the address is known from now on; E_FULL, E_MEMORY, E_ADDRESS
cdef void guard_session_end(guard_t *guard, const address_t *remote) noexcept nogil     # of a session that began

cdef void guard_penalise(guard_t *guard, const address_t *remote, int penalty, uint64_t now_ns) noexcept nogil
    # takes points off a validated address and its network; nothing while it is refused
cdef int guard_score(guard_t *guard, const address_t *remote, uint64_t now_ns) noexcept nogil
    # 1..100, or 0 while refused; the lower of address and network

cdef uint32_t guard_scores_changed(guard_t *guard, uint32_t *set_idx, verdict_t *rows) noexcept nogil
    # tells what became worse since it was told before, SCORES_TOGETHER rows at most, and how many; set_idx: 0 to begin,
    # ADDRESS_SETS at the end
cdef void guard_verdict(guard_t *guard, const uint8_t *ip16, verdict_t *worse, uint64_t now_ns) noexcept nogil
    # the worse of the scores of an address and of its network
cdef bint access_holds(access_t **place, const uint8_t *peer_id32) noexcept nogil    # as guard_access_swap; not counted
cdef void guard_score_merge(guard_t *guard, const verdict_t *row, uint64_t now_ns) noexcept nogil   # as ledger_merge

cdef bint guard_allows(guard_t *guard, const uint8_t *peer_id32) noexcept nogil         # a session, after M3
cdef bint guard_allows_relay(guard_t *guard, const uint8_t *peer_id32) noexcept nogil   # the authenticated neighbour
cdef inline bint guard_is_spent(const guard_t *guard) noexcept nogil:
    return atomic_peek(&guard.is_spent) != 0
cdef bint guard_allows_target(guard_t *guard, const address_t *target) noexcept nogil   # address and port
cdef int guard_target_take(guard_t *guard, const uint8_t *peer_id32, uint64_t now_ns) noexcept nogil
    # before a new target is dialled for this neighbour: OK, E_RATE, E_MEMORY
cdef int guard_pipe_take(guard_t *guard, bucket_t *link, uint64_t now_ns) noexcept nogil
    # a pipe or relay stream that a peer opens; `link`: the bucket of its link. OK, E_RATE, E_FULL
cdef int guard_stream_take(guard_t *guard, bucket_t *session, uint64_t now_ns) noexcept nogil
    # a service stream; OK, E_RATE
cdef void guard_spend(guard_t *guard, uint64_t cpu_ns, uint64_t now_ns) noexcept nogil
    # others' handshakes took this long; guard_handshake refuses once that is too much
cdef int guard_peer_begin(guard_t *guard, const uint8_t *peer_id32, uint64_t *slot) noexcept nogil
    # a session over a pipe, after M3; slot is for guard_peer_end. OK, E_FULL
cdef int guard_link_begin(guard_t *guard, const uint8_t *peer_id32, uint32_t n_max, uint64_t *slot) noexcept nogil
    # a link whose peer has no instance, counted apart. OK, E_FULL
cdef bint guard_instance_swap(guard_t *guard, const uint8_t *peer_id32, uint64_t instance,
                              uint64_t now_ns) noexcept nogil
    # the instance of a link that is up; True when the one before had the same, False also when that is forgotten
cdef void guard_peer_end(guard_t *guard, uint64_t slot) noexcept nogil
