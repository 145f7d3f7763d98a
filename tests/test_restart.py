"""What a subscription remembers of deliveries over the death of its process."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite.testing.simenv import SimEnv


def test_a_record_that_kills_its_process_comes_with_a_higher_attempt_each_time() -> None:
    env = SimEnv(seed=1)
    with hs.open("/store", env=env) as store:
        store.create_stream("orders").append(b"poison")
        store.create_subscription("billing", stream="orders")
    for attempt in range(1, 5):
        env = env.process_crash()
        store = hs.open("/store", env=env)
        consumer = store.subscription("billing").consumer("worker")
        assert [d.attempt for d in consumer.receive(10)] == [attempt]
        env.advance(0.1)
        store.tick()
        env.advance(0.1)
        store.tick()


def test_of_two_producers_of_a_name_the_one_left_behind_is_closed() -> None:
    with hs.open("/store", env=SimEnv(seed=1)) as store:
        stream = store.create_stream("orders")
        first, second = stream.producer(name="p"), stream.producer(name="p")
        first.submit(b"a")
        first.flush()
        left_behind = second.submit(b"b")
        with pytest.raises(hs.ProducerClosed):
            left_behind.result()
        assert [record.payload for record in stream.read()] == [b"a"]


def test_small_limits_leave_room_for_the_store_itself() -> None:
    config = hs.StoreConfig(batch_bytes_max=1 << 10, transaction_bytes_max=1 << 10)
    with hs.open("/store", env=SimEnv(seed=1), config=config) as store:
        stream = store.create_stream("orders")
        for number in range(1200):
            stream.append(b"%d" % number, durability="memory")
        store.sync()
        with store.create_subscription("s", stream="orders").consumer("c") as consumer:
            for delivery in consumer.receive(1200)[::2]:
                delivery.ack()
        assert store.subscription("s").lag().unacked == 600


def test_opening_many_subscriptions_does_not_search_them_for_garbage_again_and_again(
    tmp_path: Path,
) -> None:
    with hs.open(tmp_path) as store:
        store.create_stream("events")
        for number in range(200):
            store.create_subscription(f"group-{number}", stream="events")
    found: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            found.append(info["generation"])

    gc.collect()
    gc.callbacks.append(note)
    try:
        with hs.open(tmp_path):
            assert gc.isenabled()
    finally:
        gc.callbacks.remove(note)
    assert len(found) < 10, "it takes some hundred objects to start one, and a group has dozens"
