"""Records as lines: for people, for programs, and as they are."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import click

from hstreamlite.cli.output import Output, iso

if TYPE_CHECKING:
    from hstreamlite.records import Record

FORMATS: Final = ("text", "json", "raw", "keyed")

formatted = click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="How records are printed. text: id, time, key and payload for people. json: an object a "
    "line. raw: the payload as it is, and a line end. keyed: the same, with the key and the "
    "separator before it.  [default: text on a terminal, json elsewhere]",
)
separated = click.option(
    "--separator",
    default="@",
    show_default=True,
    help="What stands between key and payload.",
)

Line: TypeAlias = "Callable[[Record], bytes]"


def liner(output: Output, form: str | None, separator: str = "@") -> Line:
    """Return what makes a line of a record."""
    if form is None:
        form = "json" if output.as_json else "text"
    if form == "keyed":
        return lambda record: (record.key or "").encode() + separator.encode() + as_raw(record)
    return {"text": as_text, "json": as_json, "raw": as_raw}[form]


@lru_cache(maxsize=64)
def _time(ms: int | None) -> str | None:
    """Return the time of records; those of a batch share it."""
    return None if ms is None else iso(datetime.fromtimestamp(ms / 1000, UTC))


def facts_of(record: Record) -> dict[str, Any]:
    """Return a record as a JSON object; `encoding` tells what its payload is."""
    payload: Any = record.payload
    encoding = "json"
    if not isinstance(payload, dict):
        data = bytes(payload)
        try:
            payload, encoding = data.decode(), "text"
        except UnicodeDecodeError:
            payload, encoding = b64encode(data).decode(), "base64"
    facts: dict[str, Any] = {
        "id": str(record.id),
        "time": _time(record.append_time_ms),
        "key": record.key,
        "attributes": record.attributes,
        "encoding": encoding,
        "payload": payload,
    }
    attempt = attempt_of(record)
    if attempt is not None:
        facts["attempt"] = attempt
    return facts


def attempt_of(record: Record) -> int | None:
    """Return the attempt of a delivery, None for a record that was read."""
    attempt: int | None = getattr(record, "attempt", None)
    return attempt


def as_json(record: Record) -> bytes:
    return (
        json.dumps(facts_of(record), ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
    )


def as_raw(record: Record) -> bytes:
    payload = record.payload
    if isinstance(payload, dict):
        return json.dumps(payload, ensure_ascii=False).encode() + b"\n"
    return bytes(payload) + b"\n"


def as_text(record: Record) -> bytes:
    """Return a line without control characters, which a terminal might obey."""
    payload = as_raw(record)[:-1].decode(errors="backslashreplace")
    key = "-" if record.key is None else record.key
    words = [str(record.id), _time(record.append_time_ms) or "-", key, payload]
    attempt = attempt_of(record)
    if attempt is not None and attempt > 1:
        words.append(f"(attempt {attempt})")
    return "  ".join(map(printable, words)).encode() + b"\n"


def printable(text: str) -> str:
    """Return a text with what is not printable as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
