"""Appends that come while the disk is at work become durable together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from hstreamlite import aio
from hstreamlite._native.files import Files
from hstreamlite.config import StoreConfig
from hstreamlite.env import system_env
from hstreamlite.net import hstream_pb2 as pb, server as servers
from hstreamlite.net.hstream_pb2_grpc import HStreamApiStub
from hstreamlite.net.server import Server
from tests.log.test_two_in_flight import HeldWrites
from tests.net.wire import batch, config

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]
APPENDS = 64
SYNCS_MAX = 3
"""Of the first append, of what came until that was written, of all others."""
GUARD = 30.0


class Held:
    """A server whose store's syncs wait until they are let go."""

    def __init__(self, server: Server, writes: HeldWrites) -> None:
        self.address = server.address
        self._journal = server.node.store._engine.journal
        self._catalog = server.node.store._engine.catalog
        self._writes = writes

    async def syncs_of(self, appends: list[Coroutine[Any, Any, object]]) -> int:
        """Begin all appends, let syncs go when all are staged, and return how many there were."""
        before = self._journal.stats()["syncs"]
        (shard,) = self._catalog.streams["s"].shard_ids
        self._writes.armed = self._writes.hold_syncs = True
        begun = [asyncio.ensure_future(append) for append in appends]
        async with asyncio.timeout(GUARD):
            while self._journal.bounds(shard)[2] <= len(appends):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)
            assert not any(append.done() for append in begun)
            self._writes.let_all_go()
            await asyncio.gather(*begun)
        return int(self._journal.stats()["syncs"] - before)


@pytest_asyncio.fixture
async def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Held]:
    writes = HeldWrites()
    files = Files(writes.io)
    opened = partial(aio.open, env=system_env(files, files))
    monkeypatch.setattr(servers, "open_store", opened)
    quiet = StoreConfig(idle_mark=3600)  # a mark would be a sync of its own
    async with Server(config(tmp_path, store_config=quiet)) as server:
        yield Held(server, writes)
        writes.let_all_go()


async def test_appends_of_clients_of_hstreamdb_share_syncs(held: Held) -> None:
    async with grpc.aio.insecure_channel(held.address) as channel:
        stub: Any = HStreamApiStub(channel)
        await stub.CreateStream(pb.Stream(streamName="s", replicationFactor=1, shardCount=1))
        listed = await stub.ListShards(pb.ListShardsRequest(streamName="s"))

        async def append(number: int) -> None:
            await stub.Append(
                pb.AppendRequest(
                    streamName="s",
                    shardId=listed.shards[0].shardId,
                    records=batch(b"%d" % number),
                )
            )

        assert 1 <= await held.syncs_of([append(number) for number in range(APPENDS)]) <= SYNCS_MAX


async def test_appends_of_hstreamlites_own_clients_share_syncs(held: Held) -> None:
    async with aio.connect(f"hstream://{held.address}") as store:
        stream = await store.create_stream("s")
        appends = [stream.append(b"%d" % number) for number in range(APPENDS)]
        assert 1 <= await held.syncs_of(appends) <= SYNCS_MAX
