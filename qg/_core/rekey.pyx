# SPDX-License-Identifier: MIT
"""When keys change: epochs and generations."""
cimport cython
from cpython.bytearray cimport PyByteArray_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

from .crypto cimport SUITE_CHACHA20_POLY1305, crypto_random, random_between, wipe
from .envelope cimport REKEY_PROLOGUE_LEN, prologue_put_rekey
from .memory cimport mem_give, mem_take, pool_clear, pool_init, pool_t
from .noise cimport (
    NOISE_INITIATOR, NOISE_NN, NOISE_RESPONDER, noise_init, noise_pattern_t, noise_pattern_wire, noise_read,
    noise_set_kem, noise_set_psk, noise_split, noise_wipe, noise_write)
from .record cimport (
    direction_from, record_begin, record_dir_t, record_end_epoch, record_extract, record_keys_t,
    record_len, record_open, record_peek, record_rekey_psk, record_renew, record_seal)
from .secret cimport SECRET_LOCK_PREFERRED, secret_give, secret_pool_free, secret_pool_init, secret_pool_t, secret_take
from .status cimport E_CLOSED, E_FRAME, E_MEMORY, E_STATE, OK
from .sys cimport NEVER, is_zero
from .wire cimport (
    FRAME_EPOCH, FRAME_REKEY1, FRAME_REKEY2, FRAME_REKEY_DONE, REKEY1_LEN, REKEY2_LEN, frame_parse, frame_t)

cdef enum:
    PAYLOAD_LEN = 24                # of both Noise messages, all zero

cdef uint64_t REKEY_RECORDS = <uint64_t>1 << 32
cdef uint64_t REKEY_LEN = <uint64_t>64 << 30


cdef void plan_next(rekey_t *rekey, uint64_t now_ns) noexcept nogil:
    cdef uint64_t mean_ns = rekey.times.rekey_ns
    rekey.due_ns = now_ns + random_between(rekey.random, rekey.random_ctx, mean_ns * 4 // 5, mean_ns * 6 // 5)


cdef void rekey_init(rekey_t *rekey, const uint8_t *h32, uint64_t now_ns) noexcept nogil:
    memcpy(rekey.h, h32, 32)
    plan_next(rekey, now_ns)


cdef void rekey_clear(rekey_t *rekey) noexcept nogil:
    cdef exchange_t *exchange = rekey.exchange
    if exchange is not NULL:
        noise_wipe(&exchange.noise)
        secret_give(rekey.secrets, exchange.secret)
        mem_give(rekey.pool, exchange, sizeof(exchange_t))
        rekey.exchange = NULL
    rekey.pending = 0
    rekey.is_asked = 0
    rekey.has_next = 0


cdef exchange_t *exchange_create(rekey_t *rekey) noexcept nogil:
    cdef exchange_t *exchange = <exchange_t *>mem_take(rekey.pool, sizeof(exchange_t))
    if exchange is NULL:
        return NULL
    exchange.secret = <exchange_secret_t *>secret_take(rekey.secrets)
    if exchange.secret is NULL:
        mem_give(rekey.pool, exchange, sizeof(exchange_t))
        return NULL
    return exchange


cdef int begin(rekey_t *rekey, int role, uint64_t now_ns) noexcept nogil:
    """Start the Noise side of an exchange, or start it over; `role` is ours in it."""
    cdef uint8_t[REKEY_PROLOGUE_LEN] prologue
    cdef bint by_initiator = (role == NOISE_INITIATOR) == (rekey.role == 0)
    cdef exchange_t *exchange = rekey.exchange
    cdef int rc
    if exchange is NULL:
        exchange = exchange_create(rekey)
        if exchange is NULL:
            return E_MEMORY
        rekey.exchange = exchange
    rekey.begun_ns = now_ns
    rekey.is_due = 0
    noise_wipe(&exchange.noise)
    prologue_put_rekey(prologue, rekey.tx.generation + 1, rekey.h, 0 if by_initiator else 1)
    rc = noise_init(&exchange.noise, &exchange.secret.noise, rekey.pattern, role, prologue, REKEY_PROLOGUE_LEN)
    if rc >= 0:
        noise_set_kem(&exchange.noise, &exchange.secret.kem)
        rc = noise_set_psk(&exchange.noise, rekey.keys.psk)
    return rc


cdef int write_message(rekey_t *rekey, int type) noexcept nogil:
    """Make the Noise message that REKEY1 or REKEY2 carries, and let it be pending."""
    cdef uint8_t[PAYLOAD_LEN] payload
    cdef int rc
    memset(payload, 0, PAYLOAD_LEN)
    rc = noise_write(&rekey.exchange.noise, rekey.exchange.message, REKEY1_LEN, payload, PAYLOAD_LEN, rekey.random,
                     rekey.random_ctx)
    if rc < 0:
        return rc
    rekey.pending = <uint8_t>type
    return OK


cdef int read_message(rekey_t *rekey, const uint8_t *data, size_t len) noexcept nogil:
    cdef uint8_t[PAYLOAD_LEN] payload
    cdef int rc = noise_read(&rekey.exchange.noise, payload, PAYLOAD_LEN, data, len)
    if rc < 0:
        return rc
    return OK if is_zero(payload, PAYLOAD_LEN) else E_FRAME


cdef int derive(rekey_t *rekey) noexcept nogil:
    """Both Noise messages passed: X of the next generation waits in the slot until each direction enters it."""
    cdef uint8_t[32] k1
    cdef uint8_t[32] k2
    cdef int rc = noise_split(&rekey.exchange.noise, k1, k2, rekey.next_h)
    if rc >= 0:
        record_extract(rekey.keys.next_x, k1, k2, rekey.next_h)
        rekey.has_next = 1
        rekey.tx_waits = 1
        rekey.rx_waits = 1
        rekey.is_asked = 0
    wipe(k1, 32)
    wipe(k2, 32)
    return rc


cdef void finish(rekey_t *rekey, uint64_t now_ns) noexcept nogil:
    """Once both directions are in the new generation, the old secrets go and the next exchange is planned."""
    if rekey.tx_waits or rekey.rx_waits:
        return
    record_rekey_psk(rekey.keys.psk, rekey.keys.next_x)
    wipe(rekey.keys.next_x, 32)
    memcpy(rekey.h, rekey.next_h, 32)
    rekey_clear(rekey)
    plan_next(rekey, now_ns)


# Input

cdef int rekey_start(rekey_t *rekey, uint64_t now_ns) noexcept nogil:
    cdef int rc
    if rekey.exchange is not NULL:
        return OK
    rc = begin(rekey, NOISE_INITIATOR, now_ns)
    if rc >= 0:
        rc = write_message(rekey, FRAME_REKEY1)
    rekey.is_asked = 1
    return rc


cdef int on_rekey1(rekey_t *rekey, const uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    cdef int rc
    if rekey.has_next:
        return E_STATE
    if rekey.is_asked and rekey.role == 0:
        return OK                           # ours is on its way: the peer drops its own
    rc = begin(rekey, NOISE_RESPONDER, now_ns)
    if rc >= 0:
        rc = read_message(rekey, data, len)
    if rc >= 0:
        rc = write_message(rekey, FRAME_REKEY2)
    return derive(rekey) if rc >= 0 else rc


cdef int on_rekey2(rekey_t *rekey, const uint8_t *data, size_t len) noexcept nogil:
    cdef int rc
    if not rekey.is_asked:
        return E_STATE
    rc = read_message(rekey, data, len)
    if rc >= 0:
        rc = derive(rekey)
    if rc >= 0:
        rekey.pending = FRAME_REKEY_DONE    # nothing else may switch: there are no keys to switch to
    return rc


cdef int rekey_frame(rekey_t *rekey, uint64_t type, const uint8_t *data, size_t len, uint64_t now_ns) noexcept nogil:
    if type == FRAME_REKEY1:
        return on_rekey1(rekey, data, len, now_ns)
    if type == FRAME_REKEY_DONE and not rekey.rx_waits:
        return E_STATE
    rekey.last = <uint8_t>type
    return on_rekey2(rekey, data, len) if type == FRAME_REKEY2 else OK


cdef int rekey_record_end(rekey_t *rekey, uint64_t now_ns) noexcept nogil:
    cdef int last = rekey.last
    rekey.last = 0
    if last == FRAME_REKEY2:
        return E_STATE                      # the answer is one record: REKEY2, REKEY_DONE
    if last == FRAME_EPOCH:
        return record_end_epoch(rekey.rx)
    record_renew(rekey.rx, rekey.keys.next_x, direction_from(1 - rekey.role))
    rekey.rx_waits = 0
    finish(rekey, now_ns)
    return OK


# Output

cdef int rekey_put(rekey_t *rekey, uint8_t *dst, size_t dst_cap) noexcept nogil:
    cdef int pending = rekey.pending
    cdef size_t len = 0
    if pending == FRAME_REKEY1 or pending == FRAME_REKEY2:
        len = 1 + (REKEY1_LEN if pending == FRAME_REKEY1 else REKEY2_LEN)
    if len + (pending != FRAME_REKEY1) > dst_cap:
        return 0
    if len > 0:
        dst[0] = <uint8_t>pending
        memcpy(dst + 1, rekey.exchange.message, len - 1)
    if pending != FRAME_REKEY1:
        dst[len] = FRAME_REKEY_DONE if pending else FRAME_EPOCH
        len += 1
    return <int>len


cdef void rekey_sent(rekey_t *rekey, uint64_t now_ns) noexcept nogil:
    cdef int pending = rekey.pending
    rekey.pending = 0
    if pending == 0:
        rekey.epoch_due = 0
        record_end_epoch(rekey.tx)
    elif pending != FRAME_REKEY1:
        rekey.tx_waits = 0
        record_renew(rekey.tx, rekey.keys.next_x, direction_from(rekey.role))
        finish(rekey, now_ns)


# Time

cdef uint64_t rekey_deadline_ns(const rekey_t *rekey) noexcept nogil:
    cdef uint64_t at_ns = NEVER if rekey.is_due else rekey.due_ns
    if rekey.exchange is not NULL:
        at_ns = rekey.begun_ns + rekey.times.answer_ns
    if rekey.tx.epoch_records and not rekey.epoch_due:
        at_ns = min(at_ns, rekey.tx.epoch_start_ns + rekey.times.epoch_ns)
    return at_ns


cdef int rekey_tick(rekey_t *rekey, uint64_t now_ns) noexcept nogil:
    if rekey.tx.epoch_records and now_ns >= rekey.tx.epoch_start_ns + rekey.times.epoch_ns:
        rekey.epoch_due = 1
    if rekey.exchange is not NULL:
        return E_CLOSED if now_ns >= rekey.begun_ns + rekey.times.answer_ns else OK
    if now_ns >= rekey.due_ns or rekey.tx.seq >= REKEY_RECORDS or rekey.tx.generation_len >= REKEY_LEN:
        rekey.is_due = 1
    return OK


@cython.final
cdef class Rekey:
    """Own both directions' keys of one side and the machine that changes them; for tests.

    Both sides begin with the same X. What a side has to say is the inside of one record, without its padding. Answers
    of type int are status codes.
    """
    cdef rekey_t rekey
    cdef rekey_times_t times
    cdef rekey_secret_t secret
    cdef noise_pattern_t pattern
    cdef record_dir_t tx
    cdef record_dir_t rx
    cdef record_keys_t tx_keys
    cdef record_keys_t rx_keys
    cdef pool_t pool
    cdef secret_pool_t secrets

    def __cinit__(self, int role, uint64_t epoch_ns, uint64_t rekey_ns, uint64_t answer_ns):
        cdef rekey_t *rekey = &self.rekey
        cdef uint8_t[32] x
        memset(x, 7, 32)
        pool_init(&self.pool, 1 << 20)
        secret_pool_init(&self.secrets, 1, SECRET_LOCK_PREFERRED)
        noise_pattern_wire(&self.pattern, NOISE_NN)
        self.times = rekey_times_t(epoch_ns, rekey_ns, answer_ns)
        record_begin(&self.tx, &self.tx_keys, x, direction_from(role), SUITE_CHACHA20_POLY1305)
        record_begin(&self.rx, &self.rx_keys, x, direction_from(1 - role), SUITE_CHACHA20_POLY1305)
        record_rekey_psk(self.secret.psk, x)
        rekey.tx, rekey.rx, rekey.keys, rekey.times = &self.tx, &self.rx, &self.secret, &self.times
        rekey.pattern, rekey.pool, rekey.secrets = &self.pattern, &self.pool, &self.secrets
        rekey.random = crypto_random
        rekey.role = <uint8_t>role
        rekey_init(rekey, x, 0)

    def __dealloc__(self):
        rekey_clear(&self.rekey)
        pool_clear(&self.pool)
        secret_pool_free(&self.secrets)
        wipe(&self.secret, sizeof(rekey_secret_t))
        wipe(&self.tx_keys, sizeof(record_keys_t))
        wipe(&self.rx_keys, sizeof(record_keys_t))

    def start(self, uint64_t now_ns=0):
        """Begin an exchange."""
        return rekey_start(&self.rekey, now_ns)

    def tick(self, uint64_t now_ns):
        """Let it be `now_ns`."""
        return rekey_tick(&self.rekey, now_ns)

    def take(self, size_t room=16384, uint64_t now_ns=0):
        """Take the frames of the record that changes keys, as sent; empty when there are none or they do not fit."""
        cdef bytearray out = bytearray(room)
        cdef int n = rekey_put(&self.rekey, <uint8_t *><char *>out, room) if rekey_is_pending(&self.rekey) else 0
        if n > 0:
            rekey_sent(&self.rekey, now_ns)
        return bytes(out[:n])

    def read(self, bytes frames not None, uint64_t now_ns=0):
        """Read the key frames of one record."""
        cdef bytearray copy = bytearray(frames)
        cdef uint8_t *src = <uint8_t *><char *>copy
        cdef size_t at = 0, len = <size_t>PyByteArray_GET_SIZE(copy)
        cdef frame_t frame
        cdef int rc = OK
        while at < len and rc >= 0:
            rc = frame_parse(&frame, src + at, len - at)
            at += rc if rc > 0 else 0
            if rc >= 0:
                rc = rekey_frame(&self.rekey, frame.type, frame.data, frame.len, now_ns) \
                    if rekey_may_follow(&self.rekey, frame.type) else E_STATE
        if rc >= 0 and self.rekey.last:
            rc = rekey_record_end(&self.rekey, now_ns)
        return rc

    def seal(self, bytes inner not None, uint64_t now_ns=0):
        """Seal one record."""
        cdef bytearray out = bytearray(record_len(&self.tx, len(inner)))
        record_seal(&self.tx, <uint8_t *><char *>out, inner, len(inner), now_ns)
        return bytes(out)

    def open(self, bytes record not None, uint64_t now_ns=0):
        """Open one record: its inside, or a status code."""
        cdef bytearray out = bytearray(record)
        cdef uint8_t *at = <uint8_t *><char *>out + 2
        cdef int n = record_peek(&self.rx, at - 2)
        if n >= 0:
            n = record_open(&self.rx, at, at, n, now_ns)
        return bytes(out[2:2 + n]) if n >= 0 else n

    def skip(self, uint64_t n_records, uint64_t length):
        """Let it be as if so many records with so many bytes more had been sent."""
        self.tx.seq += n_records
        self.tx.generation_len += length

    @property
    def sending(self):
        """Generation and epoch."""
        return self.tx.generation, self.tx.epoch

    @property
    def receiving(self):
        """Generation and epoch."""
        return self.rx.generation, self.rx.epoch

    @property
    def is_due(self):
        """Whether an exchange starts with the next use."""
        return bool(self.rekey.is_due)

    @property
    def deadline_ns(self):
        """When to tick."""
        return rekey_deadline_ns(&self.rekey)

    @property
    def held(self):
        """Bytes of memory and secret slots that an exchange holds."""
        return self.pool.plain_len, self.secrets.n_taken

    @property
    def waits_with_next(self):
        """Whether secrets of a generation to come are kept."""
        return any(self.secret.next_x[:32])
