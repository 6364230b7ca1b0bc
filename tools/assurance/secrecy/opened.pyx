# SPDX-License-Identifier: MIT
# cython: language_level=3
"""What a tag has proven is no secret any more: Valgrind is told so where the core's own modules ask for it.

Imported before the modules that open envelopes and records, which then call these functions instead of `crypto`'s.
"""
from cpython.pycapsule cimport PyCapsule_GetName, PyCapsule_New
from libc.stdint cimport uint8_t

from qg._core.crypto cimport aead_key_t, aead_open, xchacha_open

import qg._core.crypto

cdef extern from "<valgrind/memcheck.h>" nogil:
    int VALGRIND_MAKE_MEM_DEFINED(const void *memory, size_t len)


cdef int reveal(int rc, uint8_t *dst) noexcept nogil:
    VALGRIND_MAKE_MEM_DEFINED(&rc, sizeof(rc))
    if rc > 0:
        VALGRIND_MAKE_MEM_DEFINED(dst, rc)
    return rc


cdef int aead_open_revealed(const aead_key_t *key, uint8_t *dst, const uint8_t *src, size_t src_len, const uint8_t *ad,
                            size_t ad_len, const uint8_t *nonce) noexcept nogil:
    return reveal(aead_open(key, dst, src, src_len, ad, ad_len, nonce), dst)


cdef int xchacha_open_revealed(const uint8_t *key32, uint8_t *dst, const uint8_t *src, size_t src_len,
                               const uint8_t *ad, size_t ad_len, const uint8_t *nonce24) noexcept nogil:
    return reveal(xchacha_open(key32, dst, src, src_len, ad, ad_len, nonce24), dst)


cdef replace(str name, void *function):
    table = qg._core.crypto.__pyx_capi__
    table[name] = PyCapsule_New(function, PyCapsule_GetName(table[name]), NULL)


# A capsule borrows its name from the one that it replaces.
kept = dict(qg._core.crypto.__pyx_capi__)
replace("aead_open", <void *>aead_open_revealed)
replace("xchacha_open", <void *>xchacha_open_revealed)
