"""The counted allocations of the native core."""

from __future__ import annotations

import gc

import pytest

from hstreamlite._native import fast, lib
from hstreamlite.sub.ackmap import AckMap
from tests.sub.taking import excerpt, taken


def test_the_nth_allocation_fails_once_and_what_it_left_is_freed() -> None:
    gc.collect()
    before = lib.hsl_alloc_live()
    for nth in (1, 2):
        lib.hsl_alloc_fail_at(nth)
        with pytest.raises(MemoryError):
            AckMap(1, 100)
        assert lib.hsl_alloc_count() == nth
        assert lib.hsl_alloc_live() == before
        acked = AckMap(1, 100)
        assert lib.hsl_alloc_live() == before + 2
        del acked
        gc.collect()
        assert lib.hsl_alloc_live() == before


def test_a_map_that_cannot_grow_stays_as_it_was() -> None:
    acked = AckMap(1, 1_000_000)
    before = fast.ackmap_state(acked.address)
    lib.hsl_alloc_fail_at(1)
    with pytest.raises(MemoryError):
        fast.ackmap_advance(acked.address, 900_000, False)
    lib.hsl_alloc_fail_at(0)
    assert fast.ackmap_state(acked.address) == before
    fast.ackmap_advance(acked.address, 900_000, False)
    assert fast.ackmap_check(acked.address) == 0


def test_a_hatch_without_memory_leaves_it_to_the_group() -> None:
    acked = AckMap(1, 100)
    hatch = fast.Hatch(acked, 100, 100, 10)
    hatch.open(50, 1_000)
    gate = fast.AckGate()
    excerpt(1)
    for call in (
        lambda: taken(hatch, gate, 1, 2, 1, 1, 0),
        lambda: hatch.note(1, 2, 10, 1, 1),
    ):
        lib.hsl_alloc_fail_at(1)
        assert not call()
        lib.hsl_alloc_fail_at(0)
    assert hatch.notes(0, 99, 0, False) == []
    assert taken(hatch, gate, 1, 2, 1, 1, 0) == (1, 2)
