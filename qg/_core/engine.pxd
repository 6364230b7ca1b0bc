# SPDX-License-Identifier: MIT
"""All sessions of one worker: the sans-IO machine (architecture.md 3, L8).

Inputs from the transport: `engine_accepted`, `engine_connected`, `engine_dial_failed`, `engine_received`,
`engine_ended`, `engine_lost`, `engine_writable`. Inputs from time: `engine_tick` at `engine_deadline`. Commands: the
rest here, `path_*` of `circuit`, `flow_*` of `flow`. Outputs: the functions of `transport_t`, and events through
`outbox_emit`. `engine_settle` ends every input: it flushes links and frees what ended. All calls by one thread;
`now_ns` is monotonic.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .channel cimport channel_t, engine_config_t, engine_t
from .guard cimport guard_t
from .memory cimport pool_t
from .wire cimport address_t

cdef int engine_init(engine_t *engine, pool_t *pool, guard_t *guard, const engine_config_t *config,
                     uint64_t mix) noexcept nogil
    # the caller fills ctx.party, ctx.scratch, transport, outbox.emit before any other call
cdef void engine_clear(engine_t *engine, uint64_t now_ns) noexcept nogil       # frees everything, no events

cdef channel_t *engine_accepted(engine_t *engine, void *conn, const address_t *remote, uint64_t now_ns) noexcept nogil
    # NULL: close it
cdef void engine_connected(engine_t *engine, channel_t *channel, void *conn, uint64_t now_ns) noexcept nogil
cdef void engine_dial_failed(engine_t *engine, channel_t *channel, uint64_t now_ns) noexcept nogil
cdef void engine_received(engine_t *engine, channel_t *channel, uint8_t *data, size_t len,
                          uint64_t now_ns) noexcept nogil
cdef void engine_ended(engine_t *engine, channel_t *channel, uint64_t now_ns) noexcept nogil
cdef void engine_lost(engine_t *engine, channel_t *channel, uint64_t now_ns) noexcept nogil
cdef void engine_writable(engine_t *engine, channel_t *channel, uint64_t now_ns) noexcept nogil
cdef void engine_tick(engine_t *engine, uint64_t now_ns) noexcept nogil
cdef uint64_t engine_deadline(const engine_t *engine) noexcept nogil
cdef void engine_settle(engine_t *engine, uint64_t now_ns) noexcept nogil

cdef void engine_open(engine_t *engine, uint64_t flow_id, uint64_t channel_id, int kind, int priority,
                      const uint8_t *opening, size_t len, uint64_t now_ns) noexcept nogil
cdef void engine_close_peer(engine_t *engine, uint64_t channel_id, int reason, uint64_t now_ns) noexcept nogil
cdef void engine_ping(engine_t *engine, uint64_t channel_id, uint64_t now_ns) noexcept nogil
cdef void engine_configure(engine_t *engine, const engine_config_t *config, uint64_t now_ns) noexcept nogil
    # takes over times, rights, padding and first bytes, which hold for sessions to come; those that run keep what HELLO
    # said
cdef void engine_tell_peers(engine_t *engine, uint64_t channel_id, const uint8_t *data, size_t len,
                            uint64_t now_ns) noexcept nogil
    # a PEERS frame behind its type, at most PEERS_LEN_MAX, to a direct peer that knows this node; else nothing
cdef void engine_serve(engine_t *engine, const uint8_t *services, uint32_t n_services, const uint8_t *data, size_t len,
                       uint64_t now_ns) noexcept nogil
    # offers these services, at most HELLO_SERVICES_MAX, from now on, and sends whoever knows the former ones what a
    # SERVICES frame holds behind its type, at most SERVICES_LEN_MAX
cdef void engine_drain(engine_t *engine) noexcept nogil
    # refuses connections, pipes and circuits from now on; EVENT_DRAINED when no circuit passes through any more
cdef void engine_end_twins(engine_t *engine, const uint8_t *peer_id, uint64_t instance, uint64_t seen_ns,
                           uint64_t now_ns) noexcept nogil
    # closes links with a peer that are older than seen_ns and of another instance than it had then
cdef void engine_stop(engine_t *engine, uint64_t now_ns) noexcept nogil
    # resets circuits (busy) and closes all sessions (shutdown); EVENT_STOPPED when they are gone
cdef void engine_halt(engine_t *engine, uint64_t now_ns) noexcept nogil        # no more waiting for goodbyes
