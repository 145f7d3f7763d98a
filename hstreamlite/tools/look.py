"""Reading all files of a store, whatever their state, without changing or locking any.

The store may be in use: then files grow, appear and go while they are read. So what looks damaged
counts only if a second look finds it again (see `check`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from errno import EIO, ELOOP, ENOENT, ENOTDIR
from functools import partial
from os import fsencode
from typing import Any

from hstreamlite._native import ffi, lib
from hstreamlite._native.files import failure
from hstreamlite.env import Env, OpenFlag
from hstreamlite.errors import NotAStore, StoreVersionUnsupported
from hstreamlite.log.journal import FILE_KINDS, segment_path
from hstreamlite.log.regroup import LEVEL_1, Span, absent, arrange
from hstreamlite.tools.findings import (
    FOREIGN,
    HARMLESS,
    KIND,
    MISPLACED,
    MISSING,
    SUPERBLOCK,
    Damage,
)
from hstreamlite.tools.segments import Found, Header, Want, inspecting

FORMAT_MAJOR = 1
SUPER_BYTES = 8192
PAGE_BYTES = 4096
_SEGMENT_NAME = re.compile(r"([0-9a-f]{16})\.seg")
_OWN_FILES = frozenset({"spare", "reserve", "copy", "regroup"})
_OWN_PAGES = ("LOCK", "STAGE", "TAIL")
_OFFSET = (1 << 32) - 1

Progress = Callable[[int, int], None]
"""Told (bytes read, bytes in all) now and then."""


@dataclass(frozen=True, slots=True)
class Super:
    """The superblock that counts."""

    sequence: int
    uuid: bytes
    epoch: int
    last_segment: int
    durable: int
    snapshot: tuple[int, int, int]
    closed: bool


@dataclass(slots=True)
class Look:
    """What one reading of all files found. A place is the number of a segment of level 0; one of
    level 1 stands at the first one that it covers."""

    path: str
    superblock: Super | None = None
    segments: dict[int, Found] = field(default_factory=dict)
    """By place, ascending."""
    damage: list[tuple[int, Damage]] = field(default_factory=list)
    """Each with the place of its segment, 0 for none."""
    notes: list[str] = field(default_factory=list)
    wants: dict[int, Want] = field(default_factory=dict)
    """What was known of each segment from elsewhere, by place."""
    files: set[int] = field(default_factory=set)
    other_kind: set[int] = field(default_factory=set)
    """Numbers under whose names stands something that is no regular file."""
    replaced: list[Span] = field(default_factory=list)
    """Segments in whose place others stand, and whose files are still there."""
    absent: list[int] = field(default_factory=list)
    """Numbers of level 0 at whose place no segment stands."""
    bytes: int = 0


def look(env: Env, path: str, progress: Progress, kept: dict[str, Found]) -> Look:
    """Read everything. `kept` holds sealed segments known to be sound, and takes up more.

    NotAStore, StoreVersionUnsupported, or the OSError of a file call.
    """
    seen = Look(path)
    seen.superblock = _read_super(env, seen)
    for name in _OWN_PAGES:
        _look_at_kind(env, seen, f"{path}/{name}")
    headers = _headers(env, seen)
    counting = _arrange(seen, headers)
    total = sum(headers[span.number][1].file_bytes for span in counting)
    following: Span | None = None
    for span in reversed(counting):
        file, header = headers[span.number]
        after = None
        if following is not None and following.first == span.last + 1:
            after = headers[following.number][1]
        found = kept.get(file)
        want = _want(seen.superblock, span, after, tail=following is None)
        seen.wants[span.first] = want
        if found is None or found.header.uid != header.uid:
            with inspecting(env, file) as inspection:
                found = inspection.read(want, partial(_tell, progress, seen.bytes, total))
            if found.sealed and not found.ranges:
                kept[file] = found
        seen.segments[span.first] = found
        if after is not None and after.valid and header.valid:
            _check_chain(seen, span.first, found, after)
        seen.damage += _damage_in(span.first, found)
        seen.bytes += header.file_bytes
        progress(seen.bytes, total)
        following = span
    seen.segments = dict(sorted(seen.segments.items()))
    seen.notes += _replaced_by_damaged(seen)
    return seen


def _replaced_by_damaged(seen: Look) -> Iterator[str]:
    """Yield where the bytes may be that a damaged segment of level 1 was made of."""
    for found in seen.segments.values():
        header = found.header
        if header.number < LEVEL_1 or all(r.fault in HARMLESS for r in found.ranges):
            continue
        for span in seen.replaced:
            if header.covers_first <= span.first and span.last <= header.covers_last:
                file = segment_path(seen.path, span.number)
                yield f"{file}, in whose place {found.path} stands, may hold what that has lost"


def _arrange(seen: Look, headers: dict[int, tuple[str, Header]]) -> list[Span]:
    """Return the segments that count, in the order of their content."""
    spans: list[Span] = []
    lost: list[int] = []
    for number, (_, header) in headers.items():
        if number < LEVEL_1:
            spans.append(Span(number, number, number))
        elif header.valid:
            spans.append(Span(number, header.covers_first, header.covers_last))
        else:
            lost.append(number)
    try:
        counting, seen.replaced = arrange(spans)
    except ValueError as error:
        damage = Damage(f"{seen.path}/segments", 0, 0, MISPLACED, f"they overlap: {error}")
        seen.damage.append((0, damage))
        counting = sorted((s for s in spans if s.number < LEVEL_1), key=lambda s: s.first)
    last = seen.superblock.last_segment if seen.superblock else 0
    seen.files = set(headers)
    seen.absent = absent(counting, last)
    for number, at in zip(lost, seen.absent, strict=False):
        # What a file of level 1 covers stands in its header; without it, where nothing else is.
        counting.append(Span(number, at, at))
    for number in lost[len(seen.absent) :]:
        file, header = headers[number]
        fault = lib.HSL_FAULT_HEADER if header.file_bytes >= PAGE_BYTES else lib.HSL_FAULT_SHORT
        seen.damage.append((0, Damage(file, 0, min(header.file_bytes, PAGE_BYTES), fault)))
    return sorted(counting, key=lambda span: span.first)


def _damage_in(place: int, found: Found) -> Iterator[tuple[int, Damage]]:
    """Yield what does not verify. Without a footer, what a segment held last of a log is named
    nowhere."""
    for r in found.ranges:
        bounded = found.sealed or r.fault in HARMLESS
        yield place, Damage(found.path, r.start, r.end - r.start, r.fault, bounded=bounded)


def _tell(progress: Progress, done: int, total: int, read: int) -> None:
    progress(done + read, total)


def _want(superblock: Super | None, span: Span, after: Header | None, *, tail: bool) -> Want:
    want = Want()
    if after is not None and after.valid:
        want = Want(uid=after.pred_uid, end=after.pred_end, crc=after.pred_crc)
    if superblock is None:
        return replace(want, tail=tail)
    if span.number >= LEVEL_1:
        return Want()
    claim = superblock.durable & _OFFSET if superblock.durable >> 32 == span.number else 0
    newest = tail and superblock.last_segment <= span.number
    return replace(want, claim=claim, tail=newest, closed=superblock.closed)


def _check_chain(seen: Look, place: int, found: Found, after: Header) -> None:
    header = found.header
    stated = (after.pred_uid, after.pred_end, after.pred_crc)
    covers = (header.covers_uid, header.covers_end, header.covers_crc)
    if after.pred_uid != header.covers_uid or (header.number >= LEVEL_1 and stated != covers):
        detail = "the next one was written behind another file of this number"
        seen.damage.append((place, Damage(found.path, 0, 0, lib.HSL_FAULT_CHAIN, detail)))


def read_super(env: Env, path: str) -> Super | None:
    """Return the superblock that counts; None where none does."""
    return _read_super(env, Look(path))


def _read_super(env: Env, seen: Look) -> Super | None:
    path = f"{seen.path}/SUPER"
    slots = ffi.new("struct hsl_super[2]")
    status = ffi.new("int32_t[2]")
    error = lib.hsl_super_slots(env.files.io, fsencode(path), slots, status)
    if -error in FILE_KINDS:
        seen.damage.append((0, Damage(path, 0, 0, KIND, FILE_KINDS[-error])))
        return None
    if error in (-ENOENT, -ENOTDIR):
        _must_be_store(env, seen.path)
        seen.damage.append((0, Damage(path, 0, 0, MISSING)))
        return None
    if error == -EIO:
        detail = "the device cannot read it"
        seen.damage.append((0, Damage(path, 0, SUPER_BYTES, SUPERBLOCK, detail)))
        return None
    if error < 0:
        raise failure(error, path)
    valid: list[Any] = []
    for slot, found in zip(slots, status, strict=True):
        if found == lib.HSL_VERSION:
            raise StoreVersionUnsupported(seen.path, int(slot.sequence), FORMAT_MAJOR)
        if found == lib.HSL_OK:
            valid.append(slot)
    if not valid:
        seen.damage.append((0, Damage(path, 0, SUPER_BYTES, SUPERBLOCK)))
        return None
    if len(valid) == 1:
        seen.notes.append(f"{path}: one slot is not valid, as after a power cut; the other counts")
    best = max(valid, key=lambda slot: int(slot.sequence))
    return Super(
        sequence=int(best.sequence),
        uuid=bytes(best.uuid),
        epoch=int(best.epoch),
        last_segment=int(best.last_segment),
        durable=int(best.durable),
        snapshot=(int(best.snapshot[0]), int(best.snapshot[1]), int(best.snapshot[2])),
        closed=bool(best.flags & 1),
    )


def owner_of(env: Env, path: str) -> int | None:
    """Return the pid of whoever has the store open, 0 if it cannot be told; None for nobody."""
    try:
        return env.files.lock_holder(f"{path}/LOCK")
    except OSError as error:
        if error.errno not in FILE_KINDS and error.errno != ENOTDIR:
            raise
        return None  # what cannot be locked nobody holds


def _must_be_store(env: Env, path: str) -> None:
    """Tell a store without superblock from anything else."""
    try:
        names = env.files.listdir(path)
        inside = _names_in(env, f"{path}/segments") if "segments" in names else []
    except FileNotFoundError:
        raise NotAStore(path, "it does not exist") from None
    except NotADirectoryError:
        raise NotAStore(path, "it is a file") from None
    if not any(_SEGMENT_NAME.fullmatch(name) for name in inside):
        why = "it holds other files and no superblock" if names else "it is an empty directory"
        raise NotAStore(path, why)


def _names_in(env: Env, path: str) -> list[str]:
    try:
        return env.files.listdir(path)
    except NotADirectoryError:
        return []


def _headers(env: Env, seen: Look) -> dict[int, tuple[str, Header]]:
    """Return file and header of each segment, by the number its header gives."""
    directory = f"{seen.path}/segments"
    named: dict[int, tuple[str, Header]] = {}
    for name in _segment_names(env, seen):
        match = _SEGMENT_NAME.fullmatch(name)
        file = f"{directory}/{name}"
        if match:
            try:
                with inspecting(env, file) as inspection:
                    named[int(match[1], 16)] = file, inspection.header
            except OSError as error:
                wrong = Damage(file, 0, 0, KIND, _kind(error), bounded=False)
                seen.damage.append((int(match[1], 16), wrong))
                seen.other_kind.add(int(match[1], 16))
        elif name in _OWN_FILES:
            _look_at_kind(env, seen, file)
        else:
            seen.notes.append(f"{_shown(file)} is not a file of this store")
    uuid = _uuid(seen, [header for _, header in named.values()])
    found: dict[int, tuple[str, Header]] = {}
    misplaced = []
    for number, (file, header) in named.items():
        if header.valid and header.required:
            raise StoreVersionUnsupported(file, header.version, FORMAT_MAJOR)
        if header.valid and header.version != FORMAT_MAJOR:
            if seen.superblock is None:
                raise StoreVersionUnsupported(file, header.version, FORMAT_MAJOR)
            detail = f"format version {header.version} in a store of version {FORMAT_MAJOR}"
            damage = Damage(file, 0, 12, lib.HSL_FAULT_HEADER, detail)
            seen.damage.append((number, damage))
        if header.valid and header.uuid != uuid:
            seen.damage.append((number, Damage(file, 0, header.file_bytes, FOREIGN, bounded=False)))
        elif header.valid and header.number != number:
            misplaced.append((number, file, header))
        else:
            found[number] = file, header
    for number, file, header in misplaced:
        detail = f"{header.number} stands in the place of {number}"
        wrong = Damage(file, 0, header.file_bytes, MISPLACED, detail)
        seen.damage.append((number, wrong))
        found.setdefault(header.number, (file, header))
    return found


def _segment_names(env: Env, seen: Look) -> list[str]:
    """Return what lies in the directory of the segments; that there is none is damage."""
    path = f"{seen.path}/segments"
    try:
        return sorted(env.files.listdir(path))
    except FileNotFoundError:
        seen.damage.append((0, Damage(path, 0, 0, MISSING, bounded=False)))
    except NotADirectoryError:
        seen.damage.append((0, Damage(path, 0, 0, KIND, "a file", bounded=False)))
    except OSError as error:
        if error.errno != ELOOP:
            raise
        what = "a link that leads to itself"
        seen.damage.append((0, Damage(path, 0, 0, KIND, what, bounded=False)))
    return []


def _look_at_kind(env: Env, seen: Look, path: str) -> None:
    """Report what is no regular file where the store has one."""
    try:
        env.files.close(env.files.open(path, OpenFlag.READ))
    except FileNotFoundError:
        return
    except OSError as error:
        seen.damage.append((0, Damage(path, 0, 0, KIND, _kind(error))))


def _kind(error: OSError) -> str:
    if error.errno not in FILE_KINDS:
        raise error
    return FILE_KINDS[error.errno]


def _shown(path: str) -> str:
    """Return a path to be printed: a name may hold anything."""
    return path if path.isprintable() else repr(path)


def _uuid(seen: Look, headers: list[Header]) -> bytes:
    """Return the identity of the store; without a superblock, that of most segments."""
    if seen.superblock is not None:
        return seen.superblock.uuid
    uuids = [header.uuid for header in headers if header.valid]
    return max(uuids, key=uuids.count) if uuids else bytes(16)
