"""Where calls are counted: the interceptor that keeps the limits of calls."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from hstreamlite.errors import LimitReached
from hstreamlite.net.limits import Attended, Limits

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Limiter(grpc.aio.ServerInterceptor):
    """Stands around every call and keeps the limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}
        # One that takes many requests does not wait for the first.
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
        kinds = {
            (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
            (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
            (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
            (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
        }
        name, make = kinds[bool(handler.request_streaming), bool(handler.response_streaming)]
        behaviour = getattr(handler, name)
        around = self._many if handler.response_streaming else self._one
        made: Handler = make(
            around(behaviour),
            request_deserializer=_decoder(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )
        return made

    def _one(self, behaviour: Any) -> Any:
        limits = self._limits

        async def answer(request: Any, context: Any) -> Any:
            peer = context.peer()
            limits.enter(peer)
            try:
                many = hasattr(request, "__aiter__")
                return await behaviour(_all(request) if many else _decoded(request), context)
            finally:
                limits.leave(peer)

        return answer

    def _many(self, behaviour: Any) -> Any:
        limits = self._limits
        generates = inspect.isasyncgenfunction(behaviour)

        async def answer(request: Any, context: Any) -> None:
            peer = context.peer()
            limits.enter(peer)
            try:
                attended = Attended(context, limits, _decoded)
                request = _all(request) if hasattr(request, "__aiter__") else _decoded(request)
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
                limits.leave(peer)

        return answer


class _Undecodable:
    """What stands in the place of a request that is none: gRPC would log each with a traceback."""


def _decoder(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if decode is None:
        return None

    def decoded(raw: bytes) -> Any:
        try:
            return decode(raw)
        except (DecodeError, ValueError):
            return _Undecodable()

    return decoded


def _decoded(request: Any) -> Any:
    if type(request) is _Undecodable:
        raise ValueError("the request cannot be decoded: its bytes are no message of this call")
    return request


async def _all(requests: Any) -> AsyncIterator[Any]:
    async for request in requests:
        yield _decoded(request)
