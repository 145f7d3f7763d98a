"""The HTTP side of the server: one app of all parts' routes, on the server's loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from hstreamlite.net.access.http import CERTIFICATE, HttpGate
from hstreamlite.net.limits import LimitsConfig
from hstreamlite.net.node import Node
from hstreamlite.net.part import Part


class HttpServer:
    def __init__(self, parts: Sequence[Part], node: Node) -> None:
        app = Starlette(
            routes=[route for part in parts for route in part.routes(node)],
            middleware=[
                *([Middleware(HttpGate, node.gate)] if node.gate.limited else []),
                *(each for part in parts for each in part.middleware(node)),
            ],
        )
        app.state.node = node
        tls = node.config.tls
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            limit_concurrency=node.config.limits.connections_max,
            timeout_graceful_shutdown=max(1, int(node.config.drain_timeout)),
            ssl_certfile=None if tls is None else tls.certificate,
            ssl_keyfile=None if tls is None else tls.key,
            ssl_ca_certs=None if tls is None else tls.client_authority,
            ssl_cert_reqs=(
                ssl.CERT_REQUIRED if tls is not None and tls.client_authority else ssl.CERT_NONE
            ),
        )
        config.load()
        config.http_protocol_class = bounded(config.http_protocol_class, node.config.limits)
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


def bounded(protocol: type[asyncio.Protocol], limits: LimitsConfig) -> type[asyncio.Protocol]:
    """Return a protocol that ends connections whose next request does not come in time once it has
    begun, or which begin none, or take no answer; and lets the app end them."""

    class Bounded(protocol):  # type: ignore[valid-type, misc]
        _due: asyncio.TimerHandle | None = None
        _serving = 0

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._transport = transport
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
                        self._await(limits.stall_timeout)

            self.app = told
            self._await(limits.handshake_timeout)

        def data_received(self, data: bytes) -> None:
            if not self._serving:
                self._await(limits.handshake_timeout)
            super().data_received(data)

        def connection_lost(self, exc: Exception | None) -> None:
            self._heard()
            super().connection_lost(exc)

        def _await(self, seconds: float) -> None:
            if self._due is None:
                self._due = asyncio.get_running_loop().call_later(seconds, self._end)

        def _end(self) -> None:
            """End what is not about to end by itself."""
            self._due = None
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
