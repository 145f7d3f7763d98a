"""The group against the reference where the hatch is used: one shard, no limits of consumers."""

from __future__ import annotations

import struct

from hypothesis import settings, strategies as st
from hypothesis.stateful import initialize, precondition, rule

from hstreamlite._native import fast
from hstreamlite.sub.effects import Parcel
from hstreamlite.sub.keytab import runs_of
from hstreamlite.sub.retry import Backoff, RetryPolicy
from hstreamlite.testing.group_model import CONSUMERS
from hstreamlite.testing.ordered_model import records_of
from tests import effort
from tests.sub.taking import excerpt
from tests.sub.test_group_machine import GATE, GroupMachine
from tests.sub.test_ordered_machine import OrderedGroupMachine


class HatchMachine(GroupMachine):
    @initialize(
        most=st.integers(5, 40),
        span=st.integers(20, 80),
        consumers=st.sets(st.sampled_from(CONSUMERS), min_size=1),
        attempts=st.integers(0, 3),
    )
    def start(  # type: ignore[override]
        self, most: int, span: int, consumers: set[str], attempts: int
    ) -> None:
        super().start(
            max_unacked=most,
            per_consumer=0,
            span=span,
            tails=[60],
            consumers=consumers,
            wild=False,
            keys=1,
            retry=RetryPolicy(max_attempts=attempts),
        )

    @precondition(lambda self: self.model.consumers)
    @rule(data=st.data(), most=st.integers(1, 4), times=st.integers(1, 4), acks=st.booleans())
    def work(self, data: st.DataObject, most: int, times: int, acks: bool) -> None:
        """Fetch, which opens the hatch if it may be open, and take there what comes next."""
        self.offer(data, 5)
        self.fetch(data, most, queue=False, confirm=True)
        for _ in range(times):
            if self.model.consumers:
                self.take_at_the_hatch(data, most, 0, 40)
            if acks:
                self.ack_several(data, 3, ranged=False)


TestHatch = HatchMachine.TestCase
TestHatch.settings = settings(
    max_examples=effort.of(60, brief=15, nightly=600), stateful_step_count=40, deadline=None
)


class OrderedHatchMachine(OrderedGroupMachine):
    restart = None

    @initialize(
        most=st.integers(5, 40),
        span=st.integers(20, 80),
        keys=st.integers(1, 12),
        attempts=st.sampled_from([0, 0, 2]),
        backoff=st.sampled_from([None, Backoff(first=0.001, most=0.004)]),
    )
    def start(  # type: ignore[override]
        self, most: int, span: int, keys: int, attempts: int, backoff: Backoff | None
    ) -> None:
        super().start(
            max_unacked=most,
            per_consumer=0,
            span=span,
            tails=[60],
            wild=False,
            keys=keys,
            retry=RetryPolicy(max_attempts=attempts, backoff=backoff),
        )

    def read_ahead(self, hatch: fast.KeyHatch, most: int, count: int) -> None:
        lsn = hatch.wants(GATE, most, self.model.now)
        if lsn is None:
            return
        ((shard, of),) = self.model.shards.items()
        assert lsn < of.tail
        end = min(of.tail, lsn + count + -(lsn + count) % 10)
        hashes = [self.key_of(shard, n) for n in range(lsn, end)]
        read = excerpt(end - 1).rest(lsn - 1)
        assert hatch.add(read, lsn, struct.pack(f"<{len(hashes)}Q", *hashes))
        self.model.described[shard] = max(self.model.described[shard], end)

    @precondition(lambda self: self.model.consumers)
    @rule(data=st.data(), most=st.integers(1, 6), count=st.integers(1, 30))
    def take_at_the_hatch(  # type: ignore[override]
        self, data: st.DataObject, most: int, count: int
    ) -> None:
        """What is taken is what a fetch might have handed out; else nothing happens."""
        model, group = self.model, self.group
        name = data.draw(st.sampled_from(model.consumers))
        ((shard, _),) = model.shards.items()
        hatch = group.hatch()
        assert isinstance(hatch, fast.KeyHatch)
        self.read_ahead(hatch, most, count)
        waits = group.next_in_line(model.now)
        batch = hatch.take(GATE, 0, most, group.hatch_number(name), model.now)
        model.scanned(shard, group.position(shard)[1])
        if batch is None:
            return
        assert not model.paused
        assert waits is None
        due = model.next_deadline()
        assert due is None or due > model.now
        ((_, runs),) = batch._runs
        assert 0 < len(batch) <= most
        self.taken += 1
        assert model.take(name, (Parcel(shard, runs, len(batch), -self.taken),)) == len(batch)
        assert model.confirm_parcel(-self.taken, len(batch)) == records_of(tuple(runs_of(runs)))
        assert [(d.id.lsn, d.attempt) for d in batch] == records_of(tuple(runs_of(runs)))
        group.took(name, len(batch))

    @precondition(lambda self: self.model.consumers)
    @rule(data=st.data(), most=st.integers(1, 4), times=st.integers(1, 4), acks=st.booleans())
    def work(self, data: st.DataObject, most: int, times: int, acks: bool) -> None:
        """Fetch, which opens the hatch if it may be open, and take there what comes next."""
        self.offer(data, 5)
        self.take_more(data, most) if self.model.leases_of() else None
        self.fetch(data, most, queue=False, confirm=True)
        for _ in range(times):
            if self.model.consumers:
                self.take_at_the_hatch(data, most, 20)
            if acks and self.model.leases_of():
                self.ack_what_a_consumer_holds(data)

    @precondition(lambda self: self.model.leases_of())
    @rule(
        data=st.data(),
        most=st.integers(1, 4),
        beside=st.sampled_from([-1, 0, 1]),
        after=st.sampled_from([None, 1, 5_000_000]),
    )
    def take_about_when_something_is_due(
        self, data: st.DataObject, most: int, beside: int, after: int | None
    ) -> None:
        """Once a deadline or the end of a delay has passed, nothing is taken before the group has
        decided, however open the hatch was."""
        model, group = self.model, self.group
        model.tick()
        group.tick(model.now)
        _, places = data.draw(st.sampled_from(model.leases_of() or [(0, [])]))
        if after is not None and places:
            shard, lsn = places[-1]
            name = str(model.record((shard, lsn)).owner)
            assert group.release(name, shard, lsn, lsn + 1, after, model.now) == model.release(
                name, shard, lsn, lsn + 1, after, "released"
            )
        self.fetch(data, most, queue=False, confirm=True)
        due, before = model.next_deadline(), self.taken
        if due is None or not model.consumers:
            return
        model.now = max(model.now, due + beside)
        self.take_at_the_hatch(data, most, 20)
        assert model.now < due or self.taken == before
        model.tick()
        group.tick(model.now)


TestOrderedHatch = OrderedHatchMachine.TestCase
TestOrderedHatch.settings = settings(
    max_examples=effort.of(80, brief=20, nightly=600), stateful_step_count=40, deadline=None
)
