# SPDX-License-Identifier: MIT
"""Handshake state machine of the Noise Protocol Framework, revision 34, with hfs revision 1.

Runs every 25519 pattern of the Noise tables (one-way, fundamental, deferred) with psk and hfs modifiers, ChaChaPoly
or AESGCM and SHA256; KEM is MLKEM768. Order of calls: noise_init, the noise_set_* that the pattern needs, then
noise_write and noise_read in turn until noise_is_done, then noise_split. A message that fails wipes the secrets and
ends the handshake (every later call answers E_STATE); misuse (wrong turn, too little room, missing key) answers
E_STATE, E_LONG or E_ARGUMENT and changes nothing.
"""
from libc.stdint cimport uint8_t, uint16_t, uint64_t

from .crypto cimport aead_key_t, mlkem768_secret_t, random_fn

cdef enum:
    NOISE_TAG_LEN = 16
    NOISE_MESSAGE_MAX = 65535   # bytes of a message, Noise section 3
    NOISE_MESSAGES = 4          # most messages of a pattern
    NOISE_TOKENS = 8            # most tokens of a message, with the zero that ends them
    NOISE_PSKS = 5              # most psk tokens of a pattern

cdef enum:                      # roles; unnamed so that they index arrays
    NOISE_INITIATOR = 0
    NOISE_RESPONDER = 1

cdef enum:                      # the four patterns of protocol.md 3.2; unnamed likewise
    NOISE_XK = 0                # Noise_XKhfs+psk3_25519+MLKEM768_ChaChaPoly_SHA256
    NOISE_XX = 1                # Noise_XXhfs+psk3_...
    NOISE_NK = 2                # Noise_NKhfs+psk2_...
    NOISE_NN = 3                # Noise_NNhfs+psk0_...

cdef enum noise_state_t:
    NOISE_FRESH = 0             # keys may be set; no message yet
    NOISE_RUNNING = 1
    NOISE_DONE = 2              # all messages passed, noise_split may be called once
    NOISE_ENDED = 3             # split, wiped or failed

ctypedef struct noise_pattern_t:    # read-only once parsed; may be shared by all handshakes and threads
    uint8_t tokens[NOISE_MESSAGES][NOISE_TOKENS]    # by message; zero-terminated
    uint8_t n_messages
    uint8_t n_psks              # psk tokens
    bint needs_static[2]        # by role: this side has a static key
    bint pre_static[2]          # by role: this side's static key is known to the other before the handshake
    bint is_one_way
    uint16_t suite              # suite_t
    uint8_t name_hash[32]       # initial h and ck

ctypedef struct noise_secret_t: # 304 bytes; belongs in a secret slot
    uint64_t mark               # not 0 while in use; a forked child reads 0 and gets E_FORK
    uint8_t ck[32]
    uint8_t k[32]
    uint8_t static_secret[32]
    uint8_t ephemeral_secret[32]
    mlkem768_secret_t *kem      # borrowed: place for the key sent with e1, in another slot; only who sends one needs it
    uint8_t psk[NOISE_PSKS][32]

ctypedef struct noise_t:        # about 1.4 KB; public values only
    const noise_pattern_t *pattern      # borrowed for the life of the handshake
    noise_secret_t *secret      # borrowed for the life of the handshake; wiped at its end
    uint64_t nonce
    uint8_t role                # NOISE_INITIATOR or NOISE_RESPONDER
    uint8_t state               # noise_state_t
    uint8_t message_idx         # of the next message
    uint8_t n_psks              # set so far
    uint8_t psk_idx             # of the next psk token
    bint has_key                # k is in use
    bint has_static
    bint has_remote_static
    uint8_t h[32]
    uint8_t static_public[32]
    uint8_t ephemeral_public[32]
    uint8_t remote_static[32]
    uint8_t remote_ephemeral[32]
    uint8_t kem_public[1184]    # of e1, from e1 to ekem1

cdef int noise_pattern_parse(noise_pattern_t *pattern, const char *name, size_t name_len) noexcept nogil
    # full protocol name; E_ARGUMENT for one that this engine does not run
cdef int noise_pattern_wire(noise_pattern_t *pattern, int wire) noexcept nogil     # NOISE_XK to NOISE_NN

cdef int noise_init(noise_t *hs, noise_secret_t *secret, const noise_pattern_t *pattern, int role,
                    const uint8_t *prologue, size_t prologue_len) noexcept nogil
    # E_SUITE without AES instructions for an AESGCM pattern
cdef int noise_set_static(noise_t *hs, const uint8_t *secret32, const uint8_t *public32) noexcept nogil    # copies
cdef int noise_set_remote_static(noise_t *hs, const uint8_t *public32) noexcept nogil
cdef int noise_set_psk(noise_t *hs, const uint8_t *psk32) noexcept nogil   # copies; once per psk token, in their order

cdef void noise_set_kem(noise_t *hs, mlkem768_secret_t *kem) noexcept nogil
    # place for a KEM key until ekem1 is read; wiped by noise_wipe. Without one the initiator of an hfs pattern gets
    # E_ARGUMENT

cdef int noise_message_len(const noise_t *hs, size_t payload_len) noexcept nogil
    # bytes of the next message, written or read, that carries so much payload; E_STATE after the last one, E_LONG
cdef int noise_write(noise_t *hs, uint8_t *dst, size_t dst_cap, const uint8_t *payload, size_t payload_len,
                     random_fn rnd, void *rnd_ctx) noexcept nogil
    # message length. dst and payload are disjoint. Draws 32 bytes for e, then 64 for e1 (d || z), or 32 for ekem1.
cdef int noise_read(noise_t *hs, uint8_t *dst, size_t dst_cap, const uint8_t *src, size_t src_len) noexcept nogil
    # payload length; E_SHORT, E_LONG, E_TAG, E_DH, E_KEM end the handshake. dst and src are disjoint.
cdef bint noise_is_done(const noise_t *hs) noexcept nogil
cdef const uint8_t *noise_remote_static(const noise_t *hs) noexcept nogil      # 32 bytes inside hs, NULL while unknown
cdef int noise_split(noise_t *hs, uint8_t *k1, uint8_t *k2, uint8_t *h32) noexcept nogil
    # key initiator -> responder, key responder -> initiator, handshake hash; wipes the secrets; E_STATE
cdef void noise_wipe(noise_t *hs) noexcept nogil            # ends the handshake at any time; safe on a zeroed noise_t

# Noise CipherState for transport messages of third-party vectors and peers. Our own records do not use it.
ctypedef struct noise_cipher_t:
    aead_key_t key
    uint64_t nonce
    uint16_t suite

cdef int noise_cipher_init(noise_cipher_t *cipher, uint16_t suite, const uint8_t *key32) noexcept nogil
cdef int noise_cipher_seal(noise_cipher_t *cipher, uint8_t *dst, const uint8_t *src, size_t src_len, const uint8_t *ad,
                           size_t ad_len) noexcept nogil       # length with tag; E_STATE when the nonces are spent
cdef int noise_cipher_open(noise_cipher_t *cipher, uint8_t *dst, const uint8_t *src, size_t src_len, const uint8_t *ad,
                           size_t ad_len) noexcept nogil       # a failure does not advance the nonce
cdef int noise_cipher_rekey(noise_cipher_t *cipher) noexcept nogil
