# SPDX-License-Identifier: MIT
"""Cryptographic primitives over plain memory. With `secret` the only user of libsodium.

All buffers are borrowed until return. `src_len` is below 2^31 - 64. Functions return >= 0 or a code of `status`;
what is written to a destination after a negative return is not defined, except that nothing secret is left there.
Keys on this module's own stack are wiped. Ed25519 verification is strict (no small-order or non-canonical points),
X25519 refuses an all-zero result.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum suite_t:              # u16 wire values and bits of a mask, protocol.md 3.3
    SUITE_CHACHA20_POLY1305 = 1
    SUITE_AES_256_GCM = 2
    SUITE_AEGIS_256 = 4
    SUITE_NULL = 0x8000         # copies, seals nothing: in builds with QG_TEST=1 only, after null_cipher_allow

cdef enum:
    XCHACHA_TAG_LEN = 16
    XCHACHA_NONCE_LEN = 24
    ED25519_SIGNATURE_LEN = 64
    MLKEM768_PUBLIC_LEN = 1184
    MLKEM768_SECRET_LEN = 2400
    MLKEM768_CIPHERTEXT_LEN = 1088
    MLKEM768_SEED_LEN = 64
    HKDF_LABEL_MAX = 160        # label and fields of hkdf_label together

cdef extern from *:
    """
    #ifndef QG_AEAD_KEY
    #define QG_AEAD_KEY
    typedef struct {
        unsigned char schedule[512] __attribute__((aligned(16)));
        unsigned short suite;
        unsigned char tag_len;
        unsigned char nonce_len;
    } qg_aead_key;
    #endif
    """
    ctypedef struct aead_key_t "qg_aead_key":   # 528 bytes, 16-aligned; secret
        uint8_t schedule[512]   # AES-256-GCM: libsodium's precomputed state; the others: the 32-byte key
        uint16_t suite          # 0 = no key: sealing and opening answer E_SUITE (also what a wiped key says)
        uint8_t tag_len         # bytes
        uint8_t nonce_len       # bytes

# Fills dst with n random bytes. The only source of randomness that protocol code knows.
ctypedef void (*random_fn)(void *ctx, uint8_t *dst, size_t n) noexcept nogil

cdef int crypto_init() noexcept nogil                   # mask of usable suites, or E_IO; call before anything else
cdef uint16_t crypto_suites() noexcept nogil            # the same mask; 0 before crypto_init
cdef void crypto_random(void *ctx, uint8_t *dst, size_t n) noexcept nogil  # the kernel's; ctx unused
cdef inline uint64_t random_between(random_fn rnd, void *rnd_ctx, uint64_t low, uint64_t high) noexcept nogil:
    """A number from low to high, both included. The bias of the remainder does not matter for times and sizes."""
    cdef uint64_t value
    rnd(rnd_ctx, <uint8_t *>&value, 8)
    return low + value % (high - low + 1)

# The kernel's as well, but what is below the length of a key (nonces, ids, paddings, times) is taken from it in
# advance: a record of a circuit draws its padding, and a handshake a dozen such numbers.
ctypedef struct random_pool_t:  # of one thread; zeroed = empty
    uint8_t bytes[512]          # the first `left` are not used yet; the others are wiped
    uint32_t left
cdef void random_pooled(void *pool, uint8_t *dst, size_t n) noexcept nogil

# The same bytes again for the same seed: for tests and simulators.
ctypedef struct random_seed_t:  # secret
    uint8_t key[32]             # of the ChaCha20 key stream
    uint32_t counter
    uint32_t used               # bytes of the block given out
    uint8_t block[64]
cdef void random_seed(random_seed_t *random, const uint8_t *seed, size_t len) noexcept nogil
cdef void random_seeded(void *seed, uint8_t *dst, size_t n) noexcept nogil

cdef void wipe(void *p, size_t n) noexcept nogil        # zeroes, never optimised away
cdef bint ct_equal(const void *a, const void *b, size_t n) noexcept nogil  # constant time

cdef int suite_select(uint16_t offered, uint16_t usable) noexcept nogil
    # protocol.md 3.6: AEGIS-256 before AES-256-GCM before ChaCha20-Poly1305; E_SUITE when nothing is in both masks

# AEAD with a prepared key. Nonces are the caller's duty. dst equals src or is disjoint from it.
cdef int aead_init(aead_key_t *key, uint16_t suite, const uint8_t *key32) noexcept nogil   # E_SUITE
cdef int aead_tag_len(uint16_t suite) noexcept nogil            # 16 or 32, E_SUITE
cdef int aead_nonce_len(uint16_t suite) noexcept nogil          # 12 or 32, E_SUITE
cdef int aead_seal(const aead_key_t *key, uint8_t *dst, const uint8_t *src, size_t src_len, const uint8_t *ad,
                   size_t ad_len, const uint8_t *nonce) noexcept nogil     # length with tag, E_SUITE, E_LONG
cdef int aead_open(const aead_key_t *key, uint8_t *dst, const uint8_t *src, size_t src_len, const uint8_t *ad,
                   size_t ad_len, const uint8_t *nonce) noexcept nogil
    # length without tag, E_TAG, E_SHORT, E_SUITE, E_LONG
cdef int xchacha_seal(const uint8_t *key32, uint8_t *dst, const uint8_t *src, size_t src_len, const uint8_t *ad,
                      size_t ad_len, const uint8_t *nonce24) noexcept nogil
cdef int xchacha_open(const uint8_t *key32, uint8_t *dst, const uint8_t *src, size_t src_len, const uint8_t *ad,
                      size_t ad_len, const uint8_t *nonce24) noexcept nogil

# Key stream block of RFC 8439 ChaCha20 with a nonce of 12 zero bytes: 64 bytes to dst.
cdef int chacha20_keystream(uint8_t *dst64, const uint8_t *key32, uint32_t counter) noexcept nogil

cdef int sha256(uint8_t *dst32, const uint8_t *src, size_t src_len) noexcept nogil
cdef int sha256_pair(uint8_t *dst32, const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len) noexcept nogil
    # SHA-256(a || b); dst may lie in a or b
cdef int hmac_sha256(uint8_t *dst32, const uint8_t *key, size_t key_len, const uint8_t *src,
                     size_t src_len) noexcept nogil
cdef int hkdf_extract(uint8_t *prk32, const uint8_t *salt, size_t salt_len, const uint8_t *ikm,
                      size_t ikm_len) noexcept nogil
cdef int hkdf_expand(uint8_t *dst, size_t dst_len, const uint8_t *prk32, const uint8_t *info,
                     size_t info_len) noexcept nogil            # E_ARGUMENT above 8,160 bytes
cdef int hkdf_label(uint8_t *dst32, const uint8_t *prk32, const char *label, const uint8_t *fields,
                    size_t fields_len) noexcept nogil           # Expand(prk, label || fields, 32); dst may be prk

# Several keys of one prk: half the work of as many calls of hkdf_label, since the prk is hashed once.
ctypedef struct hkdf_prk_t:     # secret; to be wiped
    uint64_t[26] keyed          # libsodium's HMAC state after the prk
cdef void hkdf_prk_set(hkdf_prk_t *prk, const uint8_t *prk32) noexcept nogil
cdef int hkdf_prk_expand(uint8_t *dst, size_t dst_len, const hkdf_prk_t *prk, const uint8_t *info,
                         size_t info_len) noexcept nogil        # E_ARGUMENT above 8,160 bytes
cdef int hkdf_prk_label(uint8_t *dst32, const hkdf_prk_t *prk, const char *label, const uint8_t *fields,
                        size_t fields_len) noexcept nogil
cdef uint64_t keyed_hash(const uint8_t *key16, const void *src, size_t src_len) noexcept nogil     # SipHash-2-4

cdef int x25519_public(uint8_t *public32, const uint8_t *secret32) noexcept nogil
cdef int x25519_dh(uint8_t *shared32, const uint8_t *secret32, const uint8_t *public32) noexcept nogil     # E_DH
cdef int ed25519_public(uint8_t *public32, const uint8_t *seed32) noexcept nogil
cdef int ed25519_sign(uint8_t *signature64, const uint8_t *src, size_t src_len, const uint8_t *seed32) noexcept nogil
cdef int ed25519_verify(const uint8_t *signature64, const uint8_t *src, size_t src_len,
                        const uint8_t *public32) noexcept nogil     # OK, E_SIGNATURE

# ML-KEM-768. A decapsulation key is kept without the public key in its middle, so that it fits a secret slot.
ctypedef struct mlkem768_secret_t:      # 1,216 bytes; secret
    uint8_t vector[1152]        # FIPS 203: dk of K-PKE
    uint8_t tail[64]            # hash of the public key, z
cdef int mlkem768_keypair(uint8_t *public1184, mlkem768_secret_t *secret, const uint8_t *seed64) noexcept nogil
    # seed: d || z
cdef int mlkem768_encaps(uint8_t *ciphertext1088, uint8_t *shared32, const uint8_t *public1184,
                         const uint8_t *random32) noexcept nogil    # E_KEM: FIPS 203 7.2 input check
cdef int mlkem768_decaps(uint8_t *shared32, const uint8_t *ciphertext1088, const mlkem768_secret_t *secret,
                         const uint8_t *public1184) noexcept nogil     # public: of the same pair

# For owner classes: value if it has n bytes, else ValueError.
cdef bytes exactly(bytes value, Py_ssize_t n, str what)
