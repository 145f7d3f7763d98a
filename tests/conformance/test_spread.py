"""Work is spread over any number of consumers, however few shards a stream has."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack

import pytest

import hstreamlite as hs
from tests.conformance.faces import Store, all_of, collect, create_wide, drain

pytestmark = pytest.mark.asyncio

WIDE = 24


async def test_one_shard_feeds_as_many_consumers_as_there_are_keys(store: Store) -> None:
    stream = await store.create_stream("orders")
    for lap in range(3):
        await stream.append_many([hs.Record(b"%d" % lap, key=f"k{n}") for n in range(WIDE)])
    subscription = await store.create_subscription("billing", stream="orders")
    async with AsyncExitStack() as stack:
        consumers = [
            await stack.enter_async_context(subscription.consumer(f"w{n}")) for n in range(WIDE)
        ]
        first = await all_of(*(consumer.receive(1) for consumer in consumers))
        assert {delivery.key for batch in first for delivery in batch} == {
            f"k{n}" for n in range(WIDE)
        }
        rest = await all_of(*(drain(consumer, 2) for consumer in consumers))
        for (one,), later in zip(first, rest, strict=True):
            assert [d.key for d in later] == [one.key] * 2, "a key stays where it is"
            assert [d.payload for d in (one, *later)] == [b"0", b"1", b"2"]


@pytest.mark.parametrize("mode", ["ordered", "shared"])
async def test_records_without_a_key_feed_all_who_wait(store: Store, mode: str) -> None:
    stream = await store.create_stream("orders")
    await stream.append_many([b"%d" % n for n in range(WIDE)])
    subscription = await store.create_subscription("billing", stream="orders", mode=mode)
    async with AsyncExitStack() as stack:
        consumers = [
            await stack.enter_async_context(subscription.consumer(f"w{n}")) for n in range(WIDE)
        ]
        got = await all_of(*(consumer.receive(1) for consumer in consumers))
        assert {d.payload for batch in got for d in batch} == {b"%d" % n for n in range(WIDE)}


async def test_records_without_a_key_are_spread_over_the_shards(store: Store) -> None:
    stream = await create_wide(store, "orders", 4)
    for n in range(40):
        await stream.append(b"%d" % n, durability="memory")
    await store.sync()
    records = await collect(stream.read())
    assert [record.payload for record in records] == [b"%d" % n for n in range(40)]
    counts = Counter(record.id.shard_id for record in records if record.id)
    assert sorted(counts.values()) == [10, 10, 10, 10]
