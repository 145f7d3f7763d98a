"""Appending over HTTP: plain JSON, many records or one, once if that is asked for; and the webhook,
which makes a record of whatever is posted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from hstreamlite.aio import Stream
from hstreamlite.config import Durability
from hstreamlite.errors import HStreamError
from hstreamlite.net.errors import Refused, told
from hstreamlite.net.node import Node
from hstreamlite.net.rest import described
from hstreamlite.net.rest.answers import JSON, LINES, BadRequest, json_answer
from hstreamlite.net.rest.bodies import body_pieces, decoded, media_type, whole_body
from hstreamlite.net.rest.config import RestConfig
from hstreamlite.net.rest.endpoints import Endpoint
from hstreamlite.net.rest.once import ATTRIBUTE, Keyed, Numbered
from hstreamlite.net.rest.pointer import found_at, text_at
from hstreamlite.net.rest.query import Query
from hstreamlite.net.rest.records import given, plain
from hstreamlite.net.rest.rules import Template
from hstreamlite.records import Record

_LEVELS = ("sync", "os", "memory")
_KEY_MAX = 255


class Appending:
    """The endpoints that append."""

    def __init__(self, node: Node, config: RestConfig) -> None:
        self._node = node
        self._store = node.store
        self._config = config
        self._numbered = Numbered(node.store)
        self._keyed = Keyed(node.store)

    def endpoints(self) -> Iterator[Endpoint]:
        records = Template.parse("/v1/streams/{stream}/records")
        yield Endpoint("POST", records, self.append, described.APPEND)
        webhook = Template.parse("/v1/streams/{stream}/webhook")
        yield Endpoint("POST", webhook, self.webhook, described.WEBHOOK)
        producer = Template.parse("/v1/streams/{stream}/producers/{producer}")
        yield Endpoint("GET", producer, self.producer, described.PRODUCER, takes_body=False)

    async def _stream(self, variables: Mapping[str, str]) -> Stream:
        """Return the stream, if it exists and the caller may append to it."""
        self._node.gate.require("append", "stream", variables["stream"])
        stream = self._store.stream(variables["stream"])
        await stream.info()
        return stream

    async def append(self, request: Request, variables: Mapping[str, str]) -> ASGIApp:
        query = Query(request, ("key", "plain", "durability"))
        stream = await self._stream(variables)
        make = plain if query.flag("plain") else given
        level = cast("Durability | None", query.choice("durability", _LEVELS))
        kind = media_type(request, JSON, LINES)
        if kind == LINES:
            return await self._append_lines(request, stream, make, query.text("key"), level)
        value = decoded(await whole_body(request, self._config))
        items = _items(value, plain=query.flag("plain"))
        mark = _mark(request)
        records = [make(item, query.text("key"), mark) for item in items]
        return await self._stored(request, stream, records, level)

    async def _stored(
        self, request: Request, stream: Stream, records: list[Record], level: Durability | None
    ) -> ASGIApp:
        number = _number(request)
        key = request.headers.get(ATTRIBUTE)
        if number is not None:
            ids = await self._numbered.append(stream.name, *number, records)
            texts = [None if each is None else str(each) for each in ids]
            return json_answer({"recordIds": texts})

        async def append() -> list[str]:
            if len(records) == 1:
                return [str(await stream.append(records[0], durability=level))]
            return [str(each) for each in await stream.append_many(records, durability=level)]

        if key is None:
            return json_answer({"recordIds": await append()})
        found, again = await self._keyed.append(stream.name, key, append)
        headers = {"Idempotency-Replayed": "true"} if again else None
        return json_answer({"recordIds": found}, headers=headers)

    async def _append_lines(
        self,
        request: Request,
        stream: Stream,
        make: Any,
        key: str | None,
        level: Durability | None,
    ) -> ASGIApp:
        """Append the records of each piece of the body together; the pieces, one after another."""
        number = _number(request)
        if request.headers.get(ATTRIBUTE) is not None:
            raise BadRequest(400, "lines have no Idempotency-Key; use Producer-Name and -Sequence")
        appended = 0
        last: str | None = None
        try:
            async for lines in body_pieces(request, self._config):
                records = [
                    make(decoded(line, f"line {appended + index}"), key, {})
                    for index, line in enumerate(lines, 1)
                ]
                ids: Any
                if number is None:
                    ids = await stream.append_many(records, durability=level)
                else:
                    name, first = number
                    ids = await self._numbered.append(stream.name, name, first + appended, records)
                appended += len(records)
                last = str(ids[-1]) if ids[-1] is not None else last
        except (HStreamError, Refused, ValueError) as error:
            if not appended:
                raise
            raise _partly(error, appended, last) from error
        return json_answer({"appended": appended, "last": last})

    async def webhook(self, request: Request, variables: Mapping[str, str]) -> ASGIApp:
        names = ["key", "keyHeader", "keyPointer", "payloadPointer", "attributeHeaders"]
        dynamic = [name for name in request.query_params if name.startswith("attribute.")]
        query = Query(request, [*names, *dynamic])
        stream = await self._stream(variables)
        body = await whole_body(request, self._config)
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        value = _json_or_none(body)
        attributes = _mark(request)
        for name in filter(None, (query.text("attributeHeaders") or "").split(",")):
            if name.strip().lower() in request.headers:
                attributes[name.strip().lower()] = request.headers[name.strip()]
        for name in dynamic:
            text = text_at(value, query.text(name) or "")
            if text is not None:
                attributes[name.removeprefix("attribute.")] = text
        payload: object = value
        pointer = query.text("payloadPointer")
        if pointer is not None:
            payload = found_at(value, pointer)
            if isinstance(payload, str):
                payload = payload.encode()
        if not isinstance(payload, dict | bytes):
            payload = body if pointer is None else msgspec.json.encode(payload)
            if kind:
                attributes.setdefault("content-type", kind)
        key = _key(request, query, value)
        try:
            record = Record(payload, key=key, attributes=attributes or None)
        except ValueError:  # JSON that a JSON record cannot hold, as numbers beyond 2^53
            record = Record(body, key=key, attributes=attributes or None)
        return await self._stored(request, stream, [record], None)

    async def producer(self, request: Request, variables: Mapping[str, str]) -> ASGIApp:
        Query(request, ())
        stream = await self._stream(variables)
        producer = stream.producer(name=variables["producer"])
        last = producer.last_sequence
        await producer.close()
        return json_answer({"lastSequence": last})


def _items(value: object, *, plain: bool) -> list[object]:
    if isinstance(value, list):
        items = value
    elif isinstance(value, dict) and set(value) == {"records"} and not plain:
        items = value["records"]
    else:
        items = [value]
    if not isinstance(items, list) or not items:
        raise BadRequest(400, "the body must be a record, or a list of at least one")
    return items


def _mark(request: Request) -> dict[str, str]:
    """Return the attributes that a record has of its request: the key that makes it unique."""
    key = request.headers.get(ATTRIBUTE)
    if key is None:
        return {}
    if not 1 <= len(key) <= _KEY_MAX:
        raise BadRequest(400, f"Idempotency-Key must have 1 to {_KEY_MAX} characters")
    if "producer-name" in request.headers:
        raise BadRequest(400, "give either an Idempotency-Key or Producer-Name and -Sequence")
    return {ATTRIBUTE: key}


def _number(request: Request) -> tuple[str, int] | None:
    name = request.headers.get("producer-name")
    text = request.headers.get("producer-sequence")
    if name is None and text is None:
        return None
    if name is None or text is None or not text.isdecimal() or not 0 < int(text[:20]) < 1 << 63:
        raise BadRequest(
            400, "Producer-Name and Producer-Sequence, the number of the first record, go together"
        )
    return name, int(text)


def _key(request: Request, query: Query, value: object) -> str | None:
    header, pointer = query.text("keyHeader"), query.text("keyPointer")
    if header is not None and header.lower() in request.headers:
        return request.headers[header]
    if pointer is not None:
        text = text_at(value, pointer)
        if text is not None:
            return text
    return query.text("key")


def _json_or_none(body: bytes) -> object:
    try:
        return decoded(body)
    except BadRequest:
        return None


def _partly(error: Exception, appended: int, last: str | None) -> Refused:
    said = told(error)
    return Refused(
        said.status,
        said.code,
        f"{said.message} {appended} records before this were appended.",
        {"appended": appended, "last": last},
    )
