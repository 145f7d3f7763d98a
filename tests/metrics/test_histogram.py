"""Distributions against sorted lists of the values themselves."""

from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given, strategies as st

from hstreamlite._native import lib
from hstreamlite.metrics.histogram import FLOORS, Distribution, Histogram

LIMIT = 1 << 40
VALUES = st.one_of(
    st.integers(0, 40), st.integers(0, 10**6), st.integers(0, LIMIT - 1), st.sampled_from(FLOORS)
).filter(lambda value: value < LIMIT)


def counted(values: list[int], unit: float = 1.0) -> Distribution:
    histogram = Histogram(unit)
    for value in values:
        histogram.add(value)
    return histogram.distribution()


@given(st.lists(VALUES, min_size=1, max_size=60))
def test_percentiles_are_a_sixteenth_off_at_most(values: list[int]) -> None:
    found = counted(values)
    values.sort()
    assert (found.count, found.sum) == (len(values), sum(values))
    for share in (50, 75, 95, 99):
        exact = values[ceil(share / 100 * len(values)) - 1]
        assert abs(getattr(found, f"p{share}") - exact) <= exact / 16


@given(st.lists(VALUES, max_size=60))
def test_counts_below_powers_of_two_are_exact(values: list[int]) -> None:
    below = list(counted(values).below())
    for edge, count in below:
        assert count == sum(value <= edge for value in values)
    assert [edge for edge, _ in below] == sorted({edge for edge, _ in below})
    if any(value < LIMIT // 2 for value in values):
        assert below
    if values and max(values) < LIMIT // 2:
        assert below[-1][1] == len(values)


@given(VALUES, st.integers(1, 10**6))
def test_a_value_may_be_added_several_times_at_once(value: int, times: int) -> None:
    histogram = Histogram(1.0)
    histogram.add(value, times)
    found = histogram.distribution()
    assert found.count == times
    assert found.sum == pytest.approx(value * times)


def test_buckets_are_an_eighth_of_a_power_of_two_wide_and_leave_nothing_out() -> None:
    assert FLOORS[0] == 0
    assert FLOORS[-1] == LIMIT
    for low, high in pairwise(FLOORS):
        assert 1 <= high - low <= max(1, low / 8)


def test_what_is_beyond_the_buckets_counts_as_the_largest() -> None:
    found = counted([LIMIT, 1 << 50])
    assert found.count == 2
    assert found.p50 == pytest.approx(LIMIT, rel=1 / 16)


def test_times_are_told_in_seconds() -> None:
    found = counted([1_000_000] * 10, 1e-9)
    assert found.p99 == pytest.approx(0.001, rel=1 / 16)
    assert found.sum == pytest.approx(0.01)


def test_nothing_has_no_percentiles() -> None:
    assert counted([]) == Distribution()
    assert list(Distribution().below()) == []


def test_a_histogram_without_memory_is_refused() -> None:
    lib.hsl_alloc_fail_at(1)
    try:
        with pytest.raises(MemoryError):
            Histogram(1.0)
    finally:
        lib.hsl_alloc_fail_at(0)
