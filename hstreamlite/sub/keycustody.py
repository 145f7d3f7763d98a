"""Who holds what where records of a key stay in order: what comes back, and what is stored of it.

The native key table of each shard keeps the parcels: the records that went out together, with their
deadline. What comes back takes the later records of its key with it. These do not count as tried in
vain: only what times out first of its key, or is released by name, waits for its back-off, or is
doomed. A delayed or doomed record holds what follows of its key.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from sortedcontainers import SortedList

from hstreamlite._native import fast
from hstreamlite.sub.ackmap import Run
from hstreamlite.sub.checkpoint import AttemptRun, KeptShard
from hstreamlite.sub.effects import Doomed, Parcel
from hstreamlite.sub.keytab import KeyHead, KeyRun, KeyTable, runs_of
from hstreamlite.sub.leases import Fate
from hstreamlite.sub.limits import TIME_MAX_NS, Limits
from hstreamlite.sub.loads import Loads
from hstreamlite.sub.numbering import Numbering
from hstreamlite.sub.retry import ENDLESS, Cause, fate_of
from hstreamlite.sub.window import Window


class _Reserved(NamedTuple):
    """A parcel of a key table that nobody has got yet."""

    shard: int
    parcel: int
    consumer: str
    runs: bytes


class KeyCustody:
    """Moves records between consumers and their keys; with the same methods as `Custody`."""

    def __init__(
        self,
        limits: Limits,
        windows: Mapping[int, Window],
        changed: set[int],
        loads: Loads,
        numbers: Numbering,
    ) -> None:
        self._limits = limits
        self._loads = loads
        self._windows = windows
        self._changed = changed
        self._tables: dict[int, KeyTable] = {}
        self._serial = 0
        self._reserved: dict[int, _Reserved] = {}
        self._numbers = numbers
        self._hatches: dict[int, fast.KeyHatch] = {}
        self._delays: SortedList[tuple[int, int, int]] = SortedList()
        self._delayed: dict[tuple[int, int], int] = {}
        self._doomed: dict[tuple[int, int], tuple[int, str]] = {}
        self._damaged: dict[tuple[int, int], None] = {}
        self.dooms = 0
        self._unsent: set[int] = set()

    def restore(self, window: Window, kept: KeptShard) -> None:
        """Take over what was delivered of a shard: it comes again in its turn, or is doomed."""
        state = window.acks.state
        counts = kept.counts()
        doom_at = self._limits.retry.max_attempts
        self._tables[window.shard].restore(counts.tobytes(), doom_at)
        _hold_undelivered(window, counts)
        if doom_at:
            for lsn, count in enumerate(counts, state.low):
                if count >= doom_at:
                    self._doom(window.shard, lsn, count, Cause.RESTART.value)

    def mend(self, now: int) -> None:
        """Let everything be sent again some time, after a call was struck amid the tables.

        What a consumer has reserved in a call that was struck comes back when that consumer leaves.
        """
        del now
        self._delays = SortedList((due_ns, *key) for key, due_ns in self._delayed.items())
        for shard, table in self._tables.items():
            for first, end, _ in table.attempts(self._windows[shard].low):
                for lsn in range(first, end):
                    key = shard, lsn
                    if not (key in self._delayed or key in self._doomed or key in self._damaged):
                        table.wake(lsn)

    def forget(self, shard: int) -> None:
        """Drop all that is known of a shard: it is gone, or delivered anew from elsewhere."""
        for lease in [lease for lease, part in self._reserved.items() if part.shard == shard]:
            del self._reserved[lease]
        self.close_hatch()
        self._tables.pop(shard, None)
        for key in [key for key in self._delayed if key[0] == shard]:
            self._undelay(*key)
        for key in [key for key in self._doomed if key[0] == shard]:
            del self._doomed[key]
        for key in [key for key in self._damaged if key[0] == shard]:
            del self._damaged[key]

    def pass_over(self, window: Window, low: int, first_kept: int) -> None:
        """Drop what lies in ``[low, first_kept)``: the key table finds that by itself."""

    def first_in_flight(self, window: Window, end: int) -> int | None:
        """Return the first unacked LSN below ``end`` that is at a consumer."""
        return self._tables[window.shard].first_out(end)

    def close_hatch(self) -> None:
        """Let nothing be taken: what is decided next must not go out meanwhile."""
        for hatch in self._hatches.values():
            hatch.close()

    def _reserve(self, shard: int, parcel: int, consumer: str, runs: bytes, records: int) -> Parcel:
        self._serial += 1
        self._reserved[self._serial] = _Reserved(shard, parcel, consumer, runs)
        return Parcel(shard, runs, records, self._serial)

    def _count(self, consumer: str) -> int:
        """Return how many records a consumer has, reserved or out."""
        number = self._numbers.of(consumer)
        return sum(table.count(number) for table in self._tables.values())

    def confirm_parcel(
        self, lease_id: int, count: int, now: int, sizes: Sequence[int]
    ) -> tuple[int, bytes]:
        """Start the deadline of a parcel's first ``count`` records; give back the rest.

        Of those whose ``sizes`` are given goes out what the windows in bytes have room for.
        """
        part = self._reserved.get(lease_id)
        if part is None:
            return 0, b""
        offered = runs_of(part.runs) if sizes else []
        if sizes:
            count = self._loads.fitting(part.consumer, sizes[:count])
            self._loads.reserve(part.shard, max(run.first + run.size for run in offered))
        due_ns = now + self._limits.ack_timeout_ns
        records, runs = self._tables[part.shard].confirm(part.parcel, count, due_ns)
        del self._reserved[lease_id]
        if sizes:
            size_of = dict(zip(_lsns(offered), sizes, strict=False))
            for run in runs_of(runs):
                of_run = [size_of[lsn] for lsn in _lsns([run])]
                self._loads.hand(part.consumer, part.shard, run.first, of_run)
        return records, runs

    def _judge(
        self,
        shard: int,
        heads: list[KeyHead],
        cause: Cause,
        now: int,
        after_ns: int | None = None,
        reason: str = "",
    ) -> None:
        """Let records that came back wait for their next delivery, or doom them."""
        if self._limits.retry == ENDLESS and not after_ns:
            return
        for head in heads:
            failures = max(1, head.failures)
            fate, due_ns = fate_of(self._limits.retry, failures, cause, now, after_ns)
            if fate is Fate.READY or not self._tables[shard].delay(head.lsn):
                continue
            if fate is Fate.DOOMED:
                self._doom(shard, head.lsn, head.attempts, reason or cause.value)
            else:
                self._undelay(shard, head.lsn)
                self._delayed[shard, head.lsn] = due_ns
                self._delays.add((due_ns, shard, head.lsn))

    def _undelay(self, shard: int, lsn: int) -> None:
        due_ns = self._delayed.pop((shard, lsn), None)
        if due_ns is not None:
            self._delays.remove((due_ns, shard, lsn))

    def _doom(self, shard: int, lsn: int, attempts: int, reason: str) -> None:
        self._doomed[shard, lsn] = attempts, reason
        self.dooms += 1

    def take_all_back(self, consumer: str, cause: Cause, now: int) -> int:
        """Take back what a consumer holds; return how many of the records are unacked.

        After a MemoryError it holds what is left: so it can be done again.
        """
        number = self._numbers.of(consumer)
        count = self._count(consumer)
        for lease in [lease for lease, part in self._reserved.items() if part.consumer == consumer]:
            del self._reserved[lease]
        for shard, table in self._tables.items():
            while back := table.take_back_of(number):
                self._judge(shard, back[1] if back[0] else [], cause, now)
        return count

    def expire(self, now: int) -> None:
        """Take back what is past its deadline, and let delayed records be ready."""
        for shard, table in self._tables.items():
            due_ns = table.next_due()
            if due_ns is not None and due_ns <= now:
                self.close_hatch()
            while back := table.take_back_due(now):
                self._judge(shard, back[1], Cause.TIMEOUT, now)
        while self._delays and self._delays[0][0] <= now:
            self.close_hatch()
            _, shard, lsn = self._delays[0]
            self._undelay(shard, lsn)
            self._tables[shard].wake(lsn)

    def release(
        self,
        consumer: str,
        shard: int,
        run: Run,
        now: int,
        after_ns: int | None = None,
        reason: str = "",
    ) -> int:
        """Take back what the consumer holds of a run; return how many records that is."""
        self.close_hatch()
        count, heads = self._tables[shard].release(self._numbers.of(consumer), *run)
        self._judge(shard, heads, Cause.RELEASED, now, after_ns, reason)
        return count

    def unsend(self, consumer: str, shard: int, run: Run, now: int) -> int:
        """Take back what the consumer holds of a run, as if it had never been handed out."""
        del now
        count, records = self._tables[shard].unsend(self._numbers.of(consumer), *run)
        if records:
            self._unsent.add(shard)
            self._changed.add(shard)
        return count

    def extend(self, consumer: str, shard: int, run: Run, deadline_ns: int) -> int:
        """Move earlier deadlines of what the consumer holds of a run; return how many records."""
        return self._tables[shard].extend(self._numbers.of(consumer), *run, deadline_ns)

    def held_by(self, consumer: str, shard: int, first: int, end: int) -> bool:
        """Tell whether a consumer holds all of ``[first, end)``, none of it acked."""
        return self._tables[shard].holds(self._numbers.of(consumer), first, end)

    def doomed(self, limit: int) -> tuple[Doomed, ...]:
        """Return the unacked records that are to be moved, longest doomed first."""
        found = []
        for (shard, lsn), (attempts, reason) in list(self._doomed.items()):
            if not self._tables[shard].expose(lsn):
                del self._doomed[shard, lsn]
                continue
            found.append(Doomed(shard, lsn, lsn + 1, attempts, reason))
            if len(found) == limit:
                break
        return tuple(found)

    def is_doomed(self, shard: int, first: int, end: int) -> bool:
        """Tell whether all of ``[first, end)`` is doomed and none of it acked.

        The acks that follow at once count, also of what an earlier record of its key held again.
        """
        return all(
            (shard, lsn) in self._doomed and self._tables[shard].expose(lsn)
            for lsn in range(first, end)
        )

    def put_off(self, shard: int, lsn: int) -> None:
        """Let a doomed record be the last of them."""
        key = shard, lsn
        if key in self._doomed:
            self._doomed[key] = self._doomed.pop(key)

    def damaged(self) -> list[tuple[int, int, int]]:
        """Return (shard, first, end) of unacked records that were set aside."""
        found: list[tuple[int, int, int]] = []
        for shard, lsn in sorted(self._damaged):
            if not self._windows[shard].acks.count_unacked(lsn, lsn + 1):
                del self._damaged[shard, lsn]
            elif found and found[-1][0] == shard and found[-1][2] == lsn:
                found[-1] = (shard, found[-1][1], lsn + 1)
            else:
                found.append((shard, lsn, lsn + 1))
        return found

    def undelivered(self, window: Window) -> int:
        """Return how many unacked records below ``next`` were never handed out."""
        table = self._tables[window.shard]
        reserved = sum(  # others were taken back with their key
            table.fresh_in(part.parcel)
            for part in self._reserved.values()
            if part.shard == window.shard
        )
        return table.state.fresh + reserved

    def undelivered_below(self, window: Window, end: int) -> int:
        """Return how many unacked records below ``end`` were never handed out."""
        handed = self._tables[window.shard].attempts(window.low)
        unacked = window.acks.count_unacked(window.low, end)
        delivered = sum(min(stop, end) - first for first, stop, _ in handed if first < end)
        return max(0, unacked - delivered)  # acks may come between the two

    def settle(self, window: Window, low: int) -> None:
        """Drop what lies below ``low``: leases go when they are swept."""

    def arm(self, window: Window) -> None:
        """Let acks of a shard store themselves, with what is handed out of it."""
        if window.shard not in self._changed:
            window.arm(self._tables[window.shard])

    def piece(self, window: Window) -> bytes | None:
        """Return what changed since the last time as a piece to be stored, and count it as saved;
        empty if nothing did, None if there is more to say."""
        if window.saved is None or window.shard in self._changed:
            return None
        drained = self._tables[window.shard].drain_piece(window.shard, *window.saved)
        if drained is None:
            return None
        piece, low, end = drained
        window.saved = window.generation, low, end
        return piece

    def history(
        self, window: Window, acked: list[Run], *, full: bool
    ) -> tuple[list[AttemptRun], bool]:
        """Return runs of records with the number of their deliveries, and whether to forget others.

        Those that were handed out since the last time, or all of them: what was taken back unseen
        was told as handed out before.
        """
        del acked
        table = self._tables[window.shard]
        low = window.low
        handed = table.handed(low)
        if full or window.shard in self._unsent:
            self._unsent.discard(window.shard)
            return table.attempts(low), True
        return handed, False

    def untold(self, shard: int) -> bool:
        """Tell whether records were handed out since `history` was asked."""
        return self._tables[shard].state.handed > 0

    def next_due(self) -> int | None:
        """Return when something is due: a deadline, or the end of a delay."""
        times = [table.next_due() for table in self._tables.values()]
        if self._delays:
            times.append(self._delays[0][0])
        return min((time for time in times if time is not None), default=None)

    def count_waiting(self) -> tuple[int, int]:
        """Return how many unacked records wait to be sent again, and how many are doomed."""
        doomed = sum(
            self._windows[shard].acks.count_unacked(lsn, lsn + 1) for shard, lsn in self._doomed
        )
        return sum(table.state.again for table in self._tables.values()) - doomed, doomed

    def in_flight_of(self, consumer: str) -> list[tuple[int, int, int, int, int]]:
        """Return (due_ns, shard, first unacked LSN, end, unacked) of each run that is out."""
        number = self._numbers.of(consumer)
        return [
            (due_ns, shard, first, end, unacked)
            for shard, table in self._tables.items()
            for due_ns, first, end, unacked in table.out(number)
        ]

    def due_of(self, shard: int, lsn: int) -> int:
        """Return when a record is due, the end of time if it is not in flight or delayed."""
        due_ns = self._tables[shard].due_of(lsn)
        return self._delayed.get((shard, lsn), TIME_MAX_NS) if due_ns is None else due_ns

    def check_invariants(self) -> None:
        for table in self._tables.values():
            table.check_invariants()
        assert sorted((due, *key) for key, due in self._delayed.items()) == list(self._delays)
        for part in self._reserved.values():
            assert self._numbers.of(part.consumer)


def _lsns(runs: Iterable[KeyRun]) -> Iterator[int]:
    """Yield the records of runs, in order of sending."""
    for run in runs:
        yield from range(run.first, run.first + run.size)


def _hold_undelivered(window: Window, counts: "array[int]") -> None:
    """Make acks of what was never handed out void."""
    low = window.acks.state.low
    first = None
    for lsn, count in enumerate(counts, low):
        if count == 0 and first is None:
            first = lsn
        elif count and first is not None:
            window.acks.hold(first, lsn)
            first = None
    if first is not None:
        window.acks.hold(first, low + len(counts))
