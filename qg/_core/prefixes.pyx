# SPDX-License-Identifier: MIT
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
"""Addresses in their 16-byte form, and networks."""
cimport cython
from cpython.list cimport PyList_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from .memory cimport mem_give, mem_take, pool_clear, pool_init, pool_t
from .status cimport E_ADDRESS, E_FULL, OK
from .sys cimport load_be64
from .wire cimport ADDRESS_IP4, ADDRESS_IP6, address_t

cdef enum:
    NESTED_MAX = 129            # prefixes that can hold one address

ctypedef struct open_t:         # a prefix that holds the address at which the table's builder is
    number_t last               # its last address
    uint32_t mark


# Addresses

cdef int ip_get(uint8_t *dst16, const uint8_t *ip, size_t ip_len) noexcept nogil:
    """Write the 16-byte form."""
    if ip_len == IP_LEN:
        memcpy(dst16, ip, IP_LEN)
        return OK
    if ip_len != 4:
        return E_ADDRESS
    memset(dst16, 0, 10)
    memset(dst16 + 10, 0xff, 2)
    memcpy(dst16 + 12, ip, 4)
    return OK


cdef int address_ip(uint8_t *dst16, const address_t *address) noexcept nogil:
    if address.type == ADDRESS_IP4:
        return ip_get(dst16, &address.ip[0], 4)
    if address.type == ADDRESS_IP6:
        return ip_get(dst16, &address.ip[0], IP_LEN)
    return E_ADDRESS


cdef bint is_ip4(const uint8_t *ip16) noexcept nogil:
    cdef int i
    for i in range(10):
        if ip16[i]:
            return False
    return ip16[10] == 0xff and ip16[11] == 0xff


cdef prefix_t prefix_cut(const uint8_t *ip16, int n_bits) noexcept nogil:
    cdef prefix_t prefix
    memset(&prefix, 0, sizeof(prefix))
    prefix.len = <uint8_t>n_bits
    memcpy(&prefix.ip[0], ip16, n_bits // 8)
    if n_bits % 8:
        prefix.ip[n_bits // 8] = ip16[n_bits // 8] & <uint8_t>(0xff00 >> n_bits % 8)
    return prefix


cdef int prefix_list_add(prefix_list_t *list, const uint8_t *ip, size_t ip_len, uint32_t prefix_len) noexcept nogil:
    cdef prefix_t prefix
    if ip_get(&prefix.ip[0], ip, ip_len) < 0 or prefix_len > ip_len * 8:
        return E_ADDRESS
    if list.len >= PREFIXES_MAX:
        return E_FULL
    prefix.len = <uint8_t>(prefix_len if ip_len == IP_LEN else prefix_len + IP4_BITS)
    list.items[list.len] = prefix
    list.len += 1
    return OK


cdef bint prefix_holds(const prefix_t *prefix, const uint8_t *ip16) noexcept nogil:
    cdef int n_bytes = prefix.len // 8, n_bits = prefix.len % 8
    if memcmp(&prefix.ip[0], ip16, n_bytes) != 0:
        return False
    return n_bits == 0 or (prefix.ip[n_bytes] ^ ip16[n_bytes]) >> (8 - n_bits) == 0


cdef bint prefix_list_holds(const prefix_list_t *list, const uint8_t *ip16) noexcept nogil:
    cdef bint has_ip4 = is_ip4(ip16)
    cdef uint32_t i
    for i in range(list.len):
        # ::/0 means all of IPv6; that IPv4 is mapped into it must not make it mean IPv4 too.
        if (list.items[i].len >= IP4_BITS or not has_ip4) and prefix_holds(&list.items[i], ip16):
            return True
    return False


# Tables: prefixes are nested, so the address space falls into ranges, in each of which one of them decides

cdef inline number_t number_of(const uint8_t *ip16) noexcept nogil:
    cdef number_t number
    number.high = load_be64(ip16)
    number.low = load_be64(ip16 + 8)
    if is_ip4(ip16):
        number.high = <uint32_t>number.low
        number.low = 0
    return number


cdef number_t prefix_last(const prefix_t *prefix) noexcept nogil:
    """The last address in a prefix."""
    cdef number_t last = number_of(&prefix.ip[0])
    if is_ip4_prefix(prefix):
        last.high |= <uint64_t>0xffffffff >> (prefix.len - IP4_BITS)
        last.low = <uint64_t>-1
    elif prefix.len < 64:
        last.high |= <uint64_t>-1 >> prefix.len
        last.low = <uint64_t>-1
    elif prefix.len < 128:
        last.low |= <uint64_t>-1 >> (prefix.len - 64)
    return last


cdef inline bint is_ip4_prefix(const prefix_t *prefix) noexcept nogil:
    return prefix.len >= IP4_BITS and is_ip4(&prefix.ip[0])


cdef void place_put(family_t *family, number_t start, uint32_t mark) noexcept nogil:
    """From `start` on this mark holds."""
    cdef bint is_new = family.n_highs == 0 or family.highs[family.n_highs - 1] != start.high
    if not is_new and family.lows[family.n - 1] == start.low:
        family.marks[family.n - 1] = mark       # nothing lies between: the last word counts
        return
    if family.n and family.marks[family.n - 1] == mark:
        return
    if is_new:
        family.highs[family.n_highs] = start.high
        family.firsts[family.n_highs] = family.n
        family.n_highs += 1
    family.lows[family.n] = start.low
    family.marks[family.n] = mark
    family.n += 1
    family.firsts[family.n_highs] = family.n


cdef void nested_close(family_t *family, const open_t *nested, uint32_t *n_nested,
                       const number_t *before) noexcept nogil:
    """End the open prefixes that end before an address, all of them for NULL."""
    cdef number_t start
    while n_nested[0]:
        start = nested[n_nested[0] - 1].last
        if before is not NULL and (start.high > before.high or start.high == before.high and start.low >= before.low):
            break
        n_nested[0] -= 1
        start.low += 1
        start.high += start.low == 0
        if start.high or start.low:             # else the address space ends with it
            place_put(family, start, nested[n_nested[0] - 1].mark if n_nested[0] else MARK_NONE)


cdef void family_fill(family_t *family, const prefix_t *prefixes, uint32_t n_prefixes, bint has_ip4) noexcept nogil:
    cdef open_t[NESTED_MAX] nested
    cdef uint32_t n_nested = 0, i
    cdef number_t start
    memset(&start, 0, sizeof(start))
    place_put(family, start, MARK_NONE)
    for i in range(n_prefixes):
        if is_ip4_prefix(&prefixes[i]) != has_ip4 or n_nested >= NESTED_MAX:
            continue
        start = number_of(&prefixes[i].ip[0])
        nested_close(family, nested, &n_nested, &start)
        place_put(family, start, i)
        nested[n_nested].last = prefix_last(&prefixes[i])
        nested[n_nested].mark = i
        n_nested += 1
    nested_close(family, nested, &n_nested, NULL)


cdef uint8_t *family_place(family_t *family, uint8_t *memory, size_t n_places) noexcept nogil:
    """Lay the arrays out; what is behind them."""
    family.highs = <uint64_t *>memory
    family.lows = family.highs + n_places
    family.marks = <uint32_t *>(family.lows + n_places)
    family.firsts = family.marks + n_places
    return <uint8_t *>(family.firsts + n_places + 2)    # even, so that what follows is aligned


cdef marks_t *marks_build(pool_t *pool, const prefix_t *prefixes, uint32_t n_prefixes) noexcept nogil:
    cdef size_t n_ip4 = 1, n_ip6 = 1, len
    cdef uint8_t *memory
    cdef marks_t *marks
    cdef uint32_t i
    for i in range(n_prefixes):                 # each begins a range and ends one
        if is_ip4_prefix(&prefixes[i]):
            n_ip4 += 2
        else:
            n_ip6 += 2
    n_ip4 += 1                                  # even
    n_ip6 += 1
    len = sizeof(marks_t) + (n_ip4 + n_ip6) * 24 + 16
    marks = <marks_t *>mem_take(pool, len) if n_prefixes <= MARKS_MAX else NULL
    if marks is NULL:
        return NULL
    memset(marks, 0, sizeof(marks_t))
    marks.pool = pool
    marks.taken_len = len
    memory = family_place(&marks.ip4, <uint8_t *>(marks + 1), n_ip4)
    family_place(&marks.ip6, memory, n_ip6)
    family_fill(&marks.ip4, prefixes, n_prefixes, True)
    family_fill(&marks.ip6, prefixes, n_prefixes, False)
    return marks


cdef void marks_free(marks_t *marks) noexcept nogil:
    if marks is not NULL:
        mem_give(marks.pool, marks, marks.taken_len)


cdef inline uint32_t last_below(const uint64_t *numbers, uint32_t n, uint64_t number) noexcept nogil:
    """How many of ascending numbers are not above this one, less one; the first is none of those above."""
    cdef uint32_t half, found = 0
    while n > 1:
        half = n // 2
        found += half * <uint32_t>(numbers[found + half] <= number)     # no branch, which would go either way by chance
        n -= half
    return found


cdef uint32_t marks_find(const marks_t *marks, const uint8_t *ip16) noexcept nogil:
    cdef number_t number = number_of(ip16)
    cdef const family_t *family
    cdef uint32_t i, first
    if marks is NULL:
        return MARK_NONE
    family = &marks.ip4 if is_ip4(ip16) else &marks.ip6
    i = last_below(family.highs, family.n_highs, number.high)
    first = family.firsts[i]
    if family.highs[i] != number.high:
        return family.marks[family.firsts[i + 1] - 1]
    if family.lows[first] > number.low:
        return family.marks[first - 1]          # the very first place is 0, so there is one before
    return family.marks[first + last_below(family.lows + first, family.firsts[i + 1] - first, number.low)]


# Owners

@cython.final
cdef class PrefixList:
    """Own a list of networks; for tests."""
    cdef prefix_list_t prefixes

    def add(self, bytes ip not None, uint32_t prefix_len):
        """Add a network; return the status code."""
        return prefix_list_add(&self.prefixes, ip, len(ip), prefix_len)

    def holds(self, bytes ip not None):
        """Tell whether one of the networks holds an address of 4 or 16 bytes."""
        cdef uint8_t[16] form
        if ip_get(form, ip, len(ip)) < 0:
            raise ValueError("an address has 4 or 16 bytes")
        return prefix_list_holds(&self.prefixes, form)


cdef marks_t *marks_take(pool_t *pool, list networks) except NULL:
    cdef marks_t *marks
    cdef size_t len = (<size_t>PyList_GET_SIZE(networks) + 1) * sizeof(prefix_t)
    cdef prefix_t *prefixes = <prefix_t *>mem_take(pool, len)
    if prefixes is NULL:
        raise MemoryError
    try:
        prefixes_fill(prefixes, networks)
        marks = marks_build(pool, prefixes, <uint32_t>PyList_GET_SIZE(networks))
    finally:
        mem_give(pool, prefixes, len)
    if marks is NULL:
        raise MemoryError(f"at most {MARKS_MAX} networks")
    return marks


cdef int prefixes_fill(prefix_t *prefixes, list networks) except -1:
    cdef bytes ip
    cdef uint32_t n_bits
    cdef prefix_t *prefix = prefixes
    for ip, n_bits in networks:
        if ip_get(&prefix.ip[0], ip, len(ip)) < 0 or n_bits > 8 * <uint32_t>len(ip):
            raise ValueError(f"{ip.hex()}/{n_bits} is not a network")
        prefix.len = <uint8_t>(n_bits if len(ip) == IP_LEN else n_bits + IP4_BITS)
        if prefix != prefixes and not is_ascending(prefix - 1, prefix):
            raise ValueError(f"{ip.hex()}/{n_bits} is not in its place")
        prefix += 1
    return 0


cdef bint is_ascending(const prefix_t *prefix, const prefix_t *other) noexcept nogil:
    cdef int order = memcmp(&prefix.ip[0], &other.ip[0], IP_LEN)
    return order < 0 or order == 0 and prefix.len < other.len


@cython.final
cdef class Marks:
    """Own a table of networks, whose marks are their places in `networks`: (address of 4 or 16 bytes, bits), ascending.

    For tests and benchmarks.
    """
    cdef pool_t pool
    cdef marks_t *marks

    def __cinit__(self, list networks not None):
        pool_init(&self.pool, 0)
        self.marks = marks_take(&self.pool, networks)

    def __dealloc__(self):
        marks_free(self.marks)
        pool_clear(&self.pool)

    @property
    def n_ranges(self):
        """Count the ranges of both families."""
        return self.marks.ip4.n + self.marks.ip6.n

    def find(self, bytes ip not None):
        """Return the place of the longest prefix that holds an address, or None."""
        cdef uint8_t[16] form
        cdef uint32_t mark
        if ip_get(form, ip, len(ip)) < 0:
            raise ValueError("an address has 4 or 16 bytes")
        mark = marks_find(self.marks, form)
        return None if mark == MARK_NONE else mark

    def count(self, bytes addresses not None):
        """Count those of these addresses, 16 bytes each, that a network holds."""
        cdef const uint8_t *ip = addresses
        cdef uint32_t n = 0, i
        for i in range(<uint32_t>(len(addresses) // IP_LEN)):
            n += marks_find(self.marks, ip + i * <size_t>IP_LEN) != MARK_NONE
        return n
