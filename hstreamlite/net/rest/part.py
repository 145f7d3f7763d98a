"""The share of the server that REST has: its routes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from hstreamlite.net.errors import Stopping
from hstreamlite.net.node import Node
from hstreamlite.net.part import Part
from hstreamlite.net.rest.answers import json_answer
from hstreamlite.net.rest.append import Appending
from hstreamlite.net.rest.calls import RpcCall
from hstreamlite.net.rest.config import RestConfig
from hstreamlite.net.rest.consume import Consuming
from hstreamlite.net.rest.endpoints import Endpoint, EndpointRoute, Guard, Unknown
from hstreamlite.net.rest.manage import Managing
from hstreamlite.net.rest.openapi import Document
from hstreamlite.net.rest.read import Reading
from hstreamlite.net.rest.rules import Template, rules_of
from hstreamlite.net.rest.streams import Streams
from hstreamlite.net.rest.viewer import Viewer


class Group(Protocol):
    """Endpoints that belong together."""

    def endpoints(self) -> Iterator[Endpoint]: ...


PREFIX = "/v1/"


class Rest(Part):
    """REST under ``/v1/``, for all services of the server that have HTTP rules."""

    def __init__(self, config: RestConfig) -> None:
        self.config = config
        self._consuming: Consuming | None = None

    def routes(self, node: Node) -> Sequence[BaseRoute]:
        guard = Guard(self.config, node.config.http_host)
        routes = [EndpointRoute(endpoint, guard) for endpoint in self._endpoints(node)]
        routes.sort(key=lambda route: route.endpoint.template.rank)
        return [*routes, Unknown(PREFIX, routes)]

    def middleware(self, node: Node) -> Sequence[Middleware]:  # noqa: ARG002 - none of it here
        origins = self.config.cors_origins
        if not origins:
            return ()
        return [
            Middleware(
                CORSMiddleware,
                allow_origins=origins,
                allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
                allow_headers=["*"],
            )
        ]

    async def stop(self, node: Node) -> None:  # noqa: ARG002 - none of it here
        if self._consuming is not None:
            await self._consuming.close()

    def _endpoints(self, node: Node) -> Iterator[Endpoint]:
        document = Document()
        for service in node.services.values():
            names: set[str] = set()
            for rule in rules_of(service.descriptor):
                call = RpcCall(node, self.config, service, rule)
                yield Endpoint(rule.method, rule.template, call, {}, call.tell)
                name = rule.rpc.name + (
                    "By" + rule.method.title() if rule.rpc.name in names else ""
                )
                names.add(rule.rpc.name)
                document.add_rule(rule, name)
        self._consuming = Consuming(node, self.config)
        groups: tuple[Group, ...] = (
            Appending(node, self.config),
            Reading(node, self.config),
            self._consuming,
            Streams(node, self.config),
            Managing(node, self.config),
        )
        for group in groups:
            for endpoint in group.endpoints():
                document.add([endpoint])
                yield endpoint
        yield from Viewer(document.finished()).endpoints()
        yield Endpoint("GET", Template.parse("/healthz"), partial(_health, node), takes_body=False)


async def _health(node: Node, _request: Request, _variables: Mapping[str, str]) -> ASGIApp:
    """Answer whether calls are served."""
    if node.stopping.is_set():
        raise Stopping
    await node.store.sync()  # raises what a failed write left behind
    return json_answer({"status": "serving"})
