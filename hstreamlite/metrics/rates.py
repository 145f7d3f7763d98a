"""Rates of counters over the last seconds and minutes, in a fixed amount of memory.

What a counter grew by is added to buckets of time, on four levels: the longer the window, the wider
its buckets. A rate over an interval covers the bucket in which the interval begins and all since,
and is divided by as much time: so it never covers less than the interval, and at most one bucket
more. What a counter grew by between two looks counts at the second of them.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

SECOND: Final = 1_000_000_000
LEVELS: Final = ((4 * SECOND, SECOND), (60 * SECOND, 10 * SECOND), (300 * SECOND, 50 * SECOND),
                 (600 * SECOND, 100 * SECOND))  # fmt: skip
"""Each window and the width of its buckets, in ns."""
INTERVAL_NS_MAX: Final = LEVELS[-1][0]

_BUCKETS: Final = tuple(window // width + 1 for window, width in LEVELS)
_FIRST: Final = tuple(sum(_BUCKETS[:level]) for level in range(len(LEVELS)))


@dataclass(frozen=True, slots=True)
class Rates:
    """What a counter grew by, per second, over the last 4 seconds, 1, 5 and 10 minutes.

    Of a store that was opened since then, over the time since.
    """

    over_4s: float = 0.0
    over_1min: float = 0.0
    over_5min: float = 0.0
    over_10min: float = 0.0

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.over_4s + other.over_4s,
            self.over_1min + other.over_1min,
            self.over_5min + other.over_5min,
            self.over_10min + other.over_10min,
        )


class Series:
    """The recent past of a few counters that only grow. Times are ns of one clock."""

    __slots__ = ("_grown", "_heads", "_totals", "touched_ns")

    def __init__(self, totals: Sequence[int]) -> None:
        self._totals = tuple(totals)
        self._grown = array("Q", bytes(8 * sum(_BUCKETS) * len(totals)))
        self._heads = [0] * len(LEVELS)
        self.touched_ns = 0

    @property
    def totals(self) -> tuple[int, ...]:
        """What the counters were when they were noted last."""
        return self._totals

    def note(self, totals: Sequence[int], now: int) -> None:
        """Take in what the counters are now."""
        count = len(self._totals)
        grown = [new - old for new, old in zip(totals, self._totals, strict=True)]
        if not any(grown):
            return
        self._totals = tuple(totals)
        self.touched_ns = now
        for level, (_, width) in enumerate(LEVELS):
            head = now // width
            self._clear(level, head)
            at = (_FIRST[level] + head % _BUCKETS[level]) * count
            for number, value in enumerate(grown):
                self._grown[at + number] += value

    def _clear(self, level: int, head: int) -> None:
        """Make the bucket `head` the newest of a level; those between are empty."""
        old = self._heads[level]
        if head == old:
            return
        count = len(self._totals)
        for bucket in range(max(old + 1, head - _BUCKETS[level] + 1), head + 1):
            at = (_FIRST[level] + bucket % _BUCKETS[level]) * count
            self._grown[at : at + count] = array("Q", bytes(8 * count))
        self._heads[level] = head

    def per_second(self, interval: int, begin: int, now: int) -> tuple[float, ...]:
        """Return the rate of each counter over an interval until now; `begin` is when all were 0.

        The interval is 1 to INTERVAL_NS_MAX ns.
        """
        level = next(i for i, (window, _) in enumerate(LEVELS) if interval <= window)
        width, buckets = LEVELS[level][1], _BUCKETS[level]
        first = (now - interval) // width
        count = len(self._totals)
        sums = [0] * count
        for bucket in range(max(first, self._heads[level] - buckets + 1), self._heads[level] + 1):
            at = (_FIRST[level] + bucket % buckets) * count
            for number in range(count):
                sums[number] += self._grown[at + number]
        elapsed = max(now - max(first * width, begin), SECOND) / SECOND
        return tuple(value / elapsed for value in sums)

    def rates(self, begin: int, now: int) -> tuple[Rates, ...]:
        """Return the rates of each counter over every window."""
        levels = [self.per_second(window, begin, now) for window, _ in LEVELS]
        return tuple(Rates(*rates) for rates in zip(*levels, strict=True))
