"""Records from lines of text: what `stream append` reads."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Final

from hstreamlite.records import JsonObject, Record

LINE_BYTES_MAX: Final = 64 << 20
"""No record is near as long; so that a file without line ends does not fill the memory."""


class BadLine(ValueError):
    """A line that is no record; `number` counts lines from 1."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"line {number} {why}")
        self.number = number


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How lines hold records."""

    form: str = "raw"
    key: str | None = None
    separator: bytes | None = None
    key_field: str | None = None

    def parser(self) -> Callable[[bytes], Record]:
        return {"raw": self._raw, "json": self._json, "records": self._record}[self.form]

    def _raw(self, line: bytes) -> Record:
        key = self.key
        if self.separator is not None:
            before, found, after = line.partition(self.separator)
            if not found:
                raise ValueError(f"has no separator {self.separator.decode()!r}")
            key, line = before.decode(), after
        return Record(line, key=key)

    def _json(self, line: bytes) -> Record:
        found = _object(line)
        key = self.key
        if self.key_field is not None:
            if self.key_field not in found:
                raise ValueError(f"has no field {self.key_field!r}")
            value = found[self.key_field]
            key = value if isinstance(value, str) else json.dumps(value)
        return Record(found, key=key)

    def _record(self, line: bytes) -> Record:
        """Take what `--format json` prints of a record."""
        found = _object(line)
        payload: Any = found.get("payload")
        encoding = found.get("encoding", "json" if isinstance(payload, dict) else "text")
        if encoding == "base64" and isinstance(payload, str):
            payload = b64decode(payload, validate=True)
        elif encoding == "text" and isinstance(payload, str):
            payload = payload.encode()
        elif encoding != "json" or not isinstance(payload, dict):
            raise ValueError(f"has a payload that is not what its encoding {encoding!r} says")
        key = found.get("key") if self.key is None else self.key
        return Record(payload, key=key, attributes=found.get("attributes") or None)


def _object(line: bytes) -> JsonObject:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError("is no JSON object") from None  # noqa: TRY004 - the type of a line
    return found


def records_of(file: IO[bytes], layout: Layout) -> Iterator[tuple[int, int, Record]]:
    """Yield records with the number and the size of their lines; BadLine ends it.

    Every line is a record, save that blank ones are left out where lines are JSON.
    """
    parse = layout.parser()
    number = 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(line) > LINE_BYTES_MAX:
            raise BadLine(number, f"is longer than {LINE_BYTES_MAX} bytes")
        content = line.removesuffix(b"\n")
        if layout.form != "raw" and not content.strip():
            continue
        try:
            record = parse(content)
        except (ValueError, TypeError) as error:
            raise BadLine(number, _why(error)) from None
        yield number, len(line), record


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "has a key that is no UTF-8"
    text = str(error)
    return text if text.startswith(("has ", "is ")) else f"is no record: {text}"
