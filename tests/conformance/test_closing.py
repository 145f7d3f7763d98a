"""Closing a store while others use it, and what everything is called."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import hstreamlite as hs
from tests.conformance.faces import Face, Store, collect, payloads

pytestmark = pytest.mark.asyncio


async def test_closing_ends_everybody_who_waits(store: Store) -> None:
    stream = await store.create_stream("orders")
    subscription = await store.create_subscription("billing", stream="orders")
    consumers = [subscription.consumer(f"w{n}") for n in range(4)]

    async def iterate() -> list[hs.Delivery]:
        return [delivery async for delivery in consumers[3]]

    waits: list[asyncio.Future[object]] = [
        asyncio.ensure_future(consumers[0].receive()),
        asyncio.ensure_future(consumers[1].receive(10, timeout=3600)),
        asyncio.ensure_future(consumers[2].receive(1)),
        asyncio.ensure_future(iterate()),
        asyncio.ensure_future(collect(stream.read(follow=True))),
        asyncio.ensure_future(collect(stream.read_batches(follow=True))),
    ]
    await stream.info()
    await store.close()
    for wait in waits:
        with pytest.raises(hs.StoreClosed):
            await wait
    for consumer in consumers:
        await consumer.close()


async def test_a_closed_store_refuses_everything(face: Face, tmp_path: Path) -> None:
    async with face.open(tmp_path / "s") as store:
        stream = await store.create_stream("orders")
        await stream.append(b"x")
        subscription = await store.create_subscription("billing", stream="orders")
        consumer = subscription.consumer("w")
        (held,) = await consumer.receive()
        producer = stream.producer()
        tx = store.transaction()
        reader = stream.read()
        await store.close()
        assert store.closed
        await store.close()
    calls = [
        store.create_stream("more"),
        store.streams(),
        store.delete_stream("orders"),
        store.create_subscription("more", stream="orders"),
        store.subscriptions(),
        store.delete_subscription("billing"),
        store.stats(),
        store.sync(),
        stream.append(b"y"),
        stream.append_many([b"y"]),
        stream.tail(),
        stream.trim(before=hs.LATEST),
        stream.info(),
        subscription.info(),
        subscription.lag(),
        subscription.seek(hs.EARLIEST),
        subscription.pause(),
        subscription.redrive(),
        subscription.skip_damaged(),
        subscription.resume(),
        consumer.receive(),
        consumer.ack(held),
        consumer.ack(held, durable=True),
        consumer.commit(),
        consumer.release(held),
        consumer.extend(held, by=1),
        producer.submit(b"y"),
        tx.commit(),
        collect(reader),
    ]
    for call in calls:
        with pytest.raises(hs.StoreClosed):
            await call
    with pytest.raises(hs.StoreClosed):
        stream.read()
    with pytest.raises(hs.StoreClosed):
        stream.producer()
    with pytest.raises(hs.StoreClosed):
        subscription.consumer("v")
    with pytest.raises(hs.StoreClosed):
        tx.append("orders", b"y")
    await producer.close()
    await consumer.close()
    await reader.close()


async def test_appends_that_race_with_closing_are_there_if_they_returned(
    face: Face, tmp_path: Path
) -> None:
    stored: list[bytes] = []
    async with face.open(tmp_path / "s") as store:
        stream = await store.create_stream("orders")
        started = asyncio.Event()

        async def appends(caller: int) -> None:
            for i in range(10_000):
                payload = b"%d-%d" % (caller, i)
                await stream.append(payload)
                stored.append(payload)
                if len(stored) > 50:
                    started.set()

        callers = [asyncio.ensure_future(appends(caller)) for caller in range(8)]
        await started.wait()
    for caller in callers:
        with pytest.raises(hs.StoreClosed):
            await caller
    async with face.open(tmp_path / "s") as store:
        found = await payloads(store.stream("orders"))
        assert len(found) == len(set(found))
        assert set(stored) <= set(found)
        assert len(found) <= len(stored) + 8


async def test_leaving_by_an_exception_closes_too(face: Face, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        async with face.open(tmp_path / "s") as store:
            await store.create_stream("orders")
            raise KeyError
    assert store.closed
    async with face.open(tmp_path / "s", create=False) as store:
        assert len(await store.streams()) == 1


async def test_a_directory_has_one_owner(face: Face, store: Store) -> None:
    with pytest.raises(hs.StoreLocked):
        async with face.open(store.path):
            pass
    assert not store.closed
    await store.create_stream("orders")


async def test_what_is_not_there_is_not_created_unless_wanted(face: Face, tmp_path: Path) -> None:
    with pytest.raises((hs.NotAStore, FileNotFoundError)):
        async with face.open(tmp_path / "none", create=False):
            pass
    assert not (tmp_path / "none").exists()


async def test_everything_tells_its_name(store: Store) -> None:
    stream = await store.create_stream("orders")
    record_id = await stream.append({"n": 1}, key="customer-17")
    subscription = await store.create_subscription("billing", stream="orders")
    consumer = subscription.consumer("worker-1")
    batch = await consumer.receive()
    producer = stream.producer(name="importer")
    pending = await producer.submit(b"x")
    await pending.result()
    for noun in (store, stream, subscription):
        assert store.path in repr(noun)
    assert "Store" in repr(store)
    assert "1 streams" in repr(store) or "connected" in repr(store)
    assert "Stream 'orders'" in repr(stream)
    assert "Subscription 'billing'" in repr(subscription)
    assert "Consumer 'worker-1' of 'billing'" in repr(consumer)
    assert "Producer 'importer' of 'orders'" in repr(producer)
    assert "Producer of 'orders'" in repr(stream.producer())
    assert "Submitted done" in repr(pending)
    assert "Transaction open" in repr(store.transaction())
    assert "Reader of 'orders'" in repr(stream.read())
    assert "BatchReader of 'orders'" in repr(stream.read_batches())
    assert str(record_id) in repr(batch)
    assert str(record_id) in repr(batch[0])
    assert "customer-17" in repr(batch[0])
    assert "orders" in repr(await stream.info())
    assert "billing" in repr(await subscription.info())
    await consumer.close()
    assert "closed" in repr(consumer)
    await producer.close()
    await store.close()
    assert "closed" in repr(store)
    assert "orders" in repr(stream)
