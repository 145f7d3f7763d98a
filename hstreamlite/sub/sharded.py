"""Who gets what in mode "ordered" where the shard is kept in order: whole batches, in log order.

All records of a shard are of one key, so the rules of `OrderedDispatcher` are all there are: what
is in flight of a shard is at one consumer, and whoever comes first when nothing is gets the next.
What came back goes out again first, with all behind it; acks that come late count all the same.

Here is what keys have by their number: a share for everybody. While another waits that has fewer, a
consumer gets no more of what it holds beyond its share of the shards at work: these run empty, and
go to the other.

Batches are told by the shell as their ends, ahead of the hand-out. Who takes batches gets them
whole, each if there is room for a record when those before it are out; others get records as they
ask for them.
"""

from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from struct import pack

from hstreamlite.sub.effects import Parcel
from hstreamlite.sub.limits import Limits
from hstreamlite.sub.loads import Loads
from hstreamlite.sub.numbering import Numbering
from hstreamlite.sub.ordered import TAKE_MAX, OrderedDispatcher
from hstreamlite.sub.window import Window

_KEY = pack("<Q", 1)
AGAIN_MAX = 1024
"""Records that go out again at a time, or as many as a batch has."""


class ShardDispatcher(OrderedDispatcher):
    """Spreads shards over consumers."""

    late_acks = True

    def __init__(
        self,
        limits: Limits,
        windows: Mapping[int, Window],
        changed: set[int],
        loads: Loads,
        numbers: Numbering,
    ) -> None:
        super().__init__(limits, windows, changed, loads, numbers)
        self._ends: dict[int, deque[int]] = {}
        self._largest = AGAIN_MAX
        self._holders: dict[int, str] = {}
        self._waiting: Callable[[], tuple[str, ...]] = tuple
        self._attached: Callable[[], int] = int

    def meet(self, waiting: Callable[[], tuple[str, ...]], attached: Callable[[], int]) -> None:
        """Learn who waits for records, and how many consumers there are."""
        self._waiting = waiting
        self._attached = attached

    # Shards and batches

    def adopt(self, window: Window) -> None:
        super().adopt(window)
        self._ends[window.shard] = deque()

    def forget(self, shard: int) -> None:
        super().forget(shard)
        self._ends.pop(shard, None)
        self._holders.pop(shard, None)

    def describe_batches(self, shard: int, first: int, ends: list[int]) -> None:
        """Take in where the batches from ``first`` on end; nothing where that is known already."""
        table = self._tables.get(shard)
        if table is None or table.state.described != first or not ends:
            return
        self.describe(shard, first, _KEY * (ends[-1] - first))
        self._ends[shard].extend(ends)
        for start, end in zip([first, *ends], ends, strict=False):
            self._largest = max(self._largest, end - start)

    # The hatch

    def hatch(self) -> None:
        """Return None: who gets more of a shard depends on who else waits."""

    # Shares

    def _in_hand(self, shard: int) -> bool:
        """Tell whether somebody has unacked records of a shard."""
        state = self._tables[shard].state
        return self._windows[shard].outstanding() > state.fresh + state.again

    def _at_work(self, shard: int) -> bool:
        window, state = self._windows[shard], self._tables[shard].state
        return window.outstanding() > 0 or window.tail > state.scan

    def _held(self) -> dict[int, str]:
        """Return who has something of which shard, longest first."""
        for shard in [shard for shard in self._holders if not self._in_hand(shard)]:
            del self._holders[shard]
        return self._holders

    def _allowed(self, consumer: str) -> list[int]:
        """Return the shards from which a consumer may get more, in turn."""
        held = self._held()
        mine = [shard for shard, holder in held.items() if holder == consumer]
        room = max(0, self._limits.max_unacked - self.outstanding())
        free = [shard for shard in self._turns if shard not in held and self._ready(shard, 0, room)]
        rivals = [name for name in self._waiting() if name != consumer]
        if rivals:
            counts = dict.fromkeys(rivals, 0)
            for holder in held.values():
                if holder in counts:
                    counts[holder] += 1
            working = sum(map(self._at_work, self._tables))
            share = -(-working // max(1, self._attached()))
            if min(counts.values()) < share:
                free = free[: max(0, share - len(mine))]
                mine = mine[:share]
        return [shard for shard in self._turns if shard in mine or shard in free]

    def owned(self) -> bool:
        """Tell whether there may be something that only its holder may get."""
        return bool(self._held())

    def can_assign(self, consumer: str) -> bool:
        """Tell whether `assign` would find something for the consumer, or look further."""
        if self._loads.full() or self.quota(consumer) == 0:
            return False
        room = max(0, self._limits.max_unacked - self.outstanding())
        number = self._numbers.of(consumer)
        return any(self._ready(shard, number, room) for shard in self._allowed(consumer))

    def _ready(self, shard: int, number: int, room: int) -> bool:
        """Tell whether a consumer would get something of a shard, or look further there."""
        return self._tables[shard].ready(number, room, self._reach(shard))

    # Dispatch

    def _behind(self, shard: int) -> int:
        """Return how many records wait that the key table has a place for.

        Some of them may be held, and all others then are, so it is of no use to look further.
        """
        window, state = self._windows[shard], self._tables[shard].state
        ahead = 0
        if state.scan < window.next:  # restored, and not looked at since
            ahead = window.acks.count_unacked(state.scan, window.next)
        return state.fresh + state.again - ahead

    def _reach(self, shard: int) -> int:
        """Return the LSN below which records of a shard may be handed out next."""
        if self._behind(shard):
            return self._tables[shard].state.scan
        return self._end(self._windows[shard])

    def assign(self, consumer: str, max_records: int) -> tuple[Parcel, ...]:
        """Reserve up to ``max_records`` for a consumer, in order of sending."""
        left = 0 if self._loads.full() else min(max_records, self.quota(consumer), TAKE_MAX)
        room = max(0, self._limits.max_unacked - self.outstanding())
        parcels = []
        for shard in self._allowed(consumer):
            if left == 0:
                break
            parcel, first = self._take(shard, consumer, left, room, self._reach(shard))
            if parcel is not None:
                left -= parcel.records
                room -= first
                parcels.append(parcel)
        return tuple(parcels)

    def assign_batches(self, batches: int, consumer: str, max_records: int) -> tuple[Parcel, ...]:
        """Reserve so many batches of one shard for a consumer, or some of what comes again: those
        that begin within ``max_records``, and one at least."""
        quota = 0 if self._loads.full() else self.quota(consumer)
        if quota == 0:
            return ()
        room = min(self._limits.max_unacked - self.outstanding(), quota)
        for shard in self._allowed(consumer):
            if waiting := min(self._behind(shard), max(self._largest, max_records)):
                fresh = waiting if room > 0 else 0  # of batches that were reserved before
                parcel, _ = self._take(shard, consumer, waiting, fresh, self._reach(shard))
            else:
                parcel = self._take_batches(shard, consumer, batches, min(room, max_records))
            if parcel is not None:
                return (parcel._replace(room=room) if room > 0 else parcel,)
        return ()

    def _take_batches(self, shard: int, consumer: str, batches: int, room: int) -> Parcel | None:
        """Reserve the rest of the batch that comes next, and those behind it that begin within
        ``room`` records; without room what was out before it was restored."""
        table = self._tables[shard]
        behind = self._end(self._windows[shard])
        if room <= 0 and not table.ready(0, 0, behind):
            return None
        scan = table.state.scan
        ends = self._ends[shard]
        while ends and ends[0] <= scan:
            ends.popleft()
        end = scan
        for at in islice(ends, batches):
            if end >= behind or (end > scan and end - scan >= room):
                break
            end = at
        if end == scan:
            return None
        return self._take(shard, consumer, end - scan, end - scan if room > 0 else 0, end)[0]

    def _take(
        self, shard: int, consumer: str, most: int, fresh: int, end: int
    ) -> tuple[Parcel | None, int]:
        """Reserve records below ``end``, and tell how many of them were never handed out."""
        number = self._numbers.of(consumer)
        table = self._tables[shard]
        records, first, parcel, runs = table.take(number, 0, most, fresh, end)
        while records < most and table.state.scan < end:  # it looks so far at a time
            before = table.state.scan
            more, new, parcel, runs = table.take(number, parcel, most - records, fresh - first, end)
            records, first = records + more, new
            if table.state.scan == before:
                break
        if not runs:
            return None, 0
        self._turns.remove(shard)
        self._turns.append(shard)
        self._holders.setdefault(shard, consumer)
        return self._reserve(shard, parcel, consumer, runs, records), first

    def check_invariants(self) -> None:
        super().check_invariants()
        for shard, holder in self._held().items():
            assert shard in self._tables
            assert self._tables[shard].count(self._numbers.of(holder))
        for ends in self._ends.values():
            assert list(ends) == sorted(set(ends))
