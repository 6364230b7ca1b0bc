# SPDX-License-Identifier: MIT
"""What the core uses of libsodium >= 1.0.22. Only `crypto`, `secret` and `keyfile` cimport this."""
from libc.stdint cimport uint32_t

cdef extern from "<sodium.h>" nogil:
    int sodium_init() noexcept
    const char *sodium_version_string() noexcept
    void sodium_memzero(void *p, size_t n) noexcept
    int sodium_memcmp(const void *a, const void *b, size_t n) noexcept         # 0 when equal, in constant time
    void *sodium_malloc(size_t n) noexcept
    void sodium_free(void *p) noexcept
    int sodium_is_zero(const unsigned char *p, size_t n) noexcept
    int sodium_mlock(void *p, size_t n) noexcept

    void randombytes_buf(void *dst, size_t n) noexcept

    # AEAD: dst may equal src. The detached forms are not used: a tag always follows its ciphertext.
    int crypto_aead_chacha20poly1305_ietf_encrypt(
        unsigned char *c, unsigned long long *c_len, const unsigned char *m, unsigned long long m_len,
        const unsigned char *ad, unsigned long long ad_len, const unsigned char *nsec, const unsigned char *nonce,
        const unsigned char *key) noexcept
    int crypto_aead_chacha20poly1305_ietf_decrypt(
        unsigned char *m, unsigned long long *m_len, unsigned char *nsec, const unsigned char *c,
        unsigned long long c_len, const unsigned char *ad, unsigned long long ad_len, const unsigned char *nonce,
        const unsigned char *key) noexcept
    int crypto_aead_xchacha20poly1305_ietf_encrypt(
        unsigned char *c, unsigned long long *c_len, const unsigned char *m, unsigned long long m_len,
        const unsigned char *ad, unsigned long long ad_len, const unsigned char *nsec, const unsigned char *nonce,
        const unsigned char *key) noexcept
    int crypto_aead_xchacha20poly1305_ietf_decrypt(
        unsigned char *m, unsigned long long *m_len, unsigned char *nsec, const unsigned char *c,
        unsigned long long c_len, const unsigned char *ad, unsigned long long ad_len, const unsigned char *nonce,
        const unsigned char *key) noexcept
    int crypto_aead_aegis256_encrypt(
        unsigned char *c, unsigned long long *c_len, const unsigned char *m, unsigned long long m_len,
        const unsigned char *ad, unsigned long long ad_len, const unsigned char *nsec, const unsigned char *nonce,
        const unsigned char *key) noexcept
    int crypto_aead_aegis256_decrypt(
        unsigned char *m, unsigned long long *m_len, unsigned char *nsec, const unsigned char *c,
        unsigned long long c_len, const unsigned char *ad, unsigned long long ad_len, const unsigned char *nonce,
        const unsigned char *key) noexcept

    ctypedef struct crypto_aead_aes256gcm_state:
        pass
    int crypto_aead_aes256gcm_is_available() noexcept
    int crypto_aead_aes256gcm_beforenm(crypto_aead_aes256gcm_state *state, const unsigned char *key) noexcept
    int crypto_aead_aes256gcm_encrypt_afternm(
        unsigned char *c, unsigned long long *c_len, const unsigned char *m, unsigned long long m_len,
        const unsigned char *ad, unsigned long long ad_len, const unsigned char *nsec, const unsigned char *nonce,
        const crypto_aead_aes256gcm_state *state) noexcept
    int crypto_aead_aes256gcm_decrypt_afternm(
        unsigned char *m, unsigned long long *m_len, unsigned char *nsec, const unsigned char *c,
        unsigned long long c_len, const unsigned char *ad, unsigned long long ad_len, const unsigned char *nonce,
        const crypto_aead_aes256gcm_state *state) noexcept

    int crypto_stream_chacha20_ietf_xor_ic(
        unsigned char *c, const unsigned char *m, unsigned long long m_len, const unsigned char *nonce, uint32_t ic,
        const unsigned char *key) noexcept

    int crypto_hash_sha256(unsigned char *out, const unsigned char *src, unsigned long long n) noexcept
    ctypedef struct crypto_hash_sha256_state:
        pass
    int crypto_hash_sha256_init(crypto_hash_sha256_state *state) noexcept
    int crypto_hash_sha256_update(crypto_hash_sha256_state *state, const unsigned char *src,
                                  unsigned long long n) noexcept
    int crypto_hash_sha256_final(crypto_hash_sha256_state *state, unsigned char *out) noexcept
    ctypedef struct crypto_auth_hmacsha256_state:
        pass
    int crypto_auth_hmacsha256_init(crypto_auth_hmacsha256_state *state, const unsigned char *key, size_t n) noexcept
    int crypto_auth_hmacsha256_update(crypto_auth_hmacsha256_state *state, const unsigned char *src,
                                      unsigned long long n) noexcept
    int crypto_auth_hmacsha256_final(crypto_auth_hmacsha256_state *state, unsigned char *out) noexcept
    int crypto_kdf_hkdf_sha256_extract(unsigned char *prk, const unsigned char *salt, size_t salt_len,
                                       const unsigned char *ikm, size_t ikm_len) noexcept
    int crypto_shorthash_siphash24(unsigned char *out, const unsigned char *src, unsigned long long n,
                                   const unsigned char *key) noexcept

    int crypto_scalarmult_curve25519_base(unsigned char *public, const unsigned char *secret) noexcept
    int crypto_scalarmult_curve25519(unsigned char *shared, const unsigned char *secret,
                                     const unsigned char *public) noexcept     # -1 for an all-zero result

    int crypto_sign_ed25519_seed_keypair(unsigned char *public, unsigned char *secret,
                                         const unsigned char *seed) noexcept
    int crypto_sign_ed25519_detached(unsigned char *signature, unsigned long long *signature_len,
                                     const unsigned char *src, unsigned long long n,
                                     const unsigned char *secret) noexcept
    int crypto_sign_ed25519_verify_detached(const unsigned char *signature, const unsigned char *src,
                                            unsigned long long n, const unsigned char *public) noexcept

    int crypto_kem_mlkem768_seed_keypair(unsigned char *public, unsigned char *secret,
                                         const unsigned char *seed) noexcept
    int crypto_kem_mlkem768_enc_deterministic(unsigned char *ciphertext, unsigned char *shared,
                                              const unsigned char *public, const unsigned char *seed) noexcept
    int crypto_kem_mlkem768_dec(unsigned char *shared, const unsigned char *ciphertext,
                                const unsigned char *secret) noexcept
