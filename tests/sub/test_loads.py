"""Bytes in the hands of consumers, and what the windows in bytes make of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import pytest

from hstreamlite._native import lib
from hstreamlite.sub.ackmap import AckMap, Totals
from hstreamlite.sub.limits import Limits
from hstreamlite.sub.loads import Loads
from hstreamlite.sub.window import Window


@pytest.fixture(autouse=True)
def _allocations_succeed_afterwards() -> Iterator[None]:
    yield
    lib.hsl_alloc_fail_at(0)


def loaded(nth: int) -> bool:
    """Load a thousand records while the n-th allocation fails; tell whether all went well."""
    acks = AckMap(1, 10_000)
    acks.advance(1_001, hold=False)
    lib.hsl_alloc_fail_at(nth)
    try:
        totals = Totals()
        totals.reserve(100)
        acks.weigh(totals)
        acks.reserve_load(1_001)
        acks.load(1, array("I", [5] * 1_000).tobytes(), 100)
    except MemoryError:
        return False
    finally:
        lib.hsl_alloc_fail_at(0)
    assert totals.of(100) == totals.of(0) == 5_000
    acks.ack_range(1, 500)
    assert totals.of(100) == 5 * 501
    return True


def test_each_allocation_may_fail_and_nothing_is_counted_then() -> None:
    failures = next(n for n in range(1, 50) if loaded(n)) - 1
    assert failures >= 5


def test_a_second_window_counts_in_the_same_totals_and_a_forgotten_one_no_more() -> None:
    loads = Loads(Limits(max_unacked_bytes=100, max_unacked_bytes_per_consumer=50))
    windows = [Window(shard, 1, 1_000) for shard in (1, 2)]
    for window in windows:
        loads.adopt(window)
        window.take(10)
    loads.attach("ada", 1, 0, 0)
    loads.attach("bob", 2, 0, 70)
    loads.hand("ada", 1, 1, [30, 30])
    loads.hand("bob", 2, 1, [30])
    assert (loads.bytes_of_all(), loads.bytes_of("ada"), loads.bytes_of("bob")) == (90, 60, 30)
    assert (loads.room("ada"), loads.room("bob"), loads.full_of("ada")) == (0, 10, True)
    assert loads.fitting("bob", [9, 500, 1]) == 2
    assert loads.fitting("bob", []) == 0
    windows[0].acks.reset(1)
    assert (loads.bytes_of_all(), loads.room("ada")) == (30, 50)
    loads.take(2, 1, 2)
    assert loads.bytes_of_all() == 0
    loads.detach("bob")
    loads.attach("cyd", 2, 0, 0)
    assert (loads.bytes_of("cyd"), loads.most_bytes("cyd")) == (0, 50)


def test_without_a_window_in_bytes_nothing_is_counted_until_a_consumer_brings_one() -> None:
    loads = Loads(Limits())
    window = Window(1, 1, 1_000)
    loads.adopt(window)
    window.take(10)
    loads.attach("ada", 1, 0, 0)
    assert not loads.weighs
    assert not loads.narrow
    assert (loads.bytes_of_all(), loads.bytes_of("ada"), loads.room("ada")) == (None, None, None)
    assert loads.fitting("ada", [1 << 30] * 3) == 3
    loads.hand("ada", 1, 1, [7])
    loads.attach("bob", 2, 5, 10)
    assert loads.weighs
    assert loads.narrow
    assert (loads.most_records("bob"), loads.most_records("ada")) == (5, 0)
    loads.hand("bob", 1, 2, [7])
    loads.hand("ada", 1, 3, [7])
    assert (loads.bytes_of_all(), loads.room("bob"), loads.room("ada")) == (7, 3, None)


def test_a_consumer_whose_window_found_no_memory_can_bring_it_again() -> None:
    failures = 0
    for nth in range(1, 50):
        loads = Loads(Limits())
        for shard in (1, 2):
            window = Window(shard, 1, 1_000)
            loads.adopt(window)
            window.take(10)
        lib.hsl_alloc_fail_at(nth)
        try:
            loads.attach("ada", 100, 0, 10)
        except MemoryError:
            failures += 1
            lib.hsl_alloc_fail_at(0)
            loads.attach("ada", 100, 0, 10)
        lib.hsl_alloc_fail_at(0)
        loads.hand("ada", 1, 1, [7])
        loads.hand("ada", 2, 1, [8])
        assert (loads.bytes_of("ada"), loads.bytes_of_all()) == (15, 15)
    assert failures >= 5


def test_what_is_in_hand_while_there_comes_to_be_more_is_counted_until_it_is_acked() -> None:
    acks, totals = AckMap(1, 10_000), Totals()
    acks.weigh(totals)
    acks.advance(5_001, hold=False)
    for first, end in ((1, 51), (51, 5_001)):
        acks.reserve_load(end)
        acks.load(first, array("I", [5] * (end - first)).tobytes(), 1)
    assert totals.of(1) == totals.of(0) == 25_000
    acks.ack_range(1, 5_001)
    assert totals.of(1) == totals.of(0) == 0
