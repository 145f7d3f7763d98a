"""Records that a consumer has read and nobody has got yet.

While the group has nothing to decide its hatch is open: then a consumer takes the next records
there, in one call and without the lock. It has read them ahead, which is nobody's business: they
are delivered when they are taken, and whoever takes them first has them. So the records of the few
that work in turns are read by several of them, and fewer are read ahead when that shows.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from hstreamlite._native import fast
from hstreamlite.errors import HStreamError
from hstreamlite.feed import DeliveryBatch
from hstreamlite.sub.keytab import run_bytes

if TYPE_CHECKING:
    from hstreamlite.feed import Feed
    from hstreamlite.records import Delivery

_RECORDS_MAX: Final = 1024
_BYTES_MAX: Final = 128 << 10
_CALLS: Final = 4
"""How many calls what is read ahead is to last for at first."""


class Ahead:
    """What one consumer has read ahead of one shard, and its way to the hatch."""

    def __init__(self, feed: Feed, consumer: str, gate: fast.AckGate) -> None:
        self._feed = feed
        self._hatch = feed.group.hatch()
        self._number = feed.group.hatch_number(consumer)
        self._consumer = consumer
        self._gate = gate
        self._shard = feed.shards[0]
        self._clock = feed.engine.env.clock
        self._sentry = feed.sentry
        self._records: list[Delivery] = []
        self._base = 0
        self._end = 0
        self._taken_end = 0
        self._count = 0

    def take(self, max_records: int) -> DeliveryBatch | None:
        """Take the next records at the hatch; None if the group has to be asked."""
        if self._taken_end >= self._end or self._hatch is None:
            return None
        now = self._clock.mono_ns()
        run = self._hatch.take(
            self._gate, self._taken_end, self._end, max_records, self._number, now
        )
        if run is None:
            return None
        first, end = run
        self._taken_end = end
        self._sentry.asked(self._consumer, now)
        self._sentry.moved(now)
        batch = DeliveryBatch(self._records[first - self._base : end - self._base])
        batch._runs = ((self._shard, run_bytes(first, end - first, 1)),)
        return batch

    def read(self, max_records: int, batch: DeliveryBatch) -> None:
        """Read ahead, behind what the group has just handed out, if the hatch is open there."""
        hatch = self._hatch
        if hatch is None:
            return
        left = self._end - self._taken_end
        end = batch[-1].id.lsn + 1
        if not hatch.reaches(end):
            return
        wanted = self._count // 2 if left >= max_records else self._count * 2
        least = _CALLS * max_records
        self._count = min(max(wanted, least), max(_RECORDS_MAX, max_records))
        self._records = []
        with suppress(HStreamError):  # who is to get it will be told
            self._records = self._feed.read_on(
                self._shard, end, self._count, _BYTES_MAX, self._gate
            )
        self._base = self._taken_end = end
        self._end = end + len(self._records)

    def shut(self) -> None:
        """Have the group asked by whoever takes next. Takes no lock."""
        if self._hatch is not None:
            self._hatch.close()

    def clear(self) -> None:
        self._records = []
        self._end = self._taken_end = 0
