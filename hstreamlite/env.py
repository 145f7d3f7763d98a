"""The seams between a store and everything outside it.

A store reaches files, clocks, randomness, threads and the process through one ``Env`` and through
nothing else. So the code that runs in production runs unchanged over a simulated disk with virtual
time (``hstreamlite.testing.SimEnv``), where every crash and every fault is repeatable by its seed.

This is the only module, with the native core and ``hstreamlite.testing``, that may import ``os``
and ``threading``. It knows the native core by protocol only: ``real_env()`` in
``hstreamlite._native.files`` joins the two.
"""

import builtins
import itertools
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntFlag
from types import TracebackType
from typing import Any, Protocol, TypeAlias

__all__ = [
    "Clock",
    "Env",
    "Event",
    "FileSystem",
    "Lock",
    "LockHeld",
    "NativeIo",
    "OpenFlag",
    "PlainLock",
    "Rng",
    "ThreadHandle",
    "Threads",
    "system_env",
]

NativeIo: TypeAlias = Any
"""A cffi ``const struct hsl_io *``; cffi objects have no static types."""


class OpenFlag(IntFlag):
    """How a file is opened; the numbers are those of ``enum hsl_open_flag``."""

    READ = 1
    WRITE = 2
    CREATE = 4
    EXCL = 8
    DIRECT = 16


class LockHeld(BlockingIOError):
    """The lock file is locked by another holder; ``owner_pid`` is 0 where unknown."""

    owner_pid: int

    def __init__(self, errno: int, message: str, path: str, owner_pid: int) -> None:
        super().__init__(errno, message, path)
        self.owner_pid = owner_pid


class FileSystem(Protocol):
    """Files by handle and path; every failure is an ``OSError`` with errno and filename.

    ``io`` is the table the C core calls; it is valid as long as this object lives.
    """

    @property
    def io(self) -> NativeIo: ...
    def open(self, path: str, flags: OpenFlag) -> int: ...
    def close(self, fd: int) -> None: ...
    def pread(self, fd: int, length: int, offset: int) -> bytes: ...
    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int: ...
    def write_all(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None: ...
    def datasync(self, fd: int) -> None: ...
    def sync(self, fd: int) -> None: ...
    def allocate(self, fd: int, offset: int, length: int) -> None: ...
    def truncate(self, fd: int, length: int) -> None: ...
    def size(self, fd: int) -> int: ...
    def rename(self, source: str, target: str) -> None: ...
    def unlink(self, path: str) -> None: ...
    def mkdir(self, path: str) -> None: ...
    def sync_dir(self, path: str) -> None: ...
    def listdir(self, path: str) -> list[str]: ...
    def lock(self, path: str) -> int: ...
    def lock_holder(self, path: str) -> int | None: ...
    def free_bytes(self, path: str) -> int: ...
    def boot_id(self) -> bytes: ...
    def read_all(self, path: str) -> bytes: ...
    def resolve(self, path: str) -> str: ...
    def exists(self, path: str) -> bool: ...


class Clock(Protocol):
    """The wall clock stamps records; the monotonic one drives every timer and never goes back."""

    def wall_ms(self) -> int: ...
    def mono_ns(self) -> int: ...


class Rng(Protocol):
    """Randomness in named streams, so that a new caller does not shift what the others draw."""

    def u64(self) -> int: ...
    def fork(self, name: str) -> "Rng":
        """Give a stream of its own; each call with the same name gives the next one."""
        ...

    def bytes(self, n: int) -> builtins.bytes: ...


class Lock(Protocol):
    def acquire(
        self,
        blocking: bool = ...,  # noqa: FBT001 - as threading has it
        timeout: float = ...,
    ) -> bool: ...
    def release(self) -> None: ...
    def __enter__(self) -> bool: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None: ...


class PlainLock(Lock, Protocol):
    """A lock that any thread may release."""

    def locked(self) -> bool: ...


class Event(Protocol):
    def set(self) -> None: ...
    def clear(self) -> None: ...
    def is_set(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> bool: ...


class ThreadHandle(Protocol):
    def join(self, timeout: float | None = None) -> None: ...
    def is_alive(self) -> bool: ...


class Threads(Protocol):
    """Threads and what they wait on; timeouts are seconds."""

    def start(self, name: str, run: Callable[[], None]) -> ThreadHandle: ...
    def lock(self) -> PlainLock: ...
    def rlock(self) -> Lock: ...
    def event(self) -> Event: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Env:
    """Everything a store may touch outside its own memory.

    ``threaded`` false means stepped drive: the store starts no thread, and whoever holds it calls
    its tick. ``after_fork_in_child`` registers a callback for children of ``os.fork``; a bound
    method does not keep its object alive.
    """

    files: FileSystem
    clock: Clock
    rng: Rng
    threads: Threads
    pid: Callable[[], int]
    after_fork_in_child: Callable[[Callable[[], None]], None]
    threaded: bool


class _SystemRng:
    def u64(self) -> int:
        return int.from_bytes(os.urandom(8), "little")

    def fork(self, name: str) -> "_SystemRng":  # noqa: ARG002 - names matter in simulation
        return self

    def bytes(self, n: int) -> builtins.bytes:
        return os.urandom(n)


class _SystemThreads:
    def start(self, name: str, run: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=run, name=f"hstreamlite-{name}", daemon=True)
        thread.start()
        return thread

    def lock(self) -> PlainLock:
        return threading.Lock()

    def rlock(self) -> Lock:
        return threading.RLock()

    def event(self) -> Event:
        return threading.Event()


class _ForkCallbacks:
    """One hook in the interpreter, which keeps hooks for ever, for callbacks that come and go.

    Takes no lock: threads add callbacks at the same time, and the collector of garbage removes
    them.
    """

    def __init__(self) -> None:
        self._callbacks: dict[int, Callable[[], Callable[[], None] | None]] = {}
        self._numbers = itertools.count()
        self._hooked = False

    def add(self, callback: Callable[[], None]) -> None:
        number = next(self._numbers)
        reference: Callable[[], Callable[[], None] | None]
        if hasattr(callback, "__self__"):
            reference = weakref.WeakMethod(callback, lambda _: self._callbacks.pop(number, None))
        else:
            reference = lambda: callback  # noqa: E731 - a strong reference in a weak one's shape
        self._callbacks[number] = reference
        if not self._hooked and hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._run)
            self._hooked = True

    def _run(self) -> None:
        for reference in list(self._callbacks.values()):
            callback = reference()
            if callback is not None:
                callback()


_fork_callbacks = _ForkCallbacks()


def system_env(files: FileSystem, clock: Clock) -> Env:
    """Make the environment of production over these files and this clock."""
    return Env(
        files=files,
        clock=clock,
        rng=_SystemRng(),
        threads=_SystemThreads(),
        pid=os.getpid,
        after_fork_in_child=_fork_callbacks.add,
        threaded=True,
    )
