"""What only the asyncio face promises: it never holds up the loop, and cancelling loses nothing."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import hstreamlite as hs
from hstreamlite import aio
from hstreamlite.aio.bell import in_thread
from tests.conformance.faces import collect, drain, payloads
from tests.logs import logged

pytestmark = pytest.mark.asyncio

NEVER: dict[str, Any] = {"batch_age": 3600.0, "batch_records": 1_000_000, "batch_bytes": 16 << 20}
TURNS_MAX = 40


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[aio.Store]:
    async with aio.open(tmp_path / "store") as opened:
        yield opened


async def turns(count: int) -> None:
    """Let the loop go round so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def cancelled(task: asyncio.Future[Any]) -> bool:
    """Cancel a task and tell whether that was what ended it."""
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


class Ticking:
    """Counts the turns of the loop while something else runs in it."""

    def __init__(self) -> None:
        self.ticks = 0

    async def during(self, work: Awaitable[Any]) -> Any:
        task = asyncio.ensure_future(work)
        while not task.done():
            self.ticks += 1
            await asyncio.sleep(0)
        return task.result()


async def test_the_loop_turns_while_appends_wait_for_the_disk(store: aio.Store) -> None:
    stream = await store.create_stream("orders")
    ticking = Ticking()
    appends = asyncio.gather(*(stream.append(b"%d" % i, durability="sync") for i in range(256)))
    ids = await ticking.during(appends)
    assert ticking.ticks > 3
    assert [r.id for r in await collect(stream.read())] == sorted(ids)
    syncs = (await store.stats()).log["syncs"]
    assert syncs < 128


async def test_the_loop_turns_during_a_cold_read(tmp_path: Path) -> None:
    config = hs.StoreConfig(segment_bytes_min=1 << 20, segment_bytes_max=1 << 20)
    async with aio.open(tmp_path / "s", config=config, durability="os") as store:
        stream = await store.create_stream("orders")
        for _ in range(64):
            await stream.append_many([b"x" * 2000] * 100, durability="memory")
        await store.create_subscription("billing", stream="orders")
    async with aio.open(tmp_path / "s", config=config) as store:
        ticking = Ticking()
        found = await ticking.during(collect(store.stream("orders").read()))
        assert len(found) == 6400
        assert ticking.ticks > 10
        async with store.subscription("billing").consumer("w") as consumer:
            ticking = Ticking()
            assert len(await ticking.during(drain(consumer, 6400))) == 6400
            assert ticking.ticks > 3


async def test_the_loop_turns_while_a_receive_and_a_reader_wait(store: aio.Store) -> None:
    stream = await store.create_stream("orders")
    subscription = await store.create_subscription("billing", stream="orders")
    async with subscription.consumer("w") as consumer, stream.read(follow=True) as reader:
        receiving = asyncio.ensure_future(consumer.receive())
        reading = asyncio.ensure_future(anext(reader))
        await turns(100)
        assert not receiving.done()
        assert not reading.done()
        await stream.append(b"x")
        assert [d.payload for d in await receiving] == [b"x"]
        assert (await reading).payload == b"x"


async def test_another_loop_is_refused_before_anything_is_staged(store: aio.Store) -> None:
    stream = await store.create_stream("orders")

    async def elsewhere() -> None:
        for call in (stream.append(b"one"), stream.append_many([b"one", b"two"])):
            with pytest.raises(RuntimeError, match="belongs to the event loop that it was opened"):
                await call

    await asyncio.to_thread(asyncio.run, elsewhere())
    await stream.append(b"here")
    assert await payloads(stream) == [b"here"]


@pytest.mark.parametrize("level", ["sync", "os", "memory"])
async def test_a_cancelled_append_is_there_or_not(store: aio.Store, level: Any) -> None:
    stream = await store.create_stream("orders")
    stored = []
    for i in range(TURNS_MAX):
        task = asyncio.ensure_future(stream.append(b"%d" % i, durability=level))
        await turns(i % 8)
        if not await cancelled(task):
            stored.append(b"%d" % i)
        stored.append(b"after %d" % i)
        await stream.append(stored[-1])
    found = await payloads(stream)
    assert set(stored) <= set(found)
    assert len(found) == len(set(found))


async def test_what_a_cancelled_call_fails_with_is_no_news_for_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    free = threading.Event()

    def fail() -> None:
        free.wait()
        raise LookupError

    task = asyncio.ensure_future(in_thread(fail))
    await turns(2)
    assert await cancelled(task)
    free.set()
    await asyncio.get_running_loop().shutdown_default_executor()
    await turns(2)
    del task
    gc.collect()
    assert logged(caplog) == []


async def test_cancelling_many_appends_harms_no_other(store: aio.Store) -> None:
    stream = await store.create_stream("orders")
    tasks = [asyncio.ensure_future(stream.append(b"%d" % i)) for i in range(256)]
    await turns(1)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    kept = {r for r in results if isinstance(r, hs.RecordId)}
    assert len(kept) >= 128
    assert all(isinstance(r, hs.RecordId | asyncio.CancelledError) for r in results)
    assert kept <= {r.id for r in await collect(stream.read())}


@pytest.mark.parametrize("compression", ["none", "zstd"])
async def test_a_cancelled_append_many_is_whole_or_absent(
    store: aio.Store, compression: Any
) -> None:
    stream = await store.create_stream("orders")
    for i in range(TURNS_MAX):
        many = stream.append_many([b"%d" % i * 10] * 10, compression=compression)
        task = asyncio.ensure_future(many)
        await turns(i % 8)
        await cancelled(task)
    await stream.append(b"last")
    found = await payloads(stream)
    assert {found.count(b"%d" % i * 10) for i in range(TURNS_MAX)} <= {0, 10}


async def test_a_cancelled_receive_loses_no_delivery(store: aio.Store) -> None:
    stream = await store.create_stream("orders")
    subscription = await store.create_subscription("billing", stream="orders")
    got: list[hs.Delivery] = []
    async with subscription.consumer("w") as consumer:
        for i in range(TURNS_MAX):
            task = asyncio.ensure_future(consumer.receive())
            await turns(i % 3)
            appending = asyncio.ensure_future(stream.append(b"%d" % i, durability="os"))
            await turns(i % 7)
            task.cancel()
            (batch,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(batch, hs.DeliveryBatch):
                got += batch
            await appending
        got += await drain(consumer, TURNS_MAX - len(got))
        assert sorted(d.id for d in got) == [r.id for r in await collect(stream.read())]


async def test_a_receive_cancelled_during_a_cold_read_gives_back(tmp_path: Path) -> None:
    config = hs.StoreConfig(segment_bytes_min=1 << 20, segment_bytes_max=1 << 20)
    async with aio.open(tmp_path / "s", config=config) as store:
        stream = await store.create_stream("orders")
        for _ in range(16):
            await stream.append_many([b"x" * 2000] * 100, durability="memory")
        await store.create_subscription("billing", stream="orders")
    async with (
        aio.open(tmp_path / "s", config=config) as store,
        store.subscription("billing").consumer("w") as consumer,
    ):
        got: list[hs.Delivery] = []
        for i in range(TURNS_MAX):
            task = asyncio.ensure_future(consumer.receive(50))
            await turns(i % 5)
            task.cancel()
            (batch,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(batch, hs.DeliveryBatch):
                got += batch
                await consumer.ack(batch)
        while len(got) < 1600:
            batch = await consumer.receive(100)
            got += batch
            await consumer.ack(batch)
        assert len({d.id for d in got}) == len(got) == 1600
        assert {d.attempt for d in got} == {1}, "what nobody has seen was no attempt"


async def test_receives_that_time_out_lose_nothing(store: aio.Store) -> None:
    stream = await store.create_stream("orders")
    subscription = await store.create_subscription("billing", stream="orders")
    seen: list[hs.Delivery] = []

    async def fill() -> None:
        for i in range(100):
            await stream.append(b"%d" % i, durability="os")

    filling = asyncio.ensure_future(fill())
    async with subscription.consumer("w") as consumer:
        for i in range(200):
            try:
                batch = await asyncio.wait_for(consumer.receive(3), (i % 4) * 0.0005)
            except TimeoutError:
                continue
            seen += batch
            await consumer.ack(batch)
        await filling
        while len(seen) < 100:
            batch = await consumer.receive(100)
            seen += batch
            await consumer.ack(batch)
        assert sorted(d.id for d in seen) == [r.id for r in await collect(stream.read())]
        assert await subscription.lag() == hs.Lag(0, 0)


async def test_a_cancelled_reader_goes_on_where_it_was(store: aio.Store) -> None:
    stream = await store.create_stream("orders")
    seen: list[object] = []
    async with stream.read(follow=True) as reader:
        for i in range(TURNS_MAX):
            task = asyncio.ensure_future(anext(reader))
            await turns(i % 4)
            await stream.append(b"%d" % i, durability="os")
            await turns(i % 3)
            if not await cancelled(task):
                seen.append(task.result().payload)
        while len(seen) < TURNS_MAX:
            seen.append((await anext(reader)).payload)
    assert seen == [b"%d" % i for i in range(TURNS_MAX)]


async def test_a_reader_cancelled_during_a_cold_read_goes_on_where_it_was(tmp_path: Path) -> None:
    config = hs.StoreConfig(segment_bytes_min=1 << 20, segment_bytes_max=1 << 20)
    async with aio.open(tmp_path / "s", config=config) as store:
        stream = await store.create_stream("orders")
        for i in range(200):
            await stream.append_many([b"%d" % i * 5000], durability="memory")
    async with aio.open(tmp_path / "s", config=config) as store:
        for kind in (store.stream("orders").read, store.stream("orders").read_batches):
            seen: list[Any] = []
            async with kind() as reader:
                for i in range(TURNS_MAX):
                    task = asyncio.ensure_future(anext(reader))
                    await turns(i % 5)
                    if not await cancelled(task):
                        seen.append(task.result())
                seen += [item async for item in reader]
            assert len(seen) == 200
            found = [r for item in seen for r in (getattr(item, "records", lambda i=item: [i])())]
            assert [r.payload for r in found] == [b"%d" % i * 5000 for i in range(200)]


async def test_a_cancelled_submit_takes_in_or_not(store: aio.Store) -> None:
    stream = await store.create_stream("orders")
    kept = []
    async with stream.producer(buffer_bytes=400, batch_records=3) as producer:
        for i in range(TURNS_MAX):
            task = asyncio.ensure_future(producer.submit(b"%d" % i))
            await turns(i % 6)
            if not await cancelled(task):
                kept.append(b"%d" % i)
            kept.append(b"after %d" % i)
            await producer.submit(kept[-1])
    found = await payloads(stream)
    assert [p for p in found if p in set(kept)] == kept
    assert len(found) == len(set(found))


async def test_a_cancelled_flush_or_result_leaves_the_batch_on_its_way(store: aio.Store) -> None:
    stream = await store.create_stream("orders")
    waits: list[Callable[[aio.Producer, aio.Submitted], Awaitable[Any]]] = [
        lambda producer, _: producer.flush(),
        lambda _, pending: pending.result(),
    ]
    async with stream.producer(**NEVER) as producer:
        for i in range(TURNS_MAX):
            pending = await producer.submit(b"%d" % i)
            task = asyncio.ensure_future(waits[i % 2](producer, pending))
            await turns(i // 4)
            await cancelled(task)
            assert await pending == await pending.result()
        await producer.flush()
    assert await payloads(stream) == [b"%d" % i for i in range(TURNS_MAX)]


async def test_cancelling_named_producers_keeps_their_numbers(store: aio.Store) -> None:
    stream = await store.create_stream("orders")
    async with stream.producer(name="importer", buffer_bytes=300, batch_records=2) as producer:
        for i in range(1, TURNS_MAX + 1):
            task = asyncio.ensure_future(producer.submit(b"%d" % i, sequence=i))
            await turns(i % 6)
            await cancelled(task)
            await producer.submit(b"%d" % i, sequence=i)
    assert await payloads(stream) == [b"%d" % i for i in range(1, TURNS_MAX + 1)]


async def test_a_cancelled_commit_is_whole_or_absent(store: aio.Store) -> None:
    one, two = await store.create_stream("one"), await store.create_stream("two")
    for i in range(TURNS_MAX):
        tx = store.transaction()
        tx.append("one", b"%d" % i)
        tx.append("two", b"%d" % i)
        task = asyncio.ensure_future(tx.commit())
        await turns(i % 8)
        await cancelled(task)
    await store.sync()
    async with store.transaction() as tx:
        tx.append("one", b"last")
        tx.append("two", b"last")
    assert await payloads(one) == await payloads(two)


async def test_cancelled_catalog_calls_happen_or_not(store: aio.Store) -> None:
    for i in range(TURNS_MAX):
        task = asyncio.ensure_future(store.create_stream(f"s{i}"))
        await turns(i % 8)
        await cancelled(task)
        stream = await store.create_stream(f"s{i}", exists_ok=True)
        await stream.append(b"x")
    assert (await store.stats()).records == TURNS_MAX


async def test_a_cancelled_open_leaves_the_directory_free(tmp_path: Path) -> None:
    for i in range(8):
        task = asyncio.ensure_future(aio.open(tmp_path / "s")._open())
        await turns(i)
        task.cancel()
        (opened,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(opened, aio.Store):
            await opened.close()
    while True:
        try:
            store = await aio.open(tmp_path / "s")
        except hs.StoreLocked:
            await turns(1)
            continue
        break
    await store.create_stream("orders")
    await store.close()


async def test_cancelling_a_close_leaves_it_closing(tmp_path: Path) -> None:
    store = await aio.open(tmp_path / "s")
    stream = await store.create_stream("orders")
    waiting = asyncio.ensure_future(collect(stream.read(follow=True)))
    await turns(3)
    task = asyncio.ensure_future(store.close())
    await turns(2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.close()
    with pytest.raises(hs.StoreClosed):
        await waiting
    async with aio.open(tmp_path / "s"):
        pass


async def test_a_submitted_record_can_be_awaited(store: aio.Store) -> None:
    stream = await store.create_stream("orders")
    async with stream.producer(**NEVER) as producer:
        pending = [await producer.submit(b"%d" % i) for i in range(10)]
        ids = [await one for one in pending]
    assert [r.id for r in await collect(stream.read())] == ids


class Held:
    """A handler that waits until it is let go."""

    def __init__(self, count: int) -> None:
        self.began = asyncio.Semaphore(0)
        self.go = asyncio.Event()
        self.ended: list[object] = []
        self.cancelled: list[object] = []
        self.count = count

    async def __call__(self, delivery: hs.Delivery) -> None:
        self.began.release()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.append(delivery.payload)
            raise
        self.ended.append(delivery.payload)

    async def all_began(self) -> None:
        for _ in range(self.count):
            await self.began.acquire()


async def jobs(store: aio.Store, count: int) -> aio.Subscription:
    stream = await store.create_stream("jobs")
    await stream.append_many([b"%d" % n for n in range(count)])
    return await store.create_subscription("s", stream="jobs")


async def test_coroutines_handle_so_many_deliveries_at_a_time(store: aio.Store) -> None:
    subscription = await jobs(store, 200)
    running, most, done = 0, 0, asyncio.Semaphore(0)

    async def handle(delivery: hs.Delivery) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await turns(3)
        running -= 1
        done.release()

    async with subscription.consumer("w") as consumer:
        task = asyncio.ensure_future(consumer.run(handle, concurrency=8))
        for _ in range(200):
            await done.acquire()
        await consumer.close()
        await task
    assert most == 8
    assert await subscription.lag() == hs.Lag(0, 0)


async def test_a_cancelled_run_finishes_what_it_handles(store: aio.Store) -> None:
    subscription = await jobs(store, 50)
    handler = Held(3)
    async with subscription.consumer("w") as consumer, subscription.consumer("v") as other:
        task = asyncio.ensure_future(consumer.run(handler, concurrency=3))
        await handler.all_began()
        task.cancel()
        rest = await drain(other, 47)
        assert not task.done()
        handler.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (handler.ended, handler.cancelled) == ([b"0", b"1", b"2"], [])
        assert {d.payload for d in rest} == {b"%d" % n for n in range(3, 50)}
        assert await subscription.lag() == hs.Lag(47, 0)


async def test_what_takes_too_long_to_drain_is_cancelled_and_comes_again(store: aio.Store) -> None:
    subscription = await jobs(store, 5)
    handler = Held(2)
    async with subscription.consumer("w") as consumer:
        task = asyncio.ensure_future(consumer.run(handler, concurrency=2, drain_timeout=0.01))
        await handler.all_began()
        await consumer.close()
        await task
    assert (handler.ended, sorted(handler.cancelled)) == ([], [b"0", b"1"])
    async with subscription.consumer("w") as consumer:
        assert len(await drain(consumer, 5)) == 5


async def test_a_second_cancellation_does_not_wait(store: aio.Store) -> None:
    subscription = await jobs(store, 5)
    handler = Held(2)
    async with subscription.consumer("w") as consumer:
        task = asyncio.ensure_future(consumer.run(handler, concurrency=2))
        await handler.all_began()
        task.cancel()
        await turns(TURNS_MAX)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await turns(TURNS_MAX)
        assert (handler.ended, sorted(handler.cancelled)) == ([], [b"0", b"1"])
        assert len(await drain(consumer, 5)) == 5


async def test_a_handler_that_awaits_what_is_cancelled_has_failed(store: aio.Store) -> None:
    subscription = await jobs(store, 1)
    told: list[str] = []
    done = asyncio.Event()

    async def handle(delivery: hs.Delivery) -> None:
        if delivery.attempt == 1:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        done.set()

    async def on_error(delivery: hs.Delivery, error: BaseException) -> None:
        await turns(1)
        told.append(type(error).__name__)

    async with subscription.consumer("w") as consumer:
        task = asyncio.ensure_future(consumer.run(handle, on_error=on_error))
        await done.wait()
        await consumer.close()
        await task
    assert told == ["CancelledError"]
    assert await subscription.lag() == hs.Lag(0, 0)


async def test_a_coroutine_may_close_its_store(tmp_path: Path) -> None:
    async with aio.open(tmp_path / "s") as store:
        subscription = await jobs(store, 10)
        seen: list[object] = []

        async def handle(delivery: hs.Delivery) -> None:
            seen.append(delivery.payload)
            await delivery.ack()
            if len(seen) == 4:
                await store.close()

        await subscription.consumer("w").run(handle)
        assert store.closed
    async with aio.open(tmp_path / "s") as store:
        lag = await store.subscription("s").lag()
        assert lag.unacked + lag.backlog == 10 - len(seen)
        assert len(seen) == 4


async def test_a_plain_function_handles_without_holding_up_the_loop(store: aio.Store) -> None:
    subscription = await jobs(store, 1)
    go = threading.Event()
    async with subscription.consumer("w") as consumer:
        handled = asyncio.Event()
        loop = asyncio.get_running_loop()

        def handle(delivery: hs.Delivery) -> None:
            assert go.wait(60)
            loop.call_soon_threadsafe(handled.set)

        task = asyncio.ensure_future(consumer.run(handle))
        await turns(TURNS_MAX)
        go.set()
        await handled.wait()
        await consumer.close()
        await task
    assert await subscription.lag() == hs.Lag(0, 0)
