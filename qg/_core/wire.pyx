# SPDX-License-Identifier: MIT
"""Byte layouts of frames, HELLO, OPEN and addresses (protocol.md 7)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .status cimport (
    E_ADDRESS, E_FRAME, E_LONG, E_NONZERO, E_SHORT, E_UTF8, E_VARINT, HELLO_MAX, INNER_MAX, METADATA_MAX, OK,
    REASON_COUNT, REASON_NONE)
from .sys cimport is_zero, load_be16, load_be32, load_be64, log2_floor, store_be16, store_be32, store_be64


# Varints

cdef int varint_put(uint8_t *dst, uint64_t value) noexcept nogil:
    if value < 64:
        dst[0] = <uint8_t>value
        return 1
    if value < 16384:
        store_be16(dst, <uint32_t>value | 0x4000)
        return 2
    if value < 1073741824:
        store_be32(dst, <uint32_t>value | 0x80000000U)
        return 4
    store_be64(dst, value | <uint64_t>0xC000000000000000U)
    return 8


cdef int varint_get(const uint8_t *src, size_t len, uint64_t *value) noexcept nogil:
    cdef int n
    if len == 0:
        return E_SHORT
    n = 1 << (src[0] >> 6)
    if <size_t>n > len:
        return E_SHORT
    if n == 1:
        value[0] = src[0]
        return 1
    if n == 2:
        value[0] = load_be16(src) & 0x3FFF
    elif n == 4:
        value[0] = load_be32(src) & 0x3FFFFFFF
    else:
        value[0] = load_be64(src) & <uint64_t>0x3FFFFFFFFFFFFFFF
    return n if varint_len(value[0]) == n else E_VARINT


cdef inline int take_varint(const uint8_t *src, size_t len, size_t *at, uint64_t *value) noexcept nogil:
    cdef int n = varint_get(src + at[0], len - at[0], value)
    if n > 0:
        at[0] += n
    return n


# Frames

cdef inline int take_bytes(frame_t *frame, uint8_t *src, size_t len, size_t *at, size_t n) noexcept nogil:
    if n > len - at[0]:
        return E_SHORT
    frame.data = src + at[0]
    frame.len = n
    at[0] += n
    return OK


cdef inline int take_counted(frame_t *frame, uint8_t *src, size_t len, size_t *at, size_t limit) noexcept nogil:
    """`v length | bytes` with at most `limit` bytes."""
    cdef uint64_t n
    cdef int rc = take_varint(src, len, at, &n)
    if rc < 0:
        return rc
    if n > limit:
        return E_LONG
    return take_bytes(frame, src, len, at, <size_t>n)


cdef int parse_open(frame_t *frame, uint8_t *src, size_t len, size_t *at) noexcept nogil:
    cdef open_relay_t target
    cdef int rc = take_varint(src, len, at, &frame.id)
    if rc < 0:
        return rc
    if len - at[0] < 2:
        return E_SHORT
    frame.kind = src[at[0]]
    frame.priority = src[at[0] + 1]
    at[0] += 2
    if frame.kind >= N_STREAM_KINDS or frame.priority >= N_PRIORITIES:
        return E_FRAME
    rc = take_varint(src, len, at, &frame.offset)
    if rc < 0:
        return rc
    rc = take_counted(frame, src, len, at, 16 + METADATA_MAX)
    if rc < 0:
        return rc
    if frame.kind <= STREAM_MESSAGES:
        return OK if frame.len >= 16 else E_FRAME
    if frame.kind == STREAM_PIPE:
        return OK if frame.len == 1 else E_FRAME
    return open_relay_parse(&target, frame.data, frame.len)


cdef int parse_reset(frame_t *frame, uint8_t *src, size_t len, size_t *at) noexcept nogil:
    cdef int rc = take_varint(src, len, at, &frame.id)
    if rc >= 0:
        rc = take_varint(src, len, at, &frame.reason)
    if rc >= 0:
        rc = take_varint(src, len, at, &frame.offset)
    if frame.reason >= REASON_COUNT:
        frame.reason = REASON_NONE
    return rc


cdef int parse_close(frame_t *frame, uint8_t *src, size_t len, size_t *at) noexcept nogil:
    cdef int rc = take_varint(src, len, at, &frame.reason)
    cdef size_t n
    if rc < 0:
        return rc
    if frame.reason >= REASON_COUNT:
        frame.reason = REASON_NONE
    if at[0] >= len:
        return E_SHORT
    n = src[at[0]]
    at[0] += 1
    if n > CLOSE_TEXT_MAX:
        return E_LONG
    rc = take_bytes(frame, src, len, at, n)
    if rc < 0:
        return rc
    return OK if is_utf8(frame.data, frame.len) else E_UTF8


cdef int parse_services(frame_t *frame, uint8_t *src, size_t len, size_t *at) noexcept nogil:
    """`data` covers the whole value, both lists with their counts."""
    cdef size_t first = at[0]
    cdef uint64_t n
    cdef int i, rc
    for i in range(2):
        rc = take_varint(src, len, at, &n)
        if rc < 0:
            return rc
        if n > HELLO_SERVICES_MAX:
            return E_FRAME
        if n > (len - at[0]) // 16:
            return E_SHORT
        at[0] += <size_t>n * 16
    frame.data = src + first
    frame.len = at[0] - first
    return OK


cdef const uint8_t *services_read(const uint8_t *src, uint32_t *n_added, uint32_t *n_removed,
                                  const uint8_t **removed) noexcept nogil:
    cdef uint64_t n
    cdef const uint8_t *added = src + varint_get(src, VARINT_MAX, &n)
    n_added[0] = <uint32_t>n
    removed[0] = added + 16 * n
    removed[0] += varint_get(removed[0], VARINT_MAX, &n)
    n_removed[0] = <uint32_t>n
    return added


cdef int parse_peers(frame_t *frame, uint8_t *src, size_t len, size_t *at) noexcept nogil:
    """`data` covers the records, each behind its length."""
    cdef size_t first
    cdef uint64_t n, i, length
    cdef int rc = take_varint(src, len, at, &n)
    if rc < 0:
        return rc
    first = at[0]
    if n > len:
        return E_SHORT
    for i in range(n):
        rc = take_varint(src, len, at, &length)
        if rc < 0:
            return rc
        if length > len - at[0]:
            return E_SHORT
        at[0] += <size_t>length
    frame.data = src + first
    frame.len = at[0] - first
    return OK


cdef int parse_observed(frame_t *frame, uint8_t *src, size_t len, size_t *at) noexcept nogil:
    cdef address_t address
    cdef int n = address_parse(&address, src + at[0], len - at[0])
    if n < 0:
        return n
    return take_bytes(frame, src, len, at, n)


cdef int parse_padding(uint8_t *src, size_t len, size_t *at) noexcept nogil:
    if not is_zero(src + at[0], len - at[0]):
        return E_NONZERO
    at[0] = len
    return OK


cdef int parse_rare(frame_t *frame, uint8_t *src, size_t len, size_t *at) noexcept nogil:
    cdef uint64_t type = frame.type
    if type == FRAME_PING or type == FRAME_PONG:
        if len - at[0] < 8:
            return E_SHORT
        frame.id = load_be64(src + at[0])
        at[0] += 8
        return OK
    if type == FRAME_HELLO:
        return take_counted(frame, src, len, at, HELLO_MAX)
    if type == FRAME_CLOSE:
        return parse_close(frame, src, len, at)
    if type == FRAME_OPEN:
        return parse_open(frame, src, len, at)
    if type == FRAME_RESET:
        return parse_reset(frame, src, len, at)
    if type == FRAME_SESSION_CREDIT:
        return take_varint(src, len, at, &frame.offset)
    if type == FRAME_SERVICES:
        return parse_services(frame, src, len, at)
    if type == FRAME_PEERS:
        return parse_peers(frame, src, len, at)
    if type == FRAME_OBSERVED:
        return parse_observed(frame, src, len, at)
    if type == FRAME_REKEY1:
        return take_bytes(frame, src, len, at, REKEY1_LEN)
    if type == FRAME_REKEY2:
        return take_bytes(frame, src, len, at, REKEY2_LEN)
    if type == FRAME_EPOCH or type == FRAME_REKEY_DONE:
        return OK
    if type == FRAME_COVER or type >= FRAME_GREASE:
        return take_counted(frame, src, len, at, INNER_MAX)
    return E_FRAME


cdef int frame_parse(frame_t *frame, uint8_t *src, size_t len) noexcept nogil:
    cdef size_t at = 0
    cdef int rc = take_varint(src, len, &at, &frame.type)
    if rc < 0:
        return rc
    frame.id = 0
    frame.offset = 0
    frame.reason = 0
    frame.data = NULL
    frame.len = 0
    if frame.type == FRAME_DATA or frame.type == FRAME_DATA_FIN:
        rc = take_varint(src, len, &at, &frame.id)
        if rc >= 0:
            rc = take_counted(frame, src, len, &at, INNER_MAX)
    elif frame.type == FRAME_PADDING:
        rc = parse_padding(src, len, &at)
    elif frame.type == FRAME_CREDIT or frame.type == FRAME_ACCEPT:
        rc = take_varint(src, len, &at, &frame.id)
        if rc >= 0:
            rc = take_varint(src, len, &at, &frame.offset)
    else:
        rc = parse_rare(frame, src, len, &at)
    return rc if rc < 0 else <int>at


cdef int frame_put_data_head(uint8_t *dst, uint64_t id, size_t len, int type) noexcept nogil:
    cdef int at = 1
    dst[0] = <uint8_t>type
    at += varint_put(dst + at, id)
    at += varint_put(dst + at, len)
    return at


cdef int frame_put_open(uint8_t *dst, uint64_t id, int kind, int priority, uint64_t credit,
                        const uint8_t *data, size_t len) noexcept nogil:
    cdef int at = 1
    dst[0] = FRAME_OPEN
    at += varint_put(dst + at, id)
    dst[at] = <uint8_t>kind
    dst[at + 1] = <uint8_t>priority
    at += 2
    at += varint_put(dst + at, credit)
    at += varint_put(dst + at, len)
    memcpy(dst + at, data, len)
    return at + <int>len


cdef int frame_put_offset(uint8_t *dst, int type, uint64_t id, uint64_t offset) noexcept nogil:
    cdef int at = 1
    dst[0] = <uint8_t>type
    at += varint_put(dst + at, id)
    at += varint_put(dst + at, offset)
    return at


cdef int frame_put_session_credit(uint8_t *dst, uint64_t offset) noexcept nogil:
    dst[0] = FRAME_SESSION_CREDIT
    return 1 + varint_put(dst + 1, offset)


cdef int frame_put_reset(uint8_t *dst, uint64_t id, uint64_t reason, uint64_t sent) noexcept nogil:
    cdef int at = 1
    dst[0] = FRAME_RESET
    at += varint_put(dst + at, id)
    at += varint_put(dst + at, reason)
    at += varint_put(dst + at, sent)
    return at


cdef int frame_put_ping(uint8_t *dst, int type, uint64_t token) noexcept nogil:
    dst[0] = <uint8_t>type
    store_be64(dst + 1, token)
    return 9


cdef int frame_put_grease(uint8_t *dst, const uint8_t *random24) noexcept nogil:
    """A type of any length, and 0 to 15 bytes."""
    cdef int choice = random24[8]
    cdef int n_bits = 14 if choice < 85 else 30 if choice < 170 else 62
    cdef size_t len = choice % 16
    cdef int at = varint_put(dst, max(load_be64(random24) >> (64 - n_bits), <uint64_t>FRAME_GREASE))
    dst[at] = <uint8_t>len
    memcpy(dst + at + 1, random24 + 9, len)
    return at + 1 + <int>len


cdef void frame_put_cover(uint8_t *dst, size_t len) noexcept nogil:
    """COVER, and PADDING where its length would not come out even."""
    memset(dst, 0, len)
    if len >= 2:
        dst[0] = FRAME_COVER
        varint_put(dst + 1, len - 2 if len - 2 < 64 else len - 3)


cdef int frame_put_close(uint8_t *dst, uint64_t reason, const uint8_t *text, size_t len) noexcept nogil:
    cdef int at = 1
    dst[0] = FRAME_CLOSE
    at += varint_put(dst + at, reason)
    dst[at] = <uint8_t>len
    memcpy(dst + at + 1, text, len)
    return at + 1 + <int>len


# HELLO

cdef void hello_defaults(hello_t *hello) noexcept nogil:
    memset(hello, 0, sizeof(hello_t))
    hello.session_credit = 1048576
    hello.max_service_streams = 1024
    hello.max_message = 1048576
    hello.padding = PADDING_LIGHT


cdef int put_number(uint8_t *dst, int entry, uint64_t value) noexcept nogil:
    dst[0] = <uint8_t>entry
    dst[1] = <uint8_t>varint_len(value)
    return 2 + varint_put(dst + 2, value)


cdef int frame_put_hello(uint8_t *dst, const hello_t *hello) noexcept nogil:
    cdef uint8_t[HELLO_MAX] value
    cdef int at = 0, head
    at += put_number(value + at, HELLO_SESSION_CREDIT, hello.session_credit)
    at += put_number(value + at, HELLO_MAX_SERVICE_STREAMS, hello.max_service_streams)
    at += put_number(value + at, HELLO_MAX_PIPES, hello.max_pipes)
    at += put_number(value + at, HELLO_MAX_MESSAGE, hello.max_message)
    value[at] = HELLO_PADDING
    value[at + 1] = 1
    value[at + 2] = hello.padding
    value[at + 3] = HELLO_WORKER
    value[at + 4] = 2
    value[at + 5] = hello.worker
    value[at + 6] = hello.n_workers
    value[at + 7] = HELLO_INSTANCE
    value[at + 8] = 8
    memcpy(value + at + 9, hello.instance, 8)
    at += 17
    if hello.has_terms:
        value[at] = HELLO_RELAY_TERMS
        value[at + 1] = 8
        store_be32(value + at + 2, hello.rate_kib)
        store_be32(value + at + 6, hello.burst_kib)
        at += 10
    if hello.n_services:
        value[at] = HELLO_SERVICES
        at += 1
        at += varint_put(value + at, 16 * <uint64_t>hello.n_services)
        memcpy(value + at, hello.services, 16 * <size_t>hello.n_services)
        at += 16 * <int>hello.n_services
    dst[0] = FRAME_HELLO
    head = 1 + varint_put(dst + 1, at)
    memcpy(dst + head, value, at)
    return head + at


cdef int frame_put_empty_hello(uint8_t *dst) noexcept nogil:
    dst[0] = FRAME_HELLO
    dst[1] = 0
    return 2


cdef int entry_number(uint64_t *value, const uint8_t *src, size_t len) noexcept nogil:
    cdef int n = varint_get(src, len, value)
    return n if n < 0 else OK if <size_t>n == len else E_FRAME


cdef int entry_services(hello_t *hello, const uint8_t *src, size_t len) noexcept nogil:
    if len % 16 or len > 16 * HELLO_SERVICES_MAX:
        return E_FRAME
    hello.n_services = <uint32_t>(len // 16)
    hello.services = src
    return OK


cdef int hello_entry(hello_t *hello, uint64_t id, const uint8_t *src, size_t len) noexcept nogil:
    if id == HELLO_SESSION_CREDIT:
        return entry_number(&hello.session_credit, src, len)
    if id == HELLO_MAX_SERVICE_STREAMS:
        return entry_number(&hello.max_service_streams, src, len)
    if id == HELLO_MAX_PIPES:
        return entry_number(&hello.max_pipes, src, len)
    if id == HELLO_MAX_MESSAGE:
        return entry_number(&hello.max_message, src, len)
    if id == HELLO_PADDING:
        if len != 1 or src[0] > PADDING_BLOCKS_LARGE:
            return E_FRAME
        hello.padding = src[0]
    elif id == HELLO_WORKER:
        if len != 2:
            return E_FRAME
        hello.worker = src[0]
        hello.n_workers = src[1]
    elif id == HELLO_INSTANCE:
        if len != 8:
            return E_FRAME
        memcpy(hello.instance, src, 8)
    elif id == HELLO_RELAY_TERMS:
        if len != 8:
            return E_FRAME
        hello.has_terms = 1
        hello.rate_kib = load_be32(src)
        hello.burst_kib = load_be32(src + 4)
    elif id == HELLO_SERVICES:
        return entry_services(hello, src, len)
    return OK


cdef int hello_parse(hello_t *hello, const uint8_t *src, size_t len) noexcept nogil:
    cdef size_t at = 0
    cdef uint64_t id, length, next_id = 0
    cdef int rc
    hello_defaults(hello)
    while at < len:
        rc = take_varint(src, len, &at, &id)
        if rc >= 0:
            rc = take_varint(src, len, &at, &length)
        if rc < 0:
            return rc
        if id < next_id:
            return E_FRAME
        if length > len - at:
            return E_SHORT
        rc = hello_entry(hello, id, src + at, <size_t>length)
        if rc < 0:
            return rc
        next_id = id + 1
        at += <size_t>length
    return OK


# Addresses

cdef bint is_utf8(const uint8_t *src, size_t len) noexcept nogil:
    """Strict UTF-8: shortest form, no surrogates, at most U+10FFFF (RFC 3629)."""
    cdef size_t i = 0
    cdef int n, k
    cdef uint32_t code
    while i < len:
        if src[i] < 0x80:
            i += 1
            continue
        n = 1 if src[i] >> 5 == 6 else 2 if src[i] >> 4 == 14 else 3 if src[i] >> 3 == 30 else 0
        if n == 0 or i + n >= len:
            return False
        code = src[i] & (0x3F >> n)
        for k in range(1, n + 1):
            if src[i + k] >> 6 != 2:
                return False
            code = (code << 6) | (src[i + k] & 0x3F)
        if code < (0x80 if n == 1 else 0x800 if n == 2 else 0x10000) or code > 0x10FFFF or code >> 11 == 27:
            return False
        i += n + 1
    return True


cdef bint is_name(const uint8_t *src, size_t len) noexcept nogil:
    """Printable ASCII: names in other scripts stand in their xn-- form."""
    cdef size_t i
    for i in range(len):
        if src[i] < 0x21 or src[i] > 0x7E:
            return False
    return len > 0


cdef int address_parse(address_t *address, const uint8_t *src, size_t len) noexcept nogil:
    cdef size_t n
    memset(address, 0, sizeof(address_t))
    if len < 2:
        return E_SHORT
    address.type = src[0]
    if address.type == ADDRESS_IP4 or address.type == ADDRESS_IP6:
        n = 4 if address.type == ADDRESS_IP4 else 16
        if len < 1 + n + 2:
            return E_SHORT
        memcpy(address.ip, src + 1, n)
        n += 1
    elif address.type == ADDRESS_NAME:
        address.name_len = src[1]
        n = 2 + <size_t>address.name_len
        if len < n + 2:
            return E_SHORT
        address.name = src + 2
        if not is_name(address.name, address.name_len):
            return E_ADDRESS
    else:
        return E_ADDRESS
    address.port = <uint16_t>load_be16(src + n)
    return <int>n + 2 if address.port else E_ADDRESS


cdef int address_put(uint8_t *dst, const address_t *address) noexcept nogil:
    cdef int n
    dst[0] = address.type
    if address.type == ADDRESS_NAME:
        dst[1] = address.name_len
        memcpy(dst + 2, address.name, address.name_len)
        n = 2 + address.name_len
    else:
        n = 4 if address.type == ADDRESS_IP4 else 16
        memcpy(dst + 1, address.ip, n)
        n += 1
    store_be16(dst + n, address.port)
    return n + 2


cdef int open_relay_parse(open_relay_t *relay, const uint8_t *src, size_t len) noexcept nogil:
    cdef size_t at = 65
    cdef uint32_t i
    cdef int n
    if len < 65:
        return E_SHORT
    relay.link_key = src
    relay.peer_id = src + 32
    relay.n_addresses = src[64]
    if relay.n_addresses < 1 or relay.n_addresses > RELAY_ADDRESSES_MAX:
        return E_FRAME
    for i in range(relay.n_addresses):
        n = address_parse(&relay.addresses[i], src + at, len - at)
        if n < 0:
            return n
        if relay.addresses[i].type == ADDRESS_NAME:
            return E_ADDRESS
        at += n
    return OK if at == len else E_LONG


cdef int open_relay_put(uint8_t *dst, const open_relay_t *relay) noexcept nogil:
    cdef int at = 65
    cdef uint32_t i
    memcpy(dst, relay.link_key, 32)
    memcpy(dst + 32, relay.peer_id, 32)
    dst[64] = <uint8_t>relay.n_addresses
    for i in range(relay.n_addresses):
        at += address_put(dst + at, &relay.addresses[i])
    return at


# Padding

cdef size_t padded_len(size_t len, int padding) noexcept nogil:
    cdef int e, s
    cdef size_t mask
    if padding == PADDING_NONE:
        return len
    if padding == PADDING_BLOCKS_LARGE:
        return INNER_MAX
    if padding == PADDING_BLOCKS_SMALL:
        return min(<size_t>INNER_MAX, (max(len, <size_t>1) + 1023) & ~<size_t>1023)
    if len <= 1024:
        return 64 if len <= 64 else 128 if len <= 128 else 256 if len <= 256 else 512 if len <= 512 else 1024
    e = log2_floor(len)
    s = log2_floor(e) + 1
    mask = (<size_t>1 << (e - s)) - 1
    return min(<size_t>INNER_MAX, (len + mask) & ~mask)


# The face for tests and fuzzers

def parse_frame(bytes data not None):
    """Parse the first frame of `data`: (bytes read, fields as a dict), or (negative status code, None)."""
    cdef frame_t frame
    cdef bytearray copy = bytearray(data)
    cdef int rc
    memset(&frame, 0, sizeof(frame))
    rc = frame_parse(&frame, <uint8_t *><char *>copy, len(copy))
    if rc < 0:
        return rc, None
    body = (<char *>frame.data)[:frame.len] if frame.data is not NULL else b""
    return rc, {"type": frame.type, "id": frame.id, "offset": frame.offset, "reason": frame.reason, "kind": frame.kind,
                "priority": frame.priority, "data": body}


def parse_hello(bytes data not None):
    """Parse the value of a HELLO frame: a dict, or a negative status code."""
    cdef hello_t hello
    cdef int rc = hello_parse(&hello, data, len(data))
    if rc < 0:
        return rc
    return {"session_credit": hello.session_credit, "max_service_streams": hello.max_service_streams,
            "max_pipes": hello.max_pipes, "max_message": hello.max_message, "padding": hello.padding,
            "worker": hello.worker, "n_workers": hello.n_workers, "instance": bytes(hello.instance[:8]),
            "terms": (hello.rate_kib, hello.burst_kib) if hello.has_terms else None,
            "services": [hello.services[16 * i:16 * i + 16] for i in range(hello.n_services)]}


def parse_varint(bytes data not None):
    """Parse the varint at the front of `data`: (bytes read, value), or (negative status code, None)."""
    cdef uint64_t value = 0
    cdef int rc = varint_get(data, len(data), &value)
    return (rc, None) if rc < 0 else (rc, value)


def build_varint(uint64_t value):
    """Build the shortest varint; `value` is below 2^62."""
    cdef uint8_t[VARINT_MAX] out
    cdef int n = varint_put(out, value)
    return (<char *>out)[:n]


def build_data(uint64_t id, bytes data not None, int type=FRAME_DATA):
    """Build a DATA or DATA_FIN frame."""
    cdef uint8_t[DATA_HEAD_MAX] head
    cdef int n = frame_put_data_head(head, id, len(data), type)
    return (<char *>head)[:n] + data


def build_open(uint64_t id, int kind, int priority, uint64_t credit, bytes data not None):
    """Build an OPEN frame."""
    cdef bytearray out = bytearray(len(data) + 64)
    cdef int n = frame_put_open(<uint8_t *><char *>out, id, kind, priority, credit, data, len(data))
    return bytes(out[:n])


def build_offset(int type, uint64_t id, uint64_t offset):
    """Build an ACCEPT, CREDIT or SESSION_CREDIT frame; the last has no id."""
    cdef uint8_t[CONTROL_FRAME_MAX] out
    cdef int n
    if type == FRAME_SESSION_CREDIT:
        n = frame_put_session_credit(out, offset)
    else:
        n = frame_put_offset(out, type, id, offset)
    return (<char *>out)[:n]


def build_reset(uint64_t id, uint64_t reason, uint64_t sent):
    """Build a RESET frame."""
    cdef uint8_t[CONTROL_FRAME_MAX] out
    cdef int n = frame_put_reset(out, id, reason, sent)
    return (<char *>out)[:n]


def build_ping(int type, uint64_t token):
    """Build a PING or PONG frame."""
    cdef uint8_t[CONTROL_FRAME_MAX] out
    cdef int n = frame_put_ping(out, type, token)
    return (<char *>out)[:n]


def build_grease(bytes random24 not None):
    """Build a frame that means nothing from 24 random bytes."""
    cdef uint8_t[CONTROL_FRAME_MAX] out
    cdef int n
    if len(random24) != GREASE_RANDOM_LEN:
        raise ValueError(f"random24 has {GREASE_RANDOM_LEN} bytes, not {len(random24)}")
    n = frame_put_grease(out, random24)
    return (<char *>out)[:n]


def build_close(uint64_t reason, bytes text not None):
    """Build a CLOSE frame; ValueError for a text above 64 bytes."""
    cdef uint8_t[CLOSE_TEXT_MAX + 16] out
    cdef int n
    if len(text) > CLOSE_TEXT_MAX:
        raise ValueError("the text of CLOSE has at most 64 bytes")
    n = frame_put_close(out, reason, text, len(text))
    return (<char *>out)[:n]


def build_hello(dict fields=None):
    """Build a HELLO frame from what `parse_hello` gives; None for an empty one."""
    cdef uint8_t[4 + HELLO_MAX] out
    cdef hello_t hello
    cdef bytes instance, services
    cdef int n
    if fields is None:
        n = frame_put_empty_hello(out)
        return (<char *>out)[:n]
    memset(&hello, 0, sizeof(hello))
    hello.session_credit = fields["session_credit"]
    hello.max_service_streams = fields["max_service_streams"]
    hello.max_pipes = fields["max_pipes"]
    hello.max_message = fields["max_message"]
    hello.padding, hello.worker, hello.n_workers = fields["padding"], fields["worker"], fields["n_workers"]
    instance, services = fields["instance"], b"".join(fields["services"])
    if len(instance) != 8 or len(services) > 16 * HELLO_SERVICES_MAX or len(services) % 16:
        raise ValueError("an instance has 8 bytes, a service 16, and there are at most 250 of them")
    memcpy(hello.instance, <const uint8_t *>instance, 8)
    hello.services = services
    hello.n_services = len(services) // 16
    if fields["terms"] is not None:
        hello.has_terms = 1
        hello.rate_kib, hello.burst_kib = fields["terms"]
    n = frame_put_hello(out, &hello)
    return (<char *>out)[:n]


cdef tuple address_tuple(const address_t *address):
    if address.type == ADDRESS_NAME:
        return address.type, address.name[:address.name_len], address.port
    return address.type, address.ip[:4 if address.type == ADDRESS_IP4 else 16], address.port


cdef int address_fill(address_t *address, tuple fields) except -1:
    cdef bytes host
    memset(address, 0, sizeof(address_t))
    address.type, host, address.port = fields
    if address.type == ADDRESS_NAME:
        address.name, address.name_len = host, len(host)
        return 0
    if len(host) != (4 if address.type == ADDRESS_IP4 else 16):
        raise ValueError("an address has 4 or 16 bytes")
    memcpy(address.ip, <const uint8_t *>host, len(host))
    return 0


def parse_address(bytes data not None):
    """Parse the address at the front of `data`: (bytes read, (type, host, port)), or (negative status code, None)."""
    cdef address_t address
    cdef int rc = address_parse(&address, data, len(data))
    return (rc, None) if rc < 0 else (rc, address_tuple(&address))


def build_address(tuple fields not None):
    """Build an address from (type, host, port)."""
    cdef uint8_t[ADDRESS_MAX] out
    cdef address_t address
    cdef int n
    address_fill(&address, fields)
    n = address_put(out, &address)
    return (<char *>out)[:n]


def parse_open_relay(bytes data not None):
    """Parse the bytes of OPEN(relay): (link key, PeerID, [(type, ip, port)]), or a negative status code."""
    cdef open_relay_t relay
    cdef int rc = open_relay_parse(&relay, data, len(data))
    if rc < 0:
        return rc
    return (relay.link_key[:32], relay.peer_id[:32],
            [address_tuple(&relay.addresses[i]) for i in range(relay.n_addresses)])


def build_open_relay(bytes link_key not None, bytes peer_id not None, list addresses not None):
    """Build the bytes of OPEN(relay) for up to four addresses."""
    cdef uint8_t[65 + 4 * ADDRESS_MAX] out
    cdef open_relay_t relay
    cdef int n
    if not (len(link_key) == len(peer_id) == 32 and len(addresses) <= RELAY_ADDRESSES_MAX):
        raise ValueError("a link key and a PeerID have 32 bytes, and there are at most four addresses")
    relay.link_key, relay.peer_id, relay.n_addresses = link_key, peer_id, len(addresses)
    for n in range(<int>relay.n_addresses):
        address_fill(&relay.addresses[n], addresses[n])
    n = open_relay_put(out, &relay)
    return (<char *>out)[:n]


def pad_length(size_t length, int padding):
    """Return the inner length after padding."""
    return padded_len(length, padding)
