/* SPDX-License-Identifier: MIT
 * What threads share (qg/_core/shared.pxd, sys.pxd) under several threads at once: threads ROUNDS, exit code 0 when all
 * came as it should. Compiled with -fsanitize=thread; with -DPLANT it has the fault of that name, for the harness to
 * be seen to find it. */
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "shared.h"

enum { N_WORKERS = 3, RING_LEN = 64 };

static uint64_t n_rounds;

static void check(int is_right, const char *what) {
    if (!is_right) {
        fprintf(stderr, "threads: %s\n", what);
        exit(1);
    }
}

static void run(void *(*work)(void *), int n, pthread_t *threads) {
    for (intptr_t i = 0; i < n; i++)
        check(pthread_create(&threads[i], NULL, work, (void *)i) == 0, "no thread");
}

static void end(int n, pthread_t *threads) {
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

/* Inbox: many push, one takes; what an item holds is seen, in the order of its writer. */

typedef struct { void *next; uint64_t writer, number; } item_t;

static void *inbox;
static int inbox_fds[2];

static void *inbox_write(void *arg) {
    for (uint64_t i = 0; i < n_rounds; i++) {
        item_t *item = malloc(sizeof(item_t));
        item->writer = (uint64_t)(intptr_t)arg;
        item->number = i;
#ifdef PLANT_INBOX
        void *old = inbox;
        item->next = old;
        inbox = item;
        if (old == NULL)
#else
        if (qg_inbox_push(&inbox, item))
#endif
            check(write(inbox_fds[1], "", 1) == 1, "no pipe");
    }
    return NULL;
}

static void inbox_try(void) {
    pthread_t threads[N_WORKERS];
    uint64_t next[N_WORKERS] = {0};
    uint64_t n_left = N_WORKERS * n_rounds;
    char byte;
    check(pipe(inbox_fds) == 0, "no pipe");
    run(inbox_write, N_WORKERS, threads);
    while (n_left) {
        check(read(inbox_fds[0], &byte, 1) == 1, "no wake-up");
        for (item_t *item = qg_inbox_take(&inbox), *following; item != NULL; item = following, n_left--) {
            following = item->next;
            check(item->number == next[item->writer]++, "inbox: out of order");
            free(item);
        }
    }
    end(N_WORKERS, threads);
}

/* Rings and bell: each worker fills its ring and rings one bell; the reader sleeps only when all are empty. */

typedef struct { uint64_t number, twice; } slot_t;

static qg_ring_t rings[N_WORKERS];
static slot_t slots[N_WORKERS][RING_LEN];
static uint64_t is_asleep;
static int bell_fds[2], room_fds[N_WORKERS][2];

static void *ring_write(void *arg) {
    intptr_t me = (intptr_t)arg;
    char byte;
    for (uint64_t i = 0; i < n_rounds;) {
        int64_t at = qg_ring_vacant(&rings[me], RING_LEN);
        if (at < 0) {
            check(read(room_fds[me][0], &byte, 1) == 1, "no room");
            continue;
        }
#ifdef PLANT_RING
        qg_ring_publish(&rings[me]);
        if (qg_bell_ring(&is_asleep))
            check(write(bell_fds[1], "", 1) == 1, "no bell");
        usleep(10);
        slots[me][at].number = i;
        slots[me][at].twice = 2 * i;
#else
        slots[me][at].number = i;
        slots[me][at].twice = 2 * i;
        qg_ring_publish(&rings[me]);
#endif
        i++;
        if (qg_bell_ring(&is_asleep))
            check(write(bell_fds[1], "", 1) == 1, "no bell");
    }
    return NULL;
}

static volatile uint64_t sum;          /* what is read is used */

static uint64_t rings_drain(uint64_t *next) {
    uint64_t n = 0;
    for (int me = 0; me < N_WORKERS; me++) {
        int64_t at;
        while ((at = qg_ring_filled(&rings[me], RING_LEN)) >= 0) {
            slot_t slot = slots[me][at];
            qg_ring_drop(&rings[me]);
#ifndef PLANT_RING
            check(slot.number == next[me] && slot.twice == 2 * next[me], "ring: another slot");
#endif
            sum += slot.number + slot.twice;
            next[me]++;
            n++;
        }
        if (qg_ring_relieved(&rings[me]))
            check(write(room_fds[me][1], "", 1) == 1, "no room");
    }
    return n;
}

static void ring_try(void) {
    pthread_t threads[N_WORKERS];
    uint64_t next[N_WORKERS] = {0};
    uint64_t n_left = N_WORKERS * n_rounds, n;
    char byte;
    check(pipe(bell_fds) == 0, "no pipe");
    for (int me = 0; me < N_WORKERS; me++)
        check(pipe(room_fds[me]) == 0, "no pipe");
    run(ring_write, N_WORKERS, threads);
    while (n_left) {
        n = rings_drain(next);
        if (n == 0) {
            qg_bell_sleep(&is_asleep);
            n = rings_drain(next);
            if (n == 0)
                check(read(bell_fds[0], &byte, 1) == 1, "no bell");
            else if (!qg_bell_ring(&is_asleep))
                check(read(bell_fds[0], &byte, 1) == 1, "no bell");
        }
        n_left -= n;
    }
    end(N_WORKERS, threads);
}

/* Lock: a plain number is counted by all. */

static uint64_t lock, n_counted;

static void *lock_count(void *arg) {
    for (uint64_t i = 0; i < n_rounds; i++) {
#ifndef PLANT_LOCK
        qg_lock_take(&lock);
#endif
        n_counted++;
#ifndef PLANT_LOCK
        qg_lock_give(&lock);
#endif
    }
    return arg;
}

static void lock_try(void) {
    pthread_t threads[N_WORKERS];
    run(lock_count, N_WORKERS, threads);
    end(N_WORKERS, threads);
    check(n_counted == N_WORKERS * n_rounds, "lock: miscounted");
}

/* Budgets: what is taken never exceeds them, and all of it comes back. */

static qg_budget_t budget = {0, 100000};
static uint64_t n_taken;

static void *budget_use(void *arg) {
    qg_lease_t lease;
    uint64_t len = 0;
    qg_lease_init(&lease, &budget, 1000);
    for (uint64_t i = 0; i < n_rounds; i++) {
        uint64_t more = 1 + i * 7919 % 9000;
        if (lease.used + more < 60000 && qg_lease_take(&lease, more)) {
            uint64_t all = __atomic_add_fetch(&n_taken, more, __ATOMIC_SEQ_CST);
            check(all <= budget.max, "budget: exceeded");
            len += more;
        } else {
            __atomic_sub_fetch(&n_taken, len, __ATOMIC_SEQ_CST);
            qg_lease_add(&lease, -len);
            len = 0;
        }
        check(lease.used == len && lease.leased >= len && lease.leased <= len + 3 * lease.step, "lease: wrong");
    }
    __atomic_sub_fetch(&n_taken, len, __ATOMIC_SEQ_CST);
    qg_lease_add(&lease, -len);
    return (void *)(uintptr_t)lease.leased;
}

static void budget_try(void) {
    pthread_t threads[N_WORKERS];
    uint64_t left = 0;
    void *leased;
    run(budget_use, N_WORKERS, threads);
    for (int i = 0; i < N_WORKERS; i++) {
        pthread_join(threads[i], &leased);
        left += (uint64_t)(uintptr_t)leased;
    }
    check(budget.len == left, "budget: bytes are missing");
}

/* Snapshots: a table is replaced while workers read it; the old one goes once each has passed a turn. */

typedef struct { void *next; uint64_t number; } pass_t;
typedef struct { uint64_t first, second; } table_t;

static void *table;
static void *passes[N_WORKERS];
static uint64_t n_passed[N_WORKERS], is_over;

static void *snapshot_read(void *arg) {
    intptr_t me = (intptr_t)arg;
    while (!qg_load_acquire(&is_over)) {                        /* a turn */
        for (pass_t *pass = qg_inbox_take(&passes[me]), *following; pass != NULL; pass = following) {
            following = pass->next;
            qg_store_release(&n_passed[me], pass->number);
            free(pass);
        }
        for (int i = 0; i < 20; i++) {
            const table_t *now = qg_load_ptr(&table);
            check(now->second == 2 * now->first, "snapshot: torn");
        }
        sched_yield();
    }
    return NULL;
}

static void snapshot_try(void) {
    pthread_t threads[N_WORKERS];
    table = calloc(1, sizeof(table_t));
    run(snapshot_read, N_WORKERS, threads);
    for (uint64_t round = 1; round <= n_rounds / 100; round++) {
        table_t *newer = malloc(sizeof(table_t));
        newer->first = round;
        newer->second = 2 * round;
        table_t *older = qg_exchange_ptr(&table, newer);
#ifndef PLANT_SNAPSHOT
        for (int me = 0; me < N_WORKERS; me++) {
            pass_t *pass = malloc(sizeof(pass_t));
            pass->number = round;
            qg_inbox_push(&passes[me], pass);
        }
        for (int me = 0; me < N_WORKERS; me++)
            while (qg_load_acquire(&n_passed[me]) < round)
                sched_yield();
#endif
        older->first = older->second = 0;
        free(older);
    }
    qg_store_release(&is_over, 1);
    end(N_WORKERS, threads);
    for (int me = 0; me < N_WORKERS; me++)
        for (pass_t *pass = qg_inbox_take(&passes[me]), *following; pass != NULL; pass = following) {
            following = pass->next;
            free(pass);
        }
    free(table);
}

/* Bridges, as qg/_core/bridge.pyx makes them of a ring for each direction, an inbox for each side, and news: the side
 * that opened one frees it, at the last word of the other. */

enum { BRIDGE_LEN = 4, N_OPEN = 8, SHUT = 2, LAST = 3 };

typedef struct { void *inbox; int fds[2]; uint64_t n_ended; } side_t;
typedef struct bridge bridge_t;
typedef struct {
    void *next;
    uint64_t news;
    qg_ring_t at;
    uint64_t *blocks[BRIDGE_LEN];
    bridge_t *bridge;
    side_t *side;
    uint64_t n_to_write, n_written, n_to_read, n_read;
    int is_closed, is_shut;
} end_t;
struct bridge { end_t near, far; };

static side_t sides[2];

static void bridge_put(end_t *end, side_t *side) {
    if (qg_inbox_push(&side->inbox, end))
        check(write(side->fds[1], "", 1) == 1, "no pipe");
}

static void bridge_tell(end_t *end) {
    side_t *side = end->side;
    if (qg_news_tell(&end->news))
        bridge_put(end, side);
}

static void bridge_tell_end(end_t *end, uint64_t news) {
    side_t *side = end->side;
    if (qg_news_end(&end->news, news))
        bridge_put(end, side);
}

static end_t *bridge_other(end_t *end) {
    return end == &end->bridge->near ? &end->bridge->far : &end->bridge->near;
}

static void bridge_read(end_t *end) {
    int64_t slot;
    int n = 0;
    while ((slot = qg_ring_filled(&end->at, BRIDGE_LEN)) >= 0) {
        check(*end->blocks[slot] == end->n_read++, "bridge: another block");
        free(end->blocks[slot]);
        qg_ring_drop(&end->at);
        n++;
    }
    if (!end->is_closed && n && qg_ring_relieved(&end->at))
        bridge_tell(bridge_other(end));
}

static void bridge_write(end_t *end) {
    end_t *other = bridge_other(end);
    int64_t slot;
    int n = 0;
    while (!end->is_closed && end->n_written < end->n_to_write
           && (slot = qg_ring_vacant(&other->at, BRIDGE_LEN)) >= 0) {
        other->blocks[slot] = malloc(sizeof(uint64_t));
        *other->blocks[slot] = end->n_written++;
        qg_ring_publish(&other->at);
        n++;
    }
    if (n)
        bridge_tell(other);
}

static void bridge_turn(end_t *end) {
    uint64_t news = qg_news_take(&end->news);
    int is_far = end == &end->bridge->far;
#ifdef PLANT_BRIDGE
    if (!is_far && end->is_closed && news >= SHUT) {        /* the other side may not have done with it */
#else
    if (news == LAST) {
#endif
        bridge_read(end);
        end->side->n_ended++;
        free(end->bridge);
        return;
    }
    end->is_shut |= news == SHUT;
    bridge_read(end);
    bridge_write(end);
    if (!end->is_closed && (end->is_shut || (end->n_written == end->n_to_write && end->n_read >= end->n_to_read))) {
        end->is_closed = 1;
        bridge_tell_end(bridge_other(end), SHUT);
    }
    if (end->is_closed && end->is_shut && is_far && !qg_load_relaxed(&end->news)) {
        end->side->n_ended++;
        bridge_tell_end(&end->bridge->near, LAST);
    }
}

static void bridge_open(uint64_t i) {
    bridge_t *bridge = calloc(1, sizeof(bridge_t));
    bridge->near.bridge = bridge->far.bridge = bridge;
    bridge->near.side = &sides[0];
    bridge->far.side = &sides[1];
    bridge->near.n_to_write = i * 7 % 13;
    bridge->far.n_to_write = i * 5 % 11;
    bridge->near.n_to_read = i % 3 ? bridge->far.n_to_write : 0;
    bridge->far.n_to_read = i % 5 ? bridge->near.n_to_write : 0;
    bridge_tell(&bridge->near);
    bridge_tell(&bridge->far);
}

static void *bridge_run(void *arg) {
    side_t *side = &sides[(intptr_t)arg];
    uint64_t n = n_rounds / 10, n_opened = 0;
    char byte;
    while (side->n_ended < n) {
        for (; arg == NULL && n_opened < n && n_opened < side->n_ended + N_OPEN; n_opened++)
            bridge_open(n_opened);
        check(read(side->fds[0], &byte, 1) == 1, "no wake-up");
        for (end_t *end = qg_inbox_take(&side->inbox), *following; end != NULL; end = following) {
            following = end->next;
            bridge_turn(end);
        }
    }
    return NULL;
}

static void bridge_try(void) {
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        check(pipe(sides[i].fds) == 0, "no pipe");
    run(bridge_run, 2, threads);
    end(2, threads);
    check(sides[0].inbox == NULL && sides[1].inbox == NULL, "bridge: news of what is gone");
}

int main(int argc, char **argv) {
    n_rounds = argc > 1 ? strtoull(argv[1], NULL, 10) : 10000;
    inbox_try();
    ring_try();
    lock_try();
    budget_try();
    snapshot_try();
    bridge_try();
    puts("all of it came as it should");
    return 0;
}
