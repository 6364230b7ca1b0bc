# SPDX-License-Identifier: MIT
"""The flights of one handshake (protocol.md 3.3 to 3.5)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .cert cimport cert_build, cert_t, cert_verify
from .crypto cimport ct_equal, mlkem768_secret_t, sha256, suite_select
from .envelope cimport (
    ENVELOPE_HEAD_LEN, ENVELOPE_M3, ENVELOPE_NK1, ENVELOPE_NONCE_LEN, ENVELOPE_REPLY, ENVELOPE_XK1, ENVELOPE_XX1,
    KEM_MLKEM768, P1_LEN, P2_LEN, P3_LEN, PIPE_FLIGHT_LEN, PROLOGUE_LEN, WIRE_VERSION, envelope_check_clock,
    envelope_check_echo, envelope_check_stream, envelope_head_t, envelope_keys_known, envelope_keys_open,
    envelope_keys_reply, envelope_len, envelope_nonce_printable, envelope_open_body, envelope_open_head,
    envelope_pad_draw, envelope_pad_pipe, envelope_seal, p1_parse, p1_put, p1_t, p2_parse, p2_put, p2_t, p3_parse,
    p3_put, p3_t, prologue_put)
from .keyfile cimport link_key_t, ring_t
from .noise cimport (
    NOISE_INITIATOR, NOISE_NK, NOISE_RESPONDER, NOISE_XK, NOISE_XX, noise_init, noise_message_len, noise_pattern_wire,
    noise_read, noise_remote_static, noise_set_kem, noise_set_psk, noise_set_remote_static, noise_set_static,
    noise_split, noise_wipe, noise_write)
from .secret cimport secret_give, secret_take
from .status cimport E_IDENTITY, E_KIND, E_LENGTH, E_MEMORY, E_STATE, E_TAG, NEED_ADMIT, NEED_MORE, OK

cdef enum:
    TIME_STEP_S = 30        # the source of a circuit rounds its time to this: its clock offset would link its circuits


cdef void local_fill(local_t *local, const ring_t *ring, uint64_t unix_s, uint64_t cert_end_s) noexcept nogil:
    """The newest link key comes first."""
    cdef const link_key_t *link
    cdef local_key_t *key
    cdef uint32_t n, k
    memcpy(local.peer_id, ring.peer_id, 32)
    local.n_keys = 0
    for k in range(<uint32_t>ring.n_link):
        link = &ring.link[ring.n_link - 1 - k]
        if local.n_keys == LOCAL_KEYS_MAX or link.not_after <= unix_s:
            continue
        key = &local.keys[local.n_keys]
        memcpy(key.secret, link.secret, 32)
        memcpy(key.public_key, link.public_key, 32)
        cert_build(key.cert, ring.seed, link.public_key, min(link.not_after, cert_end_s))
        for n in range(local.n_networks):
            envelope_keys_known(&key.env[n], &local.networks[n], link.public_key)
        local.n_keys += 1
    for n in range(local.n_networks):
        envelope_keys_open(&local.env_open[n], &local.networks[n])


cdef int party_init(party_t *party) noexcept nogil:
    cdef int i, rc
    for i in range(4):
        rc = noise_pattern_wire(&party.patterns[i], i)
        if rc < 0:
            return rc
    return OK


cdef inline int pattern_of(int kind) noexcept nogil:
    return NOISE_XK if kind == HANDSHAKE_XK else NOISE_XX if kind == HANDSHAKE_XX else NOISE_NK


cdef int prepare(handshake_t *hs, party_t *party, int role, int is_pipe) noexcept nogil:
    memset(hs, 0, sizeof(handshake_t))
    hs.party = party
    hs.local = party.local
    hs.role = <uint8_t>role
    hs.is_pipe = <uint8_t>is_pipe
    hs.in_need = ENVELOPE_HEAD_LEN
    hs.secret = <handshake_secret_t *>secret_take(party.secrets)
    party.random(party.random_ctx, hs.cid_own, 8)
    return OK if hs.secret is not NULL else E_MEMORY


cdef int begin_noise(handshake_t *hs, const uint8_t *remote_key) noexcept nogil:
    """Noise with everything that both sides know beforehand; the envelope's kind and time are bound into it."""
    cdef const local_key_t *key = &hs.local.keys[hs.key_idx]
    cdef uint8_t[PROLOGUE_LEN] prologue
    cdef int rc
    prologue_put(prologue, hs.kind, hs.first.time_s)
    memcpy(hs.cert, key.cert, 108)
    rc = noise_init(&hs.noise, &hs.secret.noise, &hs.party.patterns[pattern_of(hs.kind)],
                    NOISE_INITIATOR if hs.role == 0 else NOISE_RESPONDER, prologue, PROLOGUE_LEN)
    if rc >= 0 and (hs.role == 1 or hs.kind != HANDSHAKE_NK):
        rc = noise_set_static(&hs.noise, key.secret, key.public_key)
    if rc >= 0 and remote_key is not NULL:
        rc = noise_set_remote_static(&hs.noise, remote_key)
    if rc >= 0:
        noise_set_kem(&hs.noise, hs.kem)
        rc = noise_set_psk(&hs.noise, hs.local.networks[hs.network_idx].psk)
    return rc


cdef int handshake_connect(handshake_t *hs, party_t *party, const local_t *local, int kind, int is_pipe,
                           const uint8_t *link_key, const uint8_t *peer_id, uint64_t unix_s) noexcept nogil:
    cdef int rc = prepare(hs, party, 0, is_pipe)
    hs.kem = <mlkem768_secret_t *>secret_take(party.secrets)
    if rc < 0 or hs.kem is NULL:
        return E_MEMORY
    if local is not NULL:
        hs.local = local
    hs.kind = <uint8_t>kind
    hs.stage = STAGE_WRITE_M1
    if peer_id is not NULL:
        hs.has_peer_id = 1
        memcpy(hs.peer_id, peer_id, 32)
    if link_key is not NULL:
        memcpy(hs.peer_link_key, link_key, 32)
        rc = envelope_keys_known(&hs.secret.env, &hs.local.networks[0], link_key)
    else:
        rc = envelope_keys_open(&hs.secret.env, &hs.local.networks[0])
    party.random(party.random_ctx, <uint8_t *>&hs.first.flight_id, 4)
    hs.first.kind = <uint8_t>kind
    hs.first.frag_n = 1
    hs.first.time_s = unix_s - unix_s % TIME_STEP_S if is_pipe else unix_s
    return rc if rc < 0 else begin_noise(hs, link_key)


cdef int handshake_listen(handshake_t *hs, party_t *party, int kinds, int is_pipe) noexcept nogil:
    cdef int rc = prepare(hs, party, 1, is_pipe)
    hs.kinds = <uint8_t>kinds
    hs.stage = STAGE_READ_M1
    return rc


cdef void handshake_clear(handshake_t *hs) noexcept nogil:
    if hs.secret is not NULL:
        noise_wipe(&hs.noise)
        secret_give(hs.party.secrets, hs.secret)
        hs.secret = NULL
    if hs.kem is not NULL:
        secret_give(hs.party.secrets, hs.kem)
        hs.kem = NULL
    hs.stage = STAGE_FAILED


# Writing

cdef int seal_flight(handshake_t *hs, uint8_t *dst, int kind, int body_len) noexcept nogil:
    """Put the envelope around the Noise message that lies behind its head."""
    cdef envelope_head_t head = hs.first
    cdef uint8_t[ENVELOPE_NONCE_LEN] nonce
    head.kind = <uint8_t>kind
    head.body_len = <uint16_t>body_len
    if hs.is_pipe:
        head.pad_len = <uint16_t>envelope_pad_pipe(body_len)
    else:
        head.pad_len = envelope_pad_draw(hs.party.random, hs.party.random_ctx)
    hs.party.random(hs.party.random_ctx, nonce, ENVELOPE_NONCE_LEN)
    if hs.stage == STAGE_WRITE_M1 and not hs.is_pipe and hs.party.first_bytes == FIRST_BYTES_PRINTABLE6:
        envelope_nonce_printable(nonce, hs.party.random, hs.party.random_ctx)
    return envelope_seal(&hs.secret.env_reply if kind == ENVELOPE_REPLY else &hs.secret.env, dst, &head,
                         dst + ENVELOPE_HEAD_LEN, nonce)


cdef int write_noise(handshake_t *hs, uint8_t *dst, const uint8_t *payload, size_t len) noexcept nogil:
    return noise_write(&hs.noise, dst + ENVELOPE_HEAD_LEN, 1400, payload, len, hs.party.random, hs.party.random_ctx)


cdef int write_m1(handshake_t *hs, uint8_t *dst) noexcept nogil:
    cdef p1_t p1
    cdef uint8_t[P1_LEN] payload
    cdef int n
    memset(&p1, 0, sizeof(p1))
    p1.suites = hs.local.suites
    p1.kems = KEM_MLKEM768
    p1.min_version = WIRE_VERSION
    p1.max_version = WIRE_VERSION
    hs.party.random(hs.party.random_ctx, p1.random, 12)
    hs.offered = p1.suites
    n = write_noise(hs, dst, payload, p1_put(payload, &p1))
    if n < 0:
        return n
    sha256(hs.m1_hash, dst + ENVELOPE_HEAD_LEN, n)
    envelope_keys_reply(&hs.secret.env_reply, &hs.secret.env, hs.m1_hash)
    n = seal_flight(hs, dst, hs.kind, n)
    hs.stage = STAGE_READ_M2
    return n


cdef int write_m2(handshake_t *hs, uint8_t *dst, uint64_t unix_s) noexcept nogil:
    cdef p2_t p2
    cdef uint8_t[P2_LEN] payload
    cdef int n
    memset(&p2, 0, sizeof(p2))
    p2.suite = hs.suite
    p2.kem = KEM_MLKEM768
    p2.responder_time_s = unix_s
    memcpy(p2.cid, hs.cid_own, 8)
    memcpy(p2.cert, hs.cert, 108)
    n = write_noise(hs, dst, payload, p2_put(payload, &p2))
    if n < 0:
        return n
    hs.stage = STAGE_DONE if hs.kind == HANDSHAKE_NK else STAGE_READ_M3
    return seal_flight(hs, dst, ENVELOPE_REPLY, n)


cdef int write_m3(handshake_t *hs, uint8_t *dst) noexcept nogil:
    cdef p3_t p3
    cdef uint8_t[P3_LEN] payload
    cdef int n
    memset(&p3, 0, sizeof(p3))
    memcpy(p3.cid, hs.cid_own, 8)
    memcpy(p3.to_peer_id, hs.peer_id, 32)
    memcpy(p3.cert, hs.cert, 108)
    n = write_noise(hs, dst, payload, p3_put(payload, &p3))
    if n < 0:
        return n
    hs.stage = STAGE_DONE
    return seal_flight(hs, dst, ENVELOPE_M3, n)


cdef int handshake_flight(handshake_t *hs, uint8_t *dst, uint64_t unix_s) noexcept nogil:
    cdef int n = 0
    if hs.stage == STAGE_WRITE_M1:
        n = write_m1(hs, dst)
    elif hs.stage == STAGE_WRITE_M2:
        n = write_m2(hs, dst, unix_s)
    elif hs.stage == STAGE_WRITE_M3:
        n = write_m3(hs, dst)
    if n < 0:
        hs.stage = STAGE_FAILED
    return n


# Reading

cdef int open_first_head(handshake_t *hs, envelope_head_t *head) noexcept nogil:
    """Try the keys that this node listens with. The key that opens the head must be of the kind that the head names."""
    cdef const local_t *local = hs.local
    cdef uint32_t k, n
    cdef int rc
    for n in range(local.n_networks):
        for k in range(local.n_keys):
            rc = envelope_open_head(&local.keys[k].env[n], head, hs.in_buf)
            if rc == E_TAG:
                continue
            memcpy(&hs.secret.env, &local.keys[k].env[n], sizeof(hs.secret.env))
            hs.key_idx = <uint8_t>k
            hs.network_idx = <uint8_t>n
            if rc >= 0 and head.kind != ENVELOPE_XK1 and head.kind != ENVELOPE_NK1:
                return E_KIND
            return rc
        if hs.kinds & (1 << HANDSHAKE_XX):
            rc = envelope_open_head(&local.env_open[n], head, hs.in_buf)
            if rc != E_TAG:
                memcpy(&hs.secret.env, &local.env_open[n], sizeof(hs.secret.env))
                hs.network_idx = <uint8_t>n
                return E_KIND if rc >= 0 and head.kind != ENVELOPE_XX1 else rc
    return E_TAG


cdef int read_head(handshake_t *hs, uint64_t unix_s) noexcept nogil:
    cdef envelope_head_t head
    cdef int rc
    if hs.stage == STAGE_READ_M1:
        rc = open_first_head(hs, &head)
        if rc >= 0 and not (hs.kinds & (1 << head.kind)):
            rc = E_KIND
        if rc >= 0:
            rc = envelope_check_clock(&head, hs.local.clock_window_s, unix_s)
        hs.first = head
        hs.kind = head.kind
    else:
        rc = envelope_open_head(&hs.secret.env_reply if hs.stage == STAGE_READ_M2 else &hs.secret.env, &head, hs.in_buf)
        if rc >= 0 and head.kind != (ENVELOPE_REPLY if hs.stage == STAGE_READ_M2 else ENVELOPE_M3):
            rc = E_KIND
        if rc >= 0:
            rc = envelope_check_echo(&head, &hs.first)
    if rc >= 0:
        rc = envelope_check_stream(&head)
    if rc < 0:
        return rc
    if hs.is_pipe and envelope_len(&head) != PIPE_FLIGHT_LEN:
        return E_LENGTH
    hs.head = head
    hs.in_need = <uint32_t>envelope_len(&head)
    return OK


cdef int read_noise(handshake_t *hs, uint8_t *payload, int payload_len) noexcept nogil:
    """Noise message of the collected flight; its payload must have exactly the length of its kind."""
    cdef int n
    if hs.head.body_len != noise_message_len(&hs.noise, payload_len):
        return E_LENGTH
    n = noise_read(&hs.noise, payload, payload_len, hs.in_buf + ENVELOPE_HEAD_LEN, hs.head.body_len)
    return n if n < 0 else OK if n == payload_len else E_LENGTH


cdef int read_m1(handshake_t *hs) noexcept nogil:
    cdef uint8_t[P1_LEN] payload
    cdef p1_t p1
    cdef int rc = begin_noise(hs, NULL)
    if rc >= 0:
        rc = read_noise(hs, payload, P1_LEN)
    if rc >= 0:
        rc = p1_parse(&p1, payload, P1_LEN)
    if rc < 0:
        return rc
    rc = suite_select(p1.suites, hs.local.suites)
    if rc < 0:
        return rc
    hs.suite = <uint16_t>rc
    envelope_keys_reply(&hs.secret.env_reply, &hs.secret.env, hs.m1_hash)
    hs.stage = STAGE_WRITE_M2
    return OK


cdef int check_peer(handshake_t *hs, const uint8_t *cert, uint64_t unix_s) noexcept nogil:
    """The certificate must cover the key that did the DH, and name the peer that was meant where one was."""
    cdef const uint8_t *link_key = noise_remote_static(&hs.noise)
    cdef cert_t proven
    cdef int rc
    if link_key is NULL:
        return E_STATE
    rc = cert_verify(&proven, cert, link_key, hs.party.certs, unix_s)
    if rc < 0:
        return rc
    if hs.has_peer_id and not ct_equal(proven.peer_id, hs.peer_id, 32):
        return E_IDENTITY
    memcpy(hs.peer_id, proven.peer_id, 32)
    memcpy(hs.peer_link_key, link_key, 32)
    memcpy(hs.peer_cert, cert, 108)
    return OK


cdef int read_m2(handshake_t *hs, uint64_t unix_s) noexcept nogil:
    cdef uint8_t[P2_LEN] payload
    cdef p1_t offer
    cdef p2_t p2
    cdef int rc = read_noise(hs, payload, P2_LEN)
    memset(&offer, 0, sizeof(offer))
    offer.suites = hs.offered
    offer.kems = KEM_MLKEM768
    if rc >= 0:
        rc = p2_parse(&p2, payload, P2_LEN, &offer)
    if rc >= 0:
        rc = check_peer(hs, p2.cert, unix_s)
    if rc < 0:
        return rc
    hs.suite = p2.suite
    hs.responder_time_s = p2.responder_time_s
    hs.stage = STAGE_DONE if hs.kind == HANDSHAKE_NK else STAGE_WRITE_M3
    return OK


cdef int read_m3(handshake_t *hs, uint64_t unix_s) noexcept nogil:
    cdef uint8_t[P3_LEN] payload
    cdef p2_t answer
    cdef p3_t p3
    cdef int rc = read_noise(hs, payload, P3_LEN)
    memset(&answer, 0, sizeof(answer))
    if rc >= 0:
        rc = p3_parse(&p3, payload, P3_LEN, &answer, hs.local.peer_id)
    if rc >= 0:
        rc = check_peer(hs, p3.cert, unix_s)
    if rc < 0:
        return rc
    hs.stage = STAGE_ADMIT_M3
    return NEED_ADMIT


cdef int read_flight(handshake_t *hs, uint64_t unix_s) noexcept nogil:
    cdef int rc = envelope_open_body(&hs.secret.env_reply if hs.stage == STAGE_READ_M2 else &hs.secret.env,
                                     hs.in_buf + ENVELOPE_HEAD_LEN, &hs.head, hs.in_buf, hs.in_len)
    if rc < 0:
        return rc
    if hs.stage == STAGE_READ_M1:
        sha256(hs.m1_hash, hs.in_buf + ENVELOPE_HEAD_LEN, hs.head.body_len)
        hs.stage = STAGE_ADMIT_M1
        return NEED_ADMIT
    hs.in_need = ENVELOPE_HEAD_LEN
    hs.in_len = 0
    return read_m2(hs, unix_s) if hs.stage == STAGE_READ_M2 else read_m3(hs, unix_s)


cdef inline bint is_reading(const handshake_t *hs) noexcept nogil:
    return hs.stage == STAGE_READ_M1 or hs.stage == STAGE_READ_M2 or hs.stage == STAGE_READ_M3


cdef int handshake_feed(handshake_t *hs, const uint8_t *src, size_t len, size_t *used, uint64_t unix_s) noexcept nogil:
    cdef size_t n
    cdef int rc = NEED_MORE
    used[0] = 0
    if not is_reading(hs):
        rc = E_STATE                        # nothing may come while a flight of ours is due
    while rc == NEED_MORE and used[0] < len:
        n = min(len - used[0], <size_t>(hs.in_need - hs.in_len))
        memcpy(hs.in_buf + hs.in_len, src + used[0], n)
        hs.in_len += <uint32_t>n
        used[0] += n
        if hs.in_len < hs.in_need:
            break
        if hs.in_need == ENVELOPE_HEAD_LEN:
            rc = read_head(hs, unix_s)
            if rc >= 0:
                rc = NEED_MORE
        else:
            rc = read_flight(hs, unix_s)
    if rc < 0 and rc != NEED_MORE and rc != NEED_ADMIT:
        hs.stage = STAGE_FAILED
    return rc


cdef int handshake_admit(handshake_t *hs) noexcept nogil:
    cdef int rc = OK
    if hs.stage == STAGE_ADMIT_M1:
        rc = read_m1(hs)
        hs.in_need = ENVELOPE_HEAD_LEN
        hs.in_len = 0
    elif hs.stage == STAGE_ADMIT_M3:
        hs.stage = STAGE_DONE
    else:
        rc = E_STATE
    if rc < 0:
        hs.stage = STAGE_FAILED
    return rc


cdef int handshake_keys(handshake_t *hs, uint8_t *k1, uint8_t *k2, uint8_t *h32) noexcept nogil:
    if hs.stage != STAGE_DONE:
        return E_STATE
    return noise_split(&hs.noise, k1, k2, h32)
