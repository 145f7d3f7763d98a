"""The key table against a model that keeps every record by itself."""

from __future__ import annotations

import gc
import struct
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hstreamlite._native import lib
from hstreamlite.sub.ackmap import AckFlag, AckMap
from hstreamlite.sub.keytab import KeyHead, KeyTable, runs_of
from tests import effort

CONSUMERS = 1, 2, 3
KEYS = 0, 0, 11, 12, 11 + (1 << 20), (1 << 64) - 1  # two of one slot


@dataclass
class Kept:
    """One record as the model knows it."""

    key: int
    attempts: int = 0
    acked: bool = False
    parcel: int = 0
    confirmed: bool = False
    void: bool = True
    delayed: bool = False
    failures: int = 0


def lsns_of(runs: bytes) -> list[int]:
    return [lsn for run in runs_of(runs) for lsn in range(run.first, run.first + run.size)]


def test_the_last_ack_of_who_holds_a_key_frees_it_for_others() -> None:
    """What is in hand, and not only what waits, is noticed when it is acked."""
    acks = AckMap(1, 100)
    table = KeyTable(acks)
    table.describe(1, struct.pack("<4Q", 8, 7, 7, 7))  # the first stays, so nothing is passed by
    _, _, parcel, runs = table.take(1, 0, 3, 15, 5)
    assert lsns_of(runs) == [1, 2, 3]
    table.confirm(parcel, 3, 1)
    assert table.take(2, 0, 15, 15, 5)[2:] == (0, b"")  # the key's third waits for its holder
    assert acks.ack(2) & AckFlag.NEW
    assert not table.ready(2, 15, 5)
    assert acks.ack(3) & AckFlag.NEW
    assert table.ready(2, 15, 5)
    assert lsns_of(table.take(2, 0, 15, 15, 5)[3]) == [4]


class KeyTableMachine(RuleBasedStateMachine):
    @initialize(
        low=st.sampled_from([1, 63, (1 << 32) - 9, 1 << 40]),
        span=st.integers(1, 200),
        old=st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 3)), max_size=30),
        acked=st.integers(0, 1 << 30),
        doom_at=st.sampled_from([0, 0, 2]),
        late_acks=st.booleans(),
    )
    def start(
        self,
        low: int,
        span: int,
        old: list[tuple[int, int]],
        acked: int,
        doom_at: int,
        late_acks: bool,
    ) -> None:
        self.late_acks = late_acks
        self.span = max(span, len(old))
        self.acks = AckMap(low, 1 << 30)
        self.records: dict[int, Kept] = {}
        self.keys = [key for key, _ in old]
        self.first = self.described = low
        self.scan = low
        self.acks.advance(low + len(old), hold=False)
        for at, (key, attempts) in enumerate(old):
            record = self.records[low + at] = Kept(key, attempts, void=attempts == 0)
            record.failures = attempts
            if attempts and acked >> at & 1:
                record.acked = True
                self.acks.ack(low + at)
            if attempts == 0:
                self.acks.hold(low + at, low + at + 1)
        self.table = KeyTable(self.acks, late_acks=late_acks)
        low = self.acks.state.low
        self.scan = self.described = low
        counts = [self.records[lsn].attempts for lsn in range(low, self.first + len(old))]
        self.doom_at = doom_at
        self.table.restore(array("I", counts).tobytes(), doom_at)
        for record in self.records.values():
            record.delayed = 0 < doom_at <= record.attempts
        self.parcels: dict[int, tuple[int, list[int]]] = {}
        self.reserved: dict[int, int] = {}
        self.dues: dict[int, int] = {}
        self.number = 0
        self.handed: list[tuple[int, int]] = []

    def catch_up(self) -> None:
        low = self.acks.state.low
        self.scan, self.described = max(self.scan, low), max(self.described, low)

    def waiting(self, lsn: int) -> bool:
        record = self.records[lsn]
        return not record.acked and record.parcel == 0

    def chain(self, lsn: int) -> list[int]:
        """The unacked records of the same key, in order; the record alone if it has no key."""
        key = self.records[lsn].key
        if key == 0:
            return [lsn]
        return [n for n, r in sorted(self.records.items()) if r.key == key and not r.acked]

    def owner(self, record: Kept) -> int:
        return self.parcels[record.parcel][0] if record.parcel else 0

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=20))
    def describe(self, keys: list[int]) -> None:
        self.catch_up()
        for key in keys:
            old = self.records.get(self.described)
            if old is None:
                self.records[self.described] = Kept(key)
            hash_ = self.records[self.described].key
            self.table.describe(self.described, struct.pack("<Q", hash_))
            self.described += 1
        with pytest.raises(ValueError, match="described"):
            self.table.describe(self.described + 1, struct.pack("<Q", 1))

    @rule(
        consumer=st.sampled_from(CONSUMERS),
        most=st.integers(1, 15),
        fresh=st.one_of(st.integers(0, 15), st.just(15)),
        confirm=st.sampled_from([True, True, False]),
    )
    def take(self, consumer: int, most: int, fresh: int, confirm: bool) -> None:
        self.number += 1
        state = self.acks.state
        end = state.low + self.span
        before = self.scan
        told = self.table.ready(consumer, fresh, min(end, self.described))
        records, first, parcel, runs = self.table.take(consumer, 0, most, fresh, end)
        self.scan = self.table.state.scan
        assert self.scan <= max(before, min(end, self.described))
        got = lsns_of(runs)
        assert len(got) == records <= most
        assert first == sum(run.size for run in runs_of(runs) if run.attempt == 1)
        assert bool(parcel) == bool(got)
        moved = bool(got) or self.scan > before
        assert moved == told, "what was said to be there was not, or the other way round"
        self.parcels[self.number] = consumer, got
        if parcel:
            self.reserved[self.number] = parcel
        for run in runs_of(runs):
            for lsn in range(run.first, run.first + run.size):
                record = self.records[lsn]
                assert self.waiting(lsn), lsn
                assert not record.delayed
                assert run.attempt == record.attempts + 1
                fresh -= record.attempts == 0
                ahead = [n for n in self.chain(lsn) if n < lsn]
                owners = {self.owner(self.records[n]) for n in ahead}
                assert owners <= {consumer}, "the key is in other hands, or something waits before"
                record.parcel = self.number
        assert fresh >= 0
        for lsn in range(before, self.scan):
            record = self.records[lsn]
            if self.waiting(lsn) and self.chain(lsn)[0] < lsn:
                self.hold(record)
        if len(got) < most:
            self.nothing_is_left(consumer, fresh, end)
        if confirm and parcel:
            self.confirm_parcel(self.number, len(got), due=0)

    def nothing_is_left(self, consumer: int, fresh: int, end: int) -> None:
        for lsn, record in self.records.items():
            if not self.waiting(lsn) or record.delayed or lsn >= min(end, self.described):
                continue
            if record.attempts == 0 and fresh == 0:
                continue
            ahead = [self.records[n] for n in self.chain(lsn) if n < lsn]
            free = {self.owner(r) for r in ahead} <= {consumer}
            assert not free or not all(r.parcel for r in ahead), f"{lsn} could have gone"

    @precondition(lambda self: self.reserved)
    @rule(data=st.data(), part=st.integers(0, 15), due=st.integers(0, 9))
    def confirm(self, data: st.DataObject, part: int, due: int) -> None:
        self.confirm_parcel(data.draw(st.sampled_from(sorted(self.reserved))), part, due)

    def confirm_parcel(self, parcel: int, count: int, due: int) -> None:
        expected = []
        for at, lsn in enumerate(self.parcels[parcel][1]):
            record = self.records[lsn]
            if record.parcel != parcel or record.acked:
                continue
            if at < count:
                record.confirmed = True
                record.void = False
                record.attempts += 1
                expected.append((lsn, record.attempts))
            else:
                self.give_back(lsn, failed=False)
        records, runs = self.table.confirm(self.reserved.pop(parcel), count, due)
        self.dues[parcel] = due
        out = runs_of(runs)
        got = [(lsn, r.attempt) for r in out for lsn in range(r.first, r.first + r.size)]
        assert got == expected
        assert records == len(got)
        self.handed += got

    def give_back(self, lsn: int, *, failed: bool) -> None:
        record = self.records[lsn]
        record.parcel, record.confirmed, record.delayed = 0, False, False
        record.failures += failed
        for other in self.chain(lsn):
            if lsn < other < self.scan:
                later = self.records[other]
                later.parcel, later.confirmed = 0, False
                self.hold(later)

    def hold(self, record: Kept) -> None:
        """A record waits behind another: acks of it are void, unless they may come late."""
        record.void |= not self.late_acks or record.attempts == 0

    def heads(self, lsns: list[int]) -> set[int]:
        return {
            lsn
            for lsn in lsns
            if self.waiting(lsn) and all(self.records[n].parcel for n in self.chain(lsn) if n < lsn)
        }

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        parcel = data.draw(st.sampled_from(sorted(self.reserved)))
        mine = [n for n in self.parcels[parcel][1] if self.in_parcel(n, parcel)]
        number = self.reserved.pop(parcel)
        assert self.table.open(number) == len(mine)
        assert self.table.fresh_in(number) == sum(self.records[n].attempts == 0 for n in mine)
        self.took_back(data, parcel, self.table.take_back(number))

    @precondition(lambda self: self.out())
    @rule(data=st.data(), now=st.sampled_from([3, 9, 9]))
    def time_out(self, data: st.DataObject, now: int) -> None:
        out = {self.records[lsn].parcel for lsn in self.out()}
        due, parcel = min(((self.dues[parcel], parcel) for parcel in out), default=(None, 0))
        assert self.table.next_due() == due
        back = self.table.take_back_due(now)
        assert (back is not None) == (due is not None and due <= now)
        if back is not None:
            self.took_back(data, parcel, back)

    def in_parcel(self, lsn: int, parcel: int) -> bool:
        return self.records[lsn].parcel == parcel and not self.records[lsn].acked

    def took_back(self, data: st.DataObject, parcel: int, back: tuple[int, list[KeyHead]]) -> None:
        count, heads = back
        mine = [n for n in self.parcels[parcel][1] if self.in_parcel(n, parcel)]
        assert count == sum(self.records[lsn].confirmed for lsn in mine)
        taken = []
        for lsn in mine:
            if self.records[lsn].parcel == parcel:
                self.give_back(lsn, failed=self.records[lsn].confirmed)
                taken.append(lsn)
        assert {head.lsn for head in heads} == self.heads(taken)
        self.delay_some(data, [head.lsn for head in heads])

    @precondition(lambda self: self.out())
    @rule(
        data=st.data(),
        consumer=st.sampled_from(CONSUMERS),
        size=st.integers(1, 12),
        due=st.integers(0, 9),
    )
    def extend(self, data: st.DataObject, consumer: int, size: int, due: int) -> None:
        first = max(1, data.draw(st.sampled_from(self.out())) - data.draw(st.integers(0, 3)))
        mine = [n for n in range(first, first + size) if self.has(consumer, n)]
        for parcel in sorted({self.records[lsn].parcel for lsn in mine}):
            if self.dues[parcel] < due:
                self.number += 1
                moved = [lsn for lsn in mine if self.records[lsn].parcel == parcel]
                self.parcels[self.number] = consumer, moved
                self.dues[self.number] = due
                for lsn in moved:
                    self.records[lsn].parcel = self.number
        assert self.table.extend(consumer, first, first + size, due) == len(mine)
        for lsn in mine:
            assert self.table.due_of(lsn) == self.dues[self.records[lsn].parcel] >= due

    def has(self, consumer: int, lsn: int) -> bool:
        record = self.records.get(lsn)
        return record is not None and self.owner(record) == consumer and lsn in self.out()

    @rule(
        data=st.data(),
        consumer=st.sampled_from(CONSUMERS),
        size=st.integers(1, 12),
        sent=st.booleans(),
    )
    def release(self, data: st.DataObject, consumer: int, size: int, sent: bool) -> None:
        first = data.draw(st.integers(self.first, self.scan + 2))
        mine = [
            lsn
            for lsn in range(first, first + size)
            if lsn in self.records
            and self.records[lsn].confirmed
            and not self.records[lsn].acked
            and self.owner(self.records[lsn]) == consumer
        ]
        assert self.table.holds(consumer, first, first + size) == (len(mine) == size)
        for lsn in mine:
            self.records[lsn].failures += sent
            self.records[lsn].attempts -= not sent
        for lsn in mine:
            if self.records[lsn].confirmed:
                self.give_back(lsn, failed=False)
            self.records[lsn].void |= self.records[lsn].attempts == 0
        call = self.table.release if sent else self.table.unsend
        count, heads = call(consumer, first, first + size)
        assert count == len(mine)
        assert [head.lsn for head in heads] == mine
        for head in heads:
            record = self.records[head.lsn]
            assert (head.failures, head.attempts) == (record.failures, record.attempts)
        self.delay_some(data, [head.lsn for head in heads])

    def delay_some(self, data: st.DataObject, lsns: list[int]) -> None:
        for lsn in lsns:
            if data.draw(st.booleans()):
                assert self.table.delay(lsn)
                self.records[lsn].delayed = True

    @rule()
    def wake(self) -> None:
        for lsn, record in self.records.items():
            if record.delayed and lsn < self.scan:
                record.delayed = False
                self.table.wake(lsn)

    @rule(consumer=st.sampled_from(CONSUMERS))
    def leave(self, consumer: int) -> None:
        for parcel, (owner, lsns) in self.parcels.items():
            if owner != consumer:
                continue
            self.reserved.pop(parcel, None)
            for lsn in lsns:
                if self.in_parcel(lsn, parcel):
                    self.give_back(lsn, failed=self.records[lsn].confirmed)
        while self.table.take_back_of(consumer):
            pass

    @precondition(lambda self: self.acks.state.next > self.first)
    @rule(data=st.data(), size=st.integers(1, 9))
    def ack(self, data: st.DataObject, size: int) -> None:
        end = self.acks.state.next
        first = data.draw(st.integers(self.first, end - 1))
        for lsn in range(first, min(first + size, end)):
            record = self.records[lsn]
            flags = self.acks.ack(lsn)
            if record.acked:
                assert flags == AckFlag.DUPLICATE
            elif record.void:
                assert flags == AckFlag.VOID
            else:
                assert flags & AckFlag.NEW
                record.acked = True

    def out(self) -> list[int]:
        return [n for n, record in self.records.items() if record.confirmed and not record.acked]

    @precondition(lambda self: self.out())
    @rule(data=st.data(), count=st.integers(1, 4))
    def ack_what_is_out(self, data: st.DataObject, count: int) -> None:
        for lsn in data.draw(st.lists(st.sampled_from(self.out()), max_size=count, unique=True)):
            assert self.acks.ack(lsn) & AckFlag.NEW
            self.records[lsn].acked = True

    @precondition(lambda self: len(self.handed) > 5)
    @rule()
    def tell(self) -> None:
        low = self.acks.state.low
        latest = {lsn: attempt for lsn, attempt in self.handed if lsn >= low}
        told = {n: times for first, end, times in self.table.handed(low) for n in range(first, end)}
        assert told == latest
        self.handed = []

    @rule(data=st.data())
    def gap(self, data: st.DataObject) -> None:
        to = data.draw(st.integers(self.first, self.scan + 1))
        self.acks.skip(to)
        for lsn in range(self.first, to):
            self.records.setdefault(lsn, Kept(0))
        for lsn, record in self.records.items():
            record.acked |= lsn < to
        self.scan = max(self.scan, to)
        self.described = max(self.described, to)
        self.table.ready(1, 0, 0)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "number"):
            return
        self.acks.check_invariants()
        self.table.check_invariants()
        state = self.table.state
        self.catch_up()
        assert (state.scan, state.described) == (self.scan, self.described)
        open_ = [
            r
            for n, r in self.records.items()
            if not r.acked and n < max(self.scan, self.acks.state.next)
        ]
        assert state.fresh == sum(r.attempts == 0 and r.parcel == 0 for r in open_)
        again = [r for n, r in self.records.items() if not r.acked]
        assert state.again == sum(r.attempts > 0 and r.parcel == 0 for r in again)
        for consumer in CONSUMERS:
            held = [n for n in self.out() if self.owner(self.records[n]) == consumer]
            reserved = [n for n, r in self.records.items() if self.owner(r) == consumer]
            assert self.table.count(consumer) == sum(not self.records[n].acked for n in reserved)
            found = self.table.out(consumer)
            assert sum(open_ for *_, open_ in found) == len(held)
            assert {first for _, first, _, _ in found} <= set(held)
        assert self.table.first_out(1 << 62) == min(self.out(), default=None)
        assert bool(self.handed) == (state.handed > 0)
        counted = [
            (lsn, times)
            for first, end, times in self.table.attempts(self.first)
            for lsn in range(first, end)
        ]
        assert counted == [
            (n, r.attempts) for n, r in sorted(self.records.items()) if not r.acked and r.attempts
        ]

    def teardown(self) -> None:
        """Whatever came before: one consumer that is left gets all that is not acked, in order."""
        if not hasattr(self, "number"):
            return
        for consumer in CONSUMERS:
            self.leave(consumer)
        if self.described < max(self.records, default=0) + 1:
            self.describe([0] * (max(self.records) + 1 - self.described))
        last: dict[int, int] = {}
        for _ in range(3 * len(self.records) + 3):
            self.wake()
            self.take(1, 15, 15, confirm=True)
            for lsn in self.parcels[self.number][1]:
                key = self.records[lsn].key
                assert key == 0 or last.get(key, 0) < lsn
                last[key] = lsn
                assert self.acks.ack(lsn) & AckFlag.NEW
                self.records[lsn].acked = True
        assert all(record.acked for record in self.records.values())


TestKeyTable = KeyTableMachine.TestCase
TestKeyTable.settings = settings(
    max_examples=effort.of(300, brief=60), stateful_step_count=50, deadline=None
)


def keys_of(keys: Iterable[int]) -> bytes:
    return array("Q", keys).tobytes()


def test_who_has_a_key_is_known_however_many_there_are() -> None:
    table = KeyTable(AckMap(1, 1 << 20))
    end = 1
    for size in (30, 300, 3000):
        keys = [key * 256 + 1 for key in range(size)]
        table.describe(end, keys_of(keys))
        table.take(1, 0, 9999, 9999, end + size)
        end += size
        table.describe(end, keys_of(keys))
        assert table.take(2, 0, 9999, 9999, end + size)[0] == 0
        end += size
        table.check_invariants()


def test_a_slot_that_tells_of_records_of_long_ago_tells_of_none() -> None:
    """It holds the lower halves of their numbers."""
    acks = AckMap(1, 1 << 20)
    table = KeyTable(acks)
    keys = [key * 256 + 1 for key in range(40)]
    table.describe(1, keys_of(keys))
    table.confirm(table.take(1, 0, 40, 40, 41)[2], 40, 1)
    low = (1 << 32) + 1
    acks.skip(low)
    table.describe(low, keys_of([*keys[:20], *reversed(keys[20:]), *range(2, 42)]))
    assert table.take(2, 0, 80, 80, low + 80)[0] == 80
    table.check_invariants()
    table.describe(low + 80, keys_of(keys))
    assert table.take(1, 0, 40, 40, low + 120)[0] == 0
    table.check_invariants()


def test_what_is_done_cannot_be_delayed() -> None:
    acks = AckMap(1, 100)
    table = KeyTable(acks)
    table.describe(1, bytes(8 * 9))
    _, _, parcel, _ = table.take(1, 0, 9, 9, 10)
    table.confirm(parcel, 9, 1)
    assert acks.ack(3) & AckFlag.NEW
    assert not table.delay(3)
    assert not table.delay(10)


def test_what_is_ready_for_the_first_time_waits_for_room() -> None:
    acks = AckMap(1, 100)
    table = KeyTable(acks)
    table.describe(1, array("Q", [7, 7]).tobytes())
    _, _, parcel, _ = table.take(1, 0, 1, 1, 3)
    table.confirm(parcel, 1, 1)
    assert table.take(2, 0, 5, 5, 3)[0] == 0, "2 follows 1"
    assert acks.ack(1) & AckFlag.NEW
    assert table.take(2, 0, 5, 0, 3)[0] == 0
    assert table.take(2, 0, 5, 5, 3)[0] == 1


def test_what_an_earlier_table_asked_for_is_no_news_to_the_next() -> None:
    acks = AckMap(1, 100)
    table = KeyTable(acks)
    table.describe(1, array("Q", [7, 7]).tobytes())
    _, _, parcel, _ = table.take(1, 0, 1, 1, 3)
    table.confirm(parcel, 1, 1)
    assert table.take(2, 0, 5, 5, 3)[0] == 0
    following = KeyTable(acks)
    assert acks.ack(1) & AckFlag.NEW
    assert (following.state.scan, following.state.described) == (2, 2)
    following.check_invariants()


def test_more_runs_than_a_piece_holds_are_left_to_others() -> None:
    acks = AckMap(1, 10_000)
    table = KeyTable(acks)
    table.describe(1, bytes(8 * 8193))
    while table.state.scan < 8194:
        sent, _, parcel, _ = table.take(1, 0, 9000, 9000, 8194)
        table.confirm(parcel, sent, 1)
    table.handed(1)
    acks.ack_range(1, 8193)
    assert acks.ack(8193) & AckFlag.NEW
    assert table.drain_piece(1, 1, 1, 1) is None
    assert acks.state.acked_since == 8193


def test_a_parcel_that_is_reserved_stays_when_all_of_it_is_acked() -> None:
    acks = AckMap(1, 1_000)
    table = KeyTable(acks, late_acks=True)
    table.describe(1, bytes(8 * 99))
    _, _, parcel, _ = table.take(1, 0, 2, 2, 3)
    table.confirm(parcel, 2, 1)
    table.take_back_of(1)
    _, _, again, _ = table.take(1, 0, 2, 2, 3)
    acks.ack_range(1, 3)
    for end in range(4, 20):  # each looks at some parcels
        table.take(2, 0, 1, 1, end)
    assert table.confirm(again, 2, 1) == (0, b"")
    table.check_invariants()


def hand_out(insist: Callable[[Callable[[], Any]], Any]) -> list[int]:
    """Grow maps and tables beyond what they begin with; return what is handed out at first."""
    acks = insist(lambda: AckMap(1, 1 << 30))
    table = insist(lambda: KeyTable(acks))
    got: list[int] = []
    for end, consumer in ((101, 1), (301, 90), (3001, 90)):
        low = table.state.described
        insist(lambda end=end: acks.advance(end, hold=False))
        hashes = array("Q", range(low, end)).tobytes()
        insist(lambda low=low, hashes=hashes: table.describe(low, hashes))
        while table.state.scan < end:
            sent, _, parcel, runs = insist(
                lambda c=consumer, e=end: table.take(c, 0, 5000, 5000, e)
            )
            insist(lambda p=parcel, s=sent: table.confirm(p, s, 1))
            first = lsns_of(runs)[0]
            insist(lambda c=consumer, n=first: table.extend(c, n, n + 1, 2))
            got += lsns_of(runs)
            table.check_invariants()
            acks.check_invariants()
    assert insist(lambda: table.extend(90, 1, 3001, 3)) == 2900
    assert insist(lambda: table.release(90, 2000, 2010))[0] == 10
    again = insist(lambda: table.take(90, 0, 10, 10, 3001))[2]
    assert insist(lambda: table.confirm(again, 10, 4))[0] == 10
    assert insist(lambda: table.take_back(again))[0] == 10
    assert sum(run[3] for run in insist(lambda: table.out(90))) == 2890
    assert len(insist(lambda: table.drain_piece(1, 1, 1, 1))[0]) > 0
    insist(lambda: table.handed(1))
    copy, old = insist(lambda: AckMap(1, 1 << 30)), array("I", [1] * 300)
    insist(lambda: copy.advance(301, hold=False))
    restored = insist(lambda: KeyTable(copy))
    insist(lambda: restored.restore(old.tobytes(), 0))
    assert insist(lambda: restored.attempts(1)) == [(1, 301, 1)]
    return got


@pytest.mark.usefixtures("frozen_heap")
def test_each_allocation_may_fail_once() -> None:
    """Nothing is half done then: the same call succeeds, and nobody gets anything twice."""
    outcomes: list[int] = []
    before = lib.hsl_alloc_live()

    def insist(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except MemoryError:
            outcomes.append(nth)
            return call()

    try:
        for nth in count(1):
            lib.hsl_alloc_fail_at(nth)
            assert hand_out(insist) == list(range(1, 3001))
            gc.collect()
            assert lib.hsl_alloc_live() == before
            if lib.hsl_alloc_count() < nth:
                break
    finally:
        lib.hsl_alloc_fail_at(0)
    assert len(outcomes) > 15


@pytest.mark.parametrize("keys", [1_000, 500_000])
def test_a_million_records_in_flight_take_less_than_64_mb(keys: int) -> None:
    """Also where each meets one other of its key, which takes the most."""
    records = 1_000_000
    table = KeyTable(AckMap(1, records))
    while (low := table.state.described) <= records:
        end = min(low + 4096, records + 1)
        hashes = array("Q", (1 + lsn % keys for lsn in range(low, end))).tobytes()
        table.describe(low, hashes)
        sent, _, parcel, _ = table.take(1, 0, end - low, records, end)
        assert table.confirm(parcel, sent, 1)[0] == end - low
        table.handed(1)
    assert table.state.bytes < 63 << 20, "and a megabyte for the ack map"
