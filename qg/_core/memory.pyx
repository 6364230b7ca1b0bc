# SPDX-License-Identifier: MIT
"""Block pool, chains and byte accounting. The only heap user of L1 to L8."""
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memmove, memset

from .shared cimport budget_t, lease_add, lease_init, lease_take
from .status cimport E_MEMORY, OK
from .sys cimport atomic_cas_ptr, atomic_exchange_ptr, atomic_load_ptr

cdef enum:
    LEASE_STEP = 262144         # of the budget, taken ahead
    FREE_MAX_LEN = 4194304      # bytes kept on each free list; what is given back beyond it returns to the heap

cdef uint32_t[4] CLASS_LEN = [2048, 4608, 18432, 67584]


cdef inline uint32_t class_cap(int class_idx) noexcept nogil:
    return CLASS_LEN[class_idx] - <uint32_t>sizeof(block_t)


cdef int pool_init(pool_t *pool, uint64_t limit_len) noexcept nogil:
    memset(pool, 0, sizeof(pool_t))
    pool.own.max = limit_len
    lease_init(&pool.taken, &pool.own, LEASE_STEP)
    return OK


cdef void pool_share(pool_t *pool, budget_t *budget) noexcept nogil:
    lease_init(&pool.taken, budget, LEASE_STEP)


cdef void pool_clear(pool_t *pool) noexcept nogil:
    cdef block_t *block
    cdef int i
    pool_collect(pool)
    for i in range(N_BLOCK_CLASSES):
        while pool.free_list[i] is not NULL:
            block = pool.free_list[i]
            pool.free_list[i] = block.next
            pool.held_len -= CLASS_LEN[i]
            free(block)
        pool.n_free[i] = 0


cdef void pool_collect(pool_t *pool) noexcept nogil:
    cdef block_t *block = <block_t *>atomic_exchange_ptr(&pool.remote, NULL)
    cdef block_t *following
    while block is not NULL:
        following = block.next
        block_free(block)
        block = following


cdef uint64_t pool_outstanding(pool_t *pool) noexcept nogil:
    pool_collect(pool)
    return pool.n_taken


cdef block_t *block_take(pool_t *pool, int class_idx) noexcept nogil:
    cdef block_t *block = pool.free_list[class_idx]
    if block is NULL:
        if atomic_load_ptr(&pool.remote) is not NULL:
            pool_collect(pool)
            block = pool.free_list[class_idx]
    if not lease_take(&pool.taken, CLASS_LEN[class_idx]):
        return NULL
    if block is not NULL:
        pool.free_list[class_idx] = block.next
        pool.n_free[class_idx] -= 1
    else:
        block = <block_t *>malloc(CLASS_LEN[class_idx])
        if block is NULL:
            lease_add(&pool.taken, -<uint64_t>CLASS_LEN[class_idx])
            return NULL
        block.home = pool
        block.cap = class_cap(class_idx)
        block.class_idx = class_idx
        pool.held_len += CLASS_LEN[class_idx]
    block.next = NULL
    block.start = BLOCK_HEADROOM
    block.end = BLOCK_HEADROOM
    block.stamp_ns = 0
    pool.n_taken += 1
    return block


cdef void block_give(block_t *block) noexcept nogil:
    if block.home.is_border:
        block_give_remote(block)
    else:
        block_free(block)


cdef void block_free(block_t *block) noexcept nogil:
    cdef pool_t *pool = block.home
    cdef uint32_t i = block.class_idx
    pool.n_taken -= 1
    lease_add(&pool.taken, -<uint64_t>CLASS_LEN[i])
    if pool.n_free[i] >= FREE_MAX_LEN // CLASS_LEN[i]:
        pool.held_len -= CLASS_LEN[i]
        free(block)
        return
    block.next = pool.free_list[i]
    pool.free_list[i] = block
    pool.n_free[i] += 1


cdef void block_give_remote(block_t *block) noexcept nogil:
    cdef pool_t *pool = block.home
    while True:
        block.next = <block_t *>atomic_load_ptr(&pool.remote)
        if atomic_cas_ptr(&pool.remote, block.next, block):
            return


cdef int block_class_for(uint64_t len) noexcept nogil:
    if len <= class_cap(BLOCK_SMALL) - BLOCK_HEADROOM:
        return BLOCK_SMALL
    if len <= class_cap(BLOCK_MEDIUM) - BLOCK_HEADROOM:
        return BLOCK_MEDIUM
    if len <= class_cap(BLOCK_RECORD) - BLOCK_HEADROOM:
        return BLOCK_RECORD
    return BLOCK_LARGE


cdef void chain_push(chain_t *chain, block_t *block) noexcept nogil:
    block.next = NULL
    if chain.tail is NULL:
        chain.head = block
    else:
        chain.tail.next = block
    chain.tail = block
    chain.len += block_len(block)
    chain.taken_len += CLASS_LEN[block.class_idx]


cdef block_t *chain_pop(chain_t *chain) noexcept nogil:
    cdef block_t *block = chain.head
    if block is NULL:
        return NULL
    chain.head = block.next
    if chain.head is NULL:
        chain.tail = NULL
    chain.len -= block_len(block)
    chain.taken_len -= CLASS_LEN[block.class_idx]
    block.next = NULL
    return block


cdef void chain_drop(chain_t *chain, uint64_t len) noexcept nogil:
    cdef uint32_t n
    while len > 0 and chain.head is not NULL:
        n = block_len(chain.head)
        if n > len:
            chain.head.start += <uint32_t>len
            chain.len -= len
            return
        len -= n
        block_give(chain_pop(chain))


cdef block_t *chain_cut(chain_t *chain, pool_t *pool, uint64_t len) noexcept nogil:
    cdef block_t *block = block_take(pool, block_class_for(len))
    cdef uint64_t n
    while block is not NULL and len > 0:
        n = min(len, <uint64_t>block_len(chain.head))
        memcpy(&block.data[0] + block.end, block_start(chain.head), n)
        block.end += <uint32_t>n
        chain_drop(chain, n)
        len -= n
    return block


cdef void chain_clear(chain_t *chain) noexcept nogil:
    while chain.head is not NULL:
        block_give(chain_pop(chain))


cdef int chain_copy(chain_t *chain, pool_t *pool, const uint8_t *src, uint64_t len, uint64_t now_ns) noexcept nogil:
    cdef chain_t fresh
    cdef block_t *block
    cdef uint64_t n
    memset(&fresh, 0, sizeof(fresh))
    while len > 0:
        block = block_take(pool, block_class_for(len))
        if block is NULL:
            chain_clear(&fresh)
            return E_MEMORY
        n = min(len, <uint64_t>block_room(block))
        memcpy(block_start(block), src, n)
        block.end += <uint32_t>n
        block.stamp_ns = now_ns
        chain_push(&fresh, block)
        src += n
        len -= n
    while fresh.head is not NULL:
        chain_push(chain, chain_pop(&fresh))
    return OK


cdef int chain_append(chain_t *chain, pool_t *pool, const uint8_t *src, uint64_t len, uint64_t now_ns) noexcept nogil:
    cdef block_t *tail = chain.tail
    cdef uint64_t in_tail = min(len, <uint64_t>block_room(tail)) if tail is not NULL else 0
    if chain_copy(chain, pool, src + in_tail, len - in_tail, now_ns) < 0:
        return E_MEMORY
    if in_tail:
        memmove(&tail.data[0] + tail.end, src, in_tail)     # src may lie in the tail block, behind its end
        tail.end += <uint32_t>in_tail
        chain.len += in_tail
    return OK


cdef void *mem_take(pool_t *pool, size_t len) noexcept nogil:
    cdef void *memory = calloc(1, len)
    if memory is not NULL:
        pool.plain_len += len
    return memory


cdef void mem_give(pool_t *pool, void *memory, size_t len) noexcept nogil:
    if memory is not NULL:
        pool.plain_len -= len
        free(memory)


@cython.final
cdef class Pool:
    """Own a block pool; for tests and for code that drives the core without a loop.

    Not thread-safe, except that blocks may be given back from elsewhere inside the core.
    """
    cdef pool_t pool

    def __cinit__(self, uint64_t limit_len=1 << 40):
        pool_init(&self.pool, limit_len)

    def __dealloc__(self):
        pool_clear(&self.pool)

    @property
    def n_taken(self):
        """Blocks that are out, after collecting what other threads gave back."""
        return pool_outstanding(&self.pool)

    @property
    def taken_len(self):
        """Bytes of the blocks that are out."""
        return self.pool.taken.used

    @property
    def held_len(self):
        """Bytes of all blocks, out or free."""
        return self.pool.held_len


@cython.final
cdef class Chain:
    """Own a chain of blocks of a `Pool`; a byte queue for tests."""
    cdef Pool owner
    cdef chain_t chain

    def __cinit__(self, Pool pool not None):
        self.owner = pool

    def __dealloc__(self):
        chain_clear(&self.chain)

    def __len__(self):
        return self.chain.len

    def append(self, bytes data not None):
        """Copy `data` to the end; MemoryError when the pool's limit is reached, the chain is unchanged then."""
        if chain_append(&self.chain, &self.owner.pool, <const uint8_t *>data, len(data), 0) < 0:
            raise MemoryError("the pool's limit is reached")

    def drop(self, uint64_t length):
        """Forget the first `length` bytes."""
        chain_drop(&self.chain, length)

    def give_remote(self):
        """Give the first block back as another thread would."""
        cdef block_t *block = chain_pop(&self.chain)
        if block is not NULL:
            block_give_remote(block)

    def __bytes__(self):
        cdef bytearray out = bytearray()
        cdef block_t *block = self.chain.head
        while block is not NULL:
            out += (<const char *>block_start(block))[:block_len(block)]
            block = block.next
        return bytes(out)
