"""How far a subscription is behind, in bytes and in time, where time and sizes are known."""

from __future__ import annotations

import pytest

import hstreamlite as hs
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import small_config


def opened(env: SimEnv) -> hs.Store:
    return hs.open("/db", config=small_config(), env=env)


def test_age_is_that_of_the_oldest_record_not_acked_or_not_delivered() -> None:
    env = SimEnv(seed=1)
    store = opened(env)
    stream = store.create_stream("a")
    subscription = store.create_subscription("s", stream="a")
    assert subscription.lag() == hs.Lag(0, 0)
    assert (subscription.lag().age, subscription.lag().bytes) == (0.0, 0)
    for _ in range(3):
        stream.append(b"x")
        env.advance(10.0)
    assert subscription.lag().age == pytest.approx(30.0, abs=0.1)
    with subscription.consumer("w") as consumer:
        one, two = consumer.receive(2, timeout=0)
        assert subscription.lag().age == pytest.approx(30.0, abs=0.1)
        two.ack()
        assert subscription.lag().age == pytest.approx(30.0, abs=0.1)
        one.ack()
        assert subscription.lag().age == pytest.approx(10.0, abs=0.1)
        (three,) = consumer.receive(2, timeout=0)
        assert subscription.lag().age == pytest.approx(10.0, abs=0.1)
        three.ack()
        assert (subscription.lag().age, subscription.lag().bytes) == (0.0, 0)


def test_age_of_several_shards_is_that_of_the_oldest() -> None:
    env = SimEnv(seed=1)
    store = opened(env)
    store._engine.create_stream("a", shards=8)
    for n in range(40):
        store.stream("a").append(b"x", key=f"k{n}", durability="os")
        env.advance(1.0)
    store.sync()
    subscription = store.create_subscription("s", stream="a")
    assert subscription.lag().age == pytest.approx(40.0, abs=0.1)


def test_age_is_never_negative_and_follows_the_wall_clock() -> None:
    env = SimEnv(seed=1)
    store = opened(env)
    store.create_stream("a").append(b"x")
    subscription = store.create_subscription("s", stream="a")
    env.disk.set_wall_ms(env.clock.wall_ms() - 3_600_000)
    assert subscription.lag().age == 0.0
    env.disk.set_wall_ms(env.clock.wall_ms() + 2 * 3_600_000)
    assert subscription.lag().age == pytest.approx(3600.0, abs=0.1)


@pytest.mark.parametrize("shards", [1, 4])
def test_bytes_are_those_behind_about(shards: int) -> None:
    env = SimEnv(seed=1)
    store = opened(env)
    store._engine.create_stream("a", shards=shards)
    stream = store.stream("a")
    ids = [stream.append(bytes(500), key=f"k{n % 16}", durability="os") for n in range(600)]
    store.sync()
    subscription = store.create_subscription("s", stream="a")
    total = stream.info().bytes
    assert subscription.lag().bytes == total
    for behind in (599, 450, 300, 77, 1):
        subscription.seek(ids[600 - behind])
        lag = subscription.lag()
        assert lag.backlog == behind
        assert lag.bytes == pytest.approx(total * behind / 600, rel=0.05, abs=600 * shards)
    subscription.seek(hs.LATEST)
    assert subscription.lag().bytes == 0


def test_bytes_of_what_is_out_and_acked_in_between_are_shared_out() -> None:
    store = opened(SimEnv(seed=1))
    stream = store.create_stream("a")
    for _ in range(100):
        stream.append(bytes(500), durability="os")
    store.sync()
    subscription = store.create_subscription("s", stream="a")
    total = stream.info().bytes
    with subscription.consumer("w") as consumer:
        batch = consumer.receive(80, timeout=0)
        assert subscription.lag().bytes == pytest.approx(total, rel=0.01)
        consumer.ack(batch[1:41])
        assert subscription.lag().bytes == pytest.approx(total * 0.6, rel=0.02)
        consumer.ack(batch)
        assert subscription.lag().bytes == pytest.approx(total * 0.2, rel=0.02)


def test_what_was_trimmed_is_behind_nobody() -> None:
    env = SimEnv(seed=1)
    store = opened(env)
    stream = store.create_stream("a")
    subscription = store.create_subscription("s", stream="a")
    old = [stream.append(bytes(500)) for _ in range(10)]
    env.advance(100.0)
    stream.append(b"new")
    with subscription.consumer("w") as consumer:
        consumer.receive(5, timeout=0)
        stream.trim(before=store.stream("a").tail())
        lag = subscription.lag()
        assert old[0] is not None
        assert lag.age < 1.0
        assert 0 < lag.bytes < 600
