"""Streams: catalog, appends, readers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from time import perf_counter_ns
from typing import Any

import hstreamlite
from hstreamlite.aio.bell import in_thread
from hstreamlite.aio.stream import BatchReader, Reader
from hstreamlite.config import CODEC_NAMES
from hstreamlite.errors import RecordTrimmed, StreamNotFound
from hstreamlite.info import shard_ranges, stats_facts
from hstreamlite.log.catalog import StreamState
from hstreamlite.log.reader import Batch, Scan
from hstreamlite.net import hstreamlite_pb2 as pb
from hstreamlite.net.failures import failure_of
from hstreamlite.net.v1.base import BEAT_SECONDS, Base, Context
from hstreamlite.net.wire import (
    DURABILITY_NAMES,
    id_to,
    ids_to,
    items_from,
    piece_of_batch,
    pieces_of,
    place_from,
    scan_to,
    shard_to,
    stream_info_to,
)


class Streams(Base):
    """The calls about streams, and about the store as a whole."""

    async def Hello(self, request: pb.HelloRequest, context: Context) -> pb.HelloReply:
        config = self.engine.config
        return pb.HelloReply(
            version=hstreamlite.__version__,
            path=self.store.path,
            batch_bytes_max=config.batch_bytes_max,
            transaction_bytes_max=config.transaction_bytes_max,
        )

    async def Sync(self, request: pb.SyncRequest, context: Context) -> pb.Done:
        await self.store.sync()
        return pb.Done()

    async def Stats(self, request: pb.StatsRequest, context: Context) -> pb.StatsReply:
        stats = await self.store.stats()
        return pb.StatsReply(stats=json.dumps(stats_facts(stats)).encode())

    async def Backup(
        self, request: pb.BackupRequest, context: Context
    ) -> AsyncIterator[pb.BackupPart]:
        async with aclosing(self.node.backups.make(request.name)) as steps:
            async for step in steps:
                yield pb.BackupPart(done=step.done, total=step.total, path=step.path)

    async def CreateStream(self, request: pb.CreateStreamRequest, context: Context) -> pb.Done:
        await self.node.raw.create_stream(
            request.name,
            backlog=request.backlog_s,
            max_bytes=request.max_bytes,
            protect=list(request.protect),
            shards=request.shards or 1,
            replication=request.replication or 1,
            exists_ok=request.exists_ok,
        )
        return pb.Done()

    async def DescribeStream(self, request: pb.StreamRequest, context: Context) -> pb.StreamInfo:
        return stream_info_to(await self.store.stream(request.stream).info())

    async def ListStreams(self, request: pb.ListRequest, context: Context) -> pb.StreamList:
        return pb.StreamList(streams=map(stream_info_to, await self.store.streams()))

    async def ListShards(self, request: pb.StreamRequest, context: Context) -> pb.ShardList:
        found = await in_thread(shard_ranges, self.engine, request.stream)
        return pb.ShardList(shards=map(shard_to, found))

    async def DeleteStream(self, request: pb.DeleteRequest, context: Context) -> pb.Done:
        await self.store.delete_stream(request.name, force=request.force)
        return pb.Done()

    async def Tail(self, request: pb.StreamRequest, context: Context) -> pb.TailReply:
        tail = await self.store.stream(request.stream).tail()
        return pb.TailReply(id=None if tail is None else id_to(tail))

    async def Trim(self, request: pb.TrimRequest, context: Context) -> pb.Done:
        await self.store.stream(request.stream).trim(before=place_from(request.before))
        return pb.Done()

    async def Append(self, request: pb.AppendRequest, context: Context) -> pb.AppendReply:
        stream = self.store.stream(request.stream)
        body = request.body
        items: list[Any] = items_from(body, self.engine.config.transaction_bytes_max)
        durability: Any = DURABILITY_NAMES.get(request.durability)
        begin = perf_counter_ns()
        try:
            if request.single and len(items) == 1:
                reply = pb.AppendReply(
                    id=id_to(await stream.append(items[0], durability=durability))
                )
            else:
                ids = await stream.append_many(
                    items, durability=durability, compression=CODEC_NAMES[body.codec]
                )
                reply = pb.AppendReply(ids=ids_to(ids))
        except BaseException as error:
            self.node.tally.append_failed(request.stream, error)
            raise
        self.node.tally.appended(request.stream, len(items), len(body.payload))
        self.node.tally.append_answered(perf_counter_ns() - begin)
        return reply

    async def Read(self, request: pb.ReadRequest, context: Context) -> AsyncIterator[pb.ReadPart]:
        state = self.engine.stream(request.stream)
        scan, limits = self._scan(request, state)
        positions = {shard: cursor.lsn for shard, cursor in scan._cursors.items()}
        yield pb.ReadPart(scan=scan_to(positions, limits), stream_id=state.id)
        async for part in self._parts(request, scan):
            yield part

    def _scan(self, request: pb.ReadRequest, state: StreamState) -> tuple[Scan, Mapping[int, int]]:
        """Return what is to be read, and where it ends in each shard."""
        limit = request.limit if request.HasField("limit") else None
        key = request.key if request.HasField("key") else None
        if request.HasField("scan"):
            if state.id != request.stream_id:
                raise StreamNotFound(request.stream)
            starts, limits = dict(request.scan.positions), dict(request.scan.limits)
            if not starts.keys() <= set(state.shard_ids) or starts.keys() != limits.keys():
                raise ValueError(f"the places to read on from are none of {request.stream!r}")
            scan = Scan(self.engine.journal, starts, limits, limit=limit, key=key)
            return scan, limits
        scan = self.engine.scan(
            state,
            start=place_from(request.start),
            until=place_from(request.until) if request.HasField("until") else None,
            limit=limit,
            key=key,
            shard=request.shard if request.HasField("shard") else None,
            follow=request.follow,
        )
        return scan, {shard: scan._limits[shard] for shard in scan.shards}

    async def _parts(self, request: pb.ReadRequest, scan: Scan) -> AsyncIterator[pb.ReadPart]:
        """Read on, and tell that this is alive where there is nothing to read."""
        by_key = request.HasField("key")
        reader: BatchReader | Reader
        kind = Reader if by_key else BatchReader
        reader = kind(
            self.engine,
            self.store._bell,
            request.stream,
            scan,
            scan.records if by_key else scan.batches,
            follow=request.follow,
        )
        usual, sent = reader._most, 0
        async with reader:
            while True:
                reader._most = min(self.node.limits.batches(sent), usual)
                try:
                    async with asyncio.timeout(BEAT_SECONDS):
                        found: list[Any] = [await anext(reader)]
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    yield pb.ReadPart()
                    continue
                except RecordTrimmed as error:
                    yield pb.ReadPart(failure=failure_of(error), scan=_stand(scan))
                    continue
                found += reversed(reader._buffer)
                reader._buffer = []
                part = self._part(request.stream, found)
                found = []  # as long as the part is not taken, it is enough to hold that
                yield part
                sent += 1

    def _part(self, stream: str, found: list[Any]) -> pb.ReadPart:
        if isinstance(found[0], Batch):
            part = pb.ReadPart(pieces=map(piece_of_batch, found))
        else:
            part = pb.ReadPart(pieces=pieces_of(found))
        records = sum(piece.records for piece in part.pieces)
        size = sum(len(piece.payload) for piece in part.pieces)
        self.node.tally.read(stream, len(part.pieces), records, size)
        return part


def _stand(scan: Scan) -> pb.Scan:
    """Return where a scan stands."""
    positions = {shard: cursor.lsn for shard, cursor in scan._cursors.items()}
    return scan_to(positions, scan._limits)
