"""One measurement, and the ways to take one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns
from typing import TypeVar

T = TypeVar("T")

CALLS_NS_MAX = 3_000_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """Work done in a time. `calls_ns` holds the latency of single calls where that means much."""

    units: float
    seconds: float
    calls_ns: Sequence[int] = ()

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.units / self.seconds

    def percentile_us(self, percent: float) -> float | None:
        """Return the latency that so many percent of the calls kept within, None without calls."""
        if not self.calls_ns:
            return None
        ordered = sorted(self.calls_ns)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] / 1e3


def timed_loop(call: Callable[[T], object], items: Sequence[T]) -> float:
    """Return the seconds of a plain loop over the items, without a clock inside."""
    begin = perf_counter_ns()
    for item in items:
        call(item)
    return (perf_counter_ns() - begin) / 1e9


def timed_calls(call: Callable[[T], object], items: Iterable[T]) -> list[int]:
    """Return the nanoseconds of each call; reading the clock adds some 50 to each.

    Ends early after `CALLS_NS_MAX`, so that a disk that takes milliseconds for a sync does not
    make a run of minutes one of hours.
    """
    clock = perf_counter_ns
    times = []
    end = clock() + CALLS_NS_MAX
    for item in items:
        begin = clock()
        if begin > end:
            break
        call(item)
        times.append(clock() - begin)
    return times


def in_threads(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """Run the jobs at once, each in a thread of its own; return what they returned, in order.

    An exception in one is raised here, when all have ended.
    """
    gate = threading.Barrier(len(jobs))

    def work(job: Callable[[], T]) -> T:
        gate.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(work, jobs))


def timed_threads(call: Callable[[T], object], shares: Sequence[Sequence[T]]) -> Sample:
    """Call from one thread per share; the time runs from the first start to the last end."""

    def work(share: Sequence[T]) -> tuple[int, list[int], int]:
        begin = perf_counter_ns()
        return begin, timed_calls(call, share), perf_counter_ns()

    results = in_threads([partial(work, share) for share in shares])
    begin = min(begin for begin, _, _ in results)
    end = max(end for _, _, end in results)
    times = [ns for _, share, _ in results for ns in share]
    return Sample(len(times), (end - begin) / 1e9, times)
