"""The gallery's index: what lies in which folder, as a table that can be asked. The folders are the truth, the index a copy.

It is made anew whenever it is lost or corrupt, and brought up to date whenever the folders have changed without it.
Where its file cannot be written it lies in memory.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

ID = re.compile(r"[a-z2-7]{26}", re.ASCII)
RECORD = "share.json"
VERSION = 1
RACY_NS = 2_000_000_000
"""A folder that changed this recently may change again without its time stamp telling."""
T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """How much a gallery holds, of which the oldest vamps go first, and how much of it one visitor fills at once.

    Attributes:
        vamps: how many.
        bytes: of all of them.
        one: bytes of a single one.
        days: how long one is kept; 0 = for ever.
        hourly: how many a visitor may share an hour; 0 = as many as they like.
        proxies: how many proxies of our own stand before the server that they reach.
    """

    vamps: int = 2000
    bytes: int = 5_000_000_000
    one: int = 300_000_000
    days: float = 0
    hourly: int = 20
    proxies: int = 0


class Row(NamedTuple):
    """One vamp.

    Attributes:
        stamp: of its record, ns.
        created: when it was shared, s.
        owner: hash of the owner's cookie.
        parent: id of the vamp it came from.
    """

    id: str
    stamp: int
    created: float
    bytes: int
    owner: str
    parent: str


class Index:
    """A table of vamps in an SQLite file, or in memory where the disk is full. Safe in several threads.

    Args:
        path: of the file; its folder exists.
        folder: with one folder a vamp, looked at for changes.
        stamps: the id and time stamp of every vamp that lies there.
        read: the row of one of them, None if it is damaged.
    """

    def __init__(
        self, path: Path, folder: Path, stamps: Callable[[], Iterable[tuple[str, int]]], read: Callable[[str], Row | None]
    ) -> None:
        self._path, self._folder, self._stamps, self._read = path, folder, stamps, read
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._in_memory = False
        self._seen: int | None = None

    # ---- questions ----------------------------------------------------------------------------------------------------

    def totals(self) -> tuple[int, int]:
        """(number of vamps, their bytes)."""
        return self._ask(lambda db: db.execute("SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM vamps").fetchone())

    def oldest(self, most: int = 1) -> list[tuple[str, float]]:
        """(id, when it was shared) of the oldest, oldest first."""
        query = "SELECT id, created FROM vamps ORDER BY created, id LIMIT ?"
        return self._ask(lambda db: db.execute(query, (most,)).fetchall())

    def of_owner(self, owner: str) -> list[str]:
        """Ids with this hash, newest first."""
        return self._ids("SELECT id FROM vamps WHERE owner = ? AND owner != '' ORDER BY created DESC, id", owner)

    def children(self, parent: str) -> list[str]:
        """Ids that came from this one, oldest first."""
        return self._ids("SELECT id FROM vamps WHERE parent = ? AND parent != '' ORDER BY created, id", parent)

    def add(self, row: Row) -> None:
        self._ask(lambda db: db.execute("INSERT OR REPLACE INTO vamps VALUES (?, ?, ?, ?, ?, ?)", row))

    def remove(self, id: str) -> None:
        self._ask(lambda db: db.execute("DELETE FROM vamps WHERE id = ?", (id,)))

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection, self._seen = None, None

    # ---- keeping it true ----------------------------------------------------------------------------------------------

    def _ids(self, query: str, value: str) -> list[str]:
        return [row[0] for row in self._ask(lambda db: db.execute(query, (value,)).fetchall())]

    def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            for _ in range(2):
                try:
                    return self._answer(question)
                except sqlite3.DatabaseError:
                    # Corrupt, of another version, or deleted under our hands: the folders know all that it knew.
                    self._discard()
            # A new one cannot be written either, as on a full disk: until the next start no file is tried again.
            self._in_memory = True
            return self._answer(question)

    def _answer(self, question: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None or not (self._in_memory or self._path.exists()):
            self._open()
        assert self._connection is not None
        self._sync(self._connection)
        with self._connection as db:
            return question(db)

    def _open(self) -> None:
        self.close()
        db = self._connection = sqlite3.connect(
            ":memory:" if self._in_memory else self._path, timeout=10, check_same_thread=False
        )
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise sqlite3.DatabaseError("an index of another version")
        # What a power failure takes is made anew, so nobody waits for the disk.
        db.execute("PRAGMA synchronous = OFF")
        with db:
            db.execute(
                "CREATE TABLE IF NOT EXISTS vamps (id TEXT PRIMARY KEY, stamp INTEGER NOT NULL, created REAL NOT NULL, "
                "bytes INTEGER NOT NULL, owner TEXT NOT NULL, parent TEXT NOT NULL)"
            )
            for column in ("owner", "parent", "created"):
                db.execute(f"CREATE INDEX IF NOT EXISTS by_{column} ON vamps ({column})")
            db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("SELECT id, stamp, created, bytes, owner, parent FROM vamps LIMIT 1").fetchall()

    def _discard(self) -> None:
        self.close()
        for ending in ("", "-journal", "-wal", "-shm"):
            Path(f"{self._path}{ending}").unlink(missing_ok=True)

    def _sync(self, db: sqlite3.Connection) -> None:
        stamp = self._folder.stat().st_mtime_ns
        if stamp == self._seen:
            return
        there = dict(self._stamps())
        known: dict[str, Any] = dict(db.execute("SELECT id, stamp FROM vamps"))
        rows = [row for id, found in there.items() if known.get(id) != found and (row := self._read(id)) is not None]
        with db:
            db.executemany("DELETE FROM vamps WHERE id = ?", [(id,) for id in known if known[id] != there.get(id)])
            db.executemany("INSERT OR REPLACE INTO vamps VALUES (?, ?, ?, ?, ?, ?)", rows)
        self._seen = stamp if time.time_ns() - stamp > RACY_NS else None
