# SPDX-License-Identifier: MIT
"""Long-lived secrets in guarded memory: a node's identity with its link keys, the network secret, and their files.

Two owners, both immutable once built (their pages are write-protected), so any thread may read them while the Python
object lives; a rotated ring is a new object. Who needs a key longer copies it into its own guarded memory.
In a forked child neither is of use: `borrow` raises UsageError there, and the kernel has put zeros in their place
(Linux: MADV_WIPEONFORK). A wiped network secret would be that of the open network.
This module makes system calls (the exception to the rule of L1 to L8): a file is read straight into guarded memory and
written from there, so its secrets never pass through a Python object.
"""
from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    RING_LINK_MAX = 4           # link keys that a file may hold; one with more counts as damaged
    KEYFILE_HEAD_LEN = 65       # magic 8, kdf 1, salt 16, passes 8, memory 8, nonce 24 (protocol.md 2.3)
    KEYFILE_LINK_LEN = 48       # secret 32, not_before 8, not_after 8
    KEYFILE_LEN_MIN = 161       # with one link key
    KEYFILE_LEN_MAX = 305       # with RING_LINK_MAX link keys
    NETWORK_SECRET_LEN = 32
    CERT_LIFE_S = 7776000       # 90 days, the usual overlap: a stolen certificate ends no later than a rotated link key

ctypedef struct link_key_t:
    uint8_t secret[32]          # X25519
    uint8_t public_key[32]      # of `secret`
    uint64_t not_before         # unix seconds; when it was made
    uint64_t not_after          # unix seconds; not used from then on. 2^63 - 1 until it is rotated

ctypedef struct ring_t:
    link_key_t link[RING_LINK_MAX]  # oldest first, n_link of them
    uint8_t seed[32]            # Ed25519 seed
    uint8_t public_key[32]      # Ed25519, of `seed`
    uint8_t peer_id[32]         # protocol.md 2.1
    uint64_t n_link             # 1..RING_LINK_MAX; the last one stands in addresses and certificates

# Writes the certificate (CERT_LEN bytes) of link key link_idx: good for CERT_LIFE_S from now_s, or until the key ends.
# A node that runs for long builds a new one before that. Returns CERT_LEN.
cdef int ring_cert_build(const ring_t *ring, size_t link_idx, uint8_t *dst108, uint64_t now_s) noexcept nogil

cdef class KeyRing:
    cdef ring_t *ring           # owned, never NULL
    cdef uint64_t n_forks       # when it was made
    cdef readonly bytes peer_id, public_key     # public, and as such there after fork
    cdef readonly tuple link_keys       # (public key, not_before, not_after) of each, unix seconds, the newest last
    cdef int finish(self) except -1
    cdef const ring_t *borrow(self) except NULL         # use it only while holding the object; UsageError after fork

cdef class NetworkSecret:
    cdef uint8_t *secret        # owned, never NULL, NETWORK_SECRET_LEN bytes
    cdef uint64_t n_forks       # when it was made
    cdef const uint8_t *borrow(self) except NULL        # use it only while holding the object; UsageError after fork
