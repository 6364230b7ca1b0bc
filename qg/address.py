# SPDX-License-Identifier: MIT
"""Addresses and endpoints: one line of text that can be pasted (docs/protocol.md, section 2.2).

    qg://<link key>@<host>:<port>[?id=<PeerID>][&via=<relay>]...     the peer that holds this link key
    qg://<host>:<port>[?...]                                         whoever answers there (XX, first contact)
    tcp://<ip>:<port>                                                where a node listens; port 0: any free one
    <ip>/<bits>                                                      a network

A relay in `via` is written like an address without "qg://" and with at most `?id=`; relays stand in the order of the
path. Every value has one text, except that host names may be typed in upper case and IPv6 addresses in any valid
form.
"""

import socket
from typing import NamedTuple

from qg.errors import AddressError, InvalidValue
from qg.types import LinkKey, PeerId

__all__ = ["Address", "Endpoint", "HostPort", "Prefix", "PrefixLimit", "is_ip"]

_NAME_MAX = 253  # RFC 1035 in text form
_LABEL_MAX = 63
_LABEL_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
_VIA_MAX = 7  # docs/protocol.md, section 6.5: paths of up to 7 relays always fit


class Address(NamedTuple):
    """Say how to reach a peer; immutable, `str` gives the line that `Address.parse` reads.

    The fields are taken as they are; `parse` is the one that checks.
    """

    link_key: LinkKey | None  # None: XX form
    host: str  # IPv4, IPv6 without brackets, or a name in lower case
    port: int
    peer_id: PeerId | None = None  # pins the identity
    via: "tuple[Address, ...]" = ()  # relays, the nearest first

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read an address; raises `AddressError` that names the wrong part and says what belongs there."""
        text = text.strip()
        if not text.startswith("qg://"):
            raise AddressError(f"{text!r} is not an address: it must start with qg://")
        return cls._parse_rest(text.removeprefix("qg://"), text)

    @classmethod
    def _parse_rest(cls, rest: str, text: str) -> "Address":
        main, _, query = rest.partition("?")
        key_text, at, host_port = main.rpartition("@")
        try:
            link_key = LinkKey(key_text) if at else None
            host, port = host_port_parse(host_port, 1)
            peer_id, via = cls._parse_query(query) if "?" in rest else (None, ())
        except InvalidValue as error:
            raise AddressError(f"{text!r} is not an address: {error}") from None
        return cls(link_key, host, port, peer_id, via)

    @classmethod
    def _parse_query(cls, query: str) -> "tuple[PeerId | None, tuple[Address, ...]]":
        peer_id: PeerId | None = None
        via: list[Address] = []
        for item in query.split("&"):
            name, _, value = item.partition("=")
            if name == "id" and peer_id is None and not via:
                peer_id = PeerId(value)
            elif name == "via" and len(via) < _VIA_MAX:
                via.append(cls._parse_relay(value))
            else:
                raise AddressError(
                    f"{item!r} cannot stand here: first one id=<PeerID>, then at most {_VIA_MAX} of"
                    " via=<link key>@<host>:<port>"
                )
        return peer_id, tuple(via)

    @classmethod
    def _parse_relay(cls, value: str) -> "Address":
        relay = cls._parse_rest(value, f"via={value}")
        if relay.link_key is None:
            raise AddressError(f"'via={value}' has no link key: a relay is written <link key>@<host>:<port>")
        if relay.via:
            raise AddressError(f"'via={value}' has relays of its own: write one via= for each relay")
        return relay

    @property
    def short(self) -> str:
        """Give what people tell it from others by: the beginning of the link key, host and port."""
        key = "" if self.link_key is None else f"{str(self.link_key)[:12]}…@"
        return f"{key}{_host_text(self.host)}:{self.port}"

    def __str__(self) -> str:
        query = [] if self.peer_id is None else [f"id={self.peer_id}"]
        query += [f"via={str(relay).removeprefix('qg://')}" for relay in self.via]
        key = "" if self.link_key is None else f"{self.link_key}@"
        return f"qg://{key}{_host_text(self.host)}:{self.port}" + ("?" + "&".join(query) if query else "")

    def __repr__(self) -> str:
        return f"Address.parse({str(self)!r})"


class Endpoint(NamedTuple):
    """Say where a node listens; immutable, `str` gives the line that `Endpoint.parse` reads."""

    transport: str  # "tcp"
    host: str  # IPv4, or IPv6 without brackets
    port: int  # 0: any free port

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        """Read an endpoint such as tcp://127.0.0.1:0; raises `AddressError` that names the wrong part."""
        text = text.strip()
        transport, separator, host_port = text.partition("://")
        if not separator or transport != "tcp":
            raise AddressError(f"{text!r} is not an endpoint: it must start with tcp://")
        try:
            host, port = host_port_parse(host_port, 0)
        except InvalidValue as error:
            raise AddressError(f"{text!r} is not an endpoint: {error}") from None
        if _ip_normal(host) is None:
            raise AddressError(
                f"{text!r} is not an endpoint: {host!r} is a name; write an IP address of this machine,"
                " 127.0.0.1 for this machine only, 0.0.0.0 or [::] for all"
            )
        return cls(transport, host, port)

    def __str__(self) -> str:
        return f"{self.transport}://{_host_text(self.host)}:{self.port}"

    def __repr__(self) -> str:
        return f"Endpoint.parse({str(self)!r})"


class HostPort(NamedTuple):
    """Name an IP address and a port of this machine; immutable, `str` gives what `HostPort.parse` reads."""

    host: str  # IPv4, or IPv6 without brackets
    port: int

    @classmethod
    def parse(cls, text: str) -> "HostPort":
        """Read text such as 127.0.0.1:9464 or [::1]:9464; raises `AddressError` that names the wrong part."""
        try:
            host, port = host_port_parse(text, 0)
        except InvalidValue as error:
            raise AddressError(f"{text!r} is not an IP address and a port: {error}") from None
        if _ip_normal(host) is None:
            raise AddressError(f"{text!r} is not an IP address and a port: {host!r} is a name; write 127.0.0.1:{port}")
        return cls(host, port)

    @property
    def is_loopback(self) -> bool:
        """Tell whether only this machine reaches it."""
        return self.host.startswith("127.") or self.host == "::1"

    def __str__(self) -> str:
        return f"{_host_text(self.host)}:{self.port}"


class Prefix(NamedTuple):
    """Name a network by the leading bits of its addresses; immutable, `str` gives what `Prefix.parse` reads."""

    network: bytes  # 4 bytes for IPv4, 16 for IPv6; zero behind n_bits
    n_bits: int

    @classmethod
    def parse(cls, text: str) -> "Prefix":
        """Read a network such as 127.0.0.0/8 or fd00::/8; raises `AddressError` that names the wrong part."""
        host, _, bits_text = text.partition("/")
        if _ip_normal(host) is None:
            raise AddressError(
                f"{text!r} is not a network: {host!r} is not an IP address; write 10.0.0.0/8 or fd00::/8"
            )
        network = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
        n_all = len(network) * 8
        if not _is_number(bits_text) or int(bits_text) > n_all:
            raise AddressError(f"{text!r} is not a network: the number of bits after / must be from 0 to {n_all}")
        n_bits = int(bits_text)
        if int.from_bytes(network) & (1 << n_all - n_bits) - 1:
            raise AddressError(f"{text!r} is not a network: the address has bits behind the first {n_bits}")
        return cls(network, n_bits)

    def __str__(self) -> str:
        family = socket.AF_INET if len(self.network) == 4 else socket.AF_INET6
        return f"{socket.inet_ntop(family, self.network)}/{self.n_bits}"

    def __repr__(self) -> str:
        return f"Prefix.parse({str(self)!r})"


class PrefixLimit(NamedTuple):
    """Limit something per network of one width; immutable, `str` gives what `PrefixLimit.parse` reads."""

    is_ip4: bool
    n_bits: int
    limit: int

    @property
    def family(self) -> str:
        """Name the family of addresses."""
        return "ip4" if self.is_ip4 else "ip6"

    @classmethod
    def parse(cls, text: str) -> "PrefixLimit":
        """Read a limit such as "ip4/16 = 256"; raises `AddressError`."""
        place, _, limit = (part.strip() for part in text.partition("="))
        family, _, bits = place.partition("/")
        n_all = {"ip4": 32, "ip6": 128}.get(family, 0)
        if not _is_number(bits) or not 1 <= int(bits) <= n_all or not _is_number(limit) or not int(limit):
            raise AddressError(f"{text!r} is not a limit: write a width and a number, as in ip4/16 = 256")
        return cls(family == "ip4", int(bits), int(limit))

    def __str__(self) -> str:
        return f"{self.family}/{self.n_bits} = {self.limit}"


def is_ip(host: str) -> bool:
    """Tell whether the host of an address is an IP address, and not a name."""
    return _ip_normal(host) is not None


def _host_text(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _ip_normal(host: str) -> str | None:
    """Give the usual text of an IPv4 or IPv6 address, None if it is neither."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, host))
    except (OSError, ValueError):
        return None


def host_port_parse(text: str, port_min: int) -> tuple[str, int]:
    """Read host:port, an IPv6 number in brackets; raises `AddressError`."""
    host_text, colon, port_text = text.rpartition(":")
    if not colon or (host_text.startswith("[") and not host_text.endswith("]")):
        raise AddressError(f"the port is missing after {text!r}")
    return _parse_host(host_text), _parse_port(port_text, port_min)


def _is_number(text: str) -> bool:
    """Tell whether text is a small number in its only form: ASCII digits, no leading zero."""
    return text.isascii() and text.isdigit() and len(text) <= 5 and (text == "0" or text[0] != "0")


def _parse_port(text: str, port_min: int) -> int:
    if not _is_number(text) or not port_min <= int(text) <= 65535:
        raise AddressError(f"port {text!r} is not a number from {port_min} to 65535")
    return int(text)


def _parse_host(text: str) -> str:
    if text.startswith("["):
        inner = text[1:-1]
        host = _ip_normal(inner) if ":" in inner else None
        if host is None:
            raise AddressError(f"{inner!r} is not an IPv6 address (zones such as %eth0 are not taken)")
        return host
    if ":" in text:
        raise AddressError(f"{text!r} must be in brackets if it is an IPv6 address: [{text}]")
    return _ip_normal(text) or _parse_name(text)


def _parse_name(text: str) -> str:
    name = text.lower()
    labels = name.split(".")
    if not name or len(name) > _NAME_MAX or not all(_is_label(label) for label in labels):
        raise AddressError(
            f"{text!r} is not a host name or IP address (names have letters, digits and hyphens between dots; write"
            " international names in their xn-- form)"
        )
    if labels[-1].isdigit():
        raise AddressError(f"{text!r} looks like an IPv4 address but is none")
    return name


def _is_label(label: str) -> bool:
    return 0 < len(label) <= _LABEL_MAX and label[0] != "-" and label[-1] != "-" and _LABEL_CHARS.issuperset(label)
