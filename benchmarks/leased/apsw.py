"""SQLite through apsw: a table of records and one of leases, in WAL mode."""

from __future__ import annotations

from pathlib import Path

import apsw

from benchmarks.leased.tables import LeaseTable

_SCHEMA = """
    CREATE TABLE records (number INTEGER PRIMARY KEY, payload BLOB NOT NULL);
    CREATE TABLE leases (first INTEGER PRIMARY KEY, "end" INTEGER, deadline REAL);
    CREATE TABLE state (id INTEGER PRIMARY KEY, next INTEGER);
    INSERT INTO state VALUES (1, 1);
"""


class ApswTable:
    """One connection; threads take turns at it."""

    def __init__(self, path: Path):
        self._connection = apsw.Connection(str(path / "queue.db"))
        self._execute = self._connection.execute
        self._execute("PRAGMA locking_mode = EXCLUSIVE")
        self._execute("PRAGMA journal_mode = WAL")
        self._execute("PRAGMA synchronous = NORMAL")
        self._execute("PRAGMA mmap_size = 4294967296")
        self._execute("PRAGMA cache_size = -65536")
        self._execute(_SCHEMA)

    def append(self, first: int, payloads: list[bytes]) -> None:
        self._execute("BEGIN IMMEDIATE")
        rows = enumerate(payloads, first)
        self._connection.executemany("INSERT INTO records VALUES (?, ?)", rows)
        self._execute("COMMIT")

    def lease(self, first: int, limit: int, deadline: float, *, singly: bool) -> list[bytes]:
        self._execute("BEGIN IMMEDIATE")
        rows = self._execute(
            "SELECT payload FROM records WHERE number >= ? ORDER BY number LIMIT ?", (first, limit)
        )
        payloads = [payload for (payload,) in rows]
        if payloads:
            end = first + len(payloads)
            insert = "INSERT INTO leases VALUES (?, ?, ?)"
            if singly:
                leases = [(number, number + 1, deadline) for number in range(first, end)]
                self._connection.executemany(insert, leases)
            else:
                self._execute(insert, (first, end, deadline))
            self._execute("UPDATE state SET next = ? WHERE id = 1", (end,))
        self._execute("COMMIT")
        return payloads

    def unlease(self, first: int) -> None:
        self._execute("DELETE FROM leases WHERE first = ?", (first,))

    def release(self, first: int, deadline: float) -> None:
        self._execute("UPDATE leases SET deadline = ? WHERE first = ?", (deadline, first))

    def leases(self) -> int:
        return int(self._execute("SELECT count(*) FROM leases").get)

    def close(self) -> None:
        self._connection.close()


def opener(path: Path) -> LeaseTable:
    return LeaseTable(ApswTable(path))


def versions() -> dict[str, str]:
    return {"sqlite": apsw.sqlite_lib_version()}
