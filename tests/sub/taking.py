"""Taking records at a hatch, by their LSNs."""

from __future__ import annotations

from functools import cache

import hstreamlite as hs
from hstreamlite._native import fast
from hstreamlite.log.catalog import SHARD_BASE
from hstreamlite.testing.simenv import SimEnv
from hstreamlite.testing.witness import small_config


@cache
def excerpt(count: int) -> fast.Excerpt:
    """Return the first records of a log."""
    with hs.open("/db", config=small_config(), env=SimEnv(seed=1)) as store:
        store.create_stream("a").append_many([b"x"] * count)
        store.sync()
        found = store._engine.journal.cursor(SHARD_BASE + 1, 1).excerpt(count)
    assert found is not None
    assert len(found) == count
    return found


def taken(
    hatch: fast.Hatch, gate: fast.AckGate, first: int, end: int, most: int, number: int, now: int
) -> tuple[int, int] | None:
    """Take records out of those from first to end, and return which these are."""
    batch = hatch.take(gate, excerpt(end - first), first, most, number, now)
    if batch is None:
        return None
    ((_, start, stop),) = batch.spans
    return first + start - 1, first + stop - 1
