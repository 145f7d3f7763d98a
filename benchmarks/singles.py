"""One record a call, 100 B: at level os, and synced from one thread and from sixteen.

The sixteen also meet the rivals with group commit written by hand, because none of them gathers
Python threads by itself. The call at level os is too short for a clock around each, so its rate is
that of a plain loop, and its latencies come from a second pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from benchmarks import limits
from benchmarks.cases import Case, Limit, Line, Run, expect
from benchmarks.plan import Plan
from benchmarks.rivals import Level, Opener
from benchmarks.rivals.gather import gathered
from benchmarks.samples import Sample, timed_calls, timed_loop, timed_threads
from benchmarks.subject import NAME

WORKLOAD = "singles"
_SIZE = 100
THREADS = 16


def cases(plan: Plan, openers: Mapping[str, Opener]) -> list[Case]:
    pool = plan.payloads(1000, _SIZE)
    many = cycled(pool, plan.count(200_000, least=100))
    few = cycled(pool, plan.count(10_000, least=50))
    shares = [cycled(pool, plan.count(2_000, least=20))] * THREADS
    gathering = {
        f"{name}+writer": gathered(opener) for name, opener in openers.items() if name != NAME
    }
    return [
        _case("os, 1 thread", limits.empty_call(many), openers, partial(looped, items=many)),
        _case(
            "sync, 1 thread",
            limits.direct_sync(len(few), _SIZE, 1),
            openers,
            partial(threaded, level="sync", shares=[few]),
        ),
        _case(
            f"os, {THREADS} threads",
            limits.empty_call(many),
            openers,
            partial(threaded, level="os", shares=[many[: len(many) // THREADS]] * THREADS),
        ),
        _case(
            f"sync, {THREADS} threads",
            limits.direct_sync(len(few), _SIZE, THREADS),
            {**openers, **gathering},
            partial(threaded, level="sync", shares=shares),
        ),
    ]


def cycled(pool: Sequence[bytes], count: int) -> list[bytes]:
    return list(islice(cycle(pool), count))


def _case(
    title: str, limit: Limit, openers: Mapping[str, Opener], run: partial[Sequence[Sample]]
) -> Case:
    runs: dict[str, Run] = {name: partial(run, opener=opener) for name, opener in openers.items()}
    return Case(WORKLOAD, (Line(f"{_SIZE} B, {title}", (limit,)),), runs)


def looped(path: Path, *, opener: Opener, items: list[bytes]) -> Sequence[Sample]:
    log = opener(str(path), "os")
    append = log.appender()
    warming, probing = items[: len(items) // 10], items[: len(items) // 5]
    timed_loop(append, warming)
    seconds = timed_loop(append, items)
    times = timed_calls(append, probing)
    log.settle()
    expect("records", log.scan()[0], len(warming) + len(items) + len(times))
    log.close()
    return (Sample(len(items), seconds, times),)


def threaded(
    path: Path, *, opener: Opener, level: Level, shares: list[list[bytes]]
) -> Sequence[Sample]:
    log = opener(str(path), level)
    append = log.appender()
    warming = shares[0][:20]
    timed_loop(append, warming)
    sample = timed_threads(append, shares)
    log.settle()
    expect("records", log.scan()[0], len(warming) + sample.units)
    log.close()
    return (sample,)
