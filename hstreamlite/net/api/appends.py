"""Append: a batch goes in as it came, and is durable before the answer."""

from __future__ import annotations

from time import perf_counter_ns

from hstreamlite.config import BATCH_RECORDS_MAX, CODEC_NAMES
from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.api.messages import add_ids, check_stream
from hstreamlite.net.api.served import Context, Served
from hstreamlite.net.errors import Refused, Status


class Appends(Served):
    async def Append(self, request: pb.AppendRequest, context: Context) -> pb.AppendResponse:
        stream = request.streamName
        begin = perf_counter_ns()
        try:
            check_stream(stream)
            batch = self._checked(request)
            first = await self.node.raw.append(
                stream,
                batch.payload,
                shard_id=request.shardId,
                batch_size=batch.batchSize,
                compression=CODEC_NAMES[batch.compressionType],
            )
        except Exception as error:
            self.node.tally.append_failed(stream, error)
            raise
        self.node.tally.appended(stream, batch.batchSize, len(batch.payload))
        response = pb.AppendResponse(streamName=stream, shardId=request.shardId)
        add_ids(response.recordIds, first.shard_id, first.batch_id, range(batch.batchSize))
        self.node.tally.append_answered(perf_counter_ns() - begin)
        return response

    def _checked(self, request: pb.AppendRequest) -> pb.BatchedRecord:
        batch = request.records
        if not batch.batchSize or not batch.payload:
            raise Refused(
                Status.INVALID_ARGUMENT,
                pb.ErrorCode.StreamEmptyBatchedRecord,
                "An append needs a batch: records, their number and their payload.",
            )
        size = batch.ByteSize()
        limit = self.node.config.store_config.batch_bytes_max
        if size > limit:
            raise Refused(
                Status.INVALID_ARGUMENT,
                pb.ErrorCode.StreamInvalidRecordSize,
                f"A batch of {size} bytes is over the limit of {limit}; append smaller ones.",
                size,
            )
        if batch.batchSize > BATCH_RECORDS_MAX:
            raise Refused(
                Status.INVALID_ARGUMENT,
                pb.ErrorCode.StreamInvalidRecordSize,
                f"A batch of {batch.batchSize} records is over the limit of {BATCH_RECORDS_MAX}.",
                size,
            )
        if batch.compressionType not in pb.CompressionType.values():
            raise Refused(
                Status.INVALID_ARGUMENT,
                0,
                f"There is no type of compression {batch.compressionType}.",
            )
        return batch
