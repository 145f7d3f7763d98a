"""The engine of a damaged store that is read as far as it verifies.

All files are read whole, as a check reads them; blocks that verify go into the same index that the
cursors of a sound store use. What is lost stands beside it: a cursor that comes to it raises
CorruptionError, once, and goes on behind. Nothing is written, locked or followed: what is seen is
the store as it was when it was opened.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_right
from collections import defaultdict
from typing import Any, NamedTuple

from hstreamlite._native import lib
from hstreamlite.config import StoreConfig, check_bool
from hstreamlite.env import Env
from hstreamlite.errors import (
    CorruptionError,
    LostRecords,
    NotAStore,
    StorageUnavailable,
    StoreLocked,
    StreamNotFound,
)
from hstreamlite.follower import Follower
from hstreamlite.log.catalog import StreamState
from hstreamlite.log.following import FollowedCursor, FollowedJournal, shown
from hstreamlite.log.journal import END, SYSTEM_LOGS, RawBatch
from hstreamlite.log.reader import Scan
from hstreamlite.log.recovery import (
    OFFSET_MASK,
    Opened,
    RecoveryReport,
    list_segments,
    refuse_orphans,
)
from hstreamlite.sub.checkpoint import Progress
from hstreamlite.tools.check import assess, note_stage
from hstreamlite.tools.findings import CheckReport, Damage, Lost
from hstreamlite.tools.look import Look, look, owner_of
from hstreamlite.tools.segments import Want, inspecting
from hstreamlite.tools.state import State

log = logging.getLogger("hstreamlite")

SALVAGE = "`hstreamlite salvage` saves what verifies into a new store"
_BESIDE_OWNER = (
    "beside it open(path, read_only=True) follows the store, and `hstreamlite check` tells of "
    "damage; to read past that with accept_damage=True, close it there"
)
_ATTEMPTS = 8


class Loss(NamedTuple):
    """Records [first, end) of a shard that cannot be read, and the damage that cost them."""

    shard: int
    first: int
    end: int
    damage: Damage

    def error(self, stream: str) -> CorruptionError:
        return _error(self.damage, LostRecords(self.shard, self.first, self.end - 1, stream))


def _error(damage: Damage, lost: LostRecords) -> CorruptionError:
    expected = "bytes as they were written"
    return CorruptionError(
        damage.path, damage.start, damage.length, expected, damage.what, (lost,), advice=SALVAGE
    )


class DamagedJournal(FollowedJournal):
    """The log of a damaged store."""

    def __init__(self, env: Env, path: str, config: StoreConfig, notify_fd: int = -1) -> None:
        super().__init__(env, path, config, notify_fd)
        self.losses: dict[int, list[Loss]] = {}
        self.untold: dict[int, Damage] = {}
        """Shards that may have had records behind the last one known, and why."""

    def refresh(self) -> None:
        """Do nothing: what is seen stays as it was."""

    def cursor(self, shard: int, lsn: int) -> DamagedCursor:
        return DamagedCursor(self, shard, lsn)

    def loss_at(self, shard: int, lsn: int) -> Loss | None:
        """Return the loss that holds the record, or the next one behind it."""
        losses = self.losses.get(shard, [])
        at = bisect_right(losses, lsn, key=lambda loss: loss.end)
        return losses[at] if at < len(losses) else None


class DamagedCursor(FollowedCursor):
    """A cursor that tells each loss once, and goes on behind it."""

    __slots__ = ("_told",)

    journal: DamagedJournal

    def __init__(self, journal: DamagedJournal, shard: int, lsn: int) -> None:
        super().__init__(journal, shard, lsn)
        self._told = False

    def peek(self, *, may_block: bool = True) -> tuple[int, int, int] | None:
        """Return (order number, append time in ms, end LSN) of the next block; None at the end."""
        self._sound_up_to(END)
        found = super().peek(may_block=may_block)
        if found is None:
            self._tell_end()
        return found

    def read(self, max_records: int, *, end: int = END, **options: Any) -> list[Any] | None:
        """Return the next records, as a cursor of a writer."""
        end = self._sound_up_to(end)
        try:
            records = super().read(max_records, end=end, **options)
        except CorruptionError:
            self._pass()
            raise
        if not records and records is not None and self.lsn < end:
            self._tell_end()
        return records

    def read_batches(
        self, max_batches: int, *, end: int = END, **options: Any
    ) -> list[RawBatch] | None:
        """Return the next blocks undecoded, as a cursor of a writer."""
        end = self._sound_up_to(end)
        try:
            batches = super().read_batches(max_batches, end=end, **options)
        except CorruptionError:
            self._pass()
            raise
        if not batches and batches is not None and self.lsn < end:
            self._tell_end()
        return batches

    def _sound_up_to(self, end: int) -> int:
        """Return where the next loss begins; at one, go behind it and raise."""
        loss = self.journal.loss_at(self.shard, self.lsn)
        if loss is None:
            return end
        if loss.first > self.lsn:
            return min(end, loss.first)
        self.seek(loss.end)
        raise loss.error(self.stream)

    def _pass(self) -> None:
        """Go behind a block that was damaged since the store was opened."""
        found = self.journal.block_of(self.shard, self.lsn)
        behind = self.damaged_end()
        if found is not None and found.first <= self.lsn < behind:
            self.seek(behind)

    def _tell_end(self) -> None:
        damage = self.journal.untold.get(self.shard)
        if damage is not None and not self._told:
            self._told = True
            raise _error(damage, LostRecords(self.shard, self.lsn, None, self.stream))


class DamagedStore(Follower):
    """One store opened with ``read_only=True, accept_damage=True``."""

    journal: DamagedJournal

    @classmethod
    def open(
        cls,
        env: Env,
        path: str,
        config: StoreConfig,
        *,
        create: bool = False,  # noqa: ARG003 - nothing is ever created here
        notify_fd: int = -1,
    ) -> DamagedStore:
        """Read all of the store. CorruptionError where not even its identity is left."""
        started = env.clock.mono_ns()
        _must_be_idle(env, path)
        journal = DamagedJournal(env, path, config, notify_fd)
        try:
            superblock = _load_super(journal)
            seen = _look(env, path)
            _check_shown(journal, seen)
            state, source = assess(seen)
            report = RecoveryReport(clean=bool(superblock.flags & 1), segments=len(seen.segments))
            store = cls(env, path, config, Opened(journal, superblock, report, -1))
            store._fill(seen, state, source)
            _must_be_idle(env, path)
        except BaseException:
            journal.close(clean=False)
            raise
        report.milliseconds = (env.clock.mono_ns() - started) / 1e6
        if report.damage:
            log.warning("%s is damaged, and read only as far as it verifies", path)
        return store

    def stream(self, name: str) -> StreamState:
        """Return the state of a stream; StreamNotFound if nothing tells of one of this name."""
        try:
            return super().stream(name)
        except StreamNotFound:
            raise StreamNotFound(name, damaged=True) from None

    def _fill(self, seen: Look, state: State, source: CheckReport) -> None:
        journal = self.journal
        for place, found in seen.segments.items():
            with inspecting(self.env, found.path) as inspection:
                inspection.read(seen.wants.get(place, Want()), _silent)
                number = int(re.split(r"[/.]", found.path)[-2], 16)
                journal.check(lib.hsl_log_load_inspected(journal.log, number, inspection.native))
        note_stage(self.env, seen, source)
        self.catalog = state.catalog
        self._progress_of = state.progress
        for shard in SYSTEM_LOGS:
            journal.add_shard(shard)
        self._restore_shards(self.catalog)
        self._note_losses(source)
        self._drop_orphans(journal.shards())
        lines = [line for damage in source.damage for line in damage.lines()]
        lines += [f"note: {note}" for note in source.notes]
        lines += [f"note: {each}, are in {each.name!r}" for each in source.unnamed]
        self.report.damage = tuple(lines)
        self.report.files = set(seen.files)
        self.env.after_fork_in_child(self._in_forked_child)

    def _note_losses(self, source: CheckReport) -> None:
        """Put each loss down to the first damage it comes from."""
        journal = self.journal
        losses: dict[int, dict[int, Loss]] = defaultdict(dict)
        for damage in source.damage:
            for lost in damage.lost:
                if isinstance(lost, Lost):
                    loss = Loss(lost.shard, lost.first, lost.end, damage)
                    losses[lost.shard].setdefault(lost.first, loss)
        journal.losses = {
            shard: [found[at] for at in sorted(found)] for shard, found in losses.items()
        }
        for shard, found in journal.losses.items():
            journal.add_shard(shard, next_lsn=found[-1].end)
        for damage in source.damage:
            for onward in damage.onward:
                if onward.log is None:
                    journal.untold.setdefault(onward.shard, damage)

    def check_open(self) -> None:
        """Raise StoreClosed or Forked where that is the matter."""
        super(Follower, self).check_open()

    def refresh(self) -> None:
        """Do nothing: what is seen stays as it was."""

    def scan(self, *args: Any, until: object, follow: bool, **options: Any) -> Scan:
        """Return a scan; without until it goes to the very end, where it may tell of losses."""
        follow = check_bool("follow", follow) or until is None
        return super().scan(*args, until=until, follow=follow, **options)

    def progress_of(self, subscription: int) -> Progress | None:
        """Return what can be read of a subscription's progress."""
        return self._progress_of.get(subscription)


def _silent(*_: int) -> None:
    """Show nothing."""


def _must_be_idle(env: Env, path: str) -> None:
    if not env.files.exists(path):
        raise NotAStore(path, "it does not exist")
    owner = owner_of(env, path)
    if owner is not None:
        raise StoreLocked(path, owner, advice=_BESIDE_OWNER)


def _load_super(journal: DamagedJournal) -> Any:
    try:
        superblock = journal.load_super()
    except CorruptionError as error:
        raise CorruptionError(
            error.path, error.offset, error.length, error.expected, error.found, advice=SALVAGE
        ) from None
    except NotAStore:
        refuse_orphans(journal.env, journal.path, "no such file")
        raise
    journal.uuid = bytes(superblock.uuid)
    return superblock


def _look(env: Env, path: str) -> Look:
    list_segments(env, path)
    for _ in range(_ATTEMPTS):
        try:
            return look(env, path, _silent, {})
        except FileNotFoundError:
            continue  # a process that came and went has dropped a segment
    return look(env, path, _silent, {})


def _check_shown(journal: DamagedJournal, seen: Look) -> None:
    """What a process of this boot has shown to others was durable, and must be there."""
    try:
        tail = shown(journal)
    except (CorruptionError, StorageUnavailable) as error:
        seen.notes.append(f"{journal.path}/TAIL cannot be used: {error}")
        return
    if tail is None or not seen.segments:
        return
    number, upto = int(tail.durable) >> 32, int(tail.durable) & OFFSET_MASK
    found = seen.segments.get(number)
    if found is None or found.end >= upto:
        return
    fault = lib.HSL_FAULT_FRAME
    damage = Damage(found.path, found.end, upto - found.end, fault, bounded=False)
    seen.damage.append((number, damage))
