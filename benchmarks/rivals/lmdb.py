"""LMDB: big-endian sequence numbers as keys, added at the right edge of the tree."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count, islice, repeat
from pathlib import Path
from struct import Struct

import lmdb

from benchmarks.rivals import PENDING_BYTES_MAX, Level, Opener
from benchmarks.rivals.leases import LeaseGroup

_MAP_BYTES = 16 << 30
_KEY = Struct(">Q")
_STREAM_KEY = Struct(">IQ")


class LmdbLog:
    """One database; with several streams the key is prefixed with the stream's number.

    Each commit at level sync costs one sync of the data and one of the root page.
    """

    def __init__(self, path: str, level: Level, *, streams: int = 1, writemap: bool = False):
        self._path = path
        self._holds = level == "memory"
        self._syncs = level != "os"
        self._env = lmdb.open(
            path, map_size=_MAP_BYTES, writemap=writemap, sync=self._syncs, max_readers=32
        )
        self._many = streams > 1
        self._next = [1] * streams
        self._txn: lmdb.Transaction | None = None
        self._pending = 0
        self._progress: lmdb.Environment | None = None

    def append_list(self, payloads: list[bytes], stream: int = 0, *, durable: bool = False) -> None:
        txn = self._txn or self._env.begin(write=True)
        first = self._next[stream]
        numbers = range(first, first + len(payloads))
        self._next[stream] = numbers.stop
        if self._many:
            keys = map(_STREAM_KEY.pack, repeat(stream), numbers)
        else:
            keys = map(_KEY.pack, numbers)
        txn.cursor().putmulti(zip(keys, payloads, strict=True), append=not self._many)
        self._txn = txn
        self._pending += sum(map(len, payloads)) if self._holds else 0
        if not self._holds or durable or self._pending >= PENDING_BYTES_MAX:
            self._commit()

    def _commit(self) -> None:
        if self._txn is not None:
            self._txn.commit()
            self._txn = None
            self._pending = 0

    def appender(self) -> Callable[[bytes], object]:
        numbers = count(self._next[0])
        begin = partial(self._env.begin, write=True)
        pack = _KEY.pack

        def append(payload: bytes) -> None:
            with begin() as txn:
                txn.put(pack(next(numbers)), payload, append=True)

        return append

    def settle(self) -> None:
        self._commit()
        if not self._syncs:
            self._env.sync(True)

    def scan(self) -> tuple[int, int]:
        records = size = 0
        with self._env.begin() as txn:
            for _key, payload in txn.cursor():
                records += 1
                size += len(payload)
        return records, size

    def payloads(self, first: int, limit: int) -> list[bytes]:
        with self._env.begin() as txn:
            cursor = txn.cursor()
            if not cursor.set_range(_KEY.pack(first)):
                return []
            return list(islice(cursor.iternext(keys=False, values=True), limit))

    def save(self, progress: bytes) -> None:
        if self._progress is None:
            path = str(Path(self._path, "progress"))
            self._progress = lmdb.open(path, map_size=_MAP_BYTES, sync=False)
        with self._progress.begin(write=True) as txn:
            txn.put(b"progress", progress)

    def sync_progress(self) -> None:
        if self._progress is not None:
            self._progress.sync(True)

    def group(self, consumers: int) -> LeaseGroup:
        return LeaseGroup(self, consumers)

    def close(self) -> None:
        self._commit()
        if self._progress is not None:
            self._progress.close()
        self._env.close()


OPENERS: dict[str, Opener] = {
    "lmdb": LmdbLog,
    "lmdb-writemap": partial(LmdbLog, writemap=True),
}
