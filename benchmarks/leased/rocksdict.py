"""RocksDB through rocksdict: records, leases and the next number in column families."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from struct import Struct

from rocksdict import Rdict, WriteBatch, WriteOptions

from benchmarks.leased.tables import LeaseTable
from benchmarks.rivals.rocksdict import options

_KEY = Struct(">Q")
_LEASE = Struct("<Qd")
_NEXT = b"next"


class RocksTable:
    """A lease is (end, deadline) under the first number; what goes together is a write batch."""

    def __init__(self, path: Path):
        self._db = Rdict(str(path), options())
        self._write_options = WriteOptions()
        self._db.set_write_options(self._write_options)
        self._leases = self._db.create_column_family("leases", options())
        self._leases.set_write_options(self._write_options)
        self._family = self._db.get_column_family_handle("leases")

    def append(self, first: int, payloads: list[bytes]) -> None:
        batch = WriteBatch(raw_mode=True)
        for number, payload in enumerate(payloads, first):
            batch.put(b"r" + _KEY.pack(number), payload)
        self._db.write(batch, self._write_options)

    def lease(self, first: int, limit: int, deadline: float, *, singly: bool) -> list[bytes]:
        if limit == 1:
            payload = self._db.get(b"r" + _KEY.pack(first))
            payloads = [] if payload is None else [payload]
        else:
            payloads = list(islice(self._db.values(from_key=b"r" + _KEY.pack(first)), limit))
        if not payloads:
            return []
        end = first + len(payloads)
        batch = WriteBatch(raw_mode=True)
        for number in range(first, end) if singly else (first,):
            lease = _LEASE.pack(number + 1 if singly else end, deadline)
            batch.put(_KEY.pack(number), lease, self._family)
        batch.put(_NEXT, _KEY.pack(end))
        self._db.write(batch, self._write_options)
        return payloads

    def unlease(self, first: int) -> None:
        self._leases.delete(_KEY.pack(first))

    def release(self, first: int, deadline: float) -> None:
        key = _KEY.pack(first)
        end, _ = _LEASE.unpack(self._leases.get(key) or b"")
        self._leases[key] = _LEASE.pack(end, deadline)

    def leases(self) -> int:
        return len(list(self._leases.keys()))

    def close(self) -> None:
        self._leases.close()
        self._db.close()


def opener(path: Path) -> LeaseTable:
    return LeaseTable(RocksTable(path))


def versions() -> dict[str, str]:
    return {}
