# SPDX-License-Identifier: MIT
"""Names to addresses, for exits: in threads of its own, so that slow names hold up neither the node nor each other."""

import asyncio
import socket
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from time import monotonic

import qg

__all__ = ["Names"]

_THREADS = 32
_PEER_MAX = 16  # look-ups that one peer may have under way: half of the threads are left for others
_KEPT = 4096  # names
_KEPT_S = 30.0  # a browser opens many connections to one name within moments
_ADDRESSES_MAX = 8


class Names:
    """Resolve names as this machine does, and keep what was found for a moment."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="qg-names")
        self._kept: dict[str, tuple[float, list[str]]] = {}
        self._n_waiting: Counter[qg.PeerId] = Counter()  # look-ups of which a thread may still know
        self._lock = threading.Lock()

    async def resolve(self, name: str, peer_id: qg.PeerId) -> list[str]:
        """Give the addresses of a name, IPv4 and IPv6, in the system's order; none if it has none.

        Raises `Busy` when the peer has too many look-ups under way.
        """
        now_s = monotonic()
        until_s, found = self._kept.get(name, (0.0, []))
        if until_s > now_s:
            return found
        found = await asyncio.wrap_future(self._begin(name, peer_id))
        if found:
            self._kept.pop(name, None)
            if len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[name] = now_s + _KEPT_S, found
        return found

    def _begin(self, name: str, peer_id: qg.PeerId) -> Future[list[str]]:
        with self._lock:
            if self._n_waiting[peer_id] >= _PEER_MAX:
                raise qg.Busy(f"{_PEER_MAX} look-ups of one peer are under way")
            self._n_waiting[peer_id] += 1
        look_up = self._threads.submit(_addresses, name)
        look_up.add_done_callback(partial(self._ended, peer_id))  # not when who asked has gone: the thread is taken
        return look_up

    def _ended(self, peer_id: qg.PeerId, _: Future[list[str]]) -> None:
        with self._lock:
            self._n_waiting[peer_id] -= 1
            if not self._n_waiting[peer_id]:
                del self._n_waiting[peer_id]

    def close(self) -> None:
        """Wait for nothing, take nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _addresses(name: str) -> list[str]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    hosts = dict.fromkeys(str(place[0]) for *_, place in found)
    return [host for host in hosts if "%" not in host][:_ADDRESSES_MAX]
