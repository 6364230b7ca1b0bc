# SPDX-License-Identifier: MIT
"""Handshake flights on the wire: network keys, envelopes, prologues and the payloads P1, P2, P3 (protocol.md 2.4, 3.2
to 3.5).

An envelope is 24 random bytes, a sealed head of 56 and a sealed body. Opening the head proves that the sender knows
the network secret and (except for XX) the responder's key, at the price of one symmetric operation. Buffers are
borrowed until return; keys are secrets and belong in a secret slot. Times are unix seconds.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .crypto cimport random_fn

cdef enum:
    WIRE_VERSION = 1
    ENVELOPE_NONCE_LEN = 24
    ENVELOPE_HEAD_LEN = 80          # nonce and sealed head: what a responder reads first
    ENVELOPE_TAG_LEN = 16
    ENVELOPE_OVERHEAD = 96          # head and the body's tag
    ENVELOPE_BODY_MAX = 1400        # L
    ENVELOPE_PAD_MAX = 2047         # p
    ENVELOPE_MAX = 3543             # bytes of the longest flight
    ENVELOPE_STREAM_PAD_MAX = 1023  # p of a flight on TCP is uniform in 0..this
    PIPE_FLIGHT_LEN = 2048          # every flight on a pipe
    PRINTABLE_LEN = 6               # bytes of a nonce that `envelope_nonce_printable` draws
    M1_LEN = 1272                   # Noise bytes of each flight
    M2_LEN = 1296                   # XK and NK
    M2_XX_LEN = 1344
    M3_LEN = 224
    P1_LEN = 24                     # payloads, protocol.md 3.3
    P2_LEN = 144
    P3_LEN = 160
    HANDSHAKE_CERT_LEN = 108        # of the certificate inside P2 and P3
    PROLOGUE_LEN = 17
    REKEY_PROLOGUE_LEN = 50
    KEM_MLKEM768 = 1                # u16 of P1 and P2

cdef enum envelope_kind_t:
    ENVELOPE_XK1 = 1
    ENVELOPE_XX1 = 2
    ENVELOPE_NK1 = 3
    ENVELOPE_REPLY = 4              # M2
    ENVELOPE_M3 = 5
    ENVELOPE_COOKIE = 6             # UDP only

ctypedef struct network_t:          # secret
    uint8_t nx[32]                  # NX, from which envelope keys derive
    uint8_t psk[32]                 # the Noise psk of XK, XX and NK

ctypedef struct envelope_keys_t:    # secret
    uint8_t key[32]                 # K, the parent: reply keys derive from it
    uint8_t head[32]
    uint8_t body[32]

ctypedef struct envelope_head_t:
    uint8_t kind                    # envelope_kind_t
    uint8_t frag_idx                # 0 on streams
    uint8_t frag_n                  # 1 on streams
    uint32_t flight_id              # random; M2 and M3 repeat that of M1
    uint64_t time_s                 # unix seconds of M1; M2 and M3 repeat it
    uint16_t body_len               # L, Noise bytes
    uint16_t pad_len                # p
    uint8_t cookie[16]              # zero on streams

ctypedef struct p1_t:
    uint16_t suites                 # offered suite_t bits; ChaCha20-Poly1305 always among them
    uint16_t kems                   # offered KEM bits; ML-KEM-768 always among them
    uint32_t features               # none defined in version 1: 0
    uint16_t min_version
    uint16_t max_version
    uint8_t random[12]              # ignored by the receiver

ctypedef struct p2_t:
    uint16_t suite                  # chosen, one bit
    uint16_t kem
    uint32_t features               # subset of P1's
    uint64_t responder_time_s
    uint8_t cid[8]                  # cid_r; random and ignored off UDP
    uint8_t cert[108]

ctypedef struct p3_t:
    uint32_t features               # repeats P2's
    uint8_t cid[8]                  # cid_i
    uint8_t to_peer_id[32]          # the responder that the initiator means
    uint8_t cert[108]

# Keys
cdef int network_derive(network_t *network, const uint8_t *secret32) noexcept nogil    # NULL: the open network
cdef int envelope_keys_known(envelope_keys_t *keys, const network_t *network,
                             const uint8_t *link_public32) noexcept nogil      # K(R)
cdef int envelope_keys_open(envelope_keys_t *keys, const network_t *network) noexcept nogil    # K0, for XX
cdef int envelope_keys_reply(envelope_keys_t *reply, const envelope_keys_t *keys,
                             const uint8_t *m1_hash32) noexcept nogil
    # K' for M2 from the K that opened M1 and SHA-256(M1); reply and keys are distinct

# Envelopes
cdef int envelope_seal(const envelope_keys_t *keys, uint8_t *dst, const envelope_head_t *head, const uint8_t *body,
                       const uint8_t *nonce24) noexcept nogil
    # whole flight: 96 + body_len + pad_len bytes; body is dst + 80 or disjoint from dst; E_LONG, E_KIND
cdef int envelope_open_head(const envelope_keys_t *keys, envelope_head_t *head, const uint8_t *src80) noexcept nogil
    # OK; E_TAG, then E_VERSION, E_KIND, E_NONZERO, E_LONG. src is left as it is.
cdef int envelope_open_body(const envelope_keys_t *keys, uint8_t *dst, const envelope_head_t *head, const uint8_t *src,
                            size_t src_len) noexcept nogil
    # src is the whole flight; body_len bytes and the padding go to dst, which is src + 80 or disjoint with room for
    # both; returns body_len; E_SHORT, E_LONG, E_TAG, E_NONZERO (padding)
cdef int envelope_len(const envelope_head_t *head) noexcept nogil          # bytes of the whole flight
cdef int envelope_check_stream(const envelope_head_t *head) noexcept nogil
    # off UDP: one fragment, no cookie, the exact length of its kind; OK, E_NONZERO, E_LENGTH, E_KIND for a cookie reply
cdef int envelope_check_clock(const envelope_head_t *head, uint64_t window_s, uint64_t now_s) noexcept nogil # E_CLOCK
cdef int envelope_check_echo(const envelope_head_t *head, const envelope_head_t *first) noexcept nogil
    # M2 and M3 repeat flight id and time of M1: OK, E_MISMATCH
cdef void envelope_nonce_printable(uint8_t *nonce24, random_fn rnd, void *rnd_ctx) noexcept nogil
    # puts bytes from 0x20 to 0x7e in place of the first ones (protocol.md 3.7)
cdef uint16_t envelope_pad_draw(random_fn rnd, void *rnd_ctx) noexcept nogil   # p of a flight on TCP
cdef int envelope_pad_pipe(size_t body_len) noexcept nogil                 # p of a flight on a pipe; E_LONG

# Prologues of the Noise handshakes
cdef int prologue_put(uint8_t *dst17, uint8_t kind, uint64_t time_s) noexcept nogil    # kind of M1; returns 17
cdef int prologue_put_rekey(uint8_t *dst50, uint64_t generation, const uint8_t *h32, uint8_t starter) noexcept nogil
    # generation: the new one; h of the previous one; starter: 0 the session's initiator, 1 its responder; returns 50

# Payloads. put returns the length; parse wants exactly that length (E_SHORT, E_LONG).
cdef int p1_put(uint8_t *dst, const p1_t *p1) noexcept nogil
cdef int p1_parse(p1_t *p1, const uint8_t *src, size_t len) noexcept nogil
    # E_VERSION; E_SUITE, E_KEM when what every node must offer is missing
cdef int p2_put(uint8_t *dst, const p2_t *p2) noexcept nogil
cdef int p2_parse(p2_t *p2, const uint8_t *src, size_t len, const p1_t *offer) noexcept nogil
    # E_NONZERO; E_SUITE, E_KEM, E_MISMATCH for a suite, KEM or feature that P1 did not offer
cdef int p3_put(uint8_t *dst, const p3_t *p3) noexcept nogil
cdef int p3_parse(p3_t *p3, const uint8_t *src, size_t len, const p2_t *answer, const uint8_t *peer_id32) noexcept nogil
    # E_NONZERO; E_MISMATCH for other features; E_IDENTITY when it is meant for another PeerID than ours
