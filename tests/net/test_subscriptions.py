"""Subscriptions and StreamingFetch, called as the clients of HStreamDB call them."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest

from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.hstream_pb2_grpc import HStreamApiStub
from hstreamlite.net.server import Server
from tests.net.test_streams import ODD_NAMES, append, create
from tests.net.wire import EARLIEST, LATEST, Code, Status, batch, config, payloads, refused

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]


async def subscribe(stub: Any, name: str = "sub", **fields: Any) -> pb.Subscription:
    given = {"streamName": "s", "ackTimeoutSeconds": 600, "maxUnackedRecords": 10_000}
    made: pb.Subscription = await stub.CreateSubscription(
        pb.Subscription(subscriptionId=name, **given | fields)
    )
    return made


class Consumer:
    """A consumer of the wire: registers with its first request, acks with the later ones."""

    def __init__(self, stub: Any, name: str = "c", subscription: str = "sub") -> None:
        self.name, self.subscription = name, subscription
        self.call = stub.StreamingFetch()

    async def register(self) -> "Consumer":
        await self.ack([])
        return self

    async def ack(self, ids: Iterable[pb.RecordId]) -> None:
        await self.call.write(
            pb.StreamingFetchRequest(
                subscriptionId=self.subscription, consumerName=self.name, ackIds=ids
            )
        )

    async def take(self) -> pb.ReceivedRecord:
        response = await self.call.read()
        assert response is not grpc.aio.EOF, "the call ended"
        received: pb.ReceivedRecord = response.receivedRecords
        payloads(received)
        return received

    async def leave(self) -> None:
        await self.call.done_writing()
        assert await self.call.read() is grpc.aio.EOF
        assert await self.call.code() is Status.OK


async def attached(stub: Any, *names: str) -> list[pb.Consumer]:
    """Return the consumers as soon as they are these."""
    request = pb.ListConsumersRequest(subscriptionId="sub")
    while True:
        consumers = list((await stub.ListConsumers(request)).consumers)
        if sorted(consumer.name for consumer in consumers) == sorted(names):
            return consumers


async def test_a_subscription_is_told_as_it_was_made(stub: Any) -> None:
    await create(stub)
    asked = {"ackTimeoutSeconds": 35_999, "maxUnackedRecords": 1, "offset": LATEST}
    made = await subscribe(stub, "sub", **asked)
    assert made.creationTime.seconds > 1_600_000_000
    assert made == pb.Subscription(
        subscriptionId="sub", streamName="s", creationTime=made.creationTime, **asked
    )
    assert (await stub.GetSubscription(pb.GetSubscriptionRequest(id="sub"))).subscription == made
    listed = await stub.ListSubscriptions(pb.ListSubscriptionsRequest())
    assert list(listed.subscription) == [made]
    for prefix, count in [("s", 1), ("sub", 1), ("x", 0)]:
        request = pb.ListSubscriptionsWithPrefixRequest(prefix=prefix)
        assert len((await stub.ListSubscriptionsWithPrefix(request)).subscription) == count
    for name, exists in [("sub", True), ("none", False), ("", False), ("a b\0", False)]:
        found = await stub.CheckSubscriptionExist(
            pb.CheckSubscriptionExistRequest(subscriptionId=name)
        )
        assert found.exists is exists


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        *[
            (
                {"subscriptionId": name},
                Status.INVALID_ARGUMENT,
                Code.SubscriptionInvalidObjectIdentifier,
            )
            for name in ODD_NAMES
        ],
        ({"offset": 2}, Status.INVALID_ARGUMENT, Code.SubscriptionInvalidOffset),
        ({"ackTimeoutSeconds": 0}, Status.INVALID_ARGUMENT, 0),
        ({"ackTimeoutSeconds": -1}, Status.INVALID_ARGUMENT, 0),
        ({"ackTimeoutSeconds": 2**31 - 1}, Status.INVALID_ARGUMENT, 0),
        ({"maxUnackedRecords": 0}, Status.INVALID_ARGUMENT, 0),
        ({"maxUnackedRecords": -(2**31)}, Status.INVALID_ARGUMENT, 0),
        (
            {"streamName": "none"},
            Status.FAILED_PRECONDITION,
            Code.SubscriptionCreationOnNonExistentStream,
        ),
        ({"streamName": ""}, Status.INVALID_ARGUMENT, Code.StreamInvalidObjectIdentifier),
        ({"subscriptionId": "taken"}, Status.ALREADY_EXISTS, Code.SubscriptionExists),
    ],
)
async def test_a_subscription_that_cannot_be_is_refused(
    stub: Any, fields: dict[str, Any], status: Any, code: int
) -> None:
    await create(stub)
    await subscribe(stub, "taken")
    right = {
        "subscriptionId": "sub",
        "streamName": "s",
        "ackTimeoutSeconds": 1,
        "maxUnackedRecords": 2**31 - 1,
    }
    with refused(status, code):
        await stub.CreateSubscription(pb.Subscription(**right | fields))
    assert len((await stub.ListSubscriptions(pb.ListSubscriptionsRequest())).subscription) == 1
    await stub.CreateSubscription(pb.Subscription(**right))


async def test_what_is_not_there_is_told_by_name(stub: Any) -> None:
    consumer = await Consumer(stub, subscription="none").register()
    for call in (
        stub.GetSubscription(pb.GetSubscriptionRequest(id="none")),
        stub.ListConsumers(pb.ListConsumersRequest(subscriptionId="none")),
        stub.DeleteSubscription(pb.DeleteSubscriptionRequest(subscriptionId="none", force=True)),
        consumer.call.read(),
    ):
        with refused(Status.NOT_FOUND, Code.SubscriptionNotFound) as told:
            await call
        assert told.extra == "none"


async def test_batches_come_whole_in_order_and_once(stub: Any) -> None:
    [shard] = await create(stub)
    early, late = await subscribe(stub, "sub"), None
    sent = []
    for number in range(3):
        each = batch(b"%d" % number, b"+", codec=number % 2)
        answer = await append(stub, "s", shard.shardId, each)
        sent.append((answer.recordIds, each))
    late = await subscribe(stub, "late", offset=LATEST)
    assert (early.offset, late.offset) == (EARLIEST, LATEST)
    each = batch(b"new")
    sent.append(((await append(stub, "s", shard.shardId, each)).recordIds, each))
    consumer = await Consumer(stub).register()
    for ids, each in sent:
        received = await consumer.take()
        assert list(received.recordIds) == list(ids)
        assert received.record.payload == each.payload
        assert received.record.compressionType == each.compressionType
        assert received.record.publishTime.seconds > 1_600_000_000
        await consumer.ack(received.recordIds)
    await consumer.leave()
    newest = await Consumer(stub, subscription="late").register()
    assert payloads(await newest.take()) == [b"new"]
    newest.call.cancel()
    again = await Consumer(stub).register()
    await append(stub, "s", shard.shardId, batch(b"after"))
    assert payloads(await again.take()) == [b"after"]
    again.call.cancel()


async def test_a_consumers_name_is_its_own_until_it_leaves(stub: Any, server: Server) -> None:
    [shard] = await create(stub)
    await subscribe(stub)
    first = await Consumer(stub).register()
    await attached(stub, "c")
    second = await Consumer(stub).register()
    with refused(Status.ALREADY_EXISTS, 0):
        await second.take()
    await append(stub, "s", shard.shardId, batch(b"x"))
    await first.take()
    for leave in ("half-close", "cancel", "break"):
        async with grpc.aio.insecure_channel(server.address) as channel:
            if leave == "half-close":
                await first.leave()
            else:
                first.call.cancel()
            first = await Consumer(HStreamApiStub(channel)).register()
            assert payloads(await first.take()) == [b"x"]
            [known] = await attached(stub, "c")
            assert known.uri.startswith("ipv4:127.0.0.1:")
            assert known.userAgent.startswith("grpc-python-asyncio/")
    last = await Consumer(stub).register()
    assert payloads(await last.take()) == [b"x"]
    last.call.cancel()
    await attached(stub)


async def test_consumers_behind_a_proxy_are_told_by_its_headers(stub: Any) -> None:
    await create(stub)
    await subscribe(stub)
    call = stub.StreamingFetch(metadata=[("x-forwarded-for", "10.1.2.3"), ("proxy-agent", "me/1")])
    await call.write(pb.StreamingFetchRequest(subscriptionId="sub", consumerName="weird \0 näme"))
    [only] = await attached(stub, "weird \0 näme")
    assert (only.uri, only.userAgent) == ("10.1.2.3", "me/1")
    call.cancel()


async def test_acks_count_whoever_sends_them_and_for_whatever(stub: Any) -> None:
    [shard] = await create(stub)
    await subscribe(stub)
    for number in range(4):
        await append(stub, "s", shard.shardId, batch(b"%d" % number, b"+"))
    holder = await Consumer(stub, "holder").register()
    got = [await holder.take() for _ in range(4)]
    other = await Consumer(stub, "other").register()
    await other.ack(got[0].recordIds)
    await other.ack(got[0].recordIds)
    await other.ack(
        [
            pb.RecordId(),
            pb.RecordId(shardId=2**64 - 1, batchId=2**64 - 1, batchIndex=2**32 - 1),
            pb.RecordId(shardId=shard.shardId, batchId=10**9, batchIndex=1),
            pb.RecordId(shardId=shard.shardId, batchId=2**64 - 1, batchIndex=2**32 - 1),
            *got[1].recordIds,
        ]
    )
    offset = pb.SubscriptionOffset(shardId=shard.shardId, batchId=got[1].recordIds[0].batchId)
    while True:
        told = await stub.GetSubscription(pb.GetSubscriptionRequest(id="sub"))
        if list(told.offsets) == [offset]:
            break
    holder.call.cancel()
    left = [await other.take(), await other.take()]
    assert [payloads(each) for each in left] == [[b"2", b"+"], [b"3", b"+"]]
    other.call.cancel()


async def test_what_was_not_acked_of_a_batch_comes_again_alone(stub: Any) -> None:
    [shard] = await create(stub)
    await subscribe(stub, ackTimeoutSeconds=1)
    for codec in (0, 1):
        await append(stub, "s", shard.shardId, batch(b"a", b"b", b"c", codec=codec))
    consumer = await Consumer(stub).register()
    taken = [await consumer.take(), await consumer.take()]
    for received in taken:
        await consumer.ack([received.recordIds[1]])
    left = {received.recordIds[0].batchId: received for received in taken}
    while left:
        again = await consumer.take()
        before = left.get(again.recordIds[0].batchId)
        if before is None or len(again.recordIds) == 3:  # the ack of a busy machine came too late
            await consumer.ack(again.recordIds[1:2] if before else again.recordIds)
            continue
        assert list(again.recordIds) == [before.recordIds[0], before.recordIds[2]]
        assert payloads(again) == [b"a", b"c"]
        assert again.record.compressionType == before.record.compressionType
        assert again.record.publishTime == before.record.publishTime
        await consumer.ack(again.recordIds)
        del left[before.recordIds[0].batchId]
    await append(stub, "s", shard.shardId, batch(b"after"))
    while payloads(received := await consumer.take()) != [b"after"]:
        await consumer.ack(received.recordIds)
    consumer.call.cancel()


async def test_no_more_is_out_than_allowed(stub: Any) -> None:
    [shard] = await create(stub)
    await subscribe(stub, maxUnackedRecords=3)
    for number in range(4):
        await append(stub, "s", shard.shardId, batch(b"%d" % number, b"+"))
    consumer = await Consumer(stub).register()
    first, second = [await consumer.take(), await consumer.take()]
    third = asyncio.ensure_future(consumer.take())
    # A batch that is out is answered for, so what came before this ack came without the next one.
    await consumer.ack(first.recordIds[:1])
    await stub.Echo(pb.EchoRequest())
    assert not third.done()
    await consumer.ack(first.recordIds[1:])
    assert payloads(await third) == [b"2", b"+"]
    await consumer.ack(second.recordIds)
    assert payloads(await consumer.take()) == [b"3", b"+"]
    consumer.call.cancel()


async def test_a_shard_is_out_at_one_consumer_and_shards_are_shared(stub: Any) -> None:
    shards = [shard.shardId for shard in await create(stub, shards=4)]
    await subscribe(stub)
    consumers = [await Consumer(stub, f"c{number}").register() for number in range(2)]
    await attached(stub, "c0", "c1")
    for number in range(5):
        for shard in shards:
            await append(stub, "s", shard, batch(b"%d" % number))
    held: dict[int, set[str]] = {}
    order: dict[int, list[bytes]] = {}
    tasks = {asyncio.ensure_future(consumer.take()): consumer for consumer in consumers}
    while sum(map(len, order.values())) < 20:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            consumer = tasks.pop(task)
            received = task.result()
            shard = received.recordIds[0].shardId
            held.setdefault(shard, set()).add(consumer.name)
            order.setdefault(shard, []).extend(payloads(received))
            tasks[asyncio.ensure_future(consumer.take())] = consumer
    assert order == {shard: [b"%d" % number for number in range(5)] for shard in shards}
    assert all(len(names) == 1 for names in held.values())
    for consumer in consumers:
        consumer.call.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        task.cancelled() or task.exception()


async def test_a_setting_gives_batches_to_all(tmp_path: Path) -> None:
    async with (
        Server(config(tmp_path, delivery="shared")) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = HStreamApiStub(channel)
        [shard] = await create(stub)
        await subscribe(stub)
        consumers = [await Consumer(stub, f"c{number}").register() for number in range(3)]
        await attached(stub, "c0", "c1", "c2")
        takes = [asyncio.ensure_future(each.take()) for each in consumers]
        while not all(take.done() for take in takes):
            await append(stub, "s", shard.shardId, batch(b"x"))
        assert len({str(take.result().recordIds) for take in takes}) == 3
        for consumer in consumers:
            consumer.call.cancel()


async def test_a_subscription_in_use_is_deleted_by_force_only(stub: Any) -> None:
    [shard] = await create(stub)
    await subscribe(stub)
    consumer = await Consumer(stub).register()
    await attached(stub, "c")
    with refused(Status.FAILED_PRECONDITION, Code.SubscriptionFoundActiveConsumers):
        await stub.DeleteSubscription(pb.DeleteSubscriptionRequest(subscriptionId="sub"))
    await stub.DeleteSubscription(pb.DeleteSubscriptionRequest(subscriptionId="sub", force=True))
    with refused(Status.ABORTED, 0):
        await consumer.take()
    await append(stub, "s", shard.shardId, batch(b"x"))
    await subscribe(stub)
    again = await Consumer(stub).register()
    assert payloads(await again.take()) == [b"x"]
    await again.leave()
    await stub.DeleteSubscription(pb.DeleteSubscriptionRequest(subscriptionId="sub"))


async def test_subscriptions_outlive_their_stream_that_was_deleted_by_force(stub: Any) -> None:
    [shard] = await create(stub)
    await subscribe(stub)
    for number in range(2):
        await append(stub, "s", shard.shardId, batch(b"%d" % number))
    consumer = await Consumer(stub).register()
    assert payloads(await consumer.take()) == [b"0"]
    with refused(Status.FAILED_PRECONDITION, Code.StreamFoundSubscription):
        await stub.DeleteStream(pb.DeleteStreamRequest(streamName="s"))
    await stub.DeleteStream(pb.DeleteStreamRequest(streamName="s", force=True))
    assert not (await stub.ListStreams(pb.ListStreamsRequest())).streams
    [listed] = (await stub.ListSubscriptions(pb.ListSubscriptionsRequest())).subscription
    assert listed.streamName == "__deleted_stream__"
    assert payloads(await consumer.take()) == [b"1"]
    await create(stub)
    consumer.call.cancel()
    await attached(stub)
    await stub.DeleteSubscription(pb.DeleteSubscriptionRequest(subscriptionId="sub"))


async def test_a_server_that_stops_says_so_and_the_name_is_free_again(tmp_path: Path) -> None:
    server = Server(config(tmp_path))
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = HStreamApiStub(channel)
        [shard] = await create(stub)
        await subscribe(stub)
        await append(stub, "s", shard.shardId, batch(b"acked"))
        await append(stub, "s", shard.shardId, batch(b"not acked"))
        consumer = await Consumer(stub).register()
        await consumer.ack((await consumer.take()).recordIds)
        await consumer.take()
        while (
            not (await stub.GetSubscription(pb.GetSubscriptionRequest(id="sub"))).offsets[0].batchId
        ):
            pass
        await server.stop()
        with refused(Status.UNAVAILABLE, 0):
            await consumer.take()
    async with (
        Server(config(tmp_path)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        consumer = await Consumer(HStreamApiStub(channel)).register()
        assert payloads(await consumer.take()) == [b"not acked"]
        consumer.call.cancel()


async def test_who_says_nothing_registers_nothing(stub: Any) -> None:
    async def nothing() -> AsyncIterator[pb.StreamingFetchRequest]:
        return
        yield

    assert [each async for each in stub.StreamingFetch(nothing())] == []
    with refused(Status.INVALID_ARGUMENT, Code.SubscriptionInvalidObjectIdentifier):
        await (await Consumer(stub, subscription="").register()).take()


async def test_a_slow_reader_holds_little_of_the_server(stub: Any, server: Server) -> None:
    [shard] = await create(stub)
    await subscribe(stub)
    count, size = 60, 500_000
    for _ in range(count):
        await append(stub, "s", shard.shardId, batch(b"x" * size))
    slow = await Consumer(stub).register()
    await slow.take()
    other = await Consumer(stub, "other").register()
    with refused(Status.ALREADY_EXISTS, 0):
        await (await Consumer(stub, "other").register()).take()
    # 30 MB are allowed to be out. What is out is what fits on the way, for nobody reads.
    stats = (await server.node.store.stats()).subscriptions["sub"]
    assert stats.unacked < count / 2, stats
    for _ in range(count - 1):
        await slow.take()
    slow.call.cancel()
    other.call.cancel()


async def test_what_could_not_be_sent_is_counted(
    stub: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    [shard] = await create(stub)
    await subscribe(stub)
    for _ in range(40):
        await append(stub, "s", shard.shardId, batch(b"x" * 250_000, b"x" * 250_000))
    failed: list[tuple[str, int]] = []
    monkeypatch.setattr(server.node.tally, "send_failed", lambda *told: failed.append(told))
    while not failed:  # a call may also end while its next batch is being read
        slow = await Consumer(stub).register()
        await slow.take()
        slow.call.cancel()
        await attached(stub)
    assert failed == [("sub", 2)]
    again = await Consumer(stub).register()
    for _ in range(40):
        await again.take()
    again.call.cancel()
