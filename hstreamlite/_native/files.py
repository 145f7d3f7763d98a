"""The table of functions in ``io_api.h`` as Python methods, for the decisions made in Python.

One class serves production and simulation: they differ in the table behind it. Calls release the
GIL. Reads and writes may be short, as the system calls are; ``read_all`` and ``write_all`` are not.
"""

import errno
import os

from hstreamlite._native import fast, ffi, lib
from hstreamlite.env import Env, LockHeld, NativeIo, OpenFlag, system_env

__all__ = ["Files", "posix_files", "real_env"]

_READ_BYTES = 1 << 20


def failure(code: int, path: str | None, other: str | None = None) -> OSError:
    """Return the error of a native function that failed with -errno."""
    return OSError(-code, os.strerror(-code), path, None, other)


class Files:
    """Files and clocks of one table; satisfies ``env.FileSystem`` and ``env.Clock``.

    Safe to use from several threads; a handle, as ever, must not be closed under a running call.
    """

    def __init__(self, io: NativeIo) -> None:
        self.io: NativeIo = io
        self._address = int(ffi.cast("uintptr_t", io))
        self._paths: dict[int, str] = {}

    def _fail(self, code: int, path: str | None, other: str | None = None) -> OSError:
        return failure(code, path, other)

    def _check(self, result: int, fd: int) -> int:
        if result < 0:
            raise self._fail(result, self._paths.get(fd))
        return result

    def _check_path(self, result: int, path: str, other: str | None = None) -> int:
        if result < 0:
            raise self._fail(result, path, other)
        return result

    def open(self, path: str, flags: OpenFlag) -> int:
        """Open a file and return its handle; a created one is readable by its owner only."""
        fd = self.io.open(self.io.ctx, os.fsencode(path), int(flags))
        self._check_path(fd, path)
        self._paths[fd] = path
        return int(fd)

    def close(self, fd: int) -> None:
        """Release the handle, and its lock if ``lock`` made it."""
        path = self._paths.pop(fd, None)
        result = self.io.close(self.io.ctx, fd)
        if result < 0:
            raise self._fail(result, path)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """Read up to ``length`` bytes; fewer only at the end of the file or when cut short."""
        buffer = bytearray(length)
        count = self.pread_into(fd, buffer, offset)
        return bytes(memoryview(buffer)[:count])

    def pread_into(self, fd: int, buffer: bytearray | memoryview, offset: int) -> int:
        """Read into a writable buffer and return the count; the way to read with ``DIRECT``."""
        with ffi.from_buffer(buffer, require_writable=True) as target:
            result = self.io.pread(self.io.ctx, fd, target, len(target), offset)
        return self._check(result, fd)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write and return how many bytes were taken."""
        with ffi.from_buffer(data) as source:
            result = self.io.pwrite(self.io.ctx, fd, source, len(source), offset)
        return self._check(result, fd)

    def write_all(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write everything; on an error a prefix may have been written."""
        rest = memoryview(data).cast("B")
        while rest:
            count = self.pwrite(fd, rest, offset)
            if count == 0:
                raise self._fail(-errno.EIO, self._paths.get(fd))
            rest = rest[count:]
            offset += count

    def datasync(self, fd: int) -> None:
        """Make the data, and the size needed to read it, durable."""
        self._check(self.io.datasync(self.io.ctx, fd), fd)

    def sync(self, fd: int) -> None:
        """Make the data and all metadata durable, but not the entry in the directory."""
        self._check(self.io.sync(self.io.ctx, fd), fd)

    def allocate(self, fd: int, offset: int, length: int) -> None:
        """Reserve space for the range and extend the size over it; on ENOSPC nothing changed."""
        self._check(self.io.allocate(self.io.ctx, fd, offset, length), fd)

    def truncate(self, fd: int, length: int) -> None:
        """Cut or extend the file to this size; new bytes are zero."""
        self._check(self.io.truncate(self.io.ctx, fd, length), fd)

    def size(self, fd: int) -> int:
        """Return the size in bytes."""
        return self._check(self.io.size(self.io.ctx, fd), fd)

    def rename(self, source: str, target: str) -> None:
        """Rename, replacing the target at once; durable after ``sync_dir`` of both directories."""
        result = self.io.rename(self.io.ctx, os.fsencode(source), os.fsencode(target))
        self._check_path(result, source, target)

    def unlink(self, path: str) -> None:
        """Remove the name of a file or of an empty directory."""
        self._check_path(self.io.unlink(self.io.ctx, os.fsencode(path)), path)

    def mkdir(self, path: str) -> None:
        """Create a directory for its owner only."""
        self._check_path(self.io.mkdir(self.io.ctx, os.fsencode(path)), path)

    def sync_dir(self, path: str) -> None:
        """Make the entries of a directory durable, but not the content of its files."""
        self._check_path(self.io.sync_dir(self.io.ctx, os.fsencode(path)), path)

    def listdir(self, path: str) -> list[str]:
        """Return the names in a directory, sorted by their bytes."""
        encoded = os.fsencode(path)
        capacity = 1 << 12
        while True:
            names = ffi.new("char[]", capacity)
            needed = self._check_path(self.io.list(self.io.ctx, encoded, names, capacity), path)
            if needed <= capacity:
                packed: bytes = ffi.unpack(names, needed)
                return [os.fsdecode(name) for name in packed.split(b"\0")[:-1]]
            # Room for entries that appear between the calls.
            capacity = 2 * needed

    def lock(self, path: str) -> int:
        """Take the exclusive lock, creating the file; ``close`` of the handle releases it.

        Raises ``LockHeld`` at once when another holder has it, in this process or another.
        """
        owner = ffi.new("int64_t *")
        fd = int(self.io.lock(self.io.ctx, os.fsencode(path), owner))
        if fd == -errno.EAGAIN:
            raise LockHeld(errno.EAGAIN, "locked by another holder", path, int(owner[0]))
        self._check_path(fd, path)
        self._paths[fd] = path
        return fd

    def lock_holder(self, path: str) -> int | None:
        """Return the pid of whoever holds the lock, 0 where it cannot be told, None if nobody."""
        owner = ffi.new("int64_t *")
        held = self.io.locked(self.io.ctx, os.fsencode(path), owner)
        return int(owner[0]) if self._check_path(held, path) else None

    def free_bytes(self, path: str) -> int:
        """Return how many bytes the file system of ``path`` can still take."""
        return self._check_path(self.io.free_bytes(self.io.ctx, os.fsencode(path)), path)

    def boot_id(self) -> bytes:
        """Return 16 bytes that change when the machine boots."""
        boot = ffi.new("uint8_t[16]")
        result = self.io.boot_id(self.io.ctx, boot)
        if result < 0:
            raise self._fail(result, None)
        return bytes(boot)

    def wall_ms(self) -> int:
        """Return the milliseconds since 1970, as the wall clock tells them; 0 for no such time."""
        return int(lib.hsl_wall_ms(self.io))

    def mono_ns(self) -> int:
        """Return nanoseconds of a clock that never goes back while the machine is up."""
        return fast.mono_ns(self._address)

    def read_all(self, path: str) -> bytes:
        """Return the whole content of a file."""
        fd = self.open(path, OpenFlag.READ)
        try:
            content = bytearray()
            step = max(1, min(_READ_BYTES, self.size(fd)))
            while piece := self.pread(fd, step, len(content)):
                content += piece
            return bytes(content)
        finally:
            self.close(fd)

    def resolve(self, path: str) -> str:
        """Return the path without links, as far as it exists."""
        return os.path.realpath(path)

    def exists(self, path: str) -> bool:
        """Tell whether the path names something; an error other than absence is raised."""
        try:
            self.free_bytes(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True


def posix_files() -> Files:
    """Give the files of the operating system."""
    return Files(lib.hsl_io_posix())


def real_env() -> Env:
    """Make the environment of production."""
    files = posix_files()
    return system_env(files, files)
