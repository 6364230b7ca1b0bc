# SPDX-License-Identifier: MIT
"""What peers may have under way, and begin."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import qg

__all__ = ["Rate", "Slots"]


class Rate:
    """Bound how many a second each peer has begun, with twice as many at once after a pause."""

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._full_s: dict[qg.PeerId, float] = {}  # when a peer has its whole burst again; the soonest first, nearly

    def takes(self, peer_id: qg.PeerId) -> bool:
        """Count one more; False, and not counted, if it is one too many."""
        now_s = monotonic()
        full_s = max(self._full_s.pop(peer_id, now_s), now_s)
        is_taken = full_s + 1 / self._per_s <= now_s + 2
        self._full_s[peer_id] = full_s + 1 / self._per_s if is_taken else full_s
        while self._full_s[(oldest := next(iter(self._full_s)))] <= now_s:
            del self._full_s[oldest]
        return is_taken


class Slots:
    """Bound what is under way, of all peers and of each."""

    def __init__(self, n_max: int, n_peer_max: int) -> None:
        self._n_max = n_max
        self._n_peer_max = n_peer_max
        self._taken: Counter[qg.PeerId] = Counter()
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def has_room(self, peer_id: qg.PeerId) -> bool:
        """Tell whether a peer may begin one more."""
        return self._n < self._n_max and self._taken[peer_id] < self._n_peer_max

    @contextmanager
    def taken(self, peer_id: qg.PeerId) -> Iterator[None]:
        """Count one more for the time of the block."""
        self._taken[peer_id] += 1
        self._n += 1
        try:
            yield
        finally:
            self._n -= 1
            self._taken[peer_id] -= 1
            if not self._taken[peer_id]:
                del self._taken[peer_id]
