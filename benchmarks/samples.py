"""One measurement, and the ways to take one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TypeVar

T = TypeVar("T")


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
    """Return the seconds of a plain loop over the items: no clock inside, for the shortest calls."""
    begin = perf_counter_ns()
    for item in items:
        call(item)
    return (perf_counter_ns() - begin) / 1e9


def timed_calls(call: Callable[[T], object], items: Iterable[T]) -> list[int]:
    """Return the nanoseconds of each call; reading the clock adds some 50 to each."""
    clock = perf_counter_ns
    times = []
    for item in items:
        begin = clock()
        call(item)
        times.append(clock() - begin)
    return times


def timed_threads(call: Callable[[T], object], shares: Sequence[Sequence[T]]) -> Sample:
    """Call from one thread per share at once; the time runs from the first start to the last end.

    An exception in a thread is raised here.
    """
    clock = perf_counter_ns
    gate = threading.Barrier(len(shares))
    times: list[list[int]] = [[] for _ in shares]
    spans: list[tuple[int, int]] = []
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            gate.wait()
            begin = clock()
            times[number] = timed_calls(call, shares[number])
            spans.append((begin, clock()))
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    elapsed = max(end for _, end in spans) - min(begin for begin, _ in spans)
    return Sample(sum(map(len, shares)), elapsed / 1e9, [ns for share in times for ns in share])
