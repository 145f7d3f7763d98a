"""Working off a backlog through a shared subscription: every record fetched and acked.

"one by one" is the loop `for delivery in consumer: delivery.ack()`, "by 100" is `receive` of up to
100 and one `ack` for them. The rivals keep progress as `benchmarks.rivals.leases` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import TypeAlias

from benchmarks import limits
from benchmarks.cases import Case, Line, Run, expect
from benchmarks.plan import Plan
from benchmarks.rivals import Group, Member, Opener
from benchmarks.samples import Sample, in_threads

WORKLOAD = "consume"
_SIZE = 100
_LIST_RECORDS = 1000
_TOGETHER = 100


def cases(plan: Plan, openers: Mapping[str, Opener]) -> list[Case]:
    lists = plan.lists(plan.count(300), _LIST_RECORDS, _SIZE)
    records = len(lists) * _LIST_RECORDS
    ways: tuple[tuple[str, _Way, int], ...] = (
        ("one by one", _one_by_one, 1),
        (f"by {_TOGETHER}", _together, _TOGETHER),
    )
    found = []
    for title, way, together in ways:
        limit = limits.id_tuples(_SIZE, records, together)
        for consumers in (1, 4):
            runs: dict[str, Run] = {
                name: partial(_run, opener=opener, consumers=consumers, lists=lists, way=way)
                for name, opener in openers.items()
            }
            plural = "consumers" if consumers > 1 else "consumer"
            line = Line(f"{_SIZE} B, {title}, {consumers} {plural}", (limit,))
            found.append(Case(WORKLOAD, (line,), runs))
    return found


class _Tally:
    """Counts acks; the time ends with the last one."""

    def __init__(self, records: int, group: Group):
        self.records = records
        self.group = group
        self.next_ack = count(1).__next__
        self.left = records
        self.lock = Lock()
        self.ended = 0.0

    def end(self) -> None:
        self.ended = perf_counter()
        self.left = 0
        self.group.close()


def _one_by_one(member: Member, tally: _Tally) -> None:
    records, next_ack, ack = tally.records, tally.next_ack, member.ack_one
    for delivery in member:
        ack(delivery)
        if next_ack() == records:
            tally.end()
            return


def _together(member: Member, tally: _Tally) -> None:
    receive, ack = member.receive, member.ack
    while tally.left:
        deliveries = receive(_TOGETHER)
        if deliveries:
            ack(deliveries)
            with tally.lock:
                tally.left -= len(deliveries)
                if not tally.left:
                    tally.ended = perf_counter()


_Way: TypeAlias = Callable[[Member, _Tally], None]


def _run(
    path: Path, *, opener: Opener, consumers: int, lists: list[list[bytes]], way: _Way
) -> Sequence[Sample]:
    log = opener(str(path), "os")
    for payloads in lists:
        log.append_list(payloads)
    log.settle()
    group = log.group(consumers)
    tally = _Tally(sum(map(len, lists)), group)

    def work(member: Member) -> float:
        begin = perf_counter()
        try:
            way(member, tally)
        except BaseException:
            tally.end()
            raise
        return begin

    begin = min(in_threads([partial(work, member) for member in group.members]))
    expect("records unacked", group.unacked(), 0)
    group.close()
    log.close()
    return (Sample(tally.records, tally.ended - begin),)
