# SPDX-License-Identifier: MIT
"""Circuits by number of hops: relays drawn for each, another try where one of them failed (docs/protocol.md, 6.2)."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic, time
from typing import Any, TypeVar, final

from qg._core.runtime import own_addresses
from qg.address import Address, is_ip
from qg.config import Config
from qg.errors import HandshakeFailed, InvalidValue, LocalError, NoRoute, Reason, RemoteError
from qg.guards import Guards
from qg.identity import Identity
from qg.relays import KnownRelay, RelayBook, network_of
from qg.route import Bars, no_route, relays_draw, relays_usable, route_choose
from qg.types import LinkKey

__all__ = ["Routes"]

_log = logging.getLogger("qg.node")

_HOPS_MAX = 7  # docs/protocol.md, section 6.5
_TRIES = 3
_TRIES_S = 30.0  # after that no new try begins
_SLOW_S = 1.5  # a try that takes longer has another beside it: relays that went without a word keep one waiting
# What a relay says of itself, rather than of what lies behind it; and that it may have changed what it passed on.
_OWN_REASONS = frozenset({Reason.REFUSED, Reason.BUSY, Reason.LIMIT, Reason.MEMORY, Reason.HOPS, Reason.PROTOCOL})

_Built = TypeVar("_Built")


@final
class Routes:
    """Draw the relays of circuits, and learn from what becomes of them.

    Belongs to the event loop of its node. Raises `LocalError` for a file of guards that cannot be used.
    """

    def __init__(self, config: Config, identity: Identity, clock: Callable[[], float] = time) -> None:
        self.book = RelayBook(config.relays)
        self.guards = Guards(config.guards, config.guard_patience_s)
        self._identity = identity
        self._clock = clock
        self._late: set[asyncio.Task[Any]] = set()  # tries that nobody waits for any more

    def configure(self, config: Config, identity: Identity) -> None:
        """Take other settings; the file of guards stays."""
        self.book.configure(config.relays)
        self._identity = identity

    async def connect(
        self,
        target: Address,
        n_hops: int,
        hosts: Iterable[str],
        linked: Sequence[KnownRelay],
        build: Callable[..., Coroutine[Any, Any, _Built]],
        abandon: Callable[[_Built], object] | None = None,
    ) -> _Built:
        """Build a circuit over `n_hops` relays to a target; `hosts` are addresses of this node, beside its machine's.

        `linked` are direct peers that relay, beside those that the book knows.

        `build` is given the hops, the target last, and in `others` further addresses of each relay; it raises
        `RemoteError` with `hop_idx` where the way ended. Then others are drawn, three times in all within half a
        minute; the last error is raised. With `abandon` others are drawn beside a try that is slow, and the first that
        is built counts; one that is built later is given to `abandon`. Raises `NoRoute` where too few relays are known.
        """
        if isinstance(n_hops, bool) or not isinstance(n_hops, int) or not 1 <= n_hops <= _HOPS_MAX:
            raise InvalidValue(f"hops = {n_hops!r}: must be a whole number from 1 to {_HOPS_MAX}, the relays between")
        source = self._source_bars(hosts)
        bars = source.with_relay(KnownRelay.of(target))
        ends_s = monotonic() + _TRIES_S
        n_left = _TRIES
        unfit: list[KnownRelay] = []  # for this circuit
        failure: RemoteError | None = None
        tries: dict[asyncio.Task[_Built], list[KnownRelay]] = {}
        try:
            while True:
                if n_left and monotonic() < ends_s:
                    n_left -= 1
                    try:
                        path = self._draw_beside(list(tries.values()), n_hops, linked, source, bars, unfit)
                    except NoRoute:
                        if failure is None and not tries:
                            raise
                        n_left = 0
                    else:
                        tries[_try_begin(path, target, build)] = path
                if not tries:
                    assert failure is not None
                    raise failure
                patience_s = _SLOW_S if abandon is not None and n_left else None
                done, _ = await asyncio.wait(tries, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    path = tries.pop(task)
                    try:
                        made = task.result()
                    except RemoteError as error:
                        failure = error
                        unfit += self._learn(path, error)
                        if error.hop_idx == n_hops and isinstance(error, HandshakeFailed):
                            n_left = 0
                    else:
                        self._praise(path)
                        while tries and abandon is not None:
                            self._leave(*tries.popitem(), abandon)
                        return made
        finally:
            for task in tries:
                task.cancel()
            if tries:
                await asyncio.wait(tries)

    def _leave(self, task: asyncio.Task[_Built], path: list[KnownRelay], abandon: Callable[[_Built], object]) -> None:
        """Let a try go on to its end, for what it tells of the relays."""
        self._late.add(task)
        task.add_done_callback(partial(self._left, path, abandon))

    def _left(self, path: list[KnownRelay], abandon: Callable[[_Built], object], task: asyncio.Task[_Built]) -> None:
        self._late.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, RemoteError):
            self._learn(path, error)
        elif error is None and not task.cancelled():
            self._praise(path)
            abandon(task.result())

    def _source_bars(self, hosts: Iterable[str]) -> Bars:
        identity = self._identity
        nodes = tuple(KnownRelay(key, identity.peer_id, ()) for key in identity.link_keys)
        try:
            own: list[str | bytes] = [*own_addresses(), *(host for host in hosts if is_ip(host))]
        except OSError as error:
            raise LocalError(f"no relays can be drawn: {error.strerror}") from None
        return Bars(nodes, frozenset(network_of(address) for address in own))

    def _draw_beside(
        self,
        slow: list[list[KnownRelay]],
        n_hops: int,
        linked: Sequence[KnownRelay],
        source: Bars,
        bars: Bars,
        unfit: list[KnownRelay],
    ) -> list[KnownRelay]:
        """Draw without the relays of slow paths; where too few are left, without those that these begin with."""
        if slow:
            with suppress(NoRoute):
                return self._draw(n_hops, linked, source, bars, unfit + [relay for path in slow for relay in path])
        return self._draw(n_hops, linked, source, bars, unfit + [path[0] for path in slow])

    def _draw(
        self, n_hops: int, linked: Sequence[KnownRelay], source: Bars, bars: Bars, unfit: list[KnownRelay]
    ) -> list[KnownRelay]:
        now_s = self._clock()
        known = self.book.relays(now_s, linked)
        avoided = [relay for relay in known if self.book.is_avoided(relay, now_s)] + unfit
        first = self._guard_draw(known, avoided, source, bars, unfit)
        return [first, *route_choose(known, n_hops - 1, bars.with_relay(first), avoided)]

    def _guard_draw(
        self, known: list[KnownRelay], avoided: list[KnownRelay], source: Bars, bars: Bars, unfit: list[KnownRelay]
    ) -> KnownRelay:
        """Give the first relay: a guard, chosen now if there are none yet."""
        now_s = self._clock()
        self.guards.refresh(self.book.find)
        for guard in self.guards.relays:
            source = source.with_relay(guard)
        usable, removed = relays_usable(known, source, avoided)
        self.guards.add(relays_draw(usable, self.guards.wanted()), now_s)
        if self.guards.candidate_wanted():
            for relay in relays_draw(usable, 1):
                self.guards.candidate_set(relay)
        if not self.guards.relays:
            raise no_route(1, len(known), removed)
        guards = self.guards.order(now_s)
        suspects = [guard for guard in guards if self.book.is_suspect(guard, now_s)]
        fitting, removed = relays_usable(guards, bars, unfit + suspects)
        if not fitting:
            raise no_route(1, sum(removed.values()), removed)
        return fitting[0]

    def _learn(self, path: list[KnownRelay], error: RemoteError) -> list[KnownRelay]:
        """Take note of a failure; give the relays that shall not be tried again for this circuit."""
        now_s = self._clock()
        idx = error.hop_idx or 0
        if idx == 0:
            self.guards.failed(path[0], now_s)
            left_s = max((self.guards.replaced_s() or now_s) - now_s, 0)
            error.args = (
                f"{error}. It is one of the two that all circuits of this node begin with (guards); another takes its"
                f" place if it stays down for {left_s / 3600:.1f} hours",
            )
            return path[:1]
        self._guard_praise(path[0])
        self._guard_judge(path, now_s, is_led=idx > 1)
        if idx < len(path) and not self.guards.is_doubted(path[idx - 1], now_s):
            self.book.failed(path[idx], path[idx - 1], now_s)
        # Which of two neighbours has failed cannot be seen from here; a refusal may well be the nearer one's.
        if error.reason in _OWN_REASONS or idx == len(path):
            return path[idx - 1 : idx + 1]
        return path[idx : idx + 1]

    def tampered(self, near: LinkKey, far: LinkKey) -> None:
        """Take note of bytes that were changed between two nodes of a path, by one of them."""
        _log.info("tampered near=%s far=%s: one of the two has changed bytes of a circuit", near, far)
        for link_key in self.book.tampered(near, far, self._clock()):
            _log.warning("relay_avoided link_key=%s: bytes were changed between it and two others", link_key)

    def _praise(self, path: list[KnownRelay]) -> None:
        self._guard_praise(path[0])
        self._guard_judge(path, self._clock(), is_led=True)
        for relay in path:
            self.book.worked(relay)

    def _guard_judge(self, path: list[KnownRelay], now_s: float, *, is_led: bool) -> None:
        """Take note whether the guard led to the relay behind it, if there is one."""
        if len(path) > 1 and self.guards.extended(path[0], path[1], now_s, is_led=is_led):
            _log.warning("guard_passed_over guard=%s: it led to few of the relays behind it", path[0].address)

    def _guard_praise(self, relay: KnownRelay) -> None:
        gone = self.guards.worked(relay, self._clock())
        if gone is not None:
            _log.warning("guard_replaced gone=%s new=%s: it has not answered for long", gone.address, relay.address)


def _try_begin(
    path: Sequence[KnownRelay], target: Address, build: Callable[..., Coroutine[Any, Any, _Built]]
) -> asyncio.Task[_Built]:
    hops = (*(relay.address for relay in path), target)
    others = [*(relay.endpoints[1:] for relay in path), ()]
    return asyncio.create_task(build(hops, others=others), name="qg circuit")
