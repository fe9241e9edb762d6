"""The journal: a bounded cache of finished answers by request key. The record is the ledger, not this."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lakemill.rows import Usage
from lakemill.serving.engine import Completion
from lakemill.serving.protocol import dump
from lakemill.settings import Paths

logger = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULT_MAX_BYTES = 2 * 2**30
DEFAULT_MAX_AGE_S = 7 * 86_400.0
_LOOK_UP = 500  # keys a SELECT: below every build's bound on variables
_SWEEP_S = 60.0
_ROOM = 0.9  # what is left of the bound after a sweep, so that not every write sweeps


class Journal(Protocol):
    """Keep answers by key. Called from one worker thread; safe with other processes on the same store."""

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the stored values of those keys that are known."""
        ...

    def put_many(self, items: Mapping[str, bytes]) -> None:
        """Store values in one transaction; a key that is known keeps its value."""
        ...

    def close(self) -> None:
        """Close the store; safe to call twice."""
        ...


def path_in(paths: Paths) -> Path:
    """Return the file of a home's journal."""
    return paths.journal / "answers.sqlite"


def encode(completion: Completion) -> bytes:
    """Return a completion without error as the journal keeps it.

    Raises:
        ValueError: It cannot be written as JSON.
    """
    return dump(
        {
            "result": completion.result,
            "scores": None if completion.scores is None else dict(completion.scores),
            "finish_reason": completion.finish_reason,
            "usage": completion.usage.to_json(),
        }
    )


def decode(key: str, value: bytes) -> Completion | None:
    """Return the completion kept under `key`, or None where the value is damaged."""
    try:
        kept: dict[str, Any] = json.loads(value)
        return Completion(
            key, kept["result"], kept["scores"], None, kept["finish_reason"], Usage.from_json(kept["usage"])
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        logger.error("journal: the value of %s is damaged and is passed over", key)
        return None


class MemoryJournal:
    """Keep answers in memory, without a bound: for tests and for a service without a home."""

    def __init__(self) -> None:
        self.items: dict[str, bytes] = {}

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the stored values of those keys that are known."""
        return {key: self.items[key] for key in keys if key in self.items}

    def put_many(self, items: Mapping[str, bytes]) -> None:
        """Store values; a key that is known keeps its value."""
        self.items = {**items, **self.items}

    def close(self) -> None:
        """Do nothing: the memory goes with the object."""


class SqliteJournal:
    """Keep answers in one SQLite file.

    A damaged file is set aside and a new one is made. Two processes may use one file (WAL).

    Args:
        path: The file; its folder is made.
        max_bytes: Bound on the stored values; the oldest go first.
        max_age_s: Answers older than this are not found any more, and go.
        clock: Seconds since the epoch.

    Raises:
        sqlite3.Error: The file cannot be opened or made at all.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_age_s: float = DEFAULT_MAX_AGE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._clock = clock
        self._lock = threading.Lock()
        self._swept = 0.0
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)  # answers hold what the rows held
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            if not _damaged(error):
                raise
            self._set_aside(error)
            self._db = self._open()

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the stored values of those keys that are known and not too old.

        Raises:
            sqlite3.Error: The store does not answer.
        """
        wanted = [bytes.fromhex(key) for key in keys]
        return self._guarded(lambda: self._select(wanted))

    def put_many(self, items: Mapping[str, bytes]) -> None:
        """Store values in one transaction; a key that is known keeps its value.

        Raises:
            sqlite3.Error: The store takes nothing (disk full, locked).
        """
        self._guarded(lambda: self._insert(items))

    def close(self) -> None:
        """Close the file; safe to call twice."""
        with self._lock:
            self._db.close()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=10, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA journal_size_limit = 67108864")
            db.execute(
                "CREATE TABLE IF NOT EXISTS answers (number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE,"
                " value BLOB NOT NULL, size INTEGER NOT NULL, written REAL NOT NULL)"
            )
            db.execute("CREATE INDEX IF NOT EXISTS answers_written ON answers (written)")
            self._bytes = _total(db)
        except BaseException:
            db.close()
            raise
        return db

    def _select(self, keys: list[bytes]) -> dict[str, bytes]:
        oldest = self._clock() - self._max_age_s
        found: dict[str, bytes] = {}
        for start in range(0, len(keys), _LOOK_UP):
            part = keys[start : start + _LOOK_UP]
            marks = ",".join("?" * len(part))
            query = f"SELECT key, value FROM answers WHERE key IN ({marks}) AND written >= ?"
            found.update((bytes(key).hex(), bytes(value)) for key, value in self._db.execute(query, [*part, oldest]))
        return found

    def _insert(self, items: Mapping[str, bytes]) -> None:
        now = self._clock()
        oldest = now - self._max_age_s
        rows = [(bytes.fromhex(key), value, len(value), now, oldest) for key, value in items.items()]
        # A transaction that takes the write lock at its start waits for another process instead of failing.
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(
                "INSERT INTO answers (key, value, size, written) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE"
                " SET value = excluded.value, size = excluded.size, written = excluded.written"
                " WHERE answers.written < ?",
                rows,
            )
            self._sweep(now, sum(map(len, items.values())))
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _sweep(self, now: float, added: int) -> None:
        self._bytes += added
        if self._bytes <= self._max_bytes and now - self._swept < _SWEEP_S:
            return
        self._swept = now
        self._db.execute("DELETE FROM answers WHERE written < ?", [now - self._max_age_s])
        self._bytes = _total(self._db)
        if self._bytes > self._max_bytes:
            self._drop_oldest(self._bytes - int(self._max_bytes * _ROOM))
        self._db.execute("PRAGMA incremental_vacuum(1000)").fetchall()

    def _drop_oldest(self, excess: int) -> None:
        freed, last = 0, 0
        for number, size in self._db.execute("SELECT number, size FROM answers ORDER BY number"):
            freed, last = freed + size, number
            if freed >= excess:
                break
        self._db.execute("DELETE FROM answers WHERE number <= ?", [last])
        self._bytes -= freed

    def _guarded(self, work: Callable[[], T]) -> T:
        with self._lock:
            try:
                return work()
            except sqlite3.DatabaseError as error:
                if not _damaged(error):
                    raise
                self._db.close()
                self._set_aside(error)
                self._db = self._open()
                return work()

    def _set_aside(self, error: sqlite3.Error) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged")
        logger.error("journal: %s is damaged (%s); it is set aside as %s and made anew", self.path, error, aside.name)
        self.path.replace(aside)
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)


def _total(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT coalesce(sum(size), 0) FROM answers").fetchone()[0])


def _damaged(error: sqlite3.Error) -> bool:
    # OperationalError (locked, full, read-only) passes by itself or by the operator; the file is sound.
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
