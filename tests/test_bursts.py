"""Bursts that nobody waits for: taken in first, written when they are over."""

from __future__ import annotations

import os
import platform
import re
import statistics
from itertools import pairwise
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite._native import lib
from hstreamlite.config import Durability
from tests.test_fork import run_script

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
    with hs.open(tmp_path / "s", config=config) as store, (tmp_path / "other").open("wb") as other:
        stream = store.create_stream("a")
        stream.append_many(LIST)
        store.sync()
        at = [store.stats().log["syncs"]]
        for _ in range(BURSTS):
            for _ in range(LISTS):
                stream.append_many(LIST)
            # While the caller waits for the disk, a writer that was woken gets its turn.
            other.write(b"x")
            other.flush()
            os.fsync(other.fileno())
            stream.append_many(LIST)
            store.sync()
            at.append(store.stats().log["syncs"])
        # A writer that is still awake after the burst before may take what it finds.
        assert statistics.median(after - before for before, after in pairwise(at)) == 1


TOUCHED = """
import re, sys
from pathlib import Path
import hstreamlite as hs
def resident(what):
    found = re.findall(rf"{what}:\\s+(\\d+) kB", Path("/proc/self/status").read_text("ascii"))
    return sum(map(int, found)) << 10
records = [bytes(100)] * 1000
config = hs.StoreConfig(durability="os", segment_bytes_min=64 << 20)
before, mapped = resident("RssAnon"), resident("Rss(?:File|Shmem)")
room = config.os_stage_bytes * 7 // 8 if sys.argv[2] == "True" else 0
with hs.open(sys.argv[1], config=config) as store:
    stream = store.create_stream("a")
    for _ in range(2 * config.chunk_bytes // (100 * len(records))):
        stream.append_many(records)
    while (
        resident("RssAnon") - before < config.stage_bytes * 7 // 8
        or resident("Rss(?:File|Shmem)") - mapped < room
    ):
        pass
    stream.append_many(records * (3 * config.chunk_bytes // (2 * 100 * len(records))))
    print(sum(1 for _ in stream.read()) % len(records))
"""


@pytest.mark.skipif(not STATUS.exists(), reason="the system does not tell how much is touched")
def test_memory_for_bursts_is_there_before_they_come(tmp_path: Path) -> None:
    """And a call that is larger than any piece of it takes the place of some.

    In a process of its own, which had no memory before that it may use again.
    """
    mapped = str(MAPPED and not lib.hsl_io_portable())
    assert run_script(TOUCHED, str(tmp_path / "s"), mapped).stdout == "0\n"
