"""Records from lines of text: what `stream append` reads."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Any, Final, TypeAlias

from hstreamlite.records import JsonObject, Record

READ_BYTES: Final = 64 << 10
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


Parsed: TypeAlias = tuple[int, int, Record]
"""A record, behind the number and the size of its line."""


def records_of(file: BufferedIOBase, layout: Layout) -> Iterator[list[Parsed]]:
    """Yield records, those together whose lines came together; BadLine ends it.

    Every line is a record, save that blank ones are left out where lines are JSON.
    """
    parse = layout.parser()
    blank = layout.form != "raw"
    number = 0
    for lines in _lines_of(file):
        found: list[Parsed] = []
        for line in lines:
            number += 1
            content = line.removesuffix(b"\n")
            if blank and not content.strip():
                continue
            try:
                if len(line) > LINE_BYTES_MAX:
                    raise ValueError(f"is longer than {LINE_BYTES_MAX} bytes")
                found.append((number, len(line), parse(content)))
            except (ValueError, TypeError) as error:
                yield found
                raise BadLine(number, _why(error)) from None
        yield found


def _lines_of(file: BufferedIOBase) -> Iterator[list[bytes]]:
    """Yield the lines of a file with their ends, together what can be read at once.

    One that grows too long ends it as it is.
    """
    begun: list[bytes] = []
    size = 0
    while piece := file.read1(READ_BYTES):
        *ended, rest = piece.split(b"\n")
        if ended:
            ended[0] = b"".join([*begun, ended[0]])
            yield [line + b"\n" for line in ended]
            begun, size = [], 0
        begun.append(rest)
        size += len(rest)
        if size > LINE_BYTES_MAX:
            break
    if size:
        yield [b"".join(begun)]


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "has a key that is no UTF-8"
    text = str(error)
    return text if text.startswith(("has ", "is ")) else f"is no record: {text}"
