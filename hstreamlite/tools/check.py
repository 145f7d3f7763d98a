"""Checking a store: is everything there that was written, and as it was written?"""

from __future__ import annotations

from hstreamlite.env import Env
from hstreamlite.log.journal import segment_path
from hstreamlite.log.regroup import LEVEL_1
from hstreamlite.tools.findings import MISSING, CheckReport, Damage, OwnLost
from hstreamlite.tools.look import Look, Progress, look, owner_of
from hstreamlite.tools.losses import attribute
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
            report = report_of(seen, replay(seen))
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
    return damage.path, damage.start, damage.fault, damage.lost


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


def report_of(seen: Look, state: State) -> CheckReport:
    """Return what one look says."""
    damage = [*seen.damage, *state.damage, *_missing_segments(seen, state)]
    entries = attribute(seen, state, damage)
    notes = list(seen.notes)
    if any(isinstance(lost, OwnLost) for entry in entries for lost in entry.lost):
        notes.append(
            "the store's own records are damaged: what they would tell of streams and trims is "
            "missing from this report, and records called lost may have been trimmed before"
        )
    return CheckReport(
        path=seen.path,
        segments=len(seen.segments),
        bytes=seen.bytes,
        blocks=sum(found.blocks for found in seen.segments.values()),
        records=sum(
            run.end - run.first
            for found in seen.segments.values()
            for run in found.runs
            if run.shard in state.owners
        ),
        streams=len(state.catalog.streams),
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
