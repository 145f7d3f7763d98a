"""Between the protocol's messages and the store's values: names, times, places, batches."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from hstreamlite._native import fast
from hstreamlite.aio.raw import Point, RawDelivery, Time
from hstreamlite.config import CODECS
from hstreamlite.log.catalog import StreamState
from hstreamlite.log.reader import Batch
from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.encoded import Encoded
from hstreamlite.net.errors import Refused, Status
from hstreamlite.place import EARLIEST, LATEST
from hstreamlite.records import RecordId

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

RecordIds: TypeAlias = "RepeatedCompositeFieldContainer[pb.RecordId]"
Received: TypeAlias = "RepeatedCompositeFieldContainer[pb.ReceivedRecord]"

NAME_MAX = 255
BATCH_ID_MAX = 2**63 - 1
RESPONSE_BYTES_MAX = 3 << 20
"""Clients take messages of up to 4 MiB; ids and framing come on top of this."""
_SPECIAL = {pb.SpecialOffset.EARLIEST: EARLIEST, pb.SpecialOffset.LATEST: LATEST}


def check_name(kind: str, code: int, name: str, *, first: bool = True) -> str:
    """Return a name that keeps HStreamDB's rule; refused with the code if it does not."""
    if not 1 <= len(name) <= NAME_MAX:
        why = f"it must have 1 to {NAME_MAX} characters, not {len(name)}"
    elif first and not name[0].isalpha():
        why = "it must begin with a letter"
    elif not all(character.isalnum() or character in "-_" for character in name):
        why = "it may hold letters, digits, - and _ only"
    else:
        return name
    raise Refused(
        Status.INVALID_ARGUMENT, code, f"{name[:NAME_MAX]!r} is no name of a {kind}: {why}."
    )


@lru_cache(maxsize=1024)
def check_stream(name: str) -> str:
    return check_name("stream", pb.ErrorCode.StreamInvalidObjectIdentifier, name)


def check_subscription(name: str) -> str:
    return check_name("subscription", pb.ErrorCode.SubscriptionInvalidObjectIdentifier, name)


def timestamp(ms: int) -> Timestamp:
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)


def stream_message(state: StreamState) -> pb.Stream:
    return pb.Stream(
        streamName=state.name,
        replicationFactor=state.replication,
        backlogDuration=-int(-state.backlog // 1),
        shardCount=len(state.shard_ids),
        creationTime=timestamp(state.created_ms),
    )


def point_of(offset: pb.ShardOffset | pb.StreamOffset, *, shard: int | None = None) -> Point:
    """Return the place that an offset names; refused with 208 where it names none.

    Of a record id only its batch counts.
    """
    kind = offset.WhichOneof("offset")
    if kind == "specialOffset" and offset.specialOffset in _SPECIAL:
        return _SPECIAL[offset.specialOffset]
    if kind == "timestampOffset":
        return Time(offset.timestampOffset.timestampInMs)
    if isinstance(offset, pb.ShardOffset) and kind == "recordOffset":
        record = offset.recordOffset
        if shard is not None and record.shardId != shard:
            raise Refused(
                Status.INVALID_ARGUMENT,
                pb.ErrorCode.ShardReaderConflictOffset,
                f"Record {record.shardId}-{record.batchId} is not one of shard {shard}.",
            )
        return RecordId(record.shardId, min(record.batchId, BATCH_ID_MAX), 0)
    why = "it is not set" if kind is None else f"there is no {kind} {offset.specialOffset}"
    raise Refused(
        Status.INVALID_ARGUMENT,
        pb.ErrorCode.StreamInvalidOffset,
        f"The offset names no place: {why}.",
    )


def add_ids(ids: RecordIds, shard_id: int, batch_id: int, indexes: Iterable[int]) -> None:
    add = ids.add
    for index in indexes:
        add(shardId=shard_id, batchId=batch_id, batchIndex=index)


def add_batch(received: Received, batch: Batch) -> None:
    """Append a stored batch, whole and as it came."""
    message = received.add()
    add_ids(message.recordIds, batch.shard_id, batch.batch_id, range(batch.size))
    fill_record(message.record, batch.compression, batch.append_time_ms, batch.size, batch.payload)


def append_answer(stream: str, shard_id: int, batch_id: int, records: int) -> Encoded:
    return Encoded(pb.AppendResponse, fast.append_answer(stream, shard_id, batch_id, records))


def delivery_message(delivery: RawDelivery) -> Encoded:
    indexes = delivery.indexes
    raw = fast.delivery(
        delivery.shard_id,
        delivery.batch_id,
        len(indexes) if delivery.whole else tuple(indexes),
        CODECS[delivery.compression],
        delivery.publish_time_ms,
        delivery.payload,
    )
    return Encoded(pb.StreamingFetchResponse, raw)


def fill_record(
    record: pb.BatchedRecord, compression: str, publish_ms: int, size: int, payload: bytes
) -> None:
    record.compressionType = pb.CompressionType.ValueType(CODECS[compression])
    record.publishTime.seconds, rest = divmod(publish_ms, 1000)
    record.publishTime.nanos = rest * 1_000_000
    record.batchSize = size
    record.payload = payload
