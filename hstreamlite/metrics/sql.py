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
_MISSING: Final = re.compile(r"no such (table|column): (\S+)")


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
        try:
            _run(database, statement, read)  # on empty tables: which does it read?
        except SqlError as error:
            raise _with_names(error, statement, tables) from None
        database.set_authorizer(None)
        database.set_progress_handler(None, 0)
        for name in sorted(read & tables.keys()):
            marks = ", ".join("?" * len(tables[name].columns))
            database.executemany(
                f'INSERT INTO "{name}" VALUES ({marks})',  # noqa: S608 - names of our own
                tables[name].rows(),
            )
        return _run(database, statement, set())


def _with_names(error: SqlError, statement: str, tables: Mapping[str, Table]) -> SqlError:
    """Return the error of a statement, with the names that it might have meant."""
    found = _MISSING.fullmatch(error.why)
    if found is None:
        return error
    names = list(tables)
    if found[1] == "column":
        named = [table for name, table in tables.items() if name in statement]
        names = [column for table in named for column in table.columns]
    position = max(0, statement.find(found[2]))
    return SqlError(f"{error.why}; there are {', '.join(names)}", position)


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
