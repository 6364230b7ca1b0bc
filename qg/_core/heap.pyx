# SPDX-License-Identifier: MIT
"""Deadlines in order: a binary heap of nodes that lie inside their owners."""
cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .memory cimport mem_give, mem_take, pool_clear, pool_init, pool_t
from .status cimport E_MEMORY, OK

cdef enum:
    CAP_MIN = 64


cdef void heap_init(heap_t *heap, pool_t *pool) noexcept nogil:
    memset(heap, 0, sizeof(heap_t))
    heap.pool = pool


cdef void heap_clear(heap_t *heap) noexcept nogil:
    cdef uint32_t i
    for i in range(heap.len):
        heap.nodes[i].idx = 0
    mem_give(heap.pool, heap.nodes, heap.cap * sizeof(heap_node_t *))
    heap.nodes = NULL
    heap.len = 0
    heap.cap = 0


cdef inline void place(heap_t *heap, heap_node_t *node, uint32_t i) noexcept nogil:
    heap.nodes[i] = node
    node.idx = i + 1


cdef void sift(heap_t *heap, heap_node_t *node, uint32_t i) noexcept nogil:
    """Put the node where it belongs, starting from the hole at i."""
    cdef uint32_t child, parent
    while i > 0:
        parent = (i - 1) // 2
        if heap.nodes[parent].at_ns <= node.at_ns:
            break
        place(heap, heap.nodes[parent], i)
        i = parent
    while True:
        child = 2 * i + 1
        if child >= heap.len:
            break
        if child + 1 < heap.len and heap.nodes[child + 1].at_ns < heap.nodes[child].at_ns:
            child += 1
        if heap.nodes[child].at_ns >= node.at_ns:
            break
        place(heap, heap.nodes[child], i)
        i = child
    place(heap, node, i)


cdef int heap_grow(heap_t *heap) noexcept nogil:
    cdef uint32_t cap = heap.cap * 2 if heap.cap else CAP_MIN
    cdef heap_node_t **nodes = <heap_node_t **>mem_take(heap.pool, cap * sizeof(heap_node_t *))
    if nodes is NULL:
        return E_MEMORY
    if heap.len:
        memcpy(nodes, heap.nodes, heap.len * sizeof(heap_node_t *))
    mem_give(heap.pool, heap.nodes, heap.cap * sizeof(heap_node_t *))
    heap.nodes = nodes
    heap.cap = cap
    return OK


cdef int heap_set(heap_t *heap, heap_node_t *node, uint64_t at_ns) noexcept nogil:
    if node.idx == 0:
        if heap.len == heap.cap and heap_grow(heap) < 0:
            return E_MEMORY
        heap.len += 1
        node.at_ns = at_ns
        sift(heap, node, heap.len - 1)
        return OK
    if node.at_ns != at_ns:
        node.at_ns = at_ns
        sift(heap, node, node.idx - 1)
    return OK


cdef void heap_drop(heap_t *heap, heap_node_t *node) noexcept nogil:
    cdef uint32_t i
    cdef heap_node_t *last
    if node.idx == 0:
        return
    i = node.idx - 1
    node.idx = 0
    heap.len -= 1
    last = heap.nodes[heap.len]
    if last != node:
        sift(heap, last, i)


@cython.final
cdef class Heap:
    """Own a heap of numbered deadlines; for tests."""
    cdef pool_t pool
    cdef heap_t heap
    cdef heap_node_t[64] nodes

    def __cinit__(self):
        pool_init(&self.pool, 0)
        heap_init(&self.heap, &self.pool)

    def __dealloc__(self):
        heap_clear(&self.heap)
        pool_clear(&self.pool)

    def set(self, unsigned int number, uint64_t at_ns):
        """Give deadline `number` (0 to 63) its time."""
        heap_set(&self.heap, &self.nodes[number % 64], at_ns)

    def drop(self, unsigned int number):
        """Take the deadline out."""
        heap_drop(&self.heap, &self.nodes[number % 64])

    def pop(self):
        """Take out the first: (number, time), or None."""
        cdef heap_node_t *node = heap_first(&self.heap)
        if node is NULL:
            return None
        heap_drop(&self.heap, node)
        return node - &self.nodes[0], node.at_ns
