"""Which records are lost: holes in what verifies, put down to the damage they come from.

A log holds its records without holes from the first one kept on. What its verified blocks leave
open is lost, and so is what the footer of a segment, or a damaged block's own header, names behind
them. Where a file says which bytes held a record, the loss is put down to these; otherwise to all
damage between the neighbours of the hole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple, TypeVar

from hstreamlite.log.catalog import Catalog
from hstreamlite.log.journal import SYSTEM, SYSTEM_LOGS
from hstreamlite.tools.findings import HARMLESS, MISSING, Damage, Lost, OwnLost
from hstreamlite.tools.look import Look
from hstreamlite.tools.segments import Missing
from hstreamlite.tools.state import NAMES, State

Place = tuple[int, int]
"""Segment number and offset in it."""


class Hole(NamedTuple):
    """Records [first, end) of a log that nothing holds, between two places."""

    shard: int
    first: int
    end: int
    after: Place
    before: Place


_NOWHERE: Place = (1 << 64, 0)


def holes(seen: Look, state: State) -> list[Hole]:
    """Return what is lost of the logs that the catalog knows."""
    verified: dict[int, list[tuple[int, int, Place, Place]]] = defaultdict(list)
    named: dict[int, list[tuple[Missing, int]]] = defaultdict(list)
    for number, found in seen.segments.items():
        for run in found.runs:
            place = (run.first, run.end, (number, run.start), (number, run.stop))
            verified[run.shard].append(place)
        for missing in found.missing:
            named[missing.shard].append((missing, number))
    out: list[Hole] = []
    for shard, first in _wanted(seen, state):
        runs = sorted(verified.get(shard, ()))
        told = state.catalog.lost.get(shard, ())
        explained = [(first, end, _NOWHERE, _NOWHERE) for first, end in told]
        runs = sorted([*runs, *explained])
        out += _holes_of(shard, first, _end(state.catalog, shard), runs, named.get(shard, ()))
    return out


def _wanted(seen: Look, state: State) -> Iterator[tuple[int, int]]:
    """Yield each log with its first kept LSN."""
    snapshot = seen.superblock.snapshot if seen.superblock else (0, 0, 0)
    for log, lsn in zip(SYSTEM_LOGS, snapshot, strict=True):
        yield log, max(lsn, 1)
    for shard in state.owners:
        yield shard, state.catalog.trims.get(shard, 1)


def _end(catalog: Catalog, shard: int) -> int:
    """Return the next LSN as the newest snapshot gives it."""
    return catalog.logs.get(shard, (1, 0))[0]


def _holes_of(
    shard: int,
    kept: int,
    end: int,
    runs: list[tuple[int, int, Place, Place]],
    named: Iterable[tuple[Missing, int]],
) -> Iterator[Hole]:
    at = kept
    after: Place = (0, 0)
    for first, stop, start, behind in runs:
        if first > at:
            yield Hole(shard, at, first, after, start)
        if stop > at:
            at, after = stop, behind
    for missing, _ in sorted(named, key=lambda item: item[0].first):
        # A damaged header is believed only where it goes on where the log ends.
        if missing.end > max(at, end) and (missing.sure or missing.first <= max(at, end)):
            end = missing.end
    if end > at:
        yield Hole(shard, at, end, after, _NOWHERE)


def attribute(seen: Look, state: State, damage: list[tuple[int, Damage]]) -> list[Damage]:
    """Return the damage, in order, with the records each has cost; further entries for records
    that are missing without a trace."""
    damage = sorted(damage, key=lambda item: (item[0], item[1].start))
    costs: dict[int, list[Lost | OwnLost]] = defaultdict(list)
    untold: list[tuple[int, Damage]] = []
    named = _by_shard(
        (missing.shard, (missing, number))
        for number, found in seen.segments.items()
        for missing in found.missing
    )
    every = Places(damage, range(len(damage)))
    harmful = Places(damage, [i for i, (_, d) in enumerate(damage) if d.fault not in HARMLESS])
    for shard, of_shard in _by_shard((hole.shard, hole) for hole in holes(seen, state)).items():
        tellers = _tellers(of_shard, named.get(shard, []))
        for hole, told in zip(of_shard, tellers, strict=True):
            causes = [
                i
                for missing, number in told
                for i in every.within((number, missing.start + 1), (number, missing.stop - 1))
            ] or harmful.within(hole.after, hole.before)
            lost = _lost(hole, state)
            for cause in dict.fromkeys(causes):
                costs[cause].append(lost)
            if not causes:
                where = Damage(f"{seen.path}/segments", 0, 0, MISSING, "no trace of them", (lost,))
                untold.append((hole.before[0], where))
    out = [replace(entry, lost=tuple(costs[i])) for i, (_, entry) in enumerate(damage)]
    return out + [entry for _, entry in untold]


T = TypeVar("T")


def _by_shard(items: Iterable[tuple[int, T]]) -> dict[int, list[T]]:
    out: dict[int, list[T]] = defaultdict(list)
    for shard, item in items:
        out[shard].append(item)
    return out


class Places:
    """Entries of sorted damage, found by place in O(log n) where few overlap."""

    def __init__(self, damage: list[tuple[int, Damage]], which: Sequence[int]) -> None:
        self._which = which
        self._starts = [(damage[i][0], damage[i][1].start) for i in which]
        self._ends = [(damage[i][0], damage[i][1].start + damage[i][1].length) for i in which]
        self._reach = list(accumulate(self._ends, max))

    def within(self, first: Place, last: Place) -> list[int]:
        """Return what touches [first, last]; of very much the last few, since to say of each of
        very many records that each of very many places may have cost it helps nobody."""
        out: list[int] = []
        at = bisect_right(self._starts, last) - 1
        while at >= 0 and self._reach[at] >= first and len(out) < _CAUSES_MAX:
            if self._ends[at] >= first:
                out.append(self._which[at])
            at -= 1
        return out[::-1]


_CAUSES_MAX = 64


def _tellers(
    of_shard: list[Hole], named: list[tuple[Missing, int]]
) -> Iterator[list[tuple[Missing, int]]]:
    """Yield for each hole of a log, ascending, the entries which together say where all its records
    were; none where they leave any open."""
    named = sorted(named, key=lambda item: item[0].first)
    coming = 0
    active: list[tuple[Missing, int]] = []
    for hole in of_shard:
        at = hole.first
        told: list[tuple[Missing, int]] = []
        while at < hole.end:
            while coming < len(named) and named[coming][0].first <= at:
                active.append(named[coming])
                coming += 1
            active = [item for item in active if item[0].end > at]
            if not active:
                break
            told.append(active[0])
            at = active[0][0].end
        yield told if at >= hole.end else []


def _lost(hole: Hole, state: State) -> Lost | OwnLost:
    if hole.shard >= SYSTEM:
        return OwnLost(NAMES[hole.shard], hole.shard, hole.first, hole.end)
    stream = state.owners[hole.shard]
    return Lost(stream.name, hole.shard, hole.first, hole.end)
