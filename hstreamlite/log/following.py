"""Opening a log to read only, while another process may be writing it.

Two cases are told apart by the page TAIL (``_native/tail.c``). If it counts, a process of this boot
writes the log or has written it, and everything up to the place it names is durable: segments below
are read as recovery reads them, the active one up to that place, and what lies behind is not looked
at. If it does not count, nobody has written since the machine booted, so what is on disk is judged
as recovery judges it, only that nothing is sealed, cut or removed. A writer that comes meanwhile
makes the page before it changes anything, so that finding it unchanged afterwards is proof.

Nothing is written, created or locked, and reading the lock is enough to know of a writer that has
not made its page yet. What goes away while it is looked at is looked at anew.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from hstreamlite._native import ffi, lib
from hstreamlite.config import StoreConfig
from hstreamlite.env import Env
from hstreamlite.errors import (
    CorruptionError,
    NotAStore,
    StoreLocked,
    StoreReplaced,
    StoreVersionUnsupported,
)
from hstreamlite.log.journal import BlockPlace, Cursor, Journal, RawBatch, segment_path
from hstreamlite.log.recovery import (
    DAMAGE,
    FORMAT_MAJOR,
    NO_SUPERBLOCK,
    OFFSET_MASK,
    Opened,
    RecoveryReport,
    Segment,
    arranged,
    check_chain,
    check_identity,
    check_newest,
    check_regrouped,
    check_tail,
    list_directory,
    list_segments,
    lost_ranges,
    refuse,
    refuse_orphans,
    segment_numbers,
)
from hstreamlite.log.regroup import LEVEL_1, absent

T = TypeVar("T")

_STARTING = 1
_CLOSED = 3
_ATTEMPTS = 500
_PAUSE_SECONDS = 0.02


class FollowedJournal(Journal):
    """A log that another process writes; `refresh` takes in what became durable."""

    def __init__(self, env: Env, path: str, config: StoreConfig, notify_fd: int = -1) -> None:
        super().__init__(env, path, config, notify_fd, follower=True)
        self.on_missing: Callable[[], None] = lambda: None
        self.skipped: set[int] = set()

    def _pass(self, number: int) -> None:
        """Go on behind a segment that is gone: by the one that stands in its place, if any."""
        self.check_place()
        found = ffi.new("struct hsl_segment_report *")
        regrouped = [n for n in segment_numbers(self.env, self.path) if n >= LEVEL_1]
        for other in reversed(regrouped):
            status = lib.hsl_log_read_segment(self.log, other, found)
            if status == lib.HSL_NOT_FOUND:
                continue
            self.check(status)
            if found.covers_first <= number <= found.covers_last and self.adopt(other):
                return
        self.skipped.add(number)
        self.check(lib.hsl_log_follow_skip(self.log, number))

    def adopt_all(self) -> None:
        """Take every segment of level 1 that counts in the place of what it covers."""
        with suppress(FileNotFoundError):
            counting, _ = arranged(self, segment_numbers(self.env, self.path))
            for span in counting:
                if span.number >= LEVEL_1:
                    self.adopt(span.number)

    def adopt(self, number: int) -> bool:
        """Take a segment of level 1 in the place of what it covers; False if it is gone, or lies
        behind what was taken in."""
        status = lib.hsl_log_follow_adopt(self.log, number)
        if status in (lib.HSL_NOT_FOUND, lib.HSL_AGAIN):
            return False
        if status == lib.HSL_DAMAGED:
            raise self._damage()
        self.check(status)
        return True

    def looking_again(self, read: Callable[[], T]) -> T:
        """Read; where a file is gone, ask for the reason and read again.

        A file that was dropped is not asked for any more then. CorruptionError for another.
        """
        try:
            return read()
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            self.check_place()
            self.on_missing()
        try:
            return read()
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            raise CorruptionError(
                f"{self.path}/segments", 0, 0, "a live segment", str(error.strerror)
            ) from error

    def cursor(self, shard: int, lsn: int) -> FollowedCursor:
        return FollowedCursor(self, shard, lsn)

    def seek_time(self, shard: int, time_ms: int) -> int:
        """Return the LSN of the first record appended at or after the time."""
        return self.looking_again(partial(super().seek_time, shard, time_ms))

    def seek_order(self, shard: int, order: int) -> int:
        """Return the LSN of the first record whose block has at least this order number."""
        return self.looking_again(partial(super().seek_order, shard, order))

    def block_of(self, shard: int, lsn: int) -> BlockPlace | None:
        """Return where the kept block begins that holds the record."""
        return self.looking_again(partial(super().block_of, shard, lsn))

    def load_super(self) -> Any:
        """Read the superblock; its writer writes two slots in turn, so one is always whole."""
        superblock = ffi.new("struct hsl_super *")
        status = lib.hsl_log_super_load(self.log, superblock)
        if status == lib.HSL_VERSION:
            raise StoreVersionUnsupported(self.path, int(superblock.sequence), FORMAT_MAJOR)
        if status == lib.HSL_NOT_FOUND:
            raise NotAStore(self.path, "it holds no superblock", followed=True)
        if status == lib.HSL_DAMAGED:
            raise CorruptionError(
                f"{self.path}/SUPER",
                0,
                8192,
                "a superblock slot with a matching CRC",
                "none",
                advice=NO_SUPERBLOCK,
            )
        self.check(status)
        return superblock

    def tail(self) -> Any | None:
        """Return what the page TAIL says; None if there is none that counts."""
        tail = ffi.new("struct hsl_tail *")
        status = lib.hsl_log_tail_read(self.log, tail)
        if status == lib.HSL_NOT_FOUND:
            return None
        self.check(status)
        return tail

    def check_place(self) -> None:
        """StoreReplaced if the directory is gone, or holds another store by now."""
        self.check(lib.hsl_log_follow_check(self.log))
        try:
            found = bytes(self.load_super().uuid)
        except NotAStore:
            found = b""
        if found != self.uuid:
            raise StoreReplaced(self.path)

    def abandoned(self) -> int:
        """Return the number of the last segment that was gone before its end was read; 0: none."""
        return int(lib.hsl_log_abandoned_segment(self.log))

    def refresh(self) -> None:
        """Take in all that is durable now. CorruptionError where it cannot be read, for good."""
        while (status := lib.hsl_log_refresh(self.log)) == lib.HSL_AGAIN:
            self._pass(int(lib.hsl_log_follow_gone(self.log)))
        if status == lib.HSL_OK:
            return
        if status != lib.HSL_DAMAGED:
            self.check(status)
        raise self._damage()

    def _damage(self) -> CorruptionError:
        report = ffi.new("struct hsl_segment_report *")
        lib.hsl_log_follow_damage(self.log, report)
        expected = DAMAGE.get(report.damage, "a segment of this store")
        return refuse(self, Segment(int(report.number), report, ()), expected, "other bytes")


class FollowedCursor(Cursor):
    """A cursor whose files the writer may drop while it stands in them."""

    __slots__ = ()

    journal: FollowedJournal

    def peek(self, *, may_block: bool = True) -> tuple[int, int, int] | None:
        """Return (order number, append time in ms, end LSN) of the next block; None at the tail."""
        return self.journal.looking_again(partial(super().peek, may_block=may_block))

    def read(self, max_records: int, **options: Any) -> list[Any] | None:
        """Return the next records, as a cursor of a writer."""
        return self.journal.looking_again(partial(super().read, max_records, **options))

    def read_batches(self, max_batches: int, **options: Any) -> list[RawBatch] | None:
        """Return the next blocks undecoded, as a cursor of a writer."""
        return self.journal.looking_again(partial(super().read_batches, max_batches, **options))


def open_followed(env: Env, path: str, config: StoreConfig, *, notify_fd: int = -1) -> Opened:
    """Read the log and begin to follow it; nothing is written.

    Raises NotAStore, StoreLocked while its owner is opening it, StoreVersionUnsupported,
    CorruptionError, or the OSError of a file call.
    """
    started = env.clock.mono_ns()
    if not env.files.exists(path):
        raise NotAStore(path, "it does not exist", followed=True)
    if "SUPER" not in list_directory(env, path):
        refuse_orphans(env, path, "no such file")
        raise NotAStore(path, "it holds no superblock", followed=True)
    pause = env.threads.event()
    for _ in range(_ATTEMPTS):
        journal = FollowedJournal(env, path, config, notify_fd)
        try:
            opened = _attempt(env, journal)
        except BaseException:
            journal.close(clean=False)
            raise
        if opened is not None:
            journal.check(lib.hsl_log_follow(journal.log))
            opened.report.milliseconds = (env.clock.mono_ns() - started) / 1e6
            return opened
        journal.close(clean=False)
        pause.wait(_PAUSE_SECONDS)
    raise StoreLocked(path, env.files.lock_holder(f"{path}/LOCK") or 0)


def shown(journal: FollowedJournal) -> Any | None:
    """Return what the page TAIL says of a log that was opened whole; None if it says nothing."""
    tail = journal.tail()
    return None if tail is None or tail.state == _STARTING else tail


def _attempt(env: Env, journal: FollowedJournal) -> Opened | None:
    """Load what can be shown; None if it changed under the eyes."""
    superblock = journal.load_super()
    list_segments(env, journal.path)
    journal.uuid = bytes(superblock.uuid)
    tail = journal.tail()
    known = tail is not None and tail.state != _STARTING
    if not known and env.files.lock_holder(f"{journal.path}/LOCK") is not None:
        return None
    report = RecoveryReport(clean=bool(superblock.flags & 1))
    try:
        numbers = segment_numbers(env, journal.path)
        if known:
            assert tail is not None
            whole = _load_shown(journal, superblock, numbers, tail, report)
        else:
            whole = _load_judged(journal, superblock, numbers, report)
    except FileNotFoundError:
        return None
    except CorruptionError:
        if _changed(env, journal, tail):
            return None
        raise
    if not whole or (not known and _changed(env, journal, tail)):
        return None
    return Opened(journal, superblock, report, -1)


def _changed(env: Env, journal: FollowedJournal, before: Any | None) -> bool:
    now = journal.tail()
    if (now is None) != (before is None):
        return True
    if now is not None and before is not None and now.sequence != before.sequence:
        return True
    known = now is not None and now.state != _STARTING
    return not known and env.files.lock_holder(f"{journal.path}/LOCK") is not None


def _load_shown(
    journal: FollowedJournal,
    superblock: Any,
    numbers: list[int],
    tail: Any,
    report: RecoveryReport,
) -> bool:
    """Load the segments up to the durable place; False if one of them is gone since.

    The newest one of a closed log is sealed: what is damaged in it is told to who reads it.

    CorruptionError where the one with that place is missing: the place moves on before it goes.
    """
    last, upto = int(tail.durable) >> 32, int(tail.durable) & OFFSET_MASK
    counting, _ = arranged(journal, numbers)
    shown = [span for span in counting if span.first <= last]
    if last > (shown[-1].last if shown else 0):
        path = segment_path(journal.path, last)
        raise CorruptionError(path, 0, 0, "the newest segment", "no such file")
    before: Segment | None = None
    for span in shown:
        newest = span.number == last
        limit = upto if newest and tail.state != _CLOSED else 0
        segment = _load(journal, superblock, span.number, limit, before, report)
        if segment is None:
            return False
        if newest and segment.report.end < upto:
            damage = segment.report.damage or lib.HSL_DAMAGE_FRAME
            raise refuse(journal, segment, f"{DAMAGE[damage]} (durable up to {upto})", "others")
        if not newest and not segment.report.sealed:
            raise refuse(journal, segment, DAMAGE[lib.HSL_DAMAGE_FOOTER], "other bytes")
        before = segment
    report.missing = absent(shown, last)
    return True


def _load_judged(
    journal: FollowedJournal, superblock: Any, numbers: list[int], report: RecoveryReport
) -> bool:
    """Load all there is and judge the tail of it; False if one of them is gone since."""
    counting, _ = arranged(journal, numbers)
    before: Segment | None = None
    for span in counting:
        segment = _load(journal, superblock, span.number, 0, before, report)
        if segment is None:
            return False
        if not segment.report.sealed and (span is not counting[-1] or span.number >= LEVEL_1):
            raise refuse(journal, segment, DAMAGE[lib.HSL_DAMAGE_FOOTER], "other bytes")
        before = segment
    if before is not None:
        check_tail(journal, superblock, before)
    check_newest(journal, superblock, counting)
    report.missing = absent(counting, int(superblock.last_segment))
    return True


def _load(
    journal: FollowedJournal,
    superblock: Any,
    number: int,
    limit: int,
    before: Segment | None,
    report: RecoveryReport,
) -> Segment | None:
    """Load and check a segment, up to a limit if there is one; None if it is gone."""
    found = ffi.new("struct hsl_segment_report *")
    at = int(superblock.checkpoint)
    checkpoint = at & OFFSET_MASK if at >> 32 == number else 0
    if limit:
        status = lib.hsl_log_load_active(journal.log, number, checkpoint, limit, found)
    else:
        status = lib.hsl_log_load_segment(journal.log, number, checkpoint, found)
    if status == lib.HSL_NOT_FOUND:
        return None
    journal.check(status)
    segment = Segment(number, found, lost_ranges(journal))
    check_identity(journal, segment)
    if before is not None:
        check_chain(journal, before, segment)
    if number >= LEVEL_1:
        check_regrouped(journal, segment)
    _count(report, segment)
    return segment


def _count(report: RecoveryReport, segment: Segment) -> None:
    found = segment.report
    report.segments += 1
    report.sealed += bool(found.sealed)
    report.files.add(segment.number)
    report.lowest = report.lowest or int(found.covers_first)
    if not found.sealed:
        report.frames_scanned += found.frames
        report.bytes_scanned += found.end - found.scanned
