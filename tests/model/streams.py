# SPDX-License-Identifier: MIT
"""A stream with its absolute credit (section 7), and the three things that can sit at its end.

Inbox: an application that reads. Carried: a session that runs inside the stream (section 6). Splice: a stream of
another session, to which everything is passed on with the same byte positions (sections 6.2, 6.4).
"""

from collections import deque

from .frames import KIND_BYTES, KIND_MESSAGES, REASON, Open, reason_known

WINDOW = 65536
SERVICE_EARLY = 16384  # bytes the opener may send before ACCEPT on kinds 0 and 1
CIRCUIT_EARLY = 4096  # on kinds 2 and 3
SPLICE_REASONS = (
    *("none", "protocol", "refused", "unreachable", "busy", "limit", "timeout", "memory", "slow_reader", "hops"),
)


class Stream:
    def __init__(self, opened: Open, opener: str) -> None:
        self.opened = opened
        self.id = opened.id
        self.kind = opened.kind
        self.is_ours = opener == "us"
        early = SERVICE_EARLY if self.is_service else CIRCUIT_EARLY
        self.send_limit = early if self.is_ours else opened.credit
        self.recv_limit = opened.credit if self.is_ours else early
        self.is_accepted = False
        self.n_sent = self.n_received = self.n_consumed = 0
        self.chunks: deque[bytes] = deque()  # outgoing, not yet in a DATA frame
        self.fin_queued = self.fin_sent = self.fin_received = False
        self.reset_reason: int | None = None
        self.receiver: Inbox | Carried | Splice = Inbox()

    @property
    def is_service(self) -> bool:
        return self.kind in (KIND_BYTES, KIND_MESSAGES)

    @property
    def is_closed(self) -> bool:
        return self.reset_reason is not None or (self.fin_sent and self.fin_received)

    @property
    def room(self) -> int:
        """Bytes that may still be queued without going over the peer's credit."""
        return self.send_limit - self.n_sent - sum(map(len, self.chunks))


class Inbox:
    """Holds what the application has not read yet; credit comes back when it reads."""

    def __init__(self) -> None:
        self.data = bytearray()

    def received(self, data: bytes) -> None:
        self.data += data

    def credited(self, offset: int) -> None:
        pass

    def finished(self) -> None:
        pass

    def was_reset(self, reason: int) -> None:
        pass

    def flush(self) -> None:
        pass


class Carried:
    """Runs `inner`, a session, inside `stream` of `outer`. Consumes at once and returns the credit at once (6.4)."""

    def __init__(self, outer, stream: Stream, inner) -> None:
        self.outer, self.stream, self.inner = outer, stream, inner

    def received(self, data: bytes) -> None:
        self.outer.stream_consume(self.stream, len(data))
        self.inner.receive(data)

    def credited(self, offset: int) -> None:
        pass

    def finished(self) -> None:
        self.inner.receive_eof()

    def was_reset(self, reason: int) -> None:
        self.inner.receive_eof()

    def flush(self) -> None:
        """Move what the inner session can say now into the stream; one flight or record is one DATA frame."""
        for chunk in self.inner.output(self.stream.room):
            self.stream.chunks.append(chunk)
        if self.inner.end == "fin" and not self.inner.control:
            self.stream.fin_queued = True
        elif self.inner.end == "reset" and not self.stream.is_closed:
            self.outer.stream_reset(self.stream, self.inner.end_reason)


class Splice:
    """One half of a splice: what arrives on `stream` of `peer` goes to `other_stream` of `other_peer`."""

    def __init__(self, peer, stream: Stream, other_peer, other_stream: Stream) -> None:
        self.peer, self.stream = peer, stream
        self.other_peer, self.other_stream = other_peer, other_stream

    def received(self, data: bytes) -> None:
        self.other_stream.chunks.append(data)

    def credited(self, offset: int) -> None:
        """Byte positions are equal on both sides, so the absolute offset is passed on as it is."""
        self.other_peer.stream_grant(self.other_stream, offset)

    def finished(self) -> None:
        self.other_stream.fin_queued = True

    def was_reset(self, reason: int) -> None:
        allowed = [REASON[name] for name in SPLICE_REASONS]
        passed_on = reason_known(reason) if reason_known(reason) in allowed else REASON["none"]
        if not self.other_stream.is_closed:
            self.other_peer.stream_reset(self.other_stream, passed_on)

    def flush(self) -> None:
        pass


def splice(peer, stream: Stream, other_peer, other_stream: Stream) -> None:
    """Join a relay stream that was asked of `peer` to a pipe that was opened on `other_peer`, early bytes included."""
    if stream.receiver.data:
        other_stream.chunks.append(bytes(stream.receiver.data))
    stream.receiver = Splice(peer, stream, other_peer, other_stream)
    other_stream.receiver = Splice(other_peer, other_stream, peer, stream)
