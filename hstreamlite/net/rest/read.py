"""Reading over HTTP: records decoded, as one JSON answer, as lines, or as events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from hstreamlite.aio import Reader
from hstreamlite.errors import MalformedBatch, RecordTrimmed
from hstreamlite.net.errors import told
from hstreamlite.net.node import Node
from hstreamlite.net.rest import described
from hstreamlite.net.rest.answers import (
    EVENTS,
    JSON,
    LINES,
    BadRequest,
    Line,
    Streamed,
    json_answer,
)
from hstreamlite.net.rest.config import RestConfig
from hstreamlite.net.rest.endpoints import Endpoint
from hstreamlite.net.rest.query import Query, record_id
from hstreamlite.net.rest.records import line
from hstreamlite.net.rest.rules import Template
from hstreamlite.place import EARLIEST
from hstreamlite.records import RecordId

_LIMIT = 100
_LIMIT_MAX = 10_000
_PAGE_BYTES = 4 << 20
_LINES = 512
_PARAMETERS = ("start", "after", "until", "limit", "key", "shard", "follow")


class Reading:
    """The endpoint that reads."""

    def __init__(self, node: Node, config: RestConfig) -> None:
        self._node = node
        self._config = config

    def endpoints(self) -> Iterator[Endpoint]:
        path = Template.parse("/v1/streams/{stream}/records")
        yield Endpoint("GET", path, self.read, described.READ, takes_body=False)

    async def read(self, request: Request, variables: Mapping[str, str]) -> ASGIApp:
        query = Query(request, _PARAMETERS)
        follow = query.flag("follow")
        kind = _kind(request, follow=follow)
        most = _LIMIT_MAX if kind == JSON else (1 << 63) - 1
        limit = query.number("limit", 1, most)
        if kind == JSON and limit is None:
            limit = _LIMIT
        after = _after(request, query)
        start = query.place("start")
        if after is not None and start is not None:
            raise BadRequest(400, "start and after exclude each other")
        self._node.gate.require("read", "stream", variables["stream"])
        stream = self._node.store.stream(variables["stream"])
        read = partial(
            stream.read,
            until=query.place("until"),
            # That behind which to begin comes first, and is left out.
            limit=None if limit is None else limit + (after is not None),
            key=query.text("key"),
            shard=query.number("shard", 0, (1 << 63) - 1),
            follow=follow,
        )
        gap = []
        try:
            reader = read(start=after or start or EARLIEST)
        except RecordTrimmed as error:
            if kind == JSON:
                raise
            gap = [_gap(error)]
            reader = read(start=EARLIEST)
        if kind == JSON:
            assert limit is not None
            return await _page(reader, after, limit)
        return Streamed(
            self._node,
            self._config,
            _lines(reader, after, limit, gap),
            told,
            f"reading stream {variables['stream']}",
            events=kind == EVENTS,
        )


def _kind(request: Request, *, follow: bool) -> str:
    accepted = request.headers.get("accept", "")
    for kind in (EVENTS, LINES):
        if kind in accepted:
            return kind
    return LINES if follow else JSON


def _after(request: Request, query: Query) -> RecordId | None:
    """Return the id behind which to begin: of the query, or of a browser that connects again."""
    text = request.headers.get("last-event-id") or query.text("after")
    return None if text is None else record_id(text)


async def _page(reader: Reader, after: RecordId | None, limit: int) -> ASGIApp:
    """Answer with so many records, or fewer where they are large."""
    records: list[msgspec.Raw] = []
    size = 0
    last: RecordId | None = None
    async with reader:
        async for record in reader:
            if record.id != after:
                data = line(record).data
                records.append(msgspec.Raw(data))
                size += len(data)
                last = record.id
            if len(records) == limit or size > _PAGE_BYTES:
                break
        else:
            last = None
    following = None if last is None else str(last)
    return json_answer({"records": records, "next": following})


async def _lines(
    reader: Reader, after: RecordId | None, limit: int | None, lines: list[Line]
) -> AsyncGenerator[list[Line]]:
    """Yield what is read, together what was read together; and a gap where records are gone."""
    left = limit
    async with reader:
        while left != 0:
            try:
                record = await anext(reader, None)
            except RecordTrimmed as error:
                yield [*lines, _gap(error)]
                lines = []
                continue
            except MalformedBatch as error:
                yield [*lines, _unread(error)]
                lines = []
                continue
            if record is None:
                break
            if record.id != after:
                lines.append(line(record))
                left = None if left is None else left - 1
            if len(lines) == _LINES or (lines and not reader._buffer):
                yield lines
                lines = []
    if lines:
        yield lines


def _gap(error: RecordTrimmed) -> Line:
    gap = {"requested": str(error.requested), "firstKept": str(error.first_kept)}
    return Line(msgspec.json.encode({"gap": gap}), "gap")


def _unread(error: MalformedBatch) -> Line:
    batch: dict[str, Any] = {"shard": error.shard_id, "batch": error.batch_id}
    batch["message"] = str(error)
    return Line(msgspec.json.encode({"malformed": batch}), "malformed")
