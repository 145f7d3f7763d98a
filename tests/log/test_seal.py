"""A footer is believed without a look at the frames: they are durable before it is written."""

from __future__ import annotations

from contextlib import suppress

import hstreamlite as hs
from hstreamlite.errors import HStreamError
from hstreamlite.testing.simenv import SimEnv
from tests import effort

CONFIG = hs.StoreConfig(
    segment_bytes_min=256 << 10,
    segment_bytes_max=256 << 10,
    frame_bytes=64 << 10,
    eager_bytes=32 << 10,
)


def program(env: SimEnv) -> None:
    """Write groups of several frames, so that some of them fill a segment half-way through."""
    store = hs.open("/store", env=env, config=CONFIG)
    stream = store.create_stream("s")
    for number in range(16):
        for part in range(8):
            stream.append(f"{number}-{part} ".encode() * 4000, durability="memory")
        stream.append(b"end", durability="sync")


def test_a_power_cut_while_a_segment_fills_leaves_nothing_unreadable() -> None:
    env = SimEnv(seed=1)
    program(env)
    for stop in range(0, env.disk.counts().mutations, effort.of(1, brief=6)):
        env = SimEnv(seed=1)
        env.disk.stop_at(stop)
        with suppress(HStreamError, OSError):
            program(env)
        for seed in range(4):
            with hs.open("/store", env=env.clone().power_cut(seed=seed), config=CONFIG) as store:
                for info in store.streams():
                    assert len(list(store.stream(info.name).read())) == info.records


def test_a_group_that_goes_on_in_the_next_segment_is_indexed_once() -> None:
    with hs.open("/store", env=SimEnv(seed=1), config=CONFIG) as store:
        stream = store.create_stream("s")
        size = 0
        for number in range(40):
            payload = f"{number} ".encode() * 4000
            stream.append(payload, durability="memory")
            size += len(payload)
            if number % 10 == 9:
                store.sync()
                store._engine.journal.check_invariants()
        (info,) = store.streams()
        assert info.records == 40
        assert size < info.bytes < size + 40 * 100
