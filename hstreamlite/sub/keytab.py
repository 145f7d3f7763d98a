"""Order by key over one shard's window, owned from Python.

A thin typed owner of the native table (``keytab_api.h`` holds the rules). Runs are bytes, as the
native side made them: `runs_of` tells what they say. All calls keep the GIL.
"""

import struct
from typing import Any, NamedTuple

from hstreamlite._native import fast, ffi, lib
from hstreamlite.sub.ackmap import AckMap

_RUN = struct.Struct("<QII")

Taken = tuple[int, int, bytes]
"""How many records, how many of them for the first time, and their runs."""


class KeyRun(NamedTuple):
    """Records ``[first, first + size)``, delivered as this attempt."""

    first: int
    size: int
    attempt: int


class KeyHead(NamedTuple):
    """A record that came back, and how often it did: not with one before it, but by itself."""

    lsn: int
    failures: int
    attempts: int


class KeyState(NamedTuple):
    """Counters of a table: see ``struct hsl_key_state``."""

    scan: int
    described: int
    fresh: int
    again: int
    owned: int
    keys: int
    bytes: int


run_bytes = _RUN.pack
"""Return one run as bytes: first LSN, records, attempt."""


def runs_of(runs: bytes) -> list[KeyRun]:
    return [KeyRun(*run) for run in _RUN.iter_unpack(runs)]


def merged(runs: bytes, low: int) -> list[tuple[int, int, int]]:
    """Return runs as (first, end, attempt), joined where they meet, without what is below low.

    In the order of attempts: of a record that is in several, the last is the latest.
    """
    return fast.key_runs_merge(runs, low)


class KeyTable:
    """Who may get which record between ``low`` and ``next`` of an ack map."""

    __slots__ = ("_acks", "_address", "_owner")

    def __init__(self, acks: AckMap, *, late_acks: bool = False) -> None:
        pointer = lib.hsl_keytab_new(ffi.cast("struct hsl_ackmap *", acks.address))
        if pointer == ffi.NULL:
            raise MemoryError
        self._acks = acks
        self._owner: Any = ffi.gc(pointer, lib.hsl_keytab_free)
        self._address: int = int(ffi.cast("uintptr_t", pointer))
        if late_acks:  # of what came back with an earlier record of its key
            lib.hsl_keytab_late_acks(pointer)

    @property
    def state(self) -> KeyState:
        return KeyState._make(fast.keytab_state(self._address))

    def restore(self, attempts: bytes, doom_at: int) -> None:
        """Take over how often each record of ``[low, next)`` was handed out: a u32 for each.

        What was handed out ``doom_at`` times and more is delayed; 0 = nothing.
        """
        fast.keytab_restore(self._address, attempts, doom_at)

    def describe(self, first: int, hashes: bytes) -> None:
        """Append hashes of keys, a u64 for each record; ValueError unless first is `described`."""
        fast.keytab_describe(self._address, first, hashes)

    def take(self, consumer: int, parcel: int, most: int, fresh: int, end: int) -> Taken:
        """Reserve records for a consumer, as a parcel; of those never sent at most ``fresh``."""
        return fast.keytab_take(self._address, consumer, parcel, most, fresh, end)

    def confirm(self, parcel: int, runs: bytes, count: int) -> Taken:
        """Have the first ``count`` records of a parcel handed out; return those that are."""
        return fast.keytab_confirm(self._address, parcel, runs, count)

    def take_back(self, parcel: int, runs: bytes) -> tuple[int, list[KeyHead]]:
        """Take back a parcel; return how many were handed out, and what could be delayed."""
        count, heads = fast.keytab_take_back(self._address, parcel, runs)
        return count, [KeyHead(*head) for head in heads]

    def release(self, consumer: int, first: int, end: int) -> tuple[int, list[KeyHead]]:
        """Take back what a consumer has of ``[first, end)``; return how many, and which."""
        count, heads = fast.keytab_release(self._address, consumer, first, end, True)
        return count, [KeyHead(*head) for head in heads]

    def unsend(self, consumer: int, first: int, end: int) -> tuple[int, list[KeyHead]]:
        """Take back what a consumer has of ``[first, end)`` as if it had never been handed out."""
        count, heads = fast.keytab_release(self._address, consumer, first, end, False)
        return count, [KeyHead(*head) for head in heads]

    def move(self, parcel: int, other: int, first: int, end: int) -> int:
        """Move what is handed out of ``[first, end)`` to another parcel; return how many."""
        return fast.keytab_move(self._address, parcel, other, first, end)

    def holds(self, consumer: int, first: int, end: int) -> bool:
        """Tell whether a consumer has all of ``[first, end)``, none of it acked."""
        return bool(fast.keytab_holds(self._address, consumer, first, end))

    def open(self, parcel: int, runs: bytes) -> int:
        """Return how many records of a parcel are unacked."""
        return fast.keytab_open(self._address, parcel, runs)[0]

    def first_open(self, parcel: int, runs: bytes) -> tuple[int, int]:
        """Return how many records of a parcel are unacked, and the first of them, if any."""
        return fast.keytab_open(self._address, parcel, runs)

    def parcels(self, consumer: int, first: int, end: int) -> set[int]:
        """Return the parcels of which a consumer has records of ``[first, end)`` out."""
        return set(fast.keytab_parcels(self._address, consumer, first, end))

    def expose(self, lsn: int) -> bool:
        """Have the ack of a waiting record count, whatever comes before it, if it is unacked."""
        return bool(fast.keytab_expose(self._address, lsn))

    def delay(self, lsn: int) -> bool:
        """Keep a record that waits, and what follows it, until `wake`."""
        return bool(fast.keytab_delay(self._address, lsn))

    def wake(self, lsn: int) -> None:
        fast.keytab_wake(self._address, lsn)

    def leave(self, consumer: int) -> None:
        """Note that a consumer is gone, when all it had is taken back."""
        fast.keytab_leave(self._address, consumer)

    def ready(self, consumer: int, fresh: int, end: int) -> bool:
        """Tell whether `take` would hand out something, or scan."""
        return bool(fast.keytab_ready(self._address, consumer, fresh, end))

    def attempts(self, first: int) -> list[tuple[int, int, int]]:
        """Return runs (first, end, times) of unacked records that were handed out, from first."""
        return fast.keytab_attempts(self._address, first)

    def check_invariants(self) -> None:
        rule = fast.keytab_check(self._address)
        assert rule == 0, f"key table breaks rule {rule}: {self.state}"
