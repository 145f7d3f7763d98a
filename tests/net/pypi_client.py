"""The package hstreamdb from PyPI against a server, in a process of its own.

``python pypi_client.py HOST:PORT`` calls all that it offers and asserts what it should see.
"""

import asyncio
import sys
from typing import Any

import grpc
from hstreamdb import (  # type: ignore[attr-defined]
    BufferedProducer,
    ShardOffset,
    SpecialOffset,
    insecure_client,
)
from hstreamdb.utils import find_shard_id

GUARD = 60


async def fails(call: Any, code: grpc.StatusCode) -> None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        assert error.code() is code, error
    else:
        raise AssertionError(f"no {code}")


async def streams(client: Any) -> None:
    await client.create_stream("made", replication_factor=3, backlog=86400, shard_count=8)
    assert [(s.name, s.replication_factor) for s in await client.list_streams()] == [("made", 3)]
    assert len(await client.list_shards("made")) == 8
    await fails(client.create_stream("made"), grpc.StatusCode.ALREADY_EXISTS)
    await fails(client.create_stream("1"), grpc.StatusCode.INVALID_ARGUMENT)
    await fails(client.create_stream("x", shard_count=0), grpc.StatusCode.INVALID_ARGUMENT)
    await fails(client.create_stream("x", replication_factor=0), grpc.StatusCode.INVALID_ARGUMENT)
    await fails(client.list_shards("none"), grpc.StatusCode.NOT_FOUND)
    await fails(client.append("none", [b"x"]), grpc.StatusCode.NOT_FOUND)
    await fails(client.delete_stream("none"), grpc.StatusCode.NOT_FOUND)
    await client.delete_stream("none", ignore_non_exist=True)
    await client.delete_stream("made")
    assert list(await client.list_streams()) == []


async def appends(client: Any) -> None:
    await client.create_stream("appended", shard_count=4)
    for compression in (None, "gzip"):
        ids = list(
            await client.append(
                "appended", [b"bytes", "text", {"n": 1.5}], key="k", compresstype=compression
            )
        )
        assert [one.batch_index for one in ids] == [0, 1, 2]
        assert len({(one.shard_id, one.batch_id) for one in ids}) == 1
    await fails(client.append("appended", []), grpc.StatusCode.INVALID_ARGUMENT)
    await fails(client.append("appended", [b"x" * (1 << 20)]), grpc.StatusCode.INVALID_ARGUMENT)
    await client.append("appended", [b"x" * ((1 << 20) - 100)])


class Counting(BufferedProducer.AppendCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.good = self.bad = 0

    def on_success(self, stream_name: str, payloads: list[Any], stream_keyid: int) -> None:
        self.good += len(payloads)

    def on_fail(
        self, stream_name: str, payloads: list[Any], stream_keyid: int, e: Exception
    ) -> None:
        self.bad += len(payloads)


async def producers(client: Any) -> None:
    await client.create_stream("produced", shard_count=4)
    told = Counting()
    producer = client.new_producer(append_callback=told, size_trigger=100, workers=2)
    for number in range(100):
        await producer.append("produced", b"%02d" % number, key=f"key-{number % 10}")
    await producer.append("produced", {"last": True}, key="key-0")
    await producer.flush_by_key("produced", "key-0")
    await producer.wait_and_close()
    assert (told.good, told.bad) == (101, 0)


async def read_stream(client: Any, stream: str) -> list[Any]:
    records: list[Any] = []
    for shard in await client.list_shards(stream):
        offset = ShardOffset(specialOffset=SpecialOffset.EARLIEST)
        async with client.with_reader(
            stream, f"reader-{shard.id}", offset, 0, shard_id=shard.id
        ) as reader:
            while found := list(await reader.read(10)):
                records += found
    return records


async def readers(client: Any) -> None:
    records = await read_stream(client, "produced")
    by_key: dict[str, list[Any]] = {}
    for record in records:
        by_key.setdefault(record.header.key, []).append(record.payload)
        assert record.header.publish_time.seconds > 1_600_000_000
    assert by_key.pop("key-0") == [b"%02d" % n for n in range(0, 100, 10)] + [{"last": True}]
    assert by_key == {f"key-{k}": [b"%02d" % n for n in range(k, 100, 10)] for k in range(1, 10)}
    shard = find_shard_id(await client.list_shards("produced"), key="key-1")
    one = next(record for record in records if record.id.shard_id == shard)
    from_record = ShardOffset()
    from_record.recordOffset.shardId = one.id.shard_id
    from_record.recordOffset.batchId = one.id.batch_id
    await client.create_reader("produced", "again", from_record, 100, stream_key="key-1")
    [first, *_] = await client.read_reader("again", 1)
    assert first.id == one.id
    await fails(
        client.create_reader("produced", "again", from_record, 100, stream_key="key-1"),
        grpc.StatusCode.ALREADY_EXISTS,
    )
    await client.delete_reader("again")
    await fails(client.read_reader("again", 1), grpc.StatusCode.FAILED_PRECONDITION)
    await fails(client.delete_reader("again"), grpc.StatusCode.FAILED_PRECONDITION)


async def consume(client: Any, name: str, subscription: str, wanted: set[bytes]) -> list[Any]:
    """Take records and ack them, and leave when it has those.

    Acks that are queued when the client stops are lost with it: what they were of comes again.
    """
    got: list[Any] = []

    async def process(ack: Any, stop: Any, records: Any) -> None:
        new = list(records)
        got.extend(new)
        await ack(record.id for record in new)
        if wanted <= {record.payload for record in got}:
            await stop()

    await client.new_consumer(name, subscription, process).start()
    return got


async def subscriptions(client: Any) -> None:
    await client.create_stream("read", shard_count=2)
    for number in range(4):
        await client.append("read", [b"old %d" % number, b"more"], key=f"key-{number}")
    await client.create_subscription("early", "read", offset=SpecialOffset.EARLIEST)
    await client.create_subscription("late", "read", ack_timeout=60, max_unacks=100)
    assert {
        (s.subscription_id, s.stream_name, s.ack_timeout, s.max_unacks)
        for s in await client.list_subscriptions()
    } == {("early", "read", 600, 10000), ("late", "read", 60, 100)}
    assert await client.does_subscription_exist("late")
    assert not await client.does_subscription_exist("none")
    await fails(client.create_subscription("late", "read"), grpc.StatusCode.ALREADY_EXISTS)
    await fails(client.create_subscription("x", "none"), grpc.StatusCode.FAILED_PRECONDITION)
    await fails(
        client.create_subscription("x", "read", ack_timeout=0), grpc.StatusCode.INVALID_ARGUMENT
    )
    await fails(client.delete_subscription("none"), grpc.StatusCode.NOT_FOUND)
    await fails(client.delete_stream("read"), grpc.StatusCode.FAILED_PRECONDITION)
    await fails(consume(client, "c", "none", {b"new"}), grpc.StatusCode.NOT_FOUND)
    old = {b"old %d" % number for number in range(4)} | {b"more"}
    got = await consume(client, "c", "early", old)
    assert sorted(record.payload for record in got) == sorted([*old, *[b"more"] * 3])
    await client.append("read", [b"new"], key="key-1")
    for subscription in ("early", "late"):
        got = await consume(client, "c", subscription, {b"new"})
        assert {record.payload for record in got} <= old | {b"new"}
    attached = asyncio.Event()

    async def hold(ack: Any, stop: Any, records: Any) -> None:
        attached.set()

    await client.append("read", [b"held"], key="key-1")
    holding = asyncio.create_task(client.new_consumer("c", "late", hold).start())
    await attached.wait()
    await fails(consume(client, "c", "late", {b"held"}), grpc.StatusCode.ALREADY_EXISTS)
    await fails(client.delete_subscription("late"), grpc.StatusCode.FAILED_PRECONDITION)
    await client.delete_subscription("late", force=True)
    await fails(holding, grpc.StatusCode.ABORTED)
    await client.delete_subscription("early")
    assert list(await client.list_subscriptions()) == []
    await client.delete_stream("read", force=True)


async def main(address: str) -> None:
    host, _, port = address.rpartition(":")
    async with await insecure_client(url=f"hstream://{host}:{port}") as client:
        for part in (streams, appends, producers, readers, subscriptions):
            await asyncio.wait_for(part(client), GUARD)
            print("did", part.__name__, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
