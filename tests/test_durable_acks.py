"""Acks whose durability was waited for, in every state that a crash can leave."""

from __future__ import annotations

import pytest

import hstreamlite as hs
from hstreamlite.testing.crash import Recording
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import small_config
from tests import effort


@pytest.mark.parametrize("mode", ["ordered", "shared"])
def test_a_durable_ack_never_comes_again_whatever_crashes(mode: str) -> None:
    env = SimEnv(seed=3)
    durable: list[tuple[int, set[hs.RecordId]]] = []
    with Recording(env.disk) as recording:
        store = hs.open("/db", env=env, config=small_config())
        stream = store.create_stream("orders")
        stream.append_many([hs.Record(b"%d" % n, key=f"{n % 5}") for n in range(30)])
        subscription = store.create_subscription("billing", stream="orders", mode=mode)
        consumer = subscription.consumer("w")
        held = consumer.receive(30)
        begun = recording.position

        def done(until: int) -> None:
            durable.append((recording.position, {d.id for d in held[:until]}))

        consumer.ack(held[:3], durable=True)
        done(3)
        held[3].ack()
        held[4].ack()
        consumer.commit()
        done(5)
        consumer.ack(held[5:9])
        env.advance(1.0)
        store.tick()  # stages the acks; nobody has waited for them
        consumer.commit()
        done(9)
        with store.transaction() as tx:
            tx.append("orders", b"30")
            tx.ack(held[9])
        consumer.ack([], durable=True)
        done(10)
        consumer.ack(held[10], durable=True)
        done(11)
    seen = 0
    for step in range(begun, len(recording), effort.of(1, brief=3)):
        never = set().union(*(ids for position, ids in durable if position <= step))
        for state in recording.states(step, 3):
            with hs.open("/db", env=env.after(state.files), config=small_config()) as after:
                again = after.subscription("billing").consumer("w").receive(100, timeout=0)
                assert not never & {d.id for d in again}, state
                seen += bool(never)
    assert seen >= 10


def test_a_durable_ack_is_made_on_a_full_disk_too() -> None:
    env = SimEnv(seed=2, capacity=4 << 20)
    store = hs.open("/db", env=env, config=small_config())
    store.create_stream("orders").append_many([b"x"] * 10)
    consumer = store.create_subscription("billing", stream="orders").consumer("w")
    held = consumer.receive(10)
    filler = store.create_stream("filler")
    with pytest.raises(hs.StorageFull):
        for _ in range(10_000):
            filler.append(b"x" * 3000)
    consumer.ack(held, durable=True)
    env = env.power_cut(seed=1, profile="drop")
    store = hs.open("/db", env=env, config=small_config())
    assert store.subscription("billing").consumer("w").receive(100, timeout=0) == ()
