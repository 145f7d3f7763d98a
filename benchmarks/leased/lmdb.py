"""LMDB: records, leases and the next number in databases of one environment."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from struct import Struct

import lmdb

from benchmarks.leased.tables import LeaseTable

_MAP_BYTES = 16 << 30
_KEY = Struct(">Q")
_LEASE = Struct("<Qd")
_NEXT = b"next"


class LmdbTable:
    """A lease is (end, deadline) under the first number, added at the right edge of its tree."""

    def __init__(self, path: Path):
        self._env = lmdb.open(str(path), map_size=_MAP_BYTES, sync=False, max_dbs=3)
        self._records = self._env.open_db(b"records")
        self._leases = self._env.open_db(b"leases")
        self._state = self._env.open_db(b"state")

    def append(self, first: int, payloads: list[bytes]) -> None:
        keys = map(_KEY.pack, range(first, first + len(payloads)))
        with self._env.begin(write=True, db=self._records) as txn:
            txn.cursor().putmulti(zip(keys, payloads, strict=True), append=True)

    def lease(self, first: int, limit: int, deadline: float, *, singly: bool) -> list[bytes]:
        with self._env.begin(write=True, db=self._records) as txn:
            if limit == 1:
                payload = txn.get(_KEY.pack(first))
                payloads = [] if payload is None else [payload]
            else:
                cursor = txn.cursor()
                found = cursor.set_range(_KEY.pack(first))
                values = cursor.iternext(keys=False, values=True)
                payloads = list(islice(values, limit)) if found else []
            if not payloads:
                return []
            end = first + len(payloads)
            if singly:
                rows = [(_KEY.pack(n), _LEASE.pack(n + 1, deadline)) for n in range(first, end)]
                txn.cursor(self._leases).putmulti(rows, append=True)
            else:
                key, lease = _KEY.pack(first), _LEASE.pack(end, deadline)
                txn.put(key, lease, append=True, db=self._leases)
            txn.put(_NEXT, _KEY.pack(end), db=self._state)
            return payloads

    def unlease(self, first: int) -> None:
        with self._env.begin(write=True, db=self._leases) as txn:
            txn.delete(_KEY.pack(first))

    def release(self, first: int, deadline: float) -> None:
        with self._env.begin(write=True, db=self._leases) as txn:
            key = _KEY.pack(first)
            end, _ = _LEASE.unpack(txn.get(key) or b"")
            txn.put(key, _LEASE.pack(end, deadline))

    def leases(self) -> int:
        with self._env.begin() as txn:
            return int(txn.stat(self._leases)["entries"])

    def close(self) -> None:
        self._env.close()


def opener(path: Path) -> LeaseTable:
    return LeaseTable(LmdbTable(path))


def versions() -> dict[str, str]:
    return {}
