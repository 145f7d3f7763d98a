"""Who gets what in mode "ordered": records of one key are at one consumer at a time, in log order.

A key that nobody holds goes to whoever comes first, with all that waits of it; its later records
follow to that consumer until all is acked, or comes back. So any number of consumers share any
number of shards, and a stuck key blocks nothing but itself, up to the span of the window. Records
without a key are ordered with nothing.

The native key table of each shard keeps the chains; `keycustody` has what becomes of what went out.
Keys are told by the shell as hashes, ahead of the hand-out (`undescribed`, `describe`).
"""

from collections import deque
from collections.abc import Mapping

from hstreamlite._native import fast
from hstreamlite.sub.effects import Parcel
from hstreamlite.sub.keycustody import KeyCustody
from hstreamlite.sub.keytab import KeyTable
from hstreamlite.sub.limits import TIME_MAX_NS, Limits
from hstreamlite.sub.loads import Loads
from hstreamlite.sub.numbering import Numbering
from hstreamlite.sub.window import Window

TAKE_MAX = 65_536
DESCRIBE_MAX = 4_096
"""Records whose keys are asked for at a time, at most."""


class OrderedDispatcher(KeyCustody):
    """Spreads keys over consumers; with the same methods as `SharedDispatcher`."""

    listed = True
    """Whether what is stored lists the records that were handed out, and no others were."""
    late_acks = False
    """Whether acks of what came back with an earlier record of its key count."""

    def __init__(
        self,
        limits: Limits,
        windows: Mapping[int, Window],
        changed: set[int],
        loads: Loads,
        numbers: Numbering,
    ) -> None:
        super().__init__(limits, windows, changed, loads, numbers)
        self._turns: deque[int] = deque()

    # Shards

    def adopt(self, window: Window) -> None:
        """Deliver a shard from the low of its window on."""
        table = KeyTable(window.acks, late_acks=self.late_acks)
        self._tables[window.shard] = table
        self._turns.append(window.shard)
        limits = self._limits
        if window.shard not in self._hatches and not limits.max_unacked_per_consumer:
            self._hatches[window.shard] = fast.KeyHatch(
                limits.span_records, limits.max_unacked, limits.ack_timeout_ns
            )
        if window.shard in self._hatches:
            self._hatches[window.shard].bind(window.acks, table)

    def forget(self, shard: int) -> None:
        super().forget(shard)
        self._turns = deque(other for other in self._turns if other != shard)

    def offer(self, shard: int) -> None:
        """Note that a shard may have records that were never handed out."""

    # The hatch

    def hatch(self) -> fast.KeyHatch | None:
        """Return where records are taken without `assign`, if there is one shard only."""
        if len(self._windows) != 1:
            return None
        return self._hatches.get(next(iter(self._windows)))

    def open_hatch(self, until: int | None) -> None:
        """Let records be taken until a time, by which something else has to be done.

        Not where a window counts what is taken, in bytes or at each consumer.
        """
        hatch = self.hatch()
        if hatch is None or self._loads.weighs or self._loads.narrow:
            return
        (window,) = self._windows.values()
        delayed = self._delays[0][0] if self._delays else None
        ends = (until, delayed, TIME_MAX_NS)
        hatch.open(window.tail, min(end for end in ends if end is not None))

    # Keys

    def undescribed(self, max_records: int) -> list[tuple[int, int, int]]:
        """Return (shard, first LSN, count) of records whose keys are needed next."""
        wanted = []
        for shard, table in self._tables.items():
            state = table.state
            if state.described - state.scan >= max_records:
                continue
            ahead = self._end(self._windows[shard]) - state.described
            if ahead > 0:
                most = min(DESCRIBE_MAX, max(256, 4 * max_records))
                wanted.append((shard, state.described, min(ahead, most)))
        return wanted

    def describe(self, shard: int, first: int, hashes: bytes) -> None:
        """Take in hashes of keys, 8 bytes each; nothing happens where they are known already."""
        table = self._tables.get(shard)
        if table is not None and table.state.described == first:
            table.describe(first, hashes)

    @staticmethod
    def _end(window: Window) -> int:
        """Return the LSN below which the window may hand out."""
        return min(window.tail, window.low + window.span)

    # Dispatch

    def outstanding(self) -> int:
        """Return how many records are reserved or delivered and not acked, over all shards."""
        return sum(
            self._windows[shard].outstanding() - table.state.fresh
            for shard, table in self._tables.items()
        )

    def backed_up(self, window: Window) -> bool:
        """Tell whether a shard has records that were never handed out."""
        return window.tail > window.next or self._tables[window.shard].state.fresh > 0

    def open_windows(self) -> list[Window]:
        """Return the windows in which something was delivered that is not acked, or not stored."""
        return [
            window
            for window in self._windows.values()
            if window.outstanding() or window.acks.state.acked_since
        ]

    def quota(self, consumer: str) -> int:
        """Return how many records more this consumer may have in flight."""
        return self._loads.quota(consumer, self._count)

    def can_assign(self, consumer: str) -> bool:
        """Tell whether `assign` would find something for the consumer, or look further."""
        if self._loads.full() or self.quota(consumer) == 0:
            return False
        room = max(0, self._limits.max_unacked - self.outstanding())
        number = self._numbers.of(consumer)
        return any(
            table.ready(number, room, self._end(self._windows[shard]))
            for shard, table in self._tables.items()
        )

    def owned(self) -> bool:
        """Tell whether there may be something that only the holder of its key may get."""
        return any(table.state.owned for table in self._tables.values())

    def can_resend(self) -> bool:
        """Tell whether there is something for a consumer that holds no key."""
        return any(
            table.ready(0, 0, self._end(self._windows[shard]))
            for shard, table in self._tables.items()
        )

    def key_blocked(self) -> Window | None:
        """Return a window all of whose undelivered records wait for others of their keys."""
        for window in self._windows.values():
            table = self._tables[window.shard]
            if table.state.fresh and not table.ready(0, 1, self._end(window)):
                return window
        return None

    def assign(self, consumer: str, max_records: int) -> tuple[Parcel, ...]:
        """Reserve up to ``max_records`` for a consumer, in order of sending."""
        left = 0 if self._loads.full() else min(max_records, self.quota(consumer), TAKE_MAX)
        room = max(0, self._limits.max_unacked - self.outstanding())
        number = self._numbers.of(consumer)
        parcels: list[Parcel] = []
        for _ in range(len(self._turns)):
            if left == 0:
                break
            shard = self._turns[0]
            self._turns.rotate(-1)
            end = self._end(self._windows[shard])
            try:
                records, first, parcel, runs = self._tables[shard].take(number, 0, left, room, end)
            except MemoryError:
                if not parcels:
                    raise
                break  # what is reserved already is not lost sight of
            if not runs:
                continue
            left -= records
            room -= first
            parcels.append(self._reserve(shard, parcel, consumer, runs, records))
        return tuple(parcels)

    # The damaged

    def set_aside(self, consumer: str, window: Window, first: int, end: int, now: int) -> int:
        """Keep the waiting records of ``[first, end)``, which cannot be read; return how many."""
        shard = window.shard
        table = self._tables[shard]
        count, at = 0, max(first, window.low)
        while True:
            scan = table.state.scan
            for lsn in range(at, min(end, scan)):
                if (shard, lsn) not in self._doomed and table.delay(lsn):
                    self._undelay(shard, lsn)
                    self._damaged[shard, lsn] = None
                    count += 1
            at = max(at, min(end, scan))
            if scan >= end or not self._numbers.of(consumer):
                break
            for parcel in self.assign(consumer, TAKE_MAX):  # so that the next ones have a place
                self.confirm_parcel(parcel.lease, 0, now, ())
            if table.state.scan == scan:
                break
        return count
