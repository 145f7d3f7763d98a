"""Where calls are counted: the interceptor that keeps the limits of calls."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from hstreamlite.errors import LimitReached
from hstreamlite.net.encoded import encoder
from hstreamlite.net.limits import Attended, Limits

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


_NO_MESSAGE = "the request cannot be decoded: its bytes are no message of this call"


class Limiter(grpc.aio.ServerInterceptor):
    """Stands around every call and keeps the limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}
        self._refusal: Handler = grpc.stream_stream_rpc_method_handler(self._refuse)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        if not self._limits.begin(asyncio.current_task()):
            return self._refusal
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        known, wrapped = self._wrapped.get(method, (None, None))
        if known is not handler or wrapped is None:
            wrapped = self._wrap(handler)
            self._wrapped[method] = handler, wrapped
        return wrapped

    async def _refuse(self, _requests: Any, _context: Any) -> None:
        raise LimitReached("calls_max", self._limits.config.calls_max)

    def _wrap(self, handler: Handler) -> Handler:
        """Return a handler that reads requests itself, since it is asked to wait for the first."""
        kinds = {
            (False, False): ("unary_unary", grpc.stream_unary_rpc_method_handler),
            (False, True): ("unary_stream", grpc.stream_stream_rpc_method_handler),
            (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
            (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
        }
        name, make = kinds[bool(handler.request_streaming), bool(handler.response_streaming)]
        behaviour = getattr(handler, name)
        around = self._many if handler.response_streaming else self._one
        made: Handler = make(
            around(behaviour, takes_many=handler.request_streaming),
            request_deserializer=_decoder(
                handler.request_deserializer, self._limits.receive_bytes_max
            ),
            response_serializer=encoder(handler.response_serializer),
        )
        return made

    def _one(self, behaviour: Any, *, takes_many: bool) -> Any:
        limits = self._limits

        async def answer(_requests: Any, context: Any) -> Any:
            peer = context.peer()
            limits.enter(peer)
            try:
                attended = Attended(context, limits, self._checked)
                request = attended.requests() if takes_many else await attended.request()
                return await behaviour(request, context)
            finally:
                limits.leave(peer)

        return answer

    def _many(self, behaviour: Any, *, takes_many: bool) -> Any:
        limits = self._limits
        generates = inspect.isasyncgenfunction(behaviour)

        async def answer(_requests: Any, context: Any) -> None:
            peer = context.peer()
            limits.enter(peer)
            attended = Attended(context, limits, self._checked)
            try:
                request = attended.requests() if takes_many else await attended.request()
                if not generates:
                    await behaviour(request, attended)
                    return
                responses = behaviour(request, attended)
                try:
                    async for response in responses:
                        await attended.write(response)
                finally:
                    await responses.aclose()
            finally:
                attended.end()
                limits.leave(peer)

        return answer

    def _checked(self, request: Any) -> Any:
        if not isinstance(request, _Unusable):
            return request
        if request.too_large:
            raise self._limits.reached("receive_bytes_max")
        raise ValueError(_NO_MESSAGE)


@dataclass(frozen=True, slots=True)
class _Unusable:
    """What stands in the place of a request that is none: gRPC would log each with a traceback."""

    too_large: bool


def _decoder(decode: Callable[[bytes], Any] | None, most: int) -> Callable[[bytes], Any]:
    def decoded(raw: bytes) -> Any:
        if len(raw) > most:
            return _Unusable(too_large=True)
        if decode is None:
            return raw
        try:
            return decode(raw)
        except (DecodeError, ValueError):
            return _Unusable(too_large=False)

    return decoded
