"""Rates of counters over the last seconds and minutes, in a fixed amount of memory.

Time falls into buckets, on four levels: the longer the window, the wider its buckets. Of each
bucket is kept what all counters were before the first of them grew in it. A rate over an interval
covers the bucket in which the interval begins and all since, and is divided by as much time: so it
never covers less than the interval, and at most one bucket more. What a counter grew by between two
looks counts at the second of them.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

SECOND: Final = 1_000_000_000
LEVELS: Final = ((4 * SECOND, SECOND), (60 * SECOND, 10 * SECOND), (300 * SECOND, 50 * SECOND),
                 (600 * SECOND, 100 * SECOND))  # fmt: skip
"""Each window and the width of its buckets, in ns."""
INTERVAL_NS_MAX: Final = LEVELS[-1][0]

_BUCKETS: Final = tuple(window // width + 1 for window, width in LEVELS)


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


class History:
    """The recent past of rows of counters that only grow. Times are ns of one clock.

    To note all rows costs a copy of them, whatever their number: none is looked at alone.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._totals = array("Q")
        self._begins = array("Q")
        self._past: tuple[deque[tuple[int, array[int]]], ...] = tuple(
            deque(maxlen=buckets) for buckets in _BUCKETS
        )

    def add(self, begin: Sequence[int]) -> None:
        """Go on with one more row, whose counters are these before they are noted."""
        self._begins.extend(begin)

    def note(self, totals: array[int], now: int) -> bool:
        """Take in what the counters of all rows are now; return whether any has grown."""
        if totals == self._totals:
            return False
        for past, (_, width) in zip(self._past, LEVELS, strict=True):
            bucket = now // width
            if not past or past[-1][0] != bucket:
                past.append((bucket, self._totals))
        self._totals = totals
        return True

    def totals(self, row: int) -> array[int]:
        """Return what the counters of a row were when they were noted last."""
        return self._row(self._totals, row)

    def _row(self, table: array[int], row: int) -> array[int]:
        """Return a row of a table, which may be from before there was such a row."""
        here = slice(row * self._width, (row + 1) * self._width)
        return table[here] or self._begins[here]

    def _before(self, level: int, bucket: int) -> array[int]:
        """Return what all counters were before a bucket."""
        return next((then for at, then in self._past[level] if at >= bucket), self._totals)

    def per_second(self, row: int, interval: int, begin: int, now: int) -> tuple[float, ...]:
        """Return the rate of each counter over an interval until now; `begin` is when all were 0.

        The interval is 1 to INTERVAL_NS_MAX ns.
        """
        level = next(i for i, (window, _) in enumerate(LEVELS) if interval <= window)
        width = LEVELS[level][1]
        first = (now - interval) // width
        then = self._row(self._before(level, first), row)
        elapsed = max(now - max(first * width, begin), SECOND) / SECOND
        return tuple((new - old) / elapsed for new, old in zip(self.totals(row), then, strict=True))

    def rates(self, row: int, begin: int, now: int) -> tuple[Rates, ...]:
        """Return the rates of each counter of a row over every window."""
        levels = [self.per_second(row, window, begin, now) for window, _ in LEVELS]
        return tuple(Rates(*rates) for rates in zip(*levels, strict=True))

    def idle(self, now: int) -> list[int]:
        """Return the rows whose rates are 0 over every window."""
        window, width = LEVELS[-1]
        then = self._before(len(LEVELS) - 1, (now - window) // width)
        rows = range(len(then) // self._width)
        return [row for row in rows if self._row(then, row) == self.totals(row)]

    def drop(self, rows: Iterable[int]) -> None:
        """Forget these rows; those behind them move up. Costs as much as all that is kept."""
        gone = sorted(rows)
        made: dict[int, array[int]] = {}
        self._begins = self._without(gone, self._begins, made)
        self._totals = self._without(gone, self._totals, made)
        for past in self._past:
            kept = [(bucket, self._without(gone, then, made)) for bucket, then in past]
            past.clear()
            past.extend(kept)

    def _without(
        self, gone: list[int], table: array[int], made: dict[int, array[int]]
    ) -> array[int]:
        """Return a table without some rows; one that is there twice is made once."""
        new = made.get(id(table))
        if new is None:
            new = made[id(table)] = array("Q")
            begin = 0
            for row in gone:
                new.extend(table[begin : row * self._width])
                begin = (row + 1) * self._width
            new.extend(table[begin:])
        return new
