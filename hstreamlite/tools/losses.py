"""Which records are lost: holes in what verifies, put down to the damage they come from.

A log holds its records without holes from the first one kept on. What its verified blocks leave
open is lost, and so is what the footer of a segment, or a damaged block's own header, names behind
them. Where a file says which bytes held a record, the loss is put down to these; otherwise to all
damage between the neighbours of the hole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

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
    costs: dict[int, list[Lost | OwnLost]] = defaultdict(list)
    untold: list[tuple[int, Damage]] = []
    order = sorted(range(len(damage)), key=lambda i: (damage[i][0], damage[i][1].start))
    named = [
        (missing, number) for number, found in seen.segments.items() for missing in found.missing
    ]
    for hole in holes(seen, state):
        causes = _by_name(hole, named, damage) or _between(hole, damage)
        lost = _lost(hole, state)
        for cause in causes:
            costs[cause].append(lost)
        if not causes:
            where = Damage(f"{seen.path}/segments", 0, 0, MISSING, "no trace of them", (lost,))
            untold.append((hole.before[0], where))
    out = [replace(damage[i][1], lost=tuple(costs[i])) for i in order]
    return out + [entry for _, entry in untold]


def _by_name(
    hole: Hole, named: list[tuple[Missing, int]], damage: list[tuple[int, Damage]]
) -> list[int]:
    """Return the damage in which a file says that all records of the hole were."""
    causes: list[int] = []
    at = hole.first
    for missing, number in sorted(named, key=lambda item: item[0].first):
        if missing.shard != hole.shard or missing.first > at or missing.end <= at:
            continue
        at = missing.end
        for i, (segment, entry) in enumerate(damage):
            overlaps = entry.start < missing.stop and missing.start < entry.start + entry.length
            if segment == number and overlaps and i not in causes:
                causes.append(i)
    return causes if at >= hole.end else []


def _between(hole: Hole, damage: list[tuple[int, Damage]]) -> list[int]:
    return [
        i
        for i, (number, entry) in enumerate(damage)
        if entry.fault not in HARMLESS
        and hole.after <= (number, entry.start + entry.length)
        and (number, entry.start) <= hole.before
    ]


def _lost(hole: Hole, state: State) -> Lost | OwnLost:
    if hole.shard >= SYSTEM:
        return OwnLost(NAMES[hole.shard], hole.first, hole.end)
    stream = state.owners[hole.shard]
    return Lost(stream.name, hole.shard, hole.first, hole.end)
