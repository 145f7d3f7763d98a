"""Calls of the protocol over HTTP: each rule of each service is a route to the same servicer that
gRPC calls."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import grpc
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from hstreamlite.net.encoded import message_of
from hstreamlite.net.errors import Refused, Stopping, Told
from hstreamlite.net.node import CALL, Call, Node, Service
from hstreamlite.net.rest.answers import (
    JSON,
    BadRequest,
    Line,
    Streamed,
    wants_events,
)
from hstreamlite.net.rest.bodies import body_pieces, decoded, whole_body
from hstreamlite.net.rest.config import RestConfig
from hstreamlite.net.rest.context import Aborted, HttpContext
from hstreamlite.net.rest.messages import from_parts, to_json
from hstreamlite.net.rest.rules import Rule

_FIRST_ANSWER = 1.0
"""Seconds that a stream's first message, or its refusal, may take before its headers are sent."""


class RpcCall:
    """What a route does: make the request of a rule, call the servicer, answer."""

    def __init__(self, node: Node, config: RestConfig, service: Service, rule: Rule) -> None:
        self._node = node
        self._config = config
        self._service = service
        self._rule = rule
        self._name = f"/{service.descriptor.full_name}/{rule.rpc.name}"
        self._behaviour = getattr(service.servicer, rule.rpc.name)

    def tell(self, error: BaseException) -> Told:
        if isinstance(error, Aborted):
            error = error.refused
        if isinstance(error, Refused):
            return Told(error.status, error.code, error.message, error.extra)
        return self._service.told(error)

    async def __call__(self, request: Request, variables: Mapping[str, str]) -> ASGIApp:
        if self._node.stopping.is_set():
            raise Stopping
        CALL.set(Call(self._node.listeners[0], self._name))
        rpc = self._rule.rpc
        if rpc.client_streaming:
            messages = self._messages(request, variables)
            context = HttpContext(request, messages)
            answers = self._answers(messages, context)
            return await self._streamed(request, answers)
        message = await self._message(request, variables)
        context = HttpContext(request)
        if rpc.server_streaming:
            return await self._streamed(request, self._answers(message, context))
        return await self._one(message, context)

    async def _message(self, request: Request, variables: Mapping[str, str]) -> Any:
        body: Any = {}
        raw = await whole_body(request, self._config)
        if self._rule.body:
            if raw.strip():
                body = decoded(raw)
        elif raw:
            raise BadRequest(400, "this request takes no body")
        return from_parts(self._rule, variables, request.query_params.multi_items(), body)

    async def _messages(self, request: Request, variables: Mapping[str, str]) -> AsyncIterator[Any]:
        query = request.query_params.multi_items()
        async for lines in body_pieces(request, self._config, patient=True):
            for line in lines:
                value = decoded(line, "a line of the body")
                yield from_parts(self._rule, variables, query, value)

    async def _one(self, message: Any, context: HttpContext) -> ASGIApp:
        seconds = self._config.call_timeout
        try:
            async with asyncio.timeout(seconds):
                answer = await self._behaviour(message, context)
            context.check()
        except TimeoutError:
            raise Refused(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                0,
                f"{self._rule.rpc.name} did not end within {seconds:g} s; what it was to do may "
                "have happened, or may yet.",
            ) from None
        finally:
            context.end()
        return Response(to_json(message_of(answer)), media_type=JSON)

    async def _streamed(self, request: Request, answers: AsyncGenerator[Any]) -> ASGIApp:
        """Answer with a stream, or with the error that comes in place of its first message."""
        first = asyncio.ensure_future(anext(answers, None))
        try:
            await asyncio.wait([first], timeout=_FIRST_ANSWER)
        except asyncio.CancelledError:
            first.cancel()
            await asyncio.wait([first])
            raise
        if first.done():
            first.result()
        return Streamed(
            self._node,
            self._config,
            _lines(first, answers),
            self.tell,
            self._name,
            events=wants_events(request),
        )

    async def _answers(self, message: Any, context: HttpContext) -> AsyncGenerator[Any]:
        try:
            if inspect.isasyncgenfunction(self._behaviour):
                answers = self._behaviour(message, context)
                try:
                    async for answer in answers:
                        yield answer
                finally:
                    await answers.aclose()
            else:
                async for answer in _written(self._behaviour(message, context), context):
                    yield answer
            context.check()
        finally:
            context.end()


async def _written(behaviour: Any, context: HttpContext) -> AsyncIterator[Any]:
    """Yield what a servicer writes."""
    running = asyncio.ensure_future(behaviour)
    taking = asyncio.ensure_future(context.written())
    try:
        while True:
            await asyncio.wait([running, taking], return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                break
            yield taking.result()
            taking = asyncio.ensure_future(context.written())
        await running
    finally:
        for task in (running, taking):
            task.cancel()
        await asyncio.wait([running, taking])


async def _lines(
    first: asyncio.Future[Any], answers: AsyncGenerator[Any]
) -> AsyncGenerator[list[Line]]:
    try:
        answer = await first
        while answer is not None:
            yield [Line(to_json(message_of(answer)))]
            answer = await anext(answers, None)
    finally:
        if not first.done():
            first.cancel()
            await asyncio.wait([first])
        await answers.aclose()
