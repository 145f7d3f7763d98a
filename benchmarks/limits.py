"""What bounds every contender on this machine: the disk, the interpreter, the event loop.

Each factory returns a `Limit` whose rate is in the unit of the line it stands beside, mostly
records. The disk is driven past the page cache (`O_DIRECT`); where the file system refuses that,
through it. Loops are in Python, which costs a microsecond beside a sync of tens.
"""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import Sequence
from operator import is_
from pathlib import Path
from struct import Struct
from threading import Thread
from time import perf_counter

from benchmarks.cases import Limit
from benchmarks.samples import Sample, timed_calls, timed_loop

_PAGE = 4096
_MIB = 1 << 20
_PREWRITTEN_BYTES_MAX = 64 * _MIB


def _open_direct(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT
    try:
        return os.open(path, flags | os.O_DIRECT)
    except OSError:
        return os.open(path, flags)


def _aligned(size: int) -> mmap.mmap:
    buffer = mmap.mmap(-1, size)
    buffer.write(os.urandom(size))
    return buffer


def direct_write(size: int, depth: int, record_bytes: int) -> Limit:
    """Sequential 1 MiB writes into a reserved file, so many in flight, and one sync at the end."""
    blocks = max(depth, size // _MIB)

    def measure(path: Path) -> Sample:
        fd = _open_direct(path / "file")
        os.posix_fallocate(fd, 0, blocks * _MIB)
        buffer = _aligned(_MIB)

        def write(first: int) -> None:
            for block in range(first, blocks, depth):
                os.pwrite(fd, buffer, block * _MIB)

        threads = [Thread(target=write, args=(first,)) for first in range(depth)]
        begin = perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os.fdatasync(fd)
        seconds = perf_counter() - begin
        os.close(fd)
        return Sample(blocks * _MIB / record_bytes, seconds)

    return Limit(f"direct write, depth {depth}", measure)


def direct_sync(syncs: int, size: int, records: int) -> Limit:
    """Write whole pages into a pre-written file and sync, over and over; records share each sync.

    The rate is that of records: what a group commit reaches that never waits for a caller.
    """
    pages = -(-size // _PAGE) * _PAGE
    prewritten = -(-min(syncs * pages, _PREWRITTEN_BYTES_MAX) // _MIB) * _MIB

    def measure(path: Path) -> Sample:
        fd = _open_direct(path / "file")
        filling = _aligned(_MIB)
        for offset in range(0, prewritten, _MIB):
            os.pwrite(fd, filling, offset)
        os.fsync(fd)
        buffer = _aligned(pages)
        room = prewritten // pages

        def write(number: int) -> None:
            os.pwrite(fd, buffer, number % room * pages)
            os.fdatasync(fd)

        times = timed_calls(write, range(syncs))
        os.close(fd)
        return Sample(len(times) * records, sum(times) / 1e9, times)

    sharing = f" of {records:,}" if records > 1 else ""
    return Limit(f"direct sync{sharing}", measure)


def direct_read(size: int, record_bytes: int) -> Limit:
    """Sequential 1 MiB reads of a file that is not in the page cache."""
    blocks = max(1, size // _MIB)

    def measure(path: Path) -> Sample:
        fd = _open_direct(path / "file")
        buffer = _aligned(_MIB)
        for block in range(blocks):
            os.pwrite(fd, buffer, block * _MIB)
        os.fsync(fd)
        begin = perf_counter()
        for block in range(blocks):
            os.preadv(fd, [buffer], block * _MIB)
        seconds = perf_counter() - begin
        os.close(fd)
        return Sample(blocks * _MIB / record_bytes, seconds)

    return Limit("direct read", measure)


def first_page(repeats: int) -> Limit:
    """Open a file, read one page of it from the disk, close it: the least that opening can be."""

    def measure(path: Path) -> Sample:
        fd = _open_direct(path / "file")
        buffer = _aligned(_PAGE)
        os.pwrite(fd, buffer, 0)
        os.fsync(fd)
        os.close(fd)

        def read(_: int) -> None:
            fd = _open_direct(path / "file")
            os.preadv(fd, [buffer], 0)
            os.close(fd)

        times = timed_calls(read, range(repeats))
        return Sample(len(times), sum(times) / 1e9)

    return Limit("open, one direct page", measure)


def empty_call(payloads: Sequence[bytes]) -> Limit:
    """A loop that calls a C function of two arguments which does nothing (`operator.is_`)."""

    def measure(_path: Path) -> Sample:
        begin = perf_counter()
        for payload in payloads:
            is_(payload, None)
        return Sample(len(payloads), perf_counter() - begin)

    return Limit("empty C call", measure)


def bytes_objects(size: int, records: int) -> Limit:
    """Bytes objects made in C out of one buffer, a thousand by each call of `struct.unpack`."""
    unpack = Struct(f"{size}s" * 1000).unpack
    buffers = max(1, records // 1000)

    def measure(_path: Path) -> Sample:
        buffer = os.urandom(size * 1000)
        seconds = timed_loop(unpack, [buffer] * buffers)
        return Sample(buffers * 1000, seconds)

    return Limit("bytes objects in C", measure)


def id_tuples(size: int, records: int, together: int) -> Limit:
    """(number, bytes) pairs made in C, in lists of so many, with no store behind them."""
    unpack = Struct(f"{size}s" * together).unpack
    calls = max(1, records // together)

    def measure(_path: Path) -> Sample:
        buffer = os.urandom(size * together)
        begin = perf_counter()
        for first in range(0, calls * together, together):
            list(enumerate(unpack(buffer), first))
        return Sample(calls * together, perf_counter() - begin)

    return Limit(f"(id, bytes) in lists of {together}", measure)


def futures(callers: int, calls: int) -> Limit:
    """So many coroutines, each awaiting future upon future that the loop resolves at its next turn.

    No work, no thread, no I/O: what asyncio itself leaves of the time.
    """

    async def resolve_all() -> float:
        loop = asyncio.get_running_loop()
        waiting: list[asyncio.Future[None]] = []

        def resolve() -> None:
            taken = waiting.copy()
            waiting.clear()
            for future in taken:
                future.set_result(None)

        async def caller() -> None:
            for _ in range(calls):
                future = loop.create_future()
                if not waiting:
                    loop.call_soon(resolve)
                waiting.append(future)
                await future

        begin = perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        return perf_counter() - begin

    def measure(_path: Path) -> Sample:
        return Sample(callers * calls, asyncio.run(resolve_all()))

    return Limit("asyncio futures", measure)
