"""What a subscription remembers of deliveries over the death of its process."""

from __future__ import annotations

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
