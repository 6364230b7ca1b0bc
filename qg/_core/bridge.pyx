# SPDX-License-Identifier: MIT
"""Bridges: connections between two workers of one process."""
from libc.stdint cimport int64_t, uint64_t

from .memory cimport (
    block_give_remote, block_len, block_start, block_t, chain_clear, chain_pop, chain_push, mem_give, mem_take)
from .shared cimport (
    inbox_push, inbox_take, news_end, news_take, news_tell, ring_drop, ring_filled, ring_publish, ring_relieved,
    ring_vacant)
from .sys cimport atomic_peek


cdef inline end_t *other_of(end_t *end) noexcept nogil:
    return &end.bridge.far if end == &end.bridge.near else &end.bridge.near


cdef void put(end_t *end, shore_t *shore) noexcept nogil:
    """Into its inbox; from then on its worker may do with it what it likes."""
    if inbox_push(&shore.news, end):
        shore.wake(shore.ctx)


cdef void tell(end_t *end) noexcept nogil:
    cdef shore_t *shore = end.shore
    if news_tell(&end.news):
        put(end, shore)


cdef void tell_end(end_t *end, int news) noexcept nogil:
    cdef shore_t *shore = end.shore
    if news_end(&end.news, news):
        put(end, shore)


cdef end_t *bridge_open(shore_t *near, shore_t *far, void *user) noexcept nogil:
    cdef bridge_t *bridge = <bridge_t *>mem_take(near.pool, sizeof(bridge_t))
    if bridge is NULL:
        return NULL
    bridge.near.bridge = bridge
    bridge.far.bridge = bridge
    bridge.near.shore = near
    bridge.far.shore = far
    bridge.near.user = user
    bridge.next = near.bridges
    if near.bridges is not NULL:
        near.bridges.prev = bridge
    near.bridges = bridge
    tell(&bridge.far)
    return &bridge.near


cdef void bridge_write(end_t *end, chain_t *chain) noexcept nogil:
    while chain.head is not NULL:
        chain_push(&end.queue, chain_pop(chain))
    push_queue(end)


cdef void push_queue(end_t *end) noexcept nogil:
    cdef end_t *other = other_of(end)
    cdef bint has_pushed = False
    cdef int64_t slot
    while end.queue.head is not NULL:
        slot = ring_vacant(&other.at, BRIDGE_BLOCKS)
        if slot < 0:
            break
        other.blocks[slot] = chain_pop(&end.queue)
        ring_publish(&other.at)
        has_pushed = True
    if has_pushed:
        tell(other)


cdef uint64_t bridge_pending(const end_t *end) noexcept nogil:
    return end.queue.len


cdef void bridge_close(end_t *end) noexcept nogil:
    chain_clear(&end.queue)
    end.user = NULL
    end.is_closed = 1
    tell_end(other_of(end), NEWS_SHUT)
    if end.is_shut:
        tell(end)                               # the far end has its last word later: it may be being read from


cdef void read_blocks(end_t *end, uint64_t now_ns) noexcept nogil:
    cdef shore_t *shore = end.shore
    cdef block_t *block
    cdef int n = 0
    cdef int64_t slot = ring_filled(&end.at, BRIDGE_BLOCKS)
    while slot >= 0 and n < BRIDGE_BLOCKS:
        block = end.blocks[slot]
        ring_drop(&end.at)
        if end.user is not NULL:
            shore.events.on_read(shore.ctx, end.user, block_start(block), block_len(block), now_ns)
        block_give_remote(block)
        n += 1
        slot = ring_filled(&end.at, BRIDGE_BLOCKS)
    if end.is_closed:
        return                                  # whom nobody writes to any more, nobody waits for
    if slot >= 0:
        tell(end)                               # the others have their turn first
    if n > 0 and ring_relieved(&end.at):
        tell(other_of(end))


cdef void drop_blocks(end_t *end) noexcept nogil:
    cdef int64_t slot = ring_filled(&end.at, BRIDGE_BLOCKS)
    while slot >= 0:
        block_give_remote(end.blocks[slot])
        ring_drop(&end.at)
        slot = ring_filled(&end.at, BRIDGE_BLOCKS)


cdef void bridge_free(bridge_t *bridge) noexcept nogil:
    cdef shore_t *shore = bridge.near.shore
    drop_blocks(&bridge.near)
    drop_blocks(&bridge.far)
    if bridge.prev is not NULL:
        bridge.prev.next = bridge.next
    else:
        shore.bridges = bridge.next
    if bridge.next is not NULL:
        bridge.next.prev = bridge.prev
    mem_give(shore.pool, bridge, sizeof(bridge_t))


cdef void end_turn(end_t *end, uint64_t now_ns) noexcept nogil:
    cdef shore_t *shore = end.shore
    cdef uint64_t news = news_take(&end.news)
    if news == NEWS_LAST:
        bridge_free(end.bridge)
        return
    if end.user is NULL and not end.is_closed:
        end.user = shore.events.on_bridge(shore.ctx, end, now_ns)
        if end.user is NULL:
            bridge_close(end)
    end.is_shut |= news == NEWS_SHUT
    read_blocks(end, now_ns)
    if end.queue.head is not NULL:
        push_queue(end)
        if end.queue.head is NULL and end.user is not NULL:
            shore.events.on_writable(shore.ctx, end.user, now_ns)
    if not end.is_shut or ring_filled(&end.at, BRIDGE_BLOCKS) >= 0 and not end.is_closed:
        return
    if end.user is not NULL:
        shore.events.on_end(shore.ctx, end.user, now_ns)
    if end.is_closed and end == &end.bridge.far and not atomic_peek(&end.news):
        tell_end(&end.bridge.near, NEWS_LAST)


cdef int bridges_turn(shore_t *shore, uint64_t now_ns) noexcept nogil:
    cdef end_t *end = <end_t *>inbox_take(&shore.news)
    cdef end_t *following
    cdef int n = 0
    while end is not NULL:
        following = <end_t *>end.next
        end_turn(end, now_ns)
        end = following
        n += 1
    return n


cdef void bridges_free(shore_t *shore) noexcept nogil:
    while shore.bridges is not NULL:
        bridge_free(shore.bridges)
