"""Opening a log of 1,000,000 records of 100 B and reading all of it.

Another process writes it at level os in lists of 1,000 and then closes it, or is killed with
SIGKILL when the last append has returned: then every record must be there all the same. Before
opening, the files are put out of the page cache, so that the first reading is cold for all; the
second reading of the same open log is what it then is.

    python -m benchmarks.reopen CONTENDER PATH RECORDS SEED close|kill      (the writer)
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Literal, TypeAlias

import benchmarks
from benchmarks import limits
from benchmarks.cases import Case, Line, Run, WrongResult, expect
from benchmarks.contenders import contenders
from benchmarks.plan import Plan
from benchmarks.rivals import Opener
from benchmarks.samples import Sample

WORKLOAD = "reopen"
_RECORDS = 1_000_000
_LIST_RECORDS = 1000
_SIZE = 100
_POOL_LISTS = 100

_Ending: TypeAlias = Literal["close", "kill"]


def cases(plan: Plan, openers: Mapping[str, Opener]) -> list[Case]:
    records = plan.count(_RECORDS // _LIST_RECORDS) * _LIST_RECORDS
    opening = (limits.first_page(20),)
    cold = (limits.bytes_objects(_SIZE, records), limits.direct_read(records * _SIZE, _SIZE))
    warm = (limits.bytes_objects(_SIZE, records),)
    closed = (
        Line("open after close", opening, unit="ms"),
        Line(f"{_SIZE} B, read all, cold", cold),
        Line(f"{_SIZE} B, read all, again", warm),
    )
    killed = (
        Line("open after kill -9", opening, unit="ms"),
        Line(f"{_SIZE} B, read all after kill -9, cold", cold),
    )
    endings: tuple[tuple[_Ending, tuple[Line, ...]], ...] = (("close", closed), ("kill", killed))
    found = []
    for ending, lines in endings:
        runs: dict[str, Run] = {
            name: partial(_run, name=name, opener=opener, plan=plan, records=records, ending=ending)
            for name, opener in openers.items()
        }
        found.append(Case(WORKLOAD, lines, runs))
    return found


def _run(
    path: Path, *, name: str, opener: Opener, plan: Plan, records: int, ending: _Ending
) -> Sequence[Sample]:
    write_elsewhere(path, name, plan.seed, records, ending)
    evict(path)
    begin = perf_counter()
    log = opener(str(path), "os")
    samples = [Sample(1, perf_counter() - begin)]
    for _ in range(2 if ending == "close" else 1):
        begin = perf_counter()
        found = log.scan()
        samples.append(Sample(records, perf_counter() - begin))
        expect(f"records and bytes of {name} after {ending}", found, (records, records * _SIZE))
    log.close()
    return samples


def write_elsewhere(path: Path, name: str, seed: int, records: int, ending: _Ending) -> None:
    command = [sys.executable, "-m", "benchmarks.reopen"]
    command += [name, str(path), str(records), str(seed), ending]
    root = Path(benchmarks.__file__).resolve().parent.parent
    writer = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root, text=True
    )
    with writer:
        assert writer.stdout is not None
        told = writer.stdout.readline()
        if ending == "kill":
            writer.kill()
    if told != "written\n" or (ending == "close" and writer.returncode):
        raise WrongResult(f"the writer for {name} failed with code {writer.returncode}")


def evict(path: Path) -> None:
    for file in path.rglob("*"):
        if file.is_file():
            fd = os.open(file, os.O_RDONLY)
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def write(name: str, path: str, records: int, seed: int, ending: _Ending) -> None:
    """Append records, tell so on stdout, and close, or wait to be killed."""
    log = contenders()[0][name](path, "os")
    pool = Plan(seed).lists(_POOL_LISTS, _LIST_RECORDS, _SIZE)
    for number in range(records // _LIST_RECORDS):
        log.append_list(pool[number % _POOL_LISTS])
    print("written", flush=True)
    if ending == "kill":
        sys.stdin.read()
    log.close()


def _write_as_told(arguments: Sequence[str]) -> None:
    name, path, records, seed, ending = arguments
    write(name, path, int(records), int(seed), "kill" if ending == "kill" else "close")


if __name__ == "__main__":
    _write_as_told(sys.argv[1:])
