"""Shared subscriptions against rivals with leases, and against the bounds of the machine.

python -m benchmarks.subscriptions [--quick] [--only WORD] [--rounds N] [--dir PATH] [--json FILE]

100 B records at the default durability and intervals. "One at a time" is `receive(1)` and
`delivery.ack()`; "taken by 100, acked singly" is `receive(100)` and `ack()` of each, as iterating
does it; "lists of 100" is `receive(100)`, a list of the payloads, and one `ack` of what was
received; "ordered by keys" takes lists of 100 in turns, beside mode "shared". What the rivals do is
told in `benchmarks.leased`. They store each lease and ack at once, where ours stores progress
within 50 ms or 1,000 acks: each as it is meant to be used. A turn works off a backlog for at most a
second, and must leave just what it did not ack. A row is a ratio of the same rounds: its median,
and its least and greatest.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import hstreamlite as hs
from benchmarks import inflight, keys, leased
from benchmarks.cases import Case, Line, Run, expect
from benchmarks.contenders import version
from benchmarks.goals import Goal, Group, Sense
from benchmarks.leased import Worker
from benchmarks.plan import Plan
from benchmarks.report import figures
from benchmarks.rounds import Result
from benchmarks.samples import Sample, in_threads
from benchmarks.subject import NAME
from benchmarks.table import parser, plan_of, print_rows

_SIZE = 100
_TOGETHER = 100
_SECONDS = 1.0
_LIST_RECORDS = 1000
_TOGETHER_TITLE = f"lists of {_TOGETHER}"
_FOUR = "4 consumers"


class HStreamQueue:
    """One store with one stream, and a subscription of mode "shared"."""

    def __init__(self, path: Path):
        self._store = hs.open(path)
        self._stream = self._store.create_stream("events")

    def fill(self, payloads: list[bytes]) -> None:
        self._stream.append_many(payloads, durability="memory")

    def workers(self, count: int) -> list[HStreamWorker]:
        self._store.sync()
        self._subscription = self._store.create_subscription(
            "group", stream="events", mode="shared", ack_timeout=leased.ACK_TIMEOUT
        )
        names = [f"consumer-{number}" for number in range(count)]
        return [HStreamWorker(self._subscription.consumer(name)) for name in names]

    def left(self) -> int:
        return self._subscription.lag().records

    def close(self) -> None:
        self._store.close()


class HStreamWorker:
    """One consumer."""

    def __init__(self, consumer: hs.Consumer):
        self._receive = consumer.receive
        self.ack_list = consumer.ack

    def take_one(self) -> hs.Delivery | None:
        batch = self._receive(1, timeout=0)
        return batch[0] if batch else None

    def take_list(self, limit: int) -> hs.DeliveryBatch:
        return self._receive(limit, timeout=0)

    take_singles = take_list
    ack_one = staticmethod(hs.Delivery.ack)

    def payloads(self, deliveries: hs.DeliveryBatch) -> Sequence[Any]:
        return deliveries.payloads()


_Way: TypeAlias = Callable[[Worker, float], int]
"""Works until a time, or until nothing is left; returns how many records it acked."""


def _one_at_a_time(worker: Worker, end: float) -> int:
    take, ack = worker.take_one, worker.ack_one
    done = 0
    while (delivery := take()) is not None:
        ack(delivery)
        done += 1
        if not done % 16 and perf_counter() > end:
            break
    return done


def _singly(worker: Worker, end: float) -> int:
    take, ack = worker.take_singles, worker.ack_one
    done = 0
    while perf_counter() < end:
        deliveries = take(_TOGETHER)
        if not deliveries:
            break
        for delivery in deliveries:
            ack(delivery)
        done += len(deliveries)
    return done


def _in_lists(worker: Worker, end: float) -> int:
    take, ack, payloads = worker.take_list, worker.ack_list, worker.payloads
    done = 0
    while perf_counter() < end:
        deliveries: Any = take(_TOGETHER)
        if not deliveries:
            break
        done += len(payloads(deliveries))
        ack(deliveries)
    return done


def _work_off(
    path: Path, *, opener: leased.Opener, consumers: int, pool: list[list[bytes]], way: _Way
) -> Sequence[Sample]:
    queue = opener(path)
    for payloads in pool:
        queue.fill(payloads)
    records = len(pool) * _LIST_RECORDS

    def work(worker: Worker) -> tuple[float, float, int]:
        begin = perf_counter()
        done = way(worker, begin + _SECONDS)
        return begin, perf_counter(), done

    parts = in_threads([partial(work, worker) for worker in queue.workers(consumers)])
    begins, ends, counts = zip(*parts, strict=True)
    expect("records left", queue.left(), records - sum(counts))
    queue.close()
    return (Sample(sum(counts), max(ends) - min(begins)),)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A way to work, the backlogs of ours and of rivals in records, and what is wanted."""

    title: str
    way: _Way
    ours: int
    theirs: int
    wanted: tuple[tuple[str, float], ...]


_KINDS = (
    _Kind("one at a time", _one_at_a_time, 1_000_000, 200_000, (("lmdb", 1.2), ("redis", 8.0))),
    _Kind(
        f"taken by {_TOGETHER}, acked singly",
        _singly,
        2_000_000,
        200_000,
        (("lmdb", 1.2), ("redis", 8.0)),
    ),
    _Kind(_TOGETHER_TITLE, _in_lists, 3_000_000, 1_000_000, (("lmdb", 2.5),)),
)
_SLOW_FILL = ("redis", "leanqueue")
_SLOW_FILL_MAX = 300_000


def groups(plan: Plan) -> tuple[dict[str, Callable[[], Group]], Mapping[str, str]]:
    """Return the groups by title, each made when it is run, and the versions of rivals."""
    rivals, versions = leased.openers()
    found: dict[str, Callable[[], Group]] = {}
    for kind in _KINDS:
        found[kind.title] = partial(_compared, plan, kind, rivals)
    for kind in _KINDS:
        title = f"{kind.title}, {_FOUR}"
        found[title] = partial(_alone, plan, kind, title)
    return {**found, **keys.groups(plan), **inflight.groups(plan)}, versions


def _run(plan: Plan, kind: _Kind, name: str, opener: leased.Opener, consumers: int = 1) -> Run:
    count = kind.ours if name == NAME else kind.theirs
    if name in _SLOW_FILL:
        count = min(count, _SLOW_FILL_MAX)
    lists = plan.count(count // _LIST_RECORDS)
    pool = plan.lists(min(lists, 100), _LIST_RECORDS, _SIZE)
    pool = (pool * -(-lists // len(pool)))[:lists]
    return partial(_work_off, opener=opener, consumers=consumers, pool=pool, way=kind.way)


def _compared(plan: Plan, kind: _Kind, rivals: Mapping[str, leased.Opener]) -> Group:
    runs = {name: _run(plan, kind, name, opener) for name, opener in rivals.items()}
    runs = {NAME: _run(plan, kind, NAME, HStreamQueue), **runs}
    goals = tuple(
        Goal("7", kind.title, Sense.RATE, bound, (rival,)) for rival, bound in kind.wanted
    )
    return Group(Case("subscriptions", (Line(kind.title, ()),), runs), goals)


def _alone(plan: Plan, kind: _Kind, title: str) -> Group:
    runs = {
        NAME: _run(plan, kind, NAME, HStreamQueue),
        _FOUR: _run(plan, kind, NAME, HStreamQueue, consumers=4),
    }
    goal = Goal("7", title, Sense.RATE, 1.0, (NAME,), subject=_FOUR)
    return Group(Case("subscriptions", (Line(title, ()),), runs), (goal,))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; the exit code is 0, whatever is met."""
    commands = parser("python -m benchmarks.subscriptions", __doc__)
    commands.add_argument("--only", metavar="WORD", help="only what has it in its title")
    options = commands.parse_args(arguments)
    found, versions = groups(plan_of(options))
    wanted = (make() for title, make in found.items() if (options.only or "") in title)
    print_rows(wanted, options, {NAME: version(), **versions}, detail=_print_rates)
    return 0


def _print_rates(case: Case, results: Sequence[Result]) -> None:
    if case.workload == "subscriptions":
        for name, samples in results[0].contenders.items():
            middle, low, high, _ = figures(samples, "rec")
            print(f"     {name:20} {middle:>10}  ({low} to {high})", flush=True)


if __name__ == "__main__":
    sys.exit(main())
