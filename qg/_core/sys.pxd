# SPDX-License-Identifier: MIT
"""Atomics and the few C facilities that libc.* of Cython does not declare. Static inline, no code of its own."""
from libc.stdint cimport uint32_t, uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    #ifndef QG_TEST
    #define QG_TEST 0
    #endif
    #ifndef QG_SYS_H
    #define QG_SYS_H
    static inline uint64_t qg_load_acquire(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline uint64_t qg_load_relaxed(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static inline void qg_store_release(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline void qg_store_relaxed(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
    static inline uint64_t qg_exchange(uint64_t *p, uint64_t v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }
    static inline uint64_t qg_add(uint64_t *p, uint64_t v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
    static inline int qg_cas(uint64_t *p, uint64_t old, uint64_t v) {
        return __atomic_compare_exchange_n(p, &old, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE); }
    static inline void qg_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    static inline void *qg_exchange_ptr(void **p, void *v) { return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL); }
    static inline void *qg_load_ptr(void **p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline int qg_cas_ptr(void **p, void *old, void *v) {
        return __atomic_compare_exchange_n(p, &old, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE); }
    static inline uint64_t qg_load_be64(const uint8_t *p) {
        uint64_t v; __builtin_memcpy(&v, p, 8); return __builtin_bswap64(v); }
    static inline uint32_t qg_load_be32(const uint8_t *p) {
        uint32_t v; __builtin_memcpy(&v, p, 4); return __builtin_bswap32(v); }
    static inline uint32_t qg_load_be16(const uint8_t *p) { return ((uint32_t)p[0] << 8) | p[1]; }
    static inline void qg_store_be64(uint8_t *p, uint64_t v) { v = __builtin_bswap64(v); __builtin_memcpy(p, &v, 8); }
    static inline void qg_store_be32(uint8_t *p, uint32_t v) { v = __builtin_bswap32(v); __builtin_memcpy(p, &v, 4); }
    static inline void qg_store_be16(uint8_t *p, uint32_t v) { p[0] = (uint8_t)(v >> 8); p[1] = (uint8_t)v; }
    static inline int qg_is_zero(const void *src, size_t n) {
        const uint8_t *p = (const uint8_t *)src;
        uint64_t v, folded = 0;
        for (; n >= 8; n -= 8, p += 8) { __builtin_memcpy(&v, p, 8); folded |= v; }
        while (n--) folded |= *p++;
        return folded == 0; }
    static inline int qg_log2(uint64_t v) { return 63 - __builtin_clzll(v); }
    #endif
    """
    const int QG_TEST
    const uint64_t NEVER "UINT64_MAX"           # as a time: a deadline that does not come
    const uint64_t SECOND_NS "UINT64_C(1000000000)"
    uint64_t atomic_load "qg_load_acquire"(const uint64_t *p) noexcept nogil
    uint64_t atomic_peek "qg_load_relaxed"(const uint64_t *p) noexcept nogil
    void atomic_store "qg_store_release"(uint64_t *p, uint64_t v) noexcept nogil
    void atomic_poke "qg_store_relaxed"(uint64_t *p, uint64_t v) noexcept nogil
    uint64_t atomic_exchange "qg_exchange"(uint64_t *p, uint64_t v) noexcept nogil
    uint64_t atomic_add "qg_add"(uint64_t *p, uint64_t v) noexcept nogil
    bint atomic_cas "qg_cas"(uint64_t *p, uint64_t old, uint64_t v) noexcept nogil
    void atomic_fence "qg_fence"() noexcept nogil
    void *atomic_exchange_ptr "qg_exchange_ptr"(void **p, void *v) noexcept nogil
    void *atomic_load_ptr "qg_load_ptr"(void **p) noexcept nogil
    bint atomic_cas_ptr "qg_cas_ptr"(void **p, void *old, void *v) noexcept nogil
    uint64_t load_be64 "qg_load_be64"(const void *p) noexcept nogil
    uint32_t load_be32 "qg_load_be32"(const void *p) noexcept nogil
    uint32_t load_be16 "qg_load_be16"(const void *p) noexcept nogil
    void store_be64 "qg_store_be64"(void *p, uint64_t v) noexcept nogil
    void store_be32 "qg_store_be32"(void *p, uint32_t v) noexcept nogil
    void store_be16 "qg_store_be16"(void *p, uint32_t v) noexcept nogil
    bint is_zero "qg_is_zero"(const void *src, size_t n) noexcept nogil     # takes as long whatever it finds
    int log2_floor "qg_log2"(uint64_t v) noexcept nogil
