"""Windows: how many records, and how many bytes, are out at all consumers and at each."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import hstreamlite as hs
from hstreamlite._native import fast
from tests.conformance.faces import Consumer, Face, Store, Subscription, drain, settled

pytestmark = pytest.mark.asyncio

SIZE = fast.record_bytes(b"." * 1000)

modes = pytest.mark.parametrize("mode", ["ordered", "shared"])


async def filled(store: Store, sizes: list[int], **options: Any) -> Subscription:
    """Return a subscription of a stream of records whose payloads have these sizes."""
    stream = await store.create_stream("orders")
    records = [hs.Record(b"." * size, key=f"{n}") for n, size in enumerate(sizes)]
    if options.get("mode") == "shared":
        records = [hs.Record(b"." * size) for size in sizes]
    await stream.append_many(records)
    return await store.create_subscription("billing", stream="orders", **options)


async def nothing(consumer: Consumer) -> bool:
    return await consumer.receive(100, timeout=0) == ()


async def all_there_is(consumer: Consumer) -> list[hs.Delivery]:
    """Receive until nothing more comes at once."""
    found: list[hs.Delivery] = []
    while batch := await consumer.receive(100, timeout=0):
        found += batch
    return found


def weight(deliveries: list[hs.Delivery]) -> int:
    return sum(map(fast.record_bytes, deliveries))


@modes
async def test_nothing_goes_out_while_the_window_in_bytes_is_full(store: Store, mode: str) -> None:
    subscription = await filled(store, [1000] * 60, mode=mode, max_unacked_bytes=10_000)
    async with subscription.consumer("a") as one, subscription.consumer("b") as two:
        held = await all_there_is(one)
        least = weight(held[:-1])
        assert least < 10_000 <= weight(held)
        assert await nothing(two)
        stats = (await store.stats()).subscriptions["billing"]
        assert stats.in_flight_bytes == weight(held)
        assert stats.blocked.startswith("window full (max_unacked_bytes): oldest unacked id ")
        seen = len(held)
        waiting = asyncio.ensure_future(two.receive(100, timeout=20.0))
        while held:
            await settled(held.pop(0).ack())
            if weight(held) < 10_000:
                batch = await waiting
                assert batch
                assert weight(list(batch)[:-1]) + weight(held) < 10_000
                seen += len(batch)
                break
        await one.ack(held)
        await two.ack(batch)
        while seen < 60:
            got = await all_there_is(two)
            assert weight(got[:-1]) < 10_000
            await two.ack(got)
            seen += len(got)
        assert (await store.stats()).subscriptions["billing"].in_flight_bytes == 0


@modes
@pytest.mark.parametrize("how", ["max_unacked_bytes", "max_unacked_bytes_per_consumer"])
async def test_a_window_holds_where_records_are_taken_one_by_one(
    store: Store, mode: str, how: str
) -> None:
    subscription = await filled(store, [1000] * 60, mode=mode, **{how: 10_000})
    async with subscription.consumer("a") as one:
        held: list[hs.Delivery] = []
        while batch := await one.receive(1, timeout=0):
            held += batch
        assert weight(held[:-1]) < 10_000 <= weight(held)


@modes
async def test_a_window_holds_where_the_records_of_a_batch_differ(store: Store, mode: str) -> None:
    sizes = [3000] * 5 + [10] * 100
    subscription = await filled(store, sizes, mode=mode, max_unacked_bytes=6000)
    async with subscription.consumer("a") as one:
        for _ in range(2):
            got = await all_there_is(one)
            assert len(got) == 2
            await one.ack(got)
        seen = 4
        while seen < len(sizes):
            got = await all_there_is(one)
            assert weight(got[:-1]) < 6000
            seen += len(got)
            await one.ack(got)


@modes
async def test_a_record_larger_than_the_window_goes_out_alone(store: Store, mode: str) -> None:
    subscription = await filled(store, [10, 50_000, 10, 50_000], mode=mode, max_unacked_bytes=5000)
    async with subscription.consumer("a") as one:
        sizes = []
        for _ in range(3):
            got = await all_there_is(one)
            sizes.append([len(bytes(d.payload)) for d in got])  # type: ignore[arg-type]
            await one.ack(got)
        assert sizes == [[10, 50_000], [10, 50_000], []]
    lone = await store.create_subscription(
        "lone", stream="orders", mode=mode, max_unacked_bytes=1, max_unacked_bytes_per_consumer=1
    )
    async with lone.consumer("a") as one:
        for _ in range(4):
            got = await one.receive(100)
            assert len(got) == 1
            assert await nothing(one)
            await one.ack(got)


@modes
@pytest.mark.parametrize("how", ["subscription", "consumer"])
async def test_a_consumer_has_windows_of_its_own(store: Store, mode: str, how: str) -> None:
    options = {"max_unacked_per_consumer": 3} if how == "subscription" else {}
    subscription = await filled(store, [10] * 60, mode=mode, **options)
    own = {} if how == "subscription" else {"max_unacked": 3}
    async with subscription.consumer("a", **own) as one, subscription.consumer("b") as two:
        held = await all_there_is(one)
        assert len(held) == 3
        rest = await all_there_is(two)
        assert len(rest) == (3 if how == "subscription" else 57)
        waiting = asyncio.ensure_future(one.receive(100))
        await one.ack(held[:2])
        if how == "consumer":
            await two.release(rest[:1])
        assert 1 <= len(await waiting) <= 2


@modes
@pytest.mark.parametrize("how", ["subscription", "consumer"])
async def test_a_consumer_has_a_window_in_bytes(store: Store, mode: str, how: str) -> None:
    options = {"max_unacked_bytes_per_consumer": 5 * SIZE} if how == "subscription" else {}
    subscription = await filled(store, [1000] * 40, mode=mode, **options)
    own = {} if how == "subscription" else {"max_unacked_bytes": 5 * SIZE}
    async with subscription.consumer("a", **own) as one, subscription.consumer("b") as two:
        held = await all_there_is(one)
        assert weight(held[:-1]) < 5 * SIZE <= weight(held)
        rest = await all_there_is(two)
        assert rest
        stats = {s.name: s for s in (await store.stats()).subscriptions["billing"].attached}
        assert stats["a"].unacked_bytes == weight(held)
        assert stats["b"].unacked_bytes == weight(rest)
        await one.release(held[1:])
        async with store.transaction() as tx:
            tx.ack(held[0])
        stats = {s.name: s for s in (await store.stats()).subscriptions["billing"].attached}
        assert stats["a"].unacked_bytes == 0
        await two.release(rest)
        again = await all_there_is(one)
        assert weight(again[:-1]) < 5 * SIZE <= weight(again)


@modes
async def test_what_comes_back_counts_no_more(store: Store, mode: str) -> None:
    stream = await store.create_stream("orders")
    await stream.append_many([hs.Record(b"." * 1000, key=f"{n % 3}") for n in range(30)])
    subscription = await store.create_subscription(
        "billing", stream="orders", mode=mode, ack_timeout=0.05, max_unacked_bytes=9 * SIZE
    )

    async def out() -> int | None:
        return (await store.stats()).subscriptions["billing"].in_flight_bytes

    async with subscription.consumer("a") as one:
        async with subscription.consumer("b") as two:
            held = await all_there_is(two)
            assert held
            await two.release(held[1])
            await two.extend(held[:1], by=60.0)
        assert await out() == 0
        first = await drain(one, 5)
        again = await drain(one, 5)
        assert max(d.attempt for d in again) >= 2, "a timeout gives its bytes back"
        await subscription.seek(hs.LATEST)
        assert await out() == 0
        await subscription.seek(first[0].id)
        got = await drain(one, 5)
        await stream.trim(before=hs.LATEST)
        await one.ack(got)
        assert await out() == 0


async def test_one_slow_consumer_with_a_window_does_not_hold_the_others(store: Store) -> None:
    stream = await store.create_stream("orders")
    await stream.append_many([b"%d" % n for n in range(10)])
    subscription = await store.create_subscription(
        "billing", stream="orders", mode="shared", max_unacked_per_consumer=5
    )
    async with subscription.consumer("slow") as slow, subscription.consumer("fast") as fast_one:
        assert len(await drain(slow, 5)) == 5
        await fast_one.ack(await drain(fast_one, 5))
        stuck = asyncio.ensure_future(slow.receive(5))
        seen = 0
        waiting = asyncio.ensure_future(fast_one.receive(5))
        for n in range(20):
            await stream.append(b"more %d" % n)
            batch = await waiting
            seen += len(batch)
            await fast_one.ack(batch)
            waiting = asyncio.ensure_future(fast_one.receive(5))
        assert seen == 20
        assert not stuck.done()
        await store.delete_subscription("billing", force=True)
        for wait in (stuck, waiting):
            with pytest.raises(hs.SubscriptionNotFound):
                await wait


async def test_windows_are_told_and_survive_reopening(face: Face, tmp_path: Path) -> None:
    windows = {
        "max_unacked_bytes": 1 << 40,
        "max_unacked_per_consumer": 7,
        "max_unacked_bytes_per_consumer": 3,
    }
    async with face.open(tmp_path / "s") as store:
        subscription = await filled(store, [10] * 9, **windows)
        other = await store.create_subscription("plain", stream="orders")
        plain = await other.info()
        assert [getattr(plain, name) for name in windows] == [None] * 3
        async with subscription.consumer("w") as consumer:
            await drain(consumer, 1)
    async with face.open(tmp_path / "s") as store:
        subscription = store.subscription("billing")
        info = await subscription.info()
        assert {name: getattr(info, name) for name in windows} == windows
        async with subscription.consumer("w") as consumer:
            for _ in range(9):
                got = await drain(consumer, 1)
                assert await nothing(consumer)
                await consumer.ack(got)


@pytest.mark.parametrize(
    "name", ["max_unacked_bytes", "max_unacked_per_consumer", "max_unacked_bytes_per_consumer"]
)
@pytest.mark.parametrize("value", [0, -1, 1 << 70, True, 5.0, float("nan"), "5"])
async def test_bad_windows_are_refused(store: Store, name: str, value: object) -> None:
    subscription = await filled(store, [10])
    error = ValueError if type(value) is int else TypeError
    with pytest.raises(error, match=f"{name} must be "):
        await store.create_subscription("new", stream="orders", **{name: value})
    own = name.removesuffix("_per_consumer")
    with pytest.raises(error, match=f"{own} must be "):
        subscription.consumer("w", **{own: value})
    assert [info.name for info in await store.subscriptions()] == ["billing"]
    assert (await subscription.info()).consumers == ()
