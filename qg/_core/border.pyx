# SPDX-License-Identifier: MIT
"""What crosses between Python and the core: options, addresses and bytes in, events out."""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.pycapsule cimport PyCapsule_CheckExact, PyCapsule_GetPointer
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .abi cimport QG_EXTENDER_CAPSULE, QG_EXTENDER_VERSION, qg_extender_v1
from .channel cimport engine_config_t, hop_t
from .cover cimport COVER_OFF, cover_config_t
from .crypto cimport SUITE_CHACHA20_POLY1305, crypto_suites, exactly, keyed_hash
from .envelope cimport network_derive
from .flow cimport (
    EVENT_CONNECT_FAILED, EVENT_IDENTITY_TWICE, EVENT_LISTENING, EVENT_PEERS, EVENT_PEER_DOWN, EVENT_PEER_UP,
    EVENT_PONG, EVENT_SERVICES, EVENT_STREAM_DATA, EVENT_STREAM_DONE, EVENT_STREAM_OPEN, EVENT_STREAM_RESET,
    EVENT_STREAM_SENT, EVENT_TAMPERED, event_t)
from .guard cimport (
    ACCESS_ANYONE, ACCESS_NONE, ADDRESS_SETS, PORTS_MAX, SCORES_TOGETHER, WIDTHS_MAX, access_t, guard_access_build,
    guard_limits_t, guard_score_merge, guard_scores_changed, guard_t, guard_verdict, policy_ports_set, policy_t)
from .handshake cimport local_t
from .keyfile cimport NetworkSecret
from .ledger cimport N_REFUSALS_MAX, REFUSE_MAX_S, SCORE_MAX, score_get, score_t, verdict_t
from .memory cimport (
    block_class_for, block_give_remote, block_len, block_start, block_t, block_take, chain_clear, chain_push, chain_t,
    mem_give, mem_take, pool_t)
from .prefixes cimport (
    IP4_BITS, MARK_NONE, PREFIXES_MAX, ip_get, marks_find, marks_free, marks_take, prefix_cut, prefix_list_add,
    prefix_list_t)
from .rate cimport NEIGHBOURS, rate_set, rate_t, rates_t
from .status cimport E_MEMORY, OK, SEND_QUEUE_MAX, SESSION_WINDOW_MAX, WINDOW_MAX
from .sys cimport SECOND_NS, atomic_store
from .wire cimport ADDRESS_IP4, ADDRESS_IP6, ADDRESS_NAME, RELAY_ADDRESSES_MAX, address_t

cdef enum:
    BURST_MIN = 65536           # of a rate: one read of a slow link
    BURST_ANY = 1 << 30
    WRITE_MAX = 65536           # payload of one block: what is behind it stays free for padding in place


cdef uint64_t RATE_ANY = <uint64_t>1 << 36      # bytes a second


# Options

cdef int prefixes_fill(prefix_list_t *prefixes, dict options, str name) except -1:
    cdef bytes ip
    for ip, n_bits in options.get(name, ()):
        if prefix_list_add(prefixes, ip, len(ip), n_bits) < 0:
            raise ValueError("%s: more than %d networks, or one that is malformed" % (name, PREFIXES_MAX))
    return 0


cdef int ports_fill(policy_t *policy, ports) except -1:
    cdef uint16_t[PORTS_MAX] listed
    if ports is None:
        return 0
    if len(ports) > PORTS_MAX:
        raise ValueError(f"relay_ports: at most {PORTS_MAX} ports, not {len(ports)}")
    for i, port in enumerate(ports):
        listed[i] = port
    policy_ports_set(policy, listed, len(ports))
    return 0


cdef int limits_fill(guard_limits_t *limits, dict options) except -1:
    limits.is_loopback_exempt = 1 if options.get("is_loopback_exempt", True) else 0
    limits.half_open = options.get("max_half_open", limits.half_open)
    limits.sinks = options.get("max_sinks", limits.sinks)
    limits.sessions = options.get("max_sessions", limits.sessions)
    limits.network_sessions = options.get("network_sessions", limits.network_sessions)
    limits.accepts_per_s = options.get("accepts_per_s", limits.accepts_per_s)
    limits.accepts_burst = options.get("accepts_burst", limits.accepts_burst)
    limits.handshakes_per_s = options.get("address_handshakes_per_s", limits.handshakes_per_s)
    limits.handshakes_burst = options.get("address_handshakes_burst", limits.handshakes_burst)
    limits.network_handshakes_per_s = options.get("network_handshakes_per_s", limits.network_handshakes_per_s)
    limits.network_handshakes_burst = options.get("network_handshakes_burst", limits.network_handshakes_burst)
    limits.pipes_per_s = options.get("pipes_per_s", limits.pipes_per_s)
    limits.pipes_burst = options.get("pipes_burst", limits.pipes_burst)
    limits.pipes = options.get("max_node_pipes", limits.pipes)
    limits.streams_per_s = options.get("streams_per_s", limits.streams_per_s)
    limits.peer_pipe_sessions = options.get("peer_pipe_sessions", limits.peer_pipe_sessions)
    limits.handshake_cpu_ms = options.get("handshake_cpu_ms", limits.handshake_cpu_ms)
    limits.node_handshakes_per_s = options.get("handshakes_per_s", limits.node_handshakes_per_s)
    return 0


cdef int widths_fill(policy_t *policy, widths) except -1:
    """Limits of sessions by the width of a network: (is IPv4, bits, sessions)."""
    if policy.n_widths + len(widths) > WIDTHS_MAX:
        raise ValueError(f"network_widths: at most {WIDTHS_MAX - policy.n_widths}")
    for is_ip4, n_bits, n_sessions in widths:
        policy.widths[policy.n_widths].is_ip4 = is_ip4
        policy.widths[policy.n_widths].n_bits = n_bits + IP4_BITS if is_ip4 else n_bits
        policy.widths[policy.n_widths].sessions = n_sessions
        policy.n_widths += 1
    return 0


cdef int policy_fill(policy_t *policy, dict options) except -1:
    prefixes_fill(&policy.listed, options, "relay_targets")
    prefixes_fill(&policy.exempt, options, "exempt")
    prefixes_fill(&policy.own, options, "own_networks")
    ports_fill(policy, options.get("relay_ports"))
    widths_fill(policy, options.get("network_widths", ()))
    return limits_fill(&policy.limits, options)


cdef int networks_take(policy_t *policy, pool_t *pool, dict options) except -1:
    """What is said of networks, and which of them are denied; `networks_free` gives it back."""
    cdef list networks = list(options.get("networks", ()))
    cdef bytes denials = options.get("denials", b"")
    if not networks:
        return 0
    if len(denials) != len(networks):
        raise ValueError("denials: one byte for each network")
    policy.networks = marks_take(pool, networks)
    policy.denials = <uint8_t *>mem_take(pool, len(denials))
    if policy.denials is NULL:
        raise MemoryError
    policy.n_denials = <uint32_t>len(denials)
    memcpy(policy.denials, <const char *>denials, len(denials))
    return 0


cdef void networks_free(policy_t *policy) noexcept:
    if policy.networks is not NULL:
        mem_give(policy.networks.pool, policy.denials, policy.n_denials)
        marks_free(policy.networks)
        policy.networks = NULL


cdef access_t *access_take(pool_t *pool, dict options) except NULL:
    return ids_take(pool, options.get("is_anyone_allowed", True), options.get("exceptions", ()))


cdef access_t *relay_access_take(pool_t *pool, dict options) except NULL:
    return ids_take(pool, options.get("may_anyone_relay", False), options.get("relay_exceptions", ()))


cdef access_t *ids_take(pool_t *pool, bint is_anyone, peer_ids) except NULL:
    cdef bytes ids = b"".join(peer_ids)
    cdef access_t *access = guard_access_build(pool, ACCESS_ANYONE if is_anyone else ACCESS_NONE, ids, len(ids) // 32)
    if access is NULL:
        raise MemoryError
    return access


cdef int local_options(local_t *local, NetworkSecret network, NetworkSecret previous, dict options) except -1:
    local.n_networks = 2 if previous is not None else 1
    network_derive(&local.networks[0], network.borrow() if network is not None else NULL)
    if previous is not None:
        network_derive(&local.networks[1], previous.borrow())
    local.suites = crypto_suites()
    for suite in options.get("suites_removed", ()):
        local.suites &= ~<uint16_t>suite
    local.suites |= SUITE_CHACHA20_POLY1305
    local.accepts_xx = 1 if options.get("accepts_xx", False) else 0
    local.clock_window_s = options.get("clock_window_s", 120)
    return 0


cdef int config_fill(engine_config_t *config, dict options) except -1:
    memset(config, 0, sizeof(engine_config_t))
    config.times.handshake_ns = ns_option(options, "handshake_s", 30)
    config.times.first_head_ns = ns_option(options, "head_s", 10)
    config.times.first_flight_ns = ns_option(options, "flight_s", 15)
    config.times.delay_ns = ns_option(options, "handshake_delay_s", 0)
    config.times.dead_peer_ns = ns_option(options, "dead_peer_s", 60)
    config.times.ping_min_ns = config.times.dead_peer_ns // 4
    config.times.ping_max_ns = config.times.dead_peer_ns // 2
    config.times.record_ns = ns_option(options, "slow_record_s", 20)
    config.times.keys.epoch_ns = ns_option(options, "epoch_s", 120)
    config.times.keys.rekey_ns = ns_option(options, "rekey_s", 600)
    config.times.keys.answer_ns = 60 * SECOND_NS
    config.times.close_ns = 2 * SECOND_NS
    config.times.streams.slow_reader_ns = ns_option(options, "slow_reader_s", 30)
    config.times.streams.starved_ns = 10 * SECOND_NS
    config.sink_min_ns = ns_option(options, "sink_min_s", 30)
    config.sink_max_ns = ns_option(options, "sink_max_s", 90)
    config.control_frames = options.get("control_frames_per_s", 1000)
    config.window_max = options.get("stream_window_max", WINDOW_MAX)
    config.session_window_max = options.get("session_window_max", SESSION_WINDOW_MAX)
    config.send_queue_len = options.get("send_queue_len", SEND_QUEUE_MAX)
    config.receive_credit_len = options.get("receive_credit_len", 256 << 20)
    config.max_streams = options.get("max_streams", 1024)
    config.max_pipes = options.get("max_pipes", 1024)
    config.max_sessions = options.get("max_sessions", 10000)
    config.max_message = options.get("max_message", 1048576)
    config.relay_memory_len = options.get("relay_memory_len", 64 << 20)
    config.relay_idle_ns = ns_option(options, "relay_idle_s", 300)
    config.relay_build_ns = ns_option(options, "relay_build_s", 15)
    config.relay_life_ns = ns_option(options, "relay_life_s", 86400)
    config.padding = options.get("padding", 1)
    cover_fill(&config.cover, options.get("cover", {}))
    config.first_bytes = options.get("first_bytes", 0)
    config.relays = 1 if options.get("relays", False) else 0
    config.accepts_xx = 1 if options.get("accepts_xx", False) else 0
    config.n_workers = 1
    terms_fill(config, options)
    return 0


cdef int cover_fill(cover_config_t *cover, dict options) except -1:
    cover.mode = options.get("mode", COVER_OFF)
    cover.on_links = 1 if options.get("on_links", True) else 0
    cover.on_circuits = 1 if options.get("on_circuits", False) else 0
    cover.size = options.get("size", 1200)
    cover.per_s = options.get("per_s", 10)
    cover.per_s_max = options.get("per_s_max", cover.per_s)
    cover.interval_ns = ns_option(options, "interval_s", 10)
    cover.min_records, cover.max_records = options.get("records", (0, 8))
    cover.min_len, cover.max_len = options.get("lengths", (64, 1024))
    cover.budget_len = options.get("budget_len", 0)
    return 0


RATES = ("link_rate", "neighbour_rate", "relay_rate", "relay_neighbour_rate", "peer_rates")


cdef bint rates_wanted(dict options) except -1:
    return any(name in options for name in RATES)


cdef int rates_fill(rates_t *rates, dict options) except -1:
    rate_fill(&rates.links, options, "link_rate")
    rate_fill(&rates.neighbour, options, "neighbour_rate")
    rate_fill(&rates.relay, options, "relay_rate")
    rate_fill(&rates.relay_neighbour, options, "relay_neighbour_rate")
    return own_rates_fill(rates, options.get("peer_rates", ()))


cdef int own_rates_fill(rates_t *rates, peer_rates) except -1:
    """Of (PeerID, bytes a second); 0 stands for more than any line takes."""
    cdef bytes id
    cdef uint64_t per_s
    cdef size_t i
    for i in range(NEIGHBOURS if rates.has_own else 0):
        rate_set(&rates.own[i], 0, 0)
    for peer_id, per_s in peer_rates:
        per_s = per_s or RATE_ANY
        id = exactly(peer_id, 32, "a PeerID")
        i = keyed_hash(rates.key, <const char *>id, 32) % NEIGHBOURS
        rate_set(&rates.own[i], per_s, min(max(per_s, <uint64_t>BURST_MIN), <uint64_t>BURST_ANY))
    atomic_store(&rates.has_own, 1 if peer_rates else 0)
    return 0


cdef int terms_fill(engine_config_t *config, dict options) except -1:
    """A neighbour is told the lower of the rates that hold for him."""
    rates = [options[name] for name in ("relay_rate", "relay_neighbour_rate") if options.get(name, (0, 0))[0]]
    if rates:
        per_s, burst_len = min(rates)
        config.terms_rate_kib = per_s >> 10
        config.terms_burst_kib = max(burst_len or per_s, BURST_MIN) >> 10
    return 0


cdef int rate_fill(rate_t *rate, dict options, str name) except -1:
    """Of (bytes a second, bytes at once): 0 at once stands for those of a second."""
    per_s, burst_len = options.get(name, (0, 0))
    rate_set(rate, per_s, max(burst_len or per_s, BURST_MIN))
    return 0


cdef uint64_t ns_option(dict options, str name, default_s) except? 0:
    return <uint64_t>(float(options.get(name, default_s)) * 1e9)


# What is known of addresses

cdef int ip_form(uint8_t *dst16, bytes ip) except -1:
    if ip_get(dst16, ip, len(ip)) < 0:
        raise ValueError("an address has 4 or 16 bytes")
    return 0


cdef object network_mark(const policy_t *policy, bytes ip):
    cdef uint8_t[16] form
    cdef uint32_t mark
    ip_form(form, ip)
    mark = marks_find(policy.networks, form)
    return None if mark == MARK_NONE else mark


cdef double left_s_of(const score_t *score, uint64_t now_ns) noexcept nogil:
    return (score.refused_ns - now_ns) / 1e9 if score.refused_ns > now_ns else 0


cdef tuple score_tuple(guard_t *guard, bytes ip, uint64_t now_ns):
    cdef uint8_t[16] form
    cdef verdict_t row
    ip_form(form, ip)
    guard_verdict(guard, form, &row, now_ns)
    return score_get(&row.score, now_ns), left_s_of(&row.score, now_ns)


cdef list scores_list(guard_t *guard, uint64_t now_ns):
    cdef verdict_t[SCORES_TOGETHER] rows
    cdef const score_t *score
    cdef uint32_t set_idx = 0, i
    cdef list changed = []
    while set_idx < ADDRESS_SETS:
        for i in range(guard_scores_changed(guard, &set_idx, rows)):
            score = &rows[i].score
            changed.append(((<char *>&rows[i].prefix.ip[0])[:16], rows[i].prefix.len, score.lost, score.n_refusals,
                            (<double>now_ns - score.scored_ns) / 1e9, left_s_of(score, now_ns)))
    return changed


cdef int score_put(guard_t *guard, bytes ip, int n_bits, tuple score, uint64_t now_ns) except -1:
    """Of (points lost, refusals, seconds since it was scored, and for which it is refused)."""
    cdef verdict_t row
    cdef uint8_t[16] form
    cdef double ago_ns = max(0.0, score[2]) * 1e9
    ip_form(form, ip)
    row.prefix = prefix_cut(form, n_bits if len(ip) == 16 else n_bits + IP4_BITS)
    row.score.lost = min(max(0, score[0]), SCORE_MAX)
    row.score.n_refusals = min(max(0, score[1]), N_REFUSALS_MAX)
    row.score.scored_ns = now_ns - <uint64_t>min(ago_ns, <double>now_ns)
    row.score.refused_ns = now_ns + <uint64_t>(min(score[3], <double>REFUSE_MAX_S) * 1e9) if score[3] > 0 else 0
    guard_score_merge(guard, &row, now_ns)
    return 0


# Native extenders

cdef int calls_read(qg_extender_v1 *calls, object table) except -1:
    """Copy what a table has of the functions that this build knows; the rest is NULL."""
    cdef const qg_extender_v1 *given
    if PyCapsule_CheckExact(table):
        given = <const qg_extender_v1 *>PyCapsule_GetPointer(table, QG_EXTENDER_CAPSULE)
    else:
        given = <const qg_extender_v1 *><size_t>int(table)
    if given is NULL:
        raise ValueError("the address of the table of functions is 0")
    if given.version != QG_EXTENDER_VERSION:
        raise ValueError("the table of functions has version %d: this build takes %d" % (given.version,
                                                                                       QG_EXTENDER_VERSION))
    memset(calls, 0, sizeof(qg_extender_v1))
    memcpy(calls, given, min(<size_t>given.size, sizeof(qg_extender_v1)))
    if calls.on_data is NULL:
        raise ValueError("the table of functions has no on_data, or a size that does not cover it")
    return 0


# Bytes, addresses

cdef int fill_chain(chain_t *chain, pool_t *pool, const uint8_t *src, size_t len) noexcept nogil:
    """Copy into blocks that keep room behind the payload."""
    cdef block_t *block
    cdef size_t n
    while len > 0:
        n = min(len, <size_t>WRITE_MAX)
        block = block_take(pool, block_class_for(n))
        if block is NULL:
            return E_MEMORY
        memcpy(block_start(block), src, n)
        block.end += <uint32_t>n
        chain_push(chain, block)
        src += n
        len -= n
    return OK


cdef int fill_bytes(chain_t *chain, pool_t *pool, data) except -1:
    cdef Py_buffer view
    cdef int rc
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    rc = fill_chain(chain, pool, <const uint8_t *>view.buf, <size_t>view.len)
    PyBuffer_Release(&view)
    if rc < 0:
        chain_clear(chain)
        raise MemoryError
    return 0


cdef int fill_ip(address_t *address, str host, int port) except -1:
    """1 when `host` is an IP literal and now in `address`, else 0."""
    from socket import AF_INET, AF_INET6, inet_pton
    cdef bytes raw
    if not 0 <= port <= 65535:
        raise ValueError(f"{port} is not a port: use 0 to 65535")
    address.port = <uint16_t>port
    for family, type in ((AF_INET, ADDRESS_IP4), (AF_INET6, ADDRESS_IP6)):
        try:
            raw = inet_pton(family, host)
        except OSError:
            continue
        address.type = type
        memcpy(address.ip, <const char *>raw, len(raw))
        return 1
    return 0


cdef int fill_hop(hop_t *hop, str host, int port) except -1:
    """An IP literal or a name; the worker points the address at the name in its own copy."""
    cdef bytes name
    hop.n_addresses = 1
    if fill_ip(&hop.addresses[0], host, port):
        return 0
    name = host.encode("idna") if not host.isascii() else host.encode()
    if not 0 < len(name) < 256:
        raise ValueError(f"{host!r} is not a host name")
    hop.addresses[0].type = ADDRESS_NAME
    hop.addresses[0].name_len = <uint8_t>len(name)
    memcpy(hop.name, <const char *>name, len(name))
    return 0


cdef int fill_hops(hop_t *hops, list named) except -1:
    cdef hop_t *hop
    for i, (link_key, peer_id, host, port, *others) in enumerate(named):
        hop = &hops[<int>i]
        for key in (link_key, peer_id):
            if key is not None and len(key) != 32:
                raise ValueError("link keys and PeerIDs have 32 bytes")
        if link_key is not None:
            hop.has_link_key = 1
            memcpy(hop.link_key, <char *><bytes>link_key, 32)
        if peer_id is not None:
            hop.has_peer_id = 1
            memcpy(hop.peer_id, <char *><bytes>peer_id, 32)
        fill_hop(hop, host, port)
        for other_host, other_port in others[:RELAY_ADDRESSES_MAX - 1]:
            if hop.addresses[0].type == ADDRESS_NAME or not fill_ip(&hop.addresses[hop.n_addresses], other_host,
                                                                    other_port):
                raise ValueError(f"{host!r} and {other_host!r}: several addresses of one hop are IP addresses")
            hop.n_addresses += 1
    return 0


cdef tuple endpoint(const address_t *address):
    from socket import AF_INET, AF_INET6, inet_ntop
    if address.type == ADDRESS_IP4:
        return inet_ntop(AF_INET, (<const char *>address.ip)[:4]), address.port
    if address.type == ADDRESS_IP6:
        return inet_ntop(AF_INET6, (<const char *>address.ip)[:16]), address.port
    return "", address.port


# Events

cdef void drop_blocks(block_t *block) noexcept nogil:
    cdef block_t *following
    while block is not NULL:
        following = block.next
        block_give_remote(block)
        block = following


cdef object join_blocks(block_t *block):
    """Copy a chain into one bytes object and give the blocks back."""
    cdef block_t *at = block
    cdef Py_ssize_t len = 0
    cdef char *dst
    cdef object joined
    while at is not NULL:
        len += block_len(at)
        at = at.next
    joined = PyBytes_FromStringAndSize(NULL, len)
    dst = PyBytes_AS_STRING(joined)
    at = block
    while at is not NULL:
        memcpy(dst, block_start(at), block_len(at))
        dst += block_len(at)
        at = at.next
    drop_blocks(block)
    return joined


cdef tuple terms_tuple(const event_t *event):
    return (event.rate_kib, event.burst_kib) if event.has_terms else None


cdef tuple event_tuple(event_t *event):
    cdef int type = event.type
    if type == EVENT_STREAM_DATA or type == EVENT_PEERS:
        return type, event.id, join_blocks(event.blocks)
    if type == EVENT_SERVICES:
        return type, event.id, event.a, join_blocks(event.blocks)
    if type == EVENT_STREAM_SENT or type == EVENT_PONG:
        return type, event.id, event.a
    if type == EVENT_STREAM_OPEN:
        return type, event.id, event.a, event.b & 255, event.b >> 8, join_blocks(event.blocks)
    if type == EVENT_STREAM_RESET:
        return type, event.id, event.reason, event.status, event.a, event.b
    if type == EVENT_STREAM_DONE:
        return type, event.id, event.a, event.b
    if type == EVENT_PEER_UP:
        host, port = endpoint(&event.address)
        return (type, event.id, event.a, bool(event.b & 1), bool(event.b & 2), (<char *>event.peer_id)[:32],
                (<char *>event.link_key)[:32], host, port, event.b >> 8, bool(event.b & 4),
                join_blocks(event.blocks) if event.blocks is not NULL else b"", terms_tuple(event))
    if type == EVENT_IDENTITY_TWICE:
        return type, event.id, (<char *>event.peer_id)[:32]
    if type == EVENT_PEER_DOWN:
        return type, event.id, event.reason, bool(event.is_remote), event.status
    if type == EVENT_CONNECT_FAILED:
        return type, event.id, event.reason, event.a, event.status, bool(event.b), terms_tuple(event)
    if type == EVENT_TAMPERED:
        return type, event.id, (<char *>event.link_key)[:32], (<char *>event.peer_id)[:32]
    if type == EVENT_LISTENING:
        host, port = endpoint(&event.address)
        return type, event.id, event.status, host, port
    return type, event.id
