"""One segment file read whole, whatever its state: the Python face of `_native/inspect.c`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import fsencode
from typing import Any, NamedTuple

from hstreamlite._native import fast, ffi, lib
from hstreamlite._native.files import failure
from hstreamlite.env import Env
from hstreamlite.log.journal import SYSTEM, decompress

STEP_BYTES = 32 << 20


class Range(NamedTuple):
    """Bytes [start, end) of the file that are not what they should be."""

    start: int
    end: int
    fault: int


class Run(NamedTuple):
    """Records [first, end) of a log that verify, in bytes [start, stop) of the file."""

    shard: int
    first: int
    end: int
    blocks: int
    start: int
    stop: int
    max_order: int
    last_time: int


class Block(NamedTuple):
    """A block that verifies."""

    shard: int
    seq: int
    order: int
    time_ms: int
    off: int
    length: int
    records: int
    codec: int


class Missing(NamedTuple):
    """Records [first, end) that were in bytes [start, stop): sure, or as a damaged header says."""

    shard: int
    first: int
    end: int
    start: int
    stop: int
    sure: bool


def _believed(told: Iterable[Missing]) -> tuple[Missing, ...]:
    """Leave out what a damaged header says of bytes of which the footer tells."""
    told = tuple(told)
    sure = {missing.start for missing in told if missing.sure}
    return tuple(missing for missing in told if missing.sure or missing.start not in sure)


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a segment says; `valid` false: nothing, it does not verify."""

    valid: bool
    version: int
    required: int
    number: int
    uuid: bytes
    uid: int
    epoch: int
    pred_uid: int
    pred_end: int
    pred_crc: int
    covers_first: int
    covers_last: int
    covers_uid: int
    covers_end: int
    covers_crc: int
    capacity: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Want:
    """What is known of a segment from elsewhere; 0 = nothing."""

    uid: int = 0
    end: int = 0
    crc: int = 0
    claim: int = 0
    tail: bool = False
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What a segment holds."""

    path: str
    header: Header
    sealed: bool
    end: int
    last_crc: int
    blocks: int
    records: int
    ranges: tuple[Range, ...]
    runs: tuple[Run, ...]
    missing: tuple[Missing, ...]
    system: tuple[Block, ...]
    bodies: dict[int, bytes]
    """Bodies of the system logs' blocks, decompressed, by offset."""


class Inspection:
    """An open segment file. Made by `inspecting`."""

    def __init__(self, env: Env, path: str, handle: Any) -> None:
        self.path = path
        self.native = handle
        self._env = env
        self.header = self._header()

    def _report(self) -> Any:
        report = ffi.new("struct hsl_inspect_report *")
        lib.hsl_inspect_report(self.native, report)
        return report

    def _header(self) -> Header:
        report = self._report()
        return Header(
            valid=bool(report.header),
            version=int(report.version),
            required=int(report.required),
            number=int(report.number),
            uuid=bytes(report.uuid),
            uid=int(report.uid),
            epoch=int(report.epoch),
            pred_uid=int(report.pred_uid),
            pred_end=int(report.pred_end),
            pred_crc=int(report.pred_crc),
            covers_first=int(report.covers_first),
            covers_last=int(report.covers_last),
            covers_uid=int(report.covers_uid),
            covers_end=int(report.covers_end),
            covers_crc=int(report.covers_crc),
            capacity=int(report.capacity),
            file_bytes=int(report.file_bytes),
        )

    def read(self, want: Want, progress: Callable[[int], None]) -> Found:
        """Read the file to its end; `progress` is told how many bytes were read so far."""
        native = ffi.new("struct hsl_inspect_want *")
        native.uid, native.end, native.crc = want.uid, want.end, want.crc
        native.claim, native.tail, native.closed = want.claim, want.tail, want.closed
        lib.hsl_inspect_expect(self.native, native)
        error = ffi.new("int32_t *")
        while (status := lib.hsl_inspect_step(self.native, STEP_BYTES, error)) == lib.HSL_AGAIN:
            progress(int(self._report().read_bytes))
        self._check(status, error[0])
        for block in self._blocks(0, compressed=True):
            if not self._unpacks(block):
                lib.hsl_inspect_reject(self.native, block.off)
        self._check(lib.hsl_inspect_finish(self.native), 0)
        system = tuple(self._blocks(SYSTEM, compressed=False))
        report = self._report()
        return Found(
            path=self.path,
            header=self.header,
            sealed=bool(report.sealed),
            end=int(report.end),
            last_crc=int(report.last_crc),
            blocks=int(report.blocks),
            records=int(report.records),
            ranges=tuple(
                Range(int(r.start), int(r.stop), int(r.fault))
                for r in self._items(lib.hsl_inspect_ranges, "struct hsl_inspect_range[]")
            ),
            runs=tuple(
                Run(*(int(getattr(r, name)) for name in _RUN_FIELDS))
                for r in self._items(lib.hsl_inspect_runs, "struct hsl_inspect_run[]")
            ),
            missing=_believed(
                Missing(
                    int(r.shard), int(r.first), int(r.end), int(r.start), int(r.stop), bool(r.sure)
                )
                for r in self._items(lib.hsl_inspect_lost, "struct hsl_inspect_lost[]")
            ),
            system=system,
            bodies={block.off: self.body(block) for block in system},
        )

    def _items(self, function: Any, kind: str) -> Iterator[Any]:
        count = function(self.native, ffi.NULL, 0)
        items = ffi.new(kind, count)
        function(self.native, items, count)
        yield from items

    def _blocks(self, shard: int, *, compressed: bool) -> Iterator[Block]:
        def function(native: Any, out: Any, cap: int) -> int:
            return int(lib.hsl_inspect_blocks(native, shard, compressed, out, cap))

        for b in self._items(function, "struct hsl_inspect_block[]"):
            yield Block(*(int(getattr(b, name)) for name in _BLOCK_FIELDS))

    def body(self, block: Block) -> bytes:
        """Return the body of a block, decompressed. ValueError where it does not decompress."""
        body, decoded_len = self._stored(block)
        return decompress(block.codec, body, decoded_len) if block.codec else body

    def _stored(self, block: Block) -> tuple[bytes, int]:
        """Return the payload of a block, and its length decompressed; 0 if nobody knows that."""
        data = bytearray(block.length)
        status = lib.hsl_inspect_read(self.native, block.off, block.length, ffi.from_buffer(data))
        if status < 0:
            raise failure(status, self.path)
        decoded_len = int.from_bytes(data[36:40], "little")
        extension = int.from_bytes(data[46:48], "little")
        return bytes(data[_BLOCK_HEADER + extension :]), decoded_len

    def _unpacks(self, block: Block) -> bool:
        """Tell whether a block holds the records it names; what a client sent may be anything."""
        try:
            body, decoded_len = self._stored(block)
            if decoded_len == 0:
                return True
            return fast.count_batch(decompress(block.codec, body, decoded_len)) == block.records
        except ValueError:
            return False

    def _check(self, status: int, error: int) -> None:
        if status == lib.HSL_NO_MEMORY:
            raise MemoryError
        if status != lib.HSL_OK:
            raise failure(-error, self.path)


_BLOCK_HEADER = 56
_BLOCK_FIELDS = ("shard", "seq", "order", "time_ms", "off", "len", "count", "codec")
_RUN_FIELDS = ("shard", "first", "end", "blocks", "start", "stop", "max_order", "last_time")


@contextmanager
def inspecting(env: Env, path: str) -> Iterator[Inspection]:
    """Open a segment file, read its header, and close it in the end. OSError if that fails."""
    error = ffi.new("int32_t *")
    handle = lib.hsl_inspect_open(env.files.io, fsencode(path), True, error)
    if handle == ffi.NULL:
        raise failure(-error[0], path)
    try:
        yield Inspection(env, path, handle)
    finally:
        lib.hsl_inspect_free(handle)
