"""Looks at the machine and at a directory; what it leaves there is nothing."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import crcmod.predefined

from hstreamlite._native import ffi, lib
from hstreamlite.cli.doctor import judgement
from hstreamlite.cli.doctor.judgement import Finding
from hstreamlite.cli.exits import told
from hstreamlite.errors import HStreamError, NotAStore, StoreVersionUnsupported

_PAGE = 4096
_SYNC_SECONDS = 0.5
_SYNCS_MOST = 2000
_CHECKSUMS = 300
_TIME_ERROR = 5
"""What adjtimex answers while the clock is not synchronized."""


def directory(path: Path) -> Iterator[Finding]:
    """Look at what is there, and who may do what with it."""
    if not path.exists():
        parent = path.parent
        if not parent.is_dir():
            yield Finding("directory", "fail", f"{parent} does not exist", f"`mkdir -p {parent}`")
        else:
            yield Finding("directory", "ok", f"{path} does not exist; it is made when it is needed")
            yield _permission(parent)
        return
    if not path.is_dir():
        yield Finding("directory", "fail", f"{path} is a file", "name a directory")
        return
    yield _contents(path)
    yield _permission(path)


def _contents(path: Path) -> Finding:
    import hstreamlite

    try:
        with hstreamlite.open(path, read_only=True) as store:
            stats = store.stats()
            pid = store._engine.env.files.lock_holder(f"{path}/LOCK")
    except NotAStore as error:
        if any(path.iterdir()):
            return Finding("directory", "fail", told(error), "name a new or an empty directory")
        return Finding("directory", "ok", f"{path} is empty; a store can be made in it")
    except StoreVersionUnsupported as error:
        advice = "use a newer hstreamlite: `pip install --upgrade hstreamlite`"
        return Finding("directory", "fail", told(error), advice)
    except (HStreamError, OSError) as error:
        return Finding("directory", "fail", told(error), f"see `hstreamlite check {path}`")
    used = f", in use by process {pid}" if pid else ""
    held = f"{stats.streams:,} streams, {stats.records:,} records"
    return Finding("directory", "ok", f"a store with {held}{used}")


def _permission(path: Path) -> Finding:
    missing = [
        word
        for word, mode in (("read", os.R_OK), ("write to", os.W_OK), ("enter", os.X_OK))
        if not os.access(path, mode)
    ]
    if missing:
        return Finding(
            "permissions", "fail", f"this user may not {' or '.join(missing)} {path}",
            f"`chown {os.geteuid()} {path}` or `chmod u+rwx {path}`, as its owner",
        )  # fmt: skip
    owner = path.stat().st_uid
    if owner != os.geteuid():
        return Finding(
            "permissions", "warn", f"{path} belongs to user {owner}, this is user {os.geteuid()}",
            "files that a store makes belong to who made them, and to nobody else: open it as one "
            "user always",
        )  # fmt: skip
    return Finding("permissions", "ok", f"user {os.geteuid()} may read and write")


def file_system(path: Path) -> Finding:
    mounts = ""
    with suppress(OSError):
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    kind, mount = mount_of(os.path.realpath(path), mounts)
    return judgement.file_system(kind, mount)


def mount_of(path: str, mountinfo: str) -> tuple[str, str]:
    """Return kind and mount point of the file system that holds a path, from what proc tells."""
    best = ("unknown", "/")
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        point = fields[4].encode().decode("unicode_escape")
        below = point.rstrip("/") + "/"
        if (path + "/").startswith(below) and len(point) >= len(best[1]):
            best = (after.split()[0], point)
    return best


@contextmanager
def _file(path: Path, flags: int) -> Iterator[int]:
    """Open a file in a directory that has no name there, or loses it at once."""
    unnamed = getattr(os, "O_TMPFILE", None)
    handle = None
    if unnamed is not None:
        with suppress(OSError):
            handle = os.open(path, unnamed | os.O_RDWR | flags, 0o600)
    if handle is None:
        name = path / f".doctor-{os.getpid()}"
        handle = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR | flags, 0o600)
        name.unlink()
    try:
        yield handle
    finally:
        os.close(handle)


def disk(path: Path) -> Iterator[Finding]:
    """Write to the disk, past the cache where that goes, and sync."""
    direct = getattr(os, "O_DIRECT", 0)
    page = mmap.mmap(-1, _PAGE)  # lies on a page, as direct I/O wants it
    try:
        with _file(path, direct) as handle:
            os.pwrite(handle, page, 0)
        yield judgement.direct_io(works=bool(direct), why="the system has none")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        direct = 0
        yield judgement.direct_io(works=False, why=error.strerror or str(error))
    with _file(path, direct) as handle:
        yield judgement.syncs(sync_rate(lambda: _sync(handle, page), time.monotonic))
    room = os.statvfs(path)
    inodes = room.f_favail if room.f_files else None
    yield judgement.room(room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize, inodes)


def _sync(handle: int, page: mmap.mmap) -> None:
    os.pwrite(handle, page, 0)
    os.fdatasync(handle)


def sync_rate(sync: Callable[[], None], clock: Callable[[], float]) -> float:
    """Return how often a second something can be done, from trying for a moment."""
    sync()
    started = clock()
    count, elapsed = 0, 0.0
    while count < _SYNCS_MOST and elapsed < _SYNC_SECONDS:
        sync()
        count += 1
        elapsed = clock() - started
    return count / max(elapsed, 1e-9)


def newest_time(path: Path) -> float | None:
    """Return when the newest record of a store was appended, in seconds since 1970."""
    import hstreamlite

    newest = None
    with suppress(HStreamError, OSError), hstreamlite.open(path, read_only=True) as store:
        for info in store.streams():
            stream = store.stream(info.name)
            tail = stream.tail()
            if tail is not None:
                (record,) = stream.read(start=tail, limit=1, shard=tail.shard_id)
                assert record.append_time_ms is not None
                newest = max(newest or 0, record.append_time_ms / 1000)
    return newest


def clock(path: Path, meanwhile: Callable[[], object]) -> Finding:
    """Look at the clock before and after something that takes a moment."""
    before = time.time(), time.monotonic()
    meanwhile()
    step = (time.time() - before[0]) - (time.monotonic() - before[1])
    newest = newest_time(path)
    ahead = None if newest is None else newest - time.time()
    return judgement.clock(ahead_seconds=ahead, step_seconds=step, synchronized=_synchronized())


def _synchronized() -> bool | None:
    """Ask the kernel whether the clock is synchronized; None where it does not say."""
    with suppress(OSError, AttributeError):
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024))
        return None if state < 0 else state != _TIME_ERROR
    return None


def limits() -> Iterator[Finding]:
    soft, hard = (_limit(value) for value in resource.getrlimit(resource.RLIMIT_NOFILE))
    yield judgement.open_files(soft, hard)
    yield judgement.memory(_memory())
    yield judgement.file_size(_limit(resource.getrlimit(resource.RLIMIT_FSIZE)[0]))


def _limit(value: int) -> int | None:
    return None if value == resource.RLIM_INFINITY else value


def _memory() -> int | None:
    """Return the least of what the machine, the group of processes and the process leave."""
    known = [_limit(resource.getrlimit(resource.RLIMIT_AS)[0])]
    with suppress(OSError, ValueError):
        (line,) = [
            line
            for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("MemAvailable:")
        ]
        known.append(int(line.split()[1]) * 1024)
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        most = int((group / "memory.max").read_text(encoding="utf-8"))
        known.append(most - int((group / "memory.current").read_text(encoding="utf-8")))
    return min((value for value in known if value is not None), default=None)


def core() -> Finding:
    """Compare checksums of the native core with those of another implementation."""
    reference = crcmod.predefined.mkCrcFun("crc-32c")
    chance = Random(0)  # noqa: S311 - data to compare, no secrets
    data = chance.randbytes(70_000)
    wrong = 0
    for _ in range(_CHECKSUMS):
        start = chance.randrange(256)
        piece = data[start : start + int(2 ** chance.uniform(0, 16))]
        wrong += int(lib.hsl_crc32c(0, ffi.from_buffer(piece), len(piece))) != reference(piece)
    return judgement.core(wrong, _CHECKSUMS)
