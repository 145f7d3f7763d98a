"""What records take beyond their payload: on the disk, and in memory.

python -m benchmarks.footprint PATH MIB     (append and read so much, print the growth of memory)
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import benchmarks
import hstreamlite as hs
from benchmarks.cases import Case, Line
from benchmarks.plan import Plan
from benchmarks.samples import Sample
from benchmarks.subject import NAME, HStreamLog
from benchmarks.widths import amount

_SIZE = 100
_LIST_RECORDS = 1000
_LISTS = 1000
_POOL_LISTS = 10
_OVERHEAD_BYTES = 12
_MIB = 1 << 20
_MEMORY_MIB = 2048
_OWN_BYTES = 8 * _MIB


def disk(plan: Plan) -> Case:
    """Return the case of the bytes on disk per record beyond its payload, once closed.

    The space that is reserved for the next segment holds no record and does not count.
    """
    lists = plan.count(_LISTS, least=_LISTS)
    allowed = amount(f"{_OVERHEAD_BYTES} B", _OVERHEAD_BYTES)
    run = partial(_disk, plan=plan, lists=lists)
    return Case("disk", (Line("disk beyond the payload, 1,000 x 100 B", (allowed,)),), {NAME: run})


def _disk(path: Path, *, plan: Plan, lists: int) -> Sequence[Sample]:
    log = HStreamLog(str(path), "memory")
    pool = plan.lists(_POOL_LISTS, _LIST_RECORDS, _SIZE)
    for number in range(lists):
        log.append_list(pool[number % _POOL_LISTS])
    log.close()
    taken = sum(file.stat().st_blocks * 512 for file in path.rglob("*.seg"))
    records = lists * _LIST_RECORDS
    return (Sample(taken / records - _SIZE, 1.0),)


def memory(plan: Plan) -> Case:
    """Return the case of the growth of memory while much more than fits is appended and read."""
    mebibytes = plan.count(_MEMORY_MIB, least=128)
    config = hs.StoreConfig()
    bound = config.stage_bytes + config.os_stage_bytes + config.index_cache_bytes + _OWN_BYTES
    title = f"memory while {mebibytes:,} MiB pass"
    allowed = amount("stage, os stage, index cache, 8 MiB", bound)
    run = partial(_memory, mebibytes=mebibytes)
    return Case("memory", (Line(title, (allowed,)),), {NAME: run})


def _memory(path: Path, *, mebibytes: int) -> Sequence[Sample]:
    root = Path(benchmarks.__file__).resolve().parent.parent
    command = [sys.executable, "-m", "benchmarks.footprint", str(path), str(mebibytes)]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    return (Sample(int(done.stdout), 1.0),)


def grow(path: str, mebibytes: int) -> int:
    """Append so much at level os, read it by record and by batch; return how the peak grew."""
    pool = Plan(1).lists(_POOL_LISTS, _LIST_RECORDS, _SIZE)
    before = _peak_bytes()
    with hs.open(path, durability="os") as store:
        stream = store.create_stream("stream-0")
        for number in range(mebibytes * _MIB // (_LIST_RECORDS * _SIZE)):
            stream.append_many(pool[number % _POOL_LISTS])
        for _ in stream.read():
            pass
        for _ in stream.read_batches():
            pass
    return _peak_bytes() - before


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    print(grow(sys.argv[1], int(sys.argv[2])))
