"""Leases and acks as one writes them by hand over a store that has neither.

One process, leases in memory, at least once: deliveries not acked in time come again, and so do
those that were unacked when the process ended. The persisted progress is the next record to deliver
and the list of unacked ones before it, so acks out of order cost nothing; while acks come it is
saved every 1,000 of them and synced every 100 ms, the intervals of hstreamlite. Left out: attempts,
dead letters, order by key, flow control, waiting for new records.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from threading import Lock
from time import monotonic, sleep
from typing import Protocol

_ACK_TIMEOUT = 30.0
_SAVE_ACKS = 1000
_SYNC_SECONDS = 0.1
_FETCH_RECORDS = 1000
_PREFETCH_RECORDS = 100
_IDLE_SECONDS = 0.001


class Source(Protocol):
    """What the leases need of a store."""

    def payloads(self, first: int, limit: int) -> list[bytes]:
        """Return the payloads from sequence number first on, at most limit."""

    def save(self, progress: bytes) -> None:
        """Keep the progress, so that it survives the process."""

    def sync_progress(self) -> None:
        """Make the saved progress survive a power cut."""


class Leases:
    """Who holds which record. Safe for many threads."""

    def __init__(self, source: Source):
        self._source = source
        self._lock = Lock()
        self._fetched: deque[tuple[int, bytes]] = deque()
        self._fetch_next = 1
        self._returned: deque[tuple[int, bytes]] = deque()
        self._held: dict[int, bytes] = {}
        self._deadlines: deque[tuple[float, list[int]]] = deque()
        self._acks = 0
        self._sync_at = monotonic() + _SYNC_SECONDS
        self._closed = False

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        while not self._closed:
            taken = self.receive(_PREFETCH_RECORDS)
            if not taken:
                sleep(_IDLE_SECONDS)
            yield from taken

    def receive(self, limit: int) -> list[tuple[int, bytes]]:
        now = monotonic()
        with self._lock:
            self._expire(now)
            ready = self._returned or self._fetched
            if not ready and not self._closed:
                payloads = self._source.payloads(self._fetch_next, max(limit, _FETCH_RECORDS))
                ready.extend(enumerate(payloads, self._fetch_next))
                self._fetch_next += len(payloads)
            if limit >= len(ready):
                taken = list(ready)
                ready.clear()
            else:
                taken = [ready.popleft() for _ in range(limit)]
            if taken:
                self._held.update(taken)
                numbers = [number for number, _ in taken]
                self._deadlines.append((now + _ACK_TIMEOUT, numbers))
            return taken

    def ack(self, deliveries: Sequence[tuple[int, bytes]]) -> None:
        with self._lock:
            pop = self._held.pop
            for number, _ in deliveries:
                pop(number, None)
            self._acks += len(deliveries)
            if self._acks >= _SAVE_ACKS:
                self._save_in_time()

    def ack_one(self, delivery: tuple[int, bytes]) -> None:
        with self._lock:
            self._held.pop(delivery[0], None)
            self._acks += 1
            if self._acks >= _SAVE_ACKS:
                self._save_in_time()

    def unacked(self) -> int:
        with self._lock:
            unfetched = len(self._source.payloads(self._fetch_next, 1))
            return len(self._held) + len(self._returned) + len(self._fetched) + unfetched

    def _expire(self, now: float) -> None:
        held, deadlines = self._held, self._deadlines
        while deadlines:
            deadline, numbers = deadlines[0]
            unacked = [number for number in numbers if number in held]
            if unacked and deadline >= now:
                break
            deadlines.popleft()
            self._returned.extend((number, held.pop(number)) for number in unacked)

    def _save_in_time(self) -> None:
        self._save()
        if monotonic() >= self._sync_at:
            self._source.sync_progress()
            self._sync_at = monotonic() + _SYNC_SECONDS

    def _save(self) -> None:
        deliver_next = self._fetch_next - len(self._fetched)
        returned = (number for number, _ in self._returned)
        self._source.save(array("Q", [deliver_next, *self._held, *returned]).tobytes())
        self._acks = 0

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._save()
            self._source.sync_progress()


class LeaseGroup:
    """The group whose members all draw from one set of leases."""

    def __init__(self, source: Source, consumers: int):
        self._leases = Leases(source)
        self.members = [self._leases] * consumers

    def unacked(self) -> int:
        """Return what is unacked; what was not even fetched counts as one."""
        return self._leases.unacked()

    def close(self) -> None:
        self._leases.close()
