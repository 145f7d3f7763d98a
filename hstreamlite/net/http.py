"""The HTTP side of the server: one app of all parts' routes, on the server's loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http import HTTPStatus

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hstreamlite.net.access.http import CERTIFICATE, HttpGate
from hstreamlite.net.asked import ASKED, REQUEST_ID, Asked
from hstreamlite.net.limits import Limits
from hstreamlite.net.node import Node
from hstreamlite.net.part import Part


class HttpServer:
    def __init__(self, parts: Sequence[Part], node: Node) -> None:
        app = Starlette(
            routes=[route for part in parts for route in part.routes(node)],
            middleware=[
                Middleware(Named),
                *([Middleware(HttpGate, node.gate)] if node.gate.limited else []),
                *(each for part in parts for each in part.middleware(node)),
            ],
        )
        app.state.node = node
        tls = node.config.tls
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            log_config=None,
            log_level="error",  # what clients do wrong fills no log
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=max(1, int(node.config.drain_timeout)),
            ssl_certfile=None if tls is None else tls.certificate,
            ssl_keyfile=None if tls is None else tls.key,
            ssl_ca_certs=None if tls is None else tls.client_authority,
            ssl_cert_reqs=(
                ssl.CERT_REQUIRED if tls is not None and tls.client_authority else ssl.CERT_NONE
            ),
        )
        config.load()
        config.http_protocol_class = bounded(config.http_protocol_class, node.limits)
        if tls is not None and tls.client_authority:
            config.http_protocol_class = knowing_clients(config.http_protocol_class)
        self._uvicorn = _Uvicorn(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen, and return the address with the real port. OSError if that fails."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host.strip("[]"), port), family=family)
        # The loop sees to this only for sockets it made; those accepted here have it from this.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found = listening.getsockname()
        task = self._task = asyncio.create_task(self._serve(listening))
        up = asyncio.ensure_future(self._uvicorn.up.wait())
        await asyncio.wait([task, up], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            up.cancel()
            await task
        return str(found[0]), int(found[1])

    async def _serve(self, listening: socket.socket) -> None:
        with closing(listening):
            await self._uvicorn.serve(sockets=[listening])

    async def stop(self) -> None:
        """Take no more requests, and return when those under way have ended."""
        self._uvicorn.should_exit = True
        if self._task is not None:
            await self._task


CUT = "hstreamlite.cut"
"""In a scope: what ends its connection at once, whatever has not been sent."""


HEAD_BYTES_MAX = 64 << 10
"""Of a request's path and headers, and of what stands around the pieces of its body."""


class _TooLarge(Exception):
    """A head, or what stands around a body, is over the limit."""


def bounded(protocol: type[asyncio.Protocol], limits: Limits) -> type[asyncio.Protocol]:
    """Return a protocol that ends connections beyond their number, and those whose next request
    does not come in time once it has begun, or has too long a head, or which begin none, or take no
    answer; and lets the app end them."""
    config = limits.config

    class Bounded(protocol):  # type: ignore[valid-type, misc]
        _due: asyncio.TimerHandle | None = None
        _waits_for = ""
        _serving = 0
        _head = 0
        _around = 0

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._transport = transport
            if len(self.connections) > config.connections_max:
                self._refuse(429, str(limits.reached("connections_max")))
                return
            app: ASGIApp = self.app  # type: ignore[has-type]

            async def told(scope: Scope, receive: Receive, send: Send) -> None:
                self._heard()
                scope[CUT] = self._transport.abort
                self._serving += 1
                try:
                    await app(scope, receive, send)
                finally:
                    self._serving -= 1
                    if transport.get_write_buffer_size():
                        self._await("stall_timeout")

            self.app = told
            self._await("handshake_timeout")

        def data_received(self, data: bytes) -> None:
            if self._transport.is_closing():
                return
            if not self._serving:
                self._await("handshake_timeout")
            self._around += len(data)
            super().data_received(data)
            if self._around > HEAD_BYTES_MAX and not self._transport.is_closing():
                self._refuse_head()

        def on_message_begin(self) -> None:
            self._head = 0
            super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            self._count(len(url))
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._count(len(name) + len(value))
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._around = 0
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._around = 0
            super().on_body(body)

        def _count(self, size: int) -> None:
            self._head += size
            if self._head > HEAD_BYTES_MAX:
                raise _TooLarge  # the parser ends with it, and `send_400_response` is called

        def send_400_response(self, msg: str) -> None:
            if self._head > HEAD_BYTES_MAX:
                self._refuse_head()
            else:
                self._refuse(400, msg)

        def _refuse_head(self) -> None:
            limits.refused["head_bytes_max"] += 1
            self._refuse(431, f"the head is over the limit of {HEAD_BYTES_MAX} bytes")

        def _refuse(self, status: int, message: str) -> None:
            """Answer what no app is asked, and end the connection."""
            body = msgspec.json.encode({"error": 0, "message": message, "extra": None})
            head = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
                "content-type: application/json\r\n"
                f"content-length: {len(body)}\r\n"
                "connection: close\r\n\r\n"
            )
            self._transport.write(head.encode() + body)
            self._transport.close()
            self._await("stall_timeout")

        def connection_lost(self, exc: Exception | None) -> None:
            self._heard()
            super().connection_lost(exc)

        def _await(self, limit: str) -> None:
            if self._due is None:
                self._waits_for = limit
                seconds = getattr(config, limit)
                self._due = asyncio.get_running_loop().call_later(seconds, self._end)

        def _end(self) -> None:
            """End what is not about to end by itself."""
            self._due = None
            limits.refused[self._waits_for] += 1
            self._transport.abort()

        def _heard(self) -> None:
            if self._due is not None:
                self._due.cancel()
                self._due = None

    return Bounded


def knowing_clients(protocol: type[asyncio.Protocol]) -> type[asyncio.Protocol]:
    """Return a protocol that tells the app the common name of a client's certificate."""

    class Knowing(protocol):  # type: ignore[valid-type, misc]
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            certificate = transport.get_extra_info("peercert") or {}
            subject = dict(pair for part in certificate.get("subject", ()) for pair in part)
            app: ASGIApp = self.app  # type: ignore[has-type]
            name = subject.get("commonName")

            async def told(scope: Scope, receive: Receive, send: Send) -> None:
                scope[CERTIFICATE] = name
                await app(scope, receive, send)

            self.app = told

    return Knowing


class Named:
    """Middleware that gives every request its id, and the answer the same."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = Asked(Headers(scope=scope).items)
        ASKED.set(asked)

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = asked.id
            await send(message)

        await self._app(scope, receive, named)


class _Uvicorn(uvicorn.Server):
    """Without signal handlers: the process has its own."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.up.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
