"""Bursts that nobody waits for: taken in first, written when they are over."""

from __future__ import annotations

import platform
import re
import time
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite.config import Durability

LIST = [bytes(100)] * 1000
LISTS = 20
BURSTS = 10
STATUS = Path("/proc/self/status")
MAPPED = tuple(map(int, re.findall(r"\d+", platform.release())[:2])) >= (5, 14)


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


@pytest.mark.skipif(not STATUS.exists(), reason="the system does not tell how much is touched")
def test_memory_for_bursts_is_there_before_they_come(tmp_path: Path) -> None:
    """And a call that is larger than any piece of it takes the place of some."""

    def resident(what: str) -> int:
        found = re.findall(rf"{what}:\s+(\d+) kB", STATUS.read_text(encoding="ascii"))
        return sum(map(int, found)) << 10

    config = hs.StoreConfig(durability="os", segment_bytes_min=64 << 20)
    many = LIST * (3 * config.chunk_bytes // (2 * 100 * len(LIST)))
    before, mapped = resident("RssAnon"), resident("Rss(?:File|Shmem)")
    room = config.os_stage_bytes * 7 // 8 if MAPPED else 0
    with hs.open(tmp_path / "s", config=config) as store:
        stream = store.create_stream("a")
        for _ in range(2 * config.chunk_bytes // (100 * len(LIST))):
            stream.append_many(LIST)
        deadline = time.monotonic() + 10
        while (
            resident("RssAnon") - before < config.stage_bytes * 7 // 8
            or resident("Rss(?:File|Shmem)") - mapped < room
        ):
            assert time.monotonic() < deadline
        stream.append_many(many)
        assert sum(1 for _ in stream.read()) % len(LIST) == 0
