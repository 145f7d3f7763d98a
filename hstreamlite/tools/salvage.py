"""Saving what verifies of a damaged store into a new one.

Streams, record ids, order, times, keys and attributes stay as they are, and so do subscriptions and
their progress. What is lost leaves holes, which the new catalog explains: readers and consumers are
told of a gap there. The new store has an identity of its own: from now on the two differ, and a
segment of one must not be taken for one of the other.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from hstreamlite._native import lib
from hstreamlite.config import LEVELS, StoreConfig
from hstreamlite.env import Env, LockHeld
from hstreamlite.errors import CorruptionError, HStreamError, StoreLocked
from hstreamlite.log import catalog as catalogs
from hstreamlite.log.catalog import Catalog
from hstreamlite.log.journal import (
    CATALOG,
    FILE_KINDS,
    PRODUCERS,
    PROGRESS,
    SYSTEM,
    SYSTEM_LOGS,
    Journal,
    Op,
)
from hstreamlite.tools.check import assess, check, note_stage
from hstreamlite.tools.findings import CheckReport
from hstreamlite.tools.look import Look, Progress, look, owner_of, read_super
from hstreamlite.tools.losses import holes
from hstreamlite.tools.segments import Found, Want, inspecting
from hstreamlite.tools.state import State
from hstreamlite.tools.target import building, check_target

_UNLOCKABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, *FILE_KINDS})
"""Errors of a lock file that nobody can write here; then a look at whether it is held must do."""
_PIECE_RECORDS = 1000
_PIECE_BYTES = 1 << 20


@dataclass(slots=True)
class SalvageReport:
    """What was saved, and what not: `source` is the check of the damaged store."""

    path: str
    source: CheckReport
    blocks: int = 0
    records: int = 0
    stage_left: bool = False
    """Whether the mapped stage may hold appends that only opening the store brings in."""

    @property
    def invented(self) -> list[str]:
        """Names given to streams that the damaged catalog does not name."""
        return [unnamed.name for unnamed in self.source.unnamed]

    @property
    def whole(self) -> bool:
        return self.source.sound and not self.stage_left

    def lines(self) -> Iterator[str]:
        """Yield the report as sentences for a person."""
        for damage in self.source.damage:
            yield from damage.lines()
        for note in self.source.notes:
            yield f"note: {note}"
        for unnamed in self.source.unnamed:
            yield f"note: {unnamed}, are now in stream {unnamed.name!r}"
        yield f"{self.path}: {self.records} records saved, with their ids; opens as a store"

    def facts(self) -> dict[str, Any]:
        """Return the report for a program."""
        return {
            "path": self.path,
            "records": self.records,
            "blocks": self.blocks,
            "whole": self.whole,
            "invented": self.invented,
            "source": self.source.facts(),
        }


def _silent(done: int, total: int) -> None:
    """Show nothing."""


def salvage(env: Env, path: str, target: str, progress: Progress = _silent) -> SalvageReport:
    """Write all that verifies of the store at `path` to a new store at `target`.

    The damaged one is not changed. StoreLocked while it is in use; FileExistsError unless the
    target is absent or empty; ValueError unless it is apart from `path`; NotAStore, StorageFull or
    OSError leave nothing there.
    """
    check_target(env, target, path)
    _must_be_idle(env, path)
    kept: dict[str, Found] = {}
    seen = look(env, path, progress, kept)
    lock = _lock(env, path)
    try:
        if seen.superblock != read_super(env, path):
            seen = look(env, path, progress, kept)  # somebody was at work before the lock was taken
        state, source = assess(seen)
        report = SalvageReport(target, source)
        report.stage_left = note_stage(env, seen, report.source)
        with building(env, target, path) as (partial_path, finish):
            _write(env, seen, state, partial_path, progress)
            found = check(env, partial_path, progress)
            if not found.sound:
                first = found.damage[0]
                raise CorruptionError(
                    first.path, first.start, first.length, "a sound copy", first.what
                )
            report.blocks, report.records = found.blocks, found.records
            finish()
    finally:
        if lock is not None:
            env.files.close(lock)
    return report


def _lock(env: Env, path: str) -> int | None:
    """Keep others from changing the store meanwhile, where it has a lock file."""
    if not env.files.exists(f"{path}/LOCK"):
        return None
    try:
        return env.files.lock(f"{path}/LOCK")
    except LockHeld as error:
        raise StoreLocked(path, error.owner_pid) from None
    except OSError as error:
        if error.errno not in _UNLOCKABLE:
            raise
        return None


def _must_be_idle(env: Env, path: str) -> None:
    """Refuse a store in use before all of it is read."""
    owner = owner_of(env, path)
    if owner is not None:
        raise StoreLocked(path, owner)


def _write(env: Env, seen: Look, state: State, path: str, progress: Progress) -> None:
    config = StoreConfig(batch_bytes_max=16 << 20)
    journal = Journal(env, path, config)
    try:
        for _ in range(2):
            journal.store_super((0, 0, 0))
        order = max((r.max_order for f in seen.segments.values() for r in f.runs), default=0) + 1
        # Segment 1 is left out: where one is missing, a log may go on higher than it was.
        journal.check(lib.hsl_log_set_next(journal.log, 1, 1, order, 0, 0, 0))
        journal.check(lib.hsl_log_start(journal.log))
        for shard in state.owners:
            journal.add_shard(shard)
        for place, found in seen.segments.items():
            with inspecting(env, found.path) as inspection:
                inspection.read(seen.wants.get(place, Want()), partial(_between, progress, seen))
                journal.check(lib.hsl_salvage(journal.log, inspection.native))
        _write_state(journal, seen, state)
    except BaseException:
        with suppress(HStreamError, OSError):
            journal.close(clean=False)
        raise
    journal.close()


def _between(progress: Progress, seen: Look, read: int) -> None:
    progress(min(read, seen.bytes), seen.bytes)


def _write_state(journal: Journal, seen: Look, state: State) -> None:
    """Write the store's own logs anew, and point the superblock to them."""
    level = LEVELS["sync"]
    catalog = state.catalog
    lost = [hole for hole in holes(seen, state) if hole.shard < SYSTEM]
    for log in SYSTEM_LOGS:
        journal.add_shard(log)
    for log in (PROGRESS, PRODUCERS):
        for op in _pieces(log, state.applied.get(log, [])):
            journal.stage([op], level, system=True)
    journal.wait(journal.staged())
    ends = {hole.shard: hole.end for hole in sorted(lost, key=lambda hole: hole.end)}
    rows = [_row(journal, shard, catalog, ends.get(shard, 1)) for shard in state.owners]
    for shard, first, end in _lost(journal, rows):
        catalog.lost.setdefault(shard, []).append((first, end))
    known = int(journal.stats()["segments"]) + 1
    live = range(2, known + 1)
    changes = [catalogs.encode(change) for change in catalog.snapshot(rows, live, known)]
    for op in _pieces(CATALOG, changes):
        journal.stage([op], level, system=True)
    journal.wait(journal.staged())
    journal.store_super((1, 1, 1))


def _row(
    journal: Journal, shard: int, catalog: Catalog, lost_up_to: int
) -> tuple[int, int, int, int]:
    """Return where a log stands: LSNs that were given once are not given again."""
    journal.add_shard(shard)
    info = journal.info(shard)
    told, last_time = catalog.logs.get(shard, (1, 0))
    first = catalog.trims.get(shard, 1)
    following = max(info.durable_next, lost_up_to, told, first)
    return shard, following, max(info.last_time, last_time), first


def _lost(
    journal: Journal, rows: list[tuple[int, int, int, int]]
) -> Iterator[tuple[int, int, int]]:
    """Yield what the new store does not hold of its logs, from the first LSN kept on."""
    for shard, following, _, first in rows:
        for begin, end in journal.holes(shard):
            if end > first:
                yield shard, max(begin, first), end
        end = max(journal.info(shard).durable_next, first)
        if following > end:
            yield shard, end, following


def _pieces(log: int, payloads: list[bytes]) -> Iterator[Op]:
    piece: list[bytes] = []
    size = 0
    for payload in payloads:
        if piece and (size + len(payload) > _PIECE_BYTES or len(piece) == _PIECE_RECORDS):
            yield (log, list(piece), None)
            piece, size = [], 0
        piece.append(payload)
        size += len(payload)
    if piece:
        yield (log, piece, None)
