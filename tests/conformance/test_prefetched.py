"""What a consumer takes ahead and gives back unseen was never an attempt."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

import hstreamlite as hs
from tests.conformance.faces import Face, Store, Subscription, settled

pytestmark = pytest.mark.asyncio

modes = pytest.mark.parametrize("mode", ["ordered", "shared"])


async def filled(store: Store, *, mode: str, key: str | None = None, most: int = 1) -> Subscription:
    """Return a subscription of 20 records, which die of so many attempts."""
    stream = await store.create_stream("orders")
    await store.create_stream("dead")
    await stream.append_many([hs.Record(b"%d" % n, key=key or f"{n}") for n in range(20)])
    return await store.create_subscription(
        "billing", stream="orders", mode=mode, max_attempts=most, dead_letter="dead"
    )


async def unseen(subscription: Subscription, seen: int) -> None:
    """Check that all but the first so many come for the first time, and none has died."""
    async with subscription.consumer("other") as other:
        got: list[hs.Delivery] = []
        while len(got) < 20 - seen and (batch := await other.receive(20, timeout=20.0)):
            got += batch
        assert sorted(int(bytes(d.payload)) for d in got) == list(range(seen, 20))
        assert {d.attempt for d in got} == {1}
        await other.ack(got)
    assert await subscription.lag() == hs.Lag(0, 0)


@modes
@pytest.mark.parametrize("how", ["leave the loop", "close", "seek"])
async def test_what_iterating_has_taken_ahead(store: Store, mode: str, how: str) -> None:
    subscription = await filled(store, mode=mode)
    async with subscription.consumer("w") as consumer:
        async for delivery in consumer:
            await settled(delivery.ack())
            if delivery.payload == b"2":
                if how == "close":
                    await consumer.close()
                elif how == "seek":
                    ids = [record.id async for record in store.stream("orders").read()]
                    await subscription.seek(ids[3])
                break
        await unseen(subscription, 3)


@modes
async def test_what_iterating_has_taken_ahead_comes_to_the_next_iteration_in_order(
    store: Store, mode: str
) -> None:
    subscription = await filled(store, mode=mode, key="k")
    seen = []
    async with subscription.consumer("w") as consumer:
        while len(seen) < 20:
            async for delivery in consumer:
                assert delivery.attempt == 1
                seen.append(int(bytes(delivery.payload)))  # type: ignore[arg-type]
                await settled(delivery.ack())
                if len(seen) % 3 == 0 or len(seen) == 20:
                    break
        assert await consumer.receive(1, timeout=0) == ()
    assert (seen if mode == "ordered" else sorted(seen)) == list(range(20))


@modes
async def test_iterators_of_one_consumer_share_what_they_have_taken(
    store: Store, mode: str
) -> None:
    subscription = await filled(store, mode=mode, key="k")
    async with subscription.consumer("w") as consumer:
        one, two = aiter(consumer), aiter(consumer)
        seen = [await anext(iterator) for iterator in (one, two, two, one)]
        assert [d.payload for d in seen] == [b"0", b"1", b"2", b"3"]
        await consumer.ack(seen)
    await unseen(subscription, 4)


@modes
async def test_what_iterating_has_taken_ahead_when_the_store_closes(
    face: Face, tmp_path: Path, mode: str
) -> None:
    async with face.open(tmp_path / "s") as store:
        subscription = await filled(store, mode=mode)
        iterator = aiter(subscription.consumer("w"))
        for _ in range(3):
            delivery = await anext(iterator)
            await settled(delivery.ack())
        assert (await subscription.lag()).unacked == 5
        await store.close()
        with pytest.raises(hs.StoreClosed):
            async for _ in iterator:
                raise AssertionError
    async with face.open(tmp_path / "s") as store:
        await unseen(store.subscription("billing"), 3)


@modes
async def test_what_a_run_has_taken_ahead(store: Store, mode: str) -> None:
    subscription = await filled(store, mode=mode)
    began, go = threading.Event(), threading.Event()
    seen = 0

    def handle(delivery: hs.Delivery) -> None:
        nonlocal seen
        seen += 1
        if seen == 6:
            began.set()
            assert go.wait(60)

    async with subscription.consumer("w") as consumer:
        running = asyncio.ensure_future(consumer.run(handle))
        assert await asyncio.to_thread(began.wait, 60)
        assert (await subscription.lag()).unacked > 1, "some are taken ahead"
        closing = asyncio.ensure_future(consumer.close())
        while (await subscription.lag()).unacked > 1:  # noqa: ASYNC110 - it is of no event
            await asyncio.sleep(0)
        go.set()
        await closing
        await running
    await unseen(subscription, seen)


async def test_what_waits_behind_a_record_whose_handler_fails(store: Store) -> None:
    subscription = await filled(store, mode="ordered", key="k", most=3)
    attempts: dict[bytes, list[int]] = {}
    done = threading.Event()

    def handle(delivery: hs.Delivery) -> None:
        payload = bytes(delivery.payload)
        attempts.setdefault(payload, []).append(delivery.attempt)
        if payload == b"19":
            done.set()
        if payload in (b"4", b"7"):
            raise LookupError

    async with subscription.consumer("w") as consumer:
        running = asyncio.ensure_future(consumer.run(handle))
        assert await asyncio.to_thread(done.wait, 60)
        await consumer.close()
        await running
    poison = {b"4": [1, 2, 3], b"7": [1, 2, 3]}
    assert attempts == {b"%d" % n: [1] for n in range(20)} | poison
    async with store.stream("dead").read(follow=True) as letters:
        assert [(await anext(letters)).payload for _ in range(2)] == [b"4", b"7"]
