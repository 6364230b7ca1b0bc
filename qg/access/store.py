# SPDX-License-Identifier: MIT
"""Where rules of access and scores live on: what every store can do, and its tables."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from qg.access.rules import NetworkRule, PeerRule, Rules, Standing, network_check, peer_check, standing_check
from qg.address import Prefix
from qg.errors import InvalidValue, LocalError
from qg.types import PeerId

__all__ = ["Change", "News", "Store", "StoreError", "store_make"]

News = Literal["rules", "scores"]
_Statements = list[tuple[str, list[tuple[Any, ...]]]]

VERSION = 1
TABLES = (
    "CREATE TABLE IF NOT EXISTS qg_access_version (version INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS qg_access_networks (network TEXT PRIMARY KEY, is_allowed BOOLEAN NOT NULL,"
    " note TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS qg_access_peers (peer_id TEXT PRIMARY KEY, name TEXT NOT NULL, is_allowed BOOLEAN,"
    " may_relay BOOLEAN, may_exit BOOLEAN, rate_kib_s BIGINT)",
    "CREATE TABLE IF NOT EXISTS qg_access_scores (network TEXT PRIMARY KEY, lost INTEGER NOT NULL,"
    " n_refusals INTEGER NOT NULL, scored_s DOUBLE PRECISION NOT NULL, refused_s DOUBLE PRECISION NOT NULL,"
    " updated_s DOUBLE PRECISION NOT NULL)",
    "CREATE INDEX IF NOT EXISTS qg_access_scores_updated ON qg_access_scores (updated_s)",
)
VERSION_READ = "SELECT version FROM qg_access_version"
VERSION_WRITE = "INSERT INTO qg_access_version VALUES ($1)"
NETWORKS_READ = "SELECT network, is_allowed, note FROM qg_access_networks"
PEERS_READ = "SELECT peer_id, name, is_allowed, may_relay, may_exit, rate_kib_s FROM qg_access_peers"
SCORES_READ = "SELECT network, lost, n_refusals, scored_s, refused_s FROM qg_access_scores WHERE updated_s >= $1"
_NETWORK_WRITE = (
    "INSERT INTO qg_access_networks VALUES ($1, $2, $3) ON CONFLICT (network) DO UPDATE SET"
    " is_allowed = excluded.is_allowed, note = excluded.note"
)
_PEER_WRITE = (
    "INSERT INTO qg_access_peers VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (peer_id) DO UPDATE SET"
    " name = excluded.name, is_allowed = excluded.is_allowed, may_relay = excluded.may_relay,"
    " may_exit = excluded.may_exit, rate_kib_s = excluded.rate_kib_s"
)
_SCORE_WRITE = (
    "INSERT INTO qg_access_scores VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (network) DO UPDATE SET"
    " lost = excluded.lost, n_refusals = excluded.n_refusals, scored_s = excluded.scored_s,"
    " refused_s = excluded.refused_s, updated_s = excluded.updated_s"
)
_SCORES_FORGET = "DELETE FROM qg_access_scores WHERE updated_s < $1"
_NETWORK_REMOVE = "DELETE FROM qg_access_networks WHERE network = $1"
_PEER_REMOVE = "DELETE FROM qg_access_peers WHERE peer_id = $1"

_SCORES_KEPT_S = 8 * 86_400.0  # by then each has healed: the longest refusal is a day, and 100 points take 100 minutes


class StoreError(LocalError):
    """The store of access rules cannot be used."""


class Change(NamedTuple):
    """What is written at once."""

    rules: Sequence[NetworkRule | PeerRule] = ()
    gone: Sequence[Prefix | PeerId] = ()
    standings: Sequence[Standing] = ()


class Store(Protocol):
    """Keep rules and scores. Methods wait for the store and raise `StoreError`; one is called at a time."""

    async def open(self) -> None:
        """Connect, and make the tables where there are none."""

    async def rules_read(self) -> Rules:
        """Give all rules."""

    async def standings_read(self, since_s: float) -> list[Standing]:
        """Give what was written of scores since a time."""

    async def write(self, change: Change, now_s: float) -> None:
        """Write all of it or nothing."""

    async def news(self) -> set[News]:
        """Wait until others may have written something; raises `StoreError` once the store is away."""

    async def close(self) -> None:
        """Let go of the store; may be called at any time, and twice."""


def store_make(url: str) -> Store:
    """Make the store that a URL names: `sqlite:PATH` or `postgresql://...`; raises `InvalidValue`."""
    kind, _, rest = url.partition(":")
    if kind == "sqlite" and rest:
        from qg.access.sqlite import SqliteStore

        return SqliteStore(rest.removeprefix("//"))
    if kind in ("postgres", "postgresql"):
        from qg.access.postgres import PostgresStore  # needs the extra

        return PostgresStore(url)
    raise InvalidValue(f"{url!r} is no store: write sqlite:PATH or postgresql://USER@HOST/DATABASE")


def statements(change: Change, now_s: float) -> _Statements:
    """Give what writes a change: statements with the rows that each is for."""
    networks, peers = _parted(change.rules)
    removals = [_NETWORK_REMOVE if isinstance(key, Prefix) else _PEER_REMOVE for key in change.gone]
    gone: _Statements = [(text, [(str(key),)]) for text, key in zip(removals, change.gone, strict=True)]
    scores = [(str(row.network), *row[1:], now_s) for row in change.standings]
    written: _Statements = [
        (_NETWORK_WRITE, [(str(rule.network), rule.is_allowed, rule.note) for rule in networks]),
        (_PEER_WRITE, [(str(rule.peer_id), *rule[1:]) for rule in peers]),
        (_SCORE_WRITE, scores),
        (_SCORES_FORGET, [(now_s - _SCORES_KEPT_S,)] * bool(scores)),
    ]
    return gone + [(text, rows) for text, rows in written if rows]


def _parted(rules: Iterable[NetworkRule | PeerRule]) -> tuple[list[NetworkRule], list[PeerRule]]:
    networks, peers = [], []
    for rule in rules:
        if isinstance(rule, NetworkRule):
            networks.append(rule)
        else:
            peers.append(rule)
    return networks, peers


def rules_of(networks: Iterable[Sequence[Any]], peers: Iterable[Sequence[Any]]) -> Rules:
    """Make rules of the rows of two tables; raises `StoreError` for what is none."""
    try:
        return Rules(
            (network_check(NetworkRule(Prefix.parse(row[0]), bool(row[1]), row[2])) for row in networks),
            (
                peer_check(PeerRule(PeerId(row[0]), row[1], _flag(row[2]), _flag(row[3]), _flag(row[4]), row[5]))
                for row in peers
            ),
        )
    except (InvalidValue, TypeError, AttributeError) as error:
        raise StoreError(f"the store holds a rule that is none: {error}") from None


def standings_of(rows: Iterable[Sequence[Any]]) -> list[Standing]:
    """Make scores of rows; raises `StoreError` for what is none."""
    try:
        return [standing_check(Standing(Prefix.parse(row[0]), *row[1:])) for row in rows]
    except (InvalidValue, TypeError, AttributeError) as error:
        raise StoreError(f"the store holds a score that is none: {error}") from None


def version_check(version: int | None) -> None:
    """Raise `StoreError` unless this program knows the tables' version."""
    if version != VERSION:
        raise StoreError(f"the store was made by a later qg (version {version}, this one knows {VERSION}): update this")


def _flag(value: Any) -> bool | None:
    return None if value is None else bool(value)
