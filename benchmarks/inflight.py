"""A shared subscription with a million records in flight: speed of acks, memory, and restart.

python -m benchmarks.inflight memory PATH RECORDS      (print the growth in bytes)
python -m benchmarks.inflight leave PATH RECORDS       (put so many in flight, and be killed)
python -m benchmarks.inflight reopen PATH              (print the milliseconds)
"""

from __future__ import annotations

import gc
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from operator import is_
from pathlib import Path
from time import perf_counter, sleep

import benchmarks
import hstreamlite as hs
from benchmarks.cases import Case, Line, expect
from benchmarks.goals import Goal, Group, Sense
from benchmarks.plan import Plan
from benchmarks.samples import Sample
from benchmarks.subject import NAME
from benchmarks.widths import amount

_SIZE = 100
_TOGETHER = 100
_LIST_RECORDS = 1000
_RECORDS = 1_000_000
_ALL_IN_ORDER = "in order, as many in flight"
_IN_ORDER = "in order, 100 in flight"
_EMPTY = "empty C call"
_BY_TIME = "stored by time only"
_CALLS = 200_000
_BATCH_BYTES = 64
_MIB = 1 << 20
_MEMORY_MIB = 64
_REOPEN_MS = 100.0
_STORED_SECONDS = 0.5


def groups(plan: Plan) -> dict[str, Callable[[], Group]]:
    return {
        "random acks": partial(_random_acks, plan),
        "ack call": partial(_ack_call, plan),
        "in flight, memory": partial(_memory, plan),
        "in flight, restart": partial(_restart, plan),
    }


def _random_acks(plan: Plan) -> Group:
    records = plan.count(_RECORDS, least=_LIST_RECORDS)
    title = f"{records:,} in flight, acked singly in random order"
    runs = {
        NAME: partial(_scattered, records=records, seed=plan.seed),
        _ALL_IN_ORDER: partial(_scattered, records=records, seed=None),
        _IN_ORDER: partial(_ordered, records=records),
    }
    goals = tuple(Goal("7", title, Sense.RATE, 0.7, (other,)) for other in list(runs)[1:])
    return Group(Case("in flight", (Line(title, ()),), runs), goals)


def _scattered(path: Path, *, records: int, seed: int | None) -> Sequence[Sample]:
    """Receive all, then ack all; the shuffling between, without a seed none, is not timed."""
    with _filled(path, records) as store:
        subscription = _subscribed(store)
        with subscription.consumer("consumer") as consumer:
            begin = perf_counter()
            held: list[hs.Delivery] = []
            while len(held) < records:
                held += consumer.receive(_TOGETHER)
            seconds = perf_counter() - begin
            if seed is not None:
                random.Random(seed).shuffle(held)
            begin = perf_counter()
            for delivery in held:
                delivery.ack()
            seconds += perf_counter() - begin
            expect("records left", subscription.lag().records, 0)
    return (Sample(records, seconds),)


def _ordered(path: Path, *, records: int) -> Sequence[Sample]:
    """Receive and ack as `_scattered` does, but each list at once."""
    with _filled(path, records) as store:
        subscription = _subscribed(store)
        with subscription.consumer("consumer") as consumer:
            begin = perf_counter()
            left = records
            while left:
                held = consumer.receive(_TOGETHER)
                for delivery in held:
                    delivery.ack()
                left -= len(held)
            seconds = perf_counter() - begin
            expect("records left", subscription.lag().records, 0)
    return (Sample(records, seconds),)


def _ack_call(plan: Plan) -> Group:
    calls = plan.count(_CALLS, least=_LIST_RECORDS)
    title = "delivery.ack()"
    runs = {
        NAME: partial(_acks, calls=calls, acks=1000),
        _BY_TIME: partial(_acks, calls=calls, acks=1_000_000),
        _EMPTY: partial(_acks, calls=calls, acks=1000, empty=True),
    }
    goals = (
        Goal("7", title, Sense.RATE, 0.6, (_EMPTY,)),
        Goal("7", f"{title}, {_BY_TIME}", Sense.RATE, 0.6, (_EMPTY,), subject=_BY_TIME),
    )
    return Group(Case("in flight", (Line(title, ()),), runs), goals)


def _acks(path: Path, *, calls: int, acks: int, empty: bool = False) -> Sequence[Sample]:
    """Ack each of a list; or call a C function (`operator.is_`) with each that does nothing."""
    with _filled(path, calls, hs.StoreConfig(progress_acks=acks)) as store:
        subscription = _subscribed(store)
        with subscription.consumer("consumer") as consumer:
            held: list[hs.Delivery] = []
            while len(held) < calls:
                held += consumer.receive(calls)
            begin = perf_counter()
            if empty:
                for delivery in held:
                    is_(delivery, None)
            else:
                for delivery in held:
                    delivery.ack()
            seconds = perf_counter() - begin
            expect("records left", subscription.lag().records, calls if empty else 0)
    return (Sample(calls, seconds),)


def _memory(plan: Plan) -> Group:
    records = plan.count(_RECORDS, least=_LIST_RECORDS)
    title = f"memory of {records:,} in flight"
    batches = -(-records // _TOGETHER)
    bits = amount(f"1 bit a record, {_BATCH_BYTES} B a list", records / 8 + batches * _BATCH_BYTES)
    whole = amount(f"{_MEMORY_MIB} MiB", _MEMORY_MIB * _MIB)
    goals = tuple(
        Goal("7", title, Sense.AMOUNT, 1.0, (limit.name,), unit="B") for limit in (bits, whole)
    )
    run = partial(_grown, records=records)
    return Group(Case("in flight", (Line(title, (bits, whole)),), {NAME: run}), goals)


def _grown(path: Path, *, records: int) -> Sequence[Sample]:
    return (Sample(float(_child("memory", str(path), str(records))), 1.0),)


def _restart(plan: Plan) -> Group:
    records = plan.count(_RECORDS, least=_LIST_RECORDS)
    title = f"open and receive, {records:,} in flight at the kill"
    limit = amount(f"{_REOPEN_MS:.0f} ms", 1e3 / _REOPEN_MS)
    run = partial(_reopened, records=records)
    goal = Goal("7", title, Sense.TIME, 1.0, (limit.name,), unit="ms")
    return Group(Case("in flight", (Line(title, (limit,)),), {NAME: run}), (goal,))


def _reopened(path: Path, *, records: int) -> Sequence[Sample]:
    _child("leave", str(path), str(records), status=-signal.SIGKILL)
    milliseconds = float(_child("reopen", str(path)))
    return (Sample(1, milliseconds / 1e3),)


def _child(*arguments: str, status: int = 0) -> str:
    root = Path(benchmarks.__file__).resolve().parent.parent
    command = [sys.executable, "-m", "benchmarks.inflight", *arguments]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    expect("status of the child", done.returncode, status)
    return done.stdout


def _filled(path: Path, records: int, config: hs.StoreConfig | None = None) -> hs.Store:
    store = hs.open(path / "store", config=config)
    store.create_stream("events")
    _append(store, records)
    return store


def _append(store: hs.Store, records: int) -> None:
    stream = store.stream("events")
    payloads = Plan().payloads(_LIST_RECORDS, _SIZE)
    for _ in range(records // _LIST_RECORDS):
        stream.append_many(payloads, durability="memory")
    store.sync()


def _subscribed(store: hs.Store, name: str = "group") -> hs.Subscription:
    return store.create_subscription(
        name, stream="events", mode="shared", ack_timeout=600.0, max_unacked=10_000_000
    )


def grow(path: Path, records: int) -> int:
    """Return how memory grew by putting records in flight.

    The subscription has worked off as many before, so that what it reads with is there.
    """
    with _filled(path, records) as store, _subscribed(store).consumer("consumer") as consumer:
        for _ in range(records // _TOGETHER):
            consumer.ack(consumer.receive(_TOGETHER))
        _append(store, records)
        gc.collect()
        before = _resident_bytes()
        for _ in range(records // _TOGETHER):
            consumer.receive(_TOGETHER)
        gc.collect()
        return _resident_bytes() - before


def leave(path: Path, records: int) -> None:
    """Put records in flight, wait until that is stored, and end without closing anything."""
    store = _filled(path, records)
    consumer = _subscribed(store).consumer("consumer")
    for _ in range(records // _TOGETHER):
        consumer.receive(_TOGETHER)
    sleep(_STORED_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def reopen(path: Path) -> float:
    """Return the milliseconds until one of the records has come again, all code being loaded."""
    open_store = hs.open
    begin = perf_counter()
    store = open_store(path / "store")
    with store, store.subscription("group").consumer("consumer") as consumer:
        (delivery,) = consumer.receive(1)
        seconds = perf_counter() - begin
        expect("attempt", delivery.attempt, 2)
    return seconds * 1e3


def _resident_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    what, directory, *rest = sys.argv[1:]
    if what == "memory":
        print(grow(Path(directory), int(rest[0])))
    elif what == "leave":
        leave(Path(directory), int(rest[0]))
    else:
        print(reopen(Path(directory)))
