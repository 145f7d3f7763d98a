"""Streams and appends, called as the clients of HStreamDB call them."""

import gzip
from hashlib import md5
from typing import Any

import pytest

from hstreamlite.config import BATCH_RECORDS_MAX
from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.server import Server
from tests.net.wire import (
    EARLIEST,
    LATEST,
    Code,
    Status,
    at,
    at_time,
    batch,
    payloads,
    refused,
    special,
)

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]
ODD_NAMES = ["", "1st", "a b", "a.b", "a\0b", "é" * 256, "x" * 256, "-a", "a/b", "\u202ea"]


async def create(stub: Any, name: str = "s", shards: int = 1, **options: Any) -> list[pb.Shard]:
    fields = {"replicationFactor": 1, "shardCount": shards} | options
    await stub.CreateStream(pb.Stream(streamName=name, **fields))
    listed = await stub.ListShards(pb.ListShardsRequest(streamName=name))
    return list(listed.shards)


async def append(stub: Any, name: str, shard: int, records: pb.BatchedRecord) -> pb.AppendResponse:
    request = pb.AppendRequest(streamName=name, shardId=shard, records=records)
    answer: pb.AppendResponse = await stub.Append(request)
    return answer


async def read_all(stub: Any, shard: int) -> list[bytes]:
    request = pb.ReadShardStreamRequest(
        **{"shardId": shard, "from": special(EARLIEST), "until": special(LATEST)}
    )
    return [
        payload
        async for response in stub.ReadShardStream(request)
        for received in response.receivedRecords
        for payload in payloads(received)
    ]


async def test_a_stream_is_told_as_it_was_made(stub: Any) -> None:
    asked = pb.Stream(
        streamName="Überraschung-1_", replicationFactor=3, backlogDuration=604800, shardCount=4
    )
    made = await stub.CreateStream(asked)
    assert made.creationTime.seconds > 1_600_000_000
    asked.creationTime.CopyFrom(made.creationTime)
    assert made == asked
    assert (await stub.GetStream(pb.GetStreamRequest(name=asked.streamName))).stream == made
    assert list((await stub.ListStreams(pb.ListStreamsRequest())).streams) == [made]
    await create(stub, "other", backlogDuration=2**32 - 1)
    for prefix, names in [("o", ["other"]), ("Über", [made.streamName]), ("x", [])]:
        request = pb.ListStreamsWithPrefixRequest(prefix=prefix)
        found = await stub.ListStreamsWithPrefix(request)
        assert [stream.streamName for stream in found.streams] == names


@pytest.mark.parametrize("count", [1, 2, 3, 8])
async def test_shards_cover_the_hash_space_as_clients_divide_it(stub: Any, count: int) -> None:
    shards = await create(stub, shards=count)
    step = (2**128 - 1) // count
    for number, shard in enumerate(shards):
        assert shard.startHashRangeKey == str(number * step)
        end = 2**128 - 1 if number == count - 1 else (number + 1) * step - 1
        assert shard.endHashRangeKey == str(end)
        assert shard.isActive
        assert shard.streamName == "s"
        assert 1 <= shard.shardId < 2**63
    assert len({shard.shardId for shard in shards}) == count


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        *[({"streamName": name}, Code.StreamInvalidObjectIdentifier) for name in ODD_NAMES],
        ({"replicationFactor": 0}, Code.StreamInvalidReplicaFactor),
        ({"shardCount": 0}, Code.StreamInvalidShardCount),
        ({"shardCount": 257}, Code.StreamInvalidShardCount),
        ({"shardCount": 2**32 - 1}, Code.StreamInvalidShardCount),
    ],
)
async def test_a_stream_that_cannot_be_is_refused(
    stub: Any, fields: dict[str, Any], code: int
) -> None:
    right = {"streamName": "s", "replicationFactor": 1, "shardCount": 1}
    with refused(Status.INVALID_ARGUMENT, code):
        await stub.CreateStream(pb.Stream(**right | fields))
    assert not (await stub.ListStreams(pb.ListStreamsRequest())).streams


async def test_what_is_not_there_is_told_by_name(stub: Any) -> None:
    for call in (
        stub.GetStream(pb.GetStreamRequest(name="none")),
        stub.ListShards(pb.ListShardsRequest(streamName="none")),
        stub.DeleteStream(pb.DeleteStreamRequest(streamName="none")),
        stub.TrimShards(pb.TrimShardsRequest(streamName="none", recordIds=["1-1-0"])),
        stub.TrimStream(
            pb.TrimStreamRequest(streamName="none", trimPoint=pb.StreamOffset(specialOffset=LATEST))
        ),
        append(stub, "none", 1, batch(b"x")),
    ):
        with refused(Status.NOT_FOUND, Code.StreamNotFound) as told:
            await call
        assert told.extra == "none"
    await stub.DeleteStream(pb.DeleteStreamRequest(streamName="none", ignoreNonExist=True))
    await create(stub)
    with refused(Status.ALREADY_EXISTS, Code.StreamExists) as told:
        await create(stub)
    assert told.extra == "s"


async def test_a_batch_is_stored_as_it_came_under_ids_in_its_order(stub: Any) -> None:
    [shard] = await create(stub)
    sent = [batch(b"a", b"", b"c", key="k"), batch(b"d", codec=1), batch(b"e" * 1000, b"f")]
    answers = [await append(stub, "s", shard.shardId, each) for each in sent]
    batches = []
    for answer, each in zip(answers, sent, strict=True):
        assert (answer.streamName, answer.shardId) == ("s", shard.shardId)
        assert [one.batchIndex for one in answer.recordIds] == list(range(each.batchSize))
        [only] = {(one.shardId, one.batchId) for one in answer.recordIds}
        assert only[0] == shard.shardId
        batches.append(only[1])
    assert batches == sorted(set(batches))
    assert batches[0] >= 1
    request = pb.ReadShardStreamRequest(
        **{"shardId": shard.shardId, "from": special(EARLIEST), "until": special(LATEST)}
    )
    got = [r async for response in stub.ReadShardStream(request) for r in response.receivedRecords]
    for received, answer, each in zip(got, answers, sent, strict=True):
        assert list(received.recordIds) == list(answer.recordIds)
        assert received.record.payload == each.payload
        assert received.record.compressionType == each.compressionType
        assert received.record.batchSize == each.batchSize
        assert received.record.publishTime.seconds > 1_600_000_000


async def test_the_time_of_publication_is_the_servers(stub: Any) -> None:
    [shard] = await create(stub)
    sent = batch(b"x")
    sent.publishTime.seconds = 12345
    await append(stub, "s", shard.shardId, sent)
    request = pb.ReadShardStreamRequest(
        **{"shardId": shard.shardId, "from": special(EARLIEST), "maxReadBatches": 1}
    )
    [response] = [each async for each in stub.ReadShardStream(request)]
    assert response.receivedRecords[0].record.publishTime.seconds > 1_600_000_000


async def test_bytes_that_are_no_batch_pass_through(stub: Any) -> None:
    [shard] = await create(stub)
    flushed = gzip.compress(b"no end")[:-8]
    for payload, codec in [(b"\xff\xff", 0), (flushed, 1), (b"no zstd", 2)]:
        sent = pb.BatchedRecord(compressionType=codec, batchSize=3, payload=payload)
        answer = await append(stub, "s", shard.shardId, sent)
        assert len(answer.recordIds) == 3
    request = pb.ReadShardStreamRequest(
        **{"shardId": shard.shardId, "from": special(EARLIEST), "maxReadBatches": 3}
    )
    got = [
        received.record.payload
        async for response in stub.ReadShardStream(request)
        for received in response.receivedRecords
    ]
    assert got == [b"\xff\xff", flushed, b"no zstd"]


async def test_an_append_that_cannot_be_is_refused_and_stores_nothing(
    stub: Any, server: Server
) -> None:
    [shard] = await create(stub)
    [other] = await create(stub, "other")
    limit = server.config.store_config.batch_bytes_max
    refusals = [
        (pb.AppendRequest(), 204),
        (pb.AppendRequest(streamName="s"), 206),
        (pb.AppendRequest(streamName="s", shardId=shard.shardId), 206),
        (
            pb.AppendRequest(
                streamName="s", shardId=shard.shardId, records=pb.BatchedRecord(payload=b"x")
            ),
            206,
        ),
        (
            pb.AppendRequest(
                streamName="s", shardId=shard.shardId, records=pb.BatchedRecord(batchSize=1)
            ),
            206,
        ),
        (
            pb.AppendRequest(
                streamName="s",
                shardId=shard.shardId,
                records=pb.BatchedRecord(batchSize=BATCH_RECORDS_MAX + 1, payload=b"x"),
            ),
            207,
        ),
        (
            pb.AppendRequest(
                streamName="s",
                shardId=shard.shardId,
                records=pb.BatchedRecord(compressionType=3, batchSize=1, payload=b"x"),
            ),
            0,
        ),
    ]
    for request, code in refusals:
        with refused(Status.INVALID_ARGUMENT, code):
            await stub.Append(request)
    for size in (limit, 4 << 20):
        large = batch(b"x" * size)
        with refused(Status.INVALID_ARGUMENT, Code.StreamInvalidRecordSize) as told:
            await append(stub, "s", shard.shardId, large)
        assert told.extra == large.ByteSize()
    for unknown in (0, other.shardId, 2**63, 2**64 - 1):
        with refused(Status.NOT_FOUND, 0):
            await append(stub, "s", unknown, batch(b"x"))
    assert await read_all(stub, shard.shardId) == []
    largest = batch(b"x" * (limit - 20))
    assert largest.ByteSize() <= limit
    await append(stub, "s", shard.shardId, largest)
    assert len(await read_all(stub, shard.shardId)) == 1


async def test_the_tail_is_the_last_batch(stub: Any) -> None:
    first, second = await create(stub, shards=2)

    async def tail(shard: int, stream: str = "s") -> pb.RecordId:
        request = pb.GetTailRecordIdRequest(streamName=stream, shardId=shard)
        answer: pb.GetTailRecordIdResponse = await stub.GetTailRecordId(request)
        return answer.tailRecordId

    assert await tail(first.shardId) == pb.RecordId(shardId=first.shardId)
    for _ in range(2):
        answer = await append(stub, "s", first.shardId, batch(b"a", b"b"))
    assert await tail(first.shardId) == answer.recordIds[0]
    assert (await tail(second.shardId)).batchId == 0
    with refused(Status.NOT_FOUND, 0):
        await tail(12345)


def group(key: str, shards: list[pb.Shard]) -> int:
    """Find the shard of a key as the Python and Java clients do."""
    place = int.from_bytes(md5(key.encode()).digest(), "big")
    for shard in shards:
        if int(shard.startHashRangeKey) <= place <= int(shard.endHashRangeKey):
            return shard.shardId
    raise AssertionError(key)


async def test_embedded_code_reads_what_the_wire_wrote_and_the_other_way_round(
    stub: Any, server: Server
) -> None:
    shards = await create(stub, shards=4)
    for number in range(20):
        key = f"key-{number}"
        await append(stub, "s", group(key, shards), batch(b"%d" % number, key=key))
    stream = server.node.store.stream("s")
    records = [record async for record in stream.read(follow=False)]
    assert [(r.key, r.payload) for r in records] == [
        (f"key-{number}", b"%d" % number) for number in range(20)
    ]
    record_id = await stream.append(b"embedded", key="key-3")
    assert record_id.shard_id == group("key-3", shards)
    assert (await read_all(stub, record_id.shard_id))[-1] == b"embedded"


async def test_trims_cut_as_far_as_they_say(stub: Any) -> None:
    shards = [shard.shardId for shard in await create(stub, shards=2)]
    ids: dict[int, list[pb.RecordId]] = {shard: [] for shard in shards}
    for number in range(6):
        for shard in shards:
            answer = await append(stub, "s", shard, batch(b"%d" % number, b"+"))
            ids[shard].append(answer.recordIds[1])

    async def left() -> list[int]:
        return [len(await read_all(stub, shard)) // 2 for shard in shards]

    def text(record_id: pb.RecordId) -> str:
        return f"{record_id.shardId}-{record_id.batchId}-{record_id.batchIndex}"

    one, two = shards
    assert (await stub.TrimShards(pb.TrimShardsRequest(streamName="s"))).trimPoints == {}
    request = pb.TrimShardsRequest(
        streamName="s",
        recordIds=[text(ids[one][3]), text(ids[one][1]), text(ids[two][2]), f"{two}-0-0"],
    )
    points = (await stub.TrimShards(request)).trimPoints
    assert dict(points) == {one: text(ids[one][1]), two: text(ids[two][2])}
    assert await left() == [5, 4]
    await stub.TrimShard(
        pb.TrimShardRequest(streamName="s", shardId=one, trimPoint=at(ids[one][1]))
    )
    assert await left() == [4, 4]
    await stub.TrimShard(
        pb.TrimShardRequest(streamName="s", shardId=one, trimPoint=special(EARLIEST))
    )
    await stub.TrimStream(
        pb.TrimStreamRequest(streamName="s", trimPoint=pb.StreamOffset(specialOffset=EARLIEST))
    )
    assert await left() == [4, 4]
    await stub.TrimShard(pb.TrimShardRequest(streamName="s", shardId=one, trimPoint=at_time(1)))
    assert await left() == [4, 4]
    await stub.TrimStream(
        pb.TrimStreamRequest(streamName="s", trimPoint=pb.StreamOffset(specialOffset=LATEST))
    )
    assert await left() == [0, 0]
    answer = await append(stub, "s", one, batch(b"new"))
    assert answer.recordIds[0].batchId > ids[one][-1].batchId
    assert await read_all(stub, one) == [b"new"]


async def test_trims_that_name_no_place_are_refused(stub: Any) -> None:
    [shard] = await create(stub)
    [other] = await create(stub, "other")
    answer = await append(stub, "s", shard.shardId, batch(b"x"))
    beyond = answer.recordIds[0].batchId + 1
    trims = [
        (["x"], Code.StreamInvalidRecordId),
        ([""], Code.StreamInvalidRecordId),
        ([f"{shard.shardId}-1"], Code.StreamInvalidRecordId),
        ([f"{shard.shardId}-{beyond}-0"], Code.StreamInvalidRecordId),
        ([f"{shard.shardId}-{2**63 - 1}-0"], Code.StreamInvalidRecordId),
        ([f"{shard.shardId}-{2**80}-0"], Code.StreamInvalidRecordId),
        ([f"{shard.shardId}-1-{2**40}"], Code.StreamInvalidRecordId),
        ([f"{other.shardId}-1-0"], Code.StreamShardNotExists),
        ([f"{shard.shardId}-1-0", "99-1-0"], Code.StreamShardNotExists),
    ]
    for texts, code in trims:
        with refused(Status.INVALID_ARGUMENT, code):
            await stub.TrimShards(pb.TrimShardsRequest(streamName="s", recordIds=texts))
    for point in (pb.ShardOffset(), special(7)):
        with refused(Status.INVALID_ARGUMENT, Code.StreamInvalidOffset):
            await stub.TrimShard(
                pb.TrimShardRequest(streamName="s", shardId=shard.shardId, trimPoint=point)
            )
    for stream_point in (None, pb.StreamOffset(), pb.StreamOffset(specialOffset=7)):
        with refused(Status.INVALID_ARGUMENT, Code.StreamInvalidOffset):
            await stub.TrimStream(pb.TrimStreamRequest(streamName="s", trimPoint=stream_point))
    with refused(Status.NOT_FOUND, 0):
        await stub.TrimShard(
            pb.TrimShardRequest(streamName="s", shardId=other.shardId, trimPoint=special(LATEST))
        )
    assert await read_all(stub, shard.shardId) == [b"x"]


async def test_a_deleted_streams_name_is_free_at_once(stub: Any) -> None:
    [before] = await create(stub)
    await append(stub, "s", before.shardId, batch(b"old"))
    await stub.DeleteStream(pb.DeleteStreamRequest(streamName="s"))
    assert not (await stub.ListStreams(pb.ListStreamsRequest())).streams
    [after] = await create(stub)
    assert after.shardId != before.shardId
    assert await read_all(stub, after.shardId) == []
    with refused(Status.NOT_FOUND, 0):
        await append(stub, "s", before.shardId, batch(b"late"))
