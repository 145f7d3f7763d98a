"""Readers, called as the clients of HStreamDB call them."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import pytest

from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.server import Server
from tests.net.test_streams import append, create, group
from tests.net.wire import (
    EARLIEST,
    LATEST,
    Code,
    Status,
    at,
    at_time,
    batch,
    batch_of,
    payloads,
    record,
    refused,
    special,
)

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]
LONG = 100_000


async def make_reader(stub: Any, shard: int, name: str = "r", **fields: Any) -> Any:
    given = {"streamName": "s", "shardId": shard, "readerId": name}
    options = {"shardOffset": special(EARLIEST), "timeout": 0} | fields
    return await stub.CreateShardReader(pb.CreateShardReaderRequest(**given | options))


async def read(stub: Any, most: int = 100, name: str = "r") -> list[bytes]:
    answer = await stub.ReadShard(pb.ReadShardRequest(readerId=name, maxRecords=most))
    return [payload for received in answer.receivedRecords for payload in payloads(received)]


def shard_stream(stub: Any, shard: int, **fields: Any) -> Any:
    """Ask as the Java client does: without a stream's name."""
    given = {"readerId": "any", "shardId": shard, "from": special(EARLIEST)} | fields
    return stub.ReadShardStream(pb.ReadShardStreamRequest(**given))


def whole_stream(stub: Any, **fields: Any) -> Any:
    """Ask as the Go client does."""
    given = {"readerId": "any", "streamName": "s", "from": pb.StreamOffset(specialOffset=EARLIEST)}
    return stub.ReadStream(pb.ReadStreamRequest(**given | fields))


def single(stub: Any, **fields: Any) -> Any:
    given = {"readerId": "any", "streamName": "s", "from": special(EARLIEST)} | fields
    return stub.ReadSingleShardStream(pb.ReadSingleShardStreamRequest(**given))


async def waiters(server: Server, count: int) -> None:
    """Return when so many calls wait for something to happen."""
    while len(server.node._live) < count:  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(0)


async def taken(call: Any) -> list[bytes]:
    return [
        payload
        async for response in call
        for received in response.receivedRecords
        for payload in payloads(received)
    ]


async def test_a_reader_goes_on_where_it_was(stub: Any) -> None:
    [shard] = await create(stub)
    made = await make_reader(stub, shard.shardId, "0-uuid", timeout=7)
    assert made == pb.CreateShardReaderResponse(
        streamName="s",
        shardId=shard.shardId,
        shardOffset=special(EARLIEST),
        readerId="0-uuid",
        timeout=7,
    )
    assert await read(stub, name="0-uuid") == []
    for number in range(5):
        await append(stub, "s", shard.shardId, batch(b"%d" % number, b"+"))
    assert await read(stub, 2, name="0-uuid") == [b"0", b"+", b"1", b"+"]
    assert await read(stub, 0, name="0-uuid") == []
    assert await read(stub, 2**32 - 1, name="0-uuid") == [b"2", b"+", b"3", b"+", b"4", b"+"]
    assert await read(stub, name="0-uuid") == []
    await make_reader(stub, shard.shardId, "b", shardOffset=special(LATEST))
    assert await read(stub, name="b") == []
    listed = await stub.ListShardReaders(pb.ListShardReadersRequest())
    assert list(listed.readerId) == ["0-uuid", "b"]
    await stub.DeleteShardReader(pb.DeleteShardReaderRequest(readerId="b"))
    for call in (
        stub.ReadShard(pb.ReadShardRequest(readerId="b", maxRecords=1)),
        stub.DeleteShardReader(pb.DeleteShardReaderRequest(readerId="b")),
    ):
        with refused(Status.FAILED_PRECONDITION, 0) as told:
            await call
        assert told.extra == "ShardReaderNotExists"


async def test_a_read_that_waits_returns_as_soon_as_there_is_something(stub: Any) -> None:
    [shard] = await create(stub)
    await make_reader(stub, shard.shardId, timeout=LONG)
    reads = [asyncio.ensure_future(read(stub, 1)) for _ in range(3)]
    for number in range(3):
        await append(stub, "s", shard.shardId, batch(b"%d" % number))
    assert sorted(await asyncio.gather(*reads)) == [[b"0"], [b"1"], [b"2"]]


async def test_a_read_that_waits_ends_with_its_caller_its_reader_and_its_stream(
    stub: Any, server: Server
) -> None:
    [shard] = await create(stub)
    await make_reader(stub, shard.shardId, timeout=LONG)
    request = pb.ReadShardRequest(readerId="r", maxRecords=1)
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await stub.ReadShard(request, timeout=0.1)
    assert late.value.code() is Status.DEADLINE_EXCEEDED
    waiting = [asyncio.ensure_future(stub.ReadShard(request)) for _ in range(2)]
    await waiters(server, 2)
    await stub.DeleteShardReader(pb.DeleteShardReaderRequest(readerId="r"))
    for call in waiting:
        with refused(Status.FAILED_PRECONDITION, 0):
            await call
    await make_reader(stub, shard.shardId, timeout=LONG)
    call = asyncio.ensure_future(stub.ReadShard(request))
    await waiters(server, 1)
    await stub.DeleteStream(pb.DeleteStreamRequest(streamName="s"))
    with refused(Status.NOT_FOUND, Code.StreamNotFound):
        await call


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"readerId": ""}, Status.INVALID_ARGUMENT, Code.ShardReaderInvalidObjectIdentifier),
        ({"readerId": "a b"}, Status.INVALID_ARGUMENT, Code.ShardReaderInvalidObjectIdentifier),
        ({"readerId": "taken"}, Status.ALREADY_EXISTS, 0),
        ({"shardId": 0}, Status.NOT_FOUND, 0),
        ({"shardId": 2**64 - 1}, Status.NOT_FOUND, 0),
        ({"streamName": "none"}, Status.NOT_FOUND, Code.StreamNotFound),
        ({"shardOffset": None}, Status.INVALID_ARGUMENT, Code.StreamInvalidOffset),
        ({"shardOffset": special(9)}, Status.INVALID_ARGUMENT, Code.StreamInvalidOffset),
        (
            {"shardOffset": at(pb.RecordId(shardId=99, batchId=1))},
            Status.INVALID_ARGUMENT,
            Code.ShardReaderConflictOffset,
        ),
    ],
)
async def test_a_reader_that_cannot_be_is_refused(
    stub: Any, fields: dict[str, Any], status: Any, code: int
) -> None:
    [shard] = await create(stub)
    await make_reader(stub, shard.shardId, "taken")
    given = {
        "streamName": "s",
        "shardId": shard.shardId,
        "readerId": "r",
        "shardOffset": special(EARLIEST),
    }
    with refused(status, code):
        await stub.CreateShardReader(pb.CreateShardReaderRequest(**given | fields))
    listed = await stub.ListShardReaders(pb.ListShardReadersRequest())
    assert list(listed.readerId) == ["taken"]


async def test_reads_keep_to_their_ends(stub: Any) -> None:
    [shard] = await create(stub)
    number = shard.shardId
    ids = []
    for n in range(6):
        answer = await append(stub, "s", number, batch(b"%d" % n, b"+"))
        ids.append(answer.recordIds[1])
    everything = [each for n in range(6) for each in (b"%d" % n, b"+")]
    last = await shard_stream(stub, number, **{"from": at(ids[5]), "until": special(LATEST)}).read()
    time = last.receivedRecords[0].record.publishTime.ToMilliseconds()
    largest = pb.RecordId(shardId=number, batchId=2**64 - 1, batchIndex=2**32 - 1)
    asks: list[Any] = [partial(shard_stream, stub, number), partial(single, stub)]
    for start, until, expected in [
        (special(EARLIEST), special(LATEST), everything),
        (special(LATEST), special(LATEST), []),
        (at(ids[2]), at(ids[3]), everything[4:8]),
        (at(ids[2]), at(ids[2]), everything[4:6]),
        (special(EARLIEST), at(ids[0]), everything[:2]),
        (at_time(0), at_time(time), everything),
        (at_time(-(2**63)), at_time(2**63 - 1), everything),
        (at_time(time + 1), special(LATEST), []),
        (special(EARLIEST), at_time(1), []),
    ]:
        for ask in asks:
            assert await taken(ask(**{"from": start, "until": until})) == expected, (start, until)
    assert await taken(shard_stream(stub, number, maxReadBatches=2)) == everything[:4]
    assert await taken(whole_stream(stub, maxReadBatches=4)) == everything[:8]
    until = pb.StreamOffset(specialOffset=LATEST)
    assert await taken(whole_stream(stub, until=until)) == everything
    timed = {
        "from": pb.StreamOffset(timestampOffset=pb.TimestampOffset(timestampInMs=1)),
        "until": pb.StreamOffset(timestampOffset=pb.TimestampOffset(timestampInMs=time)),
    }
    assert await taken(whole_stream(stub, **timed)) == everything
    for start, until in [
        (at(ids[3]), at(ids[2])),
        (at_time(time), at_time(1)),
        (at(pb.RecordId(shardId=99, batchId=1)), special(LATEST)),
        (special(EARLIEST), at(pb.RecordId(shardId=99, batchId=1))),
        (at(largest), at(ids[0])),
    ]:
        for ask in asks:
            with refused(Status.INVALID_ARGUMENT, Code.ShardReaderConflictOffset):
                await taken(ask(**{"from": start, "until": until}))


async def test_a_stream_of_batches_follows_until_it_is_told_not_to(stub: Any) -> None:
    shards = await create(stub, shards=2)
    calls = [whole_stream(stub), shard_stream(stub, shards[0].shardId)]
    for number in range(3):
        await append(stub, "s", shards[0].shardId, batch(b"%d" % number))
        for call in calls:
            [received] = (await call.read()).receivedRecords
            assert payloads(received) == [b"%d" % number]
    calls[0].cancel()
    await stub.DeleteStream(pb.DeleteStreamRequest(streamName="s"))
    with refused(Status.NOT_FOUND, Code.StreamNotFound):
        await calls[1].read()


@pytest.mark.parametrize("offset", [None, pb.ShardOffset(), special(-1)])
async def test_a_read_from_nowhere_is_refused(stub: Any, offset: Any) -> None:
    [shard] = await create(stub)
    asks: list[Any] = [partial(shard_stream, stub, shard.shardId), partial(single, stub)]
    for ask in asks:
        with refused(Status.INVALID_ARGUMENT, Code.StreamInvalidOffset):
            await taken(ask(**{"from": offset}))
        if offset is not None:
            with refused(Status.INVALID_ARGUMENT, Code.StreamInvalidOffset):
                await taken(ask(until=offset))
    with refused(Status.INVALID_ARGUMENT, Code.StreamInvalidOffset):
        await taken(whole_stream(stub, **{"from": None}))
    for call in (whole_stream(stub, streamName="none"), single(stub, streamName="none")):
        with refused(Status.NOT_FOUND, Code.StreamNotFound):
            await taken(call)
    for call in (whole_stream(stub, streamName=""), single(stub, streamName="a b")):
        with refused(Status.INVALID_ARGUMENT, Code.StreamInvalidObjectIdentifier):
            await taken(call)
    with refused(Status.NOT_FOUND, 0):
        await taken(shard_stream(stub, 0))


async def test_one_shard_is_not_several(stub: Any) -> None:
    await create(stub, shards=2)
    with refused(Status.INVALID_ARGUMENT, Code.ShardReaderTooManyShards):
        await taken(single(stub))


async def test_answers_stay_below_what_clients_take(stub: Any) -> None:
    [shard] = await create(stub)
    number = shard.shardId
    tiny = pb.BatchedRecord(batchSize=100_000, payload=b"x")  # its ids take most of the answer
    large = [batch(b"x" * 1_000_000) for _ in range(5)]
    for each in (tiny, *large):
        await append(stub, "s", number, each)
    await make_reader(stub, number)
    # The receive limit of the stub is gRPC's own, as with every client: a larger answer would fail.
    request = pb.ReadShardRequest(readerId="r", maxRecords=100)
    counts = []
    while batches := (await stub.ReadShard(request)).receivedRecords:
        counts.append(len(batches))
    assert sum(counts) == 6
    until = special(LATEST)
    call = shard_stream(stub, number, until=until)
    assert sum([len(response.receivedRecords) async for response in call]) == 6


async def ask_by_key(
    stub: Any, key: str, *counts: int, **fields: Any
) -> tuple[list[pb.RecordId], list[pb.HStreamRecord]]:
    """Ask as the Java client does: later requests hold a count and nothing else."""

    async def requests() -> AsyncIterator[pb.ReadStreamByKeyRequest]:
        given = {"readerId": "any", "streamName": "s", "key": key, "from": special(EARLIEST)}
        first, *more = counts
        yield pb.ReadStreamByKeyRequest(readRecordCount=first, **given | fields)
        for count in more:
            yield pb.ReadStreamByKeyRequest(readRecordCount=count)

    ids: list[pb.RecordId] = []
    records: list[pb.HStreamRecord] = []
    async for response in stub.ReadStreamByKey(requests()):
        assert len(response.recordIds) == len(response.receivedRecords) > 0
        ids += response.recordIds
        records += response.receivedRecords
    return ids, records


async def test_a_key_is_read_alone_and_as_far_as_granted(stub: Any) -> None:
    shards = await create(stub, shards=4)
    place = group("mine", shards)
    sent, ids = [], []
    for number in range(10):
        records = [record(b"%d" % number, "mine"), record(b"not mine", "other")]
        records[0].header.attributes["n"] = str(number)
        records[0].header.flag = number % 2
        answer = await append(stub, "s", place, batch_of(records, codec=number % 2))
        sent.append(records[0])
        ids.append(answer.recordIds[0])
    await append(stub, "s", place, pb.BatchedRecord(batchSize=1, payload=b"\xff"))
    assert await ask_by_key(stub, "mine", 1000) == (ids, sent)
    assert await ask_by_key(stub, "mine", 3, 4) == (ids[:7], sent[:7])
    assert await ask_by_key(stub, "mine", 0, 0, 2) == (ids[:2], sent[:2])
    assert await ask_by_key(stub, "mine", 0) == ([], [])
    assert await ask_by_key(stub, "nobody's", 2**64 - 1) == ([], [])
    middle = {"from": at(ids[2]), "until": at(ids[4])}
    assert await ask_by_key(stub, "mine", 100, **middle) == (ids[2:5], sent[2:5])


async def test_grants_come_one_by_one_and_after_the_end(stub: Any) -> None:
    [shard] = await create(stub)
    for number in range(3):
        await append(stub, "s", shard.shardId, batch(b"%d" % number, key="k"))
    call = stub.ReadStreamByKey()
    await call.write(
        pb.ReadStreamByKeyRequest(
            **{"streamName": "s", "key": "k", "from": special(EARLIEST), "readRecordCount": 1}
        )
    )
    for number in range(3):
        [got] = (await call.read()).receivedRecords
        assert got.payload == b"%d" % number
        if number < 2:
            await call.write(pb.ReadStreamByKeyRequest(readRecordCount=1))
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is Status.OK


async def test_a_key_of_nothing(stub: Any) -> None:
    [shard] = await create(stub)
    assert await ask_by_key(stub, "", 5) == ([], [])
    await append(stub, "s", shard.shardId, pb.BatchedRecord(batchSize=1, payload=b"\x0a\x00"))
    _, [only] = await ask_by_key(stub, "", 5)
    assert only == pb.HStreamRecord()
    with refused(Status.NOT_FOUND, Code.StreamNotFound):
        await ask_by_key(stub, "k", 5, streamName="none")
    with refused(Status.INVALID_ARGUMENT, Code.StreamInvalidOffset):
        await ask_by_key(stub, "k", 5, **{"from": None})
    call = stub.ReadStreamByKey()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_large_records_of_a_key_are_sent_in_several_messages(stub: Any) -> None:
    [shard] = await create(stub)
    for _ in range(8):
        await append(stub, "s", shard.shardId, batch(b"x" * 1_000_000, key="k"))
    ids, records = await ask_by_key(stub, "k", 100)
    assert (len(ids), {len(each.payload) for each in records}) == (8, {1_000_000})


async def test_who_reads_without_end_is_told_when_the_server_stops(
    stub: Any, server: Server
) -> None:
    [shard] = await create(stub)
    await make_reader(stub, shard.shardId, timeout=LONG)
    following = shard_stream(stub, shard.shardId)
    await append(stub, "s", shard.shardId, batch(b"x"))
    await following.read()
    await read(stub)
    waiting = asyncio.ensure_future(read(stub))
    await waiters(server, 2)
    await server.stop()
    for call in (following.read(), waiting):
        with refused(Status.UNAVAILABLE, 0):
            await call
