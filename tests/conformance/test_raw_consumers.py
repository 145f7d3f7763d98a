"""Batches to consumers: whole, in order per shard, acked by id, shared fairly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import hstreamlite as hs
from hstreamlite import aio
from hstreamlite._native import fast
from hstreamlite.aio.raw import RawAcks, RawConsumer, RawDelivery, RawStore
from hstreamlite.log.journal import compress

pytestmark = pytest.mark.asyncio

BODY = fast.encode_batch([b"one", b"two", b"three", b"four"])
LONG = 3600.0


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[aio.Store]:
    async with aio.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def raw(store: aio.Store) -> RawStore:
    return RawStore(store)


async def filled(
    raw: RawStore, count: int, shards: int = 1, *, codec: hs.Compression = "none"
) -> list[int]:
    """Create a stream and append so many batches of four records to each of its shards."""
    state = await raw.create_stream("s", shards=shards, exists_ok=True)
    payload = compress(["none", "gzip", "zstd"].index(codec), BODY) if codec != "none" else BODY
    for _ in range(count):
        for shard in state.shard_ids:
            await raw.append(
                "s", payload, shard_id=shard, batch_size=4, compression=codec, durability="memory"
            )
    await raw._store.sync()
    return list(state.shard_ids)


def ids(delivery: RawDelivery) -> list[tuple[int, int, int]]:
    return [(delivery.shard_id, delivery.batch_id, index) for index in delivery.indexes]


async def got(consumer: RawConsumer) -> RawDelivery:
    delivery = await consumer.receive(timeout=60)
    assert delivery is not None
    return delivery


async def several(consumer: RawConsumer, count: int) -> list[RawDelivery]:
    return [await got(consumer) for _ in range(count)]


async def subscribed(raw: RawStore, **options: Any) -> None:
    await raw.create_subscription("sub", stream="s", **{"ack_timeout": LONG, **options})


@pytest.mark.parametrize("codec", ["none", "gzip", "zstd"])
async def test_batches_come_as_they_are_stored(raw: RawStore, codec: hs.Compression) -> None:
    (shard,) = await filled(raw, 3, codec=codec)
    await subscribed(raw)
    async with raw.consumer("sub", "c") as consumer:
        batches = await raw.read_shard(shard, start=hs.EARLIEST).read()
        for batch in batches:
            delivery = await got(consumer)
            assert delivery == RawDelivery(
                shard, batch.batch_id, range(4), True, codec, batch.append_time_ms,
                batch.payload, 1
            )  # fmt: skip
            assert consumer.ack(ids(delivery)) == RawAcks(4, 0, 0, 0)
        assert await consumer.receive(timeout=0) is None
        waiting = asyncio.ensure_future(consumer.receive())
        await raw.append("s", BODY, shard_id=shard, batch_size=4)
        assert (await waiting).batch_id == 13  # type: ignore[union-attr]


async def test_acks_count_from_whoever_and_whenever(raw: RawStore) -> None:
    (shard,) = await filled(raw, 4)
    await subscribed(raw)
    one, two = raw.consumer("sub", "one"), raw.consumer("sub", "two")
    first, second, *_ = await several(one, 3)
    assert two.ack(ids(second)) == RawAcks(4, 0, 0, 0)
    assert two.ack(ids(second)) == RawAcks(0, 4, 0, 0)
    await one.close()
    again = await got(two)
    assert again.batch_id == first.batch_id
    assert one.ack(ids(first)) == RawAcks(4, 0, 0, 0)
    assert [d.batch_id for d in await several(two, 2)] == [9, 13]
    strange = [
        (shard, 100, 0), (shard + 7, 1, 0), (0, 0, 0), (shard, 1 << 63, 5), (shard, -1, 2),
        (shard, 17, 0), (1 << 70, 1, 1),
    ]  # fmt: skip
    assert two.ack(strange) == RawAcks(0, 0, 0, 7)
    assert two.ack([*strange[:1], (shard, 9, 1), hs.RecordId(shard, 9, 2)]) == RawAcks(2, 0, 0, 1)
    assert two.ack([]) == RawAcks(0, 0, 0, 0)
    await two.close()


async def test_acks_of_what_waits_for_its_resend_count(raw: RawStore) -> None:
    await filled(raw, 4)
    await subscribed(raw)
    one = raw.consumer("sub", "one")
    sent = await several(one, 4)
    await one.close()
    for delivery in reversed(sent[1:]):
        assert one.ack(ids(delivery)) == RawAcks(4, 0, 0, 0)
    async with raw.consumer("sub", "two") as two:
        assert (await got(two)).batch_id == sent[0].batch_id
        assert await two.receive(timeout=0) is None


async def test_the_window_is_looked_at_before_each_batch(raw: RawStore) -> None:
    await filled(raw, 5)
    await subscribed(raw, max_unacked=6)
    async with raw.consumer("sub", "c") as consumer:
        first, second = await several(consumer, 2)
        assert await consumer.receive(timeout=0) is None
        consumer.ack(ids(first)[:2])
        assert await consumer.receive(timeout=0) is None
        consumer.ack(ids(second)[:1])
        third = await got(consumer)
        assert (third.batch_id, third.whole) == (9, True)
        assert await consumer.receive(timeout=0) is None


async def test_a_window_of_one_lets_one_batch_out(raw: RawStore) -> None:
    await filled(raw, 3)
    await subscribed(raw, max_unacked=1)
    async with raw.consumer("sub", "c") as consumer:
        for at in (1, 5, 9):
            delivery = await got(consumer)
            assert (delivery.batch_id, delivery.whole) == (at, True)
            assert await consumer.receive(timeout=0) is None
            consumer.ack(ids(delivery))


async def test_who_leaves_hands_back_at_once_and_frees_the_name(raw: RawStore) -> None:
    await filled(raw, 3)
    await subscribed(raw)
    one = raw.consumer("sub", "one")
    with pytest.raises(hs.ConsumerExists):
        raw.consumer("sub", "one")
    first, _ = await several(one, 2)
    one.ack(ids(first))
    assert raw.subscription("sub").consumers == ("one",)
    waiting = asyncio.ensure_future(one.receive())
    await several_turns()
    await one.close()
    await one.close()
    with pytest.raises(hs.ConsumerClosed):
        await one.receive()
    assert (await waiting).batch_id == 9  # type: ignore[union-attr]
    async with raw.consumer("sub", "one") as again:
        assert [d.batch_id for d in await several(again, 2)] == [5, 9]


async def with_some_along(consumer: RawConsumer) -> list[RawDelivery]:
    """Receive until more was taken than is returned."""
    found: list[RawDelivery] = []
    while not consumer._unseen:
        delivery = await consumer.receive(timeout=60, ahead=7)
        assert delivery is not None
        found.append(delivery)
    return found


async def test_what_is_taken_along_comes_in_order_within_the_window(raw: RawStore) -> None:
    await filled(raw, 20)
    await subscribed(raw, max_unacked=70)
    async with raw.consumer("sub", "c") as consumer:
        found = [await consumer.receive(timeout=60, ahead=7) for _ in range(18)]
        assert [one.batch_id for one in found if one] == list(range(1, 73, 4))
        assert await consumer.receive(timeout=0, ahead=7) is None
        for one in found[:2]:
            assert one is not None
            consumer.ack(ids(one))
        left = [await consumer.receive(timeout=60, ahead=7) for _ in range(2)]
        assert [(one.batch_id, one.attempt) for one in left if one] == [(73, 1), (77, 1)]


async def test_what_was_taken_along_goes_to_others_as_if_nobody_had_had_it(raw: RawStore) -> None:
    await filled(raw, 40)
    await subscribed(raw)
    one = raw.consumer("sub", "one")
    seen = await with_some_along(one)
    await one.close()
    async with raw.consumer("sub", "two") as two:
        found = await several(two, 40)
    assert [d.batch_id for d in found] == list(range(1, 161, 4))
    assert [d.attempt for d in found] == [2] * len(seen) + [1] * (40 - len(seen))


async def test_what_is_not_asked_for_soon_goes_to_who_waits(raw: RawStore) -> None:
    await filled(raw, 40)
    await subscribed(raw, mode="shared")
    async with raw.consumer("sub", "one") as one, raw.consumer("sub", "two") as two:
        seen = await with_some_along(one)
        found = await several(two, 40 - len(seen))
        assert {d.attempt for d in found} == {1}
        assert not {d.batch_id for d in found} & {d.batch_id for d in seen}


async def test_what_was_taken_along_before_a_seek_is_void(raw: RawStore, store: aio.Store) -> None:
    await filled(raw, 40)
    await subscribed(raw)
    async with raw.consumer("sub", "c") as consumer:
        await with_some_along(consumer)
        await store.subscription("sub").seek(hs.EARLIEST)
        found = [await consumer.receive(timeout=60, ahead=7) for _ in range(40)]
        assert [d.batch_id for d in found if d] == list(range(1, 161, 4))


async def test_a_slow_thread_of_one_that_left_takes_nothing_for_who_has_its_name(
    raw: RawStore,
) -> None:
    await filled(raw, 1)
    await subscribed(raw)
    one = raw.consumer("sub", "one")
    await one.close()
    async with raw.consumer("sub", "one") as again:
        with pytest.raises(hs.ConsumerClosed):
            await asyncio.to_thread(one._batches.fetch, may_block=True)
        assert (await got(again)).attempt == 1


async def several_turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_deletion_ends_the_consumers(raw: RawStore, store: aio.Store) -> None:
    await filled(raw, 1)
    await subscribed(raw)
    consumer = raw.consumer("sub", "c")
    await got(consumer)
    waiting = asyncio.ensure_future(consumer.receive())
    await several_turns()
    with pytest.raises(hs.SubscriptionInUse):
        await store.delete_subscription("sub")
    await store.delete_subscription("sub", force=True)
    with pytest.raises(hs.SubscriptionNotFound):
        await waiting
    with pytest.raises(hs.SubscriptionNotFound):
        consumer.ack([])
    await consumer.close()
    with pytest.raises(hs.SubscriptionNotFound):
        raw.consumer("sub", "c")
    await subscribed(raw)
    async with raw.consumer("sub", "c") as again:
        assert (await got(again)).batch_id == 1


async def test_a_subscription_is_what_was_asked_for_also_after_a_restart(
    raw: RawStore, store: aio.Store, tmp_path: Path
) -> None:
    (shard,) = await filled(raw, 3)
    made = await raw.create_subscription(
        "early", stream="s", ack_timeout=5, max_unacked=7, start=hs.EARLIEST
    )
    assert (made.start, made.mode, made.unit, made.stream) == ("earliest", "ordered", "shard", "s")
    await raw.create_subscription("late", stream="s", start=hs.LATEST)
    await raw.create_subscription("spread", stream="s", mode="shared")
    await raw.create_subscription("keys", stream="s", unit="key")
    with pytest.raises(hs.SubscriptionExists):
        await raw.create_subscription("late", stream="s")
    with pytest.raises(hs.StreamNotFound):
        await raw.create_subscription("other", stream="none")
    with pytest.raises(ValueError, match="unit"):
        await raw.create_subscription("other", stream="s", unit="stream")
    with pytest.raises(ValueError, match="max_unacked"):
        await raw.create_subscription("other", stream="s", max_unacked=0)
    consumer = raw.consumer("early", "c")
    first, second = await several(consumer, 2)
    consumer.ack(ids(first))
    consumer.ack(ids(second)[1:])
    assert raw.offsets("early") == {shard: 1}
    assert raw.offsets("late") == {shard: 9}
    consumer.ack(ids(second)[:1])
    assert raw.offsets("early") == {shard: 5}
    told = raw.subscriptions()
    await store.close()
    async with aio.open(tmp_path / "store") as again:
        raw = RawStore(again)
        assert [s.name for s in raw.subscriptions()] == ["early", "keys", "late", "spread"]
        assert [s.unit for s in raw.subscriptions()] == ["shard", "key", "shard", "key"]
        assert raw.subscriptions("e") == [raw.subscription("early")]
        assert made.consumers == ()
        assert raw.subscription("early") == made
        assert told[2] == raw.subscription("late")
        assert raw.offsets("early") == {shard: 5}
        async with raw.consumer("early", "c") as consumer, raw.consumer("late", "c") as late:
            assert (await got(consumer)).batch_id == 9
            assert await late.receive(timeout=0) is None
        await again.delete_stream("s", force=True)
        assert raw.subscription("early").stream == "__deleted_stream__"
        async with raw.consumer("early", "c") as consumer:
            assert (await got(consumer)).batch_id == 9


@pytest.mark.parametrize("options", [{"mode": "shared"}, {"unit": "key"}, {}])
async def test_every_record_comes_to_one_consumer(raw: RawStore, options: dict[str, str]) -> None:
    shards = await filled(raw, 6, shards=2)
    await subscribed(raw, **options)
    found: list[tuple[int, int, int]] = []
    consumers = [raw.consumer("sub", name) for name in "abc"]
    while len(found) < 48:
        for consumer in consumers:
            delivery = await consumer.receive(timeout=0)
            if delivery is not None:
                body = fast.decode_batch(delivery.payload, 1, 1)
                assert len(body) == len(delivery.indexes)
                consumer.ack(ids(delivery))
                found += ids(delivery)
    assert sorted(found) == sorted(
        (shard, 1 + 4 * batch, index)
        for shard in shards
        for batch in range(6)
        for index in range(4)
    )
    for consumer in consumers:
        await consumer.close()


async def test_a_group_by_key_gets_batches_of_what_each_may_have(
    raw: RawStore, store: aio.Store
) -> None:
    await raw.create_stream("s")
    items = [hs.Record(b"%d" % i, key="ab"[i % 2]) for i in range(6)]
    await store.stream("s").append_many(items)
    await subscribed(raw, unit="key")
    one, two = raw.consumer("sub", "one"), raw.consumer("sub", "two")
    whole = await got(one)
    assert (whole.whole, whole.indexes) == (True, range(6))
    one.ack([(whole.shard_id, whole.batch_id, index) for index in (0, 2, 4)])
    await one.close()
    part = await got(two)
    assert (part.whole, part.indexes) == (False, (1, 3, 5))
    records = fast.decode_batch(part.payload, part.shard_id, part.batch_id)
    assert [(r.key, r.payload) for r in records] == [("b", b"1"), ("b", b"3"), ("b", b"5")]
    await two.close()


async def test_an_embedded_consumer_shares_the_order_of_shards(
    raw: RawStore, store: aio.Store
) -> None:
    await filled(raw, 3)
    await subscribed(raw)
    async with store.subscription("sub").consumer("records") as records:
        batch = await records.receive(2)
        assert [d.payload for d in batch] == [b"one", b"two"]
        consumer = raw.consumer("sub", "batches")
        assert await consumer.receive(timeout=0) is None
        await records.ack(batch)
        rest = await got(consumer)
        assert (rest.batch_id, rest.indexes, rest.whole) == (1, (2, 3), False)
        assert await records.receive(timeout=0) == ()
        assert (await got(consumer)).whole
        await consumer.close()
        assert [d.payload for d in await records.receive(3)] == [b"three", b"four", b"one"]


async def test_a_batch_of_more_records_than_an_answer_holds_comes_in_parts(
    raw: RawStore, store: aio.Store
) -> None:
    await raw.create_stream("s")
    await store.stream("s").append_many([b""] * 150_000)
    await subscribed(raw, max_unacked=1_000_000)
    async with raw.consumer("sub", "c") as consumer:
        sizes = [len((await got(consumer)).indexes) for _ in range(2)]
        assert sizes == [100_000, 50_000]


async def test_a_cancelled_receive_loses_nothing(raw: RawStore) -> None:
    (shard,) = await filled(raw, 0)
    await subscribed(raw)
    async with raw.consumer("sub", "c") as consumer:
        for _ in range(5):
            task = asyncio.ensure_future(consumer.receive())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await raw.append("s", BODY, shard_id=shard, batch_size=4)
        assert (await got(consumer)).batch_id == 1
