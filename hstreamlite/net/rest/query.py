"""Parameters of requests: named ones only, each once, each of its type and within its bounds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from starlette.requests import Request

from hstreamlite.net.rest.answers import BadRequest
from hstreamlite.place import EARLIEST, LATEST, Place
from hstreamlite.records import RecordId

_RECORD_ID = re.compile(r"\d{1,20}-\d{1,20}-\d{1,10}")
_MS = re.compile(r"\d{1,15}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Query:
    """The query of a request, for an endpoint that knows these parameters."""

    def __init__(self, request: Request, known: Iterable[str]) -> None:
        names = set(known)
        self._values: dict[str, str] = {}
        for name, text in request.query_params.multi_items():
            if name not in names:
                raise BadRequest(
                    400, f"there is no parameter {name!r}; there are: {', '.join(sorted(names))}"
                )
            if name in self._values:
                raise BadRequest(400, f"parameter {name!r} is given twice")
            self._values[name] = text

    def text(self, name: str) -> str | None:
        return self._values.get(name)

    def flag(self, name: str) -> bool:
        text = self._values.get(name, "false")
        if text not in {"true", "false"}:
            raise BadRequest(400, f"{name} must be true or false, not {text!r}")
        return text == "true"

    def choice(self, name: str, allowed: tuple[str, ...]) -> str | None:
        text = self._values.get(name)
        if text is not None and text not in allowed:
            raise BadRequest(400, f"{name} must be one of {', '.join(allowed)}, not {text!r}")
        return text

    def number(self, name: str, low: int, high: int) -> int | None:
        text = self._values.get(name)
        if text is None:
            return None
        if not re.fullmatch(r"\d{1,20}", text) or not low <= int(text) <= high:
            raise BadRequest(400, f"{name} must be a number from {low} to {high}, not {text!r}")
        return int(text)

    def seconds(self, name: str, most: float) -> float | None:
        text = self._values.get(name)
        if text is None:
            return None
        if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text) or not float(text) <= most:
            raise BadRequest(400, f"{name} must be seconds from 0 to {most:g}, not {text!r}")
        return float(text)

    def place(self, name: str) -> Place | None:
        text = self._values.get(name)
        return None if text is None else place_of(name, text)


def place_of(name: str, text: str) -> Place:
    """Return the place that a text names."""
    match text.lower():
        case "earliest":
            return EARLIEST
        case "latest":
            return LATEST
    try:
        if _RECORD_ID.fullmatch(text):
            return RecordId.parse(text)
        if _MS.fullmatch(text):
            return _EPOCH + timedelta(milliseconds=int(text))
        place = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        place = None
    if place is None or place.tzinfo is None:
        raise BadRequest(
            400,
            f"{name} must be earliest, latest, a record id, milliseconds since 1970, or a time as "
            f"2026-01-31T12:00:00Z, not {text!r}",
        )
    return place


def record_id(text: object) -> RecordId:
    """Return the id that a text names; 400 where it names none."""
    if isinstance(text, str) and _RECORD_ID.fullmatch(text):
        try:
            return RecordId.parse(text)
        except ValueError:
            pass
    raise BadRequest(400, f"a record id looks like 123-45-6, not {str(text)[:100]!r}")
