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
_CALLERS = 256
_POOL_THREADS = 16
_SIZE = 100

_Append: TypeAlias = Callable[[bytes], Awaitable[object]]


def cases(plan: Plan, openers: Mapping[str, Opener]) -> list[Case]:
    calls = plan.count(200, least=2)
    payload = plan.payloads(1, _SIZE)[0]
    work = partial(_call_all, payload=payload, calls=calls)
    few = partial(_call_all, payload=payload, calls=plan.count(40, least=2))
    runs: dict[str, Run] = {NAME: partial(_subject, work=work)}
    for name, opener in openers.items():
        if name != NAME:
            runs[f"{name}, {_POOL_THREADS} threads"] = partial(_pooled, opener=opener, work=few)
            runs[f"{name}, batched"] = partial(_batched, opener=opener, work=work)
    limit = limits.futures(_CALLERS, calls)
    return [Case(WORKLOAD, (Line(f"{_SIZE} B, sync, {_CALLERS} callers", (limit,)),), runs)]


async def _call_all(append: _Append, *, payload: bytes, calls: int) -> Sample:
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
    await asyncio.gather(*(caller() for _ in range(_CALLERS)))
    return Sample(len(times), (perf_counter_ns() - begin) / 1e9, times)


def _subject(path: Path, *, work: Callable[[_Append], Awaitable[Sample]]) -> Sequence[Sample]:
    async def run() -> Sample:
        async with hs.aio.open(path) as store:
            stream = await store.create_stream("stream-0")
            return await work(stream.append)

    sample = asyncio.run(run())
    log = HStreamLog(str(path), "sync")
    expect("records", log.scan()[0], sample.units + 1)
    log.close()
    return (sample,)


def _pooled(
    path: Path, *, opener: Opener, work: Callable[[_Append], Awaitable[Sample]]
) -> Sequence[Sample]:
    log = opener(str(path), "sync")

    async def run() -> Sample:
        append, pool = pooled(log, _POOL_THREADS)
        with pool:
            return await work(append)

    sample = asyncio.run(run())
    expect("records", log.scan()[0], sample.units + 1)
    log.close()
    return (sample,)


def _batched(
    path: Path, *, opener: Opener, work: Callable[[_Append], Awaitable[Sample]]
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
