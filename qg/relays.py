# SPDX-License-Identifier: MIT
"""The relays that a node knows, and which of them have failed lately (docs/protocol.md, sections 6.5 and 7.1).

They come from the configuration, and from signed records that peers pass on. Nobody is an authority: the book is
bounded, and no neighbour fills more than a share of it. Times are seconds of the clock that the caller reads.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from random import Random, SystemRandom
from typing import TYPE_CHECKING, NamedTuple, final

from qg.address import Address
from qg.types import LinkKey, PeerId

if TYPE_CHECKING:
    from qg.flow import Link

__all__ = ["KNOWN_MAX", "KnownRelay", "RelayBook", "network_of"]

KNOWN_MAX = 4096  # records kept; a full book forgets of the neighbour that told most
_SHARE = 8  # of the records, one neighbour may have told so small a part
_SHARE_MIN = 16  # or so many
_AVOID_S = (600.0, 1200.0, 2400.0, 3600.0)  # after the first failure, the second, ...
_TAMPER_WINDOW_S = 600.0  # two layers that fail to open within this, between a relay and different others,
_TAMPER_AVOID_S = 3600.0  # bar it for so long
_REPORT_S = 3600.0  # what one relay says of another waits so long for a second one that says the same
_ENDPOINTS_MAX = 4  # of one relay, as in a record
_RANDOM = SystemRandom()
_FAILED_MAX = 4096  # relays whose failures are remembered; the oldest is forgotten


def network_of(host: str | bytes) -> bytes:
    """Name the network that stands for an operator: the /16 of an IPv4 address, the /48 of an IPv6 address.

    An IPv6 address that only wraps an IPv4 address (mapped, 6to4) counts as that one.
    """
    address: IPv4Address | IPv6Address = ip_address(host)
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None:
            return address.packed[:6]
        address = inner
    return address.packed[:2]


class KnownRelay(NamedTuple):
    """Say how to reach a relay, and what it offers."""

    link_key: LinkKey
    peer_id: PeerId | None  # None: the configuration names the link key only
    endpoints: tuple[tuple[str, int], ...]  # IP address and port, the one to be dialled first
    rate_kib: int = 0  # KiB/s that it offers; 0: it does not say
    burst_kib: int = 0

    @classmethod
    def of(cls, address: Address) -> "KnownRelay":
        """Take an address with a link key and an IP address."""
        assert address.link_key is not None
        return cls(address.link_key, address.peer_id, ((address.host, address.port),))

    @classmethod
    def linked(cls, links: Iterable["Link"]) -> list["KnownRelay"]:
        """Take the direct peers that relay and were dialled; one that dialled us may not be where it dialled from."""
        peers = {link.peer for link in links if link.is_outgoing and not link.peer.is_relayed}
        return [
            cls(peer.link_key, peer.id, ((peer.host, peer.port),), *peer.relay_terms)
            for peer in peers
            if peer.relay_terms is not None
        ]

    @property
    def address(self) -> Address:
        """Give the address to dial."""
        host, port = self.endpoints[0]
        return Address(self.link_key, host, port, self.peer_id)

    @property
    def networks(self) -> frozenset[bytes]:
        """Give the networks of all its addresses."""
        return frozenset(network_of(host) for host, _ in self.endpoints)

    @property
    def key(self) -> LinkKey | PeerId:
        """Give what its failures are noted by: its identity, where known, for a record may name anybody's link key."""
        return self.link_key if self.peer_id is None else self.peer_id

    def is_same(self, other: "KnownRelay") -> bool:
        """Tell whether both are one node, by link key or PeerID."""
        return self.link_key == other.link_key or (self.peer_id is not None and self.peer_id == other.peer_id)


class _Entry(NamedTuple):
    relay: KnownRelay
    neighbour: PeerId  # who told first
    issued_s: int
    expires_s: int
    raw: bytes  # the signed record, to be passed on
    is_drawn: bool  # for paths; not, where the relay serves only whom it lists


class _Failures(NamedTuple):
    n: int  # in a row
    until_s: float  # avoided until then
    tampered_s: float | None = None  # when a layer between it and another node failed to open
    partner: LinkKey | None = None  # that node
    suspect_s: float = 0.0  # not even as a guard until then
    reporter: LinkKey | PeerId | None = None  # the relay before it when it failed last
    reported_s: float = 0.0


@final
class RelayBook:
    """Keep the relays that a node knows."""

    def __init__(self, configured: Iterable[Address] = (), known_max: int = KNOWN_MAX) -> None:
        self.configure(configured)
        self._known_max = known_max
        self._entries: dict[PeerId, _Entry] = {}  # by identity
        self._told: dict[PeerId, set[PeerId]] = {}  # whose records a neighbour has told first
        self._failures: dict[LinkKey | PeerId, _Failures] = {}  # those of a layer by link key, which was proven

    def configure(self, configured: Iterable[Address]) -> None:
        """Take other relays from the configuration; one that stands there at several addresses is one relay."""
        relays: dict[LinkKey, KnownRelay] = {}
        for relay in map(KnownRelay.of, configured):
            known = relays.get(relay.link_key, relay)
            endpoints = tuple(dict.fromkeys((*known.endpoints, *relay.endpoints)))[:_ENDPOINTS_MAX]
            relays[relay.link_key] = known._replace(peer_id=known.peer_id or relay.peer_id, endpoints=endpoints)
        self._configured = tuple(relays.values())

    def __len__(self) -> int:
        return len(self._entries)

    def relays(self, now_s: float, linked: Iterable[KnownRelay] = ()) -> list[KnownRelay]:
        """List the relays, each once: of the configuration, of records, and `linked` ones, which are direct peers."""
        found: list[KnownRelay] = []
        keys: set[LinkKey] = set()
        ids: set[PeerId | None] = set()
        for relay in self._configured:
            if relay.link_key not in keys and (relay.peer_id is None or relay.peer_id not in ids):
                found.append(relay)
                keys.add(relay.link_key)
                ids.add(relay.peer_id)
        recorded = (entry.relay for entry in self._entries.values() if entry.is_drawn and entry.expires_s >= now_s)
        for relay in (*recorded, *linked):  # told apart by identity: anybody's record may name the link key of another
            if relay.link_key not in keys and relay.peer_id not in ids:
                found.append(relay)
                ids.add(relay.peer_id)
        return found

    def find(self, relay: KnownRelay) -> KnownRelay:
        """Give what is known now of a relay that was known once."""
        for known in self._configured:
            if known.is_same(relay):
                return known
        entry = None if relay.peer_id is None else self._entries.get(relay.peer_id)
        return relay if entry is None else entry.relay

    # Records

    def issued_s(self, peer_id: PeerId) -> int:
        """Give when the newest record of an identity was issued; 0 if there is none."""
        entry = self._entries.get(peer_id)
        return 0 if entry is None else entry.issued_s

    def record_take(
        self,
        relay: KnownRelay,
        neighbour: PeerId,
        issued_s: int,
        expires_s: int,
        raw: bytes,
        *,
        is_drawn: bool = True,
    ) -> bool:
        """Keep a verified record that a neighbour has told; True if it is new.

        A newer one takes the place of an older one, whoever told that. A neighbour that has told its share gets a place
        at the cost of its own oldest record.
        """
        assert relay.peer_id is not None
        entry = self._entries.get(relay.peer_id)
        if entry is not None:
            if issued_s <= entry.issued_s:
                return False
            neighbour = entry.neighbour
        else:
            self._room_make(neighbour)
            self._told.setdefault(neighbour, set()).add(relay.peer_id)
        self._entries[relay.peer_id] = _Entry(relay, neighbour, issued_s, expires_s, raw, is_drawn)
        return True

    def n_told(self, neighbour: PeerId) -> int:
        """Count the records that a neighbour has told first."""
        return len(self._told.get(neighbour, ()))

    def _room_make(self, neighbour: PeerId) -> None:
        if self.n_told(neighbour) >= max(_SHARE_MIN, len(self._entries) // _SHARE):
            self._oldest_drop(neighbour)
        elif len(self._entries) >= self._known_max:
            self._oldest_drop(max(self._told, key=self.n_told))

    def _oldest_drop(self, neighbour: PeerId) -> None:
        """Forget the record of a neighbour that was issued first."""
        self.drop(min(self._told[neighbour], key=lambda peer_id: self._entries[peer_id].issued_s))

    def drop(self, peer_id: PeerId) -> None:
        """Forget the record of an identity, if there is one."""
        entry = self._entries.pop(peer_id, None)
        if entry is not None:
            told = self._told[entry.neighbour]
            told.remove(peer_id)
            if not told:
                del self._told[entry.neighbour]

    def expired_drop(self, now_s: float) -> None:
        """Forget records that have run out."""
        for peer_id in [peer_id for peer_id, entry in self._entries.items() if entry.expires_s < now_s]:
            self.drop(peer_id)

    def raws(self, n: int, now_s: float, without: PeerId | None = None, random: Random = _RANDOM) -> list[bytes]:
        """Draw up to n records to be passed on, but not those of one peer or told by it; some more are looked at."""
        entries = random.sample([*self._entries.items()], min(2 * n, len(self._entries)))
        return [
            entry.raw
            for peer_id, entry in entries
            if entry.expires_s >= now_s and without not in (peer_id, entry.neighbour)
        ][:n]

    # Failures

    def failed(self, relay: KnownRelay, reporter: KnownRelay, now_s: float) -> None:
        """Avoid a relay for a while, longer each time, if two others have lately said that it cannot be reached.

        One could so keep a source from all relays but its friends.
        """
        before = self._failures.get(relay.key, _Failures(0, 0.0))
        if before.reporter in (None, reporter.key) or now_s - before.reported_s >= _REPORT_S:
            self._note(relay.key, before._replace(reporter=reporter.key, reported_s=now_s))
            return
        until_s = max(before.until_s, now_s + _AVOID_S[min(before.n, len(_AVOID_S) - 1)])
        self._note(relay.key, before._replace(n=before.n + 1, until_s=until_s, reporter=None))

    def tampered(self, near: LinkKey, far: LinkKey, now_s: float) -> list[LinkKey]:
        """Take note of a layer between two nodes that failed to open; give those that are avoided for it.

        Which of the two it was cannot be seen, so a relay is avoided that did so with two others: one alone could else
        have any relay avoided that it is beside. In a layer of its own (`near` is `far`) there is only it.
        """
        pairs = dict.fromkeys([(near, far), (far, near)])
        return [one for one, other in pairs if self._tamper_note(one, other, now_s)]

    def _tamper_note(self, link_key: LinkKey, partner: LinkKey, now_s: float) -> bool:
        before = self._failures.get(link_key, _Failures(0, 0.0))
        is_late = before.tampered_s is None or now_s - before.tampered_s >= _TAMPER_WINDOW_S
        if is_late or (partner == before.partner and partner != link_key):
            self._note(link_key, before._replace(tampered_s=now_s, partner=partner))
            return False
        until_s = now_s + _TAMPER_AVOID_S
        self._note(link_key, before._replace(until_s=until_s, tampered_s=None, partner=None, suspect_s=until_s))
        return True

    def worked(self, relay: KnownRelay) -> None:
        """A circuit over the relay was built: what failed before is forgotten, but not what it is suspected of."""
        before = self._failures.get(relay.key)
        if before is not None and (before.n or before.reporter is not None):
            self._note(relay.key, before._replace(n=0, reporter=None))

    def is_avoided(self, relay: KnownRelay, now_s: float) -> bool:
        """Tell whether a relay has failed lately."""
        found = (self._failures.get(key) for key in (relay.key, relay.link_key))
        return any(failures is not None and now_s < failures.until_s for failures in found)

    def is_suspect(self, relay: KnownRelay, now_s: float) -> bool:
        """Tell whether bytes were changed between a relay and two others lately."""
        failures = self._failures.get(relay.link_key)
        return failures is not None and now_s < failures.suspect_s

    def _note(self, key: LinkKey | PeerId, failures: _Failures) -> None:
        self._failures.pop(key, None)
        if len(self._failures) >= _FAILED_MAX:
            del self._failures[next(iter(self._failures))]
        self._failures[key] = failures
