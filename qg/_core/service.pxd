# SPDX-License-Identifier: MIT
"""Streams that native extenders serve: C functions of others (include/qg/extender.h) on the loop's thread.

A service takes the streams that peers open to its id before Python hears of them, by a tap on each one's flow. Its
callbacks run at the end of the turn, or earlier where much has come; what they ask for that could end a stream under
its caller (a reset) waits for the end of the turn, so nothing is freed while a callback, or the mux, stands on the
stack. Bounded: of what comes a stream holds its window at most, of what is written QUEUE_MAX and the peer's credit.
All calls by the loop's thread, but for `stream_wake` of the host's table.
"""
from libc.stdint cimport int32_t, uint8_t, uint64_t

from .abi cimport qg_extender_v1, qg_stream
from .engine cimport engine_t
from .flow cimport flow_t
from .loop cimport loop_t

cdef enum:
    SERVICE_ID_LEN = 16

ctypedef struct tally_t:        # of one service, for all workers; any thread, by atomic_*
    uint64_t n_streams          # that are open
    uint64_t is_closed          # no more are taken

ctypedef struct service_t:      # as many as this node's application gives
    service_t *next
    uint8_t id[SERVICE_ID_LEN]
    tally_t *tally              # borrowed until services_remove
    qg_extender_v1 calls        # NULL where the extender has none, or its table is shorter
    served_t *streams           # those that are open

ctypedef struct services_t:     # of one worker; may not move after services_init
    engine_t *engine            # borrowed
    loop_t *loop                # borrowed
    service_t *list             # owned
    served_t *dirty             # have something to do at the end of the turn
    void *woken                 # inbox of wake_t: streams that were woken, by any thread
    uint64_t n                  # streams, those that have ended in this turn too

ctypedef struct wake_t:         # in the inbox
    void *next
    served_t *served
    uint64_t news               # shared.pxd: the first wake puts it into the inbox

ctypedef struct served_t:
    qg_stream stream            # what the extender has a pointer to: first
    services_t *services
    service_t *service          # borrowed while the stream is open
    flow_t *flow                # NULL: on_close was called, the memory goes at the end of the turn
    void *state                 # the extender's
    served_t *next_dirty
    served_t *next              # of the service
    served_t *prev
    wake_t wake
    int32_t reset_reason        # with which the stream is to be reset; 0: it is not
    uint8_t is_dirty
    uint8_t is_short            # a write took less than it was given: on_writable is due when there is room
    uint8_t is_woken            # on_wake is due
    uint8_t is_paused           # on_data took less than it was given
    uint8_t is_finished         # the peer's FIN came
    uint8_t is_ended            # on_end was called
    uint8_t is_gone             # the mux has dropped the stream; flow.reason tells why

cdef void services_init(services_t *services, engine_t *engine, loop_t *loop) noexcept nogil
    # becomes the engine's `serve`
cdef void services_add(services_t *services, const uint8_t *id, const qg_extender_v1 *calls,
                       tally_t *tally) noexcept nogil
    # copies id and calls; the newest of an id that is not closed gets its streams. Without memory Python gets them
cdef void services_remove(services_t *services, const tally_t *tally, uint64_t now_ns) noexcept nogil
    # its open streams are reset (shutdown), each has had its on_close when this returns; an unknown one: nothing
cdef void services_settle(services_t *services, uint64_t now_ns) noexcept nogil
    # the end of a turn: the callbacks that are due
cdef void services_stop(services_t *services) noexcept nogil    # after the engine is cleared and before loop_free
