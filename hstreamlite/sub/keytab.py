"""Order by key over one shard's window, owned from Python.

A thin typed owner of the native table (``keytab_api.h`` holds the rules). Runs are bytes, as the
native side made them: `runs_of` tells what they say. All calls keep the GIL.
"""

import struct
from typing import Any, NamedTuple

from hstreamlite._native import fast, ffi, lib
from hstreamlite.sub.ackmap import AckMap

_RUN = struct.Struct("<QII")

Taken = tuple[int, int, int, bytes]
"""How many records, how many of them for the first time, their parcel, and their runs."""


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
    handed: int
    keys: int
    bytes: int


run_bytes = _RUN.pack
"""Return one run as bytes: first LSN, records, attempt."""


def runs_of(runs: bytes) -> list[KeyRun]:
    return [KeyRun(*run) for run in _RUN.iter_unpack(runs)]


class KeyTable:
    """Who may get which record between ``low`` and ``next`` of an ack map."""

    __slots__ = ("_acks", "_owner", "address")

    def __init__(self, acks: AckMap, *, late_acks: bool = False) -> None:
        pointer = lib.hsl_keytab_new(ffi.cast("struct hsl_ackmap *", acks.address))
        if pointer == ffi.NULL:
            raise MemoryError
        self._acks = acks
        self._owner: Any = ffi.gc(pointer, lib.hsl_keytab_free)
        self.address: int = int(ffi.cast("uintptr_t", pointer))
        if late_acks:  # of what came back with an earlier record of its key
            lib.hsl_keytab_late_acks(pointer)

    @property
    def state(self) -> KeyState:
        return KeyState._make(fast.keytab_state(self.address))

    def restore(self, attempts: bytes, doom_at: int) -> None:
        """Take over how often each record of ``[low, next)`` was handed out: a u32 for each.

        What was handed out ``doom_at`` times and more is delayed; 0 = nothing.
        """
        fast.keytab_restore(self.address, attempts, doom_at)

    def describe(self, first: int, hashes: bytes) -> None:
        """Append hashes of keys, a u64 for each record; ValueError unless first is `described`."""
        fast.keytab_describe(self.address, first, hashes)

    def take(self, consumer: int, parcel: int, most: int, fresh: int, end: int) -> Taken:
        """Reserve records for a consumer, of those never sent at most ``fresh``.

        They go to a parcel that is reserved, or (0) to a new one; its number comes back, 0 if it
        has none.
        """
        return fast.keytab_take(self.address, consumer, parcel, most, fresh, end)

    def confirm(self, parcel: int, count: int, due_ns: int) -> tuple[int, bytes]:
        """Have the first ``count`` records of a reserved parcel handed out, until a time.

        Returns how many are, and their runs; a parcel without any is gone.
        """
        return fast.keytab_confirm(self.address, parcel, count, due_ns)

    def take_back(self, parcel: int) -> tuple[int, list[KeyHead]]:
        """Take back a parcel; return how many were handed out, and what could be delayed."""
        return _back(fast.keytab_take_back(self.address, parcel))

    def take_back_due(self, now: int) -> tuple[int, list[KeyHead]] | None:
        """Take back the parcel that is due first, if it is due by now."""
        back = fast.keytab_take_back_due(self.address, now)
        return None if back is None else _back(back)

    def take_back_of(self, consumer: int) -> tuple[int, list[KeyHead]] | None:
        """Take back the parcel that a consumer has held longest, reserved or out."""
        back = fast.keytab_take_back_of(self.address, consumer)
        return None if back is None else _back(back)

    def release(self, consumer: int, first: int, end: int) -> tuple[int, list[KeyHead]]:
        """Take back what a consumer has of ``[first, end)``; return how many, and which."""
        return _back(fast.keytab_release(self.address, consumer, first, end, True))

    def unsend(self, consumer: int, first: int, end: int) -> tuple[int, list[KeyHead]]:
        """Take back what a consumer has of ``[first, end)`` as if it had never been handed out."""
        return _back(fast.keytab_release(self.address, consumer, first, end, False))

    def extend(self, consumer: int, first: int, end: int, due_ns: int) -> int:
        """Have what a consumer has of ``[first, end)`` due at a time, unless it is due later.

        Returns how many records it has there.
        """
        return fast.keytab_extend(self.address, consumer, first, end, due_ns)

    def next_due(self) -> int | None:
        """Return when the first parcel is due of which something is unacked."""
        return fast.keytab_next_due(self.address)

    def due_of(self, lsn: int) -> int | None:
        """Return when a record is due; None if it is not handed out."""
        return fast.keytab_due_of(self.address, lsn)

    def out(self, consumer: int) -> list[tuple[int, int, int, int]]:
        """Return (due_ns, first unacked LSN, end, unacked) of each run that a consumer has."""
        return fast.keytab_out(self.address, consumer)

    def first_out(self, end: int) -> int | None:
        """Return the first unacked LSN below ``end`` that is handed out."""
        return fast.keytab_first_out(self.address, end) or None

    def holds(self, consumer: int, first: int, end: int) -> bool:
        """Tell whether a consumer has all of ``[first, end)``, none of it acked."""
        return bool(fast.keytab_holds(self.address, consumer, first, end))

    def open(self, parcel: int) -> int:
        """Return how many records of a parcel are unacked."""
        return fast.keytab_open(self.address, parcel)

    def fresh_in(self, parcel: int) -> int:
        """Return how many of them it is the first attempt of."""
        return fast.keytab_fresh_in(self.address, parcel)

    def count(self, consumer: int) -> int:
        """Return how many records a consumer has, reserved or out, that are unacked."""
        return fast.keytab_count(self.address, consumer)

    def handed(self, low: int) -> list[tuple[int, int, int]]:
        """Return what was handed out since the last call as runs (first, end, attempt).

        They are in that order, without what is below low: of a record that is in several, the last
        is the latest.
        """
        return fast.keytab_handed(self.address, low)

    def drain_piece(
        self, shard: int, generation: int, low: int, end: int
    ) -> tuple[bytes, int, int] | None:
        """Drain what is acked, and what was handed out, as a piece of stored progress; return it
        with ``low`` and ``next``.

        It is empty if nothing was either and these are as given. None, and nothing is drained, if
        there may be too many runs.
        """
        return fast.keytab_drain_piece(
            self.address, self._acks.address, shard, generation, low, end
        )

    def expose(self, lsn: int) -> bool:
        """Have the ack of a waiting record count, whatever comes before it, if it is unacked."""
        return bool(fast.keytab_expose(self.address, lsn))

    def delay(self, lsn: int) -> bool:
        """Keep a record that waits, and what follows it, until `wake`."""
        return bool(fast.keytab_delay(self.address, lsn))

    def wake(self, lsn: int) -> None:
        fast.keytab_wake(self.address, lsn)

    def ready(self, consumer: int, fresh: int, end: int) -> bool:
        """Tell whether `take` would hand out something, or scan."""
        return bool(fast.keytab_ready(self.address, consumer, fresh, end))

    def attempts(self, first: int) -> list[tuple[int, int, int]]:
        """Return runs (first, end, times) of unacked records that were handed out, from first."""
        return fast.keytab_attempts(self.address, first)

    def check_invariants(self) -> None:
        rule = fast.keytab_check(self.address)
        assert rule == 0, f"key table breaks rule {rule}: {self.state}"


def _back(answer: tuple[int, list[tuple[int, int, int]]]) -> tuple[int, list[KeyHead]]:
    count, heads = answer
    return count, [KeyHead(*head) for head in heads]
