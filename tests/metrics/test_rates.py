"""Rates against a list of all that happened."""

from dataclasses import astuple

import pytest
from hypothesis import given, settings, strategies as st

from hstreamlite.metrics.rates import INTERVAL_NS_MAX, LEVELS, SECOND, Rates, Series

STEPS = st.one_of(
    st.integers(0, 3 * SECOND),
    st.integers(0, 120 * SECOND),
    st.integers(600 * SECOND, 3000 * SECOND),
)
EVENTS = st.lists(st.tuples(STEPS, st.integers(0, 1000), st.integers(0, 3)), max_size=40)
BEGINS = st.integers(0, 10**18)


class Happened:
    """Everything that was noted, with its time."""

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self.now = begin
        self.totals: tuple[int, ...] = (0, 0)
        self.series = Series((0, 0))
        self.grown: list[tuple[int, tuple[int, ...]]] = []

    def note(self, step: int, *by: int) -> None:
        self.now += step
        self.totals = tuple(map(sum, zip(self.totals, by, strict=True)))
        self.grown.append((self.now, by))
        self.series.note(self.totals, self.now)

    def since(self, time: int) -> tuple[int, ...]:
        found = [by for at, by in self.grown if at >= time]
        return tuple(map(sum, zip((0, 0), *found, strict=True)))


@given(BEGINS, EVENTS, STEPS, st.integers(1, INTERVAL_NS_MAX))
def test_a_rate_covers_its_interval_and_no_bucket_more_than_that(
    begin: int, events: list[tuple[int, int, int]], rest: int, interval: int
) -> None:
    happened = Happened(begin)
    for step, *by in events:
        happened.note(step, *by)
    now = happened.now + rest
    width = next(width for window, width in LEVELS if interval <= window)
    start = (now - interval) // width * width
    assert now - interval - width < start <= now - interval
    elapsed = max(now - max(start, begin), SECOND) / SECOND
    expected = tuple(total / elapsed for total in happened.since(start))
    assert happened.series.per_second(interval, begin, now) == pytest.approx(expected)
    assert happened.series.totals == happened.totals


@given(BEGINS, EVENTS, STEPS)
def test_rates_are_those_of_every_window(
    begin: int, events: list[tuple[int, int, int]], rest: int
) -> None:
    happened = Happened(begin)
    for step, *by in events:
        happened.note(step, *by)
    now = happened.now + rest
    windows = [happened.series.per_second(window, begin, now) for window, _ in LEVELS]
    assert [astuple(rates) for rates in happened.series.rates(begin, now)] == [
        tuple(rates) for rates in zip(*windows, strict=True)
    ]


@settings(max_examples=20)
@given(BEGINS, st.integers(1, 1000))
def test_what_grows_evenly_has_one_rate_over_every_window(begin: int, by: int) -> None:
    happened = Happened(begin // SECOND * SECOND)
    for _ in range(700):
        happened.note(SECOND, by, 0)
    even, none = happened.series.rates(happened.begin, happened.now)
    for rate in astuple(even):
        assert by <= rate <= by * 1.25 + 1e-9
    assert none == Rates()


def test_what_happened_before_the_last_ten_minutes_is_forgotten() -> None:
    happened = Happened(0)
    happened.note(SECOND, 1000, 7)
    assert happened.series.rates(0, 701 * SECOND + 1) == (Rates(), Rates())


def test_a_young_store_is_measured_over_its_age_and_not_over_less_than_a_second() -> None:
    happened = Happened(5)
    happened.note(SECOND // 10, 30, 0)
    assert happened.series.rates(5, happened.now)[0] == Rates(30, 30, 30, 30)
    rates = happened.series.rates(5, 5 + 3 * SECOND)[0]
    assert astuple(rates) == (10, 10, 10, 10)


def test_rates_of_two_shards_add_up() -> None:
    assert Rates(1, 2, 3, 4) + Rates(10, 20, 30, 40) == Rates(11, 22, 33, 44)
