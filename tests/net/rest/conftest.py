"""A server with REST, and a client as a user has one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from hstreamlite.aio import Stream
from hstreamlite.aio.raw import RawStore
from hstreamlite.net.config import ServerConfig
from hstreamlite.net.part import Part
from hstreamlite.net.rest.config import RestConfig
from hstreamlite.net.server import Server


@asynccontextmanager
async def serving(
    path: Path,
    parts: list[Part] | None = None,
    server: Mapping[str, object] | None = None,
    **limits: object,
) -> AsyncIterator[tuple[Server, httpx.AsyncClient]]:
    config = ServerConfig(
        store=str(path / "store"),
        port=0,
        http_port=0,
        unix_socket=False,
        rest=RestConfig(**limits),
        **{"drain_timeout": 60, **(server or {})},
    )
    async with Server(config, parts) as running:
        assert running.node.http_address is not None
        host, port = running.node.http_address
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=30) as client:
            yield running, client


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Return when something is so: what others see of it has no event to wait for."""
    while not await condition():  # noqa: ASYNC110 - as said
        await asyncio.sleep(0)


class Running:
    """One server for all tests of a module, so that each takes streams of its own."""

    def __init__(self, server: Server, client: httpx.AsyncClient) -> None:
        self.server = server
        self.client = client

    async def stream(self, name: str, *, shards: int = 1, exists_ok: bool = False) -> Stream:
        """Make a stream, anew unless exists_ok."""
        store = self.server.node.store
        if not exists_ok and name in {info.name for info in await store.streams()}:
            await store.delete_stream(name, force=True)
        if shards > 1:
            await RawStore(store).create_stream(name, shards=shards)
            return store.stream(name)
        return await store.create_stream(name, exists_ok=exists_ok)

    async def consumers(self, subscription: str) -> tuple[str, ...]:
        return (await self.server.node.store.subscription(subscription).info()).consumers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with serving(tmp_path_factory.mktemp("store")) as (server, client):
        yield Running(server, client)


async def sent(client: httpx.AsyncClient, *parts: bytes) -> bytes:
    """Send bytes as they are, and return what came back until the end of the first answer."""
    url = client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])
        return head + await reader.readexactly(length)
    finally:
        writer.close()
