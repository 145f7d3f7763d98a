"""What goes back over HTTP: JSON, errors, and streams as lines or as events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

import grpc
import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from hstreamlite.net.errors import Refused, Told
from hstreamlite.net.httpconnection import CUT
from hstreamlite.net.node import Node
from hstreamlite.net.rest.advice import advised
from hstreamlite.net.rest.config import RestConfig

T = TypeVar("T")

log = logging.getLogger("hstreamlite.server")

JSON = "application/json"
LINES = "application/x-ndjson"
EVENTS = "text/event-stream"

HTTP_STATUS: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
}


_LATER = {"Retry-After": "1"}


class ToldHow(Protocol):
    """Says what a client is told about an error."""

    def __call__(self, error: BaseException, /) -> Told: ...


class BadRequest(Refused):
    """A request that HTTP itself refuses, with a status that gRPC has no like of."""

    def __init__(self, http: int, message: str, limit: str | None = None) -> None:
        super().__init__(grpc.StatusCode.INVALID_ARGUMENT, 0, message, limit)
        self.http = http
        self.limit = limit
        """The limit that stands against the request, by the name of its setting."""


def json_answer(
    value: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(msgspec.json.encode(value), status, headers, JSON)


def error_object(error: Exception, tell: ToldHow, what: str) -> tuple[int, dict[str, object]]:
    """Return the HTTP status of an error and the object that says it; logs what nobody foresaw."""
    told = tell(error)
    if told.unexpected:
        log.error("%s failed: %s", what, error, exc_info=error)
    status = (isinstance(error, Refused) and error.http) or HTTP_STATUS[told.status]
    extra = told.extra if isinstance(told.extra, str | int | float | dict | list) else None
    message = advised(error, told.message)
    return status, {"error": told.code, "message": message, "extra": extra}


def error_answer(error: Exception, tell: ToldHow, what: str) -> Response:
    status, value = error_object(error, tell, what)
    headers = {429: _LATER, 503: _LATER, 401: {"WWW-Authenticate": "Bearer"}}.get(status)
    return json_answer(value, status, headers)


def wants_events(request: Request) -> bool:
    """Tell whether a client asks for events rather than for lines."""
    accepted = request.headers.get("accept", "")
    return EVENTS in accepted and LINES not in accepted.split(EVENTS)[0]


class Line(msgspec.Struct, frozen=True):
    """One message of a stream: JSON, and for events its kind and its id."""

    data: bytes
    event: str = ""
    id: str = ""

    def as_line(self) -> bytes:
        return self.data + b"\n"

    def as_event(self) -> bytes:
        head = f"event: {self.event}\n" if self.event else ""
        head += f"id: {self.id}\n" if self.id else ""
        return head.encode() + b"data: " + self.data + b"\n\n"


class Lines(Protocol):
    """What a stream is made of. Closed in any case, also if it was not begun."""

    def __anext__(self) -> Awaitable[list[Line]]: ...

    async def aclose(self) -> None: ...


class Stalled(Exception):
    """A client takes nothing of what it is sent."""


class Streamed:
    """A response of many messages, until they end, the client goes, or the server stops.

    What goes wrong behind the headers is told in the stream: as a last line ``{"error": {...}}``,
    or as an event ``error``.
    """

    def __init__(
        self,
        node: Node,
        config: RestConfig,
        lines: Lines,
        tell: ToldHow,
        what: str,
        *,
        events: bool,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._node = node
        self._config = config
        self._lines = lines
        self._tell = tell
        self._what = what
        self._events = events
        self._headers = headers or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        incoming = receive if isinstance(receive, Incoming) else Incoming(receive)
        try:
            await attended(incoming, self._run(send))
        except Stalled:
            self._node.limits.refused["stall_timeout"] += 1
            log.info("%s: a client that took nothing was cut off", self._what)
            scope[CUT]()
            raise ClientDisconnect from None
        finally:
            await self._lines.aclose()

    async def _run(self, send: Send) -> None:
        await self._start(send)
        try:
            with self._node.until_stop():
                await self._messages(send)
        except Stalled:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told
            _, value = error_object(error, self._tell, self._what)
            data = msgspec.json.encode(value if self._events else {"error": value})
            await self._send(send, [Line(data, "error")])
        await self._write(send, b"", more=False)

    async def _start(self, send: Send) -> None:
        kind = EVENTS if self._events else LINES
        headers = {"content-type": kind, "cache-control": "no-store", **self._headers}
        if self._events:
            headers["x-accel-buffering"] = "no"
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        await self._write(send, b": \n\n" if self._events else b"", more=True)

    async def _messages(self, send: Send) -> None:
        following = asyncio.ensure_future(_next(self._lines))
        try:
            while True:
                silence = self._config.heartbeat if self._events else None
                await asyncio.wait([following], timeout=silence)
                if not following.done():
                    await self._write(send, b": \n\n", more=True)
                    continue
                lines = following.result()
                if lines is None:
                    return
                await self._send(send, lines)
                following = asyncio.ensure_future(_next(self._lines))
        finally:
            if not following.done():
                following.cancel()
                await asyncio.wait([following])

    async def _send(self, send: Send, lines: list[Line]) -> None:
        say = Line.as_event if self._events else Line.as_line
        await self._write(send, b"".join(map(say, lines)), more=True)

    async def _write(self, send: Send, body: bytes, *, more: bool) -> None:
        config = self._node.config
        patience = config.limits.stall_timeout
        if self._node.stopping.is_set():  # who takes nothing does not hold up the end
            patience = min(patience, config.drain_timeout / 2)
        try:
            async with asyncio.timeout(patience):
                await send({"type": "http.response.body", "body": body, "more_body": more})
        except TimeoutError:
            raise Stalled from None


async def _next(lines: Lines) -> list[Line] | None:
    try:
        return await lines.__anext__()
    except StopAsyncIteration:
        return None


class Incoming:
    """What the client sends, and whether it is still there."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._complete = asyncio.Event()

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._complete.set()
        return message

    async def gone(self) -> None:
        """Return when the client has gone; looked for once its body has been read."""
        await self._complete.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def attended(incoming: Incoming, work: Coroutine[Any, Any, T]) -> T:
    """Return what the work returns; when the client goes the work is cancelled, and
    ClientDisconnect raised."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(incoming.gone())
    try:
        await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.wait([working, watching])
        if not working.cancelled():
            working.exception()  # seen
