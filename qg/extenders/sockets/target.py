# SPDX-License-Identifier: MIT
"""Where a connection or a datagram shall go: a host, by name or number, and a port; its bytes, as SOCKS5 writes them.

    1 | 4 bytes | port, 2      3 | length, 1 | name | port, 2      4 | 16 bytes | port, 2

Source: RFC 1928, sections 4 and 7. The same bytes go between the nodes.
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

import qg

__all__ = ["Target", "target_read"]

_IPV4, _NAME, _IPV6 = 1, 3, 4
_IP_LEN = {_IPV4: 4, _IPV6: 16}
_NAME_MAX = 255


class Target(NamedTuple):
    """Name a place by host and port; `host` is a number in its shortest form, or a name in small letters."""

    host: str
    port: int

    @classmethod
    def make(cls, host: str, port: int) -> "Target":
        """Make a target of a host as people write it; raises `qg.InvalidValue` for what cannot be one."""
        if not 0 <= port <= 65535:
            raise qg.InvalidValue(f"port {port} is not in 0..65535")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        try:
            return cls(str(ip_address(bare)), port)
        except ValueError:
            return cls(_name_check(host), port)

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Read host:port, an IPv6 number in brackets."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or len(port) > 5:
            raise qg.InvalidValue(f"{text!r} is not written HOST:PORT")
        if ":" in host and not host.startswith("["):
            raise qg.InvalidValue(f"{text!r}: write an IPv6 number in brackets, [{host}]:{port}")
        return cls.make(host, int(port))

    @property
    def ip(self) -> IPv4Address | IPv6Address | None:
        """Give the host as a number; None if it is a name."""
        return _ip_of(self.host)

    def __bytes__(self) -> bytes:
        ip = self.ip
        if ip is None:
            name = self.host.encode("ascii")
            head = bytes((_NAME, len(name))) + name
        else:
            head = bytes((_IPV4 if ip.version == 4 else _IPV6,)) + ip.packed
        return head + self.port.to_bytes(2, "big")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@lru_cache(1024)  # a connection asks several times
def _ip_of(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _name_check(host: str) -> str:
    try:
        name = host.encode("ascii") if host.isascii() else host.encode("idna")
    except UnicodeError:
        raise qg.InvalidValue(f"{host!r} is not a host name") from None
    if not 0 < len(name) <= _NAME_MAX or any(byte <= 0x20 or byte >= 0x7F or byte in b'/\\@"<>#?[]:%' for byte in name):
        raise qg.InvalidValue(f"{host!r} is not a host name")
    return name.decode("ascii").lower()


@lru_cache(1024)
def _number(packed: bytes) -> str:
    return str(ip_address(packed))


def target_read(data: bytes | bytearray | memoryview, at: int = 0) -> tuple[Target, int] | None:
    """Read a target and the place behind it; None while bytes are missing, `qg.InvalidValue` for what is none."""
    if len(data) <= at:
        return None
    kind = data[at]
    at += 1
    if kind == _NAME:
        if len(data) <= at:
            return None
        n = data[at]
        at += 1
        if not n:
            raise qg.InvalidValue("a target without a host")
    elif kind in _IP_LEN:
        n = _IP_LEN[kind]
    else:
        raise qg.InvalidValue(f"an address of kind {kind}: known are 1 (IPv4), 3 (a name) and 4 (IPv6)")
    if len(data) < at + n + 2:
        return None
    host, port = bytes(data[at : at + n]), int.from_bytes(data[at + n : at + n + 2], "big")
    at += n + 2
    if kind != _NAME:
        return Target(_number(host), port), at
    try:
        return Target.make(host.decode("ascii"), port), at
    except UnicodeDecodeError:
        raise qg.InvalidValue("a host name that is not ASCII") from None
