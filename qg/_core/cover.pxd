# SPDX-License-Identifier: MIT
"""When a session sends although nobody asked it to, or waits although somebody did (protocol.md 4.7).

Time and randomness in, turns out. Paced sessions (COVER_POISSON, COVER_SHAPED) send in their turns only, and as much in
each: when the turns come does not depend on what waits. The others (COVER_CHAFF) send what they have, and at their
turns something beside it.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .crypto cimport random_fn

cdef enum cover_mode_t:
    COVER_OFF = 0
    COVER_CHAFF = 1
    COVER_POISSON = 2
    COVER_SHAPED = 3

cdef enum:
    COVER_RECORD_S = 5          # a paced link lets the largest record through in this time, whatever its budget: half
                                # of the time that others may take for one, and half for the chance in gaps

ctypedef struct cover_config_t: # one per node; the budget of each worker is its share
    uint8_t mode                # cover_mode_t
    uint8_t on_links
    uint8_t on_circuits         # sessions over pipes, end to end: records of circuits' small size, whatever `size` is
    uint32_t size               # paced links: bytes on the wire in a turn
    double per_s                # paced: turns a second; shaped: at least
    double per_s_max            # shaped: at most
    uint64_t interval_ns        # chaff: the records of an interval are between the two, and so are their bytes
    uint32_t min_records
    uint32_t max_records
    uint32_t min_len
    uint32_t max_len
    uint64_t budget_len         # bytes an hour; 0: as many as come

ctypedef struct cover_account_t:        # of all sessions of one worker
    uint64_t hour_ns            # when this hour began
    uint64_t hour_len           # bytes of turns in it: what a paced session sends, data too; what chaff adds
    uint64_t n_records          # COVER records
    uint64_t len                # their bytes on the wire
    uint64_t n_overdrawn        # turns that came although the budget did not allow for them
    uint32_t n_sessions         # that have turns

ctypedef struct cover_t:
    uint64_t next_ns            # of the next turn; NEVER: there are none
    double per_s                # shaped: now
    uint64_t step_ns            # shaped: when the rate may change; chaff: the end of the interval
    uint32_t n_turns            # shaped: since it may have changed; chaff: records left in the interval
    uint32_t n_covers           # shaped: those of the turns in which there was room for cover
    uint32_t turn_len           # bytes of what a turn costs
    uint8_t mode                # cover_mode_t in force
    uint8_t is_counted          # in n_sessions

cdef void cover_start(cover_t *cover, cover_account_t *account, const cover_config_t *config, uint32_t turn_len,
                      random_fn rnd, void *rnd_ctx, uint64_t now_ns) noexcept nogil
    # also where the configuration has changed; turn_len: bytes that a turn of this session takes on the wire
cdef void cover_stop(cover_t *cover, cover_account_t *account) noexcept nogil
cdef uint32_t cover_turns(cover_t *cover, cover_account_t *account, const cover_config_t *config,
                          random_fn rnd, void *rnd_ctx, uint64_t now_ns) noexcept nogil
    # how many have come; the next is drawn
cdef void cover_spent(cover_t *cover, cover_account_t *account, size_t len) noexcept nogil     # on one COVER record

cdef inline bint cover_is_paced(const cover_t *cover) noexcept nogil:
    return cover.mode >= COVER_POISSON
