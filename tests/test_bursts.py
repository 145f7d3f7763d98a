"""Bursts that nobody waits for: taken in first, written when they are over."""

from __future__ import annotations

from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite.config import Durability

LIST = [bytes(100)] * 1000
LISTS = 20
BURSTS = 10


@pytest.mark.parametrize("level", ["memory", "os"])
def test_a_burst_that_fits_half_of_the_stage_is_written_in_one_go(
    tmp_path: Path, level: Durability
) -> None:
    config = hs.StoreConfig(
        durability=level, segment_bytes_min=256 << 20, linger=10.0, idle_mark=3600.0
    )
    with hs.open(tmp_path / "s", config=config) as store:
        stream = store.create_stream("a")
        stream.append_many(LIST)
        store.sync()
        before = store.stats().log["syncs"]
        for _ in range(BURSTS):
            for _ in range(LISTS):
                stream.append_many(LIST)
            store.sync()
        assert store.stats().log["syncs"] - before == BURSTS
