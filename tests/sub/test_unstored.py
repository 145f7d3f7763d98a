"""Progress that was on its way to the disk when something failed is stored the next time."""

from __future__ import annotations

import pytest

import hstreamlite as hs
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import small_config


def refuse(progress: list[bytes]) -> None:
    assert progress
    raise hs.StorageFull("/db", 1)


@pytest.mark.parametrize("mode", ["ordered", "shared"])
def test_a_snapshot_that_is_not_stored_leaves_all_to_be_stored(mode: str) -> None:
    env = SimEnv(seed=1)
    with hs.open("/db", config=small_config(), env=env) as store:
        stream = store.create_stream("a")
        for n in range(10):
            stream.append(b"%d" % n, key=f"k{n}")
        subscription = store.create_subscription("s", stream="a", mode=mode)
        with subscription.consumer("w") as consumer:
            held = consumer.receive(10)
            consumer.ack(held[::2])
            with pytest.raises(hs.StorageFull):
                store._engine.progress_snapshot(refuse)
    with hs.open("/db", config=small_config(), env=env) as store:
        consumer = store.subscription("s").consumer("w")
        again = [*consumer.receive(10), *consumer.receive(10, timeout=0)]
        assert [(record.payload, record.attempt) for record in again] == [
            (b"%d" % n, 2) for n in range(1, 10, 2)
        ]
