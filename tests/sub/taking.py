"""Taking records at a hatch, by their LSNs, and while something else is done."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    hatch: fast.Hatch,
    gate: fast.AckGate,
    first: int,
    end: int,
    most: int,
    number: int,
    now: int,
    keep: int = 0,
) -> tuple[int, int] | None:
    """Take records out of those from first to end, and return which these are."""
    batch = hatch.take(gate, excerpt(end - first), first, keep, most, number, now)
    if batch is None:
        return None
    ((_, start, stop),) = batch.spans
    return first + start - 1, first + stop - 1


class Collected:
    """What runs when garbage is next collected, as another thread may then."""

    def __init__(self, run: Callable[[], object]) -> None:
        self.run = run
        self.me = self

    def __del__(self) -> None:
        self.run()


@contextmanager
def collecting(run: Callable[[], object], objects: int) -> Iterator[None]:
    """Have something run once, amid what is done if that makes so many objects, or at its end."""
    threshold = gc.get_threshold()
    gc.collect()
    gc.disable()
    Collected(run)
    try:
        gc.set_threshold(objects)
        gc.enable()
        yield
    finally:
        gc.set_threshold(*threshold)
        gc.collect()
