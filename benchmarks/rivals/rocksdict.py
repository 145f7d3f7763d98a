"""RocksDB through rocksdict: raw keys, write batches, the WAL as the log."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, islice, repeat
from struct import Struct

from rocksdict import DBCompressionType, Options, Rdict, WriteBatch, WriteOptions

from benchmarks.rivals import PENDING_BYTES_MAX, Level, Opener
from benchmarks.rivals.leases import LeaseGroup

_KEY = Struct(">Q")
_STREAM_KEY = Struct(">IQ")
_MEMTABLE_BYTES = 128 << 20


def options() -> Options:
    options = Options(raw_mode=True)
    options.set_write_buffer_size(_MEMTABLE_BYTES)
    options.set_compression_type(DBCompressionType.none())
    return options


class RocksLog:
    """One key space; with several streams the key is prefixed with the stream's number."""

    def __init__(self, path: str, level: Level, *, streams: int = 1):
        self._db = Rdict(path, options())
        self._write_options = WriteOptions()
        self._write_options.sync = level != "os"
        self._db.set_write_options(self._write_options)
        self._holds = level == "memory"
        self._many = streams > 1
        self._next = [1] * streams
        self._batch = WriteBatch(raw_mode=True)
        self._progress: Rdict | None = None

    def append_list(self, payloads: list[bytes], stream: int = 0, *, durable: bool = False) -> None:
        first = self._next[stream]
        numbers = range(first, first + len(payloads))
        self._next[stream] = numbers.stop
        if self._many:
            keys = map(_STREAM_KEY.pack, repeat(stream), numbers)
        else:
            keys = map(_KEY.pack, numbers)
        put = self._batch.put
        for key, payload in zip(keys, payloads, strict=True):
            put(key, payload)
        if not self._holds or durable or self._batch.size_in_bytes() >= PENDING_BYTES_MAX:
            self._commit()

    def _commit(self) -> None:
        if not self._batch.is_empty():
            self._db.write(self._batch, self._write_options)
            self._batch = WriteBatch(raw_mode=True)

    def appender(self) -> Callable[[bytes], object]:
        numbers = count(self._next[0])
        pack, put = _KEY.pack, self._db.put

        def append(payload: bytes) -> None:
            put(pack(next(numbers)), payload)

        return append

    def settle(self) -> None:
        self._commit()
        if not self._write_options.sync:
            self._db.flush_wal(True)

    def scan(self) -> tuple[int, int]:
        records = size = 0
        for _key, payload in self._db.items():  # noqa: PERF102 - reading includes the key
            records += 1
            size += len(payload)
        return records, size

    def payloads(self, first: int, limit: int) -> list[bytes]:
        return list(islice(self._db.values(from_key=_KEY.pack(first)), limit))

    def save(self, progress: bytes) -> None:
        if self._progress is None:
            self._progress = self._db.create_column_family("progress", options())
            self._progress.set_write_options(self._write_options)
        self._progress[b"progress"] = progress

    def sync_progress(self) -> None:
        self._db.flush_wal(True)

    def group(self, consumers: int) -> LeaseGroup:
        return LeaseGroup(self, consumers)

    def close(self) -> None:
        self._commit()
        if self._progress is not None:
            self._progress.close()
        self._db.close()


OPENERS: dict[str, Opener] = {"rocksdict": RocksLog}
