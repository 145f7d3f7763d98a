"""Streams and their shards: made, told of, trimmed and deleted."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from hstreamlite.config import SHARDS_MAX
from hstreamlite.errors import ShardNotFound, StreamNotFound
from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.api.messages import check_stream, point_of, stream_message, timestamp
from hstreamlite.net.api.served import Context, Served
from hstreamlite.net.errors import Refused, Status
from hstreamlite.records import RecordId


class Streams(Served):
    async def CreateStream(self, request: pb.Stream, context: Context) -> pb.Stream:
        name = check_stream(request.streamName)
        if request.replicationFactor < 1:
            raise Refused(
                Status.INVALID_ARGUMENT,
                pb.ErrorCode.StreamInvalidReplicaFactor,
                "A stream needs a replication factor of at least 1.",
            )
        if not 1 <= request.shardCount <= SHARDS_MAX:
            raise Refused(
                Status.INVALID_ARGUMENT,
                pb.ErrorCode.StreamInvalidShardCount,
                f"A stream has 1 to {SHARDS_MAX} shards, not {request.shardCount}.",
            )
        state = await self.node.raw.create_stream(
            name,
            backlog=request.backlogDuration,
            shards=request.shardCount,
            replication=request.replicationFactor,
        )
        created = pb.Stream()
        created.CopyFrom(request)
        created.creationTime.CopyFrom(timestamp(state.created_ms))
        return created

    async def DeleteStream(self, request: pb.DeleteStreamRequest, context: Context) -> Empty:
        check_stream(request.streamName)
        try:
            await self.node.store.delete_stream(request.streamName, force=request.force)
        except StreamNotFound:
            if not request.ignoreNonExist:
                raise
        return Empty()

    async def GetStream(
        self, request: pb.GetStreamRequest, context: Context
    ) -> pb.GetStreamResponse:
        state = self.node.raw.stream(check_stream(request.name))
        return pb.GetStreamResponse(stream=stream_message(state))

    async def ListStreams(
        self, request: pb.ListStreamsRequest, context: Context
    ) -> pb.ListStreamsResponse:
        return pb.ListStreamsResponse(
            streams=[stream_message(state) for state in self.node.raw.streams()]
        )

    async def ListStreamsWithPrefix(
        self, request: pb.ListStreamsWithPrefixRequest, context: Context
    ) -> pb.ListStreamsResponse:
        prefix = check_stream(request.prefix)
        return pb.ListStreamsResponse(
            streams=[stream_message(state) for state in self.node.raw.streams(prefix)]
        )

    async def ListShards(
        self, request: pb.ListShardsRequest, context: Context
    ) -> pb.ListShardsResponse:
        state = self.node.raw.stream(check_stream(request.streamName))
        return pb.ListShardsResponse(
            shards=[
                pb.Shard(
                    streamName=state.name,
                    shardId=shard.id,
                    startHashRangeKey=str(shard.start),
                    endHashRangeKey=str(shard.end),
                    epoch=len(state.shards),
                    isActive=True,
                )
                for shard in state.shards
            ]
        )

    async def GetTailRecordId(
        self, request: pb.GetTailRecordIdRequest, context: Context
    ) -> pb.GetTailRecordIdResponse:
        self.node.raw.shard(request.shardId, request.streamName or None)
        tail = self.node.raw.tail(request.shardId)
        return pb.GetTailRecordIdResponse(
            tailRecordId=pb.RecordId(shardId=request.shardId, batchId=tail)
        )

    async def TrimStream(self, request: pb.TrimStreamRequest, context: Context) -> Empty:
        name = check_stream(request.streamName)
        await self.node.raw.trim_stream(name, point_of(request.trimPoint))
        return Empty()

    async def TrimShard(self, request: pb.TrimShardRequest, context: Context) -> Empty:
        name = check_stream(request.streamName)
        point = point_of(request.trimPoint, shard=request.shardId)
        await self.node.raw.trim_shard(name, request.shardId, point)
        return Empty()

    async def TrimShards(
        self, request: pb.TrimShardsRequest, context: Context
    ) -> pb.TrimShardsResponse:
        name = check_stream(request.streamName)
        ids = [_record_id(text) for text in request.recordIds]
        try:
            points = await self.node.raw.trim_shards(name, ids)
        except ShardNotFound as error:
            raise Refused(
                Status.INVALID_ARGUMENT, pb.ErrorCode.StreamShardNotExists, str(error)
            ) from error
        return pb.TrimShardsResponse(
            trimPoints={shard: str(point) for shard, point in points.items()}
        )


def _record_id(text: str) -> RecordId:
    try:
        return RecordId.parse(text)
    except ValueError as error:
        raise Refused(
            Status.INVALID_ARGUMENT, pb.ErrorCode.StreamInvalidRecordId, str(error), text
        ) from error
