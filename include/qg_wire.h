/* SPDX-License-Identifier: MIT */
/* The numbers of qg's wire protocol, version 1, for programs that are not Python: docs/protocol.md, section 7.
 *
 * Constants and two inline functions, no library behind them. tests/native compiles this header and holds it against the node. */
#ifndef QG_WIRE_H
#define QG_WIRE_H

#include <stddef.h>
#include <stdint.h>

enum qg_frame {
    QG_FRAME_PADDING = 0x00,
    QG_FRAME_PING = 0x01,
    QG_FRAME_PONG = 0x02,
    QG_FRAME_HELLO = 0x03,
    QG_FRAME_CLOSE = 0x04,
    QG_FRAME_OPEN = 0x08,
    QG_FRAME_ACCEPT = 0x09,
    QG_FRAME_DATA = 0x0a,
    QG_FRAME_DATA_FIN = 0x0b,
    QG_FRAME_CREDIT = 0x0c,
    QG_FRAME_RESET = 0x0d,
    QG_FRAME_SESSION_CREDIT = 0x0e,
    QG_FRAME_SERVICES = 0x10,
    QG_FRAME_PEERS = 0x11,
    QG_FRAME_OBSERVED = 0x12,
    QG_FRAME_COVER = 0x18,
    QG_FRAME_EPOCH = 0x20,
    QG_FRAME_REKEY1 = 0x21,
    QG_FRAME_REKEY2 = 0x22,
    QG_FRAME_REKEY_DONE = 0x23
};

enum qg_stream_kind { QG_STREAM_BYTES = 0, QG_STREAM_MESSAGES = 1, QG_STREAM_PIPE = 2, QG_STREAM_RELAY = 3 };

enum qg_priority { QG_PRIORITY_EXPEDITED = 0, QG_PRIORITY_NORMAL = 1, QG_PRIORITY_DELAYED = 2 };

enum qg_suite { QG_SUITE_CHACHA20_POLY1305 = 1, QG_SUITE_AES_256_GCM = 2, QG_SUITE_AEGIS_256 = 4 };

enum qg_reason {
    QG_REASON_NONE = 0,
    QG_REASON_PROTOCOL = 1,
    QG_REASON_INTERNAL = 2,
    QG_REASON_SHUTDOWN = 3,
    QG_REASON_REFUSED = 4,
    QG_REASON_UNREACHABLE = 5,
    QG_REASON_BUSY = 6,
    QG_REASON_LIMIT = 7,
    QG_REASON_UNSUPPORTED = 8,
    QG_REASON_TIMEOUT = 9,
    QG_REASON_MEMORY = 10,
    QG_REASON_SLOW_READER = 11,
    QG_REASON_HOPS = 12,
    QG_REASON_DUPLICATE = 13,
    QG_REASON_IDLE = 14,
    QG_REASON_REKEY = 15,
    QG_REASON_CANCELLED = 16
};

enum qg_length {
    QG_INNER_MAX = 16384,        /* plaintext of a record */
    QG_RECORD_HEAD_LEN = 2,      /* masked length before each record */
    QG_ENVELOPE_HEAD_LEN = 80,   /* what a responder reads first */
    QG_ENVELOPE_MAX = 3543,      /* bytes of the longest handshake flight */
    QG_PIPE_FLIGHT_LEN = 2048,   /* every flight on a pipe */
    QG_CERT_LEN = 108,
    QG_HELLO_MAX = 4096
};

/* Write a QUIC varint (RFC 9000, section 16) of a value below 2^62 to dst, which has room for 8 bytes. Returns 1, 2, 4 or 8. */
static inline int qg_varint_put(uint8_t *dst, uint64_t value) {
    int n = value < 64 ? 1 : value < 16384 ? 2 : value < 1073741824 ? 4 : 8;
    for (int i = n - 1; i >= 0; i--, value >>= 8)
        dst[i] = (uint8_t)value;
    dst[0] |= (uint8_t)(n == 1 ? 0x00 : n == 2 ? 0x40 : n == 4 ? 0x80 : 0xc0);
    return n;
}

/* Read a minimal varint from len bytes. Returns the bytes read, 0 when there are too few, -1 when it is not minimal. */
static inline int qg_varint_get(const uint8_t *src, size_t len, uint64_t *value) {
    if (len == 0)
        return 0;
    int n = 1 << (src[0] >> 6);
    if ((size_t)n > len)
        return 0;
    uint64_t read = src[0] & 0x3f;
    for (int i = 1; i < n; i++)
        read = (read << 8) | src[i];
    *value = read;
    return (n == 2 && read < 64) || (n == 4 && read < 16384) || (n == 8 && read < 1073741824) ? -1 : n;
}

#endif
