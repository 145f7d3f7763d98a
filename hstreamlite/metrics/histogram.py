"""Distributions of latencies and sizes: counts in buckets whose width grows with the value.

The buckets are those of the native core (`meter_api.h`), which counts; a percentile is at most a
sixteenth off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import ceil
from typing import Any, Final

from hstreamlite._native import ffi, lib

_BUCKETS: Final = int(lib.HSL_HISTOGRAM_BUCKETS)
FLOORS: Final = tuple(int(lib.hsl_histogram_floor(bucket)) for bucket in range(_BUCKETS + 1))
"""The smallest value of each bucket, and what no bucket holds."""
_AT: Final = {floor: bucket for bucket, floor in enumerate(FLOORS)}


@dataclass(frozen=True, slots=True)
class Distribution:
    """How values were spread, since the store was opened: latencies in seconds, sizes in bytes.

    Half of the values are `p50` or below, and so on; each is exact to a sixteenth, and 0 if there
    is no value.
    """

    count: int = 0
    sum: float = 0.0
    p50: float = 0.0
    p75: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    counts: tuple[int, ...] = field(default=(), repr=False)
    unit: float = field(default=1.0, repr=False)

    def percentile(self, share: float) -> float:
        """Return the value that such a share of the values does not exceed; 0 if there is none."""
        if not self.count:
            return 0.0
        rank = max(1, ceil(share * self.count))
        bucket = next(i for i, done in enumerate(accumulate(self.counts)) if done >= rank)
        return (FLOORS[bucket] + FLOORS[bucket + 1] - 1) / 2 * self.unit

    def up_to(self, powers: range) -> list[tuple[float, int]]:
        """Return how many values are below each of these powers of two, in its unit."""
        below = [0, *accumulate(self.counts)]
        return [
            (2.0**power * self.unit, below[_AT[1 << power]] if self.count else 0)
            for power in powers
        ]

    def below(self) -> Iterator[tuple[float, int]]:
        """Return how many values are at most so large, at each power of two from which there are
        any to that from which there is no more."""
        done = 0
        for bucket, count in enumerate(self.counts):
            edge = FLOORS[bucket]
            if edge & (edge - 1) == 0 and edge > 1 and done:
                yield (edge - 1) * self.unit, done
                if done == self.count:
                    return
            done += count


def distribution_of(total: int, counts: Sequence[int], unit: float) -> Distribution:
    """Return what counts of buckets tell, in multiples of a unit."""
    count = sum(counts)
    spread = Distribution(count, total * unit, counts=tuple(counts), unit=unit)
    if not count:
        return Distribution(unit=unit)
    return replace(
        spread,
        p50=spread.percentile(0.5),
        p75=spread.percentile(0.75),
        p95=spread.percentile(0.95),
        p99=spread.percentile(0.99),
    )


class Histogram:
    """Counts values that are given to it, from any thread."""

    __slots__ = ("_native", "_unit")

    def __init__(self, unit: float) -> None:
        native = lib.hsl_histogram_new()
        if native == ffi.NULL:
            raise MemoryError
        self._native: Any = ffi.gc(native, lib.hsl_histogram_free)
        self._unit = unit

    def add(self, value: int, times: int = 1) -> None:
        """Count a value, in units."""
        lib.hsl_histogram_add(self._native, max(0, value), times)

    def distribution(self) -> Distribution:
        total, counts = ffi.new("uint64_t *"), ffi.new("uint64_t[]", _BUCKETS)
        lib.hsl_histogram_read(self._native, total, counts)
        return distribution_of(int(total[0]), list(counts), self._unit)


def measured(log: Any, measure: int, unit: float) -> Distribution:
    """Return one of the distributions that a native log counts by itself."""
    total, counts = ffi.new("uint64_t *"), ffi.new("uint64_t[]", _BUCKETS)
    lib.hsl_log_histogram_read(log, measure, total, counts)
    return distribution_of(int(total[0]), list(counts), unit)
