"""Subscriptions: who gets what, how often, and what is kept of it."""

from __future__ import annotations

import asyncio
import gc
import shutil
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import hstreamlite as hs
from tests.conformance.faces import (
    EMBEDDED,
    Consumer,
    Face,
    Store,
    Subscription,
    all_of,
    create_wide,
    drain,
    only,
    ready,
    settled,
)

pytestmark = pytest.mark.asyncio


async def filled(store: Store, count: int, **options: object) -> Subscription:
    """Return subscription "billing" of a stream "orders" that holds so many records."""
    stream = await store.create_stream("orders", exists_ok=True)
    if count:
        await stream.append_many([b"%d" % i for i in range(count)])
    return await store.create_subscription("billing", stream="orders", **options)


def bodies(deliveries: list[hs.Delivery] | hs.DeliveryBatch) -> list[object]:
    return [delivery.payload for delivery in deliveries]


def numbers(count: int, first: int = 0) -> list[bytes]:
    return [b"%d" % i for i in range(first, count)]


async def nothing(consumer: Consumer) -> bool:
    return await consumer.receive(100, timeout=0) == ()


async def test_subscriptions_are_listed_with_their_options(store: Store) -> None:
    await filled(store, 5, ack_timeout=timedelta(seconds=7), max_unacked=12)
    await store.create_subscription("audit", stream="orders", mode="shared", start=hs.LATEST)
    audit, billing = await store.subscriptions()
    assert (audit.name, audit.stream, audit.mode) == ("audit", "orders", "shared")
    assert (audit.ack_timeout, audit.max_unacked) == (60.0, 10_000)
    assert (billing.ack_timeout, billing.max_unacked) == (7.0, 12)
    assert (billing.consumers, billing.unacked, billing.backlog) == ((), 0, 5)
    assert (audit.backlog, await store.subscription("audit").lag()) == (0, hs.Lag(0, 0))
    assert await store.subscription("billing").info() == billing


async def test_create_of_what_exists_needs_exists_ok(store: Store) -> None:
    await filled(store, 1, max_unacked=5)
    with pytest.raises(hs.SubscriptionExists, match="billing"):
        await filled(store, 0)
    again = await filled(store, 0, max_unacked=9, exists_ok=True)
    assert (await again.info()).max_unacked == 5
    await store.create_stream("other")
    with pytest.raises(ValueError, match="'orders'"):
        await store.create_subscription("billing", stream="other", exists_ok=True)
    with pytest.raises(hs.StreamNotFound, match="nowhere"):
        await store.create_subscription("more", stream="nowhere")


async def test_handles_do_not_look_whether_there_is_a_subscription(store: Store) -> None:
    subscription = store.subscription("later")
    with pytest.raises(hs.SubscriptionNotFound, match="later"):
        await subscription.info()
    with pytest.raises(hs.SubscriptionNotFound):
        await subscription.lag()
    with pytest.raises(hs.SubscriptionNotFound):
        await ready(subscription.consumer("w"))
    with pytest.raises(hs.SubscriptionNotFound):
        await store.delete_subscription("later")


async def test_a_delivery_is_the_record_with_its_attempt(store: Store) -> None:
    stream = await store.create_stream("orders")
    record_id = await stream.append({"n": 1}, key="k", attributes={"a": "b"})
    subscription = await filled(store, 0)
    async with subscription.consumer("w") as consumer:
        (delivery,) = await consumer.receive()
        assert isinstance(delivery, hs.Delivery)
        assert (delivery.id, delivery.payload, delivery.key) == (record_id, {"n": 1}, "k")
        assert (delivery.attributes, delivery.attempt) == ({"a": "b"}, 1)


@pytest.mark.parametrize("shards", [1, 4])
async def test_consumers_share_what_there_is(store: Store, shards: int) -> None:
    stream = await create_wide(store, "orders", shards)
    subscription = await store.create_subscription("billing", stream="orders")
    seen: Counter[hs.RecordId] = Counter()

    async def work(name: str) -> int:
        async with subscription.consumer(name) as consumer:
            count = 0
            while sum(seen.values()) < 2000:
                batch = await consumer.receive(17, timeout=0.02)
                seen.update(delivery.id for delivery in batch)
                count += len(batch)
                await consumer.ack(batch)
            return count

    async def fill() -> int:
        for i in range(40):
            await stream.append_many([b"x"] * 50, key=f"k{i}", durability="os")
        await store.sync()
        return 0

    counts = await all_of(fill(), *(work(f"w{n}") for n in range(4)))
    assert sum(counts) == len(seen) == 2000
    assert set(seen.values()) == {1}
    assert await subscription.lag() == hs.Lag(0, 0)


async def test_two_at_once_never_get_the_same(store: Store) -> None:
    subscription = await filled(store, 100)
    async with subscription.consumer("a") as one, subscription.consumer("b") as two:
        batches = await all_of(*(c.receive(10) for c in [one, two] * 5))
        assert sorted(d.id for b in batches for d in b) == sorted(
            {d.id for b in batches for d in b}
        )
        assert {d.consumer.name for b in batches for d in b} == {"a", "b"}


async def test_receive_gives_at_most_what_was_asked_for(store: Store) -> None:
    subscription = await filled(store, 10)
    async with subscription.consumer("w") as consumer:
        assert bodies(await consumer.receive(3)) == numbers(3)
        assert bodies(await consumer.receive(max_records=100, timeout=60.0)) == numbers(10, 3)
        assert not await consumer.receive(1, timeout=0.001)
        assert (await consumer.receive(1, timeout=0)) == ()


async def test_receive_waits_for_what_comes(store: Store) -> None:
    stream = await store.create_stream("orders")
    subscription = await filled(store, 0)
    async with subscription.consumer("w") as consumer:
        for level in ("sync", "os", "memory"):
            waiting = asyncio.ensure_future(consumer.receive())
            await stream.append(b"new", durability=level)
            batch = await waiting
            assert bodies(batch) == [b"new"]
            await consumer.ack(batch)


async def test_acks_of_one_many_a_batch_and_ids(store: Store) -> None:
    subscription = await filled(store, 40)
    async with subscription.consumer("w") as consumer:
        batch = await consumer.receive(10)
        assert await consumer.ack(batch) == hs.AckResult(10, 0, 0)
        one, *many = await consumer.receive(10)
        assert await consumer.ack(one) == hs.AckResult(1, 0, 0)
        assert await consumer.ack(many) == hs.AckResult(9, 0, 0)
        batch = await consumer.receive(10)
        assert await consumer.ack(d.id for d in batch) == hs.AckResult(10, 0, 0)
        first, *rest = await consumer.receive(10)
        assert await consumer.ack(first.id) == hs.AckResult(1, 0, 0)
        assert await consumer.ack(reversed(rest)) == hs.AckResult(9, 0, 0)
        assert await consumer.ack([]) == hs.AckResult(0, 0, 0)
        assert await consumer.ack(()) == hs.AckResult(0, 0, 0)
        assert await subscription.lag() == hs.Lag(0, 0)


async def test_deliveries_ack_and_release_and_extend_themselves(store: Store) -> None:
    subscription = await filled(store, 3)
    async with subscription.consumer("w") as consumer:
        one, two, three = await drain(consumer, 3)
        await settled(one.ack())
        await settled(one.ack())
        await settled(two.release())
        await settled(three.extend(by=timedelta(hours=1)))
        assert await subscription.lag() == hs.Lag(2, 0)
        (again,) = await consumer.receive()
        assert (again.id, again.attempt) == (two.id, 2)


@pytest.mark.parametrize("mode", ["ordered", "shared"])
@pytest.mark.parametrize("timeout", [-1, float("nan"), 1e10, True, "1"])
async def test_a_bad_timeout_is_refused_whatever_is_at_hand(
    store: Store,
    mode: str,
    timeout: object,  # noqa: ASYNC109 - it is what is bad
) -> None:
    subscription = await filled(store, 10, mode=mode)
    async with subscription.consumer("w") as consumer:
        await drain(consumer, 2)
        error = ValueError if type(timeout) in (int, float) else TypeError
        for _ in range(2):
            with pytest.raises(error, match="timeout must be "):
                await consumer.receive(1, timeout=timeout)
        assert bodies(await consumer.receive(1, timeout=0)) == numbers(3, 2)


@only(*EMBEDDED)  # a remote one waits in another thread, or finds it done: that is chance
@pytest.mark.parametrize("mode", ["ordered", "shared"])
async def test_an_ack_does_the_same_work_however_much_is_in_flight(store: Store, mode: str) -> None:
    stream = await store.create_stream("orders")
    await stream.append_many([hs.Record(b"x", key=f"{n % 9}") for n in range(5_000)])
    work = []
    for count in (50, 5_000):
        subscription = await store.create_subscription(f"s{count}", stream="orders", mode=mode)
        async with subscription.consumer("w") as consumer:
            held = await drain(consumer, count)
            calls: list[list[str]] = []
            gc.disable()  # what is collected meanwhile would count
            try:
                for delivery in held[5:45]:
                    calls.append([])
                    sys.setprofile(lambda _, event, __, own=calls[-1]: own.append(event))
                    delivery.ack()
                    sys.setprofile(None)
            finally:
                sys.setprofile(None)
                gc.enable()
            work.append(sorted(map(len, calls)))
            assert (await subscription.lag()).unacked == count - 40
    few, many = work
    assert many[0] <= few[-1]  # all are equal but where a server is waited for, or was fast


async def test_acking_again_is_counted_and_no_error(store: Store) -> None:
    subscription = await filled(store, 10)
    async with subscription.consumer("w") as consumer:
        batch = await consumer.receive(10)
        await consumer.ack(batch[:4])
        assert await consumer.ack(batch) == hs.AckResult(6, 4, 0)
        assert await consumer.ack(batch) == hs.AckResult(0, 10, 0)
        assert await consumer.ack([batch[0], batch[0].id]) == hs.AckResult(0, 2, 0)


async def test_another_consumer_may_ack(store: Store) -> None:
    subscription = await filled(store, 4)
    async with subscription.consumer("a") as one, subscription.consumer("b") as two:
        batch = await one.receive(4)
        assert await two.ack(batch) == hs.AckResult(4, 0, 0)
        assert await one.ack(batch) == hs.AckResult(0, 4, 0)


async def test_what_was_never_delivered_cannot_be_acked(store: Store) -> None:
    stream = await store.create_stream("orders")
    ids = await stream.append_many([b"x"] * 10)
    other = await (await store.create_stream("other")).append(b"y")
    subscription = await filled(store, 0)
    async with subscription.consumer("w") as consumer:
        batch = await consumer.receive(5)
        for wrong in (ids[5], other, [ids[4], ids[5]]):
            with pytest.raises(hs.UnknownRecord, match="billing"):
                await consumer.ack(wrong)
        assert await consumer.ack(batch) == hs.AckResult(5, 0, 0)


async def test_what_is_not_acked_in_time_comes_again(store: Store) -> None:
    subscription = await filled(store, 5, ack_timeout=0.05)
    async with subscription.consumer("w") as consumer:
        first = await drain(consumer, 5)
        await consumer.ack(first[1])
        again = await drain(consumer, 4)
        assert bodies(again) == [b"0", b"2", b"3", b"4"]
        assert {delivery.attempt for delivery in again} == {2}
        third = await drain(consumer, 4)
        assert {delivery.attempt for delivery in third} == {3}
        assert (await consumer.ack(first)).duplicate == 1
        assert await subscription.lag() == hs.Lag(0, 0)


async def test_what_times_out_goes_to_whoever_asks(store: Store) -> None:
    subscription = await filled(store, 5, ack_timeout=0.05)
    async with subscription.consumer("a") as one, subscription.consumer("b") as two:
        held = await drain(one, 5)
        got = await drain(two, 5)
        assert bodies(got) == bodies(held)
        assert {delivery.attempt for delivery in got} == {2}
        assert await one.ack(held) == hs.AckResult(5, 0, 0)


async def test_released_records_come_again_at_once(store: Store) -> None:
    subscription = await filled(store, 10)
    async with subscription.consumer("a") as one, subscription.consumer("b") as two:
        batch = await one.receive(10)
        waiting = asyncio.ensure_future(two.receive(100))
        assert await one.release(batch[2:5]) == 3
        again = await waiting
        again = [*again, *await drain(two, 3 - len(again))]  # type: ignore[assignment]
        assert bodies(again) == numbers(5, 2)
        assert {delivery.attempt for delivery in again} == {2}
        assert await one.release(batch[2:5]) == 0
        assert await one.release(batch) == 7


async def test_released_records_come_again_after_their_delay(store: Store) -> None:
    subscription = await filled(store, 4)
    async with subscription.consumer("w") as consumer:
        batch = await consumer.receive(4)
        assert await consumer.release(batch[:2], after=3600.0) == 2
        assert await consumer.release(batch[2], after=timedelta(seconds=0.03)) == 1
        (again,) = await consumer.receive(4)
        assert (again.payload, again.attempt) == (b"2", 2)
        assert await nothing(consumer)
        assert await consumer.ack(batch) == hs.AckResult(4, 0, 0)


async def test_extending_never_shortens(store: Store) -> None:
    subscription = await filled(store, 4, ack_timeout=3600.0)
    async with subscription.consumer("w") as consumer:
        batch = await consumer.receive(4)
        assert await consumer.extend(batch[:2], by=0.001) == 2
        assert await consumer.receive(4, timeout=0.05) == ()
        await consumer.ack(batch[1:])
        assert await consumer.extend(batch, by=timedelta(hours=2)) == 1
        await consumer.ack(batch)
        assert await consumer.extend(batch, by=5) == 0


async def test_extending_keeps_what_would_time_out(store: Store) -> None:
    subscription = await filled(store, 4, ack_timeout=0.2)
    async with subscription.consumer("w") as consumer:
        batch = await consumer.receive(4)
        while await consumer.extend(batch[:3], by=3600) < 3:  # a busy machine may be too late
            batch = await consumer.receive(4)
        assert bodies(await consumer.receive(4)) == [b"3"]


@pytest.mark.parametrize("most", [1, 7, 64])
async def test_no_more_than_max_unacked_are_out(store: Store, most: int) -> None:
    subscription = await filled(store, 200, max_unacked=most)
    async with subscription.consumer("a") as one, subscription.consumer("b") as two:
        held = await drain(one, most)
        assert await nothing(one)
        assert await nothing(two)
        assert (await subscription.lag()).unacked == most
        await one.ack(held[0])
        assert bodies(await two.receive(100)) == [b"%d" % most]
        assert await nothing(one)
        await one.ack(held)
        assert len(await drain(two, most - 1)) == most - 1
        assert await nothing(two)


async def test_an_ack_wakes_who_waits_for_room(store: Store) -> None:
    subscription = await filled(store, 10, max_unacked=1)
    async with subscription.consumer("a") as one, subscription.consumer("b") as two:
        (held,) = await one.receive()
        for i in range(1, 10):
            waiting = asyncio.ensure_future((two, one)[i % 2].receive())
            await settled(held.ack())
            (held,) = await waiting
            assert held.payload == b"%d" % i


async def test_a_consumer_that_leaves_hands_back_at_once(store: Store) -> None:
    subscription = await filled(store, 10)
    async with subscription.consumer("stays") as stays:
        async with subscription.consumer("leaves") as leaves:
            held = await drain(leaves, 10)
            await leaves.ack(held[:3])
            waiting = asyncio.ensure_future(drain(stays, 7))
            assert (await subscription.info()).consumers == ("stays", "leaves")
        got = await waiting
        assert sorted(d.id for d in got) == sorted(d.id for d in held[3:])
        assert {delivery.attempt for delivery in got} == {2}
        assert leaves.closed
        with pytest.raises(hs.ConsumerClosed, match="leaves"):
            await leaves.receive()
        with pytest.raises(hs.ConsumerClosed):
            await leaves.ack(held)
        with pytest.raises(hs.ConsumerClosed):
            held[4].ack()
        await leaves.close()
        assert (await subscription.info()).consumers == ("stays",)


async def test_names_of_attached_consumers_are_unique(store: Store) -> None:
    subscription = await filled(store, 1)
    async with subscription.consumer("w") as first:
        assert (first.name, first.subscription) == ("w", "billing")
        with pytest.raises(hs.ConsumerExists) as raised:
            await ready(subscription.consumer("w"))
        assert raised.value.consumer == "w"
        assert len(await first.receive()) == 1
    async with subscription.consumer("w") as second:
        assert len(await second.receive()) == 1


async def test_latest_is_fixed_when_the_subscription_is_created(store: Store) -> None:
    stream = await store.create_stream("orders")
    await stream.append(b"before")
    subscription = await filled(store, 0, start=hs.LATEST)
    await stream.append(b"after")
    await filled(store, 0, start=hs.LATEST, exists_ok=True)
    async with subscription.consumer("w") as consumer:
        assert bodies(await consumer.receive()) == [b"after"]


async def test_subscriptions_start_at_ids_and_times(store: Store) -> None:
    stream = await store.create_stream("orders")
    ids = await stream.append_many([b"%d" % i for i in range(10)])
    starts = {
        "id": (ids[6], 4),
        "past": (datetime.now(UTC) - timedelta(hours=1), 10),
        "future": (datetime.now(UTC) + timedelta(hours=1), 0),
        "all": (hs.EARLIEST, 10),
    }
    for name, (start, count) in starts.items():
        subscription = await store.create_subscription(name, stream="orders", start=start)
        assert await subscription.lag() == hs.Lag(0, count)
        async with subscription.consumer("w") as consumer:
            assert bodies(await consumer.receive(100, timeout=0)) == numbers(10, 10 - count)
    await stream.trim(before=ids[5])
    with pytest.raises(hs.RecordTrimmed):
        await store.create_subscription("gone", stream="orders", start=ids[1])


async def test_subscriptions_do_not_disturb_one_another(store: Store) -> None:
    subscription = await filled(store, 10)
    other = await store.create_subscription("audit", stream="orders")
    async with subscription.consumer("w") as one, other.consumer("w") as two:
        batch = await one.receive(10)
        await one.ack(batch)
        assert bodies(await two.receive(10)) == numbers(10)
        assert (await subscription.lag(), await other.lag()) == (hs.Lag(0, 0), hs.Lag(10, 0))


async def test_deleting_a_subscription(store: Store) -> None:
    subscription = await filled(store, 5)
    async with subscription.consumer("w") as consumer:
        batch = await consumer.receive(2)
        with pytest.raises(hs.SubscriptionInUse) as raised:
            await store.delete_subscription("billing")
        assert raised.value.consumers == ("w",)
        await consumer.ack(batch)
    await store.delete_subscription("billing")
    assert await store.subscriptions() == []
    again = await filled(store, 0)
    assert await again.lag() == hs.Lag(0, 5)


async def test_deleting_by_force_ends_the_consumers(store: Store) -> None:
    subscription = await filled(store, 1)
    receiving, iterating = subscription.consumer("a"), subscription.consumer("b")
    (held,) = await receiving.receive()

    async def iterate() -> int:
        return len([delivery async for delivery in iterating])

    waits = [
        asyncio.ensure_future(receiving.receive()),
        asyncio.ensure_future(iterate()),
        asyncio.ensure_future(receiving.receive(1, timeout=3600)),
    ]
    await store.delete_subscription("billing", force=True)
    for wait in waits:
        with pytest.raises(hs.SubscriptionNotFound, match="billing"):
            await wait
    for call in (receiving.ack(held), receiving.release(held), receiving.extend(held, by=1)):
        with pytest.raises(hs.SubscriptionNotFound):
            await call
    await receiving.close()
    await iterating.close()
    again = await filled(store, 0)
    async with again.consumer("a") as consumer:
        assert [d.attempt for d in await consumer.receive()] == [1]


async def test_iteration_gives_all_and_ends_with_the_consumer(store: Store) -> None:
    subscription = await filled(store, 300)
    for prefetch in (1, 100):
        async with subscription.consumer("w", prefetch=prefetch) as consumer:
            seen = []
            async for delivery in consumer:
                seen.append(delivery.payload)
                await settled(delivery.ack())
                if len(seen) == 150:
                    await consumer.close()
            assert len(set(seen)) == 150
    assert await subscription.lag() == hs.Lag(0, 0)


async def test_trimmed_records_are_told_as_gaps(store: Store) -> None:
    stream = await store.create_stream("orders")
    ids = await stream.append_many([b"%d" % i for i in range(20)])
    subscription = await filled(store, 0)
    async with subscription.consumer("w") as consumer:
        assert consumer.gaps() == ()
        batch = await consumer.receive(5)
        await consumer.ack(batch[0])
        await stream.trim(before=ids[12])
        assert bodies(await drain(consumer, 8)) == numbers(20, 12)
        gaps = consumer.gaps()
        assert gaps[-1].end_lsn == ids[12].lsn
        assert sum(gap.undelivered for gap in gaps) == 7
        assert {gap.shard_id for gap in gaps} == {ids[0].shard_id}
        assert consumer.gaps() == ()


async def test_lag_counts_what_is_out_and_what_is_to_come(store: Store) -> None:
    subscription = await filled(store, 10)
    stream = store.stream("orders")
    assert await subscription.lag() == hs.Lag(0, 10)
    async with subscription.consumer("w") as consumer:
        batch = await consumer.receive(4)
        assert await subscription.lag() == hs.Lag(4, 6)
        await consumer.ack(batch[:3])
        assert await subscription.lag() == hs.Lag(1, 6)
        await stream.append(b"more")
        assert await subscription.lag() == hs.Lag(1, 7)
        info = await subscription.info()
        assert (info.unacked, info.backlog, info.consumers) == (1, 7, ("w",))


async def test_progress_survives_reopening(face: Face, tmp_path: Path) -> None:
    async with face.open(tmp_path / "s") as store:
        subscription = await filled(store, 100)
        consumer = subscription.consumer("w")
        batch = await drain(consumer, 60)
        await consumer.ack(batch[:20])
        await consumer.ack([batch[30], batch[40].id])
    async with face.open(tmp_path / "s") as store:
        subscription = store.subscription("billing")
        assert await subscription.lag() == hs.Lag(38, 40)
        async with subscription.consumer("w") as consumer:
            got = await drain(consumer, 78)
            acked = {*numbers(20), b"30", b"40"}
            assert set(bodies(got)) == set(numbers(100)) - acked
            attempts = {delivery.payload: delivery.attempt for delivery in got}
            assert {attempts[n] >= 2 for n in numbers(60, 20) if n not in acked} == {True}
            assert {attempts[n] for n in numbers(100, 60)} == {1}
            await consumer.ack(got)
    async with face.open(tmp_path / "s") as store:
        assert await store.subscription("billing").lag() == hs.Lag(0, 0)


async def crashed(face: Face, path: Path) -> list[object]:
    """Return what comes to a consumer of the store as its files are now."""
    copy = path.with_name("copy")
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns("*.sock"))
    async with face.open(copy) as store, store.subscription("billing").consumer("w") as consumer:
        got = sorted(int(bytes(d.payload)) for d in await consumer.receive(100, timeout=0))
    shutil.rmtree(copy)
    return got


@pytest.mark.parametrize("mode", ["ordered", "shared"])
async def test_a_durable_ack_is_on_disk_when_it_returns(
    face: Face, tmp_path: Path, mode: str
) -> None:
    path, config = tmp_path / "s", hs.StoreConfig(progress_interval=60.0)
    async with face.open(path, config=config) as store:
        subscription = await filled(store, 10, mode=mode)
        async with subscription.consumer("w") as one, subscription.consumer("v") as two:
            held = await drain(one, 5)
            rest = await drain(two, 5)
            assert await one.ack(held[0], durable=True) == hs.AckResult(1, 0, 0)
            assert await crashed(face, path) == list(range(1, 10))
            await settled(held[1].ack())
            assert await two.ack(rest[:2]) == hs.AckResult(2, 0, 0)
            assert await crashed(face, path) == list(range(1, 10))
            await two.commit()
            assert await crashed(face, path) == [2, 3, 4, 7, 8, 9]
            await one.commit()
            assert await one.ack(held, durable=True) == hs.AckResult(3, 2, 0)
            assert await crashed(face, path) == [7, 8, 9]
            with pytest.raises(TypeError, match="durable must be a bool, not int"):
                await one.ack(held, durable=1)
        with pytest.raises(hs.ConsumerClosed):
            await one.commit()


async def test_ack_of_a_wide_stream_survives_reopening(face: Face, tmp_path: Path) -> None:
    async with face.open(tmp_path / "s") as store:
        stream = await create_wide(store, "orders", 4)
        await stream.append_many([hs.Record(b"%d" % i, key=f"k{i}") for i in range(100)])
        subscription = await filled(store, 0)
        async with subscription.consumer("w") as consumer:
            got = await drain(consumer, 100)
            await consumer.ack(got[::2])
    async with face.open(tmp_path / "s") as store, store.subscription("billing").consumer("w") as c:
        again = await drain(c, 50)
        assert {d.id for d in again} == {d.id for d in got[1::2]}
        assert await nothing(c)
