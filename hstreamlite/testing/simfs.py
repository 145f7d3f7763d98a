"""A simulated disk: deterministic, in memory, with faults, crashes and damage.

``SimFiles`` is used like the real files, and what a store does to it is real: the same C core runs
over it. The disk remembers, for every file, which bytes are durable and which writes are not yet
synced, and for every directory which entries are durable. Crashing it decides about the rest.

>>> from hstreamlite.env import OpenFlag
>>> disk = SimFiles(seed=1)
>>> fd = disk.open("/a", OpenFlag.WRITE | OpenFlag.CREATE)
>>> disk.write_all(fd, b"synced", 0)
>>> disk.datasync(fd)
>>> disk.sync_dir("/")
>>> disk.write_all(fd, b"forgotten", 6)
>>> disk.power_cut(profile="drop").read_all("/a")
b'synced'

A power cut with the ``adversary`` profile honours nothing but the syncs: each unsynced write may
survive whole, cut short, with sectors missing, as zeros or as stale bytes of another file, whatever
happens to the writes before it, and each created, renamed or removed name may be durable or not.
That is more than one file system does, and the union of what several do.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, Literal, NamedTuple, TypeAlias

from hstreamlite._native import ffi, lib
from hstreamlite._native.files import Files

__all__ = [
    "Call",
    "Counts",
    "Delay",
    "Fail",
    "FailSync",
    "Fault",
    "Interrupt",
    "Op",
    "Profile",
    "Short",
    "SimFiles",
]

Profile = Literal["adversary", "drop", "keep", "torn", "subset"]
"""What a power cut does to unsynced operations: decide each by the seed, lose all, keep all, keep
all but tear the writes, keep the n-th whole where bit n of the seed is set."""

_Native: TypeAlias = Any  # a cffi ``struct hsl_simfs *``; cffi objects have no static types

_DEFAULT_WALL_MS = 1_700_000_000_000
_NEVER = 2**64 - 1


class Op(IntFlag):
    """The calls a store makes; combine them to aim a fault at several."""

    OPEN = 1
    CLOSE = 2
    PREAD = 4
    PWRITE = 8
    DATASYNC = 16
    SYNC = 32
    ALLOCATE = 64
    TRUNCATE = 128
    SIZE = 256
    RENAME = 512
    UNLINK = 1024
    MKDIR = 2048
    SYNC_DIR = 4096
    LIST = 8192
    LOCK = 16384
    MAP = 32768
    UNMAP = 65536
    FREE_BYTES = 131072
    ANY = 262143
    SYNCS = DATASYNC | SYNC | SYNC_DIR
    TRANSFERS = PREAD | PWRITE


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """When something goes wrong: at the ``nth`` call (from 1) of those in ``ops`` whose path
    contains ``path``, once or from then on. Its subclasses say what goes wrong.
    """

    ops: Op = Op.ANY
    path: str | None = None
    nth: int = 1
    from_then_on: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail(Fault):
    """The call fails with this errno and does nothing."""

    errno: int = errno.EIO


@dataclass(frozen=True, slots=True, kw_only=True)
class Short(Fault):
    """A read or write moves at most ``count`` bytes, or half of them if that is 0."""

    ops: Op = Op.TRANSFERS
    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupt(Fault):
    """The call is interrupted and repeated underneath: nothing shows it but ``hits``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailSync(Fault):
    """A sync fails with this errno, and what it should have made durable is

    - ``lost``: still readable, counted as clean, never durable unless written again (ext4, XFS);
    - ``reverted``: replaced by the old content at once (Btrfs);
    - ``survived``: durable all the same.
    """

    ops: Op = Op.SYNCS
    errno: int = errno.EIO
    outcome: Literal["lost", "reverted", "survived"] = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay(Fault):
    """The call takes this long in virtual time."""

    seconds: float = 1.0


class Call(NamedTuple):
    """A call recorded by ``trace``; a negative result is an errno."""

    op: Op
    path: str | None
    offset: int
    length: int
    result: int


class Counts(NamedTuple):
    """Totals of the living process and of the disk."""

    calls: int
    mutations: int
    used: int
    unsynced: int
    handles: int
    maps: int


PROFILES: dict[Profile, int] = {
    "adversary": lib.HSL_SIM_ADVERSARY,
    "drop": lib.HSL_SIM_DROP_ALL,
    "keep": lib.HSL_SIM_KEEP_ALL,
    "torn": lib.HSL_SIM_TEAR_ALL,
    "subset": lib.HSL_SIM_SUBSET,
}
_SYNC_OUTCOMES = {
    "lost": lib.HSL_SIM_SYNC_LOST,
    "reverted": lib.HSL_SIM_SYNC_REVERTED,
    "survived": lib.HSL_SIM_SYNC_SURVIVED,
}


def _effect(fault: Fault) -> tuple[int, int]:
    match fault:
        case Fail():
            return lib.HSL_SIM_FAIL, fault.errno
        case Short():
            return lib.HSL_SIM_SHORT, fault.count
        case Interrupt():
            return lib.HSL_SIM_INTERRUPT, 0
        case FailSync():
            return _SYNC_OUTCOMES[fault.outcome], fault.errno
        case Delay():
            return lib.HSL_SIM_DELAY, round(fault.seconds * 1e9)
    raise TypeError(f"fault must be one of the subclasses of Fault, not {fault!r}")


class SimFiles(Files):
    """One process's view of a simulated disk.

    A crash ends the view (its every call fails with ``EBADF``) and returns the view of the process
    that comes next, on the same disk. Everything else here concerns the disk and works on any view.
    ``seed`` decides boot ids only; crashes have seeds of their own.
    """

    def __init__(
        self,
        *,
        capacity: int = 1 << 30,
        seed: int = 0,
        wall_ms: int = _DEFAULT_WALL_MS,
        _disk: _Native = None,
    ) -> None:
        if _disk is None:
            _disk = ffi.gc(lib.hsl_simfs_new(capacity, seed % 2**64), lib.hsl_simfs_free)
            lib.hsl_simfs_set_time(_disk, wall_ms, 1_000_000_000)
        self._disk: _Native = _disk
        super().__init__(lib.hsl_simfs_io(_disk))

    @classmethod
    def adopt(cls, disk: _Native) -> "SimFiles":
        """Return the view of a native disk."""
        return cls(_disk=disk)

    def resolve(self, path: str) -> str:
        """Return the path: there are no links."""
        return path

    @property
    def disk(self) -> _Native:
        """The native disk."""
        return self._disk

    def clone(self) -> "SimFiles":
        """Copy the disk as it is, unsynced operations included, for a process that has just come.

        Handles, locks and faults are not copied. The copy shares memory until one side writes, so
        that one run can be crashed in many ways:

        >>> disk = SimFiles()
        >>> outcomes = {disk.clone().power_cut(seed=n).image_hash() for n in range(8)}
        """
        return SimFiles(_disk=ffi.gc(lib.hsl_simfs_clone(self._disk), lib.hsl_simfs_free))

    def process_crash(self) -> "SimFiles":
        """End the process: what it wrote stays visible and unsynced, mapped memory included."""
        lib.hsl_simfs_crash(self._disk, lib.HSL_SIM_PROCESS, lib.HSL_SIM_KEEP_ALL, 0)
        return SimFiles(_disk=self._disk)

    def power_cut(self, *, seed: int = 0, profile: Profile = "adversary") -> "SimFiles":
        """End the machine: only what was synced is certain to stay."""
        lib.hsl_simfs_crash(self._disk, lib.HSL_SIM_POWER, PROFILES[profile], seed % 2**64)
        return SimFiles(_disk=self._disk)

    def stop_at(self, mutation: int | None) -> None:
        """Fail every call from this mutation on (from 0) with EIO, as if power had gone before it.

        Mutations are the calls that may change or sync the disk. Running a program with
        ``stop_at(n)`` and then ``power_cut`` for every n up to ``counts().mutations`` crashes it at
        each of its steps. A crash switches the power on again; ``None`` does so at once only for
        calls not yet refused.
        """
        lib.hsl_simfs_stop_at(self._disk, _NEVER if mutation is None else mutation)

    @property
    def stopped(self) -> bool:
        """Whether the mutation of ``stop_at`` was reached."""
        return bool(lib.hsl_simfs_stopped(self._disk))

    @property
    def pid(self) -> int:
        """The process id that locks show; each crash makes it one higher."""
        return int(lib.hsl_simfs_pid(self._disk))

    def counts(self) -> Counts:
        """Return the totals."""
        counts = ffi.new("struct hsl_sim_counts *")
        lib.hsl_simfs_counts(self._disk, counts)
        return Counts(
            counts.calls,
            counts.mutations,
            counts.used,
            counts.unsynced,
            counts.handles,
            counts.maps,
        )

    def inject(self, fault: Fault) -> Callable[[], int]:
        """Arm a fault; the returned function tells how often it has fired.

        Faults stay armed over a crash, until ``clear_faults``. Of several that fire at one call,
        the one armed first wins.
        """
        if fault.nth < 1:
            raise ValueError(f"nth must be at least 1, not {fault.nth}")
        effect, argument = _effect(fault)
        part = ffi.NULL if fault.path is None else os.fsencode(fault.path)
        number = lib.hsl_simfs_fault(
            self._disk, fault.ops, part, fault.nth, fault.from_then_on, effect, argument
        )

        def hits() -> int:
            return int(lib.hsl_simfs_fault_hits(self._disk, number))

        return hits

    def clear_faults(self) -> None:
        """Disarm all faults."""
        lib.hsl_simfs_clear_faults(self._disk)

    def set_capacity(self, capacity: int) -> None:
        """Change the size of the disk; below what is used, nothing can grow."""
        lib.hsl_simfs_set_capacity(self._disk, capacity)

    def set_direct(self, alignment: int) -> None:
        """Set the alignment that unbuffered transfers need (512 at first); 0 refuses them."""
        if alignment & (alignment - 1):
            raise ValueError(f"alignment must be 0 or a power of two, not {alignment}")
        lib.hsl_simfs_set_direct(self._disk, alignment)

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        if seconds < 0:
            raise ValueError(f"seconds must not be negative, not {seconds}")
        lib.hsl_simfs_advance(self._disk, round(seconds * 1e9))

    def set_wall_ms(self, wall_ms: int) -> None:
        """Step the wall clock, in either direction."""
        lib.hsl_simfs_set_time(self._disk, wall_ms, self.mono_ns())

    def walk(self, top: str = "/") -> list[str]:
        """Return the paths of all files below a directory, sorted."""
        files: list[str] = []
        for name in self.listdir(top):
            path = f"{top.rstrip('/')}/{name}"
            try:
                files += self.walk(path)
            except NotADirectoryError:
                files.append(path)
        return files

    def _damage(self, result: int, path: str, other: str | None = None) -> None:
        self._check_path(result, path, other)

    def flip(self, path: str, bit: int) -> None:
        """Turn over one bit of a file, in the cache and on the medium, unseen by ``counts``."""
        self._damage(lib.hsl_simfs_flip(self._disk, os.fsencode(path), bit), path)

    def overwrite(self, path: str, offset: int, data: bytes) -> None:
        """Put bytes over those of a file, in the cache and on the medium."""
        name = os.fsencode(path)
        self._damage(lib.hsl_simfs_overwrite(self._disk, name, offset, data, len(data)), path)

    def zero_range(self, path: str, offset: int, length: int) -> None:
        """Lose a range of a file to zeros, in the cache and on the medium."""
        name = os.fsencode(path)
        self._damage(lib.hsl_simfs_zero_range(self._disk, name, offset, length), path)

    def truncate_raw(self, path: str, length: int) -> None:
        """Cut a file, in the cache and on the medium."""
        self._damage(lib.hsl_simfs_truncate_raw(self._disk, os.fsencode(path), length), path)

    def copy_raw(self, source: str, target: str) -> None:
        """Make the target a durable copy of the source's visible content."""
        names = (os.fsencode(source), os.fsencode(target))
        self._damage(lib.hsl_simfs_copy_raw(self._disk, *names), source, target)

    def rename_raw(self, source: str, target: str) -> None:
        """Rename durably."""
        names = (os.fsencode(source), os.fsencode(target))
        self._damage(lib.hsl_simfs_rename_raw(self._disk, *names), source, target)

    def unlink_raw(self, path: str) -> None:
        """Remove durably."""
        self._damage(lib.hsl_simfs_unlink_raw(self._disk, os.fsencode(path)), path)

    def sync_all(self) -> None:
        """Make everything durable as it is seen."""
        lib.hsl_simfs_sync_all(self._disk)

    def image_hash(self) -> int:
        """Return 64 bits that are equal for equal names and contents, visible and durable."""
        return int(lib.hsl_simfs_hash(self._disk))

    def trace(self, *, on: bool = True) -> None:
        """Begin to record calls, forgetting those before, or stop recording."""
        lib.hsl_simfs_trace(self._disk, on)

    def traced(self) -> list[Call]:
        """Return the recorded calls."""
        calls: list[Call] = []
        call = ffi.new("struct hsl_sim_call *")
        while lib.hsl_simfs_traced(self._disk, len(calls), call):
            path = None if call.path == ffi.NULL else os.fsdecode(ffi.string(call.path))
            calls.append(Call(Op(call.op), path, call.off, call.len, call.result))
        return calls
