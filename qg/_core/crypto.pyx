# SPDX-License-Identifier: MIT
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
"""AEAD suites, key derivation, key agreement, KEM, signatures, keyed hash, wiping."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.limits cimport INT_MAX
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strlen

from .sodium cimport (
    crypto_aead_aegis256_decrypt, crypto_aead_aegis256_encrypt, crypto_aead_aes256gcm_beforenm,
    crypto_aead_aes256gcm_decrypt_afternm, crypto_aead_aes256gcm_encrypt_afternm, crypto_aead_aes256gcm_is_available,
    crypto_aead_aes256gcm_state, crypto_aead_chacha20poly1305_ietf_decrypt, crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_aead_xchacha20poly1305_ietf_decrypt, crypto_aead_xchacha20poly1305_ietf_encrypt,
    crypto_auth_hmacsha256_final, crypto_auth_hmacsha256_init, crypto_auth_hmacsha256_state,
    crypto_auth_hmacsha256_update, crypto_hash_sha256, crypto_hash_sha256_final, crypto_hash_sha256_init,
    crypto_hash_sha256_state, crypto_hash_sha256_update, crypto_kdf_hkdf_sha256_extract,
    crypto_kem_mlkem768_dec, crypto_kem_mlkem768_enc_deterministic, crypto_kem_mlkem768_seed_keypair,
    crypto_scalarmult_curve25519, crypto_scalarmult_curve25519_base,
    crypto_shorthash_siphash24, crypto_sign_ed25519_detached, crypto_sign_ed25519_seed_keypair,
    crypto_sign_ed25519_verify_detached, crypto_stream_chacha20_ietf_xor_ic, randombytes_buf, sodium_init,
    sodium_memcmp, sodium_memzero, sodium_version_string)
from .status cimport (
    E_ARGUMENT, E_DH, E_IO, E_KEM, E_LONG, E_SHORT, E_SIGNATURE, E_SUITE, E_TAG, OK)
from .sys cimport QG_TEST

cdef extern from *:
    """
    _Static_assert(sizeof(crypto_auth_hmacsha256_state) == 26 * sizeof(uint64_t),
                   "hkdf_prk_t holds libsodium's HMAC state");
    """

# What everything but encryption costs. A build for use has no code for it: there the macro leaves nothing behind.
cdef extern from *:
    """
    #include <string.h>
    #if QG_TEST
    static __attribute__((noinline)) int qg_null_copy(unsigned char *dst, const unsigned char *src, size_t len) {
        if (dst != src) memmove(dst, src, len);
        return (int)len;
    }
    #else
    #define qg_null_copy(dst, src, len) (-1)
    #endif
    """
    int null_copy "qg_null_copy"(uint8_t *dst, const uint8_t *src, size_t len) noexcept nogil

cdef enum:
    NULL_TAG_LEN = 32           # that of AEGIS-256, so that records are as long
    SRC_MAX = INT_MAX - 64      # lengths are returned as int, tag included
    HKDF_MAX = 8160             # 255 blocks
    KEY_LEN = 32

cdef uint16_t usable_suites = 0


cdef int crypto_init() noexcept nogil:
    global usable_suites
    if sodium_init() < 0:
        return E_IO
    # Without AES instructions libsodium would run AEGIS in software with tables: never offered (protocol.md 3.6).
    if crypto_aead_aes256gcm_is_available():
        usable_suites |= SUITE_CHACHA20_POLY1305 | SUITE_AES_256_GCM | SUITE_AEGIS_256
    else:
        usable_suites |= SUITE_CHACHA20_POLY1305
    return usable_suites


cdef uint16_t crypto_suites() noexcept nogil:
    return usable_suites


cdef void crypto_random(void *ctx, uint8_t *dst, size_t n) noexcept nogil:
    randombytes_buf(dst, n)


cdef void random_seed(random_seed_t *random, const uint8_t *seed, size_t len) noexcept nogil:
    memset(random, 0, sizeof(random_seed_t))
    sha256(random.key, seed, len)
    random.used = sizeof(random.block)


cdef void random_seeded(void *seed, uint8_t *dst, size_t n) noexcept nogil:
    cdef random_seed_t *random = <random_seed_t *>seed
    cdef size_t part
    while n > 0:
        if random.used == sizeof(random.block):
            chacha20_keystream(random.block, random.key, random.counter)
            random.counter += 1
            random.used = 0
        part = min(n, sizeof(random.block) - random.used)
        memcpy(dst, random.block + random.used, part)
        random.used += <uint32_t>part
        dst += part
        n -= part


cdef void random_pooled(void *pool, uint8_t *dst, size_t n) noexcept nogil:
    cdef random_pool_t *random = <random_pool_t *>pool
    if n >= KEY_LEN:
        randombytes_buf(dst, n)
        return
    if random.left < n:
        randombytes_buf(random.bytes, sizeof(random.bytes))
        random.left = sizeof(random.bytes)
    random.left -= <uint32_t>n
    memcpy(dst, random.bytes + random.left, n)
    sodium_memzero(random.bytes + random.left, n)


cdef void wipe(void *p, size_t n) noexcept nogil:
    sodium_memzero(p, n)


cdef bint ct_equal(const void *a, const void *b, size_t n) noexcept nogil:
    return sodium_memcmp(a, b, n) == 0


cdef int suite_select(uint16_t offered, uint16_t usable) noexcept nogil:
    cdef uint16_t common = offered & usable
    if QG_TEST and common & usable_suites & SUITE_NULL:
        return SUITE_NULL
    if common & SUITE_AEGIS_256:
        return SUITE_AEGIS_256
    if common & SUITE_AES_256_GCM:
        return SUITE_AES_256_GCM
    if common & SUITE_CHACHA20_POLY1305:
        return SUITE_CHACHA20_POLY1305
    return E_SUITE


cdef int aead_tag_len(uint16_t suite) noexcept nogil:
    if suite == SUITE_AEGIS_256 or (QG_TEST and suite == SUITE_NULL):
        return 32
    return 16 if suite == SUITE_CHACHA20_POLY1305 or suite == SUITE_AES_256_GCM else E_SUITE


cdef int aead_nonce_len(uint16_t suite) noexcept nogil:
    if suite == SUITE_AEGIS_256 or (QG_TEST and suite == SUITE_NULL):
        return 32
    return 12 if suite == SUITE_CHACHA20_POLY1305 or suite == SUITE_AES_256_GCM else E_SUITE


cdef int aead_init(aead_key_t *key, uint16_t suite, const uint8_t *key32) noexcept nogil:
    cdef int tag_len = aead_tag_len(suite)
    key.suite = 0
    if tag_len < 0 or not (suite & usable_suites):
        return E_SUITE
    if suite == SUITE_AES_256_GCM:
        if crypto_aead_aes256gcm_beforenm(<crypto_aead_aes256gcm_state *>&key.schedule[0], key32) != 0:
            return E_SUITE
    else:
        memcpy(&key.schedule[0], key32, 32)
    key.tag_len = <uint8_t>tag_len
    key.nonce_len = <uint8_t>aead_nonce_len(suite)
    key.suite = suite
    return OK


cdef int aead_seal(const aead_key_t *key, uint8_t *dst, const uint8_t *src, size_t src_len, const uint8_t *ad,
                   size_t ad_len, const uint8_t *nonce) noexcept nogil:
    cdef unsigned long long dst_len = 0
    if src_len > <size_t>SRC_MAX:
        return E_LONG
    if key.suite == SUITE_CHACHA20_POLY1305:
        crypto_aead_chacha20poly1305_ietf_encrypt(dst, &dst_len, src, src_len, ad, ad_len, NULL, nonce,
                                                  &key.schedule[0])
    elif key.suite == SUITE_AEGIS_256:
        crypto_aead_aegis256_encrypt(dst, &dst_len, src, src_len, ad, ad_len, NULL, nonce, &key.schedule[0])
    elif key.suite == SUITE_AES_256_GCM:
        crypto_aead_aes256gcm_encrypt_afternm(dst, &dst_len, src, src_len, ad, ad_len, NULL, nonce,
                                              <const crypto_aead_aes256gcm_state *>&key.schedule[0])
    elif QG_TEST and key.suite == SUITE_NULL:
        dst_len = null_copy(dst, src, src_len) + NULL_TAG_LEN
        memset(dst + src_len, 0, NULL_TAG_LEN)
    else:
        return E_SUITE
    return <int>dst_len


cdef int aead_open(const aead_key_t *key, uint8_t *dst, const uint8_t *src, size_t src_len, const uint8_t *ad,
                   size_t ad_len, const uint8_t *nonce) noexcept nogil:
    cdef unsigned long long dst_len = 0
    cdef int rc
    if src_len > <size_t>SRC_MAX:
        return E_LONG
    if src_len < key.tag_len:
        return E_SHORT
    if key.suite == SUITE_CHACHA20_POLY1305:
        rc = crypto_aead_chacha20poly1305_ietf_decrypt(dst, &dst_len, NULL, src, src_len, ad, ad_len, nonce,
                                                       &key.schedule[0])
    elif key.suite == SUITE_AEGIS_256:
        rc = crypto_aead_aegis256_decrypt(dst, &dst_len, NULL, src, src_len, ad, ad_len, nonce, &key.schedule[0])
    elif key.suite == SUITE_AES_256_GCM:
        rc = crypto_aead_aes256gcm_decrypt_afternm(dst, &dst_len, NULL, src, src_len, ad, ad_len, nonce,
                                                   <const crypto_aead_aes256gcm_state *>&key.schedule[0])
    elif QG_TEST and key.suite == SUITE_NULL:
        return null_copy(dst, src, src_len - NULL_TAG_LEN)
    else:
        return E_SUITE
    return <int>dst_len if rc == 0 else E_TAG


cdef int xchacha_seal(const uint8_t *key32, uint8_t *dst, const uint8_t *src, size_t src_len, const uint8_t *ad,
                      size_t ad_len, const uint8_t *nonce24) noexcept nogil:
    cdef unsigned long long dst_len = 0
    if src_len > <size_t>SRC_MAX:
        return E_LONG
    crypto_aead_xchacha20poly1305_ietf_encrypt(dst, &dst_len, src, src_len, ad, ad_len, NULL, nonce24, key32)
    return <int>dst_len


cdef int xchacha_open(const uint8_t *key32, uint8_t *dst, const uint8_t *src, size_t src_len, const uint8_t *ad,
                      size_t ad_len, const uint8_t *nonce24) noexcept nogil:
    cdef unsigned long long dst_len = 0
    if src_len > <size_t>SRC_MAX:
        return E_LONG
    if src_len < XCHACHA_TAG_LEN:
        return E_SHORT
    if crypto_aead_xchacha20poly1305_ietf_decrypt(dst, &dst_len, NULL, src, src_len, ad, ad_len, nonce24, key32) != 0:
        return E_TAG
    return <int>dst_len


cdef int chacha20_keystream(uint8_t *dst64, const uint8_t *key32, uint32_t counter) noexcept nogil:
    cdef uint8_t[12] nonce
    memset(&nonce[0], 0, sizeof(nonce))
    memset(dst64, 0, 64)
    crypto_stream_chacha20_ietf_xor_ic(dst64, dst64, 64, &nonce[0], counter, key32)
    return OK


cdef int sha256(uint8_t *dst32, const uint8_t *src, size_t src_len) noexcept nogil:
    crypto_hash_sha256(dst32, src, src_len)
    return OK


cdef int sha256_pair(uint8_t *dst32, const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len) noexcept nogil:
    cdef crypto_hash_sha256_state state
    crypto_hash_sha256_init(&state)
    crypto_hash_sha256_update(&state, a, a_len)
    crypto_hash_sha256_update(&state, b, b_len)
    crypto_hash_sha256_final(&state, dst32)
    return OK


cdef int hmac_sha256(uint8_t *dst32, const uint8_t *key, size_t key_len, const uint8_t *src,
                     size_t src_len) noexcept nogil:
    cdef crypto_auth_hmacsha256_state state
    crypto_auth_hmacsha256_init(&state, key, key_len)
    crypto_auth_hmacsha256_update(&state, src, src_len)
    crypto_auth_hmacsha256_final(&state, dst32)
    sodium_memzero(&state, sizeof(state))
    return OK


cdef int hkdf_extract(uint8_t *prk32, const uint8_t *salt, size_t salt_len, const uint8_t *ikm,
                      size_t ikm_len) noexcept nogil:
    crypto_kdf_hkdf_sha256_extract(prk32, salt, salt_len, ikm, ikm_len)
    return OK


cdef void hkdf_prk_set(hkdf_prk_t *prk, const uint8_t *prk32) noexcept nogil:
    crypto_auth_hmacsha256_init(<crypto_auth_hmacsha256_state *>prk.keyed, prk32, 32)


cdef int hkdf_prk_expand(uint8_t *dst, size_t dst_len, const hkdf_prk_t *prk, const uint8_t *info,
                         size_t info_len) noexcept nogil:
    """RFC 5869, 2.3; block n is HMAC(prk, block n - 1 || info || n)."""
    cdef crypto_auth_hmacsha256_state state
    cdef uint8_t[32] block
    cdef uint8_t n = 0
    cdef size_t len
    if dst_len > HKDF_MAX:
        return E_ARGUMENT
    while dst_len:
        memcpy(&state, prk.keyed, sizeof(state))
        if n:
            crypto_auth_hmacsha256_update(&state, block, 32)
        n += 1
        crypto_auth_hmacsha256_update(&state, info, info_len)
        crypto_auth_hmacsha256_update(&state, &n, 1)
        crypto_auth_hmacsha256_final(&state, block)
        len = min(dst_len, <size_t>32)
        memcpy(dst, block, len)
        dst += len
        dst_len -= len
    sodium_memzero(&state, sizeof(state))
    sodium_memzero(block, 32)
    return OK


cdef int hkdf_expand(uint8_t *dst, size_t dst_len, const uint8_t *prk32, const uint8_t *info,
                     size_t info_len) noexcept nogil:
    cdef hkdf_prk_t prk
    cdef int rc
    hkdf_prk_set(&prk, prk32)
    rc = hkdf_prk_expand(dst, dst_len, &prk, info, info_len)
    sodium_memzero(&prk, sizeof(prk))
    return rc


cdef int hkdf_label(uint8_t *dst32, const uint8_t *prk32, const char *label, const uint8_t *fields,
                    size_t fields_len) noexcept nogil:
    cdef hkdf_prk_t prk
    cdef int rc
    hkdf_prk_set(&prk, prk32)
    rc = hkdf_prk_label(dst32, &prk, label, fields, fields_len)
    sodium_memzero(&prk, sizeof(prk))
    return rc


cdef int hkdf_prk_label(uint8_t *dst32, const hkdf_prk_t *prk, const char *label, const uint8_t *fields,
                        size_t fields_len) noexcept nogil:
    cdef uint8_t[HKDF_LABEL_MAX] info
    cdef size_t label_len = strlen(label)
    if label_len + fields_len > HKDF_LABEL_MAX:
        return E_ARGUMENT
    memcpy(&info[0], label, label_len)
    if fields_len:
        memcpy(&info[label_len], fields, fields_len)
    return hkdf_prk_expand(dst32, 32, prk, &info[0], label_len + fields_len)


cdef uint64_t keyed_hash(const uint8_t *key16, const void *src, size_t src_len) noexcept nogil:
    cdef uint64_t digest
    crypto_shorthash_siphash24(<uint8_t *>&digest, <const uint8_t *>src, src_len, key16)
    return digest


cdef int x25519_public(uint8_t *public32, const uint8_t *secret32) noexcept nogil:
    crypto_scalarmult_curve25519_base(public32, secret32)
    return OK


cdef int x25519_dh(uint8_t *shared32, const uint8_t *secret32, const uint8_t *public32) noexcept nogil:
    return OK if crypto_scalarmult_curve25519(shared32, secret32, public32) == 0 else E_DH


cdef int ed25519_public(uint8_t *public32, const uint8_t *seed32) noexcept nogil:
    cdef uint8_t[64] secret
    crypto_sign_ed25519_seed_keypair(public32, &secret[0], seed32)
    sodium_memzero(&secret[0], sizeof(secret))
    return OK


cdef int ed25519_sign(uint8_t *signature64, const uint8_t *src, size_t src_len, const uint8_t *seed32) noexcept nogil:
    cdef uint8_t[64] secret
    cdef uint8_t[32] public
    crypto_sign_ed25519_seed_keypair(&public[0], &secret[0], seed32)
    crypto_sign_ed25519_detached(signature64, NULL, src, src_len, &secret[0])
    sodium_memzero(&secret[0], sizeof(secret))
    return OK


cdef int ed25519_verify(const uint8_t *signature64, const uint8_t *src, size_t src_len,
                        const uint8_t *public32) noexcept nogil:
    return OK if crypto_sign_ed25519_verify_detached(signature64, src, src_len, public32) == 0 else E_SIGNATURE


cdef int mlkem768_keypair(uint8_t *public1184, mlkem768_secret_t *secret, const uint8_t *seed64) noexcept nogil:
    cdef uint8_t[MLKEM768_SECRET_LEN] whole
    crypto_kem_mlkem768_seed_keypair(public1184, &whole[0], seed64)
    memcpy(secret.vector, whole, sizeof(secret.vector))
    memcpy(secret.tail, whole + sizeof(secret.vector) + MLKEM768_PUBLIC_LEN, sizeof(secret.tail))
    sodium_memzero(&whole[0], sizeof(whole))
    return OK


cdef int mlkem768_encaps(uint8_t *ciphertext1088, uint8_t *shared32, const uint8_t *public1184,
                         const uint8_t *random32) noexcept nogil:
    if crypto_kem_mlkem768_enc_deterministic(ciphertext1088, shared32, public1184, random32) != 0:
        return E_KEM
    return OK


cdef int mlkem768_decaps(uint8_t *shared32, const uint8_t *ciphertext1088, const mlkem768_secret_t *secret,
                         const uint8_t *public1184) noexcept nogil:
    cdef uint8_t[MLKEM768_SECRET_LEN] whole
    cdef int rc
    memcpy(whole, secret.vector, sizeof(secret.vector))
    memcpy(whole + sizeof(secret.vector), public1184, MLKEM768_PUBLIC_LEN)
    memcpy(whole + sizeof(secret.vector) + MLKEM768_PUBLIC_LEN, secret.tail, sizeof(secret.tail))
    rc = crypto_kem_mlkem768_dec(shared32, ciphertext1088, &whole[0])
    sodium_memzero(&whole[0], sizeof(whole))
    return OK if rc == 0 else E_KEM


# The face towards Python. It serves tests, tools and key files; nothing of the data path passes here.


@cython.final
cdef class AeadKey:
    """Hold one AEAD key and seal or open with it. Answers are bytes, or a negative status code."""
    cdef aead_key_t key

    def __cinit__(self, uint16_t suite, bytes key not None):
        if len(key) != 32:
            raise ValueError("an AEAD key has 32 bytes")
        if aead_init(&self.key, suite, key) != OK:
            raise ValueError(f"suite {suite} is unknown or needs AES instructions that this CPU lacks")

    def __dealloc__(self):
        sodium_memzero(&self.key, sizeof(self.key))

    def __reduce__(self):
        raise TypeError("keys are not serialised")

    @property
    def tag_len(self):
        """Bytes that sealing adds."""
        return self.key.tag_len

    @property
    def nonce_len(self):
        """Bytes of a nonce."""
        return self.key.nonce_len

    def seal(self, bytes nonce not None, bytes src not None, bytes ad not None=b""):
        """Return ciphertext and tag."""
        cdef bytes dst = PyBytes_FromStringAndSize(NULL, len(src) + self.key.tag_len)
        if len(nonce) != self.key.nonce_len:
            raise ValueError(f"a nonce of this suite has {self.key.nonce_len} bytes")
        cdef int rc = aead_seal(&self.key, <uint8_t *>PyBytes_AS_STRING(dst), src, len(src), ad, len(ad), nonce)
        return dst if rc >= 0 else rc

    def open(self, bytes nonce not None, bytes src not None, bytes ad not None=b""):
        """Return the plaintext, E_TAG or E_SHORT. Opens in place, as the record layer does."""
        cdef bytearray dst = bytearray(src)
        cdef uint8_t *p = <uint8_t *><char *>dst
        if len(nonce) != self.key.nonce_len:
            raise ValueError(f"a nonce of this suite has {self.key.nonce_len} bytes")
        cdef int rc = aead_open(&self.key, p, p, len(src), ad, len(ad), nonce)
        return bytes(dst[:rc]) if rc >= 0 else rc


cdef bytes exactly(bytes value, Py_ssize_t n, str what):
    if value is None or len(value) != n:
        raise ValueError(f"{what} has {n} bytes")
    return value


def suites():
    """Return the mask of AEAD suites that this CPU runs without tables."""
    return usable_suites


def suite_chosen(uint16_t offered, uint16_t usable):
    """Return the suite that a responder picks, or E_SUITE."""
    return suite_select(offered, usable)


def null_cipher_allow():
    """Let this process use the null cipher; False where the build has none (QG_TEST)."""
    global usable_suites
    if QG_TEST:
        usable_suites |= SUITE_NULL
    return bool(QG_TEST)


def sodium_version():
    """Return the version of the libsodium in use."""
    return sodium_version_string().decode("ascii")


def xchacha_sealed(bytes key, bytes nonce, bytes src not None, bytes ad not None=b""):
    """Return XChaCha20-Poly1305 ciphertext and tag."""
    cdef bytes dst = PyBytes_FromStringAndSize(NULL, len(src) + XCHACHA_TAG_LEN)
    exactly(key, 32, "a key"), exactly(nonce, XCHACHA_NONCE_LEN, "a nonce")
    xchacha_seal(key, <uint8_t *>PyBytes_AS_STRING(dst), src, len(src), ad, len(ad), nonce)
    return dst


def xchacha_opened(bytes key, bytes nonce, bytes src not None, bytes ad not None=b""):
    """Return the plaintext, E_TAG or E_SHORT."""
    cdef bytearray dst = bytearray(src)
    cdef uint8_t *p = <uint8_t *><char *>dst
    exactly(key, 32, "a key"), exactly(nonce, XCHACHA_NONCE_LEN, "a nonce")
    cdef int rc = xchacha_open(key, p, p, len(src), ad, len(ad), nonce)
    return bytes(dst[:rc]) if rc >= 0 else rc


def keystream_block(bytes key, uint32_t counter):
    """Return 64 bytes of ChaCha20 key stream under twelve zero nonce bytes."""
    cdef uint8_t[64] dst
    chacha20_keystream(&dst[0], exactly(key, 32, "a key"), counter)
    return PyBytes_FromStringAndSize(<char *>&dst[0], 64)


def hmac_digest(bytes key not None, bytes src not None):
    """Return HMAC-SHA256."""
    cdef uint8_t[32] dst
    hmac_sha256(&dst[0], key, len(key), src, len(src))
    return PyBytes_FromStringAndSize(<char *>&dst[0], 32)


def hkdf_sha256(bytes salt not None, bytes ikm not None, bytes info not None, size_t length):
    """Return `length` bytes of RFC 5869 HKDF, or E_ARGUMENT above 8,160."""
    cdef uint8_t[32] prk
    cdef bytearray dst = bytearray(length)
    hkdf_extract(&prk[0], salt, len(salt), ikm, len(ikm))
    cdef int rc = hkdf_expand(<uint8_t *><char *>dst, length, &prk[0], info, len(info))
    sodium_memzero(&prk[0], sizeof(prk))
    return bytes(dst) if rc == OK else rc


@cython.final
cdef class RandomPool:
    """Draw as a worker does."""
    cdef random_pool_t pool

    def draw(self, size_t n):
        """Return n random bytes."""
        cdef bytes dst = PyBytes_FromStringAndSize(NULL, n)
        random_pooled(&self.pool, <uint8_t *>PyBytes_AS_STRING(dst), n)
        return dst

    @property
    def left(self):
        """How many bytes are taken in advance."""
        return self.pool.left

    @property
    def memory(self):
        """All of its bytes, used ones too."""
        return PyBytes_FromStringAndSize(<char *>self.pool.bytes, sizeof(self.pool.bytes))


def siphash(bytes key, bytes src not None):
    """Return SipHash-2-4 as a number."""
    return keyed_hash(exactly(key, 16, "a key"), <const char *>src, len(src))


def x25519_public_key(bytes secret):
    """Return the public key of a secret."""
    cdef uint8_t[32] dst
    x25519_public(&dst[0], exactly(secret, 32, "a secret"))
    return PyBytes_FromStringAndSize(<char *>&dst[0], 32)


def x25519_shared(bytes secret, bytes public):
    """Return the shared point, or E_DH if it is all zero."""
    cdef uint8_t[32] dst
    cdef int rc = x25519_dh(&dst[0], exactly(secret, 32, "a secret"), exactly(public, 32, "a public key"))
    return PyBytes_FromStringAndSize(<char *>&dst[0], 32) if rc == OK else rc


def ed25519_public_key(bytes seed):
    """Return the public key of a seed."""
    cdef uint8_t[32] dst
    ed25519_public(&dst[0], exactly(seed, 32, "a seed"))
    return PyBytes_FromStringAndSize(<char *>&dst[0], 32)


def ed25519_signature(bytes seed, bytes src not None):
    """Return the signature of 64 bytes."""
    cdef uint8_t[64] dst
    ed25519_sign(&dst[0], src, len(src), exactly(seed, 32, "a seed"))
    return PyBytes_FromStringAndSize(<char *>&dst[0], 64)


def ed25519_check(bytes public, bytes src not None, bytes signature):
    """Return OK or E_SIGNATURE."""
    return ed25519_verify(exactly(signature, 64, "a signature"), src, len(src), exactly(public, 32, "a public key"))


def mlkem768_public_key(bytes seed):
    """Return the encapsulation key of the seed d || z."""
    cdef bytes dst = PyBytes_FromStringAndSize(NULL, MLKEM768_PUBLIC_LEN)
    cdef mlkem768_secret_t secret
    mlkem768_keypair(<uint8_t *>PyBytes_AS_STRING(dst), &secret, exactly(seed, MLKEM768_SEED_LEN, "a seed"))
    sodium_memzero(&secret, sizeof(secret))
    return dst


def mlkem768_encapsulation(bytes public, bytes random):
    """Return (ciphertext, shared secret), or E_KEM for a key that is not reduced."""
    cdef bytes dst = PyBytes_FromStringAndSize(NULL, MLKEM768_CIPHERTEXT_LEN)
    cdef uint8_t[32] shared
    cdef int rc = mlkem768_encaps(<uint8_t *>PyBytes_AS_STRING(dst), &shared[0],
                                  exactly(public, MLKEM768_PUBLIC_LEN, "a public key"),
                                  exactly(random, 32, "randomness"))
    return (dst, PyBytes_FromStringAndSize(<char *>&shared[0], 32)) if rc == OK else rc


def mlkem768_decapsulation(bytes seed, bytes ciphertext):
    """Return the shared secret; a forged ciphertext gives an unrelated one (implicit rejection)."""
    cdef uint8_t[MLKEM768_PUBLIC_LEN] public
    cdef mlkem768_secret_t secret
    cdef uint8_t[32] shared
    cdef int rc
    mlkem768_keypair(public, &secret, exactly(seed, MLKEM768_SEED_LEN, "a seed"))
    rc = mlkem768_decaps(&shared[0], exactly(ciphertext, MLKEM768_CIPHERTEXT_LEN, "a ciphertext"), &secret, public)
    sodium_memzero(&secret, sizeof(secret))
    return PyBytes_FromStringAndSize(<char *>&shared[0], 32) if rc == OK else rc


if crypto_init() < 0:
    raise ImportError("libsodium could not be initialised")
