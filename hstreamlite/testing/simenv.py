"""A simulated machine for a store: disk, clock, randomness, process.

A store opened over a ``SimEnv`` starts no thread and sees no real clock: time stands still until
``advance``, and what the store would do in the background it does when it is stepped. A crash gives
the ``SimEnv`` of the next process on the same disk, so that a test reads as what happened:

>>> env = SimEnv(seed=7)
>>> before = env.clock.mono_ns()
>>> env.advance(1.5)
>>> env.clock.mono_ns() - before
1500000000
>>> env = env.power_cut()
>>> env.pid()
1001

Everything random comes from the seed: the same program over the same seed does the same.
"""

import builtins
import hashlib
import random
import threading
from collections.abc import Callable
from typing import NoReturn

from hstreamlite.env import Env, Event, Lock, PlainLock, ThreadHandle
from hstreamlite.testing.simfs import Profile, SimFiles

__all__ = ["SimEnv", "SimRng"]


class SimRng:
    """Seeded randomness in named streams."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        digest = hashlib.blake2b(seed.encode(), digest_size=16).digest()
        self._random = random.Random(int.from_bytes(digest, "little"))
        self._forks: dict[str, int] = {}

    def u64(self) -> int:
        """Draw 64 bits."""
        return self._random.getrandbits(64)

    def fork(self, name: str) -> "SimRng":
        """Give the next stream of this name."""
        number = self._forks[name] = self._forks.get(name, 0) + 1
        return SimRng(f"{self._seed}/{name}.{number}")

    def bytes(self, n: int) -> builtins.bytes:
        """Draw ``n`` bytes."""
        return self._random.randbytes(n)


class _SteppedEvent:
    def __init__(self, pause: Callable[[float | None], None]) -> None:
        self._set = False
        self._pause = pause

    def set(self) -> None:
        self._set = True

    def clear(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            self._pause(timeout)
        return self._set


class _SteppedThreads:
    """Locks of a store that is driven by one caller at a time; starting a thread is refused."""

    def __init__(self, files: SimFiles) -> None:
        self._files = files

    def _pause(self, timeout: float | None) -> None:
        if timeout is None:
            raise RuntimeError("a stepped store would wait for ever: nothing else runs")
        self._files.advance(max(0.0, timeout))

    def start(self, name: str, run: Callable[[], None]) -> ThreadHandle:  # noqa: ARG002 - refused
        self._refuse(name)

    def _refuse(self, name: str) -> NoReturn:
        raise RuntimeError(f"a stepped environment starts no thread, not even {name!r}")

    def lock(self) -> PlainLock:
        return threading.Lock()

    def rlock(self) -> Lock:
        return threading.RLock()

    def event(self) -> Event:
        return _SteppedEvent(self._pause)


def _never_forks(callback: Callable[[], None]) -> None:
    """A simulated process has no children."""


class SimEnv(Env):
    """An ``Env`` over a simulated disk with virtual time, driven in steps.

    ``capacity`` is the size of the disk in bytes.
    """

    __slots__ = ("_life", "disk", "seed")

    disk: SimFiles
    seed: int
    _life: int

    def __init__(
        self,
        *,
        seed: int = 0,
        capacity: int = 1 << 30,
        _files: SimFiles | None = None,
        _life: int = 0,
    ) -> None:
        files = SimFiles(capacity=capacity, seed=seed) if _files is None else _files
        pid = files.pid
        super().__init__(
            files=files,
            clock=files,
            rng=SimRng(f"{seed}/{_life}"),
            threads=_SteppedThreads(files),
            pid=lambda: pid,
            after_fork_in_child=_never_forks,
            threaded=False,
        )
        for name, value in (("disk", files), ("seed", seed), ("_life", _life)):
            object.__setattr__(self, name, value)

    def _next(self, files: SimFiles) -> "SimEnv":
        return SimEnv(seed=self.seed, _files=files, _life=self._life + 1)

    def after(self, files: SimFiles) -> "SimEnv":
        """Give the next process, over this disk, be it that of a crash state."""
        return self._next(files)

    def advance(self, seconds: float) -> None:
        """Move the clocks forward."""
        self.disk.advance(seconds)

    def process_crash(self) -> "SimEnv":
        """Kill the process; all it wrote, synced or not, is there for the next one."""
        return self._next(self.disk.process_crash())

    def power_cut(self, *, seed: int | None = None, profile: Profile = "adversary") -> "SimEnv":
        """Cut the power; what was unsynced survives by ``seed``, which the environment's own
        randomness gives if it is left out.
        """
        if seed is None:
            seed = self.rng.fork("power cut").u64()
        return self._next(self.disk.power_cut(seed=seed, profile=profile))

    def clone(self) -> "SimEnv":
        """Give a machine of its own with a copy of the disk as it is, no process running."""
        return self._next(self.disk.clone())
