"""What commands print: tables and text for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from hstreamlite.cli.exits import Exit, Refusal

Row = Mapping[str, object]


class Output:
    """Standard output. JSON unless it is a terminal, or as was asked for."""

    def __init__(self, *, as_json: bool | None = None) -> None:
        self.terminal = sys.stdout is not None and sys.stdout.isatty()
        self.as_json = not self.terminal if as_json is None else as_json

    def rows(self, rows: Iterable[Row], columns: Sequence[str], none: str) -> None:
        """Print a table of these columns of the rows, or all of the rows as a JSON array."""
        found = [plain(row) for row in rows]
        if self.as_json:
            self.text(json.dumps(found, indent=2))
        elif not found:
            self.text(none)
        else:
            self._table(columns, [[_cell(name, row[name]) for name in columns] for row in found])

    def facts(self, facts: Row) -> None:
        """Print what is known of one thing: a table of two columns, or a JSON object."""
        found = plain(facts)
        if self.as_json:
            self.text(json.dumps(found, indent=2))
        else:
            self._table([], [[title(name), _cell(name, value)] for name, value in found.items()])

    def done(self, said: str, facts: Row) -> None:
        """Say what was done."""
        self.text(json.dumps(plain(facts)) if self.as_json else said)

    def text(self, text: str) -> None:
        """Print a text, whatever characters it has."""
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        self.write(f"{text}\n".encode(encoding, errors="backslashreplace"))
        self.flush()

    def write(self, data: bytes) -> None:
        """Print bytes as they are."""
        if sys.stdout is not None:
            try:
                sys.stdout.buffer.write(data)
            except OSError as error:
                raise self._failed(error) from None

    def flush(self) -> None:
        """Return when all that was printed went out."""
        if sys.stdout is not None:
            try:
                sys.stdout.buffer.flush()
            except OSError as error:
                raise self._failed(error) from None

    def _failed(self, error: OSError) -> Exception:
        sys.stdout = None  # else leaving the process would try again
        if isinstance(error, BrokenPipeError):
            return error
        return Refusal(f"cannot print: {error.strerror}", Exit.UNREACHABLE)

    def _table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from io import StringIO

        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        box = SIMPLE_HEAD if columns else None
        table = Table(box=box, show_header=bool(columns), pad_edge=False)
        for name in columns or ("", ""):
            table.add_column(title(name), overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        drawn = StringIO()
        width = Console().width if self.terminal else 10_000
        Console(file=drawn, force_terminal=self.terminal, width=width).print(table)
        self.text("\n".join(line.rstrip() for line in drawn.getvalue().strip("\n").split("\n")))


def title(name: str) -> str:
    """Return the heading of a field."""
    return name.replace("_", " ")


def plain(value: Any) -> Any:
    """Return a value as JSON has it: times as ISO 8601 in UTC, durations in seconds."""
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)


def iso(time: datetime) -> str:
    """Return a time as ISO 8601 in UTC, to the millisecond."""
    text = time.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


_DURATIONS = frozenset({"ack_timeout", "age", "backlog", "first", "most"})
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def _cell(name: str, value: object) -> str:
    """Return the value of a field as a person reads it."""
    if isinstance(value, dict):
        return ", ".join(f"{title(part)} {_cell(part, item)}" for part, item in value.items())
    return duration(value) if name in _DURATIONS and isinstance(value, float) else shown(value)


def duration(seconds: float) -> str:
    """Return a duration as options take it, to two units: 1h30m, 7d, 2.5s."""
    if seconds < 60:
        return f"{shown(seconds)}s" if seconds else "0"
    left, parts = round(seconds), []
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])


def shown(value: object) -> str:
    """Return a plain value as a person reads it."""
    if value is None or value in ([], ""):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    if isinstance(value, list):
        return ", ".join(shown(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{title(name)} {_cell(name, item)}" for name, item in value.items())
    return str(value)
