"""Opening a log: what the files say, and whether to believe it.

Three findings are kept apart:

*torn tail*   the newest segment ends in frames that were never acknowledged: they are discarded;
*stale data*  bytes of an earlier life of a file or of the stage: their uid, position or epoch does
              not match, so they are not even seen as frames;
*damage*      something that was durable cannot be read: the store is refused, and nothing changes.

The difference between the first and the last is made by what was durable for certain. Every frame
states how far the log was durable when it was built, the superblock states it, and each segment
names the end of the one before. Whoever claims more than the walk could read proves damage.

Steps: lock, superblock, segments in order with the chain between them, seal the tail, then (by the
caller, who knows the system logs) check what is missing, replay the mapped stage, start.
"""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hstreamlite._native import ffi, lib
from hstreamlite.config import StoreConfig
from hstreamlite.env import Env, LockHeld, OpenFlag
from hstreamlite.errors import (
    CorruptionError,
    LostRecords,
    NotAStore,
    StorageFull,
    StoreLocked,
    StoreVersionUnsupported,
)
from hstreamlite.log.journal import FILE_KINDS, Journal, segment_path
from hstreamlite.log.regroup import LEVEL_1, Span, absent, arrange

FORMAT_MAJOR = 1
_SEGMENT_NAME = re.compile(r"([0-9a-f]{16})\.seg")
_OWN_NAMES = frozenset({"LOCK", "SUPER", "STAGE", "segments", "TAIL"})
NO_SUPERBLOCK = "restore a backup, or save what verifies with `hstreamlite salvage`"
_OPEN_HERE = (
    "that is this one: use the store that is open here, or close it first (one that was only "
    "dropped stays open until the process ends)"
)
_REMOVE_LOCK = "remove it: a lock file holds nothing, and opening makes a new one"
OFFSET_MASK = (1 << 32) - 1
_SPACE = frozenset({"copy", "spare", "regroup"})

_log = logging.getLogger("hstreamlite.recovery")

DAMAGE = {
    lib.HSL_DAMAGE_SHORT: "a segment header of 4096 bytes",
    lib.HSL_DAMAGE_HEADER: "a segment header with a matching CRC",
    lib.HSL_DAMAGE_FRAME: "a frame header",
    lib.HSL_DAMAGE_BLOCK: "a frame whose blocks match their CRCs",
    lib.HSL_DAMAGE_SEQUENCE: "blocks that continue their logs",
    lib.HSL_DAMAGE_FOOTER: "a footer with matching CRCs",
}


@dataclass(slots=True)
class RecoveryReport:
    """What opening found and did."""

    created: bool = False
    clean: bool = False
    segments: int = 0
    sealed: int = 0
    frames_scanned: int = 0
    bytes_scanned: int = 0
    bytes_discarded: int = 0
    stage_records: int = 0
    stage_unread: int = 0
    files: set[int] = field(default_factory=set)
    missing: list[int] = field(default_factory=list)
    lowest: int = 0
    milliseconds: float = 0.0
    damage: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return the report as sentences for a person."""
        checked = f"{self.segments} segments, {self.frames_scanned} frames checked"
        out = [f"{checked} in {self.milliseconds:.1f} ms"]
        if self.bytes_discarded:
            out.append(f"{self.bytes_discarded} bytes of unacknowledged tail discarded")
        if self.stage_records:
            out.append(f"{self.stage_records} records recovered from the mapped stage")
        if self.stage_unread:
            out.append(
                f"{self.stage_unread} bytes of appends at level 'os' were not replayed: in the "
                "mapped stage they lie behind one that does not verify"
            )
        out += self.damage
        return out


@dataclass(slots=True)
class Opened:
    """A log that is read but not started, with what the caller needs to go on."""

    journal: Journal
    super: Any
    report: RecoveryReport
    lock: int


@dataclass(slots=True)
class Segment:
    """A loaded segment and what was found in it."""

    number: int
    report: Any
    lost: tuple[LostRecords, ...]


def open_journal(
    env: Env, path: str, config: StoreConfig, *, create: bool = True, notify_fd: int = -1
) -> Opened:
    """Lock the directory and read the log.

    Raises NotAStore, StoreLocked, StoreVersionUnsupported, CorruptionError, or the OSError of a
    file call; the files are then as they were, and the lock is free.
    """
    started = env.clock.mono_ns()
    files = env.files
    if not files.exists(path):
        if not create:
            raise NotAStore(path, "it does not exist")
        _make_directory(env, path)
    names = list_directory(env, path)
    if "SUPER" not in names and not _may_create(names):
        raise NotAStore(path, "it holds other files and no superblock", creating=create)
    if "SUPER" not in names and not create and not segment_numbers(env, path):
        raise NotAStore(path, "it holds no superblock" if names else "it is an empty directory")
    lock = _lock(env, path)
    journal = None
    try:
        report = RecoveryReport()
        journal = Journal(env, path, config, notify_fd)
        superblock = _load_super(env, journal, report)
        journal.check(lib.hsl_log_tail_open(journal.log))
        numbers = segment_numbers(env, path, tidy=True)
        loaded = _load_segments(journal, superblock, numbers, report)
        _sync_directories(env, path, whole=int(superblock.last_segment) == 0)
        _set_next(journal, superblock, loaded)
    except BaseException:
        try:
            if journal is not None:
                journal.close(clean=False)
        finally:
            files.close(lock)
        raise
    report.milliseconds = (env.clock.mono_ns() - started) / 1e6
    return Opened(journal, superblock, report, lock)


def _make_directory(env: Env, path: str) -> None:
    try:
        env.files.mkdir(path)
    except FileNotFoundError:
        text = "there is no such directory to make the store in; make it first"
        raise FileNotFoundError(errno.ENOENT, text, _parent(path)) from None
    except FileExistsError:
        if not env.files.exists(path):  # else another process was faster
            raise NotAStore(path, "it is a link that leads nowhere", creating=True) from None
    env.files.sync_dir(_parent(path))


def _parent(path: str) -> str:
    head, _, _ = path.rstrip("/").rpartition("/")
    return head or ("/" if path.startswith("/") else ".")


def list_directory(env: Env, path: str) -> list[str]:
    try:
        return env.files.listdir(path)
    except NotADirectoryError:
        raise NotAStore(path, "it is a file") from None


def _may_create(names: list[str]) -> bool:
    return not set(names) - _OWN_NAMES


def _lock(env: Env, path: str) -> int:
    try:
        return env.files.lock(f"{path}/LOCK")
    except LockHeld as error:
        advice = _OPEN_HERE if error.owner_pid == env.pid() else ""
        raise StoreLocked(path, error.owner_pid, advice=advice) from None
    except OSError as error:
        if error.errno not in FILE_KINDS:
            raise
        file = f"{path}/LOCK"
        raise CorruptionError(
            file, 0, 0, "a regular file", FILE_KINDS[error.errno], advice=_REMOVE_LOCK
        ) from None


def _load_super(env: Env, journal: Journal, report: RecoveryReport) -> Any:
    superblock = ffi.new("struct hsl_super *")
    path = f"{journal.path}/SUPER"
    status = lib.hsl_log_super_load(journal.log, superblock)
    if status == lib.HSL_VERSION:
        raise StoreVersionUnsupported(journal.path, int(superblock.sequence), FORMAT_MAJOR)
    if status == lib.HSL_OK:
        _sync_super(env, path)
        list_segments(env, journal.path)
        journal.uuid = bytes(superblock.uuid)
        report.clean = bool(superblock.flags & 1)
        return superblock
    if status not in (lib.HSL_DAMAGED, lib.HSL_NOT_FOUND):
        journal.check(status)
    refuse_orphans(env, journal.path, "no such file" if status == lib.HSL_NOT_FOUND else "none")
    report.created = True
    _create(env, journal)
    return superblock


def refuse_orphans(env: Env, path: str, found: str) -> None:
    """Raise CorruptionError where there are segments: the superblock is older than any."""
    if numbers := segment_numbers(env, path):
        raise CorruptionError(
            f"{path}/SUPER",
            0,
            8192,
            "a superblock slot with a matching CRC",
            f"{found}, beside {len(numbers)} segments",
            advice=NO_SUPERBLOCK,
        )


def _sync_super(env: Env, path: str) -> None:
    """Make the slot just read durable.

    A process that was killed may have left it in the cache only, and the next write goes to the
    other slot, which until then is the one that a power cut leaves.
    """
    fd = env.files.open(path, OpenFlag.READ | OpenFlag.WRITE)
    try:
        env.files.datasync(fd)
    finally:
        env.files.close(fd)


def _create(env: Env, journal: Journal) -> None:
    """Make the files of an empty store. A crash at any point leaves a directory that the next open
    creates again: the directory of the segments is durable before a superblock exists, and that
    before a segment does."""
    files = env.files
    segments = f"{journal.path}/segments"
    if not files.exists(segments):
        files.mkdir(segments)
    files.sync_dir(journal.path)
    for _ in range(2):
        journal.store_super((0, 0, 0))
    files.sync_dir(segments)
    files.sync_dir(journal.path)


def _sync_directories(env: Env, path: str, *, whole: bool) -> None:
    """Make the names found durable: a process may have died between naming a file and that. Before
    the first segment is stated in the superblock this holds for the store's own directory too."""
    env.files.sync_dir(f"{path}/segments")
    if whole:
        env.files.sync_dir(path)
        env.files.sync_dir(_parent(path))


def list_segments(env: Env, path: str) -> list[str]:
    """Return what is in the directory of the segments, which is older than the superblock."""
    directory = f"{path}/segments"
    try:
        return env.files.listdir(directory)
    except FileNotFoundError:
        found = "no such file"
    except NotADirectoryError:
        found = "a file"
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        found = "a link that leads to itself"
    raise CorruptionError(directory, 0, 0, "the directory of the segments", found)


def segment_numbers(env: Env, path: str, *, tidy: bool = False) -> list[int]:
    """Return the numbers of the segments there are; tidy removes files of no use."""
    directory = f"{path}/segments"
    if not env.files.exists(directory):
        return []
    numbers = []
    for name in list_segments(env, path):
        match = _SEGMENT_NAME.fullmatch(name)
        if match:
            numbers.append(int(match[1], 16))
        elif tidy and name in _SPACE:
            # Space that the process before reserved, and that recovery may need itself.
            env.files.unlink(f"{directory}/{name}")
        elif name != "reserve" and name not in _SPACE:
            _log.warning("%s/%s is not a file of this store and is ignored", directory, name)
    return sorted(numbers)


def _load_segments(
    journal: Journal, superblock: Any, numbers: list[int], report: RecoveryReport
) -> list[Segment]:
    counting, replaced = arranged(journal, numbers)
    loaded: list[Segment] = []
    for span in counting:
        number = span.number
        checkpoint = 0
        if superblock.checkpoint >> 32 == number:
            checkpoint = superblock.checkpoint & OFFSET_MASK
        found = ffi.new("struct hsl_segment_report *")
        journal.check(lib.hsl_log_load_segment(journal.log, number, checkpoint, found))
        segment = Segment(number, found, lost_ranges(journal))
        check_identity(journal, segment)
        if loaded:
            check_chain(journal, loaded[-1], segment)
        loaded.append(segment)
        report.segments += 1
        report.sealed += bool(found.sealed)
        if not found.sealed:
            report.frames_scanned += found.frames
            report.bytes_scanned += found.end - found.scanned
        if found.bad_checkpoints:
            _log.warning(
                "%s: %d index checkpoints do not verify; no record is lost by that",
                segment_path(journal.path, number),
                found.bad_checkpoints,
            )
        if number >= LEVEL_1:
            check_regrouped(journal, segment)
            if not found.sealed:
                _seal(journal, segment)
        elif not found.sealed and span is not counting[-1]:
            _seal_middle(journal, segment, counting[counting.index(span) + 1])
    for span in replaced:
        journal.check(lib.hsl_log_add_replaced(journal.log, span.number))
    if loaded:
        _finish_tail(journal, superblock, loaded[-1], report)
    check_newest(journal, superblock, counting)
    report.files = set(numbers)
    report.lowest = counting[0].first if counting else 0
    report.missing = absent(counting, int(superblock.last_segment))
    return loaded


def check_newest(journal: Journal, superblock: Any, counting: list[Span]) -> None:
    """Refuse a store that lacks the newest segment which the superblock knows."""
    last = int(superblock.last_segment)
    if last > (counting[-1].last if counting else 0):
        raise CorruptionError(
            segment_path(journal.path, last), 0, 0, "the newest segment", "no such file"
        )


def arranged(journal: Journal, numbers: list[int]) -> tuple[list[Span], list[Span]]:
    """Return the segments that count, in order, and those in whose place others stand."""
    spans = [_span(journal, number) for number in numbers]
    try:
        return arrange(spans)
    except ValueError as error:
        raise CorruptionError(
            f"{journal.path}/segments", 0, 0, "segments that do not overlap", str(error)
        ) from None


def _span(journal: Journal, number: int) -> Span:
    """Return in whose place the file stands: of level 1 its header says it."""
    if number < LEVEL_1:
        return Span(number, number, number)
    found = _header(journal, number)
    check_identity(journal, Segment(number, found, ()))
    return Span(number, int(found.covers_first), int(found.covers_last))


def _header(journal: Journal, number: int) -> Any:
    found = ffi.new("struct hsl_segment_report *")
    status = lib.hsl_log_read_segment(journal.log, number, found)
    if status == lib.HSL_NOT_FOUND:
        path = segment_path(journal.path, number)
        raise FileNotFoundError(errno.ENOENT, "no such segment", path)
    journal.check(status)
    return found


def lost_ranges(journal: Journal) -> tuple[LostRecords, ...]:
    count = lib.hsl_log_lost(journal.log, ffi.NULL, 0)
    ranges = ffi.new("struct hsl_range[]", count + 1)
    lib.hsl_log_lost(journal.log, ranges, count)
    return tuple(LostRecords(r.shard, r.first, r.end - 1) for r in ranges[0:count])


def refuse(journal: Journal, segment: Segment, expected: str, found: str) -> CorruptionError:
    report = segment.report
    upto = report.next_valid or report.file_bytes
    return CorruptionError(
        segment_path(journal.path, segment.number),
        report.end,
        max(0, upto - report.end),
        expected,
        found,
        segment.lost,
    )


def check_identity(journal: Journal, segment: Segment) -> None:
    report = segment.report
    damage = report.damage
    if damage == lib.HSL_DAMAGE_VERSION:
        raise StoreVersionUnsupported(
            segment_path(journal.path, segment.number), int(report.version), FORMAT_MAJOR
        )
    if damage in (lib.HSL_DAMAGE_SHORT, lib.HSL_DAMAGE_HEADER):
        raise refuse(journal, segment, DAMAGE[damage], "other bytes")
    if bytes(report.uuid) != journal.uuid:
        raise refuse(journal, segment, "a segment of this store", "one of another store")
    if report.number != segment.number:
        raise refuse(
            journal, segment, f"segment {segment.number}", f"segment {report.number} in its place"
        )
    if damage == lib.HSL_DAMAGE_SEQUENCE:
        raise refuse(journal, segment, DAMAGE[damage], "others")


def check_chain(journal: Journal, before: Segment, segment: Segment) -> None:
    """A segment names uid, end and last frame of the one before it."""
    old, new = before.report, segment.report
    if old.covers_last + 1 != new.covers_first:
        return
    if new.pred_uid != old.covers_uid:
        raise refuse(journal, segment, "the successor of the segment before it", "another file")
    if new.pred_end != old.covers_end or new.pred_crc != old.covers_crc:
        expected = f"frames up to offset {new.pred_end}, as segment {segment.number} states"
        raise refuse(journal, before, expected, f"valid ones up to {old.covers_end}")


def check_regrouped(journal: Journal, segment: Segment) -> None:
    """A segment of level 1 was complete when it got its name: its header says what it ends with."""
    found = segment.report
    stated = (found.stated_end, found.stated_crc, found.stated_frames)
    if (found.end, found.last_crc, found.frames) != stated:
        expected = f"frames up to offset {found.stated_end}, as its header states"
        raise refuse(journal, segment, expected, f"valid ones up to {found.end}")


def _seal_middle(journal: Journal, segment: Segment, following: Span) -> None:
    """Give a segment whose footer does not verify a new one, if every frame is there."""
    if following.first != segment.number + 1:
        if segment.report.damage != lib.HSL_DAMAGE_FOOTER or segment.report.next_valid:
            raise refuse(journal, segment, DAMAGE[segment.report.damage], "other bytes")
    else:
        header = _header(journal, following.number)
        if (header.pred_end, header.pred_crc) != (segment.report.end, segment.report.last_crc):
            stated = f"frames up to offset {header.pred_end}"
            expected = f"{stated}, as segment {following.number} states"
            raise refuse(journal, segment, expected, f"valid ones up to {segment.report.end}")
    _seal(journal, segment)


def _seal(journal: Journal, segment: Segment) -> None:
    path = segment_path(journal.path, segment.number)
    _log.warning("rebuilt the footer of %s from its frames", path)
    journal.check(lib.hsl_log_seal_loaded(journal.log, False))


def check_tail(journal: Journal, superblock: Any, tail: Segment) -> None:
    """Refuse the newest segment if more of it was durable than can be read."""
    found = tail.report
    newest = found.covers_last
    claims = [found.durable_claim, superblock.durable]
    claim = max(c & OFFSET_MASK if c >> 32 == newest else 0 for c in claims)
    if claim > found.covers_end:
        damage = found.damage or lib.HSL_DAMAGE_FRAME
        raise refuse(journal, tail, f"{DAMAGE[damage]} (durable up to {claim})", "other bytes")
    if found.sealed or tail.number >= LEVEL_1:
        return
    if found.file_bytes < found.capacity and found.damage != lib.HSL_DAMAGE_FOOTER:
        expected = f"a file of {found.capacity} bytes, or a footer at its end"
        raise refuse(journal, tail, expected, f"{found.file_bytes} bytes")


def _finish_tail(journal: Journal, superblock: Any, tail: Segment, report: RecoveryReport) -> None:
    """Seal the newest segment behind what is valid, or refuse it."""
    check_tail(journal, superblock, tail)
    found = tail.report
    if found.sealed or tail.number >= LEVEL_1:
        return
    if found.next_valid:
        report.bytes_discarded += found.file_bytes - found.end
    buffered = not journal.stats()["direct"]
    status = lib.hsl_log_seal_loaded(journal.log, buffered)
    if status == lib.HSL_FULL and _give_up_reserve(journal):
        status = lib.hsl_log_seal_loaded(journal.log, buffered)
    if status == lib.HSL_FULL:
        advice = (
            "free space on the device and open the store again: without direct I/O, opening after "
            "a crash copies the segment that was being written"
        )
        raise StorageFull(segment_path(journal.path, tail.number), int(found.end), advice=advice)
    journal.check(status)


def _give_up_reserve(journal: Journal) -> bool:
    """Free what is kept for a full disk, for the copy that opening needs; False if it is gone."""
    try:
        journal.env.files.unlink(f"{journal.path}/segments/reserve")
    except FileNotFoundError:
        return False
    _log.warning("%s/segments/reserve is given up: the disk is full", journal.path)
    return True


def _set_next(journal: Journal, superblock: Any, loaded: list[Segment]) -> None:
    epoch = max([int(superblock.epoch), *(int(s.report.epoch) for s in loaded)]) + 1
    last = int(superblock.last_segment)
    uid = end = crc = 0
    if loaded:
        tail = loaded[-1]
        last = max(last, int(tail.report.covers_last))
        uid, end = tail.report.covers_uid, tail.report.covers_end
        crc = tail.report.covers_crc
    journal.check(lib.hsl_log_set_next(journal.log, last, epoch, 1, uid, end, crc))


def check_missing(opened: Opened, live: set[int], known: int) -> None:
    """Refuse a store that lacks a segment which the catalog does not say was dropped.

    `live` are the segments that the catalog holds alive among those up to number `known`, and those
    of level 1. One in whose place another stands is not lacking.
    """
    report = opened.report
    regrouped = sorted(n for n in live - report.files if n >= LEVEL_1)
    for number in report.missing + regrouped:
        if number > known or number in live:
            raise CorruptionError(
                segment_path(opened.journal.path, number), 0, 0, "a live segment", "no such file"
            )


def check_gaps(journal: Journal, lost: Mapping[int, Sequence[tuple[int, int]]]) -> None:
    """Refuse a log with a hole that neither a trim nor a salvage explains."""
    for shard in journal.shards():
        info = journal.info(shard)
        if info.gap_end <= info.first:
            continue
        for first, end in journal.holes(shard):
            if _explained(first, end, lost.get(shard, ())):
                continue
            raise CorruptionError(
                f"{journal.path}/segments",
                0,
                0,
                f"records of shard {shard} from {first}",
                f"the first one at {end}",
                (LostRecords(shard, first, end - 1),),
            )


def _explained(first: int, end: int, lost: Iterable[tuple[int, int]]) -> bool:
    for begin, stop in sorted(lost):
        if begin <= first < stop:
            first = stop
    return first >= end


def replay_stage(opened: Opened) -> None:
    """Bring the records of level "os" that only the mapped stage holds into the log, durably."""
    journal = opened.journal
    status = lib.hsl_log_os_stage_open(journal.log, False)
    if status == lib.HSL_NOT_FOUND:
        return
    journal.check(status)
    replayed = ffi.new("uint64_t *")
    unread = ffi.new("uint64_t *")
    journal.check(lib.hsl_log_os_stage_replay(journal.log, replayed, unread))
    if replayed[0]:
        journal.wait(journal.staged())
        _log.info("%d records recovered from the mapped stage", replayed[0])
    opened.report.stage_records = int(replayed[0])
    opened.report.stage_unread = int(unread[0])
    if unread[0]:
        _log.warning("%s/STAGE is damaged: %d bytes not replayed", journal.path, unread[0])
    journal.check(lib.hsl_log_os_stage_reset(journal.log))
