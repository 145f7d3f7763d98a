"""Appends and deliveries in HStreamDB's protocol, as a bare grpc.aio client makes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from time import perf_counter

import grpc

from benchmarks.cases import expect
from benchmarks.samples import Sample
from benchmarks.wire.serving import Serve
from benchmarks.wire.shape import RECORDS
from hstreamlite.net import hstream_pb2 as pb, hstream_pb2_grpc as rpc

_STREAM, _GROUP = "records", "group"
_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
_FILLING = 16


def append(
    path: Path, *, serve: Serve, pool: Sequence[pb.BatchedRecord], batches: int, in_flight: int
) -> Sequence[Sample]:
    """Append batches, so many calls under way at a time."""
    with serve(path) as address:
        return (asyncio.run(_append(address, pool, batches, in_flight)),)


def fetch(
    path: Path, *, serve: Serve, pool: Sequence[pb.BatchedRecord], batches: int
) -> Sequence[Sample]:
    """Receive batches by StreamingFetch, and ack each with a request of its own."""
    with serve(path) as address:
        return (asyncio.run(_fetch(address, pool, batches)),)


async def _append(
    address: str, pool: Sequence[pb.BatchedRecord], batches: int, in_flight: int
) -> Sample:
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        stub = rpc.HStreamApiStub(channel)
        shard = await _stream(stub)
        await _fill(stub, shard, pool, _FILLING, in_flight)  # connections and code are warm
        begin = perf_counter()
        stored = await _fill(stub, shard, pool, batches, in_flight)
        seconds = perf_counter() - begin
        expect("records", stored, batches * RECORDS)
        return Sample(stored, seconds)


async def _stream(stub: rpc.HStreamApiAsyncStub) -> int:
    await stub.CreateStream(pb.Stream(streamName=_STREAM, replicationFactor=1, shardCount=1))
    listed = await stub.ListShards(pb.ListShardsRequest(streamName=_STREAM))
    return listed.shards[0].shardId


async def _fill(
    stub: rpc.HStreamApiAsyncStub,
    shard: int,
    pool: Sequence[pb.BatchedRecord],
    batches: int,
    in_flight: int,
) -> int:
    """Append so many batches, and return how many records were answered."""
    requests = [pb.AppendRequest(streamName=_STREAM, shardId=shard, records=each) for each in pool]
    numbers = iter(range(batches))

    async def work() -> int:
        stored = 0
        for number in numbers:
            answer = await stub.Append(requests[number % len(requests)])
            stored += len(answer.recordIds)
        return stored

    return sum(await asyncio.gather(*(work() for _ in range(in_flight))))


async def _fetch(address: str, pool: Sequence[pb.BatchedRecord], batches: int) -> Sample:
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        stub = rpc.HStreamApiStub(channel)
        shard = await _stream(stub)
        await stub.CreateSubscription(
            pb.Subscription(
                subscriptionId=_GROUP,
                streamName=_STREAM,
                ackTimeoutSeconds=600,
                maxUnackedRecords=10_000,
                offset=pb.SpecialOffset.EARLIEST,
            )
        )
        await _fill(stub, shard, pool, batches, _FILLING)
        acks: asyncio.Queue[pb.StreamingFetchRequest] = asyncio.Queue()
        acks.put_nowait(pb.StreamingFetchRequest(subscriptionId=_GROUP, consumerName="one"))
        begin = perf_counter()
        call = stub.StreamingFetch(_requests(acks))
        received = records = 0
        async for response in call:
            found = response.receivedRecords
            records += found.record.batchSize
            acks.put_nowait(
                pb.StreamingFetchRequest(
                    subscriptionId=_GROUP, consumerName="one", ackIds=found.recordIds
                )
            )
            received += 1
            if received == batches:
                break
        seconds = perf_counter() - begin
        call.cancel()
        expect("records", records, batches * RECORDS)
        return Sample(records, seconds)


async def _requests(
    acks: asyncio.Queue[pb.StreamingFetchRequest],
) -> AsyncIterator[pb.StreamingFetchRequest]:
    while True:
        yield await acks.get()
