"""ReadStreamByKey: the records of one key, decoded, as many as the client grants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

from google.protobuf.message import DecodeError

from hstreamlite.aio.raw import RawReader
from hstreamlite.config import CODECS
from hstreamlite.log.journal import decompress
from hstreamlite.log.keyspace import Router
from hstreamlite.log.reader import Batch
from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.api.messages import RESPONSE_BYTES_MAX, check_stream, point_of
from hstreamlite.net.api.served import Context, Served
from hstreamlite.place import LATEST

ID_BYTES_MAX = 30
"""What an id takes in a message."""


class _Grants:
    """How many records the client will take, and whether it may yet take more."""

    def __init__(self, first: int) -> None:
        self._left = first
        self._ended = False
        self._changed = asyncio.Event()

    async def collect(self, requests: AsyncIterator[pb.ReadStreamByKeyRequest]) -> None:
        try:
            async for request in requests:
                self._left += request.readRecordCount
                self._changed.set()
        finally:
            self._ended = True
            self._changed.set()

    async def wait(self) -> int:
        """Return how many may be sent now; 0 when none is owed and the client has half-closed."""
        while not self._left and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        return self._left

    def spend(self, count: int) -> None:
        self._left -= count


class ByKey(Served):
    async def ReadStreamByKey(
        self, requests: AsyncIterator[pb.ReadStreamByKeyRequest], context: Context
    ) -> AsyncIterator[pb.ReadStreamByKeyResponse]:
        first = await anext(requests, None)
        if first is None:
            return
        state = self.node.raw.stream(check_stream(first.streamName))
        shard = Router(state.shards).shard_of(first.key)
        start = point_of(getattr(first, "from"), shard=shard)
        until = point_of(first.until, shard=shard) if first.HasField("until") else LATEST
        self.node.finish()
        grants = _Grants(first.readRecordCount)
        collecting = asyncio.create_task(grants.collect(requests))
        reader = self.node.raw.read_shard(shard, start=start, until=until)
        try:
            async with reader:
                async for response in self._granted(state.name, first.key, reader, grants):
                    yield response
        finally:
            collecting.cancel()
            with suppress(asyncio.CancelledError):
                await collecting

    async def _granted(
        self, stream: str, key: str, reader: RawReader, grants: _Grants
    ) -> AsyncIterator[pb.ReadStreamByKeyResponse]:
        while True:
            batches = await reader.read(max_bytes=RESPONSE_BYTES_MAX, timeout=None)
            if not batches:
                return
            found = [each for batch in batches for each in _records(batch, key)]
            size = sum(len(record.payload) for _, record in found)
            if found:
                self.node.tally.read(stream, len(batches), len(found), size)
            at = 0
            while at < len(found):
                granted = await grants.wait()
                if not granted:
                    return
                response = _response(found, at, granted)
                sent = len(response.recordIds)
                grants.spend(sent)
                at += sent
                yield response


Found = tuple[pb.RecordId, pb.HStreamRecord]


def _response(found: list[Found], at: int, granted: int) -> pb.ReadStreamByKeyResponse:
    """Return a message of what may be sent and fits into it, of one record at least."""
    response = pb.ReadStreamByKeyResponse()
    size = 0
    for record_id, record in found[at : at + granted]:
        size += record.ByteSize() + ID_BYTES_MAX
        if size > RESPONSE_BYTES_MAX and response.recordIds:
            break
        response.recordIds.append(record_id)
        response.receivedRecords.append(record)
    return response


def _records(batch: Batch, key: str) -> Iterator[Found]:
    """Yield the records of a key. Of a batch that its client encoded wrongly there are none."""
    message = pb.BatchHStreamRecords()
    try:
        codec = CODECS[batch.compression]
        body = decompress(codec, batch.payload, batch.decoded_bytes) if codec else batch.payload
        message.ParseFromString(body)
    except (ValueError, DecodeError):
        return
    for index, record in enumerate(message.records):
        if record.header.key == key:
            yield (
                pb.RecordId(shardId=batch.shard_id, batchId=batch.batch_id, batchIndex=index),
                record,
            )
