"""What a remote consumer takes ahead of being asked goes to others in order, and was no attempt."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import hstreamlite as hs
from hstreamlite._native import fast
from hstreamlite.remote.consumer import Consumer
from hstreamlite.remote.store import Store
from hstreamlite.remote.subscription import Subscription
from tests.conformance.faces import served
from tests.net.test_remote_leases import half_open

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.unsanitized("gRPC's own core is no build of ours"),
]

COUNT = 60
modes = pytest.mark.parametrize("mode", ["ordered", "shared"])


@asynccontextmanager
async def filled(
    path: Path, *, sizes: list[int] | None = None, **options: Any
) -> AsyncIterator[tuple[Store, Subscription]]:
    """Yield a subscription of numbered records of two keys."""
    async with served(path) as server:
        address = f"hstream://127.0.0.1:{server.node.listeners[0].port}"
        async with hs.aio.connect(address) as store:
            stream = await store.create_stream("orders")
            await store.create_stream("dead")
            records = [
                hs.Record(b"%d " % at + b"." * size, key=f"k{at % 2}")
                for at, size in enumerate(sizes or [0] * COUNT)
            ]
            await stream.append_many(records)
            yield store, await store.create_subscription("work", stream="orders", **options)


async def attached(subscription: Subscription) -> Consumer:
    """Attach a consumer that counts as quick however slow the machine is."""
    consumer = await subscription.consumer("quick", lease=300)
    consumer._attachment.pace.patience = 600.0
    return consumer


def numbers(deliveries: Any) -> list[int]:
    return [int(bytes(d.payload).split()[0]) for d in deliveries]


async def stocked(consumer: Consumer) -> int:
    """Receive and ack by twos until much more has come; return how many were acked."""
    acked = 0
    while len(consumer._attachment.stock) < 8:
        batch = await consumer.receive(2)
        assert numbers(batch) == [acked, acked + 1]
        await consumer.ack(batch)
        acked += 2
        assert acked < COUNT // 2
    return acked


async def rest(subscription: Subscription, first: int, *, attempt: int = 1) -> None:
    """Check that another consumer gets all from a number on, in order, for the first time."""
    async with subscription.consumer("other", lease=300) as other:
        got: list[hs.Delivery] = []
        while len(got) < COUNT - first:
            got += await other.receive(COUNT)
        for key in ("k0", "k1"):
            found = numbers(d for d in got if d.key == key)
            assert found == [n for n in range(first, COUNT) if key == f"k{n % 2}"]
        assert {d.attempt for d in got} == {attempt}
        assert (await other.ack(got)).new == COUNT - first
    assert (await subscription.lag()).records == 0


@modes
@pytest.mark.parametrize("how", ["close", "idle", "iterate", "pause", "run", "drop", "store"])
async def test_others_get_it_unseen(tmp_path: Path, mode: str, how: str) -> None:
    async with filled(tmp_path / "s", mode=mode) as (store, subscription):
        consumer = await attached(subscription)
        first = await stocked(consumer)
        if how == "close":
            await consumer.close()
        elif how == "idle":
            consumer._attachment.pace.patience = 0.0
            consumer.look()
        elif how == "iterate":
            async for delivery in consumer:
                assert numbers([delivery]) == [first]
                await delivery.ack()
                first += 1
                break
        elif how == "pause":
            await subscription.pause()
            assert await consumer.receive(2, timeout=0) == ()
            await subscription.resume()
        elif how == "run":

            async def handle(delivery: hs.Delivery) -> None:
                seen.append(delivery)
                running.cancel()

            seen: list[hs.Delivery] = []
            running = asyncio.ensure_future(consumer.run(handle))
            await asyncio.wait([running])
            assert numbers(seen) == [first]
            first += 1
        elif how == "drop":
            del consumer
            gc.collect()
        else:
            async with hs.aio.connect(store._link.address) as again:
                await store.close()
                await rest(again.subscription("work"), first)
            return
        await rest(subscription, first)


@modes
async def test_it_comes_next_and_in_order(tmp_path: Path, mode: str) -> None:
    async with filled(tmp_path / "s", mode=mode) as (_, subscription):
        consumer = await attached(subscription)
        first = await stocked(consumer)
        while first < COUNT:
            count = 1 + first % 7
            batch = await consumer.receive(count)
            assert len(batch) <= count
            assert numbers(batch) == list(range(first, first + len(batch)))
            assert (await consumer.ack(batch)).new == len(batch)
            first += len(batch)
        assert (await subscription.lag()).records == 0


@modes
async def test_a_release_gives_it_back_first(tmp_path: Path, mode: str) -> None:
    async with filled(tmp_path / "s", mode=mode) as (_, subscription):
        consumer = await attached(subscription)
        first = await stocked(consumer)
        batch = await consumer.receive(2)
        assert await consumer.release(batch) == 2
        assert not consumer._attachment.stock
        got: list[hs.Delivery] = []
        while len(got) < COUNT - first:
            got += await consumer.receive(COUNT)
        for key in ("k0", "k1"):
            found = numbers(d for d in got if d.key == key)
            wanted = [n for n in range(first, COUNT) if key == f"k{n % 2}"]
            assert (found if mode == "ordered" else sorted(found)) == wanted
        assert {n: d.attempt for n, d in zip(numbers(got), got, strict=True)} == {
            n: 2 if n < first + 2 else 1 for n in range(first, COUNT)
        }


@modes
@pytest.mark.parametrize("here", [True, False])
async def test_a_seek_makes_it_void(tmp_path: Path, mode: str, here: bool) -> None:
    async with filled(tmp_path / "s", mode=mode) as (store, subscription):
        consumer = await attached(subscription)
        await stocked(consumer)
        if here:
            await subscription.seek(hs.EARLIEST)
        else:
            async with hs.aio.connect(store._link.address) as elsewhere:
                await elsewhere.subscription("work").seek(hs.EARLIEST)
            await consumer.beat()  # what happened is told with it
        assert numbers(await consumer.receive(2)) == [0, 1]


async def test_it_is_lost_with_the_connection(tmp_path: Path) -> None:
    async with half_open(tmp_path / "s") as (proxy, address), hs.aio.connect(address) as store:
        stream = await store.create_stream("orders")
        await stream.append_many([hs.Record(b"%d" % at, key="k") for at in range(COUNT)])
        subscription = await store.create_subscription("work", stream="orders")
        consumer = await attached(subscription)
        first = await stocked(consumer)
        proxy.hang_up()
        proxy.end()
        while consumer._attachment.count < 2:
            await consumer.beat()
        assert not consumer._attachment.stock
        while first < COUNT:
            batch = await consumer.receive(10)
            assert numbers(batch) == list(range(first, first + len(batch)))
            assert (await consumer.ack(batch)).new == len(batch)
            first += len(batch)


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 3, "dead_letter": "dead"},
        {"max_unacked_bytes": 1 << 20},
        {"max_unacked_bytes_per_consumer": 1 << 20},
        {"max_unacked": 7},
        {"max_unacked_per_consumer": 7},
    ],
)
async def test_nothing_is_taken_ahead_where_it_counts(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    async with filled(tmp_path / "s", **options) as (_, subscription):
        consumer = await attached(subscription)
        for _ in range(10):
            await consumer.ack(await consumer.receive(2))
            assert not consumer._attachment.stock


async def test_who_keeps_records_back_takes_none_ahead(tmp_path: Path) -> None:
    async with filled(tmp_path / "s") as (_, subscription):
        consumer = await attached(subscription)
        for _ in range(10):
            batch = await consumer.receive(2)
            await consumer.ack(batch[0])
            assert not consumer._attachment.stock


async def test_large_records_are_not_sent_ahead(tmp_path: Path) -> None:
    sizes = [0] * 40 + [900_000] * 8
    async with filled(tmp_path / "s", sizes=sizes) as (_, subscription):
        consumer = await attached(subscription)
        got: list[hs.Delivery] = []
        while len(got) < len(sizes):
            batch = await consumer.receive(1)
            for source, _ in consumer._attachment.stock._parts:
                assert isinstance(source, fast.Excerpt)
                assert sum(source.sizes()) <= 4 << 20
            got += batch
            await consumer.ack(batch)
        for key in ("k0", "k1"):
            found = numbers(d for d in got if d.key == key)
            assert found == [n for n in range(len(sizes)) if key == f"k{n % 2}"]
        assert {d.attempt for d in got} == {1}
