# SPDX-License-Identifier: MIT
"""The frames of the known-answer files: lawful ones of every type, and unlawful ones with the rule that they break."""

import dataclasses

from . import frames
from .frames import HelloValues, RelayTarget
from .reader import Address, varint_build

UUID = bytes(range(16))
IPV4 = Address(4, bytes([192, 0, 2, 7]), 7447)
IPV6 = Address(6, bytes.fromhex("20010db8") + bytes(11) + b"\x09", 443)
NAME = Address(1, b"node.example.org", 7447)
TARGET = RelayTarget(b"\xaa" * 32, b"\xbb" * 32, (IPV4, IPV6))
FULL_HELLO = HelloValues(2097152, 10, 8, 65536, 2, (1, 4), b"instance", (1000, 2000), (UUID, UUID[::-1]))

VALID: list[list[object]] = [
    [frames.Padding(5)],
    [frames.Cover(b"noise")],
    [frames.Ping(b"12345678"), frames.Pong(b"87654321")],
    [frames.Hello(()), frames.Padding(62)],
    [HelloValues(max_pipes=1024).frame()],
    [FULL_HELLO.frame()],
    [frames.Hello(((3, b"\x08"), (70, b"skipped")))],
    [frames.Close(3, "going away")],
    [frames.Close(0)],
    [frames.Open(1, frames.KIND_BYTES, 1, 65536, UUID)],
    [frames.Open(3, frames.KIND_MESSAGES, 0, 0, UUID + b"metadata")],
    [frames.Open(2, frames.KIND_PIPE, 1, 65536, b"\x08")],
    [frames.Open(5, frames.KIND_RELAY, 2, 65536, TARGET.build())],
    [frames.Accept(1, 65536)],
    [frames.Data(1, b""), frames.Data(64, b"hello"), frames.DataFin(16384, b"x" * 64)],
    [frames.Credit(1 << 30, (1 << 62) - 1)],
    [frames.Reset(1, 16, 4096)],
    [frames.SessionCredit(1 << 21)],
    [frames.Services((UUID,), ()), frames.Services((), (UUID, UUID[::-1]))],
    [frames.Peers((b"record one", b"record two"))],
    [frames.Observed(IPV4), frames.Observed(IPV6), frames.Observed(NAME)],
    [frames.Ping(b"12345678"), frames.Epoch(), frames.Padding(3)],
    [frames.Rekey1(bytes(range(8)) * 159)],
    [frames.Rekey2(bytes(range(8)) * 147), frames.RekeyDone(), frames.Padding(1)],
    [frames.Skipped(0x40, b"later"), frames.Skipped(0x4001, b"")],
]


def _open(kind: int, body: bytes, priority: int = 1) -> bytes:
    return frames.Open(1, kind, priority, 0, body).build()


def _hello(body: bytes) -> bytes:
    return b"\x03" + varint_build(len(body)) + body


INVALID: list[tuple[bytes, str]] = [
    (b"\x00\x00\x01", "PADDING is zero to the end"),
    (b"\x05", "unknown type below 0x40"),
    (b"\x3f\x00", "unknown type below 0x40"),
    (b"\x40\x01" + b"12345678", "type is not a minimal varint"),
    (b"\x40\x40\x05abcd", "skipped frame runs past the end"),
    (b"\x01" + b"1234567", "PING is cut"),
    (b"\x0a\x01\x06hello", "DATA runs past the end"),
    (b"\x0a\x01\x40\x05hello", "length is not a minimal varint"),
    (b"\x0a\x40", "varint is cut"),
    (b"\x0a\x01", "DATA without a length"),
    (_hello(b"\x03\x01\x08\x03\x01\x08"), "HELLO ids ascend strictly"),
    (_hello(b"\x04\x01\x08\x03\x01\x08"), "HELLO ids ascend strictly"),
    (_hello(b"\x03\x02\x08"), "HELLO entry runs past its end"),
    (_hello(b"\x03\x02\x08\x08"), "HELLO value is longer than its varint"),
    (_hello(b"\x03\x00"), "HELLO value is empty"),
    (_hello(b"\x05\x01\x04"), "HELLO padding mode is 0..3"),
    (_hello(b"\x06\x01\x04"), "HELLO worker has two bytes"),
    (_hello(b"\x07\x07instanc"), "HELLO instance has eight bytes"),
    (_hello(b"\x08\x04abcd"), "HELLO relay terms have eight bytes"),
    (_hello(b"\x09\x0f" + bytes(15)), "HELLO services are whole UUIDs"),
    (_hello(b"\x40\x46" + varint_build(4094) + bytes(4094)), "HELLO is at most 4,096 long"),
    (b"\x04\x00\x41" + b"x" * 65, "CLOSE text is at most 64 long"),
    (b"\x04\x00\x02\xc3\x28", "CLOSE text is UTF-8"),
    (_open(0, UUID[:15]), "OPEN of a service stream names its extender"),
    (_open(1, UUID + bytes(1025)), "metadata is at most 1,024 long"),
    (_open(0, UUID, 3), "priority is 0..2"),
    (_open(4, UUID), "kind is 0..3"),
    (_open(2, b""), "OPEN(pipe) has one byte"),
    (_open(2, b"\x08\x08"), "OPEN(pipe) has one byte"),
    (_open(3, RelayTarget(bytes(32), bytes(32), ()).build()), "relay target has 1..4 addresses"),
    (_open(3, RelayTarget(bytes(32), bytes(32), (IPV4,) * 5).build()), "relay target has 1..4 addresses"),
    (_open(3, RelayTarget(bytes(32), bytes(32), (NAME,)).build()), "names never in relay targets"),
    (_open(3, TARGET.build() + b"\0"), "bytes left over in the relay target"),
    (_open(3, TARGET.build()[:-1]), "relay target is cut"),
    (b"\x10\x02" + UUID + b"\x00", "SERVICES is cut"),
    (b"\x11\x01\x05abcd", "PEERS is cut"),
    (b"\x12\x05" + bytes(6), "unknown kind of address"),
    (b"\x12\x01\x00\x1d\x17", "a name is not empty"),
    (b"\x12\x04\x7f\x00\x00\x01\x00\x00", "port 0 is no port"),
    (b"\x20\x01" + b"12345678", "only PADDING may follow EPOCH"),
    (b"\x23\x20", "REKEY_DONE never shares a record with EPOCH"),
    (b"\x20\x23", "REKEY_DONE never shares a record with EPOCH"),
    (b"\x21" + bytes(1271), "REKEY1 is cut"),
    (b"\x22" + bytes(1175), "REKEY2 is cut"),
]


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"frame": type(value).__name__} | fields
    return value


def frames_valid() -> list[dict]:
    return [{"inner": b"".join(frame.build() for frame in batch).hex(), "frames": _plain(batch)} for batch in VALID]


def frames_invalid() -> list[dict]:
    return [{"inner": inner.hex(), "why": why} for inner, why in INVALID]
