"""Whoever waits for records, however long, is told that the subscription or the store is gone.

Method: nothing else is due for an hour, and nobody looks of himself: only who is told can end.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hstreamlite as hs
from hstreamlite import aio

SECONDS = 60.0
"""For what is not told to end."""
HOUR = 3600.0
ENDS: dict[str, tuple[type[hs.HStreamError], Callable[[Any], Any]]] = {
    "deleted": (
        hs.SubscriptionNotFound,
        lambda store: store.delete_subscription("s", force=True),
    ),
    "closed": (hs.StoreClosed, lambda store: store.close()),
}
WAITS: dict[str, Callable[[Any], Any]] = {
    "receive": lambda consumer: consumer.receive(),
    "receive with a timeout": lambda consumer: consumer.receive(10, timeout=HOUR),
    "iterate": list,
}
WHY = ["no records", "paused", "window full", "all is delayed"]


@pytest.fixture(autouse=True)
def _without_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hstreamlite.consumer._SLICE_NS", int(HOUR * 1e9))


def prepared(path: Path, why: str) -> None:
    """Make a store in which nothing can be delivered, but for what the test itself holds up."""
    with hs.open(path) as store:
        stream = store.create_stream("a")
        start = hs.LATEST if why == "no records" else hs.EARLIEST
        stream.append_many([b"x"] * 10)
        subscription = store.create_subscription(
            "s", stream="a", start=start, max_unacked=10, ack_timeout=HOUR
        )
        stream.append_many([b"x"] * (0 if why == "no records" else 10))
        if why == "paused":
            subscription.pause()


def waiting(stats: hs.StoreStats) -> int:
    return sum(consumer.waiting for consumer in stats.subscriptions["s"].attached)


@pytest.mark.parametrize("why", WHY)
@pytest.mark.parametrize("end", ENDS)
def test_threads_that_wait_end_with_a_typed_error(tmp_path: Path, end: str, why: str) -> None:
    prepared(tmp_path / "s", why)
    error, finish = ENDS[end]
    store = hs.open(tmp_path / "s")
    subscription = store.subscription("s")
    holder = subscription.consumer("holder")
    held = holder.receive(10, timeout=0)
    assert len(held) == (10 if why in ("window full", "all is delayed") else 0)
    if why == "all is delayed":
        assert holder.release(held, after=HOUR) == 10
    found: dict[str, BaseException] = {}

    def wait(how: str, consumer: hs.Consumer) -> None:
        try:
            WAITS[how](consumer)
        except hs.HStreamError as raised:
            found[how] = raised

    threads = [
        threading.Thread(target=wait, args=(how, subscription.consumer(how)), daemon=True)
        for how in WAITS
    ]
    for thread in threads:
        thread.start()
    while waiting(store.stats()) < len(WAITS):
        os.sched_yield()
    finish(store)
    for thread in threads:
        thread.join(SECONDS)
    assert not any(thread.is_alive() for thread in threads)
    assert {how: type(raised) for how, raised in found.items()} == dict.fromkeys(WAITS, error)
    for delivery in held:
        with pytest.raises(error):
            delivery.ack()
    store.close()


async def listed(consumer: aio.Consumer) -> list[hs.Delivery]:
    return [delivery async for delivery in consumer]


@pytest.mark.asyncio
@pytest.mark.parametrize("why", WHY)
@pytest.mark.parametrize("end", ENDS)
async def test_tasks_that_wait_end_with_a_typed_error(tmp_path: Path, end: str, why: str) -> None:
    prepared(tmp_path / "s", why)
    error, finish = ENDS[end]
    store = await aio.open(tmp_path / "s")
    subscription = store.subscription("s")
    holder = subscription.consumer("holder")
    held = await holder.receive(10, timeout=0)
    if why == "all is delayed":
        assert await holder.release(held, after=HOUR) == 10
    waits: dict[str, Callable[[Any], Any]] = {"receive": aio.Consumer.receive, "iterate": listed}
    tasks = [asyncio.ensure_future(wait(subscription.consumer(n))) for n, wait in waits.items()]
    tasks.append(asyncio.ensure_future(subscription.consumer("timed").receive(10, timeout=HOUR)))
    while waiting(await store.stats()) < len(tasks):  # noqa: ASYNC110 - it rings for nobody
        await asyncio.sleep(0)
    await finish(store)
    done, left = await asyncio.wait(tasks, timeout=SECONDS)
    assert not left
    assert {type(task.exception()) for task in done} == {error}
    for delivery in held:
        with pytest.raises(error):
            delivery.ack()
    await store.close()


@pytest.mark.parametrize("end", ENDS)
def test_a_consumer_that_is_ended_leaves_quietly_and_its_name_is_free(
    tmp_path: Path, end: str
) -> None:
    prepared(tmp_path / "s", "window full")
    error, finish = ENDS[end]
    store = hs.open(tmp_path / "s")
    with store.subscription("s").consumer("w") as consumer:
        batch = consumer.receive(5)
        finish(store)
        for call in (
            consumer.receive,
            consumer.gaps,
            consumer.events,
            lambda: consumer.ack(batch),
            lambda: consumer.release(batch),
            lambda: consumer.extend(batch, by=1.0),
        ):
            with pytest.raises(error):
                call()
    store.close()
    with hs.open(tmp_path / "s") as store:
        again = store.create_subscription("s", stream="a", exists_ok=True).consumer("w")
        assert {d.attempt for d in again.receive(5)} == ({1} if end == "deleted" else {2})
