"""Consumers that hand their deliveries to a function: how many, how often, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import hstreamlite as hs
from tests.conformance.faces import Consumer, Face, Store, Subscription, drain
from tests.logs import logged

pytestmark = pytest.mark.asyncio

SECONDS_MAX = 60


async def filled(store: Store, count: int, **options: object) -> Subscription:
    stream = await store.create_stream("orders", exists_ok=True)
    await stream.append_many([b"%d" % i for i in range(count)])
    return await store.create_subscription("billing", stream="orders", **options)


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, SECONDS_MAX)


class Handler:
    """Notes what it is given; each call waits until it is let go."""

    def __init__(self, count: int, *, held: bool = False) -> None:
        self.count = count
        self.seen: list[hs.Delivery] = []
        self.busy = self.most = 0
        self.began = threading.Event()
        self.all = threading.Event()
        self.go = threading.Event()
        self._lock = threading.Lock()
        if not held:
            self.go.set()

    def __call__(self, delivery: hs.Delivery) -> None:
        with self._lock:
            self.busy += 1
            self.most = max(self.most, self.busy)
            if self.busy == self.count:
                self.began.set()
        assert self.go.wait(SECONDS_MAX)
        with self._lock:
            self.busy -= 1
            self.seen.append(delivery)
            if len(self.seen) == self.count:
                self.all.set()

    def payloads(self) -> list[object]:
        return [delivery.payload for delivery in self.seen]


def start(
    consumer: Consumer, handle: Callable[..., object], **options: object
) -> asyncio.Task[None]:
    return asyncio.ensure_future(consumer.run(handle, **options))


@pytest.mark.parametrize("concurrency", [1, 5])
async def test_every_record_is_handled_and_acked(store: Store, concurrency: int) -> None:
    subscription = await filled(store, 500)
    handler = Handler(510)
    async with subscription.consumer("w") as consumer:
        running = start(consumer, handler, concurrency=concurrency)
        for _ in range(10):
            await store.stream("orders").append(b"more")
        await until(handler.all)
        await consumer.close()
        await running
        assert consumer.closed
    counts = Counter(handler.payloads())
    assert counts == Counter([b"%d" % i for i in range(500)] + [b"more"] * 10)
    assert await subscription.lag() == hs.Lag(0, 0)
    assert handler.most <= concurrency


async def test_so_many_are_handled_at_once_and_few_are_taken_ahead(store: Store) -> None:
    subscription = await filled(store, 300)
    halfway, go_on = threading.Event(), threading.Event()
    unacked: list[int] = []
    async with subscription.consumer("w", prefetch=7) as consumer:
        handler = Handler(4, held=True)

        def handle(delivery: hs.Delivery) -> None:
            if delivery.payload == b"150":
                halfway.set()
                assert go_on.wait(SECONDS_MAX)
            handler(delivery)

        running = start(consumer, handle, concurrency=4)
        await until(handler.began)
        assert await subscription.lag() == hs.Lag(4, 296)
        handler.go.set()
        await until(halfway)
        unacked.append((await subscription.lag()).unacked)
        go_on.set()
        while (lag := await subscription.lag()) != hs.Lag(0, 0):
            unacked.append(lag.unacked)
            await asyncio.sleep(0)
        await consumer.close()
        await running
    assert handler.most == 4
    assert 1 <= max(unacked) <= 4 + 7
    assert len(handler.seen) == 300


async def test_an_exception_gives_the_record_back_and_is_logged_once(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    subscription = await filled(store, 20)
    handler = Handler(20)
    told: list[tuple[object, str]] = []

    def handle(delivery: hs.Delivery) -> None:
        if delivery.payload == b"7" and delivery.attempt <= 2:
            raise LookupError(f"no customer {delivery.attempt}")
        handler(delivery)

    def on_error(delivery: hs.Delivery, error: Exception) -> None:
        told.append((delivery.payload, str(error)))

    async with subscription.consumer("w") as consumer:
        with caplog.at_level(logging.ERROR, "hstreamlite"):
            running = start(consumer, handle, on_error=on_error, concurrency=3)
            await until(handler.all)
            await consumer.close()
            await running
    assert told == [(b"7", "no customer 1"), (b"7", "no customer 2")]
    (failed,) = [delivery for delivery in handler.seen if delivery.attempt > 1]
    assert (failed.payload, failed.attempt) == (b"7", 3)
    records = logged(caplog)
    assert [record.getMessage() for record in records] == [
        f"handler of subscription 'billing' raised for record {failed.id}, attempt {n}"
        for n in (1, 2)
    ]
    assert all(record.exc_info for record in records)
    assert await subscription.lag() == hs.Lag(0, 0)


async def test_what_the_handler_settles_itself_is_left_so(store: Store) -> None:
    subscription = await filled(store, 6)
    handler = Handler(6)

    def handle(delivery: hs.Delivery) -> None:
        if delivery.payload in {b"1", b"2"}:
            delivery.release(after=3600.0)
        if delivery.payload in {b"2", b"3"}:
            delivery.ack()
        handler(delivery)
        if delivery.payload == b"3":
            raise LookupError("acked already")

    async with subscription.consumer("w") as consumer:
        running = start(consumer, handle)
        await until(handler.all)
        await consumer.close()
        await running
    assert await subscription.lag() == hs.Lag(1, 0)
    async with subscription.consumer("v") as consumer:
        assert await consumer.receive(10, timeout=0) == ()


async def test_on_error_may_settle_the_record(store: Store) -> None:
    subscription = await filled(store, 3)
    failed = threading.Semaphore(0)

    def handle(delivery: hs.Delivery) -> None:
        raise LookupError

    def on_error(delivery: hs.Delivery, error: Exception) -> None:
        delivery.ack()
        failed.release()

    async with subscription.consumer("w") as consumer:
        running = start(consumer, handle, on_error=on_error)
        for _ in range(3):
            await asyncio.to_thread(failed.acquire)
        await consumer.close()
        await running
    assert await subscription.lag() == hs.Lag(0, 0)


async def test_an_error_that_cannot_tell_what_it_is_is_one_as_any_other(store: Store) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    subscription = await filled(store, 1)
    again = threading.Event()

    def handle(delivery: hs.Delivery) -> None:
        if delivery.attempt == 1:
            raise Mute
        again.set()

    async with subscription.consumer("w") as consumer:
        running = start(consumer, handle)
        await until(again)
        await consumer.close()
        await running


async def test_what_on_error_raises_ends_the_run(store: Store) -> None:
    subscription = await filled(store, 30)

    def handle(delivery: hs.Delivery) -> None:
        if delivery.payload == b"9":
            raise LookupError("poison")

    def on_error(delivery: hs.Delivery, error: Exception) -> None:
        raise error

    async with subscription.consumer("w") as consumer, subscription.consumer("v") as other:
        with pytest.raises(LookupError, match="poison"):
            await consumer.run(handle, on_error=on_error)
        rest = await drain(other, 21)
        assert {delivery.payload for delivery in rest} == {b"%d" % i for i in range(9, 30)}
        await other.ack(rest)
        handler = Handler(1)
        await store.stream("orders").append(b"later")
        running = start(consumer, handler)
        await until(handler.all)
        await consumer.close()
        await running


class Enough(BaseException):
    """Like SystemExit, which an event loop lets out on its own way."""


async def test_what_is_no_exception_ends_the_run(store: Store) -> None:
    subscription = await filled(store, 30)

    def handle(delivery: hs.Delivery) -> None:
        if delivery.payload == b"5":
            raise Enough

    async with subscription.consumer("w") as consumer:
        with pytest.raises(Enough):
            await consumer.run(handle)
        got = await drain(consumer, 25)
        assert {delivery.payload for delivery in got} == {b"%d" % i for i in range(5, 30)}


async def test_closing_finishes_what_runs_and_gives_back_the_rest_at_once(store: Store) -> None:
    subscription = await filled(store, 100)
    async with subscription.consumer("w") as consumer, subscription.consumer("v") as other:
        quick, slow = Handler(90), Handler(2, held=True)

        def handle(delivery: hs.Delivery) -> None:
            (quick if len(quick.seen) < 90 else slow)(delivery)

        running = start(consumer, handle, concurrency=2)
        await until(slow.began)
        closing = asyncio.ensure_future(consumer.close())
        rest = await drain(other, 8)
        assert not closing.done()
        assert not running.done()
        slow.go.set()
        await closing
        await running
        handled = {d.payload for d in (*quick.seen, *slow.seen)}
        assert handled | {d.payload for d in rest} == {b"%d" % i for i in range(100)}
        assert len(handled) == 92
        assert await subscription.lag() == hs.Lag(8, 0)


async def test_closing_the_store_finishes_what_runs_and_keeps_its_acks(
    face: Face, tmp_path: Path
) -> None:
    async with face.open(tmp_path / "s") as store:
        subscription = await filled(store, 50)
        handler = Handler(3, held=True)
        running = start(subscription.consumer("w"), handler, concurrency=3)
        await until(handler.began)
        closing = asyncio.ensure_future(store.close())
        await asyncio.sleep(0)
        assert not closing.done()
        handler.go.set()
        await closing
        await running
        assert len(handler.seen) >= 3
    async with face.open(tmp_path / "s") as store:
        handled = {delivery.id for delivery in handler.seen}
        async with store.subscription("billing").consumer("w") as consumer:
            rest = await drain(consumer, 50 - len(handled))
            assert not {delivery.id for delivery in rest} & handled
            assert await consumer.receive(1, timeout=0) == ()


async def test_a_handler_may_close_its_consumer(store: Store) -> None:
    subscription = await filled(store, 10)
    loop = asyncio.get_running_loop()
    async with subscription.consumer("w") as consumer:
        noun = getattr(consumer, "_noun", consumer)

        def handle(delivery: hs.Delivery) -> None:
            if delivery.payload == b"4":
                answer = noun.close()
                if answer is not None:
                    asyncio.run_coroutine_threadsafe(answer, loop)

        await consumer.run(handle)
        assert consumer.closed
    lag = await subscription.lag()
    assert lag.unacked + lag.backlog <= 5


async def test_a_handler_that_takes_too_long_is_not_waited_for(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    subscription = await filled(store, 5)
    handler = Handler(1, held=True)
    with caplog.at_level(logging.WARNING, "hstreamlite"):
        async with subscription.consumer("w") as consumer, subscription.consumer("v") as other:
            running = start(consumer, handler, drain_timeout=0)
            await until(handler.began)
            await consumer.close()
            assert "1 handlers of consumer 'w' of subscription 'billing' still run" in caplog.text
            assert len(await drain(other, 5)) == 5
            handler.go.set()
            await running


async def test_a_run_that_ends_does_not_wait_for_a_handler_that_takes_too_long(
    store: Store,
) -> None:
    subscription = await filled(store, 2)
    held, go, over = threading.Event(), threading.Event(), threading.Event()

    def handle(delivery: hs.Delivery) -> None:
        if delivery.payload == b"0":
            held.set()
            go.wait(SECONDS_MAX)
            over.set()
        else:
            assert held.wait(SECONDS_MAX)
            raise SystemExit(3)

    async with subscription.consumer("w") as consumer:
        try:
            with pytest.raises(SystemExit):
                await consumer.run(handle, concurrency=2, drain_timeout=0)
            assert not over.is_set()
        finally:
            go.set()


async def test_deleting_the_subscription_by_force_ends_the_run(store: Store) -> None:
    subscription = await filled(store, 1)
    handler = Handler(1)
    running = start(subscription.consumer("w"), handler, concurrency=3)
    await until(handler.all)
    await store.delete_subscription("billing", force=True)
    with pytest.raises(hs.SubscriptionNotFound, match="billing"):
        await running


async def test_a_consumer_runs_once_at_a_time(store: Store) -> None:
    subscription = await filled(store, 0)
    consumer = subscription.consumer("w")
    handler = Handler(1)
    running = start(consumer, handler)
    await store.stream("orders").append(b"x")
    await until(handler.all)
    with pytest.raises(ValueError, match="runs already"):
        await consumer.run(Handler(1))
    await consumer.close()
    await running
    with pytest.raises(hs.ConsumerClosed):
        await consumer.run(Handler(1))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"concurrency": 0}, ValueError),
        ({"concurrency": 1001}, ValueError),
        ({"concurrency": "4"}, TypeError),
        ({"drain_timeout": -1}, ValueError),
        ({"drain_timeout": "1"}, TypeError),
        ({"on_error": "print"}, TypeError),
        ({"handle": None}, TypeError),
    ],
)
async def test_wrong_arguments(
    store: Store, options: dict[str, object], error: type[Exception]
) -> None:
    subscription = await filled(store, 1)
    async with subscription.consumer("w") as consumer:
        (name,) = options
        with pytest.raises(error, match="workers|concurrency" if name == "concurrency" else name):
            await consumer.run(**{"handle": print, **options})
        assert len(await consumer.receive(1)) == 1


async def test_what_a_handler_raises_is_the_reason_of_a_dead_letter(store: Store) -> None:
    await store.create_stream("dead")
    subscription = await filled(store, 2, max_attempts=3, dead_letter="dead")

    def handle(delivery: hs.Delivery) -> None:
        raise LookupError(f"no customer {delivery.payload!r}")

    async with subscription.consumer("w") as consumer:
        running = start(consumer, handle, concurrency=2)
        letters = []
        async for letter in store.stream("dead").read(follow=True):
            letters.append(letter)
            if len(letters) == 2:
                break
        await consumer.close()
        await running
    assert {letter.attributes["hstreamlite-dead-reason"] for letter in letters} == {
        "LookupError: no customer b'0'",
        "LookupError: no customer b'1'",
    }
    assert {letter.attributes["hstreamlite-dead-attempts"] for letter in letters} == {"3"}


async def test_a_handler_that_fails_does_not_let_later_records_of_its_key_go_first(
    store: Store,
) -> None:
    orders = await store.create_stream("orders")
    keys = [f"k{n % 7}" for n in range(200)]
    await orders.append_many([hs.Record(b"%d" % n, key=key) for n, key in enumerate(keys)])
    subscription = await store.create_subscription("billing", stream="orders")
    handled: list[tuple[str | None, int]] = []
    busy: Counter[str | None] = Counter()
    beside: list[str | None] = []
    done = threading.Event()
    lock = threading.Lock()

    def handle(delivery: hs.Delivery) -> None:
        number = int(bytes(delivery.payload))  # type: ignore[arg-type]
        with lock:
            busy[delivery.key] += 1
            beside.extend([delivery.key] * (busy[delivery.key] > 1))
        try:
            if number % 5 == 0 and (delivery.key, number) not in failed:
                failed.add((delivery.key, number))
                raise RuntimeError(number)
            with lock:
                handled.append((delivery.key, number))
                if len(handled) == 200:
                    done.set()
        finally:
            with lock:
                busy[delivery.key] -= 1

    failed: set[tuple[str | None, int]] = set()
    async with subscription.consumer("one") as one, subscription.consumer("two") as two:
        runs = [start(one, handle, concurrency=4), start(two, handle, concurrency=3)]
        await until(done)
        await one.close()
        await two.close()
        await asyncio.gather(*runs)
    assert len(failed) == 40
    assert beside == [], "two records of one key at a time"
    for key in dict.fromkeys(keys):
        own = [number for of, number in handled if of == key]
        assert own == sorted(set(own))
    assert await subscription.lag() == hs.Lag(0, 0)
