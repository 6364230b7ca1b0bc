# SPDX-License-Identifier: MIT
"""What threads share: inboxes, rings, a bell, a lock, budgets. Static inline, no code of its own.

`tests/native/threads.c` runs this very text under ThreadSanitizer.
"""
from libc.stdint cimport int64_t, uint64_t

cdef extern from * nogil:
    """
    #ifndef QG_SHARED_H
    #define QG_SHARED_H
    #include <sched.h>
    #include <stddef.h>
    #include <stdint.h>

    /* An inbox: a stack with many writers that its one reader empties at once. An item's first word is its link. */

    static inline int qg_inbox_push(void **inbox, void *item) {
        void *old = __atomic_load_n(inbox, __ATOMIC_RELAXED);
        do {
            *(void **)item = old;
        } while (!__atomic_compare_exchange_n(inbox, &old, item, 1, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
        return old == NULL;
    }

    static inline void *qg_inbox_take(void **inbox) {
        void *item = __atomic_exchange_n(inbox, NULL, __ATOMIC_ACQ_REL);
        void *reversed = NULL;
        while (item != NULL) {
            void *following = *(void **)item;
            *(void **)item = reversed;
            reversed = item;
            item = following;
        }
        return reversed;
    }

    /* A ring: one writer, one reader, the slots are their owner's. The cursors lie in cache lines of their own. */

    typedef struct {
        uint64_t head;                      /* next slot to be read; moved by the reader */
        uint64_t is_starved;                /* the writer found it full */
        char apart[48];
        uint64_t tail;                      /* next slot to be written; moved by the writer */
        char behind[56];
    } qg_ring_t;

    static inline int64_t qg_ring_vacant(qg_ring_t *ring, uint64_t len) {
        uint64_t tail = ring->tail;
        if (tail - __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE) >= len) {
            /* The reader may have emptied it meanwhile without seeing the flag. */
            __atomic_exchange_n(&ring->is_starved, 1, __ATOMIC_SEQ_CST);
            __atomic_thread_fence(__ATOMIC_SEQ_CST);
            if (tail - __atomic_load_n(&ring->head, __ATOMIC_SEQ_CST) >= len)
                return -1;
        }
        return (int64_t)(tail % len);
    }

    static inline void qg_ring_publish(qg_ring_t *ring) {
        __atomic_store_n(&ring->tail, ring->tail + 1, __ATOMIC_RELEASE);
    }

    static inline int64_t qg_ring_filled(qg_ring_t *ring, uint64_t len) {
        return ring->head == __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE) ? -1 : (int64_t)(ring->head % len);
    }

    static inline void qg_ring_drop(qg_ring_t *ring) {
        __atomic_store_n(&ring->head, ring->head + 1, __ATOMIC_RELEASE);
    }

    static inline int qg_ring_relieved(qg_ring_t *ring) {
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        return __atomic_load_n(&ring->is_starved, __ATOMIC_RELAXED)
            && __atomic_exchange_n(&ring->is_starved, 0, __ATOMIC_SEQ_CST) != 0;
    }

    /* A bell: whoever sleeps is woken by one of many; a tap wakes only a light sleeper (1, not 2). */

    static inline int qg_bell_ring(uint64_t *is_asleep) {
        __atomic_thread_fence(__ATOMIC_SEQ_CST);    /* whoever was not asleep yet will see what was published before */
        return __atomic_load_n(is_asleep, __ATOMIC_RELAXED) && __atomic_exchange_n(is_asleep, 0, __ATOMIC_SEQ_CST) != 0;
    }

    static inline void qg_bell_sleep(uint64_t *is_asleep) {
        __atomic_exchange_n(is_asleep, 1, __ATOMIC_SEQ_CST);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);    /* whoever looks once more after this misses nothing */
    }

    static inline int qg_bell_tap(uint64_t *is_asleep) {
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        return __atomic_load_n(is_asleep, __ATOMIC_RELAXED) == 1
            && __atomic_exchange_n(is_asleep, 0, __ATOMIC_SEQ_CST) != 0;
    }

    static inline void qg_bell_sleep_deep(uint64_t *is_asleep) {
        __atomic_exchange_n(is_asleep, 2, __ATOMIC_SEQ_CST);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    }

    /* News of one of many things: whoever makes the first puts the thing into its reader's inbox. What ends it, 2 or
     * more, takes the place of what was told before, and keeps it. */

    static inline int qg_news_tell(uint64_t *news) {
        uint64_t none = 0;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);    /* who has taken the news sees what was published before */
        return __atomic_compare_exchange_n(news, &none, 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }

    static inline int qg_news_end(uint64_t *news, uint64_t end) {
        return __atomic_exchange_n(news, end, __ATOMIC_SEQ_CST) == 0;
    }

    static inline uint64_t qg_news_take(uint64_t *news) {
        uint64_t taken = __atomic_exchange_n(news, 0, __ATOMIC_SEQ_CST);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        return taken;
    }

    /* A lock for what takes less than a microsecond and comes once per connection. */

    static inline void qg_lock_take(uint64_t *lock) {
        unsigned n = 0;
        while (__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE) != 0)
            while (__atomic_load_n(lock, __ATOMIC_RELAXED) != 0)
                if (++n % 256 == 0)
                    sched_yield();          /* its holder may have lost its core */
    }

    static inline void qg_lock_give(uint64_t *lock) { __atomic_store_n(lock, 0, __ATOMIC_RELEASE); }

    /* A budget of a node, of which each worker leases steps ahead, so that counting costs no shared write. */

    typedef struct {
        uint64_t len;                       /* leased by all */
        uint64_t max;
    } qg_budget_t;

    typedef struct {
        uint64_t used;                      /* by this worker */
        uint64_t leased;                    /* at least `used` */
        uint64_t step;
        qg_budget_t *budget;
    } qg_lease_t;

    static inline void qg_lease_init(qg_lease_t *lease, qg_budget_t *budget, uint64_t step) {
        lease->used = lease->leased = 0;
        lease->step = step;
        lease->budget = budget;
    }

    static inline int qg_lease_settle(qg_lease_t *lease, uint64_t wanted) {
        uint64_t len = __atomic_fetch_add(&lease->budget->len, wanted - lease->leased, __ATOMIC_RELAXED);
        int fits = len + wanted - lease->leased <= lease->budget->max;
        lease->leased = wanted;
        return fits;
    }

    /* Counts bytes, whether there is room or not; a difference below zero is added modulo 2^64. */
    static inline void qg_lease_add(qg_lease_t *lease, uint64_t len) {
        lease->used += len;
        if (lease->used > lease->leased || lease->leased - lease->used > 3 * lease->step)
            qg_lease_settle(lease, lease->used + lease->step);
    }

    /* Counts bytes only if the budget has them. */
    static inline int qg_lease_take(qg_lease_t *lease, uint64_t len) {
        uint64_t before = lease->leased;
        if (lease->used + len > before && !qg_lease_settle(lease, lease->used + len + lease->step)
            && !qg_lease_settle(lease, lease->used + len)) {
            qg_lease_settle(lease, before);
            return 0;
        }
        lease->used += len;
        return 1;
    }

    /* Bytes in use in the whole node: exact for this worker, up to three steps too many for each other one. */
    static inline uint64_t qg_lease_total(const qg_lease_t *lease) {
        return __atomic_load_n(&lease->budget->len, __ATOMIC_RELAXED) - (lease->leased - lease->used);
    }
    #endif
    """
    ctypedef struct cursors_t "qg_ring_t":     # one writer, one reader; the slots are their owner's
        uint64_t head                       # next slot to be read; moved by the reader
        uint64_t is_starved                 # the writer found the ring full
        uint64_t tail                       # next slot to be written; moved by the writer
    ctypedef struct budget_t "qg_budget_t": # of a node; zero `len` to begin with
        uint64_t len                        # atomic: leased by all workers
        uint64_t max                        # set before the workers start
    ctypedef struct lease_t "qg_lease_t":   # of one worker
        uint64_t used                       # bytes in use
        uint64_t leased                     # at least that, `step` ahead: counting seldom writes what is shared
        uint64_t step
        budget_t *budget                    # borrowed

    bint inbox_push "qg_inbox_push"(void **inbox, void *item) noexcept
        # any thread; the item's first word becomes its link. True when the inbox was empty: wake its reader
    void *inbox_take "qg_inbox_take"(void **inbox) noexcept     # all items in the order in which they came, NULL
    int64_t ring_vacant "qg_ring_vacant"(cursors_t *ring, uint64_t len) noexcept
        # writer: index of the slot to be filled; -1: it is full, and the reader will know
    void ring_publish "qg_ring_publish"(cursors_t *ring) noexcept  # writer: that slot is filled
    int64_t ring_filled "qg_ring_filled"(cursors_t *ring, uint64_t len) noexcept
        # reader: index of the oldest slot, -1
    void ring_drop "qg_ring_drop"(cursors_t *ring) noexcept        # reader: that slot is read
    bint ring_relieved "qg_ring_relieved"(cursors_t *ring) noexcept
        # reader, after it has read: True when the writer holds something back and has to be woken
    bint bell_ring "qg_bell_ring"(uint64_t *is_asleep) noexcept
        # after something was published: True when the sleeper has to be woken, for one of all callers
    bint bell_tap "qg_bell_tap"(uint64_t *is_asleep) noexcept   # the same, but a deep sleeper sleeps on
    void bell_sleep "qg_bell_sleep"(uint64_t *is_asleep) noexcept   # the sleeper; it looks once more afterwards
    void bell_sleep_deep "qg_bell_sleep_deep"(uint64_t *is_asleep) noexcept
    bint news_tell "qg_news_tell"(uint64_t *news) noexcept
        # after something was published: True when the thing has to be put into the inbox
    bint news_end "qg_news_end"(uint64_t *news, uint64_t end) noexcept
        # the same, the last but one or the last; 2 or more. The caller touches the thing no more unless it is True
    uint64_t news_take "qg_news_take"(uint64_t *news) noexcept  # reader, once it has the thing out of the inbox
    void lock_take "qg_lock_take"(uint64_t *lock) noexcept      # for less than a microsecond, once per connection
    void lock_give "qg_lock_give"(uint64_t *lock) noexcept
    void lease_init "qg_lease_init"(lease_t *lease, budget_t *budget, uint64_t step) noexcept
    void lease_add "qg_lease_add"(lease_t *lease, uint64_t len) noexcept
        # counts bytes whether there is room or not; a difference below zero is added modulo 2^64
    bint lease_take "qg_lease_take"(lease_t *lease, uint64_t len) noexcept  # counts them only if the budget has room
    uint64_t lease_total "qg_lease_total"(const lease_t *lease) noexcept
        # in use in the whole node: exact for this worker, up to three steps too many for each other one
