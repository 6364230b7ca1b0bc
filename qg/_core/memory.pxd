# SPDX-License-Identifier: MIT
"""Block pool with size classes, chains of blocks, byte accounting.

A pool belongs to one thread. Another thread may give a block back: it goes on an atomic stack which the owner empties
when it next finds its own list dry. Blocks of a class are reused last in, first out, so that a busy loop stays in
cache.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .shared cimport budget_t, lease_t

cdef enum:
    N_BLOCK_CLASSES = 4
    BLOCK_HEADROOM = 64         # free bytes before the payload of a fresh block: room for frame headers written later

cdef enum block_class_t:
    BLOCK_SMALL = 0             # 2 KiB less the header: messages, handshakes
    BLOCK_MEDIUM = 1            # 4.5 KiB: a flight in a pipe
    BLOCK_RECORD = 2            # one record, opened or sealed
    BLOCK_LARGE = 3             # 64 KiB of payload with headroom and tailroom; four sealed records

ctypedef struct block_t:
    block_t *next               # in a chain or a free list
    pool_t *home                # the pool it came from; borrowed
    uint32_t start              # offset of the first byte in use, from `data`
    uint32_t end                # offset behind the last byte in use
    uint32_t cap                # size of `data` in bytes
    uint32_t class_idx          # block_class_t
    uint64_t stamp_ns           # when its first byte was queued; for oldest-first decisions
    uint8_t data[1]             # `cap` bytes follow

ctypedef struct chain_t:
    block_t *head
    block_t *tail
    uint64_t len                # bytes in use in all blocks
    uint64_t taken_len          # memory of the blocks, as the pool counts it

ctypedef struct pool_t:
    block_t *free_list[N_BLOCK_CLASSES]  # owner's free blocks by class
    void *remote                # atomic stack of blocks given back by other threads
    uint32_t n_free[N_BLOCK_CLASSES]
    uint64_t n_taken            # blocks out, remote returns not yet counted
    lease_t taken               # bytes of blocks out, as n_taken; block_take answers NULL when the budget is used up
    budget_t own                # the pool's budget unless it shares one
    uint64_t held_len           # bytes of all blocks that exist
    uint64_t plain_len          # bytes of mem_take allocations
    uint32_t is_border          # blocks are given back by other threads only: block_give is block_give_remote

cdef int pool_init(pool_t *pool, uint64_t limit_len) noexcept nogil     # with a budget of its own; it may not move
cdef void pool_share(pool_t *pool, budget_t *budget) noexcept nogil     # one with other pools; before blocks are taken
cdef void pool_clear(pool_t *pool) noexcept nogil
    # frees what is on the free lists; the owner's last call
cdef void pool_collect(pool_t *pool) noexcept nogil                 # takes in what other threads gave back
cdef uint64_t pool_outstanding(pool_t *pool) noexcept nogil
    # blocks out after pool_collect; for conservation checks
cdef block_t *block_take(pool_t *pool, int class_idx) noexcept nogil
    # gives a block, empty behind its headroom, or NULL
cdef void block_give(block_t *block) noexcept nogil                 # takes; by the pool's own thread
cdef void block_give_remote(block_t *block) noexcept nogil          # takes; by any other thread
cdef int block_class_for(uint64_t len) noexcept nogil               # smallest class whose payload holds len

cdef inline uint8_t *block_start(block_t *block) noexcept nogil:
    return &block.data[0] + block.start

cdef inline uint32_t block_len(const block_t *block) noexcept nogil:
    return block.end - block.start

cdef inline uint32_t block_room(const block_t *block) noexcept nogil:
    return block.cap - block.end

cdef void chain_push(chain_t *chain, block_t *block) noexcept nogil     # takes the block
cdef block_t *chain_pop(chain_t *chain) noexcept nogil                  # gives the first block or NULL
cdef void chain_drop(chain_t *chain, uint64_t len) noexcept nogil
    # forgets the first len bytes, gives emptied blocks back
cdef block_t *chain_cut(chain_t *chain, pool_t *pool, uint64_t len) noexcept nogil
    # moves the first len bytes, which the chain has and one block holds, into a block; NULL: nothing is moved
cdef void chain_clear(chain_t *chain) noexcept nogil                    # gives all blocks back
cdef int chain_append(chain_t *chain, pool_t *pool, const uint8_t *src, uint64_t len, uint64_t now_ns) noexcept nogil
    # copies; fills the last block first; E_MEMORY leaves the chain as it was

cdef int chain_copy(chain_t *chain, pool_t *pool, const uint8_t *src, uint64_t len, uint64_t now_ns) noexcept nogil
    # the same into blocks of their own: what lies in the last one is not joined to it

cdef void *mem_take(pool_t *pool, size_t len) noexcept nogil
    # zeroed plain memory, accounted; NULL when there is none
cdef void mem_give(pool_t *pool, void *memory, size_t len) noexcept nogil
