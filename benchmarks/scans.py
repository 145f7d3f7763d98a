"""Reading: all of a log, warm and cold, and a hundred records from somewhere in it.

lmdb's part is its plain cursor, over the payloads alone, without checksums; hstreamlite checks
every byte. Cold means that the files are out of the page cache and the store is newly opened.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from time import perf_counter

import hstreamlite as hs
from benchmarks import limits
from benchmarks.cases import Case, Line, Run, expect
from benchmarks.plan import Plan
from benchmarks.reopen import evict
from benchmarks.rivals import Opener
from benchmarks.samples import Sample
from benchmarks.subject import NAME, HStreamLog

_SIZE = 100
_COLD_SIZE = 1024
_LIST_RECORDS = 1000
_LISTS = 1000
_COLD_LISTS = 500
_POOL_LISTS = 50
_SEEKS = 2000
_TOGETHER = 100


def _fill(path: Path, opener: Opener, plan: Plan, lists: int, size: int) -> None:
    log = opener(str(path), "os")
    pool = plan.lists(_POOL_LISTS, _LIST_RECORDS, size)
    for number in range(lists):
        log.append_list(pool[number % _POOL_LISTS])
    log.settle()
    log.close()


def _records(stream: hs.Stream) -> tuple[int, int]:
    records = size = 0
    for record in stream.read():
        _id, payload = record.id, record.payload
        records += 1
        size += len(payload)
    return records, size


def _batches(stream: hs.Stream) -> tuple[int, int]:
    records = size = 0
    for batch in stream.read_batches():
        records += len(batch)
        size += len(batch.payload)
    return records, size


def _timed(scan: Callable[[], tuple[int, int]], records: int) -> Sample:
    begin = perf_counter()
    found = scan()
    seconds = perf_counter() - begin
    expect("records", found[0], records)
    return Sample(records, seconds)


def warm(plan: Plan, lmdb: Opener | None) -> Case:
    """Return the case of reading all again: line 0 by record, line 1 by batch."""
    lists = plan.count(_LISTS, least=2)
    runs: dict[str, Run] = {NAME: partial(_warm, plan=plan, lists=lists)}
    if lmdb is not None:
        runs["lmdb"] = partial(_warm_rival, opener=lmdb, plan=plan, lists=lists)
    return Case("read", (Line("by record", ()), Line("by batch", ())), runs)


def _warm(path: Path, *, plan: Plan, lists: int) -> Sequence[Sample]:
    _fill(path, HStreamLog, plan, lists, _SIZE)
    records = lists * _LIST_RECORDS
    with hs.open(path) as store:
        stream = store.stream("stream-0")
        _records(stream)
        return (
            _timed(partial(_records, stream), records),
            _timed(partial(_batches, stream), records),
        )


def _warm_rival(path: Path, *, opener: Opener, plan: Plan, lists: int) -> Sequence[Sample]:
    _fill(path, opener, plan, lists, _SIZE)
    log = opener(str(path), "os")
    log.scan()
    samples = [_timed(log.scan, lists * _LIST_RECORDS) for _ in range(2)]
    log.close()
    return samples


def cold(plan: Plan) -> Case:
    """Return the case of reading all from the disk, with the same lines."""
    lists = plan.count(_COLD_LISTS, least=2)
    disk = limits.direct_read(lists * _LIST_RECORDS * _COLD_SIZE, _COLD_SIZE)
    runs: dict[str, Run] = {NAME: partial(_cold, plan=plan, lists=lists)}
    return Case("read", (Line("by record, cold", (disk,)), Line("by batch, cold", (disk,))), runs)


def _cold(path: Path, *, plan: Plan, lists: int) -> Sequence[Sample]:
    _fill(path, HStreamLog, plan, lists, _COLD_SIZE)
    samples = []
    for scan in (_records, _batches):
        evict(path)
        with hs.open(path) as store:
            stream = store.stream("stream-0")
            samples.append(_timed(partial(scan, stream), lists * _LIST_RECORDS))
    return samples


def seeks(plan: Plan, lmdb: Opener | None) -> Case:
    """Return the case of seeking: line 0 by id, line 1 by time; lmdb seeks by position in both."""
    lists = plan.count(_LISTS, least=2)
    source = random.Random(plan.seed)
    last = lists * _LIST_RECORDS - _TOGETHER
    places = [source.randrange(1, last) for _ in range(plan.count(_SEEKS, least=20))]
    runs: dict[str, Run] = {NAME: partial(_seeks, plan=plan, lists=lists, places=places)}
    if lmdb is not None:
        runs["lmdb"] = partial(_seeks_rival, opener=lmdb, plan=plan, lists=lists, places=places)
    return Case("read", (Line("by id", ()), Line("by time", ())), runs)


def _seeks(path: Path, *, plan: Plan, lists: int, places: list[int]) -> Sequence[Sample]:
    _fill(path, HStreamLog, plan, lists, _SIZE)
    with hs.open(path) as store:
        stream = store.stream("stream-0")
        tail = stream.tail()
        assert tail is not None
        ids = [hs.RecordId(tail.shard_id, place, 0) for place in places]
        times = [_time_of(stream, place) for place in ids]
        return _seeking(stream, ids), _seeking(stream, times)


def _time_of(stream: hs.Stream, place: hs.RecordId) -> datetime:
    time = next(iter(stream.read(start=place))).append_time
    assert time is not None
    return time


def _seeking(stream: hs.Stream, places: Sequence[hs.Place]) -> Sample:
    begin = perf_counter()
    for place in places:
        expect("records", len(list(stream.read(start=place, limit=_TOGETHER))), _TOGETHER)
    return Sample(len(places), perf_counter() - begin)


def _seeks_rival(
    path: Path, *, opener: Opener, plan: Plan, lists: int, places: list[int]
) -> Sequence[Sample]:
    _fill(path, opener, plan, lists, _SIZE)
    log = opener(str(path), "os")
    log.scan()
    payloads = log.payloads  # type: ignore[attr-defined]
    begin = perf_counter()
    for place in places:
        expect("records", len(payloads(place, _TOGETHER)), _TOGETHER)
    sample = Sample(len(places), perf_counter() - begin)
    log.close()
    return sample, sample
