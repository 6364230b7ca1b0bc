# SPDX-License-Identifier: MIT
"""What an exit connects to: rules in order, the first that matches decides; what is not the open internet is closed."""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from qg.errors import InvalidValue

__all__ = ["ExitPolicy", "ExitRule", "ip_plain", "places_parse"]

_Ip = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network

_NAT64 = IPv6Network("64:ff9b::/96")  # the other side is the IPv4 address in its last four bytes


class ExitRule(NamedTuple):
    """Allow or deny targets: `allow|deny HOST[:PORTS]`.

    HOST is `*`, a network such as 10.1.0.0/16 or [2001:db8::]/32, one number, a name, or `*.` and a name for all below
    it. PORTS is `*`, a port, or two with a dash between.
    """

    is_allowed: bool
    network: _Network | None
    name: str  # "" if the rule has none; ".example.org" for what is below
    ports: range

    @classmethod
    def parse(cls, text: str) -> "ExitRule":
        """Read a rule; raises `InvalidValue`."""
        words = text.split()
        if len(words) != 2 or words[0] not in ("allow", "deny"):
            raise InvalidValue(f"exit rule {text!r}: write `allow HOST[:PORTS]` or `deny HOST[:PORTS]`")
        try:
            return cls(words[0] == "allow", *places_parse(words[1]))
        except InvalidValue as error:
            raise InvalidValue(f"exit rule {text!r}: {error}") from None

    def matches(self, name: str, ip: _Ip, port: int, *, is_closed: bool) -> bool:
        """Tell whether the rule speaks of this target; `is_closed` if its address is not of the open internet."""
        if port not in self.ports:
            return False
        if self.network is not None:
            # Who opens everything has not listed what is closed.
            return ip in self.network and not (is_closed and self.is_allowed and not self.network.prefixlen)
        if self.name and not (name.endswith(self.name) if self.name[0] == "." else name == self.name):
            return False
        return not (is_closed and self.is_allowed)


def places_parse(text: str) -> tuple[_Network | None, str, range]:
    """Read HOST[:PORTS] into the last three fields of a rule; raises `InvalidValue`."""
    host, ports = _split(text)
    if host == "*":
        return None, "", ports
    try:
        return ip_network(host), "", ports
    except ValueError as error:
        if host[-1:].isdigit() or ":" in host or "/" in host:
            raise InvalidValue(str(error)) from None
    name = host.removeprefix("*").lower()
    if not name.strip(".") or "*" in name:
        raise InvalidValue("a * stands alone, or before a dot and a name")
    return None, name, ports


def _split(words: str) -> tuple[str, range]:
    if words.startswith("["):
        host, bracket, rest = words[1:].partition("]")
        if not bracket:
            raise InvalidValue("the bracket is not closed")
        mask, _, ports = rest.partition(":")
        if mask and not mask.startswith("/"):
            raise InvalidValue("behind the bracket comes /BITS or :PORTS")
        host += mask
    elif words.count(":") > 1:  # IPv6 without brackets has no ports behind it
        host, ports = words, ""
    else:
        host, _, ports = words.partition(":")
    if ports in ("", "*"):
        return host, range(1, 65536)
    first, dash, last = ports.partition("-")
    try:
        found = range(int(first), int(last if dash else first) + 1)
    except ValueError:
        found = range(0)
    if not found or found[0] < 1 or found[-1] > 65535:
        raise InvalidValue("ports are *, a port, or FIRST-LAST, in 1..65535")
    return host, found


class ExitPolicy:
    """Decide to which targets an exit connects.

    The first rule that matches decides. Without one, the open internet is allowed, and private, loopback, link-local,
    multicast and reserved addresses are denied, and so are the networks that this machine is in (`own`). Those are
    allowed only by a rule that names their network: neither `*` nor a name opens them, whatever the name resolves to.
    """

    __slots__ = ("_own", "rules")

    def __init__(self, rules: Iterable[str | ExitRule] = (), own: Iterable[_Network] = ()) -> None:
        self.rules = tuple(ExitRule.parse(rule) if isinstance(rule, str) else rule for rule in rules)
        self._own = tuple(own)

    def allows(self, name: str, ip: _Ip, port: int) -> bool:
        """Tell whether the exit connects to this address; `name` is what was asked for, "" if it was the address."""
        name, ip = name.rstrip("."), ip_plain(ip)
        inner = _inner(ip)
        is_closed = self._is_closed(ip)
        for rule in self.rules:
            if rule.matches(name, ip, port, is_closed=is_closed):
                return rule.is_allowed
            # What is denied is so by every way that leads there.
            if inner is not None and not rule.is_allowed and rule.matches(name, inner, port, is_closed=is_closed):
                return False
        return not is_closed

    def allowed(self, name: str, hosts: Iterable[str], port: int) -> list[str]:
        """Give those of these addresses that the exit connects to, IPv4 ones in IPv6 clothes as what they are."""
        return [text for ip, text in map(_address, hosts) if self.allows(name, ip, port)]

    def denies_name(self, name: str, port: int) -> bool:
        """Tell that a name is denied whatever it resolves to, so that it need not be resolved."""
        name = name.rstrip(".")
        for rule in self.rules:
            if rule.network is not None:
                if rule.is_allowed:
                    return False
            elif rule.matches(name, _ANY, port, is_closed=False):
                return not rule.is_allowed
        return False

    def _is_closed(self, ip: _Ip) -> bool:
        inner = _inner(ip)
        if inner is not None and self._is_closed(inner):
            return True
        if isinstance(ip, IPv6Address) and ip in _NAT64:
            return False
        is_site_local = isinstance(ip, IPv6Address) and ip.is_site_local  # fec0::/10, which no registry calls private
        if is_site_local or not ip.is_global or ip.is_multicast or ip.is_reserved:
            return True
        return any(ip in network for network in self._own)


@lru_cache(1024)  # a browser opens many connections to one address
def _address(host: str) -> tuple[_Ip, str]:
    ip = ip_plain(ip_address(host))
    return ip, str(ip)


_ANY = ip_address("192.0.2.1")


def _inner(ip: _Ip) -> IPv4Address | None:
    """Give the IPv4 address to which NAT64, 6to4 or Teredo take what is sent to an IPv6 one."""
    if isinstance(ip, IPv4Address):
        return None
    if ip in _NAT64:
        return IPv4Address(ip.packed[12:])
    return ip.sixtofour or (ip.teredo[1] if ip.teredo else None)


def ip_plain(ip: _Ip) -> _Ip:
    """Give the IPv4 address that is written as an IPv6 one (::ffff:a.b.c.d); others as they are."""
    return (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip
