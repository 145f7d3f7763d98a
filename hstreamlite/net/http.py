"""The HTTP side of the server: one app of all parts' routes, on the server's loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import cast

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hstreamlite.net.access.http import HttpGate
from hstreamlite.net.asked import ASKED, REQUEST_ID, Asked
from hstreamlite.net.httpconnection import HttpConnection
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
            http=HttpConnection,
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
        config.http_protocol_class = cast(
            "type[asyncio.Protocol]", partial(HttpConnection, limits=node.limits)
        )
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
