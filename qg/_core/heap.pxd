# SPDX-License-Identifier: MIT
"""Deadlines in order: a binary heap of nodes that lie inside their owners."""
from libc.stdint cimport uint32_t, uint64_t

from .memory cimport pool_t

ctypedef struct heap_node_t:
    uint64_t at_ns
    uint32_t idx                # place in the heap + 1; 0 = not in it
    void *owner

ctypedef struct heap_t:
    heap_node_t **nodes         # owned
    uint32_t len
    uint32_t cap
    pool_t *pool                # borrowed

cdef void heap_init(heap_t *heap, pool_t *pool) noexcept nogil
cdef void heap_clear(heap_t *heap) noexcept nogil                               # the nodes are forgotten
cdef int heap_set(heap_t *heap, heap_node_t *node, uint64_t at_ns) noexcept nogil   # puts in or moves; E_MEMORY
cdef void heap_drop(heap_t *heap, heap_node_t *node) noexcept nogil
cdef inline heap_node_t *heap_first(const heap_t *heap) noexcept nogil:
    return heap.nodes[0] if heap.len else NULL
