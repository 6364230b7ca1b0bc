# SPDX-License-Identifier: MIT
"""Records of relays between direct peers: what is sent, and what of the received is believed (docs/protocol.md, 7.1).

All that a peer sends is data of strangers. It is dropped at the first thing that is wrong with it, the cheap things
first, and `counts` says how often each was.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from random import SystemRandom
from time import monotonic, time
from typing import final

from qg.address import Endpoint
from qg.config import Config
from qg.identity import Identity
from qg.records import FRAME_RECORDS_MAX, Record, frame_pack, frame_split, may_dial, record_make, record_withdraw
from qg.relays import RelayBook
from qg.types import PeerId

__all__ = ["TELL_S", "Gossip"]

TELL_S = 1800.0  # between two frames to one of the peers, give or take a fifth
_RENEW_S = 21_600.0  # how often the node's own record is made anew
_CHECKS_BURST = 64  # records of one neighbour verified at once
_CHECK_S = 5.0  # then one per so long
_NEIGHBOURS_MAX = 4096  # whose checks are counted; the one that was silent longest is forgotten
_RANDOM = SystemRandom()


@final
class Gossip:
    """Fill a book of relays with what peers tell, and tell them what is in it."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        book: RelayBook,
        clock: Callable[[], float] = time,
        steady: Callable[[], float] = monotonic,
    ) -> None:
        self.counts: Counter[str] = Counter()  # records by what became of them
        self._config = config
        self._identity = identity
        self._book = book
        self._clock = clock
        self._steady = steady
        self._own: bytes | None = None
        self._own_s = -math.inf  # when it was made, of `steady`
        self._own_endpoints: tuple[Endpoint, ...] = ()
        self._issued_s = 0
        self._is_leaving = False
        self._full_s: dict[PeerId, float] = {}  # when a neighbour has all its checks again

    def configure(self, config: Config, identity: Identity) -> None:
        """Take other settings; the node's own record is made anew."""
        self._config, self._identity = config, identity
        self._own_s = -math.inf

    def frame_make(self, endpoints: Sequence[Endpoint], to: PeerId) -> bytes | None:
        """Make what is to be told to a peer: the node's own record, and others at random; None if there is nothing."""
        now_s = self._clock()
        own = self._own_record(tuple(endpoints), int(now_s))
        raws = [] if own is None else [own]
        raws += self._book.raws(FRAME_RECORDS_MAX - len(raws), now_s, without=to)
        return frame_pack(raws) if raws else None

    def _own_record(self, endpoints: tuple[Endpoint, ...], now_s: int) -> bytes | None:
        is_due = self._steady() >= self._own_s + _RENEW_S or endpoints != self._own_endpoints
        if is_due and not self._is_leaving:
            former, self._own = self._own, record_make(self._identity, endpoints, self._config.relay, now_s)
            if self._own is None and former is not None:
                self._own = record_withdraw(self._identity, self._own_endpoints, max(now_s, self._issued_s + 1))
            self._own_s, self._own_endpoints, self._issued_s = self._steady(), endpoints, now_s
        return self._own

    def leave(self) -> bool:
        """Take the node's own record back, for it is about to stop; True if there is something to be told."""
        self._is_leaving = True
        if self._own is not None:
            now_s = max(int(self._clock()), self._issued_s + 1)
            self._own = record_withdraw(self._identity, self._own_endpoints, now_s)
        return self._own is not None

    def take(self, neighbour: PeerId, data: bytes) -> None:
        """Learn from the records of a frame."""
        for raw in frame_split(data):
            self.counts[self._record_take(neighbour, raw)] += 1

    def _record_take(self, neighbour: PeerId, raw: bytes) -> str:
        head = Record.head(raw)
        if head is None:
            return "malformed"
        peer_id, issued_s = head
        if peer_id == self._identity.peer_id:
            return "own"
        if issued_s <= self._book.issued_s(peer_id):
            return "known"
        if not self._check_allowed(neighbour):
            return "over_rate"
        now_s = self._clock()
        record = Record.read(raw, int(now_s), self._config.link.clock_window_s)
        self.counts["verified"] += 1
        if record is None:
            return "refused"
        if not record.does_relay and self._book.issued_s(peer_id) == 0:
            return "refused"
        relay = record.relay
        listed, ports = self._config.relay.targets, self._config.relay.ports
        endpoints = tuple(endpoint for endpoint in relay.endpoints if may_dial(*endpoint, listed, ports))
        if not endpoints:
            return "not_dialled"
        relay = relay._replace(endpoints=endpoints)
        is_drawn = record.does_relay and not record.is_listed
        self._book.record_take(relay, neighbour, record.issued_s, record.expires_s, raw, is_drawn=is_drawn)
        return "taken" if record.does_relay else "withdrawn"

    def _check_allowed(self, neighbour: PeerId) -> bool:
        """Take one of the checks that a neighbour has; each costs two signatures."""
        now_s = self._steady()
        full_s = max(self._full_s.pop(neighbour, now_s), now_s)
        is_allowed = full_s - now_s <= (_CHECKS_BURST - 1) * _CHECK_S
        if len(self._full_s) >= _NEIGHBOURS_MAX:
            del self._full_s[next(iter(self._full_s))]
        self._full_s[neighbour] = full_s + _CHECK_S if is_allowed else full_s
        return is_allowed

    def tell_wait_s(self) -> float:
        """Draw how long to wait until a peer is told again; what has expired meanwhile goes."""
        self._book.expired_drop(self._clock())
        return TELL_S * _RANDOM.uniform(0.8, 1.2)
