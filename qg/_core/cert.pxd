# SPDX-License-Identifier: MIT
"""PeerIDs, link certificates and peer records (protocol.md 2.1, 2.2).

A link certificate ties the X25519 key that did the handshake's DH to an Ed25519 identity. Verified ones are
remembered by SHA-256(certificate || X25519 key) for an hour in a cache whose memory the owner gives; the expiry
date is checked on every use. Times are unix seconds.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    CERT_VERSION = 1
    CERT_LEN = 108
    CERT_SIGNED_LEN = 44        # bytes before the signature
    UUID_LEN = 16
    CERT_CACHE_WAYS = 4         # entries of a set; a full set forgets its oldest entry
    CERT_CACHE_KEEP_S = 3600    # seconds that a verification counts
    PEER_RECORD_ADDRESSES = 4
    PEER_RECORD_MAX = 339       # bytes: 263 fixed and four IPv6 addresses
    PEER_RECORD_LIFE_S = 172800 # seconds from issue to end, at most
    PEER_RECORD_RELAYS = 1      # flag: the peer relays
    PEER_RECORD_LISTED = 2      # flag: only for peers that it lists

ctypedef struct cert_t:
    uint8_t peer_id[32]
    uint8_t public_key[32]      # Ed25519
    uint64_t not_after_s

ctypedef struct cert_entry_t:   # 40 bytes; not secret
    uint8_t digest[32]
    uint64_t checked_s          # 0 = free

ctypedef struct cert_cache_t:
    cert_entry_t *entries       # borrowed from the owner, zeroed by cert_cache_init
    uint32_t n_entries          # power of two, at least CERT_CACHE_WAYS
    uint64_t n_hits
    uint64_t n_checks           # signatures verified

ctypedef struct peer_record_t:  # pointers borrow from the bytes that were parsed
    const uint8_t *peer_id      # 32
    const uint8_t *link_key     # 32
    const uint8_t *cert         # CERT_LEN
    uint8_t flags               # PEER_RECORD_RELAYS, PEER_RECORD_LISTED
    uint32_t rate_kib           # KiB/s offered to relaying; 0: not said
    uint32_t burst_kib
    uint32_t n_addresses        # 1..4, no names
    const uint8_t *addresses    # `address` layouts of wire, one behind the other
    size_t addresses_len
    uint64_t issued_s           # a later one replaces an earlier one
    uint64_t not_after_s

cdef int peer_id_derive(uint8_t *dst32, const uint8_t *ed25519_public32) noexcept nogil
cdef int uuid_derive(uint8_t *dst16, const uint8_t *peer_id32) noexcept nogil      # RFC 9562 UUIDv8

cdef int cert_build(uint8_t *dst108, const uint8_t *ed25519_seed32, const uint8_t *link_public32,
                    uint64_t not_after_s) noexcept nogil        # returns CERT_LEN
cdef int cert_verify(cert_t *cert, const uint8_t *src108, const uint8_t *link_public32, cert_cache_t *cache,
                     uint64_t now_s) noexcept nogil
    # OK; E_VERSION, E_KIND (signature type), E_NONZERO, E_EXPIRED (now_s > not_after), E_SIGNATURE. cache may be NULL.
cdef int cert_cache_init(cert_cache_t *cache, cert_entry_t *entries, uint32_t n_entries) noexcept nogil    # E_ARGUMENT

cdef int peer_record_build(uint8_t *dst, const peer_record_t *record, const uint8_t *ed25519_seed32) noexcept nogil
    # at most PEER_RECORD_MAX bytes; the length, or E_ADDRESS when the addresses do not parse to n_addresses
cdef int peer_record_verify(peer_record_t *record, const uint8_t *src, size_t len, cert_cache_t *cache,
                            uint64_t now_s, uint64_t window_s) noexcept nogil
    # OK; E_SHORT, E_LONG, E_VERSION, E_NONZERO (unknown flag), E_ADDRESS, E_LENGTH (lives too long or not at all),
    # E_EXPIRED, E_CLOCK (issued in the future; both give or take window_s), E_IDENTITY (PeerID not of the certificate),
    # E_SIGNATURE and the codes of cert_verify. Signatures come last
