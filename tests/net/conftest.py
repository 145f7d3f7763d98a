"""A server and its clients, on one loop."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest_asyncio

from hstreamlite.net.hstream_pb2_grpc import HStreamApiStub
from hstreamlite.net.server import Server
from tests.net.wire import config


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with Server(config(tmp_path)) as server:
        yield server


@pytest_asyncio.fixture
async def stub(server: Server) -> AsyncIterator[HStreamApiStub]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield HStreamApiStub(channel)
