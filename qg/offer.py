# SPDX-License-Identifier: MIT
"""What a running node offers: extenders that begin, come and go, and what peers say of theirs (protocol.md, 7)."""

import asyncio
import logging
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, final

from qg._core.runtime import Runtime, Service
from qg.errors import ClosedError, LocalError
from qg.extender import EXTENDERS_MAX, Extender, Registry, extender_name, is_cancelled_by_itself
from qg.native import NativeExtender
from qg.types import ExtenderId

if TYPE_CHECKING:
    from qg.node import Node
    from qg.peer import Peer

__all__ = ["Offer", "ids_read"]

_log = logging.getLogger("qg.extender")

_STOP_S = 5.0  # for `on_stop`
# Fewer than peers take: 256 at once, and ten a second.
_TOLD_BURST = 200
_TOLD_PER_S = 5
_NATIVE_LOOK_S = 0.1  # the core has no word for the end of the last stream


def ids_read(raw: bytes) -> tuple[ExtenderId, ...]:
    """Read the ids of extenders, 16 bytes each."""
    return tuple(ExtenderId(raw[at : at + 16]) for at in range(0, len(raw), 16))


@final
class Offer:
    """Begin and end the services of a node, and change what it offers while it runs. Belongs to its event loop."""

    def __init__(self, node: "Node", registry: Registry, runtime: Runtime) -> None:
        self._node = node
        self._registry = registry
        self._runtime = runtime
        self._natives: dict[Extender, Service] = {}
        self._begun: list[Extender] = []
        self._removals: set[asyncio.Task[None]] = set()
        self._closed = asyncio.Event()
        self._rested_s = 0.0  # when as many changes as ever may be told at once
        registry.on_worn = self._worn
        for extender in registry.extenders:
            self._native_add(extender)

    def _native_add(self, extender: Extender) -> None:
        if isinstance(extender, NativeExtender):
            self._natives[extender] = self._runtime.service_add(bytes(extender.id), extender.table)

    # The beginning and the end of an extender

    async def start(self) -> None:
        """Begin all, in order; raises `LocalError` when one refuses."""
        for extender in self._registry.extenders:
            await self._begin(extender)

    async def _begin(self, extender: Extender) -> None:
        try:
            await extender.on_start(self._node)
        except BaseException as error:
            if not isinstance(error, Exception) and not is_cancelled_by_itself():
                raise
            words = str(error) or type(error).__name__
            raise LocalError(f"extender {extender_name(extender)} did not start: {words}") from error
        self._begun.append(extender)

    async def _end(self, extender: Extender) -> None:
        """Let one end that has begun; what it raises, or a call that hangs, keeps nobody."""
        if extender not in self._begun:
            return
        self._begun.remove(extender)
        task = asyncio.create_task(self._on_stop(extender))
        done, _ = await asyncio.wait([task], timeout=_STOP_S)
        if not done:
            task.cancel()
            _log.error("on_stop_slow extender=%s: it was cancelled after %.0f s", extender_name(extender), _STOP_S)

    async def _on_stop(self, extender: Extender) -> None:
        try:
            await extender.on_stop(self._node)
        except BaseException as error:
            if not isinstance(error, Exception) and not is_cancelled_by_itself():
                raise
            self._registry.failed(extender, "on_stop_failed")

    def close(self) -> None:
        """Change nothing from now on."""
        self._closed.set()

    async def stop(self) -> None:
        """End all that have begun, the last first."""
        for extender in self._begun[::-1]:
            await self._end(extender)
        if self._removals:
            await asyncio.wait(self._removals, timeout=_STOP_S)

    # Changes

    async def add(self, extender: Extender) -> None:
        """Offer one more service; raises `InvalidValue` for what is none, `LocalError` if it refuses to start."""
        self._registry.check(extender)
        await self._begin(extender)
        key = None
        try:
            await self._pace()
            key = self._registry.add(extender)
            self._native_add(extender)
            self._runtime.serve(self._registry.keys, [key], [])
        except BaseException:
            if key is not None:
                self._registry.remove(key)
            await self._end(extender)
            raise
        self._look()

    async def remove(self, extender_id: ExtenderId, grace_s: float) -> bool:
        """Offer a service no more, and return when its last task has ended; False if it is not offered.

        Goes on behind the scenes when it is cancelled.
        """
        extender = self._registry.remove(bytes(extender_id))
        if extender is None:
            return False
        await asyncio.shield(self._removal_start(extender, grace_s))
        return True

    def _removal_start(self, extender: Extender, grace_s: float) -> asyncio.Task[None]:
        removal = asyncio.create_task(self._remove(extender, grace_s), name="qg extender removal")
        self._removals.add(removal)
        removal.add_done_callback(self._removed)
        return removal

    async def _remove(self, extender: Extender, grace_s: float) -> None:
        key = bytes(extender.id)
        service = self._natives.pop(extender, None)
        if service is not None:
            service.close()
        await self._pace()
        if key not in self._registry.keys:  # else another has taken its place meanwhile
            self._runtime.serve(self._registry.keys, [], [key])
        self._look()
        await asyncio.gather(self._native_stop(service, grace_s), self._registry.extender_stop(extender, grace_s))
        await self._end(extender)

    def _worn(self, extender: Extender) -> None:
        """Remove one that fails too often."""
        self._registry.remove(bytes(extender.id))
        self._removal_start(extender, 0)

    def _removed(self, removal: asyncio.Task[None]) -> None:
        self._removals.discard(removal)
        if not removal.cancelled() and removal.exception() is not None and not self._closed.is_set():
            _log.error("extender_removal_failed", exc_info=removal.exception())

    async def _native_stop(self, service: Service | None, grace_s: float) -> None:
        """Wait until the streams are done that the core serves, and end those that take longer."""
        if service is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while service.n_streams and not self._closed.is_set():
                    await asyncio.sleep(_NATIVE_LOOK_S)
        if not self._closed.is_set():
            self._runtime.service_remove(service)

    async def _pace(self) -> None:
        now_s = monotonic()
        self._rested_s = max(self._rested_s, now_s) + 1 / _TOLD_PER_S
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), self._rested_s - now_s - _TOLD_BURST / _TOLD_PER_S)
        if self._closed.is_set():
            raise ClosedError("the node was closed meanwhile")

    def _look(self) -> None:
        for peer in self._node.peers:
            self._registry.peer_look(peer)

    def heard(self, peer: "Peer", n_added: int, raw: bytes) -> None:
        """Take note of what a peer says that it has added and removed."""
        ids = ids_read(raw)
        removed = set(ids[n_added:])
        kept = dict.fromkeys(extender_id for extender_id in peer.extenders if extender_id not in removed)
        peer.extenders = tuple(kept | dict.fromkeys(ids[:n_added]))[:EXTENDERS_MAX]
        self._registry.peer_look(peer)
