# SPDX-License-Identifier: MIT
"""The way to one peer: a session that is made again when it is gone, at once when somebody waits for it."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import qg
from qg.extenders.forward.service import FORWARD_ID, Forward

__all__ = ["Way"]

_log = logging.getLogger("qg.forward")

_DIAL_S: Final = 30.0  # over seven relays, some of which are tried in vain
_WAIT_S: Final = 15.0  # what a new connection waits for the peer to be there
_OPEN_S: Final = 3.0  # for a peer to take a stream, or to answer a ping: more than a round trip over seven relays
_SOON_S: Final = 0.3  # between two tries while somebody waits
_PAUSE_S: Final = 2.0  # after the first failure, at most; twice as long after each further one
_PAUSE_MAX_S: Final = 60.0
_STABLE_S: Final = 10.0  # a session that ends sooner counts as a failure


class Way:
    """Keep a session with a peer while `run` runs, and open streams on it."""

    def __init__(
        self,
        node: qg.Node,
        service: Forward,
        address: qg.Address,
        *,
        hops: int | None = None,
        via: Sequence[qg.Address] | None = None,
    ) -> None:
        self._node = node
        self._service = service
        self._address = address
        self._hops = hops
        self._via = via
        self._peer: qg.Peer | None = None  # the last one
        self._error: qg.QGError | None = None  # of the last try
        self._up = asyncio.Event()
        self._tried = asyncio.Event()  # once at least
        self._wanted = asyncio.Event()
        self._n_waiting = 0

    async def run(self) -> None:
        """Make a session, and another one whenever it has ended."""
        loop = asyncio.get_running_loop()
        n_failures = 0
        is_lost = False
        while True:
            peer = await self._try()
            self._tried.set()
            if peer is not None:
                since_s = loop.time()
                self._peer, self._error = peer, None
                self._up.set()
                _log.log(logging.WARNING if is_lost else logging.INFO, "forward_up peer=%s", self._address)
                await self._service.gone(peer)
                self._up.clear()
                is_lost = True
                _log.warning("forward_lost peer=%s: connecting again", self._address)
                if loop.time() - since_s >= _STABLE_S:
                    n_failures = 0
            n_failures += 1
            await self._pause(n_failures)

    async def _try(self) -> qg.Peer | None:
        try:
            async with asyncio.timeout(_DIAL_S):
                return await self._node.connect(self._address, via=self._via, hops=self._hops)
        except qg.QGError as error:
            self._error = error
        except TimeoutError:
            self._error = qg.PeerTimeout(f"{self._address} did not answer within {_DIAL_S:g} s")
        _log.info("forward_down peer=%s: %s", self._address, self._error)
        return None

    async def _pause(self, n_failures: int) -> None:
        """Wait for the next try: longer after each failure, but not while somebody waits."""
        await asyncio.sleep(random.uniform(0.5, 1) * _SOON_S)
        if not self._n_waiting:
            self._wanted.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(random.uniform(0, min(_PAUSE_MAX_S, _PAUSE_S * 2.0 ** (n_failures - 1)))):
                    await self._wanted.wait()

    async def reach(self) -> qg.Peer:
        """Give the peer; raises why the last try failed, if there is no session."""
        await self._tried.wait()
        if self._error is not None:
            raise self._error
        return await self._peer_wait()

    async def up_wait(self) -> qg.Peer:
        """Wait for a session, however long it takes."""
        await self._up.wait()
        assert self._peer is not None
        return self._peer

    @asynccontextmanager
    async def opened(self, metadata: bytes) -> AsyncIterator[qg.Stream]:
        """Open a stream for the time of the block; waits a while for a session. Raises `RemoteError`."""
        async with await self._open(metadata) as stream:
            yield stream

    async def _open(self, metadata: bytes) -> qg.Stream:
        try:
            async with asyncio.timeout(_WAIT_S):
                while True:
                    peer = await self._peer_wait()
                    try:
                        return await self._stream(peer, metadata)
                    except qg.RemoteError:
                        await asyncio.sleep(_SOON_S)  # a session that ends tells its streams first
                        if peer.is_connected:
                            raise
        except TimeoutError as error:
            if isinstance(error, qg.QGError):
                raise
            raise qg.PeerTimeout(f"{self._address} is not connected: {self._error or 'no answer'}") from None

    async def _peer_wait(self) -> qg.Peer:
        self._n_waiting += 1
        self._wanted.set()
        try:
            return await self.up_wait()
        finally:
            self._n_waiting -= 1

    async def _stream(self, peer: qg.Peer, metadata: bytes) -> qg.Stream:
        try:
            async with asyncio.timeout(_OPEN_S):
                return await peer.open_stream(FORWARD_ID, metadata)
        except TimeoutError as error:
            if isinstance(error, qg.QGError):
                raise
        await self._silent_close(peer)
        raise qg.PeerTimeout(f"{peer.where} did not take a stream within {_OPEN_S:g} s")

    async def _silent_close(self, peer: qg.Peer) -> None:
        """Close a session on which nothing comes; a peer that is only busy stays, and what others keep is theirs."""
        n_before = self._n_received(peer)
        try:
            async with asyncio.timeout(_OPEN_S):
                await peer.ping()
        except (TimeoutError, qg.RemoteError):
            if peer.keeper is None and self._n_received(peer) == n_before:
                _log.warning("forward_silent peer=%s: taking another session", self._address)
                await peer.close()

    def _n_received(self, peer: qg.Peer) -> int:
        return sum(link.bytes_in for link in self._node.status().links if link.peer_id == peer.id)
