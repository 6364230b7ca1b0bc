# SPDX-License-Identifier: MIT
"""Every frame of section 7: build and strict parse.

A frame is a frozen dataclass with `build()`; `frames_parse` turns the inner bytes of a record into a list of them and
raises WireError at the first frame that no lawful sender would send.
"""

import dataclasses
from collections.abc import Callable, Iterator

from .errors import WireError
from .reader import ADDRESS_NAME, Address, Reader, address_read, counted_build, varint_build

HELLO_MAX = 4096
CLOSE_TEXT_MAX = 64
METADATA_MAX = 1024
REKEY1_LEN = 1272
REKEY2_LEN = 1176

KIND_BYTES, KIND_MESSAGES, KIND_PIPE, KIND_RELAY = 0, 1, 2, 3
SERVICE_KINDS = (KIND_BYTES, KIND_MESSAGES)
PRIORITY_EXPEDITED, PRIORITY_NORMAL, PRIORITY_DELAYED = 0, 1, 2

REASONS = [
    "none",
    "protocol",
    "internal",
    "shutdown",
    "refused",
    "unreachable",
    "busy",
    "limit",
    "unsupported",
    "timeout",
    "memory",
    "slow_reader",
    "hops",
    "duplicate",
    "idle",
    "rekey",
    "cancelled",
]
REASON = {name: number for number, name in enumerate(REASONS)}


def reason_known(number: int) -> int:
    """Unknown reasons are read as 0."""
    return number if number < len(REASONS) else 0


@dataclasses.dataclass(frozen=True)
class Padding:
    """0x00: the rest of the record, all zero."""

    length: int

    def build(self) -> bytes:
        return bytes(self.length)


@dataclasses.dataclass(frozen=True)
class Cover:
    data: bytes

    def build(self) -> bytes:
        return b"\x18" + counted_build(self.data)


@dataclasses.dataclass(frozen=True)
class Ping:
    data: bytes

    def build(self) -> bytes:
        return b"\x01" + self.data


@dataclasses.dataclass(frozen=True)
class Pong:
    data: bytes

    def build(self) -> bytes:
        return b"\x02" + self.data


@dataclasses.dataclass(frozen=True)
class Hello:
    """0x03: entries as they are on the wire, ids ascending; `HelloValues` gives them meaning."""

    entries: tuple[tuple[int, bytes], ...]

    def build(self) -> bytes:
        body = b"".join(varint_build(entry_id) + counted_build(value) for entry_id, value in self.entries)
        return b"\x03" + counted_build(body)


@dataclasses.dataclass(frozen=True)
class HelloValues:
    """What the entries of a HELLO say, with the value that holds where an entry is absent."""

    session_credit: int = 1048576
    max_service_streams: int = 1024
    max_pipes: int = 0
    max_message: int = 1048576
    padding: int = 1
    worker: tuple[int, int] | None = None
    instance: bytes | None = None
    relay_terms: tuple[int, int] | None = None
    services: tuple[bytes, ...] = ()

    def frame(self) -> Hello:
        """Only what differs from the defaults is said."""
        default = HelloValues()
        entries = []
        for entry_id, (name, build, _) in HELLO_ENTRIES.items():
            value = getattr(self, name)
            if value != getattr(default, name):
                entries.append((entry_id, build(value)))
        return Hello(tuple(entries))


@dataclasses.dataclass(frozen=True)
class Close:
    reason: int
    text: str = ""

    def build(self) -> bytes:
        text = self.text.encode()
        return b"\x04" + varint_build(self.reason) + bytes([len(text)]) + text


@dataclasses.dataclass(frozen=True)
class Open:
    """0x08; `body` is what the kind says: see open_service, open_pipe, open_relay and the readers beside them."""

    id: int
    kind: int
    priority: int
    credit: int
    body: bytes

    def build(self) -> bytes:
        fixed = b"\x08" + varint_build(self.id) + bytes([self.kind, self.priority])
        return fixed + varint_build(self.credit) + counted_build(self.body)


@dataclasses.dataclass(frozen=True)
class Accept:
    id: int
    offset: int

    def build(self) -> bytes:
        return b"\x09" + varint_build(self.id) + varint_build(self.offset)


@dataclasses.dataclass(frozen=True)
class Data:
    id: int
    data: bytes

    def build(self) -> bytes:
        return b"\x0a" + varint_build(self.id) + counted_build(self.data)


@dataclasses.dataclass(frozen=True)
class DataFin:
    id: int
    data: bytes

    def build(self) -> bytes:
        return b"\x0b" + varint_build(self.id) + counted_build(self.data)


@dataclasses.dataclass(frozen=True)
class Credit:
    id: int
    offset: int

    def build(self) -> bytes:
        return b"\x0c" + varint_build(self.id) + varint_build(self.offset)


@dataclasses.dataclass(frozen=True)
class Reset:
    id: int
    reason: int
    sent: int

    def build(self) -> bytes:
        return b"\x0d" + varint_build(self.id) + varint_build(self.reason) + varint_build(self.sent)


@dataclasses.dataclass(frozen=True)
class SessionCredit:
    offset: int

    def build(self) -> bytes:
        return b"\x0e" + varint_build(self.offset)


@dataclasses.dataclass(frozen=True)
class Services:
    added: tuple[bytes, ...]
    removed: tuple[bytes, ...]

    def build(self) -> bytes:
        out = b"\x10"
        for uuids in (self.added, self.removed):
            out += varint_build(len(uuids)) + b"".join(uuids)
        return out


@dataclasses.dataclass(frozen=True)
class Peers:
    """0x11; each record as bytes, for cert.peer_record_parse."""

    records: tuple[bytes, ...]

    def build(self) -> bytes:
        return b"\x11" + varint_build(len(self.records)) + b"".join(counted_build(record) for record in self.records)


@dataclasses.dataclass(frozen=True)
class Observed:
    address: Address

    def build(self) -> bytes:
        return b"\x12" + self.address.build()


@dataclasses.dataclass(frozen=True)
class Epoch:
    def build(self) -> bytes:
        return b"\x20"


@dataclasses.dataclass(frozen=True)
class Rekey1:
    message: bytes

    def build(self) -> bytes:
        return b"\x21" + self.message


@dataclasses.dataclass(frozen=True)
class Rekey2:
    message: bytes

    def build(self) -> bytes:
        return b"\x22" + self.message


@dataclasses.dataclass(frozen=True)
class RekeyDone:
    def build(self) -> bytes:
        return b"\x23"


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A type from 0x40 up: v length | bytes, skipped."""

    type: int
    data: bytes

    def build(self) -> bytes:
        return varint_build(self.type) + counted_build(self.data)


@dataclasses.dataclass(frozen=True)
class RelayTarget:
    """The body of OPEN of kind relay."""

    link_key: bytes
    peer_id: bytes
    addresses: tuple[Address, ...]

    def build(self) -> bytes:
        count = bytes([len(self.addresses)])
        return self.link_key + self.peer_id + count + b"".join(address.build() for address in self.addresses)


def relay_target_parse(body: bytes) -> RelayTarget:
    reader = Reader(body)
    link_key, peer_id, n_addresses = reader.take(32), reader.take(32), reader.uint(1)
    if not 1 <= n_addresses <= 4:
        raise WireError("relay target: 1..4 addresses")
    addresses = tuple(address_read(reader) for _ in range(n_addresses))
    if any(address.kind == ADDRESS_NAME for address in addresses):
        raise WireError("relay target: names are never allowed")
    reader.end()
    return RelayTarget(link_key, peer_id, addresses)


def _read_hello(reader: Reader) -> Hello:
    body = reader.counted()
    if len(body) > HELLO_MAX:
        raise WireError("HELLO longer than 4,096")
    inner = Reader(body)
    entries: list[tuple[int, bytes]] = []
    while inner.remaining():
        entry_id = inner.varint()
        if entries and entry_id <= entries[-1][0]:
            raise WireError("HELLO: ids are not ascending")
        entries.append((entry_id, inner.counted()))
    hello = Hello(tuple(entries))
    hello_values(hello)
    return hello


def _read_close(reader: Reader) -> Close:
    reason, length = reader.varint(), reader.uint(1)
    if length > CLOSE_TEXT_MAX:
        raise WireError("CLOSE: text longer than 64")
    try:
        return Close(reason, reader.take(length).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise WireError("CLOSE: text is not UTF-8") from error


def _read_open(reader: Reader) -> Open:
    frame = Open(reader.varint(), reader.uint(1), reader.uint(1), reader.varint(), reader.counted())
    if frame.priority > PRIORITY_DELAYED:
        raise WireError("OPEN: unknown priority")
    if frame.kind > KIND_RELAY:
        raise WireError("OPEN: unknown kind")
    if frame.kind in SERVICE_KINDS and not 16 <= len(frame.body) <= 16 + METADATA_MAX:
        raise WireError("OPEN: a service stream names an extender and at most 1,024 bytes of metadata")
    if frame.kind == KIND_PIPE and len(frame.body) != 1:
        raise WireError("OPEN: a pipe has one byte, hops_left")
    if frame.kind == KIND_RELAY:
        relay_target_parse(frame.body)
    return frame


def _uuids(reader: Reader, most: int) -> tuple[bytes, ...]:
    count = reader.varint()
    if count > most:
        raise WireError(f"{count} UUIDs, at most {most}")
    return tuple(_repeat(count, lambda: reader.take(16)))


def _repeat(count: int, read: Callable[[], bytes]) -> Iterator[bytes]:
    for _ in range(count):
        yield read()


READERS: dict[int, Callable[[Reader], object]] = {
    0x01: lambda r: Ping(r.take(8)),
    0x02: lambda r: Pong(r.take(8)),
    0x03: _read_hello,
    0x04: _read_close,
    0x08: _read_open,
    0x09: lambda r: Accept(r.varint(), r.varint()),
    0x0A: lambda r: Data(r.varint(), r.counted()),
    0x0B: lambda r: DataFin(r.varint(), r.counted()),
    0x0C: lambda r: Credit(r.varint(), r.varint()),
    0x0D: lambda r: Reset(r.varint(), r.varint(), r.varint()),
    0x0E: lambda r: SessionCredit(r.varint()),
    0x10: lambda r: Services(_uuids(r, most=250), _uuids(r, most=250)),
    0x11: lambda r: Peers(tuple(_repeat(r.varint(), r.counted))),
    0x12: lambda r: Observed(address_read(r)),
    0x18: lambda r: Cover(r.counted()),
    0x20: lambda r: Epoch(),
    0x21: lambda r: Rekey1(r.take(REKEY1_LEN)),
    0x22: lambda r: Rekey2(r.take(REKEY2_LEN)),
    0x23: lambda r: RekeyDone(),
}


def frames_read(inner: bytes) -> Iterator[object]:
    """Yield the frames of a record one by one; WireError where the first wrong one starts."""
    reader = Reader(inner)
    must_be_last = False
    while reader.remaining():
        frame_type = reader.varint()
        if frame_type == 0x00:
            length = reader.remaining() + 1
            reader.zeros(length - 1)
            yield Padding(length)
            return
        if must_be_last:
            raise WireError("only PADDING may follow EPOCH and REKEY_DONE")
        if frame_type >= 0x40:
            yield Skipped(frame_type, reader.counted())
            continue
        read = READERS.get(frame_type)
        if read is None:
            raise WireError(f"unknown frame type 0x{frame_type:02x}")
        frame = read(reader)
        must_be_last = isinstance(frame, Epoch | RekeyDone)
        yield frame


def frames_parse(inner: bytes) -> list[object]:
    return list(frames_read(inner))


def _exact(value: bytes, read: Callable[[Reader], object]) -> object:
    reader = Reader(value)
    result = read(reader)
    reader.end()
    return result


def _read_padding(reader: Reader) -> int:
    mode = reader.uint(1)
    if mode > 3:
        raise WireError("HELLO: unknown padding mode")
    return mode


def _read_uuids_to_end(reader: Reader) -> tuple[bytes, ...]:
    return tuple(_repeat(-(-reader.remaining() // 16), lambda: reader.take(16)))


def _build_terms(terms: tuple[int, int]) -> bytes:
    return terms[0].to_bytes(4, "big") + terms[1].to_bytes(4, "big")


HELLO_ENTRIES: dict[int, tuple[str, Callable, Callable]] = {
    1: ("session_credit", varint_build, Reader.varint),
    2: ("max_service_streams", varint_build, Reader.varint),
    3: ("max_pipes", varint_build, Reader.varint),
    4: ("max_message", varint_build, Reader.varint),
    5: ("padding", lambda mode: bytes([mode]), _read_padding),
    6: ("worker", bytes, lambda r: (r.uint(1), r.uint(1))),
    7: ("instance", bytes, lambda r: r.take(8)),
    8: ("relay_terms", _build_terms, lambda r: (r.uint(4), r.uint(4))),
    9: ("services", b"".join, _read_uuids_to_end),
}


def hello_values(hello: Hello) -> HelloValues:
    """WireError where the value of a known entry has the wrong form; unknown entries are skipped."""
    values = {}
    for entry_id, value in hello.entries:
        if entry_id in HELLO_ENTRIES:
            name, _, read = HELLO_ENTRIES[entry_id]
            values[name] = _exact(value, read)
    return HelloValues(**values)


def message_build(data: bytes) -> bytes:
    """v length | u8 flags | bytes, uncompressed; length counts the bytes after the flags."""
    return varint_build(len(data)) + b"\x00" + data


def message_take(buffer: bytearray, max_message: int) -> bytes | None:
    """Cut one uncompressed message from the front of `buffer`; None while it is incomplete."""
    if not buffer or len(buffer) < 1 << (buffer[0] >> 6):
        return None
    reader = Reader(bytes(buffer))
    length = reader.varint()
    if length > max_message:
        raise WireError("message longer than allowed")
    if reader.remaining() < 1 + length:
        return None
    if reader.uint(1) != 0:
        raise WireError("message flags: the model knows no compression")
    data = reader.take(length)
    del buffer[: reader.pos]
    return data
