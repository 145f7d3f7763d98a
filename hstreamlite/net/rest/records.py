"""Records as JSON: ``{"id", "time", "key", "attributes", "value" or "raw"}``.

``value`` is the object of a JSON record, ``raw`` the bytes of another one in base64. What is read
can be appended as it is: ``id``, ``time`` and ``attempt`` are left out of account then.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from hstreamlite.net.rest.answers import BadRequest, Line
from hstreamlite.records import Delivery, Record

SHAPE: Mapping[str, Mapping[str, Any]] = {
    "value": {
        "type": "object",
        "description": "The payload, where it is JSON. Numbers are doubles; whole ones up to 2^53.",
    },
    "raw": {
        "type": "string",
        "contentEncoding": "base64",
        "description": "The payload, where it is bytes.",
    },
    "key": {"type": "string", "description": "Records of one key keep their order."},
    "attributes": {"type": "object", "additionalProperties": {"type": "string"}},
}
IDENTITY: Mapping[str, Mapping[str, Any]] = {
    "id": {"type": "string", "description": "shard-batch-index", "examples": ["1099511627777-5-0"]},
    "time": {"type": "string", "format": "date-time", "description": "When it was appended."},
}
_encode = msgspec.json.Encoder().encode


class Given(msgspec.Struct, forbid_unknown_fields=True):
    """A record as a client writes it."""

    value: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    raw: bytes | msgspec.UnsetType = msgspec.UNSET
    key: str | None = None
    attributes: dict[str, str] = {}
    id: Any = None
    time: Any = None
    attempt: Any = None

    def record(self, key: str | None, attributes: dict[str, str]) -> Record:
        payload = self.raw if self.value is msgspec.UNSET else self.value
        if payload is msgspec.UNSET or msgspec.UNSET not in (self.value, self.raw):
            raise BadRequest(400, "a record has either a value, an object, or raw, in base64")
        own = attributes | self.attributes if attributes else self.attributes
        return Record(payload, key=key if self.key is None else self.key, attributes=own or None)


def given(value: object, key: str | None, attributes: dict[str, str]) -> Record:
    """Return the record that decoded JSON means."""
    try:
        return msgspec.convert(value, Given).record(key, attributes)
    except msgspec.ValidationError as error:
        raise BadRequest(
            400,
            f"this is no record: {error}. A record is an object with `value`, an object, or `raw`, "
            "bytes in base64; with ?plain=true the whole object is the payload",
        ) from None


def plain(value: object, key: str | None, attributes: dict[str, str]) -> Record:
    """Return the record whose payload is decoded JSON."""
    if not isinstance(value, dict):
        raise BadRequest(400, "a plain record must be a JSON object")
    return Record(value, key=key, attributes=attributes or None)


def iso(time: datetime) -> str:
    """Return a time as RFC 3339 in UTC, to the millisecond."""
    text = time.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def shown(record: Record) -> dict[str, object]:
    """Return a record as it is told."""
    ms = record.append_time_ms or 0
    told: dict[str, object] = {
        "id": str(record.id),
        "time": iso(datetime.fromtimestamp(ms / 1000, UTC)),
    }
    if record.key:
        told["key"] = record.key
    if record.attributes:
        told["attributes"] = record.attributes
    told["value" if record.is_json else "raw"] = record.payload
    if isinstance(record, Delivery):
        told["attempt"] = record.attempt
    return told


def line(record: Record) -> Line:
    return Line(_encode(shown(record)), "record", str(record.id))
