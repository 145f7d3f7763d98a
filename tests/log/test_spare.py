"""The next segment's file is there before a burst needs it, and not before anybody could."""

from __future__ import annotations

import hstreamlite as hs
from hstreamlite.testing.simenv import SimEnv

SPARE = "/db/segments/spare"


def appended(store: hs.Store, kib: int) -> None:
    for _ in range(kib // 60):
        store.stream("a").append(b"." * 60_000, durability="sync")


def test_a_burst_that_fits_the_stage_finds_room_for_all_of_it() -> None:
    """So a small segment that is a quarter full has its successor; half full would be too late."""
    env = SimEnv(seed=1)
    with hs.open("/db", env=env) as store:
        store.create_stream("a")
        appended(store, 120)
        assert SPARE not in env.disk.walk("/db")
        appended(store, 240)
        assert SPARE in env.disk.walk("/db")
        assert store.stats().log["segments_rolled"] == 1


def test_a_large_segment_has_its_successor_when_half_full() -> None:
    env = SimEnv(seed=1)
    config = hs.StoreConfig(stage_bytes=8 << 20, segment_bytes_min=32 << 20)
    with hs.open("/db", env=env, config=config) as store:
        store.create_stream("a")
        appended(store, 14 << 10)
        assert SPARE not in env.disk.walk("/db")
        appended(store, 4 << 10)
        assert SPARE in env.disk.walk("/db")
        assert store.stats().log["segments_rolled"] == 1
