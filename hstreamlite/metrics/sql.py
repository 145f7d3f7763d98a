"""SELECT over tables of statistics, by SQLite, in memory, and bounded in all it may use.

The statement may read the tables and nothing else: no file, no other database, no setting. A table
is made only if the statement reads it.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from hstreamlite.errors import SqlError

Cell = str | int | float | None

ROWS_MAX: Final = 100_000
STEPS_MAX: Final = 20_000_000
"""Steps of SQLite's machine: about a second of work."""
ANSWER_CHARACTERS_MAX: Final = 16 << 20

_STEPS_AT_A_TIME: Final = 100_000
_LIMITS: Final = {
    sqlite3.SQLITE_LIMIT_LENGTH: 4096,  # of a value: what is sorted may be many of them
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 4096,
    sqlite3.SQLITE_LIMIT_COLUMN: 500,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}
_ALLOWED: Final = frozenset([sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION])
_NEAR: Final = re.compile(r'near "(.+)"', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Table:
    """Names of columns, and what makes the rows when they are needed."""

    columns: tuple[str, ...]
    rows: Callable[[], Iterable[tuple[Cell, ...]]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a statement selected."""

    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]


def select(statement: str, tables: Mapping[str, Table]) -> Answer:
    """Run one SELECT over the tables; SqlError for whatever else, or where it takes too much."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        for limit, most in _LIMITS.items():
            database.setlimit(limit, most)
        for name, table in tables.items():
            database.execute(f'CREATE TABLE "{name}" ({", ".join(map(_quoted, table.columns))})')
        read: set[str] = set()
        _run(database, statement, read)  # on empty tables: which does it read?
        database.set_authorizer(None)
        database.set_progress_handler(None, 0)
        for name in sorted(read & tables.keys()):
            marks = ", ".join("?" * len(tables[name].columns))
            database.executemany(
                f'INSERT INTO "{name}" VALUES ({marks})',  # noqa: S608 - names of our own
                tables[name].rows(),
            )
        return _run(database, statement, set())


def _quoted(name: str) -> str:
    return f'"{name}"'


def _run(database: sqlite3.Connection, statement: str, read: set[str]) -> Answer:
    def allow(action: int, table: str | None, _column: object, *_: object) -> int:
        if action not in _ALLOWED:
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_READ and table:
            read.add(table)
        return sqlite3.SQLITE_OK

    steps = 0

    def count() -> int:
        nonlocal steps
        steps += _STEPS_AT_A_TIME
        return steps > STEPS_MAX

    database.set_authorizer(allow)
    database.set_progress_handler(count, _STEPS_AT_A_TIME)
    try:
        cursor = database.execute(statement)
        rows = _fetched(cursor)
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        raise _refusal(statement, error, exhausted=steps > STEPS_MAX) from None
    if cursor.description is None:
        raise SqlError("it is empty, and should be one SELECT", 0)
    return Answer(tuple(column[0] for column in cursor.description), rows)


def _fetched(cursor: sqlite3.Cursor) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    size = 0
    while some := cursor.fetchmany(100):
        rows += some
        size += sum(len(cell) for row in some for cell in row if isinstance(cell, str | bytes))
        if len(rows) > ROWS_MAX or size > ANSWER_CHARACTERS_MAX:
            raise SqlError(f"it selects more than {ROWS_MAX:,} rows, or too much; limit it", 0)
    return rows


def _refusal(statement: str, error: Exception, *, exhausted: bool) -> SqlError:
    said = str(error).rstrip(".")
    if exhausted:
        return SqlError("it takes too long; narrow it down", 0)
    if "authoriz" in said or "prohibited" in said:
        return SqlError("only one SELECT over the tables of statistics, without recursion", 0)
    near = _NEAR.search(said)
    return SqlError(said, max(0, statement.find(near[1])) if near else 0)
