# SPDX-License-Identifier: MIT
"""Rules of access in a SQLite file, which several nodes of one machine may share."""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar, final

from qg.access import store
from qg.access.rules import Rules, Standing
from qg.access.store import Change, News, StoreError

__all__ = ["SqliteStore"]

_BUSY_S = 2.0  # how long another one's write is waited for
_LOOK_S = 1.0  # between looks for what others have written

_T = TypeVar("_T")


@final
class SqliteStore:
    """Keep rules in a file of mode 0600."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._version = -1  # of the file, as SQLite counts what others commit
        self._inode = 0
        self._is_closed = False
        self._thread = ThreadPoolExecutor(1, "qg.access")

    async def open(self) -> None:
        await self._run(self._open)

    async def rules_read(self) -> Rules:
        def work(db: sqlite3.Connection) -> tuple[list[Any], list[Any]]:
            with db:
                db.execute("BEGIN")  # both tables as they were at one moment
                return db.execute(store.NETWORKS_READ).fetchall(), db.execute(store.PEERS_READ).fetchall()

        return store.rules_of(*await self._run(work))

    async def standings_read(self, since_s: float) -> list[Standing]:
        text = _text(store.SCORES_READ)
        return store.standings_of(await self._run(lambda db: db.execute(text, (since_s,)).fetchall()))

    async def write(self, change: Change, now_s: float) -> None:
        def work(db: sqlite3.Connection) -> None:
            with db:
                db.execute("BEGIN IMMEDIATE")
                for text, rows in store.statements(change, now_s):
                    db.executemany(_text(text), rows)

        await self._run(work)

    async def news(self) -> set[News]:
        while True:
            await asyncio.sleep(_LOOK_S)
            version = await self._run(self._look)
            if version != self._version:
                self._version = version
                return {"rules", "scores"}

    async def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self._let_go)
            self._thread.shutdown(wait=False)

    def _look(self, db: sqlite3.Connection) -> int:
        if os.stat(self._path).st_ino != self._inode:
            self._let_go()
            raise OSError("another file has taken its place")
        return _version_read(db)

    def _open(self, db: sqlite3.Connection) -> None:
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        with db:
            db.execute("BEGIN IMMEDIATE")
            for text in store.TABLES:
                db.execute(text)
            versions = db.execute(store.VERSION_READ).fetchall()
            if not versions:
                db.execute(_text(store.VERSION_WRITE), (store.VERSION,))
            else:
                store.version_check(versions[0][0])
        self._version = _version_read(db)

    async def _run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do some work in the store's own thread, behind what it does already; its errors are said."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._work, work)

    def _work(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            if self._connection is None:
                self._connection = self._connect()
            return work(self._connection)
        except (sqlite3.Error, OSError) as error:
            if not isinstance(error, sqlite3.OperationalError):  # damaged, or not there
                self._let_go()
            raise StoreError(f"{self._path}: {error}; {_hint(error)}") from None

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        # SQLite itself would make a file that others may read.
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        self._inode = os.stat(self._path).st_ino
        return sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)


def _text(text: str) -> str:
    return text.replace("$", "?")


def _version_read(db: sqlite3.Connection) -> int:
    version: int = db.execute("PRAGMA data_version").fetchone()[0]
    return version


def _hint(error: Any) -> str:
    name = getattr(error, "sqlite_errorname", "") or ""
    hints = {
        "SQLITE_BUSY": "another program keeps it locked",
        "SQLITE_READONLY": "let this user write it and its folder",
        "SQLITE_CANTOPEN": "check the path and its permissions",
        "SQLITE_FULL": "make room on its disk",
        "SQLITE_IOERR": "its disk is full or failing",
        "SQLITE_NOTADB": "it is damaged or no database: put a copy in its place, or move it away to begin anew",
        "SQLITE_CORRUPT": "it is damaged: put a copy in its place, or move it away to begin anew",
    }
    return next((hint for code, hint in hints.items() if name.startswith(code)), "check the file")
