# SPDX-License-Identifier: MIT
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
"""Admission: rates, scores, access snapshots. Laws of the limits: protocol.md 9."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcmp, memcpy, memset

from .crypto cimport exactly, keyed_hash
from .ledger cimport (
    LEDGER_WAYS, SCORE_MAX, bucket_take, entry_t, ledger_changed, ledger_clear, ledger_find, ledger_id, ledger_init,
    ledger_merge, ledger_take, ledger_worsen, prefix_id, score_get, verdict_t)
from .memory cimport mem_give, mem_take, pool_clear, pool_init, pool_t
from .prefixes cimport (
    IP4_BITS, MARK_NONE, address_ip, is_ip4, marks_find, prefix_cut, prefix_list_add, prefix_list_holds, prefix_list_t,
    prefix_t)
from .replay cimport REPLAY_KEEP_S, replay_init, replay_insert, replay_lookup, replay_t
from .shared cimport lock_give, lock_take
from .status cimport E_ADDRESS, E_FULL, E_MEMORY, E_RATE, OK, PEER_ID_LEN
from .sys cimport atomic_add, atomic_exchange_ptr, atomic_load_ptr, atomic_peek
from .table cimport table_clear, table_drop, table_get, table_init, table_put, table_t
from .wire cimport ADDRESS_IP4, ADDRESS_IP6, ADDRESS_NAME, address_t

cdef enum:
    NETWORKS_MAX = 1048576      # limits.sessions is reached before

cdef uint64_t NS_PER_MS = 1000000
cdef uint8_t[5] PENALTY_POINTS = [1, 10, 20, 20, 50]
cdef prefix_list_t LOOPBACK
cdef prefix_list_t NEVER_DIALLED


# --- counting ---

cdef int answer(guard_t *guard, int outcome, int rc) noexcept nogil:
    """Count an outcome and return its code."""
    atomic_add(&guard.counts[outcome], 1)
    return rc


cdef inline int leave(guard_t *guard, int rc) noexcept nogil:
    """Give the lock back and return the code."""
    lock_give(&guard.lock)
    return rc


# --- networks ---

cdef prefix_t address_of(const uint8_t *ip16) noexcept nogil:
    return prefix_cut(ip16, IP4_BITS + 32 if is_ip4(ip16) else 64)


cdef prefix_t network_of(const uint8_t *ip16) noexcept nogil:
    return prefix_cut(ip16, IP4_BITS + 24 if is_ip4(ip16) else 48)


cdef int lists_fill() noexcept:
    """Fill the two constant lists; a code if an entry is wrong."""
    cdef int rc = OK
    for ip, prefix_len in ((bytes((127, 0, 0, 0)), 8), (bytes(15) + b"\x01", 128)):
        rc |= prefix_list_add(&LOOPBACK, ip, len(ip), prefix_len)
    for head, prefix_len in (
        ((0,), 8), ((127,), 8),                     # "this host" (Linux connects to itself), loopback
        ((10,), 8), ((172, 16), 12), ((192, 168), 16), ((100, 64), 10), ((169, 254), 16),  # private, CGNAT, link-local
        ((224,), 4), ((240,), 4),                   # multicast, reserved with the broadcast address
    ):
        rc |= prefix_list_add(&NEVER_DIALLED, bytes(head).ljust(4, b"\x00"), 4, prefix_len)
    for head, prefix_len in (
        (b"\x00", 8),                               # ::, ::1, and IPv4 embedded by translators (64:ff9b::/96)
        (b"\xfc", 7), (b"\xfe\x80", 10), (b"\xfe\xc0", 10), (b"\xff", 8),   # private, link-local, site-local, multicast
        (b"\x20\x02", 16),                          # 6to4: leads to any IPv4 address, unseen by the rules above
    ):
        rc |= prefix_list_add(&NEVER_DIALLED, bytes(head).ljust(16, b"\x00"), 16, prefix_len)
    return rc


if lists_fill() != OK:
    raise SystemError("a network of qg._core.guard is malformed")


cdef bint is_denied(const policy_t *policy, const uint8_t *ip16) noexcept nogil:
    cdef uint32_t mark = marks_find(policy.networks, ip16)
    return mark != MARK_NONE and policy.denials[mark] != 0


cdef bint is_exempt(const guard_t *guard, const uint8_t *ip16) noexcept nogil:
    if limits_of(guard).is_loopback_exempt and prefix_list_holds(&LOOPBACK, ip16):
        return True
    return prefix_list_holds(&guard_policy(guard).exempt, ip16)


# --- scores ---

cdef int prefix_score(guard_t *guard, const prefix_t *prefix, uint64_t now_ns) noexcept nogil:
    cdef entry_t *entry = ledger_find(&guard.addresses, prefix_id(&guard.addresses, prefix))
    return SCORE_MAX if entry is NULL else score_get(&entry.score, now_ns)


cdef int ip_score(guard_t *guard, const uint8_t *ip16, uint64_t now_ns) noexcept nogil:
    cdef prefix_t address = address_of(ip16), network = network_of(ip16)
    return min(prefix_score(guard, &address, now_ns), prefix_score(guard, &network, now_ns))


cdef int guard_score(guard_t *guard, const address_t *remote, uint64_t now_ns) noexcept nogil:
    cdef uint8_t[16] ip
    if address_ip(ip, remote) < 0 or is_exempt(guard, ip):
        return SCORE_MAX
    lock_take(&guard.lock)
    return leave(guard, ip_score(guard, ip, now_ns))


cdef void guard_penalise(guard_t *guard, const address_t *remote, int penalty, uint64_t now_ns) noexcept nogil:
    cdef uint8_t[16] ip
    cdef prefix_t address, network
    atomic_add(&guard.penalties[penalty], 1)
    if address_ip(ip, remote) < 0 or is_exempt(guard, ip):
        return
    address = address_of(ip)
    network = network_of(ip)
    lock_take(&guard.lock)
    ledger_worsen(&guard.addresses, &address, PENALTY_POINTS[penalty], now_ns)
    ledger_worsen(&guard.addresses, &network, PENALTY_POINTS[penalty], now_ns)
    lock_give(&guard.lock)


cdef void guard_verdict(guard_t *guard, const uint8_t *ip16, verdict_t *worse, uint64_t now_ns) noexcept nogil:
    cdef prefix_t[2] prefixes
    cdef const entry_t *entry
    cdef verdict_t found
    cdef int i
    prefixes[0] = address_of(ip16)
    prefixes[1] = network_of(ip16)
    memset(worse, 0, sizeof(verdict_t))
    worse.prefix = prefixes[0]
    lock_take(&guard.lock)
    for i in range(2):
        entry = ledger_find(&guard.addresses, prefix_id(&guard.addresses, &prefixes[i]))
        if entry is NULL:
            continue
        found.prefix = prefixes[i]
        found.score = entry.score
        if score_get(&found.score, now_ns) < score_get(&worse.score, now_ns):
            worse[0] = found
    lock_give(&guard.lock)


cdef uint32_t guard_scores_changed(guard_t *guard, uint32_t *set_idx, verdict_t *rows) noexcept nogil:
    cdef uint32_t n
    lock_take(&guard.lock)
    n = ledger_changed(&guard.addresses, set_idx, SCORES_TOGETHER // LEDGER_WAYS, rows)
    lock_give(&guard.lock)
    return n


cdef void guard_score_merge(guard_t *guard, const verdict_t *row, uint64_t now_ns) noexcept nogil:
    lock_take(&guard.lock)
    ledger_merge(&guard.addresses, row, now_ns)
    lock_give(&guard.lock)


# --- access snapshots ---

cdef void id_sift(uint8_t *ids, size_t root, size_t n_ids) noexcept nogil:
    """Let the PeerID at root sink to its place in the heap below it."""
    cdef uint8_t[32] held
    cdef size_t child
    memcpy(held, ids + root * PEER_ID_LEN, PEER_ID_LEN)
    while True:
        child = root * 2 + 1
        if child >= n_ids:
            break
        if child + 1 < n_ids and memcmp(ids + child * PEER_ID_LEN, ids + (child + 1) * PEER_ID_LEN, PEER_ID_LEN) < 0:
            child += 1
        if memcmp(held, ids + child * PEER_ID_LEN, PEER_ID_LEN) >= 0:
            break
        memcpy(ids + root * PEER_ID_LEN, ids + child * PEER_ID_LEN, PEER_ID_LEN)
        root = child
    memcpy(ids + root * PEER_ID_LEN, held, PEER_ID_LEN)


cdef void ids_sort(uint8_t *ids, size_t n_ids) noexcept nogil:
    """Heap sort: in place, no bad case; the qsort of some C libraries allocates."""
    cdef uint8_t[32] first
    cdef size_t i
    for i in range(n_ids // 2, 0, -1):
        id_sift(ids, i - 1, n_ids)
    for i in range(n_ids, 1, -1):
        memcpy(first, ids, PEER_ID_LEN)
        memcpy(ids, ids + (i - 1) * PEER_ID_LEN, PEER_ID_LEN)
        memcpy(ids + (i - 1) * PEER_ID_LEN, first, PEER_ID_LEN)
        id_sift(ids, 0, i - 1)


cdef access_t *guard_access_build(pool_t *pool, int policy, const uint8_t *ids, size_t n_ids) noexcept nogil:
    cdef access_t *access
    if n_ids > ACCESS_MAX:
        return NULL
    access = <access_t *>mem_take(pool, sizeof(access_t) + n_ids * PEER_ID_LEN)
    if access is NULL:
        return NULL
    access.pool = pool
    access.policy = policy
    access.n_ids = <uint32_t>n_ids
    if n_ids:
        memcpy(&access.ids[0], ids, n_ids * PEER_ID_LEN)
        ids_sort(&access.ids[0], n_ids)
    return access


cdef void guard_access_free(access_t *access) noexcept nogil:
    if access is not NULL:
        mem_give(access.pool, access, sizeof(access_t) + access.n_ids * <size_t>PEER_ID_LEN)


cdef access_t *guard_access_swap(access_t **place, access_t *access) noexcept nogil:
    return <access_t *>atomic_exchange_ptr(<void **>place, access)


cdef bint access_holds(access_t **place, const uint8_t *peer_id32) noexcept nogil:
    cdef const access_t *access = <access_t *>atomic_load_ptr(<void **>place)
    cdef size_t low = 0, high, middle
    cdef int order
    if access is NULL:
        return False
    high = access.n_ids
    while low < high:
        middle = (low + high) // 2
        order = memcmp(&access.ids[0] + middle * PEER_ID_LEN, peer_id32, PEER_ID_LEN)
        if order == 0:
            return access.policy == ACCESS_NONE
        if order < 0:
            low = middle + 1
        else:
            high = middle
    return access.policy == ACCESS_ANYONE


# --- admission ---

cdef void guard_limits_default(guard_limits_t *limits) noexcept nogil:
    limits.accepts_per_s = 10
    limits.accepts_burst = 20
    limits.handshakes_per_s = 5
    limits.handshakes_burst = 20
    limits.network_handshakes_per_s = 20
    limits.network_handshakes_burst = 60
    limits.node_handshakes_per_s = 500
    limits.half_open = 1024
    limits.sinks = 256
    limits.sessions = 10000
    limits.network_sessions = 32
    limits.pipes_per_s = 50
    limits.pipes_burst = 200
    limits.pipes = 65536
    limits.streams_per_s = 5000
    limits.peer_pipe_sessions = 8
    limits.handshake_cpu_ms = 20
    limits.targets_per_s = 1        # 10 in 10 s
    limits.targets_burst = 10
    limits.is_loopback_exempt = 1


cdef void policy_init(policy_t *policy) noexcept nogil:
    memset(policy, 0, sizeof(policy_t))
    guard_limits_default(&policy.limits)
    policy.ports[0] = PORT_DEFAULT
    policy.n_ports = 1
    policy.widths[0].n_bits = IP4_BITS + 24
    policy.widths[0].is_ip4 = 1
    policy.widths[1].n_bits = 48
    policy.n_widths = 2


cdef int guard_init(guard_t *guard, pool_t *pool, replay_t *replay, const uint8_t *key16) noexcept nogil:
    memset(guard, 0, sizeof(guard_t))
    policy_init(&guard.first)
    guard.policy = &guard.first
    guard.pool = pool
    guard.replay = replay
    ledger_init(&guard.addresses, pool, ADDRESS_SETS, key16)
    ledger_init(&guard.neighbours, pool, NEIGHBOUR_SETS, key16)
    table_init(&guard.networks, pool, NETWORKS_MAX, keyed_hash(key16, <const char *>b"networks", 8))
    table_init(&guard.peers, pool, NETWORKS_MAX, keyed_hash(key16, <const char *>b"peers", 5))
    return OK


cdef void guard_clear(guard_t *guard) noexcept nogil:
    ledger_clear(&guard.addresses)
    ledger_clear(&guard.neighbours)
    table_clear(&guard.networks)
    table_clear(&guard.peers)


cdef int policy_ports_set(policy_t *policy, const uint16_t *ports, size_t n_ports) noexcept nogil:
    if n_ports > PORTS_MAX:
        return E_FULL
    memcpy(&policy.ports[0], ports, n_ports * sizeof(uint16_t))
    policy.n_ports = <uint32_t>n_ports
    return OK


cdef policy_t *guard_policy_swap(guard_t *guard, policy_t *policy) noexcept nogil:
    return <policy_t *>atomic_exchange_ptr(<void **>&guard.policy, policy)


cdef int guard_accept(guard_t *guard, const address_t *remote, uint64_t now_ns) noexcept nogil:
    cdef uint8_t[16] ip
    if address_ip(ip, remote) < 0:
        return E_ADDRESS
    lock_take(&guard.lock)
    return leave(guard, ip_accept(guard, ip, now_ns))


cdef int ip_accept(guard_t *guard, const uint8_t *ip, uint64_t now_ns) noexcept nogil:
    cdef const guard_limits_t *limits = limits_of(guard)
    cdef entry_t *entry
    cdef uint64_t n_slots = limits.half_open
    cdef prefix_t address
    if is_denied(guard_policy(guard), ip):
        return answer(guard, GUARD_NETWORK_DENIED, E_RATE)
    if not is_exempt(guard, ip):
        address = address_of(ip)
        if ip_score(guard, ip, now_ns) == 0:
            return answer(guard, GUARD_REFUSED, E_RATE)
        entry = ledger_take(&guard.addresses, prefix_id(&guard.addresses, &address), now_ns)
        if entry is NULL:
            return E_MEMORY
        if bucket_take(&entry.accepts, limits.accepts_per_s, limits.accepts_burst, now_ns) < 0:
            return answer(guard, GUARD_ACCEPT_RATE, E_RATE)
        if not entry.is_known:
            n_slots -= n_slots // 10
    if guard.n_half_open >= n_slots:
        return answer(guard, GUARD_HALF_OPEN_FULL, E_FULL)
    return answer(guard, GUARD_ACCEPTED, OK)


cdef int handshake_rates(guard_t *guard, const uint8_t *ip16, uint64_t now_ns) noexcept nogil:
    cdef const guard_limits_t *limits = limits_of(guard)
    cdef entry_t *entry
    cdef prefix_t address = address_of(ip16), network = network_of(ip16)
    if ip_score(guard, ip16, now_ns) == 0:
        return answer(guard, GUARD_REFUSED, E_RATE)
    entry = ledger_take(&guard.addresses, prefix_id(&guard.addresses, &address), now_ns)
    if entry is NULL:
        return E_MEMORY
    if bucket_take(&entry.handshakes, limits.handshakes_per_s, limits.handshakes_burst, now_ns) < 0:
        return answer(guard, GUARD_ADDRESS_RATE, E_RATE)
    entry = ledger_take(&guard.addresses, prefix_id(&guard.addresses, &network), now_ns)     # the table exists by now
    if bucket_take(&entry.handshakes, limits.network_handshakes_per_s, limits.network_handshakes_burst, now_ns) < 0:
        return answer(guard, GUARD_NETWORK_RATE, E_RATE)
    return OK


cdef int rates_take(guard_t *guard, const uint8_t *ip16, uint64_t now_ns) noexcept nogil:
    """ip16: NULL on a pipe."""
    cdef const guard_limits_t *limits = limits_of(guard)
    cdef int rc
    if ip16 is not NULL and not is_exempt(guard, ip16):
        rc = handshake_rates(guard, ip16, now_ns)
        if rc < 0:
            return rc
    if guard.cpu_free_ns > now_ns + CPU_WINDOW_MS * NS_PER_MS:
        return answer(guard, GUARD_CPU, E_FULL)
    if bucket_take(&guard.node, limits.node_handshakes_per_s, limits.node_handshakes_per_s, now_ns) < 0:
        return answer(guard, GUARD_NODE_RATE, E_FULL)
    return OK


cdef int guard_handshake(guard_t *guard, const address_t *remote, const uint8_t *m1_hash32, uint64_t flight_s,
                         uint64_t unix_s, uint64_t now_ns) noexcept nogil:
    cdef uint8_t[16] ip
    cdef int rc
    if remote is not NULL and address_ip(ip, remote) < 0:
        return E_ADDRESS
    rc = replay_lookup(guard.replay, m1_hash32, flight_s, unix_s)
    if rc < 0:
        return answer(guard, GUARD_REPLAY, rc)
    lock_take(&guard.lock)
    rc = leave(guard, rates_take(guard, NULL if remote is NULL else ip, now_ns))
    if rc < 0:
        return rc
    rc = replay_insert(guard.replay, m1_hash32, flight_s, unix_s)
    if rc < 0:
        return answer(guard, GUARD_REPLAY_FULL if rc == E_FULL else GUARD_REPLAY, rc)
    return answer(guard, GUARD_ADMITTED, OK)


cdef void guard_spend(guard_t *guard, uint64_t cpu_ns, uint64_t now_ns) noexcept nogil:
    cdef uint64_t cpu_ms = max(limits_of(guard).handshake_cpu_ms, <uint32_t>1)
    lock_take(&guard.lock)
    guard.cpu_free_ns = max(guard.cpu_free_ns, now_ns) + cpu_ns * CPU_WINDOW_MS // cpu_ms
    lock_give(&guard.lock)


cdef bint count_take(uint64_t *count, uint64_t max) noexcept nogil:
    """One more, unless there are so many already: exact whichever threads count."""
    if atomic_add(count, 1) < max:
        return True
    atomic_add(count, -1)
    return False


cdef int guard_half_open_begin(guard_t *guard) noexcept nogil:
    if count_take(&guard.n_half_open, limits_of(guard).half_open):
        return OK
    return answer(guard, GUARD_HALF_OPEN_FULL, E_FULL)


cdef void guard_half_open_end(guard_t *guard) noexcept nogil:
    atomic_add(&guard.n_half_open, -1)


cdef int guard_sink_begin(guard_t *guard) noexcept nogil:
    if count_take(&guard.n_sinks, limits_of(guard).sinks):
        return OK
    return answer(guard, GUARD_SINKS_FULL, E_FULL)


cdef void guard_sink_end(guard_t *guard) noexcept nogil:
    atomic_add(&guard.n_sinks, -1)


cdef int count_put(table_t *table, uint64_t id, uintptr_t n) noexcept nogil:
    """Tables of counts hold no zeros. A smaller count always finds its place."""
    table_drop(table, id)
    return table_put(table, id, <void *>n) if n else OK


cdef int peer_begin(guard_t *guard, uint64_t id, uint32_t n_max, uint64_t *slot) noexcept nogil:
    cdef uintptr_t n
    lock_take(&guard.lock)
    n = <uintptr_t>table_get(&guard.peers, id)
    if n >= n_max or count_put(&guard.peers, id, n + 1) < 0:
        return leave(guard, answer(guard, GUARD_PEER_FULL, E_FULL))
    slot[0] = id
    return leave(guard, OK)


cdef int guard_peer_begin(guard_t *guard, const uint8_t *peer_id32, uint64_t *slot) noexcept nogil:
    cdef uint64_t id = ledger_id(&guard.addresses, peer_id32, PEER_ID_LEN)
    return peer_begin(guard, id, limits_of(guard).peer_pipe_sessions, slot)


cdef int guard_link_begin(guard_t *guard, const uint8_t *peer_id32, uint32_t n_max, uint64_t *slot) noexcept nogil:
    return peer_begin(guard, ~ledger_id(&guard.addresses, peer_id32, PEER_ID_LEN), n_max, slot)


cdef void guard_peer_end(guard_t *guard, uint64_t slot) noexcept nogil:
    lock_take(&guard.lock)
    count_put(&guard.peers, slot, <uintptr_t>table_get(&guard.peers, slot) - 1)
    lock_give(&guard.lock)


cdef int networks_count(guard_t *guard, const uint8_t *ip16, int change, uint32_t n_widths) noexcept nogil:
    """One session more or less in the networks around an address, of the first widths."""
    cdef const policy_t *policy = guard_policy(guard)
    cdef prefix_t prefix
    cdef uint64_t id
    cdef uint32_t i
    cdef int rc
    for i in range(n_widths):
        if policy.widths[i].is_ip4 != is_ip4(ip16):
            continue
        prefix = prefix_cut(ip16, policy.widths[i].n_bits)
        id = prefix_id(&guard.addresses, &prefix)
        rc = count_put(&guard.networks, id, <uintptr_t>table_get(&guard.networks, id) + change)
        if rc < 0:
            networks_count(guard, ip16, -change, i)
            return rc
    return OK


cdef bint are_networks_full(guard_t *guard, const uint8_t *ip16) noexcept nogil:
    cdef const policy_t *policy = guard_policy(guard)
    cdef const width_t *width
    cdef prefix_t prefix
    cdef uintptr_t n
    cdef uint32_t i
    for i in range(policy.n_widths):
        width = &policy.widths[i]
        if width.is_ip4 != is_ip4(ip16):
            continue
        prefix = prefix_cut(ip16, width.n_bits)
        n = <uintptr_t>table_get(&guard.networks, prefix_id(&guard.addresses, &prefix))
        if n >= (width.sessions if width.sessions else policy.limits.network_sessions):
            return True
    return False


cdef int network_begin(guard_t *guard, const uint8_t *ip16, uint64_t now_ns) noexcept nogil:
    cdef bint exempt = is_exempt(guard, ip16)
    cdef prefix_t address = address_of(ip16)
    cdef entry_t *entry
    cdef int rc
    if not exempt and are_networks_full(guard, ip16):
        return E_FULL
    # All are counted: who is exempt may change while a session runs.
    rc = networks_count(guard, ip16, 1, guard_policy(guard).n_widths)
    if rc < 0 or exempt:
        return rc
    entry = ledger_take(&guard.addresses, prefix_id(&guard.addresses, &address), now_ns)
    if entry is not NULL:
        entry.is_known = 1
    return OK


cdef int guard_session_begin(guard_t *guard, const address_t *remote, uint64_t now_ns) noexcept nogil:
    cdef uint8_t[16] ip
    cdef int rc = OK
    if remote is not NULL and address_ip(ip, remote) < 0:
        return E_ADDRESS
    if not count_take(&guard.n_sessions, limits_of(guard).sessions):
        return answer(guard, GUARD_SESSIONS_FULL, E_FULL)
    if remote is not NULL:
        lock_take(&guard.lock)
        rc = leave(guard, network_begin(guard, ip, now_ns))
    if rc < 0:
        atomic_add(&guard.n_sessions, -1)
        return answer(guard, GUARD_SESSIONS_FULL, rc)
    return OK


cdef void guard_session_end(guard_t *guard, const address_t *remote) noexcept nogil:
    cdef uint8_t[16] ip
    atomic_add(&guard.n_sessions, -1)
    if remote is NULL or address_ip(ip, remote) < 0:
        return
    lock_take(&guard.lock)
    networks_count(guard, ip, -1, guard_policy(guard).n_widths)
    lock_give(&guard.lock)


# --- who and what ---

cdef bint guard_allows(guard_t *guard, const uint8_t *peer_id32) noexcept nogil:
    if access_holds(&guard.access, peer_id32):
        return True
    return answer(guard, GUARD_PEER_DENIED, False)


cdef bint guard_allows_relay(guard_t *guard, const uint8_t *peer_id32) noexcept nogil:
    if access_holds(&guard.relay, peer_id32):
        return True
    return answer(guard, GUARD_RELAY_DENIED, False)


cdef bint is_target(const policy_t *policy, const address_t *target) noexcept nogil:
    cdef uint8_t[16] ip
    cdef uint32_t i
    if address_ip(ip, target) < 0:
        return False
    for i in range(policy.n_ports):
        if policy.ports[i] == target.port:
            break
    else:
        return False
    if is_denied(policy, ip):
        return False
    if prefix_list_holds(&policy.listed, ip):
        return True
    return not prefix_list_holds(&policy.own, ip) and not prefix_list_holds(&NEVER_DIALLED, ip)


cdef bint guard_allows_target(guard_t *guard, const address_t *target) noexcept nogil:
    if is_target(guard_policy(guard), target):
        return True
    return answer(guard, GUARD_TARGET_DENIED, False)


cdef int guard_target_take(guard_t *guard, const uint8_t *peer_id32, uint64_t now_ns) noexcept nogil:
    cdef uint64_t id = ledger_id(&guard.addresses, peer_id32, PEER_ID_LEN)
    cdef entry_t *entry
    cdef int rc = E_MEMORY
    lock_take(&guard.lock)
    entry = ledger_take(&guard.neighbours, id, now_ns)
    if entry is not NULL:
        rc = bucket_take(&entry.targets, limits_of(guard).targets_per_s, limits_of(guard).targets_burst, now_ns)
    lock_give(&guard.lock)
    return answer(guard, GUARD_TARGET_RATE, rc) if rc == E_RATE else rc


cdef bint guard_instance_swap(guard_t *guard, const uint8_t *peer_id32, uint64_t instance,
                              uint64_t now_ns) noexcept nogil:
    cdef uint64_t id = ledger_id(&guard.addresses, peer_id32, PEER_ID_LEN)
    cdef entry_t *entry
    cdef bint is_same = False
    lock_take(&guard.lock)
    entry = ledger_take(&guard.neighbours, id, now_ns)
    if entry is not NULL:
        is_same = entry.score.scored_ns == instance
        entry.score.scored_ns = instance
    lock_give(&guard.lock)
    return is_same


cdef int guard_stream_take(guard_t *guard, bucket_t *session, uint64_t now_ns) noexcept nogil:
    if bucket_take(session, limits_of(guard).streams_per_s, limits_of(guard).streams_per_s, now_ns) < 0:
        return answer(guard, GUARD_STREAM_RATE, E_RATE)
    return OK


cdef int guard_pipe_take(guard_t *guard, bucket_t *link, uint64_t now_ns) noexcept nogil:
    if atomic_peek(&guard.n_far_ends) + atomic_peek(&guard.n_splices) >= limits_of(guard).pipes:
        return answer(guard, GUARD_PIPES_FULL, E_FULL)
    if bucket_take(link, limits_of(guard).pipes_per_s, limits_of(guard).pipes_burst, now_ns) < 0:
        return answer(guard, GUARD_PIPE_RATE, E_RATE)
    return OK


# --- owner ---

COUNT_NAMES = (
    "accepted", "accept_rate", "refused", "half_open_full", "admitted", "replay", "address_rate", "network_rate",
    "node_rate", "replay_full", "sinks_full", "sessions_full", "peer_denied", "relay_denied", "target_denied",
    "target_rate", "pipe_rate", "pipes_full", "stream_rate", "peer_full", "cpu", "network_denied",
)


cdef address_t address_make(bytes ip, uint16_t port):
    """Make an address of 4 or 16 bytes; any other length stands for a name."""
    cdef address_t address
    memset(&address, 0, sizeof(address))
    address.port = port
    address.type = {4: ADDRESS_IP4, 16: ADDRESS_IP6}.get(len(ip), ADDRESS_NAME)
    if address.type != ADDRESS_NAME:
        memcpy(&address.ip[0], <const char *>ip, len(ip))
    return address


cdef class Guard:
    """Own a guard and, unless it `shares` another one's, a replay filter; for tests, the simulator and fuzzers.

    Limits are given by the names of guard_limits_t. Addresses are `ip` of 4 or 16 bytes, None where a pipe has none.
    Methods return status codes unless said. One thread at a time.
    """
    cdef pool_t pool
    cdef guard_t guard
    cdef replay_t replay
    cdef uint64_t *slots
    cdef size_t slots_len
    cdef Guard lender

    def __cinit__(self, bytes key not None=bytes(16), uint32_t n_replay_slots=4096, Guard shares=None, **limits):
        pool_init(&self.pool, 0)
        self.lender = shares
        exactly(key, 16, "a key")
        if shares is None:
            self.slots_len = n_replay_slots * sizeof(uint64_t)
            self.slots = <uint64_t *>mem_take(&self.pool, self.slots_len)
            if self.slots is NULL:
                raise MemoryError
            if replay_init(&self.replay, self.slots, n_replay_slots, REPLAY_KEEP_S, key) != OK:
                raise ValueError("slots are a power of two and at least 64")
        guard_init(&self.guard, &self.pool, &self.replay if shares is None else shares.guard.replay, key)
        values = self.limits
        if not limits.keys() <= values.keys():
            raise ValueError(f"limits are {', '.join(sorted(values))}")
        self.guard.first.limits = values | limits

    def __dealloc__(self):
        guard_clear(&self.guard)
        guard_access_free(self.guard.access)
        guard_access_free(self.guard.relay)
        mem_give(&self.pool, self.slots, self.slots_len)
        pool_clear(&self.pool)

    @property
    def limits(self):
        """The limits by name."""
        return dict(self.guard.first.limits)

    @property
    def counts(self):
        """How often each outcome came, by name."""
        return {name: atomic_peek(&self.guard.counts[i]) for i, name in enumerate(COUNT_NAMES)}

    @property
    def penalties(self):
        """How often each penalty was given, by number."""
        return [atomic_peek(&self.guard.penalties[i]) for i in range(N_PENALTIES)]

    @property
    def n_open(self):
        """Half-open connections, sinks and sessions."""
        cdef guard_t *guard = &self.guard
        return atomic_peek(&guard.n_half_open), atomic_peek(&guard.n_sinks), atomic_peek(&guard.n_sessions)

    @property
    def memory_len(self):
        """Bytes taken so far, without the replay filter."""
        return self.pool.plain_len - self.slots_len

    def accept(self, bytes ip not None, uint64_t now_ns):
        """Ask for a new connection."""
        cdef address_t remote = address_make(ip, 0)
        return guard_accept(&self.guard, &remote, now_ns)

    def handshake(self, bytes ip, bytes m1_hash not None, uint64_t flight_s, uint64_t unix_s, uint64_t now_ns):
        """Ask for a handshake whose first message has this hash and time."""
        cdef address_t remote = address_make(ip or b"", 0)
        return guard_handshake(&self.guard, NULL if ip is None else &remote, exactly(m1_hash, 32, "a hash"), flight_s,
                               unix_s, now_ns)

    def spend(self, uint64_t cpu_ns, uint64_t now_ns):
        """Tell how long handshakes took."""
        guard_spend(&self.guard, cpu_ns, now_ns)

    def peer_begin(self, bytes peer_id not None):
        """Ask for a session over a pipe: (status code, slot)."""
        cdef uint64_t slot = 0
        cdef int rc = guard_peer_begin(&self.guard, exactly(peer_id, PEER_ID_LEN, "a PeerID"), &slot)
        return rc, slot

    def peer_end(self, uint64_t slot):
        guard_peer_end(&self.guard, slot)

    def half_open_begin(self):
        return guard_half_open_begin(&self.guard)

    def half_open_end(self):
        guard_half_open_end(&self.guard)

    def sink_begin(self):
        return guard_sink_begin(&self.guard)

    def sink_end(self):
        guard_sink_end(&self.guard)

    def session_begin(self, bytes ip, uint64_t now_ns):
        cdef address_t remote = address_make(ip or b"", 0)
        return guard_session_begin(&self.guard, NULL if ip is None else &remote, now_ns)

    def session_end(self, bytes ip):
        cdef address_t remote = address_make(ip or b"", 0)
        guard_session_end(&self.guard, NULL if ip is None else &remote)

    def penalise(self, bytes ip not None, int penalty, uint64_t now_ns):
        """Take points off an address."""
        cdef address_t remote = address_make(ip, 0)
        if not 0 <= penalty < N_PENALTIES:
            raise ValueError("no such penalty")
        guard_penalise(&self.guard, &remote, penalty, now_ns)

    def score(self, bytes ip not None, uint64_t now_ns):
        """Return the score of an address."""
        cdef address_t remote = address_make(ip, 0)
        return guard_score(&self.guard, &remote, now_ns)

    def set_access(self, int policy, peer_ids=()):
        """Say who may have a session: ACCESS_NONE 0 or ACCESS_ANYONE 1, and the PeerIDs that are exceptions."""
        guard_access_free(guard_access_swap(&self.guard.access, self.access_build(policy, peer_ids)))

    def set_relay(self, int policy, peer_ids=()):
        """Say who may relay, as `set_access`."""
        guard_access_free(guard_access_swap(&self.guard.relay, self.access_build(policy, peer_ids)))

    cdef access_t *access_build(self, int policy, peer_ids) except NULL:
        cdef bytes ids = b"".join([exactly(peer_id, PEER_ID_LEN, "a PeerID") for peer_id in peer_ids])
        cdef access_t *access = guard_access_build(&self.pool, policy, ids, len(ids) // PEER_ID_LEN)
        if access is NULL:
            raise MemoryError(f"at most {ACCESS_MAX} PeerIDs")
        return access

    def allows(self, bytes peer_id not None):
        """Tell whether a peer may have a session."""
        return guard_allows(&self.guard, exactly(peer_id, PEER_ID_LEN, "a PeerID"))

    def allows_relay(self, bytes peer_id not None):
        """Tell whether a neighbour may relay."""
        return guard_allows_relay(&self.guard, exactly(peer_id, PEER_ID_LEN, "a PeerID"))

    def exempt(self, bytes ip not None, uint32_t prefix_len):
        """Take a network out of the rates and scores per address."""
        return prefix_list_add(&self.guard.first.exempt, ip, len(ip), prefix_len)

    def own(self, bytes ip not None, uint32_t prefix_len):
        """Name a network of this node."""
        return prefix_list_add(&self.guard.first.own, ip, len(ip), prefix_len)

    def list_target(self, bytes ip not None, uint32_t prefix_len):
        """Let a network be dialled for others whatever it is."""
        return prefix_list_add(&self.guard.first.listed, ip, len(ip), prefix_len)

    def set_ports(self, ports):
        """Say which ports may be dialled for others."""
        cdef uint16_t[256] values
        if len(ports) > 256:
            raise ValueError("too many ports")
        for i, port in enumerate(ports):
            values[i] = port
        return policy_ports_set(&self.guard.first, values, len(ports))

    def allows_target(self, bytes ip not None, uint16_t port):
        """Tell whether a target may be dialled for others."""
        cdef address_t target = address_make(ip, port)
        return guard_allows_target(&self.guard, &target)

    def target_take(self, bytes peer_id not None, uint64_t now_ns):
        """Charge a new target to a neighbour."""
        return guard_target_take(&self.guard, exactly(peer_id, PEER_ID_LEN, "a PeerID"), now_ns)
