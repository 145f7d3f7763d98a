"""Values of options: places in a stream, durations and sizes, as people write them."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hstreamlite.place import Place
    from hstreamlite.sub.retry import Backoff

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|min|[smhdw])", re.IGNORECASE)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def seconds_of(text: str) -> float | None:
    """Return a duration such as 90, 1.5s, 15m, 1h30m or 7d in seconds; None for anything else."""
    text = text.strip()
    try:
        return float(text) if float(text) >= 0 else None
    except ValueError:
        pass
    found = _PART.findall(text)
    if not found or _PART.sub("", text).strip():
        return None
    return sum(float(number) * _UNITS[unit.lower()] for number, unit in found)


class Duration(click.ParamType[Any]):
    """Seconds, or a number with a unit."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, int | float):
            return float(value)
        seconds = seconds_of(value)
        if seconds is None or not isfinite(seconds):
            self.fail(
                f"{value!r} is no duration: give seconds, or 500ms, 90s, 15m, 1h30m, 7d.",
                param,
                ctx,
            )
        return seconds


class Size(click.ParamType[Any]):
    """Bytes, or a number with k, M, G or T, which are powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            self.fail(
                f"{value!r} is no size: give bytes, or 64k, 10M, 2G (powers of 1024).", param, ctx
            )
        return int(float(match[1]) * 1024 ** _POWERS[match[2].lower()])


class PlaceType(click.ParamType[Any]):
    """A place in a stream."""

    name = "place"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Place:
        from hstreamlite.place import EARLIEST, LATEST, Position
        from hstreamlite.records import RecordId

        if isinstance(value, Position | RecordId | datetime):
            return value
        text = value.strip()
        if text.lower() in ("earliest", "latest"):
            return EARLIEST if text.lower() == "earliest" else LATEST
        try:
            return RecordId.parse(text)
        except ValueError:
            pass
        seconds = seconds_of(text)
        try:
            if seconds is not None:
                return datetime.now(UTC) - timedelta(seconds=seconds)
            return datetime.fromisoformat(text).astimezone()
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is no place: give earliest, latest, a record id such as 1-42-0, a time "
                "such as 2026-01-31T12:00:00Z, or an age such as 15m.",
                param,
                ctx,
            )


class InputFile(click.File):
    """A file that is read as bytes; - is standard input."""

    def __init__(self) -> None:
        super().__init__("rb")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "-" and sys.stdin is None:
            self.fail("standard input is closed; name a file.")
        return super().convert(value, param, ctx)


class BackoffType(click.ParamType[Any]):
    """How long a record waits before it is sent again."""

    name = "backoff"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Backoff:
        from hstreamlite.sub.retry import Backoff

        if isinstance(value, Backoff):
            return value
        times = [seconds_of(part) for part in value.split(":")]
        if len(times) != 2 or None in times:
            self.fail(f"{value!r} is no back-off: give FIRST:MOST, such as 1s:5m.", param, ctx)
        first, most = times
        try:
            return Backoff(first=first, most=most)  # type: ignore[arg-type]
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


DURATION, SIZE, PLACE, BACKOFF = Duration(), Size(), PlaceType(), BackoffType()

PLACES = (
    "A PLACE is earliest, latest, a record id, a time in ISO 8601 (local unless it says otherwise) "
    "or an age such as 90s, 15m, 2h or 7d."
)
"""For the help of commands that take one."""
