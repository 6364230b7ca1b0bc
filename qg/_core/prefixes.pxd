# SPDX-License-Identifier: MIT
"""Addresses in their 16-byte form, and networks: short lists of them, and tables in which the longest prefix decides.

IPv4 is IPv4-mapped IPv6, so both spellings are one address. But an IPv6 network never holds IPv4: ::/0 is all of IPv6.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .memory cimport pool_t
from .wire cimport address_t

cdef enum:
    IP_LEN = 16
    IP4_BITS = 96               # bits before an IPv4 address in its 16-byte form
    PREFIXES_MAX = 64           # of a prefix_list_t; more: E_FULL
    MARKS_MAX = 1 << 20         # prefixes of a marks_t
    MARK_NONE = 0xffffffff      # no prefix holds the address

ctypedef struct prefix_t:
    uint8_t ip[16]              # 16-byte form; bits behind len are ignored
    uint8_t len                 # bits, 0..128; IPv4 counts from 96

ctypedef struct prefix_list_t:
    uint32_t len
    prefix_t items[PREFIXES_MAX]

ctypedef struct number_t:       # an address as a number; of IPv4: the address, and 0
    uint64_t high
    uint64_t low

ctypedef struct family_t:       # where what is said of addresses changes, ascending; the first is address 0
    uint64_t *highs             # the halves of these places that lie above, each once: what a search walks is small
    uint32_t *firsts            # of each, its first place; and behind the last the number of places
    uint64_t *lows              # the halves below of all places
    uint32_t *marks             # what is said from a place on
    uint32_t n_highs
    uint32_t n

ctypedef struct marks_t:        # what is said of each address; immutable once built, any thread may read it
    pool_t *pool                # borrowed; of the thread that builds and frees
    size_t taken_len            # bytes
    family_t ip4
    family_t ip6

cdef int ip_get(uint8_t *dst16, const uint8_t *ip, size_t ip_len) noexcept nogil
    # ip of 4 or 16 bytes to its 16-byte form; OK, E_ADDRESS
cdef int address_ip(uint8_t *dst16, const address_t *address) noexcept nogil    # OK, E_ADDRESS for names
cdef bint is_ip4(const uint8_t *ip16) noexcept nogil

cdef prefix_t prefix_cut(const uint8_t *ip16, int n_bits) noexcept nogil
    # the network of this width (of the 16-byte form) around an address, without bits behind it

cdef int prefix_list_add(prefix_list_t *list, const uint8_t *ip, size_t ip_len, uint32_t prefix_len) noexcept nogil
    # ip of 4 or 16 bytes; OK, E_ADDRESS, E_FULL
cdef bint prefix_list_holds(const prefix_list_t *list, const uint8_t *ip16) noexcept nogil

cdef marks_t *marks_build(pool_t *pool, const prefix_t *prefixes, uint32_t n_prefixes) noexcept nogil
    # gives the table in which prefix i has mark i. They ascend by address, then by length, each once and without bits
    # behind its length, and those of less than 96 bits do not begin in ::ffff:0:0/96; NULL without memory
cdef void marks_free(marks_t *marks) noexcept nogil         # takes; NULL is allowed
cdef uint32_t marks_find(const marks_t *marks, const uint8_t *ip16) noexcept nogil
    # the mark of the longest prefix that holds the address, MARK_NONE without one and for NULL
cdef marks_t *marks_take(pool_t *pool, list networks) except NULL
    # the same of (address of 4 or 16 bytes, bits), ascending; raises ValueError, MemoryError
