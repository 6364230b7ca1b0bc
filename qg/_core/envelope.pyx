# SPDX-License-Identifier: MIT
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
"""Handshake flights on the wire: network keys, envelopes, prologues and payloads."""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset, strlen

from .crypto cimport (
    SUITE_CHACHA20_POLY1305, exactly, hkdf_extract, hkdf_label, hkdf_prk_label, hkdf_prk_set,
    hkdf_prk_t, random_fn, wipe, xchacha_open, xchacha_seal)
from .status cimport (
    E_CLOCK, E_IDENTITY, E_KEM, E_KIND, E_LENGTH, E_LONG, E_MISMATCH, E_NONZERO, E_SHORT, E_SUITE, E_TAG, E_VERSION, OK)
from .sys cimport is_zero, load_be16, load_be32, load_be64, store_be16, store_be32, store_be64

cdef enum:
    HEAD_PLAIN_LEN = 40
    HEAD_SEALED_LEN = HEAD_PLAIN_LEN + ENVELOPE_TAG_LEN
    REKEY_KIND = 7              # the kind byte of a re-keying prologue


cdef int check_len(size_t len, size_t expected) noexcept nogil:
    if len == expected:
        return OK
    return E_SHORT if len < expected else E_LONG


# Keys

cdef int network_derive(network_t *network, const uint8_t *secret32) noexcept nogil:
    cdef const char *salt = "qg1 network"
    cdef uint8_t[32] zero
    memset(&zero[0], 0, sizeof(zero))
    hkdf_extract(&network.nx[0], <const uint8_t *>salt, strlen(salt),
                 secret32 if secret32 is not NULL else &zero[0], 32)
    return hkdf_label(&network.psk[0], &network.nx[0], "qg1 noise psk", NULL, 0)


cdef int keys_expand(envelope_keys_t *keys) noexcept nogil:
    cdef hkdf_prk_t prk
    hkdf_prk_set(&prk, keys.key)
    hkdf_prk_label(keys.head, &prk, "head", NULL, 0)
    hkdf_prk_label(keys.body, &prk, "body", NULL, 0)
    wipe(&prk, sizeof(prk))
    return OK


cdef int envelope_keys_known(envelope_keys_t *keys, const network_t *network,
                             const uint8_t *link_public32) noexcept nogil:
    hkdf_label(&keys.key[0], &network.nx[0], "qg1 env known", link_public32, 32)
    return keys_expand(keys)


cdef int envelope_keys_open(envelope_keys_t *keys, const network_t *network) noexcept nogil:
    hkdf_label(&keys.key[0], &network.nx[0], "qg1 env open", NULL, 0)
    return keys_expand(keys)


cdef int envelope_keys_reply(envelope_keys_t *reply, const envelope_keys_t *keys,
                             const uint8_t *m1_hash32) noexcept nogil:
    hkdf_label(&reply.key[0], &keys.key[0], "qg1 reply", m1_hash32, 32)
    return keys_expand(reply)


# Envelopes

cdef int envelope_len(const envelope_head_t *head) noexcept nogil:
    return ENVELOPE_OVERHEAD + head.body_len + head.pad_len


cdef void head_put(uint8_t *dst40, const envelope_head_t *head) noexcept nogil:
    dst40[0] = WIRE_VERSION
    dst40[1] = head.kind
    dst40[2] = head.frag_idx
    dst40[3] = head.frag_n
    store_be32(dst40 + 4, head.flight_id)
    store_be64(dst40 + 8, head.time_s)
    store_be16(dst40 + 16, head.body_len)
    store_be16(dst40 + 18, head.pad_len)
    store_be32(dst40 + 20, 0)
    memcpy(dst40 + 24, &head.cookie[0], 16)


cdef int head_parse(envelope_head_t *head, const uint8_t *src40) noexcept nogil:
    if src40[0] != WIRE_VERSION:
        return E_VERSION
    head.kind = src40[1]
    head.frag_idx = src40[2]
    head.frag_n = src40[3]
    head.flight_id = load_be32(src40 + 4)
    head.time_s = load_be64(src40 + 8)
    head.body_len = <uint16_t>load_be16(src40 + 16)
    head.pad_len = <uint16_t>load_be16(src40 + 18)
    memcpy(&head.cookie[0], src40 + 24, 16)
    if not ENVELOPE_XK1 <= head.kind <= ENVELOPE_COOKIE:
        return E_KIND
    if load_be32(src40 + 20) != 0:
        return E_NONZERO
    if head.body_len > ENVELOPE_BODY_MAX or head.pad_len > ENVELOPE_PAD_MAX:
        return E_LONG
    return OK


cdef int envelope_seal(const envelope_keys_t *keys, uint8_t *dst, const envelope_head_t *head, const uint8_t *body,
                       const uint8_t *nonce24) noexcept nogil:
    cdef uint8_t[HEAD_PLAIN_LEN] plain
    cdef uint8_t *inner = dst + ENVELOPE_HEAD_LEN
    if not ENVELOPE_XK1 <= head.kind <= ENVELOPE_COOKIE:
        return E_KIND
    if head.body_len > ENVELOPE_BODY_MAX or head.pad_len > ENVELOPE_PAD_MAX:
        return E_LONG
    head_put(&plain[0], head)
    memcpy(dst, nonce24, ENVELOPE_NONCE_LEN)
    xchacha_seal(&keys.head[0], dst + ENVELOPE_NONCE_LEN, &plain[0], HEAD_PLAIN_LEN, NULL, 0, nonce24)
    if body is not inner and head.body_len:
        memcpy(inner, body, head.body_len)
    memset(inner + head.body_len, 0, head.pad_len)
    xchacha_seal(&keys.body[0], inner, inner, head.body_len + head.pad_len, dst + ENVELOPE_NONCE_LEN, HEAD_SEALED_LEN,
                 nonce24)
    return envelope_len(head)


cdef int envelope_open_head(const envelope_keys_t *keys, envelope_head_t *head, const uint8_t *src80) noexcept nogil:
    cdef uint8_t[HEAD_PLAIN_LEN] plain
    memset(head, 0, sizeof(envelope_head_t))
    if xchacha_open(&keys.head[0], &plain[0], src80 + ENVELOPE_NONCE_LEN, HEAD_SEALED_LEN, NULL, 0, src80) < 0:
        return E_TAG
    return head_parse(head, &plain[0])


cdef int envelope_open_body(const envelope_keys_t *keys, uint8_t *dst, const envelope_head_t *head, const uint8_t *src,
                            size_t src_len) noexcept nogil:
    cdef int rc = check_len(src_len, envelope_len(head))
    if rc != OK:
        return rc
    rc = xchacha_open(&keys.body[0], dst, src + ENVELOPE_HEAD_LEN, src_len - ENVELOPE_HEAD_LEN,
                      src + ENVELOPE_NONCE_LEN, HEAD_SEALED_LEN, src)
    if rc < 0:
        return rc
    return <int>head.body_len if is_zero(dst + head.body_len, head.pad_len) else E_NONZERO


cdef int envelope_check_stream(const envelope_head_t *head) noexcept nogil:
    if head.kind == ENVELOPE_COOKIE:
        return E_KIND
    if head.frag_idx != 0 or head.frag_n != 1 or not is_zero(&head.cookie[0], sizeof(head.cookie)):
        return E_NONZERO
    if head.kind == ENVELOPE_REPLY:
        return OK if head.body_len == M2_LEN or head.body_len == M2_XX_LEN else E_LENGTH
    return OK if head.body_len == (M3_LEN if head.kind == ENVELOPE_M3 else M1_LEN) else E_LENGTH


cdef int envelope_check_clock(const envelope_head_t *head, uint64_t window_s, uint64_t now_s) noexcept nogil:
    cdef uint64_t apart = now_s - head.time_s if now_s > head.time_s else head.time_s - now_s
    return OK if apart <= window_s else E_CLOCK


cdef int envelope_check_echo(const envelope_head_t *head, const envelope_head_t *first) noexcept nogil:
    return OK if head.flight_id == first.flight_id and head.time_s == first.time_s else E_MISMATCH


cdef void envelope_nonce_printable(uint8_t *nonce24, random_fn rnd, void *rnd_ctx) noexcept nogil:
    cdef uint64_t digits
    cdef uint32_t i
    rnd(rnd_ctx, <uint8_t *>&digits, sizeof(digits))
    for i in range(PRINTABLE_LEN):              # to base 95: none is likelier than another by more than 2^-24
        nonce24[i] = <uint8_t>(0x20 + digits % 95)
        digits //= 95


cdef uint16_t envelope_pad_draw(random_fn rnd, void *rnd_ctx) noexcept nogil:
    cdef uint8_t[2] raw
    rnd(rnd_ctx, &raw[0], sizeof(raw))
    return <uint16_t>(load_be16(&raw[0]) & ENVELOPE_STREAM_PAD_MAX)


cdef int envelope_pad_pipe(size_t body_len) noexcept nogil:
    if body_len > ENVELOPE_BODY_MAX:
        return E_LONG
    return PIPE_FLIGHT_LEN - ENVELOPE_OVERHEAD - <int>body_len


# Prologues

cdef void prologue_start(uint8_t *dst, uint8_t kind, uint64_t number) noexcept nogil:
    memcpy(dst, <const char *>"qg-v1\0\0", 8)
    dst[8] = kind
    store_be64(dst + 9, number)


cdef int prologue_put(uint8_t *dst17, uint8_t kind, uint64_t time_s) noexcept nogil:
    prologue_start(dst17, kind, time_s)
    return PROLOGUE_LEN


cdef int prologue_put_rekey(uint8_t *dst50, uint64_t generation, const uint8_t *h32, uint8_t starter) noexcept nogil:
    prologue_start(dst50, REKEY_KIND, generation)
    memcpy(dst50 + PROLOGUE_LEN, h32, 32)
    dst50[49] = starter
    return REKEY_PROLOGUE_LEN


# Payloads

cdef int p1_put(uint8_t *dst, const p1_t *p1) noexcept nogil:
    store_be16(dst, p1.suites)
    store_be16(dst + 2, p1.kems)
    store_be32(dst + 4, p1.features)
    store_be16(dst + 8, p1.min_version)
    store_be16(dst + 10, p1.max_version)
    memcpy(dst + 12, &p1.random[0], 12)
    return P1_LEN


cdef int p1_parse(p1_t *p1, const uint8_t *src, size_t len) noexcept nogil:
    cdef int rc = check_len(len, P1_LEN)
    if rc != OK:
        return rc
    p1.suites = <uint16_t>load_be16(src)
    p1.kems = <uint16_t>load_be16(src + 2)
    p1.features = load_be32(src + 4)
    p1.min_version = <uint16_t>load_be16(src + 8)
    p1.max_version = <uint16_t>load_be16(src + 10)
    memcpy(&p1.random[0], src + 12, 12)
    if not p1.min_version <= WIRE_VERSION <= p1.max_version:
        return E_VERSION
    if not (p1.suites & SUITE_CHACHA20_POLY1305):
        return E_SUITE
    return OK if p1.kems & KEM_MLKEM768 else E_KEM


cdef int p2_put(uint8_t *dst, const p2_t *p2) noexcept nogil:
    store_be16(dst, p2.suite)
    store_be16(dst + 2, p2.kem)
    store_be32(dst + 4, p2.features)
    memcpy(dst + 8, &p2.cid[0], 8)
    store_be64(dst + 16, p2.responder_time_s)
    memset(dst + 24, 0, 12)
    memcpy(dst + 36, &p2.cert[0], HANDSHAKE_CERT_LEN)
    return P2_LEN


cdef int p2_parse(p2_t *p2, const uint8_t *src, size_t len, const p1_t *offer) noexcept nogil:
    cdef int rc = check_len(len, P2_LEN)
    if rc != OK:
        return rc
    p2.suite = <uint16_t>load_be16(src)
    p2.kem = <uint16_t>load_be16(src + 2)
    p2.features = load_be32(src + 4)
    memcpy(&p2.cid[0], src + 8, 8)
    p2.responder_time_s = load_be64(src + 16)
    memcpy(&p2.cert[0], src + 36, HANDSHAKE_CERT_LEN)
    if not is_zero(src + 24, 12):
        return E_NONZERO
    # Exactly one bit, and one that was offered: a changed choice must not pass for a new suite.
    if p2.suite == 0 or (p2.suite & (p2.suite - 1)) or not (p2.suite & offer.suites):
        return E_SUITE
    if p2.kem != KEM_MLKEM768 or not (p2.kem & offer.kems):
        return E_KEM
    return OK if (p2.features & ~offer.features) == 0 else E_MISMATCH


cdef int p3_put(uint8_t *dst, const p3_t *p3) noexcept nogil:
    memcpy(dst, &p3.cid[0], 8)
    store_be32(dst + 8, p3.features)
    store_be32(dst + 12, 0)
    memcpy(dst + 16, &p3.to_peer_id[0], 32)
    memcpy(dst + 48, &p3.cert[0], HANDSHAKE_CERT_LEN)
    store_be32(dst + 156, 0)
    return P3_LEN


cdef int p3_parse(p3_t *p3, const uint8_t *src, size_t len, const p2_t *answer,
                  const uint8_t *peer_id32) noexcept nogil:
    cdef int rc = check_len(len, P3_LEN)
    if rc != OK:
        return rc
    memcpy(&p3.cid[0], src, 8)
    p3.features = load_be32(src + 8)
    memcpy(&p3.to_peer_id[0], src + 16, 32)
    memcpy(&p3.cert[0], src + 48, HANDSHAKE_CERT_LEN)
    if load_be32(src + 12) != 0 or load_be32(src + 156) != 0:
        return E_NONZERO
    if p3.features != answer.features:
        return E_MISMATCH
    return OK if memcmp(&p3.to_peer_id[0], peer_id32, 32) == 0 else E_IDENTITY


# Owners, for tests and fuzzers.

cdef int fill(uint8_t *dst, bytes value, Py_ssize_t n, str what) except -1:
    cdef bytes checked = exactly(value, n, what)
    memcpy(dst, <const char *>checked, n)
    return 0


cdef int network_fill(network_t *network, bytes secret) except -1:
    if secret is None:
        return network_derive(network, NULL)
    return network_derive(network, exactly(secret, 32, "a network secret"))


@cython.final
cdef class EnvelopeKeys:
    """Hold the keys of one direction of a handshake. Make one by `known`, `open_mode` or `reply`."""
    cdef envelope_keys_t keys

    def __dealloc__(self):
        wipe(&self.keys, sizeof(self.keys))

    def __reduce__(self):
        raise TypeError("keys are not serialised")

    @staticmethod
    def known(bytes link_key not None, bytes network_secret=None):
        """Return the keys towards the holder of a link key; without a secret those of the open network."""
        cdef EnvelopeKeys made = EnvelopeKeys()
        cdef network_t network
        network_fill(&network, network_secret)
        envelope_keys_known(&made.keys, &network, exactly(link_key, 32, "a link key"))
        wipe(&network, sizeof(network))
        return made

    @staticmethod
    def open_mode(bytes network_secret=None):
        """Return the keys for XX, where no link key is known."""
        cdef EnvelopeKeys made = EnvelopeKeys()
        cdef network_t network
        network_fill(&network, network_secret)
        envelope_keys_open(&made.keys, &network)
        wipe(&network, sizeof(network))
        return made

    def reply(self, bytes m1_hash not None):
        """Return the keys of M2 for a SHA-256 of M1."""
        cdef EnvelopeKeys made = EnvelopeKeys()
        envelope_keys_reply(&made.keys, &self.keys, exactly(m1_hash, 32, "a hash"))
        return made

    def export_keys(self):
        """Return (K, head, body); for known answers."""
        cdef const char *p = <const char *>&self.keys
        raw = PyBytes_FromStringAndSize(p, sizeof(envelope_keys_t))
        return tuple(raw[32 * i:32 * i + 32] for i in range(3))

    def seal(self, bytes nonce not None, int kind, uint32_t flight_id, uint64_t time_s, bytes body not None,
             uint16_t pad_len=0, *, uint8_t frag_idx=0, uint8_t frag_n=1, bytes cookie not None=bytes(16)):
        """Return the whole flight, or a negative status code."""
        cdef envelope_head_t head
        cdef uint8_t[ENVELOPE_MAX] dst
        head.kind, head.frag_idx, head.frag_n = <uint8_t>kind, frag_idx, frag_n
        head.flight_id, head.time_s, head.pad_len = flight_id, time_s, pad_len
        head.body_len = <uint16_t>min(len(body), 65535)
        fill(&head.cookie[0], cookie, 16, "a cookie")
        cdef int rc = envelope_seal(&self.keys, &dst[0], &head, body, exactly(nonce, ENVELOPE_NONCE_LEN, "a nonce"))
        return PyBytes_FromStringAndSize(<char *>&dst[0], rc) if rc >= 0 else rc

    cdef int read_head(self, envelope_head_t *head, bytes flight) except? -1:
        if len(flight) < ENVELOPE_HEAD_LEN:
            return E_SHORT
        return envelope_open_head(&self.keys, head, flight)

    def open_head(self, bytes flight not None):
        """Return the head as a dict, or a negative status code."""
        cdef envelope_head_t head
        cdef int rc = self.read_head(&head, flight)
        if rc != OK:
            return rc
        return {"kind": head.kind, "frag_idx": head.frag_idx, "frag_n": head.frag_n, "flight_id": head.flight_id,
                "time_s": head.time_s, "body_len": head.body_len, "pad_len": head.pad_len,
                "cookie": PyBytes_FromStringAndSize(<char *>&head.cookie[0], 16)}

    def check(self, bytes flight not None, uint64_t window_s, uint64_t now_s):
        """Return the first code of the checks that a responder on TCP makes of the head: OK or negative."""
        cdef envelope_head_t head
        cdef int rc = self.read_head(&head, flight)
        if rc == OK:
            rc = envelope_check_stream(&head)
        return envelope_check_clock(&head, window_s, now_s) if rc == OK else rc

    def open(self, bytes flight not None):
        """Return the body of a whole flight, or a negative status code. Opens in place, as the session does."""
        cdef envelope_head_t head
        cdef bytearray buffer = bytearray(flight)
        cdef uint8_t *p = <uint8_t *><char *>buffer
        cdef int rc = self.read_head(&head, flight)
        if rc == OK:
            rc = envelope_open_body(&self.keys, p + ENVELOPE_HEAD_LEN, &head, p, len(flight))
        return bytes(buffer[ENVELOPE_HEAD_LEN:ENVELOPE_HEAD_LEN + rc]) if rc >= 0 else rc


def network_keys(bytes secret=None):
    """Return (NX, PSK) of a network secret, or of the open network; for known answers."""
    cdef network_t network
    network_fill(&network, secret)
    made = (PyBytes_FromStringAndSize(<char *>&network.nx[0], 32),
            PyBytes_FromStringAndSize(<char *>&network.psk[0], 32))
    wipe(&network, sizeof(network))
    return made


def prologue(int kind, uint64_t time_s):
    """Return the prologue of a handshake."""
    cdef uint8_t[PROLOGUE_LEN] dst
    prologue_put(&dst[0], <uint8_t>kind, time_s)
    return PyBytes_FromStringAndSize(<char *>&dst[0], PROLOGUE_LEN)


def rekey_prologue(uint64_t generation, bytes h not None, int starter):
    """Return the prologue of a re-keying."""
    cdef uint8_t[REKEY_PROLOGUE_LEN] dst
    prologue_put_rekey(&dst[0], generation, exactly(h, 32, "a handshake hash"), <uint8_t>starter)
    return PyBytes_FromStringAndSize(<char *>&dst[0], REKEY_PROLOGUE_LEN)


def p1_bytes(uint16_t suites, uint16_t kems, uint32_t features, uint16_t min_version, uint16_t max_version,
             bytes random not None):
    """Return P1."""
    cdef p1_t p1
    cdef uint8_t[P1_LEN] dst
    p1.suites, p1.kems, p1.features, p1.min_version, p1.max_version = suites, kems, features, min_version, max_version
    fill(&p1.random[0], random, 12, "P1's randomness")
    p1_put(&dst[0], &p1)
    return PyBytes_FromStringAndSize(<char *>&dst[0], P1_LEN)


def p1_fields(bytes src not None):
    """Return (suites, kems, features, min_version, max_version), or a negative status code."""
    cdef p1_t p1
    cdef int rc = p1_parse(&p1, src, len(src))
    if rc != OK:
        return rc
    return p1.suites, p1.kems, p1.features, p1.min_version, p1.max_version


def p2_bytes(uint16_t suite, uint16_t kem, uint32_t features, bytes cid not None, uint64_t responder_time_s,
             bytes cert not None):
    """Return P2."""
    cdef p2_t p2
    cdef uint8_t[P2_LEN] dst
    p2.suite, p2.kem, p2.features, p2.responder_time_s = suite, kem, features, responder_time_s
    fill(&p2.cid[0], cid, 8, "a cid")
    fill(&p2.cert[0], cert, HANDSHAKE_CERT_LEN, "a certificate")
    p2_put(&dst[0], &p2)
    return PyBytes_FromStringAndSize(<char *>&dst[0], P2_LEN)


def p2_fields(bytes src not None, uint16_t suites, uint16_t kems, uint32_t features):
    """Return (suite, kem, features, cid, responder_time_s, cert) if P1's offer allows it, or a status code."""
    cdef p1_t offer
    cdef p2_t p2
    memset(&offer, 0, sizeof(offer))
    offer.suites, offer.kems, offer.features = suites, kems, features
    cdef int rc = p2_parse(&p2, src, len(src), &offer)
    if rc != OK:
        return rc
    return (p2.suite, p2.kem, p2.features, PyBytes_FromStringAndSize(<char *>&p2.cid[0], 8), p2.responder_time_s,
            PyBytes_FromStringAndSize(<char *>&p2.cert[0], HANDSHAKE_CERT_LEN))


def p3_bytes(bytes cid not None, uint32_t features, bytes to_peer_id not None, bytes cert not None):
    """Return P3."""
    cdef p3_t p3
    cdef uint8_t[P3_LEN] dst
    p3.features = features
    fill(&p3.cid[0], cid, 8, "a cid")
    fill(&p3.to_peer_id[0], to_peer_id, 32, "a PeerID")
    fill(&p3.cert[0], cert, HANDSHAKE_CERT_LEN, "a certificate")
    p3_put(&dst[0], &p3)
    return PyBytes_FromStringAndSize(<char *>&dst[0], P3_LEN)


def p3_fields(bytes src not None, uint32_t features, bytes own_peer_id not None):
    """Return (cid, features, to_peer_id, cert) if it fits P2 and is meant for us, or a negative status code."""
    cdef p2_t answer
    cdef p3_t p3
    memset(&answer, 0, sizeof(answer))
    answer.features = features
    cdef int rc = p3_parse(&p3, src, len(src), &answer, exactly(own_peer_id, 32, "a PeerID"))
    if rc != OK:
        return rc
    return (PyBytes_FromStringAndSize(<char *>&p3.cid[0], 8), p3.features,
            PyBytes_FromStringAndSize(<char *>&p3.to_peer_id[0], 32),
            PyBytes_FromStringAndSize(<char *>&p3.cert[0], HANDSHAKE_CERT_LEN))
