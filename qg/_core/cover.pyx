# SPDX-License-Identifier: MIT
"""When a session sends although nobody asked it to, or waits although somebody did."""
from libc.math cimport log
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from .crypto cimport random_between, random_fn
from .status cimport RECORD_LEN_MAX
from .sys cimport NEVER, SECOND_NS, load_be64

cdef enum:
    TURNS_MAX = 64              # that are made up for at once: a machine that slept sends no flood

cdef uint64_t HOUR_NS = 3600 * SECOND_NS
cdef uint64_t STEP_NS = 30 * SECOND_NS      # a shaped rate says no more of the load than this often
cdef double UNIT = 1.0 / (<uint64_t>1 << 53)


cdef inline bint is_on(const cover_t *cover) noexcept nogil:
    return cover.mode != COVER_OFF


# What turns may cost

cdef double allowed_per_s(cover_account_t *account, const cover_config_t *config, uint64_t now_ns) noexcept nogil:
    """Bytes a second of one session, so that what is left of the hour's budget lasts for all of them."""
    cdef double left, share
    if now_ns - account.hour_ns >= HOUR_NS:
        account.hour_ns = now_ns
        account.hour_len = 0
    left = <double>(config.budget_len - min(config.budget_len, account.hour_len))
    share = left / max(account.n_sessions, <uint32_t>1)
    return share * 1e9 / <double>(HOUR_NS - (now_ns - account.hour_ns))


cdef double paced_per_s(cover_t *cover, cover_account_t *account, const cover_config_t *config,
                        uint64_t now_ns) noexcept nogil:
    """Turns a second. What data waits for never stops: below the least rate the budget is overdrawn."""
    cdef double least = <double>RECORD_LEN_MAX / (COVER_RECORD_S * <double>cover.turn_len)
    cdef double allowed
    if config.budget_len == 0:
        return cover.per_s
    allowed = allowed_per_s(account, config, now_ns) / cover.turn_len
    account.n_overdrawn += allowed < min(least, cover.per_s)
    return min(cover.per_s, max(least, allowed))


cdef uint32_t chaff_records(cover_account_t *account, const cover_config_t *config, random_fn rnd,
                            void *rnd_ctx, uint64_t now_ns) noexcept nogil:
    """Records of the interval that begins: fewer, by chance, where the budget does not allow for all."""
    cdef uint32_t n = <uint32_t>random_between(rnd, rnd_ctx, config.min_records, config.max_records)
    cdef uint32_t n_kept = 0, i
    cdef double wanted, share
    if config.budget_len == 0 or n == 0:
        return n
    wanted = (0.5 * (config.min_records + config.max_records) * 0.5 * (config.min_len + config.max_len)
              * 1e9 / <double>config.interval_ns)
    share = allowed_per_s(account, config, now_ns) / wanted
    for i in range(n):
        n_kept += draw_unit(rnd, rnd_ctx) <= share
    return n_kept


# When turns come

cdef double draw_unit(random_fn rnd, void *rnd_ctx) noexcept nogil:
    """In (0, 1], all 53 bits of it by chance."""
    cdef uint8_t[8] bytes
    rnd(rnd_ctx, bytes, 8)
    return <double>((load_be64(bytes) >> 11) + 1) * UNIT


cdef uint64_t gap_ns(random_fn rnd, void *rnd_ctx, double per_s) noexcept nogil:
    """Between two turns of a Poisson process: what was, or what waits, tells nothing of it."""
    return <uint64_t>(-log(draw_unit(rnd, rnd_ctx)) / per_s * 1e9)


cdef void shape(cover_t *cover, const cover_config_t *config, uint64_t now_ns) noexcept nogil:
    """Double the rate where most turns were full, halve it where few were, between its bounds."""
    if now_ns < cover.step_ns:
        return
    if cover.n_covers * 2 < cover.n_turns:
        cover.per_s = min(2 * cover.per_s, config.per_s_max)
    elif cover.n_covers * 4 > cover.n_turns * 3:
        cover.per_s = max(cover.per_s / 2, config.per_s)
    cover.n_turns = cover.n_covers = 0
    cover.step_ns = now_ns + STEP_NS


cdef void chaff_next(cover_t *cover, cover_account_t *account, const cover_config_t *config, random_fn rnd,
                     void *rnd_ctx, uint64_t from_ns) noexcept nogil:
    """Records lie evenly over their interval, as far as chance lets them."""
    if cover.n_turns == 0:
        from_ns = max(from_ns, cover.step_ns)
        cover.step_ns = from_ns + config.interval_ns
        cover.n_turns = chaff_records(account, config, rnd, rnd_ctx, from_ns)
    if cover.n_turns == 0:
        cover.next_ns = cover.step_ns           # an interval without one: then the next is drawn
        return
    # The least of n moments drawn evenly from what is left of the interval
    cover.next_ns = from_ns + <uint64_t>(<double>(cover.step_ns - min(from_ns, cover.step_ns))
                                         * (1.0 - root(draw_unit(rnd, rnd_ctx), cover.n_turns)))


cdef inline double root(double x, uint32_t n) noexcept nogil:
    return x ** (1.0 / n)


cdef void cover_start(cover_t *cover, cover_account_t *account, const cover_config_t *config, uint32_t turn_len,
                      random_fn rnd, void *rnd_ctx, uint64_t now_ns) noexcept nogil:
    cover_stop(cover, account)
    if config.mode == COVER_OFF:
        return
    cover.mode = config.mode
    cover.turn_len = turn_len
    cover.is_counted = 1
    account.n_sessions += 1
    if config.mode == COVER_CHAFF:
        chaff_next(cover, account, config, rnd, rnd_ctx, now_ns)
        return
    cover.per_s = config.per_s
    cover.step_ns = now_ns + STEP_NS
    cover.next_ns = now_ns + gap_ns(rnd, rnd_ctx, paced_per_s(cover, account, config, now_ns))


cdef void cover_stop(cover_t *cover, cover_account_t *account) noexcept nogil:
    account.n_sessions -= cover.is_counted
    memset(cover, 0, sizeof(cover_t))
    cover.next_ns = NEVER


cdef uint32_t cover_turns(cover_t *cover, cover_account_t *account, const cover_config_t *config,
                          random_fn rnd, void *rnd_ctx, uint64_t now_ns) noexcept nogil:
    cdef uint32_t n = 0
    if cover.mode == COVER_CHAFF:
        while cover.next_ns <= now_ns:
            n += cover.n_turns > 0
            cover.n_turns -= cover.n_turns > 0
            chaff_next(cover, account, config, rnd, rnd_ctx, max(cover.next_ns, now_ns - SECOND_NS))
        return n
    while is_on(cover) and cover.next_ns <= now_ns:
        if n == TURNS_MAX:
            cover.next_ns = now_ns
        n = min(n + 1, <uint32_t>TURNS_MAX)
        cover.n_turns += 1
        account.hour_len += cover.turn_len
        if cover.mode == COVER_SHAPED:
            shape(cover, config, now_ns)
        cover.next_ns += gap_ns(rnd, rnd_ctx, paced_per_s(cover, account, config, now_ns))
    return n


cdef void cover_spent(cover_t *cover, cover_account_t *account, size_t len) noexcept nogil:
    account.n_records += 1
    account.len += len
    cover.n_covers += 1
    if cover.mode == COVER_CHAFF:
        account.hour_len += len
