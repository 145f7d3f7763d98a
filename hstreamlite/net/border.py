"""Where calls come in: what a servicer raises becomes a status, and streams end with the server."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc

from hstreamlite.net.asked import ASKED, REQUEST_ID, Asked
from hstreamlite.net.errors import Stopping, told as tell
from hstreamlite.net.node import CALL, Call, Listener, Node

log = logging.getLogger("hstreamlite.server")

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Border(grpc.aio.ServerInterceptor):
    """Stands around every call of one listener, outside of all other interceptors."""

    def __init__(self, node: Node, listener: Callable[[], Listener]) -> None:
        self._node = node
        self._listener = listener
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:  # nobody serves it, and gRPC says so
            return handler
        known, wrapped = self._wrapped.get(method, (None, None))
        if known is not handler or wrapped is None:
            wrapped = self._wrap(handler, method)
            self._wrapped[method] = handler, wrapped
        return wrapped

    def _wrap(self, handler: Handler, method: str) -> Handler:
        if not handler.response_streaming:
            behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary
            wrapped: Any = self._one(behaviour, method)
        else:
            behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
            wrapped = self._many(behaviour, method)
        make: Any = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[bool(handler.request_streaming), bool(handler.response_streaming)]
        made: Handler = make(
            wrapped,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return made

    def _one(self, behaviour: Any, method: str) -> Any:
        stopping = self._node.stopping

        async def answer(request: Any, context: Context) -> Any:
            CALL.set(Call(self._listener(), method))
            ASKED.set(Asked(context.invocation_metadata))
            try:
                if stopping.is_set():
                    raise Stopping
                return await behaviour(request, context)
            except Exception as error:  # noqa: BLE001 - whatever it is, the connection survives
                await self._tell(error, method, context)

        return answer

    def _many(self, behaviour: Any, method: str) -> Any:
        generates = inspect.isasyncgenfunction(behaviour)

        async def answer(request: Any, context: Context) -> None:
            CALL.set(Call(self._listener(), method))
            ASKED.set(Asked(context.invocation_metadata))
            try:
                with self._node.until_stop():
                    if generates:
                        await _write(behaviour(request, context), context)
                    else:
                        await behaviour(request, context)
            except Exception as error:  # noqa: BLE001 - whatever it is, the connection survives
                await self._tell(error, method, context)

        return answer

    async def _tell(self, error: Exception, method: str, context: Context) -> NoReturn:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if isinstance(error, Stopping):
            self._node.turned_away += 1
        service = self._node.services.get(method.split("/")[1])
        told = (service.told if service else tell)(error)
        if told.unexpected:
            log.error("%s failed: %s", method, error, exc_info=error)
        await context.abort(told.status, told.detail(), ((REQUEST_ID, ASKED.get().id),))


async def _write(responses: AsyncGenerator[Any, None], context: Context) -> None:
    """Send what is generated. A call that is cancelled in a write closes the generator at once."""
    try:
        async for response in responses:
            await context.write(response)
    finally:
        await responses.aclose()
