"""Who holds what: leases confirmed, given back, prolonged and timed out.

The rules of a delivery's life. Records that were handed out count as an attempt when they come
back, whatever the way, and `retry` says what becomes of them; records that were only reserved come
back as if nothing had happened.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from hstreamlite.sub.ackmap import Run
from hstreamlite.sub.checkpoint import AttemptRun, KeptShard
from hstreamlite.sub.effects import Doomed
from hstreamlite.sub.leases import WAITING, Fate, Leases, Slot
from hstreamlite.sub.limits import TIME_MAX_NS, Limits
from hstreamlite.sub.loads import Loads
from hstreamlite.sub.numbering import Numbering
from hstreamlite.sub.retry import Cause, fate_of
from hstreamlite.sub.window import Window

NOBODY: Final = ""
"""Who holds what a call that was struck has lost sight of."""


class Custody:
    """Moves slots between consumers and the records that wait to be sent again."""

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
        self._leases = Leases(numbers)

    def restore(self, window: Window, kept: KeptShard) -> None:
        """Take over what was delivered of a shard: it comes again, or is doomed."""
        for first, end, count in kept.delivered_counts():
            slot = self._leases.put(window.shard, first, end, count + 1)
            if count:
                self.judge(slot, count, Cause.RESTART, 0)
            else:
                window.acks.hold(first, end)
                window.saved_zeros = True

    def mend(self, now: int) -> None:
        """Have every unacked record in a slot again, after a call was struck amid the tables.

        What is in none any more counts as in flight from now on, nobody knows where.
        """
        self._leases.relink()
        for window in self._windows.values():
            shard, acks = window.shard, window.acks
            for slot in self._leases.of_shard(shard):
                if slot.attempt == 1 and slot.fate is not Fate.IN_FLIGHT:
                    acks.hold(slot.first, slot.end)
                else:
                    acks.free(slot.first, slot.end)
            for gap in self._gaps(window):
                for first, end in acks.held_runs(*gap):
                    self._leases.put(shard, first, end, 1)
            for gap in self._gaps(window):
                for first, end in acks.unacked_runs(*gap):
                    slot = self._leases.grant(shard, first, end, NOBODY)
                    self._leases.confirm(slot, now + self._limits.ack_timeout_ns)
            self._changed.add(shard)

    def _gaps(self, window: Window) -> list[Run]:
        """Return what lies between slots and notes."""
        runs = self._leases.notes_of_shard(window.shard)
        runs += [(slot.first, slot.end) for slot in self._leases.of_shard(window.shard)]
        found, at = [], window.low
        for first, end in sorted([*runs, (window.next, window.next)]):
            if first > at:
                found.append((at, first))
            at = max(at, end)
        return found

    def forget(self, shard: int) -> None:
        """Drop all that is known of a shard: it is gone, or delivered anew from elsewhere."""
        self._leases.remove_shard(shard)

    def pass_over(self, window: Window, low: int, first_kept: int) -> None:
        """Drop what lies in ``[low, first_kept)``, which does not exist any more."""
        for slot in list(self._leases.within(window.shard, low, first_kept)):
            if slot.end <= first_kept:
                self._leases.drop(slot)
            else:
                self._leases.trim(slot, first_kept)

    def first_in_flight(self, window: Window, end: int) -> int | None:
        """Return the first unacked LSN below ``end`` that is at a consumer."""
        low = window.low
        for slot in self._leases.within(window.shard, low, end):
            if slot.fate is Fate.IN_FLIGHT:
                lsn = window.acks.next_unacked(max(slot.first, low))
                if lsn < slot.end:
                    return lsn
        return None

    def confirm(self, lease: int, end: int, now: int, sizes: Sequence[int]) -> Run | None:
        """Start the deadline of a lease's records below ``end``; give back the rest.

        ``sizes`` are those of the last ones before ``end``; of these goes out what the windows in
        bytes have room for.
        """
        slot = self._leases.reserved(lease)
        if slot is None:
            return None
        if sizes and slot.consumer is not None:
            sizes = sizes[max(0, slot.first - (end - len(sizes))) :]
            end = min(end, slot.first + self._loads.fitting(slot.consumer, sizes))
            self._loads.reserve(slot.shard, end)
        if end <= slot.first:
            self._leases.shelve(slot, slot.attempt, now, now)
            return None
        if end < slot.end:
            self._leases.split(slot, end)
        window = self._windows[slot.shard]
        window.acks.free(slot.first, slot.end)
        if slot.attempt > 1 or window.saved_zeros:
            self._changed.add(slot.shard)
        if sizes and slot.consumer is not None:
            self._loads.hand(slot.consumer, slot.shard, slot.first, sizes[: slot.end - slot.first])
        deadline = now + self._limits.ack_timeout_ns
        if not self._leases.fold(slot, deadline):
            self._leases.confirm(slot, deadline)
        return slot.first, slot.end

    def take_back(
        self, slot: Slot, cause: Cause, now: int, after_ns: int | None = None, reason: str = ""
    ) -> None:
        """Take a slot from its consumer; ``after_ns`` and ``reason`` go before what the cause says.

        One that was only reserved is ready again.
        """
        if slot.fate is Fate.RESERVED:
            self._leases.shelve(slot, slot.attempt, now, now)
            return
        self._changed.add(slot.shard)
        self._loads.take(slot.shard, slot.first, slot.end)
        self.judge(slot, slot.attempt, cause, now, after_ns, reason)

    def judge(
        self,
        slot: Slot,
        attempt: int,
        cause: Cause,
        now: int,
        after_ns: int | None = None,
        reason: str = "",
    ) -> None:
        """Let a slot that was delivered ``attempt`` times wait for another, or doom it."""
        fate, due_ns = fate_of(self._limits.retry, attempt, cause, now, after_ns)
        if fate is Fate.DOOMED:
            self._leases.doom(slot, attempt + 1, reason or cause.value)
        else:
            self._leases.shelve(slot, attempt + 1, due_ns, now)

    def take_all_back(self, consumer: str, cause: Cause, now: int) -> int:
        """Take back what a consumer holds; return how many of the records are unacked."""
        slots = self._leases.of_consumer(consumer)
        for slot in slots:
            self.take_back(slot, cause, now)
        return self._unacked_of(slots)

    def expire(self, now: int) -> None:
        """Take back what is past its deadline, and let delayed records be ready."""
        for slot in self._leases.due(now):
            if slot.fate is Fate.DELAYED:
                self._leases.shelve(slot, slot.attempt, now, now)
            elif self._unacked_of([slot]):
                self.take_back(slot, Cause.TIMEOUT, now)
            else:
                self._leases.drop(slot)

    def held_by(self, consumer: str, shard: int, first: int, end: int) -> bool:
        """Tell whether a consumer holds all of ``[first, end)``, none of it acked."""
        at = first
        for slot in self._leases.within(shard, first, end):
            if slot.first > at or slot.fate is not Fate.IN_FLIGHT or slot.consumer != consumer:
                return False
            at = slot.end
        return at >= end and self._windows[shard].acks.count_unacked(first, end) == end - first

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
        slots = self._held(consumer, shard, *run)
        for slot in slots:
            self.take_back(slot, Cause.RELEASED, now, after_ns, reason)
        return self._unacked_of(slots)

    def unsend(self, consumer: str, shard: int, run: Run, now: int) -> int:
        """Take back what the consumer holds of a run, as if it had never been handed out."""
        slots = self._held(consumer, shard, *run)
        for slot in slots:
            self._changed.add(shard)
            self._loads.take(shard, slot.first, slot.end)
            if slot.attempt == 1:
                self._windows[shard].acks.hold(slot.first, slot.end)
            self._leases.shelve(slot, slot.attempt, now, now)
        return self._unacked_of(slots)

    def extend(self, consumer: str, shard: int, run: Run, deadline_ns: int) -> int:
        """Move earlier deadlines of what the consumer holds of a run; return how many records."""
        slots = self._held(consumer, shard, *run)
        for slot in slots:
            self._leases.confirm(slot, max(slot.due_ns or 0, deadline_ns))
        return self._unacked_of(slots)

    def doomed(self, limit: int) -> tuple[Doomed, ...]:
        """Return the unacked runs that are to be moved, longest doomed first."""
        found: list[Doomed] = []
        for slot in self._leases.doomed():
            runs = self._windows[slot.shard].acks.unacked_runs(slot.first, slot.end, limit)
            if not runs:
                self._leases.drop(slot)
            for first, end in runs:
                stop = min(end, first + limit)
                found.append(Doomed(slot.shard, first, stop, slot.attempt - 1, slot.reason))
                limit -= stop - first
                if not limit:
                    return tuple(found)
        return tuple(found)

    def is_doomed(self, shard: int, first: int, end: int) -> bool:
        """Tell whether all of ``[first, end)`` is doomed and none of it acked."""
        at = first
        for slot in self._leases.touched_within(shard, first, end):
            if slot.first > at or slot.fate is not Fate.DOOMED:
                return False
            at = slot.end
        return at >= end and self._windows[shard].acks.count_unacked(first, end) == end - first

    def put_off(self, shard: int, lsn: int) -> None:
        """Let the doomed run that holds a record be the last of them."""
        for slot in self._leases.touched_within(shard, lsn, lsn + 1):
            if slot.fate is Fate.DOOMED:
                self._leases.put_off(slot)

    @property
    def dooms(self) -> int:
        return self._leases.dooms

    def next_due(self) -> int | None:
        """Return when something is due: a deadline, or the end of a delay."""
        return self._leases.next_due()

    def undelivered(self, window: Window) -> int:
        """Return how many unacked records below ``next`` were never handed out."""
        return window.acks.state.held

    def undelivered_below(self, window: Window, end: int) -> int:
        """Return how many unacked records below ``end`` were never handed out."""
        return sum(stop - first for first, stop in window.acks.held_runs(window.low, end))

    def history(
        self, window: Window, acked: list[Run], *, full: bool
    ) -> tuple[list[AttemptRun], bool]:
        """Return runs of records with the number of their deliveries, and whether to forget others.

        ``acked`` is what was acked since the last time.
        """
        self.drop_done(window, acked)
        state = window.acks.state
        self.settle(window, state.low)
        redo = full or window.shard in self._changed or state.held > 0 or window.saved_zeros
        attempts = self.attempts_of(window) if redo else []
        window.saved_zeros = any(count == 0 for _, _, count in attempts)
        return attempts, redo

    def piece(self, window: Window) -> bytes | None:
        """Return what changed since the last time as a piece to be stored, and count it as saved;
        empty if nothing did, None if `history` has more to say."""
        return window.save_acks() if self._plain(window) else None

    def arm(self, window: Window) -> None:
        """Let acks of a shard store themselves, if there is nothing else to store."""
        if self._plain(window):
            window.arm()

    def _plain(self, window: Window) -> bool:
        """Tell whether `history` would have nothing to say of a shard but what it holds."""
        return not (
            window.saved_zeros
            or window.shard in self._changed
            or self._leases.first_of(window.shard)
        )

    def settle(self, window: Window, low: int) -> None:
        """Drop what lies below ``low``, all of it acked."""
        self._leases.settle(window.shard, low)

    def drop_done(self, window: Window, acked: list[Run]) -> None:
        """Drop what has no unacked record left, looking where something was acked."""
        seen = 0
        for first, end in acked if self._leases.first_of(window.shard) else ():
            for slot in list(self._leases.touched_within(window.shard, max(first, seen), end)):
                seen = slot.end
                if not window.acks.count_unacked(slot.first, slot.end):
                    self._leases.drop(slot)

    def attempts_of(self, window: Window) -> list[AttemptRun]:
        """Return the runs whose records were not delivered exactly once."""
        low = window.low
        runs = []
        for slot in self._leases.of_shard(window.shard):
            count = slot.attempt - (slot.fate is not Fate.IN_FLIGHT)
            if count != 1 and slot.end > low:
                runs.append((max(slot.first, low), slot.end, count))
        return runs

    def count_waiting(self) -> tuple[int, int]:
        """Return how many unacked records wait to be sent again, and how many are doomed."""
        waiting = doomed = 0
        for window in self._windows.values():
            for slot in self._leases.of_shard(window.shard):
                if slot.fate in WAITING:
                    waiting += window.acks.count_unacked(slot.first, slot.end)
                elif slot.fate is Fate.DOOMED:
                    doomed += window.acks.count_unacked(slot.first, slot.end)
        return waiting, doomed

    def in_flight_of(self, consumer: str) -> list[tuple[int, int, int, int, int]]:
        """Return (due_ns, shard, first unacked LSN, end, unacked) of each run that is out."""
        held = [
            (slot.due_ns or 0, slot.shard, slot.first, slot.end)
            for slot in self._leases.at_consumer(consumer)
            if slot.fate is Fate.IN_FLIGHT
        ]
        found = []
        for due_ns, shard, first, end in held + self._leases.noted(consumer):
            acks = self._windows[shard].acks
            count = acks.count_unacked(first, end)
            if count:
                found.append((due_ns, shard, acks.next_unacked(first), end, count))
        return found

    def due_of(self, shard: int, lsn: int) -> int:
        """Return when a record is due, the end of time if it is not in flight or delayed."""
        for slot in self._leases.within(shard, lsn, lsn + 1):
            return TIME_MAX_NS if slot.due_ns is None else slot.due_ns
        return TIME_MAX_NS

    def check_invariants(self) -> None:
        self._leases.check_invariants()
        for window in self._windows.values():
            self._check_cover(window)

    def _check_cover(self, window: Window) -> None:
        """Every unacked record is in one slot; held are those that were never handed out."""
        state = window.acks.state
        covered = sum(
            window.acks.count_unacked(first, end)
            for first, end in self._leases.notes_of_shard(window.shard)
        )
        held = 0
        for slot in self._leases.of_shard(window.shard):
            assert slot.end <= state.next, slot
            unacked = window.acks.count_unacked(slot.first, slot.end)
            covered += unacked
            if slot.attempt == 1 and slot.fate is not Fate.IN_FLIGHT:
                held += unacked
        assert covered == state.next - state.low - state.acked, window.shard
        assert held == state.held, window.shard

    def _held(self, consumer: str, shard: int, first: int, end: int) -> list[Slot]:
        """Cut out the slots that hold exactly what the consumer has in flight of a run."""
        acks = self._windows[shard].acks
        held = []
        for slot in list(self._leases.within(shard, first, end)):
            if slot.consumer != consumer or slot.fate is not Fate.IN_FLIGHT:
                continue
            if not acks.count_unacked(max(slot.first, first), min(slot.end, end)):
                continue
            part = slot if slot.first >= first else self._leases.split(slot, first)
            if part.end > end:
                self._leases.split(part, end)
            held.append(part)
        return held

    def _unacked_of(self, slots: list[Slot]) -> int:
        return sum(self._windows[s.shard].acks.count_unacked(s.first, s.end) for s in slots)
