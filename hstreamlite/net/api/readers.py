"""Readers: those that the server keeps under a name, and streams of batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

from google.protobuf.empty_pb2 import Empty

from hstreamlite.aio.raw import RawReader
from hstreamlite.log.reader import Batch
from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.api.messages import (
    RESPONSE_BYTES_MAX,
    add_batch,
    check_name,
    check_stream,
    point_of,
)
from hstreamlite.net.api.served import Context, Served
from hstreamlite.net.errors import Refused, Status
from hstreamlite.net.node import Node

READERS_MAX = 10_000
BATCHES_MAX = 1_000
"""Batches of one response: what is built for it stands still for nobody else."""

Response = TypeVar(
    "Response", pb.ReadShardStreamResponse, pb.ReadStreamResponse, pb.ReadSingleShardStreamResponse
)


class _Named:
    """A reader that the server keeps. Its reads come one after the other."""

    def __init__(self, stream: str, reader: RawReader, timeout_ms: int) -> None:
        self.stream = stream
        self.reader = reader
        self.timeout = timeout_ms / 1000
        self.turn = asyncio.Lock()

    async def read(self, most: int) -> list[Batch]:
        """Return the next batches as soon as there is one, or none when the timeout has passed."""
        if most == 0:
            return []
        most = min(most, BATCHES_MAX)
        return await self.reader.read(most, max_bytes=RESPONSE_BYTES_MAX, timeout=self.timeout)


class Readers(Served):
    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self._readers: dict[str, _Named] = {}
        node.stream_of_reader = self._stream_of

    def _stream_of(self, name: str) -> str | None:
        named = self._readers.get(name)
        return None if named is None else named.stream

    async def CreateShardReader(
        self, request: pb.CreateShardReaderRequest, context: Context
    ) -> pb.CreateShardReaderResponse:
        name = request.readerId
        # The Java client makes names from random numbers, and those may begin with a digit.
        code = pb.ErrorCode.ShardReaderInvalidObjectIdentifier
        check_name("reader", code, name, first=False)
        stream, _ = self.node.raw.shard(request.shardId, request.streamName or None)
        start = point_of(request.shardOffset, shard=request.shardId)
        if name in self._readers:
            raise Refused(Status.ALREADY_EXISTS, 0, f"There is a reader {name!r}.", name)
        if len(self._readers) >= READERS_MAX:
            raise Refused(
                Status.RESOURCE_EXHAUSTED,
                0,
                f"There are {READERS_MAX} readers; delete those that nobody reads with.",
            )
        reader = self.node.raw.read_shard(request.shardId, start=start)
        self._readers[name] = _Named(stream.name, reader, request.timeout)
        return pb.CreateShardReaderResponse(
            streamName=request.streamName,
            shardId=request.shardId,
            shardOffset=request.shardOffset,
            readerId=name,
            timeout=request.timeout,
        )

    async def ReadShard(
        self, request: pb.ReadShardRequest, context: Context
    ) -> pb.ReadShardResponse:
        named = self._named(request.readerId)
        with self.node.until_stop():
            async with named.turn:
                self._check_kept(request.readerId, named)  # as this call waited for its turn
                batches = await named.read(request.maxRecords)
                self._check_kept(request.readerId, named)
        response = pb.ReadShardResponse()
        for batch in batches:
            add_batch(response.receivedRecords, batch)
        self._count_read(named.stream, batches)
        return response

    async def ListShardReaders(
        self, request: pb.ListShardReadersRequest, context: Context
    ) -> pb.ListShardReadersResponse:
        return pb.ListShardReadersResponse(readerId=sorted(self._readers))

    async def DeleteShardReader(
        self, request: pb.DeleteShardReaderRequest, context: Context
    ) -> Empty:
        named = self._named(request.readerId)
        del self._readers[request.readerId]
        await named.reader.close()
        return Empty()

    def _named(self, name: str) -> _Named:
        named = self._readers.get(name)
        if named is None:
            raise _no_reader(name)
        return named

    def _check_kept(self, name: str, named: _Named) -> None:
        if self._readers.get(name) is not named:
            raise _no_reader(name)

    async def ReadShardStream(
        self, request: pb.ReadShardStreamRequest, context: Context
    ) -> AsyncIterator[pb.ReadShardStreamResponse]:
        stream, _ = self.node.raw.shard(request.shardId, request.streamName or None)
        reader = self._shard_reader(request.shardId, request)
        async for response in self._batches(stream.name, reader, pb.ReadShardStreamResponse):
            yield response

    async def ReadSingleShardStream(
        self, request: pb.ReadSingleShardStreamRequest, context: Context
    ) -> AsyncIterator[pb.ReadSingleShardStreamResponse]:
        stream = self.node.raw.stream(check_stream(request.streamName))
        if len(stream.shard_ids) > 1:
            raise Refused(
                Status.INVALID_ARGUMENT,
                pb.ErrorCode.ShardReaderTooManyShards,
                f"Stream {stream.name!r} has {len(stream.shard_ids)} shards, not one.",
                stream.name,
            )
        reader = self._shard_reader(stream.shard_ids[0], request)
        async for response in self._batches(stream.name, reader, pb.ReadSingleShardStreamResponse):
            yield response

    async def ReadStream(
        self, request: pb.ReadStreamRequest, context: Context
    ) -> AsyncIterator[pb.ReadStreamResponse]:
        stream = self.node.raw.stream(check_stream(request.streamName))
        start = point_of(getattr(request, "from"))
        until = point_of(request.until) if request.HasField("until") else None
        if until is not None:
            self.node.finish()
        reader = self.node.raw.read_stream(
            stream.name, start=start, until=until, max_batches=request.maxReadBatches
        )
        async for response in self._batches(stream.name, reader, pb.ReadStreamResponse):
            yield response

    def _shard_reader(
        self, shard: int, request: pb.ReadShardStreamRequest | pb.ReadSingleShardStreamRequest
    ) -> RawReader:
        start = point_of(getattr(request, "from"), shard=shard)
        until = point_of(request.until, shard=shard) if request.HasField("until") else None
        if until is not None:
            self.node.finish()
        return self.node.raw.read_shard(
            shard, start=start, until=until, max_batches=request.maxReadBatches
        )

    async def _batches(
        self, stream: str, reader: RawReader, make: type[Response]
    ) -> AsyncIterator[Response]:
        """Send what there is, and on as it comes, until the reader's end."""
        sent = 0
        async with reader:
            while True:
                most = min(self.node.limits.batches(sent), BATCHES_MAX)
                batches = await reader.read(most, max_bytes=RESPONSE_BYTES_MAX, timeout=None)
                if not batches:
                    return
                response = make()
                for batch in batches:
                    add_batch(response.receivedRecords, batch)
                self._count_read(stream, batches)
                yield response
                sent += 1

    def _count_read(self, stream: str, batches: list[Batch]) -> None:
        if batches:
            records = sum(batch.size for batch in batches)
            size = sum(len(batch.payload) for batch in batches)
            self.node.tally.read(stream, len(batches), records, size)


def _no_reader(name: str) -> Refused:
    return Refused(
        Status.FAILED_PRECONDITION, 0, f"There is no reader {name!r}.", "ShardReaderNotExists"
    )
