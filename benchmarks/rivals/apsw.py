"""SQLite through apsw: one table in WAL mode, keyed by sequence number."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, repeat
from pathlib import Path
from threading import Lock

import apsw

from benchmarks.rivals import PENDING_BYTES_MAX, Level, Opener
from benchmarks.rivals.leases import LeaseGroup

_SCHEMA = "CREATE TABLE IF NOT EXISTS log (number INTEGER PRIMARY KEY, payload BLOB NOT NULL)"
_STREAM_SCHEMA = """
    CREATE TABLE IF NOT EXISTS log (
        stream INTEGER, number INTEGER, payload BLOB NOT NULL, PRIMARY KEY (stream, number)
    ) WITHOUT ROWID
"""
_INSERT = "INSERT INTO log VALUES (?, ?)"
_STREAM_INSERT = "INSERT INTO log VALUES (?, ?, ?)"
_PROGRESS_SCHEMA = "CREATE TABLE IF NOT EXISTS progress (id INTEGER PRIMARY KEY, state BLOB)"


class ApswLog:
    """One connection; threads take turns at it, which is faster than a connection for each.

    Below level sync the file is locked for good, which spares the shared-memory index of the WAL.
    """

    def __init__(self, path: str, level: Level, *, streams: int = 1):
        self._connection = apsw.Connection(str(Path(path, "log.db")))
        self._execute = self._connection.execute
        if level != "sync":
            self._execute("PRAGMA locking_mode = EXCLUSIVE")
        self._execute("PRAGMA journal_mode = WAL")
        self._execute(f"PRAGMA synchronous = {'NORMAL' if level == 'os' else 'FULL'}")
        self._execute("PRAGMA mmap_size = 4294967296")
        self._execute("PRAGMA cache_size = -65536")
        self._many = streams > 1
        self._execute(_STREAM_SCHEMA if self._many else _SCHEMA)
        self._execute(_PROGRESS_SCHEMA)
        self._holds = level == "memory"
        self._syncs = level != "os"
        self._next = [1] * streams
        self._pending = 0

    def append_list(self, payloads: list[bytes], stream: int = 0, *, durable: bool = False) -> None:
        if not self._connection.in_transaction:
            self._execute("BEGIN IMMEDIATE")
        first = self._next[stream]
        numbers = range(first, first + len(payloads))
        self._next[stream] = numbers.stop
        if self._many:
            rows = zip(repeat(stream), numbers, payloads)
            self._connection.executemany(_STREAM_INSERT, rows)
        else:
            self._connection.executemany(_INSERT, zip(numbers, payloads, strict=True))
        self._pending += sum(map(len, payloads)) if self._holds else 0
        if not self._holds or durable or self._pending >= PENDING_BYTES_MAX:
            self._commit()

    def _commit(self) -> None:
        if self._connection.in_transaction:
            self._execute("COMMIT")
            self._pending = 0

    def appender(self) -> Callable[[bytes], object]:
        numbers = count(self._next[0])
        execute = self._execute
        turn = Lock()

        def append(payload: bytes) -> None:
            with turn:
                execute(_INSERT, (next(numbers), payload))

        return append

    def settle(self) -> None:
        self._commit()
        if not self._syncs:
            self.sync_progress()

    def scan(self) -> tuple[int, int]:
        records = size = 0
        for _number, payload in self._execute("SELECT number, payload FROM log"):
            records += 1
            size += len(payload)
        return records, size

    def payloads(self, first: int, limit: int) -> list[bytes]:
        rows = self._execute(
            "SELECT payload FROM log WHERE number >= ? ORDER BY number LIMIT ?", (first, limit)
        )
        return [payload for (payload,) in rows]

    def save(self, progress: bytes) -> None:
        self._execute("INSERT OR REPLACE INTO progress VALUES (1, ?)", (progress,))

    def sync_progress(self) -> None:
        """A checkpoint syncs the WAL before it moves anything."""
        self._execute("PRAGMA wal_checkpoint(PASSIVE)")

    def group(self, consumers: int) -> LeaseGroup:
        return LeaseGroup(self, consumers)

    def close(self) -> None:
        self._commit()
        self._connection.close()


OPENERS: dict[str, Opener] = {"apsw": ApswLog}
