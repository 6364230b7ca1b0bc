# SPDX-License-Identifier: MIT
"""Admission: who may connect and how often, who may use this node, what is dialled for others (protocol.md 3, 6, 9).

One guard per node, which all its workers call: its limits are the node's. A lock, held for less than a microsecond,
keeps ledgers and tables whole; nothing that comes once per record or stream takes it. Any thread may read `counts`,
`penalties` and the `n_*` with atomic_peek and swap the access snapshots.

An address is compared in its 16-byte form, IPv4 as IPv4-mapped IPv6, so both spellings are one address. "Address" below
is an IPv4 /32 or an IPv6 /64, "network" a /24 or a /48. Exempt addresses have neither rates nor a score.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .memory cimport pool_t
from .replay cimport replay_t
from .sys cimport atomic_load_ptr, atomic_peek
from .table cimport table_t
from .wire cimport address_t

cdef enum:
    PREFIXES_MAX = 64           # of a prefix_list_t; more: E_FULL
    PORTS_MAX = 64
    ACCESS_MAX = 65536          # PeerIDs in an access_t
    ADDRESS_SETS = 16384        # 65,536 entries in sets of LEDGER_WAYS; 4 MiB, made of pages touched as used
    NEIGHBOUR_SETS = 1024       # 4,096 entries
    LEDGER_WAYS = 4
    PORT_DEFAULT = 7447
    CPU_WINDOW_MS = 100
    SCORE_MAX = 100
    SCORE_STEP = 10             # regained per SCORE_STEP_S, and left when a refusal ends
    SCORE_STEP_S = 600
    REFUSE_MIN_S = 600          # the first refusal; each one is twice the last until the score was SCORE_MAX again
    REFUSE_MAX_S = 86400

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
    N_GUARD_COUNTS = 21

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

ctypedef struct bucket_t:       # token bucket; zeroed = full
    uint64_t full_ns            # when it is full again, if nothing more is taken

ctypedef struct prefix_t:
    uint8_t ip[16]              # 16-byte form; bits behind len are ignored
    uint8_t len                 # bits, 0..128; IPv4 counts from 96

ctypedef struct prefix_list_t:
    uint32_t len
    prefix_t items[PREFIXES_MAX]

ctypedef struct policy_t:       # what the configuration says, but who is allowed; not changed while a guard has it
    guard_limits_t limits
    prefix_list_t exempt
    prefix_list_t own           # networks of this node, which a relay does not dial
    prefix_list_t listed        # networks that a relay dials although it otherwise would not
    uint16_t ports[PORTS_MAX]   # that a relay dials
    uint32_t n_ports

cdef enum access_policy_t:
    ACCESS_NONE = 0
    ACCESS_ANYONE = 1           # whoever is authenticated; in a closed network: its members
    ACCESS_LISTED = 2

ctypedef struct access_t:       # immutable once built; any thread may read it
    pool_t *pool                # borrowed; of the thread that builds and frees
    uint32_t policy             # access_policy_t
    uint32_t n_ids
    uint8_t ids[32]             # n_ids PeerIDs, ascending

ctypedef struct ledger_entry_t: # one address, network or neighbour
    uint64_t id                 # keyed hash of which; 0 = free
    uint64_t seen_ns            # last use; the oldest entry of a set is replaced, one that is refused last of all
    bucket_t accepts
    bucket_t handshakes
    bucket_t targets
    uint64_t scored_ns          # the next SCORE_STEP counts from here; of a neighbour, who has no score: its instance
    uint64_t refused_ns         # refused until
    uint8_t lost                # SCORE_MAX less the score
    uint8_t n_refusals          # since the score was last SCORE_MAX
    uint8_t is_known            # an address that had a session

ctypedef struct ledger_t:       # fixed memory: forgets its oldest entries, never refuses
    ledger_entry_t *entries     # owned; NULL until first used
    uint32_t n_sets             # power of two

ctypedef struct guard_t:
    policy_t *policy            # snapshot, atomic; borrowed, &first to begin with
    policy_t first              # set before start
    uint64_t lock               # of the pool, ledgers, tables, `node` and cpu_free_ns
    pool_t *pool                # borrowed; used by the guard alone, under its lock
    replay_t *replay            # borrowed
    access_t *access            # snapshot or NULL (nobody), atomic; borrowed: who may have a session
    access_t *relay             # the same: who may relay through this node
    uint8_t key[16]             # of all hashes
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

cdef int bucket_take(bucket_t *bucket, uint32_t rate_per_s, uint32_t burst, uint64_t now_ns) noexcept nogil
    # takes one token: OK, E_RATE

cdef int prefix_list_add(prefix_list_t *list, const uint8_t *ip, size_t ip_len, uint32_t prefix_len) noexcept nogil
    # ip of 4 or 16 bytes; OK, E_ADDRESS, E_FULL
cdef bint prefix_list_holds(const prefix_list_t *list, const uint8_t *ip16) noexcept nogil
    # ip in its 16-byte form. An IPv6 network never holds IPv4

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
