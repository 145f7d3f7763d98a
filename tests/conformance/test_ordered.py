"""Ordered delivery: records of one key are at one consumer at a time, and in order."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import hstreamlite as hs
from tests.conformance.faces import Consumer, Face, Store, Subscription, create_wide, drain

pytestmark = pytest.mark.asyncio


async def filled(store: Store, *records: tuple[str | None, bytes], shards: int = 1) -> Subscription:
    """Return subscription "s" of a stream that holds these records, with their keys."""
    stream = await create_wide(store, "a", shards)
    await stream.append_many([hs.Record(payload, key=key) for key, payload in records])
    return await store.create_subscription("s", stream="a")


def shown(deliveries: list[hs.Delivery] | hs.DeliveryBatch) -> list[tuple[str | None, object, int]]:
    return [(d.key, d.payload, d.attempt) for d in deliveries]


async def nothing(consumer: Consumer) -> bool:
    return await consumer.receive(100, timeout=0) == ()


async def test_it_is_the_default(store: Store) -> None:
    subscription = await filled(store)
    assert (await subscription.info()).mode == "ordered"
    with pytest.raises(ValueError, match="mode must be 'ordered' or 'shared', not 'fair'"):
        await store.create_subscription("t", stream="a", mode="fair")


@pytest.mark.parametrize("shards", [1, 3])
async def test_a_key_in_hand_follows_to_its_consumer_and_others_do_not_wait(
    store: Store, shards: int
) -> None:
    records = [("x", b"1"), ("y", b"2"), ("x", b"3"), (None, b"4"), ("y", b"5"), ("x", b"6")]
    subscription = await filled(store, *records, shards=shards)
    async with subscription.consumer("one") as one, subscription.consumer("two") as two:
        first = []
        while not any(d.key == "x" for d in first):
            first += await drain(one, 1)
        keys = {d.key for d in first if d.key}
        later = [
            r for r in records if r[0] in keys and r not in [(d.key, d.payload) for d in first]
        ]
        second = await drain(two, 6 - len(first) - len(later))
        assert not keys & {d.key for d in second}
        rest = await drain(one, len(later))
        assert sorted((d.key, d.payload) for d in rest) == sorted(later)
        own = [d.payload for d in first + rest if d.key == "x"]
        assert own == [b"1", b"3", b"6"]
        assert await nothing(one)
        assert await nothing(two)
        assert await one.ack(first + rest) == hs.AckResult(len(first + rest), 0, 0)
        assert await two.ack(second) == hs.AckResult(len(second), 0, 0)


async def test_one_that_is_released_takes_the_later_ones_of_its_key_back(store: Store) -> None:
    subscription = await filled(store, ("x", b"1"), ("y", b"2"), ("x", b"3"), ("x", b"4"))
    async with subscription.consumer("one") as one, subscription.consumer("two") as two:
        a, b, c, d = await drain(one, 4)
        assert await one.ack(c) == hs.AckResult(1, 0, 0)
        assert await one.release(a) == 1
        assert await one.ack([b, d]) == hs.AckResult(1, 0, 1)
        again = await drain(two, 2)
        assert shown(again) == [("x", b"1", 2), ("x", b"4", 2)]
        assert await two.ack(again) == hs.AckResult(2, 0, 0)
    assert await subscription.lag() == hs.Lag(0, 0)


async def test_a_record_that_was_taken_back_cannot_be_acked_in_a_transaction(
    store: Store,
) -> None:
    subscription = await filled(store, ("x", b"1"), ("x", b"2"))
    async with subscription.consumer("one") as one:
        first, second = await drain(one, 2)
        await one.release(first, after=60)
        with pytest.raises(hs.LeaseLost):
            async with store.transaction() as tx:
                tx.append("a", b"made of it")
                tx.ack(second)
    assert (await store.stream("a").info()).records == 2


async def test_a_stuck_key_blocks_only_itself(store: Store) -> None:
    records = [(f"k{n % 5}", b"%d" % n) for n in range(500)]
    subscription = await filled(store, *records)
    async with subscription.consumer("stuck") as stuck, subscription.consumer("busy") as busy:
        (held,) = await stuck.receive(1)
        got = []
        while batch := await busy.receive(50, timeout=0):
            got += batch
            await busy.ack(batch)
        assert [d.payload for d in got] == [p for k, p in records if k != held.key]
        stats = (await store.stats()).subscriptions["s"]
        assert stats.blocked == (f"keys blocked: oldest unacked id {held.id} of key {held.key!r}")
        await stuck.ack(held)
        rest = await drain(busy, 99)
        assert [d.payload for d in rest] == [p for k, p in records if k == held.key][1:]


async def test_a_consumer_that_leaves_hands_its_keys_on_in_order(store: Store) -> None:
    subscription = await filled(store, *((f"k{n % 3}", b"%d" % n) for n in range(30)))
    async with subscription.consumer("one") as one, subscription.consumer("two") as two:
        assert len(await one.receive(12)) == 12
        others = await two.receive(100, timeout=0)
        assert others == ()  # the keys of all that is left are in the hands of one
        await one.close()
        again = await drain(two, 30)
        for key in ("k0", "k1", "k2"):
            own = [(d.payload, d.attempt) for d in again if d.key == key]
            assert own == [(b"%d" % n, 2 if n < 12 else 1) for n in range(int(key[1]), 30, 3)]


async def test_who_waits_is_woken_when_a_key_is_free(store: Store) -> None:
    subscription = await filled(store, ("x", b"1"), ("x", b"2"))
    async with subscription.consumer("one") as one, subscription.consumer("two") as two:
        (held,) = await one.receive(1)
        assert await nothing(two)
        waiting = asyncio.ensure_future(drain(two, 1))
        await one.ack(held)
        assert shown(await waiting) == [("x", b"2", 1)]


async def test_who_holds_a_key_is_woken_when_there_is_more_of_it(store: Store) -> None:
    subscription = await filled(store, ("x", b"1"))
    async with subscription.consumer("one") as one, subscription.consumer("two") as two:
        await one.receive(1)
        waiting = [asyncio.ensure_future(drain(two, 1)), asyncio.ensure_future(drain(one, 2))]
        stream = store.stream("a")
        await stream.append(b"2", key="x")
        await stream.append(b"3", key="x")
        assert shown(await waiting[1]) == [("x", b"2", 1), ("x", b"3", 1)]
        await stream.append(b"4", key="y")
        assert shown(await waiting[0]) == [("y", b"4", 1)]


async def test_order_and_attempts_survive_reopening(tmp_path: Path, face: Face) -> None:
    async with face.open(tmp_path / "s") as store:
        subscription = await filled(store, *((f"k{n % 4}", b"%d" % n) for n in range(40)))
        async with subscription.consumer("one") as one, subscription.consumer("two") as two:
            first = await one.receive(10)
            await two.receive(10, timeout=0)
            await one.ack([d for d in first if d.key in ("k1", "k2")])
    async with face.open(tmp_path / "s") as store, store.subscription("s").consumer("c") as last:
        got = await drain(last, 35)
    acked = {d.payload for d in first if d.key in ("k1", "k2")}
    assert [d.payload for d in got] == [b"%d" % n for n in range(40) if b"%d" % n not in acked]
    assert [d.attempt for d in got] == [2] * 5 + [1] * 30


async def test_gaps_and_seeks_leave_the_order_of_the_rest(store: Store) -> None:
    subscription = await filled(store, *((f"k{n % 2}", b"%d" % n) for n in range(10)))
    async with subscription.consumer("one") as one, subscription.consumer("two") as two:
        held = await one.receive(3)
        ids = [r.id async for r in store.stream("a").read()]
        await store.stream("a").trim(before=ids[6])
        await one.ack(held)
        assert [d.payload for d in await drain(two, 4)] == [b"6", b"7", b"8", b"9"]
        await subscription.seek(ids[8])
        assert [d.payload for d in await drain(one, 2)] == [b"8", b"9"]
        assert await nothing(two)


async def test_a_poison_record_dies_alone_and_its_key_goes_on(store: Store) -> None:
    await store.create_stream("dead")
    stream = await store.create_stream("a")
    await stream.append_many([b"%d" % n for n in range(4)], key="x")
    subscription = await store.create_subscription(
        "s", stream="a", max_attempts=2, dead_letter="dead"
    )
    async with subscription.consumer("one") as one:
        for attempt in (1, 2):
            got = await drain(one, 4)
            assert [d.attempt for d in got] == [attempt] * 4
            assert await one.release(got[0], reason="poison") == 1
        rest = await drain(one, 3)
        assert [(d.payload, d.attempt) for d in rest] == [(b"%d" % n, 3) for n in (1, 2, 3)]
        await one.ack(rest)
    async with store.stream("dead").read(follow=True) as letters:
        async for letter in letters:
            assert letter.payload == b"0"
            break
    assert await subscription.lag() == hs.Lag(0, 0)
