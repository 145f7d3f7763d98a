"""Checking a store: is everything there that was written, and as it was written?"""

from __future__ import annotations

from dataclasses import replace

from hstreamlite.env import Env
from hstreamlite.log.journal import CATALOG, END, segment_path
from hstreamlite.log.regroup import LEVEL_1
from hstreamlite.tools.findings import MISSING, CheckReport, Damage, OwnLost, Unnamed
from hstreamlite.tools.look import Look, Progress, look, owner_of
from hstreamlite.tools.losses import attribute, kept_records
from hstreamlite.tools.naming import name_unknown
from hstreamlite.tools.segments import Found
from hstreamlite.tools.stage import unread_stage
from hstreamlite.tools.state import State, replay

_LOOKS_MAX = 8


def _silent(done: int, total: int) -> None:
    """Show nothing."""


def check(env: Env, path: str, progress: Progress = _silent) -> CheckReport:
    """Read the whole store in a directory and report what does not verify. Changes nothing.

    The store may be open, here or elsewhere: what is durable when the check begins is checked. Of a
    store that nobody has open the notes tell what only its stage holds. NotAStore,
    StoreVersionUnsupported, or the OSError of a file call.
    """
    seen, report = _looked(env, path, progress)
    if owner_of(env, path) is None:
        note_stage(env, seen, report)
    return report


def _looked(env: Env, path: str, progress: Progress) -> tuple[Look, CheckReport]:
    """Look until there is no damage, or until a second look finds the same."""
    kept: dict[str, Found] = {}
    before: tuple[Look, CheckReport] | None = None
    gone: FileNotFoundError | None = None
    for _ in range(_LOOKS_MAX):
        try:
            seen = look(env, path, progress, kept)
            _, report = assess(seen)
        except FileNotFoundError as error:
            gone = error
            continue  # a segment was dropped between its name and its opening
        if report.sound:
            return seen, report
        if before is not None:
            again = {_place(damage) for damage in before[1].damage}
            if all(_place(damage) in again for damage in report.damage):
                return seen, report
        before = seen, report
    if before is None:
        assert gone is not None
        raise gone
    return before


def _place(damage: Damage) -> tuple[object, ...]:
    return damage.path, damage.start, damage.fault, damage.lost, damage.onward


def note_stage(env: Env, seen: Look, report: CheckReport) -> bool:
    """Tell in the report of what lies only in the mapped stage; return whether any counts."""
    uuid = seen.superblock.uuid if seen.superblock else None
    ends: dict[int, int] = {}
    for found in seen.segments.values():
        for run in found.runs:
            ends[run.shard] = max(run.end, ends.get(run.shard, 1))
    unread = unread_stage(env, seen.path, uuid, ends)
    if unread is None:
        return False
    report.notes.append(unread.sentence)
    return unread.counts


def assess(seen: Look) -> tuple[State, CheckReport]:
    """Return what the store's own logs say, streams named whose name is lost, and the report."""
    state = replay(seen)
    report = _report_of(seen, state)
    if not report.sound and name_unknown(seen, state):
        report = _report_of(seen, state)
    return state, report


def _report_of(seen: Look, state: State) -> CheckReport:
    damage = [*seen.damage, *state.damage, *_missing_segments(seen, state)]
    entries = _unless_dropped(seen, attribute(seen, state, damage))
    notes = list(seen.notes)
    if any(_of_catalog(entry) for entry in entries):
        notes.append(
            "records of the store's own catalog are lost, or may be: what they told of streams, "
            "trims and dropped segments is missing from this report"
        )
    kept = kept_records(seen, state)
    return CheckReport(
        path=seen.path,
        segments=len(seen.segments),
        bytes=seen.bytes,
        blocks=sum(found.blocks for found in seen.segments.values()),
        records=sum(kept.values()),
        streams=len(state.catalog.streams),
        unnamed=[
            Unnamed(each.shard_ids, each.name, sum(kept[shard] for shard in each.shard_ids))
            for each in state.unnamed.values()
        ],
        damage=entries,
        notes=notes,
    )


def _missing_segments(seen: Look, state: State) -> list[tuple[int, Damage]]:
    """Return the segments that the catalog does not say were dropped."""
    catalog = state.catalog
    regrouped = sorted(n for n in catalog.live - seen.files if n >= LEVEL_1)
    return [
        (number, Damage(segment_path(seen.path, number), 0, 0, MISSING))
        for number in seen.absent + regrouped
        if number > catalog.known_segment or number in catalog.live
        if number not in seen.other_kind
    ]


def _unless_dropped(seen: Look, entries: list[Damage]) -> list[Damage]:
    """Say so of each missing segment where a record of the catalog that may be lost, from behind
    it, would tell that it was dropped."""
    places = {segment_path(seen.path, number): number for number in seen.absent}
    places |= {found.path: place for place, found in seen.segments.items()}
    doubtful = {entry.path: places.get(entry.path, END) for entry in entries if _of_catalog(entry)}
    told_at = max(doubtful.values(), default=0)
    return [
        replace(entry, detail="unless it was dropped, as records of the catalog would tell")
        if entry.fault == MISSING
        and places.get(entry.path, 0) < told_at
        and doubtful.keys() - {entry.path}
        else entry
        for entry in entries
    ]


def _of_catalog(damage: Damage) -> bool:
    """Tell whether records of the catalog are lost by it, or may be."""
    lost = any(isinstance(lost, OwnLost) and lost.shard == CATALOG for lost in damage.lost)
    return lost or any(onward.shard == CATALOG for onward in damage.onward)
