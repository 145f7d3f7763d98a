"""A server that does nothing: it answers with made-up record ids, and sends one batch for ever.

python -m benchmarks.wire.empty

The bound of what a grpc.aio server can do with the same messages: it decodes requests, and encodes
answers, as generated code does.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc

from benchmarks.plan import Plan
from benchmarks.wire.shape import RECORDS, SHARD, SIZE, batched, ids
from hstreamlite.net import hstream_pb2 as pb, hstream_pb2_grpc as rpc

_KEYS_END = str(2**128 - 1)


class Empty(rpc.HStreamApiServicer):
    """Answers what clients ask on their way to appends and deliveries, and no more."""

    def __init__(self) -> None:
        self.port = 0
        self._answers: dict[int, pb.AppendResponse] = {}
        record = batched(Plan().payloads(RECORDS, SIZE))
        record.publishTime.GetCurrentTime()
        received = pb.ReceivedRecord(recordIds=ids(1, RECORDS), record=record)
        self._delivery = pb.StreamingFetchResponse(receivedRecords=received)

    def _node(self) -> pb.ServerNode:
        return pb.ServerNode(id=1, host="127.0.0.1", port=self.port)

    async def DescribeCluster(self, request: Any, context: Any) -> pb.DescribeClusterResponse:
        return pb.DescribeClusterResponse(protocolVersion="0.1.0", serverNodes=[self._node()])

    async def CreateStream(self, request: pb.Stream, context: Any) -> pb.Stream:
        return request

    async def ListShards(
        self, request: pb.ListShardsRequest, context: Any
    ) -> pb.ListShardsResponse:
        shard = pb.Shard(
            streamName=request.streamName,
            shardId=SHARD,
            startHashRangeKey="0",
            endHashRangeKey=_KEYS_END,
            isActive=True,
        )
        return pb.ListShardsResponse(shards=[shard])

    async def LookupShard(
        self, request: pb.LookupShardRequest, context: Any
    ) -> pb.LookupShardResponse:
        return pb.LookupShardResponse(shardId=request.shardId, serverNode=self._node())

    async def CreateSubscription(self, request: pb.Subscription, context: Any) -> pb.Subscription:
        return request

    async def LookupSubscription(
        self, request: pb.LookupSubscriptionRequest, context: Any
    ) -> pb.LookupSubscriptionResponse:
        name = request.subscriptionId
        return pb.LookupSubscriptionResponse(subscriptionId=name, serverNode=self._node())

    async def Append(self, request: pb.AppendRequest, context: Any) -> pb.AppendResponse:
        records = request.records.batchSize
        known = self._answers.get(records)
        if known is None:
            known = self._answers[records] = pb.AppendResponse(
                streamName=request.streamName, shardId=SHARD, recordIds=ids(1, records)
            )
        return known

    async def StreamingFetch(
        self, requests: AsyncIterator[pb.StreamingFetchRequest], context: Any
    ) -> AsyncIterator[pb.StreamingFetchResponse]:
        await anext(aiter(requests))
        acking = asyncio.create_task(_drain(requests))
        try:
            while True:
                yield self._delivery
        finally:
            acking.cancel()


async def _drain(requests: AsyncIterator[pb.StreamingFetchRequest]) -> None:
    async for _ in requests:
        pass


async def _serve() -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    servicer: Any = cast("Any", Empty)()  # the others answer that they are not implemented
    rpc.add_HStreamApiServicer_to_server(servicer, server)
    servicer.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(f"empty server ready at 127.0.0.1:{servicer.port}", flush=True)
    await stop.wait()
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(_serve())
    sys.exit(0)
