"""What a servicer is given in place of gRPC's own context when its call came over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NoReturn

import grpc
from starlette.requests import Request

from hstreamlite.net.errors import Refused

Metadata = Sequence[tuple[str, str | bytes]]


class Aborted(grpc.aio.AbortError):
    """A servicer ended its call by `abort`."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.refused = Refused(code, 0, details)


class HttpContext:
    """The part of `grpc.aio.ServicerContext` that means something over HTTP.

    Headers are the metadata. Cancelling is what happens to the servicer's task. `read` and `write`
    serve the servicers that use them in place of iterating and yielding.
    """

    def __init__(self, request: Request, messages: AsyncIterator[Any] | None = None) -> None:
        self._request = request
        self._messages = messages
        self._written: asyncio.Queue[Any] = asyncio.Queue(1)
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailing: Metadata = ()
        self._callbacks: list[Callable[[Any], None]] = []
        self._done = False

    def peer(self) -> str:
        client = self._request.client
        if client is None:
            return "unknown"
        family = "ipv6" if ":" in client.host else "ipv4"
        return f"{family}:{client.host}:{client.port}"

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return tuple(self._request.headers.items())

    def peer_identities(self) -> None:
        return None

    def peer_identity_key(self) -> None:
        return None

    def auth_context(self) -> dict[str, Sequence[bytes]]:
        return {}

    def time_remaining(self) -> None:
        return None

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> NoReturn:
        self._trailing = trailing_metadata
        raise Aborted(code, details)

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def set_details(self, details: str) -> None:
        self._details = details

    def code(self) -> grpc.StatusCode | None:
        return self._code

    def details(self) -> str:
        return self._details

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        self._trailing = trailing_metadata

    def trailing_metadata(self) -> Metadata:
        return self._trailing

    async def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        """Do nothing: what a servicer sends of its own accord has no place in HTTP."""

    def set_compression(self, compression: grpc.Compression) -> None:
        """Do nothing: HTTP has its own."""

    def disable_next_message_compression(self) -> None:
        """Do nothing: HTTP has its own."""

    def cancelled(self) -> bool:
        return self._done

    def done(self) -> bool:
        return self._done

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def end(self) -> None:
        """Say that the call has ended, however."""
        if not self._done:
            self._done = True
            for callback in self._callbacks:
                callback(self)

    def check(self) -> None:
        """Raise what a servicer has said by `set_code` alone."""
        if self._code not in {None, grpc.StatusCode.OK}:
            assert self._code is not None
            raise Aborted(self._code, self._details)

    async def read(self) -> Any:
        """Return the next message of the client, or `grpc.aio.EOF`."""
        assert self._messages is not None, "the call has one request"
        return await anext(self._messages, grpc.aio.EOF)

    async def write(self, message: Any) -> None:
        """Return when the message before this one was taken."""
        await self._written.put(message)

    async def written(self) -> Any:
        return await self._written.get()
