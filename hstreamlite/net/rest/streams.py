"""Streams over HTTP with all that a store can do: the protocol's own have no bound in bytes and
protect nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from hstreamlite.aio import Stream
from hstreamlite.net.node import Node
from hstreamlite.net.rest import described
from hstreamlite.net.rest.answers import json_answer
from hstreamlite.net.rest.bodies import asked, whole_body
from hstreamlite.net.rest.config import RestConfig
from hstreamlite.net.rest.endpoints import Endpoint
from hstreamlite.net.rest.query import Query
from hstreamlite.net.rest.records import iso
from hstreamlite.net.rest.rules import Template


class Given(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Settings of a stream that is to be made."""

    backlog: float = 0
    max_bytes: int = 0
    protect: list[str] = []
    shards: int = 1
    replication_factor: int = 1
    exists_ok: bool = False


class Streams:
    """The endpoints that make streams and tell of them."""

    def __init__(self, node: Node, config: RestConfig) -> None:
        self._node = node
        self._config = config

    def endpoints(self) -> Iterator[Endpoint]:
        at = "/v1/streams/{stream}"
        yield Endpoint("PUT", Template.parse(at), self.create, described.MAKE)
        info = Template.parse(at + "/info")
        yield Endpoint("GET", info, self.info, described.STREAM, takes_body=False)

    async def create(self, request: Request, variables: Mapping[str, str]) -> ASGIApp:
        Query(request, ())
        wanted = asked(Given, await whole_body(request, self._config) or b"{}")
        name = variables["stream"]
        self._node.gate.require("create", "stream", name)
        await self._node.raw.create_stream(
            name,
            backlog=wanted.backlog,
            max_bytes=wanted.max_bytes,
            protect=wanted.protect,
            shards=wanted.shards,
            replication=wanted.replication_factor,
            exists_ok=wanted.exists_ok,
        )
        return await _told(self._node.store.stream(name))

    async def info(self, request: Request, variables: Mapping[str, str]) -> ASGIApp:
        Query(request, ())
        name = variables["stream"]
        self._node.gate.require(None, "stream", name)
        return await _told(self._node.store.stream(name))


async def _told(stream: Stream) -> ASGIApp:
    info = await stream.info()
    return json_answer(
        {
            "stream": info.name,
            "created": iso(info.created),
            "backlog": info.backlog.total_seconds(),
            "maxBytes": info.max_bytes,
            "protect": info.protect,
            "shards": info.shards,
            "records": info.records,
            "bytes": info.bytes,
        }
    )
