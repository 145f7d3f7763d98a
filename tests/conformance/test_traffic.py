"""What a store says about what passed through it, the same from every face."""

from __future__ import annotations

import pytest

import hstreamlite as hs
from tests.conformance.faces import EMBEDDED, Store, collect, create_wide, drain, only

pytestmark = pytest.mark.asyncio


async def test_appends_and_reads_are_counted_by_stream(store: Store) -> None:
    wide = await create_wide(store, "wide", 4)
    await store.create_stream("idle")
    sizes = 0
    for number in range(20):
        await wide.append(b"x" * number, key=f"k{number}")
    await wide.append_many([hs.Record(b"y" * 50, key=f"k{number}") for number in range(30)])
    stats = await store.stats()
    traffic = stats.stream_traffic["wide"]
    assert traffic.append_records == 50
    assert traffic.append_calls >= 21  # one that goes to several shards counts at each
    assert sum(range(20)) + 30 * 50 < traffic.append_bytes < sizes + 50 * 100
    assert (traffic.append_failed, traffic.read_bytes, traffic.read_batches) == (0, 0, 0)
    assert stats.stream_traffic["idle"] == hs.StreamTraffic()
    assert stats.append_size.sum == traffic.append_bytes
    assert stats.append_latency.count == 50
    await collect(wide.read())
    read = (await store.stats()).stream_traffic["wide"]
    assert read.read_bytes == traffic.append_bytes
    assert 4 <= read.read_batches <= 50
    assert read.rates is not None
    assert read.rates.append_records.over_10min > 0


@only(*EMBEDDED)  # a remote store refuses some before they are sent
async def test_appends_that_fail_are_counted(store: Store) -> None:
    stream = await store.create_stream("a")
    await stream.append(b"good")
    for payload in (b"x" * (2 << 20), b"y" * (3 << 20)):
        with pytest.raises(hs.RecordTooLarge):
            await stream.append(payload)
        with pytest.raises(hs.RecordTooLarge):
            await stream.append_many([b"small", payload])
    traffic = (await store.stats()).stream_traffic["a"]
    assert (traffic.append_records, traffic.append_calls, traffic.append_failed) == (1, 5, 4)


@pytest.mark.parametrize("mode", ["ordered", "shared"])
async def test_deliveries_and_acks_are_counted_by_subscription(store: Store, mode: str) -> None:
    stream = await store.create_stream("a")
    await store.create_subscription("s", stream="a", mode=mode)
    await store.create_subscription("other", stream="a", mode=mode)
    await stream.append_many([b"x" * 100] * 500)
    async with store.subscription("s").consumer("c") as consumer:
        taken = await drain(consumer, 500)
        await consumer.ack(taken[:100])
        await consumer.ack(taken[50:100])
        for delivery in taken[100:150]:
            await consumer.ack(delivery)
        assert await consumer.release(taken[150:170]) == 20
        again = await drain(consumer, 20)
        assert {delivery.attempt for delivery in again} == {2}
        stats = await store.stats()
        traffic = stats.subscription_traffic["s"]
        assert (traffic.sent_records, traffic.resent_records, traffic.acks) == (520, 20, 150)
        stored = stats.stream_traffic["a"].append_bytes
        assert traffic.sent_bytes == pytest.approx(stored * 520 / 500, rel=0.05)
        assert stats.subscriptions["s"].unacked == 350
    assert stats.subscription_traffic["other"] == hs.SubscriptionTraffic()


@only(*EMBEDDED)  # it is opened again here
async def test_counting_begins_when_the_store_is_opened(store: Store) -> None:
    stream = await store.create_stream("a")
    await store.create_subscription("s", stream="a")
    await stream.append_many([b"x"] * 100)
    async with store.subscription("s").consumer("c") as consumer:
        await consumer.ack((await drain(consumer, 100))[:40])
    path = store.path
    await store.close()
    with hs.open(path) as reopened:
        stats = reopened.stats()
        assert stats.stream_traffic["a"] == hs.StreamTraffic()
        assert stats.subscription_traffic["s"] == hs.SubscriptionTraffic()
        assert stats.append_latency.count == 0
        with reopened.subscription("s").consumer("c") as again:
            assert len(again.receive(100)) == 60
            traffic = reopened.stats().subscription_traffic["s"]
            assert (traffic.sent_records, traffic.resent_records, traffic.acks) == (60, 60, 0)
