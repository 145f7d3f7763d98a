"""Acks that store themselves: as often as they have to, and nothing but what is true."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

import hstreamlite as hs
from hstreamlite.log.journal import PROGRESS
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import small_config
from tests import effort

CONFIG = replace(small_config(), progress_acks=5)
RECORDS = 60


def opened(env: SimEnv) -> hs.Store:
    return hs.open("/db", config=CONFIG, env=env)


def filled(env: SimEnv, mode: str) -> hs.Subscription:
    store = opened(env)
    stream = store.create_stream("a")
    stream.append_many([b"%d" % n for n in range(RECORDS)])
    return store.create_subscription("s", stream="a", mode=mode, max_unacked=RECORDS)


def pieces(store: hs.Store) -> int:
    """Return how often progress was staged."""
    return store._engine.journal.bounds(PROGRESS)[2]


each_mode = pytest.mark.parametrize("mode", ["shared", "ordered"])


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("armed", [False, True])
@each_mode
def test_every_so_many_acks_are_staged(mode: str, armed: bool, whole: bool) -> None:
    subscription = filled(SimEnv(seed=1), mode)
    store = subscription._store
    with subscription.consumer("w") as consumer:
        first = consumer.receive(1)
        consumer.ack(first)
        batches = [consumer.receive(5) for _ in range(4)]
        if armed:
            store.tick()
            consumer._feed.progress.store()
        else:
            consumer.ack(batches.pop(0)[:4])
        for batch in batches:
            before = pieces(store)
            if whole:
                consumer.ack(batch)
            else:
                for delivery in batch[:-1]:
                    delivery.ack()
                assert pieces(store) == before
                batch[-1].ack()
            assert pieces(store) == before + 1
    store.close()


steps = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "ack", "ack", "ack", "each", "release", "tick", "leave"]),
        st.integers(0, 12),
    ),
    max_size=40,
)


@each_mode
@given(script=steps)
@settings(max_examples=effort.of(60, brief=15, nightly=600), deadline=None)
def test_what_comes_again_is_what_was_not_acked(mode: str, script: list[tuple[str, int]]) -> None:
    env = SimEnv(seed=1)
    subscription = filled(env, mode)
    store = subscription._store
    consumer = subscription.consumer("w")
    held: list[hs.Delivery] = []
    acked: set[bytes] = set()
    attempts: dict[bytes, int] = {b"%d" % n: 0 for n in range(RECORDS)}
    for step, value in script:
        some = held[: value * 2 : 1 + value % 2]
        if step == "take":
            got = consumer.receive(1 + value, timeout=0)
            attempts |= {delivery.payload: delivery.attempt for delivery in got}
            held += got
        elif step == "tick":
            env.advance(0.06)
            store.tick()
        elif step == "leave":
            consumer.close()
            consumer = subscription.consumer("w")
            held = []
        else:
            held = [delivery for delivery in held if delivery not in some]
            if step == "release":
                consumer.release(some)
            elif step == "ack":
                consumer.ack(some)
            else:
                for delivery in some:
                    delivery.ack()
            if step != "release":
                acked |= {delivery.payload for delivery in some}
    store.close()
    with opened(env) as store, store.subscription("s").consumer("w") as consumer:
        again: list[tuple[bytes, int]] = []
        while batch := consumer.receive(RECORDS, timeout=0):
            again += [(delivery.payload, delivery.attempt) for delivery in batch]
    left = [(payload, count + 1) for payload, count in attempts.items() if payload not in acked]
    assert sorted(again) == sorted(left)


@each_mode
def test_acks_wait_until_what_the_group_stores_is_staged(mode: str) -> None:
    subscription = filled(SimEnv(seed=1), mode)
    with subscription.consumer("w") as consumer:
        consumer.ack(consumer.receive(3))
        feed = consumer._feed
        feed.progress.store()
        (window,) = feed.group._windows.values()
        assert window.saver is not None
        first = consumer.receive(2)
        consumer.ack(first)
        with feed.lock:
            assert feed.group.delta()
            assert window.saver.disarm() is None
            feed.group.arm()
            assert window.saver.disarm() is not None


@pytest.mark.parametrize("reserved", [False, True])
def test_acks_do_not_store_themselves_while_something_is_reserved(reserved: bool) -> None:
    """It would be stored as delivered."""
    subscription = filled(SimEnv(seed=1), "shared")
    with subscription.consumer("w") as consumer:
        consumer.ack(consumer.receive(3))
        batch = consumer.receive(5)
        feed = consumer._feed
        feed.progress.store()
        (window,) = feed.group._windows.values()
        assert window.saver is not None
        if reserved:
            assert feed.group.fetch("w", 3, feed.now())
        consumer.ack(batch)
        assert (window.saver.disarm() is None) == reserved
