"""The share of the server that metrics have: what calls tell about traffic."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from hstreamlite.aio.bell import in_thread
from hstreamlite.errors import ShardNotFound
from hstreamlite.feed import Feed
from hstreamlite.net.errors import Refused
from hstreamlite.net.node import Node, Tally
from hstreamlite.net.part import Part

_BEFORE_THE_LOG = (Refused, ShardNotFound)
"""Errors of requests that are refused before they come to the log, which counts its own."""


class MeteredTally(Tally):
    """Counts what only a server sees; the store counts records and bytes by itself."""

    def __init__(self, node: Node) -> None:
        self._streams = node.store._engine.catalog.streams
        self._feeds = node.store._feeds
        self._meters = node.store._ticker.meters

    def append_answered(self, ns: int) -> None:
        self._meters.append_request.add(ns)

    def append_failed(self, stream: str, error: BaseException) -> None:
        state = self._streams.get(stream)
        if state is not None and isinstance(error, _BEFORE_THE_LOG):
            self._meters.refused(state)

    def requested(self, subscription: str) -> None:
        feed = self._feed(subscription)
        if feed is not None:
            feed.outflow.requests += 1

    def responded(self, subscription: str) -> None:
        feed = self._feed(subscription)
        if feed is not None:
            feed.outflow.responses += 1

    def send_failed(self, subscription: str, records: int) -> None:
        feed = self._feed(subscription)
        if feed is not None:
            feed.outflow.failed += records

    def _feed(self, subscription: str) -> Feed | None:
        return self._feeds.find(subscription)


class Metrics(Part):
    """Counts what calls tell, and shows all that is counted at `/metrics`."""

    def __init__(self, labels_max: int) -> None:
        self._labels_max = labels_max
        self._page = asyncio.Lock()

    async def start(self, node: Node) -> None:
        node.tally = MeteredTally(node)

    def routes(self, node: Node) -> Sequence[BaseRoute]:
        from hstreamlite.net.exposition import Exposition

        exposition = Exposition(node, self._labels_max)

        async def show(request: Request) -> Response:
            async with self._page:
                page, content_type = await in_thread(
                    exposition.page, request.headers.get("accept", "")
                )
            return Response(page, headers={"content-type": content_type})

        return [Route("/metrics", show, methods=["GET"])]
