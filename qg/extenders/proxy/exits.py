# SPDX-License-Identifier: MIT
"""Ways to exits: which exit a connection takes, one way for each isolation key, another one when it dies."""

import asyncio
import logging
import random
from collections.abc import Sequence
from time import monotonic
from types import TracebackType

import qg
from qg.extenders.proxy.exit import CONNECT, DATAGRAMS, EXIT_ID, ExitLimits
from qg.extenders.sockets.outcome import OUTCOME_S, Outcome, outcome_of
from qg.extenders.sockets.target import Target
from qg.extenders.sockets.tasks import Timeouts

__all__ = ["Asked", "Exits", "NoExit"]

_log = logging.getLogger("qg.exits")

_KEYS_MAX = 256  # isolation keys at a time
_OPEN_S = 2.0  # for an exit to take a stream: more than a round trip over seven relays, so silence means a dead way
_DIAL_S = 15.0
_AVOID_S = 60.0  # an exit that failed is tried last for so long
_TRIES = 3


class NoExit(qg.RemoteError):
    """Report that no exit could be asked; the text says why the last one could not."""


class _Way:
    """A session with an exit, and who uses it."""

    __slots__ = ("begun_s", "is_left", "n_streams", "peer")

    def __init__(self, peer: qg.Peer) -> None:
        self.peer = peer
        self.begun_s = 0.0  # when the stream begun last was due, had all come evenly
        self.n_streams = 0
        self.is_left = False  # new streams take another one

    @property
    def is_usable(self) -> bool:
        return not self.is_left and self.peer.is_connected

    async def leave(self) -> None:
        """Take no new streams; once the last has ended, end what was made for them alone."""
        self.is_left = True
        if not self.n_streams and self.peer.is_relayed:
            await self.peer.close()


class _Key:
    """What connections of one isolation key share."""

    __slots__ = ("lock", "n_waiting", "used_s", "way")

    def __init__(self) -> None:
        self.way: _Way | None = None
        self.lock = asyncio.Lock()  # held while a way is made
        self.n_waiting = 0
        self.used_s = monotonic()

    @property
    def is_idle(self) -> bool:
        return not self.n_waiting and (self.way is None or not self.way.n_streams)


class Exits:
    """Open streams at exits.

    `exits` are those to choose from: addresses, or ids of peers that the node is connected to; without any, a peer of
    the node that offers an exit is drawn. With `hops` relays are drawn for each way to an address, with `via` they are
    these. Connections of one isolation key share a way as long as it lives; over relays, those of different keys never
    share one. On one way, no more than `connections_per_s` begin, after a second's worth at once; further ones wait:
    an exit refuses more, and a node ends the link of a peer that goes on.
    """

    def __init__(
        self,
        node: qg.Node,
        exits: Sequence[qg.Address | qg.PeerId] = (),
        *,
        hops: int | None = None,
        via: Sequence[qg.Address] | None = None,
        connections_per_s: int = ExitLimits().peer_connections_per_s,
    ) -> None:
        self._node = node
        self._exits = list(exits)
        self._hops = hops
        self._via = via
        self._connections_per_s = connections_per_s
        self._keys: dict[bytes, _Key] = {}
        self._failed_s: dict[qg.Address | qg.PeerId, float] = {}
        self._opening = Timeouts(_OPEN_S)
        self._answering = Timeouts(OUTCOME_S)

    def connected(self, isolation: bytes, target: Target) -> "Asked":
        """Have an exit connect to a target, for the time of an `async with` block; gives the outcome and a stream.

        Raises `NoExit` when no exit answers.
        """
        return Asked(self, isolation, bytes((CONNECT,)) + bytes(target))

    def associated(self, isolation: bytes) -> "Asked":
        """Have an exit take datagrams, for the time of the block; `frame_read` and `frame_write` are for its stream.

        Raises `NoExit` when no exit answers.
        """
        return Asked(self, isolation, bytes((DATAGRAMS,)))

    async def ask(self, key: _Key, metadata: bytes) -> tuple[Outcome, _Way, qg.Stream]:
        """Open a stream at an exit and hear what it says."""
        way, stream = await self._open(key, metadata)
        try:
            with self._answering.one():
                return outcome_of(await stream.readexactly(1)), way, stream
        except TimeoutError:
            return Outcome.TIMED_OUT, way, stream
        except BaseException:
            stream.reset()
            await self.leave(key, way)
            raise

    async def leave(self, key: _Key, way: _Way) -> None:
        """Take note that a stream has ended."""
        key.used_s = monotonic()
        way.n_streams -= 1
        if way.is_left:
            await way.leave()

    async def reach(self) -> qg.Peer:
        """Reach an exit before anybody asks for it; raises `NoExit` when none answers, or offers none."""
        try:
            way = await self._way(await self.key(b""))
        except qg.QGError as error:
            raise NoExit(str(error)) from None
        if EXIT_ID not in way.peer.extenders:
            raise NoExit(f"{way.peer.where} is no exit: its operator sets `enabled = true` in [exit] and restarts it")
        return way.peer

    async def renew(self) -> int:
        """Take new ways from now on; connections that are open stay on theirs. Gives the number left behind."""
        ways = [key.way for key in self._keys.values() if key.way is not None]
        self._keys.clear()
        for way in ways:
            await way.leave()
        return len(ways)

    async def key(self, isolation: bytes) -> _Key:
        """Give what connections of an isolation key share; raises `UsageError` when too many keys are in use."""
        key = self._keys.get(isolation)
        if key is None:
            if len(self._keys) >= _KEYS_MAX:
                await self._key_drop()
            key = self._keys.setdefault(isolation, _Key())
        return key

    async def _key_drop(self) -> None:
        idle = [(key.used_s, isolation) for isolation, key in self._keys.items() if key.is_idle]
        if not idle:
            raise qg.UsageError(f"{_KEYS_MAX} isolation keys are in use: end connections of some before using more")
        way = self._keys.pop(min(idle)[1]).way
        if way is not None:
            await way.leave()

    async def _open(self, key: _Key, metadata: bytes) -> tuple[_Way, qg.Stream]:
        n_left = _TRIES
        while True:
            n_left -= 1
            way = await self._way(key)
            try:
                return way, await self._try(way, metadata)
            except qg.RemoteError:
                # An exit that says no on a way that works would say it again.
                if not n_left or way.is_usable:
                    raise

    async def _try(self, way: _Way, metadata: bytes) -> qg.Stream:
        way.n_streams += 1
        try:
            await self._turn_wait(way)
            with self._opening.one():
                return await way.peer.open_stream(EXIT_ID, metadata)
        except BaseException as error:
            way.n_streams -= 1
            if not isinstance(error, TimeoutError) or isinstance(error, qg.QGError):
                raise
            _log.warning("exit_silent peer=%s: taking another way", way.peer.id)
            await way.leave()
            raise qg.PeerTimeout(f"{way.peer.where} did not take a stream within {_OPEN_S:g} s") from None

    async def _turn_wait(self, way: _Way) -> None:
        now_s = monotonic()
        way.begun_s = max(way.begun_s, now_s - 1) + 1 / self._connections_per_s
        if way.begun_s > now_s:
            await asyncio.sleep(way.begun_s - now_s)

    async def _way(self, key: _Key) -> _Way:
        if key.way is not None and key.way.is_usable:
            return key.way
        key.n_waiting += 1
        try:
            async with key.lock:
                if key.way is None or not key.way.is_usable:
                    key.way = _Way(await self._dial())
                return key.way
        finally:
            key.n_waiting -= 1

    async def _dial(self) -> qg.Peer:
        if not self._exits:
            return self._peer_drawn(None)
        now_s = monotonic()
        lately = {exit_ for exit_, failed_s in self._failed_s.items() if now_s - failed_s < _AVOID_S}
        order = random.sample(self._exits, len(self._exits))
        order.sort(key=lately.__contains__)
        error: qg.QGError | None = None
        for exit_ in order[:_TRIES]:
            try:
                async with asyncio.timeout(_DIAL_S):
                    return await self._reach(exit_)
            except qg.QGError as caught:
                error = caught
            except TimeoutError:
                error = qg.PeerTimeout(f"the exit {exit_} did not answer within {_DIAL_S:g} s")
            self._failed_s[exit_] = monotonic()
            _log.warning("exit_failed exit=%s: %s", exit_, error)
        assert error is not None
        raise error

    async def _reach(self, exit_: qg.Address | qg.PeerId) -> qg.Peer:
        if isinstance(exit_, qg.PeerId):
            return self._peer_drawn(exit_)
        return await self._node.connect(exit_, via=self._via, hops=self._hops)

    def _peer_drawn(self, peer_id: qg.PeerId | None) -> qg.Peer:
        """Draw a peer that offers an exit, or the one of this id."""
        offering = [
            peer
            for peer in self._node.peers
            if EXIT_ID in peer.extenders and peer.is_connected and (peer_id is None or peer.id == peer_id)
        ]
        if not offering:
            who = "no peer of this node" if peer_id is None else f"no connected peer {peer_id}"
            raise qg.NoRoute(f"{who} offers an exit: name one by its address, or connect to a node that has one", {})
        return random.choice(offering)


class Asked:
    """Ask an exit for something at the beginning of an `async with` block, and end that with the block."""

    __slots__ = ("_exits", "_isolation", "_key", "_metadata", "_stream", "_way")

    def __init__(self, exits: Exits, isolation: bytes, metadata: bytes) -> None:
        self._exits = exits
        self._isolation = isolation
        self._metadata = metadata

    async def __aenter__(self) -> tuple[Outcome, qg.Stream]:
        try:
            self._key = await self._exits.key(self._isolation)
            outcome, self._way, self._stream = await self._exits.ask(self._key, self._metadata)
        except qg.QGError as error:
            _log.warning("no_exit: %s", error)
            raise NoExit(str(error)) from None
        return outcome, self._stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._stream.__aexit__(kind, error, trace)
        finally:
            await self._exits.leave(self._key, self._way)
