# SPDX-License-Identifier: MIT
"""Rules of access: what an operator has said of networks and of peers, and what was found out about addresses."""

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from math import isfinite
from typing import NamedTuple, final

from qg.address import Prefix
from qg.errors import InvalidValue
from qg.types import PeerId

__all__ = [
    "NO_RULES",
    "NetworkRule",
    "PeerRule",
    "Rules",
    "Standing",
    "network_check",
    "network_plain",
    "peer_check",
    "rule_check",
    "standing_check",
]

_NAME_MAX = 64
_NOTE_MAX = 256
_RATE_MAX = 1_048_576  # KiB/s
_LOST_MAX = 100  # points
_REFUSALS_MAX = 1000  # each twice as long as the one before, up to a day
_NETWORKS_MAX = 1_000_000  # qg/_core/prefixes.pxd has room for a little more
_PEERS_MAX = 50_000  # beside those that the configuration lists; qg/_core/guard.pxd
_IP4_HEAD = bytes(10) + b"\xff\xff"  # of an IPv4 address that is written as an IPv6 one
_IP4_BITS = 96


class NetworkRule(NamedTuple):
    """Say whether addresses of a network may connect; of several networks that hold one, the smallest decides."""

    network: Prefix
    is_allowed: bool
    note: str = ""

    @property
    def words(self) -> str:
        """Say it in words."""
        return f"{self.network} is {'allowed' if self.is_allowed else 'blocked'}{f' ({self.note})' * bool(self.note)}"


class PeerRule(NamedTuple):
    """Say what one peer may; None: what a peer may that no rule names."""

    peer_id: PeerId
    name: str = ""
    is_allowed: bool | None = None  # to have a session
    may_relay: bool | None = None  # over this node
    may_exit: bool | None = None  # to use this node's exit
    rate_kib_s: int | None = None  # that this node sends to it; 0: as much as the line takes

    @property
    def words(self) -> str:
        """Say it in words."""
        said = [f"{self.name or 'it'} is {'allowed' if self.is_allowed else 'blocked'}"] * (self.is_allowed is not None)
        said += [f"may{'' if may else ' not'} {what}" for may, what in self._rights if may is not None]
        if self.rate_kib_s is not None:
            said.append(f"gets {self.rate_kib_s} KiB/s" if self.rate_kib_s else "gets what the line takes")
        return ", ".join(said) or "nothing but a name"

    @property
    def _rights(self) -> tuple[tuple[bool | None, str], ...]:
        return (self.may_relay, "relay"), (self.may_exit, "use the exit")


class Standing(NamedTuple):
    """How an address or a network stands: points lost of 100, and until when it is refused; times are unix seconds."""

    network: Prefix
    lost: int
    n_refusals: int
    scored_s: float
    refused_s: float


@final
class Rules:
    """Hold all rules; immutable. `is_closed`: nobody gets in, whatever else is said, for the rules are not known.

    Raises `InvalidValue` for more than 1,000,000 networks or 50,000 peers.
    """

    def __init__(
        self, networks: Iterable[NetworkRule] = (), peers: Iterable[PeerRule] = (), *, is_closed: bool = False
    ) -> None:
        self.networks: Mapping[Prefix, NetworkRule] = {rule.network: rule for rule in networks}
        self.peers: Mapping[PeerId, PeerRule] = {rule.peer_id: rule for rule in peers}
        self.is_closed = is_closed
        if len(self.networks) > _NETWORKS_MAX or len(self.peers) > _PEERS_MAX:
            raise InvalidValue(f"there may be {_NETWORKS_MAX} rules of networks and {_PEERS_MAX} of peers, not more")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rules):
            return NotImplemented
        return (self.networks, self.peers, self.is_closed) == (other.networks, other.peers, other.is_closed)

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def ordered(self) -> list[NetworkRule]:
        """Give the networks as the core wants them: by address, the wider ones first."""
        return sorted(self.networks.values(), key=_place)

    def admitted(self, allow: str | Collection[PeerId]) -> tuple[bool, set[PeerId]]:
        """Tell whether peers that no rule names may have a session, and for whom it is the other way round.

        `allow` is what the configuration says: "anyone" or "members", or these PeerIDs.
        """
        return self._sides(allow, {rule.peer_id: rule.is_allowed for rule in self.peers.values()})

    def relaying(self, allow: str | Collection[PeerId]) -> tuple[bool, set[PeerId]]:
        """The same for who may relay; `allow` is "none" or "members", or these PeerIDs."""
        return self._sides(() if allow == "none" else allow, {r.peer_id: r.may_relay for r in self.peers.values()})

    def _sides(self, allow: str | Collection[PeerId], said: Mapping[PeerId, bool | None]) -> tuple[bool, set[PeerId]]:
        if self.is_closed:
            return False, set()
        is_anyone = isinstance(allow, str)
        exceptions: set[PeerId] = set() if isinstance(allow, str) else set(allow)
        for peer_id, is_allowed in said.items():
            if is_allowed is not None:
                (exceptions.discard if is_allowed == is_anyone else exceptions.add)(peer_id)
        return is_anyone, exceptions

    def changed(self, rules: Iterable[NetworkRule | PeerRule], gone: Iterable[Prefix | PeerId] = ()) -> "Rules":
        """Give these rules with others in their places, and without some."""
        networks, peers = dict(self.networks), dict(self.peers)
        for key in gone:
            if isinstance(key, Prefix):
                networks.pop(key, None)
            else:
                peers.pop(key, None)
        for rule in rules:
            if isinstance(rule, NetworkRule):
                networks[rule.network] = rule
            else:
                peers[rule.peer_id] = rule
        return Rules(networks.values(), peers.values())

    def peer_find(self, text: str) -> PeerId:
        """Read a PeerID, or the name or UUID of exactly one peer that has a rule; raises `InvalidValue`."""
        found = [rule.peer_id for rule in self.peers.values() if text in (rule.name, str(rule.peer_id.uuid))]
        try:
            return PeerId(text)  # also where somebody else has it for a name
        except InvalidValue:
            if not found:
                raise
        if len(found) > 1:
            raise InvalidValue(f"{text!r} is the name of {len(found)} peers: give the PeerID")
        return found[0]


NO_RULES = Rules()


def rule_check(rule: NetworkRule | PeerRule) -> NetworkRule | PeerRule:
    """Give the rule as it is kept; raises `InvalidValue`."""
    return network_check(rule) if isinstance(rule, NetworkRule) else peer_check(rule)


def network_check(rule: NetworkRule) -> NetworkRule:
    """Give the rule as it is kept; raises `InvalidValue`."""
    _text_check("note", rule.note, _NOTE_MAX)
    return rule._replace(network=network_plain(rule.network))


def peer_check(rule: PeerRule) -> PeerRule:
    """Give the rule; raises `InvalidValue`."""
    _text_check("name", rule.name, _NAME_MAX)
    if rule.rate_kib_s is not None and not _is_whole(rule.rate_kib_s, _RATE_MAX):
        raise InvalidValue(f"rate = {rule.rate_kib_s} KiB/s: from 0 to {_RATE_MAX}")
    return rule


def standing_check(row: Standing) -> Standing:
    """Give the score; raises `InvalidValue` for one that nobody can have."""
    is_one = _is_whole(row.lost, _LOST_MAX) and _is_whole(row.n_refusals, _REFUSALS_MAX)
    if not is_one or not isfinite(row.scored_s + row.refused_s):
        raise InvalidValue(f"the score of {row.network} has figures that no score has")
    return row


def _is_whole(value: object, most: int) -> bool:
    """Stores keep what they are given, fractions and texts among it; the core takes whole numbers."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def network_plain(network: Prefix) -> Prefix:
    """Give the IPv4 network that is written as an IPv6 one; others as they are."""
    if len(network.network) == 16 and network.n_bits >= _IP4_BITS and network.network.startswith(_IP4_HEAD):
        return Prefix(network.network[12:], network.n_bits - _IP4_BITS)
    return network


def _place(rule: NetworkRule) -> tuple[bytes, int]:
    network, n_bits = rule.network
    return (network, n_bits) if len(network) == 16 else (_IP4_HEAD + network, n_bits + _IP4_BITS)


def _text_check(what: str, text: str, len_max: int) -> None:
    if len(text) > len_max or not text.isprintable():
        raise InvalidValue(f"{what} {text[:40]!r}: at most {len_max} characters, all of them printable")
