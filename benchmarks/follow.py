"""A writer of 32 KiB frames, alone and with a follower in another process.

The follower takes every batch as it comes and decodes none. What is asked: what it costs the
writer, and how long after the call of an append a follower has the record, in times of an append.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter_ns

import benchmarks
import hstreamlite as hs
from benchmarks.cases import Case, Line, WrongResult, expect
from benchmarks.plan import Plan
from benchmarks.samples import Sample

ALONE, FOLLOWED = "alone", "followed"
_FRAME_BYTES = 32 << 10
_HEADERS_BYTES = 512
_APPENDS = 8_000
_STREAM = "stream-0"


def case(plan: Plan) -> Case:
    appends = plan.count(_APPENDS, least=20)
    payload = plan.payloads(1, _FRAME_BYTES - _HEADERS_BYTES)[0]
    work = partial(_write, payload=payload, appends=appends)
    lines = (
        Line("frames of 32 KiB, sync, followed", ()),
        Line("time until a follower has a record", (), unit="ms"),
    )
    runs = {FOLLOWED: partial(work, followed=True), ALONE: partial(work, followed=False)}
    return Case("follow", lines, runs)


def _write(path: Path, *, payload: bytes, appends: int, followed: bool) -> Sequence[Sample]:
    """Return the rate, and the median time until a record is seen; alone, until on disk."""
    with hs.open(path) as store:
        append = store.create_stream(_STREAM).append
        follower = _start_follower(path, appends) if followed else None
        times = [perf_counter_ns()]
        for _ in range(appends):
            append(payload)
            times.append(perf_counter_ns())
        seen = _seen_by(follower) if follower else times[1:]
        expect("records", len(seen), appends)
        expect("frames", store.stats().log["frames"] >= appends, True)
    delays = [after - before for before, after in zip(times, seen, strict=False)]
    seconds = (times[-1] - times[0]) / 1e9
    return Sample(appends, seconds), Sample(1, median(delays) / 1e9)


def _start_follower(path: Path, records: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.follow", str(path), str(records)]
    root = Path(benchmarks.__file__).resolve().parent.parent
    follower = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root, text=True)
    assert follower.stdout is not None
    if follower.stdout.readline() != "ready\n":
        follower.kill()
        follower.communicate()
        raise WrongResult("the follower did not open the store")
    return follower


def _seen_by(follower: subprocess.Popen[str]) -> list[int]:
    told, _ = follower.communicate()
    expect("exit code of the follower", follower.returncode, 0)
    seen: list[int] = json.loads(told)
    return seen


def follow(path: str, records: int) -> None:
    """Take so many batches, and tell when each one was there."""
    seen = []
    with hs.open(path, read_only=True) as store:
        batches = store.stream(_STREAM).read_batches(limit=records, follow=True)
        print("ready", flush=True)
        for number, batch in enumerate(batches, 1):
            seen.append(perf_counter_ns())
            expect("batch", (batch.batch_id, len(batch)), (number, 1))
    print(json.dumps(seen))


if __name__ == "__main__":
    follow(sys.argv[1], int(sys.argv[2]))
