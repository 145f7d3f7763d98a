"""The shared log of a store: the Python face of the native log.

All shards of all streams, and the store's own system logs, are blocks in one sequence of segment
files with one group commit. This module names files and errors; what happens to bytes is in C.

A ticket is a number that grows with every group: when the durable ticket has reached it, what was
staged under it is on disk. Nothing is readable before that.
"""

from __future__ import annotations

import errno
import gzip
import sys
import weakref
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from os import fsencode, strerror
from typing import Any, NamedTuple, cast

from hstreamlite._native import fast, ffi, lib
from hstreamlite.config import LEVELS, StoreConfig
from hstreamlite.env import Env
from hstreamlite.errors import (
    CorruptionError,
    Forked,
    LostRecords,
    MalformedBatch,
    ReadOnly,
    RecordTooLarge,
    RecordTrimmed,
    StorageFull,
    StorageUnavailable,
    StoreClosed,
    StoreFailed,
    StoreReplaced,
    StreamNotFound,
    TransactionTooLarge,
)

if sys.version_info >= (3, 14):  # not reached: the older Python is tested
    from compression import zstd
else:
    from backports import zstd

SYSTEM = 1 << 63
"""First shard id of the store's own logs."""
CATALOG, PROGRESS, PRODUCERS = SYSTEM, SYSTEM + 1, SYSTEM + 2
SYSTEM_LOGS = (CATALOG, PROGRESS, PRODUCERS)
END = (1 << 64) - 1
"""An LSN behind every record."""

Op = (
    tuple[int, list[Any], str | None]
    | tuple[int, int, bytes, int, int]
    | tuple[int, int, bytes, int, int, int]
)
"""One shard's part of a staged call: (shard, items, default key), or a ready body as
(shard, codec, body, count, decoded length). With a sixth field n, the last 8 n bytes of the body
are filled with the first LSNs of the first n ops of the call."""


FILE_KINDS = {
    errno.EISDIR: "a directory",
    errno.ELOOP: "a link",
    errno.ENXIO: "a pipe or a device",
}
"""What stands in the place of a regular file, by the error of opening it."""


class Run(NamedTuple):
    """Records [first, first + records) of a shard, in one block."""

    shard: int
    first: int
    records: int


class ShardInfo(NamedTuple):
    """Where a shard stands; LSNs, times in ms, sizes in bytes."""

    first: int
    durable_next: int
    next: int
    last_time: int
    last_ticket: int
    bytes: int
    gap_end: int


class BlockPlace(NamedTuple):
    """First LSN, order number and append time in ms of a block."""

    first: int
    order: int
    time_ms: int


class RawBatch(NamedTuple):
    """One block as stored."""

    shard: int
    batch_id: int
    first: int
    end: int
    records: int
    time_ms: int
    order: int
    codec: int
    decoded_len: int
    body: bytes


Then = Callable[[int, list[Run]], object]
"""What has to follow once something is staged: told the ticket, and where the records are."""


class Journal:
    """One open log. Made by `hstreamlite.log.recovery.open_journal`."""

    def __init__(
        self,
        env: Env,
        path: str,
        config: StoreConfig,
        notify_fd: int = -1,
        *,
        follower: bool = False,
    ) -> None:
        self.env = env
        self.pid = env.pid()
        self.path = path
        self.config = config
        self.use_cache = False
        """Whether consumers `Cursor.use_cache`: where they wait for somebody between two reads."""
        native = ffi.new("struct hsl_log_config *")
        native.segment_bytes_min = config.segment_bytes_min
        native.segment_bytes_max = config.segment_bytes_max
        native.stage_bytes = config.stage_bytes
        native.chunk_bytes = config.chunk_bytes
        native.frame_bytes = config.frame_bytes
        native.eager_bytes = config.eager_bytes
        native.linger_ns = int(config.linger * 1e9)
        native.idle_mark_ns = int(config.idle_mark * 1e9)
        native.prewrite_bytes = config.prewrite_bytes
        native.checkpoint_bytes = config.checkpoint_bytes
        native.os_stage_bytes = config.os_stage_bytes
        native.tail_bytes = config.tail_bytes
        native.index_cache_bytes = config.index_cache_bytes
        native.block_bytes = config.batch_bytes_max
        native.transaction_bytes = config.transaction_bytes_max
        native.salt = env.rng.u64()
        ffi.memmove(native.uuid, env.rng.bytes(16), 16)
        native.threaded = env.threaded
        native.direct = config.direct_io
        native.follower = follower
        native.notify_fd = notify_fd
        self.uuid = bytes(native.uuid)
        log = lib.hsl_log_new(env.files.io, native, fsencode(path))
        if log == ffi.NULL:
            raise MemoryError
        self.log = ffi.gc(log, lib.hsl_log_free)
        self.handle = int(ffi.cast("uintptr_t", log))
        _journals[self.handle] = self

    # Staging and waiting.

    def stage(self, ops: list[Op], level: int, *, system: bool = False) -> tuple[int, list[Run]]:
        """Stage all ops in one atomic frame; return the ticket to wait for (0 = level reached).

        Nothing is staged when this raises. System calls may use the emergency segment.
        """
        return _located(fast.stage(self.handle, ops, level, system, False))

    def try_stage(
        self, ops: list[Op], level: int, *, system: bool = False
    ) -> tuple[int, list[Run]] | None:
        """Stage as `stage` does, or return None where that would have to wait for room."""
        staged = fast.stage(self.handle, ops, level, system, None)
        return None if staged is None else _located(staged)

    def stage_then(
        self, ops: list[Op], level: int, then: Then, *, system: bool = False
    ) -> tuple[int, list[Run]]:
        """Stage as `stage` does, and call `then` with what that returns.

        A signal's handler that raises does not come between the two. One that raises in `then` has
        it called again, from its beginning, which it must bear; what was raised follows.
        """
        staging = partial(fast.stage, self.handle, ops, level, system, False)
        return _located(fast.followed(staging, lambda staged: then(*_located(staged))))

    def try_stage_then(self, ops: list[Op], level: int, then: Then) -> tuple[int, list[Run]] | None:
        """Stage as `stage_then` does, or return None where that would have to wait for room."""
        staging = partial(fast.stage, self.handle, ops, level, False, None)
        staged = fast.followed(staging, lambda staged: then(*_located(staged)))
        return None if staged is None else _located(staged)

    def make_room(self, size: int, level: int = LEVELS["memory"]) -> None:
        """Wait until `try_stage` of so many bytes for the system logs will find room."""
        self.check(lib.hsl_log_make_room(self.log, size, level == LEVELS["os"]), size)

    def wait(self, ticket: int) -> None:
        """Return when the ticket is durable. 0 returns at once."""
        if ticket:
            fast.wait(self.handle, ticket)

    def check(self, status: int, detail: int = 0) -> None:
        """Raise what a status of the native log means."""
        if status != lib.HSL_OK:
            raise _error(self, status, detail, 0)

    def durable(self) -> int:
        """Return the durable ticket."""
        return int(lib.hsl_log_durable(self.log))

    def staged(self) -> int:
        """Return the ticket of everything staged so far."""
        return int(lib.hsl_log_staged(self.log))

    def kick(self, ticket: int) -> None:
        """Ask for the ticket to become durable without waiting for it."""
        self.check(lib.hsl_log_kick(self.log, ticket))

    def pokes(self) -> int:
        return int(lib.hsl_log_pokes(self.log))

    def poke(self) -> None:
        """Wake everybody in `wait_change`."""
        lib.hsl_log_poke(self.log)

    def wait_change(self, durable: int, pokes: int, timeout_ns: int) -> bool:
        """Wait until more than `durable` is durable, a poke, or the time-out (False)."""
        status = lib.hsl_log_wait_change(self.log, durable, pokes, timeout_ns)
        if status == lib.HSL_TIMEOUT:
            return False
        self.check(status)
        return True

    def step(self) -> None:
        """Do what the writer thread would do now. For environments without threads."""
        self.check(lib.hsl_log_step(self.log))

    # Shards.

    def add_shard(self, shard: int, next_lsn: int = 1, last_time: int = 0, first: int = 1) -> None:
        """Make a shard known, or raise what is known of it."""
        self.check(lib.hsl_log_shard_restore(self.log, shard, next_lsn, last_time, first))

    def close_shard(self, shard: int) -> None:
        """Refuse later appends to the shard."""
        self.check(lib.hsl_log_shard_close(self.log, shard))

    def info(self, shard: int) -> ShardInfo:
        out = ffi.new("struct hsl_shard_info *")
        self.check(lib.hsl_log_shard_info(self.log, shard, out), shard)
        return ShardInfo(
            out.first,
            out.durable_next,
            out.next,
            out.last_time,
            out.last_ticket,
            out.bytes,
            out.gap_end,
        )

    def bounds(self, shard: int) -> tuple[int, int, int]:
        """Return the first LSN kept, the one behind what is durable, the next to be given."""
        bounds = fast.bounds(self.handle, shard)
        if bounds is None:
            raise StreamNotFound(f"shard {shard}")
        return bounds

    def shards(self) -> list[int]:
        count = lib.hsl_log_shards(self.log, ffi.NULL, 0)
        ids = ffi.new("uint64_t[]", count + 1)
        lib.hsl_log_shards(self.log, ids, count)
        return sorted(ids[0:count])

    def holes(self, shard: int) -> list[tuple[int, int]]:
        """Return the ranges of LSNs from the first kept on that no segment holds."""
        count = lib.hsl_log_holes(self.log, shard, ffi.NULL, 0)
        out = ffi.new("struct hsl_range[]", count + 1)
        lib.hsl_log_holes(self.log, shard, out, count)
        return [(int(hole.first), int(hole.end)) for hole in out[0:count]]

    def segment_of(self, shard: int, lsn: int) -> int:
        """Return the number of the sealed segment that holds a record; 0 if none does."""
        return int(lib.hsl_log_segment_of(self.log, shard, lsn))

    def trim(self, shard: int, first: int) -> None:
        """Forget the records below `first`. Whoever calls this has recorded it durably."""
        self.check(lib.hsl_log_trim(self.log, shard, first), shard)

    def seek_time(self, shard: int, time_ms: int) -> int:
        """Return the LSN of the first record appended at or after the time."""
        out = ffi.new("uint64_t *")
        self.check(lib.hsl_log_seek_time(self.log, shard, max(0, time_ms), out), shard)
        return int(out[0])

    def seek_order(self, shard: int, order: int) -> int:
        """Return the LSN of the first record whose block has at least this order number."""
        out = ffi.new("uint64_t *")
        self.check(lib.hsl_log_seek_order(self.log, shard, order, out), shard)
        return int(out[0])

    def order(self) -> int:
        """Return an order number up to which every block is readable."""
        return int(lib.hsl_log_order(self.log))

    def seek_bytes(self, shard: int, max_bytes: int) -> int:
        """Return the first LSN such that what is kept from it on has at most max_bytes."""
        out = ffi.new("uint64_t *")
        self.check(lib.hsl_log_seek_bytes(self.log, shard, max_bytes, out), shard)
        return int(out[0])

    def bytes_from(self, shard: int, lsn: int) -> int:
        """Return how many bytes are stored from a record on, about: within one segment all its
        records count alike."""
        out = ffi.new("uint64_t *")
        self.check(lib.hsl_log_bytes_from(self.log, shard, lsn, out), shard)
        return int(out[0])

    def block_of(self, shard: int, lsn: int) -> BlockPlace | None:
        """Return where the kept block begins that holds the record."""
        out = ffi.new("struct hsl_block_place *")
        status = lib.hsl_log_block_of(self.log, shard, lsn, out)
        if status == lib.HSL_NOT_FOUND:
            return None
        self.check(status, shard)
        return BlockPlace(out.first, out.order, out.time_ms)

    def cursor(self, shard: int, lsn: int) -> Cursor:
        return Cursor(self, shard, lsn)

    # Segments.

    def dead_segments(self, *, system: bool = False) -> list[int]:
        """Return sealed segments without a live block; with `system` also those in which only
        records of the system logs live."""
        count = lib.hsl_log_dead_segments(self.log, system, ffi.NULL, 0)
        out = ffi.new("uint64_t[]", count + 1)
        count = min(count, lib.hsl_log_dead_segments(self.log, system, out, count))
        return list(out[0:count])

    def drop_segments(self, numbers: Sequence[int]) -> None:
        """Unlink segments. That they go is durable in the catalog before."""
        self.check(lib.hsl_log_drop_segments(self.log, list(numbers), len(numbers)))

    def forget_segments(self, numbers: Sequence[int]) -> None:
        """Forget segments that the writer of a followed log has dropped."""
        self.check(lib.hsl_log_forget_segments(self.log, list(numbers), len(numbers)))

    def store_super(self, snapshot: Sequence[int], *, uuid: bytes | None = None) -> None:
        """Point the superblock to the newest snapshot of each system log."""
        out = ffi.new("struct hsl_super *")
        ffi.memmove(out.uuid, uuid or self.uuid, 16)
        out.snapshot[0:3] = list(snapshot)
        out.first_segment = lib.hsl_log_first_segment(self.log)
        self.check(lib.hsl_log_super_store(self.log, out))

    def stats(self) -> dict[str, int]:
        out = ffi.new("struct hsl_log_stats *")
        lib.hsl_log_stats(self.log, out)
        return {
            name: int(getattr(out, name)) for name, _ in ffi.typeof("struct hsl_log_stats").fields
        }

    def refused_for_room(self) -> int:
        """Return how many appends found the disk full since this was opened."""
        out = ffi.new("struct hsl_log_stats *")
        lib.hsl_log_stats(self.log, out)
        return int(out.full)

    def check_invariants(self) -> None:
        """Verify the index against itself; costs O(blocks)."""
        line = lib.hsl_log_check(self.log)
        if line:
            raise AssertionError(f"index.c:{line}")  # not reached: the index is right

    def interrupt(self) -> None:
        """Make every blocked wait_change return."""
        lib.hsl_log_interrupt(self.log)

    def close(self, *, clean: bool = True) -> None:
        """Write what is staged, seal, and release the files. A second call does nothing."""
        status = lib.hsl_log_close(self.log, clean)
        if status not in (lib.HSL_OK, lib.HSL_FORKED):
            raise _error(self, status, 0, 0)


class NotReady(Exception):
    """A file has to be read, and the caller asked not to wait for that."""


class Cursor:
    """Reads one shard forward. One thread at a time."""

    __slots__ = ("_cursor", "journal", "shard", "stream")

    def __init__(self, journal: Journal, shard: int, lsn: int) -> None:
        self.journal = journal
        self.shard = shard
        self.stream = ""  # its name, for errors, where somebody gave it
        self._cursor = fast.cursor(journal.handle, shard, lsn)

    @property
    def _native(self) -> Any:
        return ffi.cast("struct hsl_cursor *", fast.cursor_address(self._cursor))

    @property
    def lsn(self) -> int:
        """LSN of the next record."""
        return fast.cursor_lsn(self._cursor)

    def seek(self, lsn: int) -> None:
        fast.cursor_seek(self._cursor, lsn)

    def use_cache(self) -> None:
        """Count as memory what the system has of files: for who reads on a loop, and lets that turn
        now and then."""
        lib.hsl_cursor_use_cache(self._native)

    def told(self) -> tuple[int, int]:
        """Return the bytes and records read since the last call."""
        return fast.cursor_told(self._cursor)

    def gap(self) -> tuple[int, int]:
        """Return the range that the last RecordTrimmed skipped."""
        out = ffi.new("uint64_t[2]")
        lib.hsl_cursor_gap(self._native, out, out + 1)
        return int(out[0]), int(out[1])

    def peek(self, *, may_block: bool = True) -> tuple[int, int, int] | None:
        """Return (order number, append time in ms, end LSN) of the next block; None at the tail.

        NotReady where a file has to be read and may_block is False.
        """
        out = ffi.new("uint64_t[3]")
        status = lib.hsl_cursor_peek(self._native, may_block, out, out + 1, out + 2)
        if status == lib.HSL_NOT_FOUND:
            return None
        if status == lib.HSL_AGAIN:
            raise NotReady
        if status != lib.HSL_OK:
            raise _error(self, status, 0, 0)
        return int(out[0]), int(out[1]), int(out[2])

    def read(
        self,
        max_records: int,
        *,
        end: int = END,
        max_bytes: int = 1 << 62,
        may_block: bool = True,
        last: bool = False,
    ) -> list[Any] | None:
        """Return the next records; empty at the tail, None where that would block.

        last: none behind these will be asked for, so nothing is read ahead.
        The one that reaches `max_bytes` is the last, going by the average of its block.
        RecordTrimmed, once, when records at the position are gone: the cursor then stands at the
        first kept one. MalformedBatch likewise: it then stands behind that batch.
        """
        records = fast.read(
            self._cursor, self, max_records, max_bytes, end, None, 0, may_block, last
        )
        return cast("list[Any] | None", records)

    def excerpt(
        self,
        max_records: int,
        *,
        end: int = END,
        max_bytes: int = 1 << 62,
        into: fast.Excerpt | None = None,
        attempt: int = 1,
        may_block: bool = True,
    ) -> fast.Excerpt | None:
        """Return the next records undecoded, to be delivered, under the same rules as `read`.

        They come behind what is in `into`, which nobody else may use yet.
        """
        excerpt = fast.Excerpt() if into is None else into
        found = fast.read(
            self._cursor, self, max_records, max_bytes, end, excerpt, attempt, may_block, False
        )
        return cast("fast.Excerpt | None", found)

    def excerpt_runs(self, runs: bytes, *, max_bytes: int, may_block: bool) -> fast.Excerpt | None:
        """Return the records of runs of a key table, as `excerpt` does; or the first of them."""
        return fast.read_runs(self._cursor, self, runs, max_bytes, may_block)

    def key_hashes(self, max_records: int, *, end: int, seed: int, may_block: bool) -> bytes | None:
        """Return hashes of the next records' keys, 8 bytes each, under the same rules as `read`."""
        hashes: bytes | None = fast.key_hashes(
            self._cursor, self, max_records, end, may_block, seed
        )
        return hashes

    def read_batches(
        self,
        max_batches: int,
        *,
        end: int = END,
        max_bytes: int = 1 << 62,
        may_block: bool = True,
    ) -> list[RawBatch] | None:
        """Return the next blocks undecoded, under the same rules as `read`."""
        batches = fast.read_batches(self._cursor, self, max_batches, max_bytes, end, may_block)
        return None if batches is None else [RawBatch._make(batch) for batch in batches]

    def damaged_end(self) -> int:
        """Return the LSN behind the block that last proved to be damaged."""
        at = ffi.new("struct hsl_cursor_damage *")
        lib.hsl_cursor_damage(self._native, at)
        return int(at.end)

    def damage(self) -> CorruptionError:
        at = ffi.new("struct hsl_cursor_damage *")
        lib.hsl_cursor_damage(self._native, at)
        lost = (LostRecords(self.shard, at.first, at.end - 1, self.stream),)
        path = segment_path(self.journal.path, at.segment)
        if at.in_footer:
            expected = f"{at.length} bytes of footer and frames that match their CRCs"
            return CorruptionError(path, at.offset, at.length, expected, "other bytes", lost)
        expected = f"CRC {at.expected:08x} of block {self.shard}-{at.first}"
        return CorruptionError(path, at.offset, at.length, expected, f"{at.found:08x}", lost)


def _located(staged: tuple[int, list[Any]]) -> tuple[int, list[Run]]:
    ticket, runs = staged
    return ticket, [Run._make(run) for run in runs]


_journals: weakref.WeakValueDictionary[int, Journal] = weakref.WeakValueDictionary()


def segment_path(path: str, number: int) -> str:
    return f"{path}/segments/{number:016x}.seg"


def _error(owner: Journal | Cursor | int, status: int, a: int, b: int) -> BaseException:
    """Build the exception of a status; an int is the handle of a Journal."""
    if isinstance(owner, int):
        owner = _journals[owner]
    journal = owner.journal if isinstance(owner, Cursor) else owner
    if isinstance(owner, Cursor):
        if status == lib.HSL_TRIMMED:
            requested, first = owner.gap()
            ids = f"{owner.shard}-{requested}-0", f"{owner.shard}-{first}-0"
            return RecordTrimmed(*ids, owner.stream)
        if status == lib.HSL_DAMAGED:
            return owner.damage()
        if status == lib.HSL_UNREADABLE:
            return MalformedBatch(owner.shard, a, b - a)
        if status == lib.HSL_MALFORMED:
            return CorruptionError(
                journal.path,
                0,
                0,
                f"a record batch in block {owner.shard}-{a}",
                "bytes of another shape under a valid checksum",
                (LostRecords(owner.shard, a, b - 1, owner.stream),),
            )
    return _status_error(journal, status, a, b)


def _failure(code: int, text: str) -> OSError:
    """Return what stopped the log, from what it says of that: an errno, and what that was for."""
    number, _, what = text.partition(" ")
    if not number.isdecimal():
        return OSError(code, "no memory for the write")
    return OSError(int(number), f"{what}: {strerror(int(number))}")


def _status_error(journal: Journal, status: int, a: int, b: int) -> BaseException:
    text = ffi.new("char[]", 512)
    code = lib.hsl_log_error(journal.log, text, 512)
    what = ffi.string(text).decode(errors="replace")
    if status == lib.HSL_FULL:
        return StorageFull(journal.path, a)
    if status == lib.HSL_FAILED:
        return StoreFailed(journal.path, _failure(code, what))
    if status == lib.HSL_CLOSED:
        return StoreClosed(journal.path)
    if status == lib.HSL_READ_ONLY:
        return ReadOnly(journal.path)
    if status == lib.HSL_REPLACED:
        return StoreReplaced(journal.path)
    if status == lib.HSL_FORKED:  # not reached: in a forked child, which counts nothing: test_fork
        return Forked(journal.path, journal.pid)
    if status == lib.HSL_TOO_LARGE:
        if b == journal.config.transaction_bytes_max:
            return TransactionTooLarge(a, b)
        return RecordTooLarge(a, b)
    if status == lib.HSL_NOT_FOUND:
        return StreamNotFound(f"shard {a}")
    if status == lib.HSL_DAMAGED:
        expected = "the index of a segment, or frames to take it from"
        return CorruptionError(
            f"{journal.path}/segments", 0, 0, expected, "other bytes", (LostRecords(a, 0, None),)
        )
    if status == lib.HSL_NO_MEMORY:
        return MemoryError()
    if status == lib.HSL_IO:
        number, _, rest = what.partition(" ")
        failed = int(number or errno.EIO)
        kind = FILE_KINDS.get(failed)
        if kind is not None and journal.path in rest:
            file = rest[rest.index(journal.path) :]
            return CorruptionError(file, 0, 0, "a regular file", kind)
        return StorageUnavailable(journal.path, OSError(failed, f"{rest}: {strerror(failed)}"))
    raise AssertionError(f"status {status} {what}")  # not reached: these are all there are


class _Frames:
    """Reads what a client compressed: one frame behind another, the last perhaps never finished."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __call__(self, body: bytes, limit: int) -> bytes:
        """Return the plain bytes, or the first `limit` + 1 of them."""
        frame = self._make()
        data: bytes = frame.decompress(body, limit + 1)
        while frame.eof and frame.unused_data and len(data) <= limit:
            rest = frame.unused_data
            frame = self._make()
            data += frame.decompress(rest, limit + 1 - len(data))
        return data


def _gunzip() -> Any:
    return zlib.decompressobj(wbits=31)


def _unzstd() -> Any:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})


DECODED_MAX = 64 << 20
"""Largest decoded batch: a bound on what a compressed one may grow to."""
_WINDOW_LOG = 26
"""The same for the memory that a zstd frame may ask for before it says anything."""
_FRAMES = {1: _Frames(_gunzip), 2: _Frames(_unzstd)}


def compress(codec: int, body: bytes) -> bytes:
    """Return the body under HStreamDB's compression type."""
    if codec == 1:
        return gzip.compress(body, compresslevel=6, mtime=0)
    return zstd.compress(body, level=1)


def decompress(codec: int, body: bytes, decoded_len: int) -> bytes:
    """Return the plain body; ValueError where it is no such stream or grows beyond the bound."""
    limit = decoded_len or DECODED_MAX
    try:
        data = _FRAMES[codec](body, limit)
    except KeyError:
        raise ValueError(f"unknown compression type {codec}") from None
    except (zlib.error, zstd.ZstdError, EOFError) as error:
        raise ValueError(f"batch does not decompress: {error}") from error
    if len(data) > limit:
        raise ValueError(f"batch grows beyond {limit} bytes when decompressed")
    return data


fast.set_hooks(_error, decompress)
