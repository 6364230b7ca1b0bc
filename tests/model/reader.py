# SPDX-License-Identifier: MIT
"""Fixed-size integers, varints (RFC 9000 section 16) and addresses (section 7), read strictly and built minimally."""

import dataclasses

from .errors import WireError

VARINT_MAX = (1 << 62) - 1
ADDRESS_NAME, ADDRESS_IPV4, ADDRESS_IPV6 = 1, 4, 6


def varint_build(value: int) -> bytes:
    """The shortest of the four forms."""
    if not 0 <= value <= VARINT_MAX:
        raise ValueError("a varint holds 0 .. 2^62-1")
    prefix = next(n for n in range(4) if value < 1 << ((8 << n) - 2))
    n_value_bits = (8 << prefix) - 2
    return (value | prefix << n_value_bits).to_bytes(1 << prefix, "big")


class Reader:
    """Takes fields from the front of a byte string; whatever does not fit is a WireError."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pos = 0

    def remaining(self) -> int:
        return len(self.data) - self.pos

    def take(self, length: int) -> bytes:
        if length > self.remaining():
            raise WireError("field runs past the end")
        self.pos += length
        return self.data[self.pos - length : self.pos]

    def rest(self) -> bytes:
        return self.take(self.remaining())

    def uint(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def varint(self) -> int:
        first = self.uint(1)
        size = 1 << (first >> 6)
        value = int.from_bytes(bytes([first & 0x3F]) + self.take(size - 1), "big")
        if len(varint_build(value)) != size:
            raise WireError("varint is not minimal")
        return value

    def counted(self) -> bytes:
        """v length | bytes"""
        return self.take(self.varint())

    def zeros(self, length: int) -> None:
        if any(self.take(length)):
            raise WireError("a reserved field is not zero")

    def end(self) -> None:
        if self.remaining():
            raise WireError("bytes left over")


def counted_build(data: bytes) -> bytes:
    return varint_build(len(data)) + data


@dataclasses.dataclass(frozen=True)
class Address:
    """u8 4 | ip4 | port2,  u8 6 | ip16 | port2,  u8 1 | u8 n | name | port2"""

    kind: int
    host: bytes
    port: int

    def build(self) -> bytes:
        length = bytes([len(self.host)]) if self.kind == ADDRESS_NAME else b""
        return bytes([self.kind]) + length + self.host + self.port.to_bytes(2, "big")


def address_read(reader: Reader) -> Address:
    kind = reader.uint(1)
    if kind == ADDRESS_IPV4:
        host = reader.take(4)
    elif kind == ADDRESS_IPV6:
        host = reader.take(16)
    elif kind == ADDRESS_NAME:
        host = reader.take(reader.uint(1))
        if not host or not all(0x21 <= byte <= 0x7E for byte in host):
            raise WireError("a name is 1..255 printable ASCII bytes")
    else:
        raise WireError("unknown kind of address")
    port = reader.uint(2)
    if port == 0:
        raise WireError("port 0 is no port")
    return Address(kind, host, port)
