"""A connection of an HTTP client: what it may take of time and room, and whose it is."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hstreamlite.net.access.http import CERTIFICATE
from hstreamlite.net.limits import Limits

CUT = "hstreamlite.cut"
"""In a scope: what ends its connection at once, whatever has not been sent."""
HEAD_BYTES_MAX = 64 << 10
"""Of a request's path and headers, and of what stands around the pieces of its body."""


class _TooLarge(Exception):
    """A head, or what stands around a body, is over the limit."""


class HttpConnection(HttpToolsProtocol):
    """Ends connections beyond their number, and those whose next request does not come in time once
    it has begun, or has too long a head, or which begin none, or take no answer; and lets the app
    end them. It tells the app the common name of a client's certificate, if one was asked for."""

    def __init__(self, *args: Any, limits: Limits, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits
        self._asked_app = self.app
        self._client_name: str | None = None
        self._due: asyncio.TimerHandle | None = None
        self._waits_for = ""
        self._serving = 0
        self._head = 0
        self._around = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.config.connections_max:
            self._refuse(429, str(self._limits.reached("connections_max")))
            return
        certificate = transport.get_extra_info("peercert") or {}
        subject = dict(pair for part in certificate.get("subject", ()) for pair in part)
        self._client_name = subject.get("commonName")
        self.app = self._ask
        self._await("handshake_timeout")

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._heard()
        scope[CUT] = self.transport.abort
        scope[CERTIFICATE] = self._client_name
        self._serving += 1
        try:
            await self._asked_app(scope, receive, send)
        finally:
            self._serving -= 1
            if self.transport.get_write_buffer_size():
                self._await("stall_timeout")

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if not self._serving:
            self._await("handshake_timeout")
        self._around += len(data)
        super().data_received(data)
        if self._around > HEAD_BYTES_MAX and not self.transport.is_closing():
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
        self._limits.refused["head_bytes_max"] += 1
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
        self.transport.write(head.encode() + body)
        self.transport.close()
        self._await("stall_timeout")

    def connection_lost(self, exc: Exception | None) -> None:
        self._heard()
        super().connection_lost(exc)

    def _await(self, limit: str) -> None:
        if self._due is None:
            self._waits_for = limit
            seconds = getattr(self._limits.config, limit)
            self._due = self.loop.call_later(seconds, self._end)

    def _end(self) -> None:
        """End what is not about to end by itself."""
        self._due = None
        self._limits.refused[self._waits_for] += 1
        self.transport.abort()

    def _heard(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
