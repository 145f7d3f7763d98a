"""The gate of HTTP: whoever cannot be known sees nothing of it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from hstreamlite.errors import HStreamError, PermissionDenied, Unauthenticated
from hstreamlite.net.access.config import Action
from hstreamlite.net.access.gate import CALLER, Gate
from hstreamlite.net.access.token import one_of

CERTIFICATE = "hstreamlite.certificate"
"""In a scope: the common name of the client's certificate, which was verified."""

PATHS: Mapping[str, Action | None] = {"/metrics": "monitor"}
"""What paths need that are not calls of a protocol. Nothing here: to be known."""
OPEN = frozenset({"/healthz"})
"""What answers everybody, as the health service of gRPC does."""


class HttpGate:
    """Middleware that finds out who makes a request."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN and not _is_preflight(scope):
            try:
                self._enter(scope)
            except (Unauthenticated, PermissionDenied) as error:
                await _refusal(error)(scope, receive, send)
                return
        elif scope["type"] == "websocket":  # nothing here speaks it
            return
        await self._app(scope, receive, send)

    def _enter(self, scope: Scope) -> None:
        headers = HTTPConnection({**scope, "type": "http"}).headers
        caller = self._gate.identify(
            one_of(headers.getlist("authorization")), scope.get(CERTIFICATE)
        )
        CALLER.set(caller)
        if scope["path"] in PATHS:
            self._gate.require(PATHS[scope["path"]])


def _is_preflight(scope: Scope) -> bool:
    """Tell whether a browser asks what a page may do, which it does without credentials."""
    names = {name for name, _ in scope["headers"]}
    return scope["method"] == "OPTIONS" and b"access-control-request-method" in names


def _refusal(error: HStreamError) -> Response:
    known = isinstance(error, PermissionDenied)
    body = {"error": 0, "message": str(error), "extra": None}
    # Asked so, browsers ask their user for a name and a password, and send both as a token.
    headers = {} if known else {"WWW-Authenticate": 'Basic realm="hstreamlite", charset="UTF-8"'}
    return Response(
        msgspec.json.encode(body), 403 if known else 401, headers, media_type="application/json"
    )
