# SPDX-License-Identifier: MIT
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
"""A node's figures as they are at this moment: counters and sizes, of each worker and of all together."""
from libc.stdint cimport uint32_t

from .channel cimport SKEWS_KEPT, engine_t
from .guard cimport N_GUARD_COUNTS
from .loop cimport loop_cpu_ns
from .worker cimport node_t, worker_t


cdef dict node_figures(node_t *node):
    cdef dict sums = {}
    cdef list workers = [worker_figures(&node.workers[i]) for i in range(node.n_workers)]
    cdef list skews = sorted(skew for worker in workers for skew in worker.pop("skews"))
    for key, value in workers[0].items():
        values = [worker[key] for worker in workers]
        if isinstance(value, dict):
            sums[key] = {code: sum(each.get(code, 0) for each in values) for code in set().union(*values)}
        elif isinstance(value, list):
            sums[key] = [sum(column) for column in zip(*values, strict=True)]
        else:
            sums[key] = sum(values)
    return sums | {
        "n_sinks": node.guard.n_sinks, "n_half_open": node.guard.n_half_open,
        "n_auto_links": node.guard.n_auto_links,
        "guard_counts": [node.guard.counts[k] for k in range(N_GUARD_COUNTS)],
        "plain_len": sums["plain_len"] + node.guard_pool.plain_len,
        "is_locked": all(bool(node.workers[i].secrets.is_locked) for i in range(node.n_workers)),
        "replay_floor_s": node.replay.floor_s,
        "clock_skew_s": float(skews[len(skews) // 2]) if skews else None,
        "workers": workers,
    }


cdef dict worker_figures(worker_t *worker):
    cdef engine_t *engine = &worker.engine
    cdef dict by_status = {}
    cdef int i
    for i in range(64):
        if engine.ctx.n_status[i]:
            by_status[-i] = engine.ctx.n_status[i]
    return {
        "n_sessions": engine.n_channels, "n_links_up": engine.n_links_up,
        "n_circuits": engine.relay.n_splices - engine.relay.n_crossed, "n_crossed_circuits": engine.relay.n_crossed,
        "n_flows": engine.outbox.flows.len, "n_tunnels": worker.tunnels.n, "n_served": worker.services.n,
        "n_conns": worker.tcp.n_conns,
        "n_lingering": worker.tcp.n_lingering, "n_accepted": worker.tcp.n_accepted,
        "n_accept_errors": worker.tcp.n_accept_errors,
        "in_len": engine.n_bytes_in, "out_len": engine.n_bytes_out, "relayed_len": engine.relay.n_bytes,
        "relay_held_len": engine.relay.held.used, "n_relay_memory_resets": engine.relay.n_memory_resets,
        "n_slow_reader_closes": engine.ctx.n_slow_closes, "n_slow_reader_resets": engine.ctx.receive.n_slow_resets,
        "n_slow_records": engine.ctx.n_slow_records, "n_slow_handshakes": engine.ctx.n_slow_handshakes,
        "n_overruns": engine.ctx.receive.n_overruns, "n_streams_full": engine.ctx.receive.n_streams_full,
        "n_credit_withheld": engine.ctx.receive.n_withheld, "receive_unread_len": engine.ctx.receive.unread.used,
        "n_cover_records": engine.ctx.covers.n_records, "cover_len": engine.ctx.covers.len,
        "n_rate_waits": engine.shaper.n_waits + engine.relay.shaper.n_waits,
        "n_cover_overdrawn": engine.ctx.covers.n_overdrawn,
        "by_status": by_status, "pool_taken_len": worker.pool.taken.used, "plain_len": worker.pool.plain_len,
        "n_blocks": worker.pool.n_taken,
        "n_secret_slots": worker.secrets.n_taken, "handshake_cpu_ns": engine.ctx.handshake_ns,
        "loop_cpu_ns": loop_cpu_ns(&worker.loop) if worker.is_loop_ready else 0,
        "skews": [engine.skews_s[i] for i in range(min(engine.n_skews, <uint32_t>SKEWS_KEPT))],
    }
