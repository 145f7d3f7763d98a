"""256 asyncio callers, each awaiting one synced append after the other.

The rivals block, so their users call them in a pool of threads; beside that stands the version with
one thread and all waiting payloads in one commit, which takes more thought than most give it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import TypeAlias

import hstreamlite as hs
from benchmarks import limits
from benchmarks.cases import Case, Line, Run, expect
from benchmarks.plan import Plan
from benchmarks.rivals import Opener
from benchmarks.rivals.gather import batched, pooled
from benchmarks.samples import CALLS_NS_MAX, Sample
from benchmarks.subject import NAME, HStreamLog

WORKLOAD = "callers"
CALLERS = 256
POOL_THREADS = 16
_SIZE = 100

Append: TypeAlias = Callable[[bytes], Awaitable[object]]


def cases(plan: Plan, openers: Mapping[str, Opener]) -> list[Case]:
    limit = limits.futures(CALLERS, _calls(plan))
    line = Line(f"{_SIZE} B, sync, {CALLERS} callers", (limit,))
    return [Case(WORKLOAD, (line,), runs(plan, openers))]


def _calls(plan: Plan) -> int:
    return plan.count(200, least=2)


def runs(plan: Plan, openers: Mapping[str, Opener]) -> dict[str, Run]:
    """Return ours and both ways of each rival."""
    payload = plan.payloads(1, _SIZE)[0]
    work = partial(call_all, payload=payload, calls=_calls(plan))
    few = partial(call_all, payload=payload, calls=plan.count(40, least=2))
    found: dict[str, Run] = {NAME: partial(awaited, work=work)}
    for name, opener in openers.items():
        if name != NAME:
            found[f"{name}, {POOL_THREADS} threads"] = partial(
                pooled_calls, opener=opener, work=few
            )
            found[f"{name}, batched"] = partial(batched_calls, opener=opener, work=work)
    return found


async def call_all(append: Append, *, payload: bytes, calls: int) -> Sample:
    times: list[int] = []

    async def caller() -> None:
        for _ in range(calls):
            begin = perf_counter_ns()
            if begin > end:
                return
            await append(payload)
            times.append(perf_counter_ns() - begin)

    await append(payload)
    begin = perf_counter_ns()
    end = begin + CALLS_NS_MAX
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return Sample(len(times), (perf_counter_ns() - begin) / 1e9, times)


def awaited(path: Path, *, work: Callable[[Append], Awaitable[Sample]]) -> Sequence[Sample]:
    async def run() -> Sample:
        async with hs.aio.open(path) as store:
            stream = await store.create_stream("stream-0")
            return await work(stream.append)

    sample = asyncio.run(run())
    log = HStreamLog(str(path), "sync")
    expect("records", log.scan()[0], sample.units + 1)
    log.close()
    return (sample,)


def pooled_calls(
    path: Path, *, opener: Opener, work: Callable[[Append], Awaitable[Sample]]
) -> Sequence[Sample]:
    log = opener(str(path), "sync")

    async def run() -> Sample:
        append, pool = pooled(log, POOL_THREADS)
        with pool:
            return await work(append)

    sample = asyncio.run(run())
    expect("records", log.scan()[0], sample.units + 1)
    log.close()
    return (sample,)


def batched_calls(
    path: Path, *, opener: Opener, work: Callable[[Append], Awaitable[Sample]]
) -> Sequence[Sample]:
    log = opener(str(path), "sync")

    async def run() -> Sample:
        append, pool = batched(log)
        with pool:
            return await work(append)

    sample = asyncio.run(run())
    expect("records", log.scan()[0], sample.units + 1)
    log.close()
    return (sample,)
