"""Who gets what: the order among consumers, and the choice of records for one of them.

`Line` is the order: a consumer that found nothing may stand in line, and while the head of the line
could be served, nobody else is. So consumers that always wait get equal shares, whoever asks more
often. A head that does not come within `TURN_NS` loses its turn, which keeps
one sleeping thread from holding the others.

`SharedDispatcher` is the choice in mode "shared": records to be sent again first, then new ones;
one shard after the other, a batch each; no order across consumers. Another mode is another
dispatcher with the same `assign` and `can_assign`.
"""

from collections.abc import Mapping

from sortedcontainers import SortedDict

from hstreamlite._native import fast
from hstreamlite.sub.checkpoint import KeptShard
from hstreamlite.sub.custody import Custody
from hstreamlite.sub.effects import Assignment
from hstreamlite.sub.leases import WAITING, Slot
from hstreamlite.sub.limits import TIME_MAX_NS, Limits
from hstreamlite.sub.loads import Loads
from hstreamlite.sub.numbering import Numbering
from hstreamlite.sub.window import Window

TURN_NS = 20_000_000


class Line:
    """Consumers that wait for records; the one that got the fewest of late comes first.

    Each carries the number of records it was served, counted from a common clock: the number of
    the last one served. So a turn that yields half a batch is made up for, and nobody saves up
    turns by being away.
    """

    def __init__(self) -> None:
        self._served: dict[str, int] = {}
        self._waiting: SortedDict[tuple[int, int], str] = SortedDict()
        self._place: dict[str, tuple[int, int]] = {}
        self._clock = 0
        self._arrivals = 0
        self._turn_since: int | None = None

    def __len__(self) -> int:
        return len(self._place)

    def names(self) -> tuple[str, ...]:
        return tuple(self._waiting.values())

    def join(self, name: str) -> None:
        if name not in self._place:
            self._enter(name, self._count(name))

    def _count(self, name: str) -> int:
        return max(self._served.get(name, 0), self._clock)

    def _enter(self, name: str, served: int) -> None:
        self._arrivals += 1
        self._place[name] = served, self._arrivals
        self._waiting[self._place[name]] = name
        if self.head() == name:
            self._turn_since = None

    def leave(self, name: str) -> None:
        if self.head() == name:
            self._turn_since = None
        place = self._place.pop(name, None)
        if place is None:
            return
        del self._waiting[place]

    def mend(self) -> None:
        """Order the line anew, after a call was struck amid it."""
        self._waiting = SortedDict({place: name for name, place in self._place.items()})
        self._turn_since = None

    def serve(self, name: str, records: int) -> None:
        """Note that a consumer got records; it leaves the line."""
        self.leave(name)
        self._clock = self._count(name)
        self._served[name] = self._clock + records

    def forget(self, name: str) -> None:
        """Drop a consumer that is detached."""
        self.leave(name)
        self._served.pop(name, None)

    def head(self) -> str | None:
        return self._waiting.peekitem(0)[1] if self._waiting else None

    def comes_first(self, name: str) -> bool:
        """Tell whether a consumer is the head of the line, or would be if it stood in it."""
        head = self.head()
        return head is None or head == name or self._count(name) < self._place[head][0]

    def call(self, now: int) -> None:
        """Note that the head could be served now; its turn ends `TURN_NS` later."""
        if self._place and self._turn_since is None:
            self._turn_since = now

    def rest(self) -> None:
        """Note that the head could not be served: its turn has not begun."""
        self._turn_since = None

    def turn_end(self) -> int | None:
        return None if self._turn_since is None else self._turn_since + TURN_NS

    def tick(self, now: int) -> None:
        end = self.turn_end()
        head = self.head()
        if end is None or head is None or now < end:
            return
        last = self._waiting.peekitem(-1)[0][0]
        self.leave(head)
        self._enter(head, last)
        self.call(now)

    def check_invariants(self) -> None:
        assert self._turn_since is None or self._place
        assert {place: name for name, place in self._place.items()} == dict(self._waiting)


class SharedDispatcher(Custody):
    """Spreads records over consumers without regard to keys."""

    listed = False
    """Whether what is stored lists the records that were handed out, and no others were."""

    def __init__(
        self,
        limits: Limits,
        windows: Mapping[int, Window],
        changed: set[int],
        loads: Loads,
        numbers: Numbering,
    ) -> None:
        super().__init__(limits, windows, changed, loads, numbers)
        self._turns: dict[int, None] = {}
        self._open: dict[int, None] = {}

    def adopt(self, window: Window) -> None:
        """Let first deliveries of a shard be taken, or at least noted, at a hatch."""
        limits = self._limits
        if self._leases.hatch(window.shard) is None and not limits.max_unacked_per_consumer:
            hatch = fast.Hatch(
                window.acks, limits.span_records, limits.max_unacked, limits.ack_timeout_ns
            )
            self._leases.add_hatch(window.shard, hatch)

    def hatch(self) -> fast.Hatch | None:
        """Return where new records are taken without `assign`, if there is one shard only."""
        if len(self._windows) != 1:
            return None
        return self._leases.hatch(next(iter(self._windows)))

    def open_hatch(self, until: int | None) -> None:
        """Let new records be taken until a time if there is nothing that goes before.

        Not where a window counts what is taken, in bytes or at each consumer.
        """
        hatch = self.hatch()
        counted = self._loads.weighs or self._loads.narrow
        if hatch is None or counted or self._leases.ready_shards():
            return
        (window,) = self._windows.values()
        self._open.setdefault(window.shard)
        ends = (until, self._leases.next_timer(), TIME_MAX_NS)
        hatch.open(window.tail, min(end for end in ends if end is not None))

    def close_hatch(self) -> None:
        hatch = self.hatch()
        if hatch is not None:
            hatch.close()

    def restore(self, window: Window, kept: KeptShard) -> None:
        super().restore(window, kept)
        self._open.setdefault(window.shard)

    def forget(self, shard: int) -> None:
        super().forget(shard)
        self._turns.pop(shard, None)
        self._open.pop(shard, None)

    def mend(self, now: int) -> None:
        super().mend(now)
        self._open = dict.fromkeys(self._windows)
        self._turns = dict.fromkeys(self._windows)

    def offer(self, shard: int) -> None:
        """Note that a shard has, or may have, records that were never handed out."""
        self._turns.setdefault(shard)

    def untold(self, shard: int) -> bool:
        """Tell whether records were handed out unnoticed: new ones are not, for ``next`` moves."""
        del shard
        return False

    def outstanding(self) -> int:
        """Return the number of outstanding records over all shards."""
        total = 0
        for shard in list(self._open):
            window = self._windows[shard]
            if not window.outstanding():
                self.close_hatch()  # first, for what is taken there must be counted
            count = window.outstanding()
            if count:
                total += count
            else:
                del self._open[shard]
        if self._leases.any_damaged:
            total -= sum(end - first for _, first, end in self.damaged())
        return total

    def backed_up(self, window: Window) -> bool:
        """Tell whether a shard has records that were never handed out."""
        return window.tail > window.next

    def open_windows(self) -> list[Window]:
        return [self._windows[shard] for shard in self._open]

    def quota(self, consumer: str) -> int:
        """Return how many records more this consumer may have in flight."""
        return self._loads.quota(consumer, self._count)

    def _count(self, consumer: str) -> int:
        """Return how many records a consumer has, reserved or out."""
        return self._unacked_of(self._leases.of_consumer(consumer))

    def can_assign(self, consumer: str) -> bool:
        """Tell whether `assign` would find something for the consumer."""
        if self._loads.full() or self.quota(consumer) == 0:
            return False
        if self.can_resend():
            return True
        if self._limits.max_unacked <= self.outstanding():
            return False
        return any(self._windows[shard].room() for shard in self._turns)

    def key_blocked(self) -> Window | None:
        """Return a window all of whose undelivered records wait for others: there is none."""
        return None

    def owned(self) -> bool:
        """Tell whether there may be something that only one consumer may get: there is not."""
        return False

    def can_resend(self) -> bool:
        """Tell whether anything waits to be sent again that may be."""
        return any(self.next_ready(shard) for shard in self._leases.ready_shards())

    def set_aside(self, consumer: str, window: Window, first: int, end: int, now: int) -> int:
        """Keep the waiting records of ``[first, end)``, which cannot be read; return how many."""
        del consumer, now
        shard = window.shard
        end = min(end, window.tail, window.low + window.span)
        if end > window.next:
            self._leases.put(shard, *window.take(end - window.next), 1)
            self._open.setdefault(shard)
        count = 0
        for slot in list(self._leases.within(shard, first, end)):
            if slot.fate in WAITING:
                part = slot if slot.first >= first else self._leases.split(slot, first)
                if part.end > end:
                    self._leases.split(part, end)
                self._leases.set_aside(part)
                count += window.acks.count_unacked(part.first, part.end)
        return count

    def damaged(self) -> list[tuple[int, int, int]]:
        """Return (shard, first, end) of unacked records that were set aside."""
        return [
            (slot.shard, *run)
            for slot in self._leases.damaged()
            for run in self._windows[slot.shard].acks.unacked_runs(slot.first, slot.end)
        ]

    def assign(self, consumer: str, max_records: int) -> tuple[Assignment, ...]:
        """Reserve up to ``max_records`` for a consumer, in order of sending."""
        return tuple(
            Assignment(slot.shard, slot.first, slot.end, slot.attempt, slot.lease)
            for slot in self._reserve(consumer, max_records)
        )

    def _reserve(self, consumer: str, max_records: int) -> list[Slot]:
        left = 0 if self._loads.full() else min(max_records, self.quota(consumer))
        slots: list[Slot] = []
        for shard in self._leases.ready_shards():
            while left and (slot := self._take_ready(shard, left)):
                self._leases.reserve(slot, consumer)
                slots.append(slot)
                left -= slot.end - slot.first
        left = min(left, self._limits.max_unacked - self.outstanding()) if left else 0
        for shard in list(self._turns):
            if left <= 0:
                break
            if slot := self._take_new(shard, left, consumer):
                slots.append(slot)
                left -= slot.end - slot.first
        return slots

    def next_ready(self, shard: int) -> Slot | None:
        """Return the lowest ready slot that has unacked records, starting at one of them."""
        acks = self._windows[shard].acks
        while slot := self._leases.first_ready(shard):
            first = acks.next_unacked(slot.first)
            if first >= slot.end:
                self._leases.drop(slot)
                continue
            if first > slot.first:
                self._leases.trim(slot, first)
            return slot
        return None

    def _take_ready(self, shard: int, most: int) -> Slot | None:
        acks = self._windows[shard].acks
        while slot := self.next_ready(shard):
            while slot.end - slot.first < most:
                right = self._leases.at(shard, slot.end)
                if right is None or right.fate is not slot.fate or right.attempt != slot.attempt:
                    break
                self._leases.join(slot, right)
            # An ack may come at any moment, between two looks at the bitmap too.
            runs = acks.unacked_runs(slot.first, slot.end, 1)
            if not runs or runs[0][0] != slot.first:
                continue
            end = min(runs[0][1], slot.first + most)
            if end < slot.end:
                self._leases.split(slot, end)
            return slot
        return None

    def _take_new(self, shard: int, most: int, consumer: str) -> Slot | None:
        window = self._windows[shard]
        count = min(window.room(), most)
        if count == 0:
            if window.tail <= window.next:
                del self._turns[shard]
            return None
        first, end = window.take(count)
        del self._turns[shard]
        self._turns[shard] = None
        self._open.setdefault(shard)
        return self._leases.grant(shard, first, end, consumer)

    def check_invariants(self) -> None:
        super().check_invariants()
        for shard, window in self._windows.items():
            assert shard in self._turns or window.tail <= window.next
            assert shard in self._open or not window.outstanding()
