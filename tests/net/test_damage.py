"""A batch that is damaged on disk, and the clients of a server that come to it."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.hstream_pb2_grpc import HStreamApiStub
from hstreamlite.net.server import Server
from tests.net.rest.conftest import until
from tests.net.wire import batch, config, payloads

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]


async def damaged(path: Path) -> None:
    """Make a store of four batches, the second of which is damaged."""
    async with (
        Server(config(path)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = HStreamApiStub(channel)
        await stub.CreateStream(pb.Stream(streamName="s", replicationFactor=1, shardCount=1))
        [shard] = (await stub.ListShards(pb.ListShardsRequest(streamName="s"))).shards
        await stub.CreateSubscription(
            pb.Subscription(
                subscriptionId="sub", streamName="s", ackTimeoutSeconds=600, maxUnackedRecords=100
            )
        )
        for number in range(4):
            made = batch(b"batch %d" % number, b"." * 3000)
            await stub.Append(pb.AppendRequest(streamName="s", shardId=shard.shardId, records=made))
    found = 0
    for file in (path / "store" / "segments").glob("*.seg"):
        data = bytearray(file.read_bytes())
        at = data.find(b"batch 1")
        if at >= 0:
            data[at + 100] ^= 4
            file.write_bytes(data)
            found += 1
    assert found == 1


async def fetched(stub: HStreamApiStub) -> AsyncIterator[bytes]:
    """Consume, and yield the first payload of each batch once it is acked."""
    acks: asyncio.Queue[pb.StreamingFetchRequest] = asyncio.Queue()
    who = {"subscriptionId": "sub", "consumerName": "c"}
    acks.put_nowait(pb.StreamingFetchRequest(**who))

    async def requests() -> AsyncIterator[pb.StreamingFetchRequest]:
        while True:
            yield await acks.get()

    call: Any = stub.StreamingFetch(requests(), timeout=60)
    async for answer in call:
        acks.put_nowait(pb.StreamingFetchRequest(**who, ackIds=answer.receivedRecords.recordIds))
        yield payloads(answer.receivedRecords)[0]


async def until_batch(stub: HStreamApiStub, last: bytes) -> list[bytes]:
    """Consume until a batch has come; what was not acked of those before may come again."""
    got = []
    async for payload in fetched(stub):
        got.append(payload)
        if payload == last:
            break
    return got


async def test_damage_is_shown_and_an_operator_can_go_past_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await damaged(tmp_path)
    async with (
        Server(config(tmp_path, http=True, http_port=0)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
        httpx.AsyncClient(base_url="http://{}:{}".format(*(server.node.http_address or ()))) as web,
    ):
        stub = HStreamApiStub(channel)
        got: list[bytes] = []
        with caplog.at_level(logging.WARNING), pytest.raises(grpc.aio.AioRpcError) as met:
            async for payload in fetched(stub):
                got.append(payload)
        assert got == [b"batch 0"]
        assert met.value.code() is grpc.StatusCode.DATA_LOSS
        assert json.loads(met.value.details() or "")["error"] == pb.ShardReaderDataLossGap
        assert "hstreamlite subscription skip-damaged sub" in caplog.text
        page = (await web.get("/metrics")).text
        assert 'hstreamlite_subscription_damaged_records{subscription="sub"} 2.0' in page
        held = 'hstreamlite_subscription_blocked{reason="damaged",subscription="sub"} 1.0'
        again = asyncio.create_task(until_batch(stub, b"batch 2"))

        async def is_held() -> bool:
            return held in (await web.get("/metrics")).text

        await until(is_held)
        info = (await web.get("/v1/subscriptions/sub/info")).json()
        assert info["damaged"] == 2
        assert info["blocked"].startswith("damaged: ")
        assert not again.done()
        answer = await web.post("/v1/subscriptions/sub:skip-damaged")
        assert answer.json() == {"skipped": 2}
        assert b"batch 1" not in await again
        assert (await web.get("/v1/subscriptions/sub/info")).json()["damaged"] == 0
