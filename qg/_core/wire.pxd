# SPDX-License-Identifier: MIT
"""Every byte layout inside a record: frames, HELLO, OPEN, addresses (protocol.md 7). Parse and build, no state.

Parsers get the length first and never read behind it; pointers in what they fill in borrow from the source. Builders
write to `dst`, which must have room (the `*_MAX` of each), and return the number of bytes written.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum frame_type_t:
    FRAME_PADDING = 0x00
    FRAME_PING = 0x01
    FRAME_PONG = 0x02
    FRAME_HELLO = 0x03
    FRAME_CLOSE = 0x04
    FRAME_OPEN = 0x08
    FRAME_ACCEPT = 0x09
    FRAME_DATA = 0x0a
    FRAME_DATA_FIN = 0x0b
    FRAME_CREDIT = 0x0c
    FRAME_RESET = 0x0d
    FRAME_SESSION_CREDIT = 0x0e
    FRAME_SERVICES = 0x10
    FRAME_PEERS = 0x11
    FRAME_OBSERVED = 0x12
    FRAME_COVER = 0x18
    FRAME_EPOCH = 0x20
    FRAME_REKEY1 = 0x21
    FRAME_REKEY2 = 0x22
    FRAME_REKEY_DONE = 0x23
    FRAME_GREASE = 0x40         # any type from here up is skipped

cdef enum stream_kind_t:
    STREAM_BYTES = 0
    STREAM_MESSAGES = 1
    STREAM_PIPE = 2
    STREAM_RELAY = 3
    N_STREAM_KINDS = 4

cdef enum priority_t:
    PRIORITY_EXPEDITED = 0
    PRIORITY_NORMAL = 1
    PRIORITY_DELAYED = 2
    N_PRIORITIES = 3

cdef enum hello_entry_t:
    HELLO_SESSION_CREDIT = 1
    HELLO_MAX_SERVICE_STREAMS = 2
    HELLO_MAX_PIPES = 3
    HELLO_MAX_MESSAGE = 4
    HELLO_PADDING = 5
    HELLO_WORKER = 6
    HELLO_INSTANCE = 7
    HELLO_RELAY_TERMS = 8
    HELLO_SERVICES = 9

cdef enum padding_t:
    PADDING_NONE = 0
    PADDING_LIGHT = 1
    PADDING_BLOCKS_SMALL = 2
    PADDING_BLOCKS_LARGE = 3

cdef enum:
    VARINT_MAX = 8
    REKEY1_LEN = 1272
    REKEY2_LEN = 1176
    CLOSE_TEXT_MAX = 64
    HELLO_SERVICES_MAX = 250
    ADDRESS_MAX = 260
    RELAY_ADDRESSES_MAX = 4
    CONTROL_FRAME_MAX = 32      # any frame of ids, offsets and reasons only, and GREASE
    GREASE_RANDOM_LEN = 24      # random bytes that one GREASE frame takes
    DATA_HEAD_MAX = 17          # type 1, id 8, length 8
    ADDRESS_NAME = 1
    ADDRESS_IP4 = 4
    ADDRESS_IP6 = 6

ctypedef struct frame_t:
    uint64_t type
    uint64_t id                 # stream; PING and PONG: the 8 bytes
    uint64_t offset             # ACCEPT, CREDIT, SESSION_CREDIT, RESET: absolute bytes; OPEN: credit to the acceptor
    uint64_t reason             # CLOSE, RESET; unknown ones read as 0
    uint8_t kind                # OPEN
    uint8_t priority            # OPEN
    uint8_t *data               # DATA, HELLO, CLOSE text, OPEN bytes, REKEY, SERVICES, PEERS, OBSERVED: borrows
    size_t len                  # bytes at data

ctypedef struct hello_t:
    uint64_t session_credit
    uint64_t max_service_streams
    uint64_t max_pipes
    uint64_t max_message
    uint8_t padding             # padding_t
    uint8_t worker
    uint8_t n_workers
    uint8_t has_terms
    uint8_t instance[8]
    uint32_t rate_kib           # relay terms, KiB/s
    uint32_t burst_kib
    uint32_t n_services
    const uint8_t *services     # n_services x 16 bytes; borrows

ctypedef struct address_t:
    uint8_t type                # ADDRESS_NAME, ADDRESS_IP4, ADDRESS_IP6
    uint8_t name_len
    uint16_t port
    uint8_t ip[16]
    const uint8_t *name         # borrows

ctypedef struct open_relay_t:
    const uint8_t *link_key     # 32, borrows
    const uint8_t *peer_id      # 32, borrows
    uint32_t n_addresses
    address_t addresses[RELAY_ADDRESSES_MAX]

cdef inline int varint_len(uint64_t value) noexcept nogil:
    return 1 if value < 64 else 2 if value < 16384 else 4 if value < 1073741824 else 8

cdef int varint_put(uint8_t *dst, uint64_t value) noexcept nogil                    # 1, 2, 4 or 8; value < 2^62
cdef int varint_get(const uint8_t *src, size_t len, uint64_t *value) noexcept nogil
    # bytes read, E_SHORT, E_VARINT when not minimal

cdef int frame_parse(frame_t *frame, uint8_t *src, size_t len) noexcept nogil
    # bytes of the first frame, or E_SHORT, E_LONG, E_VARINT, E_FRAME, E_NONZERO; PADDING takes the whole rest
cdef const uint8_t *services_read(const uint8_t *src, uint32_t *n_added, uint32_t *n_removed,
                                  const uint8_t **removed) noexcept nogil
    # the lists of a SERVICES frame that was parsed; they borrow from `src`, its `data`
cdef int frame_put_data_head(uint8_t *dst, uint64_t id, size_t len, int type) noexcept nogil
cdef int frame_put_open(uint8_t *dst, uint64_t id, int kind, int priority, uint64_t credit,
                        const uint8_t *data, size_t len) noexcept nogil
cdef int frame_put_offset(uint8_t *dst, int type, uint64_t id, uint64_t offset) noexcept nogil  # ACCEPT, CREDIT
cdef int frame_put_session_credit(uint8_t *dst, uint64_t offset) noexcept nogil
cdef int frame_put_reset(uint8_t *dst, uint64_t id, uint64_t reason, uint64_t sent) noexcept nogil
cdef int frame_put_ping(uint8_t *dst, int type, uint64_t token) noexcept nogil                  # PING, PONG
cdef int frame_put_grease(uint8_t *dst, const uint8_t *random24) noexcept nogil
    # a frame that means nothing
cdef int frame_put_close(uint8_t *dst, uint64_t reason, const uint8_t *text, size_t len) noexcept nogil
cdef int frame_put_hello(uint8_t *dst, const hello_t *hello) noexcept nogil                     # at most 4 + HELLO_MAX
cdef int frame_put_empty_hello(uint8_t *dst) noexcept nogil

cdef void hello_defaults(hello_t *hello) noexcept nogil
cdef int hello_parse(hello_t *hello, const uint8_t *src, size_t len) noexcept nogil
    # the value of a HELLO frame; absent = default

cdef int address_parse(address_t *address, const uint8_t *src, size_t len) noexcept nogil
    # bytes read or E_ADDRESS, E_SHORT
cdef int address_put(uint8_t *dst, const address_t *address) noexcept nogil                 # at most ADDRESS_MAX
cdef int open_relay_parse(open_relay_t *relay, const uint8_t *src, size_t len) noexcept nogil
cdef int open_relay_put(uint8_t *dst, const open_relay_t *relay) noexcept nogil

cdef void frame_put_cover(uint8_t *dst, size_t len) noexcept nogil  # len bytes that say nothing, at least 1
cdef size_t padded_len(size_t len, int padding) noexcept nogil
    # inner length after padding (protocol.md 4.6), at most INNER_MAX
