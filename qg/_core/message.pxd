# SPDX-License-Identifier: MIT
"""Messages in the bytes of a stream: `v length | u8 flags | bytes` (protocol.md 7).

The bytes go straight into the Python objects that the application gets, so the owner class does the work under the GIL.
"""
from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    MESSAGE_HEAD_MAX = 9        # varint 8, flags 1
    MESSAGE_PACKED = 1          # flag: zstd

cdef class MessageReader:
    cdef size_t limit           # longest message taken, in bytes
    cdef bytes body             # message being filled; None between messages and inside a head
    cdef uint8_t *place         # of `body`, borrowed; where its bytes go
    cdef size_t body_len        # bytes that `body` will have
    cdef size_t have            # of them here already; inside a head: bytes in `head`
    cdef uint8_t[9] head        # an incomplete head
    cdef bint is_packed         # the message being filled; it comes out as Packed
    cdef readonly bint has_packed   # one of those that came was
    cdef int code               # OK, or what the peer did wrong: E_LENGTH, E_VARINT, E_NONZERO

    cdef int body_done(self, list messages) except -1       # `body` is whole

    cdef int take_head(self, const uint8_t *src, size_t len, size_t *length) noexcept
        # bytes of a whole head at src and the message's length; E_SHORT, or what is wrong with it

cdef class Collector:
    cdef object extender_id     # compared by identity
    cdef object priority
    cdef list messages          # bytes objects
    cdef Py_ssize_t longest     # of the messages that are taken, in bytes
    cdef Py_ssize_t room        # bytes that are handed over together, heads included
    cdef Py_ssize_t len         # of `messages`, heads included
    cdef readonly bint is_open
    cdef unsigned long thread   # that opened it
    cdef uint64_t n_forks       # when it did

    cdef bint push(self, bytes message) noexcept    # False: closed, too long, no room, or not the thread that opened it
