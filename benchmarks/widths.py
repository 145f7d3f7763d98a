"""hstreamlite over 1 to 100,000 streams: the rate, the syncs, and the files open for writing.

Batches of 10 records of 100 B go round-robin over the streams, and once a MiB everything is made
durable. A group is what the log writes at once: what was staged by then, of whatever streams.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

from benchmarks.cases import Case, Limit, Line, Run, expect
from benchmarks.plan import Plan
from benchmarks.samples import Sample
from benchmarks.subject import HStreamLog

_WIDTHS = (1, 100, 10_000, 100_000)
_SIZE = 100
_BATCH_RECORDS = 10
_DURABLE_BATCHES = (1 << 20) // (_BATCH_RECORDS * _SIZE)
_MEBIBYTES = 200
_POOL_LISTS = 4096


def case(plan: Plan) -> Case:
    """Return the case whose contenders are the widths, one stream first."""
    mebibytes = plan.count(_MEBIBYTES, least=2)
    pool = plan.lists(_POOL_LISTS, _BATCH_RECORDS, _SIZE)
    runs: dict[str, Run] = {
        _name(width): partial(_run, width=width, pool=pool, mebibytes=mebibytes)
        for width in _WIDTHS
    }
    lines = (
        Line("rate", ()),
        Line("syncs a group", (amount("one", 1.0),)),
        Line("segment files open for writing", (amount("the active one and its successor", 2.0),)),
    )
    return Case("streams", lines, runs)


def amount(name: str, allowed: float) -> Limit:
    """Return a limit that is a plain number."""
    return Limit(name, lambda _path: Sample(allowed, 1.0))


def _name(width: int) -> str:
    return f"{width:,} streams" if width > 1 else "1 stream"


def _run(path: Path, *, width: int, pool: list[list[bytes]], mebibytes: int) -> Sequence[Sample]:
    log = HStreamLog(str(path), "memory", streams=width)
    log.settle()
    append = log.append_list
    records = mebibytes * _DURABLE_BATCHES * _BATCH_RECORDS
    before = log.counters()
    begin = perf_counter()
    for number in range(records // _BATCH_RECORDS):
        durable = number % _DURABLE_BATCHES == _DURABLE_BATCHES - 1
        append(pool[number % _POOL_LISTS], number % width, durable=durable)
    seconds = perf_counter() - begin
    after, files = log.counters(), _open_for_writing(path / "segments")
    syncs, frames = (after[name] - before[name] for name in ("syncs", "frames"))
    expect("records", log.scan()[0], records)
    log.close()
    return Sample(records, seconds), Sample(syncs / frames, 1.0), Sample(files, 1.0)


def _open_for_writing(directory: Path) -> int:
    inside = str(directory.resolve()) + "/"
    found = 0
    for fd in Path("/proc/self/fd").iterdir():
        try:
            target = str(fd.readlink())
            about = Path("/proc/self/fdinfo", fd.name).read_text(encoding="ascii")
        except OSError:
            continue
        flags = next(line for line in about.splitlines() if line.startswith("flags:"))
        if target.startswith(inside) and int(flags.split()[1], 8) & os.O_ACCMODE:
            found += 1
    return found
