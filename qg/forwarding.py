# SPDX-License-Identifier: MIT
"""How forwards are written: which there are, and which a node allows its peers."""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal, NamedTuple, cast

from qg.address import host_port_parse, is_ip
from qg.errors import InvalidValue
from qg.exit_policy import ip_plain, places_parse

__all__ = ["ForwardRule", "ForwardSpec", "Protocol"]

Protocol = Literal["tcp", "udp"]

_LOOPBACK = "127.0.0.1"
_PARTS = re.compile(r"(?:\[[^]]*\]|[^:\[\]])+|(?<=:)(?=:)")  # between colons, those inside of brackets aside
_ALL_PORTS = range(1, 65536)


class ForwardSpec(NamedTuple):
    """Say what is forwarded: what comes to one place of one side goes to another place of the other side.

    Written [HOST:]PORT[/udp]:TARGET:PORT as for `ssh -L`; without HOST it is 127.0.0.1.
    """

    protocol: Protocol
    host: str  # of the side that listens, a number
    port: int  # 0: any free one
    target_host: str
    target_port: int

    @classmethod
    def parse(cls, text: str) -> "ForwardSpec":
        """Read a forward; raises `InvalidValue`."""
        parts = _PARTS.findall(text)
        if ":".join(parts) != text or len(parts) not in (3, 4):
            raise InvalidValue(f"{text!r} is not written [HOST:]PORT[/udp]:TARGET:PORT, IPv6 numbers in brackets")
        port, slash, protocol = parts[-3].partition("/")
        if slash and protocol not in ("tcp", "udp"):
            raise InvalidValue(f"{text!r}: behind the port comes /udp or nothing")
        near = parts[0] if len(parts) == 4 else _LOOPBACK
        try:
            host, port_number = host_port_parse(f"{_LOOPBACK if near == 'localhost' else near}:{port}", 0)
            target = host_port_parse(f"{parts[-2]}:{parts[-1]}", 1)
        except InvalidValue as error:
            raise InvalidValue(f"{text!r}: {error}") from None
        if not is_ip(host):
            raise InvalidValue(f"{text!r}: {host!r} is a name; what is listened on is an IP address, such as 127.0.0.1")
        return cls(cast(Protocol, protocol or "tcp"), host, port_number, *target)

    def __str__(self) -> str:
        suffix = "/udp" if self.protocol == "udp" else ""
        return f"{_bracketed(self.host)}:{self.port}{suffix}:{_bracketed(self.target_host)}:{self.target_port}"


class ForwardRule(NamedTuple):
    """Allow places to peers: `tcp|udp HOST[:PORTS]`.

    HOST is `*`, a network such as 10.1.0.0/16 or [2001:db8::]/32, one number, a name, or `*.` and a name for all below
    it. PORTS is `*`, a port, or two with a dash between. A name allows what is asked for by that name, wherever it
    leads; a network allows its addresses, also where a name leads to one.
    """

    protocol: Protocol
    network: IPv4Network | IPv6Network | None
    name: str  # "" if the rule has none; ".example.org" for what is below
    ports: range

    @classmethod
    def parse(cls, text: str) -> "ForwardRule":
        """Read a rule; raises `InvalidValue`."""
        words = text.split()
        if len(words) != 2 or words[0] not in ("tcp", "udp"):
            raise InvalidValue(f"{text!r} is not written `tcp HOST[:PORTS]` or `udp HOST[:PORTS]`")
        try:
            return cls(cast(Protocol, words[0]), *places_parse(words[1]))
        except InvalidValue as error:
            raise InvalidValue(f"{text!r}: {error}") from None

    def allows(self, protocol: Protocol, name: str, ip: IPv4Address | IPv6Address, port: int) -> bool:
        """Tell whether the rule allows an address; `name` is what was asked for, "" if it was the address.

        Port 0, any free one, takes a rule for all ports.
        """
        if protocol != self.protocol or not self._has_port(port):
            return False
        return ip_plain(ip) in self.network if self.network is not None else self.allows_name(name, port)

    def allows_name(self, name: str, port: int) -> bool:
        """Tell whether the rule allows a name wherever it leads; "" is the name of what was asked for by number."""
        if self.network is not None or not self._has_port(port):
            return False
        name = name.rstrip(".")
        return name.endswith(self.name) if self.name[:1] == "." else not self.name or name == self.name

    def _has_port(self, port: int) -> bool:
        return port in self.ports if port else self.ports == _ALL_PORTS


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
