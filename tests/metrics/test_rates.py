"""Rates against a list of all that happened."""

from array import array
from dataclasses import astuple

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hstreamlite.metrics.rates import INTERVAL_NS_MAX, LEVELS, SECOND, History, Rates

STEPS = st.one_of(
    st.integers(0, 3 * SECOND),
    st.integers(0, 120 * SECOND),
    st.integers(600 * SECOND, 3000 * SECOND),
)
EVENTS = st.lists(st.tuples(STEPS, st.integers(0, 1000), st.integers(0, 3)), max_size=40)
BEGINS = st.integers(0, 10**18)
Growth = tuple[int, int]


class Happened:
    """Everything that was noted, with its time, of rows of two counters."""

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self.now = begin
        self.history = History(2)
        self.totals: list[Growth] = []
        self.grown: list[list[tuple[int, Growth]]] = []
        self.add()

    def add(self, *begin: int) -> None:
        first, second = begin or (0, 0)
        self.history.add((first, second))
        self.totals.append((first, second))
        self.grown.append([])

    def note(self, step: int, *by: int, row: int = 0) -> None:
        self.now += step
        first, second = self.totals[row]
        self.totals[row] = first + by[0], second + by[1]
        self.grown[row].append((self.now, (by[0], by[1])))
        table = array("Q", [value for row in self.totals for value in row])
        self.history.note(table, self.now)

    def drop(self, row: int) -> None:
        self.history.drop([row])
        del self.totals[row], self.grown[row]

    def since(self, time: int, row: int = 0) -> Growth:
        found = [by for at, by in self.grown[row] if at >= time]
        return sum(by[0] for by in found), sum(by[1] for by in found)

    def rates(self, now: int) -> tuple[Rates, ...]:
        return self.history.rates(0, self.begin, now)


def start_of(interval: int, now: int) -> int:
    """Where the bucket begins in which an interval until now does."""
    width = next(width for window, width in LEVELS if interval <= window)
    return (now - interval) // width * width


@given(BEGINS, EVENTS, STEPS, st.integers(1, INTERVAL_NS_MAX))
def test_a_rate_covers_its_interval_and_no_bucket_more_than_that(
    begin: int, events: list[tuple[int, int, int]], rest: int, interval: int
) -> None:
    happened = Happened(begin)
    for step, *by in events:
        happened.note(step, *by)
    now = happened.now + rest
    start = start_of(interval, now)
    width = next(width for window, width in LEVELS if interval <= window)
    assert now - interval - width < start <= now - interval
    elapsed = max(now - max(start, begin), SECOND) / SECOND
    expected = tuple(total / elapsed for total in happened.since(start))
    assert happened.history.per_second(0, interval, begin, now) == pytest.approx(expected)
    if events:
        assert tuple(happened.history.totals(0)) == happened.totals[0]


@given(BEGINS, EVENTS, STEPS)
def test_rates_are_those_of_every_window(
    begin: int, events: list[tuple[int, int, int]], rest: int
) -> None:
    happened = Happened(begin)
    for step, *by in events:
        happened.note(step, *by)
    now = happened.now + rest
    windows = [happened.history.per_second(0, window, begin, now) for window, _ in LEVELS]
    assert [astuple(rates) for rates in happened.history.rates(0, begin, now)] == [
        tuple(rates) for rates in zip(*windows, strict=True)
    ]


class RowsOfCounters(RuleBasedStateMachine):
    """Rows that come, grow and go, against all that happened to each."""

    @initialize(begin=BEGINS)
    def begin(self, begin: int) -> None:
        self.happened = Happened(begin)

    @rule(step=STEPS, at=st.integers(0, 9), first=st.integers(0, 9), second=st.integers(0, 2))
    def grow(self, step: int, at: int, first: int, second: int) -> None:
        self.happened.note(step, first, second, row=at % len(self.happened.totals))

    @rule(first=st.integers(0, 9), second=st.integers(0, 9))
    def add(self, first: int, second: int) -> None:
        self.happened.add(first, second)
        self.happened.note(0, 0, 0)

    @precondition(lambda self: len(self.happened.totals) > 1)
    @rule(at=st.integers(0, 9))
    def drop(self, at: int) -> None:
        self.happened.drop(at % len(self.happened.totals))

    @invariant()
    def every_row_has_its_own_rates(self) -> None:
        h = self.happened
        for row in range(len(h.totals)):
            for interval, _ in LEVELS:
                start = start_of(interval, h.now)
                elapsed = max(h.now - max(start, h.begin), SECOND) / SECOND
                expected = tuple(total / elapsed for total in h.since(start, row))
                found = h.history.per_second(row, interval, h.begin, h.now)
                assert found == pytest.approx(expected)

    @invariant()
    def who_did_nothing_for_ten_minutes_is_idle(self) -> None:
        h = self.happened
        start = start_of(INTERVAL_NS_MAX, h.now)
        for row in h.history.idle(h.now):
            assert h.since(start, row) == (0, 0)
        later = h.now + 2 * INTERVAL_NS_MAX
        assert not h.grown[0] or h.history.idle(later) == list(range(len(h.totals)))


TestRowsOfCounters = RowsOfCounters.TestCase


@settings(max_examples=20)
@given(BEGINS, st.integers(1, 1000))
def test_what_grows_evenly_has_one_rate_over_every_window(begin: int, by: int) -> None:
    happened = Happened(begin // SECOND * SECOND)
    for _ in range(700):
        happened.note(SECOND, by, 0)
    even, none = happened.rates(happened.now)
    for rate in astuple(even):
        assert by <= rate <= by * 1.25 + 1e-9
    assert none == Rates()


def test_what_happened_before_the_last_ten_minutes_is_forgotten() -> None:
    happened = Happened(0)
    happened.note(SECOND, 1000, 7)
    assert happened.rates(701 * SECOND + 1) == (Rates(), Rates())


def test_a_young_store_is_measured_over_its_age_and_not_over_less_than_a_second() -> None:
    happened = Happened(5)
    happened.note(SECOND // 10, 30, 0)
    assert happened.rates(happened.now)[0] == Rates(30, 30, 30, 30)
    rates = happened.rates(5 + 3 * SECOND)[0]
    assert astuple(rates) == (10, 10, 10, 10)


def test_rates_of_two_shards_add_up() -> None:
    assert Rates(1, 2, 3, 4) + Rates(10, 20, 30, 40) == Rates(11, 22, 33, 44)
