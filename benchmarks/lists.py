"""Lists of 1,000 records: accepted in a burst, synced one by one, and as a long stream.

A burst is 4 MiB of payload at a time into a store that has written out everything before, so it
measures taking records in and not the disk. Behind each, outside the time, every list is joined and
then everything is synced. The rate of joins is the limit beside it.
The stream is bulk loading: no waiting until the end, which is a sync and inside the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

from benchmarks import limits
from benchmarks.cases import Case, Limit, Line, Run, expect
from benchmarks.plan import Plan
from benchmarks.rivals import Level, Opener
from benchmarks.samples import Sample, timed_calls
from benchmarks.subject import NAME

WORKLOAD = "lists"
_LIST_RECORDS = 1000
_BURST_BYTES = 4 << 20
_STREAM_BYTES = 512 << 20
_LEVELS: tuple[Level, ...] = ("memory", "os", "sync")


def cases(plan: Plan, openers: Mapping[str, Opener]) -> list[Case]:
    found = []
    for size in (100, 1024):
        lists = plan.lists(_BURST_BYTES // (_LIST_RECORDS * size), _LIST_RECORDS, size)
        found += [_case(plan, openers, lists, size, level) for level in _LEVELS]
    for size in (100, 1024):
        lists = plan.lists(_BURST_BYTES // (_LIST_RECORDS * size), _LIST_RECORDS, size)
        found.append(_stream_case(plan, openers, lists, size))
    return found


def _case(
    plan: Plan,
    openers: Mapping[str, Opener],
    lists: list[list[bytes]],
    size: int,
    level: Level,
) -> Case:
    title = f"1,000 x {size:,} B, {level}"
    if level == "sync":
        synced = lists * -(-plan.count(500, least=len(lists)) // len(lists))
        limit = limits.direct_sync(len(synced), _LIST_RECORDS * size, _LIST_RECORDS)
        runs: dict[str, Run] = {
            name: partial(_synced, opener=opener, level=level, lists=synced)
            for name, opener in openers.items()
        }
    else:
        count = plan.count(24)
        bursts = {name: Bursts(opener, level, lists, count) for name, opener in openers.items()}
        limit = bursts[NAME].limit
        runs = {name: burst.appended for name, burst in bursts.items()}
    return Case(WORKLOAD, (Line(title, (limit,)),), runs)


class Bursts:
    """Appends of lists in bursts, and joins of the same lists right behind them.

    `b"".join` is one copy of the bytes, the least that accepting them can cost. Both are timed in
    the same run, burst by burst, so that what else the machine does meets both: with what appends
    leave in the caches, beside the threads that write them out. Whichever is asked for first in a
    round does the run; the other takes its half of it.
    """

    def __init__(self, opener: Opener, level: Level, lists: list[list[bytes]], bursts: int) -> None:
        self._run = partial(_bursts, opener=opener, level=level, lists=lists, bursts=bursts)
        self._appends: Sample | None = None
        self._joins: Sample | None = None
        self.limit = Limit("bytes.join", self._joined)

    def appended(self, path: Path) -> Sequence[Sample]:
        """Return the sample of appends; outside the time everything is synced and joined."""
        found, self._appends = self._appends, None
        if found is None:
            found, self._joins = self._run(path)
        return (found,)

    def _joined(self, path: Path) -> Sample:
        found, self._joins = self._joins, None
        if found is None:
            self._appends, found = self._run(path)
        return found


def _bursts(
    path: Path, opener: Opener, level: Level, lists: list[list[bytes]], bursts: int
) -> tuple[Sample, Sample]:
    log = opener(str(path), level)
    warming = timed_calls(log.append_list, lists)
    appends: list[int] = []
    joins: list[int] = []
    for _ in range(bursts):
        log.settle()
        appends += timed_calls(log.append_list, lists)
        joins += timed_calls(b"".join, lists)
    log.settle()
    expect("records", log.scan()[0], (len(warming) + len(appends)) * _LIST_RECORDS)
    log.close()
    return _sample(appends), _sample(joins)


def _sample(calls_ns: Sequence[int]) -> Sample:
    return Sample(len(calls_ns) * _LIST_RECORDS, sum(calls_ns) / 1e9, calls_ns)


def _synced(
    path: Path, *, opener: Opener, level: Level, lists: list[list[bytes]]
) -> Sequence[Sample]:
    log = opener(str(path), level)
    log.append_list(lists[0])
    times = timed_calls(log.append_list, lists)
    expect("records", log.scan()[0], (1 + len(times)) * _LIST_RECORDS)
    log.close()
    return (_sample(times),)


def _stream_case(
    plan: Plan, openers: Mapping[str, Opener], lists: list[list[bytes]], size: int
) -> Case:
    repeated = lists * plan.count(_STREAM_BYTES // _BURST_BYTES)
    volume = len(repeated) * _LIST_RECORDS * size
    bounds = tuple(limits.direct_write(volume, depth, size) for depth in (2, 1))
    runs: dict[str, Run] = {
        name: partial(streamed, opener=opener, lists=repeated) for name, opener in openers.items()
    }
    return Case(WORKLOAD, (Line(f"1,000 x {size:,} B, bulk, one sync", bounds),), runs)


def streamed(path: Path, *, opener: Opener, lists: list[list[bytes]]) -> Sequence[Sample]:
    log = opener(str(path), "memory")
    log.append_list(lists[0], durable=True)
    begin = perf_counter()
    for payloads in lists:
        log.append_list(payloads)
    log.settle()
    seconds = perf_counter() - begin
    records = sum(map(len, lists))
    expect("records", log.scan()[0], len(lists[0]) + records)
    log.close()
    return (Sample(records, seconds),)
