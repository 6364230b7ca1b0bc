# SPDX-License-Identifier: MIT
"""A sans-IO peer: bytes in by `receive`, bytes out by `output`, frames listed in `received` and by record in `records`.

It has no timers: EPOCH, REKEY and PING are sent when the caller says so. What `end` says when the peer is done with its
carrier: "fin" (finish or close it), "reset" (with `end_reason`, on pipes), "sink" (3.8: read and discard, say nothing)
and "discard" (4.2: after a bad record, read and discard a while, then close).
"""

import dataclasses
from collections import deque
from collections.abc import Callable

from . import frames
from .envelope import KIND_NK1, KIND_XK1
from .errors import AuthError, BadRecord, HandshakeError, WireError
from .frames import REASON, Close, Data, DataFin, Hello, HelloValues, Open, Rekey1, Rekey2, RekeyDone
from .handshake import CARRIER_PIPE, CARRIER_TCP, Established, Initiator, Party, Responder
from .keys import Keys
from .packer import Packer, Sizes
from .streams import WINDOW, Carried, Inbox, Stream

FLIGHT_ERRORS = (AuthError, HandshakeError)
MIN_ROOM = 128
NK_FORBIDDEN = (frames.Services, frames.Peers, frames.Observed)


@dataclasses.dataclass
class Record:
    """A record that came: its inner length with all padding, and its frames."""

    length: int
    frames: list[object] = dataclasses.field(default_factory=list)


class ModelPeer:
    def __init__(self, handshake: Initiator | Responder, hello: HelloValues, sizes: Sizes) -> None:
        self.handshake = handshake
        self.party = handshake.party
        self.carrier = handshake.carrier
        self.hello = hello
        self.remote_hello: HelloValues | None = None
        self.keys: Keys | None = None
        self.end: str | None = None
        self.end_reason = 0
        self.failure: Exception | None = None
        self.received: list[object] = []
        self.records: list[Record] = []
        self.streams: dict[int, Stream] = {}
        self.handlers: dict[int, Callable[[ModelPeer, Stream], None]] = {}
        self.session_sent = self.session_received = self.session_consumed = 0
        self.session_send_limit = HelloValues().session_credit
        self.session_recv_limit = max(hello.session_credit, HelloValues().session_credit)
        self.control: deque[tuple[object, ...]] = deque()
        self.packer = Packer(self, sizes)
        self._buffer = bytearray()
        self._flights: list[bytes] = []
        self._last_id: dict[str, int] = {}
        self._closed_kinds: dict[int, int] = {}
        if isinstance(handshake, Initiator):
            self._flights.append(handshake.flight1())

    @property
    def established(self) -> Established | None:
        return self.handshake.established

    @property
    def is_connected(self) -> bool:
        """For an initiator the peer's HELLO is the key confirmation (3.5 step 8)."""
        return self.remote_hello is not None and self.end is None

    def receive(self, data: bytes) -> None:
        """Take bytes from the carrier, cut as they may be."""
        if self.end is not None:
            return
        self._buffer += data
        try:
            while self.end is None and (self._record_read() if self.keys else self._flight_read()):
                pass
        except FLIGHT_ERRORS as error:
            self._handshake_failed(error)
        except BadRecord as error:
            self._fail("discard", REASON["protocol"], error)
        except WireError as error:
            self.failure = error
            self.close(REASON["protocol"], str(error)[: frames.CLOSE_TEXT_MAX])

    def receive_eof(self) -> None:
        if self.end is None:
            self._finish("fin", 0)

    def _finish(self, end: str, reason: int) -> None:
        """Whatever ends a session ends what runs in its streams, and what they are spliced to."""
        self.end, self.end_reason = end, reason
        for stream in list(self.streams.values()):
            stream.receiver.was_reset(REASON["unreachable"])

    def _handshake_failed(self, error: Exception) -> None:
        if isinstance(self.handshake, Responder):
            self._fail("sink", REASON["refused"], error)
        else:
            self._fail("fin", REASON["protocol"], error)

    def _fail(self, end_on_tcp: str, reason_on_pipe: int, error: Exception) -> None:
        self.failure = error
        self._finish(end_on_tcp if self.carrier == CARRIER_TCP else "reset", reason_on_pipe)
        self._flights.clear()
        self.control.clear()

    def _flight_read(self) -> bool:
        answer = self.handshake.read(self._buffer)
        if answer is None:
            return False
        if answer:
            self._flights.append(answer)
        if self.established is not None:
            self._session_start(self.established)
        return True

    def _session_start(self, established: Established) -> None:
        self.role = established.role
        self.kind = established.kind
        self.keys = Keys(established, self.party.draw)
        own, other = (1, 2) if self.role == "initiator" else (2, 1)
        self._last_id = {"us": own - 2, "them": other - 2}
        waits = self.kind == KIND_NK1 and self.role == "responder"  # 3.4: nothing but M2 until a record has opened
        if not waits:
            self._hello_send()

    def _hello_send(self) -> None:
        is_source = self.kind == KIND_NK1 and self.role == "initiator"
        self.frame_send(Hello(()) if is_source else self.hello.frame())

    def _record_read(self) -> bool:
        recv = self.keys.recv
        if len(self._buffer) < 2:
            return False
        length = recv.length_unmask(bytes(self._buffer[:2]))
        if len(self._buffer) < 2 + length:
            return False
        inner = recv.open(bytes(self._buffer[2 : 2 + length]))
        del self._buffer[: 2 + length]
        record = Record(len(inner))
        self.records.append(record)
        if len(self.records) == 1 and self.kind == KIND_NK1 and self.role == "responder":
            self._hello_send()
        for frame in frames.frames_read(inner):
            record.frames.append(frame)
            self._frame_read(frame)
            if self.end is not None:
                return False
        self._record_done({type(frame) for frame in record.frames})
        return True

    def _record_done(self, held: set[type]) -> None:
        if Rekey2 in held and RekeyDone not in held:
            raise WireError("REKEY2 without REKEY_DONE in its record")
        if RekeyDone in held and frames.Epoch in held:
            raise WireError("REKEY_DONE in a record with EPOCH")
        self.keys.recv.record_done(frames.Epoch in held)
        if RekeyDone in held:
            self.keys.switch("recv")

    def _frame_read(self, frame: object) -> None:
        self.received.append(frame)
        if (self.remote_hello is None) != isinstance(frame, Hello):
            raise WireError("HELLO is the first frame and comes once")
        if self.kind == KIND_NK1 and isinstance(frame, NK_FORBIDDEN):
            raise WireError("not allowed in an NK layer")
        action = FRAME_ACTIONS.get(type(frame))
        if action is not None:
            action(self, frame)

    def _on_hello(self, frame: Hello) -> None:
        if self.kind == KIND_NK1 and self.role == "responder" and frame.entries:
            raise WireError("the HELLO of an NK initiator is empty")
        self.remote_hello = frames.hello_values(frame)
        if self.remote_hello.session_credit < self.session_send_limit:
            raise WireError("session credit fell")
        self.session_send_limit = self.remote_hello.session_credit

    def _on_ping(self, frame: frames.Ping) -> None:
        self.frame_send(frames.Pong(frame.data))

    def _on_close(self, frame: Close) -> None:
        self._finish("fin", frames.reason_known(frame.reason))
        self.control.clear()

    def _on_rekey1(self, frame: Rekey1) -> None:
        answer = self.keys.rekey1_read(frame)
        if answer is not None:
            self.control = deque(group for group in self.control if not isinstance(group[0], Rekey1))
            self.control.append(answer)

    def _on_rekey2(self, frame: Rekey2) -> None:
        self.control.appendleft((self.keys.rekey2_read(frame),))

    def _on_rekey_done(self, frame: RekeyDone) -> None:
        self.keys.done_check()

    def frame_send(self, frame: object) -> None:
        """Queue one frame; frames keep their order and go before DATA."""
        self.control.append((frame,))

    def ping(self, data: bytes) -> None:
        self.frame_send(frames.Ping(data))

    def epoch(self) -> None:
        self.frame_send(frames.Epoch())

    def rekey(self) -> None:
        self.frame_send(self.keys.rekey_start())

    def close(self, reason: int = REASON["shutdown"], text: str = "") -> None:
        """CLOSE, then the end of the carrier. What was queued before goes out first."""
        if self.keys is not None:
            self.frame_send(Close(reason, text))
        self._finish("fin", reason)

    def output(self, room: int | None = None) -> list[bytes]:
        """Flights and records that the carrier takes whole; `room` is what it takes in bytes, None for no limit."""
        out: list[bytes] = []
        left = (1 << 62) if room is None else room
        for stream in list(self.streams.values()):
            stream.receiver.flush()
        while self._flights and len(self._flights[0]) <= left:
            out.append(self._flights.pop(0))
            left -= len(out[-1])
        while self.keys is not None and not self._flights and left >= MIN_ROOM:
            record = self.packer.record_next(left)
            if record is None:
                break
            out.append(record)
            left -= len(record)
        return out

    def output_bytes(self) -> bytes:
        return b"".join(self.output())

    def may_open(self, kind: int, opener: str) -> bool:
        """Section 3.4: which kinds of stream a session of this carrier and pattern has, by who opens."""
        if self.kind == KIND_NK1:
            initiator_opens = (opener == "us") == (self.role == "initiator")
            return kind == frames.KIND_RELAY and initiator_opens
        if self.carrier == CARRIER_PIPE:
            return kind in frames.SERVICE_KINDS
        return kind in (*frames.SERVICE_KINDS, frames.KIND_PIPE)

    def stream_open(
        self, kind: int, body: bytes, credit: int = WINDOW, priority: int = frames.PRIORITY_NORMAL
    ) -> Stream:
        """Open a stream; `body` as section 7 says for its kind."""
        self._last_id["us"] += 2
        opened = Open(self._last_id["us"], kind, priority, credit, body)
        stream = self.streams[opened.id] = Stream(opened, "us")
        self.frame_send(opened)
        return stream

    def stream_accept(self, stream: Stream, offset: int = WINDOW) -> None:
        stream.is_accepted = True
        stream.recv_limit = offset
        self.frame_send(frames.Accept(stream.id, offset))

    def stream_grant(self, stream: Stream, offset: int) -> None:
        """Give credit up to an absolute offset; the first grant of an acceptor is ACCEPT."""
        if stream.is_closed or stream.fin_received:
            return
        if not stream.is_ours and not stream.is_accepted:
            self.stream_accept(stream, offset)
        else:
            stream.recv_limit = offset
            self.frame_send(frames.Credit(stream.id, offset))

    def stream_write(self, stream: Stream, data: bytes) -> None:
        stream.chunks.append(data)

    def stream_finish(self, stream: Stream) -> None:
        stream.fin_queued = True

    def stream_read(self, stream: Stream) -> bytes:
        """Take everything from the inbox of a stream and return its credit."""
        data = bytes(stream.receiver.data)
        stream.receiver.data.clear()
        self.stream_consume(stream, len(data))
        return data

    def stream_consume(self, stream: Stream, length: int) -> None:
        """CREDIT and SESSION_CREDIT go out when half a window is unannounced."""
        stream.n_consumed += length
        if stream.n_consumed + WINDOW - stream.recv_limit >= WINDOW // 2 and not stream.is_closed:
            self.stream_grant(stream, stream.n_consumed + WINDOW)
        if stream.is_service:
            self._session_consume(length)

    def _session_consume(self, length: int) -> None:
        self.session_consumed += length
        window = self.hello.session_credit
        if self.session_consumed + window - self.session_recv_limit >= window // 2:
            self.session_recv_limit = self.session_consumed + window
            self.frame_send(frames.SessionCredit(self.session_recv_limit))

    def stream_reset(self, stream: Stream, reason: int) -> None:
        self.frame_send(frames.Reset(stream.id, reason, stream.n_sent))
        stream.reset_reason = reason
        self._stream_drop(stream)

    def stream_carry(self, stream: Stream, inner: "ModelPeer") -> "ModelPeer":
        """Run `inner` inside `stream`; from now on its output goes there."""
        early = bytes(stream.receiver.data)
        stream.receiver = Carried(self, stream, inner)
        if early:
            stream.receiver.received(early)
        return inner

    def _stream_drop(self, stream: Stream) -> None:
        """Forget a closed stream, but not its kind: late DATA of service streams still counts for the session.

        A reset also throws away what was not read, and returns its session credit.
        """
        if stream.reset_reason is not None and isinstance(stream.receiver, Inbox):
            if stream.is_service:
                self._session_consume(len(stream.receiver.data))
            stream.receiver.data.clear()
        self.streams.pop(stream.id, None)
        self._closed_kinds[stream.id] = stream.kind

    def stream_settle(self, stream: Stream) -> None:
        if stream.is_closed and stream.id in self.streams:
            self._stream_drop(stream)

    def _stream_find(self, stream_id: int) -> Stream | None:
        """None for an id that was open once, whose frames are ignored; WireError for one never opened (6.7)."""
        if stream_id in self.streams:
            return self.streams[stream_id]
        opener = "us" if stream_id % 2 == self._last_id["us"] % 2 else "them"
        if stream_id > self._last_id[opener]:
            raise WireError("frame for a stream that was never opened")
        return None

    def _on_open(self, frame: Open) -> None:
        if frame.id != self._last_id["them"] + 2:
            raise WireError("stream ids grow by exactly 2")
        self._last_id["them"] = frame.id
        stream = self.streams[frame.id] = Stream(frame, "them")
        refusal = self._open_refusal(frame)
        if refusal is not None:
            self.stream_reset(stream, REASON[refusal])
        elif frame.kind in self.handlers:
            self.handlers[frame.kind](self, stream)
        elif frame.kind in frames.SERVICE_KINDS:
            self.stream_accept(stream)
        else:
            self.stream_reset(stream, REASON["refused"])

    def _open_refusal(self, frame: Open) -> str | None:
        if not self.may_open(frame.kind, "them"):
            return "refused"
        theirs = [stream for stream in self.streams.values() if not stream.is_ours]
        if sum(stream.kind == frames.KIND_PIPE for stream in theirs) > self.hello.max_pipes:
            return "limit"
        if sum(stream.is_service for stream in theirs) > self.hello.max_service_streams:
            return "limit"
        if frame.kind == frames.KIND_PIPE and not 1 <= frame.body[0] <= 8:
            return "hops"
        return None

    def _on_accept(self, frame: frames.Accept) -> None:
        stream = self._stream_find(frame.id)
        if stream is None:
            return
        if not stream.is_ours or stream.is_accepted:
            raise WireError("ACCEPT of a stream that does not wait for it")
        stream.is_accepted = True
        self._credit_raise(stream, frame.offset)

    def _on_credit(self, frame: frames.Credit) -> None:
        stream = self._stream_find(frame.id)
        if stream is not None:
            self._credit_raise(stream, frame.offset)

    def _credit_raise(self, stream: Stream, offset: int) -> None:
        if offset < stream.send_limit:
            raise WireError("credit fell")
        stream.send_limit = offset
        stream.receiver.credited(offset)

    def _on_session_credit(self, frame: frames.SessionCredit) -> None:
        if frame.offset < self.session_send_limit:
            raise WireError("session credit fell")
        self.session_send_limit = frame.offset

    def _on_data(self, frame: Data | DataFin) -> None:
        stream = self._stream_find(frame.id)
        if stream is not None and stream.fin_received:
            raise WireError("DATA behind FIN")
        kind = stream.kind if stream else self._closed_kinds.get(frame.id)
        if kind in frames.SERVICE_KINDS:
            self.session_received += len(frame.data)
            if self.session_received > self.session_recv_limit:
                raise WireError("DATA over the session's credit")
        if stream is None:
            if kind in frames.SERVICE_KINDS:
                self._session_consume(len(frame.data))
            return
        stream.n_received += len(frame.data)
        if stream.n_received > stream.recv_limit:
            if stream.is_service:
                self._session_consume(len(frame.data))
            self.stream_reset(stream, REASON["protocol"])
            return
        if frame.data:
            stream.receiver.received(frame.data)
        if isinstance(frame, DataFin):
            stream.fin_received = True
            stream.receiver.finished()
        self.stream_settle(stream)

    def _on_reset(self, frame: frames.Reset) -> None:
        stream = self._stream_find(frame.id)
        if stream is not None:
            if frame.sent != stream.n_received:
                raise WireError("RESET counts other bytes than came")
            stream.reset_reason = frames.reason_known(frame.reason)
            stream.receiver.was_reset(stream.reset_reason)
            self._stream_drop(stream)


FRAME_ACTIONS: dict[type, Callable[[ModelPeer, object], None]] = {
    Hello: ModelPeer._on_hello,
    frames.Ping: ModelPeer._on_ping,
    Close: ModelPeer._on_close,
    Open: ModelPeer._on_open,
    frames.Accept: ModelPeer._on_accept,
    Data: ModelPeer._on_data,
    DataFin: ModelPeer._on_data,
    frames.Credit: ModelPeer._on_credit,
    frames.SessionCredit: ModelPeer._on_session_credit,
    frames.Reset: ModelPeer._on_reset,
    Rekey1: ModelPeer._on_rekey1,
    Rekey2: ModelPeer._on_rekey2,
    RekeyDone: ModelPeer._on_rekey_done,
}


def peer_dial(
    party: Party, link_key: bytes, peer_id: bytes = b"", kind: int = KIND_XK1, hello: HelloValues | None = None
) -> ModelPeer:
    """The initiator of a link over TCP; XX takes an empty link key."""
    handshake = Initiator(party, CARRIER_TCP, kind, link_key, peer_id)
    return ModelPeer(handshake, hello or HelloValues(), Sizes.link())


def peer_answer(party: Party, hello: HelloValues | None = None) -> ModelPeer:
    """The responder of a link over TCP."""
    return ModelPeer(Responder(party, CARRIER_TCP), hello or HelloValues(), Sizes.link())


def layer_dial(
    party: Party, outer: ModelPeer, stream: Stream, link_key: bytes, peer_id: bytes = b"", kind: int = KIND_NK1
) -> ModelPeer:
    """The initiator of a session inside a pipe or relay stream that `outer` opened: NK to a relay, XK to the target."""
    sizes = outer.packer.sizes.inside(party.draw("layer padding", 1)[0])
    inner = ModelPeer(Initiator(party, CARRIER_PIPE, kind, link_key, peer_id), HelloValues(), sizes)
    return outer.stream_carry(stream, inner)


def layer_answer(party: Party, outer: ModelPeer, stream: Stream, hello: HelloValues | None = None) -> ModelPeer:
    """Accept a pipe and run the responder of XK or NK inside it."""
    outer.stream_accept(stream)
    inner = ModelPeer(Responder(party, CARRIER_PIPE), hello or HelloValues(), Sizes.answering())
    return outer.stream_carry(stream, inner)
