# SPDX-License-Identifier: MIT
"""What a running node offers: extenders that come and go, and what peers say of theirs (protocol.md, section 7)."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, final

from qg._core.runtime import Runtime, Service
from qg.extender import EXTENDERS_MAX, Extender, Registry
from qg.native import NativeExtender
from qg.types import ExtenderId

if TYPE_CHECKING:
    from qg.peer import Peer

__all__ = ["Offer", "ids_read"]

# Fewer than peers take: 256 at once, and ten a second.
_TOLD_BURST = 200
_TOLD_PER_S = 5
_NATIVE_LOOK_S = 0.1  # the core has no word for the end of the last stream


def ids_read(raw: bytes) -> tuple[ExtenderId, ...]:
    """Read the ids of extenders, 16 bytes each."""
    return tuple(ExtenderId(raw[at : at + 16]) for at in range(0, len(raw), 16))


@final
class Offer:
    """Change what a node offers while it runs; `peers` gives those connected. Belongs to the node's event loop."""

    def __init__(self, registry: Registry, runtime: Runtime, peers: Callable[[], Iterable["Peer"]]) -> None:
        self._registry = registry
        self._runtime = runtime
        self._peers = peers
        self._natives: dict[Extender, Service] = {}
        self._rested_s = 0.0  # when as many changes as ever may be told at once
        for extender in registry.extenders:
            self._native_add(extender)

    def _native_add(self, extender: Extender) -> None:
        if isinstance(extender, NativeExtender):
            self._natives[extender] = self._runtime.service_add(bytes(extender.id), extender.table)

    async def add(self, extender: Extender) -> None:
        """Offer one more service; raises `InvalidValue` for what is none."""
        key = self._registry.add(extender)
        try:
            self._native_add(extender)
            await self._pace()
        except BaseException:
            self._registry.remove(key)
            await self._native_stop(extender, 0)
            raise
        self._runtime.serve(self._registry.keys, [key], [])
        self._look()

    async def remove(self, extender_id: ExtenderId, grace_s: float) -> bool:
        """Offer a service no more, and return when its last task has ended; False if it is not offered."""
        key = bytes(extender_id)
        extender = self._registry.remove(key)
        if extender is None:
            return False
        if extender in self._natives:
            self._natives[extender].close()
        await self._pace()
        if key not in self._registry.keys:  # else another has taken its place meanwhile
            self._runtime.serve(self._registry.keys, [], [key])
        self._look()
        await asyncio.gather(self._native_stop(extender, grace_s), self._registry.extender_stop(extender, grace_s))
        return True

    async def _native_stop(self, extender: Extender, grace_s: float) -> None:
        """Wait until the streams are done that the core serves for an extender, and end those that take longer."""
        service = self._natives.pop(extender, None)
        if service is None:
            return
        service.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while service.n_streams:
                    await asyncio.sleep(_NATIVE_LOOK_S)
        self._runtime.service_remove(service)

    async def _pace(self) -> None:
        now_s = monotonic()
        self._rested_s = max(self._rested_s, now_s) + 1 / _TOLD_PER_S
        await asyncio.sleep(max(0.0, self._rested_s - now_s - _TOLD_BURST / _TOLD_PER_S))

    def _look(self) -> None:
        for peer in self._peers():
            self._registry.peer_look(peer)

    def heard(self, peer: "Peer", n_added: int, raw: bytes) -> None:
        """Take note of what a peer says that it has added and removed."""
        ids = ids_read(raw)
        removed = set(ids[n_added:])
        kept = dict.fromkeys(extender_id for extender_id in peer.extenders if extender_id not in removed)
        peer.extenders = tuple(kept | dict.fromkeys(ids[:n_added]))[:EXTENDERS_MAX]
        self._registry.peer_look(peer)
