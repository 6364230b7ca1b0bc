# SPDX-License-Identifier: MIT
"""The access manager of a node: it keeps rules in a store, applies them while the node runs, and explains them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address
from itertools import count
from time import monotonic, time
from typing import NamedTuple, Protocol, final

from qg.access.rules import NO_RULES, NetworkRule, PeerRule, Rules, Standing, network_plain, rule_check
from qg.access.snapshot import snapshot_load, snapshot_save
from qg.access.store import Change, News, Store, StoreError, store_make
from qg.address import Prefix
from qg.config import Config
from qg.errors import InvalidValue, QGError
from qg.types import PeerId

__all__ = ["Access", "Verdict"]

_log = logging.getLogger("qg.access")

_SCORES_S = 1.0  # between looks for scores that have become worse
_AGAIN_S = (1.0, 2.0, 5.0, 10.0, 30.0)  # between tries to reach a store that is away
_CLOSE_S = 5.0  # for a last write
_OVERLAP_S = 120.0  # clocks of nodes that share a store differ
_UNSENT_MAX = 65_536  # scores that wait for the store; as many as the core remembers
_SCORE_MAX = 100
_CLOSED = "the store has not been read, and no snapshot was kept: nobody may connect"


class Core(Protocol):
    """What the manager needs of a node's compiled half."""

    def network_rule(self, ip: bytes) -> int | None: ...
    def allows(self, peer_id: bytes) -> bool: ...
    def score(self, ip: bytes) -> tuple[int, float]: ...
    def scores_changed(self) -> list[tuple[bytes, int, int, int, float, float]]: ...
    def score_put(self, ip: bytes, n_bits: int, lost: int, n_refusals: int, ago_s: float, left_s: float) -> None: ...


class Verdict(NamedTuple):
    """Whether somebody may connect, which rule says so, and what else is known."""

    is_allowed: bool
    rule: str
    notes: tuple[str, ...] = ()


@final
class Access:
    """Say who may connect to a node and what they may, while it runs.

    `node.access` gives the one of a node. Changes are in force when a method returns: sessions of those who may no
    longer connect have been told to end. With `config.access.store` they outlive the node, and nodes that share a store
    share them and what they find out about addresses. Methods belong to the node's event loop; they raise
    `InvalidValue` for what is no rule, `LocalError` (`StoreError`) when the store cannot be written: then nothing has
    changed.
    """

    def __init__(self, config: Config, apply: Callable[[], Awaitable[None]]) -> None:
        self.config = config
        self._rules = NO_RULES
        self.is_open = False
        self._apply = apply
        self._store: Store | None = None if config.access.store is None else store_make(config.access.store)
        self._away: tuple[float, str] | None = None  # since when (monotonic), and why
        self._changing = asyncio.Lock()
        self._unsent: dict[Prefix, Standing] = {}
        self._seen_s = 0.0  # scores of the store that were written before then are known
        self._known: dict[Prefix, Standing] = {}  # of those that were written about then
        self._core: Core | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # Life: called by the node

    async def open(self) -> None:
        """Read the rules; without the store: what it last said, if that was kept, else nobody may connect."""
        self.is_open = True
        if self._store is None:
            return
        try:
            await self._store.open()
            self._rules = await self._store.rules_read()
            await self._remember()
        except StoreError as error:
            self._lost(error)
            path = self.config.access.snapshot
            kept = None if path is None else snapshot_load(path)
            self._rules = kept or Rules(is_closed=True)
            if kept is None:
                _log.error("access_closed: the rules cannot be read, so nobody may connect until they can")
            else:
                _log.warning("access_remembered n_networks=%d n_peers=%d", len(kept.networks), len(kept.peers))

    async def attach(self, core: Core) -> None:
        """Begin to share scores with the store, and to hear what others write."""
        self._core = core
        if self._store is not None:
            if self._away is None:
                with suppress(StoreError):
                    await self._standings_take(self._store)
            self._tasks = [
                asyncio.create_task(self._watch(self._store), name="qg.Access.watch"),
                asyncio.create_task(self._tell(self._store), name="qg.Access.tell"),
            ]

    async def close(self) -> None:
        """Write what waits, and let go of the store."""
        self.is_open = False
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._store is not None:
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    if self._away is None:
                        await self._standings_write(self._store)
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._store.close()

    # Changes

    async def network_set(self, network: Prefix | str, *, is_allowed: bool, note: str = "") -> None:
        """Allow or block the addresses of a network; of several that hold an address, the smallest decides."""
        found = Prefix.parse(network) if isinstance(network, str) else network
        await self.change([NetworkRule(found, is_allowed, note)])

    async def network_remove(self, network: Prefix | str) -> None:
        """Say nothing of a network any more."""
        await self.change(gone=[Prefix.parse(network) if isinstance(network, str) else network])

    async def peer_set(self, rule: PeerRule) -> None:
        """Say what a peer may, in the place of what was said of it."""
        await self.change([rule])

    async def peer_remove(self, peer_id: PeerId) -> None:
        """Say nothing of a peer any more."""
        await self.change(gone=[peer_id])

    async def change(
        self, rules: Iterable[NetworkRule | PeerRule] = (), gone: Iterable[Prefix | PeerId] = ()
    ) -> None:
        """Set and remove many rules at once: all of them or, where this raises, none."""
        checked = [rule_check(rule) for rule in rules]
        keys = [network_plain(key) if isinstance(key, Prefix) else key for key in gone]
        async with self._changing:
            changed = self.rules.changed(checked, keys)
            if self._store is not None:
                if self._away is not None:
                    raise StoreError(f"the rules cannot be changed now: {self._away[1]}")
                await self._store.write(Change(checked, keys), time())
            await self._take(changed)

    async def pardon(self, address: str) -> None:
        """Forget what an IP address, and the network around it, have done; raises `InvalidValue`."""
        now_s = time()
        rows = [Standing(network, 0, 0, now_s, 0.0) for network in _networks_scored(_ip_read(address))]
        for row in rows:
            self._standing_put(row, now_s)
            self._unsent.pop(row.network, None)  # what waits for the store is older
        if self._store is not None:
            if self._away is not None:
                raise StoreError(f"it is pardoned here, and nowhere else now: {self._away[1]}")
            await self._store.write(Change(standings=rows), now_s)

    # Questions

    @property
    def rules(self) -> Rules:
        """Give the rules that are in force."""
        return self._rules

    @property
    def store_state(self) -> str:
        """Say how the store is: "none", "ready", or since when it is away and why."""
        if self._away is None:
            return "none" if self._store is None else "ready"
        return f"away for {monotonic() - self._away[0]:.0f} s: {self._away[1]}"

    def is_shut_out(self, peer_id: PeerId, host: str | None, *, is_outgoing: bool) -> bool:
        """Tell whether a session that runs must end: with a peer, from an IP address, that this node has dialled.

        Whom this node dials need not be allowed to dial it; but it has no session with whom a rule blocks by name.
        """
        assert self._core is not None
        rule = self.rules.peers.get(peer_id)
        if is_outgoing:
            return rule is not None and rule.is_allowed is False
        if not self._core.allows(bytes(peer_id)):
            return True
        place = None if host is None else self._core.network_rule(_ip_read(host))
        return place is not None and not self.rules.ordered[place].is_allowed

    def check_peer(self, peer_id: PeerId) -> Verdict:
        """Tell whether a peer may connect, as the running node decides it."""
        rule = self.rules.peers.get(peer_id)
        allow = self.config.allow
        if self.rules.is_closed:
            said = _CLOSED
        elif rule is not None and rule.is_allowed is not None:
            said = f"the rule for this peer: {rule.words}"
        elif isinstance(allow, str):
            said = f'no rule names it: allow = "{allow}"'
        elif peer_id in allow:
            said = "no rule names it: allow lists it"
        else:
            said = "no rule names it: allow does not list it"
        is_allowed = self.rules.admitted(allow)[0] if self._core is None else self._core.allows(bytes(peer_id))
        notes = () if rule is None else (rule.words,)
        return Verdict(is_allowed, said, notes)

    def check_address(self, address: str) -> Verdict:
        """Tell whether an IP address may connect, as the running node decides it; raises `InvalidValue`."""
        ip = _ip_read(address)
        if self.rules.is_closed:
            return Verdict(False, _CLOSED)
        place = None if self._core is None else self._core.network_rule(ip)
        rule = None if place is None else self.rules.ordered[place]
        said = "no network that has a rule holds it" if rule is None else rule.words
        if rule is not None and not rule.is_allowed:
            return Verdict(False, said)
        score, left_s = (_SCORE_MAX, 0.0) if self._core is None else self._core.score(ip)
        if left_s:
            return Verdict(False, f"it, or its network, is refused for {left_s / 60:.0f} min for what it did", (said,))
        return Verdict(True, said, (f"score {score} of {_SCORE_MAX}",))

    def warnings(
        self, rules: Iterable[NetworkRule | PeerRule] = (), gone: Iterable[Prefix | PeerId] = ()
    ) -> list[str]:
        """Say what a change would shut out that should perhaps stay: all peers, or all addresses of a family."""
        keys = [network_plain(key) if isinstance(key, Prefix) else key for key in gone]
        new = self.rules.changed([rule_check(rule) for rule in rules], keys)
        found = []
        if _admits_nobody(new, self.config) and not _admits_nobody(self.rules, self.config):
            found.append("no peer could connect any more: allow one first")
        for family, width in (("IPv4", 4), ("IPv6", 16)):
            if _is_shut(new, width) and not _is_shut(self.rules, width):
                found.append(f"no {family} address could connect any more: allow a network first")
        return found

    # The rules and the scores that are in force

    async def _take(self, rules: Rules) -> None:
        before, self._rules = self._rules, rules
        try:
            await self._apply()
        except BaseException:
            self._rules = before
            raise
        await self._remember()

    async def _remember(self) -> None:
        path = self.config.access.snapshot
        if path is None or self.rules.is_closed:
            return
        try:
            await asyncio.to_thread(snapshot_save, path, self.rules)
        except OSError as error:
            _log.warning("snapshot_not_kept path=%s: %s", path, error.strerror)

    def _standing_put(self, row: Standing, now_s: float) -> None:
        if self._core is not None:
            ip, n_bits = row.network
            self._core.score_put(ip, n_bits, row.lost, row.n_refusals, now_s - row.scored_s, row.refused_s - now_s)

    async def _standings_take(self, store: Store) -> None:
        now_s = time()
        rows = await store.standings_read(self._seen_s - _OVERLAP_S)
        for row in rows:
            if self._known.get(row.network) != row:  # a pardon counts once, not again for what was done since
                self._standing_put(row, now_s)
        self._known = {row.network: row for row in rows}
        self._seen_s = now_s

    def _standings_collect(self) -> None:
        if self._core is None:
            return
        now_s = time()
        for ip, n_bits, lost, n_refusals, ago_s, left_s in self._core.scores_changed():
            network = network_plain(Prefix(ip, n_bits))
            refused_s = now_s + left_s if left_s else 0.0
            self._unsent[network] = Standing(network, lost, n_refusals, now_s - ago_s, refused_s)
        while len(self._unsent) > _UNSENT_MAX:
            del self._unsent[next(iter(self._unsent))]

    async def _standings_write(self, store: Store) -> None:
        self._standings_collect()
        rows, self._unsent = self._unsent, {}
        try:
            if rows:
                await store.write(Change(standings=list(rows.values())), time())
        except BaseException:
            self._unsent = rows | self._unsent
            raise

    # The store

    async def _tell(self, store: Store) -> None:
        while True:
            await asyncio.sleep(_SCORES_S)
            if self._away is None:
                try:
                    await self._standings_write(store)
                except QGError as error:
                    self._lost(error)

    async def _watch(self, store: Store) -> None:
        while True:
            try:
                if self._away is not None:
                    await self._found(store)
                await self._hear(store, await store.news())
            except QGError as error:  # of the store, or of the core that cannot take what it said
                self._lost(error)

    async def _found(self, store: Store) -> None:
        """Reach the store again."""
        for n_tries in count():
            await asyncio.sleep(_AGAIN_S[min(n_tries, len(_AGAIN_S) - 1)])
            try:
                await store.open()
                await self._hear(store, {"rules", "scores"})
                break
            except QGError as error:
                self._lost(error)
        self._away = None
        _log.info("store_back n_networks=%d n_peers=%d", len(self.rules.networks), len(self.rules.peers))

    async def _hear(self, store: Store, news: set[News]) -> None:
        if "rules" in news:
            async with self._changing:
                rules = await store.rules_read()
                if rules != self.rules:
                    await self._take(rules)
                    _log.info("rules_changed n_networks=%d n_peers=%d", len(rules.networks), len(rules.peers))
        if "scores" in news:
            await self._standings_take(store)

    def _lost(self, error: QGError) -> None:
        if self._away is None:
            self._away = monotonic(), str(error)
            _log.error("store_away: %s", error)
        else:
            self._away = self._away[0], str(error)


def _ip_read(text: str) -> bytes:
    try:
        packed = ip_address(text).packed
    except ValueError:
        raise InvalidValue(f"{text!r} is not an IP address") from None
    return network_plain(Prefix(packed, len(packed) * 8)).network


def _networks_scored(ip: bytes) -> list[Prefix]:
    """Give the address and the network under which the core keeps scores (docs/protocol.md, section 9)."""
    widths = (32, 24) if len(ip) == 4 else (64, 48)
    return [Prefix(ip[: n_bits // 8].ljust(len(ip), b"\0"), n_bits) for n_bits in widths]


def _admits_nobody(rules: Rules, config: Config) -> bool:
    is_anyone, exceptions = rules.admitted(config.allow)
    return not is_anyone and not exceptions


def _is_shut(rules: Rules, width: int) -> bool:
    """Tell whether all addresses of a family are blocked: its parts make up the whole, and none is allowed."""
    family = [rule for rule in rules.networks.values() if len(rule.network.network) == width]
    n_addresses = sum(1 << (8 * width - rule.network.n_bits) for rule in family)
    if any(rule.is_allowed for rule in family) or n_addresses < 1 << (8 * width):
        return False
    place = IPv4Network if width == 4 else IPv6Network
    parts = [place((rule.network.network, rule.network.n_bits)) for rule in family]
    return any(not joined.prefixlen for joined in collapse_addresses(parts))  # type: ignore[type-var]
