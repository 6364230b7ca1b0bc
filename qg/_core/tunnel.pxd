# SPDX-License-Identifier: MIT
"""Halves of tunnels: streams joined with TCP connections on the loop's thread, past Python.

Backpressure: a connection is read as far as the peer's credit goes, straight into blocks from which records are sealed;
credit goes back to the peer for what the kernel took. So a tunnel holds at most a window each way. A FIN becomes a FIN,
a reset a reset. All calls by the loop's thread.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .engine cimport engine_t
from .flow cimport flow_t
from .loop cimport loop_t
from .memory cimport block_t, chain_t
from .tcp cimport conn_t, tcp_t
from .uv cimport uv_timer_t

ctypedef struct tunnels_t:          # of one worker; may not move after tunnels_init
    tcp_t tcp                       # their connections and no others
    engine_t *engine                # borrowed
    block_t *spare                  # what the next read goes into; NULL
    tunnel_t *dirty                 # have something to do at the end of the turn
    tunnel_t *joining               # during tcp_adopt
    tunnel_t *timed                 # those that may not be idle for ever
    uv_timer_t timer                # runs while there are some
    uint32_t n_handles              # 0 after tunnels_stop and a finished loop_free
    uint8_t is_unsettled            # the engine has something to send at the end of the turn
    uint64_t n                      # halves of tunnels, those that have ended in this turn too

ctypedef struct tunnel_t:
    tunnels_t *tunnels
    flow_t *flow                    # NULL: the tunnel has ended, its memory goes at the end of the turn
    conn_t *conn                    # NULL once it is closed or lost
    tunnel_t *next_dirty
    tunnel_t *next_timed
    tunnel_t *prev_timed
    uint64_t idle_ns                # nothing may move for so long; 0: for ever
    uint64_t moved_ns               # when something moved last
    uint64_t missing_len            # bytes on their way through Python and back; what came after them waits in the flow
    uint64_t unpaid_len             # bytes that the connection has, whose credit is not given back
    uint8_t is_dirty
    uint8_t is_paused               # nothing is read
    uint8_t is_finished             # the peer's FIN came
    uint8_t is_shut                 # and was passed on

cdef int tunnels_init(tunnels_t *tunnels, engine_t *engine, loop_t *loop) noexcept nogil
cdef void tunnels_settle(tunnels_t *tunnels, uint64_t now_ns) noexcept nogil
    # the end of a turn: what has come goes to the connections
cdef void tunnels_stop(tunnels_t *tunnels) noexcept nogil       # after the engine is cleared and before loop_free
cdef void tunnel_join(tunnels_t *tunnels, uint64_t flow_id, int fd, chain_t *early, uint64_t idle_ns,
                      uint64_t now_ns) noexcept nogil
    # takes the descriptor and the chain: bytes of the stream that go before what the flow has. A flow without stream:
    # both are dropped; a descriptor that is no connection: the flow ends with its status. idle_ns: both sides are reset
    # when nothing moves for so long, within a second of it; 0: never
cdef void tunnel_supply(tunnels_t *tunnels, uint64_t flow_id, chain_t *early, uint64_t now_ns) noexcept nogil
    # takes bytes that were on their way to Python when the tunnel was made
