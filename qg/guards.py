# SPDX-License-Identifier: MIT
"""Guards: the few first relays of all circuits that a node chooses itself (docs/protocol.md, section 6.2).

Whoever draws a new first relay for each circuit draws a hostile one sooner or later, and that one sees his address. So
two are drawn once and kept in a file. A guard that does not answer is passed over, and only replaced when it has not
answered for a stated time and another relay has.
"""

import json
from collections.abc import Callable, Iterable
from math import isfinite
from random import Random, SystemRandom
from typing import Any, NamedTuple, final

from qg.address import Address
from qg.errors import InvalidValue, LocalError
from qg.relays import KnownRelay
from qg.storage import file_replace
from qg.types import LinkKey, PeerId

__all__ = ["N_GUARDS", "Guards"]

N_GUARDS = 2  # in two networks, so that a target that one of them is, or is near to, can be reached over the other
_RETRY_S = (60.0, 300.0, 600.0)  # a guard that failed is passed over so long while another one answers
_EXTENSIONS = 20  # relays, the last to which a guard was to lead circuits
_EXTENSIONS_MIN = 6  # of which so many must be known before a guard is doubted
_DOUBT_S = 3600.0  # then, if it led to fewer than a half, it is passed over for so long while the other one serves
_VERSION = 1


class _Guard(NamedTuple):
    relay: KnownRelay
    chosen_s: float
    down_s: float | None  # since when it has not answered
    failed_s: float  # last time that it did not
    n_failed: int  # in a row

    def is_passed(self, now_s: float) -> bool:
        return self.n_failed > 0 and now_s < self.failed_s + _RETRY_S[min(self.n_failed, len(_RETRY_S)) - 1]

    def is_lost(self, patience_s: float) -> bool:
        return self.down_s is not None and self.failed_s - self.down_s >= patience_s


@final
class Guards:
    """Hold the guards of a node, in a file if `path` is given.

    Raises `LocalError` for a file that cannot be read or written. Times are unix seconds, for they outlive the process.
    """

    def __init__(self, path: str | None, patience_s: float, random: Random | None = None) -> None:
        self._path = path
        self._patience_s = patience_s
        self._random = random or SystemRandom()
        self._guards: list[_Guard] = [] if path is None else _guards_load(path)
        self._candidate: KnownRelay | None = None  # may take the place of a lost one, once it has answered
        self._led: dict[LinkKey, dict[LinkKey | PeerId, bool]] = {}  # per guard: whether it led to a relay, newest last
        self._doubted_s: dict[LinkKey, float] = {}  # per guard: passed over until then

    @property
    def relays(self) -> tuple[KnownRelay, ...]:
        """Give the guards."""
        return tuple(guard.relay for guard in self._guards)

    def wanted(self) -> int:
        """Count the guards still to be chosen."""
        return N_GUARDS - len(self._guards)

    def add(self, relays: Iterable[KnownRelay], now_s: float) -> None:
        """Take relays as guards."""
        fresh = [_Guard(relay, now_s, None, 0.0, 0) for relay in relays]
        if fresh:
            self._guards += fresh
            self._save()

    def refresh(self, find: Callable[[KnownRelay], KnownRelay]) -> None:
        """Take new addresses and link keys of guards from what is known now."""
        fresh = [guard._replace(relay=find(guard.relay)) for guard in self._guards]
        if fresh != self._guards:
            self._guards = fresh
            self._save()

    def order(self, now_s: float) -> list[KnownRelay]:
        """Give the guards in the order in which they should be tried, before them whoever is to replace one."""
        guards = self._random.sample(self._guards, len(self._guards))
        guards.sort(key=lambda guard: (guard.is_passed(now_s), self.is_doubted(guard.relay, now_s)))
        candidates = [] if self._candidate is None else [self._candidate]
        return candidates + [guard.relay for guard in guards]

    def candidate_wanted(self) -> bool:
        """Tell whether a guard is lost and nobody stands ready for its place."""
        return self._candidate is None and self._lost_idx() is not None

    def _lost_idx(self) -> int | None:
        return next((idx for idx, guard in enumerate(self._guards) if guard.is_lost(self._patience_s)), None)

    def candidate_set(self, relay: KnownRelay) -> None:
        """Let a relay stand ready for the place of a lost guard."""
        self._candidate = relay

    def replaced_s(self) -> float | None:
        """Give the time from which on the next guard may be replaced; None if none is down."""
        downs = [guard.down_s for guard in self._guards if guard.down_s is not None]
        return min(downs) + self._patience_s if downs else None

    def failed(self, relay: KnownRelay, now_s: float) -> None:
        """Take note that a first relay did not answer."""
        if self._candidate is not None and relay.is_same(self._candidate):
            self._candidate = None
        for idx, guard in enumerate(self._guards):
            if guard.relay.is_same(relay):
                down_s = now_s if guard.down_s is None else min(guard.down_s, now_s)
                self._guards[idx] = guard._replace(down_s=down_s, failed_s=now_s, n_failed=guard.n_failed + 1)
                self._save()

    def worked(self, relay: KnownRelay, now_s: float) -> KnownRelay | None:
        """Take note that a first relay answered; give the guard whose place it takes, if it does."""
        for idx, guard in enumerate(self._guards):
            if guard.relay.is_same(relay) and guard.n_failed:
                self._guards[idx] = guard._replace(down_s=None, failed_s=0.0, n_failed=0)
                self._save()
        if self._candidate is None or not relay.is_same(self._candidate):
            return None
        self._candidate = None
        lost_idx = self._lost_idx()
        if lost_idx is None:
            return None  # it has come back meanwhile
        gone = self._guards[lost_idx].relay
        self._led.pop(gone.link_key, None)
        self._guards[lost_idx] = _Guard(relay, now_s, None, 0.0, 0)
        self._save()
        return gone

    def extended(self, relay: KnownRelay, onward: KnownRelay, now_s: float, *, is_led: bool) -> bool:
        """Take note whether a guard led a circuit to the relay behind it; True if from now on it is passed over.

        A hostile one could refuse all relays but its friends, so that circuits end up with these (path bias). Each
        relay counts once, by what came of it last: many tries at one that is down say nothing of the guard.
        """
        if not any(guard.relay.is_same(relay) for guard in self._guards):
            return False
        led = self._led.setdefault(relay.link_key, {})
        led.pop(onward.key, None)
        led[onward.key] = is_led
        if len(led) > _EXTENSIONS:
            del led[next(iter(led))]
        if len(led) < _EXTENSIONS_MIN or 2 * sum(led.values()) >= len(led):
            return False
        led.clear()
        self._doubted_s[relay.link_key] = now_s + _DOUBT_S
        return True

    def is_doubted(self, relay: KnownRelay, now_s: float) -> bool:
        """Tell whether a guard has not led to most relays behind it lately."""
        return now_s < self._doubted_s.get(relay.link_key, 0.0)

    def _save(self) -> None:
        if self._path is None:
            return
        guards = [
            guard._asdict() | {"relay": str(guard.relay.address), "others": guard.relay.endpoints[1:]}
            for guard in self._guards
        ]
        text = json.dumps({"version": _VERSION, "guards": guards}, indent=1) + "\n"
        try:
            file_replace(self._path, text.encode())
        except OSError as error:
            raise LocalError(
                f"{self._path}: the guards cannot be kept: {error.strerror}; name another file by `guards`"
            ) from None


def _guards_load(path: str) -> list[_Guard]:
    try:
        with open(path, encoding="utf-8") as file:
            return [_guard_read(fields) for fields in json.load(file)["guards"]][:N_GUARDS]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LocalError(f"{path}: cannot be read: {error.strerror}; check the path and its permissions") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise LocalError(
            f"{path} is not a file of guards, or is damaged: restore it from a backup, or move it away and new guards"
            " are chosen"
        ) from None


def _guard_read(fields: dict[str, Any]) -> _Guard:
    address = Address.parse(fields["relay"])
    if address.link_key is None:
        raise InvalidValue("a guard has a link key")
    others = [(str(host), int(port)) for host, port in fields.get("others", ())]
    relay = KnownRelay.of(address)
    relay = relay._replace(endpoints=(*relay.endpoints, *others[:3]))
    _ = relay.networks  # IP addresses
    down_s = None if fields["down_s"] is None else _time_read(fields["down_s"])
    return _Guard(
        relay, _time_read(fields["chosen_s"]), down_s, _time_read(fields["failed_s"]), int(fields["n_failed"])
    )


def _time_read(value: Any) -> float:
    time_s = float(value)
    if not isfinite(time_s):
        raise InvalidValue(f"{value} is no time")
    return time_s
