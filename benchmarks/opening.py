"""Opening a store: after kill -9, and with ten million sealed blocks in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import hstreamlite as hs
from benchmarks import limits
from benchmarks.cases import Case, Limit, Line, expect
from benchmarks.plan import Plan
from benchmarks.reopen import evict, write_elsewhere
from benchmarks.samples import Sample
from benchmarks.subject import NAME, HStreamLog

_RECORDS = 1_000_000
_LIST_RECORDS = 1000
_BLOCKS = 10_000_000
_TAIL_BYTES = 32 << 20
_GRACE_SECONDS = 0.010
_OPENS = 5


def killed(plan: Plan) -> Case:
    """Return the case of opening after 1,000,000 records and kill -9, beside reading 32 MiB from
    the disk and 10 ms."""
    records = plan.count(_RECORDS // _LIST_RECORDS) * _LIST_RECORDS
    run = partial(_killed, plan=plan, records=records)
    title = f"open after {records:,} records and kill -9"
    return Case("open", (Line(title, (_tail_read(),), unit="ms"),), {NAME: run})


def _killed(path: Path, *, plan: Plan, records: int) -> Sequence[Sample]:
    write_elsewhere(path, NAME, plan.seed, records, "kill")
    evict(path)
    begin = perf_counter()
    log = HStreamLog(str(path), "os")
    seconds = perf_counter() - begin
    expect("records", log.scan()[0], records)
    log.close()
    return (Sample(1, seconds),)


def _tail_read() -> Limit:
    read = limits.direct_read(_TAIL_BYTES, _TAIL_BYTES)

    def measure(path: Path) -> Sample:
        return Sample(1, read.measure(path).seconds + _GRACE_SECONDS)

    return Limit("direct read of 32 MiB + 10 ms", measure)


def sealed(plan: Plan) -> Case:
    """Return the case of opening a closed store of 10,000,000 blocks, beside one without any."""
    blocks = plan.count(_BLOCKS // 2) * 2
    title = f"open a store of {blocks:,} blocks"
    empty = Limit("open an empty store", partial(_opens, blocks=0))
    run = partial(_full, blocks=blocks)
    return Case("open", (Line(title, (empty,), unit="ms"),), {NAME: run})


def _full(path: Path, *, blocks: int) -> Sequence[Sample]:
    return (_opens(path, blocks=blocks),)


def _opens(path: Path, *, blocks: int) -> Sample:
    """Open a closed store several times; it is made once and kept beside the round's directory."""
    made = path.parent / f"sealed-{blocks}"
    if not made.exists():
        _write(made, blocks)
    seconds = 0.0
    for _ in range(_OPENS):
        evict(made)
        os.sync()
        begin = perf_counter()
        store = hs.open(made)
        seconds += perf_counter() - begin
        expect("records", store.stats().records, blocks)
        store.close()
    return Sample(_OPENS, seconds)


def _write(path: Path, blocks: int) -> None:
    """Append single records to two streams in turn: each is a block of its own."""
    with hs.open(path, durability="memory") as store:
        one, other = (store.create_stream(name).append for name in ("one", "other"))
        for _ in range(blocks // 2):
            one(b"")
            other(b"")
