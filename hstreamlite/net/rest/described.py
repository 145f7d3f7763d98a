"""What the OpenAPI document says of the endpoints that are no calls of the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hstreamlite.config import SHARDS_MAX
from hstreamlite.net.rest.answers import EVENTS, JSON, LINES
from hstreamlite.net.rest.records import IDENTITY, SHAPE

Schema = Mapping[str, Any]

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean", "default": False}
_IDS: Schema = {"type": "array", "items": _TEXT}
_SECONDS: Schema = {"type": "number", "minimum": 0}
_COUNT: Schema = {"type": "integer"}
_WINDOW: Schema = {"type": ["integer", "null"], "minimum": 1}
_PLACE: Schema = {
    "type": "string",
    "description": "earliest, latest, a record id, milliseconds since 1970, or a time with its "
    "zone, as 2026-01-31T12:00:00Z.",
}


def _object(required: tuple[str, ...] = (), /, **properties: Schema) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        found["required"] = list(required)
    return found


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _query(name: str, schema: Schema, text: str, *, required: bool = False) -> Schema:
    found = {"name": name, "in": "query", "schema": schema, "description": text}
    return found | {"required": True} if required else found


def _header(name: str, schema: Schema, text: str) -> Schema:
    return {"name": name, "in": "header", "schema": schema, "description": text}


def _content(**kinds: Schema) -> dict[str, Any]:
    names = {"json": JSON, "lines": LINES, "events": EVENTS}
    return {names.get(kind, kind): {"schema": schema} for kind, schema in kinds.items()}


def _operation(
    tag: str,
    name: str,
    summary: str,
    text: str,
    *,
    parameters: tuple[Schema, ...] = (),
    body: Mapping[str, Any] | None = None,
    answer: Mapping[str, Any],
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "tags": [tag],
        "operationId": name,
        "summary": summary,
        "description": text,
        "parameters": list(parameters),
        "responses": {
            "200": {"description": "Done.", "content": answer},
            "default": {"$ref": "#/components/responses/Error"},
        },
    }
    if body is not None:
        found["requestBody"] = {"required": True, "content": body}
    return found


SCHEMAS: Mapping[str, Schema] = {
    "NewRecord": _object(**SHAPE)
    | {
        "description": "What is to be appended: either a value or raw. The id and the time of a "
        "record that was read are left out of account.",
        "oneOf": [{"required": ["value"]}, {"required": ["raw"]}],
    },
    "Record": _object(("id", "time"), **IDENTITY, **SHAPE),
    "Delivery": _object(
        ("id", "time", "attempt"),
        **IDENTITY,
        **SHAPE,
        attempt={"type": "integer", "description": "1 when it is delivered for the first time."},
    ),
    "StreamInfo": _object(
        ("stream", "created", "backlog", "maxBytes", "protect", "shards", "records", "bytes"),
        stream=_TEXT,
        created={"type": "string", "format": "date-time"},
        backlog={**_SECONDS, "description": "How long records are kept; 0 = for ever."},
        maxBytes={**_COUNT, "description": "How much is kept; 0 = everything."},
        protect={**_IDS, "description": "Subscriptions for which unread records are kept."},
        shards=_COUNT,
        records=_COUNT,
        bytes={**_COUNT, "description": "As stored."},
    ),
    "SubscriptionInfo": _object(
        ("subscription", "stream", "mode", "consumers", "unacked", "backlog", "paused"),
        subscription=_TEXT,
        stream=_TEXT,
        created={"type": "string", "format": "date-time"},
        mode=_TEXT,
        unit={"enum": ["key", "shard"], "description": "What is kept in order."},
        ackTimeout=_SECONDS,
        maxUnacked=_COUNT,
        maxUnackedBytes=_WINDOW,
        maxUnackedPerConsumer=_WINDOW,
        maxUnackedBytesPerConsumer=_WINDOW,
        maxAttempts=_COUNT,
        deadLetter={"type": ["string", "null"]},
        backoff={"type": ["object", "null"]},
        paused=_FLAG,
        consumers=_IDS,
        unacked={**_COUNT, "description": "Delivered and not acked."},
        backlog={**_COUNT, "description": "Not yet delivered."},
        age={**_SECONDS, "description": "Seconds since the oldest of both was appended."},
        damaged={**_COUNT, "description": "Set aside because they cannot be read."},
        blocked={**_TEXT, "description": "Why nothing can be delivered now, or empty."},
    ),
    "Event": _object(gap=_object(), damaged=_object(), sought=_object())
    | {
        "description": "gap: records that were trimmed or expired before they were acked; damaged: "
        "records that cannot be read; sought: the subscription was moved.",
    },
}

_ONCE = (
    _header(
        "Idempotency-Key",
        {"type": "string", "minLength": 1, "maxLength": 255},
        "Any text; a request with a key that was used before appends nothing and answers as the "
        "first did, as long as that one's records are among the newest 10,000 of their shard.",
    ),
    _header("Producer-Name", _TEXT, "With Producer-Sequence: the name of who numbers its records."),
    _header(
        "Producer-Sequence",
        {"type": "integer", "minimum": 1},
        "Number of the first record. A producer counts from 1 without holes; what it stored before "
        "is not stored again.",
    ),
)
_RECORD_IDS = _object(
    ("recordIds",),
    recordIds={
        "type": "array",
        "items": {"type": ["string", "null"]},
        "description": "In order; null for a record that was stored before, too long ago to know "
        "where.",
    },
)

APPEND = _operation(
    "Records",
    "appendRecords",
    "Append records",
    "Answers when they are on disk. A JSON body is appended as a whole or not at all. Lines are "
    "appended as they come, together what comes together; an error tells how many were.",
    parameters=(
        _query("key", _TEXT, "Key of records without one of their own."),
        _query("plain", _FLAG, "The body, or each line or item of it, is the value of a record."),
        _query("durability", {"enum": ["sync", "os", "memory"]}, "Level to be reached."),
        *_ONCE,
    ),
    body=_content(
        json={
            "anyOf": [
                _ref("NewRecord"),
                _list(_ref("NewRecord")),
                _object(("records",), records=_list(_ref("NewRecord"))),
            ]
        },
        lines=_ref("NewRecord"),
    ),
    answer=_content(
        json={"anyOf": [_RECORD_IDS, _object(("appended",), appended=_COUNT, last=_TEXT)]}
    ),
)
READ = _operation(
    "Records",
    "readRecords",
    "Read records",
    "In order of append. One JSON answer by default, with `next` to go on after; lines with "
    "`Accept: application/x-ndjson` or `follow`; events with `Accept: text/event-stream`, which a "
    "browser that connects again continues behind the last one. A stream says `gap` where records "
    "were trimmed.",
    parameters=(
        _query("start", _PLACE, "Where to begin; the earliest by default."),
        _query("after", _TEXT, "Begin behind the record of this id."),
        _query("until", _PLACE, "Where to end; what is there now by default."),
        _query("limit", {"type": "integer", "minimum": 1}, "Most records; 100 in a JSON answer."),
        _query("key", _TEXT, "Only records of this key."),
        _query("shard", {"type": "integer", "minimum": 0}, "Only records of this shard."),
        _query("follow", _FLAG, "Wait for more at the end."),
    ),
    answer=_content(
        json=_object(
            ("records", "next"), records=_list(_ref("Record")), next={"type": ["string", "null"]}
        ),
        lines=_ref("Record"),
        events=_TEXT,
    ),
)
PRODUCER = _operation(
    "Records",
    "getProducer",
    "Tell how far a producer is",
    "The number of the last record that a producer of this name has stored; 0 for none.",
    answer=_content(json=_object(("lastSequence",), lastSequence=_COUNT)),
)
WEBHOOK = _operation(
    "Records",
    "postWebhook",
    "Make a record of whatever is posted",
    "For MQTT brokers and other services that call webhooks. A JSON object becomes a JSON record, "
    "anything else the bytes of a raw one, with its content type as an attribute. Answers when "
    "the record is on disk. `attribute.NAME` is a JSON pointer to what becomes that attribute.",
    parameters=(
        _query("key", _TEXT, "Key of the record, where neither of the following finds one."),
        _query("keyHeader", _TEXT, "Header that holds the key."),
        _query("keyPointer", _TEXT, "JSON pointer to the key, as /clientid."),
        _query("payloadPointer", _TEXT, "JSON pointer to the part that becomes the payload."),
        _query("attributeHeaders", _TEXT, "Headers that become attributes, by commas."),
        *_ONCE,
    ),
    body={"*/*": {"schema": {}}},
    answer=_content(json=_RECORD_IDS),
)

_CONSUMER = {"type": "string", "minLength": 1, "description": "Name of the consumer."}
_FETCHED = _content(
    json=_object(
        ("records", "events"), records=_list(_ref("Delivery")), events=_list(_ref("Event"))
    )
)
_MOST = {"type": "integer", "minimum": 1, "maximum": 10000, "default": 100}

FETCH = _operation(
    "Consuming",
    "fetch",
    "Receive records",
    "Answers as soon as there is one, and with none when `wait` seconds have passed. What is in "
    "`ack` is acked first. The consumer stays attached, and holds what it received, until it acks "
    "or releases it, or is silent for as long as the ack timeout.",
    body=_content(
        json=_object(("consumer",), consumer=_CONSUMER, maxRecords=_MOST, wait=_SECONDS, ack=_IDS)
    ),
    answer=_FETCHED,
)
FETCH_GET = _operation(
    "Consuming",
    "fetchByGet",
    "Receive records",
    "As by POST.",
    parameters=(
        _query("consumer", _CONSUMER, "Name of the consumer.", required=True),
        _query("maxRecords", _MOST, "Most records."),
        _query("wait", _SECONDS, "Seconds to wait for the first."),
    ),
    answer=_FETCHED,
)
ACK = _operation(
    "Consuming",
    "ack",
    "Ack records",
    "They do not come again. It counts whoever holds them, also after their timeout; twice is no "
    "error. Void are acks of what was taken back to keep the order of its key: that comes again.",
    body=_content(
        json=_object(
            ("ids",),
            ids=_IDS,
            consumer=_CONSUMER,
            durable={**_FLAG, "description": "Answer when it is on disk."},
        )
    ),
    answer=_content(json=_object((), new=_COUNT, duplicate=_COUNT, void=_COUNT)),
)
RELEASE = _operation(
    "Consuming",
    "release",
    "Give records back",
    "They are sent again: after so many seconds, and without `after` when the subscription's "
    "back-off says. After its last attempt a record goes to the dead-letter stream, with the "
    "reason.",
    body=_content(
        json=_object(
            ("consumer", "ids"), consumer=_CONSUMER, ids=_IDS, after=_SECONDS, reason=_TEXT
        )
    ),
    answer=_content(json=_object(("released",), released=_COUNT)),
)
EXTEND = _operation(
    "Consuming",
    "extend",
    "Hold records longer",
    "Moves their deadline to so many seconds from now, unless it lies later.",
    body=_content(
        json=_object(("consumer", "ids", "by"), consumer=_CONSUMER, ids=_IDS, by=_SECONDS)
    ),
    answer=_content(json=_object(("held",), held=_COUNT)),
)
CONSUME = _operation(
    "Consuming",
    "consume",
    "Receive records for as long as the connection lasts",
    "As events `record` with `Accept: text/event-stream`, else as lines. Acks are requests of "
    "their own; no more than `maxUnacked` records are out at a time. When the connection ends, "
    "what was not acked goes to others at once.",
    parameters=(
        _query("consumer", _CONSUMER, "Name of the consumer.", required=True),
        _query("maxUnacked", _MOST, "Most records sent and not acked."),
        _query("ack", {"enum": ["manual", "auto"]}, "auto: a record is acked once it is sent."),
    ),
    answer=_content(lines=_ref("Delivery"), events=_TEXT),
)
DETACH = _operation(
    "Consuming",
    "detach",
    "Detach a consumer",
    "One that fetches over HTTP. What it holds goes to others at once.",
    answer=_content(json=_object()),
)
DOCUMENT = {
    "tags": ["Document"],
    "operationId": "getDocument",
    "summary": "This document",
    "responses": {"200": {"description": "OpenAPI 3.1.", "content": {JSON: {"schema": {}}}}},
}
_BACKOFF = _object(("first", "most"), first=_SECONDS, most=_SECONDS, factor=_SECONDS)
_INFO = _content(json=_ref("SubscriptionInfo"))

MAKE = _operation(
    "Streams",
    "makeStream",
    "Make a stream",
    "With all that it may have. An empty body is fine: then it keeps everything for ever.",
    body=_content(
        json=_object(
            backlog={**_SECONDS, "default": 0, "description": "Seconds that records are kept."},
            maxBytes={**_COUNT, "minimum": 0, "default": 0},
            protect={**_IDS, "description": "Drop nothing that these have not acked."},
            shards={**_COUNT, "minimum": 1, "maximum": SHARDS_MAX, "default": 1},
            replicationFactor={**_COUNT, "minimum": 1, "default": 1},
            existsOk={**_FLAG, "description": "Leave one that is there as it is."},
        )
    ),
    answer=_content(json=_ref("StreamInfo")),
)
STREAM = _operation(
    "Streams",
    "getStreamInfo",
    "Tell of a stream",
    "Its settings, and what is kept of it.",
    answer=_content(json=_ref("StreamInfo")),
)
SUBSCRIBE = _operation(
    "Consuming",
    "subscribe",
    "Make a subscription",
    "With all that it may have. In mode `ordered` the records of one key are at one consumer at a "
    "time, in order; in mode `shared` they are spread without order. After `maxAttempts` "
    "deliveries a record goes to the stream `deadLetter`.",
    body=_content(
        json=_object(
            ("stream",),
            stream=_TEXT,
            mode={"enum": ["ordered", "shared"], "default": "ordered"},
            ackTimeout={**_SECONDS, "default": 60},
            maxUnacked={"type": "integer", "minimum": 1, "default": 10000},
            maxUnackedBytes=_WINDOW,
            maxUnackedPerConsumer=_WINDOW,
            maxUnackedBytesPerConsumer=_WINDOW,
            start={**_PLACE, "default": "earliest"},
            maxAttempts={"type": "integer", "minimum": 0, "default": 0},
            deadLetter=_TEXT,
            backoff=_BACKOFF,
            existsOk={**_FLAG, "description": "Leave one that is there as it is."},
        )
    ),
    answer=_INFO,
)
INFO = _operation(
    "Consuming",
    "getSubscriptionInfo",
    "Tell of a subscription",
    "Its settings, who is attached, and how far it is behind.",
    answer=_INFO,
)
SEEK = _operation(
    "Consuming",
    "seek",
    "Move a subscription",
    "Delivers from another place on. What was delivered before is void.",
    body=_content(json=_object(("to",), to=_PLACE)),
    answer=_INFO,
)
REDRIVE = _operation(
    "Consuming",
    "redrive",
    "Append dead letters to their stream again",
    "The oldest first, up to `limit`, or all that there are.",
    body=_content(json=_object(limit={"type": "integer", "minimum": 0})),
    answer=_content(json=_object(("redriven",), redriven=_COUNT)),
)
SKIP_DAMAGED = _operation(
    "Consuming",
    "skipDamaged",
    "Give up records that cannot be read",
    "Those that consumers came to count as acked from now on. Until then they hold up those behind "
    "them of the same shard, where batches are handed out shard by shard.",
    answer=_content(json=_object(("skipped",), skipped=_COUNT)),
)
PAUSE = _operation(
    "Consuming", "pause", "Deliver nothing for now", "Until it is resumed.", answer=_INFO
)
RESUME = _operation("Consuming", "resume", "Deliver again", "After a pause.", answer=_INFO)
