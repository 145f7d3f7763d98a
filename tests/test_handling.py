"""Runs of a consumer in virtual time: without threads, each record is handled once a run."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite.testing.simenv import SimEnv


@pytest.fixture
def env() -> SimEnv:
    return SimEnv(seed=3)


@pytest.fixture
def store(env: SimEnv) -> hs.Store:
    store = hs.open("/db", env=env)
    store.create_stream("jobs").append_many([b"%d" % n for n in range(20)])
    store.create_subscription("s", stream="jobs", ack_timeout=60.0)
    return store


def test_a_run_handles_what_there_is_and_returns(store: hs.Store) -> None:
    seen: list[object] = []
    with store.subscription("s").consumer("w", prefetch=3) as consumer:
        consumer.run(lambda delivery: seen.append(delivery.payload), workers=7)
        assert seen == [b"%d" % n for n in range(20)]
        consumer.run(lambda delivery: seen.append(delivery.payload))
        store.stream("jobs").append(b"more")
        consumer.run(lambda delivery: seen.append(delivery.payload))
    assert seen[20:] == [b"more"]
    assert store.subscription("s").lag() == hs.Lag(0, 0)


def test_what_fails_is_tried_once_a_run(store: hs.Store, caplog: pytest.LogCaptureFixture) -> None:
    attempts: list[int] = []

    def handle(delivery: hs.Delivery) -> None:
        if delivery.payload == b"3":
            attempts.append(delivery.attempt)
            if len(attempts) < 3:
                raise LookupError

    with (
        store.subscription("s").consumer("w") as consumer,
        caplog.at_level(logging.CRITICAL, "hstreamlite"),
    ):
        for left in (1, 1, 0):
            consumer.run(handle)
            lag = store.subscription("s").lag()
            assert lag.unacked + lag.backlog == left
    assert attempts == [1, 2, 3]


def test_what_timed_out_while_it_waited_is_not_handled_as_if_it_were_held(
    env: SimEnv, store: hs.Store
) -> None:
    handled: list[tuple[object, int]] = []

    def handle(delivery: hs.Delivery) -> None:
        handled.append((delivery.payload, delivery.attempt))
        if delivery.payload == b"9" and delivery.attempt == 1:
            env.advance(61.0)

    with store.subscription("s").consumer("w") as consumer:
        consumer.run(handle)
    assert sorted(payload for payload, _ in handled) == sorted(b"%d" % n for n in range(20))
    assert (b"10", 1) not in handled
    assert {attempt for payload, attempt in handled if int(payload) < 10} == {1}


def test_slow_handlers_have_nothing_taken_ahead(env: SimEnv, store: hs.Store) -> None:
    unacked: list[int] = []

    def handle(delivery: hs.Delivery) -> None:
        env.advance(1.0)
        unacked.append(store.subscription("s").lag().unacked)

    with store.subscription("s").consumer("w") as consumer:
        consumer.run(handle)
    assert len(unacked) == 20
    assert set(unacked) == {1}


def test_ctrl_c_in_a_handler_gives_back_and_goes_on_to_the_caller(store: hs.Store) -> None:
    def handle(delivery: hs.Delivery) -> None:
        if delivery.payload == b"5":
            raise KeyboardInterrupt

    with store.subscription("s").consumer("w") as consumer:
        with pytest.raises(KeyboardInterrupt):
            consumer.run(handle)
        assert store.subscription("s").lag().unacked + store.subscription("s").lag().backlog == 15
        seen: list[object] = []
        consumer.run(lambda delivery: seen.append(delivery.payload))
        assert sorted(seen) == sorted(b"%d" % n for n in range(5, 20))


@pytest.mark.parametrize("mode", ["ordered", "shared"])
def test_a_handler_may_take_longer_than_the_ack_timeout(
    env: SimEnv, store: hs.Store, mode: str
) -> None:
    slow = store.create_stream("slow")
    slow.append_many([hs.Record(b"%d" % n, key="k") for n in range(5)])
    subscription = store.create_subscription("slow", stream="slow", ack_timeout=60.0, mode=mode)
    handled: list[tuple[object, int]] = []

    def handle(delivery: hs.Delivery) -> None:
        handled.append((delivery.payload, delivery.attempt))
        for _ in range(10):
            env.advance(20.0)
            store.tick()
        assert delivery.id not in {d.id for d in other.receive(10, timeout=0)}

    with subscription.consumer("w") as consumer, subscription.consumer("v") as other:
        consumer.run(handle)
    assert handled[0] == (b"0", 1)
    assert {attempt for _, attempt in handled} == {1}
    assert len(handled) == (5 if mode == "ordered" else 1)


def test_what_waits_for_a_handler_of_its_key_is_extended_with_it(
    env: SimEnv, store: hs.Store
) -> None:
    keyed = store.create_stream("keyed")
    keyed.append_many([hs.Record(b"%d" % n, key="k") for n in range(40)])
    subscription = store.create_subscription("keyed", stream="keyed", ack_timeout=60.0)
    handled: list[tuple[object, int]] = []
    waited = 0

    def handle(delivery: hs.Delivery) -> None:
        nonlocal waited
        handled.append((delivery.payload, delivery.attempt))
        if not waited and (unacked := subscription.lag().unacked) >= 3:
            waited = unacked - 1
            for _ in range(10):
                env.advance(20.0)
                store.tick()

    with subscription.consumer("w") as consumer:
        consumer.run(handle)
    assert waited
    assert handled == [(b"%d" % n, 1) for n in range(40)]


def test_what_waited_long_is_extended_when_its_handler_begins(env: SimEnv, store: hs.Store) -> None:
    subscription = store.subscription("s")
    waited: list[hs.Delivery] = []

    def handle(delivery: hs.Delivery) -> None:
        if waited:
            if len(waited) == 1:
                env.advance(15.0)
                assert delivery.id not in {d.id for d in other.receive(20, timeout=0)}
            waited.append(delivery)
        elif subscription.lag().unacked >= 3:
            env.advance(50.0)
            waited.append(delivery)

    with subscription.consumer("w") as consumer, subscription.consumer("v") as other:
        consumer.run(handle)
    assert len(waited) > 1


def test_a_handler_that_hangs_loses_its_delivery_after_a_day(env: SimEnv, store: hs.Store) -> None:
    lost: list[int] = []

    def handle(delivery: hs.Delivery) -> None:
        for hour in range(30 if delivery.payload == b"0" else 0):
            env.advance(3600.0)
            store.tick()
            store.tick()
            if any(got.id == delivery.id for got in other.receive(1, timeout=0)):
                lost.append(hour)

    with (
        store.subscription("s").consumer("w") as consumer,
        store.subscription("s").consumer("v") as other,
    ):
        consumer.run(handle)
    assert lost
    assert 23 <= lost[0] <= 24


HANDLER_RAISES = """
import hstreamlite as hs
from hstreamlite.testing.simenv import SimEnv
store = hs.open("/db", env=SimEnv())
store.create_stream("jobs").append(b"1")
def handle(delivery):
    raise LookupError("no such job")
with store.create_subscription("s", stream="jobs").consumer("w") as consumer:
    consumer.run(handle)
"""


def test_what_a_handler_raised_is_seen_where_no_logging_is_set_up() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANDLER_RAISES],
        env={**os.environ, "PYTHONPATH": str(Path(hs.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "handler of subscription 's' raised for record 1-1-0" in done.stderr
    assert done.stderr.splitlines()[-1] == "LookupError: no such job"
