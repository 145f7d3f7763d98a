"""Whatever call a signal's handler raises in, memory and disk agree, and nothing sticks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import hstreamlite as hs
from hstreamlite._native import fast
from hstreamlite.batcher import ProducerCore, ProducerOptions
from hstreamlite.env import Lock
from hstreamlite.testing.simenv import SimEnv
from tests.struck import struck as struck_in
from tests.test_threads import raw

HERE = Path(hs.__file__).parent
CHANGING = [
    "edge.py",
    "engine.py",
    "feeds.py",
    "housekeeping.py",
    "log/catalog.py",
    "log/journal.py",
    "position.py",
    "progresslog.py",
    "redrive.py",
    "stream.py",
    "transaction.py",
]
GROUPS = [f"sub/{path.name}" for path in (HERE / "sub").glob("*.py")]
MOVING = [*CHANGING, "feed.py", *GROUPS]


def struck(at: int, work: Callable[[], Any], modules: list[str]) -> bool:
    """Do the work with an interrupt at the n-th call of these; whether there were so many."""
    return struck_in(at, work, {str(HERE / module) for module in modules})


CHANGES: dict[str, Callable[[hs.Store], object]] = {
    "create_stream": lambda store: store.create_stream("new"),
    "delete_stream": lambda store: store.delete_stream("spare"),
    "archive_stream": lambda store: store.delete_stream("read", force=True),
    "create_subscription": lambda store: store.create_subscription("late", stream="read"),
    "delete_subscription": lambda store: store.delete_subscription("group"),
    "pause": lambda store: store.subscription("group").pause(),
    "transaction": lambda store: transaction(store),
    "trim": lambda store: store.stream("read").trim(before=hs.LATEST),
    "snapshot": lambda store: store._ticker.house.snapshot(),
    "redrive": lambda store: store.subscription("mortal").redrive(),
}


def transaction(store: hs.Store) -> None:
    with store.transaction() as tx:
        tx.create_stream("new")
        tx.append("new", b"in it")
        tx.delete_stream("spare")


def free(*locks: Lock) -> bool:
    """Whether another thread could take each of these."""
    with ThreadPoolExecutor(1) as other:
        return all(other.submit(taken, lock).result() for lock in locks)


def taken(lock: Lock) -> bool:
    with fast.Held([lock], blocking=False) as held:
        return held


def shown(store: hs.Store) -> dict[str, object]:
    streams = {info.name: list(store.stream(info.name).read()) for info in store.streams()}
    return {**streams, "subscriptions": store.subscriptions()}


def bury(store: hs.Store) -> None:
    """Make a subscription with a dead letter."""
    store.create_stream("dead")
    store.create_stream("living").append(b"4")
    store.create_subscription("mortal", stream="living", max_attempts=1, dead_letter="dead")
    with store.subscription("mortal").consumer("w") as consumer:
        consumer.release(consumer.receive(1))
    store._ticker.run_once()
    store.sync()
    assert store.stream("dead").tail()


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_interrupted_at_any_call_is_whole_or_absent_in_memory_as_on_disk(
    change: str,
) -> None:
    at = 0
    goes_on = True
    while goes_on:
        at += 1
        env = SimEnv()
        store = hs.open("/s", env=env)
        store.create_stream("spare").append(b"1")
        store.create_stream("read").append(b"2")
        store.create_subscription("group", stream="read")
        if change == "redrive":
            bury(store)
        feeds = store._feeds.all()
        calling = partial(CHANGES[change], store)
        goes_on = struck(at, calling, CHANGING)
        assert free(store._engine.lock, *(feed.lock for feed in feeds))
        store.sync()
        store._ticker.run_once()  # it looks after a trim that nobody waits for any more
        store.create_stream("later").append(b"3")
        with suppress(hs.StreamNotFound, hs.SubscriptionNotFound):  # the first time it happened
            if "delete" in change:
                CHANGES[change](store)
        before = shown(store)
        store.close()
        with hs.open("/s", env=env) as again:
            assert shown(again) == before


def test_a_regrouping_that_was_interrupted_at_any_call_is_begun_anew() -> None:
    config = hs.StoreConfig(segment_bytes_min=64 << 10, segment_bytes_max=64 << 10, regroup=False)
    at = 0
    goes_on = True
    while goes_on:
        at += 1
        env = SimEnv()
        with hs.open("/s", env=env, config=config) as store:
            streams = [store.create_stream(name) for name in "abcd"]
            for _ in range(8):
                for stream in streams:
                    stream.append_many([b"." * 1000] * 5)
            goes_on = struck(at, store.compact, ["regrouper.py", "log/swap.py"])
            compacted = threading.Thread(target=store.compact, daemon=True)
            compacted.start()
            compacted.join(60)
            assert not compacted.is_alive()
            assert store.stats().log["segments_regrouped"]


def rest(store: hs.Store) -> list[bytes]:
    """Return what nobody has acked of the subscription."""
    with store.subscription("group").consumer("look") as consumer:
        found = []
        while records := consumer.receive(100, timeout=0):
            found += [record.payload for record in records]
        return sorted(found)


@pytest.mark.parametrize("mode", ["ordered", "shared"])
def test_what_an_interrupted_transaction_committed_does_not_come_again(mode: str) -> None:
    at = 0
    goes_on = True
    while goes_on:
        at += 1
        env = SimEnv()
        store = hs.open("/s", env=env)
        stream, out = store.create_stream("in"), store.create_stream("out")
        stream.append_many([b"%d" % n for n in range(6)])
        store.create_subscription("group", stream="in", mode=mode)
        with store.subscription("group").consumer("worker") as worker:
            taken = worker.receive(4)

            def work() -> None:
                with store.transaction() as tx:  # noqa: B023 - called at once
                    tx.ack(taken[1:3])  # noqa: B023
                    tx.append("out", b"done")

            goes_on = struck(at, work, MOVING)
            assert free(store._engine.lock, worker._feed.lock)
        store.sync()
        done = [record.payload for record in out.read()]
        left = [b"0", b"3", b"4", b"5"] if done else [b"%d" % n for n in range(6)]
        env.advance(61)  # the deadline of what nobody knows who holds it
        assert rest(store) == left
        store.close()
        with hs.open("/s", env=env) as again:
            assert [record.payload for record in again.stream("out").read()] == done
            assert rest(again) == left
    assert done


@pytest.mark.parametrize("mode", ["ordered", "shared"])
def test_an_interrupted_seek_moved_the_subscription_in_memory_as_on_disk(mode: str) -> None:
    at = 0
    goes_on = True
    while goes_on:
        at += 1
        env = SimEnv()
        store = hs.open("/s", env=env)
        ids = store.create_stream("in").append_many([b"%d" % n for n in range(6)])
        group = store.create_subscription("group", stream="in", mode=mode)
        with group.consumer("worker") as worker:
            worker.ack(worker.receive(6)[:5])
            worker.commit()
            goes_on = struck(at, partial(group.seek, ids[2]), MOVING)
            assert free(worker._feed.lock)
        left = rest(store)
        assert left in ([b"5"], [b"2", b"3", b"4", b"5"])
        store.close()
        with hs.open("/s", env=env) as again:
            assert rest(again) == left
    assert len(left) == 4


@pytest.mark.parametrize("mode", ["ordered", "shared"])
def test_an_interrupted_reading_ahead_holds_nobody_up(mode: str) -> None:
    at = 0
    goes_on = True
    while goes_on:
        at += 1
        with hs.open("/s", env=SimEnv()) as store:
            stream = store.create_stream("in")
            stream.append_many([b"1"] * 10)
            store.create_subscription("group", stream="in", mode=mode)
            with store.subscription("group").consumer("worker") as worker:
                worker.ack(worker.receive(1))
                worker.ack(worker.receive(1))  # the hatch is open now
                calling = partial(worker.receive, 2, timeout=0)
                goes_on = struck(at, calling, ["ahead.py"])
                ahead = worker._feed.ahead
                assert free(ahead._reading, worker._feed.lock)
                assert not ahead._waiting
    assert at > 1


def test_an_interrupted_try_to_stage_leaves_the_store_free() -> None:
    at = 0
    goes_on = True
    while goes_on:
        at += 1
        with hs.open("/s", env=SimEnv()) as store:
            store.create_stream("in")
            core = ProducerCore(store._engine, "in", ProducerOptions(name="p"))
            core.add(b"1", 1)
            batch = core.detach()
            assert batch is not None
            goes_on = struck(at, partial(core.try_stage, batch), ["batcher.py", "log/journal.py"])
            assert free(store._engine.lock)
            assert batch.ids or goes_on


@pytest.mark.parametrize("name", [None, "p"])
def test_an_interrupted_producer_drops_nothing_and_doubles_nothing(name: str | None) -> None:
    modules = ["batcher.py", "engine.py", "log/journal.py", "log/producers.py", "producer.py"]
    at = 0
    goes_on = True
    while goes_on:
        at += 1
        env, taken = SimEnv(), list[int]()
        with hs.open("/s", env=env) as store:
            producer = store.create_stream("in").producer(name=name, batch_records=2)

            def work(producer: hs.Producer = producer, taken: list[int] = taken) -> None:
                for number in range(5):
                    producer.submit(b"%d" % number, key=str(number))
                    taken.append(number)
                producer.flush()

            goes_on = struck(at, work, modules)
            producer.close()
            stored = [int(raw(record)) for record in store.stream("in").read()]
            assert stored == sorted(set(stored)), at
            assert set(taken) <= set(stored), at
            if name is not None:
                assert producer.last_sequence == len(stored)
                again = store.stream("in").producer(name=name)
                again.submit(b"9")
                again.close()
        with hs.open("/s", env=env) as store:
            assert len(list(store.stream("in").read())) == len(stored) + (name is not None)
            if name is not None:
                assert store.stream("in").producer(name=name).last_sequence == len(stored) + 1
    assert at > 50
