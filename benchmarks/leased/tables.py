"""Leases as rows beside the records, over a store that has transactions and nothing else.

One process owns the store, so that it knows in memory where the next record is and when the oldest
lease ends, and reads neither back. Left out are attempts, dead letters and flow control.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import starmap
from threading import Lock
from time import monotonic
from typing import NamedTuple, Protocol

from benchmarks.leased import ACK_TIMEOUT


class Table(Protocol):
    """What the leases need of a store; each call but `leases` is one transaction."""

    def append(self, first: int, payloads: list[bytes]) -> None:
        """Store records under the numbers from first on."""

    def lease(self, first: int, limit: int, deadline: float, *, singly: bool) -> list[bytes]:
        """Read the records from first on, and store the number behind them and their lease: one
        row under the first number, or one for each of them if singly."""

    def unlease(self, first: int) -> None:
        """Delete the row of a lease."""

    def release(self, first: int, deadline: float) -> None:
        """Store another deadline for the row of a lease."""

    def leases(self) -> int:
        """Return how many rows of leases there are."""

    def close(self) -> None: ...


class Leased(NamedTuple):
    """Records under one lease, which is named after the first."""

    first: int
    payloads: Sequence[bytes]


class LeaseTable:
    """Hands out records under leases, to many threads. All its consumers are the table itself."""

    def __init__(self, table: Table):
        self._table = table
        self._lock = Lock()
        self._next = 1
        self._end = 1
        self._held: dict[int, Leased] = {}
        self._deadlines: deque[tuple[float, int]] = deque()

    def fill(self, payloads: list[bytes]) -> None:
        self._table.append(self._end, payloads)
        self._end += len(payloads)

    def workers(self, count: int) -> list[LeaseTable]:
        return [self] * count

    def take_one(self) -> Leased | None:
        taken = self._take(1, singly=False)
        return taken[0] if taken else None

    def take_singles(self, limit: int) -> list[Leased]:
        return self._take(limit, singly=True)

    def take_list(self, limit: int) -> Leased | None:
        taken = self._take(limit, singly=False)
        return taken[0] if taken else None

    def _take(self, limit: int, *, singly: bool) -> list[Leased]:
        with self._lock:
            now = monotonic()
            if self._deadlines and self._deadlines[0][0] <= now:
                again = self._expired(now)
                if again is not None:
                    return [again]
            first = self._next
            deadline = now + ACK_TIMEOUT
            payloads = self._table.lease(first, limit, deadline, singly=singly)
            if not payloads:
                return []
            self._next = first + len(payloads)
            if singly:
                taken = list(starmap(Leased, enumerate(zip(payloads), first)))
            else:
                taken = [Leased(first, payloads)]
            self._held.update((leased.first, leased) for leased in taken)
            self._deadlines.extend((deadline, leased.first) for leased in taken)
            return taken

    def _expired(self, now: float) -> Leased | None:
        """Return the oldest lease that is over, under a new one."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, first = self._deadlines.popleft()
            leased = self._held.get(first)
            if leased is not None:
                self._table.release(first, now + ACK_TIMEOUT)
                self._deadlines.append((now + ACK_TIMEOUT, first))
                return leased
        return None

    def ack_one(self, delivery: Leased) -> None:
        with self._lock:
            if self._held.pop(delivery.first, None) is not None:
                self._table.unlease(delivery.first)

    ack_list = ack_one

    def payloads(self, deliveries: Leased) -> Sequence[bytes]:
        return deliveries.payloads

    def left(self) -> int:
        held = sum(len(leased.payloads) for leased in self._held.values())
        assert self._table.leases() == len(self._held)
        return held + self._end - self._next

    def close(self) -> None:
        self._table.close()
