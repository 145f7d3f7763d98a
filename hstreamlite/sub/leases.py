"""Leases: the records between first delivery and ack, as runs with one fate each.

A `Slot` is a run of LSNs of one shard that went out together and will come back together: in flight
at one consumer until a deadline, or waiting to be sent again (at once, or not before a time), or
doomed: delivered often enough, and to be moved to the dead-letter stream. So
deadlines cost one entry per delivered batch; only records that are released or extended one by
one get slots of their own. The slots of a shard never overlap, which is why a record cannot be in
flight at two consumers.

Slots do not know which of their records are acked: the bitmap does, and whoever sends a slot again
asks it. A slot may therefore outlive its records; `Window` drops such slots.

A slot in flight is confirmed once its records were really handed out; only then its deadline runs.
"""

from collections.abc import Iterator
from enum import Enum
from itertools import takewhile

from sortedcontainers import SortedDict, SortedList


class Fate(Enum):
    """What a slot waits for."""

    RESERVED = "reserved"
    IN_FLIGHT = "in flight"
    DELAYED = "delayed"
    READY = "ready"
    DOOMED = "doomed"


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

    def __init__(self) -> None:
        self._serial = 0
        self._lease = 0
        self._by_shard: dict[int, SortedDict[int, Slot]] = {}
        self._ready: dict[int, SortedDict[int, Slot]] = {}
        self._by_consumer: dict[str, dict[int, Slot]] = {}
        self._reserved: dict[int, Slot] = {}
        self._doomed: dict[int, Slot] = {}
        self.dooms = 0
        self._timers: SortedList[tuple[int, int, Slot]] = SortedList()

    def __len__(self) -> int:
        return sum(len(slots) for slots in self._by_shard.values())

    def put(self, shard: int, first: int, end: int, attempt: int) -> Slot:
        """Add a run that is ready to be sent; it must not overlap another."""
        slot = self._new(shard, first, end, attempt)
        self._link(slot)
        return slot

    def grant(self, shard: int, first: int, end: int, consumer: str) -> Slot:
        """Add a run of records never sent before, reserved for a consumer."""
        slot = self._new(shard, first, end, 1)
        self._reserve(slot, consumer)
        return slot

    def _new(self, shard: int, first: int, end: int, attempt: int) -> Slot:
        self._serial += 1
        slot = Slot(self._serial, shard, first, end, attempt)
        slots = self._by_shard.get(shard)
        if slots is None:
            slots = self._by_shard[shard] = SortedDict()
            self._ready[shard] = SortedDict()
        slots[first] = slot
        return slot

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

    def split(self, slot: Slot, at: int) -> Slot:
        """Cut a slot in two with the same fate; return the part from ``at`` on.

        Of a reserved slot only the left part stays so: the right one is ready again.
        """
        assert slot.first < at < slot.end
        self._serial += 1
        right = Slot(self._serial, slot.shard, at, slot.end, slot.attempt)
        if slot.fate is not Fate.RESERVED:
            right.fate, right.lease = slot.fate, slot.lease
            right.consumer, right.due_ns = slot.consumer, slot.due_ns
            right.reason = slot.reason
        slot.end = at
        self._by_shard[slot.shard][at] = right
        self._link(right)
        return right

    def trim(self, slot: Slot, first: int) -> None:
        """Drop the records of a slot below ``first``."""
        assert slot.first < first < slot.end
        self._unlink(slot)
        del self._by_shard[slot.shard][slot.first]
        slot.first = first
        self._by_shard[slot.shard][first] = slot
        self._link(slot)

    def join(self, slot: Slot, right: Slot) -> None:
        """Append a ready slot to the ready one that ends where it begins."""
        assert slot.end == right.first
        assert slot.attempt == right.attempt
        self.drop(right)
        slot.end = right.end

    def drop(self, slot: Slot) -> None:
        self._unlink(slot)
        del self._by_shard[slot.shard][slot.first]

    def remove_shard(self, shard: int) -> None:
        """Drop all slots of a shard."""
        for slot in self.of_shard(shard):
            self.drop(slot)
        self._by_shard.pop(shard, None)
        self._ready.pop(shard, None)

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

    def reserved(self, lease: int) -> Slot | None:
        """Return the slot of a lease that waits for its confirmation."""
        return self._reserved.get(lease)

    def of_consumer(self, consumer: str) -> list[Slot]:
        return list(self._by_consumer.get(consumer, {}).values())

    def of_shard(self, shard: int) -> list[Slot]:
        return list(self._by_shard.get(shard, {}).values())

    def within(self, shard: int, first: int, end: int) -> Iterator[Slot]:
        """Yield the slots that overlap ``[first, end)``, ascending; none may change meanwhile."""
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

    def next_due(self) -> int | None:
        return self._timers[0][0] if self._timers else None

    def due(self, now: int) -> list[Slot]:
        """Return the slots whose deadline or delay has passed, earliest first."""
        return [slot for _, _, slot in takewhile(lambda timer: timer[0] <= now, self._timers)]

    def check_invariants(self) -> None:
        slots = [slot for shard in self._by_shard.values() for slot in shard.values()]
        for shard, by_first in self._by_shard.items():
            end = 0
            for first, slot in by_first.items():
                assert (slot.shard, slot.first) == (shard, first), slot
                assert end <= first < slot.end, f"{slot} overlaps the slot that ends at {end}"
                end = slot.end
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
