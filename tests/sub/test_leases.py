"""The interval map of leases against one dict entry per record."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hstreamlite.sub.leases import Fate, Leases, Slot
from hstreamlite.sub.numbering import Numbering

SHARDS = (1, 2)
Key = tuple[Fate, int, str | None, int | None]


class LeasesMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.leases = Leases(Numbering())
        self.model: dict[tuple[int, int], Key] = {}
        self.now = 10
        self.ends = dict.fromkeys(SHARDS, 1)

    def slots(self) -> list[Slot]:
        return [slot for shard in SHARDS for slot in self.leases.of_shard(shard)]

    def draw_slot(self, data: st.DataObject, *fates: Fate) -> Slot | None:
        slots = [slot for slot in self.slots() if not fates or slot.fate in fates]
        return data.draw(st.sampled_from(slots)) if slots else None

    def write(self, slot: Slot, key: Key) -> None:
        for lsn in range(slot.first, slot.end):
            self.model[slot.shard, lsn] = key

    @rule(shard=st.sampled_from(SHARDS), count=st.integers(1, 20), skip=st.integers(0, 2))
    def put(self, shard: int, count: int, skip: int) -> None:
        first = self.ends[shard] + skip
        self.ends[shard] = first + count
        self.write(self.leases.put(shard, first, first + count, 1), (Fate.READY, 1, None, None))

    @rule(shard=st.sampled_from(SHARDS), count=st.integers(1, 20), name=st.sampled_from(["a", "b"]))
    def grant(self, shard: int, count: int, name: str) -> None:
        first = self.ends[shard]
        self.ends[shard] = first + count
        slot = self.leases.grant(shard, first, first + count, name)
        assert self.leases.reserved(slot.lease) is slot
        self.write(slot, (Fate.RESERVED, 1, name, None))

    @rule(shard=st.sampled_from(SHARDS))
    def remove_shard(self, shard: int) -> None:
        self.leases.remove_shard(shard)
        self.model = {at: key for at, key in self.model.items() if at[0] != shard}

    @rule(data=st.data(), name=st.sampled_from(["a", "b"]))
    def reserve(self, data: st.DataObject, name: str) -> None:
        if slot := self.draw_slot(data, Fate.READY):
            self.leases.reserve(slot, name)
            assert self.leases.reserved(slot.lease) is slot
            self.write(slot, (Fate.RESERVED, slot.attempt, name, None))

    @rule(data=st.data(), after=st.integers(1, 9))
    def confirm(self, data: st.DataObject, after: int) -> None:
        if slot := self.draw_slot(data, Fate.RESERVED, Fate.IN_FLIGHT):
            self.leases.confirm(slot, self.now + after)
            assert self.leases.reserved(slot.lease) is None
            self.write(slot, (Fate.IN_FLIGHT, slot.attempt, slot.consumer, self.now + after))

    @rule(data=st.data(), after=st.integers(-1, 9), attempt=st.integers(1, 3))
    def shelve(self, data: st.DataObject, after: int, attempt: int) -> None:
        if slot := self.draw_slot(data):
            due = self.now + after
            self.leases.shelve(slot, attempt, due, self.now)
            ready = after <= 0
            fate = Fate.READY if ready else Fate.DELAYED
            self.write(slot, (fate, attempt, None, None if ready else due))

    @rule(data=st.data(), attempt=st.integers(2, 3))
    def doom(self, data: st.DataObject, attempt: int) -> None:
        if slot := self.draw_slot(data):
            self.leases.doom(slot, attempt, "poison")
            self.write(slot, (Fate.DOOMED, attempt, None, None))
            assert self.leases.doomed()[-1] is slot

    @rule(data=st.data())
    def put_off(self, data: st.DataObject) -> None:
        if slot := self.draw_slot(data, Fate.DOOMED):
            before = self.leases.doomed()
            self.leases.put_off(slot)
            before.remove(slot)
            assert self.leases.doomed() == [*before, slot]

    @rule(data=st.data())
    def split(self, data: st.DataObject) -> None:
        slot = self.draw_slot(data)
        if slot is None or slot.end - slot.first < 2:
            return
        at = data.draw(st.integers(slot.first + 1, slot.end - 1))
        right = self.leases.split(slot, at)
        assert (slot.end, right.first) == (at, at)
        if slot.fate is Fate.RESERVED:
            self.write(right, (Fate.READY, slot.attempt, None, None))

    @rule(data=st.data())
    def trim(self, data: st.DataObject) -> None:
        slot = self.draw_slot(data)
        if slot is None or slot.end - slot.first < 2:
            return
        at = data.draw(st.integers(slot.first + 1, slot.end - 1))
        for lsn in range(slot.first, at):
            del self.model[slot.shard, lsn]
        self.leases.trim(slot, at)

    @rule(data=st.data())
    def join(self, data: st.DataObject) -> None:
        slot = self.draw_slot(data, Fate.READY)
        right = slot and self.leases.at(slot.shard, slot.end)
        if slot and right and right.fate is Fate.READY and right.attempt == slot.attempt:
            end = right.end
            self.leases.join(slot, right)
            assert slot.end == end

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        if slot := self.draw_slot(data):
            for lsn in range(slot.first, slot.end):
                del self.model[slot.shard, lsn]
            self.leases.drop(slot)

    @rule(step=st.integers(0, 9))
    def pass_time(self, step: int) -> None:
        self.now += step
        due = self.leases.due(self.now)
        times = [slot.due_ns or 0 for slot in due]
        assert times == sorted(times)
        found = {(slot.shard, lsn) for slot in due for lsn in range(slot.first, slot.end)}
        assert found == {
            at for at, key in self.model.items() if key[3] is not None and key[3] <= self.now
        }

    @precondition(lambda self: self.model)
    @rule(data=st.data(), shard=st.sampled_from(SHARDS))
    def look(self, data: st.DataObject, shard: int) -> None:
        first = data.draw(st.integers(0, self.ends[shard] + 1))
        end = first + data.draw(st.integers(0, 30))
        found = list(self.leases.within(shard, first, end))
        assert [slot.first for slot in found] == sorted(slot.first for slot in found)
        covered = {lsn for s in found for lsn in range(max(first, s.first), min(end, s.end))}
        assert covered == {lsn for of, lsn in self.model if of == shard and first <= lsn < end}
        ready = [n for (of, n), key in self.model.items() if of == shard and key[0] is Fate.READY]
        slot = self.leases.first_ready(shard)
        assert (slot.first if slot else None) == min(ready, default=None)
        held = {(s.shard, n) for s in self.leases.of_consumer("a") for n in range(s.first, s.end)}
        assert held == {at for at, key in self.model.items() if key[2] == "a"}

    @invariant()
    def agrees(self) -> None:
        self.leases.check_invariants()
        assert len(self.leases) == len(self.slots())
        assert {
            (slot.shard, lsn): (slot.fate, slot.attempt, slot.consumer, slot.due_ns)
            for slot in self.slots()
            for lsn in range(slot.first, slot.end)
        } == self.model
        assert {slot.reason for slot in self.leases.doomed()} <= {"poison"}
        dues = [key[3] for key in self.model.values() if key[3] is not None]
        assert self.leases.next_due() == min(dues, default=None)


TestLeases = LeasesMachine.TestCase
