# SPDX-License-Identifier: MIT
# cython: language_level=3
"""Run what handles secrets while Valgrind takes these for undefined: a branch or an index that depends on one is an error.

Each function gives the errors that Valgrind has counted while it ran.
"""
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from qg._core.cert cimport CERT_LEN, cert_build
from qg._core.crypto cimport ct_equal
from qg._core.envelope cimport (
    ENVELOPE_MAX, ENVELOPE_XK1, M1_LEN, envelope_head_t, envelope_keys_known, envelope_keys_t, envelope_open_body,
    envelope_open_head, envelope_seal, network_derive, network_t)
from qg._core.record cimport (
    record_begin, record_dir_t, record_keys_t, record_open, record_peek, record_seal)

cdef extern from "<valgrind/memcheck.h>" nogil:
    int VALGRIND_MAKE_MEM_DEFINED(const void *memory, size_t len)
    int VALGRIND_MAKE_MEM_UNDEFINED(const void *memory, size_t len)
    unsigned long VALGRIND_COUNT_ERRORS
    unsigned long RUNNING_ON_VALGRIND

cdef enum:
    PAD_LEN = 500
    PLAIN_LEN = 1000


def is_watched():
    """Whether Valgrind runs this process."""
    return RUNNING_ON_VALGRIND != 0


def envelope(bytes secret32, bytes link_key32, bytes nonce24, int flipped):
    """Open a flight with secret keys; `flipped`: the byte that was changed on the way, -1 for none. (errors, opened)"""
    cdef uint8_t[ENVELOPE_MAX] flight
    cdef uint8_t[ENVELOPE_MAX] plain
    cdef network_t network
    cdef envelope_keys_t keys
    cdef envelope_head_t head
    cdef uint8_t[M1_LEN] body
    cdef unsigned long before = VALGRIND_COUNT_ERRORS
    cdef int n, rc
    memset(&head, 0, sizeof(head))
    memset(body, 7, M1_LEN)
    head.kind, head.frag_n, head.body_len, head.pad_len = ENVELOPE_XK1, 1, M1_LEN, PAD_LEN
    network_derive(&network, <const uint8_t *>secret32)
    envelope_keys_known(&keys, &network, <const uint8_t *>link_key32)
    n = envelope_seal(&keys, flight, &head, body, <const uint8_t *>nonce24)
    if flipped >= 0:
        flight[flipped] ^= 1
    VALGRIND_MAKE_MEM_UNDEFINED(&network, sizeof(network))
    envelope_keys_known(&keys, &network, <const uint8_t *>link_key32)
    rc = envelope_open_head(&keys, &head, flight)
    if rc >= 0:
        rc = envelope_open_body(&keys, plain, &head, flight, n)
    VALGRIND_MAKE_MEM_DEFINED(&rc, sizeof(rc))
    VALGRIND_MAKE_MEM_DEFINED(&network, sizeof(network))
    VALGRIND_MAKE_MEM_DEFINED(&keys, sizeof(keys))
    return VALGRIND_COUNT_ERRORS - before, rc >= 0


def record(bytes x32, int suite, int flipped):
    """Open a record with secret keys, from their derivation on. (errors, opened)"""
    cdef uint8_t[2 + PLAIN_LEN + 32] sealed
    cdef uint8_t[PLAIN_LEN + 32] plain
    cdef uint8_t[32] x
    cdef record_dir_t there, here
    cdef record_keys_t keys, secret_keys
    cdef unsigned long before = VALGRIND_COUNT_ERRORS
    cdef int n, rc
    memset(plain, 5, PLAIN_LEN)
    record_begin(&there, &keys, <const uint8_t *>x32, 0, suite)
    n = record_seal(&there, sealed, plain, PLAIN_LEN, 1)
    if flipped >= 0:
        sealed[flipped] ^= 1
    memcpy(x, <const uint8_t *>x32, 32)
    VALGRIND_MAKE_MEM_UNDEFINED(x, 32)
    record_begin(&here, &secret_keys, x, 0, suite)
    rc = record_peek(&here, sealed)
    VALGRIND_MAKE_MEM_DEFINED(&rc, sizeof(rc))          # how many bytes are waited for, everybody sees
    if rc >= 0 and rc <= n - 2:
        rc = record_open(&here, plain, sealed + 2, rc, 1)
    VALGRIND_MAKE_MEM_DEFINED(&rc, sizeof(rc))
    VALGRIND_MAKE_MEM_DEFINED(&secret_keys, sizeof(secret_keys))
    VALGRIND_MAKE_MEM_DEFINED(&here, sizeof(here))
    return VALGRIND_COUNT_ERRORS - before, rc == PLAIN_LEN


def certificate(bytes seed32, bytes link_key32):
    """Make a certificate with a secret identity key, and compare identities that are secrets. (errors, equal)"""
    cdef uint8_t[32] seed
    cdef uint8_t[CERT_LEN] cert
    cdef uint8_t[CERT_LEN] other
    cdef unsigned long before = VALGRIND_COUNT_ERRORS
    cdef bint is_equal
    cert_build(other, <const uint8_t *>seed32, <const uint8_t *>link_key32, 1)
    memcpy(seed, <const uint8_t *>seed32, 32)
    VALGRIND_MAKE_MEM_UNDEFINED(seed, 32)
    cert_build(cert, seed, <const uint8_t *>link_key32, 1)
    is_equal = ct_equal(cert, other, CERT_LEN)
    VALGRIND_MAKE_MEM_DEFINED(&is_equal, sizeof(is_equal))
    return VALGRIND_COUNT_ERRORS - before, is_equal


# Controls: what must be found


def planted_comparison(bytes secret32):
    """Compare a secret as no secret may be compared."""
    cdef uint8_t[32] secret
    cdef uint8_t[32] other
    cdef unsigned long before = VALGRIND_COUNT_ERRORS
    cdef int found = 0
    memcpy(secret, <const uint8_t *>secret32, 32)
    memset(other, 0, 32)
    VALGRIND_MAKE_MEM_UNDEFINED(secret, 32)
    if memcmp(secret, other, 32) == 0:
        found = 1
    return VALGRIND_COUNT_ERRORS - before, bool(found)


def planted_index(bytes secret32):
    """Look something up at a place that is a secret."""
    cdef uint8_t[32] secret
    cdef uint8_t[256] table
    cdef unsigned long before = VALGRIND_COUNT_ERRORS
    cdef uint8_t found
    memcpy(secret, <const uint8_t *>secret32, 32)
    memset(table, 1, 256)
    VALGRIND_MAKE_MEM_UNDEFINED(secret, 32)
    found = table[secret[0]]
    VALGRIND_MAKE_MEM_DEFINED(&found, 1)
    return VALGRIND_COUNT_ERRORS - before, found == 1
