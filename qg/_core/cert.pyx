# SPDX-License-Identifier: MIT
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
"""PeerIDs, link certificates and peer records."""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from .crypto cimport ED25519_SIGNATURE_LEN, ed25519_public, ed25519_sign, ed25519_verify, exactly, sha256_pair
from .memory cimport mem_give, mem_take, pool_clear, pool_init, pool_t
from .status cimport (
    E_ADDRESS, E_ARGUMENT, E_CLOCK, E_EXPIRED, E_IDENTITY, E_KIND, E_LENGTH, E_LONG, E_NONZERO, E_SHORT, E_SIGNATURE,
    E_VERSION, OK)
from .sys cimport load_be32, load_be64, store_be32, store_be64
from .wire cimport ADDRESS_IP4, ADDRESS_NAME, address_parse, address_t

cdef enum:
    SIGNATURE_ED25519 = 1
    PEER_ID_LABEL_LEN = 13      # "qg1 peer id", 0, key type
    CERT_LABEL_LEN = 14         # "qg1 link cert", 0
    CERT_MESSAGE_LEN = 90       # label, signed bytes, X25519 key
    RECORD_LABEL_LEN = 16       # "qg1 peer record", 0
    RECORD_VERSION = 1
    RECORD_ADDRESSES_OFF = 183
    RECORD_TAIL_LEN = 80        # issued, not_after, signature
    RECORD_LEN_MIN = RECORD_ADDRESSES_OFF + RECORD_TAIL_LEN

cdef const char *PEER_ID_LABEL = "qg1 peer id\0\1"
cdef const char *CERT_LABEL = "qg1 link cert\0"
cdef const char *RECORD_LABEL = "qg1 peer record\0"


cdef int peer_id_derive(uint8_t *dst32, const uint8_t *ed25519_public32) noexcept nogil:
    return sha256_pair(dst32, <const uint8_t *>PEER_ID_LABEL, PEER_ID_LABEL_LEN, ed25519_public32, 32)


cdef int uuid_derive(uint8_t *dst16, const uint8_t *peer_id32) noexcept nogil:
    memcpy(dst16, peer_id32, UUID_LEN)
    dst16[6] = (dst16[6] & 0x0f) | 0x80
    dst16[8] = (dst16[8] & 0x3f) | 0x80
    return OK


# Link certificates

cdef void cert_message(uint8_t *dst90, const uint8_t *cert, const uint8_t *link_public32) noexcept nogil:
    memcpy(dst90, CERT_LABEL, CERT_LABEL_LEN)
    memcpy(dst90 + CERT_LABEL_LEN, cert, CERT_SIGNED_LEN)
    memcpy(dst90 + CERT_LABEL_LEN + CERT_SIGNED_LEN, link_public32, 32)


cdef int cert_build(uint8_t *dst108, const uint8_t *ed25519_seed32, const uint8_t *link_public32,
                    uint64_t not_after_s) noexcept nogil:
    cdef uint8_t[CERT_MESSAGE_LEN] message
    dst108[0] = CERT_VERSION
    dst108[1] = SIGNATURE_ED25519
    dst108[2] = 0
    dst108[3] = 0
    store_be64(dst108 + 4, not_after_s)
    ed25519_public(dst108 + 12, ed25519_seed32)
    cert_message(&message[0], dst108, link_public32)
    ed25519_sign(dst108 + CERT_SIGNED_LEN, &message[0], CERT_MESSAGE_LEN, ed25519_seed32)
    return CERT_LEN


cdef int cert_cache_init(cert_cache_t *cache, cert_entry_t *entries, uint32_t n_entries) noexcept nogil:
    memset(cache, 0, sizeof(cert_cache_t))
    if n_entries < CERT_CACHE_WAYS or n_entries & (n_entries - 1):
        return E_ARGUMENT
    memset(entries, 0, n_entries * sizeof(cert_entry_t))
    cache.entries = entries
    cache.n_entries = n_entries
    return OK


cdef cert_entry_t *cache_set(cert_cache_t *cache, const uint8_t *digest) noexcept nogil:
    cdef uint32_t n_sets = cache.n_entries // CERT_CACHE_WAYS
    return &cache.entries[(load_be32(digest) & (n_sets - 1)) * CERT_CACHE_WAYS]


cdef bint cache_knows(cert_cache_t *cache, const uint8_t *digest, uint64_t now_s) noexcept nogil:
    cdef cert_entry_t *entry = cache_set(cache, digest)
    cdef int i
    for i in range(CERT_CACHE_WAYS):
        # Unsigned: an entry from the future (the clock was set back) is far too old.
        if now_s - entry[i].checked_s < CERT_CACHE_KEEP_S and memcmp(&entry[i].digest[0], digest, 32) == 0:
            cache.n_hits += 1
            return True
    return False


cdef void cache_add(cert_cache_t *cache, const uint8_t *digest, uint64_t now_s) noexcept nogil:
    cdef cert_entry_t *entry = cache_set(cache, digest)
    cdef int i, oldest = 0
    for i in range(CERT_CACHE_WAYS):
        if memcmp(&entry[i].digest[0], digest, 32) == 0:
            oldest = i
            break
        if entry[i].checked_s < entry[oldest].checked_s:
            oldest = i
    memcpy(&entry[oldest].digest[0], digest, 32)
    entry[oldest].checked_s = now_s


cdef int cert_verify(cert_t *cert, const uint8_t *src108, const uint8_t *link_public32, cert_cache_t *cache,
                     uint64_t now_s) noexcept nogil:
    cdef uint8_t[CERT_MESSAGE_LEN] message
    cdef uint8_t[32] digest
    if src108[0] != CERT_VERSION:
        return E_VERSION
    if src108[1] != SIGNATURE_ED25519:
        return E_KIND
    if src108[2] != 0 or src108[3] != 0:
        return E_NONZERO
    cert.not_after_s = load_be64(src108 + 4)
    if now_s > cert.not_after_s:
        return E_EXPIRED
    if cache is not NULL:
        sha256_pair(&digest[0], src108, CERT_LEN, link_public32, 32)
    if cache is NULL or not cache_knows(cache, &digest[0], now_s):
        cert_message(&message[0], src108, link_public32)
        if ed25519_verify(src108 + CERT_SIGNED_LEN, &message[0], CERT_MESSAGE_LEN, src108 + 12) != OK:
            return E_SIGNATURE
        if cache is not NULL:
            cache.n_checks += 1
            cache_add(cache, &digest[0], now_s)
    memcpy(&cert.public_key[0], src108 + 12, 32)
    return peer_id_derive(&cert.peer_id[0], &cert.public_key[0])


# Peer records

cdef int addresses_len(const uint8_t *src, size_t len, uint32_t n) noexcept nogil:
    """Bytes of n addresses at src, or E_ADDRESS, E_SHORT."""
    cdef address_t address
    cdef size_t off = 0
    cdef uint32_t i
    cdef int rc
    for i in range(n):
        rc = address_parse(&address, src + off, len - off)
        if rc < 0:
            return rc
        if address.type == ADDRESS_NAME:
            return E_ADDRESS
        off += <size_t>rc
    return <int>off


cdef int record_digest(uint8_t *dst, const uint8_t *record, size_t signed_len) noexcept nogil:
    """What is signed: the label and all bytes before the signature. dst holds RECORD_LABEL_LEN + PEER_RECORD_MAX."""
    memcpy(dst, RECORD_LABEL, RECORD_LABEL_LEN)
    memcpy(dst + RECORD_LABEL_LEN, record, signed_len)
    return RECORD_LABEL_LEN + <int>signed_len


cdef int peer_record_build(uint8_t *dst, const peer_record_t *record, const uint8_t *ed25519_seed32) noexcept nogil:
    cdef uint8_t[RECORD_LABEL_LEN + PEER_RECORD_MAX] message
    cdef uint8_t *tail = dst + RECORD_ADDRESSES_OFF + record.addresses_len
    cdef int len
    if not 1 <= record.n_addresses <= PEER_RECORD_ADDRESSES:
        return E_ADDRESS
    if addresses_len(record.addresses, record.addresses_len, record.n_addresses) != <int>record.addresses_len:
        return E_ADDRESS
    dst[0] = RECORD_VERSION
    memcpy(dst + 1, record.peer_id, 32)
    memcpy(dst + 33, record.link_key, 32)
    memcpy(dst + 65, record.cert, CERT_LEN)
    dst[173] = record.flags
    store_be32(dst + 174, record.rate_kib)
    store_be32(dst + 178, record.burst_kib)
    dst[182] = <uint8_t>record.n_addresses
    memcpy(dst + RECORD_ADDRESSES_OFF, record.addresses, record.addresses_len)
    store_be64(tail, record.issued_s)
    store_be64(tail + 8, record.not_after_s)
    len = record_digest(&message[0], dst, tail + 16 - dst)
    ed25519_sign(tail + 16, &message[0], len, ed25519_seed32)
    return RECORD_LEN_MIN + <int>record.addresses_len


cdef int record_parse(peer_record_t *record, const uint8_t *src, size_t len) noexcept nogil:
    cdef int rc
    if len < RECORD_LEN_MIN:
        return E_SHORT
    if len > PEER_RECORD_MAX:
        return E_LONG
    if src[0] != RECORD_VERSION:
        return E_VERSION
    record.peer_id = src + 1
    record.link_key = src + 33
    record.cert = src + 65
    record.flags = src[173]
    record.rate_kib = load_be32(src + 174)
    record.burst_kib = load_be32(src + 178)
    record.n_addresses = src[182]
    record.addresses = src + RECORD_ADDRESSES_OFF
    if record.flags & ~(PEER_RECORD_RELAYS | PEER_RECORD_LISTED):
        return E_NONZERO
    if not 1 <= record.n_addresses <= PEER_RECORD_ADDRESSES:
        return E_ADDRESS
    rc = addresses_len(record.addresses, len - RECORD_LEN_MIN, record.n_addresses)
    if rc < 0:
        return rc
    record.addresses_len = <size_t>rc
    if RECORD_LEN_MIN + record.addresses_len != len:
        return E_LONG
    record.issued_s = load_be64(src + len - RECORD_TAIL_LEN)
    record.not_after_s = load_be64(src + len - RECORD_TAIL_LEN + 8)
    # Unsigned: the difference alone would let one pass that ends before it was issued.
    if record.not_after_s <= record.issued_s or record.not_after_s - record.issued_s > PEER_RECORD_LIFE_S:
        return E_LENGTH
    return OK


cdef int peer_record_verify(peer_record_t *record, const uint8_t *src, size_t len, cert_cache_t *cache,
                            uint64_t now_s, uint64_t window_s) noexcept nogil:
    cdef uint8_t[RECORD_LABEL_LEN + PEER_RECORD_MAX] message
    cdef cert_t cert
    cdef int n
    cdef int rc = record_parse(record, src, len)
    if rc != OK:
        return rc
    if now_s > record.not_after_s + window_s:
        return E_EXPIRED
    if record.issued_s > now_s + window_s:
        return E_CLOCK
    rc = cert_verify(&cert, record.cert, record.link_key, cache, now_s)
    if rc != OK:
        return rc
    if memcmp(&cert.peer_id[0], record.peer_id, 32) != 0:
        return E_IDENTITY
    n = record_digest(&message[0], src, len - ED25519_SIGNATURE_LEN)
    return ed25519_verify(src + len - ED25519_SIGNATURE_LEN, &message[0], n, &cert.public_key[0])


# Owners, for tests and fuzzers.

@cython.final
cdef class CertCache:
    """Own a cache of verified certificates."""
    cdef pool_t pool
    cdef cert_cache_t cache
    cdef cert_entry_t *entries
    cdef size_t entries_len

    def __cinit__(self, uint32_t n_entries=1024):
        self.entries_len = n_entries * sizeof(cert_entry_t)
        pool_init(&self.pool, 0)
        self.entries = <cert_entry_t *>mem_take(&self.pool, self.entries_len)
        if self.entries is NULL:
            raise MemoryError
        if cert_cache_init(&self.cache, self.entries, n_entries) != OK:
            raise ValueError("the number of entries is a power of two and at least 4")

    def __dealloc__(self):
        if self.entries is not NULL:
            mem_give(&self.pool, self.entries, self.entries_len)
        pool_clear(&self.pool)

    def verify(self, bytes cert, bytes link_key, uint64_t now_s):
        """Return (PeerID, Ed25519 key, not_after), or a negative status code."""
        return cert_outcome(&self.cache, cert, link_key, now_s)

    @property
    def n_checks(self):
        """Signatures that were verified and held."""
        return self.cache.n_checks

    @property
    def n_hits(self):
        """Verifications that the cache answered."""
        return self.cache.n_hits


cdef object cert_outcome(cert_cache_t *cache, bytes src, bytes link_key, uint64_t now_s):
    cdef cert_t cert
    cdef int rc = cert_verify(&cert, exactly(src, CERT_LEN, "a certificate"), exactly(link_key, 32, "a link key"),
                              cache, now_s)
    if rc != OK:
        return rc
    return (PyBytes_FromStringAndSize(<char *>&cert.peer_id[0], 32),
            PyBytes_FromStringAndSize(<char *>&cert.public_key[0], 32), cert.not_after_s)


def cert_bytes(bytes seed, bytes link_key, uint64_t not_after_s):
    """Return a link certificate."""
    cdef uint8_t[CERT_LEN] dst
    cert_build(&dst[0], exactly(seed, 32, "a seed"), exactly(link_key, 32, "a link key"), not_after_s)
    return PyBytes_FromStringAndSize(<char *>&dst[0], CERT_LEN)


def cert_fields(bytes cert, bytes link_key, uint64_t now_s):
    """Return (PeerID, Ed25519 key, not_after) of a certificate that holds, or a negative status code."""
    return cert_outcome(NULL, cert, link_key, now_s)


def peer_id_bytes(bytes public_key):
    """Return the PeerID of an Ed25519 key."""
    cdef uint8_t[32] dst
    peer_id_derive(&dst[0], exactly(public_key, 32, "an Ed25519 key"))
    return PyBytes_FromStringAndSize(<char *>&dst[0], 32)


def uuid_bytes(bytes peer_id):
    """Return the UUID of a PeerID."""
    cdef uint8_t[UUID_LEN] dst
    uuid_derive(&dst[0], exactly(peer_id, 32, "a PeerID"))
    return PyBytes_FromStringAndSize(<char *>&dst[0], UUID_LEN)


def peer_record_bytes(bytes seed, bytes peer_id, bytes link_key, bytes cert, uint32_t flags, uint32_t rate_kib,
                      uint32_t burst_kib, uint32_t n_addresses, bytes addresses not None, uint64_t issued_s,
                      uint64_t not_after_s):
    """Return a signed peer record, or a negative status code."""
    cdef peer_record_t record
    cdef uint8_t[PEER_RECORD_MAX] dst
    if len(addresses) > PEER_RECORD_MAX - RECORD_LEN_MIN:
        raise ValueError("too many bytes of addresses")
    record.peer_id, record.link_key = exactly(peer_id, 32, "a PeerID"), exactly(link_key, 32, "a link key")
    record.cert, record.addresses = exactly(cert, CERT_LEN, "a certificate"), addresses
    record.addresses_len, record.flags, record.rate_kib = len(addresses), <uint8_t>flags, rate_kib
    record.burst_kib = burst_kib
    record.n_addresses, record.issued_s, record.not_after_s = n_addresses, issued_s, not_after_s
    cdef int rc = peer_record_build(&dst[0], &record, exactly(seed, 32, "a seed"))
    return PyBytes_FromStringAndSize(<char *>&dst[0], rc) if rc >= 0 else rc


def peer_record_head(bytes src not None):
    """Return (PeerID, when it was issued) of bytes that look like a record, or a negative status code.

    Nothing is verified: it tells whether verifying is worth its time.
    """
    cdef peer_record_t record
    cdef int rc = record_parse(&record, src, len(src))
    if rc != OK:
        return rc
    return PyBytes_FromStringAndSize(<const char *>record.peer_id, 32), record.issued_s


def peer_record_fields(bytes src not None, uint64_t now_s, uint64_t window_s):
    """Return (PeerID, link key, flags, KiB/s, burst KiB, addresses, issued, not_after), or a negative status code.

    An address is its 4 or 16 bytes and the port.
    """
    cdef peer_record_t record
    cdef address_t address
    cdef list addresses = []
    cdef const uint8_t *data = src
    cdef size_t data_len = len(src)
    cdef size_t off = 0
    cdef int rc
    with nogil:
        rc = peer_record_verify(&record, data, data_len, NULL, now_s, window_s)
    if rc != OK:
        return rc
    while off < record.addresses_len:
        off += address_parse(&address, record.addresses + off, record.addresses_len - off)
        addresses.append(((<char *>address.ip)[:4 if address.type == ADDRESS_IP4 else 16], address.port))
    return (PyBytes_FromStringAndSize(<const char *>record.peer_id, 32),
            PyBytes_FromStringAndSize(<const char *>record.link_key, 32), record.flags, record.rate_kib,
            record.burst_kib, addresses, record.issued_s, record.not_after_s)
