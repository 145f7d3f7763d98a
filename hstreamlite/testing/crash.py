"""Crash states of a recorded run: every way in which a machine could have stopped in its midst.

A `Recording` keeps the disk as it was before each of its changes. Afterwards the run can be crashed
at any of those steps, in any number of ways, without being run again: a thousand states cost some
milliseconds, and those that differ are told apart by their hash.

>>> from hstreamlite.env import OpenFlag
>>> from hstreamlite.testing.simfs import SimFiles
>>> disk = SimFiles(seed=1)
>>> with Recording(disk) as recording:
...     fd = disk.open("/a", OpenFlag.WRITE | OpenFlag.CREATE)
...     disk.write_all(fd, b"new" * 1000, 0)
...     disk.datasync(fd)
...     disk.sync_dir("/")
>>> [recording.call(step).op.name for step in range(len(recording) - 1)]
['OPEN', 'PWRITE', 'DATASYNC', 'SYNC_DIR']
>>> hashes = {state.hash for step in range(len(recording)) for state in recording.states(step, 99)}
>>> len(hashes) > 10
True

What a recovery makes of a state is judged by a `hstreamlite.testing.ledger.Ledger`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from hstreamlite._native import ffi, lib
from hstreamlite.testing.simfs import PROFILES, Call, Op, Profile, SimFiles

__all__ = ["CrashState", "Fate", "Recording"]

Fate = Literal["process", "adversary", "drop", "keep", "torn", "subset"]
"""How a run ends: the process alone, or the machine under one of the profiles of a power cut."""

_SUBSETS_OF = 5
"""Every subset of so many unsynced operations is a state of its own."""

_TURNS = Op.SYNCS | Op.RENAME | Op.UNLINK | Op.TRUNCATE | Op.ALLOCATE | Op.MKDIR | Op.OPEN
"""Calls around which states are worth more."""


@dataclass(frozen=True, slots=True)
class CrashState:
    """A disk after a crash at one step: what makes it again, its hash, and the disk itself."""

    step: int
    fate: Fate
    seed: int
    hash: int
    files: SimFiles = field(repr=False, compare=False)


class Recording:
    """The disk before each of its mutations, from now on until `stop`; a context manager.

    Step n is the disk before mutation n of the recording, and the last one the disk at the end.
    What is noted at a `position` holds in the steps from that number on. Files of the names in
    `aside` speak to living processes only: what is written to them survives every crash, and states
    that differ in nothing else are equal.
    """

    def __init__(self, disk: SimFiles, *, aside: Iterable[str] = ("LOCK", "TAIL")) -> None:
        names = b"".join(os.fsencode(name) + b"\0" for name in aside)
        self._native: Any = ffi.gc(lib.hsl_sim_record(disk.disk, names), lib.hsl_sim_record_free)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the last step."""
        lib.hsl_sim_record_stop(self._native)

    def __len__(self) -> int:
        return int(lib.hsl_sim_recorded(self._native))

    @property
    def position(self) -> int:
        """The mutations recorded so far."""
        return len(self)

    def call(self, step: int) -> Call:
        """Return the mutation that comes after a step."""
        call = ffi.new("struct hsl_sim_call *")
        if not lib.hsl_sim_recorded_call(self._native, step, call):
            raise IndexError(f"step {step} of a recording of {len(self)}")
        path = None if call.path == ffi.NULL else os.fsdecode(ffi.string(call.path))
        return Call(Op(call.op), path, call.off, call.len, call.result)

    def unsynced(self, step: int) -> int:
        """Return how many operations a power cut at a step could take."""
        return int(lib.hsl_sim_recorded_unsynced(self._native, step))

    def crash(self, step: int, fate: Fate, seed: int = 0) -> CrashState:
        """Return the disk that a crash at a step leaves."""
        kind, profile = lib.HSL_SIM_PROCESS, lib.HSL_SIM_KEEP_ALL
        if fate != "process":
            kind, profile = lib.HSL_SIM_POWER, PROFILES[fate]
        found = ffi.new("uint64_t *")
        disk = lib.hsl_sim_recorded_crash(self._native, step, kind, profile, seed, found)
        if disk == ffi.NULL:
            raise IndexError(f"step {step} of a recording of {len(self)}")
        files = SimFiles.adopt(ffi.gc(disk, lib.hsl_simfs_free))
        return CrashState(step, fate, seed, int(found[0]), files)

    def states(self, step: int, count: int) -> Iterator[CrashState]:
        """Yield what crashes at a step leave: the process killed, all lost, all kept, all torn,
        every subset of few operations, and `count` adversarial power cuts, twice as many beside a
        call that syncs, names or sizes something.
        """
        yield self.crash(step, "process")
        unsynced = self.unsynced(step)
        plain: tuple[Profile, ...] = ("drop", "keep", "torn")
        for fate in plain if unsynced else plain[:1]:
            yield self.crash(step, fate, step)
        if not unsynced:
            return
        if 1 < unsynced <= _SUBSETS_OF:
            for seed in range(1, (1 << unsynced) - 1):
                yield self.crash(step, "subset", seed)
        if self.call(step).op & _TURNS or (step and self.call(step - 1).op & _TURNS):
            count *= 2
        for seed in range(count):
            yield self.crash(step, "adversary", step << 32 | seed)
