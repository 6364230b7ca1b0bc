# SPDX-License-Identifier: MIT
"""What goes into the next record of a session, and how large it becomes (sections 4.6, 6.4)."""

import dataclasses

from .frames import Data, DataFin, Epoch, Rekey2, RekeyDone
from .reader import varint_build
from .record import BLOCK_SMALL, INNER_MAX, padded_len
from .streams import Carried, Splice, Stream

LAYER_OVERHEAD = 45  # 2 length, 32 tag, 11 head of the DATA frame outside
LAYERS_MAX = 8
SMALL_RANDOM_MAX = 96
SMALL_FLOOR = 256


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The two inner sizes that records with circuit data take; `is_link` sessions pad everything else by their mode."""

    small: int
    large: int
    is_link: bool

    @staticmethod
    def link() -> "Sizes":
        return Sizes(BLOCK_SMALL, INNER_MAX, True)

    @staticmethod
    def answering() -> "Sizes":
        """A responder in a pipe does not know how many layers are outside, so it leaves room for all of them."""
        return Sizes(BLOCK_SMALL - LAYERS_MAX * LAYER_OVERHEAD, INNER_MAX - LAYERS_MAX * LAYER_OVERHEAD, False)

    def inside(self, random_byte: int) -> "Sizes":
        """The sizes of a layer in a stream of this session, for its initiator; 0-96 random bytes off the small one."""
        small = self.small - LAYER_OVERHEAD
        shrunk = small - random_byte % (SMALL_RANDOM_MAX + 1)
        return Sizes(max(shrunk, min(small, SMALL_FLOOR)), self.large - LAYER_OVERHEAD, False)


class Packer:
    def __init__(self, peer, sizes: Sizes) -> None:
        self.peer = peer
        self.sizes = sizes
        self._turn = 0  # round robin over the streams

    def record_next(self, room: int) -> bytes | None:
        """The next sealed record of at most `room` bytes, or None where there is nothing that could be sent."""
        send = self.peer.keys.send
        inner_max = min(room - 2 - send.tag_len, INNER_MAX)
        batch = self._frames_take(min(inner_max, self._content_max()))
        if not batch:
            return None
        content = b"".join(frame.build() for frame in batch)
        target = min(max(self._inner_len(batch, len(content)), len(content)), inner_max)
        record = send.seal(content.ljust(target, b"\0"))
        held = {type(frame) for frame in batch}
        send.record_done(Epoch in held)
        if RekeyDone in held:
            self.peer.keys.switch("send")
        return record

    def _content_max(self) -> int:
        """A relay passes on DATA of up to 16,384 that others sized; everything else keeps to its own large size."""
        carries_splice = any(isinstance(stream.receiver, Splice) for stream in self.peer.streams.values())
        return INNER_MAX if carries_splice else self.sizes.large

    def _inner_len(self, batch: list[object], length: int) -> int:
        if self.sizes.is_link and not self._holds_circuit_data(batch):
            remote = self.peer.remote_hello.padding if self.peer.remote_hello else 1
            return padded_len(max(self.peer.hello.padding, remote), length)
        if not self.sizes.is_link and any(isinstance(stream.receiver, Splice) for stream in self._sent_from):
            return max(self.sizes.small, length)  # what others sized is passed on as it is
        return self.sizes.small if length <= self.sizes.small else self.sizes.large

    def _holds_circuit_data(self, batch: list[object]) -> bool:
        ids = {frame.id for frame in batch if isinstance(frame, Data | DataFin)}
        return any(not stream.is_service for stream in self._sent_from if stream.id in ids)

    def _frames_take(self, content_max: int) -> list[object]:
        """Control frames first, then DATA. A record ends after EPOCH, REKEY_DONE and one frame of circuit data."""
        batch: list[object] = []
        self._sent_from: list[Stream] = []
        left = content_max
        control = self.peer.control
        while control:
            length = sum(len(frame.build()) for frame in control[0])
            if length > left or (batch and isinstance(control[0][0], Rekey2)):
                return batch
            group = control.popleft()
            batch += group
            left -= length
            if isinstance(group[-1], Epoch | RekeyDone):
                return batch
        if self.peer.end is not None:
            return batch
        streams = list(self.peer.streams.values())
        for i in range(len(streams)):
            stream = streams[(self._turn + i) % len(streams)]
            frame = self._data_take(stream, left)
            if frame is None:
                continue
            batch.append(frame)
            left -= len(frame.build())
            self._sent_from.append(stream)
            self.peer.stream_settle(stream)
            if not stream.is_service:
                break
        self._turn += 1
        return batch

    def _data_take(self, stream: Stream, left: int) -> Data | DataFin | None:
        """One DATA frame within the record, the stream's and the session's credit. Circuit data is never cut."""
        head_len = 1 + len(varint_build(stream.id)) + 4
        credit = stream.send_limit - stream.n_sent
        if stream.is_service:
            credit = min(credit, self.peer.session_send_limit - self.peer.session_sent)
        most = min(left - head_len, credit)
        if stream.chunks and most > 0 and (stream.is_service or len(stream.chunks[0]) <= most):
            data = self._chunk_take(stream, most)
        elif not stream.chunks and stream.fin_queued and not stream.fin_sent and left >= head_len:
            data = b""
        else:
            return None
        stream.n_sent += len(data)
        if stream.is_service:
            self.peer.session_sent += len(data)
        if stream.fin_queued and not stream.chunks and not stream.fin_sent:
            stream.fin_sent = True
            return DataFin(stream.id, data)
        return Data(stream.id, data)

    def _chunk_take(self, stream: Stream, most: int) -> bytes:
        if isinstance(stream.receiver, Carried | Splice) or not stream.is_service:
            return stream.chunks.popleft()
        waiting = b"".join(stream.chunks)
        stream.chunks.clear()
        if len(waiting) > most:
            stream.chunks.append(waiting[most:])
        return waiting[:most]
