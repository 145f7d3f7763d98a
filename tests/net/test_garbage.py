"""Requests of random and of damaged bytes, for every call: none ends or blocks the server."""

import random
import zlib
from pathlib import Path
from typing import Any

import grpc
import pytest
from backports import zstd
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from hstreamlite.errors import MalformedBatch
from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.config import ServerConfig
from hstreamlite.net.hstream_pb2_grpc import HStreamApiStub
from hstreamlite.net.server import Server
from tests.net.access.test_needs import METHODS

pytestmark = pytest.mark.unsanitized("gRPC's own core is no build of ours")

ROUNDS = 12
SECONDS = 0.1
"""What waits for more by its nature is left after so long."""


def filled(kind: type[Message], rng: random.Random, depth: int = 0) -> Message:
    """Return a message whose fields hold values from the edge of what they may."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        if rng.random() < 0.2 or depth > 3:
            continue
        for _ in range(rng.choice((0, 1, 3)) if field.is_repeated else 1):
            _put(message, field, rng, depth)
    return message


def _put(message: Any, field: FieldDescriptor, rng: random.Random, depth: int) -> None:
    nested = field.message_type
    if nested is not None:
        if nested.GetOptions().map_entry or nested.full_name.startswith("google.protobuf.Struct"):
            return
        inner = filled(GetMessageClass(nested), rng, depth + 1)
        if field.is_repeated:
            getattr(message, field.name).append(inner)
        else:
            getattr(message, field.name).CopyFrom(inner)
        return
    values: dict[int, tuple[object, ...]] = {
        FieldDescriptor.CPPTYPE_STRING: ("orders", "", "x" * 300, "1-1-0", "é-1", "\0", "-1-2-3"),
        FieldDescriptor.CPPTYPE_UINT64: (0, 1, 7, 2**63, 2**64 - 1, (1 << 40) + 1),
        FieldDescriptor.CPPTYPE_INT64: (0, 1, -1, 2**63 - 1, -(2**63)),
        FieldDescriptor.CPPTYPE_UINT32: (0, 1, 2**32 - 1),
        FieldDescriptor.CPPTYPE_INT32: (0, 1, -1, 2**31 - 1),
        FieldDescriptor.CPPTYPE_DOUBLE: (0.0, -1.0, 1e308, float("inf"), float("nan")),
        FieldDescriptor.CPPTYPE_BOOL: (True,),
        FieldDescriptor.CPPTYPE_ENUM: (0, 1, 99),
    }
    if field.type == FieldDescriptor.TYPE_BYTES:
        value: object = rng.randbytes(rng.choice((0, 1, 40)))
    else:
        value = rng.choice(values[field.cpp_type])
    if field.is_repeated:
        getattr(message, field.name).append(value)
    else:
        setattr(message, field.name, value)


def damaged(raw: bytes, rng: random.Random) -> bytes:
    """Return bytes with some of them changed, left out, or put in."""
    body = bytearray(raw)
    for _ in range(rng.randrange(1, 4)):
        place = rng.randrange(len(body) + 1)
        match rng.randrange(3):
            case 0 if place < len(body):
                body[place] = rng.randrange(256)
            case 1:
                del body[place : place + rng.randrange(1, 5)]
            case _:
                body[place:place] = rng.randbytes(rng.randrange(1, 5))
    return bytes(body)


def bodies(method: MethodDescriptor, rng: random.Random) -> list[bytes]:
    kind = GetMessageClass(method.input_type)
    found = [b"", b"\xff" * 20, rng.randbytes(100)]
    for _ in range(ROUNDS):
        raw = filled(kind, rng).SerializeToString()
        found += [raw, damaged(raw, rng)]
    return found


async def outcome(
    channel: grpc.aio.Channel, method: MethodDescriptor, sent: list[bytes]
) -> tuple[grpc.StatusCode, str]:
    path = f"/{method.containing_service.full_name}/{method.name}"
    try:
        if method.client_streaming:
            call: Any = channel.stream_stream(path)(iter(sent), timeout=SECONDS)
        else:
            call = channel.unary_stream(path)(sent[0], timeout=SECONDS)
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


@pytest.mark.asyncio
async def test_no_request_ends_the_server_or_meets_a_mistake_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = ServerConfig(store=str(tmp_path / "store"), port=0)
    rng = random.Random(20261122)
    async with (
        Server(config) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        await server.node.store.create_stream("orders")
        failed = []
        for parameter in METHODS:
            method: Any = parameter.values[0]
            every = bodies(method, rng)
            for index, raw in enumerate(every):
                sent = [raw, *every[:index:3]] if method.client_streaming else [raw]
                caplog.clear()
                code, detail = await outcome(channel, method, sent)
                if code is grpc.StatusCode.UNKNOWN or mistakes(caplog):
                    failed.append((method.full_name, raw, detail, caplog.text[-1500:]))
            echo = await HStreamApiStub(channel).Echo(pb.EchoRequest(msg=method.name), timeout=30)
            assert echo.msg == method.name
        assert not failed, f"{len(failed)}: " + "\n".join(map(str, failed[:5]))


def mistakes(caplog: pytest.LogCaptureFixture) -> bool:
    """Tell whether the server logged an error that nobody foresaw."""
    return any(
        record.name.startswith("hstreamlite")
        and record.levelname == "ERROR"
        and "Method not implemented" not in record.getMessage()
        for record in caplog.records
    )


BOMB = 512 << 20
"""Bytes of zeros, packed into a payload that a batch may have."""


def packed(codec: int) -> bytes:
    piece = bytes(1 << 20)
    if codec == pb.CompressionType.Gzip:
        packer = zlib.compressobj(6, wbits=31)
        return b"".join([packer.compress(piece) for _ in range(BOMB >> 20)] + [packer.flush()])
    compressor = zstd.ZstdCompressor(level=3)
    return b"".join([compressor.compress(piece) for _ in range(BOMB >> 20)] + [compressor.flush()])


@pytest.mark.asyncio
@pytest.mark.parametrize("codec", [pb.CompressionType.Gzip, pb.CompressionType.Zstd])
async def test_a_payload_that_unpacks_to_much_takes_bounded_memory(
    tmp_path: Path, codec: int
) -> None:
    config = ServerConfig(store=str(tmp_path / "store"), port=0)
    payload = packed(codec)[:1_000_000]
    async with (
        Server(config) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = HStreamApiStub(channel)
        await server.node.store.create_stream("orders")
        shard = server.node.raw.stream("orders").shard_ids[0]
        batch = pb.BatchedRecord(compressionType=codec, batchSize=1, payload=payload)
        before = peak()
        asked = pb.AppendRequest(streamName="orders", shardId=shard, records=batch)
        await stub.Append(asked, timeout=30)
        wanted = pb.ReadStreamByKeyRequest(streamName="orders", key="k", readRecordCount=1)
        getattr(wanted, "from").specialOffset = 0
        call = stub.ReadStreamByKey(iter([wanted]), timeout=30)
        assert not [record async for answer in call for record in answer.receivedRecords]
        with pytest.raises(MalformedBatch):
            async for _ in server.node.store.stream("orders").read():
                pass
        assert peak() - before < 256 << 20
        assert (await stub.Echo(pb.EchoRequest(msg="a"), timeout=30)).msg == "a"


def peak() -> int:
    """Return the most bytes that this process had in memory."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) << 10
