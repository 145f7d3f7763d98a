"""Which records are lost: holes in what verifies, put down to the damage they come from.

A log holds its records without holes from the first one kept on. What its verified blocks leave
open is lost, and so is what the footer of a segment, or a damaged block's own header, names behind
them. Where a file says which bytes held a record, the loss is put down to these; otherwise to all
damage between the neighbours of the hole.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple, TypeVar

from hstreamlite.log.journal import CATALOG, PRODUCERS, PROGRESS, SYSTEM, SYSTEM_LOGS
from hstreamlite.log.regroup import LEVEL_1
from hstreamlite.tools.findings import HARMLESS, MISSING, Damage, Lost, Onward, OwnLost
from hstreamlite.tools.look import Look
from hstreamlite.tools.reach import Place
from hstreamlite.tools.segments import Missing
from hstreamlite.tools.state import NAMES, State


class Hole(NamedTuple):
    """Records [first, end) of a log that nothing holds, between two places."""

    shard: int
    first: int
    end: int
    after: Place
    before: Place


Extent = tuple[Place, Place, Damage]
"""Damage, and between which places it is."""
_START: Place = (0, 0)
_NOWHERE: Place = (1 << 64, 0)
_FILE_END = 1 << 40


def holes(seen: Look, state: State) -> list[Hole]:
    """Return what is lost of the logs that are known."""
    out: list[Hole] = []
    verified, named = _verified(seen), _named(seen)
    for shard in (*SYSTEM_LOGS, *state.owners):
        runs = verified.get(shard, [])
        told = state.catalog.lost.get(shard, ())
        explained = [(first, end, _NOWHERE, _NOWHERE) for first, end in told]
        first, end = kept_from(seen, state, shard), _next_told(state, shard)
        out += _holes_of(shard, first, end, sorted([*runs, *explained]), named.get(shard, ()))
    return out


def _verified(seen: Look) -> dict[int, list[tuple[int, int, Place, Place]]]:
    return _by_shard(
        (run.shard, (run.first, run.end, (number, run.start), (number, run.stop)))
        for number, found in seen.segments.items()
        for run in found.runs
    )


def _named(seen: Look) -> dict[int, list[tuple[Missing, int]]]:
    return _by_shard(
        (missing.shard, (missing, number))
        for number, found in seen.segments.items()
        for missing in found.missing
    )


def _next_told(state: State, shard: int) -> int:
    """Return the next LSN as the newest snapshot gives it."""
    return state.catalog.logs.get(shard, (1, 0))[0]


def kept_from(seen: Look, state: State, shard: int) -> int:
    """Return the first LSN of a log that was not trimmed, as far as is known."""
    if shard >= SYSTEM:
        lsns = seen.superblock.snapshot if seen.superblock else (0, 0, 0)
        return max(lsns[SYSTEM_LOGS.index(shard)], 1)
    return state.catalog.trims.get(shard, 1)


def kept_records(seen: Look, state: State) -> dict[int, int]:
    """Return how many records that verify each shard of a stream has, without what is trimmed."""
    verified = _verified(seen)
    return {
        shard: _count(verified.get(shard, []), kept_from(seen, state, shard))
        for shard in state.owners
    }


def _count(runs: Iterable[tuple[int, int, Place, Place]], at: int) -> int:
    count = 0
    for first, end, *_ in sorted(runs):
        count += max(0, end - max(first, at))
        at = max(at, end)
    return count


def _holes_of(
    shard: int,
    kept: int,
    end: int,
    runs: list[tuple[int, int, Place, Place]],
    named: Iterable[tuple[Missing, int]],
) -> Iterator[Hole]:
    at = kept
    after = _START
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
    """Return the damage, in order, with the records each has or may have cost; further entries for
    records that are missing without a trace."""
    extents = sorted(_extents(seen, state, damage), key=lambda item: (*item[:2], item[2].start))
    found = holes(seen, state)
    onward = _onward(seen, state, extents, found)
    caused = list(_causes(seen, extents, found))
    of_catalog = [i for hole, causes in caused for i in causes if hole.shard == CATALOG]
    of_catalog += [i for i, logs in onward.items() if any(log.shard == CATALOG for log in logs)]
    trims_known = catalog_whole(state, found) and not of_catalog
    costs: dict[int, list[Lost | OwnLost]] = defaultdict(list)
    untold: list[Damage] = []
    for hole, causes in caused:
        lost = _lost(hole, state, sure=trims_known)
        # Nothing that held them is damaged: what is lost is the record of a trim.
        for cause in causes or sorted(set(of_catalog)):
            costs[cause].append(lost)
        if not causes and not of_catalog:
            where = Damage(f"{seen.path}/segments", 0, 0, MISSING, "no trace of them", (lost,))
            untold.append(where)
    out = [
        replace(
            entry,
            lost=tuple(costs[i]),
            onward=tuple(onward.get(i, ())),
            bounded=entry.bounded and i not in onward,
        )
        for i, (_, _, entry) in enumerate(extents)
    ]
    return out + untold


def _causes(
    seen: Look, extents: list[Extent], found: list[Hole]
) -> Iterator[tuple[Hole, list[int]]]:
    """Yield each hole with the indexes of the damage it is put down to."""
    named = _named(seen)
    places = [(first, last) for first, last, _ in extents]
    every = Places(places, range(len(places)))
    harmful = Places(places, [i for i, (_, _, d) in enumerate(extents) if d.fault not in HARMLESS])
    for shard, of_shard in _by_shard((hole.shard, hole) for hole in found).items():
        tellers = _tellers(of_shard, named.get(shard, []))
        for hole, told in zip(of_shard, tellers, strict=True):
            causes = [
                i
                for missing, number in told
                for i in every.within((number, missing.start + 1), (number, missing.stop - 1))
            ] or harmful.within(hole.after, hole.before)
            yield hole, list(dict.fromkeys(causes))


def catalog_whole(state: State, found: Iterable[Hole]) -> bool:
    """Tell whether no record of the catalog is known to be lost."""
    return not state.catalog_refused and all(hole.shard != CATALOG for hole in found)


def _extents(seen: Look, state: State, damage: Iterable[tuple[int, Damage]]) -> Iterator[Extent]:
    """Yield damage with the places between which it is."""
    live = state.catalog.live
    replaced = [n for n in seen.absent if n <= state.catalog.known_segment and n not in live]
    for place, entry in damage:
        if place < LEVEL_1:
            yield (place, entry.start), (place, entry.start + entry.length), entry
        elif replaced:  # what it stood for is known from nothing else
            yield (replaced[0], 0), (replaced[-1], _FILE_END), entry
        else:
            yield _START, _NOWHERE, entry


def _onward(
    seen: Look, state: State, extents: list[Extent], found: list[Hole]
) -> dict[int, list[Onward]]:
    """Return which logs may have gone on in which damage, by its index."""
    hiding = sorted(_hiding(seen, extents))
    out: dict[int, list[Onward]] = defaultdict(list)
    if not hiding:
        return out
    verified = _verified(seen)
    ends = {hole.shard: hole.end for hole in sorted(found, key=lambda hole: hole.end)}
    for shard in sorted({*state.owners, *_own_logs(state, verified)}):
        runs = verified.get(shard, [])
        reach = max([state.reach.places.get(shard, _START), *(stop for *_, stop in runs)])
        told = [end for _, end in state.catalog.lost.get(shard, ())]
        told += [kept_from(seen, state, shard), _next_told(state, shard), ends.get(shard, 1)]
        stream, log = _owner(shard, state)
        entry = Onward(stream, log, shard, max([*told, *(end for _, end, *_ in runs)]))
        at = bisect_left(hiding, (reach, 0))
        for _, i in hiding[at : at + _CAUSES_MAX]:
            out[i].append(entry)
    return out


def _hiding(seen: Look, extents: list[Extent]) -> Iterator[tuple[Place, int]]:
    """Yield what may have held records that nothing names: up to where, and its index."""
    for i, (first, last, entry) in enumerate(extents):
        whole_file = entry.fault == MISSING and first > _START
        if entry.fault in HARMLESS or (entry.bounded and not whole_file):
            continue
        segment = seen.segments.get(first[0])
        if first == _START:
            yield _NOWHERE, i
        elif segment is not None and segment.path == entry.path:
            yield max(last, (first[0], segment.end)), i
        else:
            yield last, i


def _own_logs(state: State, verified: Container[int]) -> Iterator[int]:
    """Yield the store's own logs that are in use, as far as is known."""
    yield CATALOG
    if state.catalog.subscriptions or PROGRESS in verified:
        yield PROGRESS
    if PRODUCERS in verified:
        yield PRODUCERS


T = TypeVar("T")


def _by_shard(items: Iterable[tuple[int, T]]) -> dict[int, list[T]]:
    out: dict[int, list[T]] = defaultdict(list)
    for shard, item in items:
        out[shard].append(item)
    return out


class Places:
    """Entries of sorted damage, found by place in O(log n) where few overlap."""

    def __init__(self, extents: list[tuple[Place, Place]], which: Sequence[int]) -> None:
        self._which = which
        self._starts = [extents[i][0] for i in which]
        self._ends = [extents[i][1] for i in which]
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


def _lost(hole: Hole, state: State, *, sure: bool) -> Lost | OwnLost:
    stream, log = _owner(hole.shard, state)
    if log is not None:
        return OwnLost(log, hole.shard, hole.first, hole.end)
    return Lost(stream, hole.shard, hole.first, hole.end, sure)


def _owner(shard: int, state: State) -> tuple[str | None, str | None]:
    """Return the name of the stream of a shard, None if it is lost, and of a log of the store's."""
    if shard >= SYSTEM:
        return None, NAMES[shard]
    stream = state.owners[shard]
    return None if stream.id in state.unnamed else stream.name, None
