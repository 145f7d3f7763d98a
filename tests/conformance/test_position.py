"""Where a subscription stands: sought, paused, resumed, with consumers attached."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import hstreamlite as hs
from tests.conformance.faces import (
    EMBEDDED,
    Consumer,
    Face,
    Store,
    all_of,
    create_wide,
    drain,
    hear,
    only,
    settled,
)

pytestmark = pytest.mark.asyncio


def bodies(deliveries: list[hs.Delivery] | hs.DeliveryBatch) -> list[object]:
    return [delivery.payload for delivery in deliveries]


def numbers(count: int, first: int = 0) -> list[bytes]:
    return [b"%d" % i for i in range(first, count)]


async def nothing(consumer: Consumer) -> bool:
    return await consumer.receive(100, timeout=0) == ()


async def test_seeking_goes_to_every_kind_of_place(store: Store) -> None:
    stream = await store.create_stream("orders")
    ids = await stream.append_many([b"%d" % i for i in range(10)])
    subscription = await store.create_subscription("billing", stream="orders", start=hs.LATEST)
    hour = timedelta(hours=1)
    places: list[tuple[hs.Place, int]] = [
        (hs.EARLIEST, 0),
        (ids[7], 7),
        (hs.LATEST, 10),
        (datetime.now(UTC) - hour, 0),
        (datetime.now(UTC) + hour, 10),
        (ids[0], 0),
    ]
    async with subscription.consumer("w") as consumer:
        for place, first in places:
            await subscription.seek(place)
            assert await subscription.lag() == hs.Lag(0, 10 - first)
            got = await drain(consumer, 10 - first)
            assert bodies(got) == numbers(10, first)
            assert {delivery.attempt for delivery in got} <= {1}
            await consumer.ack(got)
            assert await nothing(consumer)
        for (event, (place, first)), delivery in zip(
            zip(consumer.events(), places, strict=True), [*got, *got], strict=False
        ):
            shard = delivery.id.shard_id
            assert event == hs.Sought(place, ((shard, ids[0].lsn + first),))
        assert consumer.events() == ()


async def test_what_was_out_before_a_seek_is_void_and_acking_it_no_error(store: Store) -> None:
    stream = await store.create_stream("orders")
    ids = await stream.append_many([b"%d" % i for i in range(10)])
    subscription = await store.create_subscription("billing", stream="orders")
    async with subscription.consumer("w") as consumer:
        held = await drain(consumer, 6)
        await consumer.ack(held[0])
        await subscription.seek(ids[8])
        assert await consumer.ack(held) == hs.AckResult(0, 0, 6)
        await settled(held[3].ack())
        assert await consumer.release(held) == 0
        assert await consumer.extend(held, by=5.0) == 0
        async with store.transaction() as tx:
            tx.append("orders", b"10")
        with pytest.raises(hs.LeaseLost):
            async with store.transaction() as tx:
                tx.append("orders", b"never")
                tx.ack(held[4])
        assert bodies(await drain(consumer, 3)) == numbers(11, 8)
        await subscription.seek(ids[2])
        again = await drain(consumer, 4)
        assert await consumer.ack(held[2:6]) == hs.AckResult(4, 0, 0)
        assert await consumer.ack(again) == hs.AckResult(0, 4, 0)
        assert await consumer.ack(held[0]) == hs.AckResult(0, 0, 1)


async def test_every_consumer_that_is_attached_is_told_and_a_later_one_is_not(
    store: Store,
) -> None:
    stream = await store.create_stream("orders")
    ids = await stream.append_many([b"%d" % i for i in range(20)])
    subscription = await store.create_subscription("billing", stream="orders")
    async with subscription.consumer("a") as one, subscription.consumer("b") as two:
        assert one.events() == two.events() == ()
        await subscription.seek(ids[3])
        await stream.trim(before=ids[9])
        assert bodies(await drain(two, 11)) == numbers(20, 9)
        for consumer in (one, two):
            await hear(consumer)
            sought, gap = consumer.events()
            assert sought == hs.Sought(ids[3], ((ids[3].shard_id, ids[3].lsn),))
            assert isinstance(gap, hs.Gap)
            assert (gap.first_lsn, gap.end_lsn, gap.records) == (ids[3].lsn, ids[9].lsn, 6)
            assert consumer.gaps() == (gap,)
            assert consumer.events() == consumer.gaps() == ()
        async with subscription.consumer("c") as late:
            assert late.events() == ()


async def test_who_waits_gets_what_a_seek_brings_back(store: Store) -> None:
    stream = await store.create_stream("orders")
    await stream.append(b"0")
    subscription = await store.create_subscription("billing", stream="orders", start=hs.LATEST)
    async with subscription.consumer("w") as consumer:
        for _ in range(3):
            waiting = asyncio.ensure_future(consumer.receive())
            await asyncio.sleep(0)
            await subscription.seek(hs.EARLIEST)
            (delivery,) = await waiting
            await consumer.ack([delivery])


async def test_iterating_leaves_out_what_a_seek_has_voided(store: Store) -> None:
    stream = await store.create_stream("orders")
    ids = await stream.append_many([b"%d" % i for i in range(20)])
    subscription = await store.create_subscription("billing", stream="orders")
    seen = []
    async with subscription.consumer("w") as consumer:
        async for delivery in consumer:
            seen.append(delivery.payload)
            await settled(delivery.ack())
            if delivery.payload == b"2":
                await subscription.seek(ids[17])
            if delivery.payload == b"19":
                break
    assert seen == [*numbers(3), *numbers(20, 17)]


async def test_a_seek_is_on_disk_when_it_returns(face: Face, tmp_path: Path) -> None:
    async with face.open(tmp_path / "s") as store:
        stream = await create_wide(store, "orders", 4)
        ids = [await stream.append(b"x", key=f"k{i}", durability="os") for i in range(60)]
        await store.sync()
        subscription = await store.create_subscription("billing", stream="orders")
        async with subscription.consumer("w") as consumer:
            got = await drain(consumer, 60)
            await consumer.ack(got)
        await subscription.seek(ids[10])
        await subscription.pause()
        assert await subscription.lag() == hs.Lag(0, 50)
    async with face.open(tmp_path / "s") as store:
        subscription = store.subscription("billing")
        assert await subscription.lag() == hs.Lag(0, 50)
        async with subscription.consumer("w") as consumer:
            assert await nothing(consumer)
            await subscription.resume()
            again = await drain(consumer, 50)
            assert {delivery.attempt for delivery in again} == {1}
            assert {delivery.id for delivery in again} == set(ids[10:])
            assert await nothing(consumer)


async def test_places_that_do_not_exist_are_refused_and_nothing_is_done(store: Store) -> None:
    stream = await store.create_stream("orders")
    ids = await stream.append_many([b"%d" % i for i in range(10)])
    foreign = await (await store.create_stream("other")).append(b"x")
    await stream.trim(before=ids[4])
    subscription = await store.create_subscription("billing", stream="orders")
    shard = ids[0].shard_id
    async with subscription.consumer("w") as consumer:
        held = await drain(consumer, 2)
        for place, error in (
            (ids[3], hs.RecordTrimmed),
            (foreign, ValueError),
            (hs.RecordId(shard, ids[0].batch_id + 11, 0), ValueError),
            (hs.RecordId(99, 1, 0), ValueError),
            (datetime(2026, 1, 1), ValueError),  # noqa: DTZ001 - naive on purpose
            ("earliest", TypeError),
            (None, TypeError),
            (7, TypeError),
        ):
            with pytest.raises(error):
                await subscription.seek(place)
        assert consumer.events() == ()
        assert await consumer.ack(held) == hs.AckResult(2, 0, 0)
        await subscription.seek(hs.RecordId(shard, ids[9].lsn + 1, 0))
        await stream.append(b"10")
        assert bodies(await drain(consumer, 1)) == [b"10"]
    with pytest.raises(hs.SubscriptionNotFound):
        await store.subscription("nothing").seek(hs.EARLIEST)
    with pytest.raises(hs.SubscriptionNotFound):
        await store.subscription("nothing").pause()


async def test_a_trim_at_the_place_of_a_seek_gives_a_gap(store: Store) -> None:
    stream = await store.create_stream("orders")
    ids = await stream.append_many([b"%d" % i for i in range(10)])
    subscription = await store.create_subscription("billing", stream="orders")
    await subscription.seek(ids[2])
    await stream.trim(before=ids[6])
    async with subscription.consumer("w") as consumer:
        assert bodies(await drain(consumer, 4)) == numbers(10, 6)
    assert (await store.stats()).subscriptions["billing"].gap_records == 4


async def test_paused_nothing_is_delivered_and_acks_count(store: Store) -> None:
    stream = await store.create_stream("orders")
    await stream.append_many([b"%d" % i for i in range(10)])
    subscription = await store.create_subscription("billing", stream="orders", ack_timeout=0.05)
    async with subscription.consumer("w") as consumer:
        held = await consumer.receive(4)
        assert not (await subscription.info()).paused
        await subscription.pause()
        await subscription.pause()
        assert (await subscription.info()).paused
        assert await consumer.receive(10, timeout=0.1) == ()
        assert await consumer.ack(held[:2]) == hs.AckResult(2, 0, 0)
        group = (await store.stats()).subscriptions["billing"]
        assert (group.paused, group.blocked) == (True, "paused")
        assert await subscription.lag() == hs.Lag(2, 6)
        waiting = asyncio.ensure_future(consumer.receive(8))
        await subscription.resume()
        got = await waiting
        attempts: dict[object, int] = {}
        while True:
            for delivery in got:  # what takes longer than the timeout may come once more
                attempts.setdefault(delivery.payload, delivery.attempt)
            if len(attempts) == 8:
                break
            got = await consumer.receive(8)
        assert sorted(attempts) == sorted(numbers(10, 2))
        assert attempts[b"2"] == attempts[b"3"] == 2
        assert not (await subscription.info()).paused


@pytest.mark.parametrize("paused", [True, False])
async def test_a_pause_survives_reopening(face: Face, tmp_path: Path, paused: bool) -> None:
    async with face.open(tmp_path / "s") as store:
        await (await store.create_stream("orders")).append(b"x")
        subscription = await store.create_subscription("billing", stream="orders", max_unacked=7)
        await subscription.pause()
        if not paused:
            await subscription.resume()
    for _ in range(2):
        async with face.open(tmp_path / "s") as store:
            subscription = store.subscription("billing")
            info = await subscription.info()
            assert (info.paused, info.max_unacked) == (paused, 7)
            async with subscription.consumer("w") as consumer:
                assert await nothing(consumer) is paused


@only(*EMBEDDED)  # it opens the directory beside its owner
async def test_a_follower_sees_where_a_subscription_was_moved_and_that_it_is_paused(
    face: Face, tmp_path: Path
) -> None:
    async with face.open(tmp_path / "s") as store:
        stream = await store.create_stream("orders")
        ids = await stream.append_many([b"%d" % i for i in range(10)])
        subscription = await store.create_subscription("billing", stream="orders")
        async with face.open(tmp_path / "s", read_only=True) as follower:
            seen = follower.subscription("billing")
            assert await seen.lag() == hs.Lag(0, 10)
            await subscription.seek(ids[7])
            await subscription.pause()
            lag = await seen.lag()
            assert lag == hs.Lag(0, 3)
            assert lag.bytes == (await subscription.lag()).bytes > 0
            assert lag.age >= 0
            assert (await seen.info()).paused
            await subscription.resume()
            assert not (await seen.info()).paused


async def test_consumers_at_work_while_a_subscription_is_moved_about(store: Store) -> None:
    stream = await store.create_stream("orders")
    ids = await stream.append_many([b"%d" % i for i in range(300)])
    subscription = await store.create_subscription("billing", stream="orders", max_unacked=50)
    consumers = [subscription.consumer(f"w{n}") for n in range(4)]
    moved = asyncio.Event()

    async def work(consumer: Consumer) -> None:
        async with consumer:
            while not moved.is_set() or (await subscription.lag()).records:
                batch = await consumer.receive(7, timeout=0.02)
                result = await consumer.ack(batch)
                assert result.new + result.duplicate + result.void == len(batch)
            await hear(consumer)
            events = consumer.events()
            assert [event.to for event in events if isinstance(event, hs.Sought)] == places

    async def move() -> None:
        for place in places:
            await subscription.seek(place)
        moved.set()

    places = [*(ids[n * 71 % 300] for n in range(40)), ids[200]]
    await all_of(move(), *map(work, consumers))
    assert await subscription.lag() == hs.Lag(0, 0)
