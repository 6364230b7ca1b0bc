# SPDX-License-Identifier: MIT
"""Peers that are kept connected: dialled again when they are gone, at random times that grow further apart."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, final

from qg.errors import QGError, UsageError
from qg.types import KeptInfo

if TYPE_CHECKING:
    from qg.peer import Peer

__all__ = ["Backoff", "Keeper"]

_log = logging.getLogger("qg.keep")


class Backoff(NamedTuple):
    """Say how long to wait before the next try: a random time up to a limit that doubles with each try.

    "Full jitter": of many nodes that lost the same peer, no two come back at the same moment. A session that lasted
    `stable_s` starts anew, a shorter one counts as one more failure.
    """

    first_s: float = 1.0  # a peer that restarts is back within seconds
    max_s: float = 300.0  # a peer that is away for hours costs twelve dials an hour at least
    stable_s: float = 60.0

    def limit_s(self, n_tries: int) -> float:
        """Give the longest wait after so many tries without success."""
        return min(self.max_s, self.first_s * 2.0 ** min(n_tries, 64))

    def wait_s(self, n_tries: int) -> float:
        """Draw the wait."""
        return random.uniform(0.0, self.limit_s(n_tries))


BACKOFF = Backoff()


@final
class Keeper:
    """Keep one peer connected until it is stopped; belongs to the event loop of the node.

    `dial` makes a session, and revives the peer that it is given; what it raises is logged, and tried again.
    """

    def __init__(self, name: str, dial: "Callable[[Peer | None], Awaitable[Peer]]") -> None:
        self.name = name  # the address
        self.peer: Peer | None = None
        self._dial = dial
        self._backoff = BACKOFF
        self._changed = asyncio.Event()  # the session came or went
        self._n_tries = 0
        self._next_s: float | None = None  # when the next try is due; None: now connected, or dialling
        self._error = ""
        self._up_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._is_stopped = False  # the task's `cancelling` would also tell of a pause that has just run out

    def start(self, peer: "Peer | None") -> None:
        """Begin: with a peer that is connected, or by dialling at once."""
        if peer is not None:
            self._adopt(peer)
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"qg.Keeper {self.name}")

    def stop(self) -> asyncio.Task[None] | None:
        """Dial no more; gives the task that is ending. The session stays."""
        self._is_stopped = True
        if self.peer is not None and self.peer.keeper is self:
            self.peer.keeper = None
        if self._task is not None:
            self._task.cancel()
        return self._task

    def peer_retake(self) -> None:
        """Keep the peer again that another keeper of it, now stopped, had taken over."""
        if self.peer is not None and self.peer.keeper is None and not self.is_stopped:
            self._adopt(self.peer)

    def on_up(self) -> None:
        """Take note that the peer has a session again, whoever dialled."""
        self._up_s = monotonic()
        self._error = ""
        self._changed.set()

    def on_down(self) -> None:
        """Take note that its last session has ended."""
        self._n_tries = 0 if monotonic() - self._up_s >= self._backoff.stable_s else self._n_tries + 1
        self._changed.set()

    @property
    def is_stopped(self) -> bool:
        """Tell whether it dials no more."""
        return self._is_stopped or (self._task is not None and self._task.done())

    def info(self) -> KeptInfo:
        """Describe how it stands."""
        return KeptInfo(
            address=self.name,
            peer_id=None if self.peer is None else self.peer.id,
            is_connected=self._is_up(),
            n_tries=self._n_tries,
            next_try_s=None if self._next_s is None else max(0.0, self._next_s - monotonic()),
            error=self._error,
        )

    def _is_up(self) -> bool:
        return self.peer is not None and self.peer.is_connected

    def _adopt(self, peer: "Peer") -> None:
        if self.peer is not None and self.peer is not peer and self.peer.keeper is self:
            self.peer.keeper = None
        is_told = peer.keeper is self
        self.peer, peer.keeper = peer, self
        self.on_up()
        if not is_told and not peer.is_connected:
            self.on_down()  # it went before we could hear of it

    async def _run(self) -> None:
        is_first = self.peer is None
        while True:
            while self._is_up():
                self._changed.clear()
                await self._changed.wait()
            if not is_first:
                await self._pause()
            is_first = False
            if not self._is_up() and not await self._try():
                return

    async def _pause(self) -> None:
        """Wait for the next try, or until the peer has come by itself."""
        wait_s = self._backoff.wait_s(self._n_tries)
        self._next_s = monotonic() + wait_s
        try:
            async with asyncio.timeout(wait_s):
                while not self._is_up():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        finally:
            self._next_s = None

    async def _try(self) -> bool:
        """Dial once; False when there is no sense in trying again."""
        try:
            self._adopt(await self._dial(self.peer))
        except UsageError as error:
            _log.warning("keep_ended address=%s: %s", self.name, error)
            return False
        except QGError as error:
            self._n_tries += 1
            self._error = str(error)
            limit_s = self._backoff.limit_s(self._n_tries)
            _log.info("keep_failed address=%s tries=%d limit_s=%.0f: %s", self.name, self._n_tries, limit_s, error)
        return True
