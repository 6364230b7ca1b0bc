# SPDX-License-Identifier: MIT
"""Whether this process is still the one that made an object, and memory that no other one reads; static inline.

Asking the kernel for the process id costs as much as what is checked. Every extension module that includes this counts
by itself.
"""
from libc.stdint cimport uint64_t

cdef extern from * nogil:
    """
    #ifndef QG_FORK_H
    #define QG_FORK_H
    #include <pthread.h>
    #include <stdint.h>
    #include <sys/mman.h>
    #include <unistd.h>

    static uint64_t qg_n_forks;

    static inline void qg_fork_note(void) { qg_n_forks++; }

    static inline int qg_forks_watch(void) { return pthread_atfork(NULL, NULL, qg_fork_note); }

    static inline uint64_t qg_forks_count(void) { return qg_n_forks; }

    static inline int qg_wipe_on_fork(void *p, size_t n) {
    #ifdef MADV_WIPEONFORK
        uintptr_t start = (uintptr_t)p & ~((uintptr_t)sysconf(_SC_PAGESIZE) - 1);
        return madvise((void *)start, (uintptr_t)p + n - start, MADV_WIPEONFORK);
    #else
        (void)p, (void)n;
        return -1;
    #endif
    }
    #endif
    """
    int forks_watch "qg_forks_watch"() noexcept         # once, when the module is imported; not 0: no memory
    uint64_t forks_count "qg_forks_count"() noexcept    # forks between the first process that imported it and this one
    int wipe_on_fork "qg_wipe_on_fork"(void *p, size_t n) noexcept      # a child reads zeros in its pages; 0, else -1
