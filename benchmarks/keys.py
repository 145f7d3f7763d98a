"""What order by key costs: a backlog worked off in mode "ordered" beside mode "shared".

Consumers take turns in one thread: each receives up to 100 records, and acks those that it received
the time before. So all of them have records in hand all the time, and keys meet.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import hstreamlite as hs
from benchmarks.cases import Case, Line, expect
from benchmarks.goals import Goal, Group, Sense
from benchmarks.plan import Plan
from benchmarks.samples import Sample
from benchmarks.subject import NAME

_TOGETHER = 100
_SIZE = 100
_LIST_RECORDS = 1000
_RECORDS = 300_000
_KEYS = 100_000
_CONSUMERS = 100
_SHARED = "shared"


def groups(plan: Plan) -> dict[str, Callable[[], Group]]:
    return {"keys": partial(_ordered, plan)}


def _ordered(plan: Plan) -> Group:
    records = plan.count(_RECORDS, least=_LIST_RECORDS)
    title = f"ordered by {_KEYS:,} keys, {_CONSUMERS} consumers"
    run = partial(_work_off, records=records, seed=plan.seed)
    runs = {NAME: partial(run, mode="ordered"), _SHARED: partial(run, mode="shared")}
    goal = Goal("7", title, Sense.RATE, 0.6, (_SHARED,))
    return Group(Case("keys", (Line(title, ()),), runs), (goal,))


def _work_off(path: Path, *, mode: str, records: int, seed: int) -> Sequence[Sample]:
    with hs.open(path) as store:
        _fill(store, records, seed)
        subscription = store.create_subscription(
            "group", stream="events", mode=mode, max_unacked=4 * _TOGETHER * _CONSUMERS
        )
        group = [subscription.consumer(f"consumer-{number}") for number in range(_CONSUMERS)]
        held: list[hs.DeliveryBatch | None] = [None] * _CONSUMERS
        left = records
        begin = perf_counter()
        while left:
            for number, consumer in enumerate(group):
                batch = consumer.receive(_TOGETHER, timeout=0)
                if (before := held[number]) is not None and before:
                    left -= consumer.ack(before).new
                held[number] = batch
        seconds = perf_counter() - begin
        expect("records left", subscription.lag().records, 0)
    return (Sample(records, seconds),)


def _fill(store: hs.Store, records: int, seed: int) -> None:
    source = random.Random(seed)
    stream = store.create_stream("events")
    for begin in range(0, records, _LIST_RECORDS):
        count = min(_LIST_RECORDS, records - begin)
        stream.append_many(
            [
                hs.Record(source.randbytes(_SIZE), key=f"key-{source.randrange(_KEYS)}")
                for _ in range(count)
            ],
            durability="memory",
        )
    store.sync()
