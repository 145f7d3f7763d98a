"""Copying a store that goes on working.

What is copied is what a power cut would have left at one moment: sealed segments whole, the one
being written up to where it was durable, and a superblock that states no more than that. No append
waits for it, but for the moment in which the place is asked for. Opening the copy recovers it like
any other store.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from errno import EINVAL
from os import fsencode
from typing import Any

from hstreamlite._native import ffi, lib
from hstreamlite._native.files import failure
from hstreamlite.env import Env, OpenFlag
from hstreamlite.errors import CorruptionError, StorageFull
from hstreamlite.log.journal import Journal, segment_path
from hstreamlite.log.regroup import LEVEL_1
from hstreamlite.tools.check import check
from hstreamlite.tools.findings import CheckReport
from hstreamlite.tools.segments import inspecting
from hstreamlite.tools.target import building, check_target, parent

STEP_BYTES = 16 << 20
_SEGMENT_NAME = re.compile(r"([0-9a-f]{16})\.seg")
_OFFSET = (1 << 32) - 1

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all) now and then; each byte is written and then read again."""


@dataclass(frozen=True, slots=True)
class Part:
    """A file of the store, held open, and how much of it belongs to the copy."""

    name: str
    handle: int
    length: int
    size: int
    """What the copy is extended to: the segment being written has its space reserved."""


def backup(
    env: Env,
    journal: Journal,
    lock: AbstractContextManager[object],
    target: str,
    progress: Progress,
) -> CheckReport:
    """Copy the store to a new directory, verify the copy, and give it its name.

    `lock` keeps the catalog from changing. Returns what the check of the copy found, which is
    sound; CorruptionError where the store is damaged, StorageFull, or the OSError of a file call
    leave nothing behind.
    """
    check_target(env, target, journal.path)
    journal.wait(journal.staged())
    with ExitStack() as held:
        with lock:
            parts, superblock = _capture(env, journal, held)
        total = 2 * sum(part.length for part in parts)
        if env.files.free_bytes(parent(target)) < total // 2:
            raise StorageFull(target, total // 2)
        with building(env, target, journal.path) as (partial, finish):
            done = 0
            for part in parts:
                for copied in _copy(env, part, f"{partial}/segments/{part.name}"):
                    done += copied
                    progress(done, total)
            env.files.sync_dir(f"{partial}/segments")
            for _ in range(2):
                superblock.sequence += 1
                _checked(lib.hsl_super_put(env.files.io, fsencode(f"{partial}/SUPER"), superblock))
            report = check(env, partial, lambda read, _: progress(min(done + read, total), total))
            _must_be_sound(report, journal.path, partial)
            finish()
    return report


def _capture(env: Env, journal: Journal, held: ExitStack) -> tuple[list[Part], Any]:
    """Open all files of one moment.

    What the catalog holds alive was there before the lock was taken; what goes meanwhile was dead.
    """
    open_files: dict[int, int] = {}
    superblock = ffi.new("struct hsl_super *")
    active = ffi.new("uint64_t *")
    while True:
        _open_all(env, journal.path, open_files, held)
        journal.check(lib.hsl_log_capture(journal.log, superblock, active))
        newest = int(superblock.last_segment)
        if newest == 0 or any(number == newest for number in open_files) or not active[0]:
            break
    superblock.checkpoint = 0
    superblock.flags = 0
    parts = []
    for number, handle in sorted(open_files.items()):
        if LEVEL_1 > number > newest:
            continue
        size = length = env.files.size(handle)
        if number == active[0]:
            length = int(superblock.durable) & _OFFSET
            with inspecting(env, segment_path(journal.path, number)) as inspection:
                size = inspection.header.capacity
        parts.append(Part(f"{number:016x}.seg", handle, length, size))
    return parts, superblock


def _open_all(env: Env, path: str, found: dict[int, int], held: ExitStack) -> None:
    directory = f"{path}/segments"
    for name in env.files.listdir(directory):
        match = _SEGMENT_NAME.fullmatch(name)
        if not match or int(match[1], 16) in found:
            continue
        with suppress(FileNotFoundError):  # dead, and dropped a moment ago
            handle = _open(env, f"{directory}/{name}", OpenFlag.READ)
            held.callback(env.files.close, handle)
            found[int(match[1], 16)] = handle


def _open(env: Env, path: str, flags: OpenFlag) -> int:
    """Open for direct I/O, buffered where that is refused."""
    try:
        return env.files.open(path, flags | OpenFlag.DIRECT)
    except OSError as error:
        if error.errno != EINVAL:
            raise
        return env.files.open(path, flags)


def _copy(env: Env, part: Part, path: str) -> Iterator[int]:
    """Copy a file and sync it, yielding how many bytes each step copied."""
    files = env.files
    out = _open(env, path, OpenFlag.READ | OpenFlag.WRITE | OpenFlag.CREATE)
    try:
        for at in range(0, part.length, STEP_BYTES):
            length = min(STEP_BYTES, part.length - at)
            _checked(lib.hsl_copy(files.io, part.handle, out, at, length), path)
            yield length
        files.truncate(out, part.size)
        files.sync(out)
    finally:
        files.close(out)


def _checked(status: int, path: str | None = None) -> None:
    if status < 0:
        raise failure(status, path)


def _must_be_sound(report: CheckReport, source: str, partial: str) -> None:
    """Refuse a copy that has damage: the store has it too."""
    if report.sound:
        return
    first = report.damage[0]
    raise CorruptionError(
        first.path.replace(partial, source, 1),
        first.start,
        first.length,
        "bytes that verify, to be backed up",
        first.what,
        tuple(lost.records() for damage in report.damage for lost in damage.lost),
    )
