"""Runs of a consumer in virtual time: without threads, each record is handled once a run."""

from __future__ import annotations

import logging

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
