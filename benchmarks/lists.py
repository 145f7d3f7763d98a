"""Lists of 1,000 records: accepted in a burst, synced one by one, and as a long stream.

A burst is 4 MiB of payload at a time into a store that has written out everything before, so it
measures taking records in and not the disk; between bursts, outside the time, everything is synced.
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
    limit: Limit
    if level == "sync":
        synced = lists * -(-plan.count(500, least=len(lists)) // len(lists))
        run = partial(_synced, lists=synced)
        limit = limits.direct_sync(len(synced), _LIST_RECORDS * size, _LIST_RECORDS)
    else:
        bursts = plan.count(24)
        run = partial(bursts_of, lists=lists, bursts=bursts)
        limit = limits.join(lists, bursts)
    runs: dict[str, Run] = {
        name: partial(run, opener=opener, level=level) for name, opener in openers.items()
    }
    return Case(WORKLOAD, (Line(title, (limit,)),), runs)


def bursts_of(
    path: Path, *, opener: Opener, level: Level, lists: list[list[bytes]], bursts: int
) -> Sequence[Sample]:
    log = opener(str(path), level)
    warming = timed_calls(log.append_list, lists)
    times = []
    for _ in range(bursts):
        log.settle()
        times += timed_calls(log.append_list, lists)
    log.settle()
    expect("records", log.scan()[0], (len(warming) + len(times)) * _LIST_RECORDS)
    log.close()
    return (Sample(len(times) * _LIST_RECORDS, sum(times) / 1e9, times),)


def _synced(
    path: Path, *, opener: Opener, level: Level, lists: list[list[bytes]]
) -> Sequence[Sample]:
    log = opener(str(path), level)
    log.append_list(lists[0])
    times = timed_calls(log.append_list, lists)
    expect("records", log.scan()[0], (1 + len(times)) * _LIST_RECORDS)
    log.close()
    return (Sample(len(times) * _LIST_RECORDS, sum(times) / 1e9, times),)


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
