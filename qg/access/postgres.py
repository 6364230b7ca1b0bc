# SPDX-License-Identifier: MIT
"""Rules of access in PostgreSQL, for nodes that share them: each hears within moments what another has written."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, final
from urllib.parse import urlsplit

from qg.access import store
from qg.access.rules import Rules, Standing
from qg.access.store import Change, News, StoreError
from qg.errors import LocalError

try:
    import asyncpg
except ImportError:
    raise LocalError("a store in PostgreSQL needs the package asyncpg: pip install 'qg[postgres]'") from None

__all__ = ["PostgresStore"]

_ANSWER_S = 10.0
_LOOK_S = 10.0  # between looks whether the server is still there
_LOCK = 0x71675F616363  # "qg_acc": nodes that start together make the tables one after the other
_CHANNELS: dict[str, set[News]] = {"qg_access_rules": {"rules"}, "qg_access_scores": {"scores"}}
_NOTIFY = (
    "CREATE OR REPLACE FUNCTION qg_access_notify() RETURNS trigger LANGUAGE plpgsql AS"
    " $$BEGIN PERFORM pg_notify(TG_ARGV[0], ''); RETURN NULL; END$$"
)
_TRIGGER = (
    "CREATE OR REPLACE TRIGGER qg_access_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table}"
    " FOR EACH STATEMENT EXECUTE FUNCTION qg_access_notify('{channel}')"
)
_TRIGGERS = tuple(
    _TRIGGER.format(table=table, channel=channel)
    for table, channel in (
        ("qg_access_networks", "qg_access_rules"),
        ("qg_access_peers", "qg_access_rules"),
        ("qg_access_scores", "qg_access_scores"),
    )
)


@final
class PostgresStore:
    """Keep rules in a database."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._where = urlsplit(url)._replace(query="").geturl().replace(urlsplit(url).password or "\0", "***")
        self._db: asyncpg.Connection | None = None
        self._lock = asyncio.Lock()
        self._news: set[News] = set()
        self._is_news = asyncio.Event()

    async def open(self) -> None:
        async with self._lock, self._said():
            await self._leave()
            self._news, self._is_news = set(), asyncio.Event()
            self._db = await asyncpg.connect(self._url, timeout=_ANSWER_S, command_timeout=_ANSWER_S)
            self._db.add_termination_listener(self._on_gone)
            for channel in _CHANNELS:
                await self._db.add_listener(channel, self._on_news)
            async with self._db.transaction():
                await self._db.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
                await self._tables_make(self._db)

    async def _tables_make(self, db: "asyncpg.Connection") -> None:
        if await db.fetchval("SELECT to_regclass('qg_access_version')") is None:
            for text in (*store.TABLES, _NOTIFY, *_TRIGGERS):
                await db.execute(text)
            await db.execute(store.VERSION_WRITE, store.VERSION)
        store.version_check(await db.fetchval(store.VERSION_READ))

    async def rules_read(self) -> Rules:
        async with self._used() as db, db.transaction(isolation="repeatable_read", readonly=True):
            return store.rules_of(await db.fetch(store.NETWORKS_READ), await db.fetch(store.PEERS_READ))

    async def standings_read(self, since_s: float) -> list[Standing]:
        async with self._used() as db:
            return store.standings_of(await db.fetch(store.SCORES_READ, since_s))

    async def write(self, change: Change, now_s: float) -> None:
        async with self._used() as db, db.transaction():
            for text, rows in store.statements(change, now_s):
                await db.executemany(text, rows)

    async def news(self) -> set[News]:
        while not self._news:
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._is_news.wait()
            except TimeoutError:
                async with self._used() as db:
                    await db.fetchval("SELECT 1")
            if self._db is None or self._db.is_closed():
                raise StoreError(f"{self._where}: the server has closed the connection; is it running?")
        news, self._news = self._news, set()
        self._is_news.clear()
        return news

    async def close(self) -> None:
        async with self._lock:
            await self._leave()

    async def _leave(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            try:
                await db.close(timeout=1.0)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                db.terminate()

    def _on_news(self, _connection: Any, _pid: int, channel: str, _payload: object) -> None:
        self._news |= _CHANNELS[channel]
        self._is_news.set()

    def _on_gone(self, _connection: Any) -> None:
        self._is_news.set()

    @asynccontextmanager
    async def _used(self) -> "AsyncIterator[asyncpg.Connection]":
        async with self._lock, self._said():
            if self._db is None:
                raise StoreError(f"{self._where}: it is not connected")
            yield self._db

    @asynccontextmanager
    async def _said(self) -> AsyncIterator[None]:
        """Say where an error came from."""
        try:
            yield
        except TimeoutError:
            raise StoreError(f"{self._where}: no answer within {_ANSWER_S:.0f} s; is the server overloaded?") from None
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
            with suppress(AttributeError):
                if self._db is not None and self._db.is_closed():
                    self._db = None
            raise StoreError(f"{self._where}: {error}; check the URL and that the server runs") from None
