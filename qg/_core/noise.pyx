# SPDX-License-Identifier: MIT
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
"""Noise handshakes: patterns as data, one routine that writes a message, one that reads one."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcmp, memcpy, memset, strlen

from .crypto cimport (
    MLKEM768_CIPHERTEXT_LEN, MLKEM768_PUBLIC_LEN, MLKEM768_SEED_LEN, SUITE_AES_256_GCM, SUITE_CHACHA20_POLY1305,
    aead_init, aead_key_t, aead_open, aead_seal, crypto_random, crypto_suites, hkdf_expand, hkdf_extract,
    mlkem768_decaps, mlkem768_encaps, mlkem768_keypair, mlkem768_secret_t, random_fn, sha256, sha256_pair, wipe,
    x25519_dh, x25519_public)
from .status cimport E_ARGUMENT, E_FORK, E_LONG, E_SHORT, E_STATE, E_SUITE, OK
from .sys cimport is_zero, store_be64

cdef extern from *:
    """
    /* Noise sections 7.4, 7.5 and 18.1: name, pre-messages (i: -> s, r: <- s), message patterns. */
    static const char *const qg_noise_patterns[][3] = {
        {"N", "r", "e es"}, {"K", "ir", "e es ss"}, {"X", "r", "e es s ss"},
        {"NN", "", "e|e ee"}, {"NK", "r", "e es|e ee"}, {"NX", "", "e|e ee s es"},
        {"KN", "i", "e|e ee se"}, {"KK", "ir", "e es ss|e ee se"}, {"KX", "i", "e|e ee se s es"},
        {"XN", "", "e|e ee|s se"}, {"XK", "r", "e es|e ee|s se"}, {"XX", "", "e|e ee s es|s se"},
        {"IN", "", "e s|e ee se"}, {"IK", "r", "e es s ss|e ee se"}, {"IX", "", "e s|e ee se s es"},
        {"NK1", "r", "e|e ee es"}, {"NX1", "", "e|e ee s|es"},
        {"X1N", "", "e|e ee|s|se"}, {"X1K", "r", "e es|e ee|s|se"}, {"XK1", "r", "e|e ee es|s se"},
        {"X1K1", "r", "e|e ee es|s|se"}, {"X1X", "", "e|e ee s es|s|se"}, {"XX1", "", "e|e ee s|es s se"},
        {"X1X1", "", "e|e ee s|es s|se"},
        {"K1N", "i", "e|e ee|se"}, {"K1K", "ir", "e es|e ee|se"}, {"KK1", "ir", "e|e ee se es"},
        {"K1K1", "ir", "e|e ee es|se"}, {"K1X", "i", "e|e ee s es|se"}, {"KX1", "i", "e|e ee se s|es"},
        {"K1X1", "i", "e|e ee s|se es"},
        {"I1N", "", "e s|e ee|se"}, {"I1K", "r", "e es s|e ee|se"}, {"IK1", "r", "e s|e ee se es"},
        {"I1K1", "r", "e s|e ee es|se"}, {"I1X", "", "e s|e ee s es|se"}, {"IX1", "", "e s|e ee se s|es"},
        {"I1X1", "", "e s|e ee s|se es"},
        {0, 0, 0}};
    static const char *const qg_noise_wire[4] = {
        "Noise_XKhfs+psk3_25519+MLKEM768_ChaChaPoly_SHA256", "Noise_XXhfs+psk3_25519+MLKEM768_ChaChaPoly_SHA256",
        "Noise_NKhfs+psk2_25519+MLKEM768_ChaChaPoly_SHA256", "Noise_NNhfs+psk0_25519+MLKEM768_ChaChaPoly_SHA256"};
    """
    const char *qg_noise_patterns[1][3]
    const char *qg_noise_wire[4]

cdef enum token_t:
    TOKEN_NONE = 0
    TOKEN_E = 1
    TOKEN_S = 2
    TOKEN_EE = 3
    TOKEN_ES = 4
    TOKEN_SE = 5
    TOKEN_SS = 6
    TOKEN_PSK = 7
    TOKEN_E1 = 8
    TOKEN_EKEM1 = 9

cdef enum:
    N_WIRE = 4
    DH_LEN = 32

cdef uint64_t SECRET_MARK = 0x6e6f697365
cdef uint64_t NONCE_MAX = 0xffffffffffffffff     # reserved for rekey, never a message's


# Patterns

ctypedef struct text_t:         # a cursor over a protocol name
    const char *at
    const char *end


cdef bint text_take(text_t *text, const char *word) noexcept nogil:
    cdef size_t n = strlen(word)
    if <size_t>(text.end - text.at) < n or memcmp(text.at, word, n) != 0:
        return False
    text.at += n
    return True


cdef int token_insert(noise_pattern_t *pattern, int message, int at, uint8_t token) noexcept nogil:
    cdef uint8_t *tokens = &pattern.tokens[message][0]
    cdef int i
    if tokens[NOISE_TOKENS - 2] != TOKEN_NONE:
        return E_ARGUMENT
    for i in range(NOISE_TOKENS - 2, at, -1):
        tokens[i] = tokens[i - 1]
    tokens[at] = token
    return OK


cdef int token_count(const noise_pattern_t *pattern, int message) noexcept nogil:
    cdef int n = 0
    while pattern.tokens[message][n] != TOKEN_NONE:
        n += 1
    return n


cdef uint8_t token_named(const char *at, size_t n) noexcept nogil:
    if n == 1:
        return TOKEN_E if at[0] == c'e' else TOKEN_S
    if at[0] == c'e':
        return TOKEN_EE if at[1] == c'e' else TOKEN_ES
    return TOKEN_SE if at[1] == c'e' else TOKEN_SS


cdef void base_fill(noise_pattern_t *pattern, const char *pre, const char *messages) noexcept nogil:
    """Turn a row of the table into tokens."""
    cdef const char *at = messages
    cdef size_t n
    cdef int message = 0, i = 0
    while pre[0] != 0:
        pattern.pre_static[0 if pre[0] == c'i' else 1] = True
        pre += 1
    while at[0] != 0:
        if at[0] == c'|':
            message += 1
            i = 0
        if at[0] == c'|' or at[0] == c' ':
            at += 1
            continue
        n = 1 if at[1] == 0 or at[1] == c' ' or at[1] == c'|' else 2
        pattern.tokens[message][i] = token_named(at, n)
        if pattern.tokens[message][i] == TOKEN_S:
            pattern.needs_static[message & 1] = True
        at += n
        i += 1
    pattern.n_messages = <uint8_t>(message + 1)
    for i in range(2):
        pattern.needs_static[i] = pattern.needs_static[i] or pattern.pre_static[i]


cdef int base_take(noise_pattern_t *pattern, text_t *text) noexcept nogil:
    """Read the pattern's name: capital letters and ones, up to a modifier or the next section."""
    cdef const char *start = text.at
    cdef size_t n
    cdef int row = 0
    while text.at < text.end and (c'A' <= text.at[0] <= c'Z' or text.at[0] == c'1'):
        text.at += 1
    n = text.at - start
    while qg_noise_patterns[row][0] is not NULL:
        if strlen(qg_noise_patterns[row][0]) == n and memcmp(qg_noise_patterns[row][0], start, n) == 0:
            base_fill(pattern, qg_noise_patterns[row][1], qg_noise_patterns[row][2])
            pattern.is_one_way = n == 1
            return OK
        row += 1
    return E_ARGUMENT


cdef int hfs_apply(noise_pattern_t *pattern) noexcept nogil:
    """Insert e1 behind the first e, or behind a DH that follows it in that message, and ekem1 behind the first ee."""
    cdef int message, i
    if pattern.is_one_way:
        return E_ARGUMENT
    i = 1
    if TOKEN_EE <= pattern.tokens[0][1] <= TOKEN_SS:
        i = 2
    if token_insert(pattern, 0, i, TOKEN_E1) != OK:
        return E_ARGUMENT
    for message in range(pattern.n_messages):
        for i in range(token_count(pattern, message)):
            if pattern.tokens[message][i] == TOKEN_EE:
                return token_insert(pattern, message, i + 1, TOKEN_EKEM1)
    return E_ARGUMENT


cdef int psk_apply(noise_pattern_t *pattern, int position) noexcept nogil:
    """Insert psk at the start of the first message (0) or at the end of message `position`."""
    if position > pattern.n_messages:
        return E_ARGUMENT
    pattern.n_psks += 1
    if position == 0:
        return token_insert(pattern, 0, 0, TOKEN_PSK)
    return token_insert(pattern, position - 1, token_count(pattern, position - 1), TOKEN_PSK)


cdef int modifiers_take(noise_pattern_t *pattern, text_t *text, bint *has_kem) noexcept nogil:
    """Read modifiers, which stand in alphabetical order without repeats."""
    cdef int position = 0, next_position = 0
    has_kem[0] = False
    if text_take(text, "_"):
        return OK
    if text_take(text, "hfs"):
        has_kem[0] = True
        if hfs_apply(pattern) != OK:
            return E_ARGUMENT
        if text_take(text, "_"):
            return OK
        if not text_take(text, "+"):
            return E_ARGUMENT
    while text_take(text, "psk") and text.at < text.end:
        position = text.at[0] - c'0'
        text.at += 1
        if not next_position <= position < NOISE_PSKS or psk_apply(pattern, position) != OK:
            return E_ARGUMENT
        next_position = position + 1
        if text_take(text, "_"):
            return OK
        if not text_take(text, "+"):
            return E_ARGUMENT
    return E_ARGUMENT


cdef int noise_pattern_parse(noise_pattern_t *pattern, const char *name, size_t name_len) noexcept nogil:
    cdef text_t text
    cdef bint has_kem
    text.at = name
    text.end = name + name_len
    memset(pattern, 0, sizeof(noise_pattern_t))
    if not text_take(&text, "Noise_") or base_take(pattern, &text) != OK:
        return E_ARGUMENT
    if modifiers_take(pattern, &text, &has_kem) != OK or not text_take(&text, "25519"):
        return E_ARGUMENT
    if has_kem and not text_take(&text, "+MLKEM768"):
        return E_ARGUMENT
    if text_take(&text, "_ChaChaPoly_SHA256"):
        pattern.suite = SUITE_CHACHA20_POLY1305
    elif text_take(&text, "_AESGCM_SHA256"):
        pattern.suite = SUITE_AES_256_GCM
    else:
        return E_ARGUMENT
    if text.at != text.end:
        return E_ARGUMENT
    if name_len <= sizeof(pattern.name_hash):
        memcpy(&pattern.name_hash[0], name, name_len)
        return OK
    return sha256(&pattern.name_hash[0], <const uint8_t *>name, name_len)


cdef int noise_pattern_wire(noise_pattern_t *pattern, int wire) noexcept nogil:
    if not 0 <= wire < N_WIRE:
        return E_ARGUMENT
    return noise_pattern_parse(pattern, qg_noise_wire[wire], strlen(qg_noise_wire[wire]))


# The symmetric state: Noise section 5.2

cdef void nonce_fill(uint8_t *nonce12, uint16_t suite, uint64_t n) noexcept nogil:
    """Noise section 12: ChaChaPoly counts little-endian, AESGCM big-endian."""
    cdef int i
    memset(nonce12, 0, 4)
    if suite == SUITE_AES_256_GCM:
        store_be64(nonce12 + 4, n)
        return
    for i in range(8):
        nonce12[4 + i] = <uint8_t>(n >> (8 * i))


cdef void mix_hash(noise_t *hs, const uint8_t *src, size_t src_len) noexcept nogil:
    sha256_pair(&hs.h[0], &hs.h[0], 32, src, src_len)


cdef void noise_hkdf(uint8_t *dst, size_t dst_len, const uint8_t *ck, const uint8_t *ikm,
                     size_t ikm_len) noexcept nogil:
    """HKDF of Noise section 4.3, which is RFC 5869 with empty info."""
    cdef uint8_t[32] prk
    hkdf_extract(&prk[0], ck, 32, ikm, ikm_len)
    hkdf_expand(dst, dst_len, &prk[0], ck, 0)
    wipe(&prk[0], sizeof(prk))


cdef void mix_key(noise_t *hs, const uint8_t *ikm, size_t ikm_len) noexcept nogil:
    cdef uint8_t[64] out
    noise_hkdf(&out[0], sizeof(out), &hs.secret.ck[0], ikm, ikm_len)
    memcpy(&hs.secret.ck[0], &out[0], 32)
    memcpy(&hs.secret.k[0], &out[32], 32)
    hs.nonce = 0
    hs.has_key = True
    wipe(&out[0], sizeof(out))


cdef void mix_psk(noise_t *hs) noexcept nogil:
    """MixKeyAndHash of the next psk."""
    cdef uint8_t[96] out
    noise_hkdf(&out[0], sizeof(out), &hs.secret.ck[0], &hs.secret.psk[hs.psk_idx][0], 32)
    hs.psk_idx += 1
    memcpy(&hs.secret.ck[0], &out[0], 32)
    mix_hash(hs, &out[32], 32)
    memcpy(&hs.secret.k[0], &out[64], 32)
    hs.nonce = 0
    hs.has_key = True
    wipe(&out[0], sizeof(out))


cdef int encrypt_and_hash(noise_t *hs, uint8_t *dst, const uint8_t *src, size_t src_len) noexcept nogil:
    cdef aead_key_t key
    cdef uint8_t[12] nonce
    cdef int rc = <int>src_len
    if hs.has_key:
        nonce_fill(&nonce[0], hs.pattern.suite, hs.nonce)
        rc = aead_init(&key, hs.pattern.suite, &hs.secret.k[0])
        if rc == OK:
            rc = aead_seal(&key, dst, src, src_len, &hs.h[0], 32, &nonce[0])
        wipe(&key, sizeof(key))
        hs.nonce += 1
    elif src_len:
        memcpy(dst, src, src_len)
    if rc >= 0:
        mix_hash(hs, dst, rc)
    return rc


cdef int decrypt_and_hash(noise_t *hs, uint8_t *dst, const uint8_t *src, size_t src_len) noexcept nogil:
    cdef aead_key_t key
    cdef uint8_t[12] nonce
    cdef int rc = <int>src_len
    if hs.has_key:
        nonce_fill(&nonce[0], hs.pattern.suite, hs.nonce)
        rc = aead_init(&key, hs.pattern.suite, &hs.secret.k[0])
        if rc == OK:
            rc = aead_open(&key, dst, src, src_len, &hs.h[0], 32, &nonce[0])
        wipe(&key, sizeof(key))
        hs.nonce += 1
    elif src_len:
        memcpy(dst, src, src_len)
    if rc >= 0:
        mix_hash(hs, src, src_len)
    return rc


# The handshake state: Noise section 5.3

cdef int noise_init(noise_t *hs, noise_secret_t *secret, const noise_pattern_t *pattern, int role,
                    const uint8_t *prologue, size_t prologue_len) noexcept nogil:
    memset(hs, 0, sizeof(noise_t))
    memset(secret, 0, sizeof(noise_secret_t))
    hs.pattern = pattern
    hs.secret = secret
    hs.role = <uint8_t>role
    hs.state = NOISE_ENDED
    if pattern.n_messages == 0 or not NOISE_INITIATOR <= role <= NOISE_RESPONDER:
        return E_ARGUMENT
    if not (pattern.suite & crypto_suites()):
        return E_SUITE
    hs.state = NOISE_FRESH
    secret.mark = SECRET_MARK
    memcpy(&hs.h[0], &pattern.name_hash[0], 32)
    memcpy(&secret.ck[0], &pattern.name_hash[0], 32)
    mix_hash(hs, prologue, prologue_len)
    return OK


cdef int noise_set_static(noise_t *hs, const uint8_t *secret32, const uint8_t *public32) noexcept nogil:
    if hs.state != NOISE_FRESH or not hs.pattern.needs_static[hs.role]:
        return E_ARGUMENT
    memcpy(&hs.secret.static_secret[0], secret32, 32)
    memcpy(&hs.static_public[0], public32, 32)
    hs.has_static = True
    return OK


cdef int noise_set_remote_static(noise_t *hs, const uint8_t *public32) noexcept nogil:
    if hs.state != NOISE_FRESH or not hs.pattern.pre_static[1 - hs.role]:
        return E_ARGUMENT
    memcpy(&hs.remote_static[0], public32, 32)
    hs.has_remote_static = True
    return OK


cdef int noise_set_psk(noise_t *hs, const uint8_t *psk32) noexcept nogil:
    if hs.state != NOISE_FRESH or hs.n_psks >= hs.pattern.n_psks:
        return E_ARGUMENT
    memcpy(&hs.secret.psk[hs.n_psks][0], psk32, 32)
    hs.n_psks += 1
    return OK


cdef void noise_set_kem(noise_t *hs, mlkem768_secret_t *kem) noexcept nogil:
    hs.secret.kem = kem


cdef int noise_message_len(const noise_t *hs, size_t payload_len) noexcept nogil:
    cdef const uint8_t *token
    cdef size_t n = payload_len
    cdef size_t tag_len = NOISE_TAG_LEN if hs.has_key else 0
    if hs.state > NOISE_RUNNING:
        return E_STATE
    if payload_len > NOISE_MESSAGE_MAX:
        return E_LONG
    token = &hs.pattern.tokens[hs.message_idx][0]
    while token[0] != TOKEN_NONE:
        if token[0] == TOKEN_E:
            n += DH_LEN
            if hs.pattern.n_psks:
                tag_len = NOISE_TAG_LEN
        elif token[0] == TOKEN_S:
            n += DH_LEN + tag_len
        elif token[0] == TOKEN_E1:
            n += MLKEM768_PUBLIC_LEN + tag_len
        elif token[0] == TOKEN_EKEM1:
            n += MLKEM768_CIPHERTEXT_LEN + tag_len
            tag_len = NOISE_TAG_LEN
        else:
            tag_len = NOISE_TAG_LEN
        token += 1
    n += tag_len
    return <int>n if n <= NOISE_MESSAGE_MAX else E_LONG


cdef int noise_begin(noise_t *hs, bint is_writer) noexcept nogil:
    """Check whose turn it is and, before the first message, that all keys are there; mix the pre-messages."""
    cdef const noise_pattern_t *pattern = hs.pattern
    cdef int role
    if hs.state > NOISE_RUNNING or ((hs.message_idx & 1) == hs.role) != is_writer:
        return E_STATE
    if hs.secret.mark != SECRET_MARK:
        return E_FORK
    if hs.state == NOISE_RUNNING:
        return OK
    if hs.n_psks != pattern.n_psks or (pattern.needs_static[hs.role] and not hs.has_static):
        return E_ARGUMENT
    if pattern.pre_static[1 - hs.role] and not hs.has_remote_static:
        return E_ARGUMENT
    for role in range(2):
        if pattern.pre_static[role]:
            mix_hash(hs, &hs.static_public[0] if role == hs.role else &hs.remote_static[0], DH_LEN)
    hs.state = NOISE_RUNNING
    return OK


cdef int mix_dh(noise_t *hs, uint8_t token) noexcept nogil:
    """ee, es, se or ss. The first letter names the initiator's key, the second the responder's."""
    cdef bint uses_static, meets_static
    cdef uint8_t[32] shared
    cdef int rc
    if hs.role == NOISE_INITIATOR:
        uses_static = token == TOKEN_SE or token == TOKEN_SS
        meets_static = token == TOKEN_ES or token == TOKEN_SS
    else:
        uses_static = token == TOKEN_ES or token == TOKEN_SS
        meets_static = token == TOKEN_SE or token == TOKEN_SS
    rc = x25519_dh(&shared[0], &hs.secret.static_secret[0] if uses_static else &hs.secret.ephemeral_secret[0],
                   &hs.remote_static[0] if meets_static else &hs.remote_ephemeral[0])
    if rc == OK:
        mix_key(hs, &shared[0], sizeof(shared))
    wipe(&shared[0], sizeof(shared))
    return rc


cdef void mix_ephemeral(noise_t *hs, const uint8_t *public32) noexcept nogil:
    mix_hash(hs, public32, DH_LEN)
    # Noise section 9.2: with a psk the ephemeral also randomises the key.
    if hs.pattern.n_psks:
        mix_key(hs, public32, DH_LEN)


cdef int write_ephemeral(noise_t *hs, uint8_t *dst, random_fn rnd, void *rnd_ctx) noexcept nogil:
    rnd(rnd_ctx, &hs.secret.ephemeral_secret[0], DH_LEN)
    x25519_public(&hs.ephemeral_public[0], &hs.secret.ephemeral_secret[0])
    memcpy(dst, &hs.ephemeral_public[0], DH_LEN)
    mix_ephemeral(hs, dst)
    return DH_LEN


cdef int write_kem_public(noise_t *hs, uint8_t *dst, random_fn rnd, void *rnd_ctx) noexcept nogil:
    cdef uint8_t[MLKEM768_SEED_LEN] seed
    if hs.secret.kem is NULL:
        return E_ARGUMENT
    rnd(rnd_ctx, seed, MLKEM768_SEED_LEN)
    mlkem768_keypair(&hs.kem_public[0], hs.secret.kem, seed)
    wipe(seed, MLKEM768_SEED_LEN)
    return encrypt_and_hash(hs, dst, &hs.kem_public[0], MLKEM768_PUBLIC_LEN)


cdef int write_kem_ciphertext(noise_t *hs, uint8_t *dst, random_fn rnd, void *rnd_ctx) noexcept nogil:
    cdef uint8_t[MLKEM768_CIPHERTEXT_LEN] ciphertext
    cdef uint8_t[32] random
    cdef uint8_t[32] shared
    cdef int rc
    rnd(rnd_ctx, &random[0], sizeof(random))
    rc = mlkem768_encaps(&ciphertext[0], &shared[0], &hs.kem_public[0], &random[0])
    if rc == OK:
        rc = encrypt_and_hash(hs, dst, &ciphertext[0], sizeof(ciphertext))
        mix_key(hs, &shared[0], sizeof(shared))
    wipe(&random[0], sizeof(random))
    wipe(&shared[0], sizeof(shared))
    return rc


cdef int message_write(noise_t *hs, uint8_t *dst, const uint8_t *payload, size_t payload_len, random_fn rnd,
                       void *rnd_ctx) noexcept nogil:
    cdef const uint8_t *token = &hs.pattern.tokens[hs.message_idx][0]
    cdef int len = 0, rc
    while token[0] != TOKEN_NONE:
        rc = 0
        if token[0] == TOKEN_E:
            rc = write_ephemeral(hs, dst + len, rnd, rnd_ctx)
        elif token[0] == TOKEN_S:
            rc = encrypt_and_hash(hs, dst + len, &hs.static_public[0], DH_LEN)
        elif token[0] == TOKEN_E1:
            rc = write_kem_public(hs, dst + len, rnd, rnd_ctx)
        elif token[0] == TOKEN_EKEM1:
            rc = write_kem_ciphertext(hs, dst + len, rnd, rnd_ctx)
        elif token[0] == TOKEN_PSK:
            mix_psk(hs)
        else:
            rc = mix_dh(hs, token[0])
        if rc < 0:
            return rc
        len += rc
        token += 1
    rc = encrypt_and_hash(hs, dst + len, payload, payload_len)
    return len + rc if rc >= 0 else rc


cdef int read_ephemeral(noise_t *hs, const uint8_t *src) noexcept nogil:
    memcpy(&hs.remote_ephemeral[0], src, DH_LEN)
    mix_ephemeral(hs, src)
    return DH_LEN


cdef int read_kem_ciphertext(noise_t *hs, const uint8_t *src, int n) noexcept nogil:
    cdef uint8_t[MLKEM768_CIPHERTEXT_LEN] ciphertext
    cdef uint8_t[32] shared
    cdef int rc = decrypt_and_hash(hs, &ciphertext[0], src, n)
    if rc < 0:
        return rc
    rc = mlkem768_decaps(&shared[0], &ciphertext[0], hs.secret.kem, &hs.kem_public[0])
    if rc == OK:
        mix_key(hs, &shared[0], sizeof(shared))
    wipe(&shared[0], sizeof(shared))
    return rc


cdef int token_read(noise_t *hs, uint8_t token, const uint8_t *src) noexcept nogil:
    """Process one token; returns the bytes it used. noise_read has checked that they are there."""
    cdef int tag_len = NOISE_TAG_LEN if hs.has_key else 0
    cdef int rc
    if token == TOKEN_E:
        return read_ephemeral(hs, src)
    if token == TOKEN_S:
        rc = decrypt_and_hash(hs, &hs.remote_static[0], src, DH_LEN + tag_len)
        if rc < 0:
            return rc
        hs.has_remote_static = True
        return DH_LEN + tag_len
    if token == TOKEN_E1:
        rc = decrypt_and_hash(hs, &hs.kem_public[0], src, MLKEM768_PUBLIC_LEN + tag_len)
        return MLKEM768_PUBLIC_LEN + tag_len if rc >= 0 else rc
    if token == TOKEN_EKEM1:
        rc = read_kem_ciphertext(hs, src, MLKEM768_CIPHERTEXT_LEN + tag_len)
        return MLKEM768_CIPHERTEXT_LEN + tag_len if rc >= 0 else rc
    if token == TOKEN_PSK:
        mix_psk(hs)
        return 0
    return mix_dh(hs, token)


cdef int message_read(noise_t *hs, uint8_t *dst, const uint8_t *src, size_t src_len) noexcept nogil:
    cdef const uint8_t *token = &hs.pattern.tokens[hs.message_idx][0]
    cdef int off = 0, rc
    while token[0] != TOKEN_NONE:
        rc = token_read(hs, token[0], src + off)
        if rc < 0:
            return rc
        off += rc
        token += 1
    return decrypt_and_hash(hs, dst, src + off, src_len - off)


cdef int noise_finish(noise_t *hs, int rc) noexcept nogil:
    """Move to the next message, or end the handshake after a failure."""
    if rc < 0:
        noise_wipe(hs)
        return rc
    hs.message_idx += 1
    if hs.message_idx == hs.pattern.n_messages:
        hs.state = NOISE_DONE
    return rc


cdef int noise_write(noise_t *hs, uint8_t *dst, size_t dst_cap, const uint8_t *payload, size_t payload_len,
                     random_fn rnd, void *rnd_ctx) noexcept nogil:
    cdef int len = noise_message_len(hs, payload_len)
    cdef int rc
    if len < 0:
        return len
    if <size_t>len > dst_cap:
        return E_LONG
    rc = noise_begin(hs, True)
    if rc != OK:
        return rc
    return noise_finish(hs, message_write(hs, dst, payload, payload_len, rnd, rnd_ctx))


cdef int noise_read(noise_t *hs, uint8_t *dst, size_t dst_cap, const uint8_t *src, size_t src_len) noexcept nogil:
    cdef int least = noise_message_len(hs, 0)
    cdef int rc
    if least < 0:
        return least
    if src_len >= <size_t>least and src_len - least > dst_cap:
        return E_LONG
    rc = noise_begin(hs, False)
    if rc != OK:
        return rc
    if src_len < <size_t>least:
        return noise_finish(hs, E_SHORT)
    if src_len > NOISE_MESSAGE_MAX:
        return noise_finish(hs, E_LONG)
    return noise_finish(hs, message_read(hs, dst, src, src_len))


cdef bint noise_is_done(const noise_t *hs) noexcept nogil:
    return hs.state == NOISE_DONE


cdef const uint8_t *noise_remote_static(const noise_t *hs) noexcept nogil:
    if not hs.has_remote_static:
        return NULL
    return &hs.remote_static[0]


cdef int noise_split(noise_t *hs, uint8_t *k1, uint8_t *k2, uint8_t *h32) noexcept nogil:
    cdef uint8_t[64] out
    if hs.state != NOISE_DONE:
        return E_STATE
    if hs.secret.mark != SECRET_MARK:
        return E_FORK
    noise_hkdf(&out[0], sizeof(out), &hs.secret.ck[0], &hs.h[0], 0)
    memcpy(k1, &out[0], 32)
    memcpy(k2, &out[32], 32)
    memcpy(h32, &hs.h[0], 32)
    wipe(&out[0], sizeof(out))
    noise_wipe(hs)
    return OK


cdef void noise_wipe(noise_t *hs) noexcept nogil:
    if hs.secret is not NULL:
        if hs.secret.kem is not NULL:
            wipe(hs.secret.kem, sizeof(mlkem768_secret_t))
        wipe(hs.secret, sizeof(noise_secret_t))
    hs.secret = NULL
    hs.state = NOISE_ENDED


# CipherState: Noise section 5.1

cdef int noise_cipher_init(noise_cipher_t *cipher, uint16_t suite, const uint8_t *key32) noexcept nogil:
    cipher.suite = suite
    cipher.nonce = 0
    return aead_init(&cipher.key, suite, key32)


cdef int noise_cipher_seal(noise_cipher_t *cipher, uint8_t *dst, const uint8_t *src, size_t src_len, const uint8_t *ad,
                           size_t ad_len) noexcept nogil:
    cdef uint8_t[12] nonce
    if cipher.nonce == NONCE_MAX:
        return E_STATE
    nonce_fill(&nonce[0], cipher.suite, cipher.nonce)
    cipher.nonce += 1
    return aead_seal(&cipher.key, dst, src, src_len, ad, ad_len, &nonce[0])


cdef int noise_cipher_open(noise_cipher_t *cipher, uint8_t *dst, const uint8_t *src, size_t src_len, const uint8_t *ad,
                           size_t ad_len) noexcept nogil:
    cdef uint8_t[12] nonce
    cdef int rc
    if cipher.nonce == NONCE_MAX:
        return E_STATE
    nonce_fill(&nonce[0], cipher.suite, cipher.nonce)
    rc = aead_open(&cipher.key, dst, src, src_len, ad, ad_len, &nonce[0])
    if rc >= 0:
        cipher.nonce += 1
    return rc


cdef int noise_cipher_rekey(noise_cipher_t *cipher) noexcept nogil:
    """REKEY of Noise section 4.2: encrypt 32 zero bytes under the reserved nonce. The nonce goes on."""
    cdef uint8_t[48] sealed
    cdef uint8_t[12] nonce
    cdef int rc
    memset(&sealed[0], 0, sizeof(sealed))
    nonce_fill(&nonce[0], cipher.suite, NONCE_MAX)
    rc = aead_seal(&cipher.key, &sealed[0], &sealed[0], 32, NULL, 0, &nonce[0])
    if rc >= 0:
        rc = aead_init(&cipher.key, cipher.suite, &sealed[0])
    wipe(&sealed[0], sizeof(sealed))
    return rc


# Owners, for tests, third-party vectors and live peers.

ctypedef struct script_t:       # bytes to hand out as randomness
    const uint8_t *at
    size_t len
    bint is_short               # more was asked than there is


cdef void script_random(void *ctx, uint8_t *dst, size_t n) noexcept nogil:
    cdef script_t *script = <script_t *>ctx
    memset(dst, 0, n)
    if script.len < n:
        script.is_short = True
        return
    memcpy(dst, script.at, n)
    script.at += n
    script.len -= n


def protocol_needs(str name not None, str role not None):
    """Return (needs a static key, needs the peer's static key, number of psks), or None for a protocol not run here."""
    cdef bytes text = name.encode("ascii", "replace")
    cdef noise_pattern_t pattern
    cdef int idx = 0 if role == "initiator" else 1
    if noise_pattern_parse(&pattern, text, len(text)) != OK:
        return None
    return bool(pattern.needs_static[idx]), bool(pattern.pre_static[1 - idx]), pattern.n_psks


@cython.final
cdef class NoiseCipher:
    """Seal and open transport messages with one key of a finished handshake."""
    cdef noise_cipher_t cipher
    cdef bytes key

    def __cinit__(self, uint16_t suite, bytes key not None):
        if len(key) != 32 or noise_cipher_init(&self.cipher, suite, key) != OK:
            raise ValueError("a usable suite and a key of 32 bytes are needed")
        self.key = key

    def __dealloc__(self):
        wipe(&self.cipher, sizeof(self.cipher))

    def __reduce__(self):
        raise TypeError("keys are not serialised")

    def export_key(self):
        """Return the key that the handshake gave; vectors list it."""
        return self.key

    def seal(self, bytes src not None, bytes ad not None=b""):
        """Return ciphertext and tag, or a negative status code."""
        cdef bytes dst = PyBytes_FromStringAndSize(NULL, len(src) + NOISE_TAG_LEN)
        cdef int rc = noise_cipher_seal(&self.cipher, <uint8_t *>PyBytes_AS_STRING(dst), src, len(src), ad, len(ad))
        return dst if rc >= 0 else rc

    def open(self, bytes src not None, bytes ad not None=b""):
        """Return the plaintext, or a negative status code."""
        cdef bytearray dst = bytearray(len(src) + 1)
        cdef int rc = noise_cipher_open(&self.cipher, <uint8_t *><char *>dst, src, len(src), ad, len(ad))
        return bytes(dst[:rc]) if rc >= 0 else rc

    def rekey(self):
        """Replace the key as Noise REKEY does."""
        return noise_cipher_rekey(&self.cipher)


@cython.final
cdef class NoiseHandshake:
    """Run one side of a Noise handshake. `random` scripts the randomness, else the system's is used.

    `psks` are given in the order of the pattern's tokens. Messages and payloads are bytes; a negative number is a
    status code.
    """
    cdef noise_pattern_t pattern
    cdef noise_secret_t secret
    cdef mlkem768_secret_t kem
    cdef noise_t hs
    cdef script_t script
    cdef bytes randomness

    def __cinit__(self, str name not None, str role not None, bytes prologue not None=b"", bytes static=None,
                  bytes remote_static=None, tuple psks not None=(), bytes random=None):
        cdef bytes text = name.encode("ascii", "replace")
        cdef uint8_t[32] public
        if noise_pattern_parse(&self.pattern, text, len(text)) != OK:
            raise ValueError(f"{name} is not a Noise protocol that this engine runs")
        if role not in ("initiator", "responder"):
            raise ValueError("role is 'initiator' or 'responder'")
        if noise_init(&self.hs, &self.secret, &self.pattern,
                      NOISE_INITIATOR if role == "initiator" else NOISE_RESPONDER, prologue, len(prologue)) != OK:
            raise ValueError(f"{name} needs AES instructions that this CPU lacks")
        noise_set_kem(&self.hs, &self.kem)
        for key in (static, remote_static, *psks):
            if key is not None and len(key) != 32:
                raise ValueError("keys have 32 bytes")
        if static is not None:
            x25519_public(&public[0], static)
            self.expect(noise_set_static(&self.hs, static, &public[0]), "a static key")
        if remote_static is not None:
            self.expect(noise_set_remote_static(&self.hs, remote_static), "a remote static key")
        for key in psks:
            self.expect(noise_set_psk(&self.hs, key), "so many pre-shared keys")
        if random is not None:
            self.randomness = random
            self.script.at = <const uint8_t *><const char *>self.randomness
            self.script.len = len(random)

    def __dealloc__(self):
        noise_wipe(&self.hs)

    def __reduce__(self):
        raise TypeError("a handshake is not serialised")

    cdef int expect(self, int rc, str what) except -1:
        if rc != OK:
            raise ValueError(f"this side of the pattern takes no {what}")
        return 0

    def write_message(self, bytes payload not None=b""):
        """Return the next message."""
        cdef int n = noise_message_len(&self.hs, len(payload))
        cdef bytearray dst = bytearray(max(n, 1))
        cdef uint8_t *p = <uint8_t *><char *>dst
        cdef int rc
        if self.randomness is None:
            rc = noise_write(&self.hs, p, len(dst), payload, len(payload), crypto_random, NULL)
        else:
            rc = noise_write(&self.hs, p, len(dst), payload, len(payload), script_random, &self.script)
            if self.script.is_short:
                noise_wipe(&self.hs)
                raise ValueError("the scripted randomness is spent")
        return bytes(dst[:rc]) if rc >= 0 else rc

    def read_message(self, bytes message not None):
        """Return the payload of the peer's message."""
        cdef bytearray dst = bytearray(len(message) + 1)
        cdef int rc = noise_read(&self.hs, <uint8_t *><char *>dst, len(dst), message, len(message))
        return bytes(dst[:rc]) if rc >= 0 else rc

    def message_len(self, size_t payload_len):
        """Return the length of the next message with a payload of that length."""
        return noise_message_len(&self.hs, payload_len)

    def split(self):
        """Return (cipher to the responder, cipher to the initiator, handshake hash).

        Of a one-way pattern only the first cipher is used.
        """
        cdef uint8_t[32] k1
        cdef uint8_t[32] k2
        cdef uint8_t[32] h
        cdef int rc = noise_split(&self.hs, &k1[0], &k2[0], &h[0])
        if rc != OK:
            return rc
        made = (NoiseCipher(self.pattern.suite, PyBytes_FromStringAndSize(<char *>&k1[0], 32)),
                NoiseCipher(self.pattern.suite, PyBytes_FromStringAndSize(<char *>&k2[0], 32)),
                PyBytes_FromStringAndSize(<char *>&h[0], 32))
        wipe(&k1[0], 32)
        wipe(&k2[0], 32)
        return made

    @property
    def is_done(self):
        """Whether all messages have passed."""
        return noise_is_done(&self.hs)

    @property
    def is_one_way(self):
        """Whether only the initiator sends."""
        return bool(self.pattern.is_one_way)

    @property
    def n_messages(self):
        """Messages of the pattern."""
        return self.pattern.n_messages

    @property
    def remote_static(self):
        """The peer's static public key, or None while unknown."""
        cdef const uint8_t *key = noise_remote_static(&self.hs)
        return PyBytes_FromStringAndSize(<const char *>key, 32) if key is not NULL else None

    @property
    def is_wiped(self):
        """Whether every secret byte of this side is zero."""
        return is_zero(&self.secret, sizeof(noise_secret_t)) and is_zero(&self.kem, sizeof(mlkem768_secret_t))
