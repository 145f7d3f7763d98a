"""The goals of the engine, and the rows that show them.

A row is a ratio of hstreamlite's figure to a physical limit or to a rival of the same round, held
against a bound. Rows that share a case share its runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from statistics import median

from benchmarks import callers, follow, footprint, limits, lists, opening, scans, singles, widths
from benchmarks.cases import Case, Limit, Line, Run
from benchmarks.plan import Plan
from benchmarks.rivals import Level, Opener
from benchmarks.rounds import Result, rate
from benchmarks.samples import Sample
from benchmarks.subject import NAME, HStreamLog


class Sense(Enum):
    """How a row's ratio is formed from two samples, and on which side of the bound it must be."""

    RATE = "at least"
    TIME = "at most"
    AMOUNT = "up to"

    def ratio(self, ours: Sample, other: Sample) -> float:
        if self is Sense.TIME:
            return other.rate / ours.rate
        return ours.rate / other.rate

    def met(self, ratio: float, bound: float) -> bool:
        return ratio >= bound if self is Sense.RATE else ratio <= bound


@dataclass(frozen=True, slots=True)
class Goal:
    """One row. `subject` is held against the best of `others`, names of contenders or limits."""

    number: str
    title: str
    sense: Sense
    bound: float
    others: tuple[str, ...]
    subject: str = NAME
    line: int = 0
    unit: str = "rec/s"

    def judge(self, results: Sequence[Result]) -> Verdict | None:
        """Return the figures; None where no rival of the row is installed."""
        result = results[self.line]
        found = {**result.contenders, **result.limits}
        names = [name for name in self.others if name in found]
        if not names:
            return None
        other = max(names, key=lambda name: rate(found[name]))
        ours = found[self.subject]
        ratios = [self.sense.ratio(a, b) for a, b in zip(ours, found[other], strict=True)]
        return Verdict(self, rate(ours), other, rate(found[other]), sorted(ratios))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found for a goal. The ratio is the median over the rounds."""

    goal: Goal
    figure: float
    other: str
    other_figure: float
    ratios: Sequence[float]

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @property
    def met(self) -> bool:
        return self.goal.sense.met(self.ratio, self.goal.bound)


@dataclass(frozen=True, slots=True)
class Group:
    """A case and the goals that are read from it."""

    case: Case
    goals: tuple[Goal, ...]


_SIZE = 100
_LIST_RECORDS = 1000
_BIG = 16 << 10
_BIG_RECORDS = 60  # a batch holds up to 1 MiB
_DEPTHS = (1, 2, 4, 8)
_BULK_BYTES = 1 << 30
_RIVALS = ("lmdb", "lmdb-writemap", "apsw", "rocksdict")

Openers = Mapping[str, Opener]


def groups(plan: Plan, openers: Openers) -> dict[str, Callable[[], list[Group]]]:
    """Return the groups by the number of their goal; each is made when it is to be run."""
    return {
        "1": partial(_appends, plan),
        "2": partial(_singles, plan, openers),
        "3": partial(_streams, plan),
        "4": partial(_reads, plan, openers),
        "5": partial(_opening, plan),
        "6": partial(_following, plan),
    }


def _only(openers: Openers, *names: str) -> dict[str, Opener]:
    return {name: openers[name] for name in (NAME, *names) if name in openers}


def _runs(openers: Openers, run: Callable[..., Sequence[Sample]]) -> dict[str, Run]:
    return {name: partial(run, opener=opener) for name, opener in openers.items()}


def _group(workload: str, runs: Mapping[str, Run], limit: Sequence[Limit], *goals: Goal) -> Group:
    return Group(Case(workload, (Line(goals[0].title, tuple(limit)),), runs), goals)


def _appends(plan: Plan) -> list[Group]:
    found = [_burst(plan, level) for level in ("memory", "os")]
    pool = plan.lists(40, _LIST_RECORDS, _SIZE)
    found.append(_bulk(plan, pool, _SIZE, f"1,000 x {_SIZE} B, sustained"))
    pool = plan.lists(8, _BIG_RECORDS, _BIG)
    found.append(_bulk(plan, pool, _BIG, f"{_BIG_RECORDS} x 16 KiB, durable bulk"))
    return found


def _burst(plan: Plan, level: Level) -> Group:
    pool = plan.lists(40, _LIST_RECORDS, _SIZE)
    bursts = lists.Bursts(HStreamLog, level, pool, plan.count(120, least=3))
    title = f"1,000 x {_SIZE} B, burst, level {level}"
    goal = Goal("1", title, Sense.TIME, 1.5, (bursts.limit.name,))
    return _group("append", {NAME: bursts.appended}, [bursts.limit], goal)


def _bulk(plan: Plan, pool: list[list[bytes]], size: int, title: str) -> Group:
    once = sum(map(len, pool)) * size
    streamed = pool * plan.count(_BULK_BYTES // once, least=2)
    volume = sum(map(len, streamed)) * size
    bounds = [limits.direct_write(volume, depth, size) for depth in _DEPTHS]
    goal = Goal("1", title, Sense.RATE, 0.8, tuple(limit.name for limit in bounds))
    run = partial(lists.streamed, opener=HStreamLog, lists=streamed)
    return _group("append", {NAME: run}, bounds, goal)


def _singles(plan: Plan, openers: Openers) -> list[Group]:
    pool = plan.payloads(1000, _SIZE)
    many = singles.cycled(pool, plan.count(200_000, least=100))
    few = singles.cycled(pool, plan.count(20_000, least=50))
    shares = [singles.cycled(pool, plan.count(4_000, least=20))] * singles.THREADS
    loop = limits.direct_sync(len(few), _SIZE, 1)
    found = [
        _group(
            "single",
            _runs(_only(openers, "lmdb-writemap"), partial(singles.looped, items=many)),
            [],
            Goal("2", f"{_SIZE} B, level os", Sense.RATE, 2.0, ("lmdb-writemap",)),
        ),
        _group(
            "single",
            {NAME: partial(singles.threaded, opener=HStreamLog, level="sync", shares=[few])},
            [loop],
            Goal("2", f"{_SIZE} B, sync, 1 caller", Sense.RATE, 0.8, (loop.name,)),
        ),
        _group(
            "single",
            _runs(openers, partial(singles.threaded, level="sync", shares=shares)),
            [],
            Goal("2", f"{_SIZE} B, sync, {singles.THREADS} threads", Sense.RATE, 4.0, _RIVALS),
        ),
    ]
    asked = callers.runs(plan, openers)
    pooled = tuple(name for name in asked if name.endswith("threads"))
    title = f"{_SIZE} B, sync, {callers.CALLERS} asyncio callers"
    batched = tuple(name for name in asked if name.endswith("batched"))
    found.append(
        _group(
            "single",
            asked,
            [],
            Goal("2", title, Sense.RATE, 10.0, pooled),
            Goal("2", f"{title}, to batching by hand", Sense.RATE, 1.0, batched),
        )
    )
    return found


def _streams(plan: Plan) -> list[Group]:
    case = widths.case(plan)
    one, *more = case.contenders
    goals = [
        Goal("3", f"10 x {_SIZE} B over {name}", Sense.RATE, 0.8, (one,), subject=name)
        for name in more
    ]
    for line, title in ((1, "syncs a group"), (2, "segment files open for writing")):
        for name in case.contenders:
            other = case.lines[line].limits[0].name
            goals.append(Goal("3", f"{title}, {name}", Sense.AMOUNT, 1.0, (other,), name, line, ""))
    return [Group(case, tuple(goals))]


def _reads(plan: Plan, openers: Openers) -> list[Group]:
    lmdb = openers.get("lmdb")
    warm, cold, seeks = scans.warm(plan, lmdb), scans.cold(plan), scans.seeks(plan, lmdb)
    disk = cold.lines[0].limits[0].name
    return [
        Group(
            warm,
            (
                Goal("4", f"{_SIZE} B, each record of read()", Sense.RATE, 1.0, ("lmdb",)),
                Goal("4", f"{_SIZE} B, read_batches()", Sense.RATE, 1.5, ("lmdb",), line=1),
            ),
        ),
        Group(
            cold,
            (
                Goal("4", "1 KiB, each record of read(), cold", Sense.RATE, 0.8, (disk,)),
                Goal("4", "1 KiB, read_batches(), cold", Sense.RATE, 0.8, (disk,), line=1),
            ),
        ),
        Group(
            seeks,
            (
                Goal("4", "seek by id + 100 records", Sense.TIME, 1.0, ("lmdb",), unit="ms"),
                Goal("4", "seek by time + 100", Sense.TIME, 1.0, ("lmdb",), line=1, unit="ms"),
            ),
        ),
    ]


def _opening(plan: Plan) -> list[Group]:
    killed, sealed = opening.killed(plan), opening.sealed(plan)
    disk, memory = footprint.disk(plan), footprint.memory(plan)

    def goal(case: Case, sense: Sense, bound: float, unit: str) -> Group:
        line = case.lines[0]
        others = tuple(limit.name for limit in line.limits)
        return Group(case, (Goal("5", line.title, sense, bound, others, unit=unit),))

    return [
        goal(killed, Sense.TIME, 1.0, "ms"),
        goal(sealed, Sense.TIME, 5.0, "ms"),
        goal(disk, Sense.AMOUNT, 1.0, "B/rec"),
        goal(memory, Sense.AMOUNT, 1.0, "B"),
    ]


def _following(plan: Plan) -> list[Group]:
    case = follow.case(plan)
    alone, followed = (follow.ALONE,), follow.FOLLOWED
    slower, seen = (line.title for line in case.lines)
    return [
        Group(
            case,
            (
                Goal("6", slower, Sense.RATE, 0.85, alone, subject=followed),
                Goal("6", seen, Sense.TIME, 2.0, alone, subject=followed, line=1, unit="ms"),
            ),
        )
    ]
