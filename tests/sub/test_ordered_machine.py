"""The group in mode "ordered" against its reference: what `test_group_machine` does, with keys.

At any time what is unacked of a key before a record in flight is at the same consumer (S9).
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from hstreamlite.errors import UnknownRecord
from hstreamlite.sub.ackmap import AckFlag
from hstreamlite.sub.group import Group
from hstreamlite.sub.keytab import runs_of
from hstreamlite.sub.retry import Backoff, RetryPolicy
from hstreamlite.testing.group_model import CONSUMERS, GroupModel
from hstreamlite.testing.ordered_model import OrderedGroupModel, records_of
from tests import effort
from tests.sub.test_group_machine import GroupMachine


class OrderedGroupMachine(GroupMachine):
    model: OrderedGroupModel
    # What has nothing to do with order is left to the machine of the other mode.
    ack_of_a_foreign_shard = None
    ask_what_happened = None
    leave_line = None
    take_at_the_hatch = None
    use_a_closed_consumer = None

    @initialize(
        max_unacked=st.integers(4, 40),
        per_consumer=st.one_of(st.just(0), st.integers(3, 20)),
        span=st.integers(10, 80),
        tails=st.lists(st.integers(20, 60), min_size=1, max_size=3),
        wild=st.booleans(),
        keys=st.integers(1, 6),
        retry=st.builds(
            RetryPolicy,
            max_attempts=st.sampled_from([0, 0, 2, 4]),
            backoff=st.sampled_from([None, Backoff(first=0.001, most=0.004)]),
        ),
    )
    def start(self, **drawn: Any) -> None:
        super().start(consumers=set(CONSUMERS), **drawn)

    def key_of(self, shard: int, lsn: int) -> int:
        """Return the key of a record: with some without, and the same keys in all shards."""
        mixed = (lsn * 0x9E3779B97F4A7C15 + shard) >> 7
        return mixed % (self.keys + 1)

    def new_model(self) -> GroupModel:
        return OrderedGroupModel(self.limits, self.key_of)

    def new_group(self) -> Group:
        return Group("billing", self.limits, "ordered")

    def describe(self, most: int) -> bool:
        """Tell the group the keys it asks for."""
        wanted = self.group.undescribed(most)
        for shard, first, count in wanted:
            assert first == max(self.model.described[shard], self.model.shards[shard].low())
            hashes = [self.key_of(shard, lsn) for lsn in range(first, first + count)]
            self.group.describe(shard, first, struct.pack(f"<{count}Q", *hashes))
            self.model.described[shard] = first + count
        return bool(wanted)

    @precondition(lambda self: self.model.consumers)
    @rule(
        data=st.data(),
        most=st.one_of(st.integers(1, 12), st.just(1_000)),
        queue=st.booleans(),
        confirm=st.booleans(),
    )
    def fetch(self, data: st.DataObject, most: int, queue: bool, confirm: bool) -> None:
        name = data.draw(st.sampled_from(self.model.consumers))
        self.model.tick()
        self.group.tick(self.model.now)
        if name in self.model.consumers:
            self.do_fetch(name, most, queue=queue, confirm=confirm)

    def do_fetch(self, name: str, most: int, *, queue: bool, confirm: bool) -> int:
        model, group = self.model, self.group
        got = 0
        while self.describe(most) or not got:
            quota = min(most, model.quota(name))
            parcels = group.fetch_parcels(name, most, model.now, queue=queue)
            for shard in model.shards:
                model.scanned(shard, group.position(shard)[1])
            got = model.take(name, parcels)
            assert got <= quota
            assert model.out() <= self.limits.max_unacked, "S6"
            left = model.left_for(name) if got < quota and not model.paused else []
            if left and not got:
                head = group.next_in_line(model.now)
                assert head not in (None, name), f"nobody else's turn, yet {left} were not given"
            else:
                assert not left, "S6"
            for parcel in parcels:
                if confirm:
                    self.do_confirm(parcel.lease, parcel.records)
            if got or not group.undescribed(most):
                break
        return got

    @precondition(lambda self: self.model.parcels)
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(sorted(self.model.parcels)))
        _, parcel = self.model.parcels[lease]
        self.do_confirm(lease, data.draw(st.integers(0, parcel.records)))

    def do_confirm(self, lease: int, end: int) -> None:
        expected = self.model.confirm_parcel(lease, end)
        count, runs = self.group.confirm_parcel(lease, end, self.model.now)
        assert records_of(tuple(runs_of(runs))) == expected
        assert count == len(expected)

    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        shard = self.draw_shard(data)
        self.ack_one(shard, self.draw_lsn(data, shard))

    def ack_one(self, shard: int, lsn: int) -> None:
        expected = self.model.flags(shard, lsn)
        if expected == {AckFlag.UNKNOWN}:
            with pytest.raises(UnknownRecord):
                self.group.ack(shard, lsn)
            return
        flags = self.group.ack(shard, lsn)
        assert flags & ~AckFlag.ATTENTION in expected
        self.model.ack(shard, lsn, flags & ~AckFlag.ATTENTION)
        if flags & AckFlag.ATTENTION:
            self.group.attend()

    @rule(data=st.data(), count=st.integers(1, 30), ranged=st.booleans())
    def ack_several(self, data: st.DataObject, count: int, ranged: bool) -> None:
        shard = self.draw_shard(data)
        first = self.draw_lsn(data, shard)
        self.acks(shard, list(range(first, first + count)), ranged=ranged)

    def acks(self, shard: int, lsns: list[int], *, ranged: bool) -> None:
        """Ack together; singly where there may be two answers, of which a sum does not tell."""
        if not ranged or any(len(self.model.flags(shard, lsn)) > 1 for lsn in lsns):
            for lsn in lsns:
                self.ack_one(shard, lsn)
            return
        if not self.model.acceptable(shard, lsns):
            with pytest.raises(UnknownRecord):
                self.group.ack_range(shard, lsns[0], lsns[-1] + 1)
            return
        flags = [self.model.ack(shard, lsn) for lsn in lsns]
        got = self.group.ack_range(shard, lsns[0], lsns[-1] + 1)
        if got.flags & AckFlag.ATTENTION:
            self.group.attend()
        assert got[:3] == tuple(
            flags.count(kind) for kind in (AckFlag.NEW, AckFlag.DUPLICATE, AckFlag.VOID)
        )

    @precondition(lambda self: self.model.leases_of())
    @rule(data=st.data())
    def ack_what_a_consumer_holds(self, data: st.DataObject) -> None:
        _, places = data.draw(st.sampled_from(self.model.leases_of()))
        for shard, lsn in places:
            self.ack_one(shard, lsn)

    @rule(data=st.data(), whole=st.booleans(), store=st.sampled_from([None, False, True]))
    @precondition(lambda self: self.wild)
    def restart(self, data: st.DataObject, whole: bool, store: bool | None) -> None:
        super().restart(data, whole, store)
        for name in CONSUMERS:
            self.attach(name, None)

    @precondition(lambda self: self.model.leases_of())
    @rule(data=st.data(), most=st.integers(1, 5))
    def take_more(self, data: st.DataObject, most: int) -> None:
        """Let a consumer that holds something have what follows."""
        self.model.tick()
        self.group.tick(self.model.now)
        leases = self.model.leases_of()
        if leases:
            _, places = data.draw(st.sampled_from(leases))
            self.do_fetch(str(self.model.record(places[0]).owner), most, queue=False, confirm=True)

    @precondition(lambda self: self.model.leases_of())
    @rule(data=st.data())
    def lose_a_consumer(self, data: st.DataObject) -> None:
        """Let a consumer that holds something leave, or be gone."""
        _, places = data.draw(st.sampled_from(self.model.leases_of()))
        name = str(self.model.record(places[0]).owner)
        if name in self.model.lease_ends:
            self.model.now = max(self.model.now, self.model.lease_ends[name][1])
            self.model.tick()
            self.group.tick(self.model.now)
        else:
            self.detach(name)

    @rule(limit=st.integers(1, 30), put_off=st.booleans())
    def bury(self, limit: int, put_off: bool) -> None:
        for shard, first, end, _, _ in self.group.doomed(limit):
            self.model.freed |= {(shard, lsn) for lsn in range(first, end)}
            self.model.unsure -= self.model.freed
        super().bury(limit, put_off)

    @rule(data=st.data(), name=st.sampled_from(CONSUMERS))
    def holds(self, data: st.DataObject, name: str) -> None:
        shard = self.draw_shard(data)
        first = self.draw_lsn(data, shard)
        end = first + data.draw(st.integers(1, 6))
        held = self.model.confirmed(name, shard, first, end)
        assert self.group.held_by(name, shard, first, end) == (len(held) == end - first)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "group"):
            return
        group, model = self.group, self.model
        group.check_invariants()
        unacked = backlog = 0
        for shard, of in model.shards.items():
            low, end = group.position(shard)
            assert (low, end) == (of.low(), of.next)
            assert low >= self.lows[shard], "S10: progress moves back"
            self.lows[shard] = low
            never = sum(of.records[lsn].deliveries == 0 for lsn in of.open())
            unacked += len(of.open()) - never
            backlog += never + max(0, of.tail - of.next)
            for lsn in of.open():
                owner = of.records[lsn].owner
                before = [of.records[n].owner for n in model.chain(shard, lsn)]
                assert owner is None or set(before) <= {owner}, f"S9: {lsn} before {before}"
        assert model.out() <= self.limits.max_unacked, "S6"
        for name in model.consumers:
            assert len(model.held_by(name)) <= (self.limits.max_unacked_per_consumer or 1 << 30)
        assert group.lag() == type(group.lag())(unacked, backlog)
        stats = group.stats()
        assert stats.in_flight + stats.waiting + stats.doomed == model.out()
        assert stats.doomed == len(model.doomed())
        assert stats.in_flight == sum(len(model.held_by(name)) for name in model.consumers)

    def teardown(self) -> None:
        """Drain: with one consumer left that acks, everything is acked or a gap (S1), and each key
        in the order of its records."""
        if not hasattr(self, "group"):
            return
        model, group = self.model, self.group
        group.resume()
        model.paused = False
        model.miss()
        for name in list(model.consumers):
            group.detach(name, model.now)
            model.detach(name)
        group.attach("last", model.now)
        model.attach("last", None)
        last: dict[tuple[int, int], int] = {}
        for _ in range(10_000):
            model.tick()
            buried = self.bury_all()
            if not self.do_fetch("last", 50, queue=False, confirm=True) and not buried:
                due = group.next_deadline()
                if due is None:
                    break
                model.now = max(model.now, due)
                group.tick(model.now)
            for _, places in model.leases_of("last"):
                for shard, lsn in places:
                    key = self.key_of(shard, lsn)
                    assert key == 0 or last.get((shard, key), 0) < lsn, "S9: out of order"
                    last[shard, key] = lsn
                    self.ack_one(shard, lsn)
        for shard, of in model.shards.items():
            assert of.low() == max(of.tail, of.next), f"S1: {shard} stops at {of.low()}"
        assert group.lag() == type(group.lag())(0, 0)

    def bury_all(self) -> int:
        doomed = self.group.doomed(1_000)
        for shard, first, end, _, _ in doomed:
            self.model.freed |= {(shard, lsn) for lsn in range(first, end)}
            self.model.unsure -= self.model.freed
            self.acks(shard, list(range(first, end)), ranged=True)
        return len(doomed)


TestOrderedGroup = OrderedGroupMachine.TestCase
TestOrderedGroup.settings = settings(
    max_examples=effort.of(150, brief=30), stateful_step_count=50, deadline=None
)
