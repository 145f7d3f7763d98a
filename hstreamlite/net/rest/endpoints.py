"""Routes: a method and a path template, and what is done for a request that matches."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from hstreamlite.net.errors import told
from hstreamlite.net.rest.answers import BadRequest, Incoming, ToldHow, attended, error_answer
from hstreamlite.net.rest.config import RestConfig
from hstreamlite.net.rest.rules import Template

log = logging.getLogger("hstreamlite.server")

Handler = Callable[[Request, Mapping[str, str]], Awaitable[ASGIApp]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A method and a path, who answers, and the operation as OpenAPI describes it."""

    method: str
    template: Template
    handler: Handler
    operation: Mapping[str, Any] = field(default_factory=dict)
    tell: ToldHow = told
    takes_body: bool = True
    is_open: bool = False
    """Whether pages of others may lead here."""


_OTHERS = frozenset(["cross-site", "same-site"])
"""Where a browser says that a request comes from which it sends without naming an origin."""


class Guard:
    """Refuses what a web page of somebody else makes a browser send."""

    def __init__(self, config: RestConfig, host: str) -> None:
        self._origins = config.cors_origins
        self._local = _is_loopback(host) and "*" not in config.host_names
        self._names = config.host_names

    def check(self, request: Request) -> None:
        host = request.headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        known = _is_loopback(name) or _is_address(name) or name in self._names
        if self._local and name and not known:
            # A page whose name its owner has pointed at this machine would pass for our own.
            raise BadRequest(421, f"{name} is no name of this server; see host_names")
        origin = request.headers.get("origin")
        if origin is None and request.headers.get("sec-fetch-site") in _OTHERS:
            raise BadRequest(403, "pages of others may not use this server; see cors_origins")
        if origin is None or "*" in self._origins or origin in self._origins:
            return
        if urlsplit(origin).netloc != host:
            raise BadRequest(403, f"pages of {origin} may not use this server; see cors_origins")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    if _is_address(name.strip("[]")):
        return ip_address(name.strip("[]")).is_loopback
    return name == "localhost" or name.endswith(".localhost")


class EndpointRoute(BaseRoute):
    """One endpoint, matched against the path as it was sent."""

    def __init__(self, endpoint: Endpoint, guard: Guard) -> None:
        self.endpoint = endpoint
        self._guard = guard

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        if self.endpoint.template.pattern.fullmatch(sent_path(scope)) is None:
            return Match.NONE, {}
        found = scope["method"] == self.endpoint.method
        return (Match.FULL if found else Match.PARTIAL), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        incoming = Incoming(receive)
        request = Request(scope, incoming)
        try:
            answer = await attended(incoming, self._answer(request))
            await answer(scope, incoming, send)
        except ClientDisconnect:
            pass

    async def _answer(self, request: Request) -> ASGIApp:
        endpoint = self.endpoint
        what = f"{endpoint.method} {endpoint.template.text}"
        try:
            if not endpoint.is_open:
                self._guard.check(request)
            variables = endpoint.template.match(sent_path(request.scope))
            assert variables is not None
            if not endpoint.takes_body:
                async for part in request.stream():
                    if part:
                        raise BadRequest(400, "this request takes no body")
            return await endpoint.handler(request, variables)
        except ClientDisconnect:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told
            if isinstance(error, BadRequest) and error.limit:
                request.app.state.node.limits.refused[error.limit] += 1
            return error_answer(error, endpoint.tell, what)


class Unknown(BaseRoute):
    """What answers under a prefix where no endpoint does."""

    def __init__(self, prefix: str, routes: Sequence[EndpointRoute]) -> None:
        self._prefix = prefix
        self._routes = routes

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        inside = scope["type"] == "http" and sent_path(scope).startswith(self._prefix)
        return (Match.FULL if inside else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = sent_path(scope)
        allowed = sorted(
            {
                route.endpoint.method
                for route in self._routes
                if route.endpoint.template.pattern.fullmatch(path)
            }
        )
        if allowed:
            methods = ", ".join(allowed)
            error = BadRequest(405, f"{path[:200]} is for {methods}, not {scope['method']}")
        else:
            error = BadRequest(404, f"there is nothing at {path[:200]}; see /v1/openapi.json")
        answer = error_answer(error, told, path)
        if allowed:
            answer.headers["Allow"] = ", ".join(allowed)
        await answer(scope, receive, send)


def sent_path(scope: Scope) -> str:
    """Return the path as it was sent, with its escapes."""
    raw = scope.get("raw_path")
    if raw:
        return bytes(raw).split(b"?")[0].decode("latin-1")
    return quote(scope["path"])
