"""The ack bitmap of one shard of one subscription, owned from Python.

A thin typed owner of the native map (``ackmap_api.h`` holds the rules). All calls go through the
fast functions, which keep the GIL, so a shell may ack through ``address`` without its lock while
the group works on the same map under it. The address is good as long as this object lives.
"""

from collections.abc import Callable, Iterable
from enum import IntFlag
from typing import Any, NamedTuple

from hstreamlite._native import fast, ffi, lib

LSN_MAX = 1 << 62
SPAN_MAX = 1 << 40

Run = tuple[int, int]

_UNACKED, _ACKED, _HELD = 0, 1, 2
_NO_LIMIT = 1 << 62

_ack: Callable[[int, int], int] = fast.ackmap_ack
_ack_range: Callable[[int, int, int], tuple[int, int, int, int]] = fast.ackmap_ack_range
_ack_many: Callable[[int, Iterable[int]], tuple[int, int, int, int]] = fast.ackmap_ack_many
_ack_runs: Callable[[int, bytes], tuple[int, int, int, int]] = fast.ackmap_ack_runs
_state: Callable[[int], tuple[int, int, int, int, int, int]] = fast.ackmap_state
_runs: Callable[[int, int, int, int, int], list[Run]] = fast.ackmap_runs
_drain: Callable[[int], list[Run]] = fast.ackmap_drain
_drain_piece: Callable[[int, int, int, int, int], tuple[bytes, int, int] | None] = (
    fast.ackmap_drain_piece
)
_acked_since: Callable[[int], int] = fast.ackmap_acked_since
_count: Callable[[int, int, int], int] = fast.ackmap_count
_next_unacked: Callable[[int, int], int] = fast.ackmap_next_unacked
_skip: Callable[[int, int], int] = fast.ackmap_skip
_check: Callable[[int], int] = fast.ackmap_check
_loads_bytes: Callable[[int, int], int] = fast.loads_bytes


class AckFlag(IntFlag):
    """What an ack did; ``ATTENTION`` asks for a call of ``Group.attend``."""

    NEW = 1
    DUPLICATE = 2
    UNKNOWN = 4
    VOID = 8
    ATTENTION = 16


class AckCounts(NamedTuple):
    """Outcome of acking several records; with ``UNKNOWN`` in ``flags`` nothing was acked."""

    new: int
    duplicate: int
    void: int
    flags: int


class AckState(NamedTuple):
    """Counters of a map: see ``struct hsl_ack_state``."""

    origin: int
    low: int
    next: int
    acked: int
    held: int
    acked_since: int


_ack_state = AckState._make


class Totals:
    """Bytes of a subscription in the hands of each owner, a number from 1 on; 0 is all of them."""

    __slots__ = ("_owner", "address")

    def __init__(self) -> None:
        pointer = lib.hsl_loads_new()
        if pointer == ffi.NULL:
            raise MemoryError
        self._owner: Any = ffi.gc(pointer, lib.hsl_loads_free)
        self.address: int = int(ffi.cast("uintptr_t", pointer))

    def reserve(self, owner: int) -> None:
        """Make room for an owner."""
        if lib.hsl_loads_reserve(self._owner, owner) < 0:
            raise MemoryError

    def of(self, owner: int) -> int:
        return _loads_bytes(self.address, owner)


class AckMap:
    """Acked, unacked and held records between ``low`` and ``next``."""

    __slots__ = ("_owner", "_totals", "address")

    def __init__(self, low: int, span_max: int) -> None:
        if not 1 <= low <= LSN_MAX:
            raise ValueError(f"low is {low}, must be within 1 to 2**62")
        if not 1 <= span_max <= SPAN_MAX:
            raise ValueError(f"span_max is {span_max}, must be within 1 to 2**40")
        pointer = lib.hsl_ackmap_new(low, span_max)
        if pointer == ffi.NULL:
            raise MemoryError
        self._owner: Any = ffi.gc(pointer, lib.hsl_ackmap_free)
        self._totals: Totals | None = None
        self.address: int = int(ffi.cast("uintptr_t", pointer))

    @property
    def state(self) -> AckState:
        return _ack_state(_state(self.address))

    def reset(self, low: int) -> None:
        """Forget everything and start at ``low``."""
        fast.ackmap_reset(self.address, low)

    def advance(self, end: int, *, hold: bool) -> None:
        """Raise ``next`` to ``end``; ValueError beyond the span, MemoryError without memory."""
        fast.ackmap_advance(self.address, end, hold)

    def hold(self, first: int, end: int) -> None:
        """Make acks of the unacked records of ``[first, end)`` void."""
        fast.ackmap_hold(self.address, first, end, True)

    def free(self, first: int, end: int) -> None:
        """Let acks of ``[first, end)`` count again."""
        fast.ackmap_hold(self.address, first, end, False)

    def ack(self, lsn: int) -> int:
        """Ack one record; return ``AckFlag`` bits."""
        return _ack(self.address, lsn)

    def ack_range(self, first: int, end: int) -> AckCounts:
        """Ack ``[first, end)``, or nothing if any of it is unknown."""
        return AckCounts._make(_ack_range(self.address, first, end))

    def ack_runs(self, runs: bytes) -> AckCounts:
        """Ack the runs of a key table, or nothing if any record is unknown."""
        return AckCounts._make(_ack_runs(self.address, runs))

    def ack_many(self, lsns: Iterable[int]) -> AckCounts:
        """Ack each of ``lsns``, or nothing if any is unknown."""
        return AckCounts(*_ack_many(self.address, lsns))

    def attention(self, at: int) -> None:
        """Ask for ``ATTENTION`` once ``at`` records are acked since the last drain."""
        fast.ackmap_attention(self.address, at)

    def skip(self, lsn: int) -> int:
        """Count everything below ``lsn`` as done; return how many unacked records that were."""
        return _skip(self.address, lsn)

    def next_unacked(self, lsn: int) -> int:
        """Return the first unacked record at or after ``lsn``, or ``next``."""
        return _next_unacked(self.address, lsn)

    def count_unacked(self, first: int, end: int) -> int:
        """Return the number of unacked records in ``[first, end)``, held ones included."""
        return _count(self.address, first, end)

    def unacked_runs(self, first: int, end: int, limit: int = _NO_LIMIT) -> list[Run]:
        return _runs(self.address, _UNACKED, first, end, limit)

    def acked_runs(self, first: int, end: int, limit: int = _NO_LIMIT) -> list[Run]:
        return _runs(self.address, _ACKED, first, end, limit)

    def held_runs(self, first: int, end: int, limit: int = _NO_LIMIT) -> list[Run]:
        return _runs(self.address, _HELD, first, end, limit)

    def drain(self) -> list[Run]:
        """Return the runs acked above ``low`` since the last drain, and forget them."""
        return _drain(self.address)

    @property
    def acked_since(self) -> int:
        """Return how many records were acked since the last drain."""
        return _acked_since(self.address)

    def drain_piece(
        self, shard: int, generation: int, low: int, end: int
    ) -> tuple[bytes, int, int] | None:
        """Drain what is acked as a piece of stored progress, which says nothing else of the shard;
        return it with ``low`` and ``next``.

        It is empty if nothing was acked and these are as given. None, and nothing is drained, while
        records are held, or if there may be too many runs.
        """
        return _drain_piece(self.address, shard, generation, low, end)

    def weigh(self, totals: Totals) -> None:
        """Count bytes that are handed out from now on in these totals."""
        fast.ackmap_weigh(self.address, totals.address)
        self._totals = totals

    def reserve_load(self, end: int) -> None:
        """Make room for loading records below ``end``; MemoryError without memory."""
        fast.ackmap_reserve_load(self.address, end)

    def load(self, first: int, weights: bytes, owner: int) -> None:
        """Count the unacked records from ``first`` on at an owner; a weight is 4 bytes."""
        fast.ackmap_load(self.address, first, weights, owner)

    def unload(self, first: int, end: int) -> None:
        """Count ``[first, end)`` at nobody any more."""
        fast.ackmap_unload(self.address, first, end)

    def check_invariants(self) -> None:
        rule = _check(self.address)
        assert rule == 0, f"ack map breaks rule {rule}: {self.state}"
