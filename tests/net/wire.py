"""What tests of the wire share: a server's settings, batches as clients make them, refusals."""

import gzip
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.config import ServerConfig

Status = grpc.StatusCode
Code = pb.ErrorCode
EARLIEST = pb.SpecialOffset.EARLIEST
LATEST = pb.SpecialOffset.LATEST


def config(path: Path, **options: object) -> ServerConfig:
    return ServerConfig(**{"store": str(path / "store"), "port": 0, "http": False} | options)


def record(payload: bytes, key: str = "") -> pb.HStreamRecord:
    header = pb.HStreamRecordHeader(flag=pb.HStreamRecordHeader.RAW, key=key)
    return pb.HStreamRecord(header=header, payload=payload)


def batch(*payloads: bytes, key: str = "", codec: int = 0) -> pb.BatchedRecord:
    return batch_of([record(payload, key) for payload in payloads], codec)


def batch_of(records: Iterable[pb.HStreamRecord], codec: int = 0) -> pb.BatchedRecord:
    made = pb.BatchHStreamRecords(records=records)
    body = made.SerializeToString()
    return pb.BatchedRecord(
        compressionType=codec,
        batchSize=len(made.records),
        payload=gzip.compress(body) if codec == 1 else body,
    )


def payloads(received: pb.ReceivedRecord) -> list[bytes]:
    """Decode as clients do, and hold that numbers agree."""
    body = received.record.payload
    if received.record.compressionType == pb.CompressionType.Gzip:
        body = gzip.decompress(body)
    records = pb.BatchHStreamRecords.FromString(body).records
    assert len(records) == received.record.batchSize == len(received.recordIds)
    return [record.payload for record in records]


def special(offset: int) -> pb.ShardOffset:
    return pb.ShardOffset(specialOffset=offset)


def at(record_id: pb.RecordId) -> pb.ShardOffset:
    return pb.ShardOffset(recordOffset=record_id)


def at_time(ms: int) -> pb.ShardOffset:
    return pb.ShardOffset(timestampOffset=pb.TimestampOffset(timestampInMs=ms))


@dataclass
class Refusal:
    message: str = ""
    extra: object = None


@contextmanager
def refused(status: grpc.StatusCode, code: int) -> Iterator[Refusal]:
    """Hold that the call in the block ends with this status, and a detail as clients parse it."""
    told = Refusal()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield told
    text = caught.value.details() or ""
    assert caught.value.code() is status, text
    detail = json.loads(text)
    assert set(detail) == {"error", "message", "extra"}
    assert detail["error"] == code, text
    assert detail["message"]
    assert "Traceback" not in text
    told.message, told.extra = detail["message"], detail["extra"]
