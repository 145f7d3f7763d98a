"""Bodies of requests: read within limits of size and time, as a whole or line by line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from hstreamlite.net.node import Node
from hstreamlite.net.rest.answers import BadRequest
from hstreamlite.net.rest.config import RestConfig

T = TypeVar("T", bound=msgspec.Struct)


async def whole_body(request: Request, config: RestConfig) -> bytes:
    """Return the body; 413 above the limit of size, 408 where it does not come in time, 503 where
    the server stops before it has come."""
    most = config.body_bytes_max
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > most:
        raise _too_large(most)
    parts = []
    size = 0
    node: Node = request.app.state.node
    try:
        with node.until_stop():
            async with asyncio.timeout(config.body_timeout):
                async for part in request.stream():
                    size += len(part)
                    if size > most:
                        raise _too_large(most)
                    parts.append(part)
    except TimeoutError:
        raise _too_slow("body_timeout", config) from None
    return b"".join(parts)


async def body_pieces(
    request: Request, config: RestConfig, *, patient: bool = False
) -> AsyncIterator[list[bytes]]:
    """Yield the lines of a body that are not blank, together what comes together.

    A line has the limit of size that a whole body has, and a piece, unless patient, one of time.
    """
    most = config.body_bytes_max
    stream = aiter(request.stream())
    rest = bytearray()
    while True:
        try:
            async with asyncio.timeout(None if patient else config.lines_timeout):
                part = await anext(stream, None)
        except TimeoutError:
            raise _too_slow("lines_timeout", config) from None
        if part is None:
            break
        searched = len(rest)
        rest += part
        end = rest.rfind(b"\n", searched)
        if end >= 0:
            lines = [line for line in bytes(rest[:end]).split(b"\n") if line.strip()]
            del rest[: end + 1]
            if lines:
                yield lines
        if len(rest) > most:
            raise _too_large(most)
    if rest.strip():
        yield [bytes(rest)]


def media_type(request: Request, *allowed: str) -> str:
    """Return the type of the body; the first that is allowed for none, or for what clients say
    who say nothing. 415 for others."""
    found = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if found in {"", "application/x-www-form-urlencoded"}:
        return allowed[0]
    if found not in allowed:
        raise BadRequest(415, f"the body must be {' or '.join(allowed)}, not {found[:100]}")
    return found


def decoded(body: bytes, what: str = "the body") -> Any:
    """Return the value of JSON text; 400 where it is none."""
    if not body.strip():
        raise BadRequest(400, f"{what} is no JSON: it is empty")
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(400, f"{what} is no JSON: {error}") from None
    except RecursionError:
        raise BadRequest(400, f"{what} is JSON nested too deep") from None


def asked(kind: type[T], body: bytes) -> T:
    """Return a body as a struct; 400 saying what of it does not fit."""
    try:
        return msgspec.convert(decoded(body), kind)
    except msgspec.ValidationError as error:
        names = ", ".join(field.encode_name for field in msgspec.structs.fields(kind))
        raise BadRequest(
            400, f"this is not what is asked for here: {error}; there are: {names}"
        ) from None


def _too_large(most: int) -> BadRequest:
    return BadRequest(
        413, f"the body, or a line of it, is over the limit of {most} bytes", "body_bytes_max"
    )


def _too_slow(limit: str, config: RestConfig) -> BadRequest:
    seconds = getattr(config, limit)
    told = f"the body did not come within {seconds:g} s; send it again, faster"
    return BadRequest(408, told, limit)
