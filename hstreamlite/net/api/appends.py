"""Append: a batch goes in as it came, and is durable before the answer."""

from __future__ import annotations

from time import perf_counter_ns

from hstreamlite.config import BATCH_RECORDS_MAX, CODEC_NAMES
from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.api.messages import append_answer, check_stream
from hstreamlite.net.api.served import Context, Served
from hstreamlite.net.encoded import Encoded
from hstreamlite.net.errors import Refused, Status

_FRAMING = 1024
"""Bytes of a batch beside its payload: far fewer."""
_CODECS = frozenset(pb.CompressionType.values())


class Appends(Served):
    async def Append(self, request: pb.AppendRequest, context: Context) -> Encoded:
        stream = request.streamName
        begin = perf_counter_ns()
        try:
            check_stream(stream)
            batch = request.records
            payload = batch.payload  # each look makes a copy
            records = self._check(batch, payload)
            first = await self.node.raw.append(
                stream,
                payload,
                shard_id=request.shardId,
                batch_size=records,
                compression=CODEC_NAMES[batch.compressionType],
            )
        except Exception as error:
            self.node.tally.append_failed(stream, error)
            raise
        self.node.tally.appended(stream, records, len(payload))
        answer = append_answer(stream, request.shardId, first.batch_id, records)
        self.node.tally.append_answered(perf_counter_ns() - begin)
        return answer

    def _check(self, batch: pb.BatchedRecord, payload: bytes) -> int:
        """Return how many records a batch says that it has; refused where it is none."""
        records = batch.batchSize
        if not records or not payload:
            raise Refused(
                Status.INVALID_ARGUMENT,
                pb.ErrorCode.StreamEmptyBatchedRecord,
                "An append needs a batch: records, their number and their payload.",
            )
        size = len(payload)
        limit = self.node.config.store_config.batch_bytes_max
        if size > limit - _FRAMING:  # to know exactly takes as long as to serialize it
            size = batch.ByteSize()
        if size > limit:
            raise Refused(
                Status.INVALID_ARGUMENT,
                pb.ErrorCode.StreamInvalidRecordSize,
                f"A batch of {size} bytes is over the limit of {limit}; append smaller ones.",
                size,
            )
        if records > BATCH_RECORDS_MAX:
            raise Refused(
                Status.INVALID_ARGUMENT,
                pb.ErrorCode.StreamInvalidRecordSize,
                f"A batch of {records} records is over the limit of {BATCH_RECORDS_MAX}.",
                size,
            )
        if batch.compressionType not in _CODECS:
            raise Refused(
                Status.INVALID_ARGUMENT,
                0,
                f"There is no type of compression {batch.compressionType}.",
            )
        return records
