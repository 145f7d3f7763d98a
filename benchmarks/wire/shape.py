"""The batches that go over the wire."""

from __future__ import annotations

from collections.abc import Sequence

from hstreamlite.net import hstream_pb2 as pb

RECORDS = 100
SIZE = 1024
SHARD = 1
BATCH = RECORDS * 1100
"""Bytes that a batch takes on the wire, roughly."""


def batched(payloads: Sequence[bytes]) -> pb.BatchedRecord:
    """Return a batch as HStreamDB's clients make it."""
    header = pb.HStreamRecordHeader(flag=pb.HStreamRecordHeader.RAW)
    records = [pb.HStreamRecord(header=header, payload=payload) for payload in payloads]
    body = pb.BatchHStreamRecords(records=records).SerializeToString()
    return pb.BatchedRecord(batchSize=len(payloads), payload=body)


def ids(batch_id: int, records: int) -> list[pb.RecordId]:
    """Return the ids of a batch's records."""
    return [
        pb.RecordId(shardId=SHARD, batchId=batch_id, batchIndex=index) for index in range(records)
    ]
