"""The same bytes over 1, 100 and 10,000 streams: what a stream costs.

Batches of 10 records of 100 B go round-robin over the streams, and once a MiB everything is made
durable. The rivals keep all streams in one database, told apart by a prefix of the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

from benchmarks import limits
from benchmarks.cases import Case, Line, Run, expect
from benchmarks.plan import Plan
from benchmarks.rivals import Opener
from benchmarks.samples import Sample

WORKLOAD = "streams"
_WIDTHS = (1, 100, 10_000)
_SIZE = 100
_BATCH_RECORDS = 10
_DURABLE_BATCHES = (1 << 20) // (_BATCH_RECORDS * _SIZE)
_BYTES = 64 << 20
_POOL_LISTS = 4096


def cases(plan: Plan, openers: Mapping[str, Opener]) -> list[Case]:
    batches = plan.count(_BYTES // (_BATCH_RECORDS * _SIZE), least=_DURABLE_BATCHES)
    pool = plan.lists(_POOL_LISTS, _BATCH_RECORDS, _SIZE)
    volume = batches * _BATCH_RECORDS * _SIZE
    bounds = tuple(limits.direct_write(volume, depth, _SIZE) for depth in (2, 1))
    found = []
    for width in _WIDTHS:
        runs: dict[str, Run] = {
            name: partial(_run, opener=opener, width=width, pool=pool, batches=batches)
            for name, opener in openers.items()
        }
        plural = "streams" if width > 1 else "stream"
        line = Line(f"10 x {_SIZE} B, {width:,} {plural}, sync each MiB", bounds)
        found.append(Case(WORKLOAD, (line,), runs))
    return found


def _run(
    path: Path, *, opener: Opener, width: int, pool: list[list[bytes]], batches: int
) -> Sequence[Sample]:
    log = opener(str(path), "memory", streams=width)
    log.settle()
    append = log.append_list
    begin = perf_counter()
    for number in range(batches):
        durable = number % _DURABLE_BATCHES == _DURABLE_BATCHES - 1
        append(pool[number % _POOL_LISTS], number % width, durable=durable)
    log.settle()
    seconds = perf_counter() - begin
    expect("records", log.scan()[0], batches * _BATCH_RECORDS)
    log.close()
    return (Sample(batches * _BATCH_RECORDS, seconds),)
