# SPDX-License-Identifier: MIT
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
"""Cut the bytes of a message stream into messages."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from .fork cimport forks_count, forks_watch
from .status cimport E_LENGTH, E_NONZERO, E_SHORT, OK, REASON_LIMIT, REASON_NONE, REASON_PROTOCOL
from .wire cimport varint_get, varint_len, varint_put

cdef extern from "pythread.h":
    unsigned long PyThread_get_thread_ident() noexcept

if forks_watch() != 0:
    raise MemoryError


class Packed(bytes):
    """Be a message as zstd has made it."""

    __slots__ = ()


cdef class MessageReader:
    """Collect the messages of one stream; bytes may arrive in pieces of any size."""

    def __cinit__(self, size_t limit):
        self.limit = limit

    @property
    def reason(self):
        """Say why the stream must be reset; 0 while all is well."""
        return REASON_NONE if self.code == OK else REASON_LIMIT if self.code == E_LENGTH else REASON_PROTOCOL

    @property
    def n_pending(self):
        """Count the bytes of the message that is not whole yet, those of its head included."""
        return self.have if self.body is None else self.have + varint_len(self.body_len) + 1

    cdef int take_head(self, const uint8_t *src, size_t len, size_t *length) noexcept:
        cdef uint64_t value = 0
        cdef int n = varint_get(src, len, &value)
        if n < 0:
            return n
        if value > self.limit:
            return E_LENGTH
        if <size_t>n == len:
            return E_SHORT
        if src[n] & ~MESSAGE_PACKED:
            return E_NONZERO
        self.is_packed = src[n] == MESSAGE_PACKED
        length[0] = <size_t>value
        return n + 1

    def feed(self, bytes data not None):
        """Take the next bytes of the stream; give the messages that became whole.

        After a violation, which `reason` tells, it takes nothing more.
        """
        cdef const uint8_t *src = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef size_t len = <size_t>PyBytes_GET_SIZE(data)
        cdef size_t at = 0, n, before
        cdef int rc
        cdef list messages = []
        while at < len and self.code == OK:
            if self.body is None:
                before = self.have
                if before:      # a head in pieces: complete it in `head`
                    n = min(<size_t>MESSAGE_HEAD_MAX - before, len - at)
                    memcpy(&self.head[0] + before, src + at, n)
                    rc = self.take_head(&self.head[0], before + n, &self.body_len)
                else:
                    n = len - at
                    rc = self.take_head(src + at, n, &self.body_len)
                if rc == E_SHORT:
                    if not before:
                        memcpy(&self.head[0], src + at, n)
                    self.have = before + n
                    break
                if rc < 0:
                    self.code = rc
                    break
                at += <size_t>rc - before
                self.have = 0
                if self.body_len <= len - at and not self.is_packed:
                    messages.append(PyBytes_FromStringAndSize(<const char *>src + at, <Py_ssize_t>self.body_len))
                    at += self.body_len
                    continue
                self.body = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>self.body_len)
                self.place = <uint8_t *>PyBytes_AS_STRING(self.body)
            n = min(self.body_len - self.have, len - at)
            memcpy(self.place + self.have, src + at, n)
            self.have += n
            at += n
            if self.have == self.body_len:
                self.body_done(messages)
        return messages

    cdef int body_done(self, list messages) except -1:
        messages.append(Packed(self.body) if self.is_packed else self.body)
        self.has_packed = self.has_packed or self.is_packed
        self.body = None
        self.have = 0
        return 0


cdef inline int head_put(uint8_t *place, uint64_t length, uint8_t flags) noexcept:
    cdef int n = varint_put(place, length)
    place[n] = flags
    return n + 1


def message_head(uint64_t length, bint is_packed=False):
    """Give what stands before a message of `length` bytes, as they go out."""
    cdef uint8_t[MESSAGE_HEAD_MAX] head
    cdef int n = head_put(head, length, MESSAGE_PACKED if is_packed else 0)
    return PyBytes_FromStringAndSize(<const char *>head, n)


def messages_take(object messages, Py_ssize_t limit):
    """Make a list of bytes objects of messages, and give the index of the first that is longer than `limit`, or -1.

    Raises TypeError for what is not bytes.
    """
    cdef list taken = list(messages)
    cdef Py_ssize_t idx, too_long = -1
    for idx in range(len(taken)):
        if type(taken[idx]) is not bytes:
            taken[idx] = memoryview(taken[idx]).tobytes()
        if too_long < 0 and PyBytes_GET_SIZE(taken[idx]) > limit:
            too_long = idx
    return taken, too_long


def messages_pack(list messages not None, Py_ssize_t start, Py_ssize_t room):
    """Write the bytes objects from `start` on with their heads: as many as `room` bytes hold, but at least one.

    Returns the bytes, and the index of the first message that is not among them.
    """
    cdef Py_ssize_t idx = start, n, total = 0
    cdef bytes packed, message
    cdef uint8_t *place
    while idx < len(messages):
        message = messages[idx]
        n = PyBytes_GET_SIZE(message)
        n += varint_len(n) + 1
        if total + n > room and idx > start:
            break
        total += n
        idx += 1
    packed = PyBytes_FromStringAndSize(NULL, total)
    place = <uint8_t *>PyBytes_AS_STRING(packed)
    for message in messages[start:idx]:
        n = PyBytes_GET_SIZE(message)
        place += head_put(place, n, 0)
        memcpy(place, PyBytes_AS_STRING(message), n)
        place += n
    return packed, idx


cdef class Collector:
    """Collect short messages for one extender and priority during a turn of the event loop, to hand them over together.

    Open, it takes them from the thread that opened it, and in a forked child none.
    """

    def __cinit__(self, extender_id, priority, Py_ssize_t longest, Py_ssize_t room):
        self.extender_id = extender_id
        self.priority = priority
        self.messages = []
        self.longest = longest
        self.room = room

    def open(self):
        """Take messages from now on."""
        self.is_open = True
        self.thread = PyThread_get_thread_ident()
        self.n_forks = forks_count()

    def close(self):
        """Take no more; what is here stays."""
        self.is_open = False

    cdef bint push(self, bytes message) noexcept:
        cdef Py_ssize_t n = PyBytes_GET_SIZE(message)
        cdef Py_ssize_t len = self.len + n + varint_len(n) + 1
        if not self.is_open or n > self.longest or len > self.room:
            return False
        if self.thread != PyThread_get_thread_ident() or self.n_forks != forks_count():
            return False
        self.messages.append(message)
        self.len = len
        return True

    def add(self, bytes message not None):
        """Take a message; False when it must go another way."""
        return self.push(message)

    def add_for(self, extender_id, message, priority):
        """Take a message if these very objects say where it goes; False when it must go another way."""
        if extender_id is not self.extender_id or priority is not self.priority or type(message) is not bytes:
            return False
        return self.push(<bytes>message)

    def take(self):
        """Give the bytes of all that is here, b"" for nothing, and forget it."""
        packed, _ = messages_pack(self.messages, 0, self.room)
        self.messages.clear()
        self.len = 0
        return packed
