"""Leases: the records between first delivery and ack, as runs with one fate each.

A `Slot` is a run of LSNs of one shard that went out together and will come back together: in flight
at one consumer until a deadline, or waiting to be sent again (at once, or not before a time), or
doomed: delivered often enough, and to move to the dead-letter stream; or damaged: unreadable. So
deadlines cost one entry per delivered batch; only records that are released or extended one by
one get slots of their own. The slots of a shard never overlap, which is why a record cannot be in
flight at two consumers.

Slots do not know which of their records are acked: the bitmap does, and whoever sends a slot again
asks it. A slot may therefore outlive its records; `Window` drops such slots.

A slot in flight is confirmed once its records were really handed out; only then its deadline runs.

Most deliveries are the first of their records, and are acked before anything else happens to them.
These are no slots but notes of the shard's `Hatch`, 40 bytes each; whoever looks for slots where a
note is finds one made of it. So a note is a slot in flight, at attempt 1, that nobody touched yet.
"""

from collections.abc import Iterator
from enum import Enum
from itertools import pairwise, takewhile
from typing import cast

from sortedcontainers import SortedDict, SortedList

from hstreamlite._native import fast
from hstreamlite.sub.ackmap import LSN_MAX
from hstreamlite.sub.numbering import Numbering


class Fate(Enum):
    """What a slot waits for."""

    RESERVED = "reserved"
    IN_FLIGHT = "in flight"
    DELAYED = "delayed"
    READY = "ready"
    DOOMED = "doomed"
    DAMAGED = "damaged"


WAITING = frozenset({Fate.DELAYED, Fate.READY})
AT_CONSUMER = frozenset({Fate.RESERVED, Fate.IN_FLIGHT})


class Slot:
    """A run of records ``[first, end)`` of one shard with one fate.

    ``attempt`` is that of the delivery under way, or of the next one while the slot waits or is
    doomed; ``lease`` names the delivery and is shared by the parts of a slot that was split;
    ``reason`` tells why a doomed slot came back.
    """

    __slots__ = (
        "attempt",
        "consumer",
        "due_ns",
        "end",
        "fate",
        "first",
        "lease",
        "reason",
        "serial",
        "shard",
    )

    def __init__(self, serial: int, shard: int, first: int, end: int, attempt: int) -> None:
        self.serial = serial
        self.shard = shard
        self.first = first
        self.end = end
        self.attempt = attempt
        self.fate = Fate.READY
        self.lease = 0
        self.consumer: str | None = None
        self.due_ns: int | None = None
        self.reason = ""

    def __repr__(self) -> str:
        return (
            f"<{self.fate.value} {self.shard}:[{self.first}, {self.end}) attempt {self.attempt} "
            f"at {self.consumer} due {self.due_ns}>"
        )


class Leases:
    """All slots of a group, found by shard and LSN, by consumer, by lease and by time."""

    def __init__(self, numbers: Numbering) -> None:
        self._numbers = numbers
        self._serial = 0
        self._lease = 0
        self._by_shard: dict[int, SortedDict[int, Slot]] = {}
        self._ready: dict[int, SortedDict[int, Slot]] = {}
        self._by_consumer: dict[str, dict[int, Slot]] = {}
        self._reserved: dict[int, Slot] = {}
        self._doomed: dict[int, Slot] = {}
        self._damaged: dict[int, Slot] = {}
        self.dooms = 0
        self._timers: SortedList[tuple[int, int, Slot]] = SortedList()
        self._hatches: dict[int, fast.Hatch] = {}

    def __len__(self) -> int:
        notes = sum(len(hatch.notes(0, LSN_MAX, 0, False)) for hatch in self._hatches.values())
        return notes + sum(len(slots) for slots in self._by_shard.values())

    def add_hatch(self, shard: int, hatch: fast.Hatch) -> None:
        """Keep first deliveries of a shard as notes there."""
        self._hatches[shard] = hatch

    def hatch(self, shard: int) -> fast.Hatch | None:
        return self._hatches.get(shard)

    def fold(self, slot: Slot, deadline_ns: int) -> bool:
        """Make a note of a reserved slot, which is in flight with it; False if that cannot be."""
        hatch = self._hatches.get(slot.shard)
        number = self._numbers.of(slot.consumer or "")
        if hatch is None or slot.attempt > 1 or not number:
            return False
        if not hatch.note(slot.first, slot.end, deadline_ns, slot.lease, number):
            return False
        self.drop(slot)
        return True

    def _unfold(self, shard: int, first: int, end: int, consumer: int = 0) -> None:
        """Make slots of the notes that overlap ``[first, end)``."""
        hatch = self._hatches.get(shard)
        if hatch is not None:
            for note in hatch.notes(first, end, consumer, True):
                self._put_noted(shard, *note)

    def _put_noted(
        self, shard: int, first: int, end: int, due_ns: int, lease: int, number: int
    ) -> None:
        slot = self._new(shard, first, end, 1)
        slot.fate = Fate.IN_FLIGHT
        slot.due_ns = due_ns
        slot.lease = lease
        slot.consumer = self._numbers.names[number]
        self._place(slot)
        self._link(slot)

    def noted(self, consumer: str) -> list[tuple[int, int, int, int]]:
        """Return (due_ns, shard, first, end) of what a consumer has in flight that is no slot."""
        number = self._numbers.of(consumer)
        if not number:
            return []
        return [
            (due_ns, shard, first, end)
            for shard, hatch in self._hatches.items()
            for first, end, due_ns, _, _ in hatch.notes(0, LSN_MAX, number, False)
        ]

    def notes_of_shard(self, shard: int) -> list[tuple[int, int]]:
        """Return (first, end) of what is in flight and no slot."""
        hatch = self._hatches.get(shard)
        notes = hatch.notes(0, LSN_MAX, 0, False) if hatch is not None else []
        return [(first, end) for first, end, *_ in notes]

    def put(self, shard: int, first: int, end: int, attempt: int) -> Slot:
        """Add a run that is ready to be sent; it must not overlap another."""
        slot = self._new(shard, first, end, attempt)
        self._place(slot)
        self._link(slot)
        return slot

    def grant(self, shard: int, first: int, end: int, consumer: str) -> Slot:
        """Add a run of records never sent before, reserved for a consumer."""
        slot = self._new(shard, first, end, 1)
        self._place(slot)
        self._reserve(slot, consumer)
        return slot

    def _new(self, shard: int, first: int, end: int, attempt: int) -> Slot:
        self._serial += 1
        return Slot(self._serial, shard, first, end, attempt)

    def _place(self, slot: Slot) -> None:
        """Let a slot be found by what it holds: from then on `relink` keeps it."""
        slots = self._by_shard.get(slot.shard)
        if slots is None:
            self._ready[slot.shard] = SortedDict()
            slots = self._by_shard[slot.shard] = SortedDict()
        slots[slot.first] = slot

    def reserve(self, slot: Slot, consumer: str) -> None:
        """Give a waiting slot to a consumer under a new lease, without a deadline yet."""
        self._unlink(slot)
        self._reserve(slot, consumer)

    def _reserve(self, slot: Slot, consumer: str) -> None:
        self._lease += 1
        slot.lease = self._lease
        slot.fate = Fate.RESERVED
        slot.consumer = consumer
        self._link(slot)

    def confirm(self, slot: Slot, deadline_ns: int) -> None:
        """Start the deadline of a reserved slot, or move that of one in flight."""
        self._unlink(slot)
        slot.fate = Fate.IN_FLIGHT
        slot.due_ns = deadline_ns
        self._link(slot)

    def shelve(self, slot: Slot, attempt: int, due_ns: int, now: int) -> None:
        """Take a slot back from its consumer, to be sent again not before ``due_ns``."""
        self._unlink(slot)
        slot.consumer = None
        slot.lease = 0
        slot.attempt = attempt
        ready = due_ns <= now
        slot.fate = Fate.READY if ready else Fate.DELAYED
        slot.due_ns = None if ready else due_ns
        self._link(slot)

    def doom(self, slot: Slot, attempt: int, reason: str) -> None:
        """Take a slot back from its consumer, never to be sent again."""
        self._unlink(slot)
        slot.consumer = None
        slot.lease = 0
        slot.attempt = attempt
        slot.fate = Fate.DOOMED
        slot.due_ns = None
        slot.reason = reason
        self.dooms += 1
        self._link(slot)

    def put_off(self, slot: Slot) -> None:
        """Let a doomed slot be the last of them."""
        self._doomed[slot.serial] = self._doomed.pop(slot.serial)

    def set_aside(self, slot: Slot) -> None:
        """Keep a waiting slot, which cannot be read, until it is acked or gone."""
        self._unlink(slot)
        slot.due_ns = None
        slot.fate = Fate.DAMAGED
        self._link(slot)

    @property
    def any_damaged(self) -> bool:
        return bool(self._damaged)

    def damaged(self) -> list[Slot]:
        """Return the slots that were set aside."""
        return list(self._damaged.values())

    def split(self, slot: Slot, at: int) -> Slot:
        """Cut a slot in two with the same fate; return the part from ``at`` on.

        Of a reserved slot only the left part stays so: the right one is ready again.
        """
        assert slot.first < at < slot.end
        right = self._new(slot.shard, at, slot.end, slot.attempt)
        if slot.fate is not Fate.RESERVED:
            right.fate, right.lease = slot.fate, slot.lease
            right.consumer, right.due_ns = slot.consumer, slot.due_ns
            right.reason = slot.reason
        self._place(right)  # first: of slots that overlap, `relink` cuts off the left one
        slot.end = at
        self._link(right)
        return right

    def trim(self, slot: Slot, first: int) -> None:
        """Drop the records of a slot below ``first``."""
        assert slot.first < first < slot.end
        self._unlink(slot)
        before, slot.first = slot.first, first
        self._place(slot)
        del self._by_shard[slot.shard][before]
        self._link(slot)

    def join(self, slot: Slot, right: Slot) -> None:
        """Append a ready slot to the ready one that ends where it begins."""
        assert slot.end == right.first
        assert slot.attempt == right.attempt
        slot.end = right.end
        self.drop(right)

    def drop(self, slot: Slot) -> None:
        self._unlink(slot)
        del self._by_shard[slot.shard][slot.first]

    def remove_shard(self, shard: int) -> None:
        """Drop all slots of a shard, and its notes."""
        if shard in self._hatches:
            self._hatches[shard].clear()
        for slot in self.of_shard(shard):
            self.drop(slot)
        self._by_shard.pop(shard, None)
        self._ready.pop(shard, None)

    def relink(self) -> None:
        """Make all tables anew from those of the shards, after a call was struck amid them.

        What was reserved is ready again; what became a note is one.
        """
        found = {
            (slot.shard, slot.first): slot
            for slots in self._by_shard.values()
            for slot in dict.values(cast("dict[int, Slot]", slots))  # their order may have suffered
        }
        for shard in self._hatches:
            for first, _ in self.notes_of_shard(shard):
                found.pop((shard, first), None)
        by_shard: dict[int, SortedDict[int, Slot]] = {shard: SortedDict() for shard, _ in found}
        for (_, _), slot in sorted(found.items()):
            slots = by_shard[slot.shard]
            if slots:
                left = slots.peekitem()[1]
                left.end = min(left.end, slot.first)
            slots[slot.first] = slot
        self._by_shard = by_shard
        self._ready = {shard: SortedDict() for shard in by_shard}
        self._by_consumer, self._reserved = {}, {}
        self._doomed, self._damaged = {}, {}
        self._timers = SortedList()
        for slots in by_shard.values():
            for slot in slots.values():
                if slot.fate is Fate.RESERVED:
                    slot.fate, slot.consumer, slot.lease = Fate.READY, None, 0
                self._link(slot)

    def _link(self, slot: Slot) -> None:
        if slot.due_ns is not None:
            self._timers.add((slot.due_ns, slot.serial, slot))
        if slot.consumer is not None:
            self._by_consumer.setdefault(slot.consumer, {})[slot.serial] = slot
        if slot.fate is Fate.READY:
            self._ready[slot.shard][slot.first] = slot
        elif slot.fate is Fate.RESERVED:
            self._reserved[slot.lease] = slot
        elif slot.fate is Fate.DOOMED:
            self._doomed[slot.serial] = slot
        elif slot.fate is Fate.DAMAGED:
            self._damaged[slot.serial] = slot
        if slot.fate is not Fate.RESERVED and (hatch := self._hatches.get(slot.shard)) is not None:
            hatch.close()  # what is sent again goes first, be it at a deadline not known there

    def _unlink(self, slot: Slot) -> None:
        if slot.due_ns is not None:
            self._timers.remove((slot.due_ns, slot.serial, slot))
        if slot.consumer is not None:
            held = self._by_consumer[slot.consumer]
            del held[slot.serial]
            if not held:
                del self._by_consumer[slot.consumer]
        if slot.fate is Fate.READY:
            del self._ready[slot.shard][slot.first]
        elif slot.fate is Fate.RESERVED:
            del self._reserved[slot.lease]
        elif slot.fate is Fate.DOOMED:
            del self._doomed[slot.serial]
        elif slot.fate is Fate.DAMAGED:
            del self._damaged[slot.serial]

    def reserved(self, lease: int) -> Slot | None:
        """Return the slot of a lease that waits for its confirmation."""
        return self._reserved.get(lease)

    def of_consumer(self, consumer: str) -> list[Slot]:
        number = self._numbers.of(consumer)
        if number:
            for shard in self._hatches:
                self._unfold(shard, 0, LSN_MAX, number)
        return list(self._by_consumer.get(consumer, {}).values())

    def at_consumer(self, consumer: str) -> list[Slot]:
        """Return the slots of a consumer; besides, there is what is `noted`."""
        return list(self._by_consumer.get(consumer, {}).values())

    def of_shard(self, shard: int) -> list[Slot]:
        """Return the slots of a shard; besides, there are its notes."""
        return list(self._by_shard.get(shard, {}).values())

    def within(self, shard: int, first: int, end: int) -> Iterator[Slot]:
        """Yield the slots that overlap ``[first, end)``, ascending; none may change meanwhile."""
        self._unfold(shard, first, end)
        return self.touched_within(shard, first, end)

    def touched_within(self, shard: int, first: int, end: int) -> Iterator[Slot]:
        """Yield as `within` does, but for what is noted only."""
        slots = self._by_shard.get(shard)
        if not slots or first >= end:
            return
        start = slots.keys()[max(0, slots.bisect_right(first) - 1)]
        for key in slots.irange(start):
            slot = slots[key]
            if slot.first >= end:
                return
            if slot.end > first:
                yield slot

    def first_of(self, shard: int) -> Slot | None:
        slots = self._by_shard.get(shard)
        return slots.peekitem(0)[1] if slots else None

    def at(self, shard: int, first: int) -> Slot | None:
        slots = self._by_shard.get(shard)
        return slots.get(first) if slots else None

    def first_ready(self, shard: int) -> Slot | None:
        """Return the lowest slot of a shard that may be sent."""
        slots = self._ready.get(shard)
        return slots.peekitem(0)[1] if slots else None

    def ready_shards(self) -> list[int]:
        return [shard for shard, slots in self._ready.items() if slots]

    def doomed(self) -> list[Slot]:
        """Return the slots that are to be moved, in the order in which that was decided."""
        return list(self._doomed.values())

    def next_timer(self) -> int | None:
        """Return when the first slot is due; notes may be before."""
        return self._timers[0][0] if self._timers else None

    def next_due(self) -> int | None:
        first = self.next_timer()
        for hatch in self._hatches.values():
            due_ns = hatch.next_due()
            if due_ns is not None and (first is None or due_ns < first):
                first = due_ns
        return first

    def settle(self, shard: int, low: int) -> None:
        """Drop what lies below ``low``, all of it acked."""
        if (hatch := self._hatches.get(shard)) is not None:
            hatch.settle(low)
        while (slot := self.first_of(shard)) and slot.end <= low:
            self.drop(slot)

    def due(self, now: int) -> list[Slot]:
        """Return the slots whose deadline or delay has passed, earliest first."""
        for shard, hatch in self._hatches.items():
            for note in hatch.due(now):
                self._put_noted(shard, *note)
        return [slot for _, _, slot in takewhile(lambda timer: timer[0] <= now, self._timers)]

    def check_invariants(self) -> None:
        slots = [slot for shard in self._by_shard.values() for slot in shard.values()]
        for shard, by_first in self._by_shard.items():
            end = 0
            for first, slot in by_first.items():
                assert (slot.shard, slot.first) == (shard, first), slot
                assert end <= first < slot.end, f"{slot} overlaps the slot that ends at {end}"
                end = slot.end
        for shard in self._hatches:
            runs = self.notes_of_shard(shard)
            runs += [(slot.first, slot.end) for slot in self.of_shard(shard)]
            runs.sort()
            assert all(a[1] <= b[0] for a, b in pairwise(runs)), runs
        for slot in slots:
            assert (slot.consumer is not None) == (slot.fate in AT_CONSUMER), slot
            timed = slot.fate in (Fate.IN_FLIGHT, Fate.DELAYED)
            assert (slot.due_ns is not None) == timed, slot
        timers = {timer[2].serial for timer in self._timers}
        assert timers == {slot.serial for slot in slots if slot.due_ns is not None}
        held = {serial for of in self._by_consumer.values() for serial in of}
        assert held == {slot.serial for slot in slots if slot.consumer is not None}
        ready = {slot.serial for of in self._ready.values() for slot in of.values()}
        assert ready == {slot.serial for slot in slots if slot.fate is Fate.READY}
        reserved = {slot.serial for slot in self._reserved.values()}
        assert reserved == {slot.serial for slot in slots if slot.fate is Fate.RESERVED}
        assert set(self._doomed) == {slot.serial for slot in slots if slot.fate is Fate.DOOMED}
        assert set(self._damaged) == {slot.serial for slot in slots if slot.fate is Fate.DAMAGED}
